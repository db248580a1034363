"""Spans of the blocks of code that a program names with Dask's ``distributed.span()``."""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Final

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import Link, SpanContext

from scalable.telemetry import semconv
from scalable.telemetry.ledger.block import Block
from scalable.telemetry.ledger.carriers import Carried
from scalable.telemetry.ledger.signals import SignalSink
from scalable.telemetry.ledger.task import Task
from scalable.telemetry.signals.dask_spans import LeftSpan, OpenedSpan
from scalable_runs.redact import Redactor

#: Seconds after the last change when the span of a block that was left is sent.
LINGER: Final = 0.5
#: Links of one span.
MAX_LINKS: Final = 32


class Blocks:
    """Follows the blocks of one run; called by the recorder's thread only.

    A span is sent once, when its blocks have been left and their tasks have ended, else at the end
    of the run.
    """

    def __init__(self, sink: SignalSink, redact: Redactor) -> None:
        self._sink = sink
        self._redact = redact
        self._blocks: dict[int, Block] = {}
        #: Those that have been left.
        self._left: dict[int, Block] = {}
        #: Of blocks opened before this time, a predecessor may have counted some tasks; it has
        #: written these spans.
        self.exact_from = 0.0
        self.written: Container[int] = ()

    def open(self, opened: Iterable[OpenedSpan], offset: float) -> list[OpenedSpan]:
        """Blocks were opened, outermost first; return those that are new here.

        `offset` leads from the client's clock to the scheduler's.
        """
        new: list[OpenedSpan] = []
        for each in opened:
            span_id = each.ids.span_id
            if span_id in self._blocks or span_id in self.written:
                continue
            is_exact = each.start >= self.exact_from
            block = Block(each, each.start + offset, is_exact=is_exact)
            self._blocks[span_id] = block
            around = self._around(block)
            if around is not None:
                around.within += 1
                if each.link is not None:
                    _link(around, each.ids)
            new.append(each)
        return new

    def submitted(self, block: SpanContext, ids: SpanContext, last: float, *, below: bool) -> None:
        """A submission in a block is complete; `below`: it is a child of the block's span."""
        found = self._blocks.get(block.span_id)
        if found is not None:
            found.last = max(found.last, last)
            found.changed = None
            if not below:
                _link(found, ids)

    def leave(self, left: Iterable[LeftSpan]) -> None:
        """Blocks were left."""
        for span_id, count in left:
            block = self._blocks.get(span_id)
            if block is not None:
                block.left, block.changed = count, None
                self._left[span_id] = block

    def enter(self, task: Task, found: Carried) -> None:
        """A task was submitted."""
        if found.block:
            task.block = self._blocks.get(found.block)
            if task.block is not None:
                task.block.submitted()

    def tick(self, now: float, waiting: Container[int], *, exact: bool) -> None:
        """Send the spans of blocks that are over.

        `waiting` are ids of blocks with submissions that are not sent; `exact`: no task was left
        out of what is reported.
        """
        for span_id, block in list(self._left.items()):
            if block.changed is None:
                block.changed = now
            is_over = block.open <= 0 and not block.within and block.is_exact
            if is_over and span_id not in waiting and now - block.changed >= LINGER:
                self._send(block, exact=exact)

    def close(self, *, exact: bool) -> None:
        """The run ends: send all spans, the inner ones first."""
        for block in reversed(list(self._blocks.values())):
            self._send(block, exact=exact)

    def span(self, block: OpenedSpan, start: float, last: float) -> ReadableSpan:
        """Return the span of a block that has begun."""
        return self._span(Block(block, start, is_exact=False), last)

    def _send(self, block: Block, *, exact: bool) -> None:
        span_id = block.opened.ids.span_id
        del self._blocks[span_id]
        self._left.pop(span_id, None)
        around = self._around(block)
        if around is not None:
            around.include(block)
        self._sink.add_span(self._span(block, block.last, exact=exact))

    def _span(self, block: Block, last: float, *, exact: bool = False) -> ReadableSpan:
        opened, states = block.opened, block.states
        names = tuple(map(self._redact.short, opened.names))
        attributes = {
            **self._redact.attributes(opened.attributes),
            semconv.RUN_ID: self._sink.run_id,
            semconv.DASK_SPAN_NAME: names,
            semconv.DASK_SPAN_ID: opened.dask_ids,
            semconv.DASK_SPAN_BLOCKS: max(1, block.left),
        }
        if exact and block.is_exact:
            attributes |= {
                semconv.DASK_SPAN_TASKS: block.tasks,
                semconv.DASK_SPAN_ATTEMPTS: block.attempts,
                semconv.DASK_SPAN_SUCCEEDED: states["succeeded"],
                semconv.DASK_SPAN_FAILED: states["failed"],
                semconv.DASK_SPAN_CANCELLED: states["cancelled"],
                semconv.DASK_SPAN_RETRIED: states["retried"],
                semconv.DASK_SPAN_LOST: states["lost"],
            }
        links = [*block.links.values()]
        if opened.link is not None:
            links.append(opened.link)
        if opened.parent is None:
            links.append(self._sink.root)
        return self._sink.span(
            semconv.SPAN_DASK.format(name=names[-1]),
            opened.ids,
            opened.parent,
            block.start,
            last,
            attributes,
            links=tuple(map(Link, links)),
        )

    def _around(self, block: Block) -> Block | None:
        """The block around a block, if its span was not sent."""
        above = block.opened.link or block.opened.parent
        return None if above is None else self._blocks.get(above.span_id)


def _link(block: Block, ids: SpanContext) -> None:
    if len(block.links) < MAX_LINKS:
        block.links[ids.span_id] = ids
