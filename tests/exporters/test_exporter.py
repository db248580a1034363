"""The exporters in an OpenTelemetry SDK, with a writer of their own and with the shared run."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.context import Context
from opentelemetry.sdk._logs import LoggerProvider, ReadableLogRecord
from opentelemetry.sdk._logs.export import (
    BatchLogRecordProcessor,
    LogRecordExportResult,
    SimpleLogRecordProcessor,
)
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    MetricExportResult,
    MetricsData,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    SimpleSpanProcessor,
    SpanExportResult,
)
from store_world import create, read

from scalable_runs import schema
from scalable_runs.otel.exporter import RunsLogExporter, RunsMetricExporter, RunsSpanExporter
from scalable_runs.otel.record_map import RecordMap
from scalable_runs.otel.shared_run import shared_run
from scalable_runs.reader import RunReader, find_runs
from scalable_runs.schema import LOGS, METRICS, SPANS, TASKS

OWN = Resource({"service.name": "My Service / 2"})
MAP = RecordMap(route="r", fields={"task": {"key": "task_id"}})


@pytest.fixture(autouse=True)
def no_shared_run_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("SCALABLE_RUNS_DIR", str(tmp_path / "shared"))
    yield
    assert shared_run.writer is None
    assert not shared_run._users


def bare_span(**attributes: Any) -> ReadableSpan:
    return ReadableSpan("s", resource=OWN, attributes=attributes, start_time=1, end_time=2)


def bare_log(**attributes: Any) -> ReadableLogRecord:
    record = LogRecord(timestamp=1, context=Context(), attributes=attributes)
    return ReadableLogRecord(record, OWN)


def test_what_an_exporter_was_given_is_in_the_kernels_hands_when_export_returns(
    tmp_path: Path,
) -> None:
    writer = create(tmp_path, sync_interval=10)
    told: list[tuple[str, Sequence[Any]]] = []
    spans = RunsSpanExporter(
        writer, record_map=MAP, on_records=lambda file, records: told.append((file, list(records)))
    )
    logs = RunsLogExporter(writer, record_map=MAP)
    batch = [bare_span(r="task", key="a"), bare_span(), bare_span(r="task", key="b")]
    assert spans.export(batch) is SpanExportResult.SUCCESS
    assert logs.export([bare_log(r="task", key="c")]) is LogRecordExportResult.SUCCESS
    assert [record["task_id"] for record in read(writer.path)[0]] == ["a", "b", "c"]
    assert len(read(writer.path, SPANS)[0]) == 1
    assert [(file, len(records)) for file, records in told] == [(TASKS, 2), (SPANS, 1)]
    assert spans.force_flush()
    assert logs.force_flush()
    spans.shutdown()
    assert spans.export(batch) is SpanExportResult.FAILURE
    # The writer is the caller's: an exporter does not close it.
    assert logs.export([bare_log()]) is LogRecordExportResult.SUCCESS
    logs.shutdown()
    writer.close(status="completed")
    assert RunReader(writer.path).status == "completed"


def test_who_exports_in_small_pieces_flushes_by_himself(tmp_path: Path) -> None:
    writer = create(tmp_path, sync_interval=10)
    spans = RunsSpanExporter(writer, record_map=MAP, flush_on_export=False)
    assert spans.export([bare_span(r="task", key="a")]) is SpanExportResult.SUCCESS
    assert spans.export([bare_span(r="task", key="b")]) is SpanExportResult.SUCCESS
    assert read(writer.path)[0] == []
    assert spans.force_flush()
    assert [record["task_id"] for record in read(writer.path)[0]] == ["a", "b"]
    writer.close(status="completed")


def test_nothing_to_export_is_a_success(tmp_path: Path) -> None:
    spans, logs, metrics = RunsSpanExporter(), RunsLogExporter(), RunsMetricExporter()
    assert spans.export([]) is SpanExportResult.SUCCESS
    assert logs.export([]) is LogRecordExportResult.SUCCESS
    assert metrics.export(MetricsData([])) is MetricExportResult.SUCCESS
    for exporter in (spans, logs, metrics):
        exporter.force_flush()
        exporter.shutdown()
        exporter.shutdown()
    assert find_runs(tmp_path / "shared") == []


def test_one_malformed_signal_does_not_take_its_batch_with_it(tmp_path: Path) -> None:
    class Malformed:
        resource = OWN

        @property
        def attributes(self) -> Any:
            raise RuntimeError("hostile")

    told: list[str] = []
    writer = create(tmp_path, on_problem=lambda problem: told.append(problem.kind))
    spans = RunsSpanExporter(writer)
    batch: Any = [bare_span(n=1), Malformed(), bare_span(n=3)]
    assert spans.export(batch) is SpanExportResult.SUCCESS
    assert spans.export([batch[1]]) is SpanExportResult.FAILURE
    writer.close()
    assert [record["attributes"]["n"] for record in read(writer.path, SPANS)[0]] == [1, 3]
    assert writer.errors == {"encode:RuntimeError": 2}
    assert told == ["encode:RuntimeError"]


def test_a_raising_listener_loses_nothing(tmp_path: Path) -> None:
    def listener(file: str, records: Sequence[Any]) -> None:
        raise RuntimeError("listener")

    writer = create(tmp_path)
    spans = RunsSpanExporter(writer, on_records=listener)
    assert spans.export([bare_span()]) is SpanExportResult.SUCCESS
    writer.close()
    assert len(read(writer.path, SPANS)[0]) == 1
    assert writer.errors == {"on_records:RuntimeError": 1}


def test_export_into_a_closed_run_is_a_failure_and_no_error(tmp_path: Path) -> None:
    writer = create(tmp_path)
    writer.close()
    assert RunsSpanExporter(writer).export([bare_span()]) is SpanExportResult.FAILURE
    assert writer.losses == {SPANS: 1}


def test_the_shared_run_has_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_PWD", "a-value-that-is-known")
    resource = Resource({"service.name": "service", "team": "a-value-that-is-known"})
    tracing = TracerProvider(resource=resource)
    tracing.add_span_processor(SimpleSpanProcessor(RunsSpanExporter()))
    attributes = {"db.password": "any", "text": "a-value-that-is-known"}
    with tracing.get_tracer("t").start_as_current_span(
        "GET /?token=ab12cd34", attributes=attributes
    ):
        pass
    tracing.shutdown()
    (run,) = find_runs(tmp_path / "shared")
    (span,) = run.records(SPANS)
    assert span["name"] == "GET /?token=[redacted]"
    assert span["attributes"] == {"db.password": "[redacted]", "text": "[redacted]"}
    assert "a-value-that-is-known" not in (run.path / "run.json").read_text()


def test_a_whole_sdk_with_all_three_signals_writes_one_shared_run(tmp_path: Path) -> None:
    tracing = TracerProvider(resource=OWN)
    tracing.add_span_processor(BatchSpanProcessor(RunsSpanExporter()))
    logging_ = LoggerProvider(resource=OWN)
    logging_.add_log_record_processor(BatchLogRecordProcessor(RunsLogExporter()))
    metering = MeterProvider(
        [PeriodicExportingMetricReader(RunsMetricExporter(), export_interval_millis=3_600_000)],
        resource=OWN,
    )
    with tracing.get_tracer("t").start_as_current_span("work", attributes={"a": 1}) as span:
        logger = logging_.get_logger("l")
        logger.emit(LogRecord(body="hello", severity_number=SeverityNumber.INFO, timestamp=5))
        metering.get_meter("m").create_counter("c", unit="1").add(3, {"k": "v"})
    assert tracing.force_flush()
    assert logging_.force_flush()
    assert metering.force_flush()
    (run,) = find_runs(tmp_path / "shared")
    assert run.is_live
    tracing.shutdown()
    logging_.shutdown()
    assert find_runs(tmp_path / "shared")[0].is_live
    metering.shutdown()

    (run,) = find_runs(tmp_path / "shared")
    assert run.status == "completed"
    assert run.finished_at is not None
    assert "-My-Service-2-" in run.run_id
    assert run.document["project_name"] == "My Service / 2"
    assert run.document["environment"]["resource"] == {"service.name": "My Service / 2"}
    (span_record,) = run.records(SPANS)
    (log_record,) = run.records(LOGS)
    assert span_record["name"] == "work"
    assert "resource" not in span_record
    assert log_record["body"] == "hello"
    assert log_record["trace_id"] == span_record["trace_id"]
    assert log_record["span_id"] == f"{span.get_span_context().span_id:016x}"
    # One collection when it was flushed, one at shutdown.
    assert [record["value"] for record in run.records(METRICS)] == [3, 3]
    assert run.problems == {}
    assert {file.name for file in run.path.iterdir()} >= {
        *schema.JOURNALS,
        schema.MANIFEST,
        schema.PLAN,
        schema.LOCK,
        schema.RUN,
        schema.SUMMARY,
    }
    summary = run.summary()
    assert summary is not None
    assert summary["counts"]["task_events"] == 0


def test_the_mapping_of_a_configuration_file_names_the_shared_run(tmp_path: Path) -> None:
    mapping = {"runs_dir": str(tmp_path / "elsewhere"), "project": "tides"}
    spans, logs = RunsSpanExporter(**mapping), RunsLogExporter(runs_dir=tmp_path / "third")
    assert spans.export([bare_span()]) is SpanExportResult.SUCCESS
    assert logs.export([bare_log()]).name == "SUCCESS"
    spans.shutdown()
    logs.shutdown()
    (run,) = find_runs(tmp_path / "elsewhere")
    assert "-tides-" in run.run_id
    assert len(list(run.records(SPANS))) == len(list(run.records(LOGS))) == 1
    # The next shared run is described by its own exporters.
    plain = RunsSpanExporter()
    plain.export([bare_span()])
    plain.shutdown()
    (run,) = find_runs(tmp_path / "shared")
    assert "-My-Service-2-" in run.run_id
    writer = create(tmp_path / "own")
    with pytest.raises(ValueError, match="there is a writer"):
        RunsSpanExporter(writer, project="tides")
    writer.close()


def test_exporters_made_after_the_shared_run_was_closed_make_another(tmp_path: Path) -> None:
    for _ in range(2):
        spans = RunsSpanExporter()
        spans.export([bare_span()])
        spans.shutdown()
    runs = find_runs(tmp_path / "shared")
    assert [run.status for run in runs] == ["completed", "completed"]


def test_a_signal_of_another_resource_carries_it(tmp_path: Path) -> None:
    spans = RunsSpanExporter()
    other = ReadableSpan("o", resource=Resource({"service.name": "other"}), start_time=1)
    spans.export([bare_span(), other])
    spans.shutdown()
    (run,) = find_runs(tmp_path / "shared")
    first, second = run.records(SPANS)
    assert "resource" not in first
    assert second["resource"] == {"service.name": "other"}


def test_a_shared_run_that_cannot_be_made_is_a_failure_and_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(shared_run, "_warned", False)
    (tmp_path / "shared").write_text("in the way")
    spans = RunsSpanExporter()
    with caplog.at_level(logging.WARNING):
        assert spans.export([bare_span()]) is SpanExportResult.FAILURE
        assert spans.export([bare_span()]) is SpanExportResult.FAILURE
    assert len(caplog.records) == 1
    assert "not recorded" in caplog.text
    (tmp_path / "shared").unlink()
    assert spans.export([bare_span()]) is SpanExportResult.SUCCESS
    spans.shutdown()


def test_a_forked_child_makes_a_run_of_its_own(tmp_path: Path) -> None:
    spans = RunsSpanExporter()
    spans.export([bare_span(who="parent")])
    child = os.fork()
    if child == 0:
        spans.export([bare_span(who="child")])
        spans.shutdown()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    spans.export([bare_span(who="parent")])
    spans.shutdown()
    runs = find_runs(tmp_path / "shared")
    told = {tuple(r["attributes"]["who"] for r in run.records(SPANS)): run.status for run in runs}
    assert told == {("parent", "parent"): "completed", ("child",): "completed"}


def test_an_sdk_with_simple_processors_writes_as_things_happen(tmp_path: Path) -> None:
    writer = create(tmp_path, sync_interval=10)
    tracing = TracerProvider(resource=OWN)
    tracing.add_span_processor(SimpleSpanProcessor(RunsSpanExporter(writer, record_map=MAP)))
    logging_ = LoggerProvider(resource=OWN)
    logging_.add_log_record_processor(
        SimpleLogRecordProcessor(RunsLogExporter(writer, record_map=MAP))
    )
    with tracing.get_tracer("t").start_as_current_span("x", attributes={"r": "task", "key": "end"}):
        logging_.get_logger("l").emit(
            LogRecord(timestamp=1, attributes={"r": "task", "key": "start"}, event_name="e")
        )
        assert [record["task_id"] for record in read(writer.path)[0]] == ["start"]
    records, reader = read(writer.path)
    assert [record["task_id"] for record in records] == ["start", "end"]
    assert records[0]["span_id"] == records[1]["span_id"]
    assert orjson.loads((writer.path / schema.OWNER).read_bytes())["pid"] == os.getpid()
    tracing.shutdown()
    logging_.shutdown()
    writer.close()
    assert reader.problems == {}
