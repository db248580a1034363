"""The signals that facts become, kept in order until the recorder takes them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext

from scalable.facts.identity import Above, attempt_span_id
from scalable.telemetry import semconv
from scalable.telemetry.ledger.user_metrics import UserMetrics
from scalable.telemetry.signals.logs import EventFactory
from scalable.telemetry.signals.spans import SpanFactory
from scalable.telemetry.signals.usage import UsagePoint, UserPoint


class Signals(NamedTuple):
    """Signals whose lines may be written logs first, then spans."""

    logs: list[ReadableLogRecord]
    spans: list[ReadableSpan]


class Output(NamedTuple):
    """The signals made of facts since the last call."""

    #: To be written one after the other.
    batches: list[Signals]
    #: Usage of workers.
    points: list[UsagePoint]
    #: Markers of long-running attempts.
    running: list[ReadableSpan]
    #: Spans under which tasks were submitted for the first time, and what is above those that are
    #: no submissions of the program.
    parents: list[tuple[SpanContext, tuple[Above, ...]]]
    #: Tasks submitted, by trace.
    submitted: defaultdict[int, int]
    #: Trace and span id of attempts with children that their workers export themselves.
    exporting: set[tuple[int, int]]


def _no_output() -> Output:
    return Output([], [], [], [], defaultdict(int), set())


class SignalSink:
    """Builds the signals of one run and keeps them; called by the recorder's thread only."""

    def __init__(
        self,
        run: str,
        root: SpanContext,
        resource: Resource,
        provider: str,
    ) -> None:
        #: What span ids are derived from: the run's id, and the name of one of several writers.
        self.run = run
        self.run_id = str(resource.attributes.get(semconv.RUN_ID, run))
        self.root = root
        self.provider = provider
        self.span = SpanFactory(resource).span
        #: Signals since the last :meth:`drain`; the ledger's parts add to it.
        self.output = _no_output()
        #: Numbers that user code recorded.
        self.user_points: list[UserPoint] = []
        self.user_metrics = UserMetrics()
        #: Seconds of execution without a result, by task name and reason.
        self.wasted: defaultdict[tuple[str, str], float] = defaultdict(float)
        #: Something must be on disk at once.
        self.urgent = False
        self._new_event = EventFactory(resource).event
        self._logs: list[ReadableLogRecord] = []
        self._spans: list[ReadableSpan] = []
        #: Tasks with a span in the present batch: their next event begins a new one.
        self._ended_keys: set[str] = set()

    def drain(self) -> Output:
        """Return the signals made since the last call."""
        self._break()
        output, self.output = self.output, _no_output()
        return output

    def ids(self, key: str, number: int, parent: SpanContext | None = None) -> SpanContext:
        """Span ids derived from a name and a number, in the trace of `parent`."""
        parent = parent or self.root
        # A span context is a tuple; its last fields here are flags and state of the trace.
        span_id = attempt_span_id(self.run, key, number)
        return SpanContext(parent[0], span_id, False, parent[3], parent[4])

    def event(
        self,
        name: str,
        time: float,
        attributes: Mapping[str, Any],
        ids: SpanContext | None = None,
        *,
        error: bool = False,
    ) -> None:
        """Add an event."""
        self._logs.append(self._new_event(name, time, attributes, ids or self.root, error=error))

    def task_event(
        self,
        key: str,
        time: float,
        attributes: Mapping[str, Any],
        ids: SpanContext | None = None,
        *,
        error: bool = False,
    ) -> None:
        """Add an event of a task; without `ids` it belongs to no span."""
        if key in self._ended_keys:
            self._break()
        self._logs.append(self._new_event(semconv.EVENT_TASK, time, attributes, ids, error=error))

    def failure(self, time: float, attributes: dict[str, Any], ids: SpanContext | None) -> None:
        """Add a record for failures.jsonl."""
        attributes[semconv.RECORD] = "failure"
        attributes[semconv.PROVIDER] = self.provider
        self.event(semconv.EVENT_FAILURE, time, attributes, ids, error=True)
        self.urgent = True

    def attempt(self, key: str, span: ReadableSpan, phases: Sequence[ReadableSpan]) -> None:
        """An attempt of a task has ended."""
        if key in self._ended_keys:
            self._break()
        self._ended_keys.add(key)
        self._spans.append(span)
        self._spans += phases

    def add_span(self, span: ReadableSpan) -> None:
        """Add a span that is not an attempt: the root, a submission, a worker."""
        self._spans.append(span)

    def _break(self) -> None:
        """Logs and spans are written in two calls: an event after its task's span needs a third."""
        if self._logs or self._spans:
            self.output.batches.append(Signals(self._logs, self._spans))
            self._logs, self._spans = [], []
        self._ended_keys.clear()
