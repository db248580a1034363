"""A writer of a run that several write, killed or met by errors at every system call."""

from __future__ import annotations

import contextlib
import errno
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from store_world import RUN_ID, create_shared, failure, patch_os, task, written
from test_faults import (
    FOR_EVER,
    ONCE,
    FaultyOs,
    Said,
    environment,
    run_writer,
    scenario,
    small_disk,
)
from test_power_cut import Disk, disk

from scalable_runs import schema, sharing, sync_loop
from scalable_runs.reader import RunReader, find_runs
from scalable_runs.schema import FAILURES, TASKS
from scalable_runs.writer import Problem

__all__ = ["disk", "small_disk"]

SCRIPT = Path(__file__).with_name("writer_process.py")
PART = f"{schema.WRITERS}/w"


def records(reader: RunReader, file: str) -> list[dict[str, Any]]:
    found = [dict(record) for record in reader.records(file)]
    assert all(record.pop("writer") == "w" for record in found)
    return found


@pytest.mark.parametrize("call", ["fsync", "link", "rename"])
def test_killed_at_every_system_call_a_part_keeps_what_was_flushed(
    tmp_path: Path, call: str
) -> None:
    for when in range(1, 200):
        runs = tmp_path / f"{call}-{when}"
        code, said = run_writer(runs, "--shared", "--kill-at", f"{call}:{when}")
        _check_dead_run(runs, said)
        if code == 0:
            assert said.closed is not None
            break
        _check_joined(runs)
    else:
        pytest.fail("the writer never came to its end")
    assert when > 2, "nothing was injected"


def _check_dead_run(runs: Path, said: Said) -> None:
    found = find_runs(runs)
    if not said.created:
        for reader in found:
            assert [records(reader, file) for file in reader.files()] == [[]] * len(reader.files())
            assert reader.status == "lost" or not reader.document
        return
    (reader,) = found
    assert reader.status == ("completed" if said.closed or _is_closed(runs) else "lost")
    tasks, failures = records(reader, TASKS), records(reader, FAILURES)
    assert tasks == [written(task(seq), seq) for seq in range(1, len(tasks) + 1)]
    assert said.flushed <= len(tasks) <= said.accepted + 3
    assert failures == [written(failure(seq), seq) for seq in range(1, len(failures) + 1)]
    assert len(failures) >= (said.flushed + 8) // 9
    for problems in reader.problems.values():
        assert not problems.missing
        assert not problems.crc_mismatches
        assert not problems.missing_bytes
    assert reader.document["journal"][f"{PART}/{TASKS}"]["seq"] >= said.synced


def _is_closed(runs: Path) -> bool:
    return json.loads((runs / RUN_ID / PART / schema.RUN).read_bytes())["status"] == "completed"


def _check_joined(runs: Path) -> None:
    """Whatever the one that was killed has left, another program can write the run."""
    writer = create_shared(runs, "other")
    writer.append(TASKS, [task(1)])
    writer.close(status="completed")
    reader = RunReader(runs / RUN_ID)
    assert reader.status == "completed"
    assert [r["task_id"] for r in reader.records(TASKS) if r.get("writer") == "other"] == ["inc-1"]
    lost = [name for name, one in reader.document["writers"].items() if one["status"] == "lost"]
    assert set(lost) <= {"w"}
    closed = json.loads(sorted((runs / RUN_ID).glob("closed*.json"))[0].read_bytes())
    assert closed["status"] == "completed"


