"""The spans of Dask's blocks, as far as a run's records of other spans describe them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from scalable.telemetry import semconv
from scalable.telemetry.signals.dask_spans import MAX_DEPTH, dask_span_number
from scalable_runs.otel.decode import parent_of


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
