"""OpenTelemetry's limits, applied as its SDK applies them."""

from __future__ import annotations

import os

import pytest
from opentelemetry._logs import LogRecord
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Link

from scalable.telemetry.configuration.limits import SignalLimits, limits_of
from scalable.telemetry.signals.logs import EventFactory
from scalable.telemetry.signals.spans import SpanFactory, event, span_context

ENVIRONMENTS = [
    {},
    {"OTEL_ATTRIBUTE_COUNT_LIMIT": "3", "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "5"},
    {"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "2", "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT": "1"},
    {"OTEL_SPAN_EVENT_COUNT_LIMIT": "1", "OTEL_SPAN_LINK_COUNT_LIMIT": "0"},
    {"OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT": "1", "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT": "2"},
    {"OTEL_ATTRIBUTE_COUNT_LIMIT": "2", "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": ""},
    {"OTEL_ATTRIBUTE_COUNT_LIMIT": "", "OTEL_SPAN_EVENT_COUNT_LIMIT": ""},
]
ATTRIBUTES = {"one": "a long text", "two": ("many", "long texts"), "three": 3, "four": True}
RESOURCE = Resource({})


@pytest.fixture(params=ENVIRONMENTS, ids=lambda environ: ",".join(environ) or "default")
def environ(request, monkeypatch) -> dict[str, str]:
    for name, value in request.param.items():
        monkeypatch.setenv(name, value)
    return request.param


def of_the_sdk() -> ReadableSpan:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(resource=RESOURCE, shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    links = [Link(span_context(1, number), ATTRIBUTES) for number in (1, 2)]
    with provider.get_tracer("").start_as_current_span(
        "s", None, attributes=ATTRIBUTES, links=links
    ) as span:
        for number in range(3):
            span.add_event(f"event {number}", ATTRIBUTES, 1_000)
    (made,) = exporter.get_finished_spans()
    return made


def of_ours() -> ReadableSpan:
    return SpanFactory(RESOURCE).span(
        "s",
        span_context(1, 2),
        None,
        1.0,
        2.0,
        ATTRIBUTES,
        events=[event(f"event {number}", 1e-6, ATTRIBUTES) for number in range(3)],
        links=[Link(span_context(1, number), ATTRIBUTES) for number in (1, 2)],
    )


def content(span: ReadableSpan) -> tuple[object, ...]:
    return (
        dict(span.attributes or {}),
        [(each.name, dict(each.attributes or {}), each.dropped_attributes) for each in span.events],
        [(dict(each.attributes or {}), each.dropped_attributes) for each in span.links],
        (span.dropped_attributes, span.dropped_events, span.dropped_links),
    )


def test_a_span_is_limited_as_the_sdk_limits_it(environ, caplog):
    (limited,) = limits_of(os.environ).spans([of_ours()])
    assert caplog.records == []
    assert content(limited) == content(of_the_sdk())


def test_the_encoder_of_otlp_gets_the_counts(monkeypatch):
    monkeypatch.setenv("OTEL_ATTRIBUTE_COUNT_LIMIT", "1")
    monkeypatch.setenv("OTEL_SPAN_LINK_COUNT_LIMIT", "1")
    limited = limits_of(os.environ).spans([of_ours()])
    span = encode_spans(limited).resource_spans[0].scope_spans[0].spans[0]
    assert (span.dropped_attributes_count, span.dropped_links_count) == (3, 1)
    assert span.events[0].dropped_attributes_count == 3
    assert span.links[0].dropped_attributes_count == 3


@pytest.mark.parametrize(
    "environ",
    [
        {"OTEL_ATTRIBUTE_COUNT_LIMIT": "2", "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "4"},
        {"OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT": "1"},
        {"OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT": "3"},
    ],
    indirect=True,
)
def test_a_log_record_is_limited_as_the_sdk_limits_it(environ):
    exporter = InMemoryLogRecordExporter()
    provider = LoggerProvider(RESOURCE, shutdown_on_exit=False)
    provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    provider.get_logger("").emit(LogRecord(attributes=dict(ATTRIBUTES), event_name="e"))
    (theirs,) = exporter.get_finished_logs()
    ours = EventFactory(RESOURCE).event("e", 1.0, ATTRIBUTES, span_context(1, 2))
    (limited,) = limits_of(os.environ).logs([ours])
    assert limited.log_record.event_name == "e"
    assert (limited.log_record.span_id, limited.resource) == (2, RESOURCE)
    # The oldest supported SDK does not know the variables of log records.
    if "LOGRECORD" not in "".join(environ) or theirs.log_record.attributes != ATTRIBUTES:
        assert dict(limited.log_record.attributes or {}) == dict(theirs.log_record.attributes or {})
        assert limited.dropped_attributes == theirs.dropped_attributes
    assert ours.log_record.attributes is ATTRIBUTES


def test_what_is_within_the_limits_is_not_copied():
    batch = [of_ours()]
    assert SignalLimits().spans(batch) is batch
    assert limits_of({"OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "lots"}).spans(batch) is batch


def test_the_limits_of_spans_are_those_of_the_sdk(environ):
    ours, theirs = limits_of(os.environ), SpanLimits()
    assert (ours.span.number, ours.span.length) == (
        theirs.max_span_attributes,
        theirs.max_span_attribute_length,
    )
    assert (ours.event.number, ours.event.length) == (
        theirs.max_event_attributes,
        theirs.max_attribute_length,
    )
    assert ours.link.number == theirs.max_link_attributes
    assert (ours.events, ours.links) == (theirs.max_events, theirs.max_links)
