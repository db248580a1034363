"""Pure: spans, log records and metric points of OpenTelemetry into records of the run directory.

Nothing here does I/O or keeps state between calls. An application that wants signals in the
journals (tasks.jsonl and so on) gives a :class:`RecordMap`; everything else goes, complete, into
spans.jsonl, logs.jsonl and metrics.jsonl. `resource` is the run's own: a line there that is made of
a signal of another resource carries that one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Final, cast

from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.metrics.export import (
    Buckets,
    ExponentialHistogram,
    ExponentialHistogramDataPoint,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, Status

from scalable_runs import schema
from scalable_runs.otel.additions import AddedSpan, Additions
from scalable_runs.otel.record_map import Plan, RecordMap
from scalable_runs.plain import iso_time
from scalable_runs.schema import LOGS, METRICS, SPANS, Record

_SECOND: Final = 1_000_000_000


def encode_spans(
    spans: Iterable[ReadableSpan],
    record_map: RecordMap | None = None,
    *,
    resource: Resource | None = None,
) -> dict[str, list[Record]]:
    """Make records of ended spans, by file; a record's `timestamp` is the span's end."""
    files: dict[str, list[Record]] = {}
    for span in spans:
        attributes: Mapping[str, Any] = span.attributes or {}
        added: Additions | None = None
        if isinstance(span, AddedSpan) and record_map is not None:
            added, attributes = span.added, span.own_attributes
        plans = record_map.plans(attributes) if record_map is not None else ()
        ended = span.end_time or span.start_time or 0
        context = span.context
        # A span context is a tuple; its properties cost a call each.
        trace_id, span_id = context[:2] if context is not None else (0, 0)
        for plan in plans:
            record = _record(plan, attributes, ended, trace_id, span_id)
            if plan.event_type == "task":
                # With its parent, the span can be made again from the record.
                if span.parent is not None:
                    record["parent_span_id"] = _span_id(span.parent[1])
                if added is not None:
                    record["details"] = _details(added)
            files.setdefault(plan.file, []).append(record)
        if not plans:
            files.setdefault(SPANS, []).append(_span_record(span, attributes, resource))
    return files


def encode_logs(
    batch: Iterable[ReadableLogRecord],
    record_map: RecordMap | None = None,
    *,
    resource: Resource | None = None,
) -> dict[str, list[Record]]:
    """Make records of log records and events, by file; `timestamp` is the log record's own."""
    files: dict[str, list[Record]] = {}
    for readable in batch:
        log = readable.log_record
        attributes: Mapping[str, Any] = log.attributes or {}
        plans = record_map.plans(attributes) if record_map is not None else ()
        at = log.timestamp or log.observed_timestamp or 0
        for plan in plans:
            record = _record(plan, attributes, at, log.trace_id or 0, log.span_id or 0)
            files.setdefault(plan.file, []).append(record)
        if not plans:
            files.setdefault(LOGS, []).append(_log_record(readable, attributes, at, resource))
    return files


def encode_metrics(
    data: MetricsData,
    record_map: RecordMap | None = None,
    *,
    resource: Resource | None = None,
) -> dict[str, list[Record]]:
    """Make records of the points of one collection, by file; `timestamp` is the point's.

    Only points with one number (of sums and gauges) are routed.
    """
    files: dict[str, list[Record]] = {}
    together: dict[Any, Record] = {}
    for resource_metrics in data.resource_metrics:
        foreign = _foreign(resource_metrics.resource, resource)
        for scope_metrics in resource_metrics.scope_metrics:
            for metric in scope_metrics.metrics:
                routed = record_map.metrics.get(metric.name) if record_map is not None else None
                for point in metric.data.data_points:
                    attributes: Mapping[str, Any] = point.attributes or {}
                    if (
                        record_map is not None
                        and routed is not None
                        and isinstance(point, NumberDataPoint)
                        and (plans := record_map.plans(attributes))
                    ):
                        key = _key(attributes)
                        for plan in plans:
                            at = (plan.event_type, point.time_unix_nano, key)
                            record = together.get(at)
                            if record is None:
                                record = _record(plan, attributes, point.time_unix_nano, 0, 0)
                                together[at] = record
                                files.setdefault(plan.file, []).append(record)
                            record[routed[0]] = point.value * routed[1]
                        continue
                    record = _point_record(metric, point, attributes, scope_metrics.scope)
                    if foreign is not None:
                        record["resource"] = foreign
                    files.setdefault(METRICS, []).append(record)
    return files


