"""The running summary of a run: fed record by record, it makes summary.json."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from scalable_runs.plain import parse_seconds
from scalable_runs.schema import (
    ARTIFACTS,
    CACHE,
    COST,
    FAILURES,
    RESOURCES,
    SCHEMA_VERSION,
    TASKS,
    WORKERS,
    Resources,
    SummaryCounts,
    SummaryDocument,
    Timing,
    UnfinishedTask,
    WorkerSummary,
)
from scalable_runs.summary.groups import Costs, Failures, Workers
from scalable_runs.summary.tasks import (
    MAX_UNFINISHED,
    UNUSABLE,
    NameCounts,
    Tasks,
)
from scalable_runs.summary.values import RELATIVE_ERROR, Range, ratio

_COUNTED: Final = {
    TASKS: "task_events",
    RESOURCES: "resource_events",
    WORKERS: "worker_events",
    FAILURES: "failure_events",
    CACHE: "cache_events",
    ARTIFACTS: "artifact_events",
    COST: "cost_events",
}
#: What is summed over all task names, as `tasks_…`.
_TASK_COUNTS: Final = (
    *("submitted", "succeeded", "failed", "cancelled", "retried", "rescheduled"),
    *("lost", "recomputed"),
)


class RunSummary:
    """What a run did so far, in bounded memory.

    The recorder feeds it while it records, so that closing a run of a million tasks needs no scan;
    the reader of a run whose recorder died feeds it from the journals. Both give the same numbers:
    they depend only on the order of records within each journal, which ``seq`` fixes, not on how
    far another journal was read.

    Not thread-safe: one thread feeds it, and asks it when it is done.

    Examples
    --------
    >>> summary = RunSummary()
    >>> summary.add("tasks.jsonl", {"task_id": "inc-1", "task_name": "inc", "state": "submitted",
    ...                             "attempt": 0, "timestamp": "2026-01-01T00:00:00.000000Z"})
    >>> summary.document({})["counts"]["tasks_submitted"]
    1
    """

    def __init__(self) -> None:
        self._events: Counter[str] = Counter()
        self._unusable = 0
        self._last = ""
        self._workers = Workers()
        self._failures = Failures(self._workers)
        self._tasks = Tasks(self._workers, self._failures)
        self._task_memory = 0.0
        self._requested = Range()
        self._hits: Counter[bool] = Counter()
        self._cost = Costs()
        self._handlers: dict[str, Callable[[Mapping[str, Any]], object]] = {
            RESOURCES: self._add_resource,
            WORKERS: self._workers.add,
            FAILURES: self._failures.add,
            CACHE: self._add_cache,
            ARTIFACTS: len,  # counted only
            COST: self._cost.add,
        }

    def add(self, file: str, record: Mapping[str, Any]) -> None:
        """Add one record of a journal, in the order of the journal.

        Parameters
        ----------
        file
            The journal's file name; records of other files are ignored.
        record
            The record; a field that is missing or null is one that does not apply. A record whose
            values are of impossible types is counted and otherwise ignored.
        """
        self.add_all(file, (record,))

    def add_all(self, file: str, records: Iterable[Mapping[str, Any]]) -> int:
        """Add records of one journal, in the order of the journal; return how many.

        Faster than one by one.
        """
        if file == TASKS:
            count, unusable, self._last = self._tasks.add_all(records, self._last)
        elif file in self._handlers:
            count, unusable = self._handle(self._handlers[file], records)
        else:
            return 0
        self._unusable += unusable
        self._events[file] += count
        return count

    def _handle(
        self,
        handle: Callable[[Mapping[str, Any]], object],
        records: Iterable[Mapping[str, Any]],
    ) -> tuple[int, int]:
        count = unusable = 0
        for record in records:
            count += 1
            try:
                timestamp = record["timestamp"]
                if timestamp > self._last:
                    self._last = timestamp
                handle(record)
            except UNUSABLE:
                unusable += 1
        return count, unusable

    def states(self, *, ended: bool = False) -> dict[str, int]:
        """Return how many tasks are in each state now.

        Parameters
        ----------
        ended
            The run is over: the state of a task without an end is `unknown`. No other run has
            that state.
        """
        waiting, running = len(self._tasks.waiting), len(self._tasks.running)
        unknown = {"unknown": waiting + running} if ended and waiting + running else {}
        return unknown | {
            "waiting": 0 if ended else waiting,
            "running": 0 if ended else running,
            **{state: self._sum(state) for state in ("succeeded", "failed", "cancelled")},
        }

    def by_name(self) -> dict[str, NameCounts]:
        """Return what is counted of each task name."""
        return {
            name: NameCounts(totals.retried + totals.lost, totals.recomputed, totals.cpu_s)
            for name, totals in self._tasks.names.items()
        }

    def running(self, limit: int = MAX_UNFINISHED) -> list[UnfinishedTask]:
        """Return the tasks that run and have no end yet, the longest running first."""
        return self._tasks.oldest(limit)

    def progress(self) -> tuple[int, int, int]:
        """Tasks ended, known and failed so far; may be called by another thread."""
        failed = self._sum("failed")
        ended = self._sum("succeeded") + self._sum("cancelled") + failed
        return ended, self._sum("submitted"), failed

    def document(self, run: Mapping[str, Any]) -> SummaryDocument:
        """Return summary.json's document.

        Parameters
        ----------
        run
            The run's run.json. Its ``started_at`` and ``finished_at`` bound the run; without the
            latter the run lasts to the last record or heartbeat.

        Returns
        -------
        SummaryDocument
            All times are seconds. Ratios and means of nothing are null.
        """
        begin, end = self._bounds(run)
        workers = self._workers.rows(begin, end)
        running, waiting = len(self._tasks.running), len(self._tasks.waiting)
        return {
            "schema_version": SCHEMA_VERSION,
            "run": dict(run),
            "last_at": self._last or None,
            "counts": self._counts(run, workers),
            "timing": self._timing(begin, end),
            "cache": {
                "hits": self._hits[True],
                "misses": self._hits[False],
                "hit_ratio": ratio(self._hits[True], self._hits.total()),
            },
            "resources": self._resources(workers),
            "cost": self._cost.document(),
            "failures": {
                "classes": dict(self._failures.classes),
                "groups": self._failures.rows(from_tasks=not self._events[FAILURES]),
            },
            "unfinished": {
                "running": running,
                "waiting": waiting,
                "tasks": self.running(),
            },
        }

    def _counts(self, run: Mapping[str, Any], workers: list[WorkerSummary]) -> SummaryCounts:
        recomputed = self._tasks.recomputed
        running, waiting = len(self._tasks.running), len(self._tasks.waiting)
        is_over = run.get("status") not in (None, "running")
        counts: Any = {
            **{name: self._events[file] for file, name in _COUNTED.items()},
            "unusable_events": self._unusable,
            "tasks": self._sum("count"),
            **{f"tasks_{name}": self._sum(name) for name in _TASK_COUNTS},
            "tasks_recomputed_distinct": None if recomputed is None else len(recomputed),
            "tasks_running": running,
            "tasks_waiting": waiting,
            "tasks_unknown": running + waiting if is_over else 0,
            "attempts": self._sum("attempts"),
            "workers": len(workers),
            "workers_lost": sum(row["lost"] for row in workers),
        }
        return counts

    def _timing(self, begin: float | None, end: float | None) -> Timing:
        names = self._tasks.names
        count = sum(totals.duration.count for totals in names.values())
        total = math.fsum(totals.duration.total for totals in names.values())
        return {
            "wall_s": None if begin is None or end is None else max(0.0, end - begin),
            "task_duration_count": count,
            "task_duration_total_s": total,
            "task_duration_avg_s": ratio(total, count),
            "cut_short_count": self._sum("cut_short"),
            "cut_short_total_s": math.fsum(totals.cut_short_s for totals in names.values()),
            "relative_error": RELATIVE_ERROR,
            "tasks": {name: totals.document() for name, totals in names.items()},
            "slowest": self._tasks.slowest.rows(),
        }

    def _resources(self, workers: list[WorkerSummary]) -> Resources:
        capacity = math.fsum(row["lifetime_s"] * (row["nthreads"] or 0) for row in workers)
        busy = math.fsum(row["busy_s"] for row in workers if row["lifetime_s"] and row["nthreads"])
        peaks = [self._task_memory, *(row["memory_gb_max"] for row in workers)]
        return {
            "requested_cpu_min": self._requested.minimum,
            "requested_cpu_max": self._requested.maximum,
            "requested_cpu_avg": self._requested.mean,
            "observed_memory_gb_max": max(filter(None, peaks), default=None),
            "worker_seconds": math.fsum(row["lifetime_s"] for row in workers),
            "thread_seconds": capacity,
            "busy_seconds": busy,
            "busy_ratio": ratio(busy, capacity),
            "workers": workers,
        }

    def _sum(self, name: str) -> int:
        # A copy: `progress` is called by another thread, while names are added.
        return sum(getattr(totals, name) for totals in list(self._tasks.names.values()))

    def _add_resource(self, record: Mapping[str, Any]) -> None:
        requested = record.get("requested_cpus")
        if requested is not None:
            self._requested.add(requested)
        memory = record.get("observed_memory_gb") or 0.0
        if record.get("entity_type") == "worker":
            # The address if there is one: workers may have had the same name one after the other.
            entity = str(record.get("worker") or record["entity_id"])
            cpu = record.get("observed_cpu") or 0.0
            self._workers.add_usage(entity, memory, cpu, writer=record.get("writer"))
        else:
            self._task_memory = max(self._task_memory, memory)

    def _add_cache(self, record: Mapping[str, Any]) -> None:
        hit = record["hit"]
        if hit is None:
            raise ValueError("hit")
        self._hits[bool(hit)] += 1

    def _bounds(self, run: Mapping[str, Any]) -> tuple[float | None, float | None]:
        begin = parse_seconds(run.get("started_at"))
        finished = run.get("finished_at")
        if finished:
            return begin, parse_seconds(finished)
        recorder = run.get("recorder")
        heartbeat = recorder.get("heartbeat_at") if isinstance(recorder, Mapping) else None
        known = [second for text in (self._last, heartbeat) if (second := parse_seconds(text))]
        return begin, max(known, default=None)
