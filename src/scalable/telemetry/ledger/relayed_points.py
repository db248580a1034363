"""Relayed metrics → OpenTelemetry: points of user code, and their sums."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

import orjson
from opentelemetry.sdk.metrics import Exemplar
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
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
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from scalable.facts.relay_items import MetricItem, PointItem
from scalable_runs.redact import Redactor

#: Time series of user metrics that are summed up; beyond it the oldest begins anew.
_MAX_SERIES: Final = 10_000
_CUMULATIVE: Final = AggregationTemporality.CUMULATIVE
_DELTA: Final = AggregationTemporality.DELTA


class PointDecoder:
    """Decodes metrics that workers relay; called by the recorder's thread only.

    `scope` makes a scope of its parts. With `delta`, points have what was added, else sums.
    """

    def __init__(
        self, redact: Redactor, scope: Callable[..., InstrumentationScope], *, delta: bool
    ) -> None:
        self._redact = redact
        self._scope = scope
        self._delta = delta
        self._series: OrderedDict[Any, PointItem] = OrderedDict()

    def decode(self, items: list[MetricItem], worker: str, resource: Resource) -> MetricsData:
        """The metrics of a batch of a worker."""
        scopes: dict[InstrumentationScope, list[Metric]] = {}
        for item in items:
            points: list[Any] = [self._point(item, point, worker) for point in item["points"]]
            if item["kind"] == "sum":
                delta = self._delta and item.get("delta", False)
                data = Sum(points, _DELTA if delta else _CUMULATIVE, item.get("monotonic", False))
            elif item["kind"] == "histogram":
                data = Histogram(points, _DELTA if self._delta else _CUMULATIVE)
            else:
                data = Gauge(points)
            texts = (item["name"], item["description"], item["unit"])
            name, description, unit = map(self._redact.value, texts)
            metric = Metric(name, description, unit, data)
            scopes.setdefault(self._scope(*item["scope"]), []).append(metric)
        of_scopes = [
            ScopeMetrics(scope, metrics, scope.schema_url or "")
            for scope, metrics in scopes.items()
        ]
        return MetricsData([ResourceMetrics(resource, of_scopes, "")])

    def _point(self, item: MetricItem, point: PointItem, worker: str) -> Any:
        attributes = self._redact.attributes(point["attributes"])
        exemplars = [
            Exemplar(
                self._redact.attributes(given),
                value,
                time,
                int(span, 16) or None,
                int(trace, 16) or None,
            )
            for value, time, trace, span, given in point["exemplars"]
        ]
        is_histogram = item["kind"] == "histogram"
        if (is_histogram or item.get("delta")) and not self._delta:
            self._sum_up(item, point, worker)
        times = (point["start"], point["time"])
        if not is_histogram:
            return NumberDataPoint(attributes, *times, point.get("value", 0), exemplars)
        parts: Any = point
        return HistogramDataPoint(
            attributes,
            *times,
            parts["count"],
            parts["sum"],
            parts["buckets"],
            parts["bounds"],
            parts["min"],
            parts["max"],
            exemplars,
        )

    def _sum_up(self, item: MetricItem, point: PointItem, worker: str) -> None:
        """Turn a point of what was added into the sum since its series began."""
        key = (
            worker,
            item["name"],
            item["unit"],
            item["kind"],
            tuple(item["scope"]),
            orjson.dumps(point["attributes"], option=orjson.OPT_SORT_KEYS),
            tuple(point.get("bounds", ())),
        )
        new: Any = point
        sums: Any = self._series.get(key)
        if sums is not None:
            new["start"] = sums["start"]
            for name in ("value", "count", "sum"):
                if name in new:
                    new[name] += sums[name]
            if "buckets" in new:
                pairs = zip(new["buckets"], sums["buckets"], strict=True)
                new["buckets"] = [one + other for one, other in pairs]
                new["min"] = min(new["min"], sums["min"])
                new["max"] = max(new["max"], sums["max"])
        elif len(self._series) >= _MAX_SERIES:
            self._series.popitem(last=False)
        self._series[key] = new
