"""The report of one run: what ran, how it went, what it took, and what the record lacks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, cast

from scalable.analysis._text import plural
from scalable.analysis.frames import own_frame, program_of, relevant_frames
from scalable_runs.plain import parse_time
from scalable_runs.reader import RunReader
from scalable_runs.schema import (
    ARTIFACTS,
    FAILURES,
    JOURNALS,
    METRICS,
    SCHEMA_VERSION,
    WORKERS,
    Record,
)
from scalable_runs.summary import MAX_NAMES, OTHER, RunSummary

Document: TypeAlias = Mapping[str, Any]

#: Told how many bytes of how many a scan has read.
Progress: TypeAlias = Callable[[int, int], None]
#: Sees the records of a journal as they pass by.
Tap: TypeAlias = Callable[[str, Iterator[Record]], Iterator[Record]]
#: Reads the journals of a run into a summary.
Scanner: TypeAlias = Callable[[RunReader, Progress | None], RunSummary]


@dataclass(frozen=True, slots=True)
class Spread:
    """How long something took, in seconds; None where it never happened."""

    count: int
    total: float
    mean: float | None
    p50: float | None
    p95: float | None
    max: float | None


@dataclass(frozen=True, slots=True)
class TaskGroup:
    """The tasks of one name."""

    name: str
    count: int
    succeeded: int
    failed: int
    cancelled: int
    retried: int
    lost: int
    recomputed: int
    attempts: int
    cut_short: int
    cut_short_s: float
    duration: Spread
    queue: Spread
    cpu_s: float
    transfer_s: float


@dataclass(frozen=True, slots=True)
class Attempt:
    """One of the slowest attempts."""

    task_id: str
    task_name: str
    state: str
    attempt: int | None
    worker: str | None
    duration_s: float
    queue_s: float | None


@dataclass(frozen=True, slots=True)
class FailureGroup:
    """Failures of one cause."""

    failure_class: str
    message: str
    #: The different messages, where there is more than one.
    messages: tuple[str, ...]
    count: int
    retried: int
    dependents_failed: int
    phase: str | None
    task_names: Mapping[str, int]
    workers: Mapping[str, int]
    first_at: datetime | None
    last_at: datetime | None
    traceback: str | None
    #: The program ended with it: where, as its own traceback tells.
    ended_run: str | None = None

    @property
    def kind(self) -> Literal["task", "worker", "program"]:
        """What failed."""
        if self.phase == "worker_lost":
            return "worker"
        return "task" if self.phase in (None, "", "task_execution") else "program"


@dataclass(frozen=True, slots=True)
class Recorded:
    """What the program recorded of its own, such as the artifacts of one name."""

    name: str
    count: int
    detail: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Worker:
    """The workers at one address."""

    address: str | None
    name: str | None
    host: str | None
    state: str | None
    reason: str | None
    exit_code: int | None
    signal: str | None
    lost: int
    nthreads: int | None
    lifetime_s: float
    busy_s: float
    busy_ratio: float | None
    attempts: int
    memory_gb_max: float | None
    memory_limit_gb: float | None

    @property
    def label(self) -> str:
        """What a person calls it; see :func:`worker_label`."""
        return worker_label(self.address, self.name)


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A task that runs now, or ran when the record ends."""

    task_id: str
    task_name: str
    attempt: int
    worker: str | None
    since: datetime | None


