"""A scheduler alone: CPU per task of its thread, bare, with an empty plugin, and with the package.

:mod:`benchmarks.instructions` counts the instructions of the same.

A real scheduler, a real client, and workers that answer at once, all in one thread. The cost
includes the hooks themselves, what Dask needs to call them, garbage collection, and cold caches.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import pickle
import statistics
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

import dask
from distributed import Client, Scheduler, Worker, wait
from distributed.comm import connect
from distributed.diagnostics.plugin import SchedulerPlugin
from distributed.protocol import deserialize_bytes, dumps, serialize_bytes
from distributed.utils import silence_logging_cmgr
from distributed.versions import get_versions

from benchmarks.clusters import noop
from benchmarks.table import Row, mean_and_error
from scalable.facts.identity import carrier_of
from scalable.facts.protocol import ANNOTATION, CLOCK_SHIFT, THREAD_CPU
from scalable.instrumentation.scheduler_plugin import ScalableSchedulerPlugin, plugin_name

_RUN = "run-20260101T000000Z-bench-00000000"
_CARRIER = carrier_of(
    {"run": _RUN, "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}
)
#: Threads of each worker, and messages that it returns at a time.
_NTHREADS = 8
#: Seconds between two pulls.
INTERVAL = 0.2
_INT = pickle.dumps(int)
#: Variants whose cost is the time beyond that of a bare scheduler.
_COSTS: Final = {"idle": "a plugin that does nothing", "ours": "ours, with its pulls,"}


def scheduler_alone(directory: Path, quick: bool) -> list[Row]:
    """CPU of the scheduler's thread."""
    tasks, rounds = (300, 1) if quick else (1_500, 25)
    config = {"distributed.scheduler.worker-ttl": None, "temporary-directory": str(directory)}
    with dask.config.set(config), silence_logging_cmgr(logging.CRITICAL):
        found = asyncio.run(_measure(["bare", *_COSTS], tasks, rounds))
    bare = found["bare"]
    took = f"bare, the thread took {statistics.median(bare):,.0f} µs a task"
    return [
        Row.of_rounds(
            f"alone-{key}",
            f"scheduler alone: CPU per task that {what} costs",
            more,
            unit="µs",
            note=took if quick else f"{took}; mean {mean_and_error(more, 1, 'µs')}",
        )
        for key, what in _COSTS.items()
        for more in [[one - none for one, none in zip(found[key], bare, strict=True)]]
    ]


async def _measure(ways: list[str], tasks: int, rounds: int) -> dict[str, list[float]]:
    taken: dict[str, list[float]] = {way: [] for way in ways}
    async with Stage.set() as stage:
        for way in ways:
            await stage.execute(way, tasks)
        for number in range(rounds):
            # There and back, from the other end each time: drift cancels out.
            order = ways if number % 2 else ways[::-1]
            found = dict.fromkeys(ways, 0.0)
            for way in [*order, *reversed(order)]:
                found[way] += await stage.execute(way, tasks) / 2
            for way in ways:
                taken[way].append(found[way] * 1e6)
    return taken


@dataclass
class Stage:
    """A scheduler, a client and workers, all on the loop of this thread."""

    scheduler: Scheduler
    client: Client
    workers: list[Answering]

    @classmethod
    @asynccontextmanager
    async def set(cls) -> AsyncIterator[Stage]:
        """Start and close everything."""
        async with AsyncExitStack() as stack:
            scheduler = await stack.enter_async_context(
                Scheduler(protocol="inproc", dashboard=False, port=0)
            )
            async with Worker(scheduler.address, nthreads=1) as model:
                metrics = await model.get_metrics()
            workers = [await Answering.start(scheduler, number, metrics) for number in range(2)]
            for worker in workers:
                stack.push_async_callback(worker.close)
            client = await stack.enter_async_context(Client(scheduler.address, asynchronous=True))
            yield cls(scheduler, client, workers)

    async def execute(self, way: str, tasks: int) -> float:
        """CPU seconds of the thread per task."""
        async with _WAYS[way](self.scheduler, self.client) as traits:
            for worker in self.workers:
                worker.reports = traits.reports
            carried = {ANNOTATION: _CARRIER} if traits.annotated else {}
            gc.collect()
            began = time.thread_time()
            with dask.annotate(**carried):
                futures = self.client.map(noop, range(tasks), pure=False)
            await wait(futures)
            taken = time.thread_time() - began
            del futures
            while self.scheduler.tasks:
                await asyncio.sleep(0.01)
        return taken / tasks


