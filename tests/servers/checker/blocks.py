"""Rules on the spans of blocks of Dask's ``span()``: what is in a block, and how many tasks."""

from __future__ import annotations

from collections.abc import Iterator

from scalable.telemetry import semconv
from servers.checker.model import Finding, Item, Received, is_own, shown

#: How the tasks of a block have ended.
_ENDS = (semconv.DASK_SPAN_SUCCEEDED, semconv.DASK_SPAN_FAILED, semconv.DASK_SPAN_CANCELLED)


def submissions_are_in_their_block(received: Received) -> Iterator[Finding]:
    """A submission is below the span of its block, or linked to it."""
    blocks = {
        (span["trace_id"], span["attributes"][semconv.DASK_SPAN_ID][-1]): span["span_id"]
        for span in _blocks(received)
    }
    for span in received.spans:
        if not is_own(span) or span["kind"] != "producer":
            continue
        within = [
            blocks[span["trace_id"], dask_id]
            for dask_id in span["attributes"].get(semconv.DASK_SPAN_ID, ())
            if (span["trace_id"], dask_id) in blocks
        ]
        linked = {link["span_id"] for link in span["links"]}
        if within and within[-1] not in {*_above(received, span), *linked}:
            block = shown(received.by_id[within[-1]])
            yield Finding("blocks", shown(span), f"is not in {block}")


def counts_of_blocks_add_up(received: Received) -> Iterator[Finding]:
    """The tasks of a block have ended in one of three ways; its attempts are no fewer."""
    for span in _blocks(received):
        attributes = span["attributes"]
        known = attributes.get(semconv.DASK_SPAN_TASKS)
        if known is None:
            continue
        ended = sum(attributes[name] for name in _ENDS)
        if known != ended:
            yield Finding("blocks", shown(span), f"has {known} tasks, of which {ended} ended")
        if attributes[semconv.DASK_SPAN_ATTEMPTS] < attributes[semconv.DASK_SPAN_SUCCEEDED]:
            yield Finding("blocks", shown(span), "has more successes than attempts")


def blocks_have_one_span_each(received: Received) -> Iterator[Finding]:
    """Dask's id of a block is that of one span of a run's."""
    seen: dict[tuple[str, str], Item] = {}
    for span in _blocks(received):
        key = span["trace_id"], span["attributes"][semconv.DASK_SPAN_ID][-1]
        if seen.setdefault(key, span) is not span:
            yield Finding("blocks", shown(span), f"is the block of {shown(seen[key])}")


RULES = (submissions_are_in_their_block, counts_of_blocks_add_up, blocks_have_one_span_each)


def _blocks(received: Received) -> list[Item]:
    own = filter(is_own, received.spans)
    return [span for span in own if semconv.DASK_SPAN_BLOCKS in span["attributes"]]


def _above(received: Received, span: Item) -> Iterator[str]:
    seen: set[str] = set()
    while (parent := span["parent_span_id"]) and parent not in seen:
        seen.add(parent)
        yield parent
        if parent not in received.by_id:
            return
        span = received.by_id[parent]
