"""Worker → facts: when an attempt really began, why it raised, the CPU time it took."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import traceback
from collections.abc import Callable, Coroutine
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from time import time
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from distributed import Status
from distributed.diagnostics.plugin import WorkerPlugin
from distributed.metrics import thread_time
from distributed.protocol.pickle import loads

from scalable import facts
from scalable.common.guard import Guard, guarded, printable, split_repr
from scalable.facts import shortened
from scalable.facts.identity import task_id
from scalable.facts.protocol import (
    ANNOTATION,
    CONFIG_OP,
    FLUSH_OP,
    SENT_METRIC,
    STREAM_OP,
    THREAD_CPU,
    WORKER_PLUGIN_NAME,
)
from scalable.instrumentation import dask_compat, propagation
from scalable.instrumentation.capture import Capture
from scalable.instrumentation.outbox import Outbox, Reports, process
from scalable.instrumentation.process_pools import ContextPool
from scalable.instrumentation.python_logs import LogCollector
from scalable.instrumentation.relay_providers import (
    COLLECT_INTERVAL,
    OBSERVE_INTERVAL,
    RelayProviders,
    is_worker_process,
    otel_disabled,
)
from scalable.instrumentation.slot_file import SlotFile

if TYPE_CHECKING:
    from distributed import Worker
    from distributed.worker_state_machine import StateMachineEvent, TaskState


#: An attempt that still runs after this time is announced to the scheduler, in seconds.
ANNOUNCE_AFTER: Final = 0.05
#: Seconds between looks at tasks that ran when the watch began.
TIDY_INTERVAL: Final = 0.5

#: States of a task on its worker in which its code runs, or may still run.
_UNDER_WAY: Final = frozenset({"executing", "long-running", "cancelled", "resumed"})
#: What becomes of a task when its code has ended.
_ENDS: Final = frozenset({"memory", "error", "rescheduled"})
#: Those states in which Dask will take the result in and tell the scheduler.
_WANTED: Final = frozenset({"executing", "long-running"})


def _sent(worker: Worker) -> int:
    """Bytes that a worker has sent to others; told by its heartbeats."""
    return worker.transfer_outgoing_bytes_total


Execute = Callable[..., Coroutine[Any, Any, "StateMachineEvent"]]


class ScalableWorkerPlugin(WorkerPlugin):
    """Watches the executions of one worker.

    Every method is called by the worker's event loop.
    """

    name = WORKER_PLUGIN_NAME
    idempotent = True

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as source text: a worker without this package must start all the same.

        Dask unpickles the plugins of a new worker outside of any try: a class that cannot be
        imported there would keep the worker from starting.
        """
        return eval, (_LOADER,)

    def setup(self, worker: Worker) -> None:
        """Begin to watch."""
        self.guard = Guard()
        self._watch: Watch | None = None
        self._capture: Capture | None = None
        self._set_up(worker)
        self._begin_capture(worker)

    def teardown(self, worker: Worker) -> None:
        """Give the worker back as it was."""
        self._tear_down()
        self._end_capture(worker)

    def transition(self, key: Any, start: str, finish: str, **kwargs: Any) -> None:
        """A task changed its state; nothing to do but where its code ran, or may still run."""
        if start in _UNDER_WAY:
            watch = self._watch
            if watch is not None:
                try:
                    watch.moved(key, start, finish)
                except BaseException as error:
                    self.guard.failed("moved", error)

    @guarded("worker_setup")
    def _set_up(self, worker: Worker) -> None:
        self._metrics: dict[str, Any] = worker.metrics
        self._metrics[SENT_METRIC] = _sent
        self._watch = Watch(worker, self.guard)

    @guarded("worker_teardown")
    def _tear_down(self) -> None:
        self._metrics.pop(SENT_METRIC, None)
        if self._watch is not None:
            self._watch.stop()
            self._watch = None

    @guarded("capture_setup")
    def _begin_capture(self, worker: Worker) -> None:
        self._capture = Capture.start(worker)

    @guarded("capture_teardown")
    def _end_capture(self, worker: Worker) -> None:
        # A worker that closes takes its process along: its last words are yet to come.
        if self._capture is not None and worker.status in (Status.running, Status.paused):
            self._capture.stop()
            self._capture = None


