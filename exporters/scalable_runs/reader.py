"""The public names of the reader: one run, and how runs are found."""

from scalable_runs.plain import parse_time
from scalable_runs.problems import FileProblems
from scalable_runs.run_reader import RunReader
from scalable_runs.runs import (
    AmbiguousRunError,
    RunNotFoundError,
    find_runs,
    find_stores,
    is_run,
    resolve_run,
    started,
)

__all__ = [
    "AmbiguousRunError",
    "FileProblems",
    "RunNotFoundError",
    "RunReader",
    "find_runs",
    "find_stores",
    "is_run",
    "parse_time",
    "resolve_run",
    "started",
]
