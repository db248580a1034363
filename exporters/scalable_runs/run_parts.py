"""One run of several writers: its records by time, and its documents put together."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, cast

from scalable_runs import fields, schema
from scalable_runs.schema import Record, RunStatus
from scalable_runs.stores.base import Hole, Store

#: Up to this many parts are read with one open file each.
MAX_OPEN: Final = 64
#: Bytes that are read at once of all parts together, and of one part at least.
_AT_ONCE: Final = 32 * 1024 * 1024
_LEAST: Final = 16 * 1024
#: How a run has ended, by what its writers say; the first that one of them says holds.
_ENDS: Final[tuple[RunStatus, ...]] = ("running", "failed", "cancelled", "completed", "lost")


class InSips:
    """Reads files of a store a little at a time, with no file open in between.

    Used by readers of so many parts that a file each would be too many, or their blocks too large.
    """

    def __init__(self, store: Store, parts: int) -> None:
        self._store = store
        self._length = max(_LEAST, _AT_ONCE // parts)

    def read(self, name: str) -> Iterator[bytes | Hole]:
        """Yield the content of a file in small blocks."""
        at = 0
        while blocks := list(self._store.read(name, at, self._length)):
            at += sum(block.length if isinstance(block, Hole) else len(block) for block in blocks)
            yield from blocks


def by_time(sources: Sequence[Iterator[Record]]) -> Iterator[Record]:
    """Merge the records of several writers by their timestamps; each writer's order is kept."""
    heads: list[tuple[str, int, Record, Iterator[Record]]] = []
    try:
        for number, records in enumerate(sources):
            for record in records:
                heads.append((_time(record), number, record, records))
                break
        heapq.heapify(heads)
        while heads:
            at, number, record, records = heads[0]
            yield record
            for following in records:
                # A record without a time follows the one before it.
                head = (_time(following) or at, number, following, records)
                heapq.heapreplace(heads, head)
                break
            else:
                heapq.heappop(heads)
    finally:
        for records in sources:
            cast("Any", records).close()


def _time(record: Record) -> str:
    return record.get("timestamp") or ""


def common_status(statuses: Sequence[RunStatus]) -> RunStatus:
    """Return the status of a run by those of its writers; a lost one is not the whole run."""
    for status in _ENDS:
        if status in statuses:
            return status
    return "lost"


def latest(times: Sequence[datetime | None]) -> datetime | None:
    """Return the last of the times that are known."""
    return max(filter(None, times), default=None)


def combined(
    run: Mapping[str, Any],
    parts: Mapping[str, Mapping[str, Any]],
    writers: Mapping[str, Any],
) -> dict[str, Any]:
    """Put run.json of a run and those of its parts together.

    Parameters
    ----------
    run
        run.json of the run; it may be empty.
    parts
        run.json of each writer's part.
    writers
        State of each writer, also of those without a part of their own any more.
    """
    documents = list(parts.values())
    status = common_status([state.get("status", "lost") for state in writers.values()])
    ends = [state["finished_at"] for state in writers.values() if state.get("finished_at")]
    of_all: Mapping[str, Any] = next((one for one in documents if one), {})
    common = {name: value for name, value in of_all.items() if name not in _OF_ONE_WRITER}
    first = min((one["started_at"] for one in documents if one.get("started_at")), default=None)
    journal: dict[str, Any] = dict(run.get("journal") or {})
    for name, document in parts.items():
        marks: Any = document.get("journal")
        if isinstance(marks, dict):
            found = cast("dict[str, Any]", marks)
            journal |= {file_of(name, file): mark for file, mark in found.items()}
    made = {
        **common,
        **({"started_at": first} if first else {}),
        **run,
        "status": status,
        "finished_at": None if status == "running" else max(ends, default=None),
        "telemetry": _telemetry([run, *documents]),
        "journal": journal,
        "writers": dict(writers),
    }
    if identities := _code_identities([run, *documents]):
        made["code_identities"] = identities
    if recorder := max(filter(None, map(_recorder, [run, *documents])), key=_seen, default=None):
        made["recorder"] = recorder
    return made


#: Fields of run.json that say nothing of the run as a whole.
_OF_ONE_WRITER: Final = frozenset(
    {"started_at", "finished_at", "status", "journal", "recorder", "telemetry", "environment"}
)


def _code_identities(documents: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return each version of the code once; programs on several machines may have several."""
    found: dict[str, dict[str, Any]] = {}
    for document in documents:
        for entry in code_identities_of(document):
            about = {name: value for name, value in entry.items() if name != "observed_at"}
            found.setdefault(repr(sorted(about.items())), entry)
    return list(found.values())


def code_identities_of(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the versions of the code in a run.json; earlier versions wrote an empty table."""
    found: Any = document.get("code_identities")
    rows = cast("list[Any]", found) if isinstance(found, list) else []
    return [cast("dict[str, Any]", row) for row in rows if isinstance(row, dict)]


def file_of(writer: str, name: str) -> str:
    """Return the name that a file of a writer's part has in the run."""
    return f"{schema.WRITERS}/{writer}/{name}"


def _recorder(document: Mapping[str, Any]) -> dict[str, Any] | None:
    return document.get("recorder")


def _seen(recorder: Mapping[str, Any]) -> str:
    return recorder.get("heartbeat_at") or ""


def _telemetry(documents: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Add up what the parts say of their records: counts, counts by name, lists."""
    made: dict[str, Any] = {}
    for document in documents:
        for name, value in (document.get("telemetry") or {}).items():
            before = made.get(name)
            if before is None:
                made[name] = value
            elif value.__class__ is not before.__class__:
                continue
            elif isinstance(value, dict):
                made[name] = _added(before, cast("dict[str, Any]", value))
            elif isinstance(value, int | float | list):
                made[name] = before + value
    return made


def _added(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    both = {**one, **other}
    for name in one.keys() & other.keys():
        if isinstance(one[name], int) and isinstance(other[name], int):
            both[name] = one[name] + other[name]
        elif isinstance(one[name], dict) and isinstance(other[name], dict):
            both[name] = _added(one[name], other[name])
    return both


def usable_states(writers: Any) -> dict[str, Any]:
    """Return the states of writers that are ones, of `writers` in a run.json."""
    if not isinstance(writers, dict):
        return {}
    row = fields.row_of(schema.RunWriterState)
    found = cast("dict[str, Any]", writers)
    return {name: state for name, state in found.items() if fields.fits(state, row)}


def state_of(
    document: Mapping[str, Any],
    status: RunStatus,
    started_at: datetime | None,
    finished_at: datetime | None,
    last_seen_at: datetime | None,
) -> dict[str, Any]:
    """Describe a writer, as in `writers` of run.json."""
    recorder = _recorder(document) or {}
    return {
        "status": status,
        "started_at": _iso(started_at),
        "finished_at": _iso(finished_at),
        "host": recorder.get("host"),
        "pid": recorder.get("pid"),
        "last_seen_at": _iso(last_seen_at),
        **({"root_span_id": span} if (span := document.get("root_span_id")) else {}),
    }


def _iso(at: datetime | None) -> str | None:
    return None if at is None else f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%f}Z"