#: Run where the plugin is unpickled: there the package may be missing, and the scheduler is told.
_SOURCE: Final = f"""
try:
    from scalable.common.forks import no_fork
    with no_fork:
        from scalable.instrumentation.worker_plugin import ScalableWorkerPlugin as Plugin
except Exception as error:
    import logging, time
    from distributed.diagnostics.plugin import WorkerPlugin
    reason = type(error).__name__ + ": " + str(error)
    logging.getLogger("distributed.worker").warning(
        "scalable cannot watch this worker (%s); tasks run on, unwatched", reason
    )
    class Plugin(WorkerPlugin):
        def setup(self, worker):
            now = time.time() + worker.scheduler_delay
            report = (
                {facts.WORKER_EVENT}, now, worker.address, {facts.UNWATCHED!r}, {{"reason": reason}}
            )
            worker.batched_send({{"op": {STREAM_OP!r}, "reports": [(None, report)]}})
plugin = Plugin()
"""
_LOADER: Final = f"(lambda names: (exec({_SOURCE!r}, names), names['plugin'])[1])({{}})"


#: Exception class, message, whole traceback with the chain of causes, bases, error number.
Described: TypeAlias = tuple[str, str, str, tuple[str, ...], int | None]


class Execution:
    """One execution of a task.

    Made on the worker's loop; begun, metered and ended by the thread that runs the task.
    """

    task: TaskState
    run_id: int
    # Of the class until they change: that costs nothing at the making.
    #: What the task came with.
    carrier: str | None = None
    #: Takes what its code records.
    outbox: Outbox | None = None
    #: When it began; 0 while it waits for its thread.
    start = 0.0
    #: The task's own code runs: said by its thread.
    began = False
    announced = False
    #: No thread of this process runs it: a coroutine, or a task for a pool of processes.
    elsewhere = False
    #: The task was cancelled: no message of Dask's will tell that it had begun.
    dropped = False
    #: Place on the board.
    slot = 0
    #: CPU time of its thread as it began, and what the task took of it, in seconds; None until it
    #: has ended, and where no thread of its own runs it.
    cpu_began = 0.0
    cpu: float | None = None

    #: What it raised, where that is longer than Dask keeps.
    raised: Described | None = None

    def describe(self, error: BaseException) -> None:
        """Keep the essence of `error`, of which Dask is about to keep only the beginning."""
        self.raised = _describe(error, "")

    @property
    def key(self) -> str:
        """The task."""
        return task_id(self.task.key)


_set_item: Final = dict[int, Any].__setitem__
_del_item: Final = dict[int, Any].__delitem__


class ActiveThreads(dict[int, Any]):
    """The worker's own table of what each thread runs, telling :class:`Watch` of each entry.

    Dask's first act in the thread of a task is to enter its key here: the one moment at which the
    thread itself can say that an attempt really began, and not only its turn in the queue. Its last
    is to take the entry out. The thread works in a copy of the context made for this execution:
    what is set there ends with it.
    """

    def __init__(self, replaced: dict[int, Any], guard: Guard) -> None:
        super().__init__(replaced)
        self._guard = guard
        #: The worker's first table: what ran when this one came leaves that one.
        self._replaced = replaced
        self._before = dict(replaced)
        #: Called in the thread of each task; None once nobody watches. The table itself stays:
        #: threads hold on to it.
        self.began: Callable[[Any], None] | None = None
        self.ended: Callable[[], None] | None = None

    def __setitem__(self, thread: int, key: Any) -> None:
        _set_item(self, thread, key)
        began = self.began
        if began is not None:
            try:
                began(key)
            except BaseException as error:
                self._guard.failed("began", error)

    def __delitem__(self, thread: int) -> None:
        _del_item(self, thread)
        ended = self.ended
        if ended is not None:
            try:
                ended()
            except BaseException as error:
                self._guard.failed("ended", error)

    def tidy(self) -> bool:
        """Drop what has left the first table; returns whether something is still there."""
        for thread, key in list(self._before.items()):
            if thread not in self._replaced:
                del self._before[thread]
                if self.get(thread) is key:
                    super().__delitem__(thread)
        return bool(self._before)


