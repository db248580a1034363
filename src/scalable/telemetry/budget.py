"""Which spans of tasks go over OTLP: tracing backends break on giant traces."""

from __future__ import annotations

import copy
import heapq
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf
from typing import Any, Final, NamedTuple

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext, StatusCode

from scalable.facts.identity import attempt_span_id
from scalable.telemetry import semconv
from scalable.telemetry.instrument import TASK_BOUNDS
from scalable.telemetry.spans import NANOSECONDS, SpanFactory, span_context

#: Attempts of each task name that are sent as they come.
FIRST_OF_A_NAME: Final = 3
#: Task names that get a rollup span of their own.
MAX_NAMES: Final = 200
#: Traces that are followed; the one that was quiet for longest is settled and forgotten first.
MAX_TRACES: Final = 1_000
#: Bucket bounds of a rollup's histogram, in seconds: a few of the metrics'.
ROLLUP_BOUNDS: Final = TASK_BOUNDS[::3]


class Group(NamedTuple):
    """The span of an attempt and its phases."""

    attempt: ReadableSpan
    phases: tuple[ReadableSpan, ...]


@dataclass(slots=True)
class _Rollup:
    """Sums of the attempts of one task name that are left out."""

    parent: SpanContext | None
    count: int = 0
    failed: int = 0
    total: float = 0.0
    low: float = inf
    high: float = 0.0
    first: float = inf
    last: float = 0.0
    buckets: list[int] = field(default_factory=lambda: [0] * (len(ROLLUP_BOUNDS) + 1))

    def add(self, span: ReadableSpan) -> None:
        started = (span.start_time or 0) / NANOSECONDS
        ended = (span.end_time or 0) / NANOSECONDS
        duration = _duration(span)
        self.count += 1
        self.failed += _failed(span)
        self.total += duration
        self.low = min(self.low, duration)
        self.high = max(self.high, duration)
        self.first = min(self.first, started)
        self.last = max(self.last, ended)
        self.buckets[bisect_left(ROLLUP_BOUNDS, duration)] += 1


@dataclass(slots=True)
class _Trace:
    """What is known of one trace."""

    #: Attempts to expect: tasks submitted so far.
    expected: int = 0
    ended: int = 0
    sent: int = 0
    sent_ids: set[int] = field(default_factory=set[int])
    #: Running attempts with children that were sent: they will be sent, and count already.
    parents: set[int] = field(default_factory=set[int])
    #: Parent of rollups whose own parent was left out.
    first: SpanContext | None = None
    #: Attempts of each task name.
    names: dict[str, int] = field(default_factory=dict[str, int])
    credit: float = 0.0
    #: Attempts held back: the slowest, and a sample of the others.
    slowest: list[tuple[float, int, Group]] = field(default_factory=list[Any])
    sample: list[tuple[int, int, Group]] = field(default_factory=list[Any])
    held: int = 0
    rollups: dict[str, _Rollup] = field(default_factory=dict[str, _Rollup])
    settled: int = 0

    def has(self, span_id: int) -> bool:
        """Whether a span was sent, or will be."""
        return span_id in self.sent_ids or span_id in self.parents


