"""A recorded run sent to a collector later, or written as OTLP: with the ids that it had."""

from __future__ import annotations

import base64
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import sleep
from typing import IO, Any, Final, NamedTuple, Protocol, TypeVar, cast
from urllib.parse import urlsplit

import orjson
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
from scalable.telemetry.routes import EXTRA, find_routes, load_exporter, make_resource
from scalable.telemetry.shipping import SignalName
from scalable.telemetry.sinks import ExporterSink, UndeliverableError, log_filter
from scalable.telemetry.spans import SCOPE, SpanFactory, event, span_context
from scalable_runs import fields
from scalable_runs.plain import cut, hex_id, parse_nanoseconds
from scalable_runs.reader import RunReader
from scalable_runs.redact import Redactor
from scalable_runs.schema import FAILURES, LOGS, METRICS, SPANS, TASKS, WORKERS, Record

#: Items sent at once.
BATCH: Final = 512
#: Times a batch is sent that was not taken, and seconds between them.
TRIES: Final = 3
PAUSE: Final = 1.0
#: Tracebacks of failed attempts kept at hand.
MAX_TRACEBACKS: Final = 10_000
#: Characters kept of one text of an attribute or a body.
MAX_VALUE: Final = 256 * 1024
#: Levels of lists and tables within an attribute or a body.
MAX_DEPTH: Final = 20

