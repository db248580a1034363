"""Tasks by name and state, followed from record to record."""

from __future__ import annotations

import heapq
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, Final, NamedTuple, TypeAlias

from scalable_runs.plain import parse_seconds
from scalable_runs.schema import (
    ENDS,
    NameSummary,
    SlowAttempt,
    UnfinishedTask,
)
from scalable_runs.summary.groups import Failures, Workers
from scalable_runs.summary.names import OTHER, is_address, name_of_key
from scalable_runs.summary.values import Values

#: Task names counted apart; tasks of further names are counted as `OTHER`.
MAX_NAMES: Final = 1_000
#: Attempts listed as the slowest.
SLOWEST: Final = 10
#: Unfinished tasks listed with their details.
MAX_UNFINISHED: Final = 20
#: Tasks remembered as computed again; beyond that their number is not known.
MAX_RECOMPUTED: Final = 100_000

#: Raised by values of types that no record has.
UNUSABLE: Final = (TypeError, ValueError, KeyError, AttributeError, OverflowError)

#: Ends of an attempt that may have come before its code was done.
_CUT_SHORT: Final = frozenset({"lost", "failed", "cancelled"})
#: Older records number the tasks of one map: slow[0], slow[1], …
_INDEX: Final = re.compile(r"\[\d+\]$")


class NameCounts(NamedTuple):
    """Attempts after which a task ran again, attempts made again, CPU seconds of one task name."""

    retries: int
    recomputations: int
    cpu: float


@dataclass(slots=True)
class NameTotals:
    """What the tasks of one name did; the fields are those of the document."""

    count: int = 0
    submitted: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    retried: int = 0
    rescheduled: int = 0
    lost: int = 0
    recomputed: int = 0
    attempts: int = 0
    cut_short: int = 0
    cut_short_s: float = 0.0
    duration: Values = field(default_factory=Values)
    queue: Values = field(default_factory=Values)
    cpu_s: float = 0.0
    transfer_s: float = 0.0
    name: str = ""

    def document(self) -> NameSummary:
        """Return the row of this name."""
        row: Any = {name: getattr(self, name) for name in NameSummary.__annotations__}
        return row | {"duration": self.duration.document(), "queue": self.queue.document()}


#: A task: its id, and the writer if the run has several: their clusters may have equal keys.
TaskKey: TypeAlias = str | tuple[str, str]
#: The last attempt of a task that runs: its number, name, worker and start. Tuples are made faster
#: than objects.
_Attempt: TypeAlias = tuple[int, NameTotals, str | None, str]


