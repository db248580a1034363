"""Which lines of a run's logs are wanted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from scalable.analysis.log_lines import LogLine
from scalable_runs.plain import parse_time
from scalable_runs.reader import RunReader
from scalable_runs.schema import ENDS, TASKS


@dataclass(frozen=True, slots=True)
class LogChoice:
    """What a user asks for; None is no condition.

    Attributes
    ----------
    task
        Id of a task, the beginning of one, or the name of tasks.
    attempt
        Number of an attempt.
    worker
        Name or address of a worker.
    since
        Lines before this are left out.
    severity
        Least severity number of OpenTelemetry; lines without one are left out then.
    """

    task: str | None = None
    attempt: int | None = None
    worker: str | None = None
    since: datetime | None = None
    severity: int | None = None

    @property
    def wants_workers(self) -> bool:
        """Whether output that belongs to no task is wanted."""
        return self.task is None and self.attempt is None and self.severity is None

    def takes(self, line: LogLine, windows: Windows | None = None) -> bool:
        """Whether a line is wanted; `windows` says when attempts ran."""
        if self.since is not None and line.time < self.since.timestamp():
            return False
        if self.severity is not None and (line.severity or 0) < self.severity:
            return False
        if self.worker is not None and self.worker not in (line.worker, line.address):
            return False
        if self.task is not None and not self._is_task(line):
            return False
        if self.attempt is None:
            return True
        if line.attempt is None and windows is not None:
            line.attempt = windows.attempt_of(line)
        return line.attempt == self.attempt

    def _is_task(self, line: LogLine) -> bool:
        return matches(self.task or "", line.task_id, line.task_name)


def matches(wanted: str, task_id: str | None, task_name: str | None) -> bool:
    """Whether a task is one that is asked for: by its id, the beginning of one, or its name."""
    if task_id is None:
        return False
    return wanted == task_name or task_id.startswith(wanted) or task_id.startswith(f"('{wanted}")


class Windows:
    """When each attempt of some tasks ran, for records that have the task alone.

    Parameters
    ----------
    run
        The run.
    task
        The tasks, as :attr:`LogChoice.task`; None: all.
    """

    def __init__(self, run: RunReader, task: str | None) -> None:
        self._windows: dict[tuple[str | None, str], list[tuple[int, float, float]]] = {}
        #: Ids of the tasks that there are, of those that are asked for.
        self.tasks: set[str] = set()
        begun: dict[tuple[str | None, str, int], float] = {}
        for record in run.records(TASKS):
            name, task_id = record.get("task_name"), record.get("task_id")
            if task_id is None or (task is not None and not matches(task, task_id, name)):
                continue
            self.tasks.add(task_id)
            moment, number = parse_time(record.get("timestamp")), record.get("attempt")
            if moment is None or not number:
                continue
            of = record.get("writer"), task_id
            if record.get("state") == "running":
                begun[(*of, number)] = moment.timestamp()
            elif record.get("state") in ENDS:
                began = begun.pop((*of, number), moment.timestamp())
                self._windows.setdefault(of, []).append((number, began, moment.timestamp()))
        for (writer, task_id, number), began in begun.items():
            self._windows.setdefault((writer, task_id), []).append((number, began, float("inf")))

    def attempt_of(self, line: LogLine) -> int | None:
        """Return the attempt of the line's task that ran at its time."""
        found: Iterator[int] = (
            number
            for number, begin, end in self._windows.get((line.writer, line.task_id or ""), ())
            if begin - _SLACK <= line.time <= end + _SLACK
        )
        return next(found, None)


#: Tolerance in seconds.
_SLACK = 0.001
