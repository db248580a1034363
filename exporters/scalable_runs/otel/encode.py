"""Pure: spans, log records and metric points of OpenTelemetry into records of the run directory.

Nothing here does I/O or keeps state between calls. What an application wants in the journals of
its own (tasks.jsonl and so on) it says with a :class:`RecordMap`; everything else goes, complete,
into spans.jsonl, logs.jsonl and metrics.jsonl.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, NamedTuple

from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.metrics.export import (
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
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from scalable_runs.plain import iso_time
from scalable_runs.schema import FILE_OF, LOGS, METRICS, SPANS, Record

_SECOND: Final = 1_000_000_000
_DETAILS: Final = "details."
#: Combinations of event types that a record map keeps at hand.
_MAX_ROUTES: Final = 64


class _Plan(NamedTuple):
    """How one event type is made, ready for the loop that makes it."""

    file: str
    event_type: str
    constants: Record
    constant_details: Record
    fields: Mapping[str, str]
    details: Mapping[str, str]


@dataclass(frozen=True, slots=True, eq=False)
class RecordMap:
    """Which attribute of a signal becomes which field of a record.

    The names are the application's; this package knows none of them.

    Attributes
    ----------
    route
        Attribute whose value, a string or a sequence of strings, is the event type (or types) of
        the record that a signal becomes. A signal without it, or with an unknown event type, is
        unrouted.
    fields
        For each event type, the record's field for an attribute's name. A field `details.x`
        becomes `x` of the record's `details` object. Attributes not named here, and those whose
        value is None, are left out.
    constants
        For each event type, values of fields that no attribute gave.
    metrics
        For a metric's name, the field that holds a point's value and the factor it is multiplied
        by. Points with equal routed attributes and equal time become one record.
    attributes
        The inverse of `fields`: for each event type, the attribute of a record's field.
    """

    route: str
    fields: Mapping[str, Mapping[str, str]]
    constants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])
    metrics: Mapping[str, tuple[str, float]] = field(default_factory=dict[str, tuple[str, float]])
    attributes: Mapping[str, Mapping[str, str]] = field(init=False, repr=False)
    _plans: dict[Any, tuple[_Plan, ...]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        unknown = sorted({*self.fields, *self.constants} - set(FILE_OF))
        if unknown:
            raise ValueError(f"unknown event types {unknown}: known are {sorted(FILE_OF)}")
        plans = {
            event_type: (self._plan(event_type, fields),)
            for event_type, fields in self.fields.items()
        }
        object.__setattr__(self, "_plans", plans)
        attributes = {
            event_type: {to: name for name, to in fields.items()}
            for event_type, fields in self.fields.items()
        }
        object.__setattr__(self, "attributes", attributes)

    def _plan(self, event_type: str, fields: Mapping[str, str]) -> _Plan:
        return _Plan(
            FILE_OF[event_type],
            event_type,
            *_split(self.constants.get(event_type, {})),
            {name: to for name, to in fields.items() if not to.startswith(_DETAILS)},
            {
                name: to.removeprefix(_DETAILS)
                for name, to in fields.items()
                if to.startswith(_DETAILS)
            },
        )

    def plans(self, attributes: Mapping[str, Any]) -> tuple[_Plan, ...]:
        """Return how to make the records of a signal with these attributes; empty if unrouted."""
        routed: Any = attributes.get(self.route)
        if routed is None:
            return ()
        if routed.__class__ is list:
            routed = tuple(routed)
        elif routed.__class__ is not str and routed.__class__ is not tuple:
            return ()
        plans = self._plans.get(routed)
        return plans if plans is not None else self._add_plans(routed)

    def _add_plans(self, routed: str | tuple[Any, ...]) -> tuple[_Plan, ...]:
        names = (routed,) if isinstance(routed, str) else routed
        plans = tuple(
            plan for name in names if isinstance(name, str) for plan in self._plans.get(name, ())
        )
        if plans and len(self._plans) < _MAX_ROUTES:
            self._plans[routed] = plans
        return plans


def encode_spans(
    spans: Iterable[ReadableSpan],
    record_map: RecordMap | None = None,
    *,
    resource: Resource | None = None,
) -> dict[str, list[Record]]:
    """Make records of ended spans; a record's `timestamp` is the span's end.

    Parameters
    ----------
    spans
        Ended spans.
    record_map
        What goes where; without it every span goes into spans.jsonl.
    resource
        The run's own resource: a span in spans.jsonl of another one carries that other one.

    Returns
    -------
    dict
        Records by file, in the order of the spans.
    """
    files: dict[str, list[Record]] = {}
    for span in spans:
        attributes: Mapping[str, Any] = span.attributes or {}
        plans = record_map.plans(attributes) if record_map is not None else ()
        ended = span.end_time or span.start_time or 0
        context = span.context
        # A span context is a tuple; its properties cost a call each.
        trace_id, span_id = context[:2] if context is not None else (0, 0)
        for plan in plans:
            record = _record(plan, attributes, ended, trace_id, span_id)
            if plan.event_type == "task" and span.parent is not None:
                # All that a span of the line would lack: who reads it can make the trace anew.
                record["parent_span_id"] = _span_id(span.parent[1])
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
    """Make records of log records and events; `timestamp` is the log record's own.

    Parameters
    ----------
    batch
        Log records.
    record_map
        What goes where; without it every log record goes into logs.jsonl.
    resource
        The run's own resource: a line in logs.jsonl of another one carries that other one.

    Returns
    -------
    dict
        Records by file, in the order of the batch.
    """
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
    """Make records of metric points; `timestamp` is the time of the point.

    Parameters
    ----------
    data
        One collection.
    record_map
        What goes where; without it every point goes into metrics.jsonl. Only points with one
        number (of sums and gauges) are routed.
    resource
        The run's own resource: a line in metrics.jsonl of another one carries that other one.

    Returns
    -------
    dict
        Records by file, in the order of the collection.
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


def _split(values: Mapping[str, Any]) -> tuple[Record, Record]:
    plain = {to: value for to, value in values.items() if not to.startswith(_DETAILS)}
    details = {
        to.removeprefix(_DETAILS): value for to, value in values.items() if to.startswith(_DETAILS)
    }
    return plain, details


def _record(
    plan: _Plan, attributes: Mapping[str, Any], at: int, trace_id: int, span_id: int
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
    record: Record = {"event_type": "span", "timestamp": iso_time(ended)}
    if span.context is not None:
        record |= _ids(span.context.trace_id, span.context.span_id)
    if span.parent is not None:
        record["parent_span_id"] = f"{span.parent.span_id:016x}"
    record |= {
        "name": span.name,
        "kind": span.kind.name.lower(),
        "start_time": iso_time(started),
        "end_time": iso_time(ended),
        "duration_s": (ended - started) / _SECOND,
        "status": {"code": span.status.status_code.name.lower()},
    }
    if span.status.description:
        record["status"]["description"] = span.status.description
    if attributes:
        record["attributes"] = dict(attributes)
    if span.events:
        record["events"] = [
            {
                "name": event.name,
                "timestamp": iso_time(event.timestamp),
                "attributes": dict(event.attributes or {}),
            }
            for event in span.events
        ]
    if span.links:
        record["links"] = [
            _ids(link.context.trace_id, link.context.span_id)
            | {"attributes": dict(link.attributes or {})}
            for link in span.links
        ]
    dropped = {
        what: count
        for what, count in (
            ("attributes", span.dropped_attributes),
            ("events", span.dropped_events),
            ("links", span.dropped_links),
        )
        if count
    }
    if dropped:
        record["dropped"] = dropped
    _add_origin(record, span.instrumentation_scope, _foreign(span.resource, resource))
    return record


def _log_record(
    readable: ReadableLogRecord, attributes: Mapping[str, Any], at: int, resource: Resource | None
) -> Record:
    log = readable.log_record
    record: Record = {"event_type": "log", "timestamp": iso_time(at)}
    record |= _ids(log.trace_id or 0, log.span_id or 0)
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
    return record


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
    record: Record = {
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
            for sign, buckets in (("positive", point.positive), ("negative", point.negative)):
                record[sign] = {
                    "offset": buckets.offset,
                    "bucket_counts": list(buckets.bucket_counts),
                }
    if attributes:
        record["attributes"] = dict(attributes)
    _add_origin(record, scope, None)
    return record


def _ids(trace_id: int, span_id: int) -> Record:
    ids: Record = {}
    if trace_id:
        ids["trace_id"] = _trace_id(trace_id)
    if span_id:
        ids["span_id"] = f"{span_id:016x}"
    return ids


def _add_origin(
    record: Record, scope: InstrumentationScope | None, resource: Record | None
) -> None:
    if scope is not None:
        record["scope"] = (
            {"name": scope.name, "version": scope.version}
            if scope.version
            else {"name": scope.name}
        )
    if resource is not None:
        record["resource"] = resource


def _foreign(resource: Resource | None, own: Resource | None) -> Record | None:
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
