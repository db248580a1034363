"""The SDK behind a worker's stand-in providers; imported when user code first records something."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any
from weakref import WeakValueDictionary

from opentelemetry.context import Context
from opentelemetry.sdk.metrics import (
    Counter,
    Histogram,
    MeterProvider,
    ObservableCounter,
    ObservableGauge,
    ObservableUpDownCounter,
    UpDownCounter,
)
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    HistogramDataPoint,
    InMemoryMetricReader,
    Metric,
    Sum,
)
from opentelemetry.sdk.metrics.export import Histogram as HistogramData
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import SpanContext, Tracer, get_current_span

from scalable.facts.relay_items import MetricItem, PointItem
from scalable.instrumentation.relay_values import attributes_of, scope_of

# What was added since the last collection is sent, and the recorder sums it up: a lost batch costs
# its own part, and a run counts what happened while it was recorded.
_TEMPORALITY: dict[type, AggregationTemporality] = {
    Counter: AggregationTemporality.DELTA,
    Histogram: AggregationTemporality.DELTA,
    ObservableCounter: AggregationTemporality.DELTA,
    UpDownCounter: AggregationTemporality.CUMULATIVE,
    ObservableUpDownCounter: AggregationTemporality.CUMULATIVE,
    ObservableGauge: AggregationTemporality.CUMULATIVE,
}


class RelaySdk:
    """Tracer and meter provider of one worker process.

    Made in the thread of the first task that records something; :meth:`metric_items` is called by
    the worker's event loop.

    Parameters
    ----------
    on_start, on_end : callable
        Called as each span begins and ends, in the thread that does it.
    """

    def __init__(
        self, on_start: Callable[[Any, Any], None], on_end: Callable[[ReadableSpan, Any], None]
    ) -> None:
        # Each batch has the resource of the process: these need none.
        nothing = Resource.get_empty()
        self.tracer_provider = TracerProvider(
            sampler=_KeepAll(), resource=nothing, shutdown_on_exit=False
        )
        self.tracer_provider.add_span_processor(_Processor(on_start, on_end))
        self._reader = InMemoryMetricReader(_TEMPORALITY)
        self.meter_provider = MeterProvider(
            [self._reader], resource=nothing, shutdown_on_exit=False
        )

    def metric_items(self, shift: int) -> Iterator[MetricItem]:
        """What was measured since the last call; `shift` is added to times, in nanoseconds."""
        data = self._reader.get_metrics_data()
        for resource in data.resource_metrics if data is not None else ():
            for scope_metrics in resource.scope_metrics:
                for metric in scope_metrics.metrics:
                    yield _metric_item(metric, scope_metrics.scope, shift)


def unsent_span() -> Any:
    """A span that no processor gets: it keeps what is written to it, within the SDK's limits."""
    return _unsent_tracer().start_span("", Context())


@cache
def _unsent_tracer() -> Tracer:
    provider = TracerProvider(_KeepAll(), Resource.get_empty(), shutdown_on_exit=False)
    return provider.get_tracer("scalable")


class _KeepAll(Sampler):
    """Records everything; the flags stay the parent's, and decide what the recorder sends on."""

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: Any = None,
        attributes: Any = None,
        links: Sequence[Any] | None = None,
        trace_state: Any = None,
    ) -> SamplingResult:
        parent: SpanContext = get_current_span(parent_context).get_span_context()
        unsampled = parent.is_valid and not parent.trace_flags.sampled
        decision = Decision.RECORD_ONLY if unsampled else Decision.RECORD_AND_SAMPLE
        return SamplingResult(decision, attributes, parent.trace_state)

    def get_description(self) -> str:
        return "KeepAll"


class _Processor(SpanProcessor):
    def __init__(
        self, on_start: Callable[[Any, Any], None], on_end: Callable[[ReadableSpan, Any], None]
    ) -> None:
        self._on_start = on_start
        self._on_end = on_end
        # `on_end` gets a copy that has the SDK's own fields only. Spans that never end are let go.
        self._open: WeakValueDictionary[int, Span] = WeakValueDictionary()

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        self._on_start(span, parent_context)
        self._open[span.get_span_context().span_id] = span

    def on_end(self, span: ReadableSpan) -> None:
        context: Any = span.get_span_context()
        opened = self._open.pop(context.span_id, None)
        self._on_end(span, getattr(opened, "scalable_attempt", None))

    def shutdown(self) -> None:
        pass

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return True


def _metric_item(metric: Metric, scope: Any, shift: int) -> MetricItem:
    data = metric.data
    item: MetricItem = {
        "name": metric.name,
        "unit": metric.unit or "",
        "description": metric.description or "",
        "kind": "gauge",
        "points": [_point_item(point, shift) for point in data.data_points],
        "scope": scope_of(scope),
    }
    if isinstance(data, Sum):
        item["kind"] = "sum"
        item["monotonic"] = data.is_monotonic
        item["delta"] = data.aggregation_temporality is AggregationTemporality.DELTA
    elif isinstance(data, HistogramData):
        item["kind"] = "histogram"
    return item


def _point_item(point: Any, shift: int) -> PointItem:
    start = point.start_time_unix_nano
    item: PointItem = {
        "attributes": attributes_of(point.attributes),
        "start": start + shift if start else 0,
        "time": point.time_unix_nano + shift,
        "exemplars": [
            (
                exemplar.value,
                exemplar.time_unix_nano + shift,
                f"{exemplar.trace_id or 0:032x}",
                f"{exemplar.span_id or 0:016x}",
                attributes_of(exemplar.filtered_attributes),
            )
            for exemplar in point.exemplars
        ],
    }
    if isinstance(point, HistogramDataPoint):
        item["count"], item["sum"] = point.count, point.sum
        item["min"], item["max"] = point.min, point.max
        item["buckets"], item["bounds"] = list(point.bucket_counts), list(point.explicit_bounds)
    else:
        item["value"] = point.value
    return item
