"""Submissions of tasks: what the carriers of their graphs say, put together."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from opentelemetry.trace import SpanContext

from scalable import facts
from scalable.facts.graphs import SUBMISSION_WINDOW, TaskRequest
from scalable.telemetry.ledger.carriers import Carried, CarrierReader

#: Seconds that the scheduler may take longer with a graph than with the one before.
LATE: Final = 1.0
#: Resolution of the time of the last task, in seconds.
RESOLUTION: Final = 0.1
#: Complete submissions that are remembered, so that none is complete twice.
MAX_DONE: Final = 20_000


class TaskSubmission(NamedTuple):
    """A submission of a task."""

    ids: SpanContext
    #: What was asked for, and when; the names are as the task gave them.
    sent: TaskRequest
    #: Graphs that the scheduler received.
    graphs: int
    #: When the scheduler received the last graph or task.
    arrived: float
    #: Attributes from baggage.
    labels: Mapping[str, Any]
    #: Name of its first task, and whether single submits were of others, too.
    name: str = ""
    others: bool = False


class TaskGraphs:
    """Follows the submissions of one run's tasks; called by the recorder's thread only.

    `announce` is called with the first sign of each.
    """

    def __init__(self, carriers: CarrierReader, announce: Callable[[Carried], None]) -> None:
        self._carriers = carriers
        self._announce = announce
        #: Those that are not complete, by span id.
        self._open: dict[int, TaskSubmission] = {}
        self._done: OrderedDict[int, None] = OrderedDict()

    @property
    def pending(self) -> bool:
        """Some submission is not complete."""
        return bool(self._open)

    def received(self, fact: facts.TaskGraph) -> None:
        """The scheduler received a graph."""
        self.note(self._carriers.read(fact.carrier), fact.time, graphs=1)

    def note(self, found: Carried, time: float, *, graphs: int = 0, name: str = "") -> None:
        """The scheduler received a graph at `time`, or a task with its carrier and its name."""
        ids, sent = found.parent, found.sent
        if ids is None or sent is None or ids.span_id in self._done:
            return
        known = self._open.get(ids.span_id)
        if known is None:
            labels = found.labels or {}
            self._open[ids.span_id] = TaskSubmission(ids, sent, graphs, time, labels, name)
            self._announce(found)
        elif graphs or name != known.name or time - known.arrived >= RESOLUTION:
            if sent.last > known.sent.last:
                known = known._replace(sent=known.sent._replace(last=sent.last))
            differs = bool(name and known.name) and name != known.name
            self._open[ids.span_id] = known._replace(
                graphs=known.graphs + graphs,
                arrived=time,
                name=known.name or name,
                others=known.others or (differs and sent.request.operation == "submit"),
            )

    def complete(self, now: float) -> list[TaskSubmission]:
        """Return the complete submissions, each once; all is known until the time `now`."""
        complete = [
            each
            for each in self._open.values()
            if not each.sent.request.may_join or now - each.arrived >= SUBMISSION_WINDOW + LATE
        ]
        for each in complete:
            span_id = each.ids.span_id
            del self._open[span_id]
            self._done[span_id] = None
            if len(self._done) > MAX_DONE:
                self._done.popitem(last=False)
        return complete
