"""Spans of the blocks of code that a program names with Dask's ``distributed.span()``."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Self

from opentelemetry.context import Context
from opentelemetry.trace import SpanContext

from scalable.facts.identity import attempt_span_id
from scalable.telemetry.signals.spans import ids_of, plain_ids

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
