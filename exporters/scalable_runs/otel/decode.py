"""Pure: records of the run directory into spans, log records and metrics: the inverse of encode.

What comes back has the ids, parents and times of the signal that the record was made from. Texts
and nesting are bounded, since records may come from anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, cast

from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk._logs import LogRecordLimits, ReadableLogRecord
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Buckets,
    ExponentialHistogram,
    ExponentialHistogramDataPoint,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util import BoundedList
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from scalable_runs.fields import texts
from scalable_runs.otel.additions import Additions
from scalable_runs.otel.record_map import RecordMap
from scalable_runs.plain import cut, hex_id, parse_nanoseconds
from scalable_runs.schema import Record

#: Characters kept of one text of an attribute or a body.
MAX_VALUE: Final = 256 * 1024
#: Levels of lists and tables within an attribute or a body.
MAX_DEPTH: Final = 20
#: Raised by the functions of this module for a record that lacks a necessary field, or has it in a
#: form without meaning.
UNDECODABLE: Final = (
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)

_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_SEVERITIES: Final[Mapping[Any, SeverityNumber]] = {one.value: one for one in SeverityNumber}
# Without them each log record reads its limits from the environment.
_LIMITS: Final = LogRecordLimits()


def context_of(record: Mapping[str, Any]) -> SpanContext | None:
    """Return the span that a record, or a link of one, belongs to."""
    return _context(hex_id(record.get("trace_id"), 32), hex_id(record.get("span_id"), 16))


def parent_of(record: Mapping[str, Any]) -> SpanContext | None:
    """Return the parent of the span that a record was made from."""
    return _context(hex_id(record.get("trace_id"), 32), hex_id(record.get("parent_span_id"), 16))


def attributes_of(record: Record, record_map: RecordMap) -> dict[str, Any]:
    """Return the attributes that a routed record was made from, without the route."""
    names = record_map.attributes.get(record.get("event_type", ""), {})
    details: Mapping[str, Any] = record.get("details") or {}
    values = (*record.items(), *((f"details.{field}", value) for field, value in details.items()))
    return {
        names[field]: _bounded(value)
        for field, value in values
        if field in names and value is not None
    }


def decode_span(
    record: Record, resource: Resource, scope: InstrumentationScope | None = None
) -> ReadableSpan:
    """Make a span of a record of spans.jsonl.

    Parameters
    ----------
    record
        The record.
    resource, scope
        The run's own; used unless the record has others.
    """
    context = context_of(record)
    if context is None:
        raise ValueError("a span without ids")
    dropped: Mapping[str, int] = record.get("dropped") or {}
    start = parse_nanoseconds(record.get("start_time"))
    return ReadableSpan(
        name=record.get("name") or "span",
        context=context,
        parent=parent_of(record),
        resource=_resource(record, resource),
        attributes=_attributes(record, dropped.get("attributes", 0)),
        events=_list(_events(record), dropped.get("events", 0)),
        links=_list(_links(record), dropped.get("links", 0)),
        kind=SpanKind.__members__.get(str(record.get("kind")).upper(), SpanKind.INTERNAL),
        status=_status(record),
        start_time=start,
        end_time=max(start, parse_nanoseconds(record.get("end_time"))),
        instrumentation_scope=_scope(record, scope),
    )


def additions_of(record: Record) -> Additions | None:
    """Return what the code of a task wrote to the span of the attempt; None if nothing."""
    details: Mapping[str, Any] = record.get("details") or {}
    if not details:
        return None
    dropped: Mapping[str, int] = details.get("dropped") or {}
    return Additions(
        details.get("span_name"),
        _status(details) if details.get("status") else None,
        _attributes(details),
        _events(details),
        _links(details),
        (dropped.get("attributes", 0), dropped.get("events", 0), dropped.get("links", 0)),
    )


def decode_log(
    record: Record, resource: Resource, scope: InstrumentationScope | None = None
) -> ReadableLogRecord:
    """Make a log record of a record of logs.jsonl; parameters as for :func:`decode_span`."""
    log = _log(record, _attributes(record), record.get("event_name"))
    observed = record.get("observed_timestamp")
    if observed is not None:
        log.observed_timestamp = parse_nanoseconds(observed)
    log.body = _bounded(record.get("body"))
    log.severity_text = record.get("severity_text")
    log.severity_number = _SEVERITIES.get(record.get("severity_number"))
    return ReadableLogRecord(log, _resource(record, resource), _scope(record, scope), _LIMITS)


def decode_event(
    record: Record,
    event_name: str,
    record_map: RecordMap,
    resource: Resource,
    scope: InstrumentationScope | None = None,
    *,
    severity: SeverityNumber = SeverityNumber.INFO,
) -> ReadableLogRecord:
    """Make an event of a routed record; see :func:`attributes_of` for its attributes."""
    log = _log(record, attributes_of(record, record_map), event_name)
    log.severity_number = severity
    return ReadableLogRecord(log, resource, scope, _LIMITS)


def decode_metrics(
    records: Iterable[Record], resource: Resource, scope: InstrumentationScope | None = None
) -> MetricsData:
    """Make metrics of records of metrics.jsonl; parameters as for :func:`decode_span`."""
    return MetricsData(
        [
            ResourceMetrics(
                _resource(of_resource[0], resource),
                [
                    ScopeMetrics(
                        cast("InstrumentationScope", _scope(of_scope[0], scope)),
                        [_metric(points) for points in _grouped(of_scope, *_METRIC)],
                        "",
                    )
                    for of_scope in _grouped(of_resource, "scope")
                ],
                "",
            )
            for of_resource in _grouped(records, "resource")
        ]
    )


#: What the points of one metric have in common.
_METRIC: Final = ("name", "kind", "unit", "temporality", "monotonic")


def _grouped(records: Iterable[Record], *fields: str) -> list[list[Record]]:
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(repr([record.get(field) for field in fields]), []).append(record)
    return list(groups.values())


def _metric(records: Sequence[Record]) -> Metric:
    first = records[0]
    points: list[Any] = [_point(record) for record in records]
    temporality = AggregationTemporality.__members__.get(
        str(first.get("temporality")).upper(), AggregationTemporality.CUMULATIVE
    )
    data: Any
    match first.get("kind"):
        case "sum":
            data = Sum(points, temporality, bool(first.get("monotonic")))
        case "histogram":
            data = Histogram(points, temporality)
        case "exponential_histogram":
            data = ExponentialHistogram(points, temporality)
        case _:
            data = Gauge(points)
    return Metric(_given(first, "name"), "", first.get("unit") or "", data)


def _point(record: Record) -> Any:
    common: dict[str, Any] = {
        "attributes": _attributes(record),
        "start_time_unix_nano": parse_nanoseconds(record.get("start_time")),
        "time_unix_nano": parse_nanoseconds(record["timestamp"]),
    }
    kind = record.get("kind")
    if kind not in ("histogram", "exponential_histogram"):
        return NumberDataPoint(**common, value=_given(record, "value"))
    common |= {
        "count": _given(record, "count"),
        "sum": _given(record, "sum"),
        "min": record.get("min") or 0.0,
        "max": record.get("max") or 0.0,
    }
    if kind == "histogram":
        return HistogramDataPoint(
            **common,
            bucket_counts=_given(record, "bucket_counts"),
            explicit_bounds=_given(record, "bounds"),
        )
    return ExponentialHistogramDataPoint(
        **common,
        scale=_small(record, "scale"),
        zero_count=_given(record, "zero_count"),
        positive=_buckets(record["positive"]),
        negative=_buckets(record["negative"]),
        flags=0,
    )


def _buckets(found: Mapping[str, Any]) -> Buckets:
    return Buckets(_small(found, "offset"), _given(found, "bucket_counts"))


def _given(record: Mapping[str, Any], name: str) -> Any:
    """Return what must be there."""
    value = record[name]
    if value is None:
        raise ValueError(name)
    return value


def _small(record: Mapping[str, Any], name: str) -> int:
    value: int = _given(record, name)
    if not -(2**31) <= value < 2**31:
        raise ValueError(name)
    return value


def _log(record: Record, attributes: dict[str, Any], event_name: str | None) -> LogRecord:
    at = parse_nanoseconds(record.get("timestamp"))
    log = LogRecord(
        timestamp=at, observed_timestamp=at, attributes=attributes, event_name=event_name
    )
    context = context_of(record)
    if context is not None:
        log.trace_id, log.span_id, log.trace_flags = context[0], context[1], context[3]
    return log


def _context(trace_id: int, span_id: int) -> SpanContext | None:
    if not trace_id or not span_id:
        return None
    return SpanContext(trace_id, span_id, is_remote=False, trace_flags=_SAMPLED)


def _scope(record: Record, default: InstrumentationScope | None) -> InstrumentationScope | None:
    scope: Mapping[str, Any] = record.get("scope") or {}
    if not scope.get("name"):
        return default
    schema_url = None
    if default is not None and default.name == scope["name"]:
        schema_url = default.schema_url
    return InstrumentationScope(scope["name"], scope.get("version"), schema_url)


def _status(record: Mapping[str, Any]) -> Status:
    status: Mapping[str, Any] = record.get("status") or {}
    code = StatusCode.__members__.get(str(status.get("code")).upper(), StatusCode.UNSET)
    return Status(code, status.get("description") if code is StatusCode.ERROR else None)


def _events(record: Mapping[str, Any]) -> list[Event]:
    return [
        Event(
            event.get("name") or "event",
            _attributes(event),
            parse_nanoseconds(event.get("timestamp")),
        )
        for event in record.get("events") or ()
    ]


def _links(record: Mapping[str, Any]) -> list[Link]:
    return [
        Link(linked, _attributes(link))
        for link in record.get("links") or ()
        if (linked := context_of(link)) is not None
    ]


def _resource(record: Record, default: Resource) -> Resource:
    foreign = record.get("resource")
    if not foreign:
        return default
    # A resource takes no tables, and no lists of different types.
    return Resource(
        {
            name: value
            for name, value in _bounded(foreign).items()
            if isinstance(value, (str, int, float)) or texts(value)
        }
    )


def _attributes(record: Mapping[str, Any], dropped: int = 0) -> Any:
    attributes = _bounded(record.get("attributes") or {})
    if dropped:
        attributes = BoundedAttributes(attributes=attributes, immutable=False)
        attributes.dropped = dropped
    return attributes


def _list(items: list[Any], dropped: int) -> Any:
    if not dropped:
        return items
    bounded: Any = BoundedList(None)
    bounded.extend(items)
    bounded.dropped = dropped
    return bounded


def _bounded(value: Any, depth: int = 0) -> Any:
    """Return a value as OTLP can hold it."""
    if isinstance(value, str):
        return cut(value, MAX_VALUE)
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return float(value)
    if isinstance(value, (dict, list)) and depth >= MAX_DEPTH:
        return "…"
    if isinstance(value, dict):
        table = cast("dict[str, Any]", value)
        return {
            name: _bounded(below, depth + 1) for name, below in table.items() if below is not None
        }
    if isinstance(value, list):
        return [_bounded(item, depth + 1) for item in cast("list[Any]", value)]
    return value
