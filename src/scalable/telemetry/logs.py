"""Log records: what happens at an instant is an OpenTelemetry event."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.sdk._logs import LogRecordLimits, ReadableLogRecord
from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import SpanContext

from scalable.telemetry.spans import SCOPE, nanoseconds


class EventFactory:
    """Builds event records of one resource; called on a thread without a current span."""

    def __init__(self, resource: Resource) -> None:
        self._resource = resource
        # Without them each record reads its limits from the environment.
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
        at = nanoseconds(time)
        record = LogRecord(
            timestamp=at,
            observed_timestamp=at,
            severity_number=SeverityNumber.ERROR if error else SeverityNumber.INFO,
            attributes=attributes,
            event_name=name,
        )
        if ids is not None:
            record.trace_id, record.span_id, record.trace_flags = ids[0], ids[1], ids[3]
        return ReadableLogRecord(record, self._resource, SCOPE, self._limits)
