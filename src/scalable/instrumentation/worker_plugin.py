"""Worker → facts: when an attempt really began, why it raised, the CPU time it took."""

from __future__ import annotations

import asyncio
import os
import traceback
from collections.abc import Callable, Coroutine
from time import time
from typing import TYPE_CHECKING, Any, Final

import psutil
from distributed.diagnostics.plugin import WorkerPlugin
from distributed.protocol.pickle import loads
from distributed.worker_state_machine import ExecuteFailureEvent, RescheduleEvent

from scalable import facts
from scalable.facts import ANNOTATION, STREAM_OP, WORKER_PLUGIN_NAME
from scalable.guard import Guard, guarded, printable, split_repr
from scalable.instrumentation import internals, propagation
from scalable.instrumentation.board import Board

if TYPE_CHECKING:
    from distributed import Worker
    from distributed.worker_state_machine import StateMachineEvent, TaskState

#: An attempt that still runs after this time is announced to the scheduler, in seconds.
ANNOUNCE_AFTER: Final = 0.02
#: Seconds between looks at tasks that ran when the watch began.
TIDY_INTERVAL: Final = 0.5
#: Characters kept of a traceback.
MAX_TRACEBACK: Final = 100_000

Execute = Callable[..., Coroutine[Any, Any, "StateMachineEvent"]]


class ScalableWorkerPlugin(WorkerPlugin):
    """Watches the executions of one worker.

    Every method is called by the worker's event loop, except :meth:`Attempt.meter`, which Dask
    calls in the thread that ran the task.
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
        self._set_up(worker)

    def teardown(self, worker: Worker) -> None:
        """Give the worker back as it was."""
        self._tear_down()

    @guarded("worker_setup")
    def _set_up(self, worker: Worker) -> None:
        self._watch = Watch(worker, self.guard)

    @guarded("worker_teardown")
    def _tear_down(self) -> None:
        if self._watch is not None:
            self._watch.stop()
            self._watch = None


_SOURCE: Final = """
try:
    from scalable.instrumentation.worker_plugin import ScalableWorkerPlugin as Plugin
except Exception as error:
    import logging
    from distributed.diagnostics.plugin import WorkerPlugin as Plugin
    logging.getLogger("distributed.worker").warning(
        "scalable cannot watch this worker (%s: %s); tasks run on, unwatched",
        type(error).__name__, error,
    )
plugin = Plugin()
"""
_LOADER: Final = f"(lambda names: (exec({_SOURCE!r}, names), names['plugin'])[1])({{}})"


class Attempt:
    """One execution of a task; made on the worker's loop, begun and metered by its thread."""

    __slots__ = ("announced", "began", "carrier", "cpu", "key", "run_id", "slot", "start")

    def __init__(
        self,
        key: str,
        run_id: int,
        carrier: propagation.Carrier | None,
        start: float,
    ) -> None:
        self.key = key
        self.run_id = run_id
        self.carrier = carrier
        #: The task's own code runs: said by its thread.
        self.began = False
        self.start = start
        self.slot = 0
        self.announced = False
        #: CPU time of the task's thread, in seconds; None until measured (or not measurable).
        self.cpu: float | None = None

    @property
    def run(self) -> str | None:
        """Id of the run that the task was annotated with."""
        return self.carrier.get("run") if self.carrier else None

    def nested_carrier(self) -> propagation.Carrier | None:
        """Annotation of the tasks that this attempt's code submits: it is their parent."""
        carrier = self.carrier
        if carrier is None:
            return None
        parts = str(carrier.get("traceparent", "")).split("-")
        if len(parts) != 4:
            return carrier
        parts[2] = f"{facts.attempt_span_id(str(carrier.get('run')), self.key, self.run_id):016x}"
        return {**carrier, "traceparent": "-".join(parts)}

    def meter(self, label: Any, value: float, unit: str) -> None:
        """Take Dask's own measurement of the task's CPU time."""
        if label == "thread-cpu":
            self.cpu = value


