"""Diagnoses, also in a model's words where that is asked for; needs neither Dask nor a cluster."""

from __future__ import annotations

import os
from pathlib import Path

from scalable.analysis.diagnose import Consequence, Diagnosis, Evidence, Finding, diagnose
from scalable_runs.reader import RunReader, resolve_run

__all__ = ["Consequence", "Diagnosis", "Evidence", "Finding", "diagnose_run"]


def diagnose_run(
    run_dir: str | os.PathLike[str] | None = None,
    *,
    run_id: str | None = None,
    runs_dir: str | os.PathLike[str] | None = None,
    no_ai: bool = True,
) -> Diagnosis:
    """Say what went wrong in a run, and what to do about it.

    Parameters
    ----------
    run_dir
        The run's directory; it may be live, finished, crashed or of an older tool.
    run_id, runs_dir
        Instead of `run_dir`: a run's id or the beginning of one (the latest without), and where
        runs are kept (``SCALABLE_RUNS_DIR``, else ``.scalable/runs``).
    no_ai
        False asks a model, if one is configured, to put the findings into prose: see
        :mod:`scalable.analysis.prose`. Nothing leaves the machine otherwise.

    Returns
    -------
    Diagnosis
        With `summary` and `findings`.

    Raises
    ------
    scalable_runs.reader.RunNotFoundError
        There is no such run.
    scalable_runs.reader.AmbiguousRunError
        More than one run's id begins like that.

    Examples
    --------
    >>> diagnosis = diagnose_run(".scalable/runs/run-2026…")  # doctest: +SKIP
    >>> for finding in diagnosis.findings:  # doctest: +SKIP
    ...     print(finding.severity, finding.title, finding.suggestion)
    """
    if run_dir is not None:
        path = Path(run_dir)
        reader = RunReader(path) if path.is_dir() else resolve_run(path.parent, path.name)
    else:
        base = runs_dir or os.environ.get("SCALABLE_RUNS_DIR") or ".scalable/runs"
        reader = resolve_run(base, run_id)
    diagnosis = diagnose(reader)
    if no_ai:
        return diagnosis
    from scalable.analysis.prose import with_prose

    return with_prose(diagnosis)
