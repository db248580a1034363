"""What user code records in a worker reaches the run, and nobody is any the worse for it."""

from __future__ import annotations

import json
import logging
import os
import signal
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID

import dask
import pytest
from distributed import Client, LocalCluster, get_worker
from opentelemetry import _logs, metrics, trace
from opentelemetry._logs import LogRecord, SeverityNumber

import scalable
from cluster import oracle, tasks


def read(run: Any, file: str) -> list[dict[str, Any]]:
    """Records of user code: not those of the run itself, nor of Dask's loggers."""
    path = Path(run.run_dir) / file
    found = oracle.read(run.run_dir, file) if path.exists() else []
    return [
        record
        for record in found
        if not record.get("scope", {}).get("name", "").startswith(("scalable", "distributed"))
    ]


def attempt_of(run: Any, key: str) -> dict[str, Any]:
    return oracle.lives(run.run_dir)[key][-1]


# -- spans ----------------------------------------------------------------------------------------


def detailed() -> None:
    tracer = trace.get_tracer("of.the.user", "2.1")
    other = trace.Link(trace.SpanContext(7, 8, True, trace.TraceFlags(1)), {"why": "because"})
    with tracer.start_as_current_span("load", attributes={"rows": 3, "names": ["a", "b"]}) as load:
        load.add_event("half", {"done": 0.5})
        with tracer.start_as_current_span("parse", kind=trace.SpanKind.CLIENT, links=[other]):
            pass
        try:
            with tracer.start_as_current_span("broken"):
                raise KeyError("no such row")
        except KeyError:
            pass
        load.set_attribute("odd", 2**70)
        load.set_attribute("url", "postgres://me:hunter2@db/x")


def test_spans_come_whole_below_their_attempt(make_cluster):
    _, client = make_cluster(n_workers=1)
    with scalable.instrument(client) as run:
        future = client.submit(detailed)
        future.result()
        key = future.key
    spans = {span["name"]: span for span in read(run, "spans.jsonl")}
    assert set(spans) == {"load", "parse", "broken"}
    attempt = attempt_of(run, key)
    assert {span["trace_id"] for span in spans.values()} == {attempt["trace_id"]}
    load, parse, broken = spans["load"], spans["parse"], spans["broken"]
    assert load["parent_span_id"] == attempt["span_id"]
    assert parse["parent_span_id"] == broken["parent_span_id"] == load["span_id"]
    assert load["scope"] == {"name": "of.the.user", "version": "2.1"}
    assert load["attributes"] == {
        "rows": 3,
        "names": ["a", "b"],
        "odd": str(2**70),
        "url": "postgres://me:[redacted]@db/x",
        "dask.task.key": key,
    }
    assert [(event["name"], event["attributes"]) for event in load["events"]] == [
        ("half", {"done": 0.5})
    ]
    assert parse["kind"] == "client"
    (link,) = parse["links"]
    assert link == {
        "trace_id": f"{7:032x}",
        "span_id": f"{8:016x}",
        "attributes": {"why": "because"},
    }
    assert broken["status"]["code"] == "error"
    (event,) = broken["events"]
    assert event["attributes"]["exception.type"] == "KeyError"
    assert "no such row" in event["attributes"]["exception.stacktrace"]
    resource = load["resource"]
    assert resource["dask.worker.address"] == attempt["worker"]
    assert str(UUID(resource["service.instance.id"])) == resource["service.instance.id"]
    assert resource["service.name"]
    assert resource["process.pid"] != os.getpid()
    assert load["start_time"] <= parse["start_time"] <= parse["end_time"] <= load["end_time"]


