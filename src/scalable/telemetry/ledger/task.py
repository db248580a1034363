"""One task as the ledger follows it."""

from __future__ import annotations

from typing import Any, Final

from opentelemetry.trace import INVALID_SPAN_CONTEXT, SpanContext

from scalable import facts
from scalable.telemetry import semconv
from scalable.telemetry.ledger.block import Block
from scalable.telemetry.ledger.layer import Layer
from scalable.telemetry.signals.spans import NOT_SENT, not_sent

_NOT_SENT: Final = not_sent(INVALID_SPAN_CONTEXT)


class Task:
    """One task as long as the scheduler knows it.

    Attributes that few tasks need are of the class until they change, which keeps a task that only
    succeeds small.
    """

    #: The tasks whose results it takes, if links are wanted.
    dependencies: tuple[str, ...] = ()
    #: `function`, `placement`, `reopens` or `recomputed` is set: its lines have more fields.
    special = False
    #: Name of its function, if it differs from that of the task.
    function: str | None = None
    #: What it requested, as attributes.
    placement: dict[str, Any] | None = None
    #: Attributes of its attempts' spans, from baggage.
    labels: dict[str, Any] | None = None
    #: Number of its attempts that started.
    attempt = 0
    #: Dask's number of the last attempt that started.
    run_id = -1
    #: Span of that attempt.
    ids: SpanContext | None = None
    running = False
    start = 0.0
    worker = ""
    #: Its final state, unless it will run again.
    final: str | None = None
    #: The final state that no longer holds; written on its next line.
    reopens: str | None = None
    #: It succeeded, and its result was lost.
    recomputed = False
    #: It left its worker for a reason that is in the next fact.
    cancelled_by: facts.Unassigned | None = None
    #: Its attempt ended with its worker, which closed on request.
    left: facts.Unassigned | None = None
    #: The layer of its graph, if that may have a span.
    layer: Layer | None = None
    #: The block of Dask's that it was submitted in.
    block: Block | None = None
    #: Its last attempt that was taken back before it was known whether it had started.
    taken_back: facts.Unassigned | None = None

    def __init__(self, key: str, shown: str, name: str, parent: SpanContext | None) -> None:
        self.key = key
        #: The key in the record; it differs if the key contains a secret.
        self.shown = shown
        self.name = name
        #: Parent span of its attempts; None: the run's root.
        self.parent = parent

    def finish(self, state: str) -> None:
        """Set its final state."""
        self.final = state
        if self.layer is not None:
            self.layer.ended(state)
        if self.block is not None:
            self.block.ended(state)

    @property
    def no_span(self) -> SpanContext | None:
        """Ids for events that belong to no span."""
        return _NOT_SENT if self.parent is not None and self.parent[3] & NOT_SENT else None

    def root(self, root: SpanContext) -> SpanContext | None:
        """Ids of the run's root for a failure that belongs to no attempt, where they differ."""
        return None if self.no_span is None else not_sent(root)

    def reopen(self) -> None:
        """Undo its final state."""
        if self.layer is not None and self.final is not None:
            self.layer.reopened(self.final)
        if self.block is not None and self.final is not None:
            self.block.reopened(self.final)
        self.special = True
        self.reopens = self.final
        self.recomputed = self.final == "succeeded"
        self.final = None

    def stay_succeeded(self) -> None:
        """Its result was lost and is there again, or not needed any more."""
        self.finish("succeeded")
        self.reopens, self.recomputed = None, False

    def attributes(self, state: str) -> dict[str, Any]:
        """Attributes of its next line."""
        attributes: dict[str, Any] = {
            semconv.RECORD: "task",
            semconv.TASK_KEY: self.shown,
            semconv.TASK_NAME: self.name,
            semconv.TASK_STATE: state,
            semconv.TASK_ATTEMPT: self.attempt if state != "submitted" else 0,
        }
        if self.special:
            if self.function is not None:
                attributes[semconv.FUNCTION_NAME] = self.function
            if self.placement is not None:
                attributes.update(self.placement)
            if self.reopens is not None:
                attributes[semconv.TASK_REOPENS] = self.reopens
                self.reopens = None
            if self.recomputed:
                attributes[semconv.TASK_RECOMPUTED] = True
        return attributes
