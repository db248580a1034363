"""Scheduler → facts: workers that come and go, and their usage."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from time import time
from typing import TYPE_CHECKING, Any, Final, cast

from scalable import facts
from scalable.facts.identity import task_id
from scalable.facts.protocol import SENT_METRIC
from scalable.instrumentation import dask_compat
from scalable.instrumentation.slot_file import read_slots

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler, TaskState, WorkerState

#: Tasks assigned to a lost worker that are named, in the order in which they would have run.
MAX_ASSIGNED: Final = 1_000
#: Characters of all their keys.
_MAX_NAMES: Final = facts.MAX_FACT // 2


class WorkerFacts:
    """Notes what happens to a scheduler's workers; every method is called by its loop."""

    def __init__(self, scheduler: Scheduler, note: Callable[[facts.Fact], None]) -> None:
        self._scheduler = scheduler
        self._note = note
        self._workers: dict[str, WorkerState] = {}
        #: Why workers were asked to close, by address.
        self._asked: dict[str, str] = {}
        #: Why Dask is about to end workers that were not asked to close, by address.
        self._failing: dict[str, str] = {}
        #: Workers that Dask is about to end for lack of a heartbeat → the limit in seconds.
        self._silent: dict[str, float] = {}
        #: Most bytes that each worker had spilled to disk.
        self._spilled: dict[str, int] = {}
        #: The worker that is being removed, and the keys of what was assigned to it.
        self.being_removed: tuple[str, Container[Any] | None] | None = None

    def note_ready(self, address: str, since: float) -> None:
        """A worker registered."""
        worker = self._scheduler.workers[address]
        self._workers[address] = worker
        self._note(
            facts.WorkerReady(
                facts.WORKER_READY,
                since,
                address,
                str(worker.name),
                worker.host,
                worker.pid,
                worker.nthreads,
                worker.memory_limit or 0,
                worker.nanny,
                tuple(map(str, worker.resources)),
            )
        )
        self._sample(address, worker, since)

    def forget(self, address: str) -> None:
        """A worker left, and its tasks have made their transitions."""
        self.being_removed = None
        for table in (self._asked, self._failing, self._silent):
            table.pop(address, None)

    def restart(self) -> None:
        """``client.restart()``: every worker will be replaced."""
        self._asked.update(dict.fromkeys(self._scheduler.workers, "restart"))

    def close(self) -> None:
        """The scheduler closes, and its workers with it."""
        for address in list(self._workers):
            self._asked.setdefault(address, "scheduler-close")
            self.note_gone(address, expected=True, recomputed=0)

    def note_event(self, topic: str, message: Mapping[str, Any]) -> None:
        """Dask logs an event: the only sign of a worker's removal before its tasks are moved."""
        action = message.get("action")
        if action == "remove-worker" and topic == "all":
            address = message["worker"]
            lost = message.get("lost-computed-tasks", ())
            self.note_gone(address, expected=bool(message.get("expected")), recomputed=len(lost))
            self.being_removed = address, message.get("processing-tasks")
        elif action == "closing-worker":
            self._asked.setdefault(topic, str(message.get("reason") or "worker-close"))
        elif action in ("close-worker", "retire-workers"):
            for address in [topic, *_addresses(message)]:
                self._asked.setdefault(address, str(action))
        elif action == "restart-workers":
            self._asked.update(dict.fromkeys(_addresses(message), "restart"))
        elif action in ("worker-ttl-timed-out", "worker-ttl-timeout"):
            for address in _addresses(message):
                self._failing[address] = "worker-ttl"
                self._silent[address] = float(message.get("ttl") or 0.0)
        elif topic == "worker-restart-memory":
            # A nanny ended its worker, which may have left before this message came.
            address = str(message.get("worker"))
            if address in self._workers:
                self._failing[address] = "memory-limit"
            rss = message.get("rss")
            fields = {"rss": rss} if isinstance(rss, int) else {}
            self._note(facts.WorkerEvent(facts.WORKER_EVENT, time(), address, topic, fields))

    def note_gone(
        self,
        address: str,
        *,
        expected: bool,
        recomputed: int | None = None,
        also: TaskState | None = None,
    ) -> None:
        """A worker leaves; `also` was assigned to it until now."""
        worker = self._workers.pop(address, None)
        if worker is None:
            return
        now = time()
        self._sample(address, worker, now)
        failing = self._failing.get(address)
        unasked = "retired" if expected else "connection-lost"
        reason = failing or self._asked.get(address) or unasked
        cleanly = expected or address in self._asked
        expected = cleanly and failing is None
        if reason.startswith("signal-") and worker.processing:
            # It shut down cleanly but had tasks, and Dask had not asked it to: a batch system
            # ended its job.
            expected = False
        executing = read_slots(str(worker.server_id))
        if executing is None and cleanly:
            # A worker that shuts down cleanly reports the attempts it started and deletes its file.
            executing = ()
        if recomputed is None:
            recomputed = sum(
                1 for task in worker.has_what if task.run_spec and len(task.who_has or ()) == 1
            )
        tasks = {*worker.processing, *(() if also is None else (also,))}
        self._note(
            facts.WorkerGone(
                facts.WORKER_GONE,
                now,
                address,
                expected,
                reason,
                worker.nthreads,
                _assigned(tasks, {run_id for run_id, _ in executing or ()}),
                executing,
                recomputed,
                _memory(worker),
                self._spilled.pop(address, 0),
                max(0.0, now - worker.last_seen) if worker.last_seen else None,
                self._silent.get(address),
            )
        )

    def sample(self) -> None:
        """Note the usage of each worker, and of the scheduler."""
        now = time()
        for address, worker in self._workers.items():
            self._sample(address, worker, now)
        written, read = dask_compat.spilled_bytes(self._scheduler)
        lag = dask_compat.loop_lag(dask_compat.observed_tick(self._scheduler))
        self._note(facts.SchedulerSample(facts.SCHEDULER_SAMPLE, now, lag, written, read))

    def _sample(self, address: str, worker: WorkerState, now: float) -> None:
        metrics = worker.metrics
        on_disk = dask_compat.memory_on_disk(worker)
        if on_disk > self._spilled.get(address, 0):
            self._spilled[address] = on_disk
        self._note(
            facts.Sample(
                facts.SAMPLE,
                now,
                address,
                float(metrics.get("cpu") or 0.0) / 100.0,
                _memory(worker),
                worker.memory_limit or 0,
                worker.nbytes,
                on_disk,
                dask_compat.loop_lag(float(metrics.get("event_loop_interval") or 0.0)),
                worker.status.name,
                int(metrics.get(SENT_METRIC) or 0),
            )
        )


def _assigned(tasks: set[TaskState], began: set[int]) -> tuple[tuple[str, int], ...]:
    """Keys and run ids of tasks, those that had begun first, then by priority; bounded."""
    ordered = sorted(tasks, key=lambda task: (task.run_id not in began, task.priority or ()))
    assigned = [
        (task_id(task.key), task.run_id)
        for task in ordered[:MAX_ASSIGNED]
        if task.run_id is not None
    ]
    while sum(len(key) for key, _ in assigned) > _MAX_NAMES:
        del assigned[len(assigned) // 2 :]
    return tuple(assigned)


def _memory(worker: WorkerState) -> int:
    return int(worker.metrics.get("memory") or 0)


def _addresses(message: Mapping[str, Any]) -> list[str]:
    """The workers of an event: a list, or a mapping by address."""
    return [str(address) for address in cast("Any", message.get("workers") or ())]
