"""OpenTelemetry → relayed items: spans and log records."""

from __future__ import annotations

from typing import Any

from opentelemetry._logs import LogRecord

from scalable.facts.relay_items import LogItem, Scope, SpanItem
from scalable.instrumentation.propagation import ids_of
from scalable.instrumentation.relay_values import (
    attributes_of,
    event_items,
    link_items,
    position,
    scope_of,
)


def span_item(span: Any, shift: int, attempt: Any) -> SpanItem:
    """An ended span; `shift` is how far the scheduler's clock is ahead, in nanoseconds."""
    ids, parent = span.get_span_context(), span.parent
    start = span.start_time or 0
    above = ids_of(attempt)
    return {
        "name": span.name,
        "kind": span.kind.value,
        "start": start + shift,
        "end": (span.end_time or start) + shift,
        "parent": f"{parent.span_id:016x}" if parent is not None else None,
        "remote": parent is not None and parent.is_remote,
        "attempt": f"{above.span_id:016x}" if above.trace_id == ids.trace_id else None,
        "state": ids.trace_state.to_header(),
        "status": (span.status.status_code.value, span.status.description),
        "attributes": attributes_of(span.attributes),
        "events": event_items(span.events, shift),
        "links": link_items(span.links),
        "dropped": (span.dropped_attributes, span.dropped_events, span.dropped_links),
        "scope": scope_of(span.instrumentation_scope),
        **position(ids.trace_id, ids.span_id, ids.trace_flags, attempt),
    }


def log_item(record: LogRecord, scope: Scope, shift: int, attempt: Any) -> LogItem:
    """A record of the logs API; `shift` as for :func:`span_item`."""
    severity = record.severity_number
    return {
        "time": shift + (record.timestamp or record.observed_timestamp or 0),
        "severity": None if severity is None else severity.value,
        "severity_text": record.severity_text,
        "event": record.event_name,
        "body": record.body,
        "attributes": attributes_of(record.attributes),
        "scope": scope,
        **position(record.trace_id, record.span_id, record.trace_flags, attempt),
    }
