"""The running summary of a run: fed record by record, it holds what summary.json tells.

The same object serves twice. The recorder feeds it while it records, so that closing a run of a
million tasks costs no scan; the reader of a run whose recorder died feeds it from the journals.
Both give the same numbers: what one journal's records say never depends on how far another
journal has been read, so only the order within a journal matters, and that is fixed by ``seq``.

Memory is bounded by the tasks that are alive at one time and by the number of task names, never by
the tasks seen: a task that reached a final state is forgotten. A task that lives again (its result
was lost with a worker) says so itself: its next record carries ``reopens``, the final state that
no longer holds.
"""

from __future__ import annotations

import heapq
import math
import re
from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from operator import itemgetter
from typing import Any, Final, NamedTuple

from scalable_runs import fields
from scalable_runs.plain import parse_seconds
from scalable_runs.schema import (
    ARTIFACTS,
    CACHE,
    COST,
    FAILURES,
    FINAL_STATES,
    RESOURCES,
    SCHEMA_VERSION,
    TASKS,
    WORKERS,
)

#: Up to this many values a task name's percentiles are exact.
EXACT_VALUES: Final = 1_000
#: Beyond that a percentile is at most this share away from the exact one.
RELATIVE_ERROR: Final = 0.01
#: Task names told apart; tasks of further names are summed under :data:`OTHER`.
MAX_NAMES: Final = 1_000
#: Causes of failure told apart; further ones are summed by class, then under :data:`OTHER`.
MAX_FAILURE_GROUPS: Final = 200
#: Workers told apart.
MAX_WORKERS: Final = 10_000
#: Attempts listed as the slowest.
SLOWEST: Final = 10
#: Unfinished tasks listed with their details.
MAX_UNFINISHED: Final = 20
#: Tasks remembered as computed again; beyond that their number is not known.
MAX_RECOMPUTED: Final = 100_000
#: Different messages kept of one cause, and characters of all messages kept.
MAX_MESSAGES: Final = 1_000
MAX_MESSAGES_TEXT: Final = 2_000_000
#: Currencies told apart.
MAX_CURRENCIES: Final = 20
#: The name of everything that found no room of its own.
OTHER: Final = "(other)"

_MAX_TRACEBACK: Final = 20_000
_MAX_MESSAGE: Final = 2_000
_MAX_GROUP_MEMBERS: Final = 50
#: Characters of a message that tell causes apart.
_MAX_PATTERN: Final = 500

_COUNTED: Final = {
    TASKS: "task_events",
    RESOURCES: "resource_events",
    WORKERS: "worker_events",
    FAILURES: "failure_events",
    CACHE: "cache_events",
    ARTIFACTS: "artifact_events",
    COST: "cost_events",
}


class UnfinishedTask(NamedTuple):
    """A task that runs, or ran when the record ends."""

    task_id: str
    task_name: str
    attempt: int
    worker: str | None
    since: str


class NameCounts(NamedTuple):
    """Attempts after which a task ran again, attempts made again, CPU seconds of one task name."""

    retries: int
    recomputations: int
    cpu: float


