"""Carries the run and the span that a task belongs to from client to scheduler to worker.

In the process of an instrumented client and in every worker process, graphs are annotated as they
are sent. The annotation is the *carrier*, one text: the run's id and the OpenTelemetry context (see
:mod:`scalable.common.carriers`). On the worker the code of a task runs in that context, with its
attempt as the current span.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from inspect import currentframe
from types import FrameType
from typing import Any, Final

from distributed import Client
from opentelemetry.context import Context, attach
from opentelemetry.trace import (
    INVALID_SPAN_CONTEXT,
    SpanContext,
    get_current_span,
    set_span_in_context,
)

from scalable.common.carriers import extract, inject, suppressing
from scalable.common.guard import Guard
from scalable.facts.graphs import GraphRequest
from scalable.facts.identity import (
    ATTEMPT,
    EXPORTED,
    USER_SPAN,
    Above,
    carried,
    carrier_of,
    lineage_text,
)
from scalable.facts.protocol import (
    ANNOTATION,
    LABELS,
    LINEAGE,
    PARAMETERS,
    PLACEMENT,
    SUPPRESSED,
)
from scalable.instrumentation import dask_compat
from scalable.instrumentation.attempt_span import AttemptSpan, RunningAttempt, run_of
from scalable.instrumentation.call_sites import request_of
from scalable.instrumentation.dask_compat import is_graph
from scalable.instrumentation.task_submissions import carrier_of_task

#: Contexts kept by carrier: all tasks of one submission have the same.
_MAX_CONTEXTS: Final = 1024


#: The attempt whose code is running: set in the thread (or coroutine) that runs it.
current_attempt: Final[ContextVar[RunningAttempt | None]] = ContextVar(
    "scalable_current_attempt", default=None
)

_contexts: Final[dict[str, Context]] = {}
#: Called with each carrier that is new in this process, before the code of its tasks runs.
carrier_listeners: Final[list[Callable[[str], None]]] = []

#: What the graph that is being sent asks for, set by the client that sends it; see
#: :data:`~scalable.facts.protocol.PLACEMENT`.
placement: Final[ContextVar[str | None]] = ContextVar("scalable_placement", default=None)

#: Attributes of a client: makes the carrier of the next graph; called after each graph was sent.
SOURCE_ATTRIBUTE: Final = "_scalable_carrier_source"
SENT_ATTRIBUTE: Final = "_scalable_graph_sent"

#: Called in the thread of a task, before its code, when a run asks for other parameters than those
#: of failed attempts.
on_parameters: Final[list[Callable[[], None]]] = []

#: Errors of this module, in any run of the process.
guard: Final = Guard()


def ids_of(attempt: RunningAttempt | None) -> SpanContext:
    """Ids of the span of an attempt; invalid without one, and without a run."""
    carrier = attempt.carrier if attempt is not None else None
    if attempt is None or carrier is None:
        return INVALID_SPAN_CONTEXT
    return AttemptSpan(attempt, _contexts.get(carrier) or _extract(carrier)).get_span_context()


def attempt_of(span: Any) -> RunningAttempt | None:
    """The attempt of a span, also where only OpenTelemetry's context was passed on."""
    return getattr(span, "scalable_attempt", None) or current_attempt.get()


def labels_of(attempt: RunningAttempt | None) -> dict[str, Any]:
    """Entries of baggage that are attributes of the attempt's span."""
    labels: Any = carried(attempt.carrier).get(LABELS) if attempt is not None else None
    return labels if isinstance(labels, dict) else {}


def enter(attempt: RunningAttempt) -> None:
    """Make an attempt the current span, and its baggage the current one, in this context.

    It is not undone: Dask has made a context for this execution alone.
    """
    carrier = attempt.carrier
    if carrier is not None:
        try:
            parent = _contexts.get(carrier)
        except TypeError:  # not hashable, so not a carrier
            parent = Context()
        if parent is None:
            parent = _extract(carrier)
        attach(set_span_in_context(AttemptSpan(attempt, parent), parent))
    elif current_attempt.get() is not None:
        # Dask copied this context from that of a task that has seceded.
        attach(Context())
    current_attempt.set(attempt)


