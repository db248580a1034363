"""The logs of workers that died, as a run has them, and the outcomes of sending them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from scalable_runs.reader import RunReader
from scalable_runs.schema import FAILURES, UPLOADS
from scalable_runs.stores.base import Store, joined
from scalable_runs.writers import told_apart

#: Outcomes that are read: the last ones.
MAX_OUTCOMES: Final = 10_000
#: Largest log that is read, in bytes: a log is bounded, a file in its place may not be.
MAX_LOG: Final = 64 * 2**20


@dataclass(frozen=True, slots=True)
class CrashLog:
    """The log of one worker that died."""

    worker_id: str
    #: Name in the run.
    log: str
    cause: str
    #: When the worker was lost, ISO 8601; None if unknown.
    lost_at: str | None = None


def deaths(reader: RunReader) -> Iterator[dict[str, Any]]:
    """Yield the details of each lost worker, and when it was `lost_at`; the first death first."""
    for record in reader.records(FAILURES):
        if record.get("failure_class") == "WorkerLost":
            details: dict[str, Any] = told_apart(record).get("details") or {}
            yield {
                **details,
                "worker_id": details.get("worker_id") or details.get("worker"),
                "cause": details.get("cause") or "unknown",
                "lost_at": record.get("timestamp"),
            }


def crash_logs(reader: RunReader) -> Iterator[CrashLog]:
    """Yield the logs that are in the run, the first death first."""
    for death in deaths(reader):
        log = death.get("stderr_path")
        if not log:
            continue
        store, name = reader.place_of(log)
        if store.stat(name) is not None:
            yield CrashLog(death["worker_id"] or "", log, death["cause"], death["lost_at"])


def read_log(store: Store, log: str) -> bytes:
    """Return a log of a run; if it is larger than a log can be, its end."""
    entry = store.stat(log)
    start = max(0, entry.size - MAX_LOG) if entry is not None else 0
    return joined(store.read(log, start), 2 * MAX_LOG)[:MAX_LOG]


def outcomes(store: Store) -> list[dict[str, Any]]:
    """Return the records of a run's uploads.jsonl, in order; broken lines are left out."""
    records = RunReader(store, wait=0).records(UPLOADS)
    return list(deque(records, maxlen=MAX_OUTCOMES))
