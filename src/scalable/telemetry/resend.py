"""A recorded run sent to a collector later, or written as OTLP: with the ids that it had."""

from __future__ import annotations

import base64
import json
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import sleep
from typing import IO, Any, Final, Protocol, cast
from urllib.parse import urlsplit

from opentelemetry._logs import SeverityNumber
from opentelemetry.sdk._logs import ReadableLogRecord
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
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode

from scalable.telemetry import semconv
from scalable.telemetry.budget import Group, SpanBudget
from scalable.telemetry.logs import EventFactory
from scalable.telemetry.metering import result_of
from scalable.telemetry.providers import SCOPE, make_resource
from scalable.telemetry.routes import EXTRA, find_routes, load_exporter
from scalable.telemetry.shipping import ExporterSink, SignalName, UndeliverableError, hush
from scalable.telemetry.spans import SpanFactory, exception_event, span_context
from scalable_runs.layout import FAILURES, LOGS, METRICS, SPANS, TASKS, WORKERS, Record
from scalable_runs.reader import RunReader, parse_time

#: Items sent at once.
BATCH: Final = 512
#: Times a batch is sent that was not taken, and seconds between them.
TRIES: Final = 3
PAUSE: Final = 1.0
#: Tracebacks of failed attempts kept at hand.
MAX_TRACEBACKS: Final = 10_000


class ResendError(Exception):
    """A run cannot be sent or written; the message says why and what to do."""


@dataclass(slots=True)
class Resent:
    """What was sent."""

    spans: int = 0
    #: Of those, attempts of tasks.
    attempts: int = 0
    #: Attempts that rollup spans stand for.
    summarized: int = 0
    log_records: int = 0
    metric_points: int = 0


class Destination(Protocol):
    """Where a run goes."""

    def spans(self, batch: Sequence[ReadableSpan]) -> None:
        """Take spans; raises ResendError if they are refused."""
        ...

    def logs(self, batch: Sequence[ReadableLogRecord]) -> None:
        """Take log records; raises ResendError if they are refused."""
        ...

    def metrics(self, data: MetricsData) -> None:
        """Take metrics; raises ResendError if they are refused."""
        ...

    def close(self) -> None:
        """Nothing comes any more."""
        ...


class OtlpDestination:
    """A collector; called by one thread.

    Parameters
    ----------
    url : str or None
        Its address; None: what ``OTEL_*`` says.

    Raises
    ------
    ResendError
        Nothing is configured, or the exporter is not installed.
    """

    def __init__(self, url: str | None) -> None:
        problems: list[str] = []
        environ = dict(os.environ)
        if url is not None:
            _check_url(url)
            # A signal's own endpoint would win; and what is named here is meant.
            for name in list(environ):
                if name.startswith("OTEL_EXPORTER_OTLP_") and name.endswith("_ENDPOINT"):
                    del environ[name]
            for signal in ("TRACES", "METRICS", "LOGS"):
                environ[f"OTEL_{signal}_EXPORTER"] = "otlp"
            environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = url
        routes = find_routes(environ, problems.append)
        self._sinks: dict[SignalName, list[ExporterSink[Any]]] = {}
        self._addresses = {
            signal: environ.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT")
            or environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", "")
            for signal in routes.exporters
        }
        with _environment(environ):
            for signal, points in routes.exporters.items():
                exporters = [load_exporter(signal, point, problems.append) for point in points]
                self._sinks[signal] = [
                    ExporterSink(exporter, single=signal == "metrics")
                    for exporter in exporters
                    if exporter is not None
                ]
        if problems and url is not None and EXTRA in problems[0]:
            raise ResendError(f"--otlp needs exporters that are not installed: {EXTRA}.")
        if problems:
            raise ResendError(f"{problems[0]}.")
        if not any(self._sinks.values()):
            raise ResendError(
                "Nowhere to send to: give --otlp URL or --file FILE, or set "
                "OTEL_EXPORTER_OTLP_ENDPOINT."
            )

    def spans(self, batch: Sequence[ReadableSpan]) -> None:
        """Send spans."""
        self._send("traces", batch)

    def logs(self, batch: Sequence[ReadableLogRecord]) -> None:
        """Send log records."""
        self._send("logs", batch)

    def metrics(self, data: MetricsData) -> None:
        """Send metrics."""
        self._send("metrics", (data,))

    def _send(self, signal: SignalName, batch: Sequence[Any]) -> None:
        for sink in self._sinks.get(signal, ()):
            hush.enter()
            try:
                _try_to_send(sink, batch, self._addresses[signal])
            finally:
                hush.leave()

    def close(self) -> None:
        """Shut the exporters down."""
        for sinks in self._sinks.values():
            for sink in sinks:
                sink.shutdown()


