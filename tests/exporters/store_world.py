"""What the tests of the run store share: small runs, and what must be in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from scalable_runs.reader import RunReader
from scalable_runs.schema import FAILURES, TASKS, RunDocument
from scalable_runs.stores import _directory
from scalable_runs.stores import file as file_store
from scalable_runs.stores import shared as shared_files
from scalable_runs.stores.base import Store
from scalable_runs.stores.places import StoreSpec
from scalable_runs.writer import RunWriter

RUN_ID = "run-20261121T163303Z-store-0123abcd"


def run_document(run_id: str = RUN_ID, **changes: Any) -> RunDocument:
    document: dict[str, Any] = {
        "schema_version": 1,
        "run_id": run_id,
        "project_name": "store",
        "target_name": "existing",
        "provider_name": "local",
        "manifest_lock": "sha256:00",
        "source_manifest_path": None,
        "started_at": "2026-11-21T16:33:03.000000Z",
        "finished_at": None,
        "status": "running",
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
        "environment": {},
        "code_identities": {},
    }
    return document | changes  # type: ignore[return-value]


def task(number: int, padding: int = 20) -> dict[str, Any]:
    """The same record for the same number, also in another process."""
    return {
        "event_type": "task",
        "timestamp": f"2026-11-21T16:33:03.{number % 1_000_000:06d}Z",
        "task_id": f"inc-{number}",
        "task_name": "inc",
        "state": "submitted",
        "attempt": 0,
        "note": "ä" * padding,
    }


def failure(number: int) -> dict[str, Any]:
    return {
        "event_type": "failure",
        "timestamp": f"2026-11-21T16:33:03.{number % 1_000_000:06d}Z",
        "failure_class": "ValueError",
        "message": f"bad row {number}",
        "details": {"traceback": "Traceback …\n" * 5},
    }


def written(record: dict[str, Any], seq: int, run_id: str = RUN_ID) -> dict[str, Any]:
    """What a reader must give back for a record."""
    return {"schema_version": 1, "run_id": run_id, "seq": seq, **record}


def create(runs_dir: Path | Store, run_id: str = RUN_ID, **options: Any) -> RunWriter:
    return RunWriter.create(runs_dir, run_document(run_id), **options)


def create_shared(runs_dir: Path, writer: str = "w", **options: Any) -> RunWriter:
    """Write a part of a run that several programs may write."""
    place = StoreSpec("chunked-fs", {"log_folder": str(runs_dir.absolute())})
    return RunWriter.create(place, run_document(), writer=writer, **options)


def patch_os(monkeypatch: Any, replaced: Any) -> None:
    """Have the file store make its system calls through another `os`."""
    for module in (file_store, _directory, shared_files):
        monkeypatch.setattr(module, "os", replaced)


def read(path: Path | Store, file: str = TASKS) -> tuple[list[dict[str, Any]], RunReader]:
    reader = RunReader(path)
    return list(reader.records(file)), reader


def lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a file, with no tolerance at all."""
    data = path.read_bytes()
    assert data == b"" or data.endswith(b"\n")
    return [orjson.loads(line) for line in data.splitlines()]


def check_accounting(writer: RunWriter, appended: dict[str, int]) -> None:
    """Every line that was appended is there once and as it was, or is counted as lost."""
    make = {TASKS: task, FAILURES: failure}
    for file, count in appended.items():
        records, _ = read(writer.store, file)
        seqs = [record["seq"] for record in records]
        assert seqs == sorted(set(seqs)), file
        for record in records:
            assert record == written(make[file](record["seq"]), record["seq"], writer.run_id)
        doubtful = writer.uncertain.get(file, 0)
        lost = count - len(records)
        assert lost - doubtful <= writer.losses.get(file, 0) <= lost, (
            file,
            count,
            len(records),
            writer.losses,
            writer.uncertain,
        )