Item = TypeVar("Item")


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
    #: Records that hold nothing that can be sent.
    left_out: int = 0


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
            log_filter.capture()
            try:
                _try_to_send(sink, batch, self._addresses[signal])
            finally:
                log_filter.release()

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
            self._file.write(orjson.dumps(_with_hex_ids(message)).decode() + "\n")
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
        self._run_id = reader.run_id
        self._project = str(document.get("project_name") or "run")
        self._trace_id = hex_id(document.get("trace_id"), 32)
        redact = Redactor.from_environment(os.environ)
        self._resource = make_resource(self._run_id, self._project, redact)
        self._spans = SpanFactory(self._resource)
        self._events = EventFactory(self._resource)
        self._all = span_budget is None
        self._budget = SpanBudget(self._run_id, span_budget or 0, self._spans)
        self._resent = Resent()
        self._waiting: list[ReadableSpan] = []
        self._read = 0
        often = (TASKS, SPANS, FAILURES, WORKERS)
        files = (*often, *often, SPANS, FAILURES, LOGS, METRICS)
        self._size = sum(reader.size(file) for file in files)

    def run(self) -> Resent:
        stock = self._scan()
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

    def _made(self, file: str, make: Callable[[Record], Item | None]) -> Iterator[Item]:
        """Make something of each record of a journal; one that nothing can be made of is counted.

        `make` returns None for a record that is none of its business.
        """
        for record in self._records(file):
            try:
                item = make(record)
            except _UNUSABLE:
                self._resent.left_out += 1
                continue
            if item is not None:
                yield item

    def _scan(self) -> _Stock:
        """Count attempts by trace, and find out what they hang under."""
        stock = _Stock()
        above_user_spans = self._above_user_spans()
        running: dict[str, int] = {}
        for record in self._records(TASKS):
            task_id, state, ids = record.get("task_id"), record.get("state"), _ids(record)
            at = parse_nanoseconds(record.get("timestamp"))
            stock.last = max(stock.last, at)
            if ids is None or not isinstance(task_id, str):
                continue
            if state == "running":
                running[task_id] = ids.span_id
            if state not in _ENDS:
                continue
            running.pop(task_id, None)
            trace_id, span_id = ids.trace_id, ids.span_id
            if span_id in above_user_spans:
                stock.pinned.append(ids)
            stock.by_trace[trace_id] = stock.by_trace.get(trace_id, 0) + 1
            parent_id = _parent_id(record)
            if parent_id:
                parent = stock.parents.get(parent_id)
                if parent is None:
                    stock.parents[parent_id] = _Parent(trace_id, at, at)
                else:
                    parent.first, parent.last = min(parent.first, at), max(parent.last, at)
            self._mark(stock, span_id)
        for span_id in running.values():
            self._mark(stock, span_id)
        for trace_id, count in stock.by_trace.items():
            self._budget.expect(trace_id, count)
        return stock

    def _above_user_spans(self) -> set[int]:
        return {
            parent_id
            for record in self._records(SPANS)
            if (parent_id := _parent_id(record)) and not _is_ours(record)
        }

    def _mark(self, stock: _Stock, span_id: int) -> None:
        """An attempt that submitted tasks ends after the first of them began, and mostly ended."""
        parent = stock.parents.get(span_id)
        if parent is not None:
            parent.is_attempt = True

    def _root_ids(self) -> SpanContext | None:
        """What belongs to the run as a whole carries its root's ids: workers do."""
        for file in (WORKERS, FAILURES):
            for record in self._records(file):
                ids = _ids(record)
                if ids is not None and ids.trace_id == self._trace_id:
                    return ids
        return None

    def _tracebacks(self) -> dict[tuple[str, int], str]:
        found: dict[tuple[str, int], str] = {}
        for record in self._records(FAILURES):
            details = record.get("details") or {}
            if details.get("traceback") and len(found) < MAX_TRACEBACKS:
                key = (str(record.get("task_id")), details.get("attempt") or 0)
                found[key] = cut(details["traceback"], _MAX_TRACEBACK)
        return found

    # -- spans ------------------------------------------------------------------------------------

    def _send_other_spans(self, stock: _Stock) -> set[int]:
        """Of spans.jsonl: submissions, workers, the root, user code; returns ids that matter.

        Phases wait for their attempts: those that are left out are left out with them.
        """
        known: set[int] = set()
        pinned = {ids.span_id for ids in stock.pinned}
        for span, record in self._made(SPANS, self._span_and_record):
            parent = span.parent
            if (
                not self._all
                and parent is not None
                and not _is_ours(record)
                and parent.span_id in pinned
                and not self._budget.is_sent(parent)
            ):
                continue
            span_id = span.context.span_id
            if span_id in stock.parents or parent is None:
                known.add(span_id)
            self._send([span])
        return known

    def _span_and_record(self, record: Record) -> tuple[Any, Record] | None:
        return None if _is_phase(record) else (_span_of(record, self._resource), record)

    def _send_phases(self) -> None:
        for record in self._records(SPANS):
            if not _is_phase(record):
                continue
            try:
                span = _span_of(record, self._resource)
            except _UNUSABLE:
                self._resent.left_out += 1
                continue
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

        def make(record: Record) -> ReadableSpan | None:
            state = record.get("state")
            if state == "running":
                running[_given(record, "task_id")] = record
            elif state in _ENDS:
                began = running.pop(_given(record, "task_id"), None)
                if record.get("span_id") is not None:
                    return self._attempt(record, began, tracebacks)
            return None

        for span in self._made(TASKS, make):
            self._take(span)
        for record in running.values():
            if record.get("span_id") is None:
                continue
            lost = {
                **record,
                "state": "lost",
                "error_type": "RunLost",
                "error_message": "the recorder was gone before this attempt ended",
            }
            try:
                self._take(self._attempt(lost, record, tracebacks, end=self._last_sign(stock)))
            except _UNUSABLE:
                self._resent.left_out += 1

    def _attempt(
        self,
        record: Record,
        began: Record | None,
        tracebacks: Mapping[tuple[str, int], str],
        end: int | None = None,
    ) -> ReadableSpan:
        ids = _ids(record)
        if ids is None:
            raise ValueError("an attempt without ids")
        if end is None:
            end = parse_nanoseconds(record.get("timestamp"))
        if record.get("phases_start"):
            start = parse_nanoseconds(record["phases_start"])
        elif began is not None and began.get("span_id") == record["span_id"]:
            start = parse_nanoseconds(began.get("timestamp"))
        else:
            start = max(0, end - round((record.get("duration_s") or 0.0) * 1e9))
        parent_id = _parent_id(record)
        parent = span_context(ids.trace_id, parent_id) if parent_id else None
        attributes = _attributes(record, _TASK_NAMES)
        error = (record.get("error_type") or "Exception") if record["state"] in _FAILED else None
        events: tuple[Event, ...] = ()
        if error is not None:
            message = cut(record.get("error_message") or "", MAX_VALUE)
            exception = {semconv.EXCEPTION_TYPE: error, semconv.EXCEPTION_MESSAGE: message}
            key = (record["task_id"], record.get("attempt") or 0)
            if key in tracebacks:
                exception[semconv.EXCEPTION_STACKTRACE] = tracebacks[key]
            events = (event(semconv.EVENT_FAILURE, end / 1e9, exception),)
        return self._spans.span(
            record.get("task_name") or _given(record, "task_id"),
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
            parse_nanoseconds(document.get("started_at")) / 1e9,
            self._last_sign(stock) / 1e9,
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

    def _last_sign(self, stock: _Stock) -> int:
        document = self._reader.document
        recorder: Any = document.get("recorder") or {}
        signs = (document.get("finished_at"), recorder.get("heartbeat_at"))
        return max(stock.last, *map(parse_nanoseconds, signs))

    def _send(self, spans: Iterable[ReadableSpan]) -> None:
        self._waiting.extend(spans)
        self._flush(BATCH)

    def _flush(self, at_least: int) -> None:
        while self._waiting and len(self._waiting) >= at_least:
            batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
            self._resent.spans += self._deliver(self._destination.spans, batch)

    def _deliver(self, send: Callable[[Sequence[Any]], None], batch: Sequence[Any]) -> int:
        """Send a batch; of one that cannot be encoded, what can be. Returns how much was sent."""
        try:
            send(batch)
        except ResendError:
            raise
        except Exception:
            if len(batch) == 1:
                self._resent.left_out += 1
                return 0
            half = len(batch) // 2
            return self._deliver(send, batch[:half]) + self._deliver(send, batch[half:])
        return len(batch)

    # -- log records and metrics ------------------------------------------------------------------

    def _send_events(self) -> None:
        for file, make in (
            (WORKERS, self._worker_event),
            (FAILURES, self._failure_event),
            (LOGS, self._log_record),
        ):
            batch: list[ReadableLogRecord] = []
            for made in self._made(file, make):
                batch.append(made)
                if len(batch) >= BATCH:
                    self._send_logs(batch)
                    batch = []
            self._send_logs(batch)

    def _send_logs(self, batch: list[ReadableLogRecord]) -> None:
        if batch:
            self._resent.log_records += self._deliver(self._destination.logs, batch)

    def _worker_event(self, record: Record) -> ReadableLogRecord:
        return self._events.event(
            semconv.EVENT_WORKER,
            parse_nanoseconds(record.get("timestamp")) / 1e9,
            _attributes(record, _WORKER_NAMES),
            _ids(record),
            error=record.get("state") == "lost",
        )

    def _failure_event(self, record: Record) -> ReadableLogRecord:
        return self._events.event(
            semconv.EVENT_FAILURE,
            parse_nanoseconds(record.get("timestamp")) / 1e9,
            _attributes(record, _FAILURE_NAMES),
            _ids(record),
            error=True,
        )

    def _log_record(self, record: Record) -> ReadableLogRecord:
        made = self._events.event(
            record.get("event_name") or "",
            parse_nanoseconds(record.get("timestamp")) / 1e9,
            _plain(record.get("attributes") or {}),
            _ids(record),
        )
        log = made.log_record
        log.body = _plain(record.get("body"))
        log.severity_text = record.get("severity_text")
        log.severity_number = _SEVERITIES.get(record.get("severity_number"))
        log.event_name = record.get("event_name")
        return made

    def _send_metrics(self) -> None:
        together: list[_Point] = []
        for point in self._made(METRICS, _point_of):
            if together and (point.at != together[0].at or len(together) >= BATCH):
                self._send_points(together)
                together = []
            together.append(point)
        if together:
            self._send_points(together)

    def _send_points(self, points: Sequence[_Point]) -> None:
        def send(batch: Sequence[_Point]) -> None:
            self._destination.metrics(_metrics_of(batch, self._resource))

        self._resent.metric_points += self._deliver(send, points)


#: Raised by records that lack what they are sent with, or hold it in a form that has no meaning.
_UNUSABLE: Final = (
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)
_MAX_TRACEBACK: Final = 20_000
_ENDS: Final = frozenset({"succeeded", "failed", "cancelled", "retried", "lost"})
_FAILED: Final = frozenset({"failed", "retried", "lost"})
_SEVERITIES: Final[Mapping[Any, SeverityNumber]] = {one.value: one for one in SeverityNumber}


def _is_ours(record: Record) -> bool:
    scope: Any = record.get("scope") or {}
    return scope.get("name") == semconv.SCOPE_NAME


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
    if "task_id" in record and record.get("state") in _ENDS:
        attributes[semconv.TASK_RESULT] = result_of(record)
    for to, value in record.items():
        if to in names and value is not None:
            attributes[names[to]] = _plain(value)
    for to, value in (record.get("details") or {}).items():
        name = names.get(f"details.{to}")
        if name is not None and value is not None:
            attributes[name] = _plain(value)
    return attributes


def _plain(value: Any, depth: int = 0) -> Any:
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
            name: _plain(below, depth + 1) for name, below in table.items() if below is not None
        }
    if isinstance(value, list):
        return [_plain(item, depth + 1) for item in cast("list[Any]", value)]
    return value


