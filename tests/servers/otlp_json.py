"""What a collector's file exporter wrote, as plain dicts: a line is one OTLP message in JSON.

Every item has its resource, its scope's name and attributes, and the schema URLs of both. Ids are
hex digits, times are integers in nanoseconds, attributes are dicts, enumerations are words in lower
case. A field that OTLP left out has its default.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_SPAN_KINDS = ("unspecified", "internal", "server", "client", "producer", "consumer")
_STATUS = ("unset", "ok", "error")
_TEMPORALITY = ("unspecified", "delta", "cumulative")
_METRIC_TYPES = ("gauge", "sum", "histogram", "exponentialHistogram", "summary")


def messages(path: Path) -> Iterator[dict[str, Any]]:
    """Every message of a file; a last line that is still being written is left out."""
    if not path.exists():
        return
    for line in path.read_bytes().splitlines(keepends=True):
        if line.endswith(b"\n"):
            yield json.loads(line)


def spans(path: Path) -> list[dict[str, Any]]:
    """Spans: name, ids, kind, start, end, status, attributes, events, links, resource, scope."""
    return [
        {
            "name": span.get("name", ""),
            "trace_id": span.get("traceId", ""),
            "span_id": span.get("spanId", ""),
            "parent_span_id": span.get("parentSpanId", ""),
            "trace_state": span.get("traceState", ""),
            "flags": span.get("flags", 0),
            "kind": _SPAN_KINDS[span.get("kind", 0)],
            "start": int(span.get("startTimeUnixNano", 0)),
            "end": int(span.get("endTimeUnixNano", 0)),
            "status": _STATUS[span.get("status", {}).get("code", 0)],
            "status_message": span.get("status", {}).get("message", ""),
            "attributes": _attributes(span),
            "dropped_attributes": span.get("droppedAttributesCount", 0),
            "events": [
                {
                    "name": event.get("name", ""),
                    "time": int(event.get("timeUnixNano", 0)),
                    "attributes": _attributes(event),
                }
                for event in span.get("events", ())
            ],
            "dropped_events": span.get("droppedEventsCount", 0),
            "links": [
                {
                    "trace_id": link.get("traceId", ""),
                    "span_id": link.get("spanId", ""),
                    "attributes": _attributes(link),
                }
                for link in span.get("links", ())
            ],
            "dropped_links": span.get("droppedLinksCount", 0),
            **around,
        }
        for span, around in _items(path, "resourceSpans", "scopeSpans", "spans")
    ]


def log_records(path: Path) -> list[dict[str, Any]]:
    """Log records: event name, body, severity, times, ids, attributes, resource, scope."""
    return [
        {
            "event_name": record.get("eventName", ""),
            "body": _value(record.get("body", {})),
            "severity_number": record.get("severityNumber", 0),
            "severity_text": record.get("severityText", ""),
            "time": int(record.get("timeUnixNano", 0)),
            "observed_time": int(record.get("observedTimeUnixNano", 0)),
            "trace_id": record.get("traceId", ""),
            "span_id": record.get("spanId", ""),
            "flags": record.get("flags", 0),
            "attributes": _attributes(record),
            **around,
        }
        for record, around in _items(path, "resourceLogs", "scopeLogs", "logRecords")
    ]


def metric_points(path: Path) -> list[dict[str, Any]]:
    """Points of metrics, in the order in which they came.

    Each has name, unit, description, type (gauge, sum, histogram, exponentialHistogram),
    temporality, monotonic, start, time, attributes, exemplars, resource and scope; and a `value`,
    or count, sum, min, max with `bounds` and `buckets`, or with `scale`, `zero_count`,
    `positive` and `negative` (each offset and buckets).
    """
    found: list[dict[str, Any]] = []
    for metric, around in _items(path, "resourceMetrics", "scopeMetrics", "metrics"):
        kind = next((kind for kind in _METRIC_TYPES if kind in metric), "")
        data = metric.get(kind, {})
        for point in data.get("dataPoints", ()):
            found.append(
                {
                    "name": metric.get("name", ""),
                    "unit": metric.get("unit", ""),
                    "description": metric.get("description", ""),
                    "type": kind,
                    "temporality": _TEMPORALITY[data.get("aggregationTemporality", 0)],
                    "monotonic": data.get("isMonotonic", False),
                    "start": int(point.get("startTimeUnixNano", 0)),
                    "time": int(point.get("timeUnixNano", 0)),
                    "attributes": _attributes(point),
                    "exemplars": [
                        {
                            "trace_id": exemplar.get("traceId", ""),
                            "span_id": exemplar.get("spanId", ""),
                            "time": int(exemplar.get("timeUnixNano", 0)),
                            "value": _number(exemplar),
                        }
                        for exemplar in point.get("exemplars", ())
                    ],
                    **_numbers(kind, point),
                    **around,
                }
            )
    return found


def _numbers(kind: str, point: dict[str, Any]) -> dict[str, Any]:
    if kind in ("gauge", "sum"):
        return {"value": _number(point)}
    numbers: dict[str, Any] = {
        "count": int(point.get("count", 0)),
        "sum": point.get("sum", 0.0),
        "min": point.get("min"),
        "max": point.get("max"),
    }
    if kind == "histogram":
        numbers["bounds"] = point.get("explicitBounds", [])
        numbers["buckets"] = [int(count) for count in point.get("bucketCounts", ())]
    elif kind == "exponentialHistogram":
        numbers["scale"] = point.get("scale", 0)
        numbers["zero_count"] = int(point.get("zeroCount", 0))
        for side in ("positive", "negative"):
            buckets = point.get(side, {})
            numbers[side] = (
                buckets.get("offset", 0),
                [int(count) for count in buckets.get("bucketCounts", ())],
            )
    return numbers


def _number(point: dict[str, Any]) -> float:
    return int(point["asInt"]) if "asInt" in point else float(point.get("asDouble", 0.0))


def _items(
    path: Path, resources: str, scopes: str, items: str
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    for message in messages(path):
        for by_resource in message.get(resources, ()):
            resource = _attributes(by_resource.get("resource", {}))
            for by_scope in by_resource.get(scopes, ()):
                scope = by_scope.get("scope", {})
                around = {
                    "resource": resource,
                    "resource_schema_url": by_resource.get("schemaUrl", ""),
                    "scope": scope.get("name", ""),
                    "scope_attributes": _attributes(scope),
                    "scope_schema_url": by_scope.get("schemaUrl", ""),
                }
                for item in by_scope.get(items, ()):
                    yield item, around


def _attributes(owner: dict[str, Any]) -> dict[str, Any]:
    return {pair["key"]: _value(pair.get("value", {})) for pair in owner.get("attributes", ())}


def _value(value: dict[str, Any]) -> Any:
    for kind, content in value.items():
        if kind == "intValue":
            return int(content)
        if kind == "doubleValue":
            return float(content)
        if kind == "arrayValue":
            return [_value(item) for item in content.get("values", ())]
        if kind == "kvlistValue":
            return {pair["key"]: _value(pair.get("value", {})) for pair in content["values"]}
        if kind == "bytesValue":
            return base64.b64decode(content)
        return content
    return None