class Watch:
    """What the plugin keeps of one worker; lives on the worker's loop.

    :meth:`_began` and :meth:`_ended` are called by the threads that run tasks, each of which
    touches its own attempt only, and nothing of it that the loop changes meanwhile.
    """

    def __init__(self, worker: Worker, guard: Guard) -> None:
        self._worker = worker
        self._guard = guard
        self._loop = asyncio.get_running_loop()
        #: What executes here, by key: Dask runs a task once at a time.
        self._executions: dict[Any, Execution] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._slots = self._open_slots()
        self._tasks = worker.state.tasks
        self._threads_by_default = _has_threads(worker, "default")
        # What may fail comes before anything of the worker's is touched.
        self._outbox = Outbox(
            self._loop,
            lambda: worker.address,
            self._send,
            _resource(worker),
            dask_compat.BlockedStream(worker).is_blocked,
        )
        self._records = LogCollector(
            self._outbox, self._ahead, guard, everything=is_worker_process(worker)
        )
        self._execute: Execute = worker.execute
        self._wrapper = self._make_wrapper(self._execute)
        setattr(worker, "execute", self._wrapper)  # noqa: B010
        self._watch_threads()
        propagation.install()
        self._relay: RelayProviders | None = None
        with ExitStack() as undo:
            # Half a watch would leave for ever what it has put in place.
            undo.callback(self.stop)
            self._begin_to_tell()
            undo.pop_all()

    def _begin_to_tell(self) -> None:
        worker = self._worker
        self._records.start()
        self._relay = self._start_relay()
        handlers: dict[str, Any] = worker.stream_handlers
        handlers[CONFIG_OP] = self._configure
        rpcs: dict[str, Any] = worker.handlers
        rpcs[FLUSH_OP] = self.flush
        now = time() + worker.scheduler_delay
        launched = dask_compat.launched(worker) + worker.scheduler_delay
        self._report(None, facts.WorkerHello(facts.WORKER_HELLO, now, worker.address, launched))
        self._announce_already_running()

    def stop(self) -> None:
        """Undo everything; what runs at this moment is announced, nobody will read the board."""
        for attempt in list(self._executions.values()):
            if attempt.began and not attempt.announced:
                self._announce_one(attempt)
        self._executions.clear()
        if isinstance(self._worker.active_threads, ActiveThreads):
            self._worker.active_threads.began = self._worker.active_threads.ended = None
        own = vars(self._worker)
        if own.get("execute") is self._wrapper:
            # The bound method of the class shows again.
            delattr(self._worker, "execute")
        if self._timer is not None:
            self._timer.cancel()
        propagation.remove()
        self._close_pools()
        self._records.stop()
        if self._relay is not None:
            self._observe.cancel()
            self._relay.stop()
            self._relay = None
        self._outbox.close()
        # A message that is under way must find a handler: Dask would close the stream.
        handlers: dict[str, Any] = self._worker.stream_handlers
        handlers[CONFIG_OP] = _ignore
        self._worker.handlers.pop(FLUSH_OP, None)
        if self._slots is not None:
            self._slots.close()
            self._slots = None

    def _watch_threads(self) -> None:
        worker = self._worker
        with worker.active_threads_lock:
            table = worker.active_threads
            if not isinstance(table, ActiveThreads):
                table = worker.active_threads = ActiveThreads(table, self._guard)
        table.began, table.ended = self._began, self._ended
        self._tidy(table)

    def _tidy(self, table: ActiveThreads) -> None:
        with self._worker.active_threads_lock:
            again = table.tidy()
        if again:
            self._loop.call_later(TIDY_INTERVAL, self._tidy, table)

    def _open_slots(self) -> SlotFile | None:
        try:
            return SlotFile(str(self._worker.id))
        except (OSError, AttributeError) as error:
            # Without it, what had begun on a killed worker is inferred from what was assigned.
            self._guard.errors[f"board:{type(error).__name__}"] += 1
            return None

    # -- one attempt ------------------------------------------------------------------------------

    def _make_wrapper(self, original: Execute) -> Execute:
        # No coroutine around Dask's own: that would cost as much as all the rest.
        def execute(key: Any, *, stimulus_id: str) -> Coroutine[Any, Any, StateMachineEvent]:
            try:
                self._begin(key)
            except BaseException as error:
                self._guard.failed("begin", error)
            return original(key, stimulus_id=stimulus_id)

        return execute

    def _begin(self, key: Any) -> None:
        """Dask is about to execute a task: the run id is the one that it will report.

        On the loop, whose processor has the task at hand: its thread has to fetch what it looks at.
        """
        task = self._tasks[key]
        attempt = Execution()
        attempt.task = task
        attempt.run_id = task.run_id
        attempt.outbox = self._outbox
        self._executions[key] = attempt
        if self._timer is None:
            self._timer = self._loop.call_later(ANNOUNCE_AFTER, self._on_timer)
        annotations = task.annotations
        threads = self._threads_by_default
        if annotations:
            attempt.carrier = annotations.get(ANNOTATION)
            if "executor" in annotations:
                threads = _has_threads(self._worker, annotations["executor"])
        # Dask asks the same next, and the answer is kept.
        run_spec: Any = task.run_spec
        if run_spec.is_coro or not threads:
            self._begin_elsewhere(attempt)
            if not threads:
                self._open_pool((annotations or _NO_ANNOTATIONS).get("executor", "default"))

    def _begin_elsewhere(self, attempt: Execution) -> None:
        """No thread of a task will say that it begins."""
        attempt.began = attempt.elsewhere = True
        attempt.start = time() + self._worker.scheduler_delay
        # This runs in an asyncio task of its own: what is set here ends with the execution.
        propagation.enter(attempt)

    def _open_pool(self, name: str) -> None:
        executors: dict[str, Any] = self._worker.executors
        pool = executors.get(name)
        if isinstance(pool, ProcessPoolExecutor):
            executors[name] = ContextPool(
                pool, self._outbox, lambda: (self._ahead(), self._records.level)
            )

    def _close_pools(self) -> None:
        executors: dict[str, Any] = self._worker.executors
        for name, pool in list(executors.items()):
            if isinstance(pool, ContextPool):
                executors[name] = pool.pool

    def _began(self, key: Any) -> None:
        attempt = self._executions.get(key)
        if attempt is not None:
            attempt.start = start = time() + self._worker.scheduler_delay
            if self._slots is not None:
                attempt.slot = self._slots.begin(attempt.run_id, start)
            propagation.enter(attempt)
            attempt.cpu_began = thread_time()
            # From here on the loop may announce it.
            attempt.began = True
            if attempt.dropped:
                self._loop.call_soon_threadsafe(self._announce_late, attempt)

    def _ended(self) -> None:
        attempt = propagation.current_attempt.get()
        if isinstance(attempt, Execution) and not attempt.elsewhere:
            attempt.cpu = thread_time() - attempt.cpu_began
            if self._slots is not None:
                self._slots.end(attempt.slot)

    def moved(self, key: Any, start: str, finish: str) -> None:
        """A task left a state in which its code ran, or may still run.

        Where Dask drops what the task returned, the scheduler hears nothing of this execution but
        what we tell it: the task was cancelled meanwhile, or is wanted from elsewhere by now.
        """
        if finish in _ENDS:
            attempt = self._executions.pop(key, None)
            if attempt is None:
                return
            # Before Dask's own message: what a run's last task recorded must not come too late.
            if self._outbox.waiting or (self._relay is not None and self._relay.measured):
                self._hand_over()
            if attempt.cpu is not None and finish == "memory" and start in _WANTED:
                # Nearly always. Travels with Dask's own message, which refers to this list.
                reports: list[Any] = attempt.task.startstops
                for report in reversed(reports):
                    if report["action"] == "compute":
                        report[THREAD_CPU] = attempt.cpu
                        break
                return
            if attempt.elsewhere and self._slots is not None:
                self._slots.end(attempt.slot)
            if finish == "error" and start in _WANTED:
                self._report_error(attempt)
            elif finish == "rescheduled" or start not in _WANTED:
                self._announce_late(attempt)
        elif finish == "released":
            attempt = self._executions.get(key)
            if attempt is not None:
                attempt.dropped = True
                self._announce_late(attempt)

    def _announce_late(self, attempt: Execution) -> None:
        if attempt.began and not attempt.announced:
            self._announce_one(attempt)

    # -- what user code and loggers record --------------------------------------------------------

    def _start_relay(self) -> RelayProviders | None:
        # An application's own providers, or their absence, are its own business.
        if not is_worker_process(self._worker) or otel_disabled():
            return None
        relay = RelayProviders(self._outbox, self._ahead, self._guard)
        relay.start()
        self._observe = self._loop.call_later(OBSERVE_INTERVAL, self._on_observe)
        return relay

    def _on_observe(self) -> None:
        if self._relay is not None:
            self._relay.collect()
            self._observe = self._loop.call_later(COLLECT_INTERVAL, self._on_observe)

    def _hand_over(self) -> None:
        if self._relay is not None:
            self._relay.collect()
        self._outbox.flush()

    def flush(self, **_: Any) -> Reports:
        """RPC of the scheduler: a run ends, what is here now must be in it."""
        try:
            if self._relay is not None:
                self._relay.collect(force=True)
            return self._outbox.empty()
        except BaseException as error:
            self._guard.failed("flush", error)
            return []

    def _configure(self, log_level: int = logging.INFO, **_: Any) -> None:
        """Stream message of the scheduler: what its runs want."""
        self._records.level = log_level

    def _ahead(self) -> float:
        return self._worker.scheduler_delay

    def _send(self, reports: Reports) -> None:
        self._worker.batched_send({"op": STREAM_OP, **facts.report(reports)})

    # -- to the scheduler ---------------------------------------------------------------------

    def _on_timer(self) -> None:
        self._timer = None
        try:
            self._announce()
        except BaseException as error:
            self._guard.failed("announce", error)

    def _announce(self) -> None:
        """Tell the scheduler what has begun a while ago and still runs."""
        horizon = time() + self._worker.scheduler_delay - ANNOUNCE_AFTER / 2
        waiting = False
        for attempt in list(self._executions.values()):
            if attempt.announced:
                continue
            if attempt.began and attempt.start <= horizon:
                self._announce_one(attempt)
            else:
                waiting = True
        if waiting:
            self._timer = self._loop.call_later(ANNOUNCE_AFTER, self._on_timer)

    def _announce_one(self, attempt: Execution) -> None:
        attempt.announced = True
        if self._slots is not None and attempt.elsewhere and attempt.task.key in self._executions:
            attempt.slot = self._slots.begin(attempt.run_id, attempt.start)
        self._report(
            propagation.run_of(attempt),
            facts.Started(
                facts.STARTED, attempt.start, attempt.key, attempt.run_id, self._worker.address
            ),
        )

    def _announce_already_running(self) -> None:
        """Attempts that were under way before the plugin came: Dask kept when they began."""
        state = self._worker.state
        for task in [*state.executing, *state.long_running]:
            if task.start_time is not None:
                start = task.start_time + self._worker.scheduler_delay
                attempt = Execution()
                attempt.task, attempt.run_id, attempt.start = task, task.run_id, start
                self._announce_one(attempt)

    def _report_error(self, attempt: Execution) -> None:
        described = attempt.raised or _describe_task(attempt.task)
        error_type, message, text, bases, errno = described
        self._report(
            propagation.run_of(attempt),
            facts.AttemptError(
                facts.ATTEMPT_ERROR,
                time() + self._worker.scheduler_delay,
                attempt.key,
                attempt.run_id,
                error_type,
                message,
                text,
                attempt.cpu,
                bases,
                errno,
            ),
        )

    def _report(self, run: str | None, fact: facts.Fact) -> None:
        self._send([(run, tuple(fact))])


