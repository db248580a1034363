"""Metrics of workers in a meter provider of the application."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.sdk.metrics import Exemplar, MeterProvider
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    InMemoryMetricReader,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from scalable.telemetry import semconv
from scalable.telemetry.metrics.relayed_metrics import RelayedMetrics, keep_exemplars

SCOPE = InstrumentationScope("of.the.user")
CUMULATIVE, DELTA = AggregationTemporality.CUMULATIVE, AggregationTemporality.DELTA


def collected(worker: str, *metrics: Metric) -> MetricsData:
    resource = Resource({semconv.RUN_ID: "r", semconv.WORKER_ADDRESS: worker, "host.name": "h"})
    return MetricsData([ResourceMetrics(resource, [ScopeMetrics(SCOPE, list(metrics), "")], "")])


def number(value: float, **attributes: str) -> NumberDataPoint:
    return NumberDataPoint(attributes, 1, 2, value)


def rows(
    value: float, temporality: AggregationTemporality = CUMULATIVE, **attributes: str
) -> Metric:
    return Metric("rows", "", "{row}", Sum([number(value, **attributes)], temporality, True))


def test_sums_and_gauges_of_each_worker_arrive_and_histograms_are_named():
    reader, told = InMemoryMetricReader(), list[str]()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    relayed = RelayedMetrics(provider, told.append)
    held = Metric("held", "", "", Sum([number(-3)], CUMULATIVE, False))
    relayed.record(collected("a", rows(2, of="x"), rows(5, of="y"), held))
    relayed.record(collected("a", rows(7, of="x"), Metric("level", "", "", Gauge([number(1.5)]))))
    relayed.record(collected("b", rows(1, DELTA, of="x")))
    relayed.record(collected("b", rows(1, DELTA, of="x")))
    point = HistogramDataPoint({}, 1, 2, 1, 1.0, [1], [], 1.0, 1.0)
    relayed.record(collected("a", Metric("sizes", "", "", Histogram([point], CUMULATIVE))))
    relayed.record(collected("a", Metric("not a name", "", "", Gauge([number(1)]))))
    data: Any = reader.get_metrics_data()
    (scope,) = data.resource_metrics[0].scope_metrics
    assert scope.scope == SCOPE
    found = {
        (metric.name, one.attributes[semconv.WORKER_ADDRESS], one.attributes.get("of")): one.value
        for metric in scope.metrics
        for one in metric.data.data_points
        if one.attributes[semconv.RUN_ID] == "r"
    }
    assert found == {
        ("rows", "a", "x"): 7,
        ("rows", "a", "y"): 5,
        ("rows", "b", "x"): 2,
        ("held", "a", None): -3,
        ("level", "a", None): 1.5,
    }
    assert ["'sizes'" in told[0], "'not a name'" in told[1]] == [True, True]
    provider.shutdown()


@pytest.mark.parametrize(
    ("unlinked", "kept"),
    [(False, [(1, 7, 8)]), (True, [(1, 7, 8), (2, None, None), (3, None, None)])],
)
def test_exemplars_name_only_spans_that_are_sent(unlinked: bool, kept: list[Any]):
    exemplars = [
        Exemplar({"why": "sent"}, 1, 5, 7, 8),
        Exemplar({"why": "left out"}, 2, 5, 6, 8),
        Exemplar({"why": "outside of spans"}, 3, 5),
    ]
    point = NumberDataPoint({}, 1, 2, 6, exemplars)
    metric = Metric("rows", "", "", Sum([point], CUMULATIVE, True))
    keep_exemplars(collected("a", metric), lambda trace, span: span == 7, unlinked=unlinked)
    assert [(each.value, each.span_id, each.trace_id) for each in point.exemplars] == kept
    assert all(each.filtered_attributes for each in point.exemplars)
