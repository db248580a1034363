"""The attempts of a run, one after the other, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final, NamedTuple, cast

from scalable_runs.plain import parse_time
from scalable_runs.reader import RunReader
from scalable_runs.schema import FAILURES, TASKS, FailureRecord, TaskRecord

#: Attempts under way at one time whose start is known, and failures whose cause is known: the
#: attempts beyond are yielded without.
MAX_OPEN: Final = 100_000
MAX_CAUSES: Final = 100_000


class Attempt(NamedTuple):
    """One execution of a task."""

    task_id: str
    task_name: str
    #: From 1.
    attempt: int
    #: Address; None where the record does not have it.
    worker: str | None
    #: None if the record has neither the line of the start nor a duration.
    start: datetime | None
    #: None for an attempt that runs, or ran when the record ends.
    end: datetime | None
    #: Seconds of execution alone, of waiting for a worker, and of fetching inputs.
    duration_s: float | None
    queue_s: float | None
    transfer_s: float | None
    #: `succeeded`, `failed`, `retried`, `lost`, `cancelled`; `running` if it has not ended.
    state: str
    #: Class of the cause, of an attempt that failed.
    cause: str | None = None
    #: The writer that recorded it, if the run has several: each has tasks and workers of its own.
    writer: str | None = None

    @property
    def elapsed_s(self) -> float | None:
        """Seconds from the start to the end."""
        if self.start is None or self.end is None:
            return None
        return max(0.0, (self.end - self.start).total_seconds())


def load_attempts(reader: RunReader) -> Iterator[Attempt]:
    """Yield the attempts of a run in the order of their ends, then those that have not ended.

    Memory is bounded by the attempts under way at one time and by :data:`MAX_CAUSES`, not by the
    length of the run.

    Parameters
    ----------
    reader : RunReader
        The run; it may be live, finished or crashed.

    Yields
    ------
    Attempt

    Examples
    --------
    >>> for attempt in load_attempts(RunReader(".scalable/runs/run-2026…")):  # doctest: +SKIP
    ...     print(attempt.task_id, attempt.start, attempt.state)
    """
    causes = _causes(reader)
    tracker = AttemptTracker()
    for record in reader.records(TASKS):
        attempt = tracker.add(cast("TaskRecord", record))
        if attempt is not None:
            of = attempt.task_id, attempt.attempt, attempt.writer
            yield attempt._replace(cause=causes.get(of))
    yield from tracker.open()


class AttemptTracker:
    """Puts the lines of attempts together; fed record by record, in the order of the journal."""

    def __init__(self) -> None:
        #: By task, and by writer if there are several.
        self._open: dict[tuple[str, str | None], Attempt] = {}

    def add(self, record: TaskRecord) -> Attempt | None:
        """Take in a record of tasks.jsonl; return the attempt that it ends, if it ends one."""
        task_id, state = record.get("task_id"), record.get("state")
        if task_id is None or state is None or state == "submitted":
            return None
        at = parse_time(record.get("timestamp"))
        key = task_id, record.get("writer")
        if state == "running":
            if len(self._open) < MAX_OPEN:
                self._open[key] = _attempt(task_id, state, record, start=at)
            return None
        begun = self._open.pop(key, None)
        number = record.get("attempt") or 0
        if begun is None and (state == "cancelled" or "blame" in record or number < 1):
            return None  # the task ended without another attempt
        attempt = _attempt(task_id, state, record, end=at)
        if begun is not None:
            return attempt._replace(
                attempt=begun.attempt, worker=attempt.worker or begun.worker, start=begun.start
            )
        return attempt._replace(start=_earlier(at, attempt.duration_s))

    def open(self) -> Iterator[Attempt]:
        """Yield the attempts that have not ended, in the order of their starts."""
        yield from self._open.values()


def _attempt(
    task_id: str,
    state: str,
    record: TaskRecord,
    *,
    start: datetime | None = None,
    end: datetime | None = None,
) -> Attempt:
    return Attempt(
        task_id,
        record.get("task_name") or "",
        record.get("attempt") or 1,
        record.get("worker"),
        start,
        end,
        record.get("duration_s"),
        record.get("queue_s"),
        record.get("transfer_s"),
        state,
        writer=record.get("writer"),
    )


def _earlier(end: datetime | None, duration: float | None) -> datetime | None:
    if end is None or duration is None:
        return None
    try:
        return end - timedelta(seconds=duration)
    except OverflowError:  # a damaged record
        return None


def _causes(reader: RunReader) -> dict[tuple[str, int, str | None], str]:
    """Return the causes of failures by task and attempt."""
    causes: dict[tuple[str, int, str | None], str] = {}
    for record in reader.records(FAILURES):
        failure = cast("FailureRecord", record)
        details = failure.get("details") or {}
        task_id = failure.get("task_id") or details.get("task_id")
        cause, number = details.get("cause"), details.get("attempt")
        if task_id and cause and number and len(causes) < MAX_CAUSES:
            causes[task_id, number, failure.get("writer")] = cause
    return causes
