"""What all runs on one scheduler share: RPCs, the workers' stream message, two listeners."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol

from scalable import facts
from scalable.common.guard import Guard
from scalable.facts.identity import task_id
from scalable.facts.protocol import (
    CONFIG_OP,
    DRAIN_OP,
    FLUSH_OP,
    LEAVE_OP,
    NANNY_OP,
    PULL_OP,
    STREAM_OP,
    THREAD_CPU,
)
from scalable.instrumentation.outbox import Outbox, process
from scalable.instrumentation.python_logs import LogCollector

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler

#: Largest number of facts one pull returns: bounds how long answering it holds the loop.
PULL_LIMIT: Final = 2_000
#: Bytes of one answer at most, as far as more than one fact would be in it.
ANSWER_BYTES: Final = 2**20
#: Phases kept of one attempt.
MAX_PHASES: Final = 1_000
#: How long after a task left its worker its attempt's end may still be reported, in seconds.
LATE_AFTER: Final = 5.0
#: Answer to whoever asks for the facts of a run that is not recorded here.
NO_SUCH_RUN: Final = "no such run"
#: Longest wait at the end of a run for what workers have measured, in seconds.
DRAIN_TIMEOUT: Final = 0.5


class Run(Protocol):
    """What the hub knows of the plugin of one run."""

    run: str
    scope: str
    log_level: int
    guard: Guard

    def pull(self, after: int, limit: int = ..., size: int = ...) -> dict[str, Any]:
        """Hand out facts."""
        ...

    def receive(self, fact: facts.Fact | None) -> None:
        """Take a worker's own fact; None is one that was too large."""
        ...

    async def leave(self) -> None:
        """End the run on this scheduler."""
        ...


