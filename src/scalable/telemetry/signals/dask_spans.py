"""Spans of the blocks of code that a program names with Dask's ``distributed.span()``."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Self

from opentelemetry.context import Context
from opentelemetry.trace import SpanContext

from scalable.facts.identity import attempt_span_id
from scalable.telemetry import semconv
from scalable.telemetry.signals.spans import ids_of, plain_ids
from scalable_runs.otel.decode import parent_of

#: Blocks within each other that are told apart; those further inside belong to the last of these.
MAX_DEPTH: Final = 16


def dask_span_number(run: str, trace_id: int, dask_id: str, number: int = 0) -> int:
    """Id of the span of a block, which its trace and Dask's id determine."""
    return attempt_span_id(run, f"dask span {trace_id:032x} {dask_id}", number)


class OpenedSpan(NamedTuple):
    """The span of a block in which a graph was sent for the first time."""

    ids: SpanContext
    parent: SpanContext | None
    #: Names and Dask's ids of this block and those around it, outermost first.
    names: tuple[str, ...]
    dask_ids: tuple[str, ...]
    #: Time of the first graph, on the client's clock.
    start: float
    #: Span of the block around it, where that is not its parent.
    link: SpanContext | None = None
    #: Those of the sampler.
    attributes: Mapping[str, Any] = MappingProxyType({})
    #: The caller's, in the process of the client.
    context: Context | None = None

    def plain(self) -> tuple[Any, ...]:
        """The same as plain values."""
        ids, parent, names, dask_ids, start, link, attributes, _ = self
        parents = [None if each is None else plain_ids(each) for each in (parent, link)]
        return plain_ids(ids), *parents, names, dask_ids, start, dict(attributes)

    @classmethod
    def of(cls, values: tuple[Any, ...]) -> Self:
        """The reverse of :meth:`plain`."""
        ids, parent, link, names, dask_ids, start, attributes = values
        parents = [None if each is None else ids_of(each) for each in (parent, link)]
        return cls(ids_of(ids), parents[0], names, dask_ids, start, parents[1], attributes)


class LeftSpan(NamedTuple):
    """A span whose blocks have been left: no further graph is sent in them."""

    span_id: int
    #: How many blocks it represents.
    blocks: int


class RecordedBlock(NamedTuple):
    """The span of a block, as far as the record of a span below it describes it."""

    #: The run, or one of its writers.
    run: str
    trace_id: int
    names: tuple[str, ...]
    dask_ids: tuple[str, ...]

    @property
    def span_id(self) -> int:
        """Id of its span."""
        return dask_span_number(self.run, self.trace_id, self.dask_ids[-1])

    @property
    def around(self) -> RecordedBlock | None:
        """The block around it; None if it is the outermost one."""
        if len(self.dask_ids) < 2:
            return None
        return self._replace(names=self.names[:-1], dask_ids=self.dask_ids[:-1])


def block_above(record: Mapping[str, Any]) -> RecordedBlock | None:
    """The block whose span is the parent of a submission, or of a block; None if none is."""
    attributes: Mapping[str, Any] = record.get("attributes") or {}
    parent = parent_of(record) if semconv.DASK_SPAN_ID in attributes else None
    if parent is None:
        return None
    names = tuple(map(str, attributes.get(semconv.DASK_SPAN_NAME) or ()))
    dask_ids = tuple(map(str, attributes[semconv.DASK_SPAN_ID] or ()))
    run, writer = str(record.get("run_id")), record.get("writer")
    depth = min(len(names), len(dask_ids), MAX_DEPTH)
    run = f"{run}.{writer}" if writer else run
    block = RecordedBlock(run, parent.trace_id, names[:depth], dask_ids[:depth]) if depth else None
    while block is not None and block.span_id != parent.span_id:
        block = block.around
    return block
