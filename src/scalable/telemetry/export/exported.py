"""What is sent of a signal: without the attributes that are for the run directory alone."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from opentelemetry.sdk._logs import LogRecordLimits, ReadableLogRecord
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import TraceFlags

from scalable.telemetry import semconv
from scalable.telemetry.parameters import attributes_of

# Without them each log record reads its limits from the environment.
_LIMITS = LogRecordLimits()

#: What becomes an attribute for each of its entries.
_PARAMETERS = (
    (semconv.TASK_INPUT, semconv.INPUT_PARAMETERS),
    (semconv.TASK_RETURNED, semconv.OUTPUT_PARAMETERS),
)


def exported_span(span: ReadableSpan) -> ReadableSpan:
    """Return a span as it is sent."""
    attributes = span.attributes or {}
    if semconv.INTERNAL.isdisjoint(attributes):
        return span
    # A copy keeps what kind of span it is: some count what was dropped from them.
    changed: Any = copy.copy(span)
    changed._attributes = exported_attributes(attributes)
    return changed


def exported_log(log: ReadableLogRecord, *, has_span: bool = True) -> ReadableLogRecord:
    """Return a log record as it is sent; its flags say whether its span is sent."""
    attributes = log.log_record.attributes or {}
    if has_span and semconv.INTERNAL.isdisjoint(attributes):
        return log
    record = copy.copy(log.log_record)
    record.attributes = exported_attributes(attributes)
    if not has_span:
        record.trace_flags = TraceFlags(record.trace_flags & ~TraceFlags.SAMPLED)
    return ReadableLogRecord(record, log.resource, log.instrumentation_scope, _LIMITS)


def exported_attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return attributes as they are sent."""
    internal, doubles = semconv.INTERNAL, semconv.DOUBLES
    sent = {
        name: float(value) if name in doubles and value.__class__ is int else value
        for name, value in attributes.items()
        if name not in internal and value is not None
    }
    for prefix, of in _PARAMETERS:
        if of in attributes:
            sent.update(attributes_of(prefix, attributes[of]))
    # The run directory has the class of an exception without its module.
    error_class = attributes.get(semconv.ERROR_CLASS)
    if error_class is not None:
        for name in (semconv.ERROR_TYPE, semconv.EXCEPTION_TYPE):
            if name in sent:
                sent[name] = error_class
    return sent
