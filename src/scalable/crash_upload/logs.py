"""The logs of workers that died, as a run holds them, and what became of sending them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from scalable_runs.reader import RunReader
from scalable_runs.schema import FAILURES, UPLOADS
from scalable_runs.stores.base import Store, joined

#: Outcomes of a run's uploads that are looked at: the last ones.
MAX_OUTCOMES: Final = 10_000
#: Largest log that is sent, in bytes: a log is bounded, a file in its place may not be.
MAX_LOG: Final = 64 * 2**20


@dataclass(frozen=True, slots=True)
class CrashLog:
    """The log of one worker that died."""

    worker_id: str
    #: Below the run's directory.
    log: str
    cause: str
    #: When the worker was lost, ISO 8601; None where that is not known.
    lost_at: str | None = None


def crash_logs(reader: RunReader) -> Iterator[CrashLog]:
    """Yield the logs of dead workers that lie in a run's directory, the first death first."""
    for record in reader.records(FAILURES):
        details: Mapping[str, Any] = record.get("details") or {}
        path = details.get("stderr_path")
        if record.get("failure_class") != "WorkerLost" or not path:
            continue
        if reader.store.stat(path) is not None:
            yield CrashLog(
                details.get("worker_id") or details.get("worker") or "",
                path,
                details.get("cause") or "unknown",
                record.get("timestamp"),
            )


def read_log(store: Store, log: str) -> bytes:
    """Return a log of a run; if it is larger than a log can be, its end.

    Raises
    ------
    OSError
        It cannot be read.
    """
    entry = store.stat(log)
    start = max(0, entry.size - MAX_LOG) if entry is not None else 0
    return joined(store.read(log, start), 2 * MAX_LOG)[:MAX_LOG]


def outcomes(store: Store) -> list[dict[str, Any]]:
    """Return the records of a run's uploads.jsonl, in order; broken lines are left out."""
    records = RunReader(store, wait=0).records(UPLOADS)
    return list(deque(records, maxlen=MAX_OUTCOMES))
