"""The writer over a file store, killed or met by errors at every system call.

The results are compared with facts from outside: what the writing process reported over a pipe
before it died, and which system calls were made to fail.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import orjson
import pytest
from store_world import (
    RUN_ID,
    check_accounting,
    create,
    failure,
    lines,
    patch_os,
    read,
    task,
    written,
)

from scalable_runs import lines as lines_module
from scalable_runs import schema, sync_loop
from scalable_runs.reader import RunReader, find_runs
from scalable_runs.schema import FAILURES, TASKS
from scalable_runs.stores import file as file_store
from scalable_runs.stores._directory import Directory
from scalable_runs.writer import Problem, RunWriter

SCRIPT = Path(__file__).with_name("writer_process.py")
TIMEOUT = 60


class Said:
    """What the process said before it ended, however it did."""

    def __init__(self, output: str) -> None:
        self.output = output
        self.created = "created" in output
        self.accepted = self._last("accepted")
        self.flushed = self._last("flushed")
        self.synced = self._last("synced")
        closed = re.search(r"^closed (.*)$", output, re.MULTILINE)
        self.closed: dict[str, Any] | None = orjson.loads(closed[1]) if closed else None

    def _last(self, what: str) -> int:
        return max((int(n) for n in re.findall(rf"^{what} (\d+)$", self.output, re.M)), default=0)


def environment() -> dict[str, str]:
    paths = [path for path in sys.path if path]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"}


def run_writer(runs: Path, *options: str, prefix: tuple[str, ...] = ()) -> tuple[int, Said]:
    done = subprocess.run(
        [*prefix, sys.executable, "-S", str(SCRIPT), str(runs), *options],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        env=environment(),
        check=False,
    )
    assert done.returncode in (0, -signal.SIGKILL), (done.returncode, done.stderr)
    return done.returncode, Said(done.stdout)


@cache
def strace() -> str | None:
    """The path of a strace that works here."""
    path = shutil.which("strace")
    if path is None:
        return None
    works = subprocess.run(
        [path, "-qq", "-o", "/dev/null", "-e", "inject=uname:error=EIO:when=1", "true"],
        capture_output=True,
        check=False,
    )
    return path if works.returncode == 0 else None


#: A call of the writer as the kernel knows it, and the function of `os` that makes it.
CALLS = {
    "write": "write",
    "fsync": "fsync",
    "rename": "rename,renameat,renameat2",
    "openat": "open",
}


def killed_before(runs: Path, call: str, when: int) -> tuple[int, Said]:
    """Kill the writer before the Nth such call of `os` that any of its threads makes."""
    return run_writer(runs, "--kill-at", f"{'open' if call == 'openat' else call}:{when}")


def killed_within(runs: Path, call: str, when: int) -> tuple[int, Said]:
    """Kill the writer in the kernel, at the Nth such call of whichever thread gets there first."""
    tracer = str(strace())
    names = CALLS[call] if call == "rename" else call
    # Only calls on the run's own files and directories count: not the interpreter's, not the pipe.
    within = [
        argument
        for name in ("", *schema.JOURNALS, schema.RUN, ".run.json.tmp", ".summary.json.tmp")
        for argument in ("-P", str(runs / RUN_ID / name) if name else str(runs / RUN_ID))
    ]
    prefix = (
        tracer,
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        *within,
        "-e",
        f"trace={names}",
        "-e",
        f"inject={names}:signal=KILL:when={when}",
    )
    return run_writer(runs, prefix=prefix)


@pytest.mark.parametrize(
    "kill",
    [
        killed_before,
        pytest.param(
            killed_within, marks=pytest.mark.skipif(strace() is None, reason="needs strace")
        ),
    ],
)
@pytest.mark.parametrize("call", sorted(CALLS))
def test_killed_at_every_system_call_a_run_keeps_what_was_flushed(
    tmp_path: Path, call: str, kill: Callable[[Path, str, int], tuple[int, Said]]
) -> None:
    for when in range(1, 200):
        runs = tmp_path / f"{call}-{when}"
        code, said = kill(runs, call, when)
        check_dead_run(runs, said)
        if code == 0:
            assert said.closed is not None
            break
        assert said.closed is None
    else:
        pytest.fail("the writer never came to its end")
    assert when > 2, "nothing was injected"


def check_dead_run(runs: Path, said: Said) -> None:
    found = find_runs(runs)
    if not said.created:
        for reader in found:
            for file in reader.files():
                assert list(reader.records(file)) == []
            assert reader.status == "lost" or not reader.document
        return
    (reader,) = found
    closed = reader.status == "completed"
    assert closed or (reader.status == "lost" and said.closed is None)
    tasks = list(reader.records(TASKS))
    assert [record["seq"] for record in tasks] == list(range(1, len(tasks) + 1))
    assert tasks == [written(task(seq), seq) for seq in range(1, len(tasks) + 1)]
    # A killed process loses what it had not handed over, and nothing else.
    assert said.flushed <= len(tasks) <= said.accepted + 3
    failures = list(reader.records(FAILURES))
    assert failures == [written(failure(seq), seq) for seq in range(1, len(failures) + 1)]
    assert len(failures) >= (said.flushed + 8) // 9
    for problems in reader.problems.values():
        assert problems.sentences()
        assert not problems.missing
        assert not problems.crc_mismatches
        assert not problems.missing_bytes
    assert reader.document["journal"][TASKS]["seq"] >= said.synced
    summary = reader.summary()
    assert summary is None or summary["counts"] == {"task_events": 12}


# Failing calls, one by one: fast enough to try them all within this process


class FaultyOs:
    """`os`, with one function that fails from its Nth call on, for as often as told."""

    def __init__(self, name: str, when: int, code: int, times: int) -> None:
        self._name = name
        self._calls = 0
        self._failing = range(when, when + times)
        self._code = code
        self._lock = threading.Lock()
        self.failed = 0

    def __getattr__(self, attribute: str) -> Any:
        real = getattr(os, attribute)
        return self._failing_call(real) if attribute == self._name else real

    def _failing_call(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            with self._lock:
                self._calls += 1
                fails = self._calls in self._failing
                self.failed += fails
            if fails:
                raise OSError(self._code, os.strerror(self._code))
            return real(*arguments, **keywords)

        return call


def scenario(writer: RunWriter) -> dict[str, int]:
    count = 0
    for batch in range(4):
        writer.append(TASKS, [task(count + n + 1) for n in range(3)])
        count += 3
        writer.append(FAILURES, [failure(batch + 1)])
        writer.flush()
        if batch % 2 == 1:
            writer.sync(30)
    writer.close({"counts": {}}, status="completed")
    return {TASKS: count, FAILURES: 4}


ONCE, FOR_EVER = 1, 10**9


@pytest.mark.parametrize("times", [ONCE, FOR_EVER], ids=["once", "from-then-on"])
@pytest.mark.parametrize("code", ["EIO", "ENOSPC", "EDQUOT", "ESTALE", "EROFS"])
@pytest.mark.parametrize("call", ["write", "fsync", "rename", "open", "fstat", "unlink"])
def test_every_failing_call_is_survived_counted_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: str, times: int
) -> None:
    monkeypatch.setattr(sync_loop, "MIN_GAP", 0.0)
    for when in range(1, 200):
        problems: list[Problem] = []
        faulty = FaultyOs(call, when, getattr(errno, code), times)
        writer = create(tmp_path / str(when), sync_interval=10, on_problem=problems.append)
        with monkeypatch.context() as patch:
            patch_os(patch, faulty)
            appended = scenario(writer)
        check_accounting(writer, appended)
        reader = RunReader(writer.path)
        if reader.status == "completed":
            told = reader.document["telemetry"]
            assert {k: v for k, v in writer.losses.items() if v} == told["dropped"]
            assert writer.uncertain == told.get("uncertain", {})
        made_room = code in ("ENOSPC", "EDQUOT") and reader.status == "completed"
        if faulty.failed and call not in ("fstat", "unlink") and not made_room:
            assert writer.errors, (call, when)
        assert sorted(problem.kind for problem in problems) == sorted(writer.errors)
        if call == "write" and times == ONCE:
            # It came right again, so nothing at all is lost.
            assert writer.losses == {}
            assert reader.status == "completed"
        if not faulty.failed:
            assert writer.errors == {}
            break
    else:
        pytest.fail("the writer never came to its end")
    assert when > 1


@pytest.mark.parametrize("call", ["write", "fsync", "mkdir", "open"])
def test_a_directory_that_cannot_be_made_is_an_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    descriptors = set(Path("/proc/self/fd").iterdir())
    for when in range(1, 100):
        faulty = FaultyOs(call, when, errno.ENOSPC, ONCE)
        with monkeypatch.context() as patch:
            patch_os(patch, faulty)
            writer = None
            with suppress(OSError):
                writer = create(tmp_path / "runs")
        if writer is not None:
            writer.close()
            break
        assert not list((tmp_path / "runs").glob("*"))
    assert when > 1
    assert len(set(Path("/proc/self/fd").iterdir()) - descriptors) <= 1


def test_a_new_run_is_durable_before_create_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    real = os.fsync

    def watched(fd: int) -> None:
        synced.append(Path(f"/proc/self/fd/{fd}").readlink())
        real(fd)

    monkeypatch.setattr(file_store.os, "fsync", watched)
    writer = create(tmp_path / "runs", sync_interval=10)
    assert synced[-3:] == [writer.path / schema.RUN, writer.path, writer.path.parent]
    synced.clear()
    writer.append(TASKS, [task(1)])
    assert writer.sync(10)
    # First what run.json says is synced, then run.json, then its name.
    assert synced == [writer.path / TASKS, writer.path / ".run.json.tmp", writer.path]
    monkeypatch.undo()
    writer.close()


def test_after_a_failed_fsync_writing_goes_on_in_a_new_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    problems: list[Problem] = []
    writer = create(tmp_path, sync_interval=10, on_problem=problems.append)
    writer.append(TASKS, [task(1), task(2)])
    assert writer.sync(10)
    writer.append(TASKS, [task(3), task(4), task(5)])
    with monkeypatch.context() as patch:
        patch_os(patch, FaultyOs("fsync", 1, errno.EIO, ONCE))
        assert not writer.sync(10)
    writer.append(TASKS, [task(6)])
    assert writer.sync(10)
    writer.append(TASKS, [task(7)])
    writer.close(status="completed")

    assert len(lines(writer.path / TASKS)) == 5
    assert [line["seq"] for line in lines(writer.path / "tasks.1.jsonl")] == [6, 7]
    assert writer.uncertain == {TASKS: 3}
    assert writer.losses == {}
    assert writer.errors == {"fsync:EIO": 1}
    assert [problem.file for problem in problems] == [TASKS]
    records, reader = read(writer.path)
    assert [record["seq"] for record in records] == list(range(1, 8))
    assert reader.document["telemetry"]["uncertain"] == {TASKS: 3}
    journal = reader.document["journal"]
    assert (journal[TASKS]["seq"], journal["tasks.1.jsonl"]["seq"]) == (2, 7)

    # What the failed sync left uncertain is gone after all: the gap is seen.
    with (writer.path / TASKS).open("r+b") as file:
        file.truncate(journal[TASKS]["bytes"])
    records, reader = read(writer.path)
    assert [record["seq"] for record in records] == [1, 2, 6, 7]
    assert reader.problems[TASKS].gaps == [(3, 5)]


def test_a_disk_that_never_syncs_does_not_fill_the_directory_with_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_store, "_MAX_SEGMENTS", 3)
    monkeypatch.setattr(sync_loop, "MIN_GAP", 0.0)
    writer = create(tmp_path, sync_interval=10)
    with monkeypatch.context() as patch:
        patch_os(patch, FaultyOs("fsync", 1, errno.EIO, FOR_EVER))
        for number in range(1, 9):
            writer.append(TASKS, [task(number)])
            assert not writer.sync(10)
    writer.close()
    assert len(list(writer.path.glob("tasks*.jsonl"))) == 4
    assert [record["seq"] for record in read(writer.path)[0]] == list(range(1, 9))


def test_a_file_system_that_cannot_sync_is_written_to_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = create(tmp_path, sync_interval=10)
    with monkeypatch.context() as patch:
        patch_os(patch, FaultyOs("fsync", 1, errno.EINVAL, FOR_EVER))
        writer.append(TASKS, [task(1)])
        assert not writer.sync(10)
    writer.close(status="completed")
    assert not (writer.path / "tasks.1.jsonl").exists()
    assert len(lines(writer.path / TASKS)) == 1


def test_more_than_the_buffer_holds_is_lost_exactly_and_the_rest_comes_when_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines_module, "_MAX_BUFFERED", 10_000)
    problems: list[Problem] = []
    writer = create(tmp_path, sync_interval=10, on_problem=problems.append)
    with monkeypatch.context() as patch:
        patch_os(patch, FaultyOs("write", 1, errno.ENOSPC, FOR_EVER))
        taken = 0
        for number in range(1, 101):
            taken += writer.append(TASKS, [task(number)])
            writer.flush()
    assert 0 < taken < 100
    assert writer.losses == {TASKS: 100 - taken}
    writer.flush()
    writer.append(TASKS, [task(101)])
    writer.close(status="completed")
    records, reader = read(writer.path)
    assert [record["seq"] for record in records] == [*range(1, taken + 1), 101]
    assert reader.problems[TASKS].missing == 100 - taken
    assert reader.document["telemetry"]["dropped"] == {TASKS: 100 - taken}
    assert sorted(problem.kind for problem in problems) == ["overflow", "write:ENOSPC"]


def test_a_disk_that_hangs_at_close_does_not_hang_the_application(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()
    real = os.fsync

    def hang(fd: int) -> None:
        released.wait(TIMEOUT)
        real(fd)

    problems: list[Problem] = []
    writer = create(tmp_path, sync_interval=10, on_problem=problems.append)
    writer.append(TASKS, [task(1)])
    monkeypatch.setattr(file_store.os, "fsync", hang)
    writer.close({}, timeout=0.05, status="completed")
    assert [problem.kind for problem in problems] == ["close:timeout"]
    released.set()
    writer._loop.thread.join(TIMEOUT)
    assert RunReader(writer.path).status == "completed"


def test_appending_does_not_wait_for_a_disk_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released, hanging = threading.Event(), threading.Event()
    real = os.write

    def hang(fd: int, data: Any) -> int:
        hanging.set()
        released.wait(TIMEOUT)
        return real(fd, data)

    writer = create(tmp_path, sync_interval=10)
    writer.append(TASKS, [task(1)])
    monkeypatch.setattr(file_store.os, "write", hang)
    flusher = threading.Thread(target=writer.flush)
    flusher.start()
    assert hanging.wait(TIMEOUT)
    # Enough to be flushed at once if the disk were free.
    assert writer.append(TASKS, [task(n, 1000) for n in range(2, 1001)]) == 999
    released.set()
    flusher.join()
    writer.close()
    assert [record["seq"] for record in read(writer.path)[0]] == list(range(1, 1001))


# Things done to the directory while it is written


def test_a_removed_directory_is_made_again_and_what_was_in_it_counted(tmp_path: Path) -> None:
    problems: list[Problem] = []
    writer = create(
        tmp_path / "a" / "runs", manifest="m", sync_interval=10, on_problem=problems.append
    )
    writer.append(TASKS, [task(1), task(2)])
    writer.append(FAILURES, [failure(1)])
    assert writer.sync(10)
    writer.append(TASKS, [task(3)])
    shutil.rmtree(tmp_path / "a")
    writer.flush()
    writer.append(TASKS, [task(4)])
    writer.append(FAILURES, [failure(2)])
    writer.close({}, status="completed")

    assert writer.losses == {TASKS: 2, FAILURES: 1}
    assert [problem.kind for problem in problems] == ["removed"]
    records, reader = read(writer.path)
    assert [record["seq"] for record in records] == [3, 4]
    assert reader.problems[TASKS].gaps == [(1, 2)]
    assert reader.status == "completed"
    assert reader.document["telemetry"]["dropped"] == {TASKS: 2, FAILURES: 1}
    assert (writer.path / schema.MANIFEST).read_text() == "m"
    assert set(reader.files()) == set(schema.JOURNALS)


def test_a_directory_removed_while_nothing_happens_is_made_again_by_the_sync(
    tmp_path: Path,
) -> None:
    writer = create(tmp_path / "runs", sync_interval=10)
    shutil.rmtree(tmp_path / "runs")
    assert writer.sync(10)
    assert RunReader(writer.path).status == "running"
    writer.close(status="completed")
    assert RunReader(writer.path).status == "completed"


def test_a_removed_directory_that_cannot_be_made_again_loses_exactly_everything(
    tmp_path: Path,
) -> None:
    problems: list[Problem] = []
    writer = create(tmp_path / "runs", sync_interval=10, on_problem=problems.append)
    writer.append(TASKS, [task(1)])
    writer.flush()
    shutil.rmtree(tmp_path / "runs")
    (tmp_path / "runs").write_text("in the way")
    writer.append(TASKS, [task(2)])
    writer.flush()
    assert not writer.sync(10)
    writer.append(TASKS, [task(3)])
    writer.close({}, status="completed")
    assert writer.losses == {TASKS: 3}
    assert sorted(problem.kind for problem in problems) == ["open:EEXIST", "removed"]


def test_a_removed_directory_is_made_again_once_its_place_is_free(tmp_path: Path) -> None:
    writer = create(tmp_path / "runs", sync_interval=10)
    writer.append(TASKS, [task(1)])
    writer.flush()
    shutil.rmtree(tmp_path / "runs")
    (tmp_path / "runs").write_text("in the way")
    writer.append(TASKS, [task(2)])
    writer.flush()
    (tmp_path / "runs").unlink()
    writer.append(TASKS, [task(3)])
    writer.close(status="completed")
    assert writer.losses == {TASKS: 1}
    assert [record["seq"] for record in read(writer.path)[0]] == [2, 3]


def test_a_directory_restored_from_a_backup_continues_in_new_segments(
    tmp_path: Path,
) -> None:
    writer = create(tmp_path / "runs", sync_interval=10)
    writer.append(TASKS, [task(1), task(2)])
    assert writer.sync(10)
    writer.append(TASKS, [task(3)])
    writer.flush()
    shutil.copytree(writer.path, tmp_path / "backup")
    shutil.rmtree(writer.path)
    (tmp_path / "backup").rename(writer.path)
    writer.append(TASKS, [task(4)])
    writer.close(status="completed")
    assert (writer.losses, writer.uncertain) == ({}, {TASKS: 1})
    assert writer.errors == {"stale": 1}
    assert [line["seq"] for line in lines(writer.path / "tasks.1.jsonl")] == [4]
    records, reader = read(writer.path)
    assert [record["seq"] for record in records] == [1, 2, 3, 4]
    assert reader.problems == {}


def test_one_removed_file_is_made_again_and_its_lines_counted(tmp_path: Path) -> None:
    writer = create(tmp_path, sync_interval=10)
    writer.append(TASKS, [task(1), task(2)])
    assert writer.sync(10)
    (writer.path / TASKS).unlink()
    writer.append(TASKS, [task(3)])
    writer.close(status="completed")
    records, reader = read(writer.path)
    assert [record["seq"] for record in records] == [3]
    assert writer.losses == {TASKS: 2} == reader.document["telemetry"]["dropped"]


def test_a_symbolic_link_put_in_place_of_a_file_is_never_written_through(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"precious\n")
    writer = create(tmp_path / "runs", sync_interval=10)
    for name in (TASKS, schema.RUN, schema.SUMMARY, ".run.json.tmp", ".summary.json.tmp"):
        (writer.path / name).unlink(missing_ok=True)
        (writer.path / name).symlink_to(target)
    writer.append(TASKS, [task(1)])
    assert writer.sync(10)
    writer.close({}, status="completed")
    assert target.read_bytes() == b"precious\n"
    assert (writer.path / TASKS).is_symlink()
    assert len(lines(writer.path / "tasks.1.jsonl")) == 1
    assert not (writer.path / schema.RUN).is_symlink()
    records, reader = read(writer.path)
    assert [record["seq"] for record in records] == [1]
    assert "symbolic link" in reader.problems[TASKS].unreadable
    assert reader.status == "completed"


@pytest.mark.parametrize("how", ["cut", "appended"])
def test_a_file_that_another_process_changes_is_left_and_reported(tmp_path: Path, how: str) -> None:
    writer = create(tmp_path, sync_interval=10)
    writer.append(TASKS, [task(1), task(2)])
    assert writer.sync(10)
    if how == "cut":
        os.truncate(writer.path / TASKS, 10)
    else:
        with (writer.path / TASKS).open("ab") as file:
            file.write(b"{}\n")
    writer.append(TASKS, [task(3)])
    assert not writer.sync(10)
    writer.append(TASKS, [task(4)])
    writer.close(status="completed")
    records, reader = read(writer.path)
    assert records[-1]["seq"] == 4
    assert (writer.path / "tasks.1.jsonl").exists()
    assert writer.errors["damaged"] == 1
    assert reader.problems[TASKS].sentences()


def test_an_unwritable_directory_is_reported_and_run_json_catches_up_later(tmp_path: Path) -> None:
    options = ["--unwritable"]
    place = tmp_path
    if os.geteuid() == 0:
        # Root may write everywhere: the process becomes nobody, in a place that nobody can reach.
        place = Path(tempfile.mkdtemp(prefix="scalable-runs-"))
        place.chmod(0o777)
        options.append("--as-nobody")
    try:
        code, said = run_writer(place / "runs", *options)
        assert code == 0
        assert said.closed is not None
        assert said.closed["errors"]["replace:EACCES"] >= 1
        assert said.closed["losses"] == {}
        records, reader = read(place / "runs" / RUN_ID)
        assert len(records) == 12
        assert reader.status == "completed"
        assert reader.document["telemetry"]["errors"] == said.closed["errors"]
    finally:
        if place != tmp_path:
            shutil.rmtree(place)


def test_a_limit_on_file_size_cuts_a_write_short_and_nothing_is_lost_once_it_is_gone(
    tmp_path: Path,
) -> None:
    code, said = run_writer(
        tmp_path, "--batches", "8", "--size", "50", "--padding", "100", "--limit-file-size", "70000"
    )
    assert code == 0
    assert said.closed is not None
    assert said.closed["errors"]["write:EFBIG"] >= 1
    assert said.closed["losses"] == {}
    records, reader = read(tmp_path / RUN_ID)
    assert records == [written(task(n, 100), n) for n in range(1, 401)]
    assert reader.problems == {}
    assert reader.status == "completed"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip("a file system cannot be mounted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_loses_exactly_what_did_not_fit_and_the_run_stays_readable(
    small_disk: Path,
) -> None:
    problems: list[Problem] = []
    writer = create(small_disk / "runs", sync_interval=10, on_problem=problems.append)
    for batch in range(20):
        writer.append(TASKS, [task(batch * 100 + n + 1, 100) for n in range(100)])
        writer.flush()
        writer.sync(10)
    writer.close({"counts": {}}, status="completed")
    kept = (writer.path / TASKS).read_bytes().count(b"\n")
    assert 0 < kept < 2000
    assert writer.losses == {TASKS: 2000 - kept}
    kinds = {problem.kind for problem in problems}
    assert "write:ENOSPC" in kinds
    assert len(kinds) == len(problems)
    # The room for the last words was kept free.
    records, reader = read(writer.path)
    assert reader.status == "completed"
    assert reader.document["telemetry"]["dropped"] == {TASKS: 2000 - kept}
    assert reader.summary() is not None
    assert records == [written(task(n, 100), n) for n in range(1, kept + 1)]


def test_a_full_disk_that_gets_room_again_loses_nothing(small_disk: Path) -> None:
    problems: list[Problem] = []
    writer = create(small_disk / "runs", sync_interval=10, on_problem=problems.append)
    ballast = small_disk / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    appended = 0
    for _ in range(10):
        writer.append(TASKS, [task(appended + n + 1, 50) for n in range(40)])
        appended += 40
        writer.flush()
    assert "write:ENOSPC" in writer.errors
    ballast.unlink()
    writer.append(TASKS, [task(appended + 1, 50)])
    assert writer.sync(10)
    writer.close(status="completed")
    assert writer.losses == {}
    records, reader = read(writer.path)
    assert records == [written(task(n, 50), n) for n in range(1, appended + 2)]
    assert reader.problems == {}


@pytest.mark.skipif(strace() is None, reason="needs strace")
@pytest.mark.parametrize("fault", ["write:error=EIO", "fsync:error=EIO", "write:error=ENOSPC"])
def test_errors_of_the_kernel_itself_are_survived(tmp_path: Path, fault: str) -> None:
    for when in ("1", "2", "1+"):
        runs = tmp_path / when
        prefix = (
            str(strace()),
            *("-f", "-qq", "-o", "/dev/null", "-P", str(runs / RUN_ID / TASKS)),
            *("-e", f"trace={fault.partition(':')[0]}", "-e", f"inject={fault}:when={when}"),
        )
        code, said = run_writer(runs, prefix=prefix)
        assert code == 0
        assert said.closed is not None
        records, reader = read(runs / RUN_ID)
        assert len(records) == 12 - said.closed["losses"].get(TASKS, 0)
        assert reader.document["telemetry"]["errors"] == said.closed["errors"] != {}
        assert reader.status == "completed"


def test_a_killed_writer_reads_as_lost_at_once_also_before_its_parent_has_reaped_it(
    tmp_path: Path,
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-S", str(SCRIPT), str(tmp_path), "--wait"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    assert process.stdout is not None
    said = ""
    while "flushed 12" not in said:
        said += process.stdout.readline()
    assert RunReader(tmp_path / RUN_ID).status == "running"
    assert RunReader(tmp_path / RUN_ID).is_live
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    records, reader = read(tmp_path / RUN_ID)
    assert reader.status == "lost"
    assert len(records) == 12
    assert reader.last_seen_at is not None
    process.communicate()
    assert RunReader(tmp_path / RUN_ID).status == "lost"


def test_the_last_run_json_needs_no_new_descriptor(tmp_path: Path, monkeypatch) -> None:
    def refuse(self: Directory, name: str, data: bytes) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    writer = create(tmp_path)
    writer.append(TASKS, [task(1)])
    monkeypatch.setattr(Directory, "write_new", refuse)
    writer.close(status="completed")
    reader = RunReader(writer.path)
    assert reader.status == "completed"
    assert len(list(reader.records(TASKS))) == 1
    assert not reader.problems
    assert not (writer.path / ".reserve").exists()
