"""Every place where we reach behind Dask's public interface, and nothing else.

Each name was looked up in the oldest and the newest supported distributed; a test calls each.
"""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import ContextVar
from time import time
from typing import Any, Final, cast

import dask
import dask.base
import distributed
import psutil
from dask.utils import parse_timedelta
from distributed import Client, Nanny, Scheduler, Status, Worker
from distributed import core as distributed_core
from distributed.client import _get_global_client


def global_client() -> Client | None:
    """The client that is current, or None."""
    return _get_global_client()


def schedulers_here() -> list[Scheduler]:
    """Schedulers that run in this process."""
    return [
        found
        for found in list(Scheduler._instances)
        if found.status == Status.running and was_made_here(found)
    ]


def was_made_here(server: Scheduler | Worker) -> bool:
    """Whether it was not merely in the memory of the process that this one was forked from."""
    return server.monitor.proc.pid == os.getpid()


def addresses(scheduler: Scheduler) -> set[str]:
    """All addresses at which a scheduler can be reached."""
    found = {listener.contact_address for listener in scheduler.listeners}
    return {str(address) for address in (scheduler.address, *found) if address}


def scheduler_address(client: Client) -> str:
    """Address of a client's scheduler."""
    scheduler: Any = client.scheduler
    return str(scheduler.address) if scheduler is not None else ""


def identity(client: Client) -> dict[str, Any]:
    """What the client was told of its scheduler when it connected."""
    return dict(cast("Any", client)._scheduler_identity or {})


def asyncio_loop(loop: Any) -> Any:
    """The asyncio loop below Tornado's, or None."""
    return getattr(loop, "asyncio_loop", None)


def graph_to_futures() -> Callable[..., Any]:
    """The method of a client through which every graph passes."""
    return cast("Any", Client)._graph_to_futures


def set_graph_to_futures(function: Callable[..., Any]) -> None:
    """Put another function in its place."""
    cast("Any", Client)._graph_to_futures = function


def truncate_exception() -> Callable[..., Any]:
    """What makes another exception of one whose message is longer than Dask keeps."""
    return cast("Any", distributed_core).truncate_exception


def set_truncate_exception(function: Callable[..., Any]) -> None:
    """Put another function in its place."""
    cast("Any", distributed_core).truncate_exception = function


def close_method(client: Client) -> Callable[..., Any]:
    """The coroutine function by which every client ends, whoever asks for it."""
    return cast("Any", client)._close


#: What :func:`dask.annotate` sets; None where it keeps that elsewhere.
_ANNOTATIONS: Final[Any] = getattr(dask.base, "_annotations", None)


class _Annotated:
    """Sets the variable of :func:`dask.annotate`, whose checks cost ten times as much.

    Used by whichever thread sends a graph, within one call.
    """

    __slots__ = ("_new", "_token")

    def __init__(self, new: dict[str, Any]) -> None:
        self._new = new

    def __enter__(self) -> None:
        before = _ANNOTATIONS.get()
        self._token = _ANNOTATIONS.set({**before, **self._new} if before else self._new)

    def __exit__(self, *_: object) -> None:
        _ANNOTATIONS.reset(self._token)


def annotate(name: str, value: Any) -> AbstractContextManager[None]:
    """:func:`dask.annotate` with one annotation, none of those that mean something to Dask."""
    if isinstance(_ANNOTATIONS, ContextVar):
        return _Annotated({name: value})
    return dask.base.annotate(**{name: value})


def configuration() -> dict[str, Any]:
    """Dask's configuration, as nested dictionaries."""
    return cast("Any", dask).config.config


def distributed_version() -> str:
    """Version of distributed."""
    return cast("Any", distributed).__version__


def observed_tick(scheduler: Scheduler) -> float:
    """Seconds between two ticks of the scheduler's event loop, as it measured them last."""
    return float(cast("Any", scheduler)._tick_interval_observed)


def loop_lag(tick: float) -> float:
    """How late an event loop ran what was due, from its observed interval between two ticks."""
    due = parse_timedelta(cast("Any", dask).config.get("distributed.admin.tick.interval"), "ms")
    return max(0.0, tick - float(due or 0.0))


def cumulative_worker_metrics(scheduler: Scheduler) -> dict[Any, float]:
    """Dask's fine performance metrics of all workers, summed up by the scheduler."""
    return dict(cast("Any", scheduler).cumulative_worker_metrics)


def is_only_worker_here(worker: Worker) -> bool:
    """Whether nothing else of Dask lives in the process: no scheduler, nanny or other worker."""
    others = [found for found in list(Worker._instances) if found is not worker]
    running = [
        found
        for found in others
        if found.status not in (Status.closed, Status.failed) and was_made_here(found)
    ]
    # A worker with a nanny has a process of its own; forked, it has the nanny in its memory.
    nannies = [] if worker.nanny else list(Nanny._instances)
    return not running and not nannies and not schedulers_here()


def launched(worker: Worker) -> float:
    """When the worker's process began; its first own measurement where it shares a process."""
    if schedulers_here():
        times: Any = worker.monitor.quantities["time"]
        return float(times[0]) if times else time()
    return psutil.Process(os.getpid()).create_time()


def last_terminated_pid(nanny: Nanny) -> int:
    """The process that the nanny ended last for its memory; -1 if none."""
    return int(cast("Any", nanny.memory_manager)._last_terminated_pid)


def runs_worker(nanny: Nanny) -> bool:
    """Whether the nanny's process runs, and has told where it is."""
    process: Any = nanny.process
    return process is not None and process.status == Status.running


class ExitHook:
    """Tells of every end of a nanny's worker process; used on the nanny's loop.

    Parameters
    ----------
    nanny : distributed.Nanny
        The nanny.
    told : callable
        Called with the exit status and whether the nanny is about to start another process.
    """

    def __init__(self, nanny: Nanny, told: Callable[[int, bool], object]) -> None:
        self._nanny: Any = nanny
        original = self._original = self._nanny._on_worker_exit_sync

        def on_exit(status: int) -> None:
            told(status, nanny.status in (Status.running, Status.paused))
            original(status)

        self._hook = on_exit
        self._nanny._on_worker_exit_sync = on_exit
        self._put(on_exit)

    def remove(self) -> None:
        """Undo it."""
        if self._nanny.__dict__.get("_on_worker_exit_sync") is self._hook:
            del self._nanny._on_worker_exit_sync
            self._put(self._original)

    def _put(self, hook: Callable[[int], None]) -> None:
        # What was started already has its own reference.
        process = self._nanny.process
        if process is not None and process.on_exit is not None:
            process.on_exit = hook


class BlockedStream:
    """Whether a worker's stream to its scheduler takes nothing; asked by the worker's loop."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._batches = -1

    def is_blocked(self) -> bool:
        """Messages wait, and none has been written since the last call."""
        stream: Any = self._worker.batched_stream
        batches = getattr(stream, "batch_count", -1)
        blocked = bool(getattr(stream, "buffer", None)) and batches == self._batches
        self._batches = batches
        return blocked
