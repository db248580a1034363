"""Spans: the ids of attempts, the spans built from facts, the spans of submissions."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from time import time
from typing import Any, Final, TypeAlias

from opentelemetry import baggage, propagate, trace
from opentelemetry.context import Context, get_current
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
)

from scalable.telemetry import semconv

NANOSECONDS: Final = 1_000_000_000
_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_OK: Final = Status(StatusCode.UNSET)

#: Graphs that follow each other within this time, under one parent, share a submit span: a loop of
#: 10,000 `client.submit` calls is one submission to a person, and costs as much.
SUBMISSION_WINDOW: Final = 1.0


def span_context(trace_id: int, span_id: int, flags: TraceFlags = _SAMPLED) -> SpanContext:
    """Ids of a span, sampled unless its flags say otherwise."""
    return SpanContext(trace_id, span_id, is_remote=False, trace_flags=flags)


def new_trace_id() -> int:
    """A random trace id."""
    return secrets.randbits(128) or 1


def new_span_id() -> int:
    """A random span id."""
    return secrets.randbits(64) or 1


def nanoseconds(seconds: float) -> int:
    """Seconds since the epoch as whole microseconds, in OpenTelemetry's unit.

    A float of today's seconds resolves 0.2 µs: digits below the microsecond are noise.
    """
    return int(seconds * 1e6 + 0.5) * 1000


def parent_of(carrier: Mapping[str, Any]) -> SpanContext | None:
    """The span that a carrier names, read by whichever propagator is configured; None for none."""
    try:
        found = trace.get_current_span(propagate.extract(carrier, Context())).get_span_context()
    except Exception:  # it came over the wire, from a peer that may send anything
        return None
    return found if found.is_valid else None


class _Span(ReadableSpan):
    """A span that was never begun: what is the same for all of a run's belongs to the class."""

    _instrumentation_info = None

    # Not the base class's, whose arguments cost as much again.
    def __init__(
        self,
        name: str,
        ids: SpanContext,
        parent: SpanContext | None,
        start: float,
        end: float,
        attributes: Mapping[str, Any],
        kind: SpanKind,
        error: str | None,
        events: Sequence[Event],
        links: Sequence[Link],
    ) -> None:
        self._name = name
        self._context = ids
        self._parent = parent
        self._start_time = start_time = int(start * 1e6 + 0.5) * 1000
        self._end_time = int(end * 1e6 + 0.5) * 1000 if end > start else start_time
        self._attributes: Any = attributes
        self._kind = kind
        self._status = _OK if error is None else Status(StatusCode.ERROR, error)
        self._events: Any = events
        self._links: Any = links


class SpanFactory:
    """Builds ended spans directly: a tenth of what starting and ending one through the SDK costs.

    Called by the recorder's thread only.
    """

    def __init__(self, resource: Resource, scope: InstrumentationScope) -> None:
        shared = {"_resource": resource, "_instrumentation_scope": scope}
        self._make: type[_Span] = type("_RunSpan", (_Span,), shared)

    def span(
        self,
        name: str,
        ids: SpanContext,
        parent: SpanContext | None,
        start: float,
        end: float,
        attributes: Mapping[str, Any],
        *,
        kind: SpanKind = SpanKind.INTERNAL,
        error: str | None = None,
        events: Sequence[Event] = (),
        links: Sequence[Link] = (),
    ) -> ReadableSpan:
        """One ended span; `error` is the description of its status, None if it went well."""
        return self._make(name, ids, parent, start, end, attributes, kind, error, events, links)


def exception_event(time: float, attributes: Mapping[str, Any]) -> Event:
    """The span event of an exception, by the semantic convention."""
    return Event(semconv.EVENT_FAILURE, attributes, nanoseconds(time))


def event(name: str, time: float, attributes: Mapping[str, Any]) -> Event:
    """An event of a span."""
    return Event(name, attributes, nanoseconds(time))


def link(ids: SpanContext) -> Link:
    """A link to another span."""
    return Link(ids)


#: Decides on a trace that begins, or that is continued under a parent.
Sampled: TypeAlias = Callable[[int, SpanContext | None], TraceFlags]


def _all_sampled(trace_id: int, parent: SpanContext | None) -> TraceFlags:
    return _SAMPLED if parent is None else parent.trace_flags


class Submission:
    """One or more graphs that were sent in a row under the same parent."""

    __slots__ = ("baggage", "carrier", "context", "graphs", "ids", "last", "parent", "start")

    def __init__(self, run: str, context: Context, now: float, sampled: Sampled) -> None:
        parent = _current_span(context)
        trace_id = parent.trace_id if parent is not None else new_trace_id()
        self.ids = span_context(trace_id, new_span_id(), sampled(trace_id, parent))
        self.parent = parent
        self.start = self.last = now
        self.graphs = 0
        #: The last one in which a graph was sent.
        self.context = context
        self.baggage = baggage.get_all(context)
        #: Written by whichever propagator is configured; baggage travels with the context.
        self.carrier: dict[str, Any] = {"run": run}
        propagate.inject(
            self.carrier, trace.set_span_in_context(NonRecordingSpan(self.ids), context)
        )

    def takes(self, context: Context, now: float) -> bool:
        """Whether a graph that is sent now, in this context, is part of it."""
        if not 0 <= now - self.start < SUBMISSION_WINDOW:
            return False
        if context is not self.context:
            # Contexts never change: the same one says the same.
            if self.parent != _current_span(context) or self.baggage != baggage.get_all(context):
                return False
            self.context = context
        return True


def _current_span(context: Context) -> SpanContext | None:
    current = trace.get_current_span(context).get_span_context()
    return current if current.is_valid else None


class Submissions:
    """Makes the carrier of each graph.

    :meth:`carrier` is called by whichever thread of the application submits, :meth:`ended` by the
    recorder's thread; a lock joins them.
    """

    def __init__(self, run: str, sampled: Sampled | None = None) -> None:
        self._run = run
        self._sampled = sampled or _all_sampled
        self._lock = threading.Lock()
        self._open: Submission | None = None
        self._ended: list[Submission] = []
        self._opened: list[SpanContext] = []

    def carrier(self) -> dict[str, Any]:
        """The annotation for a graph that is sent now."""
        context = get_current()
        now = time()
        with self._lock:
            submission = self._open
            if submission is None or not submission.takes(context, now):
                if submission is not None:
                    self._ended.append(submission)
                submission = self._open = Submission(self._run, context, now, self._sampled)
                self._opened.append(submission.ids)
            submission.graphs += 1
            submission.last = now
            return submission.carrier

    def opened(self) -> list[SpanContext]:
        """Ids of the submissions begun since the last call."""
        with self._lock:
            opened, self._opened = self._opened, []
        return opened

    def ended(self, now: float, *, all_of_them: bool = False) -> list[Submission]:
        """Submissions that nothing will be added to any more, each given out once."""
        with self._lock:
            submission = self._open
            if submission is not None and (
                all_of_them or now - submission.start >= SUBMISSION_WINDOW
            ):
                self._ended.append(submission)
                self._open = None
            ended, self._ended = self._ended, []
        return ended
