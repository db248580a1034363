"""The application's own tracer and logger providers as destinations."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, Final

from opentelemetry.context import Context
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    INVALID_SPAN,
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    StatusCode,
    Tracer,
    set_span_in_context,
)

from scalable.telemetry import semconv
from scalable.telemetry.export.provider_tracers import (
    GivenDecision,
    GivenIds,
    add_dropped,
    tracer_of,
    with_given,
)
from scalable.telemetry.export.sinks import Begun, UndeliverableError
from scalable.telemetry.signals.spans import SCOPE

#: Spans whose context is remembered for their children.
MAX_CONTEXTS: Final = 10_000
#: The SDK's longest time for a flush, in seconds.
FLUSH_TIMEOUT: Final = 30.0
#: What a resource says of a signal, where a provider of the application has its own in its place.
_IDENTITY: Final = (
    semconv.RUN_ID,
    semconv.PROJECT,
    semconv.WORKER_NAME,
    semconv.WORKER_ADDRESS,
)


class TracerProviderSink:
    """A tracer provider of the application as a sink; called by a shipper's thread.

    Spans are made with its tracers, so that its processors see each begin and end, and its limits
    apply. They have their own ids and times wherever the SDK is behind the tracers; else those that
    the tracers give them, and children are moved below the spans that were made.

    Its processors may keep 2,048 spans and drop others, so each batch is flushed before the next.
    Only the shipper's thread waits for the application's collector.
    """

    def __init__(self, provider: Any, warn: Callable[[str], None]) -> None:
        self._provider = provider
        self.component = type(provider)
        self._warn = warn
        self._ids = GivenIds()
        self._decision = GivenDecision()
        self._tracers: dict[tuple[InstrumentationScope | None, int], tuple[Resource, Tracer]] = {}
        #: Spans that have begun: as they were, and as they were made.
        self._open: dict[int, tuple[ReadableSpan, Span]] = {}
        #: Contexts of spans for their children, and of the last submission of each trace.
        self._contexts: dict[int, Context] = {}
        #: What spans became whose ids the provider has chosen.
        self._became: dict[int, SpanContext] = {}

    def send(self, batch: Sequence[Begun | ReadableSpan]) -> None:
        """Begin and end spans, in order, and flush the provider."""
        # Not kept: a wrapper may have another provider behind it meanwhile.
        self._tracers = {}
        failed, why = 0, ""
        for item in batch:
            is_end = not isinstance(item, Begun)
            try:
                if isinstance(item, Begun):
                    self._begin(item.span, item.context)
                else:
                    self._end(item)
            except Exception as error:
                failed += is_end
                why = why or f"{type(error).__name__}: {error}"
        _finish(self._provider, "span", why, failed)

    def shutdown(self) -> None:
        """Do nothing: the provider belongs to the application."""

    def _begin(self, span: ReadableSpan, context: Context | None) -> Span:
        ids = span.context
        assert ids is not None
        base = self._context(span, context)
        parent = span.parent
        if parent is not None:
            parent = self._became.get(parent.span_id, parent)
        self._ids.ids = ids
        self._decision.trace_state = ids.trace_state
        made = self._tracer(span).start_span(
            span.name,
            set_span_in_context(INVALID_SPAN if parent is None else NonRecordingSpan(parent), base),
            span.kind,
            span.attributes,
            # Copies, as the SDK changes them.
            [Link(self._id_of(link.context), link.attributes) for link in span.links],
            span.start_time,
        )
        self._open[ids.span_id] = span, made
        became = made.get_span_context()
        if became.span_id != ids.span_id:
            self._changed(ids, became, made, span.resource)
        return made

    def _end(self, span: ReadableSpan) -> None:
        ids = span.context
        assert ids is not None
        if ids.span_id not in self._open:
            self._begin(span, None)
        began, made = self._open.pop(ids.span_id)
        if not made.is_recording():
            return  # the application does not want it
        if began is not span:
            made.update_name(span.name)
            made.set_attributes(span.attributes or {})
        for event in span.events:
            made.add_event(event.name, event.attributes, event.timestamp)
        if span.status.status_code is not StatusCode.UNSET:
            made.set_status(span.status)
        add_dropped(made, span)
        made.end(span.end_time)

    def _context(self, span: ReadableSpan, context: Context | None) -> Context:
        """What a span's context has besides its parent: the caller's baggage, for one."""
        assert span.context is not None
        trace_id, span_id = span.context.trace_id, span.context.span_id
        if context is not None:
            self._contexts[trace_id] = context
        else:
            parent = 0 if span.parent is None else span.parent.span_id
            context = self._contexts.get(parent) or self._contexts.get(trace_id)
        if context:
            self._contexts[span_id] = context
            _forget(self._contexts)
        return context or Context()

    def _tracer(self, span: ReadableSpan) -> Tracer:
        key = span.instrumentation_scope, id(span.resource)
        known = self._tracers.get(key)
        if known is None:
            tracer = tracer_of(self._provider, span.instrumentation_scope)
            tracer = with_given(tracer, self._ids, self._decision, span.resource)
            # The resource is kept so that its id stays its own.
            known = self._tracers[key] = span.resource, tracer
        return known[1]

    def _id_of(self, ids: SpanContext) -> SpanContext:
        return self._became.get(ids.span_id, ids)

    def _changed(
        self, ids: SpanContext, became: SpanContext, made: Span, resource: Resource
    ) -> None:
        """The provider has chosen other ids, or does not record the span."""
        self._became[ids.span_id] = became
        _forget(self._became)
        if made.is_recording():
            made.set_attributes(identity_of(resource))
            self._warn(
                f"the tracer provider {type(self._provider).__qualname__} is not that of "
                "OpenTelemetry's SDK: spans have ids of its choice there, which differ from those "
                "in the run's directory, in logs and in exemplars, and no resource of the run"
            )


class LoggerProviderSink:
    """A logger provider of the application as a sink; called by a shipper's thread.

    Its records have the provider's resource; run and worker are added to their attributes.
    """

    def __init__(self, provider: Any) -> None:
        self._provider = provider
        self.component = type(provider)

    def send(self, batch: Sequence[ReadableLogRecord]) -> None:
        """Emit the records with the provider's loggers, and flush it."""
        failed, why = 0, ""
        for readable in batch:
            scope = readable.instrumentation_scope or SCOPE
            record = copy.copy(readable.log_record)
            record.attributes = {**identity_of(readable.resource), **(record.attributes or {})}
            try:
                logger = self._provider.get_logger(
                    scope.name, scope.version, scope.schema_url, scope.attributes
                )
                logger.emit(record)
            except Exception as error:
                failed += 1
                why = why or f"{type(error).__name__}: {error}"
        _finish(self._provider, "log record", why, failed)

    def shutdown(self) -> None:
        """Do nothing: the provider belongs to the application."""


def identity_of(resource: Resource) -> dict[str, Any]:
    """Run, project and worker as attributes, for signals that cannot have their own resource."""
    attributes = resource.attributes
    return {name: attributes[name] for name in _IDENTITY if name in attributes}


def _finish(provider: Any, kind: str, why: str, failed: int) -> None:
    """Flush a provider after a batch; raise if it did not, or if a processor raised before."""
    if not _flush(provider):
        text = f"the application's {kind} processors could not be flushed"
        raise UndeliverableError(text, permanent=True)
    if why:
        text = f"a {kind} processor of the application: {why}"
        raise UndeliverableError(text, permanent=True, count=failed)


def _flush(provider: Any) -> bool:
    """Flush a provider; False if it says that it did not."""
    flush = getattr(provider, "force_flush", None)
    if not callable(flush):
        return True
    began = monotonic()
    answer = flush()
    # In older SDKs a processor without a flush of its own counts as one that failed.
    means_it = SpanProcessor().force_flush() is True
    return answer is not False or not (means_it or monotonic() - began >= FLUSH_TIMEOUT)


def _forget(known: dict[int, Any]) -> None:
    if len(known) > MAX_CONTEXTS:
        del known[next(iter(known))]
