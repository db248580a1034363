"""Values of OpenTelemetry → plain JSON, each text bounded."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, cast

import orjson

from scalable.facts import MAX_TEXT
from scalable.facts.identity import carried
from scalable.facts.protocol import SUPPRESSED
from scalable.facts.relay_items import Attributes, EventItem, LinkItem, Position, Scope
from scalable.facts.texts import printable


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
        "suppressed": attempt is not None and SUPPRESSED in carried(attempt.carrier),
    }


def scope_of(scope: Any) -> Scope:
    """Name, version and schema URL of an instrumentation scope."""
    return (scope.name, scope.version, scope.schema_url) if scope is not None else ("", None, None)


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
