"""The table of metrics, and the points made of samples."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from opentelemetry.sdk.metrics.export import (
    Gauge,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
)
from opentelemetry.sdk.resources import Resource

from scalable.facts import Sample
from scalable.telemetry import semconv
from scalable.telemetry.spans import SCOPE, nanoseconds

#: Kind of the points of an instrument.
Kind: TypeAlias = Literal["counter", "updowncounter", "gauge", "histogram"]


class Instrument(NamedTuple):
    """One row of the table of metrics.

    Attributes
    ----------
    name, unit, description : str
        As exported; the unit is UCUM.
    kind : {"counter", "updowncounter", "gauge", "histogram"}
        A counter only grows; an updowncounter is a sum that also shrinks.
    attributes : tuple of str
        What distinguishes the points. Never a key, so that their number stays small. A worker's
        gauges have the worker's name.
    bounds : tuple of float
        Bucket bounds of a histogram.
    """

    name: str
    kind: Kind
    unit: str
    description: str
    attributes: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()


#: Tasks take from a millisecond to hours.
TASK_BOUNDS: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    60.0, 150.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0, 21600.0,
)  # fmt: skip


def _counter(name: str, unit: str, description: str, *attributes: str) -> Instrument:
    return Instrument(name, "counter", unit, description, attributes)


def _updowncounter(name: str, unit: str, description: str, *attributes: str) -> Instrument:
    return Instrument(name, "updowncounter", unit, description, attributes)


def _gauge(name: str, unit: str, description: str, *attributes: str) -> Instrument:
    return Instrument(name, "gauge", unit, description, attributes)


def _histogram(name: str, unit: str, description: str, *attributes: str) -> Instrument:
    return Instrument(name, "histogram", unit, description, attributes, TASK_BOUNDS)


_NAME: Final = semconv.TASK_NAME
_WORKER: Final = semconv.WORKER_NAME

TASK_DURATION: Final = _histogram(
    semconv.TASK_DURATION,
    "s",
    "Execution of one attempt, never queueing.",
    _NAME,
    semconv.TASK_RESULT,
)
TASK_QUEUED: Final = _histogram(
    semconv.TASK_QUEUED, "s", "From the moment a task could run to the start of its attempt.", _NAME
)
TASK_TRANSFER: Final = _histogram(
    semconv.TASK_TRANSFER,
    "s",
    "Fetching results from other workers for one attempt; attempts that fetched none do not count.",
    _NAME,
)
TASK_ATTEMPTS: Final = _counter(
    "dask.task.attempts",
    "{attempt}",
    "Attempts that ended, by result: success, failure (raised), error (lost), cancellation, "
    "rescheduled.",
    _NAME,
    semconv.TASK_RESULT,
)
TASK_RETRIES: Final = _counter(
    "dask.task.retries", "{attempt}", "Attempts after which the task runs again.", _NAME
)
TASK_RECOMPUTATIONS: Final = _counter(
    "dask.task.recomputations",
    "{attempt}",
    "Attempts made again because a result was lost with its worker.",
    _NAME,
)
TASK_WASTED: Final = _counter(
    "dask.task.wasted.time",
    "s",
    "Execution time wasted, by reason: retry, worker-lost, recomputed, cancelled.",
    _NAME,
    semconv.WASTE_REASON,
)
TASK_CPU: Final = _counter(semconv.TASK_CPU, "s", "CPU time of the tasks' own threads.", _NAME)
TASK_OUTPUT: Final = _counter("dask.task.output.size", "By", "Size of the results returned.", _NAME)
TASK_COUNT: Final = _updowncounter(
    "dask.task.count",
    "{task}",
    "Tasks of the run by the state they are in now: waiting, running, succeeded, failed, "
    "cancelled; unknown once the run has ended without their end being recorded.",
    semconv.TASK_STATE,
)
WORKER_COUNT: Final = _updowncounter(
    "dask.worker.count",
    "{worker}",
    "Workers by the state they are in now: running, paused, closing.",
    semconv.WORKER_STATE,
)
WORKER_LOST: Final = _counter(
    "dask.worker.lost", "{worker}", "Workers that ended without a request.", semconv.WORKER_REASON
)
WORKER_THREADS: Final = _updowncounter(
    "dask.worker.threads", "{thread}", "Threads that can run tasks."
)
WORKER_CPU: Final = _gauge(
    semconv.METRIC_WORKER_CPU, "{cpu}", "Cores that a worker's process uses.", _WORKER
)
WORKER_MEMORY: Final = _gauge(
    semconv.METRIC_WORKER_MEMORY, "By", "Memory of a worker's process.", _WORKER
)
WORKER_MEMORY_MANAGED: Final = _gauge(
    "dask.worker.memory.managed", "By", "Results that a worker keeps in memory.", _WORKER
)
WORKER_MEMORY_UNMANAGED: Final = _gauge(
    "dask.worker.memory.unmanaged",
    "By",
    "Memory of a worker's process other than results: modules, running tasks, leaks.",
    _WORKER,
)
WORKER_MEMORY_SPILLED: Final = _gauge(
    "dask.worker.memory.spilled", "By", "Results that a worker keeps on disk.", _WORKER
)
WORKER_MEMORY_LIMIT: Final = _gauge(
    semconv.WORKER_MEMORY_LIMIT, "By", "Memory that a worker may use.", _WORKER
)
WORKER_LAG: Final = _gauge(
    "dask.worker.event_loop.lag", "s", "How late a worker's event loop ran what was due.", _WORKER
)
SCHEDULER_LAG: Final = _gauge(
    "dask.scheduler.event_loop.lag", "s", "How late the scheduler's event loop ran what was due."
)
TRANSFERRED: Final = _counter(
    "dask.cluster.transfer.io",
    "By",
    "Results moved between workers, of all tasks of the scheduler.",
)
SPILLED: Final = _counter(
    "dask.cluster.spill.io",
    "By",
    "Results written to disk and read back for lack of memory, of all tasks of the scheduler.",
    semconv.DISK_DIRECTION,
)
FACTS: Final = _counter("scalable.recorder.facts", "{fact}", "Facts that reached the recorder.")
FACTS_DROPPED: Final = _counter(
    "scalable.recorder.facts.dropped",
    "{fact}",
    "Facts dropped because they were not fetched in time.",
)
ERRORS: Final = _counter(
    "scalable.recorder.errors", "{error}", "Internal errors of the telemetry itself."
)
LAG: Final = _gauge(
    "scalable.recorder.lag",
    "s",
    "Age of the newest fact when the recorder last took in a batch; 0 while nothing happens.",
)
EXPORTED: Final = _counter(
    "scalable.export.items",
    "{item}",
    "Spans, metric points and log records by outcome over OTLP: sent, failed, "
    "dropped (the queue was full).",
    semconv.SIGNAL,
    semconv.OUTCOME,
)
EXPORT_FAILURES: Final = _counter(
    "scalable.export.failures", "{export}", "Exports over OTLP that failed.", semconv.SIGNAL
)
EXPORT_QUEUE: Final = _updowncounter(
    "scalable.export.queue.size",
    "{item}",
    "Items that now wait to be sent over OTLP.",
    semconv.SIGNAL,
)
SUMMARIZED: Final = _counter(
    "scalable.export.spans.summarized",
    "{span}",
    "Attempts that rollup spans represent over OTLP; the run directory has them all.",
)

#: The table, in the order of the documentation.
INSTRUMENTS: Final = tuple(each for each in globals().values() if isinstance(each, Instrument))


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
    """Gauges of the workers' usage, as the SDK would collect them."""
    cpu: list[NumberDataPoint] = []
    memory: list[NumberDataPoint] = []
    limit: list[NumberDataPoint] = []
    for attributes, sample in points:
        at = nanoseconds(sample.time)
        cpu.append(NumberDataPoint(attributes, 0, at, sample.cpu))
        memory.append(NumberDataPoint(attributes, 0, at, sample.memory))
        if sample.memory_limit:
            limit.append(NumberDataPoint(attributes, 0, at, sample.memory_limit))
    metrics = [
        Metric(instrument.name, instrument.description, instrument.unit, Gauge(values))
        for instrument, values in (
            (WORKER_CPU, cpu),
            (WORKER_MEMORY, memory),
            (WORKER_MEMORY_LIMIT, limit),
        )
    ]
    return MetricsData([ResourceMetrics(resource, [ScopeMetrics(SCOPE, metrics, "")], "")])
