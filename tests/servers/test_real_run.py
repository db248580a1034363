"""A real run, seen where a person looks: on every panel of every dashboard, and in Jaeger.

The run is :mod:`servers.bad_day`. It sends to the collector of ``grafana.yaml`` as it is; Jaeger
takes Tempo's place behind it, another collector Loki's, and Prometheus scrapes it.
"""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from servers.harness import (
    TIMEOUT,
    Collector,
    ConfiguredCollector,
    Jaeger,
    Prometheus,
    wait_for,
    wait_until,
)

CONFIG = Path(__file__).parents[2] / "collector-config"
DASHBOARDS = {
    path.stem: json.loads(path.read_text()) for path in CONFIG.glob("grafana/dashboards/*.json")
}


class World(NamedTuple):
    """A run that goes on, and the servers that hear of it."""

    directory: Path
    run_id: str
    run_dir: Path
    process: subprocess.Popen[str]
    collector: ConfiguredCollector
    jaeger: Jaeger
    loki: Collector
    prometheus: Prometheus


@pytest.fixture(scope="module")
def going(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The run after its worst moment, while it goes on."""
    base = tmp_path_factory.mktemp("real-run")
    with ExitStack() as stack:

        def started(server: Any) -> Any:
            stack.callback(server.stop)
            server.start()
            return server

        jaeger = started(Jaeger(base / "jaeger"))
        loki = started(Collector(base / "loki", signals=["logs"]))
        behind = {"TEMPO_ENDPOINT": jaeger.grpc, "LOKI_ENDPOINT": loki.http}
        collector = started(
            ConfiguredCollector(base / "collector", CONFIG / "grafana.yaml", behind)
        )
        pages = [f"127.0.0.1:{collector.port(port)}" for port in (9464, 8888)]
        prometheus = started(Prometheus(base / "prometheus", pages))

        output = stack.enter_context((base / "output.txt").open("w+"))
        process = subprocess.Popen(
            [sys.executable, "-m", "servers.bad_day", str(base)],
            cwd=base,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                "OTEL_EXPORTER_OTLP_ENDPOINT": collector.grpc,
                "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
                "OTEL_METRIC_EXPORT_INTERVAL": "500",
                "OTEL_BSP_SCHEDULE_DELAY": "500",
                # Failures as log records too, besides the events of their spans.
                "OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN": "logs/dup",
            },
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
        )
        stack.callback(_finish, process, base)

        def under_way() -> bool:
            assert process.poll() is None, (base / "output.txt").read_text()
            return (base / "going").exists()

        wait_until(under_way, "the run to be under way", 2 * TIMEOUT)
        found = re.search(r"^(run-\S+) (/.*)$", (base / "output.txt").read_text(), re.MULTILINE)
        assert found is not None
        yield World(base, found[1], Path(found[2]), process, collector, jaeger, loki, prometheus)


def _finish(process: subprocess.Popen[str], directory: Path) -> int:
    (directory / "stop").touch()
    try:
        return process.wait(TIMEOUT)
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def ended(going: World) -> World:
    """The same run, ended in good order."""
    assert _finish(going.process, going.directory) == 0, (
        going.directory / "output.txt"
    ).read_text()
    return going


def queries() -> list[Any]:
    """Every query to Prometheus of every panel."""
    found: list[Any] = []
    for name, dashboard in DASHBOARDS.items():
        for panel in dashboard["panels"]:
            for target in panel.get("targets", ()):
                if target["datasource"]["type"] == "prometheus":
                    label = f"{name}: {panel['title']} {target['refId']}"
                    found.append(pytest.param(target, id=label))
    return found


def filled_in(text: str, run_id: str) -> str:
    """A query with the variables that Grafana fills in."""
    for variable, value in {
        "$service": ".+",
        "$run": run_id,
        "$task": ".+",
        "$worker": ".+",
        "$__rate_interval": "6s",
        "$__rate_interval_ms": "6000",
        "$__interval": "6s",
        "$__range": "10m",
    }.items():
        text = re.sub(rf"{re.escape(variable)}\b", value, text)
    assert "$" not in text, text
    return text


@pytest.mark.parametrize("target", queries())
def test_a_query_of_a_panel_is_answered_with_data(going: World, target: dict[str, Any]):
    expression = filled_in(target["expr"], going.run_id)

    def numbers() -> list[float]:
        if target.get("instant"):
            return [s["value"] for s in going.prometheus.query(expression) if _is(s["value"])]
        now = time.time()
        series = going.prometheus.query_range(expression, now - 60, now, 1)
        return [value for one in series for _, value in one["values"] if _is(value)]

    found = wait_until(numbers, f"data for {expression}")
    assert all(value >= 0 for value in found)


@pytest.mark.parametrize(
    "mark", DASHBOARDS["run"]["annotations"]["list"], ids=lambda it: it["name"]
)
def test_a_mark_is_set_where_something_happened(going: World, mark: dict[str, Any]):
    expression = filled_in(mark["expr"], going.run_id)

    def marked() -> list[dict[str, Any]]:
        now = time.time()
        return going.prometheus.query_range(expression, now - 300, now, 1)

    for series in wait_until(marked, f"data for {expression}"):
        words = re.findall(r"\{\{(\w+)\}\}", mark["titleFormat"] + mark["textFormat"])
        assert words
        assert set(words) <= set(series["metric"])
        # No mark is repeated while the run goes on.
        assert len(series["values"]) <= 7


def _is(value: float) -> bool:
    return not math.isnan(value)


@pytest.mark.parametrize("name", sorted(DASHBOARDS))
def test_the_variables_of_a_dashboard_offer_what_there_is(going: World, name: str):
    for variable in DASHBOARDS[name]["templating"]["list"]:
        if variable["type"] != "query":
            continue
        found = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"])
        assert found is not None
        series, label = filled_in(found[1], going.run_id), found[2]
        offered = wait_until(
            lambda label=label, series=series: going.prometheus.label_values(label, series),
            f"values of {label}",
        )
        if variable["name"] == "run":
            assert offered == [going.run_id]
        if variable["name"] == "service":
            assert offered == ["bad-day"]
        if variable["name"] == "task":
            assert {"numbers", "combine", "never", "sometimes"} <= set(offered)


def test_exemplars_lead_from_a_duration_to_a_trace_of_the_run(going: World):
    found = wait_until(
        lambda: going.prometheus.exemplars("dask_task_duration_seconds_bucket"), "exemplars"
    )
    trace_id = found[-1]["labels"]["trace_id"]
    spans = wait_until(lambda: going.jaeger.trace(trace_id), "the trace of an exemplar")
    assert any("dask.task.name" in span["tags"] for span in spans)


def test_series_of_a_run_stay_few(going: World):
    series = going.prometheus.query(f'count by (__name__) ({{scalable_run_id="{going.run_id}"}})')
    names, workers = 6, 4
    # As the documentation has it: by run, by task name, by worker.
    assert 100 < sum(one["value"] for one in series) < 60 + 110 * names + 8 * workers


def test_jaeger_has_every_attempt_once_below_what_submitted_it(ended: World):
    tasks = [json.loads(line) for line in (ended.run_dir / "tasks.jsonl").open()]
    attempts = {
        (line["trace_id"], line["span_id"]): line
        for line in tasks
        if line["state"] in ("succeeded", "failed", "retried", "lost")
        and line.get("span_id")
        and line["attempt"]
    }
    traces = {trace for trace, _ in attempts}
    found = wait_for(
        len(attempts),
        lambda: [
            span
            for trace in traces
            for span in ended.jaeger.trace(trace)
            if (span["trace_id"], span["span_id"]) in attempts
        ],
        "attempts in Jaeger",
    )
    counted = Counter((span["trace_id"], span["span_id"]) for span in found)
    assert set(counted.values()) == {1}
    known = {span["span_id"] for trace in traces for span in ended.jaeger.trace(trace)}
    for span in found:
        line = attempts[span["trace_id"], span["span_id"]]
        assert span["parent_span_id"] in known
        assert span["service"] == "bad-day"
        assert span["tags"]["dask.task.key"] == line["task_id"]
        assert span["tags"].get("error", False) is (line["state"] != "succeeded")
    failed = [span for span in found if span["tags"]["dask.task.name"] == "never"]
    assert failed
    for span in failed:
        assert span["tags"]["error.type"] == "ValueError"
        (exception,) = [log for log in span["logs"] if log["event"] == "exception"]
        assert exception["exception.type"] == "ValueError"
        assert "is wrong" in exception["exception.stacktrace"]


def test_jaeger_finds_failures_by_a_search(ended: World):
    # Not `error=true`: the store in memory compares that with a boolean, and the API reads a
    # text.
    tags = json.dumps({"error.type": "ValueError"})
    assert ended.jaeger.search("bad-day", operation="never", tags=tags)


def test_the_root_of_the_run_is_a_trace_of_its_own_with_its_workers(ended: World):
    trace_id = json.loads((ended.run_dir / "run.json").read_text())["trace_id"]
    spans = wait_until(lambda: ended.jaeger.trace(trace_id), "the trace of the run")
    (root,) = [span for span in spans if not span["parent_span_id"]]
    assert root["name"] == "run bad-day"
    assert root["tags"]["scalable.run.status"] == "completed"
    workers = [span for span in spans if "dask.worker.address" in span["tags"]]
    assert len({span["tags"]["dask.worker.address"] for span in workers}) >= 4


def test_failures_reach_the_place_of_loki_with_the_ids_of_their_attempts(ended: World):
    records = wait_until(
        lambda: [
            record
            for record in ended.loki.log_records()
            if record["attributes"].get("exception.type") == "ValueError"
        ],
        "records of failures",
    )
    failed = {
        (line["trace_id"], line["span_id"])
        for line in map(json.loads, (ended.run_dir / "tasks.jsonl").open())
        if line["state"] == "failed"
    }
    assert {(record["trace_id"], record["span_id"]) for record in records} == failed
    assert all(record["severity_number"] >= 13 for record in records)


def test_what_tasks_logged_reaches_the_place_of_loki_inside_their_attempts(ended: World):
    records = wait_until(
        lambda: [
            record
            for record in ended.loki.log_records()
            if str(record["body"]).startswith("giving up on ")
        ],
        "records that tasks logged",
    )
    attempts = {
        (line["trace_id"], line["span_id"])
        for line in map(json.loads, (ended.run_dir / "tasks.jsonl").open())
        if line["state"] == "failed"
    }
    assert {(record["trace_id"], record["span_id"]) for record in records} == attempts
    assert {record["severity_text"] for record in records} <= {"WARN", "WARNING"}


#: What Jaeger adds, or calls otherwise.
JAEGERS_OWN = {
    "error",
    "internal.span.format",
    "otel.scope.name",
    "otel.scope.version",
    "otel.status_code",
    "otel.status_description",
    "span.kind",
    "w3c.tracestate",
    "event",
}


def test_every_attribute_that_a_run_sends_is_documented(ended: World):
    page = (CONFIG.parent / "docs" / "opentelemetry.md").read_text()
    documented = {word for code in re.findall(r"`([^`\n]+)`", page) for word in code.split()}
    sent: set[str] = set()
    lines = map(json.loads, (ended.run_dir / "tasks.jsonl").open())
    for trace_id in {line["trace_id"] for line in lines if "trace_id" in line}:
        for span in ended.jaeger.trace(trace_id):
            sent.update(span["tags"])
            sent.update(key for log in span["logs"] for key in log)
    for record in ended.loki.log_records():
        sent.update(record["attributes"])
    # Names of arguments follow that of a template.
    named = {name for name in sent if name.startswith("dask.task.input.")}
    assert named
    assert "dask.task.input" in documented
    assert sent - named - documented - JAEGERS_OWN == set()
