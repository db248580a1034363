"""The run directory's contract: file names, record fields, states, schema version.

Every other module of this package, and everything that reads a run directory, takes its names
from here. Fields may be added; none is renamed or given another meaning without a new
:data:`SCHEMA_VERSION`.
"""

from __future__ import annotations

import re
from typing import Any, Final, Literal, NotRequired, TypeAlias, TypedDict

#: Written into every record and into run.json.
SCHEMA_VERSION: Final = 1

TASKS: Final = "tasks.jsonl"
RESOURCES: Final = "resources.jsonl"
WORKERS: Final = "workers.jsonl"
FAILURES: Final = "failures.jsonl"
CACHE: Final = "cache.jsonl"
ARTIFACTS: Final = "artifacts.jsonl"
COST: Final = "cost.jsonl"

#: The journals that exist in every run, also when nothing happened.
JOURNALS: Final = (TASKS, RESOURCES, WORKERS, FAILURES, CACHE, ARTIFACTS, COST)

SPANS: Final = "spans.jsonl"
LOGS: Final = "logs.jsonl"
METRICS: Final = "metrics.jsonl"

#: Journals that appear once there is something to write: signals that are no record of the seven.
SIGNALS: Final = (SPANS, LOGS, METRICS)

MANIFEST: Final = "manifest.yaml"
PLAN: Final = "plan.json"
LOCK: Final = "manifest.lock"
RUN: Final = "run.json"
SUMMARY: Final = "summary.json"

#: Outcomes of sending the logs of dead workers; see :mod:`scalable.crash_upload.uploads`.
UPLOADS: Final = "uploads.jsonl"

#: Made with O_EXCL by the one process that writes a run; see :mod:`scalable_runs.writer`.
OWNER: Final = "owner.json"

EventType: TypeAlias = Literal[
    "task", "worker", "resource", "failure", "cache", "artifact", "cost", "span", "log", "metric"
]

#: Which journal holds the records of an event type.
FILE_OF: Final[dict[str, str]] = {
    "task": TASKS,
    "resource": RESOURCES,
    "worker": WORKERS,
    "failure": FAILURES,
    "cache": CACHE,
    "artifact": ARTIFACTS,
    "cost": COST,
    "span": SPANS,
    "log": LOGS,
    "metric": METRICS,
}

TaskState: TypeAlias = Literal[
    "submitted", "running", "retried", "lost", "succeeded", "failed", "cancelled"
]
#: A task's last line is one of these once its run is closed.
FINAL_STATES: Final = frozenset({"succeeded", "failed", "cancelled"})

WorkerState: TypeAlias = Literal["launched", "ready", "lost", "removed"]

RunStatus: TypeAlias = Literal["running", "completed", "failed", "cancelled", "lost"]
RUN_STATUSES: Final = frozenset({"running", "completed", "failed", "cancelled", "lost"})

#: A run id is a file name and nothing else: no separator, no leading dot, bounded.
RUN_ID_PATTERN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
#: The time that most run ids begin with.
RUN_ID_TIME: Final = re.compile(r"run-(\d{8}T\d{6})Z")

#: Characters of `error_message` kept in tasks.jsonl; failures.jsonl has the whole.
MAX_ERROR_MESSAGE: Final = 10_000
#: Dependencies listed on a `submitted` line; `dependency_count` has the number of all.
MAX_DEPENDENCIES: Final = 1_000

Record: TypeAlias = dict[str, Any]


class Recorder(TypedDict):
    """Who writes a run, so that a reader can tell a live run from one whose recorder died."""

    host: str
    pid: int
    boot_id: str
    heartbeat_at: str


class Restart(TypedDict):
    """The process that wrote the run died, and another one went on in new files."""

    #: When its end was noticed, and how long after that the other one went on.
    at: str
    gap_s: float


class Telemetry(TypedDict):
    """What the record lacks: counts by cause, and the recorder's own errors."""

    dropped: dict[str, int]
    errors: dict[str, int]
    #: Lines, by file, that were written after the last good sync before one that failed.
    uncertain: NotRequired[dict[str, int]]
    #: Workers on which the package could not be used: why, by `worker_id`; at most 1,000 of them.
    unwatched_workers: NotRequired[dict[str, str]]
    #: Graphs that the program sent and of which the scheduler took nothing in: their tasks are not
    #: in the record.
    graphs_unseen: NotRequired[int]
    #: Each time that the process which writes the run died and another one went on.
    restarts: NotRequired[list[Restart]]
    #: Short attempts whose usage has no record in resources.jsonl.
    usage_left_out: NotRequired[int]
    #: Spans, metric collections and log records, by signal, that a collector should have got and
    #: did not; this directory has them.
    not_sent: NotRequired[dict[str, int]]
    #: And what it did get; absent where nothing was to be sent.
    sent: NotRequired[dict[str, int]]


class JournalMark(TypedDict):
    """The synced part of one file: its length, its last ``seq`` and the CRC-32 of its bytes."""

    bytes: int
    seq: int
    crc32: int


class RunDocument(TypedDict):
    """run.json. Every key of the contract; times are ISO 8601, UTC, microseconds, ``Z``."""

    schema_version: int
    run_id: str
    project_name: str
    target_name: str
    provider_name: str
    manifest_lock: str
    source_manifest_path: str | None
    started_at: str
    finished_at: str | None
    status: RunStatus
    trace_id: str
    environment: dict[str, Any]
    code_identities: dict[str, Any]
    recorder: NotRequired[Recorder]
    telemetry: NotRequired[Telemetry]
    journal: NotRequired[dict[str, JournalMark]]
