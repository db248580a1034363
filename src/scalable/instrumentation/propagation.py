"""Which run and which span a task belongs to, carried from client to scheduler to worker.

In the process of an instrumented client, and in every worker process, graphs are annotated as they
are sent. The annotation is the *carrier*: the run's id and the OTel context (in the form of the
configured propagator) under which the tasks are to appear, in one text. On the worker, the code of
a task runs in that context, with its attempt as the current span.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Final, Protocol

from distributed import Client
from opentelemetry.context import Context
from opentelemetry.trace import (
    INVALID_SPAN,
    INVALID_SPAN_CONTEXT,
    NonRecordingSpan,
    SpanContext,
    get_current_span,
    set_span_in_context,
)

from scalable.common.forks import unlocked_in_forks
from scalable.common.guard import Guard
from scalable.common.otel_environment import propagate_module
from scalable.facts.identity import attempt_span_id, carried, carrier_of
from scalable.facts.protocol import ANNOTATION, PLACEMENT
from scalable.instrumentation import dask_compat, otel_compat

#: Carriers whose context is kept at hand: the tasks of one submission have equal ones.
_MAX_CONTEXTS: Final = 1024


class RunningAttempt(Protocol):
    """What this room needs to know of an attempt that is about to run."""

    run_id: int
    carrier: str | None
    #: Takes what the code of the attempt records.
    outbox: Any

    @property
    def key(self) -> str:
        """The task."""
        ...


#: The attempt whose code is running: set in the thread (or coroutine) that runs it.
current_attempt: Final[ContextVar[RunningAttempt | None]] = ContextVar(
    "scalable_current_attempt", default=None
)

_contexts: Final[dict[str, Context]] = {}
#: The key under which a context keeps its span, found by asking.
_SPAN_KEY: Final = next(iter(set_span_in_context(INVALID_SPAN, Context())))

#: What the graph that is being sent asks for, set by the client that sends it; see
#: :data:`~scalable.facts.PLACEMENT`.
placement: Final[ContextVar[str | None]] = ContextVar("scalable_placement", default=None)

#: Attribute of a client: makes the carrier of the next graph.
SOURCE_ATTRIBUTE: Final = "_scalable_carrier_source"
#: Attribute of a client: told of each graph that it has sent.
SENT_ATTRIBUTE: Final = "_scalable_graph_sent"

#: Errors of this room, in any run of the process.
guard: Final = Guard()

_lock = unlocked_in_forks(threading.Lock())
_users = 0
_original: Callable[..., Any] | None = None
_original_truncate: Callable[..., Any] | None = None


class AttemptSpan(NonRecordingSpan):
    """The span of an attempt, as the code of the task sees it.

    Made in the thread of each task, where mostly nobody asks for it: its ids are computed only when
    somebody does. The span itself is made by the recorder, under the same ids.
    """

    #: The attempt, and the context that its task came with: set where it is made.
    scalable_attempt: RunningAttempt
    parent: Context

    # The base class keeps a span context in this attribute.
    @property
    def _context(self) -> SpanContext:
        return self.get_span_context()

    def get_span_context(self) -> SpanContext:
        """Ids of the attempt, with flags and state of the trace that its task came with."""
        attempt = self.scalable_attempt
        carrier = attempt.carrier
        parent = get_current_span(self.parent).get_span_context()
        if carrier is None or not parent.is_valid:
            return INVALID_SPAN_CONTEXT
        run = str(carried(carrier).get("run"))
        span_id = attempt_span_id(run, attempt.key, attempt.run_id)
        return SpanContext(parent.trace_id, span_id, False, parent.trace_flags, parent.trace_state)


def attempt_of(span: Any) -> RunningAttempt | None:
    """The attempt below which a span stands, also where only OpenTelemetry's context travelled."""
    return getattr(span, "scalable_attempt", None) or current_attempt.get()


def run_of(attempt: RunningAttempt | None) -> str | None:
    """Id of the run that an attempt belongs to; None: of none, or unknown."""
    return carried(attempt.carrier).get("run") if attempt is not None else None