@dataclass(frozen=True, slots=True)
class Report:
    """Everything a report tells of one run.

    Attributes
    ----------
    status
        The run's status as its reader sees it: a run whose recorder is gone is `lost`.
    why
        Why the run ended so, as one sentence; None where there is nothing to explain.
    is_live
        Whether the run is still being recorded: all numbers are of this moment.
    as_of
        When the last thing known of the run happened.
    missing
        What the record lacks, a sentence each.
    notes
        What a reader has to know to take the numbers as they are meant, a sentence each.
    source
        Whether the numbers come from `summary.json`, written as the run closed, or from reading
        every journal (`scan`).
    unknown
        Tasks whose end nobody knows: they had none when the record of the run ended.
    program
        File name of the program, where its code was sent to the workers by value.
    artifacts, metrics
        What the program recorded of its own: the first of them, in the order of their names.
    document
        The whole of it in the shape of summary.json.
    """

    run_id: str
    path: Path
    project: str
    target: str
    provider: str
    status: str
    why: str | None
    is_live: bool
    started_at: datetime | None
    finished_at: datetime | None
    as_of: datetime | None
    wall_s: float | None
    trace_id: str | None
    source: Literal["summary.json", "scan"]
    counts: Mapping[str, int]
    busy_s: float
    busy_ratio: float | None
    thread_seconds: float
    cache_hits: int
    cache_misses: int
    tasks: tuple[TaskGroup, ...]
    slowest: tuple[Attempt, ...]
    failures: tuple[FailureGroup, ...]
    workers: tuple[Worker, ...]
    unfinished: tuple[Unfinished, ...]
    missing: tuple[str, ...]
    notes: tuple[str, ...]
    unknown: int
    program: str
    artifacts: tuple[Recorded, ...]
    metrics: tuple[Recorded, ...]
    document: Document

    def worker_label(self, address: str | None) -> str:
        """Name a worker as :func:`worker_label` does."""
        return self.labels.get(address or "") or worker_label(address, None)

    @property
    def labels(self) -> Mapping[str, str]:
        """The labels of workers by address."""
        return {row.address: row.label for row in self.workers if row.address}


def worker_label(address: str | None, name: str | None) -> str:
    """Return what a worker is called everywhere: its name, and its host and port.

    Workers of a :class:`distributed.LocalCluster` keep their names when they are restarted, and a
    name alone does not tell one life from the next.

    Examples
    --------
    >>> worker_label("tcp://10.0.0.7:40311", "3"), worker_label("tcp://10.0.0.7:40311", None)
    ('3 (10.0.0.7:40311)', '10.0.0.7:40311')
    >>> worker_label("inproc://10.0.0.7/4711/4", "0")
    '0'
    """
    scheme, _, place = (address or "").rpartition("://")
    if not address or not place:
        return name or address or "-"
    if not name or name in (address, place):
        return address if scheme == "inproc" else place
    return name if scheme == "inproc" else f"{name} ({place})"


def load_report(
    reader: RunReader,
    progress: Progress | None = None,
    *,
    scan: bool = False,
    scanner: Scanner | None = None,
) -> Report:
    """Make the report of a run.

    A finished run's `summary.json` is taken at its word if every journal still has the length that
    run.json notes. Every other run is read line by line, in memory that does not grow with it.

    Parameters
    ----------
    reader
        The run.
    progress
        Called now and then while journals are read.
    scan
        Read the journals in any case.
    scanner
        What reads the journals into a summary, where more is to be seen of them on the way.
    """
    if not scan and reader.status not in _UNFINISHED and not changed_journals(reader):
        document = _summary(reader)
        if document is not None:
            try:
                return _report(reader, document, "summary.json")
            except (AttributeError, KeyError, TypeError, ValueError):
                pass  # damaged, or of another tool: the journals tell the same
    summary = (scanner or read_journals)(reader, progress)
    # A run that says `running` and whose recorder is gone has ended.
    document = summary.document({**reader.document, "status": reader.status})
    loaded = _report(reader, document, "scan")
    if scan or reader.status in _UNFINISHED or "recorder" not in reader.document:
        return loaded
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
        Given each journal's name and records, and what it yields is summed up. Failures and
        workers come before tasks.
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


_FAILURES_FIRST: Final = tuple(sorted(JOURNALS, key=(FAILURES, WORKERS).__contains__, reverse=True))


def changed_journals(reader: RunReader) -> list[str]:
    """Name the journals that are not as long as run.json says they were left."""
    return [
        file for file, mark in reader.marks().items() if mark["bytes"] != reader.file_size(file)
    ]


_UNFINISHED: Final = frozenset({"running", "lost"})


