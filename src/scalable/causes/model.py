"""What is known of a failure, and the verdict on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from scalable.causes.catalog import Confidence


class Case(NamedTuple):
    """What is known of one failure; what is not known keeps its default."""

    #: Class of the exception, with or without its module.
    failure_class: str
    message: str = ""
    traceback: str = ""
    #: Classes that the exception's class inherits from, nearest first.
    bases: tuple[str, ...] = ()
    errno: int | None = None
    #: How the process ended: its status, or the signal's name.
    exit_code: int | None = None
    signal: str | None = None
    #: Why a lost worker left, as Dask or the recorder put it.
    reason: str = ""
    #: The nanny reported that it ended the worker for its memory.
    memory_kill: bool = False
    #: Processes that the kernel's out-of-memory killer ended in the worker's control group, and on
    #: its host, while the worker lived.
    oom_kills_group: int = 0
    oom_kills_host: int = 0
    #: Seconds from the worker's end to the end of its batch job's time; negative: it was over.
    time_left: float | None = None
    #: Last lines of the worker's stderr.
    stderr_tail: str = ""
    #: The task at fault, of a task that failed because another did.
    blame: str | None = None
    is_worker: bool = False
    #: Dask ended the worker after so many seconds without a heartbeat.
    worker_ttl: float | None = None


class Verdict(NamedTuple):
    """A cause, what it was judged by, and how sure that is."""

    cause: str
    confidence: Confidence
    evidence: tuple[str, ...]


def case_of(record: Mapping[str, Any]) -> Case:
    """Make a case of a record of failures.jsonl, also of one that an older tool wrote."""
    found: Any = record.get("details")
    details: Mapping[str, Any] = found if isinstance(found, Mapping) else {}
    failure_class = _text(record.get("failure_class"))
    bases: Any = details.get("bases")
    return Case(
        failure_class,
        _text(record.get("message")),
        _text(details.get("traceback")),
        tuple(filter(None, map(_text, bases))) if isinstance(bases, list | tuple) else (),
        _integer(details.get("errno")),
        _integer(details.get("exit_code")),
        _text(details.get("signal")) or None,
        _text(details.get("reason")),
        bool(details.get("memory_kill")),
        _integer(details.get("oom_kills_group")) or 0,
        _integer(details.get("oom_kills_host")) or 0,
        _number(details.get("time_left_s")),
        _text(details.get("stderr_tail")),
        _text(details.get("blame")) or None,
        failure_class == "WorkerLost" or details.get("phase") == "worker_lost",
        _number(details.get("worker_ttl_s")),
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _integer(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
