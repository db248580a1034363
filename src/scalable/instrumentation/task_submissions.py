"""Submissions of tasks: the carriers of the graphs that their code sends.

The recorder makes the span of such a submission from the carrier, which arrives with the graph: if
the worker dies the next moment, nothing is missing.
"""

from __future__ import annotations

from secrets import randbits
from time import time
from typing import Any, Final

from opentelemetry import baggage
from opentelemetry.context import Context, get_current
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    get_current_span,
    set_span_in_context,
)

from scalable.common.carriers import chosen_baggage, inject, is_suppressed
from scalable.facts.graphs import SUBMISSION_WINDOW, GraphRequest, TaskRequest
from scalable.facts.identity import SUBMISSION, Above, carried, carrier_of, lineage_text
from scalable.facts.protocol import (
    BLOCK,
    CATALOG,
    DASK_SPANS,
    ENVIRONMENT,
    LABELS,
    LAYERS,
    LINEAGE,
    OUTPUT,
    PARAMETERS,
    SENT,
    SUPPRESSED,
)

#: Seconds after which the carrier of a submission that goes on says when its last graph was sent.
RENEWAL: Final = 0.01
#: Submissions of one attempt that further graphs may join.
MAX_OPEN: Final = 16


class TaskSubmission:
    """One or more graphs of one line of a task's code that were sent in a row.

    Called by the threads of the task. Two threads that send at once make two submissions.

    Parameters
    ----------
    attempt : RunningAttempt
        The attempt whose code sends a graph.
    request : GraphRequest
        What it asks for.
    lineage : str
        The spans above the submission.
    context : opentelemetry.context.Context
        The code's.
    """

    __slots__ = ("_baggage", "_context", "_fields", "_is_suppressed", "_made", "_sent", "carrier")

    def __init__(self, attempt: Any, request: GraphRequest, lineage: str, context: Context) -> None:
        now = time() + attempt.ahead
        above = get_current_span(context).get_span_context()
        of_task = carried(attempt.carrier)
        ids = SpanContext(
            above.trace_id, randbits(64) or 1, False, above.trace_flags, above.trace_state
        )
        fields: dict[str, Any] = {"run": str(of_task.get("run"))}
        inject(fields, set_span_in_context(NonRecordingSpan(ids), context))
        fields[LINEAGE] = lineage_text([Above(SUBMISSION, ids.span_id)], lineage)
        if request.operation != "submit":
            fields[LAYERS] = 1
        if request.span is not None:
            fields[DASK_SPANS] = request.span
        self._is_suppressed = is_suppressed(context)
        if self._is_suppressed:
            fields[SUPPRESSED] = 1
        for name in (ENVIRONMENT, OUTPUT, PARAMETERS, CATALOG, BLOCK):
            if name in of_task:
                fields[name] = of_task[name]
        labels: Any = of_task.get(LABELS)
        if isinstance(labels, dict) and labels:
            fields[LABELS] = labels | chosen_baggage(labels, context)
        self._fields = fields
        self._sent = TaskRequest(request, attempt.key, above.span_id, now, now)
        self._context = context
        self._baggage = baggage.get_all(context)
        self._make(now)

    def takes(self, context: Context, now: float) -> bool:
        """Whether a graph sent now, in this context and under the same span, is part of it."""
        if not 0 <= now - self._sent.start < SUBMISSION_WINDOW:
            return False
        if context is not self._context:
            # Contexts are immutable.
            if self._baggage != baggage.get_all(context):
                return False
            if self._is_suppressed is not is_suppressed(context):
                return False
            self._context = context
        if now - self._made >= RENEWAL:
            self._make(now)
        return True

    def _make(self, now: float) -> None:
        """Make the carrier; all tasks of a graph have an equal one, and mostly those of others."""
        self._made = now
        sent = self._sent._replace(last=now)
        self.carrier = carrier_of({**self._fields, SENT: sent.fields()})


def carrier_of_task(attempt: Any, request: GraphRequest, lineage: str) -> str:
    """The carrier of a graph that the code of an attempt sends now.

    Single submits of one line, in a loop, are one submission, and so are the parts of a `map` in
    batches; any other call is one of its own.
    """
    context = get_current()
    if not request.may_join:
        return TaskSubmission(attempt, request, lineage, context).carrier
    found = attempt.submissions
    if found is None:
        found = attempt.submissions = {}
    key = (request.operation, request.site, request.span, lineage)
    submission = found.get(key)
    if submission is None or not submission.takes(context, time() + attempt.ahead):
        if len(found) >= MAX_OPEN:
            found.clear()
        submission = found[key] = TaskSubmission(attempt, request, lineage, context)
    return submission.carrier