def _summary(reader: RunReader) -> Document | None:
    """summary.json, if it is one of this contract; older tools wrote less into theirs."""
    document = reader.summary()
    if document is None or document.get("schema_version") != SCHEMA_VERSION:
        return None
    return document


def _report(
    reader: RunReader, document: Document, source: Literal["summary.json", "scan"]
) -> Report:
    run = {**reader.document, "status": reader.status}
    document = {**document, "run": run}
    counts = document["counts"]
    timing = document["timing"]
    resources = document["resources"]
    failures = _merged(
        [
            _failure_group(row)
            for row in document["failures"]["groups"]
            if row["failure_class"] != "Reschedule"  # a request, and no failure
        ]
    )
    unfinished = tuple(_unfinished(row) for row in document["unfinished"]["tasks"])
    artifacts, metrics = _artifacts(reader), _metrics(reader)
    document["artifacts"] = [{"artifact_name": row.name, **row.detail} for row in artifacts]
    document["metrics"] = {row.name: {"count": row.count, **row.detail} for row in metrics}
    seen = _last_sign(reader, document)
    return Report(
        run_id=reader.run_id,
        path=reader.path,
        project=str(run.get("project_name") or ""),
        target=str(run.get("target_name") or ""),
        provider=str(run.get("provider_name") or ""),
        status=reader.status,
        why=_why(reader.status, run, failures, seen),
        is_live=reader.is_live,
        started_at=reader.started_at,
        finished_at=reader.finished_at,
        as_of=seen,
        wall_s=timing["wall_s"],
        trace_id=run.get("trace_id"),
        source=source,
        counts={name: int(count) for name, count in counts.items() if count is not None},
        busy_s=resources["busy_seconds"],
        busy_ratio=resources["busy_ratio"],
        thread_seconds=resources["thread_seconds"],
        cache_hits=document["cache"]["hits"],
        cache_misses=document["cache"]["misses"],
        tasks=tuple(_task_group(name, row) for name, row in timing["tasks"].items()),
        slowest=tuple(_attempt(row) for row in timing["slowest"]),
        failures=failures,
        workers=tuple(_worker(row) for row in resources["workers"]),
        unfinished=unfinished,
        missing=tuple(_missing(reader, counts)),
        notes=tuple(_notes(reader, counts, timing["tasks"])),
        unknown=0 if reader.status == "running" else _unknown(counts),
        program=program_of(run),
        artifacts=artifacts,
        metrics=metrics,
        document=document,
    )


def _last_sign(reader: RunReader, document: Document) -> datetime | None:
    """When the last known thing happened: a record, or a heartbeat of the recorder."""
    recorder = reader.document.get("recorder")
    heartbeat = recorder.get("heartbeat_at") if isinstance(recorder, Mapping) else None
    known = [parse_time(document.get("last_at")), parse_time(heartbeat), reader.finished_at]
    # Without any of these the files' own times are all there is; a copy of a run has new ones.
    return max(filter(None, known), default=reader.last_seen_at)


def _why(
    status: str, run: Document, failures: tuple[FailureGroup, ...], seen: datetime | None
) -> str | None:
    if status == "lost":
        recorder = run.get("recorder")
        if not isinstance(recorder, Mapping):
            return "The run was never closed, and nothing records it any more."
        process = f"process {recorder.get('pid')} on {recorder.get('host')}"
        if seen is None:
            return f"Its recorder ({process}) is gone."
        return f"Its recorder ({process}) is gone; last sign of life at {seen:%H:%M:%S} UTC."
    for group in failures:
        said = f"{group.failure_class}: {group.message}".removesuffix(": ")
        if group.phase == "session.start":
            return f"The session did not start: {group.message or group.failure_class}"
        if group.phase == "scheduler_lost":
            return "The scheduler went away while the run was going on."
        if group.failure_class == "SystemExit" and group.kind == "program":
            return f"The program ended itself: {exit_words(group.message)}."
        if group.ended_run is not None or group.phase in ENDED_THE_RUN:
            return said
    return None


#: Phases of a failure that the program ended with.
ENDED_THE_RUN: Final = frozenset({"run", "session.context"})


