"""Direct counts: CPU in Dask's event loops, bytes on its connections and in its memory."""

from __future__ import annotations

import asyncio
import gc
import statistics
import sys
import time
import tracemalloc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distributed import Client, LocalCluster, wait
from distributed.protocol import dumps

import scalable
from benchmarks import clusters, probes
from benchmarks.clusters import Cluster
from benchmarks.table import Row
from scalable import facts
from scalable.instrumentation.fact_buffer import FactBuffer
from scalable.instrumentation.scheduler_plugin import ScalableSchedulerPlugin

_PULL = 2_000


def in_the_loops(directory: Path, quick: bool) -> list[Row]:
    """CPU of hooks in the loops of scheduler and workers; bytes and messages they add."""
    tasks, count = (1_000, 1) if quick else (3_000, 7)
    hooks: list[float] = []
    pulls: list[float] = []
    loops: list[float] = []
    threads: list[float] = []
    reports = 0
    with clusters.apart(directory) as cluster:
        client = cluster.client
        clusters.run_map(client, tasks)
        for _ in range(count):
            with scalable.instrument(client, project="bench", runs_dir=directory) as run:
                cluster.settle()
                client.run_on_scheduler(probes.watch_scheduler)
                client.run(probes.watch_worker)
                clusters.run_map(client, tasks)
                cluster.settle()
                run.flush()
                found = client.run_on_scheduler(probes.read_scheduler)
                workers = list(client.run(probes.read_worker).values())
            pull = found["cpu"].pop("pull", 0.0)
            hooks.append(sum(found["cpu"].values()) / tasks * 1e6)
            pulls.append(pull / tasks * 1e6)
            attempts = sum(worker["loop"]["calls"]["_begin"] for worker in workers)
            assert attempts == tasks, (attempts, tasks)
            loops.append(_per_attempt(workers, "loop", attempts))
            threads.append(_per_attempt(workers, "thread", attempts))
            reports += sum(worker["loop"]["traffic"].get("reports", 0) for worker in workers)
            parts = {name: cpu / tasks * 1e6 for name, cpu in found["cpu"].items()}
            print("  scheduler:", _parts(parts), f"pull {pulls[-1]:.2f}", file=sys.stderr)
            names = workers[0]["loop"]["cpu"]
            parts = {
                name: sum(w["loop"]["cpu"].get(name, 0.0) for w in workers) / attempts * 1e6
                for name in names
            }
            print("  worker:", _parts(parts), f"thread {threads[-1]:.2f}", file=sys.stderr)
        rows, bare = _traffic(cluster, tasks, directory)
    return [
        Row.of_rounds(
            "hooks-scheduler",
            "scheduler's loop: CPU per task, all hooks and listeners",
            hooks,
            unit="µs",
            budget=5,
            note=f"bare, the scheduler's process took {bare['scheduler']:,.0f} µs a task then",
        ),
        Row.of_rounds(
            "hooks-pull", "scheduler's loop: CPU per task, answering pulls", pulls, unit="µs"
        ),
        Row.of_rounds(
            "hooks-worker",
            "worker's loop: CPU per attempt",
            loops,
            unit="µs",
            budget=5,
            note=f"bare, a worker's process took {bare['workers']:,.0f} µs a task then",
        ),
        Row.of_rounds("hooks-thread", "thread of the task: CPU per attempt", threads, unit="µs"),
        Row(
            key="reports",
            what="messages that the package sent from workers, per attempt of a no-op",
            measured=reports / tasks / count,
            kind="count",
        ),
        *rows,
    ]


def _per_attempt(workers: list[Any], where: str, attempts: int) -> float:
    return sum(sum(worker[where]["cpu"].values()) for worker in workers) / attempts * 1e6


def _parts(parts: dict[str, float]) -> str:
    return ", ".join(f"{name} {taken:.2f}" for name, taken in parts.items())


