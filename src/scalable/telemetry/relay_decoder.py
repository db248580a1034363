"""Relayed payloads → OpenTelemetry: what user code and Dask's loggers recorded in the cluster."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import orjson
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.context import Context
from opentelemetry.sdk._logs import LogRecordLimits, ReadableLogRecord
from opentelemetry.sdk.metrics import Exemplar
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
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
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    Link,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
)

from scalable import facts
from scalable.telemetry import semconv
from scalable_runs.redact import Redactor

#: Resources and scopes kept at hand.
_MAX_KEPT: Final = 256
#: Time series of user metrics that are summed up; beyond it the oldest begins anew.
_MAX_SERIES: Final = 10_000
_CUMULATIVE: Final = AggregationTemporality.CUMULATIVE
_DELTA: Final = AggregationTemporality.DELTA


class RelayedSignals(NamedTuple):
    """What came since the last look."""

    spans: list[ReadableSpan]
    logs: list[ReadableLogRecord]
    metrics: list[MetricsData]


class _Span(ReadableSpan):
    """A span whose dropped parts its worker counted."""

    def __init__(self, dropped: Sequence[int], **fields: Any) -> None:
        super().__init__(**fields)
        self._dropped = dropped

    @property
    def dropped_attributes(self) -> int:
        return self._dropped[0]

    @property
    def dropped_events(self) -> int:
        return self._dropped[1]

    @property
    def dropped_links(self) -> int:
        return self._dropped[2]


class RelayDecoder:
    """Unpacks what workers relay; called by the recorder's thread only.

    Parameters
    ----------
    resource : Resource
        The run's own: a worker's differs in what describes the process.
    redact : Redactor
        Passed every text before anything else sees it.
    log_level : int
        Least level of Python's logging that this run keeps.
    delta : bool
        Pass metrics on as what was added, as OTLP's temporality preference says, and not as sums.
    """

    def __init__(
        self,
        resource: Resource,
        *,
        redact: Redactor,
        log_level: int,
        delta: bool = False,
    ) -> None:
        self._home = resource
        self._redact = redact
        self._log_level = log_level
        self._delta = delta
        self._limits = LogRecordLimits()
        self._resources: OrderedDict[str, Resource] = OrderedDict()
        self._scopes: OrderedDict[Any, InstrumentationScope] = OrderedDict()
        self._series: OrderedDict[Any, Any] = OrderedDict()
        self._waiting = RelayedSignals([], [], [])
        #: What workers had to leave out, by signal.
        self.dropped: dict[str, int] = {}

    def take(self, fact: facts.RelayBatch) -> None:
        """Enter a fact."""
        if fact.dropped:
            name = _NAMES[fact.kind]
            self.dropped[name] = self.dropped.get(name, 0) + fact.dropped
        if not fact.number:
            return
        content = orjson.loads(fact.payload)
        resource = self._resource(content["resource"])
        items: list[Any] = content["items"]
        if fact.kind == facts.RELAY_SPANS:
            self._waiting.spans.extend(self._span(item, resource) for item in items)
        elif fact.kind == facts.RELAY_LOGS:
            self._waiting.logs.extend(
                self._log(item, resource)
                for item in items
                if item.get("level") is None or item["level"] >= self._log_level
            )
        else:
            self._waiting.metrics.append(self._metrics(items, fact.worker, resource))

    def drain(self) -> RelayedSignals:
        """What came since the last call."""
        waiting, self._waiting = self._waiting, RelayedSignals([], [], [])
        return waiting

    # -- spans ------------------------------------------------------------------------------------

    def _span(self, item: Mapping[str, Any], resource: Resource) -> ReadableSpan:
        ids = SpanContext(
            int(item["trace"], 16),
            int(item["span"], 16),
            is_remote=False,
            trace_flags=TraceFlags(item["flags"]),
            trace_state=TraceState.from_header([self._redact.short(item["state"])])
            if item["state"]
            else None,
        )
        parent = item["parent"]
        code, description = item["status"]
        redact = self._redact
        attributes = redact.attributes(item["attributes"])
        if item["task"] is not None:
            attributes.setdefault(semconv.TASK_KEY, redact.identity(item["task"]))
        return _Span(
            item["dropped"],
            name=redact.short(item["name"]),
            context=ids,
            parent=None
            if parent is None
            else SpanContext(ids.trace_id, int(parent, 16), False, ids.trace_flags),
            resource=resource,
            attributes=attributes,
            events=[
                Event(redact.short(name), redact.attributes(given), time)
                for name, time, given in item["events"]
            ],
            links=[
                Link(
                    SpanContext(int(trace, 16), int(span, 16), True, TraceFlags(flags)),
                    self._redact.attributes(given),
                )
                for trace, span, flags, given in item["links"]
            ],
            kind=SpanKind(item["kind"]),
            status=Status(
                StatusCode(code), None if description is None else self._redact(description)
            ),
            start_time=item["start"],
            end_time=max(item["start"], item["end"]),
            instrumentation_scope=self._scope(item["scope"]),
        )

    # -- log records ------------------------------------------------------------------------------

    def _log(self, item: Mapping[str, Any], resource: Resource) -> ReadableLogRecord:
        redact = self._redact
        attributes = redact.attributes(item["attributes"])
        if item["task"] is not None:
            attributes[semconv.TASK_KEY] = redact.identity(item["task"])
        severity = item["severity"]
        record = LogRecord(
            timestamp=item["time"],
            observed_timestamp=item["time"],
            context=_NO_CONTEXT,
            severity_text=redact.value(item["severity_text"]),
            severity_number=None if severity is None else SeverityNumber(severity),
            body=redact.value(item["body"]),
            attributes=attributes,
            event_name=redact.value(item["event"]),
        )
        if item["trace"]:
            record.trace_id = int(item["trace"], 16)
            record.span_id = int(item["span"] or "0", 16)
            record.trace_flags = TraceFlags(item["flags"])
        return ReadableLogRecord(record, resource, self._scope(item["scope"]), limits=self._limits)

    # -- metrics ----------------------------------------------------------------------------------

    def _metrics(self, items: list[Any], worker: str, resource: Resource) -> MetricsData:
        scopes: dict[InstrumentationScope, list[Metric]] = {}
        for item in items:
            scope = self._scope(item["scope"])
            points = [self._point(item, point, worker) for point in item["points"]]
            kind, data = item["kind"], None
            if kind == "sum":
                added = self._delta and item["delta"]
                data = Sum(points, _DELTA if added else _CUMULATIVE, item["monotonic"])
            elif kind == "histogram":
                data = Histogram(points, _DELTA if self._delta else _CUMULATIVE)
            else:
                data = Gauge(points)
            name, description, unit = (
                self._redact.value(item[of]) for of in ("name", "description", "unit")
            )
            metric = Metric(name, description, unit, data)
            scopes.setdefault(scope, []).append(metric)
        return MetricsData(
            [
                ResourceMetrics(
                    resource,
                    [
                        ScopeMetrics(scope, metrics, scope.schema_url or "")
                        for scope, metrics in scopes.items()
                    ],
                    "",
                )
            ]
        )

    def _point(self, item: Mapping[str, Any], point: dict[str, Any], worker: str) -> Any:
        attributes = self._redact.attributes(point["attributes"])
        exemplars = [
            Exemplar(self._redact.attributes(given), value, time, int(span, 16), int(trace, 16))
            for value, time, trace, span, given in point["exemplars"]
        ]
        kind = item["kind"]
        if (kind == "histogram" or item.get("delta")) and not self._delta:
            self._sum_up(item, point, worker)
        times = (point["start"], point["time"])
        if kind != "histogram":
            return NumberDataPoint(attributes, *times, point["value"], exemplars)
        return HistogramDataPoint(
            attributes,
            *times,
            point["count"],
            point["sum"],
            point["buckets"],
            point["bounds"],
            point["min"],
            point["max"],
            exemplars,
        )

    def _sum_up(self, item: Mapping[str, Any], point: dict[str, Any], worker: str) -> None:
        """Make a point that says what was added say the sum since its series began."""
        key = (
            worker,
            item["name"],
            item["unit"],
            item["kind"],
            tuple(item["scope"]),
            orjson.dumps(point["attributes"], option=orjson.OPT_SORT_KEYS),
            tuple(point.get("bounds", ())),
        )
        sums = self._series.get(key)
        if sums is not None:
            point["start"] = sums["start"]
            for name in ("value", "count", "sum"):
                if name in point:
                    point[name] += sums[name]
            if "buckets" in point:
                pairs = zip(point["buckets"], sums["buckets"], strict=True)
                point["buckets"] = [one + other for one, other in pairs]
                point["min"] = min(point["min"], sums["min"])
                point["max"] = max(point["max"], sums["max"])
        elif len(self._series) >= _MAX_SERIES:
            self._series.popitem(last=False)
        self._series[key] = point

    # -- what many have in common -----------------------------------------------------------------

    def _resource(self, given: dict[str, Any]) -> Resource:
        key = repr(given)
        found = self._resources.get(key)
        if found is None:
            attributes: dict[str, Any] = dict(self._home.attributes)
            said = given.pop("attributes", None) or ""
            for pair in said.split(","):
                name, equals, value = pair.partition("=")
                if equals and name.strip():
                    attributes[name.strip()] = value.strip()
            attributes |= {name: value for name, value in given.items() if value is not None}
            worker = given.get("dask.worker.address") or given.get("process.pid")
            attributes[semconv.SERVICE_INSTANCE] = str(worker)
            found = _kept(self._resources, key, Resource(self._redact.attributes(attributes)))
        return found

    def _scope(self, given: Sequence[Any]) -> InstrumentationScope:
        key = tuple(given)
        found = self._scopes.get(key)
        if found is None:
            scope = InstrumentationScope(*map(self._redact.value, key))
            found = _kept(self._scopes, key, scope)
        return found


_NO_CONTEXT: Final = Context({"": None})
_NAMES: Final = {
    facts.RELAY_SPANS: "spans",
    facts.RELAY_LOGS: "log_records",
    facts.RELAY_METRICS: "metrics",
}


def _kept(table: OrderedDict[Any, Any], key: Any, value: Any) -> Any:
    if len(table) >= _MAX_KEPT:
        table.popitem(last=False)
    table[key] = value
    return value
