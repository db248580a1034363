"""Relayed items → OpenTelemetry: what user code and Dask's loggers recorded in the cluster."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple
from uuid import UUID, uuid5

import orjson
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.context import Context
from opentelemetry.sdk._logs import LogRecordLimits, ReadableLogRecord
from opentelemetry.sdk.metrics.export import MetricsData
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
)

from scalable import facts
from scalable.facts.relay_items import LogItem, Payload, Position, SpanItem
from scalable.telemetry import semconv
from scalable.telemetry.ledger.named_frames import with_names
from scalable.telemetry.ledger.relayed_points import PointDecoder
from scalable.telemetry.ledger.written import events_of, links_of
from scalable.telemetry.signals.spans import NOT_SENT
from scalable_runs.redact import Redactor

#: Resources and scopes that are cached.
_MAX_KEPT: Final = 256
_NO_CONTEXT: Final = Context({"": None})
_SIGNALS: Final = {
    facts.RELAY_SPANS: "spans",
    facts.RELAY_LOGS: "log_records",
    facts.RELAY_METRICS: "metrics",
}
#: Attributes of the client's resource that describe its process, or where that runs.
_OF_A_PROCESS: Final = (
    *("process.", "host.", "os.", "device.", "container.", "k8s.", "telemetry."),
    *("cloud.", "aws.", "azure.", "gcp.", "faas.", "heroku.", "webengine."),
    semconv.SERVICE_INSTANCE,
)
#: Namespace of OpenTelemetry's conventions for ids of instances that are made of a text.
_INSTANCES: Final = UUID("4d63009a-8d0f-11ee-aad7-4c796ed8e320")


class RelayedSignals(NamedTuple):
    """Signals that were decoded since the last call of :meth:`RelayDecoder.drain`."""

    spans: list[ReadableSpan]
    logs: list[ReadableLogRecord]
    metrics: list[MetricsData]


class _Span(ReadableSpan):
    """A span whose dropped parts its worker counted; `attempt` is the span id of its attempt."""

    def __init__(self, dropped: Sequence[int], attempt: int, **fields: Any) -> None:
        super().__init__(**fields)
        self._dropped = dropped
        self.attempt = attempt

    @property
    def dropped_attributes(self) -> int:
        return self._dropped[0]

    @property
    def dropped_events(self) -> int:
        return self._dropped[1]

    @property
    def dropped_links(self) -> int:
        return self._dropped[2]


def _flags(item: Position) -> TraceFlags:
    flags = item["flags"]
    if item.get("suppressed"):
        flags = flags & ~TraceFlags.SAMPLED | NOT_SENT
    return TraceFlags(flags)


def attempt_of(span: ReadableSpan) -> int:
    """Span id of the attempt that a relayed span belongs to; 0 for none."""
    return getattr(span, "attempt", 0)


class RelayDecoder:
    """Decodes what workers relay; called by the recorder's thread only.

    Parameters
    ----------
    resource : Resource
        The run's own; a worker's differs in what describes the process.
    redact : Redactor
        Passed every text before anything else sees it.
    log_level : int
        Least level of Python's logging that this run keeps.
    program : tuple of str and int
        Host and process id of the program.
    delta : bool
        Keep what was added to a metric, as OTLP's temporality preference says, and no sums.
    """

    def __init__(
        self,
        resource: Resource,
        *,
        redact: Redactor,
        log_level: int,
        program: tuple[str, int] = ("", 0),
        delta: bool = False,
    ) -> None:
        self._run_resource = resource
        self._program = program
        self._redact = redact
        self._log_level = log_level
        self._limits = LogRecordLimits()
        self._resource = lru_cache(_MAX_KEPT)(self._make_resource)
        self._scope = lru_cache(_MAX_KEPT)(self._make_scope)
        self._points = PointDecoder(redact, self._scope, delta=delta)
        self._waiting = RelayedSignals([], [], [])
        #: What workers had to leave out, by signal.
        self.dropped: Counter[str] = Counter()

    def take(self, fact: facts.RelayBatch) -> None:
        """Decode a fact."""
        if fact.dropped:
            self.dropped[_SIGNALS[fact.kind]] += fact.dropped
        if not fact.number:
            return
        content: Payload = orjson.loads(fact.payload)
        resource = self._resource(orjson.dumps(content["resource"]))
        items = content["items"]
        if fact.kind == facts.RELAY_SPANS:
            self._waiting.spans.extend(self._span(item, resource) for item in items)
        elif fact.kind == facts.RELAY_LOGS:
            self._waiting.logs.extend(
                self._log(item, resource)
                for item in items
                if item.get("level") is None or item["level"] >= self._log_level
            )
        else:
            self._waiting.metrics.append(self._points.decode(items, fact.worker, resource))

    def keep_output(self, item: LogItem, resource: bytes) -> None:
        """Add a record of what a task printed, of which secrets were removed."""
        self._waiting.logs.append(self._record(item, self._resource(resource), item["attributes"]))

    def drop(self, signal: str, number: int) -> None:
        """Count what is left out."""
        self.dropped[signal] += number

    def drain(self) -> RelayedSignals:
        """Remove and return the signals decoded since the last call."""
        waiting, self._waiting = self._waiting, RelayedSignals([], [], [])
        return waiting

    def _span(self, item: SpanItem, resource: Resource) -> ReadableSpan:
        redact = self._redact
        state = item["state"]
        ids = SpanContext(
            int(item["trace"] or "0", 16),
            int(item["span"] or "0", 16),
            is_remote=False,
            trace_flags=_flags(item),
            trace_state=TraceState.from_header([redact.short(state)]) if state else None,
        )
        parent = None
        if item["parent"] is not None:
            is_remote = bool(item.get("remote"))
            parent = SpanContext(ids.trace_id, int(item["parent"], 16), is_remote, ids.trace_flags)
        attributes = redact.attributes(with_names(item["attributes"]))
        if item["task"] is not None:
            attributes.setdefault(semconv.TASK_KEY, redact.identity(item["task"]))
        # A worker of an earlier version does not name the attempt.
        attempt = item.get("attempt") or (item["parent"] if item["task"] is not None else None)
        code, description = item["status"]
        return _Span(
            item["dropped"],
            int(attempt or "0", 16),
            name=redact.short(item["name"]),
            context=ids,
            parent=parent,
            resource=resource,
            attributes=attributes,
            events=events_of(item["events"], redact),
            links=links_of(item["links"], redact),
            kind=SpanKind(item["kind"]),
            status=Status(StatusCode(code), None if description is None else redact(description)),
            start_time=item["start"],
            end_time=max(item["start"], item["end"]),
            instrumentation_scope=self._scope(*item["scope"]),
        )

    def _log(self, item: LogItem, resource: Resource) -> ReadableLogRecord:
        redact = self._redact
        clean: LogItem = {
            **item,
            "severity_text": redact.value(item["severity_text"]),
            "body": redact.value(item["body"]),
            "event": redact.value(item["event"]),
        }
        attributes = redact.attributes(with_names(item["attributes"]))
        return self._record(clean, resource, attributes)

    def _record(
        self, item: LogItem, resource: Resource, attributes: dict[str, Any]
    ) -> ReadableLogRecord:
        if item["task"] is not None:
            attributes[semconv.TASK_KEY] = self._redact.identity(item["task"])
        severity = item["severity"]
        record = LogRecord(
            timestamp=item["time"],
            observed_timestamp=item["time"],
            context=_NO_CONTEXT,
            severity_text=item["severity_text"],
            severity_number=None if severity is None else SeverityNumber(severity),
            body=item["body"],
            attributes=attributes,
            event_name=item["event"],
        )
        if item.get("suppressed"):
            record.trace_flags = _flags(item)
        if item["trace"]:
            record.trace_id = int(item["trace"], 16)
            record.span_id = int(item["span"] or "0", 16)
            record.trace_flags = _flags(item)
        return ReadableLogRecord(record, resource, self._scope(*item["scope"]), limits=self._limits)

    # -- what many have in common -----------------------------------------------------------------

    def _make_resource(self, encoded: bytes) -> Resource:
        given: dict[str, Any] = orjson.loads(encoded)
        of_run = self._run_resource.attributes
        # What the client says of the service holds for the whole cluster. What it says of its own
        # process and host does not.
        attributes: dict[str, Any] = {
            name: value for name, value in of_run.items() if not name.startswith(_OF_A_PROCESS)
        }
        for pair in (given.pop("attributes", None) or "").split(","):
            name, equals, value = pair.partition("=")
            if equals and name.strip():
                attributes[name.strip()] = value.strip()
        attributes |= {name: value for name, value in given.items() if value is not None}
        host, pid = str(given.get(semconv.HOST_NAME, "")), given.get(semconv.PROCESS_PID)
        instance = attributes.get(semconv.SERVICE_INSTANCE, "")
        if (host, pid) == self._program:
            instance = of_run.get(semconv.SERVICE_INSTANCE, instance)
        elif not instance or instance == of_run.get(semconv.SERVICE_INSTANCE):
            # An older worker, or one that inherited the client's environment.
            instance = str(uuid5(_INSTANCES, f"{instance} {host} {pid}"))
        attributes[semconv.SERVICE_INSTANCE] = instance
        return Resource(self._redact.attributes(attributes), self._run_resource.schema_url)

    def _make_scope(self, *scope: str | None) -> InstrumentationScope:
        return InstrumentationScope(*map(self._redact.value, scope))
