"""Metrics as they are summed up here: cumulative and delta, explicit and exponential, bounded."""

from __future__ import annotations

import math
from time import monotonic
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry.sdk import metrics as sdk
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    InMemoryMetricReader,
    MetricExporter,
    MetricExportResult,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation
from opentelemetry.sdk.resources import Resource

from scalable.facts import SAMPLE, SCHEDULER_SAMPLE, Sample, SchedulerSample
from scalable.telemetry import instruments, semconv
from scalable.telemetry.instrument import TASK_BOUNDS, Instrument
from scalable.telemetry.metrics import (
    application_instruments,
    metering,
    metric_readers,
    metric_router,
)
from scalable.telemetry.metrics.application_instruments import SHOWN_AFTER, ApplicationInstruments
from scalable.telemetry.metrics.metering import Meter
from scalable.telemetry.metrics.metric_readers import Reader
from scalable.telemetry.metrics.metric_router import Figures, MetricRouter
from scalable.telemetry.metrics.snapshot import Snapshot
from scalable_runs.summary import NameCounts, RunSummary

DELTA = {
    sdk.Counter: AggregationTemporality.DELTA,
    sdk.Histogram: AggregationTemporality.DELTA,
    sdk.UpDownCounter: AggregationTemporality.CUMULATIVE,
}


def ended(name: str = "inc", state: str = "succeeded", **fields: Any) -> dict[str, Any]:
    return {
        "task_id": f"{name}-1",
        "task_name": name,
        "state": state,
        "timestamp": "2026-01-01T00:00:00.000000Z",
        "trace_id": f"{1:032x}",
        "span_id": f"{2:016x}",
        **fields,
    }


def snapshot(meter: Meter, **more: Any) -> Snapshot:
    given: dict[str, Any] = {"states": {}, "names": {}, "wasted": {}, "scheduler": None}
    return meter.snapshot(**{**given, **more}, health={})


def points(reader: Reader, taken: Snapshot, now: int, name: str) -> list[Any]:
    (by_resource,) = reader.read(taken, now).resource_metrics
    return [
        point
        for metric in by_resource.scope_metrics[0].metrics
        if metric.name == name
        for point in metric.data.data_points
    ]


def test_cumulative_grows_and_delta_adds_up():
    meter = Meter()
    exporter = SimpleNamespace(_preferred_temporality=DELTA)
    readers = [Reader(Resource({}), 5), Reader(Resource({}), 5, exporter)]
    found: list[list[Any]] = [[], []]
    for now, durations in ((10, (0.1, 0.3)), (20, (7.0,)), (30, ())):
        meter.add("tasks.jsonl", [ended(duration_s=d, queue_s=0.0) for d in durations])
        taken = snapshot(meter)
        for reader, seen in zip(readers, found, strict=True):
            seen.append(points(reader, taken, now, "dask.task.duration"))
    assert [[p.count for p in seen] for seen in found[0]] == [[2], [3], [3]]
    assert {p.start_time_unix_nano for seen in found[0] for p in seen} == {5}
    assert found[0][2][0].sum == pytest.approx(7.4)
    assert (found[0][2][0].min, found[0][2][0].max) == (0.1, 7.0)
    assert [[p.count for p in seen] for seen in found[1]] == [[2], [1], []]
    assert [p.start_time_unix_nano for seen in found[1] for p in seen] == [5, 10]
    assert (found[1][1][0].min, found[1][1][0].max) == (7.0, 7.0)
    assert sum(found[1][1][0].bucket_counts) == 1


def test_buckets_include_their_upper_bound_as_specified():
    meter = Meter()
    values = [0.001, 0.0011, 1.0, 2.0, 90_000.0]
    meter.add("tasks.jsonl", [ended(duration_s=value) for value in values])
    taken = snapshot(meter)
    (explicit,) = points(Reader(Resource({}), 0), taken, 1, "dask.task.duration")
    bounds = [*explicit.explicit_bounds, math.inf]
    held = {b: c for b, c in zip(bounds, explicit.bucket_counts, strict=True) if c}
    assert held == {0.001: 1, 0.0025: 1, 1.0: 1, 2.5: 1, math.inf: 1}
    preferred = {sdk.Histogram: ExponentialBucketHistogramAggregation()}
    reader = Reader(Resource({}), 0, SimpleNamespace(_preferred_aggregation=preferred))
    (point,) = points(reader, taken, 1, "dask.task.duration")
    base = 2 ** (2**-point.scale)
    for value in values:
        index = next(
            i
            for i in range(point.positive.offset - 1, 10_000)
            if base**i < value * (1 + 1e-12) and value <= base ** (i + 1) * (1 + 1e-12)
        )
        assert point.positive.bucket_counts[index - point.positive.offset] >= 1
    assert sum(point.positive.bucket_counts) == point.count == len(values)
    assert len(point.positive.bucket_counts) <= metric_readers.MAX_BUCKETS


