"""What the span budget knows of the spans of one trace, and of the way from a span to its root."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext

from scalable.facts.identity import ATTEMPT, EXPORTED, SUBMISSION, Above
from scalable.telemetry.signals.rollups import (
    Due,
    Rollup,
    duration_of,
    has_failed,
    stand_in_span,
    task_name_of,
)
from scalable.telemetry.signals.spans import SpanFactory, span_context

#: Attempts of each task name that are sent as they come.
FIRST_OF_A_NAME: Final = 3
#: Task names that are told apart.
MAX_NAMES: Final = 200


def live(limit: int) -> int:
    """Places for attempts that are sent as they end; the rest is for failures and the slowest."""
    return limit - limit // 5


class Group(NamedTuple):
    """The span of an attempt and its phases."""

    attempt: ReadableSpan
    phases: tuple[ReadableSpan, ...]


class Held:
    """An attempt that is held back; `group` is None once it was sent."""

    __slots__ = ("duration", "group", "number", "span_id")

    def __init__(self, group: Group, number: int) -> None:
        context: Any = group.attempt.context
        self.group: Group | None = group
        self.duration = duration_of(group.attempt)
        self.number = number
        self.span_id: int = context[1]


class Missing(NamedTuple):
    """A span that must be sent before one below it can be."""

    span_id: int
    kind: str
    above: int
    is_held: bool


@dataclass(slots=True)
class TraceTree:
    """The state of one trace; used by :class:`~.budget.SpanBudget` alone."""

    #: Attempts to expect: tasks submitted so far.
    expected: int = 0
    ended: int = 0
    #: Attempts sent, and places for attempts that run and will be sent; without those outside the
    #: budget.
    sent: int = 0
    places: int = 0
    #: Spans of user code sent.
    user_spans: int = 0
    sent_ids: set[int] = field(default_factory=set[int])
    #: Spans that have children that were sent, and that were not received yet.
    due: dict[int, Due] = field(default_factory=dict[int, Due])
    #: Attempts with children that their workers export: they are sent at any budget.
    outside: set[int] = field(default_factory=set[int])
    #: Spans that may come: their kind, and the id of the span above them.
    above: dict[int, Above] = field(default_factory=dict[int, Above])
    #: A span that is certain to be sent: the parent where no better one was sent.
    first: SpanContext | None = None
    #: Attempts of each task name.
    names: dict[str, int] = field(default_factory=dict[str, int])
    credit: float = 0.0
    #: Attempts held back by id; the slowest, and a sample of the others.
    held: dict[int, Held] = field(default_factory=dict[int, Held])
    held_count: int = 0
    slowest: list[tuple[float, int, Held]] = field(default_factory=list[Any])
    sample: list[tuple[int, int, Held]] = field(default_factory=list[Any])
    #: Submissions of tasks, and layers of their graphs, that are sent if a span below them is; of
    #: those that somebody else sends, what is known of them.
    nested: dict[int, ReadableSpan | Due] = field(default_factory=dict[int, Any])
    nested_sent: int = 0
    #: Spans of user code that wait for the decision on their attempt.
    waiting: dict[int, list[ReadableSpan]] = field(default_factory=dict[int, list[ReadableSpan]])
    rollups: dict[str, Rollup] = field(default_factory=dict[str, Rollup])
    settled: int = 0

    def has(self, span_id: int) -> bool:
        """Whether a span was sent, or will be."""
        return span_id in self.sent_ids or span_id in self.due

    def fits(self, limit: int) -> bool:
        """Whether there is ample room for all attempts, and for the spans of user code in them.

        More tasks may be submitted, and their spans are not known before they end: hence a quarter.
        """
        return 4 * max(self.expected, self.ended, self.user_spans) <= limit

    def ids(self, trace_id: int, span_id: int) -> SpanContext:
        """Ids of a span made here, with the trace state of the others."""
        state = None if self.first is None else self.first.trace_state
        return span_context(trace_id, span_id, state=state)

    def learn(self, lineage: Sequence[Above]) -> None:
        """Note the spans above tasks that a task submits, the nearest first."""
        exported = False
        for number, (kind, span_id) in enumerate(lineage):
            if kind == EXPORTED:
                self.sent_ids.add(span_id)
            elif span_id not in self.above and not self.has(span_id):
                upper = lineage[number + 1].span_id if number + 1 < len(lineage) else 0
                self.above[span_id] = Above(kind, upper)
            if kind == ATTEMPT:
                if exported and span_id not in self.sent_ids:
                    self.leave_outside(span_id)
                exported = False
            elif kind == EXPORTED:
                exported = True

    def leave_outside(self, span_id: int) -> None:
        """An attempt needs no place in the budget."""
        if span_id not in self.outside:
            self.outside.add(span_id)
            due = self.due.get(span_id)
            if due is not None and due.kind == ATTEMPT:
                self.places -= 1

    def path(
        self, span_id: int, left: Mapping[int, str], *, at_any_cost: bool
    ) -> list[Missing] | None:
        """The spans from `span_id` upwards that are not sent yet.

        None if one of them is in `left`, as it was left out, or if nothing is known of it. At any
        cost, the one takes part all the same, and the other counts as sent by somebody else.
        """
        missing: list[Missing] = []
        seen: set[int] = set()
        while span_id and span_id not in seen and not self.has(span_id):
            seen.add(span_id)
            held = self.held.get(span_id)
            if held is not None and held.group is not None:
                parent = held.group.attempt.parent
                above = parent.span_id if parent is not None else 0
                missing.append(Missing(span_id, ATTEMPT, above, True))
            elif span_id in left:
                if not at_any_cost:
                    return None
                missing.append(Missing(span_id, left[span_id], 0, False))
                break
            else:
                found = self.above.get(span_id)
                if found is None:
                    if at_any_cost:
                        break
                    return None
                kind, above = found
                missing.append(Missing(span_id, kind, above, False))
            span_id = above
        return missing

    def expect(self, missing: Missing) -> None:
        """A span has to come."""
        self.above.pop(missing.span_id, None)
        self.due[missing.span_id] = Due(missing.kind, missing.above)
        if missing.kind == ATTEMPT and missing.span_id not in self.outside:
            self.places += 1

    def limit_now(self, span: ReadableSpan, limit: int) -> int:
        """Places that an attempt may use now if it is to be sent as it ends; 0 if it is not."""
        taken = self.sent + self.places
        if taken >= limit:
            return 0
        if has_failed(span):
            return limit
        if self.expected <= limit:
            return live(limit) if taken < live(limit) else 0
        left = limit // 2 - taken
        if left <= 0:
            return 0
        name = task_name_of(span)
        count = self.names.get(name, 0)
        if len(self.names) < MAX_NAMES or count:
            self.names[name] = count + 1
            if count < FIRST_OF_A_NAME:
                return limit
        # Half of the room for the tasks that are expected: more may be submitted.
        self.credit += left / 2 / max(1, self.expected - self.ended)
        if self.credit < 1.0:
            return 0
        self.credit = min(1.0, self.credit - 1.0)
        return limit

    def arrive(self, span_id: int) -> Due | None:
        """A span is sent; return what was due if it was."""
        self.sent_ids.add(span_id)
        self.above.pop(span_id, None)
        due = self.due.pop(span_id, None)
        if due is not None and due.kind == ATTEMPT and span_id not in self.outside:
            self.places -= 1
        return due

    def note_child(self, child: ReadableSpan | Due) -> None:
        """A child of a span that is due was sent."""
        if isinstance(child, Due):
            above, first, last = child.above, child.first, child.last
        else:
            above = 0 if child.parent is None else child.parent.span_id
            first, last = child.start_time or 0, child.end_time or 0
        due = self.due.get(above)
        if due is not None:
            due.note(first, last)

    def nearest(self, span_id: int) -> int | None:
        """The nearest span from `span_id` upwards that was sent; None if none is known."""
        for _ in range(len(self.above) + len(self.due) + 1):
            if not span_id:
                return None
            if span_id in self.sent_ids:
                return span_id
            due, above = self.due.get(span_id), self.above.get(span_id)
            if due is None and above is None:
                return None
            span_id = due.above if due is not None else above.span_id if above is not None else 0
        return None

    def parent_now(self, trace_id: int, wanted: SpanContext | None) -> SpanContext | None:
        """The parent that is wanted if it is sent, else the nearest above it that is."""
        if wanted is None or self.has(wanted.span_id):
            return wanted
        nearest = self.nearest(wanted.span_id)
        return self.first if nearest is None else self.ids(trace_id, nearest)

    def stand_ins(self, trace_id: int, factory: SpanFactory) -> list[ReadableSpan]:
        """Replacements of the parents that were promised and not received."""
        out: list[ReadableSpan] = []
        for due in self.due.values():
            if not due.last:
                continue
            above, seen = due.above, set[int]()
            while above not in seen and (upper := self.due.get(above)) is not None:
                seen.add(above)
                upper.note(due.first, due.last)
                above = upper.above
            if self.first is not None and (upper := self.due.get(self.first.span_id)):
                upper.note(due.first, due.last)
        for span_id, due in self.due.items():
            if not due.last:
                continue  # a submission of which nothing was sent
            parent = None
            if due.kind != SUBMISSION or due.above:
                parent = self.parent_now(trace_id, span_context(trace_id, due.above))
            ids = self.ids(trace_id, span_id)
            out.append(stand_in_span(factory, ids, parent, due))
        self.sent_ids.update(self.due)
        self.due.clear()
        self.places = 0
        return out