def enter(attempt: RunningAttempt) -> None:
    """Let an attempt be the current span, and its baggage the current one, in this context.

    Nothing undoes it: called where Dask has made a context for this execution alone.
    """
    # In the thread of every task, between Dask's code and the user's, where each function that is
    # called has to be fetched into the processor's caches: as few as possible.
    carrier = attempt.carrier
    if carrier is not None:
        try:
            parent = _contexts.get(carrier)
        except TypeError:  # something unhashable: not ours
            parent = Context()
        if parent is None:
            parent = _extract(carrier)
        span: AttemptSpan = _new(AttemptSpan)
        span.scalable_attempt = attempt
        span.parent = parent
        _attach(Context({**parent, _SPAN_KEY: span}))
    elif current_attempt.get() is not None:
        # Dask made the context from one in which another task has seceded.
        _attach(Context())
    current_attempt.set(attempt)


_new: Final[Any] = object.__new__
_attach: Final = otel_compat.attach_context()


def _extract(carrier: str) -> Context:
    if len(_contexts) >= _MAX_CONTEXTS:
        _contexts.clear()
    found = _contexts[carrier] = propagate_module().extract(carried(carrier), Context())
    return found


def set_source(
    client: Client,
    source: Callable[[], str | None] | None,
    sent: Callable[[], None] | None = None,
) -> None:
    """Let `source` make the carrier of every graph that `client` sends; None takes it back.

    `sent` is told of each graph after it was sent.
    """
    if source is None:
        client.__dict__.pop(SOURCE_ATTRIBUTE, None)
        client.__dict__.pop(SENT_ATTRIBUTE, None)
    else:
        setattr(client, SOURCE_ATTRIBUTE, source)
        if sent is not None:
            setattr(client, SENT_ATTRIBUTE, sent)


def install() -> None:
    """Annotate graphs in this process, and let attempts see what they raise before Dask cuts it.

    Called by any thread; counted, undone by :func:`remove`.
    """
    global _users, _original, _original_truncate
    with _lock:
        _users += 1
        if _users == 1:
            _original = dask_compat.graph_to_futures()
            dask_compat.set_graph_to_futures(_annotating(_original))
            _original_truncate = dask_compat.truncate_exception()
            dask_compat.set_truncate_exception(_showing(_original_truncate))


def remove() -> None:
    """Undo one :func:`install`; the last one gives Dask's own functions back."""
    global _users, _original, _original_truncate
    with _lock:
        if _users == 0:
            return
        _users -= 1
        if _users == 0 and _original is not None:
            # Somebody may have wrapped the method after us: theirs stays, ours finds no carrier.
            if getattr(dask_compat.graph_to_futures(), "_scalable", False):
                dask_compat.set_graph_to_futures(_original)
            _original = None
        if _users == 0 and _original_truncate is not None:
            if getattr(dask_compat.truncate_exception(), "_scalable", False):
                dask_compat.set_truncate_exception(_original_truncate)
            _original_truncate = None


def _annotating(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def graph_to_futures(self: Client, *args: Any, **kwargs: Any) -> Any:
        try:
            carrier = _carrier_of(self)
        except BaseException as error:
            guard.failed("carrier", error)
            carrier = None
        if carrier is None:
            return original(self, *args, **kwargs)
        with dask_compat.annotate(ANNOTATION, carrier):
            futures = original(self, *args, **kwargs)
        sent = getattr(self, SENT_ATTRIBUTE, None)
        if sent is not None:
            sent()
        return futures

    graph_to_futures.__dict__["_scalable"] = True
    return graph_to_futures


def _showing(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def truncate_exception(e: BaseException, *args: Any, **kwargs: Any) -> Any:
        short = original(e, *args, **kwargs)
        if short is not e:
            try:
                describe = getattr(current_attempt.get(), "describe", None)
                if describe is not None:
                    describe(e)
            except BaseException as error:
                guard.failed("describe", error)
        return short

    truncate_exception.__dict__["_scalable"] = True
    return truncate_exception


def _carrier_of(client: Client) -> str | None:
    attempt = current_attempt.get()
    if attempt is not None and attempt.carrier is not None:
        # The parent of what a task submits is the span that is current there: one that its code
        # has opened, or the attempt.
        fields = {"run": run_of(attempt)}
        propagate_module().inject(fields)
        carrier: str | None = carrier_of(fields)
    else:
        source = getattr(client, SOURCE_ATTRIBUTE, None)
        carrier = source() if source is not None else None
    asked = placement.get()
    if carrier is not None and asked is not None:
        carrier = carrier_of({**carried(carrier), PLACEMENT: asked})
    return carrier
