"""OpenTelemetry → relayed items: plain JSON, each text bounded."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, cast

import orjson
from opentelemetry._logs import LogRecord

from scalable.facts import MAX_TEXT
from scalable.facts.relay_items import (
    Attributes,
    EventItem,
    LinkItem,
    LogItem,
    Position,
    Scope,
    SpanItem,
)
from scalable.facts.texts import printable
from scalable.instrumentation.propagation import ids_of


def encode(item: Mapping[str, Any]) -> bytes:
    """JSON of an item; what JSON has no form for becomes text."""
    try:
        return orjson.dumps(item, default=printable)
    except TypeError:  # orjson.JSONEncodeError: a lone surrogate, an integer beyond 64 bits, …
        return orjson.dumps(_plain(item), default=printable)


def attributes_of(given: Any) -> Attributes:
    """Attributes as OpenTelemetry allows them, each text bounded."""
    return {str(name): _bounded(value) for name, value in dict(given or {}).items()}


def position(trace_id: int | None, span_id: int | None, flags: Any, attempt: Any) -> Position:
    """Trace, span and task of a signal."""
    return {
        "trace": f"{trace_id:032x}" if trace_id else None,
        "span": f"{span_id:016x}" if span_id else None,
        "flags": int(flags or 0),
        "task": attempt.key if attempt is not None else None,
    }


def scope_of(scope: Any) -> Scope:
    """Name, version and schema URL of an instrumentation scope."""
    return (scope.name, scope.version, scope.schema_url) if scope is not None else ("", None, None)


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


def event_items(events: Iterable[Any], shift: int) -> list[EventItem]:
    """Events of a span."""
    return [(it.name, it.timestamp + shift, attributes_of(it.attributes)) for it in events]


def link_items(links: Iterable[Any]) -> list[LinkItem]:
    """Links of a span."""
    return [
        (
            f"{link.context.trace_id:032x}",
            f"{link.context.span_id:016x}",
            int(link.context.trace_flags),
            attributes_of(link.attributes),
        )
        for link in links
    ]


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


def _bounded(value: Any) -> Any:
    if isinstance(value, str):
        return value if len(value) <= MAX_TEXT else printable(value, limit=MAX_TEXT)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, tuple | list):
        return [_bounded(part) for part in cast("list[Any]", value)]
    if isinstance(value, dict):
        return attributes_of(value)
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, bool) or value is None or isinstance(value, float):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**64 else str(value)
    if isinstance(value, dict):
        items = cast("dict[Any, Any]", value).items()
        return {printable(name): _plain(part) for name, part in items}
    if isinstance(value, tuple | list):
        return [_plain(part) for part in cast("list[Any]", value)]
    return printable(value)