def _traffic(
    cluster: Cluster, tasks: int, directory: Path
) -> tuple[list[Row], Mapping[str, float]]:
    """Traffic of the scheduler's connections, and CPU of a bare task by process, in µs."""
    client = cluster.client

    def passed() -> dict[str, int]:
        cluster.settle()
        client.run_on_scheduler(probes.count_traffic)
        clusters.run_map(client, tasks)
        return client.run_on_scheduler(probes.read_traffic)

    began = cluster.cpu()
    before = passed()
    ended = cluster.cpu()
    bare = {name: (ended[name] - began[name]) / tasks * 1e6 for name in ended}
    with scalable.instrument(client, project="bench", runs_dir=directory) as run:
        during = passed()
        run.flush()
    rows: list[Row] = []
    for name in sorted(during):
        direction, _, what = name.partition(" ")
        added = (during[name] - before.get(name, 0)) / tasks
        rows.append(
            Row(
                key=f"added-{direction}-{what}",
                what=f"{what} that the scheduler {direction} more than bare, per task",
                measured=round(added, 3),
                unit="B" if what == "bytes" else "",
                note=f"bare: {before.get(name, 0) / tasks:.1f}",
            )
        )
    return rows, bare


def longest_hold(directory: Path, quick: bool) -> list[Row]:
    """The longest time that a hook or handler blocks the scheduler's loop."""
    tasks = 5_000 if quick else 200_000
    away = 2.0 if quick else 30.0
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs=50
        ) as cluster,
        Client(cluster) as client,
    ):
        wait(client.map(clusters.noop, range(100), pure=False))
        scheduler: Any = cluster.scheduler
        plugin = ScalableSchedulerPlugin("run-hold", client=client.id, scope="cluster")
        _on_loop(scheduler, lambda: _attach(scheduler, plugin))
        client.run_on_scheduler(probes.watch_scheduler)
        began = time.perf_counter()
        futures = client.map(clusters.noop, range(tasks), pure=False)
        # Tasks run and facts accumulate while no recorder pulls.
        time.sleep(max(0.0, away - (time.perf_counter() - began)))
        arrived = client.run_on_scheduler(probes.read_scheduler)
        waiting = len(plugin.buffer.waiting)
        holds, received = _come_back(scheduler, plugin)
        del futures
        cluster.scheduler.loop.add_callback(plugin.detach_quietly)
    hooks = {name: taken for name, taken in arrived["longest"].items() if name != "pull"}
    print("  longest calls:", {n: f"{t * 1e3:.2f} ms" for n, t in hooks.items()}, file=sys.stderr)
    return [
        Row(
            key="hold-graph",
            what=f"longest hold of the scheduler's loop: a graph of {tasks:,} tasks arrives",
            measured=max(hooks.values()) * 1e3,
            unit="ms",
            budget=50,
            note=f"in {max(hooks, key=lambda name: hooks[name])}",
        ),
        Row(
            key="hold-return",
            what=f"longest hold: a recorder reconnects after {away:.0f} s, {waiting:,} facts wait",
            measured=max(holds) * 1e3,
            unit="ms",
            budget=50,
            note=f"median {statistics.median(holds) * 1e3:.1f} ms, {len(holds)} pulls, "
            "with the answer made into frames",
        ),
        Row(
            key="return-lost",
            what="facts missing afterwards and not counted as dropped",
            measured=_noted_missing(received, plugin),
            budget=0,
            kind="count",
        ),
    ]


def _come_back(scheduler: Any, plugin: ScalableSchedulerPlugin) -> tuple[list[float], int]:
    """Pull everything on the scheduler's loop, and make each answer into frames there."""
    holds: list[float] = []
    received = 0

    def pull(after: int) -> dict[str, Any]:
        before = time.thread_time()
        answer = plugin.pull(after, _PULL)
        dumps(answer)
        holds.append(time.thread_time() - before)
        return answer

    after, more = 1, True
    while more:
        answer = _on_loop(scheduler, lambda after=after: pull(after))
        received += len(answer["facts"])
        after, more = answer["next"], answer["more"]
    return holds, received


