"""Scheduler → facts: the life of each task of a run."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from time import time
from typing import TYPE_CHECKING, Any, Final

from scalable import facts
from scalable.common.guard import Guard
from scalable.facts import MAX_FACT, SUBMITTED, SUCCEEDED
from scalable.facts.identity import carried, task_id
from scalable.facts.protocol import ANNOTATION, CLOCK_SHIFT, EXPORTS_CHILDREN, SENT, THREAD_CPU
from scalable.facts.texts import MAX_TEXT, module_of, printable, shortened, split_repr
from scalable.instrumentation import dask_compat, fact_buffer
from scalable.instrumentation.fact_buffer import (
    KEY_BYTES,
    SUBMITTED_BYTES,
    SUCCEEDED_BYTES,
    FactBuffer,
    names_size,
)

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler, TaskState

    from scalable.instrumentation.hub import Hub
    from scalable.instrumentation.worker_facts import WorkerFacts

#: Dependencies named on a task; their number is always exact.
MAX_DEPENDENCIES: Final = 1_000
#: Characters of all the keys that one fact names.
MAX_NAMES: Final = MAX_FACT // 2
#: Bytes of errors that workers announced and whose attempts have not ended yet.
PENDING_ERRORS_LIMIT: Final = 4 * 2**20

#: Known tasks examined in one step when a run begins on a busy scheduler.
ADOPTION_STEP: Final = 2_000

#: States of a task that neither runs nor waits to run.
_AT_REST: Final = frozenset({"released", "memory", "erred", "forgotten"})
#: Replaces the time at which a task became runnable, once it has succeeded or failed.
_ENDED: Final = -1.0


class PendingErrors:
    """Errors that workers reported before the scheduler saw their attempts end; used on its loop.

    Bounded in bytes: the oldest are dropped.
    """

    def __init__(self) -> None:
        self._errors: dict[tuple[str, int], facts.AttemptError] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._errors)

    def keep(self, fact: facts.AttemptError) -> int:
        """Keep an error until its attempt ends; returns how many were dropped for it."""
        dropped = 0
        size = facts.size_of(fact)
        self.pop(fact.key, fact.run_id)
        while self._errors and self._bytes + size > PENDING_ERRORS_LIMIT:
            self.pop(*next(iter(self._errors)))
            dropped += 1
        self._errors[fact.key, fact.run_id] = fact
        self._bytes += size
        return dropped

    def pop(self, key: str, run_id: int | None) -> facts.AttemptError | None:
        """Remove and return an error; None if none was announced."""
        found = None if run_id is None else self._errors.pop((key, run_id), None)
        if found is not None:
            self._bytes -= facts.size_of(found)
        return found


class TaskFacts:
    """Notes what happens to the tasks of one run; every method is called by the scheduler's loop.

    `run`, `client` and `scope` are those of the plugin.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        run: str,
        client: str | None,
        scope: str,
        buffer: FactBuffer,
        workers: WorkerFacts,
        hub: Hub,
        guard: Guard,
    ) -> None:
        self._scheduler = scheduler
        #: Dask keeps this dictionary for the scheduler's life.
        self._tasks = scheduler.tasks
        self._run = run
        self._client = client
        self._whole_cluster = scope == "cluster"
        self._buffer = buffer
        self._add = buffer.add
        self._workers = workers
        self._hub = hub
        self._guard = guard
        self.errors = PendingErrors()
        #: Tasks of this run that the scheduler still knows → when they became runnable, or
        #: :data:`_ENDED` once a fact of their end was noted.
        self.known: dict[Any, float] = {}
        #: Graphs received from the client.
        self.graphs = 0
        self._graph_is_ours = False
        #: Whether the scheduler may know tasks of other clients: only then each task of a new graph
        #: is examined.
        self._others = bool(scheduler.tasks)
        #: Annotation of the last task of this run: all tasks of a submission have an equal one.
        self._carrier: Any = object()
        #: Function of the last task, and its name: tasks of one function are often consecutive.
        self._function: tuple[Any, str | None] = (None, None)

    def update_graph(
        self, scheduler: Scheduler, *, client: str, tasks: list[Any], **kwargs: Any
    ) -> None:
        """Hook: the scheduler received a graph; new tasks are noted at their first transition."""
        try:
            shown = dask_compat.shown_annotations(scheduler)
            if ANNOTATION in shown:
                self._note_graph(shown)
            if client == self._client:
                self.graphs += 1
            self._graph_is_ours = ours = self._whole_cluster or client == self._client
            if not ours:
                self._others = True
            elif self._others:
                # Tasks that another client has submitted belong to this client too from now on.
                for key in tasks:
                    self._adopt(self._tasks[key], time())
        except BaseException as error:
            self._guard.failed("update_graph", error)

    def transition(
        self,
        key: Any,
        start: str,
        finish: str,
        stimulus_id: str = "",
        worker: str = "",
        startstops: Sequence[Mapping[str, Any]] | None = None,
        nbytes: int = -1,
        typename: str = "",
        metadata: Mapping[str, Any] | None = None,
        type: bytes = b"",
        thread: int = 0,
        **kwargs: Any,
    ) -> None:
        """Hook: a task changed its state. Six calls per task."""
        # Code that runs for each task is inlined: a call costs 0.3 µs per task under load. All of
        # Dask's keywords are named, used or not: collecting them in `kwargs` costs as much.
        # Frequent facts are flat tuples of strings and numbers, which the garbage collector does
        # not track.
        try:
            if start == "queued" and finish == "processing":
                return  # it has been runnable since it was queued
            known = self.known
            ready = known.get(key)
            if ready is None:
                if start != "released" or finish == "forgotten" or not self._note_new(key):
                    return
                if finish == "waiting":
                    return
            if finish == "memory":
                if start != "processing":
                    return
                known[key] = _ENDED
                now = begin = end = time()
                phases: tuple[facts.Phase, ...] = ()
                cpu = None
                try:
                    if startstops:
                        item = startstops[-1]
                        if THREAD_CPU in item and len(startstops) == 1:
                            # The usual case: nothing but the task's own code, in a thread.
                            begin, end, cpu = item["start"], item["stop"], item[THREAD_CPU]
                            if CLOCK_SHIFT in item:
                                shift = item[CLOCK_SHIFT]
                                if shift.__class__ is float:
                                    begin += shift
                                    end += shift
                        else:
                            began, ended, phases, cpu = dask_compat.parse_startstops(startstops)
                            begin, end = began or now, ended or now
                        if EXPORTS_CHILDREN in item:
                            self._note_exports(key)
                        if cpu.__class__ is not float:
                            cpu = None
                except BaseException as error:
                    # The attempt has succeeded: its fact is noted without these details.
                    self._guard.failed("succeeded", error)
                name = task_id(key)
                fact = (
                    SUCCEEDED,
                    now,
                    name,
                    self._tasks[key].run_id,
                    worker,
                    begin,
                    end,
                    ready,
                    phases,
                    nbytes,
                    typename,
                    cpu,
                )
                if phases:
                    self._buffer.note(fact)
                    return
                size = SUCCEEDED_BYTES + len(name) + len(typename)
            elif finish == "released":
                if start == "processing":
                    self._left_worker(key, stimulus_id)
                return
            elif finish == "forgotten":
                del known[key]
                fact = task_id(key)
                if ready != _ENDED:
                    self._buffer.note((facts.FORGOTTEN, time(), fact))
                    return
                size = KEY_BYTES + len(fact)
            elif finish == "processing":
                if start == "waiting":
                    known[key] = time()
                return
            elif finish == "waiting":
                if start != "waiting":  # else the scheduler found that it must queue
                    known[key] = 0.0
                    self._buffer.note((facts.WAITING, time(), task_id(key)))
                return
            elif finish == "erred":
                self._erred(key, start, {**kwargs, "worker": worker, "startstops": startstops})
                known[key] = _ENDED
                return
            else:
                if start == "waiting":  # queued, no-worker: runnable, but no worker can take it yet
                    known[key] = time()
                return
            # As FactBuffer.add.
            buffer = self._buffer
            size += buffer.bytes
            if size > fact_buffer.BUFFER_LIMIT:
                buffer.dropped += 1
            else:
                buffer.bytes = size
                buffer.waiting.append(fact)
        except BaseException as error:
            self._guard.failed("transition", error)

    def adopt_existing(self, wanted: Iterable[TaskState]) -> Iterator[None]:
        """Note tasks that existed before the run; yields after every :data:`ADOPTION_STEP` tasks.

        These are the `wanted` tasks of the client with their dependencies, and those that were
        annotated before the plugin was registered.
        """
        keys, queue, seen = list(self._tasks), deque(wanted), set[Any]()
        left = ADOPTION_STEP
        while queue or keys:
            if queue:
                task = queue.popleft()
                ours = task not in seen
                if ours:
                    seen.add(task)
                    queue.extend(task.dependencies)
            else:
                task = self._tasks.get(keys.pop())
                ours = task is not None and (self._whole_cluster or self._is_annotated(task))
            if ours and task is not None:
                self._adopt(task, time())
            left -= 1
            if left == 0:
                left = ADOPTION_STEP
                yield

    # -- submission ---------------------------------------------------------------------------

    def _note_graph(self, shown: dict[str, Any]) -> None:
        """Keep the annotation of a graph of this run out of what Dask shows; note a task's graph.

        That of another run is left to the plugin of that run.
        """
        carrier = shown[ANNOTATION]
        fields = carried(carrier)
        if fields.get("run") == self._run:
            del shown[ANNOTATION]
            if SENT in fields:
                self._buffer.note((facts.TASK_GRAPH, time(), carrier))

    def _note_new(self, key: Any) -> bool:
        """Note a task at its first transition; False if it does not belong to this run."""
        task = self._tasks[key]
        if task.run_spec is None:  # scattered data: nothing that runs
            return False
        annotations = task.annotations
        carrier = annotations.get(ANNOTATION) if annotations else None
        if carrier is not None and carrier == self._carrier:
            carrier = self._carrier  # share one object: each message has a copy
        elif not self._is_ours(task, carrier):
            return False
        return self._submit(task, time(), carrier, known_before=False)

    def _is_ours(self, task: TaskState, carrier: Any) -> bool:
        if carrier is None:
            return self._graph_is_ours
        if self._is_annotated(task):
            self._carrier = carrier
            return True
        return self._whole_cluster

    def _is_annotated(self, task: TaskState) -> bool:
        carrier = (task.annotations or {}).get(ANNOTATION)
        return carried(carrier).get("run") == self._run

    def _adopt(self, task: TaskState, now: float) -> None:
        """Note a task that was submitted before the run or by another client, if it may run."""
        runs = task.run_spec is not None and task.state not in _AT_REST
        if runs and task.key not in self.known:
            carrier = (task.annotations or {}).get(ANNOTATION)
            self._submit(task, now, carrier, known_before=True)

    def _submit(self, task: TaskState, now: float, carrier: Any, *, known_before: bool) -> bool:
        """Note a submission; False if the key is longer than any that is recorded."""
        name = task_id(task.key)
        if len(name) > MAX_TEXT:
            self._buffer.dropped += 1
            return False
        self.known[task.key] = 0.0
        dependencies = task.dependencies
        names: tuple[str, ...] = ()
        size = SUBMITTED_BYTES + len(name)
        if dependencies:
            names = _bounded_names(dependencies)
            size += names_size(names)
        function = getattr(task.run_spec, "func", None)
        if function is not self._function[0]:
            self._function = (function, dask_compat.function_name(task.run_spec))
        self._add(
            (
                SUBMITTED,
                now,
                name,
                task.prefix.name,
                self._function[1],
                names,
                len(dependencies),
                carrier,
                known_before,
            ),
            size,
        )
        return True

    def _note_exports(self, key: Any) -> None:
        run_id = self._tasks[key].run_id
        self._buffer.note((facts.CHILDREN_EXPORTED, time(), task_id(key), run_id))

    # -- ends of attempts ---------------------------------------------------------------------

    def _left_worker(self, key: Any, stimulus_id: str) -> None:
        erring = self._hub.erring
        if erring is not None and erring[0] == key:
            self._failed(key, erring[1], will_retry=True)
            return
        worker, reason = "", dask_compat.stimulus_reason(stimulus_id)
        if self._workers.being_removed is not None:
            address, assigned = self._workers.being_removed
            if assigned is None or key in assigned:
                worker, reason = address, "worker-lost"
            else:
                # It was assigned to another worker, which may still run it.
                reason = "dependency-lost"
        if not worker:
            self._hub.expect_late()
        run_id = self._tasks[key].run_id
        self._buffer.note(
            facts.Unassigned(facts.UNASSIGNED, time(), task_id(key), run_id, worker, reason)
        )

    def _erred(self, key: Any, start: str, details: Mapping[str, Any]) -> None:
        cause = details.get("cause")
        if cause is None:
            blame = self._tasks[key].exception_blame
            cause = blame.key if blame is not None else key
        if cause != key:
            self._buffer.note(facts.Blamed(facts.BLAMED, time(), task_id(key), task_id(cause)))
        elif start == "processing" or details.get("exception") is not None:
            self._failed(key, details, will_retry=False)
        else:
            # From memory to erred without details; the client gets this message.
            removed = self._workers.being_removed
            worker = removed[0] if removed is not None else ""
            error = RuntimeError("Worker holding Actor was lost")
            self._failed(key, {"worker": worker, "exception": error}, will_retry=False)

    def _failed(self, key: Any, details: Mapping[str, Any], *, will_retry: bool) -> None:
        task = self._tasks[key]
        text = task_id(key)
        worker = details.get("worker") or ""
        run_id: int | None = details.get("run_id", task.run_id)
        start, stop, phases, _ = dask_compat.parse_startstops(details.get("startstops"))
        announced = self.errors.pop(text, run_id)
        cpu = errno = None
        bases: tuple[str, ...] = ()
        traceback = module = ""
        parameters = b""
        if announced is not None:
            error_type, message = announced.error_type, announced.message
            traceback, cpu = announced.traceback, announced.cpu
            bases, errno, module = announced.bases, announced.errno, announced.module
            parameters = announced.parameters
        elif (exception_text := details.get("exception_text")) is not None:
            error_type, message = split_repr(exception_text)
            traceback = details.get("traceback_text") or ""
        else:
            # The scheduler made this exception itself: KilledWorker, NoValidWorkerError, …
            error_type, message, module = _scheduler_exception(details.get("exception"))
            start = stop = None
            if worker and worker not in self._scheduler.workers:
                self._workers.note_gone(worker, expected=False, also=task)
        self._buffer.note(
            facts.Failed(
                facts.FAILED,
                time(),
                text,
                run_id,
                worker,
                start,
                stop,
                max(0.0, self.known.get(key, 0.0)),
                phases,
                error_type,
                shortened(message),
                shortened(traceback),
                cpu,
                will_retry,
                bases,
                errno,
                module,
                parameters,
            )
        )


def _bounded_names(tasks: Iterable[TaskState]) -> tuple[str, ...]:
    names = [task_id(task.key) for task in islice(tasks, MAX_DEPENDENCIES)]
    while sum(map(len, names)) > MAX_NAMES:
        del names[len(names) // 2 :]
    return tuple(names)


def _scheduler_exception(exception: Any) -> tuple[str, str, str]:
    value = dask_compat.load_exception(exception)
    if value is None:
        return "Exception", "the scheduler failed the task and gave no readable reason", ""
    return type(value).__qualname__, printable(value), module_of(type(value))
