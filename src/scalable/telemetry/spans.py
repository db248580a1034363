"""Spans: the ids of attempts, the spans built from facts, the spans of submissions."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    Link,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
)

from scalable.common.otel_environment import propagate_module
from scalable.telemetry import semconv

NANOSECONDS: Final = 1_000_000_000
_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_OK: Final = Status(StatusCode.UNSET)


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


def seconds_of(timestamp: str) -> float:
    """Seconds since the epoch of an ISO 8601 time."""
    return datetime.fromisoformat(timestamp).timestamp()


def parent_of(carrier: Mapping[str, Any]) -> SpanContext | None:
    """The span that a carrier names, read by whichever propagator is configured; None for none."""
    try:
        found = trace.get_current_span(
            propagate_module().extract(carrier, Context())
        ).get_span_context()
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
