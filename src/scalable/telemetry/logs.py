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
    severity_number = _INFO
    trace_id = 0
    span_id = 0
    trace_flags = _NO_FLAGS


class _Readable(ReadableLogRecord):
    """A readable log record whose other fields its class has."""


#: Both are made without calling their class: the arguments would cost as much again.
_new: Final[Any] = object.__new__
#: A readable log record is frozen.
_set: Final = object.__setattr__


class EventFactory:
    """Builds event records; called by the recorder's thread only."""

    def __init__(self, resource: Resource, scope: InstrumentationScope) -> None:
        # The SDK's class is a frozen dataclass, slow to make; all but one of its fields are the
        # same for every record, so that they can belong to the class. Left to their default, the
        # limits would be read anew from the environment for every record.
        shared = {"resource": resource, "instrumentation_scope": scope, "limits": LogRecordLimits()}
        self._type: type[_Readable] = type("_RunReadable", (_Readable,), shared)

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
        record: _Event = _new(_Event)
        record.timestamp = record.observed_timestamp = int(time * 1e6 + 0.5) * 1000
        record.attributes = attributes
        record.event_name = name
        if error:
            record.severity_number = _ERROR
        if ids is not None:
            # A span context is a tuple; its properties cost a call each.
            record.trace_id, record.span_id, _, record.trace_flags, *_ = ids
        readable: ReadableLogRecord = _new(self._type)
        _set(readable, "log_record", record)
        return readable
