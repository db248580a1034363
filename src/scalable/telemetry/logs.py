"""Log records: what happens at an instant is an OpenTelemetry event."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.context import Context
from opentelemetry.sdk._logs import LogRecordLimits, ReadableLogRecord
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, TraceFlags

from scalable.telemetry.spans import nanoseconds

_NO_CONTEXT: Final = Context()


class _Event(LogRecord):
    """A log record whose span is given: the API's own looks up the current one each time."""

    def __init__(
        self,
        name: str,
        timestamp: int,
        severity: SeverityNumber,
        attributes: Mapping[str, Any],
        ids: SpanContext | None,
    ) -> None:
        self.timestamp = timestamp
        self.observed_timestamp = timestamp
        self.context = _NO_CONTEXT
        self.severity_text = None
        self.severity_number = severity
        self.body = None
        self.attributes = attributes
        self.event_name = name
        self.exception = None
        if ids is None:
            self.trace_id = self.span_id = 0
            self.trace_flags = TraceFlags.get_default()
        else:
            self.trace_id, self.span_id = ids.trace_id, ids.span_id
            self.trace_flags = ids.trace_flags


class EventFactory:
    """Builds event records; called by the recorder's thread only."""

    def __init__(self, resource: Resource, scope: InstrumentationScope) -> None:
        self._resource = resource
        self._scope = scope
        # Left to its default, the SDK reads the environment anew for every record.
        self._limits = LogRecordLimits()

    def event(
        self,
        name: str,
        time: float,
        attributes: Mapping[str, Any],
        ids: SpanContext | None,
        *,
        error: bool = False,
    ) -> ReadableLogRecord:
        """One event, belonging to the span `ids` if there is one."""
        severity = SeverityNumber.ERROR if error else SeverityNumber.INFO
        record = _Event(name, nanoseconds(time), severity, attributes, ids)
        return ReadableLogRecord(record, self._resource, self._scope, self._limits)
