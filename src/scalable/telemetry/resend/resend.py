"""Sends a recorded run later, with the ids that it had: to a collector, or into a file."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

from opentelemetry._logs import SeverityNumber
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.trace import SpanContext

from scalable.telemetry import semconv
from scalable.telemetry.configuration.resource import recorded_resource
from scalable.telemetry.export.exported import exported_log, exported_span
from scalable.telemetry.metrics.metering import result_of
from scalable.telemetry.record_map import RECORD_MAP
from scalable.telemetry.resend.destinations import Destination, ResendError
from scalable.telemetry.resend.earlier_names import renamed
from scalable.telemetry.resend.missing import missing_parent
from scalable.telemetry.resend.recorded_sizes import decoded, recorded_sizes
from scalable.telemetry.resend.recorded_tree import RecordedTree, is_nested, is_ours, is_phase
from scalable.telemetry.signals.spans import SCOPE, SpanFactory, event, span_context
from scalable.telemetry.spans.budget import Group, SpanBudget
from scalable_runs.otel.additions import AddedSpan
from scalable_runs.otel.decode import (
    MAX_VALUE,
    UNDECODABLE,
    additions_of,
    attributes_of,
    context_of,
    decode_event,
    decode_log,
    decode_metrics,
    decode_span,
    parent_of,
)
from scalable_runs.plain import cut, hex_id, parse_nanoseconds
from scalable_runs.reader import RunReader
from scalable_runs.redact import Redactor
from scalable_runs.schema import (
    ENDS,
    FAILURES,
    GRAPHS,
    LOGS,
    METRICS,
    SPANS,
    TASKS,
    WORKERS,
    Record,
)
from scalable_runs.writers import qualified

#: Items sent at once.
BATCH: Final = 512
#: Tracebacks of failed attempts kept in memory.
MAX_TRACEBACKS: Final = 10_000
_MAX_TRACEBACK: Final = 20_000

Item = TypeVar("Item")


@dataclass(slots=True)
class Resent:
    """What was sent."""

    spans: int = 0
    #: Of those, attempts of tasks.
    attempts: int = 0
    #: Attempts that rollup spans summarise.
    summarized: int = 0
    #: Spans of user code in attempts that were left out, or beyond the budget.
    user_spans_left_out: int = 0
    log_records: int = 0
    metric_points: int = 0
    #: Records that cannot be sent.
    left_out: int = 0


def resend(
    reader: RunReader,
    destination: Destination,
    *,
    span_budget: int | None,
    progress: Callable[[int, int], None] | None = None,
) -> Resent:
    """Send a run, in bounded memory.

    Spans have the ids, parents and times of those that were sent during the run. Of a run whose
    recorder died, the root and what ran are closed at the last sign of life, as errors. Links
    between attempts are left out.

    Parameters
    ----------
    reader : RunReader
        The run.
    destination : Destination
        Where to.
    span_budget : int or None
        Attempts for each trace; the rest is summed up. None: all of them.
    progress : callable, optional
        Called with how many bytes of how many are read.

    Raises
    ------
    ResendError
        It was not accepted.
    """
    return _Resending(reader, destination, span_budget, progress).run()


class _Resending:
    """Sends one run once; called by one thread."""

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
        #: Of a run with several writers: the root spans, and whose they are; the run's has no name.
        self._tops = _tops(document)
        redact = Redactor.from_environment(os.environ)
        self._resource = recorded_resource(self._run_id, self._project, redact, document)
        self._spans = SpanFactory(self._resource)
        self._all = span_budget is None
        limit = sys.maxsize if span_budget is None else span_budget
        self._tree = RecordedTree()
        self._budget = SpanBudget(self._run_id, limit, self._spans, self._tree.attempts)
        self._resent = Resent()
        self._waiting: list[ReadableSpan] = []
        self._read = 0
        self._sizes = recorded_sizes(reader.records(GRAPHS))
        #: The first span without a parent of each trace.
        self._first: dict[int, SpanContext] = {}
        often = (TASKS, SPANS, FAILURES, WORKERS)
        files = (*often, *often, SPANS, SPANS, FAILURES, LOGS, METRICS)
        self._size = sum(reader.size(file) for file in files)

    def run(self) -> Resent:
        tree = self._scan()
        root = self._root_ids()
        tracebacks = self._tracebacks()
        known = self._send_other_spans(tree)
        for top in self._missing_tops(known, tree):
            context: Any = top.context
            self._send([top])
            known.add(context.span_id)
            self._budget.parent(context)
        if root is not None:
            if root.span_id not in known:
                self._send([self._missing_root(root, tree)])
            known.add(root.span_id)
            self._budget.parent(root)
        for span_id, it in tree.nested.items():
            self._budget.recorded(it.trace_id, tree.lineage(span_id), it.start, it.end)
        for span_id, parent in tree.parents.items():
            if span_id in tree.nested:
                continue
            ids = span_context(parent.trace_id, span_id)
            if parent.is_attempt or tree.is_user_span(span_id):
                self._budget.learn(parent.trace_id, tree.lineage(span_id))
                continue
            self._budget.parent(ids)
            if span_id not in known:
                about = (self._run_id, self._project, ids, parent, root, self._first.get(ids[0]))
                self._send([missing_parent(self._spans, *about)])
        self._send_attempts(tree, tracebacks)
        self._send_user_spans(tree)
        self._send(self._budget.settle())
        if not self._all:
            self._resent.attempts = self._budget.sent
            self._resent.summarized = self._budget.summarized
        self._resent.user_spans_left_out = self._budget.user_spans_left_out
        self._send_dependent()
        self._flush(0)
        for file, make in (
            (WORKERS, partial(self._event, semconv.EVENT_WORKER)),
            (FAILURES, partial(self._event, semconv.EVENT_FAILURE)),
            (LOGS, self._log_record),
        ):
            for batch in _batches(self._made(file, make)):
                send = partial(self._destination.send, "logs")
                self._resent.log_records += self._deliver(send, batch)
        for batch in _batches(self._records(METRICS), key=_source_of):
            self._resent.metric_points += self._deliver(self._send_metrics, batch)
        return self._resent

    # -- reading ----------------------------------------------------------------------------------

    def _records(self, file: str) -> Iterator[Record]:
        def advance(count: int) -> None:
            self._read += count
            if self._progress is not None:
                self._progress(min(self._read, self._size), self._size)

        return self._reader.records(file, progress=advance)

    def _made(self, file: str, make: Callable[[Record], Item | None]) -> Iterator[Item]:
        """Make something of each record of a journal that `make` does not return None for.

        A record that cannot be used is counted.
        """
        for record in self._records(file):
            try:
                item = make(record)
            except UNDECODABLE:
                self._resent.left_out += 1
                continue
            if item is not None:
                yield item

    def _scan(self) -> RecordedTree:
        """Count attempts by trace, and find what is above spans."""
        tree = self._tree
        for record in self._records(SPANS):
            with suppress(*UNDECODABLE):  # counted where it would be sent
                tree.add_span(renamed(record))
        tree.end_of_spans()
        for record in self._records(TASKS):
            task_id, state, ids = _key(record), record.get("state"), context_of(record)
            at = parse_nanoseconds(record.get("timestamp"))
            tree.last = max(tree.last, at)
            if ids is None or not task_id:
                continue
            if state == "running":
                tree.begin_attempt(task_id, ids, parent_of(record))
            elif state in ENDS:
                tree.end_attempt(task_id, ids, parent_of(record), at)
        tree.end_of_tasks()
        if tree.has_unknown():
            for record in self._reader.records(TASKS):
                ids = context_of(record)
                if ids is not None and record.get("state") in ENDS:
                    tree.mark(ids, parent_of(record))
        for trace_id, count in tree.by_trace.items():
            self._budget.expect(trace_id, count)
        return tree

    def _root_ids(self) -> SpanContext | None:
        """Return the root's ids: records of the run as a whole, such as workers', carry them."""
        for span_id, writer in self._tops.items():
            if not writer:
                return span_context(self._trace_id, span_id)
        for file in (WORKERS, FAILURES):
            for record in self._records(file):
                ids = context_of(record)
                if ids is not None and ids.trace_id == self._trace_id:
                    return ids
        return None

    def _tracebacks(self) -> dict[tuple[str, int], str]:
        found: dict[tuple[str, int], str] = {}
        for record in self._records(FAILURES):
            details = record.get("details") or {}
            if details.get("traceback") and len(found) < MAX_TRACEBACKS:
                key = (_key(record), details.get("attempt") or 0)
                found[key] = cut(details["traceback"], _MAX_TRACEBACK)
        return found

    # -- spans ------------------------------------------------------------------------------------

    def _send_other_spans(self, tree: RecordedTree) -> set[int]:
        """Send submissions, layers, workers and the root; return ids that others refer to.

        Phases, submissions of tasks and layers of their graphs wait for attempts: they may be left
        out with these.
        """
        known: set[int] = set()

        def make(record: Record) -> ReadableSpan | None:
            if is_phase(record) or not is_ours(record) or is_nested(record):
                return None
            span = decoded(record, self._sizes, self._resource)
            context: Any = span.context
            if context.span_id in self._tops:
                # Each program that closed the run has written one, and one for each lost writer.
                if context.span_id in known or not self._tops[context.span_id]:
                    return None
                known.add(context.span_id)
            if span.parent is None:
                self._first.setdefault(context.trace_id, context)
            if context.span_id in tree.parents or span.parent is None:
                known.add(context.span_id)
            return span

        self._send(self._made(SPANS, make))
        return known

    def _send_user_spans(self, tree: RecordedTree) -> None:
        """Send spans of user code whose attempts are sent; others wait for those held back."""

        def make(record: Record) -> ReadableSpan | None:
            if is_phase(record) or is_ours(record):
                return None
            return decode_span(record, self._resource, SCOPE)

        def attempt_of(span: ReadableSpan) -> int:
            context: Any = span.context
            return tree.attempt_of(context.span_id)

        def is_below_tasks(span: ReadableSpan) -> bool:
            context: Any = span.context
            return context.trace_id in tree.by_trace

        for batch in _batches(self._made(SPANS, make), key=is_below_tasks):
            if is_below_tasks(batch[0]):
                self._send(self._budget.take_user_spans(batch, attempt_of))
            else:
                self._send(batch)  # in a trace that began elsewhere

    def _send_dependent(self) -> None:
        """Send phases, submissions of tasks and layers of their graphs that the budget chose."""

        def make(record: Record) -> ReadableSpan | None:
            if is_phase(record):
                is_sent = self._all or self._is_sent(parent_of(record))
            else:
                is_sent = is_nested(record) and self._is_sent(context_of(record))
            return decoded(record, self._sizes, self._resource) if is_sent else None

        self._send(self._made(SPANS, make))

    def _is_sent(self, ids: SpanContext | None) -> bool:
        return ids is not None and self._budget.is_sent(ids)

    def _send_attempts(self, tree: RecordedTree, tracebacks: Mapping[tuple[str, int], str]) -> None:
        running: dict[str, Record] = {}

        def make(record: Record) -> ReadableSpan | None:
            state = record.get("state")
            if state == "running":
                running[_known_key(record)] = record
            elif state in ENDS:
                began = running.pop(_known_key(record), None)
                if record.get("span_id") is not None:
                    return self._attempt(record, began, tracebacks)
            return None

        for span in self._made(TASKS, make):
            self._send_attempt(span, tree)
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
                span = self._attempt(lost, record, tracebacks, end=self._last_sign(tree))
            except UNDECODABLE:
                self._resent.left_out += 1
            else:
                self._send_attempt(span, tree)

    def _send_attempt(self, span: ReadableSpan, tree: RecordedTree) -> None:
        if self._all:
            self._resent.attempts += 1
            context: Any = span.context
            if context.span_id in tree.attempts:
                self._budget.parent(context)
            self._send((span,))
        else:
            self._send(self._budget.take((Group(span, ()),)))

    def _attempt(
        self,
        record: Record,
        began: Record | None,
        tracebacks: Mapping[tuple[str, int], str],
        end: int | None = None,
    ) -> ReadableSpan:
        ids = context_of(record)
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
        error = None
        if record["state"] in _FAILED:
            error = record.get("error_class") or record.get("error_type") or "Exception"
        events: tuple[Event, ...] = ()
        if error is not None:
            message = cut(record.get("error_message") or "", MAX_VALUE)
            exception = {semconv.EXCEPTION_TYPE: error, semconv.EXCEPTION_MESSAGE: message}
            traceback = tracebacks.get((_key(record), record.get("attempt") or 0))
            if traceback is not None:
                exception[semconv.EXCEPTION_STACKTRACE] = traceback
            events = (event(semconv.EVENT_FAILURE, end / 1e9, exception),)
        span = self._spans.span(
            record.get("task_name") or _task_id(record),
            ids,
            parent_of(record),
            start / 1e9,
            end / 1e9,
            {
                semconv.TASK_RESULT: result_of(record),
                **attributes_of(record, RECORD_MAP),
            },
            kind=semconv.KIND_ATTEMPT,
            error=error,
            events=events,
        )
        added = additions_of(record)
        return span if added is None else AddedSpan(span, added)

    def _missing_root(
        self, root: SpanContext, tree: RecordedTree, parent: SpanContext | None = None
    ) -> ReadableSpan:
        """Make the root of a run whose recorder died before closing it."""
        status = str(self._reader.status)
        return self._spans.span(
            semconv.SPAN_RUN.format(project=self._project),
            root,
            parent,
            parse_nanoseconds(self._reader.document.get("started_at")) / 1e9,
            self._last_sign(tree) / 1e9,
            {semconv.RUN_ID: self._run_id, semconv.RUN_STATUS: status},
            error=None if status == "completed" else status,
        )

    def _missing_tops(self, known: set[int], tree: RecordedTree) -> Iterator[ReadableSpan]:
        """Make the root of a run with several writers, and those that its writers did not write."""
        document = self._reader.document
        run = self._root_ids() if self._tops else None
        if run is None:
            return
        above = hex_id(document.get("parent_span_id"), 16)
        parent = span_context(self._trace_id, above) if above else None
        yield self._missing_root(run, tree, parent)
        for span_id, name in self._tops.items():
            if not name or span_id in known:
                continue
            writer = document["writers"][name]
            started = parse_nanoseconds(writer.get("started_at"))
            end = parse_nanoseconds(writer.get("finished_at") or writer.get("last_seen_at"))
            status = str(writer.get("status"))
            about = {semconv.RUN_ID: self._run_id, semconv.RUN_STATUS: status, semconv.WRITER: name}
            yield self._spans.span(
                semconv.SPAN_WRITER.format(project=self._project),
                span_context(self._trace_id, span_id),
                run,
                started / 1e9,
                max(started, end) / 1e9,
                about,
                error=status,
            )

    def _last_sign(self, tree: RecordedTree) -> int:
        document = self._reader.document
        recorder: Any = document.get("recorder") or {}
        signs = (document.get("finished_at"), recorder.get("heartbeat_at"))
        return max(tree.last, *map(parse_nanoseconds, signs))

    # -- sending ----------------------------------------------------------------------------------

    def _send(self, spans: Iterable[ReadableSpan]) -> None:
        for span in spans:
            self._waiting.append(exported_span(span))
            self._flush(BATCH)

    def _flush(self, at_least: int) -> None:
        while self._waiting and len(self._waiting) >= at_least:
            batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
            send = partial(self._destination.send, "traces")
            self._resent.spans += self._deliver(send, batch)

    def _deliver(self, send: Callable[[Sequence[Any]], None], batch: Sequence[Any]) -> int:
        """Send a batch, without items that cannot be encoded. Return how many were sent."""
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

    def _send_metrics(self, records: Sequence[Record]) -> None:
        resource = _of_writer(self._resource, records[0].get("writer"))
        data = decode_metrics(map(renamed, records), resource, SCOPE)
        self._destination.send("metrics", (data,))

    def _event(self, name: str, record: Record) -> ReadableLogRecord:
        is_error = name == semconv.EVENT_FAILURE or record.get("state") == "lost"
        severity = SeverityNumber.ERROR if is_error else SeverityNumber.INFO
        names = RECORD_MAP
        return exported_log(
            decode_event(record, name, names, self._resource, SCOPE, severity=severity)
        )

    def _log_record(self, record: Record) -> ReadableLogRecord:
        return decode_log(renamed(record), self._resource, SCOPE)


_FAILED: Final = frozenset({"failed", "retried", "lost"})


def _source_of(record: Record) -> tuple[Any, Any]:
    return record.get("writer"), record.get("timestamp")


def _of_writer(resource: Resource, writer: str | None) -> Resource:
    """The resource of a writer: each counts for itself, in series of its own."""
    if writer is None:
        return resource
    return resource.merge(Resource({semconv.SERVICE_INSTANCE: writer}))


def _tops(document: Mapping[str, Any]) -> dict[int, str]:
    writers: Mapping[str, Mapping[str, Any]] = document.get("writers") or {}
    found = {hex_id(one.get("root_span_id"), 16): name for name, one in writers.items()}
    if writers:
        found[hex_id(document.get("root_span_id"), 16)] = ""
    found.pop(0, None)
    return found


def _key(record: Record) -> str:
    """Name a task uniquely in the run; empty if the record names none."""
    task_id = record.get("task_id")
    return qualified(task_id, record.get("writer")) if isinstance(task_id, str) else ""


def _known_key(record: Record) -> str:
    _task_id(record)
    return _key(record)


def _task_id(record: Record) -> str:
    if record["task_id"] is None:
        raise ValueError("task_id")
    return record["task_id"]


def _batches(
    items: Iterable[Item], key: Callable[[Item], Any] | None = None
) -> Iterator[list[Item]]:
    """Put items together, at most so many, and only those with equal keys."""
    batch: list[Item] = []
    for item in items:
        if batch and (len(batch) >= BATCH or (key is not None and key(item) != key(batch[0]))):
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch
