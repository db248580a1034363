"""Probes around the code of the package that runs inside Dask's event loops.

They are sent to schedulers and workers by reference, so this module must be importable there. Each
probed call follows a probed call of nothing, whose time, the cost of the clock, is subtracted.
Garbage collections that begin within a probed call are subtracted too, and counted separately: they
run at any allocation, for everything that the process has allocated.
"""

from __future__ import annotations

import functools
import gc
import threading
import time
from collections import Counter
from typing import Any, Final

_HOOKS: Final = (
    "transition",
    "update_graph",
    "log_event",
    "add_worker",
    "remove_worker",
    "_sample",
    "_adopt_existing",
)
_ATTRIBUTE: Final = "_scalable_benchmark_probe"


def _nothing(*args: Any, **kwargs: Any) -> None:
    pass


class Probe:
    """CPU time of the calls of some functions, all on one thread."""

    def __init__(self) -> None:
        self.spent: Counter[str] = Counter()
        self.empty: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self.longest: Counter[str] = Counter()
        #: Bytes and messages, where they are counted.
        self.traffic: Counter[str] = Counter()
        #: CPU time of garbage collections on the probed thread, which is that of the first call.
        self.collected = 0
        self._collecting = 0
        self._thread = 0
        self._others = 0
        gc.callbacks.append(self._on_collection)

    def _on_collection(self, phase: str, details: dict[str, int]) -> None:
        if threading.get_ident() == self._thread:
            now = time.thread_time_ns()
            if phase == "start":
                self._collecting = now
            else:
                self.collected += now - self._collecting

    def metered(self, name: str, function: Any) -> Any:
        """`function`, metered."""
        now = time.thread_time_ns
        spent, empty, calls, longest = self.spent, self.empty, self.calls, self.longest

        @functools.wraps(function)
        def probed(*args: Any, **kwargs: Any) -> Any:
            if not self._thread:
                self._thread = threading.get_ident()
            collected, others = self.collected, self._others
            # The first reading of the clock after a pause takes the kernel several times longer.
            now()
            before = now()
            _nothing(*args, **kwargs)
            first = now()
            try:
                return function(*args, **kwargs)
            finally:
                second = now()
                taken = second - first - (self.collected - collected) - (self._others - others)
                spent[name] += taken
                empty[name] += first - before
                calls[name] += 1
                if taken > longest[name]:
                    longest[name] = taken

        return probed

    def excluded(self, function: Any) -> Any:
        """`function`, whose time is subtracted from that of the probed call around it."""
        now = time.thread_time_ns
        clock = sorted(now() - now() for _ in range(1_001))[500]

        @functools.wraps(function)
        def passed(*args: Any, **kwargs: Any) -> Any:
            collected = self.collected
            first = now()
            try:
                return function(*args, **kwargs)
            finally:
                now()
                self._others += now() - first - clock - (self.collected - collected)

        return passed

    def reading(self) -> dict[str, Any]:
        """Net CPU seconds by name, calls, the longest call."""
        return {
            "cpu": {name: (self.spent[name] - self.empty[name]) / 1e9 for name in self.spent},
            "calls": dict(self.calls),
            "longest": {name: taken / 1e9 for name, taken in self.longest.items()},
            "traffic": dict(self.traffic),
            "collected": self.collected / 1e9,
        }


def watch_scheduler(dask_scheduler: Any) -> None:
    """Meter every hook, handler and listener of a run on a scheduler."""
    probe = Probe()
    hub = dask_scheduler.extensions["scalable"]
    (plugin,) = hub.plugins.values()
    for name in _HOOKS:
        setattr(plugin, name, probe.metered(name, getattr(plugin, name)))
    # Dask's own handler runs within each listener and is not counted.
    for name, original in list(hub._originals.items()):
        if dask_scheduler.stream_handlers[name] != original:
            hub._originals[name] = probe.excluded(original)
            listener = dask_scheduler.stream_handlers[name]
            dask_scheduler.stream_handlers[name] = probe.metered("listener", listener)
    dask_scheduler.stream_handlers["scalable-facts"] = probe.metered("receive", hub.receive)
    if "scalable_pull" in dask_scheduler.handlers:
        dask_scheduler.handlers["scalable_pull"] = probe.metered("pull", hub.pull)
    setattr(dask_scheduler, _ATTRIBUTE, probe)


def read_scheduler(dask_scheduler: Any) -> dict[str, Any]:
    """What the probe of :func:`watch_scheduler` found."""
    return getattr(dask_scheduler, _ATTRIBUTE).reading()


def watch_worker(dask_worker: Any) -> None:
    """Meter what precedes and follows each execution on a worker."""
    probe = Probe()
    plugin = dask_worker.plugins["scalable"]
    plugin.transition = probe.metered("transition", plugin.transition)
    watch = plugin._watch
    for name in ("_begin", "_on_timer"):
        setattr(watch, name, probe.metered(name, getattr(watch, name)))
    watch._begin = _answered(dask_worker, watch._begin)
    watch._report = _counting(probe, watch._report)
    setattr(dask_worker, _ATTRIBUTE, probe)
    # In the thread of the task, one for each worker here.
    probe_of_thread = Probe()
    threads = dask_worker.active_threads
    threads.began = probe_of_thread.metered("began", watch._began)
    threads.ended = probe_of_thread.metered("ended", watch._ended)
    setattr(dask_worker, f"{_ATTRIBUTE}_thread", probe_of_thread)


def read_worker(dask_worker: Any) -> dict[str, Any]:
    """What the probes of :func:`watch_worker` found: of the loop, and of the task's thread."""
    return {
        "loop": getattr(dask_worker, _ATTRIBUTE).reading(),
        "thread": getattr(dask_worker, f"{_ATTRIBUTE}_thread").reading(),
    }


def _answered(dask_worker: Any, begin: Any) -> Any:
    """Exclude the time in which Dask finds out, once per task, whether it is a coroutine."""

    def after_dask(key: Any) -> Any:
        _ = dask_worker.state.tasks[key].run_spec.is_coro
        return begin(key)

    return after_dask


def _counting(probe: Probe, report: Any) -> Any:
    def counted(*args: Any) -> Any:
        probe.traffic["reports"] += 1
        return report(*args)

    return counted


def count_traffic(dask_scheduler: Any) -> None:
    """Count what passes the scheduler's connections from now on."""
    from distributed.comm import tcp

    probe = getattr(dask_scheduler, f"{_ATTRIBUTE}_traffic", None)
    if probe is None:
        probe = Probe()
        setattr(dask_scheduler, f"{_ATTRIBUTE}_traffic", probe)
        tcp.to_frames = _sized(probe, "sent", tcp.to_frames, argument=False)
        tcp.from_frames = _sized(probe, "received", tcp.from_frames, argument=True)
    probe.traffic.clear()


def read_traffic(dask_scheduler: Any) -> dict[str, int]:
    """Messages and bytes since :func:`count_traffic`."""
    return dict(getattr(dask_scheduler, f"{_ATTRIBUTE}_traffic").traffic)


def _sized(probe: Probe, name: str, function: Any, *, argument: bool) -> Any:
    @functools.wraps(function)
    async def sized(first: Any, *args: Any, **kwargs: Any) -> Any:
        result = await function(first, *args, **kwargs)
        frames, message = (first, result) if argument else (result, first)
        probe.traffic[f"{name} bytes"] += sum(memoryview(frame).nbytes for frame in frames)
        probe.traffic[f"{name} messages"] += (
            len(message) if isinstance(message, list | tuple) else 1
        )
        return result

    return sized
