"""The logs of workers that died, as a run holds them, and what became of sending them."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from scalable_runs.reader import RunReader, open_file
from scalable_runs.schema import FAILURES, UPLOADS

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
        if find(reader.path, path) is not None:
            yield CrashLog(
                details.get("worker_id") or details.get("worker") or "",
                path,
                details.get("cause") or "unknown",
                record.get("timestamp"),
            )


def find(run_dir: Path, log: str) -> Path | None:
    """Path of a run's log, if it is a file within the run's directory."""
    with suppress(OSError, ValueError, RuntimeError):  # the last of a loop of links
        path = (run_dir / log).resolve(strict=True)
        if path.is_relative_to(run_dir.resolve()) and path.is_file():
            return path
    return None


def read_log(path: Path) -> bytes:
    """Return a log; of a file that is larger than a log can be, the end."""
    with open_file(path) as fd:
        size = os.fstat(fd).st_size
        os.lseek(fd, max(0, size - MAX_LOG), os.SEEK_SET)
        with os.fdopen(os.dup(fd), "rb") as file:
            return file.read(MAX_LOG)


def outcomes(run_dir: Path) -> list[dict[str, Any]]:
    """Return what a run's uploads.jsonl tells, in order; broken lines are left out."""
    records = RunReader(run_dir, wait=0).records(UPLOADS)
    return list(deque(records, maxlen=MAX_OUTCOMES))
