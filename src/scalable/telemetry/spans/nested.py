"""Submissions of tasks, and layers of their graphs, until the span budget has decided on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from opentelemetry.sdk.trace import ReadableSpan

from scalable.facts.identity import SUBMISSION, Above
from scalable.telemetry.signals.rollups import Due
from scalable.telemetry.spans.trace_tree import TraceTree

#: Spans that are held at most.
MAX_HELD: Final = 20_000


class NestedSpans:
    """Holds such spans; used by :class:`~scalable.telemetry.spans.budget.SpanBudget` alone.

    Each is sent if a span below it is, and needs no place in the budget. `left` is the budget's
    record of what was left out.
    """

    def __init__(self, left: dict[int, str]) -> None:
        self._left = left
        self._held = 0
        self.left_out = 0

    def record(self, trace: TraceTree, lineage: Sequence[Above], first: int, last: int) -> None:
        """Note one that somebody else sends, with its times in nanoseconds."""
        trace.learn(lineage)
        above = lineage[1].span_id if len(lineage) > 1 else 0
        trace.nested[lineage[0].span_id] = Due(SUBMISSION, above, first=first, last=last)

    def take(self, trace: TraceTree, span: ReadableSpan, out: list[ReadableSpan]) -> None:
        """One has come: send it if one below it was sent, else hold it."""
        context: Any = span.context
        span_id = context[1]
        if trace.has(span_id):
            self._send(trace, span_id, span, out)
        elif span_id in self._left or self._held >= MAX_HELD:
            self._leave_out(trace, span_id)
        else:
            self._held += 1
            trace.nested[span_id] = span

    def send(self, trace: TraceTree, span_id: int, out: list[ReadableSpan]) -> bool:
        """Send the one with this id; False if none is held."""
        if span_id not in trace.nested:
            return False
        self._send(trace, span_id, self._remove(trace, span_id), out)
        return True

    def drop(self, trace: TraceTree, span_id: int) -> None:
        """Leave out the one with this id, and so all below it."""
        self._remove(trace, span_id)
        self._leave_out(trace, span_id)

    def _send(
        self, trace: TraceTree, span_id: int, span: ReadableSpan | Due, out: list[ReadableSpan]
    ) -> None:
        trace.arrive(span_id)
        trace.note_child(span)
        if not isinstance(span, Due):
            out.append(span)

    def _remove(self, trace: TraceTree, span_id: int) -> ReadableSpan | Due:
        span = trace.nested.pop(span_id)
        self._held -= not isinstance(span, Due)
        return span

    def _leave_out(self, trace: TraceTree, span_id: int) -> None:
        self.left_out += 1
        trace.above.pop(span_id, None)
        self._left[span_id] = SUBMISSION