class RunSummary:
    """What a run did so far, in bounded memory.

    Not thread-safe: one thread feeds it, and asks it when it is done.

    Examples
    --------
    >>> summary = RunSummary()
    >>> summary.add("tasks.jsonl", {"task_id": "inc-1", "task_name": "inc", "state": "submitted",
    ...                             "attempt": 0, "timestamp": "2026-01-01T00:00:00.000000Z"})
    >>> summary.document({})["counts"]["tasks_submitted"]
    1
    """

    __slots__ = (
        "_classes",
        "_cost",
        "_events",
        "_failed_tasks",
        "_failures",
        "_handlers",
        "_hits",
        "_last",
        "_memory",
        "_messages_left",
        "_names",
        "_recomputed_tasks",
        "_requested",
        "_running",
        "_slow_floor",
        "_slow_seen",
        "_slowest",
        "_task_memory",
        "_unusable",
        "_waiting",
        "_workers",
    )

    def __init__(self) -> None:
        self._events: Counter[str] = Counter()
        self._unusable = 0
        self._last = ""
        self._names: dict[str, _Name] = {}
        # A waiting task is one small integer (the attempts made so far): a graph of a million
        # tasks waits here at once.
        self._waiting: dict[str, int] = {}
        self._running: dict[str, tuple[int, _Name, str | None, str]] = {}
        self._slowest: list[tuple[float, int, Mapping[str, Any]]] = []
        self._slow_seen = 0
        self._slow_floor = 0.0
        self._workers: dict[str, _Worker] = {}
        self._memory: dict[str, _Usage] = {}
        self._task_memory = 0.0
        self._requested = _Range()
        self._classes: Counter[str] = Counter()
        self._failures: dict[tuple[str, str, str], _Failure] = {}
        self._failed_tasks: dict[tuple[str, str], _FailedTasks] = {}
        self._hits: Counter[bool] = Counter()
        self._cost = _Costs()
        self._messages_left = MAX_MESSAGES_TEXT
        self._recomputed_tasks: set[int] | None = set()
        self._handlers: dict[str, Callable[[Mapping[str, Any]], None]] = {
            RESOURCES: self._add_resource,
            WORKERS: self._add_worker,
            FAILURES: self._add_failure,
            CACHE: self._add_cache,
            ARTIFACTS: _only_count,
            COST: self._add_cost,
        }

    def add(self, file: str, record: Mapping[str, Any]) -> None:
        """Take in one record of a journal, in the order of the journal.

        Parameters
        ----------
        file
            The journal's file name; records of files that no number is made of are ignored.
        record
            The record; a field that is missing or null is one that does not apply. A record whose
            values are of impossible types is counted and otherwise ignored.
        """
        self.add_all(file, (record,))

    def add_all(self, file: str, records: Iterable[Mapping[str, Any]]) -> int:
        """Take in records of one journal, in the order of the journal; return how many.

        Cheaper than one by one.
        """
        if file == TASKS:
            return self._add_tasks(records)
        handle = self._handlers.get(file)
        if handle is None:
            return 0
        last = self._last
        count = 0
        for record in records:
            count += 1
            try:
                timestamp = record["timestamp"]
                if timestamp > last:
                    last = timestamp
                handle(record)
            except _UNUSABLE:
                self._unusable += 1
        self._last = last
        self._events[file] += count
        return count

    @property
    def last_timestamp(self) -> str | None:
        """When the last of the recorded things happened, as the record says it."""
        return self._last or None

    @property
    def waiting_count(self) -> int:
        """Tasks submitted, or to be run again, that no worker runs."""
        return len(self._waiting)

    @property
    def running_count(self) -> int:
        """Tasks that a worker runs."""
        return len(self._running)

    def unknown_count(self, run: Mapping[str, Any]) -> int:
        """Return how many tasks have no final state in a run that has ended: nobody knows theirs.

        Parameters
        ----------
        run
            The run's run.json; of a run that goes on none is unknown.
        """
        if run.get("status") in (None, "running"):
            return 0
        return len(self._running) + len(self._waiting)

    def states(self, *, ended: bool = False) -> dict[str, int]:
        """Return how many tasks are in each state now; those of all states have no other one.

        Parameters
        ----------
        ended
            The run is over: the state of a task without an end is `unknown`. No other run has
            that state.
        """
        names = self._names.values()
        waiting, running = len(self._waiting), len(self._running)
        unknown = {"unknown": waiting + running} if ended and waiting + running else {}
        return unknown | {
            "waiting": 0 if ended else waiting,
            "running": 0 if ended else running,
            "succeeded": sum(name.succeeded for name in names),
            "failed": sum(name.failed for name in names),
            "cancelled": sum(name.cancelled for name in names),
        }

    def by_name(self) -> dict[str, NameCounts]:
        """Return what is counted of each task name."""
        return {
            name.name: NameCounts(name.retried + name.lost, name.recomputed, name.cpu)
            for name in self._names.values()
        }

    def running(self, limit: int = MAX_UNFINISHED) -> list[UnfinishedTask]:
        """Return the tasks that run and have no end yet, the longest running first."""
        oldest = heapq.nsmallest(limit, self._running.items(), key=lambda item: item[1][3])
        return [
            UnfinishedTask(
                task_id,
                name_of_key(task_id) if name.name == OTHER else name.name,
                attempt,
                worker if _is_address(worker) else None,
                since,
            )
            for task_id, (attempt, name, worker, since) in oldest
        ]

    def progress(self) -> tuple[int, int, int]:
        """Tasks ended, known and failed so far; another thread than the one adding may ask."""
        names = list(self._names.values())
        failed = sum(name.failed for name in names)
        ended = sum(name.succeeded + name.cancelled for name in names) + failed
        return ended, sum(name.submitted for name in names), failed

    def document(self, run: Mapping[str, Any]) -> dict[str, Any]:
        """Return summary.json's document.

        Parameters
        ----------
        run
            The run's run.json. Its ``started_at`` and ``finished_at`` bound the run; without the
            latter the run lasts to the last thing known of it (a record or a heartbeat).

        Returns
        -------
        dict
            The shape of the run directory's contract. All times are seconds. Ratios and means of
            nothing are null.
        """
        begin, end = self._bounds(run)
        names = list(self._names.values())
        workers = self._worker_rows(begin, end)
        recomputed = self._recomputed_tasks
        durations = [name.durations for name in names]
        count = sum(values.count for values in durations)
        total = math.fsum(values.total for values in durations)
        capacity = math.fsum(row["lifetime_s"] * (row["nthreads"] or 0) for row in workers)
        busy = math.fsum(row["busy_s"] for row in workers if row["lifetime_s"] and row["nthreads"])
        peaks = [row["memory_gb_max"] for row in workers if row["memory_gb_max"] is not None]
        if self._task_memory:
            peaks.append(self._task_memory)
        return {
            "schema_version": SCHEMA_VERSION,
            "run": dict(run),
            "last_at": self.last_timestamp,
            "counts": {
                **{name: self._events[file] for file, name in _COUNTED.items()},
                "unusable_events": self._unusable,
                "tasks": sum(name.count for name in names),
                "tasks_submitted": sum(name.submitted for name in names),
                "tasks_succeeded": sum(name.succeeded for name in names),
                "tasks_failed": sum(name.failed for name in names),
                "tasks_cancelled": sum(name.cancelled for name in names),
                "tasks_retried": sum(name.retried for name in names),
                "tasks_rescheduled": sum(name.rescheduled for name in names),
                "tasks_lost": sum(name.lost for name in names),
                "tasks_recomputed": sum(name.recomputed for name in names),
                "tasks_recomputed_distinct": None if recomputed is None else len(recomputed),
                "tasks_running": len(self._running),
                "tasks_waiting": len(self._waiting),
                "tasks_unknown": self.unknown_count(run),
                "attempts": sum(name.attempts for name in names),
                "workers": len(workers),
                "workers_lost": sum(row["lost"] for row in workers),
            },
            "timing": {
                "wall_s": _span(begin, end),
                "task_duration_count": count,
                "task_duration_total_s": total,
                "task_duration_avg_s": total / count if count else None,
                "cut_short_count": sum(name.cut_short for name in names),
                "cut_short_total_s": math.fsum(name.cut_short_s for name in names),
                "relative_error": RELATIVE_ERROR,
                "tasks": {name.name: name.document() for name in names},
                "slowest": self._slowest_rows(),
            },
            "cache": {
                "hits": self._hits[True],
                "misses": self._hits[False],
                "hit_ratio": _ratio(self._hits[True], self._hits.total()),
            },
            "resources": {
                "requested_cpu_min": self._requested.minimum,
                "requested_cpu_max": self._requested.maximum,
                "requested_cpu_avg": self._requested.mean,
                "observed_memory_gb_max": max(peaks, default=None),
                "worker_seconds": math.fsum(row["lifetime_s"] for row in workers),
                "thread_seconds": capacity,
                "busy_seconds": busy,
                "busy_ratio": _ratio(busy, capacity),
                "workers": workers,
            },
            "cost": self._cost.document(),
            "failures": {
                "classes": dict(self._classes),
                "groups": self._failure_rows(),
            },
            "unfinished": {
                "running": len(self._running),
                "waiting": len(self._waiting),
                "tasks": [task._asdict() for task in self.running()],
            },
        }

    # -- tasks ---------------------------------------------------------------------------------

    def _add_tasks(self, records: Iterable[Mapping[str, Any]]) -> int:
        # A scan comes here a million times: one flat loop, no call for what every task does.
        names, waiting, running = self._names, self._waiting, self._running
        workers = self._workers
        last = self._last
        count = 0
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
                given: Any = get("task_name")
                name = names.get(given) or self._name(given)
                attempt = get("attempt")

                if state == "running":
                    seen = waiting.pop(task_id, None)
                    if seen is None:
                        entry = running.get(task_id)
                        if entry is None:
                            self._begin(name, record)
                            seen = 0
                        else:
                            seen = entry[0]
                    if attempt is None:
                        attempt = seen + 1
                    if attempt > seen:
                        name.attempts += 1
                    running[task_id] = (attempt, name, get("worker"), timestamp)
                    continue

                if state == "submitted":
                    name.submitted += 1
                    if task_id not in waiting and task_id not in running:
                        waiting[task_id] = attempt or 0
                        self._begin(name, record)
                    continue

                if state not in _ENDS:
                    raise ValueError(state)
                entry = running.pop(task_id, None)
                seen = waiting.pop(task_id, None) if entry is None else entry[0]
                if seen is None:
                    self._begin(name, record)
                    if attempt and _ended_an_attempt(state, record):
                        name.attempts += 1
                elif attempt is not None and attempt > seen:
                    # It began too shortly before its worker was lost to be told as `running`.
                    name.attempts += 1

                if state == "succeeded":
                    name.succeeded += 1
                else:
                    self._add_unsuccessful(name, state, record, attempt or seen or 0)

                duration = get("duration_s")
                if duration is None:
                    if entry is not None and state in _CUT_SHORT:
                        self._cut_short(entry, record)
                else:
                    if not 0 <= duration < math.inf:
                        raise ValueError(duration)
                    name.durations.append(duration)
                    address = get("worker")
                    if address is not None:
                        worker = workers.get(address) or self._worker(address)
                        if worker is not None:
                            worker.busy += duration
                            worker.attempts += 1
                    if duration > self._slow_floor:
                        self._slow(duration, record)
                queued = get("queue_s")
                if queued is not None:
                    # Two clocks, aligned to within a millisecond: a wait is never negative.
                    name.queueing.append(queued if queued > 0 else 0.0)
                cpu = get("cpu_s")
                if cpu is not None:
                    name.cpu += cpu
                transfer = get("transfer_s")
                if transfer is not None:
                    name.transfer += transfer
            except _UNUSABLE:
                self._unusable += 1
        self._last = last
        self._events[TASKS] += count
        return count

    def _add_unsuccessful(
        self, name: _Name, state: str, record: Mapping[str, Any], attempt: int
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
            self._waiting[record["task_id"]] = attempt
        # A lost attempt is its worker's failure and not one of the task.
        if state != "lost" and record.get("error_type") is not None:
            self._failed_task(name, record)

    def _cut_short(
        self, entry: tuple[int, _Name, str | None, str], record: Mapping[str, Any]
    ) -> None:
        """Count the time of an attempt that ran and did not end by itself."""
        _, name, address, since = entry
        begin, end = parse_seconds(since), parse_seconds(record["timestamp"])
        # Nobody knows when it began if its `running` line was written for a later fact.
        if begin is None or end is None or end < begin:
            return
        name.cut_short += 1
        name.cut_short_s += end - begin
        worker = None if address is None else self._worker(address)
        if worker is not None:
            worker.busy += end - begin
            worker.attempts += 1

    def _begin(self, name: _Name, record: Mapping[str, Any]) -> None:
        """Count a task that was not alive: a new one, or one whose end no longer holds."""
        reopens = record.get("reopens")
        if reopens is None:
            name.count += 1
            return
        if reopens == "succeeded":
            name.succeeded -= 1
        elif reopens == "failed":
            name.failed -= 1
        elif reopens == "cancelled":
            name.cancelled -= 1
        # One that nobody waited for any more was to be computed again, and was not.
        if record.get("recomputed") and record["state"] != "cancelled":
            name.recomputed += 1
            tasks = self._recomputed_tasks
            if tasks is not None:
                tasks.add(hash(record["task_id"]))
                if len(tasks) > MAX_RECOMPUTED:
                    self._recomputed_tasks = None

    def _name(self, given: object) -> _Name:
        text = given if isinstance(given, str) else str(given)
        # Older records number the tasks of one map: slow[0], slow[1], …
        text = _INDEX.sub("", text) or text
        if text not in self._names and len(self._names) >= MAX_NAMES:
            text = OTHER
        return self._names.setdefault(text, _Name(text))

    def _slow(self, duration: float, record: Mapping[str, Any]) -> None:
        kept = {key: record[key] for key in _SLOW_FIELDS if record.get(key) is not None}
        if not _is_address(kept.get("worker")):
            kept.pop("worker", None)
        # Of equal durations the first stays.
        self._slow_seen += 1
        entry = (duration, -self._slow_seen, kept)
        if len(self._slowest) < SLOWEST:
            heapq.heappush(self._slowest, entry)
        else:
            heapq.heappushpop(self._slowest, entry)
        if len(self._slowest) == SLOWEST:
            self._slow_floor = self._slowest[0][0]

    def _slowest_rows(self) -> list[dict[str, Any]]:
        return [dict(kept) for _, _, kept in sorted(self._slowest, key=_by_duration, reverse=True)]

    # -- failures ------------------------------------------------------------------------------

    def _failed_task(self, name: _Name, record: Mapping[str, Any]) -> None:
        """Note whose failure it was: a failure record knows the task's key, not its name."""
        key = failure_pattern(str(record["error_type"]), record.get("error_message"))
        tasks = self._failed_tasks.get(key)
        if tasks is None:
            if len(self._failed_tasks) >= MAX_FAILURE_GROUPS:
                return
            tasks = self._failed_tasks[key] = _FailedTasks(str(record.get("error_message") or ""))
        if record.get("blame") is not None:
            tasks.blamed += 1
            return
        tasks.add(name.name, record)

    def _add_failure(self, record: Mapping[str, Any]) -> None:
        failure_class = str(record["failure_class"])
        if failure_class not in self._classes and len(self._classes) >= MAX_FAILURE_GROUPS:
            failure_class = OTHER
        self._classes[failure_class] += 1
        details = record.get("details") or {}
        phase = str(details.get("phase") or "")
        if phase == "worker_lost":
            # The message names the worker: losses are alike if they have one reason.
            key = (failure_class, str(details.get("reason") or ""), phase)
            self._peak(details)
        else:
            # With the phase: what ended the run is not one more failed attempt.
            key = (*failure_pattern(failure_class, record.get("message")), phase)
        if key not in self._failures and len(self._failures) >= MAX_FAILURE_GROUPS:
            key = (failure_class, OTHER, "")
        group = self._failures.get(key)
        if group is None:
            group = self._failures[key] = _Failure(key, record)
        group.add(record)
        if phase != "worker_lost" and key[1] != OTHER:
            self._messages_left -= group.add_message(record, self._messages_left)

    def _peak(self, details: Mapping[str, Any]) -> None:
        """Take in the most memory that a lost worker was known to use."""
        peak = max(details.get("memory_peak_bytes") or 0, details.get("memory_bytes") or 0)
        address: Any = details.get("worker")
        if peak and _is_address(address):
            usage = self._usage(address)
            if usage is not None:
                usage.memory = max(usage.memory, peak / 1e9)

    def _failure_rows(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for (failure_class, pattern, _), group in self._failures.items():
            row = group.document()
            tasks = self._failed_tasks.get((failure_class, pattern))
            if tasks is not None and row["task_names"]:
                row["task_names"] = _most(tasks.names) or row["task_names"]
                row["dependents_failed"] = tasks.blamed
            rows.append(row)
        if not self._events[FAILURES]:
            # A record without failures.jsonl still tells what its tasks said.
            rows += [tasks.document(key) for key, tasks in self._failed_tasks.items()]
        rows.sort(key=itemgetter("count"), reverse=True)
        return rows

    # -- workers -------------------------------------------------------------------------------

    def _worker(self, address: str) -> _Worker | None:
        if not _is_address(address):
            return None
        worker = self._workers.get(address)
        if worker is None and len(self._workers) < MAX_WORKERS:
            worker = self._workers[address] = _Worker(address)
        return worker

    def _add_worker(self, record: Mapping[str, Any]) -> None:
        state = record["state"]
        if state not in _WORKER_STATES:
            return
        address = record.get("worker")
        worker_id = record.get("worker_id")
        if worker_id is not None:
            worker_id = str(worker_id)
        key = address or worker_id
        if not isinstance(key, str):
            raise TypeError(key)
        worker = self._workers.get(key)
        if worker_id is not None and worker_id != key:
            # Launched under its name alone, it has an address now.
            launched = self._workers.get(worker_id)
            if launched is not None and launched.address is None:
                del self._workers[worker_id]
                if worker is None:
                    worker = self._workers[key] = launched
                else:
                    worker.absorb(launched)
        if worker is None:
            if len(self._workers) >= MAX_WORKERS:
                return
            worker = self._workers[key] = _Worker(address)
        worker.address = address or worker.address
        worker.add(state, record)

    def _worker_rows(self, begin: float | None, end: float | None) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for worker in self._workers.values():
            row = worker.document(begin, end)
            usages = [
                usage
                for usage in (
                    self._memory.get(worker.address or ""),
                    self._memory.get(worker.worker_id or ""),
                )
                if usage is not None
            ]
            row["memory_gb_max"] = max(
                (value for value in [worker.memory, *(usage.memory for usage in usages)] if value),
                default=None,
            )
            row["cpu_max"] = max((usage.cpu for usage in usages), default=None)
            rows.append(row)
        # The order of arrival depends on which journal came first.
        return sorted(rows, key=lambda row: (row["worker"] or "", row["worker_id"] or ""))

    # -- resources, cache, cost ----------------------------------------------------------------

    def _add_resource(self, record: Mapping[str, Any]) -> None:
        get = record.get
        requested = get("requested_cpus")
        if requested is not None:
            self._requested.add(requested)
        memory = get("observed_memory_gb") or 0.0
        if get("entity_type") != "worker":
            if memory > self._task_memory:
                self._task_memory = memory
            return
        # The address if it is there: workers may have had one name one after the other.
        usage = self._usage(str(record.get("worker") or record["entity_id"]))
        if usage is not None:
            usage.memory = max(usage.memory, memory)
            usage.cpu = max(usage.cpu, get("observed_cpu") or 0.0)

    def _usage(self, entity: str) -> _Usage | None:
        usage = self._memory.get(entity)
        if usage is None and len(self._memory) < MAX_WORKERS:
            usage = self._memory[entity] = _Usage()
        return usage

    def _add_cache(self, record: Mapping[str, Any]) -> None:
        hit = record["hit"]
        if hit is None:
            raise ValueError("hit")
        self._hits[bool(hit)] += 1

    def _add_cost(self, record: Mapping[str, Any]) -> None:
        self._cost.add(record)

    def _bounds(self, run: Mapping[str, Any]) -> tuple[float | None, float | None]:
        finished = run.get("finished_at")
        if finished:
            return parse_seconds(run.get("started_at")), parse_seconds(finished)
        recorder = run.get("recorder")
        heartbeat = recorder.get("heartbeat_at") if isinstance(recorder, Mapping) else None
        known = [second for text in (self._last, heartbeat) if (second := parse_seconds(text))]
        return parse_seconds(run.get("started_at")), max(known, default=None)


#: Raised by values of types that no record has.
_UNUSABLE: Final = (TypeError, ValueError, KeyError, AttributeError, OverflowError)

_INDEX: Final = re.compile(r"\[\d+\]$")
_SLOW_FIELDS: Final = (
    "task_id",
    "task_name",
    "state",
    "attempt",
    "worker",
    "duration_s",
    "queue_s",
    "timestamp",
)
#: What ends an attempt, or a task that had none.
_ENDS: Final = FINAL_STATES | {"retried", "lost"}
#: Ends of an attempt that may have come before its code was done.
_CUT_SHORT: Final = frozenset({"lost", "failed", "cancelled"})
_WORKER_STATES: Final = frozenset({"launched", "ready", "lost", "removed"})
_by_duration = itemgetter(0, 1)


def _only_count(record: Mapping[str, Any]) -> None:
    """Make nothing of a record but its being there."""


def _is_address(worker: Any) -> bool:
    """Older records have the task's key where the worker's address belongs."""
    return isinstance(worker, str) and "://" in worker


def _ended_an_attempt(state: str, record: Mapping[str, Any]) -> bool:
    """Whether the first line of a life stands for an attempt that has no `running` line."""
    if state == "cancelled":
        # One that lives again has the number of an attempt counted before.
        return record.get("reopens") is None
    if state == "failed":
        never_began = record.get("reopens") is not None and "span_id" not in record
        return record.get("blame") is None and not never_began
    if state == "succeeded":
        # Without a duration: the result was lost, and nobody waited until it was made again.
        return record.get("duration_s") is not None or record.get("reopens") is None
    return True


class _Values:
    """Count, total, maximum and percentiles of numbers from zero up, in bounded memory.

    The first values are kept as they are. When there are more than :data:`EXACT_VALUES` they are
    counted in buckets whose bounds grow by the factor ``(1 + e) / (1 - e)``, so that the middle of
    a bucket is at most the share ``e`` away from every value in it (DDSketch; Masson, Rim, Lee:
    VLDB 2019).
    """

    __slots__ = ("_buckets", "_count", "_maximum", "_minimum", "_pending", "_total", "_zeros")

    def __init__(self) -> None:
        self._pending = array("d")
        self._buckets: Counter[int] = Counter()
        self._zeros = 0
        self._count = 0
        self._total = 0.0
        self._minimum = math.inf
        self._maximum = 0.0

    def append(self, value: float) -> None:
        pending = self._pending
        pending.append(value)
        if len(pending) > EXACT_VALUES:
            self._fold()

    @property
    def count(self) -> int:
        return self._count + len(self._pending)

    @property
    def total(self) -> float:
        return math.fsum((self._total, *self._pending))

    def document(self) -> dict[str, Any]:
        count = self.count
        if not count:
            return {"count": 0, "total": 0.0, "mean": None, "p50": None, "p95": None, "max": None}
        total = self.total
        p50, p95 = self._percentiles((0.50, 0.95))
        return {
            "count": count,
            "total": total,
            "mean": total / count,
            "p50": p50,
            "p95": p95,
            "max": max((self._maximum, *self._pending)),
        }

    def _fold(self) -> None:
        values = self._pending
        self._count += len(values)
        self._total = math.fsum((self._total, *values))
        self._minimum = min((self._minimum, *values))
        self._maximum = max((self._maximum, *values))
        self._zeros += _count_in_buckets(values, self._buckets)
        self._pending = array("d")

    def _percentiles(self, shares: Iterable[float]) -> list[float]:
        """Nearest rank: each is a value that occurred, or stands for one within the error."""
        if not self._count:
            ordered = sorted(self._pending)
            return [ordered[math.ceil(share * len(ordered)) - 1] for share in shares]
        # A copy: asking must not change what comes out later.
        buckets = self._buckets.copy()
        zeros = self._zeros + _count_in_buckets(self._pending, buckets)
        minimum = min((self._minimum, *self._pending))
        maximum = max((self._maximum, *self._pending))
        return [min(maximum, max(minimum, _bucketed(buckets, zeros, share))) for share in shares]


_GROWTH: Final = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
_PER_LOG: Final = 1 / math.log(_GROWTH)
#: Shorter than any clock can tell.
_ZERO: Final = 1e-9


def _count_in_buckets(values: Iterable[float], buckets: Counter[int]) -> int:
    """Count each value in its bucket; return how many were zero, which has no logarithm.

    Sorting first costs a third of a logarithm for each value: one serves a whole bucket.
    """
    ordered = sorted(values)
    zeros = first = bisect_left(ordered, _ZERO)
    while first < len(ordered):
        index = math.ceil(math.log(ordered[first]) * _PER_LOG)
        # At least the value itself, should rounding put it above its bucket's bound.
        beyond = bisect_right(ordered, max(_GROWTH**index, ordered[first]), first)
        buckets[index] += beyond - first
        first = beyond
    return zeros


def _bucketed(buckets: Mapping[int, int], zeros: int, share: float) -> float:
    rank = math.ceil(share * (zeros + sum(buckets.values())))
    if rank <= zeros:
        return 0.0
    rank -= zeros
    for index in sorted(buckets):
        rank -= buckets[index]
        if rank <= 0:
            return 2 * _GROWTH**index / (_GROWTH + 1)
    return math.inf


class _Name:
    """What the tasks of one name did."""

    __slots__ = (
        "attempts",
        "cancelled",
        "count",
        "cpu",
        "cut_short",
        "cut_short_s",
        "durations",
        "failed",
        "lost",
        "name",
        "queueing",
        "recomputed",
        "rescheduled",
        "retried",
        "submitted",
        "succeeded",
        "transfer",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.count = 0
        self.submitted = 0
        self.succeeded = 0
        self.failed = 0
        self.cancelled = 0
        self.retried = 0
        self.rescheduled = 0
        self.lost = 0
        self.recomputed = 0
        self.attempts = 0
        self.cut_short = 0
        self.cut_short_s = 0.0
        self.cpu = 0.0
        self.transfer = 0.0
        self.durations = _Values()
        self.queueing = _Values()

    def document(self) -> dict[str, Any]:
        return {
            "count": self.count,
            "submitted": self.submitted,
            "succeeded": self.succeeded,
            "failed": self.failed,
            "cancelled": self.cancelled,
            "retried": self.retried,
            "rescheduled": self.rescheduled,
            "lost": self.lost,
            "recomputed": self.recomputed,
            "attempts": self.attempts,
            "cut_short": self.cut_short,
            "cut_short_s": self.cut_short_s,
            "duration": self.durations.document(),
            "queue": self.queueing.document(),
            "cpu_s": self.cpu,
            "transfer_s": self.transfer,
        }


class _Range:
    """Minimum, maximum and mean."""

    __slots__ = ("_count", "_total", "maximum", "minimum")

    def __init__(self) -> None:
        self.minimum: float | None = None
        self.maximum: float | None = None
        self._count = 0
        self._total = 0.0

    def add(self, value: float) -> None:
        self._total += value
        self._count += 1
        if self.minimum is None or value < self.minimum:
            self.minimum = value
        if self.maximum is None or value > self.maximum:
            self.maximum = value

    @property
    def mean(self) -> float | None:
        return self._total / self._count if self._count else None


class _Costs:
    """Recorded costs: the sum of each currency, and the last estimate."""

    __slots__ = ("_estimate", "_estimates", "_records", "_sums")

    def __init__(self) -> None:
        self._records = 0
        self._estimates = 0
        self._estimate: Mapping[str, Any] | None = None
        self._sums: dict[str, dict[str, Any]] = {}

    def add(self, record: Mapping[str, Any]) -> None:
        metadata = record.get("metadata")
        self._records += 1
        if isinstance(metadata, Mapping) and metadata.get("estimate"):
            # A later estimate of the run replaces an earlier one.
            self._estimates += 1
            self._estimate = {
                name: record.get(name) for name in ("currency", "total_hourly", "total_monthly")
            }
            return
        currency = str(record.get("currency") or "")
        if currency not in self._sums and len(self._sums) >= MAX_CURRENCIES:
            currency = OTHER
        row = self._sums.setdefault(
            currency, {"records": 0, "total_hourly": None, "total_monthly": None}
        )
        row["records"] += 1
        for name in ("total_hourly", "total_monthly"):
            value = record.get(name)
            if value is not None:
                row[name] = (row[name] or 0.0) + float(value)

    def document(self) -> dict[str, Any]:
        # Sums of different currencies cannot be added up.
        one: Mapping[str, Any] = self._estimate or {}
        if self._sums:
            one = {}
            if len(self._sums) == 1:
                ((currency, row),) = self._sums.items()
                one = {**row, "currency": currency or None}
        return {
            "records_count": self._records,
            "estimates_count": self._estimates,
            "currency": one.get("currency"),
            "total_hourly": one.get("total_hourly"),
            "total_monthly": one.get("total_monthly"),
            "by_currency": {currency: dict(row) for currency, row in self._sums.items()},
            "estimate": self._estimate,
        }


class _Usage:
    """The most that was seen in use."""

    __slots__ = ("cpu", "memory")

    def __init__(self) -> None:
        self.memory = 0.0
        self.cpu = 0.0


class _Worker:
    """The lives of the workers at one address."""

    __slots__ = (
        "_details",
        "_lives",
        "_since",
        "address",
        "attempts",
        "busy",
        "lost",
        "memory",
        "state",
        "worker_id",
    )

    def __init__(self, address: str | None) -> None:
        self.address = address
        self.worker_id: str | None = None
        self.state: str | None = None
        self.busy = 0.0
        self.attempts = 0
        self.lost = 0
        self.memory = 0.0
        self._details: dict[str, Any] = {}
        self._lives: list[tuple[float, float]] = []
        self._since: float | None = None

    def absorb(self, launched: _Worker) -> None:
        """Take over what was recorded before the worker had an address."""
        self.worker_id = self.worker_id or launched.worker_id
        self.state = launched.state
        self._details = {**launched._details, **self._details}
        self._since = launched._since

    def add(self, state: str, record: Mapping[str, Any]) -> None:
        now = parse_seconds(record["timestamp"])
        if state in ("launched", "ready"):
            if self.state not in ("launched", "ready"):
                self._details.clear()
            self._since = now
        else:
            if self._since is not None and now is not None:
                self._lives.append((self._since, now))
            self._since = None
            self.lost += state == "lost"
        self.state = state
        worker_id = record.get("worker_id")
        if worker_id is not None:
            self.worker_id = str(worker_id)
        details = record.get("details") or {}
        self._details.update(
            (name, details[name])
            for name, is_right in _WORKER_DETAILS.items()
            if name in details and is_right(details[name])
        )
        memory = details.get("memory_bytes")
        if fields.amount(memory):
            self.memory = max(self.memory, (memory or 0) / 1e9)

    def document(self, begin: float | None, end: float | None) -> dict[str, Any]:
        lives = list(self._lives)
        if self._since is not None and end is not None:
            lives.append((self._since, end))
        first = -math.inf if begin is None else begin
        # A worker may be older than the run: only its time in the run can be used by the run.
        lifetime = math.fsum(max(0.0, until - max(since, first)) for since, until in lives)
        details = self._details
        nthreads = details.get("nthreads")
        memory_limit = details.get("memory_limit_bytes")
        return {
            "worker": self.address,
            "worker_id": self.worker_id,
            "host": details.get("host"),
            "state": self.state,
            "reason": details.get("reason"),
            "exit_code": details.get("exit_code"),
            "signal": details.get("signal"),
            "lives": len(lives),
            "lost": self.lost,
            "nthreads": nthreads,
            "lifetime_s": lifetime,
            "busy_s": self.busy,
            "busy_ratio": _ratio(self.busy, lifetime * (nthreads or 0)),
            "attempts": self.attempts,
            "memory_limit_gb": memory_limit / 1e9 if memory_limit else None,
        }


#: What is told of a worker. A recorder feeds what peers sent: the types are looked at here too.
_WORKER_DETAILS: Final[dict[str, fields.Check]] = {
    "host": fields.text,
    "reason": fields.text,
    "exit_code": fields.integer,
    "signal": fields.text,
    "nthreads": fields.count,
    "memory_limit_bytes": fields.amount,
}


class _FailedTasks:
    """Whose attempts failed of one cause, as the task records tell it."""

    __slots__ = ("blamed", "count", "first", "last", "message", "names", "workers")

    def __init__(self, message: str) -> None:
        self.message = message[:_MAX_MESSAGE]
        self.count = 0
        self.blamed = 0
        self.first = ""
        self.last = ""
        self.names: Counter[str] = Counter()
        self.workers: Counter[str] = Counter()

    def add(self, name: str, record: Mapping[str, Any]) -> None:
        self.count += 1
        self.first = self.first or record["timestamp"]
        self.last = record["timestamp"]
        _count_member(self.names, name)
        worker: Any = record.get("worker")
        if _is_address(worker):
            _count_member(self.workers, worker)

    def document(self, key: tuple[str, str]) -> dict[str, Any]:
        return {
            "failure_class": key[0],
            "message": self.message,
            "pattern": key[1],
            "messages": [],
            "count": self.count,
            "retried": 0,
            "dependents_failed": self.blamed,
            "phase": "task_execution",
            "cause": None,
            "task_names": _most(self.names),
            "workers": _most(self.workers),
            "first_at": self.first or None,
            "last_at": self.last or None,
            "sample_task_id": None,
            "traceback": None,
        }


class _Failure:
    """The failures of one cause."""

    __slots__ = (
        "_cause",
        "_count",
        "_first",
        "_key",
        "_last",
        "_message",
        "_messages",
        "_names",
        "_retried",
        "_task_id",
        "_traceback",
        "_workers",
    )

    def __init__(self, key: tuple[str, str, str], record: Mapping[str, Any]) -> None:
        self._key = key
        mixed = key[1] == OTHER
        self._message = OTHER if mixed else str(record.get("message") or "")[:_MAX_MESSAGE]
        self._messages: dict[str, None] = {}
        self._cause = (record.get("details") or {}).get("cause")
        self._task_id: str | None = None
        self._traceback: str | None = None
        self._count = 0
        self._retried = 0
        self._first = ""
        self._last = ""
        self._names: Counter[str] = Counter()
        self._workers: Counter[str] = Counter()

    def add(self, record: Mapping[str, Any]) -> None:
        details = record.get("details") or {}
        timestamp = record["timestamp"]
        self._count += 1
        self._retried += bool(details.get("will_retry"))
        self._first = min(self._first or timestamp, timestamp)
        self._last = max(self._last, timestamp)
        task_id = record.get("task_id")
        if task_id is not None:
            self._task_id = self._task_id or task_id
            _count_member(self._names, details.get("task_name") or name_of_key(task_id))
        worker = details.get("worker")
        if worker is not None:
            _count_member(self._workers, worker)
        traceback = details.get("traceback")
        if traceback and self._traceback is None:
            self._traceback = fields.cut(traceback, _MAX_TRACEBACK)

    def add_message(self, record: Mapping[str, Any], room: int) -> int:
        """Keep a message that differs from those before; return how much room it takes."""
        text = str(record.get("message") or "")[:_MAX_PATTERN]
        if text in self._messages or len(self._messages) >= MAX_MESSAGES or len(text) > room:
            return 0
        self._messages[text] = None
        return len(text)

    def document(self) -> dict[str, Any]:
        return {
            "failure_class": self._key[0],
            "message": self._message,
            "pattern": self._key[1],
            "messages": list(self._messages) if len(self._messages) > 1 else [],
            "count": self._count,
            "retried": self._retried,
            "dependents_failed": 0,
            "phase": self._key[2] or None,
            "cause": self._cause,
            "task_names": _most(self._names),
            "workers": _most(self._workers),
            "first_at": self._first or None,
            "last_at": self._last or None,
            "sample_task_id": self._task_id,
            "traceback": self._traceback,
        }


def name_of_key(key: str) -> str:
    """Return the part of a Dask key that names the task: ``inc`` of ``inc-3f0a…``.

    Examples
    --------
    >>> name_of_key("read-csv-5b2fe4f8e3d1a6c09f1b2c3d4e5f6a7b")
    'read-csv'
    >>> name_of_key("('sum-aggregate-0f1e2d3c4b5a69788796a5b4c3d2e1f0', 3, 0)")
    'sum-aggregate'
    """
    match = _TUPLE_KEY.match(key)
    text = match[1] if match else key
    return _TOKEN.sub("", text) or text


_TUPLE_KEY: Final = re.compile(r"""\(\s*["'](.+?)["']\s*,""")
_TOKEN: Final = re.compile(
    r"-(?:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[0-9a-f]{16,}|\d+)"
    r"(?:-\d+)*$"
)

#: What differs between two messages of one cause: addresses, tokens, numbers.
_VARIABLE: Final = re.compile(
    r"0x[0-9a-fA-F]+|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
    r"|[0-9a-fA-F]{16,}|\d+(?:[.,:]\d+)*"
)


def failure_pattern(failure_class: str, message: object) -> tuple[str, str]:
    """Return the class and what messages of one cause share: numbers and ids become ``#``."""
    text = message if isinstance(message, str) else ""
    return failure_class, _VARIABLE.sub("#", text[:_MAX_PATTERN])


def _count_member(members: Counter[str], member: str) -> None:
    if member not in members and len(members) >= _MAX_GROUP_MEMBERS:
        member = OTHER
    members[member] += 1


def _most(members: Counter[str]) -> dict[str, int]:
    return dict(members.most_common())


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _span(begin: float | None, end: float | None) -> float | None:
    return None if begin is None or end is None else max(0.0, end - begin)
