"""Runs in applications that have an OpenTelemetry of their own: Sentry's processor, Logfire."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from scalable.telemetry import instruments, semconv
from scalable.telemetry.instrument import Instrument
from scalable_runs.reader import find_runs
from servers.harness import Collector
from servers.installed import entry_points
from servers.programs import run_program

#: Tasks with a span of the user's each; one of them fails.
BODY = """
    def traced(x):
        from opentelemetry import metrics, trace

        metrics.get_meter("of.the.user").create_counter("rows", "{row}").add(x)
        with trace.get_tracer("of.the.user").start_as_current_span("within"):
            if x == 7:
                raise ValueError("seven")
            return x

    from opentelemetry import baggage, context

    token = context.attach(baggage.set_baggage("user.name", "ann"))
    result = sum(client.gather(client.map(traced, range(12)), errors="skip"))
    context.detach(token)
"""

SENTRY = """
    import sentry_sdk
    from opentelemetry import trace
    from opentelemetry.processor.baggage import ALLOW_ALL_BAGGAGE_KEYS, BaggageSpanProcessor
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter
    from sentry_sdk.integrations.opentelemetry import SentrySpanProcessor
    from sentry_sdk.transport import Transport

    class Keep(Transport):
        def capture_envelope(self, envelope):
            with open("sentry.jsonl", "a") as file:
                for item in envelope.items:
                    print(json.dumps(item.payload.json, default=str), file=file)

        def kill(self): ...

        def flush(self, *args, **kwargs): ...

    if __name__ == "__main__":
        sentry_sdk.init(
            "http://key@127.0.0.1:9/1", transport=Keep, instrumenter="otel", traces_sample_rate=1.0
        )
        provider = TracerProvider()
        provider.add_span_processor(SentrySpanProcessor())
        provider.add_span_processor(BaggageSpanProcessor(ALLOW_ALL_BAGGAGE_KEYS))
        provider.add_span_processor(
            BatchSpanProcessor(ConsoleSpanExporter(
                out=open("spans.jsonl", "a"), formatter=lambda span: span.to_json(None) + "\\n"
            ))
        )
        trace.set_tracer_provider(provider)
"""


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_sentrys_transactions_have_all_spans_and_each_has_the_baggage(tmp_path: Path):
    pytest.importorskip("sentry_sdk")
    pytest.importorskip("opentelemetry.processor.baggage")
    done = run_program(tmp_path, BODY, setup=SENTRY)
    assert done.said["result"] == sum(range(12)) - 7
    sent = done.run.document["telemetry"]["sent"]["traces"]
    transactions = {it["transaction"]: it for it in lines(tmp_path / "sentry.jsonl")}
    assert set(transactions) == {"run work", "map traced"}
    submit = transactions["map traced"]
    children = Counter(it["description"] for it in submit["spans"])
    assert (children["traced"], children["traced (layer)"], children["within"]) == (12, 1, 12)
    assert sum(1 + len(it["spans"]) for it in transactions.values()) == sent
    inside = {it["span_id"] for it in submit["spans"]} | {submit["contexts"]["trace"]["span_id"]}
    assert {it["parent_span_id"] for it in submit["spans"]} <= inside
    spans = lines(tmp_path / "spans.jsonl")
    assert len({span["context"]["span_id"] for span in spans}) == len(spans) == sent
    named = [span["name"] for span in spans if span["attributes"].get("user.name") == "ann"]
    assert Counter(named) == {"map traced": 1, **children}
    (asked,) = [span["attributes"] for span in spans if span["name"] == "map traced"]
    assert (asked["dask.graph.tasks"], asked["dask.graph.layers"]) == (12, 1)
    failed = [it for it in spans if it["status"]["status_code"] == "ERROR"]
    assert Counter(it["name"] for it in failed) == {"traced": 1, "within": 1}


LOGFIRE = """
    import logfire
    import os
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    if __name__ == "__main__":
        to = os.environ["COLLECTOR"]
        reader = PeriodicExportingMetricReader(OTLPMetricExporter(f"{to}/v1/metrics"))
        logfire.configure(
            send_to_logfire=False,
            console=False,
            service_name="guest",
            distributed_tracing=True,
            additional_span_processors=[BatchSpanProcessor(OTLPSpanExporter(f"{to}/v1/traces"))],
            metrics=logfire.MetricsOptions(additional_readers=[reader]),
            advanced=logfire.AdvancedOptions(
                log_record_processors=[BatchLogRecordProcessor(OTLPLogExporter(f"{to}/v1/logs"))]
            ),
        )