class FileDestination:
    """A file of OTLP in JSON, one message a line; called by one thread."""

    def __init__(self, path: Path) -> None:
        try:
            from google.protobuf import json_format
            from opentelemetry.exporter.otlp.proto.common import (
                _log_encoder,
                metrics_encoder,
                trace_encoder,
            )
        except ImportError as error:
            raise ResendError(f"OTLP cannot be encoded here ({error}): {EXTRA}.") from error
        self._dict_of: Any = json_format.MessageToDict
        self._encode: dict[SignalName, Any] = {
            "traces": trace_encoder.encode_spans,
            "logs": _log_encoder.encode_logs,
            "metrics": metrics_encoder.encode_metrics,
        }
        try:
            self._file: IO[str] = path.open("w", encoding="utf-8")
        except OSError as error:
            raise ResendError(f"{path} cannot be written: {error.strerror}.") from error
        self._path = path

    def spans(self, batch: Sequence[ReadableSpan]) -> None:
        """Write spans."""
        self._write("traces", batch)

    def logs(self, batch: Sequence[ReadableLogRecord]) -> None:
        """Write log records."""
        self._write("logs", batch)

    def metrics(self, data: MetricsData) -> None:
        """Write metrics."""
        self._write("metrics", data)

    def _write(self, signal: SignalName, content: Any) -> None:
        message = self._dict_of(self._encode[signal](content), use_integers_for_enums=True)
        try:
            json.dump(_with_hex_ids(message), self._file, separators=(",", ":"))
            self._file.write("\n")
        except OSError as error:
            raise ResendError(f"{self._path} cannot be written: {error.strerror}.") from error

    def close(self) -> None:
        """Close the file."""
        try:
            self._file.close()
        except OSError as error:
            raise ResendError(f"{self._path} cannot be written: {error.strerror}.") from error


def resend(
    reader: RunReader,
    destination: Destination,
    *,
    span_budget: int | None,
    progress: Callable[[int, int], None] | None = None,
) -> Resent:
    """Send a run, in bounded memory.

    Spans have the ids, parents and times of those that were sent while the run went on. Of a run
    whose recorder died, its root and what ran are closed at the last sign of life, as errors.
    Links between attempts are not made anew.

    Parameters
    ----------
    reader : RunReader
        The run.
    destination : Destination
        Where to.
    span_budget : int or None
        Attempts for each trace; the rest is summed up. None: all of them.
    progress : callable, optional
        Told how many bytes of how many are read.

    Raises
    ------
    ResendError
        It was not taken.
    """
    return _Resending(reader, destination, span_budget, progress).run()


@dataclass(slots=True)
class _Parent:
    """A span that attempts hang under, as they tell of it."""

    trace_id: int
    first: int
    last: int
    is_attempt: bool = False


@dataclass(slots=True)
class _Stock:
    """What the first reading brings."""

    by_trace: dict[int, int] = field(default_factory=dict[int, int])
    parents: dict[int, _Parent] = field(default_factory=dict[int, _Parent])
    last: int = 0
    #: Attempts that user code's spans hang under.
    pinned: list[SpanContext] = field(default_factory=list[SpanContext])