class SpanBudget:
    """Chooses from the spans of tasks; called by the recorder's thread only.

    Of each trace at most `limit` attempts are sent. As long as the expected attempts fit, each is
    sent when it ends. Beyond that some are sent as they end, spread over what is still expected and
    over task names, failures first; the slowest and a uniform sample are held back until the end,
    and sent as far as there is room. What is left out adds to one rollup span per task name.
    """

    def __init__(self, run: str, limit: int, factory: SpanFactory) -> None:
        self._run = run
        self._limit = limit
        #: A fifth is reserved for failures and for the slowest.
        self._live = limit - limit // 5
        self._hold_limit = max(1, limit // 4)
        self._factory = factory
        self._traces: OrderedDict[int, _Trace] = OrderedDict()
        #: Attempts sent, and attempts that rollups summarise.
        self.sent = 0
        self.summarized = 0

    def expect(self, trace_id: int, count: int) -> None:
        """Tasks were submitted in a trace."""
        self._trace(trace_id).expected += count

    def parent(self, ids: SpanContext) -> None:
        """Note that a span other than an attempt is sent: attempts may be its children."""
        trace = self._trace(ids.trace_id)
        trace.sent_ids.add(ids.span_id)
        trace.first = trace.first or ids

    def pin(self, ids: SpanContext) -> bool:
        """A running attempt has children that are sent: it must be sent too when it ends.

        Returns
        -------
        bool
            False if there is no room: its descendants must not be sent.
        """
        trace = self._trace(ids.trace_id)
        span_id = ids.span_id
        if trace.has(span_id):
            return True
        if trace.sent + len(trace.parents) >= self._live:
            return False
        trace.parents.add(span_id)
        return True

    def arrived(self, ids: SpanContext) -> None:
        """A span of user code is sent; it no longer counts as a parent to come."""
        trace = self._trace(ids.trace_id)
        trace.parents.discard(ids.span_id)
        trace.sent_ids.add(ids.span_id)

    def is_sent(self, ids: SpanContext) -> bool:
        """Whether a span was sent, or will be."""
        trace = self._traces.get(ids.trace_id)
        return trace is not None and trace.has(ids.span_id)

    def take(self, groups: Iterable[Group]) -> list[ReadableSpan]:
        """Attempts that ended; returns what is to be sent now."""
        out: list[ReadableSpan] = []
        for group in groups:
            context: Any = group.attempt.context
            trace = self._trace(context[0])
            trace.ended += 1
            span_id = context[1]
            if span_id in trace.parents:
                trace.parents.discard(span_id)
                self._send(trace, group, out)
            elif not _has_parent(trace, group.attempt):
                self._leave_out(trace, group.attempt)
            elif self._goes_now(trace, group.attempt):
                self._send(trace, group, out)
            else:
                self._hold(trace, group)
        return out

    def settle(self) -> list[ReadableSpan]:
        """The run ends: what was held back as far as there is room, and the rollups."""
        out: list[ReadableSpan] = []
        for trace_id, trace in self._traces.items():
            self._settle(trace_id, trace, out)
        return out

    # -- choosing -------------------------------------------------------------------------------

    def _trace(self, trace_id: int) -> _Trace:
        trace = self._traces.get(trace_id)
        if trace is None:
            trace = self._traces[trace_id] = _Trace()
        else:
            self._traces.move_to_end(trace_id)
        return trace

    def forgotten(self) -> list[ReadableSpan]:
        """Settle and forget the traces that were quiet for longest, where there are too many."""
        out: list[ReadableSpan] = []
        while len(self._traces) > MAX_TRACES:
            trace_id, trace = self._traces.popitem(last=False)
            self._settle(trace_id, trace, out)
        return out

    def _room(self, trace: _Trace) -> int:
        return self._limit - trace.sent - len(trace.parents)

    def _goes_now(self, trace: _Trace, span: ReadableSpan) -> bool:
        room = self._room(trace)
        if room <= 0:
            return False
        if _failed(span):
            return True
        if trace.expected <= self._limit:
            return trace.sent < self._live
        left = self._limit // 2 - trace.sent
        if left <= 0:
            return False
        count = trace.names.get(span.name, 0)
        if len(trace.names) < MAX_NAMES or count:
            trace.names[span.name] = count + 1
            if count < FIRST_OF_A_NAME:
                return True
        # Half of the room for the tasks that are expected: more may be submitted.
        trace.credit += left / 2 / max(1, trace.expected - trace.ended)
        if trace.credit < 1.0:
            return False
        trace.credit = min(1.0, trace.credit - 1.0)
        return True

    def _send(self, trace: _Trace, group: Group, out: list[ReadableSpan]) -> None:
        span = group.attempt
        context: Any = span.context
        trace.sent += 1
        self.sent += 1
        trace.sent_ids.add(context[1])
        out.append(self._with_known_links(span) if span.links else span)
        out.extend(group.phases)

    def _with_known_links(self, span: ReadableSpan) -> ReadableSpan:
        """Leave out the links to spans that are not sent, and say how many."""
        links = [link for link in span.links if self.is_sent(link.context)]
        left_out = len(span.links) - len(links)
        if not left_out:
            return span
        changed: Any = copy.copy(span)
        changed._links = links
        changed._attributes = {**(span.attributes or {}), semconv.TASK_LINKS_LEFT_OUT: left_out}
        return changed

    def _hold(self, trace: _Trace, group: Group) -> None:
        """Hold back the slowest and a uniform sample of the others; sum up the rest."""
        trace.held += 1
        entry = (_duration(group.attempt), trace.held, group)
        if len(trace.slowest) < self._hold_limit:
            heapq.heappush(trace.slowest, entry)
            return
        group = heapq.heappushpop(trace.slowest, entry)[2]
        # The ids are hashes: keeping the smallest samples uniformly.
        context: Any = group.attempt.context
        rank = (-context[1], trace.held, group)
        if len(trace.sample) < self._hold_limit:
            heapq.heappush(trace.sample, rank)
        else:
            self._leave_out(trace, heapq.heappushpop(trace.sample, rank)[2].attempt)

    def _leave_out(self, trace: _Trace, span: ReadableSpan) -> None:
        name = span.name
        if name not in trace.rollups and len(trace.rollups) >= MAX_NAMES:
            name = semconv.OTHER_NAMES
        rollup = trace.rollups.get(name)
        if rollup is None:
            parent = span.parent if _has_parent(trace, span) else trace.first
            rollup = trace.rollups[name] = _Rollup(parent)
        rollup.add(span)
        self.summarized += 1

    def _settle(self, trace_id: int, trace: _Trace, out: list[ReadableSpan]) -> None:
        held = [group for _, _, group in sorted(trace.slowest, reverse=True)]
        held += [group for _, _, group in sorted(trace.sample, reverse=True)]
        trace.slowest.clear()
        trace.sample.clear()
        room = max(0, self._room(trace))
        chosen = sorted(held[:room], key=lambda group: group.attempt.end_time or 0)
        for group in chosen:
            self._send(trace, group, out)
        for group in held[room:]:
            self._leave_out(trace, group.attempt)
        trace.settled += 1
        for name, rollup in trace.rollups.items():
            out.append(self._rollup_span(trace_id, trace, name, rollup))
        trace.rollups.clear()

    def _rollup_span(
        self, trace_id: int, trace: _Trace, name: str, rollup: _Rollup
    ) -> ReadableSpan:
        key = f"rollup {trace_id:032x} {name}"
        span_id = attempt_span_id(self._run, key, trace.settled)
        return self._factory.span(
            semconv.SPAN_ROLLUP.format(name=name),
            span_context(trace_id, span_id),
            rollup.parent,
            rollup.first,
            rollup.last,
            {
                semconv.TASK_NAME: name,
                semconv.ROLLUP_COUNT: rollup.count,
                semconv.ROLLUP_FAILED: rollup.failed,
                semconv.ROLLUP_SUM: round(rollup.total, 6),
                semconv.ROLLUP_MIN: round(rollup.low, 6),
                semconv.ROLLUP_MAX: round(rollup.high, 6),
                semconv.ROLLUP_BOUNDS: ROLLUP_BOUNDS,
                semconv.ROLLUP_BUCKETS: tuple(rollup.buckets),
            },
        )


def _has_parent(trace: _Trace, span: ReadableSpan) -> bool:
    return span.parent is None or trace.has(span.parent.span_id)


def _failed(span: ReadableSpan) -> bool:
    return span.status.status_code is StatusCode.ERROR


def _duration(span: ReadableSpan) -> float:
    duration: Any = (span.attributes or {}).get(semconv.TASK_DURATION)
    if duration is None:
        return ((span.end_time or 0) - (span.start_time or 0)) / NANOSECONDS
    return duration