def _noted_missing(received: int, plugin: ScalableSchedulerPlugin) -> int:
    # Facts are numbered without gaps: those noted are those returned and those left.
    return plugin.buffer.next + len(plugin.buffer.sent) - 1 - received


def _attach(scheduler: Any, plugin: ScalableSchedulerPlugin) -> None:
    plugin.attach(scheduler)
    scheduler.add_plugin(plugin, name=plugin.name)


def _on_loop(scheduler: Any, function: Any) -> Any:
    async def call() -> Any:
        return function()

    loop = scheduler.loop.asyncio_loop
    return asyncio.run_coroutine_threadsafe(call(), loop).result(60)


def memory(directory: Path, quick: bool) -> list[Row]:
    """Memory of facts that were not pulled yet, and what happens at the bound."""
    tasks = 1_000 if quick else 10_000
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs=50
        ) as cluster,
        Client(cluster) as client,
    ):
        wait(client.map(clusters.noop, range(100), pure=False))
        scheduler: Any = cluster.scheduler
        plugin = ScalableSchedulerPlugin("run-memory", client=client.id, scope="cluster")
        tracemalloc.start()
        _on_loop(scheduler, lambda: _attach(scheduler, plugin))
        futures = client.map(clusters.noop, range(tasks), pure=False)
        wait(futures)
        del futures
        while scheduler.tasks:
            time.sleep(0.05)
        held, blocks, count = _on_loop(scheduler, lambda: _release(plugin))
        estimated = plugin.buffer.bytes / max(1, count)
        tracemalloc.stop()
        _on_loop(scheduler, plugin.detach_quietly)
    print(f"  {held:.0f} B, {blocks:.1f} objects, estimated {estimated:.0f} B", file=sys.stderr)
    return [
        Row(
            key="fact-bytes",
            what="scheduler: memory per unacknowledged fact",
            measured=held,
            unit="B",
            budget=400,
            kind="count",
            note=f"{blocks:.1f} objects a fact, three facts a task",
        ),
        Row(
            key="fact-estimate",
            what="the estimate that the bound uses ÷ measured",
            measured=estimated / held,
        ),
        *_at_the_bound(),
    ]


def _release(plugin: ScalableSchedulerPlugin) -> tuple[float, float, int]:
    """Bytes and objects per fact, by what is freed without them."""
    gc.collect()
    count = len(plugin.buffer.waiting)
    memory, objects = tracemalloc.get_traced_memory()[0], sys.getallocatedblocks()
    plugin.buffer.waiting.clear()
    gc.collect()
    freed = memory - tracemalloc.get_traced_memory()[0]
    return freed / count, (objects - sys.getallocatedblocks()) / count, count


def _at_the_bound() -> list[Row]:
    """Note more facts than the buffer holds, as if they came from workers."""
    plugin = object.__new__(ScalableSchedulerPlugin)
    ScalableSchedulerPlugin.__init__(plugin, "run-bound", client=None)
    plugin.buffer = FactBuffer()
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    noted = 0
    while plugin.buffer.dropped < 50_000:
        key = f"noop-{noted:032x}"
        # As received from a connection: every text is a separate object.
        worker = f"tcp://127.0.0.1:{40_000 + noted % 2}"
        fact = facts.Started(facts.STARTED, 1.7e9 + noted, key, noted, worker)
        plugin.receive(fact)
        noted += 1
    del fact, key, worker
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    kept = len(plugin.buffer.waiting)
    return [
        Row(
            key="buffer-bound",
            what=f"scheduler: memory of a full buffer ({kept:,} facts)",
            measured=taken / 2**20,
            unit="MiB",
            budget=64,
            kind="count",
        ),
        Row(
            key="buffer-uncounted",
            what=f"facts beyond the bound ({noted - kept:,}) that were not counted as dropped",
            measured=noted - kept - plugin.buffer.dropped,
            budget=0,
            kind="count",
        ),
    ]