class ActiveThreads(dict[int, Any]):
    """The worker's own table of what each thread runs, telling :class:`Watch` of each entry.

    Dask's first act in the thread of a task is to enter its key here: the one moment at which the
    thread itself can say that an attempt really began, and not only its turn in the queue.
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

    def __setitem__(self, thread: int, key: Any) -> None:
        super().__setitem__(thread, key)
        began = self.began
        if began is not None:
            try:
                began(key)
            except BaseException as error:
                self._guard.failed("began", error)

    def tidy(self) -> bool:
        """Drop what has left the first table; returns whether something is still there."""
        for thread, key in list(self._before.items()):
            if thread not in self._replaced:
                del self._before[thread]
                if self.get(thread) is key:
                    del self[thread]
        return bool(self._before)


class Watch:
    """What the plugin keeps of one worker; lives on the worker's loop.

    :meth:`_began` is called by the threads that run tasks.
    """

    def __init__(self, worker: Worker, guard: Guard) -> None:
        self._worker = worker
        self._guard = guard
        self._loop = asyncio.get_running_loop()
        self._attempts: dict[int, Attempt] = {}
        self._by_key: dict[Any, Attempt] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._board = self._open_board()
        self._execute: Execute = worker.execute
        self._wrapper = self._make_wrapper(self._execute)
        setattr(worker, "execute", self._wrapper)  # noqa: B010
        self._watch_threads()
        propagation.install()
        now = time() + worker.scheduler_delay
        launched = _launched(worker) + worker.scheduler_delay
        self._report(None, facts.WorkerHello(facts.WORKER_HELLO, now, worker.address, launched))
        self._announce_already_running()

    def stop(self) -> None:
        """Undo everything; what runs at this moment is announced, nobody will read the board."""
        for attempt in list(self._attempts.values()):
            if attempt.began and not attempt.announced:
                self._announce_one(attempt)
        if isinstance(self._worker.active_threads, ActiveThreads):
            self._worker.active_threads.began = None
        own = vars(self._worker)
        if own.get("execute") is self._wrapper:
            # The bound method of the class shows again.
            delattr(self._worker, "execute")
        if self._timer is not None:
            self._timer.cancel()
        propagation.remove()
        if self._board is not None:
            self._board.close()
            self._board = None

    def _watch_threads(self) -> None:
        worker = self._worker
        with worker.active_threads_lock:
            table = worker.active_threads
            if not isinstance(table, ActiveThreads):
                table = worker.active_threads = ActiveThreads(table, self._guard)
        table.began = self._began
        self._tidy(table)

    def _tidy(self, table: ActiveThreads) -> None:
        with self._worker.active_threads_lock:
            again = table.tidy()
        if again:
            self._loop.call_later(TIDY_INTERVAL, self._tidy, table)

    def _open_board(self) -> Board | None:
        try:
            return Board(str(self._worker.id))
        except (OSError, AttributeError) as error:
            # Without it, what had begun on a killed worker is inferred from what was assigned.
            self._guard.errors[f"board:{type(error).__name__}"] += 1
            return None

    def _make_wrapper(self, original: Execute) -> Execute:
        guard = self._guard

        def end(attempt: Attempt, key: Any, event: StateMachineEvent | None) -> None:
            try:
                self._end(attempt, key, event)
            except BaseException as error:
                guard.failed("end", error)

        async def execute(key: Any, *, stimulus_id: str) -> StateMachineEvent:
            try:
                attempt = self._begin(key)
            except BaseException as error:
                guard.failed("begin", error)
                return await original(key, stimulus_id=stimulus_id)
            try:
                event = await original(key, stimulus_id=stimulus_id)
            except BaseException:
                end(attempt, key, None)
                raise
            end(attempt, key, event)
            return event

        return execute

    def _begin(self, key: Any) -> Attempt:
        worker = self._worker
        task: TaskState = worker.state.tasks[key]
        run_id = task.run_id
        annotations = task.annotations
        carrier = annotations.get(ANNOTATION) if annotations else None
        attempt = Attempt(str(key), run_id, carrier, time() + worker.scheduler_delay)
        self._attempts[run_id] = attempt
        self._by_key[key] = attempt
        if self._timer is None:
            self._timer = self._loop.call_later(ANNOUNCE_AFTER, self._on_timer)
        # Dask's own callback on this task hands the result in; ours looks whether it did.
        current = asyncio.current_task()
        if current is not None:
            current.add_done_callback(lambda _: self._on_done(attempt, key))
        # This coroutine is an asyncio task of its own: what is set here ends with it.
        if carrier is not None:
            propagation.nested_carrier.set(attempt.nested_carrier)
        callbacks = internals.METER_CALLBACKS.get()
        internals.METER_CALLBACKS.set({**callbacks, ANNOTATION: attempt.meter})
        return attempt

    def _began(self, key: Any) -> None:
        attempt = self._by_key.get(key)
        if attempt is not None:
            attempt.start = time() + self._worker.scheduler_delay
            attempt.began = True
            if self._board is not None:
                attempt.slot = self._board.begin(attempt.run_id, attempt.start)

    def _end(self, attempt: Attempt, key: Any, event: StateMachineEvent | None) -> None:
        self._attempts.pop(attempt.run_id, None)
        if self._by_key.get(key) is attempt:
            del self._by_key[key]
        # Without an event the worker is going down (a task called sys.exit, the loop closes): the
        # board keeps what ran, since an announcement may not leave the process any more.
        if self._board is not None and event is not None:
            self._board.end(attempt.slot)
        if event is None or isinstance(event, RescheduleEvent):
            if attempt.began and not attempt.announced:
                self._announce_one(attempt)
        elif isinstance(event, ExecuteFailureEvent):
            self._report_error(attempt, event)
        elif attempt.cpu is not None:
            task = self._worker.state.tasks[key]
            task.metadata[ANNOTATION] = (attempt.run_id, attempt.cpu)

    def _on_done(self, attempt: Attempt, key: Any) -> None:
        try:
            self._after(attempt, key)
        except BaseException as error:
            self._guard.failed("after", error)

    def _after(self, attempt: Attempt, key: Any) -> None:
        """Dask took the result in, or dropped it: the task was cancelled meanwhile.

        In that case the scheduler hears nothing of this execution but what we tell it.
        """
        if not attempt.announced:
            task = self._worker.state.tasks.get(key)
            if task is None or task.state not in ("memory", "error"):
                self._announce_one(attempt)

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
        for attempt in list(self._attempts.values()):
            if attempt.announced:
                continue
            if attempt.start <= horizon:
                self._announce_one(attempt)
            else:
                waiting = True
        if waiting:
            self._timer = self._loop.call_later(ANNOUNCE_AFTER, self._on_timer)

    def _announce_one(self, attempt: Attempt) -> None:
        attempt.announced = True
        if self._board is not None and not attempt.slot and attempt.run_id in self._attempts:
            # No thread of this process runs it: a coroutine, or another kind of executor.
            attempt.slot = self._board.begin(attempt.run_id, attempt.start)
        self._report(
            attempt.run,
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
                self._announce_one(Attempt(str(task.key), task.run_id, None, start))

    def _report_error(self, attempt: Attempt, event: ExecuteFailureEvent) -> None:
        error_type, message, text = _describe(event)
        self._report(
            attempt.run,
            facts.AttemptError(
                facts.ATTEMPT_ERROR,
                time() + self._worker.scheduler_delay,
                attempt.key,
                attempt.run_id,
                error_type,
                message,
                text,
                attempt.cpu,
            ),
        )

    def _report(self, run: str | None, fact: facts.Fact) -> None:
        self._worker.batched_send({"op": STREAM_OP, "reports": [(run, tuple(fact))]})


def _launched(worker: Worker) -> float:
    """When the worker's process began; its first own measurement where it shares a process."""
    if internals.schedulers_here():
        times: Any = worker.monitor.quantities["time"]
        return float(times[0]) if times else time()
    return psutil.Process(os.getpid()).create_time()


