"""The plain files of a run that several programs wrote: the same records, whatever happens."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from store_world import RUN_ID, failure, run_document, task

from scalable_runs import merging, schema
from scalable_runs.merging import MergeError, merge
from scalable_runs.reader import RunReader
from scalable_runs.schema import FAILURES, TASKS
from scalable_runs.stores.file import FileStore
from scalable_runs.stores.places import StoreSpec
from scalable_runs.writer import RunWriter

TWELVE = {
    *(*schema.JOURNALS, schema.MANIFEST, schema.PLAN, schema.LOCK, schema.RUN, schema.SUMMARY)
}


def join(runs: Path, writer: str) -> RunWriter:
    place = StoreSpec("chunked-fs", {"log_folder": str(runs)})
    return RunWriter.create(place, run_document(), writer=writer, manifest="project: x\n")


def make_run(runs: Path, tasks: int = 30) -> Path:
    writers = [join(runs, name) for name in ("a", "b", "c")]
    for number in range(1, tasks + 1):
        writers[number % 3].append(TASKS, [task(number)])
    writers[0].append(FAILURES, [failure(1)])
    with writers[1].store.attach("logs/workers/w/one.log") as log:
        log.write(b"Killed\n")
    for writer in writers:
        writer.close({"counts": {}}, status="completed", finished_at="2026-11-21T17:00:00.000000Z")
    return runs / RUN_ID


def records(run: Path) -> dict[str, list[dict[str, Any]]]:
    reader = RunReader(run)
    found = {file: list(reader.records(file)) for file in schema.JOURNALS}
    assert not any(reader.problems.values()), reader.problems
    return found


def names(run: Path) -> set[str]:
    return {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}


def test_a_merged_run_has_the_twelve_files_and_the_same_records(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    before, document = records(run), RunReader(run).document
    done = merge(RunReader(run))
    assert done.writers == ("a", "b", "c")
    assert done.records == 31
    assert done.kept == ("writers/b",)
    assert names(run) == TWELVE | {"writers/b/logs/workers/w/one.log"}
    assert records(run) == before
    reader = RunReader(run)
    assert reader.parts == {}
    assert reader.status == "completed"
    assert {name: reader.document[name] for name in ("writers", "trace_id", "finished_at")} == {
        name: document[name] for name in ("writers", "trace_id", "finished_at")
    }
    assert all(mark["bytes"] == reader.file_size(name) for name, mark in reader.marks().items())
    summary = reader.summary()
    assert summary is not None
    assert summary["counts"]["task_events"] == 30
    times = [json.loads(line)["timestamp"] for line in (run / TASKS).read_bytes().splitlines()]
    assert times == sorted(times)


def test_a_second_merge_changes_nothing(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    merge(RunReader(run))
    before = {name: (run / name).read_bytes() for name in names(run)}
    assert merge(RunReader(run)).changed is False
    assert {name: (run / name).read_bytes() for name in names(run)} == before


def test_a_run_is_merged_into_another_directory(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs")
    before = names(run)
    done = merge(RunReader(run), tmp_path / "merged")
    assert done.path == tmp_path / "merged" / RUN_ID
    assert names(run) == before
    assert names(done.path) == TWELVE | {"writers/b/logs/workers/w/one.log"}
    assert records(done.path) == records(run)
    assert [path.name for path in (tmp_path / "merged").iterdir()] == [RUN_ID]
    assert merge(RunReader(run), tmp_path / "merged").changed is False
    (done.path / schema.RUN).write_text("{}")
    with pytest.raises(MergeError, match="is another run"):
        merge(RunReader(run), tmp_path / "merged")


def test_a_program_that_joins_later_is_read_beside_and_merged_too(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    merge(RunReader(run))
    late = join(tmp_path, "late")
    late.append(TASKS, [task(31)])
    late.close(status="failed", finished_at="2026-11-21T18:00:00.000000Z")
    reader = RunReader(run)
    assert reader.status == "failed"
    assert [record["task_id"] for record in records(run)[TASKS]][-1] == "inc-31"
    assert sorted(reader.document["writers"]) == ["a", "b", "c", "late"]
    merge(reader)
    assert len(records(run)[TASKS]) == 31
    assert RunReader(run).document["merged"] == ["a", "b", "c", "late"]
    assert RunReader(run).status == "failed"


def test_a_lost_writer_stays_named(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    lost = run / schema.WRITERS / "b"
    document = json.loads((lost / schema.RUN).read_bytes())
    document["status"] = "running"
    document["recorder"]["pid"] = 2**22 + 1
    (lost / schema.RUN).write_text(json.dumps(document))
    (lost / ".reserve").write_bytes(bytes(100))
    merge(RunReader(run))
    assert not (lost / ".reserve").exists()
    assert RunReader(run).summary() is not None
    assert RunReader(run).document["writers"]["b"]["status"] == "lost"
    assert RunReader(run).status == "completed"


def test_what_cannot_be_merged_is_left_alone(tmp_path: Path) -> None:
    plain = RunWriter.create(tmp_path / "plain", run_document())
    plain.close(status="completed")
    with pytest.raises(MergeError, match="one program"):
        merge(RunReader(plain.store))
    writer = join(tmp_path, "a")
    before = names(tmp_path / RUN_ID)
    with pytest.raises(MergeError, match="is being written by a"):
        merge(RunReader(tmp_path / RUN_ID))
    assert names(tmp_path / RUN_ID) == before
    writer.close(status="completed")


def test_files_that_cannot_be_read_back_are_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path)
    before = names(run)

    class Rotten(FileStore):
        def read(self, name: str, start: int = 0, length: int | None = None) -> Any:
            for block in super().read(name, start, length):
                yield block.replace(b"inc-7", b"inc-8") if isinstance(block, bytes) else block

    monkeypatch.setattr(merging, "FileStore", Rotten)
    with pytest.raises(MergeError, match="cannot be read back"):
        merge(RunReader(run))
    assert names(run) == before


_KILLED = """
import os, sys
from pathlib import Path
from scalable_runs.merging import merge
from scalable_runs.reader import RunReader
left = int(sys.argv[2])
def limited(call):
    def wrapped(*arguments, **keywords):
        global left
        left -= 1
        if left < 0:
            os._exit(9)
        return call(*arguments, **keywords)
    return wrapped