class Traits(NamedTuple):
    """What a variant does apart from the plugin of the scheduler."""

    #: Graphs are annotated like those of a run.
    annotated: bool
    #: Workers report what the package's plugin would report.
    reports: bool


Way: TypeAlias = Callable[[Scheduler, Client], AbstractAsyncContextManager[Traits]]


@asynccontextmanager
async def _bare(scheduler: Scheduler, client: Client) -> AsyncIterator[Traits]:
    yield Traits(annotated=False, reports=False)


@asynccontextmanager
async def _annotating(scheduler: Scheduler, client: Client) -> AsyncIterator[Traits]:
    yield Traits(annotated=True, reports=False)


@asynccontextmanager
async def _idle(scheduler: Scheduler, client: Client) -> AsyncIterator[Traits]:
    class Idle(SchedulerPlugin):
        name = "idle"

        def transition(self, *args: Any, **kwargs: Any) -> None:
            pass

    scheduler.add_plugin(Idle())
    yield Traits(annotated=False, reports=False)
    scheduler.remove_plugin("idle")


@asynccontextmanager
async def _ours(scheduler: Scheduler, client: Client) -> AsyncIterator[Traits]:
    plugin = ScalableSchedulerPlugin(_RUN, client=client.id)
    scheduler.add_plugin(plugin, name=plugin_name(_RUN))
    plugin.attach(scheduler)

    after = 1

    def fetch() -> bool:
        nonlocal after
        answer = plugin.pull(after)
        after = answer["next"]
        dumps(answer)
        return answer["more"]

    async def pull() -> None:
        while True:
            await asyncio.sleep(INTERVAL)
            fetch()

    pulling = asyncio.create_task(pull())
    yield Traits(annotated=True, reports=True)
    pulling.cancel()
    while fetch():
        pass
    await plugin.leave()


_WAYS: Final[dict[str, Way]] = {
    "bare": _bare,
    "annotated": _annotating,
    "idle": _idle,
    "ours": _ours,
}


class Answering:
    """A worker that answers each task at once, on the scheduler's loop."""

    def __init__(self, comm: Any) -> None:
        self._comm = comm
        #: Whether it reports what the package's plugin would report.
        self.reports = False
        self._serving = asyncio.create_task(self._serve())

    @classmethod
    async def start(cls, scheduler: Scheduler, number: int, metrics: Any) -> Answering:
        """Register at `scheduler`."""
        comm = await connect(scheduler.address)
        await comm.write(
            {
                "op": "register-worker",
                "reply": False,
                "address": f"tcp://127.0.0.1:{number + 1}",
                "status": "running",
                "server_id": f"answering-{number}",
                "nthreads": _NTHREADS,
                "name": number,
                "now": time.time(),
                "resources": {},
                "memory_limit": 2**30,
                "metrics": metrics,
                "pid": 0,
                "services": {},
                "local_directory": "",
                "versions": get_versions(),
                "nanny": "",
                "extra": {},
                "stimulus_id": "register",
            }
        )
        answer = await comm.read()
        assert answer["status"] == "OK", answer
        return cls(comm)

    async def close(self) -> None:
        """Close the connection."""
        self._serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._serving
        await self._comm.close()

    async def _serve(self) -> None:
        while True:
            for message in await self._comm.read():
                if message["op"] == "compute-task":
                    # Serialised, so that no object is shared, as over a network.
                    answer = serialize_bytes([self._finished(message)])
                    await self._comm.write(deserialize_bytes(answer))

    def _finished(self, message: dict[str, Any]) -> dict[str, Any]:
        now = time.time()
        run_id = message["run_id"]
        return {
            "op": "task-finished",
            "status": "OK",
            "key": message["key"],
            "run_id": run_id,
            "nbytes": 28,
            "type": _INT,
            "typename": "int",
            "metadata": {},
            "thread": 1,
            "startstops": (
                {"action": "compute", "start": now, "stop": now + 1e-5}
                | ({THREAD_CPU: 1e-5, CLOCK_SHIFT: -1e-4} if self.reports else {}),
            ),
            "stimulus_id": f"task-finished-{now}",
        }
