"""Failed calls that are kept, and `scalable replay`: in a process that has no cluster."""

from __future__ import annotations

import json
import os
import pty
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, LocalCluster

import scalable
from scalable_runs.packed.pack import pack
from scalable_runs.reader import RunReader, find_runs

PROGRAM = """\
import threading
from pathlib import Path

import dask
import numpy as np
import scalable
from dask.distributed import Client, LocalCluster


class Limit:
    def __init__(self, most):
        self.most = most


def load(number):
    return np.arange(number)


def fit(values, limit, password="", scale=1):
    if Path("repaired").exists():
        return int(values.sum())
    if len(values) > limit.most:
        raise ValueError(f"{len(values)} values of {values.sum()}: too many")
    return len(values)


def hold(lock):
    raise RuntimeError("held")


def large(data):
    raise RuntimeError("large")


def inner(x):
    raise KeyError(x)


def outer(x):
    return x


def retried(x):
    raise OSError(5, "again")


def main():
    with (
        LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address=":0") as cluster,
        Client(cluster) as client,
        scalable.instrument(client, keep_failed="1MiB"),
    ):
        fits = client.map(fit, client.map(load, range(5)), limit=Limit(3), password="hunter2-9x")
        tasks = [
            *fits,
            client.submit(large, np.zeros(300_000)),
            client.submit(large, bytes(900_000)),
            client.submit(retried, 1, retries=1),
            client.compute(dask.delayed(outer)(dask.delayed(inner)("key")), optimize_graph=True),
        ]
        for task in tasks:
            task.exception()


if __name__ == "__main__":
    main()
"""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory in which the program has run, once for all tests."""
    place = tmp_path_factory.mktemp("recorded")
    (place / "program.py").write_text(PROGRAM)
    subprocess.run(
        [sys.executable, "program.py"], cwd=place, check=True, capture_output=True, timeout=120
    )
    return place


@pytest.fixture
def run(recorded: Path) -> RunReader:
    return find_runs(recorded / ".scalable" / "runs")[0]


def replay(place: Path, *arguments: str, stdin: Any = subprocess.DEVNULL) -> Any:
    return subprocess.run(
        [sys.executable, "-m", "scalable", "replay", *arguments],
        cwd=place,
        stdin=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_a_failed_attempt_fails_again_here_with_the_arguments_it_had(
    recorded: Path, run: RunReader
) -> None:
    done = replay(recorded, run.run_id, "fit", "--yes")
    assert done.returncode == 1
    assert "It failed again in the same way: ValueError: 4 values of 6: too many" in done.stdout
    assert "Loading them runs code that is in them" in done.stderr
    document = json.loads(replay(recorded, run.run_id, "fit", "--yes", "--json").stdout)
    assert document["same_failure"] is True
    assert 'program.py", line 23, in fit\n' in document["traceback"]
    assert "replaying.py" not in document["traceback"]


def test_what_succeeds_here_says_so(recorded: Path, run: RunReader) -> None:
    (recorded / "repaired").touch()
    try:
        done = replay(recorded, run.run_id, "fit", "--yes")
    finally:
        (recorded / "repaired").unlink()
    assert done.returncode == 0
    assert "It succeeded: 6" in done.stdout


def test_another_failure_is_told_from_the_recorded_one(recorded: Path, run: RunReader) -> None:
    lines = (run.path / "failures.jsonl").read_text()
    (run.path / "failures.jsonl").write_text(lines.replace("too many", "TOO MANY"))
    try:
        done = replay(recorded, run.run_id, "fit", "--yes")
    finally:
        (run.path / "failures.jsonl").write_text(lines)
    assert done.returncode == 1
    assert "It failed in another way" in done.stdout


def test_of_fused_tasks_the_one_that_failed_is_replayed(recorded: Path, run: RunReader) -> None:
    [failed] = [each for each in run.records("failures.jsonl") if "key" in each["message"]]
    done = replay(recorded, run.run_id, failed["task_id"], "--yes")
    assert "in inner" in done.stderr
    assert "same way: KeyError: 'key'" in done.stdout


def test_each_attempt_is_kept(recorded: Path, run: RunReader) -> None:
    for number in ("1", "2"):
        done = replay(recorded, run.run_id, "retried", "--attempt", number, "--yes")
        assert "It failed again in the same way" in done.stdout, done.stderr
    done = replay(recorded, run.run_id, "retried", "--attempt", "3", "--yes")
    assert "these did: 1, 2" in done.stderr


def test_what_is_too_large_says_so(recorded: Path, run: RunReader) -> None:
    keys = {each["task_id"] for each in run.records("failures.jsonl") if "large" in each["message"]}
    answers = sorted(replay(recorded, run.run_id, key, "--yes").stderr for key in keys)
    assert len(answers) == 2
    assert sum("was not kept: more than 1,048,576 bytes" in each for each in answers) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["load"], "No attempt of load failed"),
        (["nothing"], "has no task nothing"),
        (["fit"], "--yes loads them without asking"),
    ],
)
def test_what_cannot_be_replayed_is_explained(
    recorded: Path, run: RunReader, arguments: list[str], message: str
) -> None:
    done = replay(recorded, run.run_id, *arguments)
    assert done.returncode == 1
    assert message in done.stderr


def test_files_are_private_and_others_files_are_not_loaded(recorded: Path, run: RunReader) -> None:
    files = list((run.path / "failed").iterdir())
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert stat.S_IMODE((run.path / "failed").stat().st_mode) == 0o700
    for path, mode in ((run.path / "failed", 0o770), *((file, 0o620) for file in files)):
        path.chmod(mode)
    try:
        done = replay(recorded, run.run_id, "fit", "--yes")
        assert done.returncode == 1
        assert "that this user alone can write to" in done.stderr
    finally:
        (run.path / "failed").chmod(0o700)
        for file in files:
            file.chmod(0o600)


def test_a_file_that_is_cut_or_changed_is_not_loaded(
    recorded: Path, run: RunReader, tmp_path: Path
) -> None:
    copy = tmp_path / run.run_id
    shutil.copytree(run.path, copy)
    for change, message in (
        (lambda data: data[:-1], "is not whole"),
        (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "was changed"),
        (lambda data: b"cos\nsystem\n(S'touch planted'\ntR.", "not a kept call"),
    ):
        for file in (copy / "failed").iterdir():
            original = (run.path / "failed" / file.name).read_bytes()
            file.write_bytes(change(original))
        done = replay(tmp_path, str(copy), "fit", "--yes")
        assert done.returncode == 1
        assert message in done.stderr
    assert not (tmp_path / "planted").exists()


def test_a_packed_run_is_replayed_elsewhere(recorded: Path, run: RunReader, tmp_path: Path) -> None:
    """As on a laptop: the program's directory is not there, its code is in the call."""
    copy = tmp_path / "elsewhere" / run.run_id
    shutil.copytree(run.path, copy)
    packed = pack(copy)
    done = replay(tmp_path, str(packed), "fit", "--yes")
    assert "It failed again in the same way" in done.stdout, done.stderr
    assert "raise ValueError" in done.stderr, "its source is in the file"


