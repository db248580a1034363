"""Worker → facts: the start of an attempt, why it raised, its CPU time."""

from __future__ import annotations

import asyncio
import logging
import os
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from time import time
from typing import TYPE_CHECKING, Any, Final

from distributed.metrics import thread_time

from scalable import facts
from scalable.code.sources import program_sources, readable
from scalable.common.clocks import ClockShift, boot_id
from scalable.common.guard import Guard
from scalable.common.otel_environment import sdk_disabled
from scalable.facts.protocol import ANNOTATION, CONFIG_OP, FLUSH_OP, STREAM_OP
from scalable.instrumentation import dask_compat, described_calls, propagation
from scalable.instrumentation.child_environment import popen_patch
from scalable.instrumentation.executions import ActiveThreads, Execution
from scalable.instrumentation.functions import TaskFunctions
from scalable.instrumentation.otel_compat import TRACER_PROVIDER, TRACES
from scalable.instrumentation.outbox import Outbox, Reports
from scalable.instrumentation.own_exports import OwnExports
from scalable.instrumentation.process_pools import ContextPool
from scalable.instrumentation.process_resource import process_resource
from scalable.instrumentation.python_logs import LogCollector
from scalable.instrumentation.relay_providers import (
    COLLECT_INTERVAL,
    OBSERVE_INTERVAL,
    RelayProviders,
    is_worker_process,
)
from scalable.instrumentation.slot_file import SlotFile
from scalable.instrumentation.worker_output import WorkerOutput

if TYPE_CHECKING:
    from distributed import Worker

#: An attempt that still runs after this time is reported to the scheduler, in seconds.
ANNOUNCE_AFTER: Final = 0.05
#: Seconds between checks of tasks that ran when the watch started.
TIDY_INTERVAL: Final = 0.5

#: States of a task after its code has ended.
_ENDS: Final = frozenset({"memory", "error", "rescheduled"})
#: States in which its code runs, or may still run.
_UNDER_WAY: Final = frozenset({"executing", "long-running", "cancelled", "resumed"})
#: States in which Dask accepts the result of a task and reports it to the scheduler.
_WANTED: Final = frozenset({"executing", "long-running"})


