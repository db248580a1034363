"""Submissions of the client: graphs in a row, each with the OTel context for its tasks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from time import time
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Self, TypeAlias

from opentelemetry import baggage, trace
from opentelemetry.context import Context, get_current
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState

from scalable.common.carriers import inject
from scalable.facts.identity import carrier_of
from scalable.telemetry.ids import SecureIdGenerator, random_flag
from scalable.telemetry.spans import Sampling, sampled_like, span_context

#: Graphs of one line within this time, under one parent, share a span: to a person a loop of 10,000
#: `client.submit` calls is one submission.
SUBMISSION_WINDOW: Final = 1.0
#: Submissions that further graphs may join.
MAX_OPEN: Final = 64

#: Decides on a trace that begins, or continues under a parent.
Sample: TypeAlias = Callable[[int, SpanContext | None], Sampling]


class Sent(NamedTuple):
    """A submission that is complete."""

    ids: SpanContext
    parent: SpanContext | None
    #: Times of its first and its last graph, on the client's clock.
    start: float
    last: float
    graphs: int
    #: What the sampler added.
    attributes: Mapping[str, Any] = MappingProxyType({})
    #: The caller's, in the process of the client.
    context: Context | None = None

    def plain(self) -> tuple[Any, ...]:
        """The same as plain values."""
        ids, parent, *rest, attributes, _ = self
        parent = None if parent is None else plain_ids(parent)
        return plain_ids(ids), parent, *rest, dict(attributes)

    @classmethod
    def of(cls, values: tuple[Any, ...]) -> Self:
        """The reverse of :meth:`plain`."""
        ids, parent, *rest = values
        return cls(ids_of(ids), None if parent is None else ids_of(parent), *rest)


def plain_ids(ids: SpanContext) -> tuple[int, int, int, bool, str]:
    """Return what another process needs of a span."""
    state = ids.trace_state.to_header()
    return ids.trace_id, ids.span_id, int(ids.trace_flags), ids.is_remote, state


def ids_of(values: tuple[int, int, int, bool, str]) -> SpanContext:
    """The reverse of :func:`plain_ids`."""
    trace_id, span_id, flags, is_remote, state = values
    kept = TraceState.from_header([state]) if state else None
    return SpanContext(trace_id, span_id, is_remote, TraceFlags(flags), kept)


class Submission:
    """One or more graphs that were sent in a row under the same parent."""

    __slots__ = (
        "attributes",
        "baggage",
        "carrier",
        "context",
        "graphs",
        "ids",
        "last",
        "parent",
        "start",
    )

    def __init__(
        self,
        run: str,
        context: Context,
        now: float,
        sample: Sample,
        ids: IdGenerator,
        inherited: Mapping[str, object],
    ) -> None:
        parent = current_span(context)
        trace_id = parent.trace_id if parent is not None else ids.generate_trace_id()
        flags, state, self.attributes = sample(trace_id, parent)
        if parent is None:
            flags |= random_flag(ids)
        self.ids = span_context(trace_id, ids.generate_span_id(), flags, state)
        self.parent = parent
        self.start = self.last = now
        self.graphs = 0
        #: The last one in which a graph was sent.
        self.context = context
        self.baggage = baggage.get_all(context)
        for name, value in inherited.items():
            if name not in self.baggage:
                context = baggage.set_baggage(name, value, context)
        fields = {"run": run}
        inject(fields, trace.set_span_in_context(NonRecordingSpan(self.ids), context))
        self.carrier = carrier_of(fields)

    def takes(self, context: Context, now: float) -> bool:
        """Whether a graph sent now, in this context, is part of it."""
        if not 0 <= now - self.start < SUBMISSION_WINDOW:
            return False
        if context is not self.context:
            # Contexts are immutable.
            if self.parent != current_span(context) or self.baggage != baggage.get_all(context):
                return False
            self.context = context
        return True

    def sent(self) -> Sent:
        """Return it as a complete submission."""
        return Sent(
            self.ids,
            self.parent,
            self.start,
            self.last,
            self.graphs,
            self.attributes,
            self.context,
        )


def current_span(context: Context) -> SpanContext | None:
    """Ids of the span that is current in a context; None without one."""
    current = trace.get_current_span(context).get_span_context()
    return current if current.is_valid else None


class SentGraphs:
    """Submissions, each returned once.

    :meth:`add` is called by any thread, :meth:`opened` and :meth:`ended` by the recorder's; a lock
    joins them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._opened: list[SpanContext] = []
        self._ended: list[Sent] = []

    def add(self, opened: Iterable[SpanContext], ended: Iterable[Sent]) -> None:
        """Add submissions of clients of another process."""
        with self._lock:
            self._opened += opened
            self._ended += ended

    def opened(self) -> list[SpanContext]:
        """Return ids of the submissions begun since the last call."""
        with self._lock:
            opened, self._opened = self._opened, []
        return opened

    def ended(self, now: float, *, all_of_them: bool = False) -> list[Sent]:
        """Return complete submissions, each once."""
        with self._lock:
            ended, self._ended = self._ended, []
        return ended


class Submissions(SentGraphs):
    """Makes the carrier of each graph; :meth:`carrier` is called by the threads that submit."""

    def __init__(
        self,
        run: str,
        sample: Sample | None = None,
        *,
        ids: IdGenerator | None = None,
        clock: Callable[[], float] = time,
        inherited: Mapping[str, object] = MappingProxyType({}),
    ) -> None:
        super().__init__()
        #: Baggage of the program, which that of the caller's context extends.
        self._inherited = inherited
        self._run = run
        self._sample: Sample = sample or (lambda _, parent: sampled_like(parent))
        self._ids = ids or SecureIdGenerator()
        self._clock = clock
        self._open: Submission | None = None

    def carrier(self) -> str:
        """Return the annotation for a graph that is sent now."""
        context = get_current()
        now = self._clock()
        with self._lock:
            submission = self._open
            if submission is None or not submission.takes(context, now):
                if submission is not None:
                    self._ended.append(submission.sent())
                submission = self._open = Submission(
                    self._run, context, now, self._sample, self._ids, self._inherited
                )
                self._opened.append(submission.ids)
            submission.graphs += 1
            submission.last = now
            return submission.carrier

    def ended(self, now: float, *, all_of_them: bool = False) -> list[Sent]:
        """Return complete submissions, each once."""
        with self._lock:
            submission = self._open
            if submission is not None and (
                all_of_them or now - submission.start >= SUBMISSION_WINDOW
            ):
                self._ended.append(submission.sent())
                self._open = None
        return super().ended(now)