def test_a_span_that_ended_survives_the_death_of_its_worker(make_cluster, notes_dir):
    def work(directory: str) -> int:
        with trace.get_tracer("test").start_as_current_span("before"):
            pass
        tasks.note(directory, "start")
        tasks.wait_for_file(Path(directory) / "never")
        return 1

    _, client = make_cluster(n_workers=1)
    with scalable.instrument(client) as run:
        client.submit(work, str(notes_dir), key="work")
        tasks.wait_until(lambda: len(read(run, "spans.jsonl")) == 1)
        tasks.wait_for_notes(notes_dir, 1)
        (pid,) = client.run(os.getpid).values()
        (note,) = oracle.notes(notes_dir)
        os.kill(pid, signal.SIGKILL)
        (notes_dir / "never").touch()
        client.submit(int, 1).result()
        client.cancel("work")
    (before, *_) = read(run, "spans.jsonl")
    assert note["pid"] == pid
    first = next(it for it in oracle.lives(run.run_dir)["work"] if it["state"] == "running")
    assert before["parent_span_id"] == first["span_id"]


def test_a_flood_is_bounded_and_what_was_left_out_is_counted(make_cluster):
    made = 30_000

    def flood() -> None:
        tracer = trace.get_tracer("test")
        for _ in range(made):
            tracer.start_span("drop").end()

    _, client = make_cluster(n_workers=1)
    with scalable.instrument(client) as run:
        client.submit(flood).result()
        client.submit(int, 1).result()
    kept = len(read(run, "spans.jsonl"))
    dropped = json.loads((run.run_dir / "run.json").read_bytes())["telemetry"]["dropped"]["spans"]
    assert kept + dropped == made
    assert 1_000 <= kept < made


def test_spans_of_a_run_are_in_that_run_only(make_cluster):
    cluster, first = make_cluster(n_workers=1)

    def spanned(name: str) -> None:
        with trace.get_tracer("test").start_as_current_span(name):
            pass

    with Client(cluster) as second:
        with (
            scalable.instrument(first, project="one") as one,
            scalable.instrument(second, project="two") as two,
        ):
            first.submit(spanned, "mine").result()
            second.submit(spanned, "yours").result()
            # Outside of any attempt: nobody can say whose it is.
            first.run(spanned, "everybody's")
            first.submit(int, 1).result()
            tasks.wait_until(
                lambda: all(
                    "everybody's" in {span["name"] for span in read(run, "spans.jsonl")}
                    for run in (one, two)
                )
            )
    assert {span["name"] for span in read(one, "spans.jsonl")} == {"mine", "everybody's"}
    assert {span["name"] for span in read(two, "spans.jsonl")} == {"yours", "everybody's"}
    for run in (one, two):
        assert all("dask.worker.address" in it["resource"] for it in read(run, "spans.jsonl"))


def test_a_pool_of_processes_brings_its_records_home():
    def add_pool(dask_worker: Any) -> None:
        dask_worker.executors["pool"] = ProcessPoolExecutor(1)

    def same_pool(dask_worker: Any) -> str:
        return type(dask_worker.executors["pool"]).__name__

    with (
        dask.config.set({"distributed.worker.daemon": False}),
        LocalCluster(n_workers=1, dashboard_address=":0", silence_logs=logging.CRITICAL) as cluster,
        Client(cluster) as client,
    ):
        client.run(add_pool)
        with scalable.instrument(client) as run:
            with dask.annotate(executor="pool"):
                future = client.submit(in_the_pool, 2, key="pooled")
                assert future.result() == 4
                failing = client.submit(in_the_pool, "x", key="failing")
                assert isinstance(failing.exception(), TypeError)
        assert set(client.run(same_pool).values()) == {"ProcessPoolExecutor"}
    attempt = attempt_of(run, "pooled")
    (span,) = read(run, "spans.jsonl")
    assert span["parent_span_id"] == attempt["span_id"]
    (log,) = [log for log in read(run, "logs.jsonl") if log["body"] == "in the pool 2"]
    assert log["span_id"] == span["span_id"]
    (point,) = [point for point in read(run, "metrics.jsonl") if point["name"] == "pooled"]
    assert point["value"] == 2


def in_the_pool(number: Any) -> int:
    result = number**2
    with trace.get_tracer("test").start_as_current_span("pooled"):
        logging.getLogger("of.the.user").warning("in the pool %d", number)
        metrics.get_meter("test").create_counter("pooled").add(2)
    return result