def _ids(record: Record) -> SpanContext | None:
    trace_id, span_id = hex_id(record.get("trace_id"), 32), _id(record, "span_id")
    return span_context(trace_id, span_id) if trace_id and span_id else None


def _id(record: Record, name: str) -> int:
    return hex_id(record.get(name), 16)


def _parent_id(record: Record) -> int:
    return _id(record, "parent_span_id")


def _resource_of(attributes: dict[str, Any]) -> Resource:
    """Return a resource with those attributes that a resource can have."""
    return Resource(
        {
            name: value
            for name, value in cast("dict[str, Any]", _plain(attributes)).items()
            if isinstance(value, (str, int, float))
            or (isinstance(value, list) and fields.texts(value))
        }
    )


def _span_of(record: Record, resource: Resource) -> ReadableSpan:
    """A span of spans.jsonl."""
    ids = _ids(record)
    if ids is None:
        raise ValueError("a span without ids")
    parent_id = _parent_id(record)
    status: Any = record.get("status") or {}
    code = StatusCode.__members__.get(str(status.get("code")).upper(), StatusCode.UNSET)
    foreign = record.get("resource")
    scope: Any = record.get("scope") or {}
    start = parse_nanoseconds(record.get("start_time"))
    return ReadableSpan(
        name=record.get("name") or "span",
        context=ids,
        parent=span_context(ids.trace_id, parent_id) if parent_id else None,
        resource=_resource_of(foreign) if foreign else resource,
        attributes=_plain(record.get("attributes") or {}),
        events=[
            Event(
                event.get("name") or "event",
                _plain(event.get("attributes") or {}),
                parse_nanoseconds(event.get("timestamp")),
            )
            for event in record.get("events") or ()
        ],
        links=[
            Link(linked, _plain(link.get("attributes") or {}))
            for link in record.get("links") or ()
            if (linked := _ids(link)) is not None
        ],
        kind=SpanKind.__members__.get(str(record.get("kind")).upper(), SpanKind.INTERNAL),
        status=Status(code, status.get("description") if code is StatusCode.ERROR else None),
        start_time=start,
        end_time=max(start, parse_nanoseconds(record.get("end_time"))),
        instrumentation_scope=InstrumentationScope(
            scope.get("name") or semconv.SCOPE_NAME, scope.get("version")
        ),
    )


