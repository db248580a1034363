"""Every reach behind Dask's public interface: one function each.

A docstring says what of Dask it relies on; ``tests/cluster/test_dask_compat.py`` tests each of them
against the oldest and the newest supported release.
"""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping
from contextlib import suppress
from time import time
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import dask.config
import distributed
from dask.utils import parse_timedelta
from distributed import Client, Nanny, Scheduler, Status, Worker, default_client, spans
from distributed import core as distributed_core
from distributed import worker as distributed_worker
from distributed.protocol.pickle import loads
from packaging.requirements import Requirement

from scalable.common.clocks import process_began
from scalable.common.requirements import required_distributed
from scalable.facts import Phase
from scalable.facts.protocol import CLOCK_SHIFT, EXPORTS_CHILDREN, THREAD_CPU
from scalable.instrumentation.patching import Patch

if TYPE_CHECKING:
    from distributed.scheduler import WorkerState
    from distributed.worker_state_machine import TaskState as WorkerTaskState

T = TypeVar("T")

#: Phases kept of one attempt.
MAX_PHASES: Final = 1_000


def unsupported_version() -> str:
    """Say why the installed distributed is too old; empty if it is not."""
    requirement = Requirement(required_distributed())
    installed: str = cast("Any", distributed).__version__
    if requirement.specifier.contains(installed, prereleases=True):
        return ""
    return f"distributed {installed} is too old, {requirement} is needed"


# -- processes ------------------------------------------------------------------------------------


def schedulers_here() -> list[Scheduler]:
    """Schedulers that run in this process: ``Scheduler._instances`` holds all."""
    return [
        found
        for found in list(Scheduler._instances)
        if found.status == Status.running and was_made_here(found)
    ]


def was_made_here(server: Scheduler | Worker) -> bool:
    """Whether this process made the server, and did not inherit its memory in a fork.

    ``monitor.proc`` is the process that made it.
    """
    return server.monitor.proc.pid == os.getpid()


def is_only_worker_here(worker: Worker) -> bool:
    """Whether the process has no scheduler, nanny or other worker: each class has `_instances`."""
    others = [
        found
        for found in list(Worker._instances)
        if found is not worker
        and found.status not in (Status.closed, Status.failed)
        and was_made_here(found)
    ]
    # A worker with a nanny has a process of its own; forked, it has the nanny in its memory.
    nannies = [] if worker.nanny else list(Nanny._instances)
    return not others and not nannies and not schedulers_here()


def launched(worker: Worker) -> float:
    """When the worker's process began; in a shared process, when `monitor` measured first."""
    if schedulers_here():
        times: Any = worker.monitor.quantities["time"]
        return float(times[0]) if times else time()
    return process_began()


def asyncio_loop(loop: Any) -> Any:
    """The asyncio loop of a Tornado loop, which has it in `asyncio_loop`; None if it has none."""
    return getattr(loop, "asyncio_loop", None)


def is_on_loop(loop: Any) -> bool:
    """Whether the caller runs on a Tornado loop."""
    try:
        running = asyncio.get_running_loop()
    except RuntimeError:
        return False
    return asyncio_loop(loop) is running


def run_on(loop: Any, function: Callable[[], Coroutine[Any, Any, T]], timeout: float) -> T:
    """Run a coroutine function on the Tornado loop of another thread, and wait for its result.

    Unlike :func:`distributed.utils.sync` it does not wait for a loop that has stopped.

    Raises
    ------
    TimeoutError
        It took longer than `timeout` seconds; it is cancelled.
    """
    future = asyncio.run_coroutine_threadsafe(function(), asyncio_loop(loop))
    try:
        return future.result(timeout)
    except TimeoutError:
        future.cancel()
        raise


# -- clients --------------------------------------------------------------------------------------


def global_client() -> Client | None:
    """The current client, or None: ``default_client()`` raises ValueError then."""
    with suppress(ValueError):
        return default_client()
    return None


def scheduler_address(client: Client) -> str:
    """Address of a client's scheduler: ``client.scheduler`` is its RPC; empty without one."""
    scheduler: Any = client.scheduler
    return str(scheduler.address) if scheduler is not None else ""


def fetch_workers(client: Client, timeout: float = 2.0) -> dict[str, dict[str, Any]]:
    """The scheduler's information on each worker, by address: RPC ``identity(n_workers=-1)``.

    On the client's event loop, which cannot wait for it, and if there is no answer in time: the
    client's last copy, ``client._scheduler_identity``, which has few workers or none.
    """
    scheduler: Any = client.scheduler
    found: Any = cast("Any", client)._scheduler_identity
    if client.status == "running" and not is_on_loop(client.loop):
        with suppress(OSError, TimeoutError):
            found = run_on(client.loop, lambda: scheduler.identity(n_workers=-1), timeout)
    return dict((found or {}).get("workers", {}))