for name in ("fsync", "replace", "unlink", "rmdir", "mkdir"):
    setattr(os, name, limited(getattr(os, name)))
merge(RunReader(Path(sys.argv[1])))
"""


def test_a_merge_that_is_killed_at_any_step_can_be_repeated(tmp_path: Path) -> None:
    whole = records(make_run(tmp_path / "whole", 9))
    batch = range(0, 60, 4)
    programs = {
        step: subprocess.Popen(
            [sys.executable, "-c", _KILLED, make_run(tmp_path / str(step), 9), str(step)]
        )
        for step in batch
    }
    codes = {step: program.wait(60) for step, program in programs.items()}
    assert codes[0] == 9
    for step in batch:
        run = tmp_path / str(step) / RUN_ID
        assert records(run) == whole, step
        merge(RunReader(run))
        assert records(run) == whole, step
        assert names(run) == TWELVE | {"writers/b/logs/workers/w/one.log"}, step


def test_readers_see_each_record_once_while_a_run_is_merged(tmp_path: Path) -> None:
    run = make_run(tmp_path, 300)
    is_done = threading.Event()
    seen: list[int] = []

    def look() -> None:
        while not is_done.is_set():
            reader = RunReader(run)
            found = [record["task_id"] for record in reader.records(TASKS)]
            assert len(set(found)) == len(found)
            seen.append(len(found))

    watcher = threading.Thread(target=look)
    watcher.start()
    merge(RunReader(run))
    is_done.set()
    watcher.join()
    assert len(records(run)[TASKS]) == 300
    assert seen