def test_the_debugger_opens_where_it_failed(recorded: Path, run: RunReader) -> None:
    command = [sys.executable, "-m", "scalable", "replay", run.run_id, "fit", "--pdb"]
    own, other = pty.openpty()
    process = subprocess.Popen(
        command, cwd=recorded, stdin=other, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    os.close(other)
    os.write(own, b"y\np limit.most, scale\nl\nq\n")
    try:
        output = process.communicate(timeout=60)[0].decode()
    finally:
        os.close(own)
    assert "(3, 1)" in output
    assert "if len(values) > limit.most" in output, "the lines of its source"
    assert process.returncode == 1


def test_secrets_among_arguments_are_in_no_text_file(run: RunReader) -> None:
    found = {
        path.relative_to(run.path).parts[0]
        for path in run.path.rglob("*")
        if path.is_file() and b"hunter2-9x" in path.read_bytes()
    }
    assert found == {"failed"}


def unpicklable(lock: Any) -> None:
    raise RuntimeError("held")


def test_what_cannot_be_pickled_and_what_is_not_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    monkeypatch.chdir(tmp_path)
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0"
        ) as cluster,
        Client(cluster) as client,
    ):
        lock = client.submit(threading.Lock)
        for keep in (True, None):
            with scalable.instrument(client, recorder="thread", keep_failed=keep) as run:
                client.submit(unpicklable, lock, pure=False).exception()
            reader = run.reader()
            [failed] = reader.records("failures.jsonl")
            done = replay(tmp_path, run.run_id, failed["task_id"], "--yes")
            assert done.returncode == 1
            expected = "it cannot be pickled" if keep else "instrument(keep_failed=True)"
            assert expected in done.stderr
