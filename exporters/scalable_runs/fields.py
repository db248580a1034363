"""The type of each field of a run's files, and the one place where values are brought to it.

Files of a run may be damaged, or written by another tool: any field may hold any JSON value. The
reader passes each record and document through :func:`clean`, so that whatever reads a record finds
the right type or null. A field that is not named here is left as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, TypeAlias, cast

from scalable_runs import schema

#: Characters of a name, an id or a path; a longer one is none.
MAX_TEXT: Final = 64 * 1024
#: Entries kept of a table whose keys are free.
MAX_ENTRIES: Final = 1_000
#: Numbers are smaller than that: sums of a million of them are still finite and quickly printed.
MAX_NUMBER: Final = 2**63

Check: TypeAlias = Callable[[Any], bool]


class Each(NamedTuple):
    """A table whose keys are free and whose values are of one kind."""

    kind: Any


class Maybe(NamedTuple):
    """A value that may be null."""

    kind: Any


#: A check of one value, a table by field, a list of such tables (in a list), or :class:`Each`.
Kind: TypeAlias = "Check | Mapping[str, Any] | list[Any] | Each | Maybe"
Fields: TypeAlias = Mapping[str, Kind]


def text(value: Any) -> bool:
    """A name, an id or a path."""
    return value.__class__ is str and len(value) <= MAX_TEXT


def label(value: Any) -> bool:
    """A name that may be written as a number; it becomes a text."""
    return text(value) or integer(value)


def prose(value: Any) -> bool:
    """A message, a traceback or the output of a process: a text of any length."""
    return value.__class__ is str


def time(value: Any) -> bool:
    """An ISO 8601 time of this or the last millennium; whether it can be parsed shows later."""
    return value.__class__ is str and "1" <= value < "3" and len(value) <= 40


def number(value: Any) -> bool:
    """A number, of any sign."""
    return value.__class__ in (int, float) and -MAX_NUMBER < value < MAX_NUMBER


def amount(value: Any) -> bool:
    """A number from zero up."""
    return value.__class__ in (int, float) and 0 <= value < MAX_NUMBER


def integer(value: Any) -> bool:
    """A whole number, of any sign."""
    return value.__class__ is int and -MAX_NUMBER < value < MAX_NUMBER


def count(value: Any) -> bool:
    """A whole number from zero up."""
    return value.__class__ is int and 0 <= value < MAX_NUMBER


def flag(value: Any) -> bool:
    """True or false."""
    return value.__class__ is bool


def texts(value: Any) -> bool:
    """A list of names."""
    return value.__class__ is list and all(map(text, value))


def counts(value: Any) -> bool:
    """A list of whole numbers from zero up."""
    return value.__class__ is list and all(map(count, value))


def numbers(value: Any) -> bool:
    """A list of numbers."""
    return value.__class__ is list and all(map(number, value))


def table(value: Any) -> bool:
    """A table of anything."""
    return value.__class__ is dict


def anything(value: Any) -> bool:
    """Any value that is not null."""
    return value is not None


def clean(record: dict[str, Any], fields: Fields) -> int:
    """Make null of what is of another type than its field; return how much that was."""
    wrong = 0
    for name, value in record.items():
        kind = fields.get(name)
        if kind is not None and value is not None:
            found, wrong_below = _cleaned(value, kind)
            wrong += wrong_below
            if found is not value:
                record[name] = found
    return wrong


def _cleaned(value: Any, kind: Kind) -> tuple[Any, int]:
    """Return what is left of a value, None for nothing, and how much was wrong."""
    if isinstance(kind, Mapping):
        if value.__class__ is not dict:
            return None, 1
        return value, clean(value, kind)
    if isinstance(kind, list):
        if value.__class__ is not list:
            return None, 1
        rows = [_cleaned(row, kind[0]) for row in value]
        return [row for row, _ in rows if row is not None], sum(wrong for _, wrong in rows)
    if isinstance(kind, Each):
        if value.__class__ is not dict:
            return None, 1
        entries = list(value.items())
        kept = {k: v for k, v in entries[:MAX_ENTRIES] if fits(v, kind.kind)}
        return kept, len(entries) - len(kept)
    if isinstance(kind, Maybe) or not kind(value):
        return None, 1
    if kind is label and value.__class__ is not str:
        return str(value), 0
    return value, 0


def fits(value: Any, kind: Kind) -> bool:
    """Whether a value is of a kind; a table must have each of the kind's fields."""
    if isinstance(kind, Maybe):
        return value is None or fits(value, kind.kind)
    if isinstance(kind, Each):
        return value.__class__ is dict and all(fits(one, kind.kind) for one in value.values())
    if isinstance(kind, Mapping):
        return value.__class__ is dict and all(
            fits(value.get(name), below) for name, below in kind.items()
        )
    if isinstance(kind, list):
        return value.__class__ is list and all(fits(row, kind[0]) for row in value)
    return kind(value)