def exit_words(message: str) -> str:
    """Put the argument of :class:`SystemExit` into words."""
    code = message.strip()
    if code in ("", "None"):
        return "exit status 0"
    if code.startswith("exit status "):
        return code
    return f"exit status {code}" if code.lstrip("-").isdecimal() else f"exit status 1, “{code}”"


def _unknown(counts: Document) -> int:
    """Tasks without an end; a count of its own came later than the other two."""
    found = counts.get("tasks_unknown")
    return found if isinstance(found, int) else counts["tasks_running"] + counts["tasks_waiting"]


def _merged(groups: list[FailureGroup]) -> tuple[FailureGroup, ...]:
    """Put together what one line raised with different messages, and what came back from a task.

    The exception of a task comes to the program that waits for it: it is no failure of its own.
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

    known = (one.first_at, other.first_at), (one.last_at, other.last_at)
    messages = [*(one.messages or (one.message,)), *(other.messages or (other.message,))]
    return replace(
        one,
        messages=tuple(dict.fromkeys(messages)),
        count=one.count + other.count,
        retried=one.retried + other.retried,
        dependents_failed=one.dependents_failed + other.dependents_failed,
        task_names=added(one.task_names, other.task_names),
        workers=added(one.workers, other.workers),
        first_at=min(filter(None, known[0]), default=None),
        last_at=max(filter(None, known[1]), default=None),
    )


#: Bytes of a journal read for what the program recorded of its own, and names shown of it.
_MAX_OWN_BYTES: Final = 4 * 2**20
_MAX_OWN: Final = 200


def _own_records(reader: RunReader, file: str) -> Iterator[Record]:
    """Records that only the program could tell; a journal that is too large is left alone."""
    if 0 < reader.size(file) <= _MAX_OWN_BYTES:
        yield from reader.records(file)


def _artifacts(reader: RunReader) -> tuple[Recorded, ...]:
    found: list[Recorded] = []
    for record in _own_records(reader, ARTIFACTS):
        if len(found) < _MAX_OWN:
            detail = {
                name: record.get(name)
                for name in ("location", "kind", "stage", "size_bytes", "digest", "task_id")
                if record.get(name) is not None
            }
            found.append(Recorded(str(record.get("artifact_name") or "-"), 1, detail))
    return tuple(sorted(found, key=lambda row: row.name))


def _metrics(reader: RunReader) -> tuple[Recorded, ...]:
    """The program's own gauges: what Dask and this package measure is told elsewhere."""
    found: dict[str, list[float]] = {}
    units: dict[str, str] = {}
    for record in _own_records(reader, METRICS):
        name, value = record.get("name"), record.get("value")
        if not isinstance(name, str) or not isinstance(value, int | float):
            continue
        if record.get("kind") != "gauge":
            continue
        if name.startswith(_NOT_OWN) or (name not in found and len(found) >= _MAX_OWN):
            continue
        found.setdefault(name, []).append(float(value))
        units[name] = str(record.get("unit") or "")
    return tuple(
        Recorded(
            name,
            len(values),
            {
                "last": values[-1],
                "min": min(values),
                "max": max(values),
                **({"unit": units[name]} if units[name] not in ("", "1") else {}),
            },
        )
        for name, values in sorted(found.items())
    )


_NOT_OWN: Final = ("dask.", "scalable.", "process.", "system.", "otel.")


