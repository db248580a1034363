"""What user code records in workers, in a real collector and in Jaeger: below its attempt, once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from scalable_runs.schema import TASKS
from servers.harness import Collector, Jaeger, wait_until
from servers.programs import run_program

BODY = """
    import logging
    from opentelemetry import baggage, context, metrics, trace

    def inner(x):
        with trace.get_tracer("of.the.user").start_as_current_span("inner"):
            return x

    def outer(x):
        from distributed import worker_client

        metrics.get_meter("of.the.user").create_counter("rows", "{row}").add(x)
        with trace.get_tracer("of.the.user").start_as_current_span("outer", attributes={"x": x}):
            logging.getLogger("of.the.user").warning("at %d", x)
            with worker_client() as other:
                return other.submit(inner, x).result()

    result = client.gather(client.map(outer, range(1, 5)))
"""


def check_spans(spans: list[dict[str, Any]], attempts: dict[str, dict[str, Any]]) -> None:
    by_id = {span["span_id"]: span for span in spans}
    assert len(by_id) == len(spans)
    mine = [span for span in spans if span["name"] in ("outer", "inner")]
    own = [span for span in mine if span["span_id"] not in attempts]
    assert Counter(span["name"] for span in own) == {"outer": 4, "inner": 4}
    for span in own:
        above = span["parent_span_id"]
        assert attempts[above]["task_name"] == span["name"]
        assert by_id[above]["trace_id"] == span["trace_id"]
        if span["name"] == "inner":
            # The nested attempt hangs below its submission, and that below the span that was open
            # where it was sent.
            submission = by_id[by_id[above]["parent_span_id"]]
            assert submission["name"] == "submit inner"
            sender = by_id[submission["parent_span_id"]]
            assert sender["name"] == "outer"
            assert sender["span_id"] not in attempts


def test_spans_records_and_metrics_of_user_code_reach_the_collector(
    collector: Collector, tmp_path: Path
):
    done = run_program(
        tmp_path,
        BODY,
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.http,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        },
    )
    collector.stop()
    assert done.said["result"] == [1, 2, 3, 4]
    attempts = {it["span_id"]: it for it in done.run.records(TASKS) if it["state"] == "succeeded"}
    spans = collector.spans()
    check_spans(spans, attempts)
    outer = {
        span["span_id"]: span
        for span in spans
        if span["name"] == "outer" and span["span_id"] not in attempts
    }
    records = [it for it in collector.log_records() if it["scope"] == "of.the.user"]
    assert sorted(record["body"] for record in records) == [f"at {x}" for x in range(1, 5)]
    assert {record["span_id"] for record in records} == set(outer)
    last: dict[str, float] = {}
    for point in collector.metric_points("rows"):
        last[point["resource"]["service.instance.id"]] = point["value"]
    assert sum(last.values()) == 10
    workers = {record["worker"] for record in attempts.values()}
    assert {span["resource"]["dask.worker.address"] for span in outer.values()} <= workers
    assert {span["resource"]["service.name"] for span in spans} == {"work"}


def test_jaeger_shows_the_users_span_below_its_attempt(jaeger: Jaeger, tmp_path: Path):
    done = run_program(
        tmp_path,
        BODY,
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": jaeger.http,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_METRICS_EXPORTER": "none",
            "OTEL_LOGS_EXPORTER": "none",
        },
    )
    attempts = {it["span_id"]: it for it in done.run.records(TASKS) if it["state"] == "succeeded"}
    (trace_id,) = {record["trace_id"] for record in attempts.values()}
    wait_until(lambda: len(jaeger.trace(trace_id)) >= 17, "16 spans of tasks and their parent")
    check_spans(jaeger.trace(trace_id), attempts)
