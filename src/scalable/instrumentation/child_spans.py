"""Notices that the code of a task opens spans which the process exports itself.

Imported where a process has a tracer provider of its own.
"""

from __future__ import annotations

from typing import Any

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.trace import get_current_span

from scalable.instrumentation.propagation import AttemptSpan


class ChildSpans(SpanProcessor):
    """Marks attempts with children; called by the threads that open spans."""

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Mark the attempt whose child begins, if that is sampled and so exported."""
        parent: Any = get_current_span(parent_context)
        if isinstance(parent, AttemptSpan) and span.get_span_context().trace_flags.sampled:
            parent.scalable_attempt.exports = True

    def on_end(self, span: ReadableSpan) -> None:
        """Do nothing."""

    def shutdown(self) -> None:
        """Do nothing."""

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Nothing waits."""
        return True
