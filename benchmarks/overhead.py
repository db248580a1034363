"""Instrumented against bare: whole workloads on one warm cluster."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from pathlib import Path

import scalable
from benchmarks import clusters
from benchmarks.clusters import Cluster, Tally
from benchmarks.table import Row


def noop_tasks(directory: Path, quick: bool) -> list[Row]:
    """Tasks that do nothing, submitted in three ways."""
    tasks, slices, count = clusters.amount(quick, 400, 10_000)
    rows: list[Row] = []
    tally = Tally()
    works = {
        "map": clusters.run_map,
        "submit": clusters.run_submit,
        "delayed": clusters.run_delayed,
    }
    with clusters.local_cluster() as cluster:
        for name, work in works.items():
            work(cluster.client, tasks)
            measure = _measures(cluster, work, tasks // slices, directory, tally)
            if name == "map":
                measure["o"] = functools.partial(clusters.off, cluster, work, tasks // slices)
            taken = clusters.rounds(count, slices, measure, name)
            control = clusters.controls(taken)
            what = f"{tasks:,} no-op tasks, {name}"
            rows.append(
                Row.of_ratios(
                    f"noop-{name}-wall",
                    f"{what}: wall, instrumented ÷ bare",
                    clusters.ratios(taken, "i"),
                    control,
                    budget=1.03,
                )
            )
            rows.append(
                Row.of_ratios(
                    f"noop-{name}-cpu",
                    f"{what}: CPU of the driver's process",
                    clusters.ratios(taken, "i", "driver"),
                    clusters.controls(taken, "driver"),
                    budget=1.06,
                )
            )
            rows.append(
                Row.of_ratios(
                    f"noop-{name}-all-cpu",
                    f"{what}: CPU of the driver's process and the recorder's",
                    clusters.ratios(taken, "i", "driver+recorder"),
                    clusters.controls(taken, "driver+recorder"),
                )
            )
            rows.append(
                Row.of_rounds(
                    f"noop-{name}-recorder-cpu",
                    f"{what}: CPU of the recorder's process, per task",
                    clusters.per_task(taken, "i", "recorder", tasks // slices),
                    unit="µs",
                )
            )
            if name == "map":
                rows.append(
                    Row.of_ratios(
                        "off",
                        f"{what}: wall, switched off ÷ bare",
                        clusters.ratios(taken, "o"),
                        control,
                        # The noise of bare against bare in the same rounds is allowed.
                        budget=max(1.01, *control),
                    )
                )
        tasks, count = (1_000, 1) if quick else (10_000, 5)
        whole = Tally()
        closings = [_close_at_once(cluster, tasks, directory, whole) for _ in range(count)]
    rows.append(
        Row.of_rounds(
            "close-real",
            f"close() right after the last of {tasks:,} results",
            closings,
            unit="s",
            budget=0.5,
        )
    )
    return rows + _counted(tally + whole, whole)


def in_the_driver(directory: Path, quick: bool) -> list[Row]:
    """CPU time, by direct count, to feed a recorder in a process of its own."""
    tasks, count = (1_000, 1) if quick else (10_000, 5)
    feeding: list[float] = []
    with clusters.local_cluster() as cluster:
        bare = [clusters.bare(cluster, clusters.run_map, tasks) for _ in range(2)][-1]
        for _ in range(count):
            with scalable.instrument(cluster.client, project="bench", runs_dir=directory) as run:
                cluster.settle()
                run.flush()
                before = _feeding_cpu()
                clusters.run_map(cluster.client, tasks)
                run.flush(60)
                feeding.append((_feeding_cpu() - before) / tasks * 1e6)
    return [
        Row.of_rounds(
            "driver-feeding",
            "driver: CPU per task of the thread that fetches facts and hands them to the recorder",
            feeding,
            unit="µs",
            note=f"bare, the driver's process took {bare.cpu['driver'] / tasks * 1e6:,.0f} µs a "
            "task then, the scheduler's part included",
        ),
    ]


def _feeding_cpu() -> float:
    """CPU seconds of the thread that feeds the recorder."""
    (thread,) = (it for it in threading.enumerate() if it.name.startswith("scalable-recorder"))
    assert thread.ident is not None
    return time.clock_gettime(time.pthread_getcpuclockid(thread.ident))


def short_tasks(directory: Path, quick: bool) -> list[Row]:
    """Tasks of 10 ms."""
    tasks, slices, count = clusters.amount(quick, 100, 2_000)
    with clusters.local_cluster() as cluster:
        clusters.run_naps(cluster.client, 100)
        measure = _measures(cluster, clusters.run_naps, tasks // slices, directory)
        taken = clusters.rounds(count, slices, measure, "10 ms")
    return [
        Row.of_ratios(
            "tasks-10ms-wall",
            f"{tasks:,} tasks of 10 ms: wall, instrumented ÷ bare",
            clusters.ratios(taken, "i"),
            clusters.controls(taken),
            budget=1.005,
        )
    ]


def processes_apart(directory: Path, quick: bool) -> list[Row]:
    """CPU of a scheduler and of workers in processes of their own."""
    tasks, slices, count = clusters.amount(quick, 400, 10_000)
    with clusters.apart(directory) as cluster:
        clusters.run_map(cluster.client, tasks)
        measure = _measures(cluster, clusters.run_map, tasks // slices, directory)
        taken = clusters.rounds(count, slices, measure, "apart")
    rows = [
        Row.of_ratios(
            f"{name}-cpu",
            f"{tasks:,} no-op tasks: CPU of {words}, instrumented ÷ bare",
            clusters.ratios(taken, "i", name),
            clusters.controls(taken, name),
            budget=1.03,
        )
        for name, words in (
            ("scheduler", "the scheduler in a process of its own"),
            ("workers", "the workers"),
        )
    ]
    rows.append(
        Row.of_ratios(
            "apart-wall",
            f"{tasks:,} no-op tasks, scheduler apart: wall",
            clusters.ratios(taken, "i"),
            clusters.controls(taken),
        )
    )
    return rows


def _measures(
    cluster: Cluster,
    work: clusters.Work,
    tasks: int,
    directory: Path,
    tally: Tally | None = None,
) -> dict[str, Callable[[], clusters.Sample]]:
    """The variants of a workload: b bare, i instrumented."""
    return {
        "b": functools.partial(clusters.bare, cluster, work, tasks),
        "i": functools.partial(clusters.instrumented, cluster, work, tasks, directory, tally),
    }


def _counted(tally: Tally, whole: Tally) -> list[Row]:
    return [
        Row(
            key="lost",
            what=f"tasks of {tally.tasks:,} whose end is not in the record",
            measured=tally.tasks - tally.recorded,
            budget=0,
            kind="count",
        ),
        Row(
            key="dropped",
            what="facts dropped and internal errors in these runs",
            measured=tally.dropped + tally.errors,
            budget=0,
            kind="count",
        ),
        Row(
            key="disk",
            what="disk: bytes per successful task, all files, real cluster",
            measured=whole.bytes / whole.tasks,
            unit="B",
            budget=900,
            # In the quick form, what a run writes once, mostly metrics, weighs more.
            ceiling=1_300,
            kind="count",
        ),
    ]


def _close_at_once(cluster: Cluster, tasks: int, directory: Path, tally: Tally) -> float:
    run = scalable.instrument(cluster.client, project="bench", runs_dir=directory)
    clusters.run_map(cluster.client, tasks)
    began = time.perf_counter()
    run.close()
    took = time.perf_counter() - began
    tally.count(run.run_dir, tasks)
    return took
