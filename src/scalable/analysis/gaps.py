"""What the record of a run lacks, and what a reader has to know of it, a sentence each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, Final

from scalable.analysis.units import plural
from scalable_runs.reader import RunReader, parse_time
from scalable_runs.schema import SummaryCounts
from scalable_runs.summary import MAX_NAMES, OTHER

#: Lost writers that are named; the others are counted.
_MAX_WRITERS: Final = 10


def missing(reader: RunReader, counts: SummaryCounts) -> Iterator[str]:
    """Yield what the record lacks."""
    yield from writer_sentences(lost_writers(reader.document))
    yield from problem_sentences(reader)
    yield from _losses(reader.document.get("telemetry") or {})
    unusable = counts.get("unusable_events")
    if unusable:
        yield f"{plural(unusable, 'record')} could not be understood, and are not in the numbers."


def lost_writers(run: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the programs that wrote the run with others and were killed, by their names."""
    writers: Mapping[str, Mapping[str, Any]] = run.get("writers") or {}
    return {name: one for name, one in writers.items() if one.get("status") == "lost"}


def writer_sentences(lost: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Name lost writers, a sentence each; of many the first."""
    for name, one in islice(lost.items(), _MAX_WRITERS):
        seen = parse_time(one.get("last_seen_at"))
        last = "" if seen is None else f"; last sign of life at {seen:%H:%M:%S} UTC"
        yield f"The writer {name} (process {one.get('pid')} on {one.get('host')}) is gone{last}."
    if len(lost) > _MAX_WRITERS:
        yield f"{len(lost) - _MAX_WRITERS:,} more writers are gone."


def problem_sentences(reader: RunReader) -> Iterator[str]:
    """Yield what is wrong with the files that were read so far."""
    for problems in reader.problems.values():
        yield from (f"{sentence}." for sentence in problems.sentences())


def notes(reader: RunReader, counts: SummaryCounts, tasks: Mapping[str, object]) -> Iterator[str]:
    """Yield what a reader must know to interpret the numbers."""
    if OTHER in tasks:
        yield f"Only {MAX_NAMES:,} task names are counted apart; the rest is summed as {OTHER}."
    if counts["tasks"] and "recorder" not in reader.document:
        yield (
            "Written by an older tool: without sequence numbers a loss cannot be seen, and its "
            "`running` may mean submitted."
        )


def _losses(telemetry: Mapping[str, Any]) -> Iterator[str]:
    for what, count in _positive(telemetry.get("dropped")):
        if what.endswith(".jsonl"):
            yield f"{what}: {plural(count, 'record')} could not be written, and are lost."
        else:
            yield f"{count:,} × {what}: dropped while recording."
    for what, count in _positive(telemetry.get("uncertain")):
        records = plural(count, "record")
        yield f"{what}: {records} may not have reached the disk (a sync failed)."
    for what, count in _positive(telemetry.get("errors")):
        yield f"{count:,} × {what}: an error while recording."
    unseen = telemetry.get("graphs_unseen")
    if unseen:
        yield (
            f"The scheduler reported no task of {unseen:,} of the graphs that were sent: it may "
            "have failed to read them, or to take them in before the run ended."
        )
    workers = telemetry.get("unwatched_workers")
    if workers:
        name, reason = next(iter(workers.items()))
        others = len(workers) - 1
        who = f"Worker {name}" if not others else f"Worker {name} and {others:,} more"
        yield (
            f"{who} could not be watched ({reason}): starts and CPU times of attempts there and "
            "its last output are missing. Install scalable-otel there."
        )
    restarts: Any = telemetry.get("restarts")
    if isinstance(restarts, list) and restarts:
        yield (
            f"The process that wrote the run died {plural(len(restarts), 'time')}; another one "
            "continued with what the first had not written."
        )


def _positive(counts: Mapping[str, int] | None) -> Iterator[tuple[str, int]]:
    return ((what, count) for what, count in (counts or {}).items() if count > 0)
