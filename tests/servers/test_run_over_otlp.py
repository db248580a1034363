"""A whole run in a real collector: spans, metrics and log records, held against its directory."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scalable_runs.schema import FAILURES, SPANS, TASKS
from servers.harness import Collector
from servers.live_check import deviations
from servers.programs import Done, run_program

BODY = """
    doubled = client.map(double, range(30))
    total = client.submit(add, *doubled)
    flaked = client.submit(flaky, "flaked", retries=2)
    failed = client.submit(fail, 3)
    blobs = client.map(big, range(6))
    sizes = client.submit(size, *blobs)
    failed.exception(), flaked.result()  # known before a worker dies: neither is lost with it
    killed = client.submit(killer, "killed")
    result = [total.result(), flaked.result(), sizes.result(), killed.result()]
"""
#: Names of its calls.
SUBMISSIONS = {
    "map double",
    "map big",
    *(f"submit {name}" for name in ("add", "flaky", "fail", "size", "killer")),
}
RESULT = [870, "done", 18_000_015, "survived"]


def endpoint(collector: Collector, protocol: str) -> dict[str, str]:
    url = collector.grpc if protocol == "grpc" else collector.http
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}


def attempts(done: Done) -> dict[str, dict[str, Any]]:
    """The last line of every attempt in the directory, by span id."""
    ended: dict[str, dict[str, Any]] = {}
    for record in done.run.records(TASKS):
        if "span_id" in record and record["state"] not in ("submitted", "running"):
            assert record["span_id"] not in ended
            ended[record["span_id"]] = record
    return ended


def check_names(collector: Collector) -> None:
    """Everything that was received is in the registry of names."""
    spans, records = collector.spans(), collector.log_records()
    assert deviations(spans, records, collector.metric_points()) == []


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_a_run_arrives_whole(collector: Collector, tmp_path: Path, protocol: str):
    done = run_program(tmp_path, BODY, endpoint(collector, protocol))
    collector.stop()  # what it got is on disk then
    assert done.said["result"] == RESULT
    assert "WARNING scalable" not in done.stderr
    spans = collector.spans()
    by_id = {span["span_id"]: span for span in spans}
    assert len(by_id) == len(spans)
    check_names(collector)

    # Every attempt is exactly one span, with the directory's ids.
    ended = attempts(done)
    consumers = {span["span_id"]: span for span in spans if span["kind"] == "consumer"}
    assert set(consumers) == set(ended)
    for span_id, record in ended.items():
        span = consumers[span_id]
        assert span["trace_id"] == record["trace_id"]
        assert span["parent_span_id"] == record["parent_span_id"]
        assert span["attributes"]["dask.task.key"] == record["task_id"]
        assert span["attributes"]["dask.task.attempt"] == record["attempt"]
        assert (span["status"] == "error") == (record["state"] in ("failed", "retried", "lost"))

    # Nothing hangs in the air, and there is one root of the run.
    for span in spans:
        parent = span["parent_span_id"]
        assert not parent or by_id[parent]["trace_id"] == span["trace_id"]
        assert all(link["span_id"] in by_id for link in span["links"])
    (root,) = [span for span in spans if span["name"] == "run work"]
    assert root["trace_id"] == done.said["trace_id"]
    assert root["attributes"]["scalable.spans.sent"] == len(ended)
    submissions = [span for span in spans if span["kind"] == "producer"]
    assert {span["name"] for span in submissions} == SUBMISSIONS
    script = (tmp_path / "program.py").read_text().splitlines()
    for span in submissions:
        operation = span["attributes"]["dask.submission.operation"]
        line = script[span["attributes"]["code.line.number"] - 1]
        assert span["name"].startswith(f"{operation} ")
        assert f"client.{operation}(" in line
        assert span["attributes"]["code.function.name"].startswith("__main__.")
    submitted = [it for it in done.run.records(TASKS) if it["state"] == "submitted"]
    assert sum(it["attributes"]["dask.graph.tasks"] for it in submissions) == len(submitted)
    total = next(span for span in consumers.values() if span["name"] == "add")
    assert len(total["links"]) == 30

    # Failures say why.
    (failed,) = [span for span in consumers.values() if span["name"] == "fail"]
    assert failed["attributes"]["error.type"] == "KeyError"
    (event,) = failed["events"]
    assert event["name"] == "exception"
    # Where it was raised; the line itself does not travel with a function of a script.
    assert re.search(
        r", in fail\n(.*\n){0,2}KeyError: ", event["attributes"]["exception.stacktrace"]
    )
    events = Counter(event["name"] for span in spans for event in span["events"])
    assert events["dask.task.retry"] == 1
    assert events["dask.worker.lost"] >= 2  # the attempt that died with it, and the worker itself

    # Workers hang under the root.
    workers = [span for span in spans if span["name"].startswith("worker ")]
    assert len(workers) >= 2
    assert {span["parent_span_id"] for span in workers} == {root["span_id"]}
    assert "error" in {span["status"] for span in workers}

    check_metrics(collector, done)
    check_logs(collector, done, by_id)
    services = {span["resource"]["service.name"] for span in spans}
    assert services == {"work"}


def check_metrics(collector: Collector, done: Done) -> None:
    counts = done.run.summary()["counts"]
    last: dict[tuple[str, Any], dict[str, Any]] = {}
    for point in collector.metric_points():
        last[point["name"], tuple(sorted(point["attributes"].items()))] = point
    sums: Counter[str] = Counter()
    for (name, _), point in last.items():
        sums[name] += point.get("value", point.get("count"))
    assert sums["dask.task.attempts"] == counts["attempts"]
    assert sums["dask.task.retries"] == counts["tasks_retried"] + counts["tasks_lost"]
    assert sums["dask.worker.lost"] == counts["workers_lost"]
    timing = done.run.summary()["timing"]
    assert sums["dask.task.duration"] == timing["task_duration_count"]
    states = {
        dict(key)["dask.task.state"]: point["value"]
        for (name, key), point in last.items()
        if name == "dask.task.count"
    }
    assert states == {
        "waiting": 0,
        "running": 0,
        "succeeded": counts["tasks_succeeded"],
        "failed": counts["tasks_failed"],
        "cancelled": counts["tasks_cancelled"],
    }
    exemplars = [
        exemplar
        for point in last.values()
        if point["name"] == "dask.task.duration"
        for exemplar in point["exemplars"]
    ]
    ended = attempts(done)
    assert exemplars
    assert all(exemplar["span_id"] in ended for exemplar in exemplars)


def check_logs(collector: Collector, done: Done, by_id: dict[str, Any]) -> None:
    records = collector.log_records()
    names = Counter(record["event_name"] for record in records)
    assert "dask.task.state_change" not in names  # only if asked for
    assert names["dask.worker.state_change"] == done.run.summary()["counts"]["worker_events"]
    assert names["scalable.run.started"] == 1
    for record in records:
        if record["span_id"]:
            assert by_id[record["span_id"]]["trace_id"] == record["trace_id"]
    lost = [f for f in done.run.records(FAILURES) if f["failure_class"] == "WorkerLost"]
    assert names["exception"] == len(lost)  # those of attempts stand on their spans


def test_what_is_asked_for_goes_too(collector: Collector, tmp_path: Path):
    done = run_program(
        tmp_path,
        """
        futures = client.map(double, range(5))
        result = client.gather(futures)
        client.submit(fail, 3).exception()
        """,
        {
            **endpoint(collector, "http/protobuf"),
            "SCALABLE_TASK_EVENTS": "1",
            "OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN": "logs",
            "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "delta",
            "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION": (
                "base2_exponential_bucket_histogram"
            ),
            "OTEL_METRIC_EXPORT_INTERVAL": "300",
            "OTEL_METRICS_EXEMPLAR_FILTER": "always_off",
            "OTEL_SERVICE_NAME": "tides",
            "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
        },
    )
    collector.stop()
    check_names(collector)
    names = Counter(record["event_name"] for record in collector.log_records())
    assert names["dask.task.state_change"] == 2 * 6
    assert names["exception"] == 1
    spans = collector.spans()
    assert not any(span["events"] for span in spans if span["kind"] == "consumer")
    assert {span["resource"]["service.name"] for span in spans} == {"tides"}
    assert {span["resource"]["deployment.environment.name"] for span in spans} == {"test"}
    points = collector.metric_points("dask.task.duration")
    assert {point["type"] for point in points} == {"exponentialHistogram"}
    assert {point["temporality"] for point in points} == {"delta"}
    assert sum(point["count"] for point in points) == 6
    for point in points:
        assert point["zero_count"] + sum(point["positive"][1]) == point["count"]
        assert not point["exemplars"]
    attempts_made = collector.metric_points("dask.task.attempts")
    assert sum(point["value"] for point in attempts_made) == 6
    assert {p["temporality"] for p in collector.metric_points("dask.task.count")} == {"cumulative"}
    assert done.run.summary()["counts"]["attempts"] == 6


def test_the_budget_leaves_out_nothing_silently(collector: Collector, tmp_path: Path):
    done = run_program(
        tmp_path,
        """
        futures = client.map(double, range(400))
        more = client.map(add, futures)
        bad = [client.submit(fail, x) for x in range(3)]
        result = sum(client.gather(more))
        [future.exception() for future in bad]
        """,
        {**endpoint(collector, "http/protobuf"), "SCALABLE_SPAN_BUDGET": "50"},
    )
    collector.stop()
    check_names(collector)
    assert done.said["result"] == 400 * 399
    spans = collector.spans()
    by_id = {span["span_id"]: span for span in spans}
    ended = attempts(done)
    sent = [span for span in spans if span["kind"] == "consumer"]
    rollups = [span for span in spans if "dask.rollup.count" in span["attributes"]]
    assert {span["span_id"] for span in sent} <= set(ended)
    assert max(Counter(span["trace_id"] for span in sent).values()) <= 50
    left_out = sum(span["attributes"]["dask.rollup.count"] for span in rollups)
    assert len(sent) + left_out == len(ended) == 803
    for span in rollups:
        values = span["attributes"]
        assert sum(values["dask.rollup.duration.bucket_counts"]) == values["dask.rollup.count"]
        assert values["dask.rollup.duration.min"] <= values["dask.rollup.duration.max"]
    exemplars = [
        exemplar for point in collector.metric_points() for exemplar in point.get("exemplars", ())
    ]
    assert exemplars
    assert {exemplar["span_id"] for exemplar in exemplars} <= set(by_id)
    (root,) = [span for span in spans if span["name"] == "run work"]
    assert root["attributes"]["scalable.spans.sent"] == len(sent)
    assert root["attributes"]["scalable.spans.summarized"] == left_out
    for span in spans:
        assert not span["parent_span_id"] or span["parent_span_id"] in by_id
        assert all(link["span_id"] in by_id for link in span["links"])
    # All that failed, and the slowest of each trace.
    failed = {span_id for span_id, record in ended.items() if record["state"] == "failed"}
    assert failed <= {span["span_id"] for span in sent}
    assert {span["name"] for span in sent} == {"double", "add", "fail"}


def test_a_sampler_decides_on_traces_and_not_on_the_directory(collector: Collector, tmp_path: Path):
    done = run_program(
        tmp_path,
        """
        result = client.gather(client.map(double, range(5)))
        client.submit(fail, 3).exception()
        """,
        {**endpoint(collector, "http/protobuf"), "OTEL_TRACES_SAMPLER": "always_off"},
    )
    collector.stop()
    check_names(collector)
    assert collector.spans() == []
    assert len(attempts(done)) == 6
    # There is no span that says why it failed.
    (failure,) = [it for it in collector.log_records() if it["event_name"] == "exception"]
    assert failure["attributes"]["dask.task.key"].startswith("fail-")
    assert "KeyError" in failure["attributes"]["exception.stacktrace"]
    assert collector.metric_points("dask.task.attempts")


def test_what_is_submitted_where_instrumentation_is_suppressed_is_sent_nowhere(
    collector: Collector, tmp_path: Path
):
    done = run_program(
        tmp_path,
        """
        from opentelemetry.instrumentation.utils import suppress_instrumentation

        client.submit(fail, "seen").exception()
        with suppress_instrumentation():
            quiet = client.submit(noisy, 1)
            client.submit(fail, "unseen").exception()
        result = [quiet.result(), client.submit(noisy, 10).result()]
        """,
        {**endpoint(collector, "http/protobuf"), "SCALABLE_TASK_EVENTS": "1"},
        setup="""
        from opentelemetry import context, trace

        def leaf(x):
            return x

        def noisy(x):
            from distributed import worker_client

            tracer = trace.get_tracer("of.the.user")
            with tracer.start_as_current_span("below"), worker_client() as other:
                logging.getLogger("of.the.user").warning("at %d", x)
                other.submit(leaf, x).result()
            tracer.start_span("apart", context.Context()).end()
            return x
        """,
    )
    collector.stop()
    assert done.said["result"] == [1, 10]
    ended = attempts(done)
    assert Counter(record["task_name"] for record in ended.values()) == {
        "noisy": 2,
        "leaf": 2,
        "fail": 2,
    }
    assert Counter(
        record["name"] for record in done.run.records(SPANS) if record["name"] in ("below", "apart")
    ) == {"below": 2, "apart": 2}
    spans = collector.spans()
    sent = {span["span_id"] for span in spans if span["kind"] == "consumer"}
    assert Counter(ended[span_id]["task_name"] for span_id in sent) == {
        "noisy": 1,
        "leaf": 1,
        "fail": 1,
    }
    assert Counter(span["name"] for span in spans)["apart"] == 1
    unseen = {record["task_id"] for span_id, record in ended.items() if span_id not in sent}
    logs = collector.log_records()
    assert {record["body"] for record in logs if record["scope"] == "of.the.user"} == {"at 10"}
    assert not [it for it in logs if it["attributes"].get("dask.task.key") in unseen]
    assert not [span for span in spans if span["attributes"].get("dask.task.key") in unseen]


def test_an_attempt_that_runs_is_seen_before_it_ends(
    start_collector: Callable[..., Collector], tmp_path: Path
):
    collector = start_collector()
    done = run_program(
        tmp_path,
        """
        future = client.submit(wait, "seen")
        while "(running)" not in open(traces).read() if os.path.exists(traces) else True:
            time.sleep(0.05)
        open("seen", "w").close()
        result = future.result()
        """,
        {
            **endpoint(collector, "http/protobuf"),
            "SCALABLE_RUNNING_AFTER": "0.2",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        },
        setup=f"""
        traces = {str(collector.directory / "traces.jsonl")!r}
        def wait(path):
            while not os.path.exists(path):
                time.sleep(0.05)
            return "waited"
        """,
    )
    collector.stop()
    check_names(collector)
    assert done.said["result"] == "waited"
    spans = collector.spans()
    (marker,) = [span for span in spans if span["name"] == "wait (running)"]
    (attempt,) = [span for span in spans if span["kind"] == "consumer"]
    assert marker["attributes"]["dask.task.span_id"] == attempt["span_id"]
    assert marker["parent_span_id"] == attempt["parent_span_id"]
    assert marker["end"] < attempt["end"]


COUNTING = """
from opentelemetry import metrics
def count(x):
    metrics.get_meter("of.the.user").create_counter("rows").add(x)
    return x
"""


def test_exemplars_of_what_is_not_sent_name_no_span(collector: Collector, tmp_path: Path):
    done = run_program(
        tmp_path,
        "result = sum(client.gather(client.map(count, range(1, 4))))",
        {
            **endpoint(collector, "http/protobuf"),
            "SCALABLE_SPAN_BUDGET": "0",
            "OTEL_METRICS_EXEMPLAR_FILTER": "always_on",
        },
        setup=COUNTING,
    )
    collector.stop()
    assert done.said["result"] == 6
    assert not [span for span in collector.spans() if span["kind"] == "consumer"]
    for name in ("rows", "dask.task.duration"):
        points = collector.metric_points(name)
        exemplars = [exemplar for point in points for exemplar in point["exemplars"]]
        assert exemplars, name
        assert {(it["trace_id"], it["span_id"]) for it in exemplars} == {("", "")}