@lru_cache(maxsize=256)
def _trace_id(trace_id: int) -> str:
    return f"{trace_id:032x}"


@lru_cache(maxsize=256)
def _span_id(span_id: int) -> str:
    return f"{span_id:016x}"


def _record(
    plan: Plan, attributes: Mapping[str, Any], at: int, trace_id: int, span_id: int
) -> Record:
    _, event_type, constants, constant_details, fields, detail_fields = plan
    record: Record = {"event_type": event_type, "timestamp": iso_time(at)}
    if trace_id:
        record["trace_id"] = _trace_id(trace_id)
        if span_id:
            record["span_id"] = span_id.to_bytes(8, "big").hex()
    if constants:
        record.update(constants)
    field_of = fields.get
    for name, value in attributes.items():
        to = field_of(name)
        if to is not None and value is not None:
            record[to] = value
    if detail_fields or constant_details:
        details = dict(constant_details)
        field_of = detail_fields.get
        for name, value in attributes.items():
            to = field_of(name)
            if to is not None and value is not None:
                details[to] = value
        if details:
            record["details"] = details
    return record


def _span_record(
    span: ReadableSpan, attributes: Mapping[str, Any], resource: Resource | None
) -> Record:
    started, ended = span.start_time or 0, span.end_time or span.start_time or 0
    record: schema.SpanRecord = {"event_type": "span", "timestamp": iso_time(ended)}
    if span.context is not None:
        _add_ids(record, span.context.trace_id, span.context.span_id)
    if span.parent is not None:
        record["parent_span_id"] = f"{span.parent.span_id:016x}"
    record |= {
        "name": span.name,
        "kind": span.kind.name.lower(),
        "start_time": iso_time(started),
        "end_time": iso_time(ended),
        "duration_s": (ended - started) / _SECOND,
    }
    record["status"] = _status(span.status)
    if attributes:
        record["attributes"] = dict(attributes)
    if span.events:
        record["events"] = [_event(event) for event in span.events]
    if span.links:
        record["links"] = [_link(link) for link in span.links]
    dropped = _dropped(span.dropped_attributes, span.dropped_events, span.dropped_links)
    if dropped:
        record["dropped"] = dropped
    _add_origin(record, span.instrumentation_scope, _foreign(span.resource, resource))
    return cast("Record", record)


def _details(added: Additions) -> schema.TaskDetails:
    details: schema.TaskDetails = {}
    if added.name is not None:
        details["span_name"] = added.name
    if added.status is not None:
        details["status"] = _status(added.status)
    if added.attributes:
        details["attributes"] = added.attributes
    if added.events:
        details["events"] = [_event(event) for event in added.events]
    if added.links:
        details["links"] = [_link(link) for link in added.links]
    dropped = _dropped(*added.dropped)
    if dropped:
        details["dropped"] = dropped
    return details


def _status(status: Status) -> schema.SpanStatus:
    found: schema.SpanStatus = {"code": status.status_code.name.lower()}
    if status.description:
        found["description"] = status.description
    return found


def _event(event: Event) -> schema.SpanEvent:
    return {
        "name": event.name,
        "timestamp": iso_time(event.timestamp),
        "attributes": dict(event.attributes or {}),
    }


def _dropped(attributes: int, events: int, links: int) -> dict[str, int]:
    counts = {"attributes": attributes, "events": events, "links": links}
    return {what: count for what, count in counts.items() if count}


