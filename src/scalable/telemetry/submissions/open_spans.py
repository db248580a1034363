"""Finds the span for each graph that is sent in a block of Dask's ``distributed.span()``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from opentelemetry.context import Context
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.trace import SpanContext

from scalable.common.carriers import is_suppressed
from scalable.facts.graphs import DaskSpan
from scalable.telemetry import semconv
from scalable.telemetry.configuration.ids import random_flag
from scalable.telemetry.signals.dask_spans import MAX_DEPTH, LeftSpan, OpenedSpan, dask_span_number
from scalable.telemetry.signals.spans import Sample, current_span, span_context

#: Seconds in which the blocks of one name below one parent are counted.
WINDOW: Final = 60.0
#: Of these, blocks with a span each; further ones share a span, which says how many they are.
MAX_SIBLINGS: Final = 100
#: Spans of one block each in that time, of all names.
MAX_OWN: Final = 1_000
#: Shared spans in that time; beyond, the names are not told apart.
MAX_SHARED: Final = 200
#: Blocks that are known at once. Where Dask does not tell their end, the oldest one ends.
MAX_BLOCKS: Final = 10_000
#: Blocks that were left and are remembered.
MAX_OVER: Final = 1_000
#: Characters of a name.
MAX_NAME: Final = 200


class OpenSpan:
    """The span of one block, or of several of the same name; graphs are sent in it."""

    __slots__ = ("blocks", "caller", "ids", "inside", "is_open", "opened")

    def __init__(self, opened: OpenedSpan, caller: SpanContext | None) -> None:
        self.opened = opened
        self.ids = opened.ids
        #: The span of the caller that was current when the block was entered.
        self.caller = caller
        #: Blocks that it represents, and those that were not left.
        self.blocks = self.inside = 1
        #: Further blocks may join.
        self.is_open = False


class _Caller(NamedTuple):
    """The caller's span at the entry of a block, and its context where a graph is sent."""

    span: SpanContext | None
    context: Context


