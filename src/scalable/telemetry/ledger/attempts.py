"""Attempts: the event of their start, the span of their end with durations, usage, phases."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final

from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.trace import Link, SpanContext

from scalable import facts
from scalable.telemetry import semconv
from scalable.telemetry.ledger.described_calls import DescribedCalls
from scalable.telemetry.ledger.layers import Layers
from scalable.telemetry.ledger.phases import (
    DISK_WRITE,
    TRANSFER,
    Interval,
    phases_within,
    time_of,
)
from scalable.telemetry.ledger.signals import SignalSink
from scalable.telemetry.ledger.task import Task
from scalable.telemetry.ledger.workers import Worker
from scalable.telemetry.ledger.written import WrittenSpans
from scalable.telemetry.record_map import GIGABYTE
from scalable.telemetry.signals.spans import event, nanoseconds
from scalable_runs.otel.additions import AddedSpan
from scalable_runs.plain import iso_time
from scalable_runs.redact import Redactor

#: Usage is recorded for each attempt of at least this duration (seconds) …
USAGE_MIN_DURATION: Final = 0.05
#: … and for this number of shorter ones of each task name.
USAGE_SHORT_ATTEMPTS: Final = 100
#: A phase has a span of its own if it took this many seconds …
PHASE_MIN_DURATION: Final = 0.005
#: … and this share of the attempt with all its phases.
PHASE_MIN_SHARE: Final = 0.05


class Attempts:
    """Follows the attempts of one run's tasks; called by the recorder's thread only."""

    def __init__(
        self,
        sink: SignalSink,
        tasks: Mapping[str, Task],
        layers: Layers,
        workers: Mapping[str, Worker],
        *,
        redact: Redactor,
        exceptions: bool,
        running_after: float,
    ) -> None:
        self._sink = sink
        self.written = WrittenSpans(tasks, redact)
        self.described = DescribedCalls(tasks, redact)
        self._tasks = tasks
        self._layers = layers
        self._workers = workers
        #: Exceptions are events of the spans.
        self._exceptions = exceptions
        #: Seconds after which an attempt is sent while it still runs; 0 for never.
        self._running_after = running_after
        #: Attempts reported as running, in the order of their start.
        self._reported: deque[tuple[float, Task, int]] = deque()
        self._short: dict[str, int] = {}
        #: Usage records of short attempts that were not written.
        self.usage_left_out = 0
        #: Some attempts have children that their workers export.
        self._some_exported = False

    def exported(self, ids: SpanContext) -> None:
        """The worker of an attempt exports children of its span."""
        self._some_exported = True
        self._sink.output.exporting.add((ids.trace_id, ids.span_id))

    def begin(self, task: Task, run_id: int, worker: str, start: float) -> None:
        """An attempt started on a worker."""
        self.settle_left(task)
        if task.running:
            # Its worker had left before word of its start came, so that nothing else ends it.
            self.lose(task, start)
        task.attempt += 1
        task.run_id = run_id
        task.running = True
        task.start = start
        task.worker = worker
        task.ids = self._sink.ids(task.key, run_id, task.parent)
        attributes = task.attributes("running")
        attributes[semconv.WORKER_ADDRESS] = worker
        self._sink.task_event(task.key, start, attributes, task.ids)

    def reported(self, task: Task) -> None:
        """A worker reported that it runs the task's attempt."""
        if self._running_after:
            self._reported.append((task.start, task, task.run_id))

    def show_running(self, now: float) -> None:
        """Mark attempts that have run for a while: their own spans follow when they end."""
        reported, sink = self._reported, self._sink
        while reported and reported[0][0] <= now - self._running_after:
            start, task, run_id = reported.popleft()
            ids = task.ids
            if not task.running or task.run_id != run_id or ids is None:
                continue
            attributes = {
                semconv.TASK_NAME: task.name,
                semconv.RUNNING_KEY: task.shown,
                semconv.TASK_ATTEMPT: task.attempt,
                semconv.WORKER_ADDRESS: task.worker,
                semconv.RUNNING_SPAN: f"{ids[1]:016x}",
            }
            marker = sink.span(
                semconv.SPAN_RUNNING.format(name=task.name),
                sink.ids("running", ids[1], ids),
                self._layers.parent_of(task) or sink.root,
                start,
                start,
                attributes,
                links=(Link(ids),),
            )
            sink.output.running.append(marker)

    def settle_left(self, task: Task) -> None:
        """The run continued after the task's worker had left."""
        left, task.left = task.left, None
        if left is not None and task.final is None and task.running:
            self.lose(task, left.time)

    def lose(self, task: Task, time: float) -> None:
        """The attempt's worker was lost."""
        attributes = task.attributes("lost")
        attributes[semconv.TASK_RESULT] = "error"
        attributes[semconv.ERROR_TYPE] = "WorkerLost"
        self.end(task, time, attributes, error="WorkerLost", waste="worker-lost")

    def measure(
        self,
        task: Task,
        attributes: dict[str, Any],
        address: str,
        start: float,
        stop: float,
        ready: float,
        phases: Sequence[facts.Phase],
        cpu: float | None,
    ) -> None:
        """Add durations and usage of an attempt whose start and stop its worker measured."""
        duration = _microseconds(stop - start)
        attributes[semconv.WORKER_ADDRESS] = address
        attributes[semconv.TASK_DURATION] = duration
        if ready:
            attributes[semconv.TASK_QUEUED] = _microseconds(start - ready)
        if phases:
            transfer = time_of(TRANSFER, phases)
            if transfer:
                attributes[semconv.TASK_TRANSFER] = _microseconds(transfer)
            written = time_of(DISK_WRITE, phases)
            if written:
                attributes[semconv.TASK_DISK_WRITE] = _microseconds(written)
        if cpu is not None:
            attributes[semconv.TASK_CPU] = _microseconds(cpu)
        if duration < USAGE_MIN_DURATION:
            short = self._short.get(task.name, 0)
            if short >= USAGE_SHORT_ATTEMPTS:
                self.usage_left_out += 1
                return
            self._short[task.name] = short + 1
        attributes[semconv.RECORD] = ("task", "resource")
        if cpu is not None and duration > 0:
            attributes[semconv.OBSERVED_CPU] = round(cpu / duration, 4)
        worker = self._workers.get(address)
        if worker is not None and worker.sample is not None and worker.sample.memory:
            attributes[semconv.OBSERVED_MEMORY] = worker.sample.memory / GIGABYTE
        attributes[semconv.PROVIDER] = self._sink.provider

    def end(
        self,
        task: Task,
        stop: float,
        attributes: dict[str, Any],
        phases: Sequence[facts.Phase] = (),
        *,
        error: str | None = None,
        traceback: str = "",
        waste: str | None = None,
    ) -> None:
        """Make the span of an attempt; `waste` is the reason if the execution had no result."""
        start, ids, sink = task.start, task.ids or self._sink.root, self._sink
        if waste is not None:
            attributes.setdefault(semconv.WORKER_ADDRESS, task.worker)
            sink.wasted[task.name, waste] += max(0.0, stop - start)
            if self._some_exported and waste in ("worker-lost", "cancelled"):
                # Nobody says whether this one has.
                self.exported(ids)
        if self.described.kept:
            attributes |= self.described.pop(task)
        worker = self._workers.get(task.worker)
        if worker is not None:
            attributes[semconv.WORKER_NAME] = worker.name
        parts: Sequence[ReadableSpan] = ()
        by_action = phases_within(phases, stop) if phases else None
        if by_action:
            began = min(begin for intervals in by_action.values() for begin, _ in intervals)
            began = min(start, began)
            parts = self._phases(ids, by_action, phases, stop - began)
            if parts:
                # The span includes its phases; the duration is that of the task's code alone.
                start = began
                attributes[semconv.SPAN_STARTED] = iso_time(nanoseconds(start))
        span = sink.span(
            task.name,
            ids,
            self._layers.parent_of(task) or sink.root,
            start,
            stop,
            attributes,
            kind=semconv.KIND_ATTEMPT,
            error=error,
            events=() if error is None else self._events(task, stop, attributes, error, traceback),
            links=self._links(task.dependencies) if task.dependencies else (),
        )
        if self.written.kept or task.labels:
            added = self.written.pop(task)
            if added is not None:
                span = AddedSpan(span, added)
        state = attributes[semconv.TASK_STATE]
        self._layers.attempt(task, span, state, stop)
        if task.block is not None:
            task.block.attempt(state, stop)
        sink.attempt(task.key, span, parts)
        task.running = False

    def _events(
        self, task: Task, stop: float, attributes: Mapping[str, Any], error: str, traceback: str
    ) -> list[Event]:
        events: list[Event] = []
        if self._exceptions:
            exception = {
                semconv.EXCEPTION_TYPE: error,
                semconv.EXCEPTION_MESSAGE: attributes.get(semconv.EXCEPTION_MESSAGE, ""),
            }
            if traceback:
                exception[semconv.EXCEPTION_STACKTRACE] = traceback
            events.append(event(semconv.EVENT_FAILURE, stop, exception))
        state = attributes[semconv.TASK_STATE]
        if state == "retried":
            number = {semconv.TASK_ATTEMPT: task.attempt}
            events.append(event(semconv.EVENT_TASK_RETRY, stop, number))
        elif state == "lost":
            address = {semconv.WORKER_ADDRESS: task.worker}
            events.append(event(semconv.EVENT_WORKER_LOST, stop, address))
        return events

    def _links(self, dependencies: tuple[str, ...]) -> list[Link]:
        """Link to the attempts that made the results, of tasks that the scheduler still knows."""
        makers = map(self._tasks.get, dependencies)
        return [Link(it.ids) for it in makers if it and it.ids and it.final == "succeeded"]

    def _phases(
        self,
        ids: SpanContext,
        by_action: Mapping[str, Sequence[Interval]],
        measured: Sequence[facts.Phase],
        whole: float,
    ) -> list[ReadableSpan]:
        """Spans of phases that took a noticeable share of an attempt, which took `whole` seconds.

        Their durations are as they were `measured`; the spans lie within the attempt.
        """
        spans: list[ReadableSpan] = []
        for number, (action, intervals) in enumerate(by_action.items()):
            took = time_of(action, measured)
            if took < PHASE_MIN_DURATION or took < PHASE_MIN_SHARE * whole:
                continue
            attributes = {
                semconv.PHASE_NAME: action,
                semconv.PHASE_DURATION: _microseconds(took),
                semconv.PHASE_COUNT: sum(name == action for name, _, _ in measured),
            }
            spans.append(
                self._sink.span(
                    semconv.SPAN_PHASE.format(phase=action),
                    self._sink.ids(f"phase {action}", ids[1] + number, ids),
                    ids,
                    min(begin for begin, _ in intervals),
                    max(end for _, end in intervals),
                    attributes,
                )
            )
        return spans


def _microseconds(seconds: float) -> float:
    """A duration to the microsecond, never negative; `round` would cost three times as much."""
    return int(seconds * 1e6 + 0.5) / 1e6 if seconds > 0.0 else 0.0