def _resource(worker: Worker) -> dict[str, Any]:
    return process() | {
        "dask.worker.name": str(worker.name),
        "dask.worker.address": worker.address,
    }


def _ignore(**_: Any) -> None:
    pass


def _has_threads(worker: Worker, executor: str) -> bool:
    """By Dask's own test: others get neither the context nor an entry among the threads."""
    return "ThreadPoolExecutor" in str(type(worker.executors.get(executor)))


def _describe_task(task: TaskState) -> Described:
    """Describe what a task has raised.

    Dask has pickled the exception, and unpickled it to see whether that works, in this very
    process; where it could not, only its ``repr`` is left.
    """
    exception: Any = None
    try:
        data: Any = task.exception
        data = getattr(data, "data", data)
        exception = loads(data) if isinstance(data, bytes | bytearray) else data
    except Exception:
        exception = None
    text = task.exception_text
    if not isinstance(exception, BaseException) or _is_stand_in(exception, text):
        name, message = split_repr(text)
        return name, message, f"{_HEADER}{task.traceback_text}{text}\n", (), None
    return _describe(exception, task.traceback_text)


def _describe(exception: BaseException, traceback_text: str) -> Described:
    name = type(exception).__qualname__
    message = printable(exception)
    whole = ""
    if exception.__traceback__ is not None:  # else it was made anew
        with contextlib.suppress(Exception):
            whole = "".join(traceback.format_exception(exception))
    if not whole:
        whole = f"{_HEADER}{traceback_text}{name}: {message}\n"
    errno: Any = getattr(exception, "errno", None) if isinstance(exception, OSError) else None
    return (
        name,
        message,
        _encodable(shortened(whole)),
        _bases(exception),
        errno if type(errno) is int else None,
    )


def _bases(exception: BaseException) -> tuple[str, ...]:
    """What its class inherits from, below Exception, nearest first."""
    above = type(exception).__mro__[1 : 1 + _MAX_BASES]
    return tuple(
        base.__qualname__
        for base in above
        if issubclass(base, BaseException) and base not in (BaseException, Exception)
    )


_MAX_BASES: Final = 12


_NO_ANNOTATIONS: Final[dict[str, Any]] = {}
_HEADER: Final = "Traceback (most recent call last):\n"


def _is_stand_in(exception: BaseException, text: str) -> bool:
    """``Exception(repr(e))`` stands for an exception that cannot be pickled."""
    return type(exception) is Exception and exception.args == (text,)


def _encodable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
