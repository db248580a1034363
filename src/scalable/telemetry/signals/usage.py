"""Metric points of samples: usage of workers, and numbers that user code recorded."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource

from scalable.facts import Sample
from scalable.telemetry import instruments
from scalable.telemetry.signals.spans import SCOPE, nanoseconds


class UserPoint(NamedTuple):
    """A number recorded by user code: time, name, value, unit, attributes."""

    time: float
    name: str
    value: float
    unit: str
    attributes: dict[str, Any]


def user_metrics(points: Iterable[UserPoint], resource: Resource) -> MetricsData:
    """Gauges of numbers recorded by user code, one per name and unit."""
    gauges: dict[tuple[str, str], list[NumberDataPoint]] = {}
    for point in points:
        at = nanoseconds(point.time)
        values = gauges.setdefault((point.name, point.unit), [])
        values.append(NumberDataPoint(point.attributes, 0, at, point.value))
    metrics = [Metric(name, "", unit, Gauge(values)) for (name, unit), values in gauges.items()]
    return MetricsData([ResourceMetrics(resource, [ScopeMetrics(SCOPE, metrics, "")], "")])


class UsagePoint(NamedTuple):
    """A worker's usage at one time."""

    attributes: dict[str, Any]
    #: Cores in use; all sizes in bytes, a limit of 0 means none.
    sample: Sample


def usage_metrics(points: Iterable[UsagePoint], resource: Resource) -> MetricsData:
    """Metrics of the workers' usage, as the SDK would collect them."""
    cpu: list[NumberDataPoint] = []
    memory: list[NumberDataPoint] = []
    limit: list[NumberDataPoint] = []
    for attributes, sample in points:
        at = nanoseconds(sample.time)
        cpu.append(NumberDataPoint(attributes, 0, at, sample.cpu))
        memory.append(NumberDataPoint(attributes, 0, at, sample.memory))
        if sample.memory_limit:
            limit.append(NumberDataPoint(attributes, 0, at, sample.memory_limit))
    data = (
        (instruments.WORKER_CPU, Gauge(cpu)),
        (instruments.WORKER_MEMORY, _sum(memory)),
        (instruments.WORKER_MEMORY_LIMIT, _sum(limit)),
    )
    metrics = [
        Metric(instrument.name, instrument.description, instrument.unit, values)
        for instrument, values in data
    ]
    return MetricsData([ResourceMetrics(resource, [ScopeMetrics(SCOPE, metrics, "")], "")])


def _sum(points: list[NumberDataPoint]) -> Sum:
    return Sum(points, AggregationTemporality.CUMULATIVE, is_monotonic=False)
