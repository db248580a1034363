"""The runs of a place, filtered and newest first: what `scalable runs` lists."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from time import monotonic
from typing import Any, Final, NamedTuple, Protocol, TypeAlias, runtime_checkable

import orjson

from scalable.analysis.overview import Overview, load_overviews, overview_of
from scalable.analysis.overview_index import OverviewIndex, Stamp
from scalable_runs._process import EXIT_TIMEOUT
from scalable_runs.plain import parse_time
from scalable_runs.reader import RunReader, find_stores, started
from scalable_runs.schema import RUN, RUN_STATUSES, SCHEMA_VERSION, SUMMARY
from scalable_runs.stores.base import Store, StoreRoot, joined, place_of

#: Counts the tasks of runs.
Count: TypeAlias = Callable[[Iterable[RunReader]], Iterable[Overview]]

#: So many runs that an index does not know are read without more ado.
_FEW: Final = 50
_ENDED: Final = RUN_STATUSES - {"running", "lost"}


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Which runs are listed; by default all.

    Attributes
    ----------
    project
        Name of the project.
    statuses
        Statuses, any of which a run may have.
    since
        The earliest time at which a run may have started.
    name
        Beginning of a run's id, or a pattern with ``*`` for all of it.
    """

    project: str | None = None
    statuses: Collection[str] = ()
    since: datetime | None = None
    name: str | None = None

    def takes(self, run: Overview) -> bool:
        """Whether a run is listed."""
        return (
            (self.project is None or run.project == self.project)
            and (not self.statuses or run.status in self.statuses)
            and (self.since is None or started(run.run_id, run.started_at) >= self.since)
            and (self.name is None or _is_named(run.run_id, self.name))
        )


def _is_named(run_id: str, name: str) -> bool:
    if "*" in name or "?" in name:
        return fnmatch.fnmatchcase(run_id, name)
    return run_id.startswith(name) or f"-{name}-" in run_id


@runtime_checkable
class _Distant(Protocol):
    """A place in which each read is a request, and which keeps an index for all its readers."""

    def prefetch(self, stores: Iterable[Store], names: Sequence[str]) -> None: ...

    def kept_index(self) -> bytes: ...

    def keep_index(self, data: bytes) -> None: ...


class _Named(NamedTuple):
    """A run and the name of its place."""

    name: str
    run: Overview


class _Listing:
    """The runs of one listing, by one thread; see :func:`list_runs`."""

    def __init__(self, index: OverviewIndex) -> None:
        self._index = index
        #: Readers of runs whose numbers are not known yet, by the name of their place.
        self._readers: dict[str, RunReader] = {}
        self._stamps: dict[str, Stamp] = {}
        # All runs together wait for recorders that end no longer than a single one.
        self._deadline = monotonic() + EXIT_TIMEOUT

    def runs(self, root: StoreRoot) -> list[_Named]:
        """All runs, newest first; those that did not end may lack their numbers."""
        stores = find_stores(root)
        if isinstance(root, _Distant):
            self._look_ahead(root, stores)
        runs = [_Named(name, self._run(name, store)) for name, store in stores.items()]
        return sorted(runs, key=_start_key, reverse=True)

    def _look_ahead(self, root: _Distant, stores: Mapping[str, Store]) -> None:
        """Read at the same time what the index does not know, where each read is a request."""
        unknown = self._unknown(stores)
        if len(unknown) > _FEW:
            self._index.take_in(root.kept_index())
            unknown = self._unknown(stores)
        root.prefetch([stores[name] for name in unknown], (RUN, SUMMARY))

    def _unknown(self, stores: Mapping[str, Store]) -> list[str]:
        stamps = {name: _stamp(store) for name, store in stores.items()}
        return [
            name
            for name, stamp in stamps.items()
            if stamp is None or self._index.get(name, stamp) is None
        ]

    def _run(self, name: str, store: Store) -> Overview:
        stamp = _stamp(store)
        if stamp is not None and (found := self._index.get(name, stamp)) is not None:
            return replace(found, path=place_of(store))
        if stamp is not None and not store.parts():
            self._stamps[name] = stamp
            if (found := _ended(store, name)) is not None:
                self._index.put(name, stamp, found)
                return found
        reader = RunReader(store, wait=max(0.0, self._deadline - monotonic()))
        self._readers[name] = reader
        return overview_of(reader, None)

    def complete(self, runs: Sequence[_Named], count: Count) -> list[Overview]:
        """Count what is not counted yet."""
        names = [one.name for one in runs if one.name in self._readers]
        readers = [self._readers[name] for name in names]
        counted = dict(zip(names, count(readers), strict=True))
        for name, run in counted.items():
            stamp = self._stamps.get(name)
            if stamp is not None and run.status != "running" and run.tasks is not None:
                self._index.put(name, stamp, run)
        return [counted.get(one.name, one.run) for one in runs]


