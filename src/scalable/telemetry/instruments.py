"""Metric definitions, and the points that the recorder makes of samples."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from opentelemetry.sdk.metrics.export import (
    Gauge,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from scalable.telemetry import semconv
from scalable.telemetry.spans import nanoseconds


class Instrument(NamedTuple):
    """Name, unit (UCUM) and description of a metric."""

    name: str
    unit: str
    description: str


WORKER_CPU: Final = Instrument(
    semconv.METRIC_WORKER_CPU, "{cpu}", "Cores that a worker's process uses."
)
WORKER_MEMORY: Final = Instrument(
    semconv.METRIC_WORKER_MEMORY, "By", "Memory of a worker's process."
)
WORKER_MEMORY_LIMIT: Final = Instrument(
    semconv.METRIC_WORKER_MEMORY_LIMIT, "By", "Memory that a worker may use."
)


class UsagePoint(NamedTuple):
    """A worker's usage at one time: cores, bytes, bytes (0 = unlimited)."""

    time: float
    attributes: dict[str, Any]
    cpu: float
    memory: int
    memory_limit: int


def usage_metrics(
    points: Iterable[UsagePoint], resource: Resource, scope: InstrumentationScope
) -> MetricsData:
    """Gauges of the workers' usage, as the SDK would collect them."""
    cpu: list[NumberDataPoint] = []
    memory: list[NumberDataPoint] = []
    limit: list[NumberDataPoint] = []
    for point in points:
        at = nanoseconds(point.time)
        cpu.append(NumberDataPoint(point.attributes, 0, at, point.cpu))
        memory.append(NumberDataPoint(point.attributes, 0, at, point.memory))
        if point.memory_limit:
            limit.append(NumberDataPoint(point.attributes, 0, at, point.memory_limit))
    metrics = [
        Metric(instrument.name, instrument.description, instrument.unit, Gauge(values))
        for instrument, values in (
            (WORKER_CPU, cpu),
            (WORKER_MEMORY, memory),
            (WORKER_MEMORY_LIMIT, limit),
        )
    ]
    return MetricsData([ResourceMetrics(resource, [ScopeMetrics(scope, metrics, "")], "")])