class OpenSpans:
    """Finds the span for each graph of a block; called under the lock of the submissions.

    A block in which no graph is sent has no span. Of many blocks of the same name in a row, the
    first ones have a span each, and the others share one.
    """

    def __init__(self, run: str, sample: Sample, ids: IdGenerator) -> None:
        self._run = run
        self._sample = sample
        self._ids = ids
        #: The caller's span at the entry of each block, by Dask's id.
        self._callers: dict[str, SpanContext | None] = {}
        #: Spans by the ids of their blocks.
        self._spans: dict[str, OpenSpan] = {}
        #: Those of blocks that were left: a copy of their context may send a graph later.
        self._over: dict[str, OpenSpan] = {}
        self._evicted = 0
        self._since = 0.0
        #: Since then: blocks by parent and name, spans of one block each, shared spans.
        self._siblings: dict[tuple[int, str], int] = {}
        self._own = 0
        self._shared: dict[tuple[int, str], OpenSpan] = {}
        self._opened: list[OpenedSpan] = []
        self._begun: list[SpanContext] = []
        self._left: list[LeftSpan] = []

    def entered(self, dask_ids: Sequence[str], caller: SpanContext | None) -> None:
        """Blocks were entered, at once and outermost first."""
        for dask_id in dask_ids:
            self._callers[dask_id] = caller
        while len(self._callers) > MAX_BLOCKS:
            del self._callers[next(iter(self._callers))]

    def left(self, dask_ids: Sequence[str]) -> None:
        """Blocks were left."""
        for dask_id in reversed(dask_ids):
            self._callers.pop(dask_id, None)
            self._leave(dask_id)

    def find(self, block: DaskSpan, context: Context, now: float) -> OpenSpan | None:
        """The span for a graph that is sent now; None if it has none."""
        depth = min(len(block.ids), len(block.names), MAX_DEPTH)
        if not depth:
            return None
        innermost = block.ids[depth - 1]
        found = self._spans.get(innermost) or self._over.get(innermost)
        if is_suppressed(context):
            return None
        if found is not None:
            return found
        if not 0 <= now - self._since < WINDOW:
            self._begin_window(now)
        current = current_span(context)
        for name, dask_id in zip(block.names[:depth], block.ids, strict=False):
            span = self._spans.get(dask_id) or self._over.get(dask_id)
            if span is None:
                caller = self._callers.get(dask_id, current)
                span = self._span_of(name[:MAX_NAME], dask_id, found, _Caller(caller, context), now)
                if span is None:
                    return found
                self._spans[dask_id] = span
            found = span
        while len(self._spans) > MAX_BLOCKS:
            self._evicted += 1
            self._leave(next(iter(self._spans)))
        return found

    def begun(self) -> list[SpanContext]:
        """Return ids of what was opened since the last call; children of it may be sent."""
        begun, self._begun = self._begun, []
        return begun

    def drain(
        self, now: float, *, all_of_them: bool = False
    ) -> tuple[list[OpenedSpan], list[LeftSpan]]:
        """Return what was opened and what was left since the last call."""
        if all_of_them:
            for dask_id in list(self._spans):
                self._leave(dask_id)
        if all_of_them or not 0 <= now - self._since < WINDOW:
            self._begin_window(now)
        opened, self._opened = self._opened, []
        left, self._left = self._left, []
        return opened, left

    def repeat(self) -> list[SpanContext]:
        """Return all that are open or were left lately once more, for another recorder."""
        over = [span for span in self._over.values() if not span.inside and not span.is_open]
        self._left = [LeftSpan(span.ids.span_id, span.blocks) for span in over]
        spans = (*over, *self._spans.values(), *self._shared.values())
        again = {span.ids.span_id: span.opened for span in spans}
        new = [opened for opened in self._opened if opened.ids.span_id not in again]
        # Outermost first.
        self._opened = sorted([*again.values(), *new], key=lambda opened: len(opened.dask_ids))
        return [opened.ids for opened in self._opened]

    # -- which blocks share a span ----------------------------------------------------------------

    def _begin_window(self, now: float) -> None:
        self._since, self._own = now, 0
        self._siblings.clear()
        shared, self._shared = self._shared, {}
        for span in shared.values():
            span.is_open = False
            self._leave_if_over(span)

    def _span_of(
        self, name: str, dask_id: str, around: OpenSpan | None, caller: _Caller, now: float
    ) -> OpenSpan | None:
        is_below = around is not None and around.caller == caller.span
        parent = around.ids if around is not None and is_below else caller.span
        key = (0 if parent is None else parent.span_id, name)
        count = self._siblings.get(key, 0)
        if count < MAX_SIBLINGS and self._own < MAX_OWN:
            self._siblings[key] = count + 1
            self._own += 1
            return self._open(name, dask_id, around, caller, now)
        shared = self._shared.get(key)
        if shared is None and len(self._shared) >= MAX_SHARED:
            name = semconv.OTHER_NAMES
            key = (key[0], name)
            shared = self._shared.get(key)
            if shared is None and len(self._shared) >= 2 * MAX_SHARED:
                return None
        if shared is None:
            shared = self._shared[key] = self._open(name, dask_id, around, caller, now)
            shared.is_open = True
        else:
            shared.blocks += 1
            shared.inside += 1
        return shared

    def _open(
        self, name: str, dask_id: str, around: OpenSpan | None, caller: _Caller, now: float
    ) -> OpenSpan:
        parent, link = caller.span, None
        names, dask_ids = (name,), (dask_id,)
        if around is not None:
            names, dask_ids = (*around.opened.names, name), (*around.opened.dask_ids, dask_id)
            if around.caller == caller.span:
                parent = around.ids
            else:
                link = around.ids
        about = {
            semconv.RUN_ID: self._run,
            semconv.DASK_SPAN_NAME: names,
            semconv.DASK_SPAN_ID: dask_ids,
        }
        trace_id = self._ids.generate_trace_id() if parent is None else parent.trace_id
        flags, state, added = self._sample(trace_id, parent, name, about)
        if parent is None:
            flags |= random_flag(self._ids)
        # One that is forgotten and is there again has a further span.
        number = dask_span_number(self._run, trace_id, dask_id, self._evicted)
        ids = span_context(trace_id, number, flags, state)
        opened = OpenedSpan(ids, parent, names, dask_ids, now, link, added, caller.context)
        self._opened.append(opened)
        self._begun.append(ids)
        return OpenSpan(opened, caller.span)

    def _leave(self, dask_id: str) -> None:
        span = self._spans.pop(dask_id, None)
        if span is None:
            return
        span.opened = span.opened._replace(context=None)
        self._over[dask_id] = span
        if len(self._over) > MAX_OVER:
            del self._over[next(iter(self._over))]
        span.inside -= 1
        self._leave_if_over(span)

    def _leave_if_over(self, span: OpenSpan) -> None:
        if not span.inside and not span.is_open:
            self._left.append(LeftSpan(span.ids.span_id, span.blocks))
