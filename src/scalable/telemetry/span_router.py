"""Chooses the spans that are sent over OTLP, within the span budget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext

from scalable.telemetry import semconv
from scalable.telemetry.budget import Group, SpanBudget
from scalable.telemetry.exported import exported_span
from scalable.telemetry.ledger.signals import Output
from scalable.telemetry.shipping import Shipper
from scalable.telemetry.spans import SpanFactory

_MAX_FOREIGN_TRACES: Final = 1_000


class SpanRouter:
    """Sends spans as the sampler and the span budget allow; called by the recorder's thread only.

    Without shippers it does nothing.
    """

    def __init__(self, run: str, root: SpanContext, resource: Resource, budget: int) -> None:
        self.shippers: list[Shipper[ReadableSpan]] = []
        self._budget = SpanBudget(run, budget, SpanFactory(resource))
        self._budget.parent(root)
        self._unsampled = 0
        #: Spans of user code sent, by trace.
        self._foreign: dict[int, int] = {}
        self._foreign_limit = max(1, budget)
        self._foreign_left_out = 0

    @property
    def summarized(self) -> int | None:
        """Spans in rollup spans; None if none are sent."""
        return self._budget.summarized if self.shippers else None

    def export(self, output: Output, opened: Sequence[SpanContext]) -> None:
        """Send spans of the ledger; attempts may be children of the submit spans `opened`."""
        if not self.shippers:
            return
        budget = self._budget
        for ids in opened:
            budget.parent(ids)
        for ids in output.parents:
            if not budget.is_sent(ids):
                budget.pin(ids)
        for trace_id, count in output.submitted.items():
            budget.expect(trace_id, count)
        # A marker represents the attempt that it links to.
        self._send(
            [
                marker
                for marker in output.running
                if _is_sampled(marker) and budget.pin(marker.links[0].context)
            ]
        )
        for batch in output.batches:
            self._send(self._chosen(batch.spans))

    def _chosen(self, spans: Sequence[ReadableSpan]) -> list[ReadableSpan]:
        """Return what is sent of one batch; the phases of an attempt follow it."""
        groups: list[Group] = []
        others: list[ReadableSpan] = []
        for span in spans:
            attributes = span.attributes or {}
            if not _is_sampled(span):
                self._unsampled += semconv.TASK_KEY in attributes
            elif semconv.TASK_KEY in attributes:
                groups.append(Group(span, ()))
            elif semconv.PHASE_NAME in attributes and groups:
                groups[-1] = Group(groups[-1].attempt, (*groups[-1].phases, span))
            else:
                others.append(span)
        return [*self._budget.take(groups), *others, *self._budget.forgotten()]

    def export_foreign(self, spans: Sequence[ReadableSpan]) -> None:
        """Send spans of user code in a worker process, whose attempts have not ended yet.

        Their attempt is sent because of them, within the budget of its trace; otherwise they are
        left out with it, and counted on the root span.
        """
        if not self.shippers:
            return
        chosen: list[ReadableSpan] = []
        ids_here = {span.context.span_id for span in spans if span.context is not None}
        for span in spans:
            context, parent = span.context, span.parent
            if context is None or not context.trace_flags.sampled:
                continue
            count = self._foreign.get(context.trace_id, 0)
            has_parent = (
                parent is None
                or parent.span_id in ids_here
                or self._budget.is_sent(parent)
                or self._budget.pin(parent)
            )
            if not has_parent or count >= self._foreign_limit:
                self._foreign_left_out += 1
                continue
            if len(self._foreign) >= _MAX_FOREIGN_TRACES:
                del self._foreign[next(iter(self._foreign))]
            self._foreign[context.trace_id] = count + 1
            self._budget.arrived(context)
            chosen.append(span)
        self._send(chosen)

    def settle(self) -> dict[str, int]:
        """The run ends: send what the budget held back; return the counts for the root span."""
        if not self.shippers:
            return {}
        self._send(self._budget.settle())
        counts = {
            semconv.SPANS_SENT: self._budget.sent,
            semconv.SPANS_SUMMARIZED: self._budget.summarized,
            semconv.SPANS_UNSAMPLED: self._unsampled,
            semconv.SPANS_FOREIGN_LEFT_OUT: self._foreign_left_out,
        }
        return {name: count for name, count in counts.items() if count or name.endswith(".sent")}

    def _send(self, spans: Sequence[ReadableSpan]) -> None:
        exported = list(map(exported_span, spans))
        for shipper in self.shippers:
            shipper.put(exported)


def _is_sampled(span: Any) -> bool:
    return span.context is None or span.context.trace_flags.sampled