def test_exemplars_lead_to_the_slowest_attempt():
    meter = Meter()
    attempts = [
        ended(duration_s=1.0),
        ended(duration_s=9.0, span_id="c" * 16),
        ended(duration_s=10.0, span_id="d" * 16),
    ]
    meter.add("tasks.jsonl", attempts)
    meter.note_exemplars(attempts, lambda ids: ids.span_id != int("d" * 16, 16))
    (point,) = points(Reader(Resource({}), 0), snapshot(meter), 1, "dask.task.duration")
    assert {(e.value, e.span_id, e.trace_id) for e in point.exemplars} == {
        (9.0, int("c" * 16, 16), 1)
    }


def test_without_a_span_that_is_sent_there_are_exemplars_if_all_are_wanted():
    meter = Meter()
    attempts = [ended(duration_s=1.0), ended(duration_s=9.0, span_id="c" * 16)]
    reader = Reader(Resource({}), 0)
    found: list[set[tuple[float, int | None, int | None]]] = []
    for sent in (0, int("c" * 16, 16)):
        meter.add("tasks.jsonl", attempts)
        meter.note_exemplars(attempts, lambda ids, sent=sent: ids.span_id == sent, all_of_them=True)
        (point,) = points(reader, snapshot(meter), 1, "dask.task.duration")
        found.append({(e.value, e.span_id, e.trace_id) for e in point.exemplars})
    assert found == [{(9.0, None, None)}, {(9.0, int("c" * 16, 16), 1)}]


