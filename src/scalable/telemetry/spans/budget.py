"""Which spans of tasks go over OTLP: tracing backends break on giant traces."""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Container, Iterable, Sequence
from math import inf
from typing import Any, Final

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext

from scalable.facts.identity import ATTEMPT, SUBMISSION, USER_SPAN, Above
from scalable.telemetry import semconv
from scalable.telemetry.signals.rollups import (
    Due,
    Rollup,
    rollup_number,
    rollup_span,
    task_name_of,
    with_links,
)
from scalable.telemetry.signals.spans import SpanFactory
from scalable.telemetry.spans.nested import NestedSpans
from scalable.telemetry.spans.trace_tree import MAX_NAMES, Group, Held, TraceTree, live
from scalable_runs.otel.additions import AddedSpan

__all__ = ["Group", "SpanBudget"]

#: Traces that are followed; the one that was quiet for longest is settled and forgotten first,
#: unless a span is still due there.
MAX_TRACES: Final = 1_000
#: Attempts that were left out and are remembered, for what comes late below them.
MAX_LEFT: Final = 50_000
#: Spans of user code that wait for the decision on their attempts at most.
MAX_WAITING: Final = 20_000


class SpanBudget:
    """Chooses from the spans of tasks and of user code; called by the recorder's thread only.

    Of each trace at most `limit` attempts are sent. As long as the expected attempts fit, each is
    sent when it ends. Beyond that some are sent as they end, spread over what is still expected and
    over task names, failures first; the slowest and a uniform sample are held back until the end,
    and sent as far as there is room. What is left out adds to one rollup span per task name.

    A span is sent only if its parent is sent as well, now or later: spans of user code share the
    fate of their attempt, and an attempt takes a place for each attempt above it that still runs.
    A parent that was promised and is never received is replaced by a stand-in. An attempt with
    children that its worker exports itself is sent at any budget. Submissions of tasks, and layers
    of their graphs, are sent if an attempt below them is, and need no place.
    """

    def __init__(
        self,
        run: str,
        limit: int,
        factory: SpanFactory,
        parents: Container[int] | None = None,
    ) -> None:
        #: Attempts that have children; None: they are not known beforehand.
        self._parents = parents
        self._run = run
        self._limit = limit
        self._live = live(limit)
        self._hold_limit = max(1, limit // 4)
        self._user_limit = max(1, limit)
        self._factory = factory
        self._traces: OrderedDict[int, TraceTree] = OrderedDict()
        #: Kind of what was left out and may have children.
        self._left: dict[int, str] = {}
        #: Submissions of tasks, and layers of their graphs.
        self.nested = NestedSpans(self._left)
        self._waiting = 0
        self._ready: list[ReadableSpan] = []
        #: Attempts sent, and attempts that rollups summarise.
        self.sent = 0
        self.summarized = 0
        #: Spans of user code that were left out.
        self.user_spans_left_out = 0

    # -- what is known --------------------------------------------------------------------------

    def expect(self, trace_id: int, count: int) -> None:
        """Tasks were submitted in a trace."""
        self._trace(trace_id).expected += count

    def parent(self, ids: SpanContext) -> None:
        """Note that a span other than an attempt was sent, or is certain to be."""
        trace = self._trace(ids.trace_id)
        trace.arrive(ids.span_id)
        trace.first = trace.first or ids

    def arrived(self, span: ReadableSpan) -> None:
        """Note that a span other than an attempt is sent."""
        if span.context is not None:
            self.parent(span.context)
            self._trace(span.context.trace_id).note_child(span)

    def opened(self, ids: SpanContext) -> None:
        """Note a span that comes when it is complete, such as a submission; it has children."""
        trace = self._trace(ids.trace_id)
        trace.first = trace.first or ids
        if not trace.has(ids.span_id):
            trace.due[ids.span_id] = Due(SUBMISSION)

    def learn(self, trace_id: int, lineage: Sequence[Above]) -> None:
        """Note the spans above tasks that a task submits, the nearest first."""
        self._trace(trace_id).learn(lineage)

    def recorded(self, trace_id: int, lineage: Sequence[Above], first: int, last: int) -> None:
        """Note the submission of a task, or a layer of its graph, that the caller sends.

        It asks :meth:`is_sent` whether to, after :meth:`settle`. Times are in nanoseconds.
        """
        self.nested.record(self._trace(trace_id), lineage, first, last)

    def exports(self, trace_id: int, span_id: int) -> None:
        """The worker of an attempt exports children of it: the attempt is sent at any budget."""
        self._trace(trace_id).leave_outside(span_id)

    def is_sent(self, ids: SpanContext) -> bool:
        """Whether a span was sent, or will be."""
        trace = self._traces.get(ids.trace_id)
        return trace is not None and trace.has(ids.span_id)

    def is_expected(self, trace_id: int, span_id: int) -> bool:
        """Whether a span was sent, or will be unless more tasks are submitted in its trace."""
        trace = self._traces.get(trace_id)
        fits = trace is None or (trace.fits(self._limit) and span_id not in self._left)
        return fits or (trace is not None and trace.has(span_id))

    # -- choosing -------------------------------------------------------------------------------

    def pin(self, ids: SpanContext, parent: int = 0, *, name: str = "", at: int = 0) -> bool:
        """Make sure that a running attempt is sent when it ends, as something of it is sent now.

        `parent` is the span id of its parent, `name` and `at` (nanoseconds) describe it should its
        end never be known. Attempts that were held back and are needed now are in :meth:`ready`.

        Returns
        -------
        bool
            False if there is no room, or if it was left out: nothing of it can be sent.
        """
        trace, span_id = self._trace(ids.trace_id), ids.span_id
        if not trace.has(span_id):
            trace.above[span_id] = Above(ATTEMPT, parent)
        if not self._ensure(trace, span_id, self._ready, self._live):
            return False
        due = trace.due.get(span_id)
        if due is not None:
            due.name = due.name or name
            if at:
                due.note(at, at)
        return True

    def ready(self) -> list[ReadableSpan]:
        """Return attempts that had to be sent for the sake of others since the last call."""
        ready, self._ready = self._ready, []
        return ready

    def take(self, groups: Iterable[Group]) -> list[ReadableSpan]:
        """Attempts that ended; returns what is to be sent now."""
        out: list[ReadableSpan] = []
        for group in groups:
            context: Any = group.attempt.context
            trace = self._trace(context[0])
            trace.ended += 1
            span_id, parent = context[1], group.attempt.parent
            parent_id = 0 if parent is None else parent.span_id
            if span_id in trace.due or span_id in trace.outside:
                self._ensure(trace, parent_id, out, inf, at_any_cost=True)
                self._send(trace, group, out)
            elif parent_id in self._left and not trace.has(parent_id):
                self._leave_out(trace, group.attempt)
            elif (limit := trace.limit_now(group.attempt, self._limit)) and self._ensure(
                trace, parent_id, out, limit, places=1
            ):
                self._send(trace, group, out)
            else:
                self._hold(trace, group)
        return out

    def take_user_spans(self, spans: Iterable[ReadableSpan], attempt_of: Any) -> list[ReadableSpan]:
        """Spans of user code that were relayed; returns what is to be sent now.

        `attempt_of` returns the span id of a span's attempt, 0 for none.
        """
        out: list[ReadableSpan] = []
        # Those above end later: from the last one, most parents come before their children.
        for span in reversed(list(spans)):
            context: Any = span.context
            trace = self._trace(context[0])
            attempt: int = attempt_of(span)
            if not attempt or trace.has(attempt) or context[1] in trace.due:
                self._send_user_span(trace, span, attempt, out)
            elif attempt in self._left:
                self._leave_out_user_span(trace, span)
            else:
                self._wait(trace, attempt, span)
        return out

    def take_nested(self, spans: Iterable[ReadableSpan]) -> list[ReadableSpan]:
        """Submissions of tasks, and layers of their graphs; returns what is to be sent now."""
        out: list[ReadableSpan] = []
        for span in spans:
            context: Any = span.context
            self.nested.take(self._trace(context[0]), span, out)
        return out

    def settle(self) -> list[ReadableSpan]:
        """The run ends: what was held back as far as there is room, rollups and stand-ins."""
        out: list[ReadableSpan] = []
        for trace_id, trace in self._traces.items():
            self._settle(trace_id, trace, out)
        return out

    def forgotten(self) -> list[ReadableSpan]:
        """Settle and forget the traces that were quiet for longest, where there are too many."""
        out: list[ReadableSpan] = []
        excess = len(self._traces) - MAX_TRACES
        if excess > 0:
            # A trace with a span that is due is kept, unless there are far too many.
            quiet = [
                trace_id
                for trace_id, trace in self._traces.items()
                if excess > MAX_TRACES or not trace.due
            ]
            for trace_id in quiet[:excess]:
                self._settle(trace_id, self._traces.pop(trace_id), out)
        return out

    def _trace(self, trace_id: int) -> TraceTree:
        trace = self._traces.get(trace_id)
        if trace is None:
            trace = self._traces[trace_id] = TraceTree()
        else:
            self._traces.move_to_end(trace_id)
        return trace

    def _ensure(
        self,
        trace: TraceTree,
        span_id: int,
        out: list[ReadableSpan],
        limit: float,
        *,
        places: int = 0,
        at_any_cost: bool = False,
    ) -> bool:
        """Make sure that a span and all above it are sent; False if there is no room.

        `places` are needed besides those for the attempts above.
        """
        missing = trace.path(span_id, self._left, at_any_cost=at_any_cost)
        if missing is None:
            return False
        needed = places + sum(
            each.kind == ATTEMPT and each.span_id not in trace.outside for each in missing
        )
        if needed and trace.sent + trace.places + needed > limit:
            return False
        for each in reversed(missing):
            if at_any_cost and each.kind == ATTEMPT:
                trace.leave_outside(each.span_id)
            held = trace.held.pop(each.span_id, None) if each.is_held else None
            if held is not None and held.group is not None:
                group, held.group = held.group, None
                self._send(trace, group, out)
            elif not (self.nested.send(trace, each.span_id, out) or trace.has(each.span_id)):
                trace.expect(each)  # it was not sent with the attempt above it
        return True

    # -- sending --------------------------------------------------------------------------------

    def _send(self, trace: TraceTree, group: Group, out: list[ReadableSpan]) -> None:
        span = group.attempt
        context: Any = span.context
        span_id = context[1]
        trace.arrive(span_id)
        trace.note_child(span)
        trace.sent += span_id not in trace.outside
        self.sent += 1
        out.append(self.with_known_links(span) if span.links else span)
        out.extend(group.phases)
        self._send_waiting(trace, span_id, out)

    def _send_waiting(self, trace: TraceTree, span_id: int, out: list[ReadableSpan]) -> None:
        spans = trace.waiting.pop(span_id, None)
        if spans is not None:
            self._waiting -= len(spans)
            for span in reversed(spans):
                self._send_user_span(trace, span, span_id, out)

    def _send_user_span(
        self, trace: TraceTree, span: ReadableSpan, attempt: int, out: list[ReadableSpan]
    ) -> None:
        context: Any = span.context
        span_id, parent = context[1], span.parent
        if span_id not in trace.due and trace.user_spans >= self._user_limit:
            self._leave_out_user_span(trace, span)
            return
        trace.user_spans += 1
        trace.arrive(span_id)
        if parent is not None:
            # A remote parent may be a span of somebody else.
            is_known = parent.span_id in trace.above or trace.has(parent.span_id)
            if not is_known and not parent.is_remote:
                trace.above[parent.span_id] = Above(USER_SPAN, attempt)
            self._ensure(trace, parent.span_id, out, inf, at_any_cost=True)
            trace.note_child(span)
        out.append(span)
        self._send_waiting(trace, span_id, out)

    def _wait(self, trace: TraceTree, attempt: int, span: ReadableSpan) -> None:
        waiting = trace.waiting.setdefault(attempt, [])
        if len(waiting) >= self._user_limit or self._waiting >= MAX_WAITING:
            self._leave_out_user_span(trace, span)
        else:
            self._waiting += 1
            waiting.append(span)

    def with_known_links(self, span: ReadableSpan) -> ReadableSpan:
        """Leave out the links to attempts that are not sent, and say how many."""
        users = span.added.links if isinstance(span, AddedSpan) else ()
        return with_links(
            span, [link for link in span.links if link in users or self.is_sent(link.context)]
        )

    # -- holding back and leaving out -------------------------------------------------------------

    def _hold(self, trace: TraceTree, group: Group) -> None:
        """Hold back the slowest and a uniform sample of the others; sum up the rest."""
        trace.held_count += 1
        held = Held(group, trace.held_count)
        trace.held[held.span_id] = held
        entry = (held.duration, held.number, held)
        if len(trace.slowest) < self._hold_limit:
            heapq.heappush(trace.slowest, entry)
            return
        held = heapq.heappushpop(trace.slowest, entry)[2]
        # The ids are hashes: keeping the smallest samples uniformly.
        rank = (-held.span_id, held.number, held)
        if len(trace.sample) < self._hold_limit:
            heapq.heappush(trace.sample, rank)
        else:
            self._drop(trace, heapq.heappushpop(trace.sample, rank)[2])

    def _drop(self, trace: TraceTree, held: Held) -> None:
        if held.group is not None:
            del trace.held[held.span_id]
            self._leave_out(trace, held.group.attempt)

    def _leave_out(self, trace: TraceTree, span: ReadableSpan) -> None:
        context: Any = span.context
        span_id, name = context[1], task_name_of(span)
        trace.above.pop(span_id, None)
        self._remember(span_id, ATTEMPT)
        self._leave_out_waiting(trace, span_id)
        if name not in trace.rollups and len(trace.rollups) >= MAX_NAMES:
            name = semconv.OTHER_NAMES
        rollup = trace.rollups.get(name)
        if rollup is None:
            rollup = trace.rollups[name] = Rollup(span.parent)
        elif trace.first is not None and not rollup.is_below(span.parent):
            # Under one of several parents it would begin before it.
            rollup.parent = trace.first
        rollup.add(span)
        self.summarized += 1

    def _leave_out_waiting(self, trace: TraceTree, attempt: int) -> None:
        waiting = trace.waiting.pop(attempt, ())
        self._waiting -= len(waiting)
        for span in waiting:
            self._leave_out_user_span(trace, span)

    def _leave_out_user_span(self, trace: TraceTree, span: ReadableSpan) -> None:
        context: Any = span.context
        self.user_spans_left_out += 1
        if trace.above.pop(context[1], None) is not None:
            self._remember(context[1], USER_SPAN)

    def _remember(self, span_id: int, kind: str) -> None:
        if self._parents is None or span_id in self._parents:
            self._left[span_id] = kind
        if self._parents is None and len(self._left) > MAX_LEFT:
            del self._left[next(iter(self._left))]

    # -- the end --------------------------------------------------------------------------------

    def _settle(self, trace_id: int, trace: TraceTree, out: list[ReadableSpan]) -> None:
        chosen: list[ReadableSpan] = []
        held = [each for _, _, each in sorted(trace.slowest, reverse=True)]
        held += [each for _, _, each in sorted(trace.sample, reverse=True)]
        for each in held:
            # Sends the attempts above it, too.
            if each.group is not None and not self._ensure(
                trace, each.span_id, chosen, self._limit
            ):
                self._drop(trace, each)
        trace.slowest.clear()
        trace.sample.clear()
        self._settle_waiting(trace, chosen)
        self._settle_nested(trace, chosen)
        out += sorted(chosen, key=lambda span: span.end_time or 0)
        trace.settled += 1
        for name, rollup in trace.rollups.items():
            rollup.parent = trace.parent_now(trace_id, rollup.parent)
            ids = trace.ids(trace_id, rollup_number(self._run, trace_id, trace.settled, name))
            span = rollup_span(self._factory, ids, name, rollup)
            trace.note_child(span)
            out.append(span)
        trace.rollups.clear()
        out += trace.stand_ins(trace_id, self._factory)

    def _settle_waiting(self, trace: TraceTree, out: list[ReadableSpan]) -> None:
        """Send user code's spans of attempts whose end is unknown, as far as there is room."""
        for attempt in list(trace.waiting):
            trace.above.setdefault(attempt, Above(ATTEMPT, 0))
            if self._ensure(trace, attempt, out, self._limit):
                self._send_waiting(trace, attempt, out)
            else:
                self._leave_out_waiting(trace, attempt)

    def _settle_nested(self, trace: TraceTree, out: list[ReadableSpan]) -> None:
        """Send submissions of attempts that were sent, as far as there is room."""
        for span_id in list(trace.nested):
            if trace.has(span_id):
                continue  # it was sent with one below it
            room = trace.nested_sent < self._user_limit
            if room and self._ensure(trace, span_id, out, self._limit):
                trace.nested_sent += 1
            else:
                self.nested.drop(trace, span_id)
