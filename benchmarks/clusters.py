"""Clusters to measure on, the workloads, and rounds of bare against instrumented."""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import operator
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Final

import dask
import psutil
from distributed import Client, LocalCluster, wait

import scalable

#: Executions of each variant in a round: if variants take turns often, noise that lasts for seconds
#: affects all of them.
SLICES: Final = 2
#: Passes ``--rounds`` to the processes of the parts.
ROUNDS_VARIABLE = "SCALABLE_BENCH_ROUNDS"
ROOT = Path(__file__).resolve().parents[1]


def noop(x: Any) -> Any:
    """A task that does nothing."""
    return x


def nap(x: Any, seconds: float = 0.01) -> Any:
    """A task that waits."""
    time.sleep(seconds)
    return x


def run_map(client: Client, tasks: int) -> None:
    """One `map`."""
    wait(client.map(noop, range(tasks), pure=False))


def run_submit(client: Client, tasks: int) -> None:
    """As many calls of `submit`."""
    wait([client.submit(noop, number, pure=False) for number in range(tasks)])


def run_delayed(client: Client, tasks: int) -> None:
    """One delayed graph of separate chains of two tasks."""
    first = [dask.delayed(noop, pure=False)(number) for number in range(tasks // 2)]
    second = [dask.delayed(noop, pure=False)(value) for value in first]
    # Without optimization: fused chains would be half the tasks.
    wait(client.compute(second, optimize_graph=False))


def run_naps(client: Client, tasks: int) -> None:
    """Tasks of 10 ms."""
    wait(client.map(nap, range(tasks), pure=False))


Work = Callable[[Client, int], None]


def rounds_asked() -> int:
    """Rounds of each ratio: seven, or ``--rounds``."""
    return int(os.environ.get(ROUNDS_VARIABLE, "7"))


def amount(quick: bool, few: int, many: int) -> tuple[int, int, int]:
    """Tasks per round, slices per round, and rounds."""
    return (few, 1, 1) if quick else (many, SLICES, rounds_asked())


@dataclass
class Cluster:
    """A warm cluster, and the processes whose CPU time is measured."""

    client: Client
    #: Name → ids of its processes; the driver is this process.
    processes: dict[str, list[int]]

    def cpu(self) -> dict[str, float]:
        """CPU seconds so far, by name; for the recorder, those of its process."""
        used = {"driver": time.process_time(), "recorder": _recorder_cpu()}
        for name, ids in self.processes.items():
            times = [psutil.Process(pid).cpu_times() for pid in ids]
            used[name] = sum(t.user + t.system for t in times)
        return used

    def settle(self) -> None:
        """Wait until nothing is left of previous work."""
        # Results in reference cycles would keep their tasks.
        gc.collect()
        deadline = time.monotonic() + 30
        while self.client.run_on_scheduler(_count_tasks) and time.monotonic() < deadline:
            time.sleep(0.05)
        set_heap_aside()
        if "scheduler" in self.processes:
            self.client.run_on_scheduler(set_heap_aside)
        time.sleep(0.2)


def set_heap_aside() -> None:
    """Exclude existing objects from garbage collection in this process.

    A scheduler keeps a million objects of previous work, such as logs of transitions and groups of
    tasks. A full collection, which takes a second, starts when new objects are a quarter as many:
    whether this happens within an execution depends on a few per cent of objects, and can make it
    20 % slower. Without the existing objects, the cost depends on new objects only.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    # The counts of new objects start at zero.
    gc.collect()


def _count_tasks(dask_scheduler: Any) -> int:
    return len(dask_scheduler.tasks)


def _recorder_cpu() -> float:
    """CPU seconds of the recorders that this program started; they are not its children."""
    used = 0.0
    here = os.getcwd()  # noqa: PTH109
    for process in psutil.process_iter(["cmdline"]):
        if "scalable-recorder" in (process.info["cmdline"] or ()):
            with contextlib.suppress(psutil.Error):
                if process.cwd() == here:
                    times = process.cpu_times()
                    used += times.user + times.system
    return used


@contextlib.contextmanager
def local_cluster(workers: int = 2) -> Iterator[Cluster]:
    """Scheduler in this process, workers in processes of their own."""
    with (
        LocalCluster(
            n_workers=workers, threads_per_worker=1, dashboard_address=":0", silence_logs=50
        ) as cluster,
        Client(cluster) as client,
    ):
        pids = list(client.run(os.getpid).values())
        yield Cluster(client, {"workers": pids})


@contextlib.contextmanager
def apart(directory: Path, workers: int = 2) -> Iterator[Cluster]:
    """Scheduler and workers as `dask` starts them, each in a process of its own."""
    address = directory / "scheduler.json"
    paths = os.pathsep.join([str(ROOT), *(path for path in sys.path if path)])
    environment = {**os.environ, "PYTHONPATH": paths}

    def start(*arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "dask", *arguments, "--scheduler-file", str(address)],
            env=environment,
            cwd=directory,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    started = [start("scheduler", "--port", "0", "--no-dashboard", "--host", "127.0.0.1")]
    worker = ("worker", "--no-nanny", "--nthreads", "1", "--no-dashboard", "--host", "127.0.0.1")
    started += [start(*worker) for _ in range(workers)]
    try:
        deadline = time.monotonic() + 60
        while not address.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        with Client(scheduler_file=str(address)) as client:
            client.wait_for_workers(workers, timeout=60)
            yield Cluster(
                client,
                {"scheduler": [started[0].pid], "workers": [p.pid for p in started[1:]]},
            )
    finally:
        # The scheduler last: a worker without a scheduler waits for it to return.
        for process in reversed(started):
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@dataclass
class Sample:
    """One execution of a workload."""

    wall: float
    cpu: dict[str, float]


@dataclass
class Tally:
    """Counts over instrumented executions."""

    tasks: int = 0
    recorded: int = 0
    dropped: int = 0
    errors: int = 0
    bytes: int = 0

    def count(self, run_dir: Path, tasks: int) -> None:
        """Add a closed run with this number of tasks."""
        summary = json.loads((run_dir / "summary.json").read_bytes())
        telemetry = summary["run"]["telemetry"]
        self.tasks += tasks
        self.recorded += summary["counts"]["tasks_succeeded"]
        self.dropped += sum(telemetry["dropped"].values())
        self.errors += sum(telemetry["errors"].values())
        self.bytes += run_bytes(run_dir)

    def __add__(self, other: Tally) -> Tally:
        ours, theirs = astuple(self), astuple(other)
        return Tally(*map(operator.add, ours, theirs))


def bare(cluster: Cluster, work: Work, tasks: int) -> Sample:
    """Execute a workload without instrumentation."""
    cluster.settle()
    before, began = cluster.cpu(), time.perf_counter()
    work(cluster.client, tasks)
    wall = time.perf_counter() - began
    after = cluster.cpu()
    return Sample(wall, {name: after[name] - before[name] for name in after})


def off(cluster: Cluster, work: Work, tasks: int) -> Sample:
    """Execute a workload with telemetry switched off."""
    os.environ["SCALABLE_TELEMETRY"] = "0"
    try:
        with scalable.instrument(cluster.client):
            return bare(cluster, work, tasks)
    finally:
        del os.environ["SCALABLE_TELEMETRY"]


def instrumented(
    cluster: Cluster, work: Work, tasks: int, runs_dir: Path, tally: Tally | None = None
) -> Sample:
    """Execute a recorded workload; CPU time counts until it is written, wall time until its end."""
    with scalable.instrument(cluster.client, project="bench", runs_dir=runs_dir) as run:
        cluster.settle()
        run.flush()
        before, began = cluster.cpu(), time.perf_counter()
        work(cluster.client, tasks)
        wall = time.perf_counter() - began
        run.flush(60)
        after = cluster.cpu()
    if tally is not None:
        tally.count(run.run_dir, tasks)
    return Sample(wall, {name: after[name] - before[name] for name in after})


def run_bytes(directory: Path) -> int:
    """Bytes of all files of a run."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def rounds(
    count: int, slices: int, measure: dict[str, Callable[[], Sample]], name: str
) -> list[dict[str, list[Sample]]]:
    """Execute `count` rounds of `slices` turns; a turn executes all variants there and back.

    The order is symmetric, so that a machine that gets faster or slower cancels out. Each turn
    begins with the next variant, so that none is always in the middle.
    """
    taken: list[dict[str, list[Sample]]] = []
    turns = itertools.cycle(_turns(list(measure)))
    for number in range(count):
        found: dict[str, list[Sample]] = {letter: [] for letter in measure}
        for turn in itertools.islice(turns, slices):
            for letter in [*turn, *reversed(turn)]:
                found[letter].append(measure[letter]())
        taken.append(found)
        walls = " ".join(f"{letter} {_mean(found[letter], None):.2f}" for letter in found)
        print(f"  {name}, round {number + 1} of {count}: {walls}", file=sys.stderr, flush=True)
    return taken


def _turns(letters: list[str]) -> list[list[str]]:
    return [[*letters[first:], *letters[:first]] for first in range(len(letters))]


def ratios(
    taken: list[dict[str, list[Sample]]], letter: str, cpu: str | None = None
) -> list[float]:
    """Ratio of each round's executions to its bare ones, of wall or CPU time."""
    return [_mean(found[letter], cpu) / _mean(found["b"], cpu) for found in taken]


def controls(taken: list[dict[str, list[Sample]]], cpu: str | None = None) -> list[float]:
    """Ratio of each round's bare executions on the way back to those on the way there: the noise.

    It overestimates the noise: half as many executions, and mostly those furthest apart.
    """
    return [_mean(found["b"][1::2], cpu) / _mean(found["b"][::2], cpu) for found in taken]


def per_task(
    taken: list[dict[str, list[Sample]]], letter: str, cpu: str, tasks: int
) -> list[float]:
    """CPU time per task of each round, in µs."""
    return [_mean(found[letter], cpu) / tasks * 1e6 for found in taken]


def _mean(samples: list[Sample], cpu: str | None) -> float:
    values = [sample.wall if cpu is None else _cpu(sample, cpu) for sample in samples]
    return sum(values) / len(values)


def _cpu(sample: Sample, names: str) -> float:
    """CPU of a process, or of several: ``driver+recorder``."""
    return sum(sample.cpu[name] for name in names.split("+"))