class Hub:
    """What the runs on one scheduler share; lives on the scheduler's event loop.

    Adds the RPC by which recorders pull and the stream message by which workers report, and listens
    in on two messages of the workers: an attempt that will be retried reaches no plugin with its
    exception, and one that ended before its worker learnt of the cancellation reaches none.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self.plugins: dict[str, Run] = {}
        #: The task whose `task-erred` message is being handled, and the message.
        self.erring: tuple[Any, Mapping[str, Any]] | None = None
        self._scheduler = scheduler
        self._originals: dict[str, Callable[..., Any]] = {}
        handlers: dict[str, Any] = scheduler.handlers
        handlers[PULL_OP] = self.pull
        handlers[LEAVE_OP] = self.leave
        handlers[NANNY_OP] = self.receive
        stream: dict[str, Any] = scheduler.stream_handlers
        # Stays when the last run is gone: a worker's late message with an unknown name would make
        # Dask close that worker's stream.
        stream[STREAM_OP] = self.receive
        self._late: asyncio.TimerHandle | None = None
        self._late_until = 0.0
        self._listen_in("task-erred", self.task_erred)
        handlers[DRAIN_OP] = self.drain
        #: Workers that have our plugin → whether they relay metrics.
        self._workers: dict[str, bool] = {}
        outbox = Outbox(
            asyncio.get_running_loop(),
            str,
            lambda reports: self.receive(reports=reports),
            process(),
        )
        # Those of nannies too, where they live in this process.
        self._records = LogCollector(outbox, float, Guard())
        self._records.start()

    @classmethod
    def of(cls, scheduler: Scheduler) -> Hub:
        """The hub of `scheduler`, made at first use."""
        extensions: dict[str, Any] = scheduler.extensions
        hub = extensions.get("scalable")
        if hub is None:
            hub = extensions["scalable"] = cls(scheduler)
        return hub

    def configure(self) -> None:
        """A run came or went: tell the workers what all of them want."""
        self._records.level = self._log_level
        for address in self._workers:
            self._configure_worker(address)

    @property
    def _log_level(self) -> int:
        return min((plugin.log_level for plugin in self.plugins.values()), default=logging.INFO)

    def _configure_worker(self, address: str) -> None:
        if address in self._scheduler.stream_comms:
            message = {"op": CONFIG_OP, "log_level": self._log_level}
            self._scheduler.worker_send(address, message)

    async def drain(self) -> None:
        """RPC of a client that will end its run: fetch what workers have measured until now."""
        known = self._scheduler.workers
        measured = [address for address, yes in self._workers.items() if yes and address in known]
        if measured:
            fetching = [asyncio.ensure_future(self._fetch(address)) for address in measured]
            _, late = await asyncio.wait(fetching, timeout=DRAIN_TIMEOUT)
            for task in late:
                task.cancel()

    async def _fetch(self, address: str) -> None:
        try:
            reports: Any = await getattr(self._scheduler.rpc(address), FLUSH_OP)()
        except Exception:
            return  # it is on its way out, and has handed over what it could
        self.receive(address, reports)

    @property
    def measures(self) -> bool:
        """Some worker relays metrics; asked by any thread."""
        return True in list(self._workers.values())

    def forget(self, plugin: Run) -> None:
        """A run ended; with the last one the scheduler's own handlers come back."""
        self.plugins.pop(plugin.run, None)
        if self.plugins:
            self.configure()
            return
        self._records.stop()
        self._records.outbox.close()
        self._scheduler.handlers.pop(DRAIN_OP, None)
        self._scheduler.handlers.pop(PULL_OP, None)
        self._scheduler.handlers.pop(LEAVE_OP, None)
        self._scheduler.handlers.pop(NANNY_OP, None)
        self._listen_no_more("task-erred", self.task_erred)
        self._expect_no_more()
        self._scheduler.extensions.pop("scalable", None)

    def expect_late(self) -> None:
        """A task left its worker: word of an attempt that ended meanwhile may be under way.

        Only then does listening to the most frequent of all messages have a purpose.
        """
        loop = asyncio.get_running_loop()
        self._late_until = loop.time() + LATE_AFTER
        if self._late is None:
            self._listen_in("task-finished", self.task_finished)
            self._late = loop.call_later(LATE_AFTER, self._on_late_timer, loop)

    def _on_late_timer(self, loop: asyncio.AbstractEventLoop) -> None:
        if loop.time() < self._late_until:
            self._late = loop.call_at(self._late_until, self._on_late_timer, loop)
        else:
            self._expect_no_more()

    def _expect_no_more(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None
            self._listen_no_more("task-finished", self.task_finished)

    def _listen_in(self, name: str, collector: Callable[..., None]) -> None:
        stream: dict[str, Any] = self._scheduler.stream_handlers
        if name in stream and stream[name] != collector:
            self._originals[name] = stream[name]
            stream[name] = collector

    def _listen_no_more(self, name: str, collector: Callable[..., None]) -> None:
        # Somebody may have put a collector over ours: theirs stays, and with it ours.
        stream: dict[str, Any] = self._scheduler.stream_handlers
        if name in self._originals and stream.get(name) == collector:
            stream[name] = self._originals[name]

    def pull(
        self,
        run: Any = "",
        after: Any = 1,
        limit: Any = PULL_LIMIT,
        size: Any = ANSWER_BYTES,
        **_: Any,
    ) -> dict[str, Any]:
        """RPC of the recorders; a peer may send anything, and arguments that are not known yet."""
        plugin = self._plugin_of(run)
        if plugin is None:
            return {"error": NO_SUCH_RUN}
        try:
            return plugin.pull(int(after), int(limit), int(size))
        except (TypeError, ValueError, OverflowError):
            return {"error": "after, limit and size are to be numbers"}
        except BaseException as error:
            plugin.guard.failed("pull", error)
            return {"error": f"internal error: {type(error).__name__}"}

    async def leave(self, run: Any = "", **_: Any) -> None:
        """RPC of a client that ends its run."""
        plugin = self._plugin_of(run)
        if plugin is not None:
            await plugin.leave()

    def _plugin_of(self, run: Any) -> Run | None:
        return self.plugins.get(run) if isinstance(run, str) else None

    def receive(
        self, worker: Any = "", reports: Any = (), protocol: Any = 1, oldest: Any = 1, **_: Any
    ) -> None:
        """Stream message of the workers, RPC of the nannies: ``(run id or None, fact)`` pairs.

        A peer may send anything: what cannot be read or is too large is counted, and costs itself
        alone.
        """
        unread: Counter[str] = Counter()
        received: list[tuple[Any, facts.Fact | None]] = []
        if not facts.are_compatible(protocol, oldest):
            unread[f"protocol:worker {str(protocol)[:20]}"] += 1
        for pair in reports if isinstance(reports, tuple | list) else (reports,):
            try:
                run, raw = pair
                for fact in facts.decode((raw,), unread):
                    received.append((run, facts.bounded(fact)))
                    self._note_worker(worker, fact[0])
            except (TypeError, ValueError, RecursionError):
                unread["unread:no report"] += 1
            except BaseException as error:
                self._failed("receive", error)
        for plugin in list(self.plugins.values()):
            plugin.guard.errors.update(unread)
            for run, fact in received:
                if run is None or run == plugin.run or plugin.scope == "cluster":
                    try:
                        plugin.receive(fact)
                    except BaseException as error:
                        plugin.guard.failed("receive", error)

    def _failed(self, place: str, error: BaseException) -> None:
        """Something failed that is no single run's."""
        for plugin in list(self.plugins.values()):
            plugin.guard.failed(place, error)

    def _note_worker(self, worker: Any, kind: Any) -> None:
        """Keep who must be told of settings, and who has metrics to be fetched at the end."""
        if not isinstance(worker, str):
            return
        if kind == facts.WORKER_HELLO:
            if len(self._workers) > 2 * len(self._scheduler.workers):
                known = self._scheduler.workers
                self._workers = {it: yes for it, yes in self._workers.items() if it in known}
            self._workers[worker] = False
            self._configure_worker(worker)
        elif kind == facts.RELAY_METRICS and worker in self._workers:
            self._workers[worker] = True

    def task_erred(self, key: Any, **message: Any) -> None:
        """Keep the message at hand while Dask handles it."""
        self._listen(key, message)
        self.erring = (key, message)
        try:
            self._originals["task-erred"](key=key, **message)
        finally:
            self.erring = None

    def task_finished(self, key: Any, **message: Any) -> None:
        """Look at what Dask is about to ignore."""
        self._listen(key, message)
        self._originals["task-finished"](key=key, **message)

    def _listen(self, key: Any, message: Mapping[str, Any]) -> None:
        try:
            task = self._scheduler.tasks.get(key)
            if task is None or task.run_id != message.get("run_id"):
                self._notice_late(key, message)
        except BaseException as error:
            self._failed("listen", error)

    def _notice_late(self, key: Any, message: Mapping[str, Any]) -> None:
        """An attempt ended that is no attempt any more: all it can tell is that it had begun."""
        start, *_ = execution(message.get("startstops"))
        if start is None:
            return
        fact = facts.Started(
            facts.STARTED, start, task_id(key), message["run_id"], message["worker"]
        )
        for plugin in list(self.plugins.values()):
            plugin.receive(fact)


def execution(
    startstops: Collection[Mapping[str, Any]] | None,
) -> tuple[float | None, float | None, tuple[facts.Phase, ...], Any]:
    """Start and stop of the task's own code, what Dask did around it, CPU time of its thread."""
    start = stop = cpu = None
    phases: list[facts.Phase] = []
    for item in startstops or ():
        if item["action"] == "compute":
            start, stop, cpu = item["start"], item["stop"], item.get(THREAD_CPU)
        elif len(phases) < MAX_PHASES:
            phases.append((item["action"][:100], item["start"], item["stop"]))
    return start, stop, tuple(phases), cpu
