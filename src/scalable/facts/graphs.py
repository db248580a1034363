"""What a program or a task asks for when it sends a graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from scalable.facts.identity import task_id
from scalable.facts.protocol import DASK_SPANS, SENT

#: Graphs of one line within this time, under one parent, share a span: to a person a loop of 10,000
#: `client.submit` calls is one submission.
SUBMISSION_WINDOW: Final = 1.0
#: Characters of an output that a carrier names.
MAX_OUTPUT: Final = 200


class CallSite(NamedTuple):
    """A line of the user's code."""

    #: Module and qualified name, as ``__main__.main``.
    function: str
    file: str
    line: int


class DaskSpan(NamedTuple):
    """Where a graph is in the user's ``distributed.span()``: outermost first."""

    names: tuple[str, ...]
    ids: tuple[str, ...]


class GraphRequest(NamedTuple):
    """One call that sends a graph."""

    #: ``submit``, ``map``, ``compute``, ``persist`` or ``get``.
    operation: str
    #: Keys of the tasks, or names of the collections, whose results are asked for; not all of many.
    outputs: tuple[Any, ...]
    #: How many there are.
    total: int
    #: Where the user's code asks for it; None if no frame of it is on the stack.
    site: CallSite | None = None
    span: DaskSpan | None = None
    #: The call sends several graphs, of which this is one.
    is_part: bool = False

    @property
    def may_join(self) -> bool:
        """Whether it may be a part of a submission that has begun: in a loop, or in batches."""
        return self.is_part or self.operation == "submit"


class TaskRequest(NamedTuple):
    """What a task asks for, as the carrier of its graphs says."""

    request: GraphRequest
    #: The task that sent it, and the span that was current there.
    task: str
    parent: int
    #: Times of the first graph, and of the last one so far, on the scheduler's clock.
    start: float
    last: float

    def fields(self) -> list[Any]:
        """The same as plain values, without Dask's span, which a carrier has as well."""
        request = self.request
        # The keys of a map have one name.
        outputs = request.outputs[:1] if request.operation == "map" else request.outputs
        return [
            self.task,
            f"{self.parent:016x}",
            self.start,
            self.last,
            request.operation,
            request.is_part,
            request.total,
            [task_id(output)[:MAX_OUTPUT] for output in outputs],
            request.site,
        ]


def task_request_of(carrier: Mapping[str, Any]) -> TaskRequest | None:
    """What a task asks for with a carrier; None if it is not a task's, or cannot be read."""
    try:
        task, parent, start, last, operation, is_part, total, outputs, site = carrier[SENT]
        span = carrier.get(DASK_SPANS)
        request = GraphRequest(
            str(operation),
            tuple(map(str, outputs)),
            int(total),
            None if site is None else CallSite(str(site[0]), str(site[1]), int(site[2])),
            None if span is None else DaskSpan(*(tuple(map(str, part)) for part in span)),
            bool(is_part),
        )
        return TaskRequest(request, str(task), int(parent, 16), float(start), float(last))
    except (KeyError, TypeError, ValueError, IndexError):  # a peer may send anything
        return None
