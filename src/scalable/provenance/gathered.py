"""What a run did with which code and data, gathered once for every format.

Tasks are counted by name and final state: a format that had an entity for every task of a run of a
million could be opened by nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, cast

from scalable_runs.reader import RunReader
from scalable_runs.run_parts import code_identities_of, file_of
from scalable_runs.schema import ARTIFACTS, FAILURES, FINAL_STATES, FUNCTIONS, TASKS, Record
from scalable_runs.writers import told_apart

#: Artifacts and functions that are described; the journals have the rest.
MAX_ARTIFACTS: Final = 2_000
MAX_FUNCTIONS: Final = 500
#: Names of tasks that are told apart; those of what comes after are counted together.
MAX_NAMES: Final = 500
#: Name of the tasks beyond these.
OTHERS: Final = "(other tasks)"

#: Phases of failures that belong to no task: the program ended with them.
_ENDED_THE_RUN: Final = frozenset({"run", "session.start", "session.context"})

#: Called with the bytes that have been read, and the bytes in all.
Progress = Callable[[int, int], None]


@dataclass(slots=True)
class Group:
    """The tasks of one name that ended in one state.

    Attributes
    ----------
    state
        `succeeded`, `failed` or `cancelled`; `unknown` where the record has no end.
    count, attempts
        Tasks, and the attempts that were made for them.
    first_at, last_at
        When the first attempt of any of them began, and when the last of them ended.
    seconds
        Execution times of their last attempts, added up.
    """

    name: str
    state: str
    count: int = 0
    attempts: int = 0
    first_at: str = ""
    last_at: str = ""
    seconds: float = 0.0

    def add(self, attempts: int, first_at: str, last_at: str, seconds: float) -> None:
        """Count one task."""
        self.count += 1
        self.attempts += attempts
        self.seconds += seconds
        if first_at and (not self.first_at or first_at < self.first_at):
            self.first_at = first_at
        self.last_at = max(self.last_at, last_at)


@dataclass(frozen=True, slots=True)
class Failed:
    """An attempt that failed, whether or not its task ran again."""

    task_id: str
    task_name: str
    attempt: int
    error: str
    started_at: str
    ended_at: str
    worker: str
    retried: bool
    span_id: str


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file or object that the work read (`get`) or wrote (`put`)."""

    name: str
    location: str
    stage: str
    digest: str
    size: int | None
    kind: str
    task_id: str
    task_name: str
    at: str


@dataclass(slots=True)
class Gathered:
    """What was gathered; all texts are as the run has them, so without secrets."""

    run: Mapping[str, Any]
    run_id: str
    status: str
    started_at: str
    ended_at: str
    files: tuple[str, ...]
    groups: list[Group] = field(default_factory=list["Group"])
    #: The first failed attempts, and how many there were.
    failed: list[Failed] = field(default_factory=list["Failed"])
    failed_count: int = 0
    artifacts: list[Artifact] = field(default_factory=list["Artifact"])
    artifacts_count: int = 0
    functions: list[Record] = field(default_factory=list["Record"])
    #: The exception with which the program ended; empty if there was none.
    why: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of tasks, in the order in which they began."""
        return tuple(dict.fromkeys(group.name for group in self.groups))

    @property
    def code(self) -> Mapping[str, Any]:
        """The first code identity of the run; empty if it is not known."""
        return next(iter(code_identities_of(self.run)), {})

    @property
    def program(self) -> str:
        """File name of the program."""
        environment: Any = self.run.get("environment")
        found: Any = environment.get("program") if isinstance(environment, dict) else None
        return found if isinstance(found, str) else ""

    @property
    def packages(self) -> Mapping[str, str]:
        """Versions of the packages of the program's environment."""
        environment: Any = self.run.get("environment")
        found: Any = environment.get("packages") if isinstance(environment, dict) else None
        if not isinstance(found, dict):
            return {}
        return {str(name): str(version) for name, version in cast("Any", found).items()}

    def inputs(self, name: str | None = None) -> Iterator[Artifact]:
        """What was read, by the tasks of one name or by all and the program."""
        return self._artifacts("get", name)

    def outputs(self, name: str | None = None) -> Iterator[Artifact]:
        """What was written."""
        return self._artifacts("put", name)

    def _artifacts(self, stage: str, name: str | None) -> Iterator[Artifact]:
        for one in self.artifacts:
            if one.stage == stage and name in (None, one.task_name):
                yield one