def _log_record(
    readable: ReadableLogRecord, attributes: Mapping[str, Any], at: int, resource: Resource | None
) -> Record:
    log = readable.log_record
    record: schema.LogRecord = {"event_type": "log", "timestamp": iso_time(at)}
    _add_ids(record, log.trace_id or 0, log.span_id or 0)
    if log.observed_timestamp and log.observed_timestamp != at:
        record["observed_timestamp"] = iso_time(log.observed_timestamp)
    if log.event_name:
        record["event_name"] = log.event_name
    if log.severity_number is not None:
        record["severity_number"] = log.severity_number.value
    if log.severity_text:
        record["severity_text"] = log.severity_text
    if log.body is not None:
        record["body"] = log.body
    if attributes:
        record["attributes"] = dict(attributes)
    _add_origin(record, readable.instrumentation_scope, _foreign(readable.resource, resource))
    return cast("Record", record)


_KINDS: Final[Mapping[type, str]] = {
    Sum: "sum",
    Gauge: "gauge",
    Histogram: "histogram",
    ExponentialHistogram: "exponential_histogram",
}


def _point_record(
    metric: Metric,
    point: NumberDataPoint | HistogramDataPoint | ExponentialHistogramDataPoint,
    attributes: Mapping[str, Any],
    scope: InstrumentationScope,
) -> Record:
    record: schema.MetricRecord = {
        "event_type": "metric",
        "timestamp": iso_time(point.time_unix_nano),
        "name": metric.name,
        "kind": _KINDS.get(type(metric.data), "unknown"),
    }
    if metric.unit:
        record["unit"] = metric.unit
    data = metric.data
    if isinstance(data, (Sum, Histogram, ExponentialHistogram)):
        record["temporality"] = data.aggregation_temporality.name.lower()
    if isinstance(data, Sum):
        record["monotonic"] = data.is_monotonic
    if point.start_time_unix_nano:
        record["start_time"] = iso_time(point.start_time_unix_nano)
    if isinstance(point, NumberDataPoint):
        record["value"] = point.value
    else:
        record["count"] = point.count
        record["sum"] = point.sum
        if point.count:
            record["min"] = point.min
            record["max"] = point.max
        if isinstance(point, HistogramDataPoint):
            record["bounds"] = list(point.explicit_bounds)
            record["bucket_counts"] = list(point.bucket_counts)
        else:
            record["scale"] = point.scale
            record["zero_count"] = point.zero_count
            record["positive"] = _buckets(point.positive)
            record["negative"] = _buckets(point.negative)
    if attributes:
        record["attributes"] = dict(attributes)
    _add_origin(record, scope, None)
    return cast("Record", record)


def _buckets(buckets: Buckets) -> schema.MetricBuckets:
    return {"offset": buckets.offset, "bucket_counts": list(buckets.bucket_counts)}


def _link(link: Link) -> schema.SpanLink:
    found: schema.SpanLink = {}
    _add_ids(found, link.context.trace_id, link.context.span_id)
    found["attributes"] = dict(link.attributes or {})
    return found


def _add_ids(record: schema.SignalRecord | schema.SpanLink, trace_id: int, span_id: int) -> None:
    if trace_id:
        record["trace_id"] = _trace_id(trace_id)
    if span_id:
        record["span_id"] = f"{span_id:016x}"


def _add_origin(
    record: schema.SignalRecord,
    scope: InstrumentationScope | None,
    resource: dict[str, Any] | None,
) -> None:
    if scope is not None:
        record["scope"] = (
            {"name": scope.name, "version": scope.version}
            if scope.version
            else {"name": scope.name}
        )
    if resource is not None:
        record["resource"] = resource


def _foreign(resource: Resource | None, own: Resource | None) -> dict[str, Any] | None:
    if resource is None or resource is own or resource == own:
        return None
    return dict(resource.attributes)


def _key(attributes: Mapping[str, Any]) -> Any:
    """Something equal for equal attributes, whatever their order; values may be unhashable."""
    try:
        return frozenset(
            (name, tuple(value) if value.__class__ is list else value)
            for name, value in attributes.items()
        )
    except TypeError:
        return repr(sorted(attributes.items(), key=lambda item: item[0]))