def _extract(carrier: str) -> Context:
    if len(_contexts) >= _MAX_CONTEXTS:
        _contexts.clear()
    if PARAMETERS in carried(carrier):
        for begin in list(on_parameters):
            begin()
    for listener in list(carrier_listeners):
        listener(carrier)
    found = _contexts[carrier] = extract(carried(carrier))
    if SUPPRESSED in carried(carrier):
        found = _contexts[carrier] = suppressing(found)
    return found


def set_source(
    client: Client,
    source: Callable[[GraphRequest], str | None] | None,
    sent: Callable[[], None] | None = None,
) -> None:
    """Let `source` make the carrier of each graph that `client` sends; None removes it.

    `sent` is called after each graph.
    """
    for name, function in ((SOURCE_ATTRIBUTE, source), (SENT_ATTRIBUTE, sent)):
        if source is None or function is None:
            client.__dict__.pop(name, None)
        else:
            setattr(client, name, function)


def install() -> None:
    """Annotate graphs in this process, and describe exceptions before Dask truncates them.

    Called by any thread; counted, undone by :func:`remove`.
    """
    _graphs.apply()
    _truncation.apply()


def remove() -> None:
    """Undo one :func:`install`; the last one restores Dask's own functions."""
    _graphs.undo()
    _truncation.undo()


def _annotating(original: Callable[..., Any]) -> Callable[..., Any]:
    def send_to_scheduler(self: Client, message: Any) -> Any:
        if not is_graph(message):
            return original(self, message)
        carrier = None
        try:
            if not _has_carrier(message):
                carrier = _carrier_of(self, currentframe(), message)
            if carrier is not None:
                dask_compat.annotate_graph(message, ANNOTATION, carrier)
        except BaseException as error:
            guard.failed("carrier", error)
        result = original(self, message)
        sent = getattr(self, SENT_ATTRIBUTE, None) if carrier is not None else None
        if sent is not None:
            sent()
        return result

    return send_to_scheduler


def _describing(original: Callable[..., Any]) -> Callable[..., Any]:
    def truncate_exception(e: BaseException, *args: Any, **kwargs: Any) -> Any:
        short = original(e, *args, **kwargs)
        try:
            describe = getattr(current_attempt.get(), "describe", None)
            if describe is not None:
                describe(e, is_shortened=short is not e)
        except BaseException as error:
            guard.failed("describe", error)
        return short

    return truncate_exception


_graphs: Final = dask_compat.graph_patch(_annotating)
_truncation: Final = dask_compat.truncation_patch(_describing)


def _lineage(attempt: RunningAttempt) -> str:
    """The spans above a submission that the code of an attempt makes now.

    The recorder sends a span only with those above it, and may not have received them yet.
    """
    current: Any = get_current_span()
    ids = current.get_span_context()
    if isinstance(current, AttemptSpan):
        attempt = current.scalable_attempt
    above: list[Above] = []
    if not isinstance(current, AttemptSpan):
        # Spans that are relayed are marked; others are exported by this process.
        kind = USER_SPAN if hasattr(current, "scalable_attempt") else EXPORTED
        above.append(Above(kind, ids.span_id))
    own = ids_of(attempt)
    if own.trace_id != ids.trace_id:
        return lineage_text(above, "")
    above.append(Above(ATTEMPT, own.span_id))
    return lineage_text(above, str(carried(attempt.carrier).get(LINEAGE) or ""))


def _has_carrier(message: Mapping[str, Any]) -> bool:
    """Whether a graph has its carrier: a client that is connecting sends its messages again."""
    return "run" in carried(dask_compat.graph_annotations(message).get(ANNOTATION))


def _carrier_of(client: Client, frame: FrameType | None, message: Mapping[str, Any]) -> str | None:
    attempt = current_attempt.get()
    if attempt is not None and attempt.carrier is not None:
        # The parent of what a task submits is the span that is current there: one that its code
        # has opened, or the attempt.
        carrier: str | None
        if get_current_span().get_span_context().is_valid:
            carrier = carrier_of_task(attempt, request_of(frame, message), _lineage(attempt))
        else:
            fields: dict[str, Any] = {"run": run_of(attempt)}
            inject(fields)
            carrier = carrier_of(fields)
    else:
        source = getattr(client, SOURCE_ATTRIBUTE, None)
        carrier = source(request_of(frame, message)) if source is not None else None
    asked = placement.get()
    if carrier is not None and asked is not None:
        carrier = carrier_of({**carried(carrier), PLACEMENT: asked})
    return carrier
