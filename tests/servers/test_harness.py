"""The servers and their readers themselves, fed by OpenTelemetry's own SDK and exporters."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import SpanKind, StatusCode

from servers.harness import (
    Collector,
    Jaeger,
    Prometheus,
    Slurm,
    free_ports,
    http_get,
    wait_for,
    wait_until,
)

RESOURCE = Resource({"service.name": "harness", "some.number": 7})


@pytest.fixture
def providers() -> Iterator[Callable[..., Any]]:
    """Providers of the SDK, shut down at the end of the test."""
    with ExitStack() as stack:

        def make(kind: Callable[..., Any], **arguments: Any) -> Any:
            provider = kind(resource=RESOURCE, shutdown_on_exit=False, **arguments)
            stack.callback(provider.shutdown)
            return provider

        yield make


def http_spans(providers: Callable[..., Any], endpoint: str) -> TracerProvider:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    provider = providers(TracerProvider)
    exporter = OTLPSpanExporter(endpoint=f"{endpoint}/v1/traces")
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider


def http_metrics(providers: Callable[..., Any], endpoint: str) -> MeterProvider:
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

    exporter = OTLPMetricExporter(endpoint=f"{endpoint}/v1/metrics")
    reader = PeriodicExportingMetricReader(exporter, export_interval_millis=3_600_000)
    return providers(MeterProvider, metric_readers=[reader])


def test_collector_writes_spans_that_came_over_grpc_as_they_were(
    collector: Collector, providers: Callable[..., Any]
):
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    provider = providers(TracerProvider)
    provider.add_span_processor(
        SimpleSpanProcessor(OTLPSpanExporter(endpoint=collector.grpc, insecure=True))
    )
    tracer = provider.get_tracer("the scope")
    with tracer.start_as_current_span("parent") as parent:
        with tracer.start_as_current_span(
            "child",
            kind=SpanKind.CONSUMER,
            attributes={"text": "x", "numbers": [1, 2], "yes": True},
        ) as child:
            child.add_event("something", {"n": 1.5})
            child.set_status(StatusCode.ERROR, "broken")

    found = {span["name"]: span for span in wait_for(2, collector.spans, "spans in the file")}
    ids = child.get_span_context()
    assert found["child"] | {"start": 0, "end": 0, "flags": 0} == {
        "name": "child",
        "trace_id": f"{ids.trace_id:032x}",
        "span_id": f"{ids.span_id:016x}",
        "parent_span_id": f"{parent.get_span_context().span_id:016x}",
        "trace_state": "",
        "flags": 0,
        "kind": "consumer",
        "start": 0,
        "end": 0,
        "status": "error",
        "status_message": "broken",
        "attributes": {"text": "x", "numbers": [1, 2], "yes": True},
        "dropped_attributes": 0,
        "events": [
            {"name": "something", "time": child.events[0].timestamp, "attributes": {"n": 1.5}}
        ],
        "dropped_events": 0,
        "links": [],
        "dropped_links": 0,
        "resource": {"service.name": "harness", "some.number": 7},
        "scope": "the scope",
        "scope_attributes": {},
        "scope_schema_url": "",
        "resource_schema_url": "",
    }
    assert found["child"]["start"] == child.start_time
    assert found["parent"]["parent_span_id"] == ""


def test_prometheus_scrapes_the_collector_with_resource_labels_and_exemplars(
    collector: Collector,
    start_prometheus: Callable[..., Prometheus],
    providers: Callable[..., Any],
):
    prometheus = start_prometheus(collector.prometheus_target)
    meters = http_metrics(providers, collector.http)
    meter = meters.get_meter("the scope")
    tracer = providers(TracerProvider).get_tracer("the scope")
    meter.create_counter("some.thing", "{thing}").add(3, {"kind": "a"})
    histogram = meter.create_histogram("some.wait", "s")
    with tracer.start_as_current_span("around") as span:
        histogram.record(0.2)
    meters.force_flush()

    (point,) = wait_until(lambda: collector.metric_points("some.thing"), "the counter in the file")
    assert (point["type"], point["temporality"], point["monotonic"], point["value"]) == (
        *("sum", "cumulative", True),
        3,
    )
    (point,) = collector.metric_points("some.wait")
    assert (point["count"], point["sum"], point["unit"]) == (1, 0.2, "s")
    trace_id = f"{span.get_span_context().trace_id:032x}"
    assert [exemplar["trace_id"] for exemplar in point["exemplars"]] == [trace_id]

    (series,) = wait_until(
        lambda: prometheus.query("some_thing_total"), "the counter in Prometheus"
    )
    assert series["value"] == 3
    assert series["metric"].items() >= {"kind": "a", "service_name": "harness"}.items()
    assert prometheus.label_values("kind", "some_thing_total") == ["a"]
    (exemplar,) = wait_until(
        lambda: prometheus.exemplars("some_wait_seconds_bucket"), "the exemplar in Prometheus"
    )
    assert exemplar["labels"]["trace_id"] == trace_id
    with pytest.raises(AssertionError, match="parse error"):
        prometheus.query("sum(")


def test_logs_arrive_with_the_ids_of_their_span(
    collector: Collector, providers: Callable[..., Any]
):
    from opentelemetry._logs import LogRecord, SeverityNumber
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor

    loggers = providers(LoggerProvider)
    exporter = OTLPLogExporter(endpoint=f"{collector.http}/v1/logs")
    loggers.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    tracer = providers(TracerProvider).get_tracer("the scope")
    with tracer.start_as_current_span("around") as span:
        loggers.get_logger("the scope").emit(
            LogRecord(
                timestamp=1_700_000_000_000_000_001,
                severity_number=SeverityNumber.WARN,
                severity_text="WARNING",
                body={"text": "hello"},
                attributes={"n": 1},
                event_name="said",
            )
        )

    (record,) = wait_until(collector.log_records, "the log record in the file")
    ids = span.get_span_context()
    assert record | {"observed_time": 0, "flags": 0} == {
        "event_name": "said",
        "body": {"text": "hello"},
        "severity_number": 13,
        "severity_text": "WARNING",
        "time": 1_700_000_000_000_000_001,
        "observed_time": 0,
        "trace_id": f"{ids.trace_id:032x}",
        "span_id": f"{ids.span_id:016x}",
        "flags": 0,
        "attributes": {"n": 1},
        "resource": {"service.name": "harness", "some.number": 7},
        "scope": "the scope",
        "scope_attributes": {},
        "scope_schema_url": "",
        "resource_schema_url": "",
    }


def test_jaeger_answers_with_traces_that_a_collector_sent_on(
    jaeger: Jaeger,
    start_collector: Callable[..., Collector],
    providers: Callable[..., Any],
):
    collector = start_collector(
        exporters={"otlp/jaeger": {"endpoint": jaeger.grpc, "tls": {"insecure": True}}},
        signals=["traces"],
    )
    tracer = http_spans(providers, collector.http).get_tracer("the scope")
    with tracer.start_as_current_span("parent") as parent:
        with tracer.start_as_current_span("child") as child:
            child.set_status(StatusCode.ERROR, "broken")
    trace_id = f"{parent.get_span_context().trace_id:032x}"

    found = wait_for(2, lambda: jaeger.trace(trace_id), "spans in Jaeger")
    by_name = {span["name"]: span for span in found}
    assert by_name["child"]["parent_span_id"] == by_name["parent"]["span_id"]
    assert by_name["child"]["service"] == "harness"
    assert by_name["child"]["tags"]["error"] is True
    assert jaeger.services() == ["harness"]
    assert jaeger.search("harness") == [trace_id]
    assert jaeger.trace("f" * 32) == []


def test_collector_comes_back_on_its_ports_and_keeps_what_it_wrote(
    collector: Collector, providers: Callable[..., Any]
):
    tracer = http_spans(providers, collector.http).get_tracer("the scope")
    tracer.start_span("before").end()
    endpoint = collector.http
    wait_until(collector.spans, "the first span in the file")
    collector.kill()
    assert http_get(collector.health_url()) == (0, b"")
    collector.start()
    assert collector.http == endpoint
    tracer.start_span("after").end()
    collector.stop()
    assert [span["name"] for span in collector.spans()] == ["before", "after"]


def test_a_server_that_cannot_start_fails_the_test_with_its_own_words(
    start_collector: Callable[..., Collector],
):
    with pytest.raises(pytest.fail.Exception, match="no-such-key"):
        start_collector(exporters={"debug": {"no-such-key": 1}})


def test_validate_refuses_a_wrong_configuration(collector: Collector, tmp_path: Path):
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    text = (collector.directory / "collector.json").read_text()
    good.write_text(text)
    bad.write_text(text.replace('"receivers"', '"receiverz"', 1))
    collector.validate(good)
    with pytest.raises(AssertionError, match="receiverz"):
        collector.validate(bad)


def test_a_missing_server_skips_and_shows_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv("SCALABLE_SERVERS_CACHE", str(tmp_path))
    with pytest.raises(pytest.skip.Exception, match="`make servers`"):
        Collector(tmp_path / "collector")


def test_free_ports_are_all_different():
    ports = free_ports(50)
    assert len(set(ports)) == 50


def test_slurm_runs_a_job_and_ends_what_still_runs_with_the_test(slurm: Slurm, tmp_path: Path):
    script = tmp_path / "job.sh"
    script.write_text("#!/bin/sh\necho ran in $SLURM_JOB_PARTITION\n")
    output = tmp_path / "output.txt"
    said = subprocess.run(
        ["sbatch", f"--output={output}", script], capture_output=True, text=True, check=True
    )
    assert said.stdout.startswith("Submitted batch job ")
    wait_until(lambda: output.exists() and output.read_text(), "the job's output")
    assert output.read_text() == "ran in short\n"

    script.write_text("#!/bin/sh\nexec sleep 3600\n")
    subprocess.run(["sbatch", "--job-name=endless", script], check=True, capture_output=True)
    wait_until(
        lambda: [state for _, name, state in slurm.jobs() if name == "endless"] == ["RUNNING"],
        "the endless job to run",
    )
    # That it is gone with the test is seen after the test.