def gather(reader: RunReader, *, most_failed: int, progress: Progress | None = None) -> Gathered:
    """Read a run, in memory that grows with its tasks' keys at most.

    Parameters
    ----------
    reader
        The run.
    most_failed
        Failed attempts that are kept.
    progress
        Called now and then while journals are read.
    """
    run = {**reader.document, "status": reader.status}
    found = Gathered(
        run=run,
        run_id=reader.run_id,
        status=reader.status,
        started_at=_iso(reader.started_at),
        ended_at=_iso(reader.finished_at or reader.last_seen_at),
        files=tuple(_files(reader)),
    )
    total = sum(map(reader.size, (TASKS, ARTIFACTS)))
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, total)

    _Tasks(found, most_failed).read(map(told_apart, reader.records(TASKS, progress=advance)))
    for record in map(told_apart, reader.records(ARTIFACTS, progress=advance)):
        found.artifacts_count += 1
        if len(found.artifacts) < MAX_ARTIFACTS:
            found.artifacts.append(_artifact(record))
    for record in reader.records(FUNCTIONS):
        if len(found.functions) < MAX_FUNCTIONS:
            found.functions.append(record)
    for record in reader.records(FAILURES):
        details: Any = record.get("details") or {}
        if details.get("phase") in _ENDED_THE_RUN and not found.why:
            found.why = f"{record.get('failure_class')}: {record.get('message')}"
    return found


class _Tasks:
    """Counts tasks.jsonl; used by one thread.

    A task is open from its first line to its end. Only open tasks are kept, and the final state of
    those that ended: their results may be computed again.
    """

    def __init__(self, found: Gathered, most_failed: int) -> None:
        self._found = found
        self._most_failed = most_failed
        #: By task: name, attempts, begin of the first attempt and of the present one.
        self._open: dict[str, list[Any]] = {}
        self._groups: dict[tuple[str, str], Group] = {}
        self._names: set[str] = set()

    def read(self, records: Iterable[Record]) -> None:
        for record in records:
            task_id, state = record.get("task_id"), record.get("state")
            if task_id is not None and state is not None:
                self._add(str(task_id), str(state), record)
        for name, attempts, first_at, _ in self._open.values():
            self._group(name, "unknown").add(attempts, first_at, "", 0.0)
        counted = [group for group in self._groups.values() if group.count > 0]
        counted.sort(key=lambda group: (group.first_at or "~", group.name, group.state))
        self._found.groups.extend(counted)

    def _add(self, task_id: str, state: str, record: Record) -> None:
        at = str(record.get("timestamp") or "")
        row = self._open.get(task_id)
        if row is None:
            name = str(record.get("task_name") or "-")
            row = self._open[task_id] = [self._name(name), 0, "", ""]
        if state == "running":
            row[1] += 1
            row[2] = row[2] or at
            row[3] = at
        if state in ("failed", "retried"):
            self._fail(row, task_id, state, record, at)
        again = bool(record.get("recomputed"))
        if state in FINAL_STATES and (not again or state != "succeeded"):
            seconds = record.get("duration_s")
            del self._open[task_id]
            if again:
                self._group(row[0], "succeeded").count -= 1
            self._group(row[0], state).add(
                row[1], row[2], at, seconds if isinstance(seconds, int | float) else 0.0
            )
        elif again:
            # It was counted when it ended for the first time.
            self._open.pop(task_id, None)

    def _name(self, name: str) -> str:
        if name not in self._names and len(self._names) >= MAX_NAMES:
            return OTHERS
        self._names.add(name)
        return name

    def _group(self, name: str, state: str) -> Group:
        key = name, state
        found = self._groups.get(key)
        if found is None:
            found = self._groups[key] = Group(name, state)
        return found

    def _fail(self, row: list[Any], task_id: str, state: str, record: Record, at: str) -> None:
        if record.get("blame"):
            return  # it failed because another task did, and never ran
        found = self._found
        found.failed_count += 1
        if len(found.failed) < self._most_failed:
            error = f"{record.get('error_type') or 'Error'}: {record.get('error_message') or ''}"
            found.failed.append(
                Failed(
                    task_id=task_id,
                    task_name=row[0],
                    attempt=int(record.get("attempt") or 0),
                    error=error.removesuffix(": "),
                    started_at=row[3],
                    ended_at=at,
                    worker=str(record.get("worker") or ""),
                    retried=state == "retried",
                    span_id=str(record.get("span_id") or ""),
                )
            )


def _artifact(record: Record) -> Artifact:
    size = record.get("size_bytes")
    return Artifact(
        name=str(record.get("artifact_name") or "-"),
        location=str(record.get("location") or ""),
        stage=str(record.get("stage") or "put"),
        digest=str(record.get("digest") or ""),
        size=size if isinstance(size, int) else None,
        kind=str(record.get("kind") or ""),
        task_id=str(record.get("task_id") or ""),
        task_name=str(record.get("task_name") or ""),
        at=str(record.get("timestamp") or ""),
    )


def _files(reader: RunReader) -> Iterator[str]:
    """Yield the files of a run that are in no folder, and those of the parts of its writers."""
    yield from sorted(name for name in reader.store.names() if reader.store.stat(name) is not None)
    for writer, part in sorted(reader.parts.items()):
        yield from (file_of(writer, name) for name in _files(part))


def _iso(moment: datetime | None) -> str:
    return "" if moment is None else moment.isoformat().replace("+00:00", "Z")