"""


def test_logfire_gets_all_spans_records_and_metrics(collector: Collector, tmp_path: Path):
    pytest.importorskip("logfire")
    done = run_program(tmp_path, BODY, {"COLLECTOR": collector.http}, setup=LOGFIRE)
    collector.stop()
    run = done.run.document
    spans = [it for it in collector.spans() if "logfire.pending_parent_id" not in it["attributes"]]
    ids = {span["span_id"] for span in spans}
    assert len(ids) == len(spans) == run["telemetry"]["sent"]["traces"]
    names = Counter(span["name"] for span in spans)
    assert (names["traced"], names["within"]) == (12, 12)
    assert all(not span["parent_span_id"] or span["parent_span_id"] in ids for span in spans)
    (root,) = (span for span in spans if span["name"] == "run work")
    assert root["trace_id"] == done.said["trace_id"]
    assert {span["resource"]["scalable.run.id"] for span in spans} == {done.said["id"]}
    assert {span["resource"]["service.name"] for span in spans} == {"guest"}
    assert {span["attributes"]["logfire.msg"] for span in spans if span["name"] == "traced"}
    records = [it for it in collector.log_records() if "scalable.run.id" in it["attributes"]]
    assert len(records) == run["telemetry"]["sent"]["logs"]
    assert {it["attributes"]["scalable.run.id"] for it in records} == {done.said["id"]}
    rows: dict[str, float] = {}
    for point in collector.metric_points("rows"):
        assert point["attributes"][semconv.RUN_ID] == done.said["id"]
        rows[point["attributes"][semconv.WORKER_ADDRESS]] = point["value"]
    assert sum(rows.values()) == sum(range(12))


TWO_RUNS = """
from distributed import Client, LocalCluster

def work(x):
    return x

if __name__ == "__main__":
    with LocalCluster(n_workers=1, processes=False, dashboard_address=":0") as cluster:
        for _ in range(2):
            with Client(cluster) as client:
                print(len(client.gather(client.map(work, range(20), pure=False))))
"""


def test_short_runs_without_code_export_metrics_that_do_not_add_up(
    collector: Collector, tmp_path: Path
):
    (tmp_path / "app.py").write_text(TWO_RUNS)
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("OTEL_", "SCALABLE_"))}
    site = entry_points(tmp_path / "site")
    done = subprocess.run(
        [
            Path(sysconfig.get_path("scripts")) / "opentelemetry-instrument",
            sys.executable,
            "app.py",
        ],
        cwd=tmp_path,
        env={
            **environ,
            "PYTHONPATH": os.pathsep.join(filter(None, [str(site), environ.get("PYTHONPATH", "")])),
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.http,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_METRIC_EXPORT_INTERVAL": "3600000",
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    collector.stop()
    runs = find_runs(tmp_path / ".scalable" / "runs")
    assert len(runs) == 2
    last: dict[Any, float] = {}
    for point in collector.metric_points():
        attributes = point["attributes"]
        of_run = attributes.get(semconv.RUN_ID)
        rest = {v for k, v in attributes.items() if k not in (semconv.RUN_ID, semconv.PROJECT)}
        last[point["name"], of_run, frozenset(map(str, rest))] = point.get("value", 0.0)
    for run in runs:
        run_id, sent = run.document["run_id"], run.document["telemetry"]["sent"]

        def value(instrument: Instrument, *attributes: str, run_id: str = run_id) -> float:
            return last[instrument.name, run_id, frozenset(attributes)]

        assert value(instruments.TASK_ATTEMPTS, "success", "work") == 20
        assert value(instruments.TASK_COUNT, "succeeded") == 20
        assert value(instruments.WORKER_COUNT, "running") == 0
        assert value(instruments.WORKER_THREADS) == 0
        for signal, exported, queued in (
            ("traces", instruments.SPANS_EXPORTED, instruments.SPANS_QUEUED),
            ("logs", instruments.LOGS_EXPORTED, instruments.LOGS_QUEUED),
        ):
            of_run = {key: number for key, number in last.items() if key[1] == run_id}
            assert sum(of_run[key] for key in of_run if key[0] == exported.name) == sent[signal]
            assert [of_run[key] for key in of_run if key[0] == queued.name] == [0]
