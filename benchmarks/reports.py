"""`scalable report` of large runs, started as a user does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.clusters import ROOT
from benchmarks.table import Row


def report(directory: Path, quick: bool) -> list[Row]:
    """The report of a closed run, and of one whose driver was killed."""
    tasks = 10_000 if quick else 333_000
    count = 1 if quick else 3
    rows: list[Row] = []
    for name, words, crash, budget in (
        ("finished", "finished", False, 0.5),
        ("crashed", "driver killed: a scan", True, 5.0),
    ):
        runs_dir = directory / name
        run = _synthetic(runs_dir, tasks, crash)
        walls: list[float] = []
        peak = 0.0
        where = ["--run-id", run.name, "--runs-dir", str(runs_dir)]
        for _ in range(count):
            wall, megabytes, found = timed(
                ["-m", "scalable.cli", "report", *where, "--format", "json"]
            )
            walls.append(wall)
            peak = max(peak, megabytes)
        counts = json.loads(found)
        what = f"report of {tasks:,} tasks, {words}"
        rows += [
            Row.of_rounds(f"report-{name}", f"{what}: wall", walls, unit="s", budget=budget),
            Row(
                key=f"report-{name}-memory",
                what=f"{what}: peak memory",
                measured=peak,
                unit="MB",
                budget=300,
                kind="count",
            ),
            Row(
                key=f"report-{name}-lost",
                what=f"{what}: tasks missing from the report",
                measured=tasks - _succeeded(counts),
                budget=0,
                kind="count",
            ),
        ]
    return rows


def _succeeded(document: dict) -> int:
    return int(document["counts"]["tasks_succeeded"])


def _synthetic(runs_dir: Path, tasks: int, crash: bool) -> Path:
    command = ["-m", "benchmarks.synthetic", str(runs_dir), "--tasks", str(tasks)]
    answer = subprocess.run(
        [sys.executable, *command, *(["--crash"] if crash else [])],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=False,
    )
    return Path(answer.stdout.decode().strip())


def timed(arguments: list[str]) -> tuple[float, float, str]:
    """Wall time in seconds, peak memory in MB, and output of a Python program."""
    read, write = os.pipe()
    began = time.perf_counter()
    pid = os.posix_spawn(
        sys.executable,
        [sys.executable, *arguments],
        os.environ,
        file_actions=[(os.POSIX_SPAWN_DUP2, write, 1), (os.POSIX_SPAWN_CLOSE, read)],
    )
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        output = pipe.read()
    _, status, usage = os.wait4(pid, 0)
    wall = time.perf_counter() - began
    if os.waitstatus_to_exitcode(status):
        raise RuntimeError(f"{arguments} failed: {output.decode()[-500:]}")
    return wall, usage.ru_maxrss * 1024 / 1e6, output.decode()
