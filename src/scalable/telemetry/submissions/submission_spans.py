"""Spans of submissions: each is written at once, and sent when the size of its graphs is known."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import Link, SpanContext

from scalable.telemetry import semconv
from scalable.telemetry.ledger.graph_sizes import GraphSizes
from scalable.telemetry.ledger.layers import MAX_LAYERS
from scalable.telemetry.ledger.task_graphs import TaskGraphs, TaskSubmission
from scalable.telemetry.signals.spans import SpanFactory, span_context
from scalable.telemetry.submissions.submissions import Sent, attributes_of, called
from scalable_runs.redact import Redactor

#: Seconds without a further task after which the tasks of one graph are complete: the scheduler
#: accepts a graph at once, and reports its tasks one after the other.
LINGER: Final = 0.5
#: The same for several graphs: the last one may be on its way when those before it are known.
LINGER_SEVERAL: Final = 2.0
#: Seconds for which a submission waits for its first task: a client takes seconds to send a large
#: graph. Of one whose tasks the scheduler has already, none comes.
MAX_WAIT: Final = 10.0
#: Submissions that wait at most.
MAX_HELD: Final = 5_000

_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


@dataclass(slots=True)
class _Held:
    submission: Sent
    offset: float
    #: Time of the last step that brought further tasks, or of the submission.
    since: float
    tasks: int = 0


class SubmissionSpans:
    """Makes the spans of submissions; called by the recorder's thread only.

    `write` is called with each span at once, and with the caller's context. `send`, if any, is
    called later, with spans that have the number of tasks and layers in addition; and `write_sizes`
    with those whose numbers are known.
    """

    def __init__(
        self,
        run: str,
        project: str,
        root: SpanContext,
        spans: SpanFactory,
        redact: Redactor,
        sizes: GraphSizes,
        graphs: TaskGraphs,
        write: Callable[[ReadableSpan, Context | None], None],
        send: Callable[[Sequence[ReadableSpan]], None] | None,
        write_sizes: Callable[[Sequence[ReadableSpan]], None] = lambda spans: None,
    ) -> None:
        self._run = run
        self._project = project
        self._root = root
        self._spans = spans
        self._redact = redact
        self._sizes = sizes
        self._graphs = graphs
        self._write = write
        self._send = send
        self._write_sizes = write_sizes
        self._held: dict[int, _Held] = {}
        #: Of submissions begun before this time, a predecessor may have counted some tasks.
        self.exact_from = 0.0

    def note(
        self, ended: Iterable[Sent], offset: float, now: float, complete_until: float = 0.0
    ) -> None:
        """Submissions are complete; `offset` leads from the client's clock to the scheduler's.

        Those of tasks are known to be until the scheduler's time `complete_until`.
        """
        self._note(ended, offset, now)
        self._note(map(_sent, self._graphs.complete(complete_until)), 0.0, now)

    def _note(self, ended: Iterable[Sent], offset: float, now: float) -> None:
        for submission in ended:
            self._write(self._span(submission, offset), submission.context)
            self._held[submission.ids.span_id] = _Held(submission, offset, now)

    def release(
        self, now: float, *, exact: bool, drained: bool = True, everything: bool = False
    ) -> None:
        """Send what waits for nothing more.

        `exact`: no task was left out of what is reported; `drained`: no further report is there.
        """
        if not self._held:
            return
        out: list[ReadableSpan] = []
        sized: list[ReadableSpan] = []
        for span_id, held in list(self._held.items()):
            size = self._sizes.get(span_id)
            if size is not None and size.tasks != held.tasks:
                held.tasks, held.since = size.tasks, now
            quiet = now - held.since
            linger = LINGER if held.submission.graphs == 1 else LINGER_SEVERAL
            is_complete = everything or (drained and held.tasks > 0 and quiet >= linger)
            if not (is_complete or quiet >= MAX_WAIT or len(self._held) > MAX_HELD):
                continue
            is_known = is_complete and exact and held.submission.start >= self.exact_from
            totals = self._totals(span_id) if is_known else _NOTHING
            if totals:
                routed = {**totals, semconv.RECORD: "graph"}
                sized.append(self._span(held.submission, held.offset, routed))
            if self._send is not None:
                out.append(self._span(held.submission, held.offset, totals))
            del self._held[span_id]
            self._sizes.forget(span_id)
        if sized:
            self._write_sizes(sized)
        if out and self._send is not None:
            self._send(out)

    def blocks(self) -> set[int]:
        """Ids of the spans of Dask's blocks with submissions that wait."""
        blocks = (held.submission.block for held in self._held.values())
        return {block.span_id for block in blocks if block is not None}

    def _totals(self, span_id: int) -> Mapping[str, Any]:
        size = self._sizes.get(span_id)
        if size is None:
            return _NOTHING
        totals = {semconv.GRAPH_TASKS: size.tasks}
        # Of more layers, some are forgotten, and would be counted again.
        if 0 < size.layers <= MAX_LAYERS:
            totals[semconv.GRAPH_LAYERS] = size.layers
        return totals

    def _span(
        self, submission: Sent, offset: float, totals: Mapping[str, Any] = _NOTHING
    ) -> ReadableSpan:
        links: list[SpanContext] = [] if submission.parent is not None else [self._root]
        block = submission.block
        if block is not None and block != submission.parent:
            links.append(block)
        attributes = self._redact.attributes(submission.attributes)
        if semconv.SUBMIT_TASK in attributes:
            # As the key is elsewhere in the record.
            task = str(submission.attributes[semconv.SUBMIT_TASK])
            attributes[semconv.SUBMIT_TASK] = self._redact.identity(task)
        return self._spans.span(
            self._redact.short(submission.name)
            or semconv.SPAN_SUBMIT.format(operation="submit", name=self._project),
            submission.ids,
            submission.parent,
            submission.start + offset,
            submission.last + offset,
            {
                **attributes,
                semconv.RUN_ID: self._run,
                semconv.GRAPH_COUNT: submission.graphs,
                **totals,
            },
            kind=semconv.KIND_SUBMIT,
            links=tuple(map(Link, links)),
        )


def _sent(submission: TaskSubmission) -> Sent:
    """The submission of a task, its times on the scheduler's clock."""
    ids, sent = submission.ids, submission.sent
    request = sent.request
    about = {**submission.labels, **attributes_of(request), semconv.SUBMIT_TASK: sent.task}
    return Sent(
        ids,
        span_context(ids.trace_id, sent.parent, ids.trace_flags, ids.trace_state),
        sent.start,
        max(sent.start, sent.last),
        max(1, submission.graphs),
        about,
        name=called(request.operation, request.outputs, others=submission.others),
    )
