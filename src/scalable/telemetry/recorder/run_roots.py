"""The spans at the top of a run's trace.

A run that one program writes has one. Where several programs write a run, each has a span of its
own below the run's; the last of them to leave sends the run's, and those of writers that died.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import Link, SpanContext, SpanKind

from scalable.telemetry import semconv
from scalable.telemetry.signals.spans import SpanFactory, span_context
from scalable.telemetry.submissions.submissions import Sampling, ids_of
from scalable_runs.plain import hex_id, parse_time
from scalable_runs.redact import Redactor
from scalable_runs.sharing import Closing

#: How a run ended that was not a success.
_ERRORS: Final = frozenset({"failed", "lost"})

#: A span's ids as plain values; see :func:`scalable.telemetry.submissions.submissions.plain_ids`.
PlainIds = tuple[int, int, int, bool, str]


@dataclass(frozen=True, slots=True)
class RunIdentity:
    """A run's names and ids."""

    run_id: str
    project: str
    provider: str
    trace_id: int
    root_span_id: int
    started: float
    #: Flags of its trace, besides that of the sampler.
    trace_flags: int = 0
    #: The span that the program was started in, by `plain_ids`; None: the run begins a trace.
    parent: PlainIds | None = None
    #: Attributes of the root span, from the baggage that the program was started with.
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    #: What each component of the manifest asks for: ``cpus``, ``memory``, ``walltime``.
    components: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Any])
    #: Name of this program, if several write the run; what follows is empty otherwise.
    writer: str = ""
    #: The run's root span, above that of this writer, and when the run began.
    run_span_id: int = 0
    run_started: float = 0.0
    #: The span that the program was started in, if another program began the run.
    joined_in: PlainIds | None = None

    @property
    def key(self) -> str:
        """What tells this run's tasks from those of others on a cluster, and in span ids."""
        return f"{self.run_id}.{self.writer}" if self.writer else self.run_id

    def common(self) -> dict[str, Any]:
        """Fields of run.json of the run as a whole, if this program is the first to write it."""
        made: dict[str, Any] = {
            "root_span_id": f"{self.run_span_id:016x}",
            "trace_flags": self.trace_flags,
        }
        if self.parent is not None:
            made["parent_span_id"] = f"{self.parent[1]:016x}"
            made["parent_flags"] = self.parent[2]
            made["tracestate"] = self.parent[4]
        return made

    def joined(self, run: Mapping[str, Any]) -> RunIdentity:
        """Return the identity in a run that exists, by the run's run.json."""
        trace_id = hex_id(run.get("trace_id"), 32) or self.trace_id
        parent = None
        parent_span = hex_id(run.get("parent_span_id"), 16)
        if parent_span:
            flags, state = run.get("parent_flags") or 0, run.get("tracestate") or ""
            parent = trace_id, parent_span, flags, True, state
        is_other = self.parent is not None and self.parent[:2] != (trace_id, parent_span)
        started = parse_time(run.get("started_at"))
        return replace(
            self,
            trace_id=trace_id,
            run_span_id=hex_id(run.get("root_span_id"), 16) or self.run_span_id,
            run_started=self.started if started is None else started.timestamp(),
            trace_flags=run.get("trace_flags") or 0,
            parent=parent,
            joined_in=self.parent if is_other else None,
        )


class RunRoots:
    """Makes the spans at the top of a run's trace; used by the recorder's thread."""

    def __init__(
        self,
        identity: RunIdentity,
        sample: Callable[..., Sampling],
        spans: SpanFactory,
        redact: Redactor,
        code: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        self._identity = identity
        #: What is known of the program's code.
        self._code = code
        self._spans = spans
        self._redact = redact
        above = None if identity.parent is None else ids_of(identity.parent)
        flags, state, self._attributes = sample(
            identity.trace_id,
            above,
            semconv.SPAN_RUN.format(project=identity.project),
            kind=SpanKind.INTERNAL,
        )
        #: Makes ids in the run's trace.
        self._ids: Callable[[int], SpanContext] = lambda span_id: span_context(
            identity.trace_id, span_id, flags | identity.trace_flags, state
        )
        #: The span below which this recorder's are: the run's, or that of this writer.
        self.own: Final = self._ids(identity.root_span_id)
        self._run = self._ids(identity.run_span_id) if identity.writer else self.own
        self._above = above

    def span(
        self, status: str, started: float, now: float, counts: Mapping[str, int]
    ) -> ReadableSpan:
        """The span of what this recorder has recorded."""
        identity = self._identity
        if not identity.writer:
            return self._run_span(status, started, now, counts)
        links = () if identity.joined_in is None else (Link(ids_of(identity.joined_in)),)
        return self._writer_span(self.own, identity.writer, status, started, now, counts, links)

    def of_run(self, closing: Closing, now: float) -> Iterator[ReadableSpan]:
        """The spans of a run that several programs wrote and that ends now."""
        for name, document in closing.lost.items():
            span_id = hex_id(document.get("root_span_id"), 16)
            started = parse_time(document.get("started_at"))
            if span_id and started is not None:
                seen = parse_time((document.get("recorder") or {}).get("heartbeat_at")) or started
                times = started.timestamp(), max(started, seen).timestamp()
                yield self._writer_span(self._ids(span_id), name, "lost", *times, {})
        yield self._run_span(closing.status, self._identity.run_started, now, {})

    def _run_span(
        self, status: str, started: float, now: float, counts: Mapping[str, int]
    ) -> ReadableSpan:
        identity = self._identity
        return self._spans.span(
            semconv.SPAN_RUN.format(project=identity.project),
            self._run,
            self._above,
            started,
            now,
            {
                **self._redact.attributes({**identity.labels, **self._attributes}),
                semconv.RUN_ID: identity.run_id,
                semconv.RUN_STATUS: status,
                semconv.PROVIDER: identity.provider,
                **self._code(),
                **counts,
            },
            error=status if status in _ERRORS else None,
        )

    def _writer_span(
        self,
        ids: SpanContext,
        writer: str,
        status: str,
        started: float,
        now: float,
        counts: Mapping[str, int],
        links: Sequence[Link] = (),
    ) -> ReadableSpan:
        identity = self._identity
        return self._spans.span(
            semconv.SPAN_WRITER.format(project=identity.project),
            ids,
            self._run,
            started,
            now,
            {
                **self._redact.attributes({**identity.labels, **self._attributes}),
                semconv.RUN_ID: identity.run_id,
                semconv.RUN_STATUS: status,
                semconv.WRITER: writer,
                semconv.PROVIDER: identity.provider,
                **self._code(),
                **counts,
            },
            error=status if status in _ERRORS else None,
            links=links,
        )
