"""Log records: what happens at an instant is an OpenTelemetry event."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.sdk._logs import LogRecordLimits, ReadableLogRecord
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import TraceFlags

from scalable.telemetry.spans import Parent, nanoseconds

_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)


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
        ids: Parent | None,
        *,
        error: bool = False,
    ) -> ReadableLogRecord:
        """One event, belonging to the span `ids` if there is one."""
        at = nanoseconds(time)
        record = LogRecord(
            timestamp=at,
            observed_timestamp=at,
            severity_number=SeverityNumber.ERROR if error else SeverityNumber.INFO,
            attributes=attributes,
            event_name=name,
        )
        if ids is not None:
            record.trace_id, record.span_id = ids
            record.trace_flags = _SAMPLED
        return ReadableLogRecord(record, self._resource, self._scope, self._limits)