@pytest.mark.parametrize("times", [ONCE, FOR_EVER], ids=["once", "from-then-on"])
@pytest.mark.parametrize("call", ["write", "fsync", "rename", "open", "link", "listdir"])
def test_every_failing_call_is_survived_counted_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, times: int
) -> None:
    monkeypatch.setattr(sync_loop, "MIN_GAP", 0.0)
    monkeypatch.setattr(sharing, "LAST_LINES", 0.0)
    for when in range(1, 200):
        problems: list[Problem] = []
        faulty = FaultyOs(call, when, errno.EIO, times)
        runs = tmp_path / str(when)
        writer = create_shared(runs, sync_interval=10, on_problem=problems.append)
        with monkeypatch.context() as patch:
            patch_os(patch, faulty)
            appended = scenario(writer)
        reader = RunReader(runs / RUN_ID)
        for file, count in appended.items():
            lost = count - len(records(reader, file))
            doubtful = writer.uncertain.get(file, 0)
            assert lost - doubtful <= writer.losses.get(file, 0) <= lost
        assert sorted(problem.kind for problem in problems) == sorted(writer.errors)
        assert not [kind for kind in writer.errors if kind.startswith("internal:")]
        if not faulty.failed:
            assert writer.errors == {}
            assert reader.status == "completed"
            assert reader.summary() is not None
            break
    else:
        pytest.fail("the writer never came to its end")


@pytest.mark.parametrize("call", ["write", "fsync", "open", "link"])
def test_a_run_that_cannot_be_joined_is_an_error_and_can_be_joined_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    for when in range(1, 100):
        runs = tmp_path / str(when)
        faulty = FaultyOs(call, when, errno.EIO, ONCE)
        with monkeypatch.context() as patch:
            patch_os(patch, faulty)
            with contextlib.suppress(OSError):
                create_shared(runs).close(status="completed")
        assert not list(runs.rglob(".*.tmp"))
        writer = create_shared(runs, "later")
        writer.close(status="completed")
        assert RunReader(runs / RUN_ID).status == "completed"
        if not faulty.failed:
            break
    assert when > 1


def test_a_full_disk_loses_exactly_what_did_not_fit_of_one_part(small_disk: Path) -> None:
    writer = create_shared(small_disk / "runs", sync_interval=10)
    for batch in range(20):
        writer.append(TASKS, [task(batch * 100 + n + 1, 100) for n in range(100)])
        writer.flush()
        writer.sync(10)
    writer.close({"counts": {}}, status="completed")
    reader = RunReader(small_disk / "runs" / RUN_ID)
    kept = records(reader, TASKS)
    assert 0 < len(kept) < 2000
    assert kept == [written(task(n, 100), n) for n in range(1, len(kept) + 1)]
    assert reader.status == "completed"
    assert reader.document["telemetry"]["dropped"] == {TASKS: 2000 - len(kept)}


@pytest.mark.parametrize("batches", [1, 2, 8])
def test_after_a_power_cut_what_was_synced_of_a_part_is_there(disk: Disk, batches: int) -> None:
    runs = disk.place / "deep" / "runs"
    process = subprocess.Popen(
        [sys.executable, "-S", SCRIPT, runs, "--batches", str(batches), "--wait", "--shared"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    assert process.stdout is not None
    said = ""
    last = f"synced {batches * 3}" if batches % 2 == 0 else f"flushed {batches * 3}"
    while last not in said:
        line = process.stdout.readline()
        assert line, said
        said += line
    disk.cut_power()
    process.kill()
    process.communicate()
    disk.unmount()
    assert disk.mount()
    try:
        synced = max((int(n) for n in re.findall(r"synced (\d+)", said)), default=0)
        # Both the run and the part were synced before the writer said that they exist.
        (reader,) = find_runs(runs)
        assert reader.run_id == RUN_ID
        assert reader.status == "lost"
        assert list(reader.parts) == ["w"]
        tasks = records(reader, TASKS)
        assert len(tasks) >= synced
        assert tasks == [written(task(n), n) for n in range(1, len(tasks) + 1)]
        assert reader.document["journal"][f"{PART}/{TASKS}"]["seq"] == synced
        assert "root_span_id" in json.loads((runs / RUN_ID / schema.RUN).read_bytes())
        assert (runs / RUN_ID / "manifest.yaml").exists()
    finally:
        disk.unmount()


def test_the_descriptors_of_a_shared_run_are_closed(tmp_path: Path) -> None:
    before = set(Path("/proc/self/fd").iterdir())
    create_shared(tmp_path).close(status="completed")
    assert len(set(Path("/proc/self/fd").iterdir()) - before) <= 1