def _missing(reader: RunReader, counts: Document) -> Iterator[str]:
    for problems in reader.problems.values():
        yield from (f"{sentence}." for sentence in problems.sentences())
    telemetry = reader.document.get("telemetry")
    if isinstance(telemetry, Mapping):
        for what, count in _positive(telemetry.get("dropped")):
            if what.endswith(".jsonl"):
                yield f"{what}: {_records(count)} could not be written, and are lost."
            else:
                yield f"{count:,} × {what}: dropped while recording."
        for what, count in _positive(telemetry.get("uncertain")):
            yield f"{what}: {_records(count)} may not have reached the disk (a sync failed)."
        for what, count in _positive(telemetry.get("errors")):
            yield f"{count:,} × {what}: an error while recording."
        unseen = telemetry.get("graphs_unseen")
        if isinstance(unseen, int) and unseen > 0:
            yield (
                f"The scheduler told of no task of {unseen:,} of the graphs that were sent: it may "
                "have failed to read them, or to take them in before the run ended."
            )
        unwatched = telemetry.get("unwatched_workers")
        if isinstance(unwatched, Mapping) and unwatched:
            yield _unwatched(unwatched)
        restarts: Any = telemetry.get("restarts")
        if isinstance(restarts, list) and restarts:
            times = plural(len(cast("list[Any]", restarts)), "time")
            yield (
                f"The process that wrote the run died {times}; another one went on with what the "
                "first had not written."
            )
    unusable = counts.get("unusable_events")
    if unusable:
        yield f"{_records(unusable)} could not be understood, and are not in the numbers."


def _unwatched(workers: Mapping[Any, Any]) -> str:
    name, reason = next(iter(workers.items()))
    others = len(workers) - 1
    who = f"Worker {name}" if not others else f"Worker {name} and {others:,} more"
    return (
        f"{who} could not be watched ({reason}): starts and CPU times of attempts there and last "
        "words are missing. Install scalable-otel there."
    )


def _positive(counts: object) -> Iterator[tuple[str, int]]:
    if isinstance(counts, Mapping):
        for what, count in counts.items():
            if isinstance(count, int) and count > 0:
                yield str(what), count


def _records(count: int) -> str:
    return "1 record" if count == 1 else f"{count:,} records"


def _notes(reader: RunReader, counts: Document, tasks: Document) -> Iterator[str]:
    if OTHER in tasks:
        yield f"Only {MAX_NAMES:,} task names are told apart; the rest is summed as {OTHER}."
    if counts["tasks"] and "recorder" not in reader.document:
        yield (
            "Written by an older tool: without sequence numbers a loss cannot be seen, and its "
            "`running` may stand for submitted."
        )


def _spread(row: Document) -> Spread:
    return Spread(row["count"], row["total"], row["mean"], row["p50"], row["p95"], row["max"])


def _task_group(name: str, row: Document) -> TaskGroup:
    return TaskGroup(
        name=name,
        count=row["count"],
        succeeded=row["succeeded"],
        failed=row["failed"],
        cancelled=row["cancelled"],
        retried=row["retried"],
        lost=row["lost"],
        recomputed=row["recomputed"],
        attempts=row["attempts"],
        cut_short=row.get("cut_short", 0),
        cut_short_s=row.get("cut_short_s", 0.0),
        duration=_spread(row["duration"]),
        queue=_spread(row["queue"]),
        cpu_s=row["cpu_s"],
        transfer_s=row["transfer_s"],
    )


def _attempt(row: Document) -> Attempt:
    return Attempt(
        task_id=str(row["task_id"]),
        task_name=str(row.get("task_name") or ""),
        state=str(row["state"]),
        attempt=row.get("attempt"),
        worker=row.get("worker"),
        duration_s=row["duration_s"],
        queue_s=row.get("queue_s"),
    )


def _failure_group(row: Document) -> FailureGroup:
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
    )


def _worker(row: Document) -> Worker:
    return Worker(
        address=row["worker"],
        name=row["worker_id"],
        host=row["host"],
        state=row["state"],
        reason=row["reason"],
        exit_code=row["exit_code"],
        signal=row["signal"],
        lost=row["lost"],
        nthreads=row["nthreads"],
        lifetime_s=row["lifetime_s"],
        busy_s=row["busy_s"],
        busy_ratio=row["busy_ratio"],
        attempts=row["attempts"],
        memory_gb_max=row["memory_gb_max"],
        memory_limit_gb=row["memory_limit_gb"],
    )


def _unfinished(row: Document) -> Unfinished:
    return Unfinished(
        task_id=row["task_id"],
        task_name=row["task_name"],
        attempt=row["attempt"],
        worker=row["worker"],
        since=parse_time(row["since"]),
    )
