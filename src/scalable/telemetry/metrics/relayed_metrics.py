"""Metrics of user code in workers, for exporters and the application's meter provider."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from opentelemetry.sdk.metrics import Exemplar
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Metric,
    MetricsData,
    NumberDataPoint,
    Sum,
)
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from scalable.telemetry.export.application import identity_of

#: Time series that are passed on.
MAX_SERIES: Final = 10_000


class RelayedMetrics:
    """Adds what workers measured to instruments of the same names; used by the recorder's thread.

    Each point has the run and the worker as attributes. A histogram that was aggregated in a worker
    cannot be recorded again: the run's directory alone has it.
    """

    def __init__(self, provider: Any, warn: Callable[[str], None]) -> None:
        self._provider = provider
        self._warn = warn
        self._instruments: dict[tuple[Any, ...], Any] = {}
        #: Sums as they were passed on.
        self._sums: dict[tuple[Any, ...], float] = {}

    def record(self, data: MetricsData) -> None:
        """Record the points of a collection."""
        for of_resource in data.resource_metrics:
            identity = identity_of(of_resource.resource)
            for of_scope in of_resource.scope_metrics:
                for metric in of_scope.metrics:
                    instrument = self._instrument(of_scope.scope, metric)
                    for point in _numbers(metric) if instrument is not None else ():
                        attributes = {**identity, **(point.attributes or {})}
                        self._record(instrument, metric, point, attributes)

    def _instrument(self, scope: InstrumentationScope, metric: Metric) -> Any:
        kind = _kind(metric)
        if kind is None:
            self._warn(
                f"the histogram {metric.name!r} of workers cannot be passed to the application's "
                "meter provider: the run's directory alone has it"
            )
            return None
        key = scope, metric.name, metric.unit, kind
        found = self._instruments.get(key)
        if found is None and key not in self._instruments:
            try:
                meter = self._provider.get_meter(scope.name, scope.version, scope.schema_url)
                create = getattr(meter, f"create_{kind}")
                found = create(metric.name, metric.unit or "", metric.description or "")
            except Exception as error:
                self._warn(f"the application's meter provider refuses {metric.name!r}: {error}")
            self._instruments[key] = found
        return found

    def _record(
        self, instrument: Any, metric: Metric, point: NumberDataPoint, attributes: dict[str, Any]
    ) -> None:
        data = metric.data
        if not isinstance(data, Sum):
            instrument.set(point.value, attributes)
            return
        added = point.value
        if data.aggregation_temporality is AggregationTemporality.CUMULATIVE:
            key = id(instrument), point.start_time_unix_nano, *sorted(map(str, attributes.items()))
            if key not in self._sums and len(self._sums) >= MAX_SERIES:
                self._warn("the application's meter provider gets no more time series of workers")
                return
            added = point.value - self._sums.get(key, 0)
            self._sums[key] = point.value
        if added >= 0 or not data.is_monotonic:
            instrument.add(added, attributes)


def _kind(metric: Metric) -> str | None:
    data = metric.data
    if isinstance(data, Sum):
        return "counter" if data.is_monotonic else "up_down_counter"
    return "gauge" if isinstance(data, Gauge) else None


def _numbers(metric: Metric) -> Iterator[NumberDataPoint]:
    for point in metric.data.data_points:
        if isinstance(point, NumberDataPoint):
            yield point


def keep_exemplars(
    data: MetricsData, is_expected: Callable[[int, int], bool], *, unlinked: bool = False
) -> None:
    """Remove from relayed metrics the exemplars of spans that are not sent.

    With `unlinked` they stay, without the ids of the span.
    """

    def kept(exemplar: Exemplar) -> Exemplar | None:
        trace_id, span_id = exemplar.trace_id, exemplar.span_id
        if trace_id and span_id and is_expected(trace_id, span_id):
            return exemplar
        if not unlinked:
            return None
        return Exemplar(exemplar.filtered_attributes, exemplar.value, exemplar.time_unix_nano)

    for of_resource in data.resource_metrics:
        for of_scope in of_resource.scope_metrics:
            for metric in of_scope.metrics:
                for point in metric.data.data_points:
                    exemplars: Any = point.exemplars
                    if exemplars:
                        exemplars[:] = filter(None, map(kept, exemplars))
