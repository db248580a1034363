"""The same run, configured by variables, by a file and by code: a collector gets equal spans."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("opentelemetry.configuration")

from distributed import Client, LocalCluster
from opentelemetry import trace
from opentelemetry.configuration.file import (
    create_logger_provider,
    create_meter_provider,
    create_resource,
    create_tracer_provider,
    load_config_file,
)

import scalable
from scalable_runs.reader import RunReader
from scalable_runs.schema import TASKS
from servers.harness import Collector
from sites import installed

VARIABLES = {
    "OTEL_SERVICE_NAME": "floods",
    "OTEL_TRACES_SAMPLER": "parentbased_always_on",
    "OTEL_PYTHON_ID_GENERATOR": "dated",
    "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
    "OTEL_SPAN_LINK_COUNT_LIMIT": "3",
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "14",
    "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT": "2",
    "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "60",
    "OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT": "4",
}
FILE = """
file_format: "1.0"
resource: {attributes: [{name: service.name, value: floods}]}
tracer_provider:
  processors: [{batch: {exporter: {otlp_http: {endpoint: "${COLLECTOR}/v1/traces"}}}}]
  sampler: {parent_based: {root: {always_on: {}}}}
  id_generator: {dated: {}}
  limits:
    link_count_limit: 3
    attribute_count_limit: 14
    event_attribute_count_limit: 2
    attribute_value_length_limit: 60
meter_provider:
  readers: [{periodic: {exporter: {otlp_http: {endpoint: "${COLLECTOR}/v1/metrics"}}}}]
logger_provider:
  processors: [{batch: {exporter: {otlp_http: {endpoint: "${COLLECTOR}/v1/logs"}}}}]
  limits: {attribute_count_limit: 4, attribute_value_length_limit: 60}
instrumentation/development:
  python: {dask: {project: seas}}
"""


def double(x: int) -> int:
    with trace.get_tracer("mine").start_as_current_span("own work", attributes={"x": x}):
        return 2 * x


def add(*values: int) -> int:
    return sum(values)


def fail(x: int) -> None:
    raise KeyError("a long message " * 9, x)


def work(client: Client, **options: Any) -> RunReader:
    # What an earlier run computed must be computed again.
    with scalable.instrument(client, **options) as run:
        doubled = client.map(double, range(5), key="double")
        failed = client.submit(fail, 1, key="fail", pure=False)
        assert client.submit(add, *doubled, key="add").result() == 20
        assert failed.exception() is not None
        del doubled, failed
    return RunReader(run.run_dir)


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as cluster:
        with Client(cluster) as client:
            yield client


def shape(span: dict[str, Any], names: dict[str, str]) -> tuple[Any, ...]:
    """What is equal in every run: no ids, times and addresses."""
    return (
        (span["name"], span["kind"], span["status"], names.get(span["parent_span_id"])),
        tuple(sorted(span["attributes"])),
        tuple((e["name"], tuple(sorted(e["attributes"]))) for e in span["events"]),
        len(span["links"]),
        (span["dropped_attributes"], span["dropped_events"], span["dropped_links"]),
        max((len(v) for v in span["attributes"].values() if isinstance(v, str)), default=0) > 60,
        span["resource"]["service.name"],
    )


def test_variables_file_and_code_give_equal_spans(
    collector: Collector, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    installed(monkeypatch, tmp_path, "opentelemetry_id_generator", "dated = unit.test_ids:DatedIds")
    (tmp_path / "otel.yaml").write_text(FILE)
    runs: dict[str, RunReader] = {}
    with monkeypatch.context() as patch:
        for name, value in VARIABLES.items():
            patch.setenv(name, value)
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.http)
        runs["variables"] = work(client, project="seas")
    monkeypatch.setenv("COLLECTOR", collector.http)
    with monkeypatch.context() as patch:
        patch.setenv("OTEL_CONFIG_FILE", str(tmp_path / "otel.yaml"))
        runs["file"] = work(client)
    parsed = load_config_file(tmp_path / "otel.yaml")
    resource = create_resource(parsed.resource)
    providers = {
        "tracer_provider": create_tracer_provider(parsed.tracer_provider, resource),
        "meter_provider": create_meter_provider(parsed.meter_provider, resource),
        "logger_provider": create_logger_provider(parsed.logger_provider, resource),
    }
    runs["code"] = work(client, project="seas", **providers)
    for provider in providers.values():
        provider.shutdown()
    collector.stop()

    spans = collector.spans()
    points = collector.metric_points("dask.task.attempts")
    logs = collector.log_records()
    shapes: dict[str, Counter[Any]] = {}
    for way, run in runs.items():
        assert "-seas-" in run.run_id
        own = [span for span in spans if span["resource"].get("scalable.run.id") == run.run_id]
        names = {span["span_id"]: span["name"] for span in own}
        # Phases are spans only where they took a noticeable share.
        shapes[way] = Counter(
            shape(span, names) for span in own if "dask.phase.name" not in span["attributes"]
        )
        # The ids of traces are the generator's, those of attempts the directory's.
        assert {span["trace_id"][:4] for span in own} == {"6789"}
        ended = {each["span_id"] for each in run.records(TASKS) if "duration_s" in each}
        assert ended <= names.keys()
        assert len(ended) == 7
        sums: Counter[str] = Counter()
        for point in points:
            if run.run_id in (*point["resource"].values(), *point["attributes"].values()):
                key = point["attributes"]["dask.task.name"]
                sums[key] = max(sums[key], point["value"])
        assert sums == {"double": 5, "add": 1, "fail": 1}
        of_run = [log for log in logs if run.run_id in str((log["resource"], log["attributes"]))]
        assert "scalable.run.started" in {log["event_name"] for log in of_run}
        if way != "code":  # the oldest SDK that reads files has no limits of its own for these
            assert max(len(log["attributes"]) for log in of_run) <= 4
    assert shapes["variables"] == shapes["file"]
    assert shapes["variables"] == shapes["code"]
