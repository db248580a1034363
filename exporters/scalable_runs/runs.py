"""Finds runs in a directory of runs, or another place."""

from __future__ import annotations

from datetime import UTC, datetime
from time import monotonic

from scalable_runs import schema
from scalable_runs._process import EXIT_TIMEOUT
from scalable_runs.plain import parse_time
from scalable_runs.run_reader import RunReader
from scalable_runs.stores.base import Store, StoreRoot
from scalable_runs.stores.file import FileRoot, FileStore, is_run
from scalable_runs.stores.places import Place, open_root

__all__ = [
    "AmbiguousRunError",
    "RunNotFoundError",
    "find_runs",
    "find_stores",
    "is_run",
    "resolve_run",
    "started",
]


class RunNotFoundError(LookupError):
    """There is no such run; the message lists existing runs and what to do."""


class AmbiguousRunError(LookupError):
    """The ids of several runs begin with that text; the message names them.

    Attributes
    ----------
    matching : list of str
        Ids of all the runs, newest first.
    """

    def __init__(self, message: str, matching: list[str]) -> None:
        super().__init__(message)
        self.matching = matching


def find_runs(runs_dir: Place) -> list[RunReader]:
    """Return the runs in a place, newest first by the time they started.

    Parameters
    ----------
    runs_dir
        The place of runs, see :func:`~scalable_runs.stores.places.spec_of`: mostly a directory.
        If it does not exist there are none.

    Returns
    -------
    list of RunReader
        Also damaged ones, with :attr:`RunReader.problems`. Directories without files of a run, and
        symbolic links that lead out of `runs_dir`, are left out. If `runs_dir` is itself a run,
        only that run.
    """
    # All of them together wait no longer than a single one.
    deadline = monotonic() + EXIT_TIMEOUT
    runs = [
        RunReader(store, wait=max(0.0, deadline - monotonic()))
        for store in find_stores(open_root(runs_dir)).values()
    ]
    return sorted(runs, key=_start_key, reverse=True)


def find_stores(root: StoreRoot) -> dict[str, Store]:
    """Return the stores of all runs in a place, by name; if it is itself a run, only that one."""
    if isinstance(root, FileRoot) and is_run(root.path):
        return {root.path.name: FileStore(root.path)}
    return {run_id: store for run_id in root.ids() if (store := root.find(run_id)) is not None}


def resolve_run(runs_dir: Place, run_id: str | None = None) -> RunReader:
    """Return one run of a place.

    Parameters
    ----------
    runs_dir
        The place of runs, as for :func:`find_runs`.
    run_id
        The run's id or the beginning of it; None: the run that started last.

    Raises
    ------
    RunNotFoundError
        There is no such run.
    AmbiguousRunError
        The ids of several runs begin with that text.
    """
    root = open_root(runs_dir)
    where = root.location
    if run_id is not None and schema.RUN_ID_PATTERN.fullmatch(run_id) is None:
        raise RunNotFoundError(
            f"{run_id!r} is not a run id: give the name of a directory in {where}, or the "
            "beginning of one"
        )
    is_one = isinstance(root, FileRoot) and is_run(root.path)
    if run_id is not None and not is_one:
        store = root.find(run_id)
        if store is not None:
            return RunReader(store)
    runs = find_runs(root)
    if not runs:
        reason = "has no runs" if root.exists() else "does not exist"
        raise RunNotFoundError(
            f"{where} {reason}. Record one with scalable.instrument(client), or point at "
            "another directory"
        )
    if run_id is None:
        return next((run for run in runs if run.document), runs[0])
    matching = [run for run in runs if run.path.name.startswith(run_id)]
    if len(matching) == 1:
        return matching[0]
    if not matching:
        raise RunNotFoundError(
            f"no run in {where} begins with {run_id!r}; the latest of {len(runs)} is "
            f"{runs[0].path.name}"
        )
    ids = [run.path.name for run in matching]
    more = f" and {len(ids) - 5} more" if len(ids) > 5 else ""
    raise AmbiguousRunError(
        f"{run_id!r} begins {', '.join(ids[:5])}{more}: give more of the id", ids
    )


def started(
    run_id: str, started_at: datetime | None, last_seen: datetime | None = None
) -> datetime:
    """Return when a run started, as far as it is known: else what its id says."""
    if started_at is None and (match := schema.RUN_ID_TIME.match(run_id)):
        started_at = parse_time(f"{match[1]}+00:00")
    return started_at or last_seen or datetime.fromtimestamp(0, UTC)


def _start_key(run: RunReader) -> tuple[datetime, str]:
    return started(run.path.name, run.started_at, run.last_seen_at), run.path.name
