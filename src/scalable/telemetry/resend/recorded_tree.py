"""What is above each span of a recorded run, as far as a span budget has to know it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from opentelemetry.trace import SpanContext

from scalable.facts.identity import ATTEMPT, SUBMISSION, USER_SPAN, Above
from scalable.telemetry import semconv
from scalable.telemetry.submissions.recorded_blocks import RecordedBlock, block_above
from scalable_runs.otel.decode import context_of, parent_of
from scalable_runs.plain import parse_nanoseconds
from scalable_runs.schema import Record
from scalable_runs.writers import qualified

#: Spans above one another that are followed at most: a damaged record may have them in a circle.
MAX_DEPTH: Final = 1_000


@dataclass(slots=True)
class Parent:
    """The parent of attempts, layers or submissions, as far as their records describe it."""

    trace_id: int
    first: int
    last: int
    is_attempt: bool = False
    #: What is known of it if it is the span of a block of Dask's.
    block: RecordedBlock | None = None

    def note(self, at: int) -> None:
        """Note the time of a child."""
        self.first, self.last = min(self.first, at), max(self.last, at)


class Nested(NamedTuple):
    """The submission of a task, or a layer of its graph."""

    trace_id: int
    #: The span above it.
    above: int
    #: Times in nanoseconds.
    start: int
    end: int


@dataclass(slots=True)
class _Child:
    """A span of user code, or the submission of a task, below a parent that may be an attempt.

    If that was lost, the attempt above it is looked for.
    """

    task: str
    end: int
    attempt: int = 0


@dataclass(slots=True)
class RecordedTree:
    """Reads records of spans, then those of tasks; used by one thread.

    It keeps ids of spans of user code and of parents, not of all attempts.
    """

    #: Attempts by trace, and the parents of attempts, layers, and submissions in Dask's blocks.
    by_trace: dict[int, int] = field(default_factory=dict[int, int])
    parents: dict[int, Parent] = field(default_factory=dict[int, Parent])
    #: Time of the last record of a task.
    last: int = 0
    #: Attempts with children, and the span above each; 0 for none.
    attempts: dict[int, int] = field(default_factory=dict[int, int])
    #: Spans of the run's own other than attempts.
    _ours: set[int] = field(default_factory=set[int])
    #: Submissions of tasks and layers of their graphs, by id.
    nested: dict[int, Nested] = field(default_factory=dict[int, Any])
    #: Spans of user code, and the span above each.
    _users: dict[int, int] = field(default_factory=dict[int, int])
    #: Parents of both that are neither: attempts, or spans that were lost.
    _above: dict[int, _Child] = field(default_factory=dict[int, _Child])
    _by_task: dict[str, list[_Child]] = field(default_factory=dict[str, list[_Child]])
    #: Attempts that have not ended: their ids and parents by task.
    _running: dict[str, tuple[SpanContext, SpanContext | None]] = field(
        default_factory=dict[str, Any]
    )

    def add_span(self, record: Record) -> None:
        """Note a span of spans.jsonl; all of them come before the tasks."""
        ids, parent = context_of(record), parent_of(record)
        if ids is None or is_phase(record):
            return
        attributes: Record = record.get("attributes") or {}
        if is_ours(record):
            self._ours.add(ids.span_id)
            if parent is None:
                return
            if semconv.LAYER_NAME in attributes:
                self._note_parent(parent, parse_nanoseconds(record.get("start_time")))
            if semconv.SUBMIT_TASK in attributes:
                times = (record.get("start_time"), record.get("end_time"))
                self.nested[ids.span_id] = Nested(
                    ids.trace_id, parent.span_id, *map(parse_nanoseconds, times)
                )
                self._note_above(parent, attributes[semconv.SUBMIT_TASK], record)
            elif (block := block_above(record)) is not None:
                self._note_parent(parent, parse_nanoseconds(record.get("start_time")))
                self._note_parent(parent, parse_nanoseconds(record.get("end_time")))
                self.parents[parent.span_id].block = block
        else:
            self._users[ids.span_id] = 0 if parent is None else parent.span_id
            if parent is not None:
                self._note_above(parent, attributes.get(semconv.TASK_KEY), record)

    def end_of_spans(self) -> None:
        """All spans have been added."""
        self._add_blocks()
        for span_id in self._above.keys() & (self._users.keys() | self.nested.keys()):
            del self._above[span_id]
        for child in self._above.values():
            if child.task:
                self._by_task.setdefault(child.task, []).append(child)

    def _add_blocks(self) -> None:
        """Add the blocks around those whose spans were not recorded."""
        for span_id, parent in list(self.parents.items()):
            block = parent.block
            while block is not None and span_id not in self._ours:
                block = block.around
                if block is not None:
                    span_id = block.span_id
                    new = Parent(parent.trace_id, parent.first, parent.last, block=block)
                    above = self.parents.setdefault(span_id, new)
                    above.note(parent.first)
                    above.note(parent.last)

    def begin_attempt(self, task_id: str, ids: SpanContext, parent: SpanContext | None) -> None:
        """Note an attempt that started."""
        self._running[task_id] = ids, parent

    def end_attempt(
        self, task_id: str, ids: SpanContext, parent: SpanContext | None, at: int
    ) -> None:
        """Note an attempt that ended."""
        self._running.pop(task_id, None)
        self.by_trace[ids.trace_id] = self.by_trace.get(ids.trace_id, 0) + 1
        if parent is not None:
            self._note_parent(parent, at)
        self.mark(ids, parent)
        for child in self._by_task.get(task_id, ()):
            # The first attempt that ended after the span.
            if child.end <= at and not child.attempt:
                self._place(child, ids, parent)

    def end_of_tasks(self) -> None:
        """All tasks have been read: the attempts left have not ended."""
        for task_id, (ids, parent) in self._running.items():
            self.by_trace[ids.trace_id] = self.by_trace.get(ids.trace_id, 0) + 1
            self.mark(ids, parent)
            for child in self._by_task.get(task_id, ()):
                if not child.attempt:
                    self._place(child, ids, parent)
        self._running.clear()

    def has_unknown(self) -> bool:
        """Whether an attempt may have ended before the first one below it did."""
        return any(
            not (parent.is_attempt or parent.block)
            and span_id not in self._ours
            and span_id not in self._users
            for span_id, parent in self.parents.items()
        )

    def mark(self, ids: SpanContext, parent: SpanContext | None) -> None:
        """Note that a span is an attempt: most of its tasks have ended before it does."""
        span_id = ids.span_id
        found = self.parents.get(span_id)
        if found is not None:
            found.is_attempt = True
        if found is not None or span_id in self._above:
            self.attempts[span_id] = 0 if parent is None else parent.span_id

    def _note_parent(self, parent: SpanContext, at: int) -> None:
        self.parents.setdefault(parent.span_id, Parent(parent.trace_id, at, at)).note(at)

    def _note_above(self, parent: SpanContext, task: object, child: Record) -> None:
        key = qualified(str(task), child.get("writer")) if task else ""
        end = parse_nanoseconds(child.get("end_time"))
        self._above.setdefault(parent.span_id, _Child(key, end))

    def _place(self, child: _Child, ids: SpanContext, parent: SpanContext | None) -> None:
        child.attempt = ids.span_id
        self.attempts[ids.span_id] = 0 if parent is None else parent.span_id

    # -- what was found ---------------------------------------------------------------------------

    def is_user_span(self, span_id: int) -> bool:
        """Whether a span is one of user code."""
        return span_id in self._users

    def attempt_of(self, span_id: int) -> int:
        """The attempt that a span of user code belongs to; 0 if none is known."""
        for above in self.lineage(self._users.get(span_id, 0)):
            if above.kind == ATTEMPT:
                return above.span_id
        return 0

    def lineage(self, span_id: int) -> tuple[Above, ...]:
        """What is between `span_id` and a submission of the program, the nearest first.

        These are attempts, spans of user code, submissions of tasks, and layers of their graphs.
        """
        return tuple(self._upwards(span_id))

    def _upwards(self, span_id: int) -> Iterator[Above]:
        for _ in range(MAX_DEPTH):
            found = self.parents.get(span_id)
            if span_id in self._users:
                yield Above(USER_SPAN, span_id)
                span_id = self._users[span_id]
            elif span_id in self.nested:
                yield Above(SUBMISSION, span_id)
                span_id = self.nested[span_id].above
                if not self._is_known(span_id):
                    yield Above(ATTEMPT, span_id)  # it has no record
                    return
            elif span_id in self.attempts or (found is not None and found.is_attempt):
                yield Above(ATTEMPT, span_id)
                span_id = self.attempts.get(span_id, 0)
            elif (child := self._above.get(span_id)) is not None and child.attempt:
                yield Above(USER_SPAN, span_id)  # it was lost with its worker
                span_id = child.attempt
            else:
                return

    def _is_known(self, span_id: int) -> bool:
        found = self._above.get(span_id)
        kinds = (self._users, self.nested, self.attempts, self.parents)
        return any(span_id in kind for kind in kinds) or (found is not None and found.attempt > 0)


def is_ours(record: Record) -> bool:
    """Whether the record of a span is not one of user code."""
    scope: Any = record.get("scope") or {}
    return scope.get("name") == semconv.SCOPE_NAME


def is_nested(record: Record) -> bool:
    """Whether the record of a span is that of a task's submission, or a layer of its graph."""
    return is_ours(record) and semconv.SUBMIT_TASK in (record.get("attributes") or {})


def is_phase(record: Record) -> bool:
    """Whether the record of a span is that of a phase."""
    return semconv.PHASE_NAME in (record.get("attributes") or {})
