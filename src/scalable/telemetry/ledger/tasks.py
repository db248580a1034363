"""The tasks of a run: from submission over attempts to a final state."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from opentelemetry.trace import SpanContext

from scalable import facts
from scalable.causes import Case, classify
from scalable.code.tracebacks import resolve_text
from scalable.facts.texts import qualified, shortened
from scalable.telemetry import semconv
from scalable.telemetry.deaths.certificates import Presence, presences
from scalable.telemetry.deaths.deaths import Deaths
from scalable.telemetry.ledger.attempts import Attempts
from scalable.telemetry.ledger.blocks import Blocks
from scalable.telemetry.ledger.carriers import Carried, CarrierReader
from scalable.telemetry.ledger.graph_sizes import GraphSizes
from scalable.telemetry.ledger.layers import Layers
from scalable.telemetry.ledger.signals import SignalSink
from scalable.telemetry.ledger.task import Task
from scalable.telemetry.ledger.task_graphs import TaskGraphs
from scalable.telemetry.ledger.workers import WorkerBook
from scalable.telemetry.parameters import read_parameters
from scalable_runs.redact import Redactor
from scalable_runs.schema import MAX_ERROR_MESSAGE
from scalable_runs.summary import name_of_key

#: Seconds that the end of a cancelled task waits for its worker's report on its start.
CANCEL_WAIT: Final = 0.3
#: Seconds that an attempt stays open after its worker was asked to close: if the run ends in this
#: time, because its program does, the attempt was cancelled and not lost.
LEAVE_WAIT: Final = 5.0
#: Links of one span.
MAX_LINKS: Final = 32


class _PendingCancellation(NamedTuple):
    task: Task
    run_id: int
    time: float
    deadline: float


class TaskBook:
    """Follows the tasks of one run; called by the recorder's thread only."""

    def __init__(
        self,
        sink: SignalSink,
        workers: WorkerBook,
        deaths: Deaths,
        *,
        redact: Redactor,
        carriers: CarrierReader,
        sends_spans: bool,
        running_after: float,
        exceptions: bool,
    ) -> None:
        self._sink = sink
        self._workers = workers
        self._deaths = deaths
        self._redact = redact
        self._carriers = carriers
        self._sends_spans = sends_spans
        self.tasks: dict[str, Task] = {}
        self.layers = Layers(sink, redact.identity, sends_spans=sends_spans)
        self.blocks = Blocks(sink, redact)
        self.graph_sizes = GraphSizes()
        self.graphs = TaskGraphs(carriers, self._announce)
        self.attempts = Attempts(
            sink,
            self.tasks,
            self.layers,
            workers.alive,
            redact=redact,
            exceptions=exceptions,
            running_after=running_after if sends_spans else 0.0,
        )
        #: Cancelled tasks of which it is not known whether they had started.
        self.pending_cancellations: dict[str, _PendingCancellation] = {}
        #: Attempts whose worker was asked to close, and until when they stay open.
        self._leaving: deque[tuple[float, Task, facts.Unassigned]] = deque()
        #: Error of each failed task, for the tasks that fail because of it: its class without and
        #: with the module, and its message.
        self.errors: dict[str, tuple[str, str, str]] = {}

    def get(self, key: str) -> Task:
        """Return a task; it is made if the fact of its submission was dropped."""
        task = self.tasks.get(key)
        if task is None:
            task = Task(key, self._redact.identity(key), self.name_of(key), None)
            self.tasks[key] = task
        return task

    def shown(self, key: str) -> str:
        """Return the key as it is recorded."""
        task = self.tasks.get(key)
        return self._redact.identity(key) if task is None else task.shown

    def name_of(self, key: str) -> str:
        """Name of a task."""
        task = self.tasks.get(key)
        return self._redact.short(name_of_key(key)) if task is None else task.name

    def open_tasks(self) -> list[Task]:
        """Tasks without a final state."""
        return [task for task in self.tasks.values() if task.final is None]

    def tick(self, now: float) -> None:
        """Settle what has waited long enough for further reports."""
        for key, pending in list(self.pending_cancellations.items()):
            if pending.deadline <= now:
                self._settle_cancellation(key)
        self.attempts.show_running(now)
        while self._leaving and self._leaving[0][0] <= now:
            _, task, left = self._leaving.popleft()
            if task.left is left:
                self.attempts.settle_left(task)

    def settle_cancellations(self) -> None:
        """Write the cancellations that wait for a report."""
        for key in list(self.pending_cancellations):
            self._settle_cancellation(key)

    def close(self, now: float, *, complete: bool) -> list[Task]:
        """The run ends: cancel the open tasks; if the record is not complete, return them."""
        open_tasks = [
            task
            for task in self.open_tasks()
            # A task whose lost result was not computed again stays succeeded.
            if not (task.recomputed and task.reopens is not None)
        ]
        if complete:
            for task in open_tasks:
                self._cancel(task, now)
            open_tasks.clear()
        self.tasks.clear()
        return open_tasks

    # -- from submission to the start of an attempt ---------------------------------------------

    def submitted(self, fact: facts.Submitted, now: float) -> None:
        """The scheduler received a task."""
        _, time, key, given, function, dependencies, dependency_count, carrier, known_before = fact
        if key in self.pending_cancellations:
            self._settle_cancellation(key)
        old = self.tasks.get(key)
        if old is not None and old.final is None:
            return
        name = self._redact.short(given)
        is_new = self._sends_spans and self._carriers.is_new(carrier)
        found = self._carriers.read(carrier)
        task = self.tasks[key] = Task(key, self._redact.identity(key), name, found.parent)
        new_layer = self.layers.enter(task, found)
        self.blocks.enter(task, found)
        if found.sent is not None:
            self.graphs.note(found, time, name=name)
        submission = found.submission
        if submission is not None:
            self.graph_sizes.add(submission[1], new_layer=new_layer)
        if self._sends_spans:
            task.dependencies = dependencies[:MAX_LINKS]
            output = self._sink.output
            output.submitted[(found.parent or self._sink.root)[0]] += 1
            if is_new and found.sent is None:
                self._announce(found)
        if found.labels is not None:
            task.labels = found.labels
        if found.placement is not None:
            task.special = True
            task.placement = found.placement
        if function is not None and function != given:
            task.special = True
            task.function = self._redact.short(function)
        attributes = task.attributes("submitted")
        if dependency_count:
            attributes[semconv.TASK_DEPENDENCIES] = tuple(map(self.shown, dependencies))
            attributes[semconv.TASK_DEPENDENCY_COUNT] = dependency_count
        if known_before:
            attributes[semconv.TASK_KNOWN_BEFORE] = True
        self._sink.task_event(key, time, attributes, task.no_span)

    def _announce(self, found: Carried) -> None:
        """The parent of tasks is known, and what is above it."""
        if self._sends_spans and found.parent is not None:
            self._sink.output.parents.append((found.parent, found.lineage))

    def started(self, fact: facts.Started, now: float) -> None:
        """A worker started to execute a task."""
        key, run_id = fact.key, fact.run_id
        task = self.tasks.get(key)
        pending = self.pending_cancellations.get(key)
        if pending is not None and pending.run_id == run_id:
            self.attempts.begin(pending.task, run_id, fact.worker, min(fact.time, pending.time))
            self._settle_cancellation(key)
        elif task is not None and task.final is None and run_id > task.run_id:
            self.attempts.begin(task, run_id, fact.worker, fact.time)
            left = task.taken_back
            if left is not None and run_id <= (left.run_id or -1):
                self.attempts.lose(task, max(left.time, fact.time))
            else:
                self.attempts.reported(task)

    def begun_on(self, fact: facts.WorkerGone) -> tuple[str, ...]:
        """Find out which attempts had started on a worker that ended; return their tasks.

        The worker's slot file says it exactly. Without one: attempts that run for a while were
        reported; of those assigned and not reported, the first in order fill the free threads.
        """
        address = fact.address
        running = {
            key
            for key, task in self.tasks.items()
            if task.running and task.final is None and task.worker == address
        }
        if fact.executing is not None:
            self._settle_cancelled(dict(fact.executing), address)
            keys = {run_id: key for key, run_id in fact.assigned}
            begun = [
                (keys[run_id], run_id, start) for run_id, start in fact.executing if run_id in keys
            ]
        else:
            free = fact.nthreads - len(running)
            silent = [pair for pair in fact.assigned if pair[0] not in running]
            begun = [(key, run_id, fact.time) for key, run_id in silent[: max(0, free)]]
        for key, run_id, start in begun:
            task = self.tasks.get(key)
            if task is not None and task.final is None and run_id > task.run_id:
                self.attempts.begin(task, run_id, address, start)
                running.add(key)
        return tuple(sorted(running))

    def _settle_cancelled(self, starts: Mapping[int, float], address: str) -> None:
        """Settle cancelled tasks that had started on a worker that died before it reported this."""
        for pending in list(self.pending_cancellations.values()):
            start = starts.get(pending.run_id)
            if start is not None:
                self.attempts.begin(pending.task, pending.run_id, address, min(start, pending.time))
                self._settle_cancellation(pending.task.key)

    # -- the ends of attempts -------------------------------------------------------------------

    def succeeded(self, fact: facts.Succeeded, now: float) -> None:
        """An attempt returned."""
        # A plain tuple: see `facts.decode`.
        _, time, key, run_id, worker, start, stop, ready, phases, nbytes, typename, cpu = fact
        task = self.tasks.get(key) or self.get(key)
        if run_id != task.run_id:
            if start == stop == time and task.reopens == "succeeded":
                # Nothing was computed: a worker had a copy that the scheduler did not know.
                task.stay_succeeded()
                return
            self.attempts.begin(task, run_id, worker, start)
        elif not task.running:
            return
        attributes = task.attributes("succeeded")
        attributes[semconv.TASK_RESULT] = "success"
        self.attempts.measure(task, attributes, worker, start, stop, ready, phases, cpu)
        attributes[semconv.TASK_NBYTES] = nbytes
        if typename:
            attributes[semconv.TASK_RESULT_TYPE] = self._redact.short(typename)
        task.finish("succeeded")
        if task.recomputed:
            self._sink.wasted[task.name, "recomputed"] += max(0.0, stop - start)
        # Its start is that of its `running` line, whose time comes from two clocks.
        self.attempts.end(task, stop, attributes, phases)

    def failed(self, fact: facts.Failed, now: float) -> None:
        """An attempt raised, or the scheduler itself failed the task."""
        fact = _redacted(fact, self._redact)
        task = self.get(fact.key)
        raised = fact.start is not None or bool(fact.traceback)
        if raised and fact.run_id is not None and fact.run_id != task.run_id:
            start = fact.time if fact.start is None else fact.start
            self.attempts.begin(task, fact.run_id, fact.worker, start)
        self.attempts.settle_left(task)
        if task.final is not None:
            # An actor that was lost with its worker.
            task.reopen()
            task.recomputed = False
        ids = task.ids if task.running else task.root(self._sink.root)
        inputs = _inputs(fact, self._redact)
        self._write_failed(task, fact, raised, inputs)
        self._record_failure(fact, raised, _failure_attributes(task, fact) | inputs, ids, now)

    def _write_failed(self, task: Task, fact: facts.Failed, raised: bool, inputs: Any) -> None:
        error_type, message = fact.error_type, _cut(fact.message)
        attributes = task.attributes("retried" if fact.will_retry else "failed") | inputs
        error_class = qualified(fact.module, error_type)
        _add_error(attributes, error_type, error_class, message)
        attributes[semconv.TASK_RESULT] = "failure" if raised else "error"
        if not fact.will_retry:
            task.finish("failed")
            self.errors[fact.key] = (error_type, error_class, message)
        if not task.running:
            if fact.worker:
                attributes[semconv.WORKER_ADDRESS] = fact.worker
            self._sink.task_event(task.key, fact.time, attributes, task.no_span, error=True)
            return
        start = task.start if fact.start is None else fact.start
        stop = fact.time if fact.stop is None else fact.stop
        if fact.will_retry:
            self._sink.wasted[task.name, "retry"] += max(0.0, stop - start)
        attributes[semconv.WORKER_ADDRESS] = task.worker
        if fact.start is not None and fact.stop is not None:
            self.attempts.measure(
                task, attributes, fact.worker, start, stop, fact.ready, fact.phases, fact.cpu
            )
        self.attempts.end(
            task, stop, attributes, fact.phases, error=error_class, traceback=fact.traceback
        )

    def _record_failure(
        self,
        fact: facts.Failed,
        raised: bool,
        failure: dict[str, Any],
        ids: SpanContext | None,
        now: float,
    ) -> None:
        """Write the failure's record, at once or when the death behind it is known."""
        if fact.worker:
            failure[semconv.WORKER_ADDRESS] = fact.worker
            failure[semconv.WORKER_NAME] = self._workers.name_of(fact.worker)

        def write(deaths: Sequence[Presence]) -> None:
            if not deaths:
                failure.update(_verdict(fact))
            self._sink.failure(fact.stop or fact.time, {**failure, **presences(deaths)}, ids)

        if raised or not fact.worker:
            write(())
        else:
            # It failed with its worker; the cause is known when the nannies have reported.
            is_actor = fact.error_type != "KilledWorker"
            self._deaths.victim(fact.key, fact.worker if is_actor else "", write)
            self._workers.settle_deaths(now)

    def blamed(self, fact: facts.Blamed, now: float) -> None:
        """A task failed without running because another had failed."""
        task = self.get(fact.key)
        if task.final is not None:
            return
        self.attempts.settle_left(task)
        attributes = task.attributes("failed")
        attributes[semconv.TASK_BLAME] = self.shown(fact.cause)
        error = self.errors.get(fact.cause)
        if error is not None:
            _add_error(attributes, *error)
        task.finish("failed")
        self._sink.task_event(task.key, fact.time, attributes, task.no_span, error=True)

    def unassigned(self, fact: facts.Unassigned, now: float) -> None:
        """A task left its worker without a result."""
        task = self.tasks.get(fact.key)
        if task is None or task.final is not None:
            return
        if fact.reason != "worker-lost":
            task.cancelled_by = fact
        elif task.running and task.run_id == fact.run_id:
            if fact.worker in self._workers.asked_to_go:
                task.left = fact
                self._leaving.append((now + LEAVE_WAIT, task, fact))
            else:
                self.attempts.lose(task, fact.time)

    def waiting(self, fact: facts.Waiting, now: float) -> None:
        """A known task will run (again)."""
        task = self.tasks.get(fact.key)
        if task is None:
            return
        if task.final is not None:
            task.reopen()
            self.errors.pop(fact.key, None)
            return
        left, task.cancelled_by = task.cancelled_by, None
        if left is None:
            return
        if not (task.running and task.run_id == left.run_id):
            task.taken_back = left
        elif left.reason == "reschedule":
            attributes = task.attributes("retried")
            attributes[semconv.TASK_RESULT] = "rescheduled"
            attributes[semconv.TASK_RESCHEDULED] = True
            self.attempts.end(task, left.time, attributes, waste="retry")
        else:
            self.attempts.lose(task, left.time)

    # -- the ends of tasks ----------------------------------------------------------------------

    def forget(self, key: str, time: float, now: float) -> None:
        """The scheduler forgot a task."""
        task = self.tasks.pop(key, None)
        if task is None:
            return
        if task.final is not None:
            self.errors.pop(key, None)
            self._deaths.forget(key)
            return
        left = task.cancelled_by
        if left is None or left.run_id is None or task.run_id == left.run_id:
            self._cancel(task, time if left is None else left.time)
            return
        # It was on a worker; only the worker knows whether it had started.
        pending = _PendingCancellation(task, left.run_id, left.time, now + CANCEL_WAIT)
        self.pending_cancellations[key] = pending

    def restarted(self, fact: facts.Restarted, now: float) -> None:
        """The scheduler forgot every task."""
        for task in self.open_tasks():
            self._cancel(task, fact.time)
        self.tasks.clear()
        self.errors.clear()

    def _settle_cancellation(self, key: str) -> None:
        pending = self.pending_cancellations.pop(key)
        self._cancel(pending.task, pending.time)

    def _cancel(self, task: Task, time: float) -> None:
        """No client waits for the task any more."""
        if not task.recomputed:
            self._write_cancelled(task, time)
            return
        # Its result was lost after it was delivered, and was not made again: it has succeeded.
        if task.reopens is None:
            if task.running:
                self._write_cancelled(task, time)
                task.reopen()
            task.recomputed = False
            self._sink.task_event(task.key, time, task.attributes("succeeded"), task.no_span)
        task.stay_succeeded()

    def _write_cancelled(self, task: Task, time: float) -> None:
        attributes = task.attributes("cancelled")
        attributes[semconv.TASK_RESULT] = "cancellation"
        task.finish("cancelled")
        if task.left is not None:
            time = task.left.time
        if task.running:
            self.attempts.end(task, time, attributes, waste="cancelled")
        else:
            self._sink.task_event(task.key, time, attributes, task.no_span)


def _failure_attributes(task: Task, fact: facts.Failed) -> dict[str, Any]:
    failure: dict[str, Any] = {
        semconv.EXCEPTION_TYPE: fact.error_type,
        semconv.EXCEPTION_MESSAGE: fact.message,
        semconv.TASK_KEY: task.shown,
        semconv.FAILED_TASK: task.shown,
        semconv.PHASE: "task_execution",
        semconv.TASK_ATTEMPT: task.attempt,
        semconv.TASK_WILL_RETRY: fact.will_retry,
    }
    if fact.module:
        failure[semconv.ERROR_CLASS] = qualified(fact.module, fact.error_type)
    if fact.traceback:
        failure[semconv.EXCEPTION_STACKTRACE] = fact.traceback
    if fact.bases:
        failure[semconv.EXCEPTION_BASES] = fact.bases
    if fact.errno is not None:
        failure[semconv.EXCEPTION_ERRNO] = fact.errno
    return failure


def _redacted(fact: facts.Failed, redact: Redactor) -> facts.Failed:
    return fact._replace(
        error_type=redact.short(fact.error_type),
        message=redact(fact.message),
        traceback=redact(resolve_text(fact.traceback)),
        bases=tuple(map(redact.short, fact.bases)),
        module=redact.short(fact.module),
    )


def _verdict(fact: facts.Failed) -> dict[str, Any]:
    """Class of the cause of a failure, as attributes."""
    found = classify(Case(fact.error_type, fact.message, fact.traceback, fact.bases, fact.errno))
    return {semconv.CAUSE: found.cause, semconv.CAUSE_CONFIDENCE: found.confidence}


def _inputs(fact: facts.Failed, redact: Redactor) -> dict[str, Any]:
    """What the attempt was called with, as an attribute; nothing if that is not known."""
    found = read_parameters(fact.parameters, redact)
    return {semconv.INPUT_PARAMETERS: found} if found else {}


def _add_error(attributes: dict[str, Any], error_type: str, error_class: str, message: str) -> None:
    attributes[semconv.ERROR_TYPE] = error_type
    if error_class != error_type:
        attributes[semconv.ERROR_CLASS] = error_class
    attributes[semconv.EXCEPTION_MESSAGE] = message


def _cut(message: str) -> str:
    if len(message) <= MAX_ERROR_MESSAGE:
        return message
    return shortened(message, MAX_ERROR_MESSAGE - 50)