class _Point(NamedTuple):
    """One line of metrics.jsonl."""

    at: int
    name: str
    kind: str
    record: Record
    data: Any


def _metrics_of(points: Sequence[_Point], resource: Resource) -> MetricsData:
    metrics: dict[tuple[str, str], list[_Point]] = {}
    for point in points:
        metrics.setdefault((point.name, point.kind), []).append(point)
    made: list[Metric] = []
    for (name, kind), members in metrics.items():
        first = members[0].record
        found = [point.data for point in members]
        temporality = AggregationTemporality.__members__.get(
            str(first.get("temporality")).upper(), AggregationTemporality.CUMULATIVE
        )
        data: Any
        if kind == "sum":
            data = Sum(found, temporality, bool(first.get("monotonic")))
        elif kind == "histogram":
            data = Histogram(found, temporality)
        elif kind == "exponential_histogram":
            data = ExponentialHistogram(found, temporality)
        else:
            data = Gauge(found)
        made.append(Metric(name, "", first.get("unit") or "", data))
    return MetricsData([ResourceMetrics(resource, [ScopeMetrics(SCOPE, made, "")], "")])


def _point_of(record: Record) -> _Point:
    kind = record.get("kind") or "gauge"
    at = parse_nanoseconds(record["timestamp"])
    return _Point(at, _given(record, "name"), kind, record, _point_data(record, kind, at))


def _point_data(record: Record, kind: str, at: int) -> Any:
    attributes = _plain(record.get("attributes") or {})
    start = parse_nanoseconds(record.get("start_time"))
    if kind == "histogram":
        return HistogramDataPoint(
            attributes,
            start,
            at,
            _given(record, "count"),
            _given(record, "sum"),
            _given(record, "bucket_counts"),
            _given(record, "bounds"),
            record.get("min") or 0.0,
            record.get("max") or 0.0,
        )
    if kind == "exponential_histogram":
        positive, negative = (
            Buckets(_small(record[sign], "offset"), _given(record[sign], "bucket_counts"))
            for sign in ("positive", "negative")
        )
        return ExponentialHistogramDataPoint(
            attributes,
            start,
            at,
            _given(record, "count"),
            _given(record, "sum"),
            _small(record, "scale"),
            _given(record, "zero_count"),
            positive,
            negative,
            0,
            record.get("min") or 0.0,
            record.get("max") or 0.0,
        )
    return NumberDataPoint(attributes, start, at, _given(record, "value"))


def _given(record: Record, name: str) -> Any:
    """Return what must be there."""
    value = record[name]
    if value is None:
        raise ValueError(name)
    return value


def _small(record: Record, name: str) -> int:
    value: int = _given(record, name)
    if not -(2**31) <= value < 2**31:
        raise ValueError(name)
    return value


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