class Tasks:
    """Tasks by name; those that wait or run are remembered by their id.

    A task that reached a final state is forgotten, so memory is bounded by the tasks that are alive
    at one time and by the number of names. The next record of a task that lives again (its result
    was lost with a worker) has ``reopens``, the final state that no longer holds.
    """

    def __init__(self, workers: Workers, failures: Failures) -> None:
        self._workers = workers
        self._failures = failures
        self.names: dict[str, NameTotals] = {}
        #: The number of attempts made so far, of each waiting task: a graph of a million tasks
        #: waits at once, and an integer takes the least memory.
        self.waiting: dict[TaskKey, int] = {}
        self.running: dict[TaskKey, _Attempt] = {}
        #: Hashes of tasks that were computed again; None if there are too many.
        self.recomputed: set[int] | None = set()
        self.slowest = Slowest()

    def add_all(self, records: Iterable[Mapping[str, Any]], last: str) -> tuple[int, int, str]:
        """Add records; return how many, how many unusable ones, and the last timestamp."""
        # One flat loop: calls for what every task does would slow a scan by a fifth.
        names, waiting, running = self.names, self.waiting, self.running
        count = unusable = 0
        for record in records:
            count += 1
            try:
                get = record.get
                timestamp = record["timestamp"]
                if timestamp > last:
                    last = timestamp
                state = record["state"]
                task_id = record["task_id"]
                if task_id is None:
                    raise ValueError("task_id")
                writer = get("writer")
                if writer is not None:
                    task_id = (writer, task_id)
                given: Any = get("task_name")
                name = names.get(given) or self._name(given)
                attempt = get("attempt")

                if state == "running":
                    seen = waiting.pop(task_id, None)
                    if seen is None:
                        entry = running.get(task_id)
                        if entry is None:
                            self._begin(name, record)
                        seen = 0 if entry is None else entry[0]
                    if attempt is None:
                        attempt = seen + 1
                    if attempt > seen:
                        name.attempts += 1
                    running[task_id] = (attempt, name, get("worker"), timestamp)
                elif state == "submitted":
                    name.submitted += 1
                    if task_id not in waiting and task_id not in running:
                        waiting[task_id] = attempt or 0
                        if get("reopens") is None:
                            name.count += 1
                        else:
                            self._reopen(name, record)
                elif state in ENDS:
                    self._end(name, record, state, task_id, attempt)
                else:
                    raise ValueError(state)
            except UNUSABLE:
                unusable += 1
        return count, unusable, last

    def _begin(self, name: NameTotals, record: Mapping[str, Any]) -> None:
        """Count a task that was not alive: a new one, or one whose end no longer holds."""
        if record.get("reopens") is None:
            name.count += 1
        else:
            self._reopen(name, record)

    def _reopen(self, name: NameTotals, record: Mapping[str, Any]) -> None:
        reopens = record["reopens"]
        if reopens == "succeeded":
            name.succeeded -= 1
        elif reopens == "failed":
            name.failed -= 1
        elif reopens == "cancelled":
            name.cancelled -= 1
        # A cancelled task was to be computed again, and was not.
        if record.get("recomputed") and record["state"] != "cancelled":
            name.recomputed += 1
            if self.recomputed is not None:
                self.recomputed.add(hash(_key_of(record)))
                if len(self.recomputed) > MAX_RECOMPUTED:
                    self.recomputed = None

    def _end(
        self,
        name: NameTotals,
        record: Mapping[str, Any],
        state: str,
        task_id: TaskKey,
        attempt: int | None,
    ) -> None:
        entry = self.running.pop(task_id, None)
        seen = self.waiting.pop(task_id, None) if entry is None else entry[0]
        if seen is None:
            self._begin(name, record)
            if attempt and _ended_an_attempt(state, record):
                name.attempts += 1
        elif attempt is not None and attempt > seen:
            # Its worker was lost before it reported the start of the attempt.
            name.attempts += 1

        if state == "succeeded":
            name.succeeded += 1
        else:
            self._add_unsuccessful(name, state, record, attempt or seen or 0)

        get = record.get
        duration = get("duration_s")
        if duration is not None:
            if not 0 <= duration < math.inf:
                raise ValueError(duration)
            name.duration.append(duration)
            address: Any = get("worker")
            writer = get("writer")
            key = address if writer is None else (writer, address)
            worker = self._workers.by_key.get(key) or self._workers.at(address, writer)
            if worker is not None:
                worker.busy_s += duration
                worker.attempts += 1
            if duration > self.slowest.floor:
                self.slowest.add(duration, record)
        elif entry is not None and state in _CUT_SHORT:
            self._add_cut_short(entry, record)
        queued = get("queue_s")
        if queued is not None:
            # Clocks of two hosts differ by up to a millisecond: a wait is never negative.
            name.queue.append(queued if queued > 0 else 0.0)
        cpu = get("cpu_s")
        if cpu is not None:
            name.cpu_s += cpu
        transfer = get("transfer_s")
        if transfer is not None:
            name.transfer_s += transfer

    def _add_unsuccessful(
        self, name: NameTotals, state: str, record: Mapping[str, Any], attempt: int
    ) -> None:
        if state == "failed":
            name.failed += 1
        elif state == "cancelled":
            name.cancelled += 1
        else:
            if state == "retried":
                name.retried += 1
                name.rescheduled += bool(record.get("rescheduled"))
            else:
                name.lost += 1
            self.waiting[_key_of(record)] = attempt
        # A lost attempt is a failure of its worker, not of the task.
        if state != "lost" and record.get("error_type") is not None:
            self._failures.add_task(name.name, record)

    def _add_cut_short(self, entry: _Attempt, record: Mapping[str, Any]) -> None:
        """Count the time of an attempt that ran and did not end by itself."""
        _, name, address, since = entry
        begin, end = parse_seconds(since), parse_seconds(record["timestamp"])
        # If the `running` line was written for a later fact, the start is not known.
        if begin is None or end is None or end < begin:
            return
        name.cut_short += 1
        name.cut_short_s += end - begin
        worker = self._workers.at(address, record.get("writer"))
        if worker is not None:
            worker.busy_s += end - begin
            worker.attempts += 1

    def _name(self, given: object) -> NameTotals:
        text = given if isinstance(given, str) else str(given)
        text = _INDEX.sub("", text) or text
        if text not in self.names and len(self.names) >= MAX_NAMES:
            text = OTHER
        return self.names.setdefault(text, NameTotals(name=text))

    def oldest(self, limit: int) -> list[UnfinishedTask]:
        """Return the tasks that run, the longest running first."""
        oldest = heapq.nsmallest(limit, self.running.items(), key=lambda item: item[1][3])
        rows: list[UnfinishedTask] = []
        for key, (attempt, name, worker, since) in oldest:
            task_id = key if isinstance(key, str) else key[1]
            row: UnfinishedTask = {
                "task_id": task_id,
                "task_name": name_of_key(task_id) if name.name == OTHER else name.name,
                "attempt": attempt,
                "worker": worker if is_address(worker) else None,
                "since": since,
            }
            if not isinstance(key, str):
                row["writer"] = key[0]
            rows.append(row)
        return rows


def _key_of(record: Mapping[str, Any]) -> TaskKey:
    writer = record.get("writer")
    return record["task_id"] if writer is None else (writer, record["task_id"])


def _ended_an_attempt(state: str, record: Mapping[str, Any]) -> bool:
    """Return whether the first record of a task ends an attempt that has no `running` line."""
    if state == "cancelled":
        # A task that lives again has the number of an attempt counted before.
        return record.get("reopens") is None
    if state == "failed":
        never_began = record.get("reopens") is not None and "span_id" not in record
        return record.get("blame") is None and not never_began
    if state == "succeeded":
        # Without a duration: the result was lost, and released before it was made again.
        return record.get("duration_s") is not None or record.get("reopens") is None
    return True


class Slowest:
    """The slowest attempts; of equal durations the first."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, SlowAttempt]] = []
        self._seen = 0
        #: Durations up to this one are not among the slowest.
        self.floor = 0.0

    def add(self, duration: float, record: Mapping[str, Any]) -> None:
        """Add an attempt that took longer than :attr:`floor`."""
        fields = SlowAttempt.__annotations__
        kept: Any = {name: record[name] for name in fields if record.get(name) is not None}
        if not is_address(kept.get("worker")):
            kept.pop("worker", None)
        self._seen += 1
        heapq.heappush(self._heap, (duration, -self._seen, kept))
        if len(self._heap) > SLOWEST:
            heapq.heappop(self._heap)
        if len(self._heap) == SLOWEST:
            self.floor = self._heap[0][0]

    def rows(self) -> list[SlowAttempt]:
        """Return the attempts, the slowest first."""
        return [row for _, _, row in sorted(self._heap, key=itemgetter(0, 1), reverse=True)]
