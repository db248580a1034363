"""Submissions of the client: calls that send graphs, each with the OTel context for its tasks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from time import time
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Self

from opentelemetry import baggage, trace
from opentelemetry.context import Context, get_current
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from scalable.common.carriers import chosen_baggage, inject, is_suppressed
from scalable.common.output_levels import TaskOutput
from scalable.facts.graphs import SUBMISSION_WINDOW, DaskSpan, GraphRequest
from scalable.facts.identity import carrier_of, task_id
from scalable.facts.parameters import Level
from scalable.facts.protocol import (
    BLOCK,
    CATALOG,
    DASK_SPANS,
    ENVIRONMENT,
    LABELS,
    LAYERS,
    OUTPUT,
    PARAMETERS,
    SUPPRESSED,
)
from scalable.telemetry import semconv
from scalable.telemetry.configuration.ids import SecureIdGenerator, random_flag
from scalable.telemetry.signals.dask_spans import LeftSpan, OpenedSpan
from scalable.telemetry.signals.spans import (
    Sample,
    Sampling,
    current_span,
    ids_of,
    plain_ids,
    sampled_like,
    span_context,
)
from scalable.telemetry.submissions.open_spans import OpenSpan, OpenSpans
from scalable_runs.summary import name_of_key

#: Submissions that further graphs may join.
MAX_OPEN: Final = 64


def _sampled_like_parent(trace_id: int, parent: SpanContext | None, *about: Any) -> Sampling:
    return sampled_like(parent)


#: A graph of which nothing is known.
_UNKNOWN: Final = GraphRequest("submit", (), 0)


class Sent(NamedTuple):
    """A submission that is complete."""

    ids: SpanContext
    parent: SpanContext | None
    #: Times of its first and its last graph, on the client's clock.
    start: float
    last: float
    graphs: int
    #: What was asked for, and where; and what the sampler added.
    attributes: Mapping[str, Any] = MappingProxyType({})
    #: The caller's, in the process of the client.
    context: Context | None = None
    #: Name of its span; empty if nothing is known of it.
    name: str = ""
    #: Span of the block of Dask's that it is in, where there is one.
    block: SpanContext | None = None

    def plain(self) -> tuple[Any, ...]:
        """The same as plain values."""
        parents = [None if it is None else plain_ids(it) for it in (self.parent, self.block)]
        others = (self.start, self.last, self.graphs, dict(self.attributes), None, self.name)
        return plain_ids(self.ids), *parents, *others

    @classmethod
    def of(cls, values: tuple[Any, ...]) -> Self:
        """The reverse of :meth:`plain`."""
        ids, parent, block, *rest = values
        parents = [None if it is None else ids_of(it) for it in (parent, block)]
        return cls(ids_of(ids), parents[0], *rest)._replace(block=parents[1])


class Submission:
    """One or more graphs of one line that were sent in a row under the same parent."""

    __slots__ = (
        "attributes",
        "baggage",
        "block",
        "caller",
        "carrier",
        "context",
        "graphs",
        "ids",
        "last",
        "name",
        "others",
        "parent",
        "prefix",
        "start",
        "suppressed",
    )

    def __init__(
        self,
        run: str,
        request: GraphRequest,
        context: Context,
        now: float,
        sample: Sample,
        ids: IdGenerator,
        inherited: Mapping[str, object],
        labels: Collection[str],
        wanted: Mapping[str, Any],
        block: OpenSpan | None,
    ) -> None:
        #: The caller's span, and that of the block that it is in.
        self.caller = parent = current_span(context)
        self.block = block
        if block is not None and block.caller == parent:
            parent = block.ids
        trace_id = parent.trace_id if parent is not None else ids.generate_trace_id()
        self.name = name_of(request)
        if block is not None:
            request = request._replace(span=DaskSpan(block.opened.names, block.opened.dask_ids))
        asked = attributes_of(request)
        about = {semconv.RUN_ID: run, **asked}
        flags, state, added = sample(trace_id, parent, self.name or request.operation, about)
        #: It is recorded, and sent nowhere.
        self.suppressed = is_suppressed(context)
        if self.suppressed:
            flags = flags & ~TraceFlags.SAMPLED
        if parent is None:
            flags |= random_flag(ids)
        self.attributes = {**added, **asked}
        self.ids = span_context(trace_id, ids.generate_span_id(), flags, state)
        self.parent = parent
        self.start = self.last = now
        self.graphs = 1
        #: What its keys begin with, and whether a later one begins differently.
        self.prefix = _prefix(request)
        self.others = False
        #: The last one in which a graph was sent.
        self.context = context
        self.baggage = baggage.get_all(context)
        for name, value in inherited.items():
            if name not in self.baggage:
                context = baggage.set_baggage(name, value, context)
        fields: dict[str, Any] = {"run": run, **wanted}
        chosen = chosen_baggage(labels, context)
        if chosen:
            fields[LABELS] = chosen
            self.attributes = {**chosen, **self.attributes}
        if request.operation != "submit":
            fields[LAYERS] = 1
        if request.span is not None:
            fields[DASK_SPANS] = request.span
        if block is not None:
            fields[BLOCK] = f"{block.ids.span_id:016x}"
        if self.suppressed:
            fields[SUPPRESSED] = 1
        inject(fields, trace.set_span_in_context(NonRecordingSpan(self.ids), context))
        self.carrier = carrier_of(fields)

    def takes(self, request: GraphRequest, context: Context, now: float) -> bool:
        """Whether a graph sent now, in this context, is part of it; it is counted if so."""
        if not 0 <= now - self.start < SUBMISSION_WINDOW:
            return False
        if context is not self.context:
            # Contexts are immutable.
            if self.caller != current_span(context) or self.baggage != baggage.get_all(context):
                return False
            if self.suppressed is not is_suppressed(context):
                return False
            self.context = context
        self.graphs += 1
        self.last = now
        if not self.others and _prefix(request) != self.prefix:
            self.others = True
        return True

    def sent(self) -> Sent:
        """Return it as a complete submission."""
        name = f"{self.name}{_AND_OTHERS}" if self.others else self.name
        return Sent(
            self.ids,
            self.parent,
            self.start,
            self.last,
            self.graphs,
            self.attributes,
            self.context,
            name,
            None if self.block is None else self.block.ids,
        )


#: End of a name that stands for different functions or collections.
_AND_OTHERS: Final = " and others"


def name_of(request: GraphRequest) -> str:
    """Name of the span: what was called, and for which function or collection."""
    return called(request.operation, map(task_id, request.outputs))


def called(operation: str, outputs: Iterable[str], *, others: bool = False) -> str:
    """Name of the span of a call, from the texts of its outputs."""
    names = list(dict.fromkeys(map(name_of_key, outputs)))
    if not names:
        return ""
    name = f"{operation} {names[0]}"
    return f"{name}{_AND_OTHERS}" if others or len(names) > 1 else name


def attributes_of(request: GraphRequest) -> dict[str, Any]:
    """Attributes of the span that are known when it begins, which a sampler gets."""
    attributes: dict[str, Any] = {}
    if request.outputs:
        attributes[semconv.SUBMIT_OPERATION] = request.operation
    site = request.site
    if site is not None:
        attributes[semconv.FUNCTION_NAME] = site.function
        attributes[semconv.CODE_FILE] = site.file
        attributes[semconv.CODE_LINE] = site.line
    if request.span is not None:
        attributes[semconv.DASK_SPAN_NAME] = request.span.names
        attributes[semconv.DASK_SPAN_ID] = request.span.ids
    return attributes


def _prefix(request: GraphRequest) -> Any:
    """What the first key begins with; cheaper than the name of the task, for each of a loop."""
    for key in request.outputs:
        if key.__class__ is str:
            return key.partition("-")[0]  # a function name has no dash
        return key[0] if key.__class__ is tuple and key else None
    return None


class SentGraphs:
    """Submissions, each returned once.

    :meth:`add` is called by any thread, :meth:`opened` and :meth:`ended` by the recorder's; a lock
    joins them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._opened: list[SpanContext] = []
        self._ended: list[Sent] = []
        self._blocks: tuple[list[OpenedSpan], list[LeftSpan]] = [], []

    def add(
        self,
        opened: Iterable[SpanContext],
        ended: Iterable[Sent],
        blocks: tuple[Iterable[OpenedSpan], Iterable[LeftSpan]] = ((), ()),
    ) -> None:
        """Add submissions, and spans of blocks, of clients of another process."""
        with self._lock:
            self._opened += opened
            self._ended += ended
            for known, new in zip(self._blocks, blocks, strict=True):
                known.extend(new)  # type: ignore[arg-type]

    def opened(self) -> list[SpanContext]:
        """Return ids of the submissions, and the blocks around them, begun since the last call."""
        with self._lock:
            opened, self._opened = self._opened, []
        return opened

    def blocks(
        self, now: float, *, all_of_them: bool = False
    ) -> tuple[list[OpenedSpan], list[LeftSpan]]:
        """Return spans of blocks that were opened, and that were left, since the last call.

        It is called before :meth:`ended`, which returns all submissions of a block that was left.
        """
        with self._lock:
            blocks, self._blocks = self._blocks, ([], [])
        return blocks

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
        labels: Collection[str] = (),
        environment: bool = False,
        output: TaskOutput = "failed",
        parameters: Level = "failed",
        catalog: str | None = None,
    ) -> None:
        super().__init__()
        #: What each carrier asks the workers for, and tells their tasks.
        self._wanted: dict[str, Any] = {ENVIRONMENT: 1} if environment else {}
        if output != "failed":
            self._wanted[OUTPUT] = output
        if parameters != "failed":
            self._wanted[PARAMETERS] = parameters
        if catalog is not None:
            self._wanted[CATALOG] = catalog
        #: Entries of baggage that become attributes.
        self._labels = labels
        #: Baggage of the program, which that of the caller's context extends.
        self._inherited = inherited
        self._run = run
        self._sample = sample or _sampled_like_parent
        self._ids = ids or SecureIdGenerator()
        self._clock = clock
        self._spans = OpenSpans(run, self._sample, self._ids)
        #: Those that further graphs may join, by line and the block of Dask's that they are in.
        self._open: dict[Any, Submission] = {}

    def carrier(self, request: GraphRequest = _UNKNOWN) -> str:
        """Return the annotation for a graph that is sent now.

        Single submits of one line, in a loop, are one submission, and so are the parts of a `map`
        in batches; any other call is one of its own.
        """
        context = get_current()
        now = self._clock()
        with self._lock:
            block = None
            if request.span is not None:
                block = self._spans.find(request.span, context, now)
                self._opened += self._spans.begun()
            key = (request.site, block or request.span)
            joins = request.may_join
            submission = self._open.get(key) if joins else None
            if submission is not None:
                if submission.takes(request, context, now):
                    return submission.carrier
                self._ended.append(submission.sent())
            submission = Submission(
                self._run,
                request,
                context,
                now,
                self._sample,
                self._ids,
                self._inherited,
                self._labels,
                self._wanted,
                block,
            )
            self._opened.append(submission.ids)
            if not joins:
                self._ended.append(submission.sent())
                return submission.carrier
            if key not in self._open and len(self._open) >= MAX_OPEN:
                self._ended.append(self._open.pop(next(iter(self._open))).sent())
            self._open[key] = submission
            return submission.carrier

    def entered(self, dask_ids: Sequence[str]) -> None:
        """Blocks of Dask's were entered at once, outermost first; called by any thread."""
        caller = current_span(get_current())
        with self._lock:
            self._spans.entered(dask_ids, caller)

    def left(self, dask_ids: Sequence[str]) -> None:
        """Blocks were left: no graph is sent in them any more; called by any thread."""
        with self._lock:
            self._spans.left(dask_ids)

    def blocks(
        self, now: float, *, all_of_them: bool = False
    ) -> tuple[list[OpenedSpan], list[LeftSpan]]:
        """Return spans of blocks that were opened, and that were left, since the last call."""
        with self._lock:
            opened, left = self._spans.drain(now, all_of_them=all_of_them)
            over = {each.span_id for each in left}
            for key, submission in list(self._open.items()) if over else ():
                block = submission.block
                if block is not None and block.ids.span_id in over:
                    self._ended.append(self._open.pop(key).sent())
        return opened, left

    def repeat_blocks(self) -> None:
        """Return all open spans of blocks once more, to a recorder that follows another one."""
        with self._lock:
            self._opened += self._spans.repeat()

    def ended(self, now: float, *, all_of_them: bool = False) -> list[Sent]:
        """Return complete submissions, each once."""
        with self._lock:
            for key, submission in list(self._open.items()):
                if all_of_them or now - submission.start >= SUBMISSION_WINDOW:
                    self._ended.append(submission.sent())
                    del self._open[key]
        return super().ended(now)
