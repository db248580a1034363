"""Chooses the spans that are sent over OTLP, within the span budget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext

from scalable.telemetry import semconv
from scalable.telemetry.export.exported import exported_span
from scalable.telemetry.export.shipping import Shipper
from scalable.telemetry.ledger.relay_decoder import attempt_of
from scalable.telemetry.ledger.signals import Output
from scalable.telemetry.signals.spans import SpanFactory
from scalable.telemetry.spans.budget import Group, SpanBudget


class SpanRouter:
    """Sends spans as the sampler and the span budget allow; called by the recorder's thread only.

    Without shippers it does nothing.
    """

    def __init__(self, run: str, root: SpanContext, resource: Resource, budget: int) -> None:
        self.shippers: list[Shipper[ReadableSpan]] = []
        self._budget = SpanBudget(run, budget, SpanFactory(resource))
        if root.trace_flags.sampled:
            self._budget.parent(root)
        self._unsampled = 0

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
            if ids.trace_flags.sampled:
                budget.opened(ids)
        for ids, lineage in output.parents:
            if not ids.trace_flags.sampled:
                continue
            if lineage:
                budget.learn(ids.trace_id, lineage)
            else:
                budget.opened(ids)
        for trace_id, count in output.submitted.items():
            budget.expect(trace_id, count)
        for trace_id, span_id in output.exporting:
            budget.exports(trace_id, span_id)
        self._send([*filter(self._is_promised, output.running), *budget.ready()])
        for batch in output.batches:
            self._send(self._chosen(batch.spans))

    def send(self, spans: Sequence[ReadableSpan]) -> None:
        """Send spans of the run itself."""
        if self.shippers:
            self._send(self._chosen(spans))

    def is_sent(self, ids: SpanContext) -> bool:
        """Whether the span of an attempt was sent, or will be for certain."""
        return bool(self.shippers) and self._budget.is_sent(ids)

    def _is_promised(self, marker: ReadableSpan) -> bool:
        """Whether the attempt that a marker represents, and links to, will be sent."""
        parent: Any = marker.parent
        return _is_sampled(marker) and self._budget.pin(
            marker.links[0].context,
            parent.span_id,
            name=str((marker.attributes or {}).get(semconv.TASK_NAME, "")),
            at=marker.start_time or 0,
        )

    def _chosen(self, spans: Sequence[ReadableSpan]) -> list[ReadableSpan]:
        """Return what is sent of one batch; the phases of an attempt follow it."""
        budget = self._budget
        groups: list[Group] = []
        nested: list[ReadableSpan] = []
        others: list[ReadableSpan] = []
        for span in spans:
            attributes = span.attributes or {}
            if not _is_sampled(span):
                self._unsampled += semconv.TASK_KEY in attributes
            elif semconv.TASK_KEY in attributes:
                groups.append(Group(span, ()))
            elif semconv.PHASE_NAME in attributes and groups:
                groups[-1] = Group(groups[-1].attempt, (*groups[-1].phases, span))
            elif semconv.SUBMIT_TASK in attributes:
                nested.append(span)
            else:
                budget.arrived(span)
                others.append(budget.with_known_links(span) if span.links else span)
        chosen = budget.take(groups)
        return [*chosen, *budget.take_nested(nested), *others, *budget.forgotten()]

    def export_foreign(self, spans: Sequence[ReadableSpan]) -> None:
        """Send spans of user code in a worker process, with the attempts that they belong to.

        Those of attempts that are left out are left out as well, and counted on the root span.
        """
        if self.shippers:
            sampled = [span for span in spans if span.context is not None and _is_sampled(span)]
            self._send(self._budget.take_user_spans(sampled, attempt_of))

    def is_expected(self, trace_id: int, span_id: int) -> bool:
        """Whether a span was sent, or will be, as far as that is decided."""
        return bool(self.shippers) and self._budget.is_expected(trace_id, span_id)

    def has_span(self, log: ReadableLogRecord) -> bool:
        """Whether the span of a log record is sent, as far as that is decided; True for none."""
        record: Any = log.log_record
        if not self.shippers or semconv.TASK_KEY not in (record.attributes or {}):
            return True
        return not record.span_id or self._budget.is_expected(record.trace_id, record.span_id)

    def settle(self) -> dict[str, int]:
        """The run ends: send what the budget held back; return the counts for the root span."""
        if not self.shippers:
            return {}
        self._send(self._budget.settle())
        counts = {
            semconv.SPANS_SENT: self._budget.sent,
            semconv.SPANS_SUMMARIZED: self._budget.summarized,
            semconv.SPANS_UNSAMPLED: self._unsampled,
            semconv.SPANS_FOREIGN_LEFT_OUT: self._budget.user_spans_left_out,
            semconv.SPANS_NESTED_LEFT_OUT: self._budget.nested.left_out,
        }
        return {name: count for name, count in counts.items() if count or name.endswith(".sent")}

    def _send(self, spans: Sequence[ReadableSpan]) -> None:
        exported = list(map(exported_span, spans))
        for shipper in self.shippers:
            shipper.put(exported)


def _is_sampled(span: Any) -> bool:
    return span.context is None or span.context.trace_flags.sampled