# -- metrics --------------------------------------------------------------------------------------


def measure(number: int) -> None:
    meter = metrics.get_meter("of.the.user", "1.0")
    meter.create_counter("things", "{thing}", "What was counted.").add(number, {"kind": "a"})
    meter.create_up_down_counter("open").add(number - 5)
    meter.create_histogram("sizes", "By").record(10.0 * number)
    meter.create_gauge("level").set(number)


def test_metrics_are_summed_up_and_complete_when_the_run_is_closed(make_cluster):
    _, client = make_cluster(n_workers=2)
    with scalable.instrument(client) as run:
        client.gather(client.map(measure, range(20)))
    points = read(run, "metrics.jsonl")
    last: dict[str, dict[str, Any]] = {}
    for point in points:
        last.setdefault(point["name"], {})[point["resource"]["dask.worker.address"]] = point
    total = sum(range(20))
    assert sum(point["value"] for point in last["things"].values()) == total
    assert sum(point["value"] for point in last["open"].values()) == total - 100
    assert sum(point["sum"] for point in last["sizes"].values()) == 10 * total
    assert sum(point["count"] for point in last["sizes"].values()) == 20
    assert sum(sum(point["bucket_counts"]) for point in last["sizes"].values()) == 20
    assert {point["temporality"] for point in last["things"].values()} == {"cumulative"}
    assert all(point["attributes"] == {"kind": "a"} for point in last["things"].values())
    assert all(point["unit"] == "{thing}" for point in last["things"].values())
    assert all(0 <= point["value"] < 20 for point in last["level"].values())


def test_an_instrument_made_before_the_run_counts_from_then_on(make_cluster):
    def prepare() -> None:
        worker = get_worker()
        worker.counter = metrics.get_meter("early").create_counter("early")
        worker.counter.add(1)

    def count() -> None:
        get_worker().counter.add(1)

    _, client = make_cluster(n_workers=1)
    client.submit(prepare).result()
    with scalable.instrument(client) as run:
        for _ in range(3):
            client.submit(count, pure=False).result()
    points = [point for point in read(run, "metrics.jsonl") if point["name"] == "early"]
    assert points[-1]["value"] == 3


# -- whose providers ------------------------------------------------------------------------------


def set_own() -> None:
    """As user code would: the SDK's providers, with exporters that keep what they get."""
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    worker = get_worker()
    worker.tracer = trace.get_tracer("made before")
    worker.exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(worker.exporter))
    with worker.tracer.start_as_current_span("relayed"):
        pass
    trace.set_tracer_provider(provider)
    assert trace.get_tracer_provider() is provider


def use_own() -> list[tuple[str, int]]:
    worker = get_worker()
    here = trace.get_current_span().get_span_context().span_id
    with worker.tracer.start_as_current_span("old tracer"):
        pass
    with trace.get_tracer("test").start_as_current_span("new tracer"):
        pass
    assert worker.exporter is not None
    found = [(span.name, span.parent.span_id) for span in worker.exporter.get_finished_spans()]
    assert {parent for _, parent in found} == {here}
    return found


def test_a_provider_that_user_code_sets_later_exports_from_then_on(make_cluster):
    _, client = make_cluster(n_workers=1)
    with scalable.instrument(client) as run:
        client.submit(set_own).result()
        own = client.submit(use_own).result()
    assert [name for name, _ in own] == ["old tracer", "new tracer"]
    assert [span["name"] for span in read(run, "spans.jsonl")] == ["relayed"]


def test_a_provider_that_was_there_before_is_left_alone(make_cluster):
    def before() -> None:
        worker = get_worker()
        set_own()
        worker.exporter.clear()

    _, client = make_cluster(n_workers=1)
    client.submit(before).result()
    with scalable.instrument(client) as run:
        own = client.submit(use_own).result()
    assert [name for name, _ in own] == ["old tracer", "new tracer"]
    assert read(run, "spans.jsonl") == []


