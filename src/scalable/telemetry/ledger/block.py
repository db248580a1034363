"""The span of a block of ``distributed.span()`` as the ledger follows it."""

from __future__ import annotations

from collections import Counter

from opentelemetry.trace import SpanContext

from scalable.telemetry.signals.dask_spans import OpenedSpan


class Block:
    """The tasks that were submitted in a block of code, or in several that share a span.

    Its counts include those of the blocks within it that have ended.
    """

    __slots__ = (
        "attempts",
        "changed",
        "is_exact",
        "last",
        "left",
        "links",
        "open",
        "opened",
        "start",
        "states",
        "within",
    )

    def __init__(self, opened: OpenedSpan, start: float, *, is_exact: bool) -> None:
        self.opened = opened
        #: Times of its first submission and of its last end so far.
        self.start = self.last = start
        #: False if a recorder that died may have counted some of its tasks.
        self.is_exact = is_exact
        #: Tasks that have not ended, and blocks within it whose spans were not sent.
        self.open = self.within = 0
        #: Tasks by their final state, and attempts that were retried or lost.
        self.states: Counter[str] = Counter()
        self.attempts = 0
        #: Blocks that it represents, once they have been left.
        self.left = 0
        #: When something of it was last seen to change; None: since the last step.
        self.changed: float | None = None
        #: Spans that belong to it and have a span of the caller as their parent.
        self.links: dict[int, SpanContext] = {}

    @property
    def tasks(self) -> int:
        """Tasks that were submitted in it."""
        states = self.states
        return self.open + states["succeeded"] + states["failed"] + states["cancelled"]

    def submitted(self) -> None:
        """A task was submitted."""
        self.open += 1
        self.changed = None

    def ended(self, state: str) -> None:
        """A task has its final state."""
        self.open -= 1
        self.states[state] += 1
        self.changed = None

    def reopened(self, state: str) -> None:
        """A task that had a final state will run again."""
        self.open += 1
        self.states[state] -= 1

    def attempt(self, state: str, stop: float) -> None:
        """An attempt has ended."""
        self.attempts += 1
        self.last = max(self.last, stop)
        self.changed = None
        if state in ("retried", "lost"):
            self.states[state] += 1

    def include(self, inner: Block) -> None:
        """A block within it has ended."""
        self.within -= 1
        self.states.update(inner.states)
        self.attempts += inner.attempts
        self.open += inner.open
        self.start, self.last = min(self.start, inner.start), max(self.last, inner.last)
        self.is_exact = self.is_exact and inner.is_exact