class _Resending:
    def __init__(
        self,
        reader: RunReader,
        destination: Destination,
        span_budget: int | None,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self._reader = reader
        self._destination = destination
        self._progress = progress
        document = reader.document
        self._run_id = str(document.get("run_id") or reader.path.name)
        self._project = str(document.get("project_name") or "run")
        self._trace_id = int(str(document.get("trace_id") or "0"), 16)
        self._resource = make_resource(self._run_id, self._project)
        self._spans = SpanFactory(self._resource, SCOPE)
        self._events = EventFactory(self._resource, SCOPE)
        self._all = span_budget is None
        self._budget = SpanBudget(self._run_id, span_budget or 0, self._spans)
        self._resent = Resent()
        self._waiting: list[ReadableSpan] = []
        self._read = 0
        often = (TASKS, SPANS, FAILURES, WORKERS)
        files = (*often, *often, SPANS, FAILURES, LOGS, METRICS)
        self._size = sum(reader.size(file) for file in files)

    def run(self) -> Resent:
        stock = self._take_stock()
        root = self._root_ids()
        tracebacks = self._tracebacks()
        for ids in stock.pinned:
            self._budget.pin(ids)
        known = self._send_other_spans(stock)
        if root is not None and root.span_id not in known:
            self._send([self._made_root(root, stock)])
            known.add(root.span_id)
        if root is not None:
            self._budget.parent(root)
        for span_id, parent in stock.parents.items():
            ids = span_context(parent.trace_id, span_id)
            if parent.is_attempt:
                self._budget.pin(ids)
                continue
            self._budget.parent(ids)
            if span_id not in known:
                self._send([self._made_submission(ids, parent, root)])
        self._send_attempts(stock, tracebacks)
        if not self._all:
            self._send(self._budget.settle())
            self._resent.attempts = self._budget.sent
            self._resent.summarized = self._budget.summarized
        self._send_phases()
        self._flush(0)
        self._send_events()
        self._send_metrics()
        return self._resent

    # -- reading ----------------------------------------------------------------------------------

    def _records(self, file: str) -> Iterator[Record]:
        def advance(count: int) -> None:
            self._read += count
            if self._progress is not None:
                self._progress(min(self._read, self._size), self._size)

        return self._reader.records(file, progress=advance)

    def _take_stock(self) -> _Stock:
        """Count attempts by trace, and find out what they hang under."""
        stock = _Stock()
        above_user_spans = self._above_user_spans()
        running: dict[str, str] = {}
        for record in self._records(TASKS):
            if record.get("state") == "running" and "span_id" in record:
                running[record["task_id"]] = record["span_id"]
            at = _nanoseconds(record.get("timestamp"))
            stock.last = max(stock.last, at)
            if record.get("state") not in _ENDS or "span_id" not in record:
                continue
            running.pop(record["task_id"], None)
            trace_id, span_id = int(record["trace_id"], 16), int(record["span_id"], 16)
            if span_id in above_user_spans:
                stock.pinned.append(span_context(trace_id, span_id))
            stock.by_trace[trace_id] = stock.by_trace.get(trace_id, 0) + 1
            parent_id = record.get("parent_span_id")
            if parent_id is not None:
                parent = stock.parents.get(int(parent_id, 16))
                if parent is None:
                    stock.parents[int(parent_id, 16)] = _Parent(trace_id, at, at)
                else:
                    parent.first, parent.last = min(parent.first, at), max(parent.last, at)
            self._mark(stock, record["span_id"])
        for text in running.values():
            self._mark(stock, text)
        for trace_id, count in stock.by_trace.items():
            self._budget.expect(trace_id, count)
        return stock

    def _above_user_spans(self) -> set[int]:
        return {
            int(record["parent_span_id"], 16)
            for record in self._records(SPANS)
            if record.get("parent_span_id") and not _is_ours(record)
        }

    def _mark(self, stock: _Stock, span_id: str) -> None:
        """An attempt that submitted tasks ends after the first of them began, and mostly ended."""
        parent = stock.parents.get(int(span_id, 16))
        if parent is not None:
            parent.is_attempt = True

    def _root_ids(self) -> SpanContext | None:
        """What belongs to the run as a whole carries its root's ids: workers do."""
        for file in (WORKERS, FAILURES):
            for record in self._records(file):
                if record.get("span_id") and int(record["trace_id"], 16) == self._trace_id:
                    return span_context(self._trace_id, int(record["span_id"], 16))
        return None

    def _tracebacks(self) -> dict[tuple[str, int], str]:
        found: dict[tuple[str, int], str] = {}
        for record in self._records(FAILURES):
            details = record.get("details") or {}
            if details.get("traceback") and len(found) < MAX_TRACEBACKS:
                key = (str(record.get("task_id")), int(details.get("attempt") or 0))
                found[key] = str(details["traceback"])
        return found

    # -- spans ------------------------------------------------------------------------------------

    def _send_other_spans(self, stock: _Stock) -> set[int]:
        """Of spans.jsonl: submissions, workers, the root, user code; returns ids that matter.

        Phases wait for their attempts: those that are left out are left out with them.
        """
        known: set[int] = set()
        pinned = {ids.span_id for ids in stock.pinned}
        for record in self._records(SPANS):
            span_id = int(str(record.get("span_id") or "0"), 16)
            if _is_phase(record):
                continue
            if not self._all and not _is_ours(record) and record.get("parent_span_id"):
                above = int(record["parent_span_id"], 16)
                if above in pinned and not self._budget.is_sent(
                    span_context(int(record["trace_id"], 16), above)
                ):
                    continue
            if span_id in stock.parents or record.get("parent_span_id") is None:
                known.add(span_id)
            self._send([_span_of(record, self._resource)])
        return known

    def _send_phases(self) -> None:
        for record in self._records(SPANS):
            if _is_phase(record):
                span = _span_of(record, self._resource)
                if self._all or (span.parent is not None and self._budget.is_sent(span.parent)):
                    self._send([span])

    def _take(self, span: ReadableSpan) -> None:
        if self._all:
            self._resent.attempts += 1
            self._send((span,))
        else:
            self._send(self._budget.take((Group(span, ()),)))

    def _send_attempts(self, stock: _Stock, tracebacks: Mapping[tuple[str, int], str]) -> None:
        running: dict[str, Record] = {}
        for record in self._records(TASKS):
            state = record.get("state")
            if state == "running":
                running[record["task_id"]] = record
            elif state in _ENDS:
                began = running.pop(record["task_id"], None)
                if "span_id" in record:
                    self._take(self._attempt(record, began, tracebacks))
        for record in running.values():
            lost = {
                **record,
                "state": "lost",
                "error_type": "RunLost",
                "error_message": "the recorder was gone before this attempt ended",
                "timestamp": self._last_sign(stock),
            }
            self._take(self._attempt(lost, record, tracebacks))

    def _attempt(
        self,
        record: Record,
        began: Record | None,
        tracebacks: Mapping[tuple[str, int], str],
    ) -> ReadableSpan:
        end = _nanoseconds(record["timestamp"])
        if record.get("phases_start"):
            start = _nanoseconds(record["phases_start"])
        elif began is not None and began.get("span_id") == record["span_id"]:
            start = _nanoseconds(began["timestamp"])
        else:
            start = end - round(float(record.get("duration_s") or 0.0) * 1e9)
        ids = span_context(int(record["trace_id"], 16), int(record["span_id"], 16))
        parent_id = record.get("parent_span_id")
        parent = span_context(ids.trace_id, int(parent_id, 16)) if parent_id else None
        attributes = _attributes(record, _TASK_NAMES)
        error = record.get("error_type") if record["state"] in _FAILED else None
        events: tuple[Event, ...] = ()
        if error is not None:
            exception = {
                semconv.EXCEPTION_TYPE: error,
                semconv.EXCEPTION_MESSAGE: record.get("error_message") or "",
            }
            key = (record["task_id"], int(record.get("attempt") or 0))
            if key in tracebacks:
                exception[semconv.EXCEPTION_STACKTRACE] = tracebacks[key]
            events = (exception_event(end / 1e9, exception),)
        return self._spans.span(
            record["task_name"],
            ids,
            parent,
            start / 1e9,
            end / 1e9,
            attributes,
            kind=SpanKind.CONSUMER,
            error=error,
            events=events,
        )

    def _made_root(self, root: SpanContext, stock: _Stock) -> ReadableSpan:
        """The root of a run whose recorder died before it could close it."""
        document = self._reader.document
        return self._spans.span(
            semconv.SPAN_RUN.format(project=self._project),
            root,
            None,
            _nanoseconds(document.get("started_at")) / 1e9,
            _nanoseconds(self._last_sign(stock)) / 1e9,
            {semconv.RUN_ID: self._run_id, semconv.RUN_STATUS: str(self._reader.status)},
            error=str(self._reader.status),
        )

    def _made_submission(
        self, ids: SpanContext, parent: _Parent, root: SpanContext | None
    ) -> ReadableSpan:
        """A submission that its recorder had not written down when it died."""
        return self._spans.span(
            semconv.SPAN_SUBMIT.format(name=self._project),
            ids,
            None,
            parent.first / 1e9,
            parent.first / 1e9,
            {semconv.RUN_ID: self._run_id},
            kind=semconv.KIND_SUBMIT,
            links=(Link(root),) if root is not None else (),
        )

    def _last_sign(self, stock: _Stock) -> str:
        document = self._reader.document
        recorder: Any = document.get("recorder") or {}
        signs = [document.get("finished_at"), recorder.get("heartbeat_at"), _iso(stock.last)]
        return max(str(sign) for sign in signs if sign)

    def _send(self, spans: Iterable[ReadableSpan]) -> None:
        self._waiting.extend(spans)
        self._flush(BATCH)

    def _flush(self, at_least: int) -> None:
        while self._waiting and len(self._waiting) >= at_least:
            batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
            self._destination.spans(batch)
            self._resent.spans += len(batch)

    # -- log records and metrics ------------------------------------------------------------------

    def _send_events(self) -> None:
        for file, make in (
            (WORKERS, self._worker_event),
            (FAILURES, self._failure_event),
            (LOGS, self._log_record),
        ):
            batch: list[ReadableLogRecord] = []
            for record in self._records(file):
                batch.append(make(record))
                if len(batch) >= BATCH:
                    self._send_logs(batch)
                    batch = []
            self._send_logs(batch)

    def _send_logs(self, batch: list[ReadableLogRecord]) -> None:
        if batch:
            self._destination.logs(batch)
            self._resent.log_records += len(batch)

    def _worker_event(self, record: Record) -> ReadableLogRecord:
        return self._events.event(
            semconv.EVENT_WORKER,
            _nanoseconds(record["timestamp"]) / 1e9,
            _attributes(record, _WORKER_NAMES),
            _ids(record),
            error=record.get("state") == "lost",
        )

    def _failure_event(self, record: Record) -> ReadableLogRecord:
        return self._events.event(
            semconv.EVENT_FAILURE,
            _nanoseconds(record["timestamp"]) / 1e9,
            _attributes(record, _FAILURE_NAMES),
            _ids(record),
            error=True,
        )

    def _log_record(self, record: Record) -> ReadableLogRecord:
        made = self._events.event(
            record.get("event_name") or "",
            _nanoseconds(record["timestamp"]) / 1e9,
            record.get("attributes") or {},
            _ids(record),
        )
        log = made.log_record
        log.body = record.get("body")
        log.severity_text = record.get("severity_text")
        number = record.get("severity_number")
        log.severity_number = SeverityNumber(number) if number is not None else None
        log.event_name = record.get("event_name")
        return made

    def _send_metrics(self) -> None:
        together: list[Record] = []
        for record in self._records(METRICS):
            if together and record["timestamp"] != together[0]["timestamp"]:
                self._send_points(together)
                together = []
            together.append(record)
        self._send_points(together)

    def _send_points(self, records: Sequence[Record]) -> None:
        if records:
            self._destination.metrics(_metrics_of(records, self._resource))
            self._resent.metric_points += len(records)


_ENDS: Final = frozenset({"succeeded", "failed", "cancelled", "retried", "lost"})
_FAILED: Final = frozenset({"failed", "retried", "lost"})


def _is_ours(record: Record) -> bool:
    return (record.get("scope") or {}).get("name") == semconv.SCOPE_NAME


def _is_phase(record: Record) -> bool:
    return semconv.PHASE_NAME in (record.get("attributes") or {})


def _names(event_type: str) -> dict[str, str]:
    """Attribute by field: the record map's inverse."""
    return {to: name for name, to in semconv.RECORD_MAP.fields[event_type].items()}


_TASK_NAMES: Final = _names("task")
_WORKER_NAMES: Final = _names("worker")
_FAILURE_NAMES: Final = _names("failure")


def _attributes(record: Record, names: Mapping[str, str]) -> dict[str, Any]:
    attributes: dict[str, Any] = {}
    if "state" in record and "task_id" in record:
        attributes[semconv.TASK_RESULT] = result_of(record)
    for to, value in record.items():
        if to in names and value is not None:
            attributes[names[to]] = value
    for to, value in (record.get("details") or {}).items():
        name = names.get(f"details.{to}")
        if name is not None and value is not None:
            attributes[name] = value
    return attributes


def _ids(record: Record) -> SpanContext | None:
    if not record.get("span_id"):
        return None
    return span_context(int(record["trace_id"], 16), int(record["span_id"], 16))


def _span_of(record: Record, resource: Resource) -> ReadableSpan:
    """A span of spans.jsonl."""
    trace_id = int(str(record.get("trace_id") or "0"), 16)
    parent_id = record.get("parent_span_id")
    status: Any = record.get("status") or {}
    foreign = record.get("resource")
    scope: Any = record.get("scope") or {}
    return ReadableSpan(
        name=record["name"],
        context=span_context(trace_id, int(str(record.get("span_id") or "0"), 16)),
        parent=span_context(trace_id, int(parent_id, 16)) if parent_id else None,
        resource=Resource(foreign) if foreign else resource,
        attributes=record.get("attributes") or {},
        events=[
            Event(
                str(event["name"]), event.get("attributes") or {}, _nanoseconds(event["timestamp"])
            )
            for event in record.get("events") or ()
        ],
        links=[
            Link(
                span_context(int(link["trace_id"], 16), int(link["span_id"], 16)),
                link.get("attributes") or {},
            )
            for link in record.get("links") or ()
        ],
        kind=SpanKind[str(record.get("kind") or "internal").upper()],
        status=Status(
            StatusCode[str(status.get("code") or "unset").upper()], status.get("description")
        ),
        start_time=_nanoseconds(record.get("start_time")),
        end_time=_nanoseconds(record.get("end_time")),
        instrumentation_scope=InstrumentationScope(
            str(scope.get("name") or semconv.SCOPE_NAME), scope.get("version")
        ),
    )


def _metrics_of(records: Sequence[Record], resource: Resource) -> MetricsData:
    metrics: dict[tuple[str, str], tuple[Record, list[Any]]] = {}
    for record in records:
        key = (record["name"], record["kind"])
        metrics.setdefault(key, (record, []))[1].append(_point_of(record))
    made: list[Metric] = []
    for (name, kind), (first, points) in metrics.items():
        temporality = AggregationTemporality[str(first.get("temporality") or "cumulative").upper()]
        data: Any
        if kind == "sum":
            data = Sum(points, temporality, bool(first.get("monotonic")))
        elif kind == "histogram":
            data = Histogram(points, temporality)
        elif kind == "exponential_histogram":
            data = ExponentialHistogram(points, temporality)
        else:
            data = Gauge(points)
        made.append(Metric(name, "", str(first.get("unit") or ""), data))
    return MetricsData([ResourceMetrics(resource, [ScopeMetrics(SCOPE, made, "")], "")])


def _point_of(record: Record) -> Any:
    attributes = record.get("attributes") or {}
    start, at = _nanoseconds(record.get("start_time")), _nanoseconds(record["timestamp"])
    if record["kind"] == "histogram":
        return HistogramDataPoint(
            attributes,
            start,
            at,
            record["count"],
            record["sum"],
            record["bucket_counts"],
            record["bounds"],
            record.get("min", 0.0),
            record.get("max", 0.0),
        )
    if record["kind"] == "exponential_histogram":
        positive, negative = (
            Buckets(record[sign]["offset"], record[sign]["bucket_counts"])
            for sign in ("positive", "negative")
        )
        return ExponentialHistogramDataPoint(
            attributes,
            start,
            at,
            record["count"],
            record["sum"],
            record["scale"],
            record["zero_count"],
            positive,
            negative,
            0,
            record.get("min", 0.0),
            record.get("max", 0.0),
        )
    return NumberDataPoint(attributes, start, at, record["value"])


def _nanoseconds(text: Any) -> int:
    moment = parse_time(text)
    return round(moment.timestamp() * 1e6) * 1000 if moment is not None else 0


def _iso(nanoseconds: int) -> str:
    from scalable_runs.encode import iso_time

    return iso_time(nanoseconds)


def _check_url(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ResendError(
            f"{url!r} is no address of a collector: give one such as http://127.0.0.1:4318."
        )


def _try_to_send(sink: ExporterSink[Any], batch: Sequence[Any], address: str) -> None:
    for attempt in range(TRIES):
        try:
            sink.send(batch)
        except UndeliverableError as error:
            if error.permanent or attempt + 1 == TRIES:
                why = _unreachable(address) or str(error)
                where = f" at {address}" if address else ""
                raise ResendError(f"The collector{where} does not take it: {why}") from error
            sleep(PAUSE)
        else:
            return


def _unreachable(address: str) -> str | None:
    """Why nothing can be sent to an address; None where somebody listens there.

    An exporter only says that it failed, not why.
    """
    parts = urlsplit(address if "//" in address else f"//{address}")
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        if parts.hostname is not None:
            socket.create_connection((parts.hostname, port), PAUSE).close()
    except (OSError, ValueError) as error:
        return f"{getattr(error, 'strerror', None) or error}."
    return None


class _environment:  # noqa: N801 (a context manager)
    """Exporters read the environment when they are made."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def __enter__(self) -> None:
        self._before = dict(os.environ)
        os.environ.clear()
        os.environ.update(self._environ)

    def __exit__(self, *_: object) -> None:
        os.environ.clear()
        os.environ.update(self._before)


_HEX: Final = frozenset({"traceId", "spanId", "parentSpanId"})


def _with_hex_ids(message: Any) -> Any:
    """OTLP in JSON has ids as hexadecimal digits, where protobuf's own mapping has base64."""
    if isinstance(message, dict):
        found = cast("dict[str, Any]", message)
        return {
            name: base64.b64decode(value).hex()
            if name in _HEX and isinstance(value, str)
            else _with_hex_ids(value)
            for name, value in found.items()
        }
    if isinstance(message, list):
        return [_with_hex_ids(item) for item in cast("list[Any]", message)]
    return message
