"""Signals that are made directly are what OpenTelemetry's own classes would make of the same."""

from __future__ import annotations

from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk._logs import LogRecordLimits, ReadableLogRecord
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import Link, SpanKind, Status, StatusCode, TraceFlags

from scalable.telemetry.signals.logs import EventFactory
from scalable.telemetry.signals.spans import SCOPE, SpanFactory, event, nanoseconds, span_context

RESOURCE = Resource({"service.name": "x"})
IDS = span_context(1 << 100, 7, TraceFlags(3))
PARENT = span_context(1 << 100, 6)


def test_a_span_is_what_the_sdks_class_makes():
    events = (event("retry", 1.75e9, {"n": 1}),)
    links = (Link(PARENT),)
    made = SpanFactory(RESOURCE).span(
        "work",
        IDS,
        PARENT,
        1.75e9,
        1.75e9 + 0.000_123,
        {"a": "b"},
        kind=SpanKind.CONSUMER,
        error="ValueError",
        events=events,
        links=links,
    )
    same = ReadableSpan(
        "work",
        context=IDS,
        parent=PARENT,
        resource=RESOURCE,
        attributes={"a": "b"},
        events=events,
        links=links,
        kind=SpanKind.CONSUMER,
        status=Status(StatusCode.ERROR, "ValueError"),
        start_time=nanoseconds(1.75e9),
        end_time=nanoseconds(1.75e9 + 0.000_123),
        instrumentation_scope=SCOPE,
    )
    assert made.to_json() == same.to_json()
    # Nothing that the SDK's own has is missing, also what its JSON does not show.
    for name, value in vars(same).items():
        found = getattr(made, name)
        assert found is value or found == value or name == "_status", name
    assert made.status.status_code is same.status.status_code
    assert encode_spans([made]) == encode_spans([same])


def test_a_span_never_ends_before_it_begins():
    span = SpanFactory(RESOURCE).span("work", IDS, None, 1.75e9, 1.7e9, {})
    assert span.start_time == span.end_time == nanoseconds(1.75e9)
    assert span.status.status_code is StatusCode.UNSET


def test_an_event_is_what_the_sdks_classes_make():
    factory = EventFactory(RESOURCE)
    made = factory.event("dask.task", 1.75e9, {"a": "b"}, IDS, error=True)
    record = LogRecord(
        timestamp=nanoseconds(1.75e9),
        observed_timestamp=nanoseconds(1.75e9),
        trace_id=IDS.trace_id,
        span_id=IDS.span_id,
        trace_flags=IDS.trace_flags,
        severity_number=SeverityNumber.ERROR,
        attributes={"a": "b"},
        event_name="dask.task",
    )
    same = ReadableLogRecord(record, RESOURCE, SCOPE, LogRecordLimits())
    assert made.to_json() == same.to_json()
    for name in vars(record).keys() - {"context"}:
        assert getattr(made.log_record, name) == getattr(record, name), name
    assert encode_logs([made]) == encode_logs([same])


def test_an_event_without_a_span_belongs_to_none():
    made = EventFactory(RESOURCE).event("dask.task", 1.75e9, {}, None)
    plain = LogRecord(context=Context(), severity_number=SeverityNumber.INFO)
    for name in ("trace_id", "span_id", "trace_flags", "severity_number", "severity_text", "body"):
        assert (getattr(made.log_record, name) or None) == (getattr(plain, name) or None), name