def cut(text: str, limit: int) -> str:
    """Cut a text in its middle: its head says what it is, its end what it came to."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n  … {len(text) - 2 * half:,} characters left out …\n{text[-half:]}"


def hex_id(value: object, digits: int) -> int:
    """Return an id written as so many hexadecimal digits; 0, which is no id, of all else."""
    if isinstance(value, str) and len(value) == digits and _HEX.issuperset(value):
        return int(value, 16)
    return 0


_HEX: Final = frozenset("0123456789abcdefABCDEF")

_COMMON: Final[Fields] = {
    "event_type": text,
    "run_id": text,
    "timestamp": time,
    "trace_id": text,
    "span_id": text,
    "component": text,
    "provider": text,
    "tag": text,
    "task_id": text,
    "task_name": text,
    "worker": text,
    "worker_id": label,
    "writer": text,
}
_DETAILS: Final[Fields] = {
    "attempt": count,
    "bases": texts,
    "cause": text,
    "confidence": text,
    "errno": integer,
    "evidence": texts,
    "exit_code": integer,
    "host": text,
    "memory_bytes": amount,
    "memory_limit_bytes": amount,
    "memory_peak_bytes": amount,
    "nthreads": count,
    "oom_kills_group": count,
    "oom_kills_host": count,
    "phase": text,
    "pid": count,
    "reason": text,
    "signal": text,
    "spilled_bytes": amount,
    "stderr_path": text,
    "stderr_tail": prose,
    "task_id": text,
    "task_name": text,
    "tasks": texts,
    "tasks_recomputed": count,
    "tasks_running": count,
    "time_left_s": number,
    "time_limit_s": number,
    "traceback": prose,
    "will_retry": flag,
    "worker": text,
    "worker_id": label,
}
_ATTRIBUTES: Final = {"attributes": table}
_SCOPE: Final[Fields] = {"name": text, "version": text}
_BUCKETS: Final[Fields] = {"offset": integer, "bucket_counts": counts}

#: Fields of the records of each journal.
JOURNALS: Final[dict[str, Fields]] = {
    schema.TASKS: {
        **_COMMON,
        "state": text,
        "attempt": count,
        "function_name": text,
        "duration_s": amount,
        "queue_s": number,
        "transfer_s": amount,
        "cpu_s": amount,
        "nbytes": amount,
        "result_type": text,
        "dependencies": texts,
        "dependency_count": count,
        "error_type": text,
        "error_message": prose,
        "blame": text,
        "recomputed": flag,
        "rescheduled": flag,
        "reopens": text,
        "parent_span_id": text,
        "phases_start": time,
    },
    schema.WORKERS: {**_COMMON, "state": text, "details": _DETAILS},
    schema.RESOURCES: {
        **_COMMON,
        "entity_type": text,
        "entity_id": label,
        "requested_cpus": amount,
        "observed_cpu": amount,
        "observed_memory_gb": amount,
        "observed_memory_limit_gb": amount,
    },
    schema.FAILURES: {
        **_COMMON,
        "failure_class": text,
        "message": prose,
        "details": _DETAILS,
    },
    schema.CACHE: {
        **_COMMON,
        "function_name": text,
        "key_digest": text,
        "hit": flag,
        "duration_s": amount,
        "size_bytes": count,
    },
    schema.ARTIFACTS: {
        **_COMMON,
        "artifact_name": text,
        "location": text,
        "kind": text,
        "size_bytes": count,
        "digest": text,
        "stage": text,
    },
    schema.COST: {
        **_COMMON,
        "region": text,
        "currency": text,
        "total_hourly": number,
        "total_monthly": number,
    },
    schema.SPANS: {
        **_COMMON,
        **_ATTRIBUTES,
        "parent_span_id": text,
        "name": text,
        "kind": text,
        "start_time": time,
        "end_time": time,
        "duration_s": amount,
        "status": {"code": text, "description": prose},
        "events": [{"name": text, "timestamp": time, **_ATTRIBUTES}],
        "links": [{"trace_id": text, "span_id": text, **_ATTRIBUTES}],
        "scope": _SCOPE,
        "resource": table,
    },
    schema.LOGS: {
        **_COMMON,
        **_ATTRIBUTES,
        "observed_timestamp": time,
        "event_name": text,
        "severity_number": integer,
        "severity_text": text,
        "body": anything,
        "scope": _SCOPE,
        "resource": table,
    },
    schema.METRICS: {
        **_COMMON,
        **_ATTRIBUTES,
        "name": text,
        "kind": text,
        "unit": text,
        "temporality": text,
        "monotonic": flag,
        "start_time": time,
        "value": number,
        "count": count,
        "sum": number,
        "min": number,
        "max": number,
        "bounds": numbers,
        "bucket_counts": counts,
        "scale": integer,
        "zero_count": count,
        "positive": _BUCKETS,
        "negative": _BUCKETS,
        "scope": _SCOPE,
        "resource": table,
    },
    schema.UPLOADS: {**_COMMON, "outcome": text, "log": text, "sha256": text, "error": text},
}

_PROCESS: Final[Fields] = {"pid": count, "process_started": text}
_COUNTED: Final = Each(count)

#: Fields of documents that may be read in part.
DOCUMENTS: Final[dict[str, Fields]] = {
    schema.RUN: {
        "schema_version": count,
        "run_id": text,
        "project_name": text,
        "target_name": text,
        "provider_name": text,
        "manifest_lock": text,
        "source_manifest_path": text,
        "started_at": time,
        "finished_at": time,
        "status": text,
        "trace_id": text,
        "environment": {"packages": Each(text)},
        "code_identities": table,
        "recorder": {"host": text, "pid": count, "boot_id": text, "heartbeat_at": time},
        "telemetry": {
            "dropped": _COUNTED,
            "errors": _COUNTED,
            "uncertain": _COUNTED,
            "graphs_unseen": count,
            "usage_left_out": count,
            "unwatched_workers": Each(text),
            "not_sent": _COUNTED,
            "sent": _COUNTED,
        },
    },
    schema.OWNER: {
        **_PROCESS,
        "host": text,
        "boot_id": text,
        "pid_namespace": text,
        "created_at": time,
        "writer": _PROCESS,
    },
}

_MEMBERS: Final = Each(integer)
_SPREAD: Final[Fields] = {
    "count": count,
    "total": amount,
    "mean": Maybe(amount),
    "p50": Maybe(amount),
    "p95": Maybe(amount),
    "max": Maybe(amount),
}

#: summary.json: it is read as a whole or not at all, since the journals tell the same.
SUMMARY: Final[Fields] = {
    "schema_version": count,
    "last_at": Maybe(text),
    "counts": {
        **dict.fromkeys(
            (
                *("task_events", "resource_events", "worker_events", "failure_events"),
                *("cache_events", "artifact_events", "cost_events", "unusable_events"),
                *("tasks", "tasks_submitted", "tasks_succeeded", "tasks_failed"),
                *("tasks_cancelled", "tasks_retried", "tasks_lost", "tasks_recomputed"),
                *("tasks_running", "tasks_waiting", "attempts", "workers", "workers_lost"),
            ),
            integer,
        ),
    },
    "timing": {
        "wall_s": Maybe(amount),
        "tasks": Each(
            {
                **dict.fromkeys(
                    (
                        *("count", "submitted", "succeeded", "failed", "cancelled", "retried"),
                        *("lost", "recomputed", "attempts"),
                    ),
                    integer,
                ),
                "duration": _SPREAD,
                "queue": _SPREAD,
                "cpu_s": amount,
                "transfer_s": amount,
            }
        ),
        "slowest": [
            {
                "task_id": text,
                "task_name": Maybe(text),
                "state": text,
                "attempt": Maybe(count),
                "worker": Maybe(text),
                "duration_s": amount,
                "queue_s": Maybe(number),
            }
        ],
    },
    "cache": {"hits": count, "misses": count},
    "resources": {
        "observed_memory_gb_max": Maybe(amount),
        "thread_seconds": amount,
        "busy_seconds": amount,
        "busy_ratio": Maybe(amount),
        "workers": [
            {
                **dict.fromkeys(
                    ("worker", "worker_id", "host", "state", "reason", "signal"), Maybe(text)
                ),
                "exit_code": Maybe(integer),
                "nthreads": Maybe(count),
                "lost": count,
                "lifetime_s": amount,
                "busy_s": amount,
                "busy_ratio": Maybe(amount),
                "attempts": count,
                "memory_gb_max": Maybe(amount),
                "memory_limit_gb": Maybe(amount),
            }
        ],
    },
    "cost": table,
    "failures": {
        "classes": _MEMBERS,
        "groups": [
            {
                "failure_class": text,
                "message": text,
                "count": count,
                "retried": count,
                "dependents_failed": count,
                "phase": Maybe(text),
                "task_names": _MEMBERS,
                "workers": _MEMBERS,
                "first_at": Maybe(text),
                "last_at": Maybe(text),
                "traceback": Maybe(text),
            }
        ],
    },
    "unfinished": {
        "tasks": [
            {
                "task_id": text,
                "task_name": text,
                "attempt": count,
                "worker": Maybe(text),
                "since": text,
            }
        ],
    },
}


class Shapes:
    """Records of one journal seen to be right, by their fields and types; used by one thread.

    Nearly all records of a journal have one of a few shapes. A record of a shape that was checked
    before needs no look at each of its fields, only at its numbers and lists.
    """

    __slots__ = ("_fields", "_known")

    #: Shapes kept.
    _MAX: Final = 256

    def __init__(self, file: str) -> None:
        self._fields: Fields = JOURNALS.get(file, _COMMON)
        self._known: dict[tuple[Any, ...], tuple[tuple[str, ...], tuple[str, ...]]] = {}

    def clean(self, record: dict[str, Any], size: int) -> int:
        """Clean a record that was read from `size` bytes; return how much was wrong."""
        shape = (*record, *map(type, record.values()))
        known = self._known.get(shape)
        if known is not None and size <= MAX_TEXT:
            numbers, lists = known
            for name in numbers:
                if not 0 <= record[name] < MAX_NUMBER:
                    break
            else:
                if "1" <= record.get("timestamp", "") < "3" and all(
                    set(map(type, record[name])) <= _ONLY_TEXT for name in lists
                ):
                    return 0
        wrong = clean(record, self._fields)
        if known is None and not wrong and len(self._known) < self._MAX:
            self._learn(record, shape)
        return wrong

    def _learn(self, record: dict[str, Any], shape: tuple[Any, ...]) -> None:
        if shape != (*record, *map(type, record.values())):
            return  # something of it was replaced
        numbers: list[str] = []
        lists: list[str] = []
        for name, value in record.items():
            kind = self._fields.get(name)
            if kind is None or value.__class__ in (str, bool):
                continue
            if value.__class__ in (int, float):
                numbers.append(name)
            elif kind is texts:
                lists.append(name)
            else:
                return
        self._known[shape] = tuple(numbers), tuple(lists)


_ONLY_TEXT: Final[frozenset[type]] = cast("frozenset[type]", frozenset({str}))