def list_runs(
    root: StoreRoot,
    which: RunFilter | None = None,
    *,
    limit: int | None = None,
    count: Count = load_overviews,
) -> tuple[list[Overview], int]:
    """Return the runs of a place, newest first.

    What is known of runs that have ended is kept in an index in the user's cache, with the size
    and the time of the files it was read from: 10,000 runs are then listed without opening one.
    A place of objects keeps such an index too, for readers that have none.

    Parameters
    ----------
    root
        The place of runs.
    which
        Which of them.
    limit
        The newest of those; None: all.
    count
        Returns overviews of runs whose tasks are not counted yet; by default
        :func:`~scalable.analysis.overview.load_overviews`.

    Returns
    -------
    tuple of list of Overview, int
        The runs, and how many there are without `limit`.
    """
    index = OverviewIndex.open(root.location)
    listing = _Listing(index)
    found = [one for one in listing.runs(root) if which is None or which.takes(one.run)]
    shown = listing.complete(found[:limit], count)
    index.save()
    if index.news > _FEW and isinstance(root, _Distant):
        root.keep_index(index.content())
    return shown, len(found)


def _start_key(one: _Named) -> tuple[datetime, str]:
    return started(one.name, one.run.started_at), one.name


def _stamp(store: Store) -> Stamp | None:
    """What changes when the run does; None for a run whose run.json is not there."""
    run, summary = store.stat(RUN), store.stat(SUMMARY)
    if run is None:
        return None
    return (run.size, run.modified, *((summary.size, summary.modified) if summary else (0, 0.0)))


def _ended(store: Store, run_id: str) -> Overview | None:
    """Return the overview of a run that has ended and has a summary; None if anything is unusual.

    Reads the few fields that an overview has, where a reader looks at all of them.
    """
    try:
        run: Any = orjson.loads(joined(store.read(RUN)))
        summary: Any = orjson.loads(joined(store.read(SUMMARY)))
        begun, ended = parse_time(run["started_at"]), parse_time(run["finished_at"])
        project, status = run["project_name"], run["status"]
        wall, counts = summary["timing"]["wall_s"], summary["counts"]
        usual = (
            run["run_id"] == summary["run"]["run_id"] == run_id
            and summary["schema_version"] == SCHEMA_VERSION
            and status in _ENDED
            and summary["run"]["status"] == status
            and (begun, ended) != (None, None)
            and type(project) is str
            and type(wall) in (int, float)
            and type(counts["tasks"]) is type(counts["tasks_failed"]) is int
        )
    except (OSError, ValueError, LookupError, TypeError):
        return None
    if not usual:
        return None
    return Overview(
        run_id=run_id,
        path=place_of(store),
        project=project,
        status=status,
        started_at=begun,
        finished_at=ended,
        duration_s=wall,
        tasks=counts["tasks"],
        failures=counts["tasks_failed"],
        readable=True,
    )
