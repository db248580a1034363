"""One line of a run's logs: what a task printed, a record of a logger, or output of a worker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal, cast

from scalable_runs.plain import parse_time

#: Who wrote it: a task, a logger, a worker's process (where the task is not known), or the run: a
#: failure.
Source = Literal["task", "log", "worker", "failure"]

_FAILURE: Final = 17


@dataclass(slots=True)
class LogLine:
    """A line, or some that belong together."""

    #: Seconds since the epoch.
    time: float
    source: Source
    text: str
    #: `stdout` or `stderr`, where it is known.
    stream: str | None = None
    #: Severity number of OpenTelemetry, and its name at the source; only of records.
    severity: int | None = None
    level: str | None = None
    logger: str | None = None
    task_id: str | None = None
    task_name: str | None = None
    attempt: int | None = None
    #: The worker's name, and its address.
    worker: str | None = None
    address: str | None = None
    #: The writer, of a run that several programs write.
    writer: str | None = None
    trace_id: str | None = None
    span_id: str | None = None
    #: It was not written by Python, and only this attempt ran at that time.
    inferred: bool = False
    #: Characters that were left out before it.
    left_out: int = 0
    #: Where it was read; keeps the order of lines of one time.
    order: int = field(default=0, compare=False)

    def plain(self) -> dict[str, Any]:
        """Return it for programs."""
        moment = datetime.fromtimestamp(self.time, UTC).isoformat(timespec="microseconds")
        found: dict[str, Any] = {
            "timestamp": moment.replace("+00:00", "Z"),
            "source": self.source,
            "text": self.text,
        }
        names = ("stream", "level", "logger", "task_id", "task_name", "attempt", "worker")
        for name in (*names, "writer", "trace_id", "span_id", "inferred", "left_out"):
            value = getattr(self, name)
            if value not in (None, False, 0):
                found[name] = value
        return found


def line_of_record(record: Mapping[str, Any]) -> LogLine | None:
    """Return the line of a record of logs.jsonl; None if it says nothing, or no time."""
    moment = parse_time(record.get("timestamp"))
    body = record.get("body")
    if moment is None or body is None:
        return None
    attributes = _mapping(record.get("attributes"))
    resource = _mapping(record.get("resource"))
    severity = record.get("severity_number")
    stream = _text(attributes.get("log.iostream"))
    is_output = record.get("event_name") == "dask.task.output"
    return LogLine(
        moment.timestamp(),
        "task" if is_output else "log",
        body if isinstance(body, str) else str(body),
        stream=stream,
        severity=severity if type(severity) is int else None,
        level=_text(record.get("severity_text")),
        logger=None if is_output else _text(_mapping(record.get("scope")).get("name")),
        task_id=_text(attributes.get("dask.task.key")),
        task_name=_text(attributes.get("dask.task.name")),
        attempt=_number(attributes.get("dask.task.attempt")),
        worker=_text(resource.get("dask.worker.name")),
        address=_text(resource.get("dask.worker.address")),
        writer=_text(record.get("writer")),
        trace_id=_text(record.get("trace_id")),
        span_id=_text(record.get("span_id")),
        inferred=attributes.get("dask.output.inferred") is True,
        left_out=_number(attributes.get("dask.output.left_out")) or 0,
    )


def line_of_failure(record: Mapping[str, Any]) -> LogLine | None:
    """Return the line of a record of failures.jsonl; None if it has no time."""
    moment = parse_time(record.get("timestamp"))
    if moment is None:
        return None
    details = _mapping(record.get("details"))
    found = _text(record.get("failure_class")) or "failure"
    message = _text(record.get("message"))
    again = " (will run again)" if details.get("will_retry") is True else ""
    return LogLine(
        moment.timestamp(),
        "failure",
        f"{found}: {message}{again}" if message else f"{found}{again}",
        severity=_FAILURE,
        level="FAILED",
        task_id=_text(record.get("task_id")),
        attempt=_number(details.get("attempt")),
        worker=_text(details.get("worker_id")),
        address=_text(details.get("worker")),
        writer=_text(record.get("writer")),
        trace_id=_text(record.get("trace_id")),
        span_id=_text(record.get("span_id")),
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: Any) -> int | None:
    return value if type(value) is int else None