def _describe(event: ExecuteFailureEvent) -> tuple[str, str, str]:
    """Exception class, message and whole traceback, with the chain of causes.

    Dask has pickled the exception, and unpickled it to see whether that works, in this very
    process; where it could not, only its ``repr`` is left.
    """
    exception: Any = None
    try:
        data: Any = event.exception
        data = getattr(data, "data", data)
        exception = loads(data) if isinstance(data, bytes | bytearray) else data
    except Exception:
        exception = None
    text = event.exception_text
    if not isinstance(exception, BaseException) or _is_stand_in(exception, text):
        name, message = split_repr(text)
        return name, message, f"{_HEADER}{event.traceback_text}{text}\n"
    name = type(exception).__qualname__
    message = printable(exception)
    try:
        whole = "".join(traceback.format_exception(exception))
    except Exception:
        whole = f"{_HEADER}{event.traceback_text}{name}: {message}\n"
    return name, message, _cut(whole)


_HEADER: Final = "Traceback (most recent call last):\n"


def _is_stand_in(exception: BaseException, text: str) -> bool:
    """``Exception(repr(e))`` stands for an exception that cannot be pickled."""
    return type(exception) is Exception and exception.args == (text,)


def _cut(text: str) -> str:
    if len(text) <= MAX_TRACEBACK:
        return text.encode("utf-8", "backslashreplace").decode("utf-8")
    half = MAX_TRACEBACK // 2
    left_out = len(text) - 2 * half
    short = f"{text[:half]}\n… [{left_out} characters left out] …\n{text[-half:]}"
    return short.encode("utf-8", "backslashreplace").decode("utf-8")
