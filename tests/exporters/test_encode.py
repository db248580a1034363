"""Spans, log records and metric points become the records that the contract describes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.context import Context
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Buckets,
    ExponentialHistogram,
    ExponentialHistogramDataPoint,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from scalable_runs.otel.encode import encode_logs, encode_metrics, encode_spans
from scalable_runs.otel.record_map import RecordMap
from scalable_runs.plain import iso_time, parse_time

TRACE, SPAN = 0x4BF92F3577B34DA6A3CE929D0E0E4736, 0x00F067AA0BA902B7
START = 1_763_742_783_000_000_000
OWN = Resource({"service.name": "own"})
OTHER = Resource({"service.name": "other"})
SCOPE = InstrumentationScope("scalable", "1.0")

MAP = RecordMap(
    route="scalable.record",
    fields={
        "task": {"dask.key": "task_id", "dask.state": "state", "dask.nbytes": "nbytes"},
        "resource": {"dask.key": "entity_id", "dask.cpu": "observed_cpu"},
        "failure": {"dask.key": "task_id", "dask.tb": "details.traceback", "x": "details.phase"},
    },
    constants={
        "task": {"attempt": 0, "state": "unknown"},
        "resource": {"entity_type": "task"},
        "failure": {"details.phase": "task_execution"},
    },
    metrics={
        "dask.worker.memory": ("observed_memory_gb", 1e-9),
        "dask.worker.cpu": ("observed_cpu", 1),
    },
)


def span(attributes: dict[str, Any] | None = None, **changes: Any) -> ReadableSpan:
    given: dict[str, Any] = {
        "name": "inc",
        "context": SpanContext(TRACE, SPAN, False, TraceFlags(3)),
        "resource": OWN,
        "attributes": attributes,
        "start_time": START,
        "end_time": START + 1_500_000_999,
        "instrumentation_scope": SCOPE,
    }
    return ReadableSpan(**given | changes)


def log(attributes: dict[str, Any] | None = None, **changes: Any) -> ReadableLogRecord:
    resource = changes.pop("resource", OWN)
    record = LogRecord(
        **{"timestamp": START, "observed_timestamp": START, "context": Context()} | changes,
        attributes=attributes,
    )
    return ReadableLogRecord(record, resource, SCOPE)


def metrics(*given: Metric, resource: Resource = OWN) -> MetricsData:
    return MetricsData([ResourceMetrics(resource, [ScopeMetrics(SCOPE, given, "")], "")])


def gauge(name: str, *points: tuple[dict[str, Any], float], at: int = START) -> Metric:
    return Metric(name, "", "By", Gauge([NumberDataPoint(a, 0, at, v) for a, v in points]))


# Routed


def test_a_routed_span_becomes_a_record_of_its_journal_at_its_end() -> None:
    routed = span(
        {"scalable.record": "task", "dask.key": "inc-1", "dask.state": "succeeded", "other": 1}
    )
    assert encode_spans([routed], MAP) == {
        "tasks.jsonl": [
            {
                "event_type": "task",
                "timestamp": "2025-11-21T16:33:04.500000Z",
                "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
                "span_id": "00f067aa0ba902b7",
                "attempt": 0,
                "state": "succeeded",
                "task_id": "inc-1",
            }
        ]
    }


def test_one_signal_may_become_records_of_several_journals() -> None:
    attributes = {
        "scalable.record": ("task", "resource", "nonsense"),
        "dask.key": "inc-1",
        "dask.cpu": 0.0,
    }
    files = encode_spans([span(attributes)], MAP)
    assert list(files) == ["tasks.jsonl", "resources.jsonl"]
    assert files["tasks.jsonl"][0]["task_id"] == files["resources.jsonl"][0]["entity_id"] == "inc-1"
    assert files["resources.jsonl"][0]["observed_cpu"] == 0.0
    assert files["resources.jsonl"][0]["entity_type"] == "task"


def test_zero_false_and_empty_are_values_and_none_is_not() -> None:
    for value in (0, 0.0, False, "", ()):
        (record,) = encode_logs([log({"scalable.record": "task", "dask.nbytes": value})], MAP)[
            "tasks.jsonl"
        ]
        assert record["nbytes"] == value
    (record,) = encode_logs(
        [log({"scalable.record": "task", "dask.nbytes": None, "dask.state": None})], MAP
    )["tasks.jsonl"]
    assert "nbytes" not in record
    assert record["state"] == "unknown"


def test_details_are_gathered_and_constants_stand_in() -> None:
    both = {"scalable.record": "failure", "dask.key": "k", "dask.tb": "Traceback", "x": "other"}
    (record,) = encode_logs([log(both)], MAP)["failures.jsonl"]
    assert record["details"] == {"phase": "other", "traceback": "Traceback"}
    (record,) = encode_logs([log({"scalable.record": "failure"})], MAP)["failures.jsonl"]
    assert record["details"] == {"phase": "task_execution"}
    # The map's own constants are never handed out to be changed.
    record["details"]["phase"] = "changed"
    (record,) = encode_logs([log({"scalable.record": "failure"})], MAP)["failures.jsonl"]
    assert record["details"] == {"phase": "task_execution"}


def test_an_event_without_a_span_has_no_ids() -> None:
    (record,) = encode_logs([log({"scalable.record": "task"})], MAP)["tasks.jsonl"]
    assert set(record) == {"event_type", "timestamp", "attempt", "state"}


def test_points_with_equal_attributes_and_time_become_one_record() -> None:
    one = {"scalable.record": "resource", "dask.key": "tcp://a"}
    two = {"dask.key": "tcp://b", "scalable.record": "resource"}
    same_as_one = {"dask.key": "tcp://a", "scalable.record": "resource"}
    data = metrics(
        gauge("dask.worker.memory", (one, 2_000_000_000), (two, 3_000_000_000)),
        gauge("dask.worker.cpu", (same_as_one, 1.5)),
        gauge("dask.worker.cpu", (two, 0.5), at=START + 1_000_000_000),
    )
    records = encode_metrics(data, MAP)["resources.jsonl"]
    assert [(r["entity_id"], r["timestamp"][17:19]) for r in records] == [
        ("tcp://a", "03"),
        ("tcp://b", "03"),
        ("tcp://b", "04"),
    ]
    assert records[0]["observed_memory_gb"] == pytest.approx(2.0)
    assert records[0]["observed_cpu"] == 1.5
    assert records[1]["observed_memory_gb"] == pytest.approx(3.0)
    assert "observed_memory_gb" not in records[2]


def test_points_with_unhashable_values_are_distinguished() -> None:
    given = [
        ({"scalable.record": ["resource"], "dask.key": {"a": [n]}}, float(n)) for n in (1, 1, 2)
    ]
    records = encode_metrics(metrics(gauge("dask.worker.cpu", *given)), MAP)["resources.jsonl"]
    assert [record["observed_cpu"] for record in records] == [1.0, 2.0]


def test_an_unknown_event_type_in_a_map_is_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown event types \['tusk'\]"):
        RecordMap(route="r", fields={"tusk": {}})


@pytest.mark.parametrize("route", [None, "nonsense", 3, (), ("nonsense",), (("task",),), b"task"])
def test_what_is_not_routed_goes_to_the_file_of_its_signal(route: Any) -> None:
    attributes = {"scalable.record": route}
    assert list(encode_spans([span(attributes)], MAP)) == ["spans.jsonl"]
    assert list(encode_logs([log(attributes)], MAP)) == ["logs.jsonl"]
    data = metrics(gauge("dask.worker.cpu", (attributes, 1)))
    assert list(encode_metrics(data, MAP)) == ["metrics.jsonl"]


# Not routed


def test_a_span_is_written_whole() -> None:
    parent = SpanContext(TRACE, 0xABC, True)
    whole = span(
        {"a": 1, "b": ("x",)},
        parent=parent,
        kind=SpanKind.CONSUMER,
        status=Status(StatusCode.ERROR, "broke"),
        events=[Event("exception", {"exception.type": "ValueError"}, START + 1000)],
        links=[Link(SpanContext(TRACE, 0xDEF, False), {"why": "run"})],
        resource=OTHER,
    )
    assert encode_spans([whole], None, resource=OWN) == {
        "spans.jsonl": [
            {
                "event_type": "span",
                "timestamp": "2025-11-21T16:33:04.500000Z",
                "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
                "span_id": "00f067aa0ba902b7",
                "parent_span_id": "0000000000000abc",
                "name": "inc",
                "kind": "consumer",
                "start_time": "2025-11-21T16:33:03.000000Z",
                "end_time": "2025-11-21T16:33:04.500000Z",
                "duration_s": 1.500000999,
                "status": {"code": "error", "description": "broke"},
                "attributes": {"a": 1, "b": ("x",)},
                "events": [
                    {
                        "name": "exception",
                        "timestamp": "2025-11-21T16:33:03.000001Z",
                        "attributes": {"exception.type": "ValueError"},
                    }
                ],
                "links": [
                    {
                        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
                        "span_id": "0000000000000def",
                        "attributes": {"why": "run"},
                    }
                ],
                "scope": {"name": "scalable", "version": "1.0"},
                "resource": {"service.name": "other"},
            }
        ]
    }


def test_a_bare_span_has_only_what_it_has() -> None:
    bare = ReadableSpan("bare", resource=OWN)
    (record,) = encode_spans([bare], MAP, resource=OWN)["spans.jsonl"]
    assert set(record) == {
        "event_type",
        "timestamp",
        "name",
        "kind",
        "start_time",
        "end_time",
        "duration_s",
        "status",
    }


def test_a_log_record_is_written_whole() -> None:
    whole = log(
        {"a": 1},
        timestamp=START,
        observed_timestamp=START + 1_000_000,
        severity_number=SeverityNumber.WARN,
        severity_text="WARN",
        body={"text": "careful"},
        event_name="dask.task.submitted",
    )
    assert encode_logs([whole], MAP, resource=OWN) == {
        "logs.jsonl": [
            {
                "event_type": "log",
                "timestamp": "2025-11-21T16:33:03.000000Z",
                "observed_timestamp": "2025-11-21T16:33:03.001000Z",
                "event_name": "dask.task.submitted",
                "severity_number": 13,
                "severity_text": "WARN",
                "body": {"text": "careful"},
                "attributes": {"a": 1},
                "scope": {"name": "scalable", "version": "1.0"},
            }
        ]
    }


def test_a_log_record_without_a_time_of_its_own_has_the_time_it_was_seen() -> None:
    (record,) = encode_logs([log(timestamp=None)], MAP)["logs.jsonl"]
    assert record["timestamp"] == "2025-11-21T16:33:03.000000Z"
    assert record["resource"] == {"service.name": "own"}


def test_points_of_every_kind_are_written_whole() -> None:
    delta, cumulative = AggregationTemporality.DELTA, AggregationTemporality.CUMULATIVE
    data = metrics(
        Metric("s", "", "1", Sum([NumberDataPoint({"k": "v"}, START, START, 3)], cumulative, True)),
        Metric("g", "", None, Gauge([NumberDataPoint({}, 0, START, 0.5)])),
        Metric(
            "h",
            "",
            "s",
            Histogram([HistogramDataPoint({}, 0, START, 2, 3.0, [1, 1], [1.5], 1, 2)], delta),
        ),
        Metric(
            "e",
            "",
            "s",
            ExponentialHistogram(
                [
                    ExponentialHistogramDataPoint(
                        {}, 0, START, 0, 0, 2, 0, Buckets(0, [0]), Buckets(1, []), 0, 9e9, -9e9
                    )
                ],
                delta,
            ),
        ),
    )
    common = {
        "event_type": "metric",
        "timestamp": "2025-11-21T16:33:03.000000Z",
        "scope": {"name": "scalable", "version": "1.0"},
    }
    assert encode_metrics(data, MAP, resource=OWN)["metrics.jsonl"] == [
        common
        | {
            "name": "s",
            "kind": "sum",
            "unit": "1",
            "temporality": "cumulative",
            "monotonic": True,
            "start_time": "2025-11-21T16:33:03.000000Z",
            "value": 3,
            "attributes": {"k": "v"},
        },
        common | {"name": "g", "kind": "gauge", "value": 0.5},
        common
        | {
            "name": "h",
            "kind": "histogram",
            "unit": "s",
            "temporality": "delta",
            "count": 2,
            "sum": 3.0,
            "min": 1,
            "max": 2,
            "bounds": [1.5],
            "bucket_counts": [1, 1],
        },
        common
        | {
            "name": "e",
            "kind": "exponential_histogram",
            "unit": "s",
            "temporality": "delta",
            "count": 0,
            "sum": 0,
            "scale": 2,
            "zero_count": 0,
            "positive": {"offset": 0, "bucket_counts": [0]},
            "negative": {"offset": 1, "bucket_counts": []},
        },
    ]


def test_only_a_foreign_resource_is_in_the_lines() -> None:
    assert "resource" not in encode_spans([span()], None, resource=OWN)["spans.jsonl"][0]
    equal = Resource(dict(OWN.attributes))
    assert "resource" not in encode_logs([log(resource=equal)], None, resource=OWN)["logs.jsonl"][0]
    (record,) = encode_metrics(metrics(gauge("g", ({}, 1)), resource=OTHER), None, resource=OWN)[
        "metrics.jsonl"
    ]
    assert record["resource"] == {"service.name": "other"}


# Times


@given(st.integers(0, 4_000_000_000_000_000_000))
def test_a_time_is_cut_to_microseconds_and_never_rounded_up(nanoseconds: int) -> None:
    text = iso_time(nanoseconds)
    assert len(text) == len("2026-11-21T16:33:03.000000Z")
    time = parse_time(text)
    assert time is not None
    epoch = parse_time("1970-01-01T00:00:00Z")
    assert epoch is not None
    since = time - epoch
    micro = (since.days * 86400 + since.seconds) * 1_000_000 + since.microseconds
    assert micro == nanoseconds // 1000
