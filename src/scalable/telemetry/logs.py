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
_NO_FLAGS: Final = TraceFlags.get_default()
_INFO: Final = SeverityNumber.INFO
_ERROR: Final = SeverityNumber.ERROR


class _Event(LogRecord):
    """A log record whose span is given: the API's own looks up the current one each time."""

    # What is the same for all of them costs nothing at the making.
    context = _NO_CONTEXT
    severity_text = None
    body = None
    exception = None

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
        self.severity_number = severity
        self.attributes = attributes
        self.event_name = name
        if ids is None:
            self.trace_id = self.span_id = 0
            self.trace_flags = _NO_FLAGS
        else:
            # A span context is a tuple; its properties cost a call each.
            self.trace_id, self.span_id, _, self.trace_flags, *_ = ids


class _Readable(ReadableLogRecord):
    """A readable log record whose other fields its class has."""

    def __init__(self, log_record: LogRecord) -> None:
        self.__dict__["log_record"] = log_record


class EventFactory:
    """Builds event records; called by the recorder's thread only."""

    def __init__(self, resource: Resource, scope: InstrumentationScope) -> None:
        # The SDK's class is a frozen dataclass, slow to make; all but one of its fields are the
        # same for every record, so that they can belong to the class. Left to their default, the
        # limits would be read anew from the environment for every record.
        shared = {"resource": resource, "instrumentation_scope": scope, "limits": LogRecordLimits()}
        self._make: type[_Readable] = type("_RunReadable", (_Readable,), shared)

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
        record = _Event(name, nanoseconds(time), _ERROR if error else _INFO, attributes, ids)
        return self._make(record)
