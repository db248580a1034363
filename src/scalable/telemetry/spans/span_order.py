"""The order in which the application's span processors see spans: parents around their children.

A processor such as Sentry's keeps the spans that are open, and adds a span to its parent only while
that is open. The recorder has spans when they have ended, children first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext

from scalable.facts.identity import SUBMISSION
from scalable.telemetry import semconv
from scalable.telemetry.export.shipping import Begun, Shipper
from scalable.telemetry.ledger.signals import Output

#: Seconds for which a span waits for its children: workers report those a little later.
LINGER: Final = 1.0
#: Seconds for which a span waits for a parent that has not ended, and for one that is known to
#: come: the layer of an attempt, which ends with the last of its attempts.
HOLD: Final = 10.0
HOLD_KNOWN: Final = 60.0
#: Seconds for which a submission stays open for its tasks.
MAX_OPEN: Final = 600.0
#: Most spans that wait, and most spans and traces that are remembered.
MAX_HELD: Final = 10_000
MAX_KNOWN: Final = 20_000
MAX_TRACES: Final = 1_000


@dataclass(slots=True)
class _Trace:
    """What is known of the tasks of one trace."""

    expected: int = 0
    ended: int = 0
    #: Spans of it that wait.
    held: int = 0
    #: When the last span arrived.
    active: float = 0.0


class SpanOrder:
    """Puts spans into the order of a tree; called by the recorder's thread only.

    The run's root, blocks of Dask's and submissions are open for as long as their tasks run. Any
    other span begins and ends at once, with the children that have arrived between the two.
    """

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._out: list[Begun | ReadableSpan] = []
        self._traces: dict[int, _Trace] = {}
        #: Submissions whose span has not arrived, each with the caller's context.
        self._submissions: dict[int, Context | None] = {}
        #: Spans that have begun and stay open; those that have ended, and when.
        self._open: set[int] = set()
        self._ending: dict[int, tuple[float, ReadableSpan]] = {}
        #: Spans that wait, and when they arrived; and the ids of those that wait by their parent's.
        self._held: dict[int, tuple[float, ReadableSpan]] = {}
        self._children: dict[int, dict[int, None]] = {}
        #: Spans that will come, as the recorder says.
        self._coming: dict[int, None] = {}
        #: Spans that were passed on.
        self._done: dict[int, None] = {}

    @property
    def waiting(self) -> int:
        """Spans that have ended and were not passed on."""
        ended = sum(type(item) is not Begun for item in self._out)
        return len(self._held) + len(self._ending) + ended

    def begin(self, span: ReadableSpan, context: Context | None = None) -> None:
        """A span begins that stays open until :meth:`add` gets it with its end."""
        self._out.append(Begun(span, context))
        self._open.add(_id(span))

    def submitted(self, ids: SpanContext, context: Context | None) -> None:
        """A span will arrive that stays open until its tasks have ended."""
        self._submissions[ids.span_id] = context
        _forget(self._submissions, MAX_TRACES)

    def note(self, output: Output) -> None:
        """Count the tasks that were submitted and the attempts that ended; note what will come."""
        for ids, lineage in output.parents:
            if not lineage or lineage[0].kind == SUBMISSION:
                self._coming[ids.span_id] = None
                _forget(self._coming, MAX_KNOWN)
        for trace_id, count in output.submitted.items():
            self._trace(trace_id).expected += count
        for batch in output.batches:
            for span in batch.spans:
                if semconv.TASK_KEY in (span.attributes or {}):
                    self._trace(_trace_id(span)).ended += 1

    def add(self, spans: Sequence[ReadableSpan], now: float) -> None:
        """Add spans that have ended."""
        for span in spans:
            span_id = _id(span)
            trace = self._trace(_trace_id(span))
            trace.active = now
            if span_id in self._submissions:
                self._out.append(Begun(span, self._submissions.pop(span_id)))
                self._open.add(span_id)
            if span_id in self._open:
                self._ending[span_id] = now, span
            elif span_id not in self._held:
                self._held[span_id] = now, span
                self._children.setdefault(_parent_id(span), {})[span_id] = None
                trace.held += 1

    def release(self, now: float, *, everything: bool = False) -> list[Begun | ReadableSpan]:
        """What is to be passed on now, in order."""
        hurry = everything or len(self._held) > MAX_HELD
        for span_id, (since, span) in list(self._held.items()):
            age = HOLD if hurry else now - since
            if age < LINGER:
                break
            parent = _parent_id(span)
            if span_id not in self._held or (parent in self._held and now - since < MAX_OPEN):
                continue  # it goes with its parent
            known = not parent or parent in self._open or parent in self._done
            limit = HOLD_KNOWN if parent in self._coming and not hurry else HOLD
            if known or age >= limit:
                self._pass_on(span_id)
        if everything:
            for span_id in list(self._held):  # spans that are each other's parents
                self._pass_on(span_id)
        for span_id, (since, span) in list(self._ending.items()):
            if everything or self._is_over(span, since, now):
                del self._ending[span_id]
                self._open.discard(span_id)
                self._finish(span)
        out, self._out = self._out, []
        return out

    def _pass_on(self, top: int) -> None:
        """Pass on a span that waits, and the children of it that wait."""
        todo: list[tuple[int, ReadableSpan | None]] = [(top, None)]
        while todo:
            span_id, span = todo.pop()
            if span is not None:
                self._finish(span)
                continue
            if span_id not in self._held:
                continue
            _, span = self._held.pop(span_id)
            self._trace(_trace_id(span)).held -= 1
            siblings: Any = self._children.get(_parent_id(span), {})
            siblings.pop(span_id, None)
            if not siblings:
                self._children.pop(_parent_id(span), None)
            children = self._children.get(span_id)
            if children:
                self._out.append(Begun(span, None))
                todo.append((span_id, span))
                todo += [(child, None) for child in reversed(children)]
            else:
                self._finish(span)

    def _finish(self, span: ReadableSpan) -> None:
        self._out.append(span)
        self._done[_id(span)] = None
        _forget(self._done, MAX_KNOWN)

    def _is_over(self, span: ReadableSpan, since: float, now: float) -> bool:
        """Whether no more children of a submission are expected."""
        if now - since >= MAX_OPEN:
            return True
        trace = self._trace(_trace_id(span))
        # Where there are more tasks than the budget, some of them are sent when the run ends.
        if trace.held > 0 or trace.ended < trace.expected or trace.expected > self._budget:
            return False
        return now - max(since, trace.active) >= (LINGER if trace.expected else HOLD)

    def _trace(self, trace_id: int) -> _Trace:
        found = self._traces.get(trace_id)
        if found is None:
            found = self._traces[trace_id] = _Trace()
            _forget(self._traces, MAX_TRACES)
        return found


class OrderedShipper(Shipper[Any]):
    """A shipper to the application's tracer provider, in the order of :class:`SpanOrder`.

    Called by the recorder's thread only, which calls :meth:`release` in each of its steps.
    """

    def __init__(self, *args: Any, budget: int) -> None:
        super().__init__(*args)
        self.order = SpanOrder(budget)

    @property
    def waiting(self) -> int:
        """Spans that wait to be sent."""
        return super().waiting + self.order.waiting

    def put(self, items: Sequence[Any]) -> None:
        """Add spans that have ended."""
        self.order.add(items, monotonic())

    def release(self, *, everything: bool = False) -> None:
        """Send what waits for nothing more."""
        super().put(self.order.release(monotonic(), everything=everything))

    def begin_close(self) -> None:
        """Start to send all that is left."""
        self.release(everything=True)
        super().begin_close()


def _id(span: ReadableSpan) -> int:
    return 0 if span.context is None else span.context.span_id


def _trace_id(span: ReadableSpan) -> int:
    return 0 if span.context is None else span.context.trace_id


def _parent_id(span: ReadableSpan) -> int:
    """Id of the parent; 0 for a root."""
    parent = span.parent
    return 0 if parent is None or parent.span_id == _id(span) else parent.span_id


def _forget(known: dict[int, Any], limit: int) -> None:
    """Remove the oldest entry of what is known, where there are too many."""
    if len(known) > limit:
        del known[next(iter(known))]
