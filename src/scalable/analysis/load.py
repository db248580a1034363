"""Loads the report of a run: from its summary.json, else by reading its journals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, Final, Literal, TypeAlias, TypeVar, cast

from scalable.analysis.argument_words import joined_arguments
from scalable.analysis.code_and_data import load_code_and_data
from scalable.analysis.frames import own_frame, program_of, relevant_frames
from scalable.analysis.gaps import lost_writers, missing, notes
from scalable.analysis.recorded import artifacts_of, metrics_of
from scalable.analysis.report import (
    ENDED_THE_RUN,
    Document,
    FailureGroup,
    Report,
    exit_words,
)
from scalable_runs.plain import parse_time
from scalable_runs.reader import RunReader
from scalable_runs.schema import (
    FAILURES,
    JOURNALS,
    SCHEMA_VERSION,
    WORKERS,
    Record,
    SummaryCounts,
    SummaryDocument,
)
from scalable_runs.schema import FailureGroup as FailureSummary
from scalable_runs.summary import RunSummary
from scalable_runs.writers import told_apart

#: Called with the bytes that a scan has read, and the bytes in all.
Progress: TypeAlias = Callable[[int, int], None]
#: Sees the records of a journal on their way into the summary.
Tap: TypeAlias = Callable[[str, Iterator[Record]], Iterator[Record]]

_Row = TypeVar("_Row", bound=Mapping[str, Any])

_FAILURES_FIRST: Final = tuple(sorted(JOURNALS, key=(FAILURES, WORKERS).__contains__, reverse=True))
_UNFINISHED: Final = frozenset({"running", "lost"})


def load_report(
    reader: RunReader,
    progress: Progress | None = None,
    *,
    scan: bool = False,
    tap: Tap | None = None,
) -> Report:
    """Make the report of a run.

    A finished run's `summary.json` is used if every journal still has the length that run.json
    notes. Every other run is read line by line, in memory that does not grow with it.

    Parameters
    ----------
    reader
        The run.
    progress
        Called now and then while journals are read.
    scan
        Read the journals in any case.
    tap
        As for :func:`read_journals`; not used if the journals are not read.
    """
    if not scan and reader.status not in _UNFINISHED and not _changed_journals(reader):
        document = reader.summary()
        # Older tools wrote less into theirs; the reader has checked one of this version.
        if document is not None and document.get("schema_version") == SCHEMA_VERSION:
            return _report(reader, cast("SummaryDocument", document), "summary.json")
    summary = read_journals(reader, progress, tap=tap)
    # A run that says `running` and whose recorder is gone has ended.
    document = summary.document({**reader.document, "status": reader.status})
    loaded = _report(reader, document, "scan")
    if scan or reader.status in _UNFINISHED or "recorder" not in reader.document:
        return loaded
    if lost_writers(reader.document):
        return loaded  # nobody knows where their lines end
    note = "summary.json is missing or does not fit: counted from the journals."
    return replace(loaded, notes=(*loaded.notes, note))


def read_journals(
    reader: RunReader, progress: Progress | None = None, *, tap: Tap | None = None
) -> RunSummary:
    """Read every journal of a run into a summary.

    Parameters
    ----------
    reader, progress
        As for :func:`load_report`.
    tap
        Given each journal's name and records; what it yields is summed up. Failures and workers
        come before tasks.
    """
    summary = RunSummary()
    total = sum(map(reader.size, JOURNALS))
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, total)

    for file in JOURNALS if tap is None else _FAILURES_FIRST:
        records = reader.records(file, progress=advance)
        summary.add_all(file, records if tap is None else tap(file, records))
    return summary


def _changed_journals(reader: RunReader) -> bool:
    """Return whether a journal is not as long as run.json notes."""
    marks = reader.marks()
    return any(mark["bytes"] != reader.file_size(file) for file, mark in marks.items())


def _report(
    reader: RunReader, document: SummaryDocument, source: Literal["summary.json", "scan"]
) -> Report:
    run = {**reader.document, "status": reader.status}
    counts, timing = document["counts"], document["timing"]
    failures = _merged(
        [
            _failure_group(row)
            for row in document["failures"]["groups"]
            if row["failure_class"] != "Reschedule"  # a request, and no failure
        ]
    )
    artifacts, metrics = artifacts_of(reader), metrics_of(reader)
    code = load_code_and_data(reader)
    as_of = _last_sign(reader, document)
    return Report(
        run_id=reader.run_id,
        path=reader.place,
        project=str(run.get("project_name") or ""),
        target=str(run.get("target_name") or ""),
        provider=str(run.get("provider_name") or ""),
        status=reader.status,
        why=_why(reader.status, run, failures, as_of),
        is_live=reader.is_live,
        started_at=reader.started_at,
        finished_at=reader.finished_at,
        as_of=as_of,
        wall_s=timing["wall_s"],
        trace_id=run.get("trace_id"),
        source=source,
        counts=counts,
        resources=document["resources"],
        cache=document["cache"],
        tasks=timing["tasks"],
        slowest=_told_apart(timing["slowest"]),
        failures=failures,
        workers=_told_apart(document["resources"]["workers"]),
        unfinished=_told_apart(document["unfinished"]["tasks"]),
        missing=tuple(missing(reader, counts)),
        notes=tuple(notes(reader, counts, timing["tasks"])),
        unknown=0 if reader.status == "running" else _unknown(counts),
        program=program_of(run),
        artifacts=artifacts,
        metrics=metrics,
        code=code,
        document={
            **document,
            "run": run,
            "artifacts": [{"artifact_name": row.name, **row.detail} for row in artifacts],
            "metrics": {row.name: {"count": row.count, **row.detail} for row in metrics},
            **({} if code.is_empty else {"code_and_data": code.document()}),
        },
    )


def _told_apart(rows: list[_Row]) -> list[_Row]:
    """Return rows whose tasks and workers have names that are unique in the run."""
    return [cast("_Row", told_apart(cast("Record", row))) for row in rows]


def _failure_group(row: FailureSummary) -> FailureGroup:
    return FailureGroup(
        failure_class=row["failure_class"],
        message=row["message"],
        messages=tuple(map(str, row.get("messages") or ())),
        count=row["count"],
        retried=row["retried"],
        dependents_failed=row["dependents_failed"],
        phase=row["phase"],
        task_names=row["task_names"],
        workers=row["workers"],
        first_at=parse_time(row["first_at"]),
        last_at=parse_time(row["last_at"]),
        traceback=row["traceback"],
        arguments=row.get("arguments") or (),
    )


def _last_sign(reader: RunReader, document: SummaryDocument) -> datetime | None:
    """Return when the last known thing happened: a record, or a heartbeat of the recorder."""
    heartbeat = (reader.document.get("recorder") or {}).get("heartbeat_at")
    known = [parse_time(document.get("last_at")), parse_time(heartbeat), reader.finished_at]
    # Without any of these the files' own times are all there is; a copy of a run has new ones.
    return max(filter(None, known), default=reader.last_seen_at)


def _why(
    status: str, run: Document, failures: tuple[FailureGroup, ...], as_of: datetime | None
) -> str | None:
    """Say why the run ended as it did."""
    if status == "lost":
        recorder = run.get("recorder")
        if not recorder:
            return "The run was never closed, and nothing records it any more."
        gone = f"Its recorder (process {recorder.get('pid')} on {recorder.get('host')}) is gone"
        return (
            f"{gone}." if as_of is None else f"{gone}; last sign of life at {as_of:%H:%M:%S} UTC."
        )
    for group in failures:
        if group.phase == "session.start":
            return f"The session did not start: {group.message or group.failure_class}"
        if group.phase == "scheduler_lost":
            return "The scheduler was lost during the run."
        if group.failure_class == "SystemExit" and group.kind == "program":
            return f"The program ended itself: {exit_words(group.message)}."
        if group.ended_run is not None or group.phase in ENDED_THE_RUN:
            return f"{group.failure_class}: {group.message}".removesuffix(": ")
    return None


def _unknown(counts: SummaryCounts) -> int:
    """Return the number of tasks without an end; older versions do not count them apart."""
    return counts.get("tasks_unknown", counts["tasks_running"] + counts["tasks_waiting"])


# -- failures of one root --------------------------------------------------------------------------


def _merged(groups: list[FailureGroup]) -> tuple[FailureGroup, ...]:
    """Merge failures that one line raised with different messages, and those re-raised from a task.

    The exception of a task is raised again in the program that waits for it: that is not another
    failure.
    """
    kept: dict[tuple[Any, ...], FailureGroup] = {}
    for group in groups:
        frame = own_frame(group.traceback or "") if group.kind != "worker" else None
        key: tuple[Any, ...] = (group.failure_class, group.phase, frame and frame[:3])
        if frame is None:
            key = (*key, group.message, len(kept))
        before = kept.get(key)
        kept[key] = group if before is None else _joined(before, group)
    merged = list(kept.values())
    for group in [group for group in merged if group.phase in ENDED_THE_RUN]:
        origin = next((one for one in merged if one.kind == "task" and _is_echo(group, one)), None)
        if origin is not None:
            frames = [frame for frame in relevant_frames(group.traceback or "") if frame.is_own]
            where = frames[0].where() if frames else ""
            merged[merged.index(origin)] = replace(origin, ended_run=where)
            merged.remove(group)
    return tuple(sorted(merged, key=lambda group: -group.count))


def _is_echo(ended: FailureGroup, task: FailureGroup) -> bool:
    if ended.failure_class.rpartition(".")[2] != task.failure_class.rpartition(".")[2]:
        return False
    return ended.message in (task.message, *task.messages)


def _joined(one: FailureGroup, other: FailureGroup) -> FailureGroup:
    def added(first: Mapping[str, int], second: Mapping[str, int]) -> dict[str, int]:
        return dict((Counter(first) + Counter(second)).most_common())

    messages = [*(one.messages or (one.message,)), *(other.messages or (other.message,))]
    return replace(
        one,
        messages=tuple(dict.fromkeys(messages)),
        count=one.count + other.count,
        retried=one.retried + other.retried,
        dependents_failed=one.dependents_failed + other.dependents_failed,
        arguments=joined_arguments(one.arguments, other.arguments),
        task_names=added(one.task_names, other.task_names),
        workers=added(one.workers, other.workers),
        first_at=min(filter(None, (one.first_at, other.first_at)), default=None),
        last_at=max(filter(None, (one.last_at, other.last_at)), default=None),
    )
