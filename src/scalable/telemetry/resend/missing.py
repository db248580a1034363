"""Spans in the place of those that a recorder had not written when it died."""

from __future__ import annotations

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import Link, SpanContext

from scalable.telemetry import semconv
from scalable.telemetry.resend.recorded_tree import Parent
from scalable.telemetry.signals.spans import NANOSECONDS, SpanFactory, span_context
from scalable.telemetry.submissions.recorded_blocks import RecordedBlock


def missing_parent(
    factory: SpanFactory,
    run: str,
    project: str,
    ids: SpanContext,
    parent: Parent,
    root: SpanContext | None,
    first: SpanContext | None = None,
) -> ReadableSpan:
    """Make a submission, or the span of a block of Dask's, with the times of its children.

    The submission is below the `first` span of its trace, if there is one.
    """
    links = (Link(root),) if root is not None else ()
    if parent.block is not None:
        return _missing_block(factory, run, ids, parent, parent.block, links)
    start = parent.first / NANOSECONDS
    return factory.span(
        semconv.SPAN_SUBMIT.format(operation="submit", name=project),
        ids,
        first,
        start,
        start,
        {semconv.RUN_ID: run},
        kind=semconv.KIND_SUBMIT,
        links=links if first is None else (),
    )


def _missing_block(
    factory: SpanFactory,
    run: str,
    ids: SpanContext,
    parent: Parent,
    block: RecordedBlock,
    links: tuple[Link, ...],
) -> ReadableSpan:
    around = block.around
    return factory.span(
        semconv.SPAN_DASK.format(name=block.names[-1]),
        ids,
        None if around is None else span_context(ids.trace_id, around.span_id),
        parent.first / NANOSECONDS,
        parent.last / NANOSECONDS,
        {
            semconv.RUN_ID: run,
            semconv.DASK_SPAN_NAME: block.names,
            semconv.DASK_SPAN_ID: block.dask_ids,
            semconv.DASK_SPAN_BLOCKS: 1,
        },
        links=links if around is None else (),
    )
