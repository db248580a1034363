"""The recorder: facts → lines on disk, with spans, log records and metrics."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import orjson
import psutil

from benchmarks import clusters, synthetic
from benchmarks.synthetic import Recorded, Shape
from benchmarks.table import Row


def recorder(directory: Path, quick: bool) -> list[Row]:
    """CPU per task, its growth, memory, disk, and closing a long run."""
    tasks = 30_000 if quick else 1_000_000
    # The first run loads everything; then runs are measured.
    synthetic.record(directory / "warm", Shape(tasks=10_000))
    few = [
        synthetic.record(directory / f"few-{number}", Shape(tasks=10_000, seed=number))
        for number in range(2 if quick else 7)
    ]
    short = [recorded.cpu / 10_000 * 1e6 for recorded in few]
    process = psutil.Process()
    before = process.memory_info().rss
    with _Peak(process) as peak:
        recorded = synthetic.record(directory / "many", Shape(tasks=tasks))
    growth = (peak.rss - before) / 1e6
    whole = recorded.cpu / tasks * 1e6
    print(f"  {whole:.1f} µs, {recorded.wall:.1f} s, {growth:.1f} MB", file=sys.stderr)
    size = clusters.run_bytes(recorded.path) / tasks
    summary = orjson.loads((recorded.path / "summary.json").read_bytes())
    lost = tasks - summary["counts"]["tasks_succeeded"]
    telemetry = summary["run"]["telemetry"]
    return [
        Row.of_rounds(
            "recorder-cpu",
            "recorder: CPU per task, three lines a task, 10,000 tasks",
            short,
            unit="µs",
            budget=30,
        ),
        Row(
            key="recorder-growth",
            what=f"recorder: CPU per task, last tenth of {tasks:,} ÷ first tenth",
            measured=_growth(recorded, tasks),
            budget=1.10,
            note=f"{whole:.1f} µs per task over all of them",
        ),
        Row(
            key="recorder-memory",
            what=f"growth of the recorder's process at its peak while {tasks:,} tasks pass",
            measured=growth,
            unit="MB",
            budget=50,
            kind="count",
        ),
        Row(
            key="recorder-lost",
            what="tasks lost, facts dropped and internal errors in that run",
            measured=lost + sum(telemetry["dropped"].values()) + sum(telemetry["errors"].values()),
            budget=0,
            kind="count",
        ),
        Row(
            key="disk-synthetic",
            what=f"disk: bytes per successful task, all files, {tasks:,} tasks",
            measured=size,
            unit="B",
            budget=900,
            ceiling=1_150,
            kind="count",
        ),
        *_compressed(recorded),
        Row.of_rounds(
            "close-10k",
            "close() of 10,000 tasks, synthetic",
            [recorded.closing or 0.0 for recorded in few],
            unit="s",
            budget=0.5,
        ),
        Row(
            key="close-many",
            what=f"close() of {tasks:,} tasks, synthetic",
            measured=recorded.closing or 0.0,
            unit="s",
            budget=2,
        ),
    ]


def _growth(recorded: Recorded, tasks: int) -> float:
    """CPU per task of the last tenth of a run, divided by that of its first.

    Both are divided by the CPU time of the simulation for the same tasks, because the speed of a
    machine can change within a minute.
    """
    marks = recorded.marks
    tenth = tasks // 10
    early = next(mark for mark in marks if mark.tasks >= tenth)
    late = next(mark for mark in marks if mark.tasks >= tasks - tenth)
    last = (marks[-1].cpu - late.cpu) / (marks[-1].simulation - late.simulation)
    return last / (early.cpu / early.simulation)


class _Peak:
    """Largest resident set of a process while a block runs."""

    def __init__(self, process: psutil.Process) -> None:
        self.rss = 0
        self._process = process
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._over.wait(0.1):
            self.rss = max(self.rss, self._process.memory_info().rss)

    def __enter__(self) -> _Peak:
        self.rss = self._process.memory_info().rss
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join()


def _compressed(recorded: Recorded) -> list[Row]:
    try:
        import zstandard
    except ImportError:
        return []
    began = time.perf_counter()
    packer = zstandard.ZstdCompressor(level=3)
    size = 0
    for path in recorded.path.rglob("*.jsonl"):
        with path.open("rb") as file:
            for piece in packer.read_to_iter(file):
                size += len(piece)
    tasks = recorded.truth["succeeded"]
    return [
        Row(
            key="disk-zstd",
            what="disk: the same compressed with zstd, level 3",
            measured=size / tasks,
            unit="B",
            note=f"{time.perf_counter() - began:.1f} s of compressing",
        )
    ]
