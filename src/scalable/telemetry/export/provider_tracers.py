"""Tracers of the application's provider, with ids, a resource and a decision that are ours.

The SDK's tracer is found by the provider's public interface, also behind a wrapper such as
Logfire's. A copy of it makes spans with the application's processors, limits and scope, while the
application's own tracers stay as they are.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace import Tracer as SdkTracer
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceState
from opentelemetry.util.types import Attributes

#: Wrappers around wrappers that are looked through.
_MAX_DEPTH: Final = 4


class GivenIds(IdGenerator):
    """Returns the ids of the span that is made next; used by one thread."""

    def __init__(self) -> None:
        self.ids: SpanContext = trace.INVALID_SPAN_CONTEXT

    def generate_trace_id(self) -> int:
        """The trace id of the next span; asked for a root only."""
        return self.ids.trace_id

    def generate_span_id(self) -> int:
        """The id of the next span."""
        return self.ids.span_id

    def is_trace_id_random(self) -> bool:
        """Whether the next span has the flag of W3C's trace context level 2; of a root only."""
        return bool(self.ids.trace_flags & 2)


class GivenDecision(Sampler):
    """Samples each span: the application's sampler was asked when the trace began."""

    def __init__(self) -> None:
        self.trace_state: TraceState | None = None

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        """Record and sample it."""
        return SamplingResult(Decision.RECORD_AND_SAMPLE, attributes, self.trace_state)

    def get_description(self) -> str:
        """A name for it."""
        return "scalable"


def tracer_of(provider: Any, scope: InstrumentationScope | None) -> trace.Tracer:
    """The provider's tracer of a scope."""
    if scope is None:
        return provider.get_tracer("")
    if not (scope.schema_url or scope.attributes):
        return provider.get_tracer(scope.name, scope.version)
    return provider.get_tracer(scope.name, scope.version, scope.schema_url, scope.attributes)


def add_dropped(made: Any, span: ReadableSpan) -> None:
    """Count on a span of the SDK what `span` had lost before; call it before its end."""
    for name, count in (
        ("_attributes", span.dropped_attributes),
        ("_events", span.dropped_events),
        ("_links", span.dropped_links),
    ):
        counted: Any = getattr(made, name, None)
        if count and hasattr(counted, "dropped"):
            counted.dropped += count


def sdk_tracer(tracer: Any) -> SdkTracer | None:
    """The SDK's tracer that a tracer is or wraps, if there is one."""
    return next((found for found in _layers(tracer) if isinstance(found, SdkTracer)), None)


def with_given(
    tracer: trace.Tracer, ids: GivenIds, decision: GivenDecision, resource: Resource
) -> trace.Tracer:
    """A copy of a tracer that makes spans with these ids and this resource.

    Wrappers are copied too, so that they still do what they add to a span. A tracer with none of
    the SDK behind it is returned as it is.
    """
    return _with_given(tracer, ids, decision, resource) or tracer


def _with_given(
    tracer: Any, ids: GivenIds, decision: GivenDecision, resource: Resource, depth: int = 0
) -> Any:
    if isinstance(tracer, SdkTracer) and (made := _copy(tracer)) is not None:
        made.id_generator, made.sampler, made.resource = ids, decision, resource
        return made
    for name, value in _parts(tracer) if depth < _MAX_DEPTH else ():
        inner = _with_given(value, ids, decision, resource, depth + 1)
        if inner is not None:
            made = _copy(tracer)
            if made is None:
                return inner  # a wrapper that cannot be copied is left out
            object.__setattr__(made, name, inner)
            return made
    return None


def _copy(tracer: Any) -> Any:
    try:
        return copy.copy(tracer)
    except (AttributeError, NotImplementedError, TypeError):
        return None


def _layers(tracer: Any, depth: int = 0) -> Iterator[Any]:
    yield tracer
    if depth < _MAX_DEPTH:
        for _, value in _parts(tracer):
            yield from _layers(value, depth + 1)


def _parts(tracer: Any) -> Iterator[tuple[str, trace.Tracer]]:
    """The tracers that a wrapper has in its fields."""
    fields: dict[str, Any] = {"__wrapped__": getattr(tracer, "__wrapped__", None)}
    fields.update(getattr(tracer, "__dict__", {}))
    for owner in type(tracer).__mro__:
        slots: Any = owner.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            fields.setdefault(name, getattr(tracer, name, None))
    for name, value in fields.items():
        if isinstance(value, trace.Tracer) and value is not tracer:
            yield name, value
