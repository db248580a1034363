"""Ids, times and spans that are created after they have ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple, TypeAlias

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
    TraceState,
)

from scalable import __version__
from scalable.common.carriers import extract, span_in
from scalable.telemetry import semconv

NANOSECONDS: Final = 1_000_000_000
_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_UNSET: Final = Status(StatusCode.UNSET)

#: Scope of the run's own signals.
SCOPE: Final = InstrumentationScope(semconv.SCOPE_NAME, __version__, semconv.SCHEMA_URL)


#: Flag of what is recorded and sent nowhere; it is not of W3C's, and stays in the recorder.
NOT_SENT: Final = 0x80


def not_sent(ids: SpanContext) -> SpanContext:
    """Ids of what is sent nowhere, neither as a span nor as a log record."""
    flags = TraceFlags(ids.trace_flags & ~TraceFlags.SAMPLED | NOT_SENT)
    return SpanContext(ids.trace_id, ids.span_id, ids.is_remote, flags, ids.trace_state)


class Sampling(NamedTuple):
    """What a sampler has decided on a span that begins a trace or continues one."""

    flags: TraceFlags
    #: That of the parent, or as the sampler has changed it.
    state: TraceState | None = None
    #: The sampler's own, for the span.
    attributes: Mapping[str, Any] = MappingProxyType({})


#: Decides on a span from the id of its trace, its parent, its name and its attributes.
Sample: TypeAlias = Callable[[int, SpanContext | None, str, Mapping[str, Any]], Sampling]


def sampled_like(parent: SpanContext | None) -> Sampling:
    """As the parent; sampled without one."""
    if parent is None:
        return Sampling(_SAMPLED)
    return Sampling(parent.trace_flags, parent.trace_state)


def span_context(
    trace_id: int, span_id: int, flags: int = _SAMPLED, state: TraceState | None = None
) -> SpanContext:
    """Ids of a span, sampled by default."""
    return SpanContext(trace_id, span_id, False, TraceFlags(flags), state)


def plain_ids(ids: SpanContext) -> tuple[int, int, int, bool, str]:
    """Return what another process needs of a span."""
    state = ids.trace_state.to_header()
    return ids.trace_id, ids.span_id, int(ids.trace_flags), ids.is_remote, state


def ids_of(values: tuple[int, int, int, bool, str]) -> SpanContext:
    """The reverse of :func:`plain_ids`."""
    trace_id, span_id, flags, is_remote, state = values
    kept = TraceState.from_header([state]) if state else None
    return SpanContext(trace_id, span_id, is_remote, TraceFlags(flags), kept)


def current_span(context: Context) -> SpanContext | None:
    """Ids of the span that is current in a context; None without one."""
    current = trace.get_current_span(context).get_span_context()
    return current if current.is_valid else None


def parent_of(carrier: Mapping[str, Any]) -> SpanContext | None:
    """The span in a carrier; None without one."""
    found = span_in(carrier)
    if found is None:
        # A peer of an earlier version wrote what its propagator writes, or nothing.
        found = trace.get_current_span(extract(carrier)).get_span_context()
    return found if found.is_valid else None


def nanoseconds(seconds: float) -> int:
    """Seconds since the epoch as whole microseconds, in OpenTelemetry's unit.

    A float of present seconds has a resolution of 0.2 µs: further digits are noise.
    """
    return int(seconds * 1e6 + 0.5) * 1000


def event(name: str, time: float, attributes: Mapping[str, Any]) -> Event:
    """An event of a span."""
    return Event(name, attributes, nanoseconds(time))


class SpanFactory:
    """Creates ended spans of one resource; starting and ending one costs ten times as much."""

    def __init__(self, resource: Resource) -> None:
        self._resource = resource

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
        """Return an ended span; `error` is the description of its status, None for success."""
        return ReadableSpan(
            name,
            ids,
            parent,
            self._resource,
            attributes,
            events,
            links,
            kind,
            status=_UNSET if error is None else Status(StatusCode.ERROR, error),
            start_time=nanoseconds(start),
            end_time=nanoseconds(max(start, end)),
            instrumentation_scope=SCOPE,
        )