def stream_of(client: Client) -> Any:
    """A client's stream to its scheduler, which has `send`: ``scheduler_comm``; None at first.

    A client that connects again has another one. The client sends graphs with it, on its loop.
    """
    return cast("Any", client).scheduler_comm


def close_method(client: Client) -> Callable[..., Any]:
    """The coroutine function ``_close``, which every way of closing a client calls."""
    return cast("Any", client)._close


def graph_patch(wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Patch:
    """Wrap ``Client._send_to_scheduler``, through which every graph is sent, and other messages.

    ``Client._graph_to_futures`` calls it once it has found the user's code on the stack
    (``_get_computation_code``): Dask does not see a frame of ours there.
    """
    return Patch(Client, "_send_to_scheduler", wrap)


def span_patch(wrap: Callable[[Any], Any]) -> Patch:
    """Replace the module ``dask`` as ``distributed.span()`` sees it, which calls its `annotate`.

    Programs have a reference of their own to ``distributed.span``: wrapping that would not reach
    them.
    """
    return Patch(spans, "dask", wrap)


def is_graph(message: Any) -> bool:
    """Whether a client's message to its scheduler is a graph: its `op` is ``update-graph``."""
    return message.__class__ is dict and message.get("op") == "update-graph"


def graph_annotations(message: Mapping[str, Any]) -> dict[str, Any]:
    """Annotations of all tasks of a graph's message: the `data` of a `ToPickle`."""
    return message["annotations"].data


def annotate_graph(message: dict[str, Any], name: str, value: Any) -> None:
    """Add an annotation to all tasks of a graph's message."""
    annotations = message["annotations"]
    message["annotations"] = type(annotations)({**annotations.data, name: value})


def hide_frames(module: str) -> None:
    """Leave frames of a module out of what Dask shows as the user's code.

    The value of ``distributed.diagnostics.computations.ignore-modules`` is a list of patterns.
    """
    name = "distributed.diagnostics.computations.ignore-modules"
    pattern = rf"{re.escape(module)}(\.|$)"
    ignored: Any = dask.config.get(name, None)
    if isinstance(ignored, list) and pattern not in ignored:
        dask.config.set({name: [*cast("list[str]", ignored), pattern]})


# -- schedulers -----------------------------------------------------------------------------------


def addresses(scheduler: Scheduler) -> set[str]:
    """All addresses of a scheduler: its own, and the `contact_address` of each listener."""
    found = {listener.contact_address for listener in scheduler.listeners}
    return {str(address) for address in (scheduler.address, *found) if address}


def rpc_handlers(server: Scheduler | Worker) -> dict[str, Any]:
    """Functions by the name of the RPC; a name is looked up at each call."""
    return server.handlers


def stream_handlers(server: Scheduler | Worker) -> dict[str, Any]:
    """Functions by the name of the stream message; a name is looked up with each message.

    Dask closes the stream of a peer that sends an unknown name.
    """
    return server.stream_handlers


def send_to_worker(scheduler: Scheduler, address: str, message: Mapping[str, Any]) -> None:
    """Send a stream message to a worker, if `stream_comms` has a stream to it."""
    if address in scheduler.stream_comms:
        scheduler.worker_send(address, dict(message))


def shown_annotations(scheduler: Scheduler) -> dict[str, Any]:
    """Annotations that Dask shows of a graph, in a hook `update_graph`; others may be there too.

    The last of ``computations``, if there is any, is that of the graph; ``Computation.annotations``
    has the annotations of all its graphs. Tasks have theirs in ``TaskState.annotations``.
    """
    return scheduler.computations[-1].annotations if scheduler.computations else {}


def registered_at(scheduler: Scheduler, address: str) -> float:
    """When a worker registered: its topic has the event ``add-worker``; now if it is gone."""
    with suppress(Exception):
        for when, event in scheduler.get_events(address):
            if isinstance(event, dict) and event.get("action") == "add-worker":
                return float(when)
    return time()


def observed_tick(scheduler: Scheduler) -> float:
    """Seconds between the last two ticks of its event loop: ``_tick_interval_observed``."""
    return float(cast("Any", scheduler)._tick_interval_observed)


def loop_lag(tick: float) -> float:
    """How late an event loop is: its observed tick less ``distributed.admin.tick.interval``."""
    due = parse_timedelta(dask.config.get("distributed.admin.tick.interval"), "ms")
    return max(0.0, tick - float(due or 0.0))


def spilled_bytes(scheduler: Scheduler) -> tuple[int, int]:
    """Bytes that all workers have written to disk, and read back.

    ``cumulative_worker_metrics`` has tuples that end with ``"disk-write", "bytes"``, for each
    activity and task prefix.
    """
    spilled = {"disk-write": 0, "disk-read": 0}
    for name, value in dict(cast("Any", scheduler).cumulative_worker_metrics).items():
        if isinstance(name, tuple) and name[-1] == "bytes" and name[-2] in spilled:
            spilled[name[-2]] += int(value)
    return spilled["disk-write"], spilled["disk-read"]


def memory_on_disk(worker: WorkerState) -> int:
    """Bytes that a worker has spilled, as of its last heartbeat: ``metrics["spilled_bytes"]``."""
    return int((worker.metrics.get("spilled_bytes") or {}).get("disk") or 0)


def function_name(run_spec: Any) -> str | None:
    """Name of a task's function: a :class:`dask.task_spec.Task` has it in `func`."""
    function = getattr(run_spec, "func", None)
    for found in (function, getattr(function, "func", None)):  # functools.partial
        name = getattr(found, "__name__", None)
        if isinstance(name, str):
            return name
    return None


def parse_startstops(
    startstops: Collection[Mapping[str, Any]] | None,
) -> tuple[float | None, float | None, tuple[Phase, ...], Any]:
    """Start and stop of the task's own code, phases around it, CPU time of its thread.

    A list of `action`, `start` and `stop` in the order in which they ended; the task's own code is
    ``compute``. What Dask kept of an earlier execution of the task is left out, and so are later
    transfers: Dask adds a transfer to any one of the tasks that need the key, also to one that has
    ended.
    """
    start = stop = cpu = None
    phases: list[Phase] = []
    later: list[Phase] = []
    for item in startstops or ():
        shift: Any = item.get(CLOCK_SHIFT)
        if shift.__class__ is not float:
            shift = 0.0
        begin, end = item["start"] + shift, item["stop"] + shift
        action = item["action"]
        if action == "compute":
            if start is not None:
                phases = [phase for phase in later if phase[0] != "disk-write"]
                later = []
            start, stop, cpu = begin, end, item.get(THREAD_CPU)
        elif len(phases) + len(later) < MAX_PHASES:
            (phases if start is None else later).append((action[:100], begin, end))
    phases += [phase for phase in later if phase[0] != "transfer"]
    return start, stop, tuple(phases), cpu


def stimulus_reason(stimulus_id: str) -> str:
    """Why a transition happened: a stimulus id is a word, a dash and a time."""
    return stimulus_id.rstrip("0123456789.-")


def load_exception(value: Any) -> BaseException | None:
    """An exception as Dask keeps it: itself, or its pickle, or a `Serialize` with that in `data`.

    The scheduler has a pickle of those that it makes, a worker's task a `Serialize` of what it
    raised. None if it cannot be read.
    """
    found: Any = value
    with suppress(Exception):
        if not isinstance(found, BaseException):
            found = getattr(found, "data", found)
        if isinstance(found, bytes | bytearray):
            found = loads(found)
    return found if isinstance(found, BaseException) else None


# -- workers --------------------------------------------------------------------------------------


def wrap_execute(worker: Worker, before: Callable[[Any], object]) -> Callable[[], None]:
    """Have `before` called with the key of each task that is about to run; returns what undoes it.

    Dask calls ``worker.execute(key, stimulus_id=…)``, a coroutine function that it looks up on the
    worker each time. `before` runs in the asyncio task of the execution.
    """
    original = worker.execute

    # Not a coroutine function: another coroutine around Dask's would cost 2 µs a task.
    def execute(key: Any, *, stimulus_id: str) -> Any:
        before(key)
        return original(key, stimulus_id=stimulus_id)

    own = vars(worker)
    own["execute"] = execute

    def undo() -> None:
        if own.get("execute") is execute:
            del own["execute"]  # the method of the class shows again

    return undo


def has_threads(worker: Worker, executor: str) -> bool:
    """Whether an executor runs tasks with a context and an entry in `active_threads`.

    Dask's own test: the name of the executor's type.
    """
    return "ThreadPoolExecutor" in str(type(worker.executors.get(executor)))


def running_tasks(worker: Worker) -> Iterator[tuple[WorkerTaskState, float]]:
    """Tasks that are running, and when they began, on the worker's clock.

    ``state.executing`` and ``state.long_running`` have them, `start_time` is set by then.
    """
    for task in [*worker.state.executing, *worker.state.long_running]:
        if task.start_time is not None:
            yield task, task.start_time


def clock_delay(worker: Worker) -> float:
    """How far Dask takes the scheduler's clock to be ahead: ``scheduler_delay``, in seconds.

    Each heartbeat measures it anew. Dask adds the value at the begin of an execution to the times
    of its code.
    """
    return worker.scheduler_delay


def round_trip(worker: Worker, before: float) -> float:
    """Seconds that the last heartbeat took; `before` is :func:`mean_round_trip` before it.

    ``latency`` is an average: each heartbeat has a weight of one twentieth.
    """
    return 20.0 * (worker.latency - 0.95 * before)


def mean_round_trip(worker: Worker) -> float:
    """Seconds that heartbeats take on average: ``latency``."""
    return worker.latency


def report_times(task: WorkerTaskState, cpu: float | None, shift: float, ahead: float) -> None:
    """Add what a worker has measured to what Dask is about to report of a task that has ended.

    The message to the scheduler refers to the list `startstops` and its dictionaries. Dask has
    moved the times of the task's code and of transfers by its own measurement of the scheduler's
    clock, those of reading and writing not.

    Parameters
    ----------
    task : distributed.worker_state_machine.TaskState
        The task.
    cpu : float or None
        CPU time of its thread in seconds, if it is known.
    shift, ahead : float
        Seconds to add to times that Dask has moved, and to those that it has not.
    """
    reports: list[Any] = task.startstops
    for report in reports:
        if report["action"] == "compute":
            if cpu is not None:
                report[THREAD_CPU] = cpu
            if shift:
                report[CLOCK_SHIFT] = shift
        elif moved := shift if report["action"] == "transfer" else ahead:
            report[CLOCK_SHIFT] = moved


def report_exports(task: WorkerTaskState) -> None:
    """Tell the scheduler, with what Dask is about to report, that the worker exports children."""
    reports: list[Any] = task.startstops
    if reports:
        reports[-1][EXPORTS_CHILDREN] = True


def truncation_patch(wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Patch:
    """Wrap ``core.truncate_exception``: it replaces an exception with a message that is too long.

    It is called where the task's code ran, and returns its argument if that is short enough.
    """
    return Patch(distributed_core, "truncate_exception", wrap)


def run_patch(wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Patch:
    """Wrap ``worker._run_task_simple(task, data, …)``: it calls ``task(data)`` and nothing else.

    A thread's task is run by it; a process of a pool has it by its name in the module.
    """
    return Patch(distributed_worker, "_run_task_simple", wrap)


def run_coroutine_patch(wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Patch:
    """Wrap ``worker._run_task_async(task, data, …)``: it awaits ``task(data)`` on the loop."""
    return Patch(distributed_worker, "_run_task_async", wrap)


def traceback_patch(wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Patch:
    """Wrap ``core.get_traceback``: the current traceback without Dask's frames at its top."""
    return Patch(distributed_core, "get_traceback", wrap)


def sent_bytes(worker: Worker) -> int:
    """Bytes that a worker has sent to others: ``transfer_outgoing_bytes_total``."""
    return worker.transfer_outgoing_bytes_total


class BlockedStream:
    """Whether a worker's stream to its scheduler takes nothing; asked by the worker's loop.

    ``batched_stream`` has what waits in `buffer` and the number of writes in `batch_count`.
    """

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


# -- nannies --------------------------------------------------------------------------------------


def last_terminated_pid(nanny: Nanny) -> int:
    """The process that the nanny's memory manager ended last; -1 if none."""
    return int(cast("Any", nanny.memory_manager)._last_terminated_pid)


def runs_worker(nanny: Nanny) -> bool:
    """Whether the nanny's worker process is running: ``process.status``."""
    process: Any = nanny.process
    return process is not None and process.status == Status.running


class ExitHook:
    """Reports every end of a nanny's worker process; used on the nanny's loop.

    A nanny passes ``_on_worker_exit_sync`` to each process that it starts, which keeps it in
    `on_exit` and calls it with the exit status.

    Parameters
    ----------
    nanny : distributed.Nanny
        The nanny.
    notify : callable
        Called with the exit status and whether the nanny will start another process.
    """

    def __init__(self, nanny: Nanny, notify: Callable[[int, bool], object]) -> None:
        self._nanny: Any = nanny
        original = self._original = self._nanny._on_worker_exit_sync

        def on_exit(status: int) -> None:
            notify(status, nanny.status in (Status.running, Status.paused))
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
        process = self._nanny.process
        if process is not None and process.on_exit is not None:
            process.on_exit = hook
