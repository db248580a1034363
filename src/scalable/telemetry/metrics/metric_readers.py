"""Snapshots of a run's metrics as OpenTelemetry's data, as exporters prefer it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Final

from opentelemetry.sdk import metrics as sdk
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Buckets,
    ExponentialHistogram,
    ExponentialHistogramDataPoint,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation
from opentelemetry.sdk.resources import Resource

from scalable.telemetry.instrument import TASK_BOUNDS, Instrument
from scalable.telemetry.metrics.snapshot import (
    SCALE,
    Attributes,
    Distribution,
    Snapshot,
    Value,
    attributes_of,
    number_of,
)
from scalable.telemetry.signals.spans import SCOPE

#: Buckets of an exponential histogram, the specification's default.
MAX_BUCKETS: Final = 160

_SDK_CLASSES: Final[dict[str, type]] = {
    "counter": sdk.Counter,
    "updowncounter": sdk.UpDownCounter,
    "histogram": sdk.Histogram,
}


class Reader:
    """Makes OpenTelemetry's data of snapshots; called by the recorder's thread only.

    Temporality and aggregation are those that the exporter prefers; by default cumulative, with
    explicit buckets. `started` is when counting began, in nanoseconds.
    """

    def __init__(self, resource: Resource, started: int, exporter: Any = None) -> None:
        self._resource = resource
        self._started = self._since = started
        self._temporality: Mapping[type, AggregationTemporality] = (
            getattr(exporter, "_preferred_temporality", None) or {}
        )
        aggregation = getattr(exporter, "_preferred_aggregation", None) or {}
        self._exponential = isinstance(
            aggregation.get(sdk.Histogram), ExponentialBucketHistogramAggregation
        )
        self._before: Snapshot = {}

    def read(self, snapshot: Snapshot, now: int) -> MetricsData:
        """Return what to export at the time `now` (nanoseconds)."""
        metrics = [
            Metric(instrument.name, instrument.description, instrument.unit, data)
            for instrument, values in snapshot.items()
            if (data := self._data(instrument, values, now)) is not None
        ]
        self._before = snapshot
        self._since = now
        return MetricsData(
            [ResourceMetrics(self._resource, [ScopeMetrics(SCOPE, metrics, "")], "")]
        )

    def _data(self, instrument: Instrument, values: Mapping[Attributes, Value], now: int) -> Any:
        if not values:
            return None
        if instrument.kind == "gauge":
            return Gauge(
                [
                    NumberDataPoint(attributes_of(instrument, key), 0, now, number_of(value))
                    for key, value in values.items()
                ]
            )
        temporality = self._temporality.get(
            _SDK_CLASSES[instrument.kind], AggregationTemporality.CUMULATIVE
        )
        is_delta = temporality is AggregationTemporality.DELTA
        start = self._since if is_delta else self._started
        before = self._before.get(instrument, {}) if is_delta else {}
        points: list[Any] = []
        for key, value in values.items():
            attributes, old = attributes_of(instrument, key), before.get(key)
            if not isinstance(value, Distribution):
                points.append(NumberDataPoint(attributes, start, now, value - number_of(old)))
                continue
            if isinstance(old, Distribution):
                value = value.since(old)
            if value.count:
                make = _exponential_point if self._exponential else _explicit_point
                points.append(make(value, attributes, start, now))
        if instrument.kind != "histogram":
            return Sum(points, temporality, instrument.kind == "counter")
        histogram = ExponentialHistogram if self._exponential else Histogram
        return histogram(points, temporality) if points else None


def _explicit_point(
    value: Distribution, attributes: dict[str, str], start: int, now: int
) -> HistogramDataPoint:
    return HistogramDataPoint(
        attributes,
        start,
        now,
        value.count,
        value.total,
        value.buckets,
        TASK_BOUNDS,
        value.low,
        value.high,
        value.exemplars,
    )


def _exponential_point(
    value: Distribution, attributes: dict[str, str], start: int, now: int
) -> ExponentialHistogramDataPoint:
    scaled, scale = dict(value.scaled), SCALE
    while scaled and max(scaled) - min(scaled) >= MAX_BUCKETS:
        halved: defaultdict[int, int] = defaultdict(int)
        for index, count in scaled.items():
            halved[index >> 1] += count
        scaled, scale = dict(halved), scale - 1
    first = min(scaled, default=0)
    counts = [scaled.get(index, 0) for index in range(first, max(scaled, default=-1) + 1)]
    return ExponentialHistogramDataPoint(
        attributes,
        start,
        now,
        value.count,
        value.total,
        scale,
        value.zeros,
        Buckets(first, counts),
        Buckets(0, []),
        0,
        value.low,
        value.high,
        value.exemplars,
    )
