"""Several programs write one run: it is made once, joined by all, and closed by the last."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from store_world import RUN_ID, run_document, task

from scalable_runs import schema
from scalable_runs.reader import RunReader, resolve_run
from scalable_runs.schema import TASKS
from scalable_runs.stores import shared as shared_files
from scalable_runs.stores.places import StoreSpec
from scalable_runs.stores.shared import SharedFileStore
from scalable_runs.writer import RunWriter

#: Programs that start at once.
JOINING = 64
_JOIN = """
import sys
sys.path.insert(0, sys.argv[2])
from store_world import run_document
from scalable_runs.stores.places import StoreSpec
from scalable_runs.writer import RunWriter
print("ready", flush=True)
sys.stdin.readline()
place = StoreSpec("chunked-fs", {"log_folder": sys.argv[1]})
writer = RunWriter.create(place, run_document(trace_id=sys.argv[3]))
writer.append("tasks.jsonl", [{"event_type": "task", "timestamp": "2026-11-21T16:33:03.000000Z",
    "task_id": sys.argv[3], "state": "submitted"}])
print(writer.shared.run["trace_id"], flush=True)
sys.stdin.readline()
writer.close(status="completed")
"""


def place(runs: Path) -> StoreSpec:
    return StoreSpec("chunked-fs", {"log_folder": str(runs)})


def join(runs: Path, writer: str, **changes: Any) -> RunWriter:
    return RunWriter.create(place(runs), run_document(**changes), writer=writer)


def documents(run: Path) -> dict[str, dict[str, Any]]:
    return {path.name: json.loads(path.read_bytes()) for path in run.glob("closed*.json")}


def test_whoever_is_first_makes_the_run_and_the_others_join_it(tmp_path: Path) -> None:
    one = join(tmp_path, "one", trace_id="1" * 32, project_name="first")
    made = (tmp_path / RUN_ID / schema.RUN).read_bytes()
    other = join(tmp_path, "other", trace_id="2" * 32, project_name="second")
    assert (tmp_path / RUN_ID / schema.RUN).read_bytes() == made
    assert one.shared is not None
    assert other.shared is not None
    assert one.shared.run == other.shared.run
    for writer in (one, other):
        writer.close(status="completed", finished_at="2026-11-21T17:00:00.000000Z")
    run = resolve_run(tmp_path)
    assert run.document["trace_id"] == "1" * 32
    assert run.document["project_name"] == "first"
    assert {part.document["trace_id"] for part in run.parts.values()} == {"1" * 32}
    assert (tmp_path / RUN_ID / schema.RUN).read_bytes() == made


def test_the_last_to_leave_closes_the_run(tmp_path: Path) -> None:
    writers = [join(tmp_path, name) for name in ("a", "b", "c")]
    for writer in writers:
        writer.append(TASKS, [task(1)])
    run = tmp_path / RUN_ID
    for number, writer in enumerate(writers):
        assert documents(run) == {}
        assert not (run / schema.SUMMARY).exists()
        writer.close(status="failed" if number == 0 else "completed")
    (closed,) = documents(run).values()
    assert closed["closed_by"] == "c"
    assert closed["status"] == "failed"
    assert closed["writers"] == {"a": "failed", "b": "completed", "c": "completed"}
    reader = RunReader(run)
    summary = reader.summary()
    assert summary is not None
    assert summary["counts"]["task_events"] == 3
    assert summary["run"]["status"] == reader.status == "failed"
    assert all(mark["bytes"] == reader.file_size(name) for name, mark in reader.marks().items())


def test_a_program_may_join_after_the_run_was_closed(tmp_path: Path) -> None:
    join(tmp_path, "a").close(status="completed")
    run = tmp_path / RUN_ID
    late = join(tmp_path, "b")
    late.append(TASKS, [task(1)])
    late.flush()
    reader = RunReader(run)
    assert reader.status == "running"
    assert reader.summary() is None, "that of the parts before"
    late.close(status="completed")
    assert set(documents(run)) == {"closed.json", "closed-2.json"}
    reader = RunReader(run)
    summary = reader.summary()
    assert reader.status == "completed"
    assert summary is not None
    assert summary["counts"]["task_events"] == 1


def test_of_writers_that_leave_at_once_one_closes_the_run(tmp_path: Path) -> None:
    writers = [join(tmp_path, f"w{number}") for number in range(8)]
    threads = [
        threading.Thread(target=writer.close, kwargs={"status": "completed"}) for writer in writers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (closed,) = documents(tmp_path / RUN_ID).values()
    assert len(closed["writers"]) == 8
    assert RunReader(tmp_path / RUN_ID).status == "completed"


def test_a_run_with_one_writer_cannot_be_joined(tmp_path: Path) -> None:
    RunWriter.create(tmp_path, run_document()).close(status="completed")
    before = sorted(path.name for path in (tmp_path / RUN_ID).iterdir())
    with pytest.raises(FileExistsError, match="has one writer"):
        join(tmp_path, "a")
    assert sorted(path.name for path in (tmp_path / RUN_ID).iterdir()) == before


def test_a_run_that_was_removed_is_made_again(tmp_path: Path) -> None:
    import shutil

    writer = join(tmp_path, "a")
    made = (tmp_path / RUN_ID / schema.RUN).read_bytes()
    shutil.rmtree(tmp_path / RUN_ID)
    writer.append(TASKS, [task(1)])
    writer.close(status="completed")
    assert (tmp_path / RUN_ID / schema.RUN).read_bytes() == made
    assert len(list(RunReader(tmp_path / RUN_ID).records(TASKS))) == 1


def test_many_programs_join_within_the_same_second(tmp_path: Path) -> None:
    """Of 64 exactly one makes the run; the 63 others find the trace that it has chosen."""
    programs = [
        subprocess.Popen(
            [sys.executable, "-c", _JOIN, tmp_path, Path(__file__).parent, f"{number:032x}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(1, JOINING + 1)
    ]

    def said(program: subprocess.Popen[str]) -> str:
        assert program.stdout is not None
        return program.stdout.readline().strip()

    def tell(program: subprocess.Popen[str]) -> None:
        assert program.stdin is not None
        program.stdin.write("\n")
        program.stdin.flush()

    try:
        assert {said(program) for program in programs} == {"ready"}
        for program in programs:
            tell(program)
        assert len(traces := {said(program) for program in programs}) == 1
        killed, *others = programs
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        for program in others:
            tell(program)
        for program in others:
            assert program.wait(60) == 0
    finally:
        for program in programs:
            program.kill()
            program.communicate()
    run = resolve_run(tmp_path)
    assert run.document["trace_id"] in traces
    assert len(run.parts) == JOINING
    assert run.status == "completed"
    states = [writer["status"] for writer in run.document["writers"].values()]
    assert sorted(states) == ["completed"] * (JOINING - 1) + ["lost"]
    tasks = [record["task_id"] for record in run.records(TASKS)]
    killed_trace = f"{1:032x}"
    assert sorted({*tasks, killed_trace}) == [f"{n:032x}" for n in range(1, JOINING + 1)]
    assert len(tasks) >= JOINING - 1
    (closed,) = documents(run.path).values()
    assert sorted(closed["writers"].values()) == sorted(states)


# One document, made by one of many


@pytest.mark.parametrize("code", [None, errno.EPERM, errno.EOPNOTSUPP])
def test_of_many_that_make_a_document_one_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int | None
) -> None:
    """Also on a file system that has no hard links."""

    class WithoutLinks:
        def __getattr__(self, name: str) -> Any:
            return getattr(os, name)

        def link(self, *_: Any, **__: Any) -> None:
            assert code is not None
            raise OSError(code, os.strerror(code))

    if code is not None:
        monkeypatch.setattr(shared_files, "os", WithoutLinks())
    start = threading.Barrier(32)
    won: list[int] = []

    def make(number: int) -> None:
        store = SharedFileStore(tmp_path / RUN_ID)
        start.wait()
        if store.make("closed/one.json", b"%d" % number):
            won.append(number)

    threads = [threading.Thread(target=make, args=(number,)) for number in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert (tmp_path / RUN_ID / "closed" / "one.json").read_bytes() == b"%d" % won[0]
    assert SharedFileStore(tmp_path / RUN_ID).made("closed") == {"one.json"}
    assert [path.name for path in (tmp_path / RUN_ID / "closed").iterdir()] == ["one.json"]


def test_a_link_whose_answer_was_lost_has_succeeded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class LosesAnswers:
        def __getattr__(self, name: str) -> Any:
            return getattr(os, name)

        def link(self, *arguments: Any, **keywords: Any) -> None:
            os.link(*arguments, **keywords)
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))

    monkeypatch.setattr(shared_files, "os", LosesAnswers())
    assert SharedFileStore(tmp_path).make("run.json", b"{}") is True
    assert SharedFileStore(tmp_path).make("run.json", b"{}") is False
