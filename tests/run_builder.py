"""Writes runs as a recorder would, through the real writer, with a clock of its own."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from scalable_runs.schema import FILE_OF, Record, RunDocument
from scalable_runs.summary import RunSummary, name_of_key
from scalable_runs.writer import RunWriter

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def at(offset: float = 0.0) -> str:
    """The time so many seconds after the start of the run."""
    return (START + timedelta(seconds=offset)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def run_document(run_id: str, **changes: Any) -> RunDocument:
    document: dict[str, Any] = {
        "schema_version": 1,
        "run_id": run_id,
        "project_name": "flights",
        "target_name": "existing",
        "provider_name": "LocalCluster",
        "manifest_lock": "sha256:0",
        "source_manifest_path": None,
        "started_at": at(),
        "finished_at": None,
        "status": "running",
        "trace_id": "0af7651916cd43dd8448eb211c80319c",
        "environment": {},
        "code_identities": {},
    }
    return {**document, **changes}  # type: ignore[return-value]


def task(state: str, task_id: str, offset: float, **fields: Any) -> Record:
    fields.setdefault("task_name", name_of_key(task_id))
    fields.setdefault("attempt", 0 if state == "submitted" else 1)
    return {
        "event_type": "task",
        "timestamp": at(offset),
        "task_id": task_id,
        "state": state,
        **fields,
    }


def worker(state: str, number: int, offset: float, **details: Any) -> Record:
    return {
        "event_type": "worker",
        "timestamp": at(offset),
        "worker_id": str(number),
        "worker": address(number),
        "state": state,
        "provider": "LocalCluster",
        "details": {"nthreads": 2, "memory_limit_bytes": 4 * 10**9, **details},
    }


def address(number: int) -> str:
    return f"tcp://127.0.0.1:{40001 + number}"


def failure(failure_class: str, message: str, offset: float, **details: Any) -> Record:
    task_id = details.get("task_id")
    return {
        "event_type": "failure",
        "timestamp": at(offset),
        "failure_class": failure_class,
        "message": message,
        **({"task_id": task_id} if task_id else {}),
        "details": {"phase": "task_execution", **details},
    }


def usage(number: int, offset: float, memory_gb: float, cpu: float = 1.0) -> Record:
    return {
        "event_type": "resource",
        "timestamp": at(offset),
        "entity_type": "worker",
        "entity_id": address(number),
        "observed_memory_gb": memory_gb,
        "observed_cpu": cpu,
    }


class RunBuilder:
    """One run being written; `summary` is fed as a recorder feeds it."""

    def __init__(self, runs_dir: Path, run_id: str, **changes: Any) -> None:
        self.writer = RunWriter.create(runs_dir, run_document(run_id, **changes))
        self.path = self.writer.path
        self.summary = RunSummary()

    def add(self, *records: Record) -> None:
        for record in records:
            file = FILE_OF[record["event_type"]]
            self.writer.append(file, [dict(record)])
            self.summary.add(file, record)

    def flush(self) -> None:
        self.writer.flush()

    def finish(self, offset: float, status: str = "completed", **changes: Any) -> Path:
        """Close as a recorder does, with a summary of what it saw."""
        self.writer.update_run(status=status, finished_at=at(offset), **changes)
        self.writer.close(self.summary.document)
        return self.path

    def crash(self, last_seen: float) -> Path:
        """Leave the directory as a recorder that was killed on another boot of this host."""
        self.writer.close()
        run = self.path / "run.json"
        document = json.loads(run.read_bytes())
        document["status"] = "running"
        document["finished_at"] = None
        document["recorder"] = {
            "host": "login-3",
            "pid": 4242,
            "boot_id": "gone",
            "heartbeat_at": at(last_seen),
        }
        run.write_text(json.dumps(document))
        return self.path


def life(
    task_id: str, begin: float, duration: float, *, number: int = 0, **fields: Any
) -> Iterable[Record]:
    """The three records of a task that succeeds."""
    yield task("submitted", task_id, begin)
    yield task("running", task_id, begin + 0.01, worker=address(number))
    yield task(
        "succeeded",
        task_id,
        begin + 0.01 + duration,
        worker=address(number),
        duration_s=duration,
        queue_s=0.01,
        cpu_s=duration / 2,
        **fields,
    )


TRACEBACK = """Traceback (most recent call last):
  File "/home/ada/flights/delays.py", line 41, in parse_row
    return float(row["delay"])
           ^^^^^^^^^^^^^^^^^^^
ValueError: could not convert string to float: 'NA'
"""


def eventful(run: RunBuilder) -> None:
    """A run with something of everything."""
    run.add(*(worker(state, n, 0.1 * n) for n in range(3) for state in ("launched", "ready")))
    for i in range(120):
        run.add(*life(f"read-csv-{i:032x}", 1 + i / 100, 0.02 + i / 500, number=i % 3))
    for i in range(7):
        run.add(*life(f"('groupby-agg-{i:032x}', {i})", 3, 1.5 + i / 10, number=i % 3))
    for i in range(4):
        task_id = f"parse-row-{i:032x}"
        run.add(task("submitted", task_id, 3))
        run.add(task("running", task_id, 4, worker=address(i % 3)))
        message = f"could not convert string to float: 'NA' (row {i})"
        run.add(
            failure(
                "ValueError",
                message,
                4.25,
                task_id=task_id,
                worker=address(i % 3),
                attempt=1,
                will_retry=i == 0,
                traceback=TRACEBACK,
            )
        )
        ended: Mapping[str, Any] = {
            "worker": address(i % 3),
            "duration_s": 0.25,
            "queue_s": 1.0,
            "error_type": "ValueError",
            "error_message": message,
        }
        if i == 0:
            run.add(task("retried", task_id, 4.25, **ended))
            run.add(task("running", task_id, 5, attempt=2, worker=address(1)))
            run.add(
                task(
                    "succeeded",
                    task_id,
                    5.2,
                    attempt=2,
                    worker=address(1),
                    duration_s=0.2,
                    queue_s=0.1,
                )
            )
        else:
            run.add(task("failed", task_id, 4.25, **ended))
            run.add(
                task("submitted", f"mean-{i}", 3),
                task(
                    "failed",
                    f"mean-{i}",
                    4.3,
                    attempt=0,
                    error_type="ValueError",
                    error_message=message,
                    blame=task_id,
                ),
            )
    run.add(task("submitted", "model-1", 5), task("running", "model-1", 5.1, worker=address(2)))
    run.add(
        worker("lost", 2, 6, reason="worker process died", exit_code=-9, signal="SIGKILL"),
        failure(
            "WorkerLost", f"worker {address(2)} was lost", 6, phase="worker_lost", worker=address(2)
        ),
        task("lost", "model-1", 6, worker=address(2)),
        worker("launched", 3, 6.5),
        worker("ready", 3, 7),
        task("running", "model-1", 7.5, attempt=2, worker=address(3)),
        usage(0, 7, 1.234),
        usage(3, 7, 0.456),
    )
