"""One layer of a graph as the ledger follows it."""

from __future__ import annotations

from collections import Counter

from opentelemetry.trace import SpanContext

from scalable.facts.identity import Above
from scalable.telemetry.signals.rollups import Rollup


class Layer:
    """The tasks of one submission that Dask has in one group, such as a step of a dataframe.

    It has a span if it had two tasks when its first attempt ended. The span is sent when all tasks
    have ended; if some of them run again later, they have a further span, of another `number`.
    """

    __slots__ = (
        *("group", "ids", "is_used", "lineage", "name", "number", "open", "parent", "rollup"),
        *("states", "task"),
    )

    def __init__(
        self,
        group: str,
        name: str,
        parent: SpanContext,
        lineage: tuple[Above, ...] = (),
        task: str = "",
    ) -> None:
        #: Dask's name of the group, and of its tasks.
        self.group = group
        self.name = name
        #: Span of the submission.
        self.parent = parent
        #: The task that submitted the graph, as it is recorded, and the spans above its tasks, the
        #: nearest first; empty for graphs of the program.
        self.task = task
        self.lineage = lineage
        self.number = 0
        #: Its own span, once an attempt has it as its parent.
        self.ids: SpanContext | None = None
        #: Whether it has a span; None until an attempt asks for it.
        self.is_used: bool | None = None
        #: Tasks that have not ended.
        self.open = 0
        #: Tasks by their final state, and attempts that were retried or lost.
        self.states: Counter[str] = Counter()
        #: Sums of its attempts.
        self.rollup = Rollup(parent)

    @property
    def tasks(self) -> int:
        """Tasks that it has, or had since its last span was sent."""
        states = self.states
        return self.open + states["succeeded"] + states["failed"] + states["cancelled"]

    def ended(self, state: str) -> None:
        """A task has its final state."""
        self.open -= 1
        self.states[state] += 1

    def reopened(self, state: str) -> None:
        """A task that had a final state will run again."""
        self.open += 1
        if self.states[state]:
            self.states[state] -= 1

    def begin_again(self) -> None:
        """Its span was sent: what comes now belongs to the next one."""
        self.number += 1
        self.ids = None
        self.states.clear()
        self.rollup = Rollup(self.parent)