def test_names_beyond_the_limit_are_one(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(metering, "MAX_NAMES", 3)
    meter = Meter()
    meter.add("tasks.jsonl", [ended(f"n{n}", duration_s=1.0, queue_s=0.1) for n in range(10)])
    taken = snapshot(meter, names={f"n{n}": NameCounts(1, 0, 0.5) for n in range(10)})
    attempts = taken[instruments.TASK_ATTEMPTS]
    assert sum(attempts.values()) == 10  # type: ignore[arg-type]
    assert {name for name, _ in attempts} == {"n0", "n1", "n2", "other"}
    assert taken[instruments.TASK_RETRIES]["other",] == 7
    assert sum(d.count for d in taken[instruments.TASK_QUEUED].values()) == 10  # type: ignore[union-attr]


def test_attempts_are_counted_by_result_and_tasks_without_one_are_not():
    meter = Meter()
    blamed = ended(state="failed")
    del blamed["span_id"]
    meter.add(
        "tasks.jsonl",
        [
            ended(state="submitted"),
            ended(state="running"),
            ended(state="retried", duration_s=1.0),
            ended(state="failed", duration_s=1.0),
            ended(state="failed"),
            ended(state="lost"),
            ended(state="cancelled"),
            blamed,
        ],
    )
    assert snapshot(meter)[instruments.TASK_ATTEMPTS] == {
        ("inc", "failure"): 2,
        ("inc", "error"): 2,
        ("inc", "cancellation"): 1,
    }


def test_failed_attempts_are_counted_by_the_class_of_their_exception():
    meter = Meter()
    own = {"error_type": "MyError", "error_class": "mine.MyError"}
    meter.add("tasks.jsonl", [ended(), ended(state="failed", duration_s=1.0, **own)])
    meter.add("tasks.jsonl", [ended(state="lost", error_type="WorkerLost")])
    taken = snapshot(meter)
    assert taken[instruments.TASK_ATTEMPTS] == {
        ("inc", "success"): 1,
        ("inc", "failure", "mine.MyError"): 1,
        ("inc", "error", "WorkerLost"): 1,
    }
    found = points(Reader(Resource({}), 0), taken, 1, "dask.task.attempts")
    assert [point.attributes.get("error.type") for point in found] == [
        None,
        "mine.MyError",
        "WorkerLost",
    ]


def test_classes_of_exceptions_have_a_limit():
    meter = Meter()
    many = [ended(state="failed", error_type=f"Error{n}") for n in range(metering.MAX_ERRORS + 5)]
    meter.add("tasks.jsonl", many)
    counts = snapshot(meter)[instruments.TASK_ATTEMPTS]
    assert len(counts) == metering.MAX_ERRORS + 1
    assert counts["inc", "error", "_OTHER"] == 5


def test_workers_come_spill_pause_and_go():
    meter = Meter()

    def worker(state: str, address: str, **details: Any) -> dict[str, Any]:
        return {"worker": address, "state": state, "details": {"nthreads": 2, **details}}

    meter.add("workers.jsonl", [worker("ready", "a"), worker("ready", "b")])
    meter.take_sample("A", sample("a", "running", 1_000))
    meter.take_sample("B", sample("b", "paused", 0))
    scheduler = SchedulerSample(SCHEDULER_SAMPLE, 0.0, 0.5, 10, 20)
    snapshot(meter, scheduler=scheduler)
    meter.take_sample("A", sample("a", "running", 1_700))
    taken = snapshot(meter, scheduler=scheduler._replace(spill_written=110))
    assert taken[instruments.WORKER_COUNT] == {("running",): 1, ("paused",): 1, ("closing",): 0}
    assert taken[instruments.WORKER_THREADS] == {(): 4}
    assert taken[instruments.WORKER_MEMORY_UNMANAGED] == {("A",): 40, ("B",): 40}
    assert taken[instruments.WORKER_MEMORY_SPILLED]["A",] == 40
    assert taken[instruments.WORKER_MEMORY_LIMIT] == {}
    assert taken[instruments.TRANSFERRED] == {("transmit",): 700}
    assert taken[instruments.SPILLED] == {("write",): 100, ("read",): 0}
    meter.add("workers.jsonl", [worker("lost", "a", reason="connection-lost")])
    taken = snapshot(meter)
    assert taken[instruments.WORKER_LOST] == {("connection-lost",): 1}
    assert taken[instruments.TRANSFERRED] == {("transmit",): 700}
    assert set(taken[instruments.WORKER_CPU]) == {("B",)}


def sample(address: str, status: str = "running", sent: int = 0) -> Sample:
    return Sample(SAMPLE, 0.0, address, 1.5, 100, 0, 60, 40, 0.25, status, sent)


def points_of(data: Any, instrument: Instrument) -> list[Any]:
    """The points of a metric in what a reader has collected."""
    return [
        point
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == instrument.name
        for point in metric.data.data_points
    ]


def test_an_applications_meter_provider_shows_the_same():
    inside = InMemoryMetricReader()
    provider = MeterProvider([inside], shutdown_on_exit=False)
    application = ApplicationInstruments.of(provider)
    assert ApplicationInstruments.of(provider) is application
    runs = [{semconv.RUN_ID: run, semconv.PROJECT: "tides"} for run in ("one", "two")]
    for run in runs:
        meter = Meter()
        meter.take_sample("w", sample("w"))
        records = [ended(duration_s=2.0), ended(duration_s=3.0, span_id=f"{3:016x}")]
        meter.add("tasks.jsonl", records)
        application.record(run, records, meter.shown, lambda ids: ids.span_id == 2)
        taken = snapshot(meter, states={"succeeded": 2})
        application.show(run, taken)
        data: Any = inside.get_metrics_data()
        assert len(points_of(data, instruments.WORKER_MEMORY)) == 1
        durations = points_of(data, instruments.TASK_DURATION)
        assert {it.span_id for point in durations for it in point.exemplars} == {2}
        application.end(run, taken, monotonic() + 30)
    data = inside.get_metrics_data()
    for instrument in (instruments.TASK_ATTEMPTS, instruments.TASK_COUNT):
        found = points_of(data, instrument)
        assert [point.value for point in found] == [2, 2]
        for point, run in zip(found, runs, strict=True):
            assert run.items() <= point.attributes.items()
    assert points_of(data, instruments.WORKER_MEMORY) == []
    one, two = points_of(data, instruments.TASK_DURATION)
    assert (one.count, one.sum) == (two.count, two.sum) == (2, 5.0)
    duration = one
    assert tuple(duration.explicit_bounds) == TASK_BOUNDS
    provider.shutdown()


def test_the_last_state_is_collected_before_a_run_is_withdrawn(monkeypatch: pytest.MonkeyPatch):
    class Exported(MetricExporter):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[Any] = []

        def export(self, metrics_data: Any, *args: Any, **kwargs: Any) -> Any:
            self.seen.append(metrics_data)
            return MetricExportResult.SUCCESS

        def force_flush(self, timeout_millis: float = 0) -> bool:
            return True

        def shutdown(self, *args: Any, **kwargs: Any) -> None: ...

    exporter = Exported()
    reader = PeriodicExportingMetricReader(exporter, export_interval_millis=math.inf)
    provider = MeterProvider([reader], shutdown_on_exit=False)
    application, meter, run = ApplicationInstruments.of(provider), Meter(), {semconv.RUN_ID: "r"}
    meter.add("workers.jsonl", [{"worker": "w", "state": "ready", "details": {"nthreads": 2}}])
    meter.take_sample("w", sample("w"))
    application.show(run, snapshot(meter, states={"running": 1}))
    application.end(run, snapshot(meter, states={"succeeded": 20}, ended=True), monotonic() + 30)
    (last,) = exporter.seen
    assert [p.value for p in points_of(last, instruments.TASK_COUNT)] == [20]
    assert [p.value for p in points_of(last, instruments.WORKER_COUNT)] == [0, 0, 0]
    assert [p.value for p in points_of(last, instruments.WORKER_THREADS)] == [0]
    assert len(points_of(last, instruments.WORKER_MEMORY)) == 1
    later = monotonic() + SHOWN_AFTER + 1
    monkeypatch.setattr(application_instruments, "monotonic", lambda: later)
    provider.force_flush()
    assert all(points_of(more, instruments.TASK_COUNT) == [] for more in exporter.seen[1:])
    provider.shutdown()


def test_counters_begin_with_zero_where_their_attributes_are_known():
    meter = Meter()
    reader = Reader(Resource({}), 5)

    def values(name: str) -> dict[tuple[str, ...], float]:
        found = points(reader, meter.with_zeros(snapshot(meter)), 10, name)
        return {tuple(point.attributes.values()): point.value for point in found}

    assert values("dask.worker.lost")["connection-lost",] == 0
    assert set(values("dask.worker.lost").values()) == {0}
    assert values("dask.cluster.spill.io") == {("write",): 0, ("read",): 0}
    assert values("dask.task.attempts") == {}
    # From the submission of the first task of a name.
    meter.add("tasks.jsonl", [{"task_id": "inc-1", "task_name": "inc", "state": "submitted"}])
    assert values("dask.task.attempts") == {
        ("inc", "success"): 0,
        ("inc", "failure"): 0,
        ("inc", "error"): 0,
    }
    assert values("dask.task.retries") == values("dask.task.cpu.time") == {("inc",): 0}
    assert len(values("dask.task.wasted.time")) == 4
    meter.add("tasks.jsonl", [ended(duration_s=1.0)])
    meter.add(
        "workers.jsonl", [{"worker": "w", "state": "lost", "details": {"reason": "worker-ttl"}}]
    )
    assert values("dask.task.attempts")["inc", "success"] == 1
    assert values("dask.worker.lost")["worker-ttl",] == 1


def test_metrics_are_sent_when_a_run_begins_and_when_a_name_is_new(monkeypatch: pytest.MonkeyPatch):
    sent: list[Any] = []
    now = 100.0
    monkeypatch.setattr(metric_router, "monotonic", lambda: now)
    exporter = SimpleNamespace(export=lambda *_: None, shutdown=lambda: None)
    router = MetricRouter(Resource({}), exporter, lambda: now)
    router.open([exporter], None, {}, pytest.fail, pytest.fail)
    (shipper,) = router.shippers
    monkeypatch.setattr(shipper, "put", sent.append)
    figures = Figures(RunSummary(), {}, None, 0, 0, 0, 0.0)
    submitted = {"task_id": "inc-1", "task_name": "inc", "state": "submitted"}
    counts: list[int] = []
    for step, records in ((0.0, []), (0.1, []), (0.1, [submitted]), (1.0, []), (1.0, []), (60, [])):
        now += step
        router.add("tasks.jsonl", records)
        router.collect(figures, [], None)
        counts.append(len(sent))
    assert counts == [1, 1, 1, 2, 2, 3]
    shipper.close(now)
