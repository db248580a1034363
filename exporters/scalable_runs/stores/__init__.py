"""Places where the bytes of runs live."""

from scalable_runs.stores.run_store import Object, RunStore, checked

__all__ = ["Object", "RunStore", "checked"]
