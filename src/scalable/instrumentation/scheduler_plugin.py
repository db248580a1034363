"""The plugin of one run on a scheduler: hooks → facts, which a recorder pulls."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from time import time
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from distributed import Status
from distributed.diagnostics.plugin import SchedulerPlugin

from scalable import __version__, facts
from scalable.common.guard import Guard, guarded
from scalable.facts.protocol import FAILED_CALL, NANNY_PLUGIN_NAME, WORKER_PLUGIN_NAME
from scalable.instrumentation import dask_compat
from scalable.instrumentation.environments import describe_later
from scalable.instrumentation.fact_buffer import ANSWER_BYTES, BUFFER_LIMIT, PULL_LIMIT, FactBuffer
from scalable.instrumentation.hub import Hub
from scalable.instrumentation.task_facts import TaskFacts
from scalable.instrumentation.worker_facts import WorkerFacts

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler

#: How long a closing scheduler waits for its recorder to fetch the last facts, in seconds.
CLOSE_TIMEOUT: Final = 1.0

#: Bytes of waiting facts beyond which no calls of failed attempts are taken.
CALLS_LIMIT: Final = BUFFER_LIMIT // 4
#: Facts that workers and nannies may report, besides errors.
_FROM_WORKERS: Final = (
    facts.Started
    | facts.ChildrenExported
    | facts.WorkerHello
    | facts.RelayBatch
    | facts.WorkerExit
    | facts.WorkerEvent
    | facts.UserEvent
)


class ScalableSchedulerPlugin(SchedulerPlugin):
    """Notes facts of one run and returns them on request.

    Every hook is called by the scheduler's event loop. :meth:`pull` is called there too (RPC) or by
    a recorder's thread in the same process.

    Recorded are the tasks that are annotated with the id `run`, and those of the Dask client with
    the id `client`; with the scope ``cluster`` all tasks of the scheduler.
    """

    idempotent = True

    def __init__(
        self,
        run: str,
        *,
        client: str | None,
        scope: Literal["client", "cluster"] = "client",
        sample_interval: float = 5.0,
        log_level: int = logging.INFO,
        worker_plugins: tuple[str, ...] = (),
    ) -> None:
        self.name = plugin_name(run)
        self.run = run
        self.client = client
        self.scope = scope
        self.sample_interval = sample_interval
        self.log_level = log_level
        #: Names of the worker plugins that this run alone has.
        self.worker_plugins = worker_plugins

    # -- life ---------------------------------------------------------------------------------

    async def start(self, scheduler: Scheduler) -> None:
        """Attach to `scheduler` (called by Dask where the plugin was registered by RPC)."""
        self.attach(scheduler)
        # It runs in a process of its own.
        self._describe()

    @guarded("environment")
    def _describe(self) -> None:
        loop = self._loop

        def note(fields: dict[str, Any]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed already
                loop.call_soon_threadsafe(self._note_environment, fields)

        describe_later("scheduler", note, self.guard)

    @guarded("environment")
    def _note_environment(self, fields: dict[str, Any]) -> None:
        self.buffer.note(
            facts.WorkerEvent(facts.WORKER_EVENT, time(), "", facts.ENVIRONMENT, fields)
        )

    def attach(self, scheduler: Scheduler) -> None:
        """Begin to note facts; must be called on the scheduler's event loop."""
        self.guard = Guard()
        self.buffer = FactBuffer()
        self._scheduler = scheduler
        self._hub = Hub.of(scheduler)
        self.workers = WorkerFacts(scheduler, self.buffer.note)
        self.tasks = TaskFacts(
            scheduler,
            self.run,
            self.client,
            self.scope,
            self.buffer,
            self.workers,
            self._hub,
            self.guard,
        )
        # Dask calls these directly: a method in between costs 0.1 µs, six times per task.
        self.transition = self.tasks.transition
        self.update_graph = self.tasks.update_graph
        self._was_pulled = False
        self._pulled: asyncio.Event | None = None
        self._loop = asyncio.get_running_loop()
        self._detached = False
        self._hub.plugins[self.run] = self
        self._hub.configure()
        self._sampler = self._loop.call_later(self.sample_interval, self._sample)
        self._scan_existing()

    @guarded("scan_existing")
    def _scan_existing(self) -> None:
        """Note existing workers and tasks; the hooks note later ones."""
        for address in self._scheduler.workers:
            since = dask_compat.registered_at(self._scheduler, address)
            self.workers.note_ready(address, since)
        for fact in self._hub.environments.of_workers(self._scheduler.workers):
            self.buffer.note(fact)
        client = self._scheduler.clients.get(self.client) if self.client else None
        wanted = client.wants_what if client is not None else ()
        self._adopt_existing(self.tasks.adopt_existing(wanted))

    def _adopt_existing(self, steps: Iterator[None]) -> None:
        try:
            for _ in steps:
                if not self._detached:
                    self._loop.call_soon(self._adopt_existing, steps)
                return
        except BaseException as error:
            self.guard.failed("adopt_existing", error)

    async def leave(self) -> None:
        """Undo :meth:`attach` and, with the last run, what the runs share; on the loop."""
        scheduler = self._scheduler
        if scheduler.plugins.get(self.name) is self:
            scheduler.remove_plugin(self.name)
        self.detach_quietly()
        if scheduler.status == Status.running:
            for name in self.worker_plugins:
                if name in scheduler.worker_plugins:
                    await scheduler.unregister_worker_plugin(None, name=name)
        if scheduler.status != Status.running or self._hub.plugins:
            return
        if WORKER_PLUGIN_NAME in scheduler.worker_plugins:
            await scheduler.unregister_worker_plugin(None, name=WORKER_PLUGIN_NAME)
        if NANNY_PLUGIN_NAME in scheduler.nanny_plugins and not self._hub.plugins:
            await scheduler.unregister_nanny_plugin(None, name=NANNY_PLUGIN_NAME)

    def detach_quietly(self) -> None:
        """Stop noting facts; the part of :meth:`leave` that needs no running loop."""
        if not self._detached:
            self._detached = True
            self._sampler.cancel()
            self._hub.forget(self)

    async def before_close(self) -> None:
        """The scheduler closes: note it for every worker, let the recorder fetch the rest."""
        if self._detached:
            return
        self._scheduler_closing()
        if self._was_pulled:
            deadline = self._loop.time() + CLOSE_TIMEOUT
            self._pulled = asyncio.Event()
            while len(self.buffer) and (left := deadline - self._loop.time()) > 0:
                self._pulled.clear()
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._pulled.wait(), left)

    async def close(self) -> None:
        """The scheduler is closed: stop sampling (what is buffered stays readable)."""
        self._sampler.cancel()

    @guarded("scheduler_closing")
    def _scheduler_closing(self) -> None:
        self.workers.close()
        self.buffer.note(facts.SchedulerClosed(facts.SCHEDULER_CLOSED, time()))

    # -- for the recorder ---------------------------------------------------------------------

    def pull(self, after: int, limit: int = PULL_LIMIT, size: int = ANSWER_BYTES) -> dict[str, Any]:
        """Return facts from number `after` on; everything before it is acknowledged.

        `after` is `next` of the previous answer, 1 at first; a smaller number repeats what has not
        been acknowledged. `limit` bounds the number of facts, `size` their bytes: one fact may be
        larger, and 0 returns none. The answer has the fields of :class:`scalable.facts.Batch`, and
        the protocol and version of this side.
        """
        answer, following, more = self.buffer.pull(after, limit, size)
        self._was_pulled = True
        if self._pulled is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed already
                self._loop.call_soon_threadsafe(self._pulled.set)
        return {
            "facts": answer,
            "next": following,
            "more": more,
            "dropped": self.buffer.dropped,
            "errors": dict(self.guard.errors),
            "graphs": self.tasks.graphs,
            "now": time(),
            "protocol": facts.PROTOCOL,
            "oldest": facts.OLDEST_PROTOCOL,
            "version": __version__,
        }

    # -- other hooks --------------------------------------------------------------------------

    def restart(self, scheduler: Scheduler) -> None:
        """``client.restart()``: every task is forgotten, every worker will be replaced."""
        try:
            self.workers.restart()
            self.tasks.known.clear()
            self.buffer.note(facts.Restarted(facts.RESTARTED, time()))
        except BaseException as error:
            self.guard.failed("restart", error)

    def add_worker(self, scheduler: Scheduler, worker: str) -> None:
        """A worker registered."""
        try:
            self.workers.note_ready(worker, time())
        except BaseException as error:
            self.guard.failed("add_worker", error)

    def remove_worker(self, scheduler: Scheduler, worker: str, **kwargs: Any) -> None:
        """A worker left, and its tasks have made their transitions."""
        self.workers.forget(worker)

    def log_event(self, topic: str, msg: Any) -> None:
        """Dask logs an event."""
        try:
            if isinstance(msg, dict):
                self.workers.note_event(topic, cast("dict[str, Any]", msg))
        except BaseException as error:
            self.guard.failed("log_event", error)

    def _sample(self) -> None:
        try:
            self.workers.sample()
            if not self._detached:
                self._sampler = self._loop.call_later(self.sample_interval, self._sample)
        except BaseException as error:
            self.guard.failed("sample", error)

    def receive(self, fact: facts.Fact | None) -> None:
        """Note a fact that a worker reported; None if it was too large."""
        if fact is None:
            self.buffer.dropped += 1
        elif isinstance(fact, facts.AttemptError):
            self.buffer.dropped += self.tasks.errors.keep(fact)
        elif isinstance(fact, _FROM_WORKERS):
            if self.buffer.bytes > CALLS_LIMIT and getattr(fact, "event_type", "") == FAILED_CALL:
                # The record of what happened goes before the arguments that it happened with.
                self.guard.errors["failed_call:dropped"] += 1
            else:
                self.buffer.note(fact)


def plugin_name(run: str) -> str:
    """Name under which the plugin of a run is registered."""
    return f"scalable-{run}"
