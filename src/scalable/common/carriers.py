"""OpenTelemetry contexts in text fields that travel with tasks.

Trace, span, flags and trace state are always written, in the form of W3C Trace Context: the span of
a task must not depend on what is configured. The configured propagator writes its fields besides
them, for baggage and for vendors.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

from opentelemetry import baggage
from opentelemetry.context import (
    _SUPPRESS_INSTRUMENTATION_KEY,  # pyright: ignore[reportPrivateUsage]
    Context,
    get_value,
    set_value,
)
from opentelemetry.propagators.textmap import Getter, default_getter
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    TraceFlags,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from scalable.common.guard import Warnings
from scalable.common.otel_environment import propagate_module

#: Keys of a context in which instrumentation is suppressed, of the API and of instrumentations.
_SUPPRESSING: Final = (_SUPPRESS_INSTRUMENTATION_KEY, "suppress_instrumentation")
_SPANS: Final = TraceContextTextMapPropagator()
_warn: Final = Warnings("scalable: ")


def inject(fields: dict[str, Any], context: Context | None = None) -> None:
    """Add a context, by default the current one, to the fields of a carrier."""
    written: dict[Any, Any] = {}
    try:
        propagate_module().inject(written, context)
    except Exception as error:
        _failed(error)
    # What is written last stays: no propagator changes the span or the fields that are there.
    _SPANS.inject(written, context)
    fields.update({str(name): value for name, value in written.items() if name not in fields})


def extract(fields: Mapping[str, Any], getter: Getter[Any] = default_getter) -> Context:
    """The context in the fields of a carrier, which a peer may have filled with anything."""
    context = Context()
    try:
        context = propagate_module().extract(fields, context, getter)
    except Exception as error:
        _failed(error)
    ours = span_in(fields, getter)
    return context if ours is None else set_span_in_context(NonRecordingSpan(ours), context)


def is_suppressed(context: Context | None = None) -> bool:
    """Whether a context, by default the current one, is that of ``suppress_instrumentation()``."""
    return any(get_value(key, context) for key in _SUPPRESSING)


def suppressing(context: Context) -> Context:
    """The context with instrumentation suppressed, and its span not sampled."""
    ids = get_current_span(context).get_span_context()
    if ids.is_valid:
        flags = TraceFlags(ids.trace_flags & ~TraceFlags.SAMPLED)
        ids = SpanContext(ids.trace_id, ids.span_id, ids.is_remote, flags, ids.trace_state)
        context = set_span_in_context(NonRecordingSpan(ids), context)
    for key in _SUPPRESSING:
        context = set_value(key, True, context)
    return context


def span_in(fields: Mapping[str, Any], getter: Getter[Any] = default_getter) -> SpanContext | None:
    """The span in the fields of a carrier; None if there is none."""
    try:
        context = _SPANS.extract(fields, Context(), getter)
    except Exception:  # not texts
        return None
    found = get_current_span(context).get_span_context()
    return found if found.is_valid else None


def chosen_baggage(names: Collection[str], context: Context | None = None) -> dict[str, str]:
    """Entries of a context's baggage that are chosen by name; ``*`` chooses all."""
    if not names:
        return {}
    found = baggage.get_all(context)
    return {name: str(found[name]) for name in found if name in names or "*" in names}


def _failed(error: Exception) -> None:
    # Anybody's code: it does not count as an error of this package.
    _warn(f"the configured propagator failed, and is left out: {type(error).__name__}: {error}")
