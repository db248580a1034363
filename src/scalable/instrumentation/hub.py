"""What all runs on one scheduler share: RPCs, stream messages, the workers' settings."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol

from scalable import facts
from scalable.code.sources import ProgramSources, SourceText, program_sources, readable
from scalable.common.clocks import boot_id
from scalable.common.guard import Guard
from scalable.facts.identity import task_id
from scalable.facts.protocol import (
    CONFIG_OP,
    DRAIN_OP,
    FLUSH_OP,
    LEAVE_OP,
    NANNY_OP,
    PULL_OP,
    SOURCES_OP,
    STREAM_OP,
)
from scalable.instrumentation import dask_compat
from scalable.instrumentation.environments import KeptEnvironments
from scalable.instrumentation.fact_buffer import ANSWER_BYTES, PULL_LIMIT
from scalable.instrumentation.outbox import Outbox
from scalable.instrumentation.process_resource import process_resource
from scalable.instrumentation.python_logs import LogCollector

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler

#: How long after a task left its worker its attempt's end may still be reported, in seconds.
LATE_AFTER: Final = 5.0
#: Answer to a pull for a run that is not recorded here.
NO_SUCH_RUN: Final = "no such run"
#: Longest wait at the end of a run for what workers have measured, in seconds.
DRAIN_TIMEOUT: Final = 0.5
#: Versions of functions in a run at most.
MAX_FUNCTIONS: Final = 10_000


class Run(Protocol):
    """What the hub knows of the plugin of one run."""

    run: str
    scope: str
    log_level: int
    guard: Guard

    def pull(self, after: int, limit: int = ..., size: int = ...) -> dict[str, Any]:
        """Return facts from number `after` on."""
        ...

    def receive(self, fact: facts.Fact | None) -> None:
        """Note a fact that a worker reported; None if it was too large."""
        ...

    async def leave(self) -> None:
        """Stop recording on this scheduler."""
        ...


class Hub:
    """What the runs on one scheduler share; lives on the scheduler's event loop.

    Adds the RPC with which recorders pull and the stream message with which workers report. It also
    wraps the handlers of two messages that Dask does not pass to plugins: the exception of an
    attempt that will be retried, and the end of an attempt that was already cancelled.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self.plugins: dict[str, Run] = {}
        #: The task whose `task-erred` message is being handled, and the message.
        self.erring: tuple[Any, Mapping[str, Any]] | None = None
        self._scheduler = scheduler
        self._boot = boot_id()
        self._originals: dict[str, Callable[..., Any]] = {}
        self._stream = dask_compat.stream_handlers(scheduler)
        # Stays after the last run: Dask would close the stream of a worker that sends it late.
        self._stream[STREAM_OP] = self.receive
        self._rpcs = {
            PULL_OP: self.pull,
            LEAVE_OP: self.leave,
            NANNY_OP: self.receive,
            DRAIN_OP: self.drain,
            SOURCES_OP: self.receive_sources,
        }
        dask_compat.rpc_handlers(scheduler).update(self._rpcs)
        #: Source texts of the programs, for the workers.
        self._sources = ProgramSources()
        self._late: asyncio.TimerHandle | None = None
        self._late_until = 0.0
        self._listen("task-erred", self.task_erred)
        #: Workers that have our plugin → whether they relay metrics.
        self._workers: dict[str, bool] = {}
        #: What the workers run with, for runs that begin later.
        self.environments = KeptEnvironments()
        #: Versions of functions that workers have reported, by run.
        self._functions: dict[str, set[tuple[str, str]]] = {}

        def send(reports: Any) -> None:
            self.receive(reports=reports)

        # Also collects the log records of nannies in this process.
        outbox = Outbox(asyncio.get_running_loop(), str, send, process_resource())
        self._logs = LogCollector(outbox, float, Guard())
        self._logs.start()

    @classmethod
    def of(cls, scheduler: Scheduler) -> Hub:
        """The hub of `scheduler`, made at first use."""
        extensions: dict[str, Any] = scheduler.extensions
        hub = extensions.get("scalable")
        if hub is None:
            hub = extensions["scalable"] = cls(scheduler)
        return hub

    def forget(self, plugin: Run) -> None:
        """A run ended; with the last one, restore the scheduler's own handlers."""
        self.plugins.pop(plugin.run, None)
        self._functions.pop(plugin.run, None)
        if self.plugins:
            self.configure()
            return
        self._logs.stop()
        self._logs.outbox.close()
        handlers = dask_compat.rpc_handlers(self._scheduler)
        for name in self._rpcs:
            handlers.pop(name, None)
        self._unlisten("task-erred", self.task_erred)
        self._expect_no_more()
        self._scheduler.extensions.pop("scalable", None)

    # -- RPCs ---------------------------------------------------------------------------------

    def pull(
        self,
        run: Any = "",
        after: Any = 1,
        limit: Any = PULL_LIMIT,
        size: Any = ANSWER_BYTES,
        **_: Any,
    ) -> dict[str, Any]:
        """RPC of the recorders; a peer may send any value, and a later version more arguments."""
        plugin = self._plugin_of(run)
        if plugin is None:
            return {"error": NO_SUCH_RUN}
        try:
            return plugin.pull(int(after), int(limit), int(size))
        except (TypeError, ValueError, OverflowError):
            return {"error": "after, limit and size must be numbers"}
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
            return  # it is shutting down, and has sent what it could
        self.receive(address, reports)

    @property
    def measures(self) -> bool:
        """Some worker relays metrics; read by any thread."""
        return True in list(self._workers.values())

    # -- reports of workers and nannies -----------------------------------------------------------

    def receive(
        self,
        worker: Any = "",
        reports: Any = (),
        protocol: Any = 1,
        oldest: Any = 1,
        sources: Any = (),
        **_: Any,
    ) -> None:
        """Stream message of workers and clients, RPC of nannies.

        Workers and nannies send ``(run id or None, fact)`` pairs, clients source texts. A peer may
        send anything: each fact that cannot be read or is too large is counted.
        """
        if sources:
            self.receive_sources(sources)
        unread: Counter[str] = Counter()
        received: list[tuple[Any, facts.Fact | None]] = []
        if not facts.are_compatible(protocol, oldest):
            unread[f"protocol:worker {str(protocol)[:20]}"] += 1
        for pair in reports if isinstance(reports, tuple | list) else (reports,):
            try:
                run, raw = pair
                for fact in facts.decode((raw,), unread):
                    bounded = facts.bounded(fact)
                    received.append((run, bounded))
                    self._note_worker(worker, fact[0])
                    if isinstance(bounded, facts.WorkerEvent):
                        self._note_event(bounded)
            except (TypeError, ValueError, RecursionError):
                unread["unread:no report"] += 1
            except BaseException as error:
                self._failed("receive", error)
        for plugin in list(self.plugins.values()):
            plugin.guard.errors.update(unread)
            for run, fact in received:
                if run is None or run == plugin.run or plugin.scope == "cluster":
                    if self._is_reported(plugin.run, fact):
                        continue
                    try:
                        plugin.receive(fact)
                    except BaseException as error:
                        plugin.guard.failed("receive", error)

    def _is_reported(self, run: str, fact: facts.Fact | None) -> bool:
        """Whether another worker has reported the same version of a function."""
        if not isinstance(fact, facts.UserEvent) or fact.event_type != facts.FUNCTION:
            return False
        name = str(fact.fields.get("function_name")), str(fact.fields.get("identity"))
        known = self._functions.setdefault(run, set())
        if name in known or len(known) >= MAX_FUNCTIONS:
            return True
        known.add(name)
        return False

    def _note_worker(self, worker: Any, kind: Any) -> None:
        """Note which workers need the settings, and which have metrics to fetch at the end."""
        if not isinstance(worker, str):
            return
        if kind == facts.WORKER_HELLO:
            known = self._scheduler.workers
            if len(self._workers) > 2 * len(known):
                self._workers = {it: yes for it, yes in self._workers.items() if it in known}
            self._workers[worker] = False
            self._configure_worker(worker)
            self._send_sources(worker, 0)
        elif kind == facts.RELAY_METRICS and worker in self._workers:
            self._workers[worker] = True

    def receive_sources(self, sources: Any = (), **_: Any) -> int:
        """RPC of the clients; returns how many source texts there have been."""
        try:
            self.add_sources(readable(sources))
        except BaseException as error:
            self._failed("sources", error)
        return self._sources.added

    def add_sources(self, sources: Iterable[SourceText]) -> None:
        """Keep source texts of a program, and send the workers those that are new."""
        before = self._sources.added
        for source in sources:
            self._sources.add(source)
            # For a recorder in this process.
            program_sources().add(source)
        for address in list(self._workers):
            self._send_sources(address, before)

    def _send_sources(self, address: str, after: int) -> None:
        """Send a worker the texts after the first ones, unless it is in this process."""
        texts = self._sources.since(after)
        if texts and not address.startswith("inproc://"):
            plain = [tuple(text) for text in texts]
            # Only messages of this name are known to every version.
            self._configure_worker(address, sources=plain)

    def _note_event(self, fact: facts.WorkerEvent) -> None:
        if fact.event == facts.ENVIRONMENT:
            self.environments.keep(fact.address, fact, self._scheduler.workers)

    def configure(self) -> None:
        """A run began or ended: send the workers settings that suit all runs."""
        self._logs.level = self._log_level
        for address in self._workers:
            self._configure_worker(address)

    @property
    def _log_level(self) -> int:
        return min((plugin.log_level for plugin in self.plugins.values()), default=logging.INFO)

    def _configure_worker(self, address: str, **more: Any) -> None:
        message = {"op": CONFIG_OP, "log_level": self._log_level, "boot": self._boot, **more}
        dask_compat.send_to_worker(self._scheduler, address, message)

    def _failed(self, place: str, error: BaseException) -> None:
        """Count an error in all runs."""
        for plugin in list(self.plugins.values()):
            plugin.guard.failed(place, error)

    # -- messages of Dask ---------------------------------------------------------------------

    def task_erred(self, key: Any, **message: Any) -> None:
        """Keep the message while Dask handles it."""
        self._look_at(key, message)
        self.erring = (key, message)
        try:
            self._originals["task-erred"](key=key, **message)
        finally:
            self.erring = None

    def task_finished(self, key: Any, **message: Any) -> None:
        """Note a message that Dask will ignore."""
        self._look_at(key, message)
        self._originals["task-finished"](key=key, **message)

    def _look_at(self, key: Any, message: Mapping[str, Any]) -> None:
        try:
            task = self._scheduler.tasks.get(key)
            if task is None or task.run_id != message.get("run_id"):
                self._notice_late(key, message)
        except BaseException as error:
            self._failed("listen", error)

    def _notice_late(self, key: Any, message: Mapping[str, Any]) -> None:
        """The attempt was already closed: its message only shows that it had begun."""
        start, *_ = dask_compat.parse_startstops(message.get("startstops"))
        if start is None:
            return
        fact = facts.Started(
            facts.STARTED, start, task_id(key), message["run_id"], message["worker"]
        )
        for plugin in list(self.plugins.values()):
            plugin.receive(fact)

    def expect_late(self) -> None:
        """A task left its worker: the end of its attempt may be on its way.

        Only then the handler of `task-finished`, the most frequent message, is wrapped.
        """
        loop = asyncio.get_running_loop()
        self._late_until = loop.time() + LATE_AFTER
        if self._late is None:
            self._listen("task-finished", self.task_finished)
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
            self._unlisten("task-finished", self.task_finished)

    def _listen(self, name: str, listener: Callable[..., None]) -> None:
        if name in self._stream and self._stream[name] != listener:
            self._originals[name] = self._stream[name]
            self._stream[name] = listener

    def _unlisten(self, name: str, listener: Callable[..., None]) -> None:
        # If another library has wrapped our listener, both stay.
        if name in self._originals and self._stream.get(name) == listener:
            self._stream[name] = self._originals[name]
