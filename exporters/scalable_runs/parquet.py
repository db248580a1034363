"""The public name of a run's parquet copies."""

from scalable_runs.tables import EXTRA, write_snapshots

__all__ = ["EXTRA", "write_snapshots"]