class Watch:
    """The plugin's state of one worker; used on the worker's loop.

    :meth:`_began` and :meth:`_ended` are called by the threads that run tasks. Each changes its own
    execution only, and nothing that the loop changes at the same time.
    """

    def __init__(self, worker: Worker, guard: Guard, *, uses_files: bool = True) -> None:
        self._worker = worker
        self._guard = guard
        self._loop = asyncio.get_running_loop()
        #: Executions by key: Dask runs a task once at a time.
        self._executions: dict[Any, Execution] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._observer: asyncio.TimerHandle | None = None
        self._relay: RelayProviders | None = None
        self._own_exports = OwnExports(guard)
        self._own_exports.follow()
        self._slots = self._open_slots() if uses_files else None
        self._tasks = worker.state.tasks
        self._threads_by_default = dask_compat.has_threads(worker, "default")
        #: The scheduler's clock, compared with this process's.
        self.clock = self._compare_clocks()
        self._outbox = Outbox(
            self._loop,
            lambda: worker.address,
            self._send,
            process_resource(),
            {"dask.worker.name": str(worker.name), "dask.worker.address": worker.address},
            dask_compat.BlockedStream(worker).is_blocked,
        )
        own_process = is_worker_process(worker)
        self._logs = LogCollector(self._outbox, self._ahead, guard, everything=own_process)
        self._functions = TaskFunctions(worker, self._ahead, self._report, guard)
        self._known_functions = self._functions.known
        self.output = WorkerOutput(
            worker,
            self._outbox,
            guard,
            self._executions,
            self._report_ends,
            own_process=own_process,
        )
        # If anything above fails, the worker is unchanged.
        self._restore_execute = dask_compat.wrap_execute(worker, self._on_execute)
        self._watch_threads()
        propagation.install()
        popen_patch.apply()
        described_calls.watch()
        with ExitStack() as undo:
            undo.callback(self.stop)
            self._logs.start()
            self.output.start()
            # The providers of an application's process are those of the application.
            if own_process and not sdk_disabled(os.environ):
                self._relay = RelayProviders(self._outbox, self._ahead, guard)
                self._relay.start()
                self._observer = self._loop.call_later(OBSERVE_INTERVAL, self._on_observe)
            dask_compat.stream_handlers(worker)[CONFIG_OP] = self._configure
            dask_compat.rpc_handlers(worker)[FLUSH_OP] = self.flush
            self._report_start()
            undo.pop_all()

    def _compare_clocks(self) -> ClockShift:
        clock, worker = ClockShift(), self._worker
        if dask_compat.schedulers_here():
            clock.compare_boots(boot_id())
        self._round_trips = dask_compat.mean_round_trip(worker)
        self._delay = dask_compat.clock_delay(worker)
        # The last message took no longer than this, whatever the earlier ones took.
        clock.observe(self._delay, dask_compat.round_trip(worker, 0.0))
        return clock

    def heartbeat(self, worker: Worker) -> int:
        """Metric of Dask's heartbeats: the bytes sent; takes what the last one has measured."""
        try:
            before, self._round_trips = self._round_trips, dask_compat.mean_round_trip(worker)
            delay = dask_compat.clock_delay(worker)
            if delay != self._delay:
                self._delay = delay
                self.clock.observe(delay, dask_compat.round_trip(worker, before))
        except BaseException as error:
            self._guard.failed("heartbeat", error)
        return dask_compat.sent_bytes(worker)

    def _report_start(self) -> None:
        worker, ahead = self._worker, self.clock.seconds
        launched = dask_compat.launched(worker) + ahead
        now = time() + ahead
        host = process_resource().attributes()["host.name"]
        self._report(
            None, facts.WorkerHello(facts.WORKER_HELLO, now, worker.address, launched, host)
        )
        # Attempts that ran before the plugin was installed.
        for task, start in dask_compat.running_tasks(worker):
            execution = Execution(task)
            execution.ahead = ahead
            execution.start = start + ahead
            self._announce_one(execution)

    def stop(self) -> None:
        """Undo everything; report running attempts, because the slot file is deleted."""
        for execution in list(self._executions.values()):
            self._announce_if_begun(execution)
        self._executions.clear()
        worker = self._worker
        if isinstance(worker.active_threads, ActiveThreads):
            worker.active_threads.began = worker.active_threads.ended = None
        self._restore_execute()
        for timer in (self._timer, self._observer):
            if timer is not None:
                timer.cancel()
        propagation.remove()
        popen_patch.undo()
        described_calls.unwatch()
        for name, pool in list(worker.executors.items()):
            if isinstance(pool, ContextPool):
                worker.executors[name] = pool.pool
        self._logs.stop()
        self.output.stop()
        if self._relay is not None:
            self._relay.stop()
            self._relay = None
        self._outbox.close()
        # Dask closes the stream if a late message has no handler.
        dask_compat.stream_handlers(worker)[CONFIG_OP] = _ignore
        dask_compat.rpc_handlers(worker).pop(FLUSH_OP, None)
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
        self._table = table
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
            # Without it, attempts on a killed worker are inferred from the assigned tasks.
            self._guard.count("board", error)
            return None

    # -- one execution ------------------------------------------------------------------------

    def _on_execute(self, key: Any) -> None:
        try:
            self._begin(key)
        except BaseException as error:
            self._guard.failed("begin", error)

    def _begin(self, key: Any) -> None:
        """Dask is about to execute a task; called on the loop."""
        task = self._tasks[key]
        execution = self._executions[key] = Execution(task)
        execution.outbox = self._outbox
        execution.ahead = self.clock.seconds
        execution.dask_delay = self._worker.scheduler_delay
        if self._timer is None:
            self._timer = self._loop.call_later(ANNOUNCE_AFTER, self._on_timer)
        annotations = task.annotations
        executor = None
        threads = self._threads_by_default
        if annotations:
            execution.carrier = annotations.get(ANNOTATION)
            executor = annotations.get("executor")
            if executor is not None:
                threads = dask_compat.has_threads(self._worker, executor)
        if id(getattr(task.run_spec, "func", None)) not in self._known_functions:
            self._functions.look(execution)
        # Dask asks for `is_coro` next and keeps the answer.
        if not threads or task.run_spec.is_coro:  # pyright: ignore[reportOptionalMemberAccess]
            # No thread of a task will report its start. This runs in an asyncio task of its own:
            # what is set here ends with the execution.
            execution.began = execution.elsewhere = True
            execution.start = time() + execution.ahead
            propagation.enter(execution)
            if not threads:
                self._open_pool(executor or "default")

    def _open_pool(self, name: str) -> None:
        executors: dict[str, Any] = self._worker.executors
        pool = executors.get(name)
        if isinstance(pool, ProcessPoolExecutor):
            executors[name] = ContextPool(pool, self._outbox, lambda: self._logs.level)

    def _began(self, key: Any) -> None:
        execution = self._executions.get(key)
        if execution is not None:
            execution.start = start = time() + execution.ahead
            if self._slots is not None:
                execution.slot = self._slots.begin(execution.run_id, start)
            propagation.enter(execution)
            execution.cpu_began = thread_time()
            # From here on the loop may report it.
            execution.began = True
            if execution.dropped:
                self._loop.call_soon_threadsafe(self._announce_if_begun, execution)

    def _ended(self) -> None:
        execution = propagation.current_attempt.get()
        if isinstance(execution, Execution) and not execution.elsewhere:
            execution.cpu = thread_time() - execution.cpu_began
            if self._slots is not None:
                self._slots.end(execution.slot)

    def _report_ends(self) -> None:
        """Called by any thread before the first task runs whose output is kept if it succeeds."""
        self._table.ended = self._ended_with_output

    def _ended_with_output(self) -> None:
        self._ended()
        execution = propagation.current_attempt.get()
        if isinstance(execution, Execution) and not execution.elsewhere:
            self.output.ended(execution)

    def transition(self, key: Any, start: str, finish: str, **kwargs: Any) -> None:
        """Hook: a task changed its state. Six calls per task."""
        if start not in _UNDER_WAY:
            return
        try:
            if finish not in _ENDS:
                if finish == "released":
                    self._released(key)
                return
            execution = self._executions.pop(key, None)
            if execution is None:
                return
            exports = self._own_exports
            if TRACES[TRACER_PROVIDER] is not exports.provider and exports.follow():
                # It was set while these ran, maybe before they opened spans.
                for each in (execution, *self._executions.values()):
                    each.exports = each.began
            if execution.exports:
                self._report_exports(execution, by_dask=finish == "memory" and start in _WANTED)
            # Before Dask's own message, so that records of a run's last task are not too late.
            relay = self._relay
            if self._outbox.waiting or (relay is not None and relay.measured):
                if relay is not None:
                    relay.collect()
                self._outbox.flush()
                if self._outbox.waiting:
                    # It could not send all: the line of the attempt is written after the message.
                    self._outbox.send_now(facts.RELAY_PARAMETERS)
            ahead, cpu = execution.ahead, execution.cpu
            dask_compat.report_times(execution.task, cpu, ahead - execution.dask_delay, ahead)
            if cpu is None or finish != "memory" or start not in _WANTED:
                self.moved(execution, start, finish)
        except BaseException as error:
            self._guard.failed("moved", error)

    def moved(self, execution: Execution, start: str, finish: str) -> None:
        """An execution has failed, ran in no thread of this process, or its result is not wanted.

        If Dask drops the result, because the task was cancelled or is needed from another worker,
        the scheduler learns of the execution only from this report.
        """
        if execution.elsewhere and self._slots is not None:
            self._slots.end(execution.slot)
        printed, failed = execution.printed, finish == "error" and start in _WANTED
        if printed is not None and (failed or printed.at_once):
            printed.finish()
            self._outbox.send_now(facts.RELAY_OUTPUT)
        if failed:
            self._report_error(execution)
        elif finish == "rescheduled" or start not in _WANTED:
            self._announce_if_begun(execution)

    def _released(self, key: Any) -> None:
        execution = self._executions.get(key)
        if execution is not None:
            execution.dropped = True
            self._announce_if_begun(execution)

    # -- what user code and loggers record --------------------------------------------------------

    def _on_observe(self) -> None:
        if self._relay is not None:
            self._relay.collect()
            self._observer = self._loop.call_later(COLLECT_INTERVAL, self._on_observe)

    async def flush(self, **_: Any) -> Reports:
        """RPC of the scheduler: a run ends; send what must be part of it."""
        try:
            await self._functions.settle()
            if self._relay is not None:
                self._relay.collect(force=True)
            return self._outbox.empty()
        except BaseException as error:
            self._guard.failed("flush", error)
            return []

    def _configure(
        self, log_level: int = logging.INFO, boot: str = "", sources: Any = (), **_: Any
    ) -> None:
        """Stream message of the scheduler: what its runs record, and the boot of its host.

        It may have source texts of the programs.
        """
        for source in readable(sources):
            program_sources().add(source)
        self._functions.forget()
        self._logs.level = log_level
        self.clock.compare_boots(boot)

    def _ahead(self) -> float:
        return self.clock.seconds

    # -- to the scheduler ---------------------------------------------------------------------

    def _on_timer(self) -> None:
        self._timer = None
        try:
            self._announce()
        except BaseException as error:
            self._guard.failed("announce", error)

    def _announce(self) -> None:
        """Report attempts that run for at least half of :data:`ANNOUNCE_AFTER`."""
        horizon = time() + self.clock.seconds - ANNOUNCE_AFTER / 2
        waiting = False
        for execution in list(self._executions.values()):
            if execution.announced:
                continue
            if execution.began and execution.start <= horizon:
                self._announce_one(execution)
            else:
                waiting = True
        if waiting:
            self._timer = self._loop.call_later(ANNOUNCE_AFTER, self._on_timer)

    def _announce_if_begun(self, execution: Execution) -> None:
        if execution.began and not execution.announced:
            self._announce_one(execution)

    def _announce_one(self, execution: Execution) -> None:
        execution.announced = True
        running = execution.task.key in self._executions
        if self._slots is not None and execution.elsewhere and running:
            execution.slot = self._slots.begin(execution.run_id, execution.start)
        self._report(
            propagation.run_of(execution),
            facts.Started(
                facts.STARTED,
                execution.start,
                execution.key,
                execution.run_id,
                self._worker.address,
            ),
        )

    def _report_error(self, execution: Execution) -> None:
        details = execution.details()
        self._report(
            propagation.run_of(execution),
            facts.AttemptError(
                facts.ATTEMPT_ERROR,
                time() + execution.ahead,
                execution.key,
                execution.run_id,
                details.error_type,
                details.message,
                details.traceback,
                execution.cpu,
                details.bases,
                details.errno,
                details.module,
                execution.parameters,
            ),
        )

    def _report_exports(self, execution: Execution, *, by_dask: bool) -> None:
        if by_dask:
            dask_compat.report_exports(execution.task)
            return
        fact = facts.ChildrenExported(
            facts.CHILDREN_EXPORTED, time() + self._ahead(), execution.key, execution.run_id
        )
        self._report(propagation.run_of(execution), fact)

    def _report(self, run: str | None, fact: facts.Fact) -> None:
        self._send([(run, tuple(fact))])

    def _send(self, reports: Reports) -> None:
        self._worker.batched_send({"op": STREAM_OP, **facts.report(reports)})


def _ignore(**_: Any) -> None:
    pass