def test_the_process_is_clean_when_the_run_is_over(make_cluster):
    def look(dask_worker: Any) -> dict[str, Any]:
        import opentelemetry.trace as api

        return {
            "handlers": logging.Logger.callHandlers.__module__,
            "root": len(logging.getLogger().handlers),
            "own": sorted(set(vars(dask_worker)) & {"execute"}),
            "rpc": sorted(name for name in dask_worker.handlers if "scalable" in name),
            "provider": type(api.get_tracer_provider()).__name__,
            "meters": type(metrics.get_meter_provider()).__name__,
            "loggers": type(_logs.get_logger_provider()).__name__,
            "set": api._TRACER_PROVIDER_SET_ONCE._done,
            "span": trace.get_tracer("x").start_span("nobody's").is_recording(),
        }

    def keep() -> None:
        get_worker().kept = trace.get_tracer("kept")

    def use_kept() -> bool:
        with get_worker().kept.start_as_current_span("nobody's") as span:
            return span.is_recording()

    _, client = make_cluster(n_workers=1)
    (before,) = client.run(look).values()
    with scalable.instrument(client) as run:
        client.submit(measure, 1).result()
        client.submit(keep).result()
        (during,) = client.run(look).values()
        assert during["span"]
        assert not during["set"]
    (after,) = client.run(look).values()
    assert after == before
    assert client.submit(use_kept).result() is False
    assert "nobody's" not in {span["name"] for span in read(run, "spans.jsonl")[1:]}


def test_an_applications_own_globals_are_its_own():
    before = [trace.get_tracer_provider(), metrics.get_meter_provider()]

    def look() -> list[Any]:
        return [trace.get_tracer_provider(), metrics.get_meter_provider()]

    with (
        LocalCluster(n_workers=1, processes=False, dashboard_address=":0") as cluster,
        Client(cluster) as client,
        scalable.instrument(client),
    ):
        assert client.submit(look).result() == before


# -- the logs API ---------------------------------------------------------------------------------


def test_records_of_the_logs_api_come_too(make_cluster):
    def emit() -> None:
        logger = _logs.get_logger("of.the.user", "3")
        with trace.get_tracer("test").start_as_current_span("around"):
            logger.emit(
                LogRecord(
                    timestamp=1_700_000_000_000_000_000,
                    severity_number=SeverityNumber.WARN,
                    severity_text="WARN",
                    body={"what": ["happened", 1]},
                    attributes={"token": "password=hunter2"},
                    event_name="of.the.user.event",
                )
            )

    _, client = make_cluster(n_workers=1)
    with scalable.instrument(client) as run:
        future = client.submit(emit)
        future.result()
        key = future.key
    (span,) = read(run, "spans.jsonl")
    (log,) = read(run, "logs.jsonl")
    assert (log["trace_id"], log["span_id"]) == (span["trace_id"], span["span_id"])
    assert log["body"] == {"what": ["happened", 1]}
    assert log["event_name"] == "of.the.user.event"
    assert log["severity_number"] == 13
    assert "hunter2" not in str(log["attributes"])
    assert log["attributes"]["dask.task.key"] == key


@pytest.mark.lenient
@pytest.mark.parametrize("broken", ["span_item", "encode"])
def test_a_relay_that_fails_costs_the_task_nothing(make_cluster, broken):
    def sabotage(dask_worker: Any) -> None:
        from scalable.instrumentation import relay_providers

        def fail(*args: Any) -> Any:
            raise RuntimeError("planted")

        setattr(relay_providers, broken, fail)

    _, client = make_cluster(n_workers=1)
    client.run(sabotage)
    with scalable.instrument(client) as run:
        assert client.submit(_spanned_sum, [1, 2]).result() == 3
    assert attempt_of(run, _only(oracle.lives(run.run_dir)))["state"] == "succeeded"


def _only(lives: dict[str, Any]) -> str:
    (key,) = lives
    return key


def _spanned_sum(numbers: list[int]) -> int:
    with trace.get_tracer("test").start_as_current_span("sum"):
        metrics.get_meter("test").create_counter("sums").add(1)
        return sum(numbers)
