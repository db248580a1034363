"""A client's side of the instrumentation: plugins on its cluster, annotations on its graphs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

from distributed import Client, Scheduler
from distributed.core import rpc
from distributed.diagnostics.plugin import WorkerPlugin
from distributed.protocol.pickle import dumps

from scalable.common.guard import Guard
from scalable.facts import FactSource
from scalable.facts.graphs import GraphRequest
from scalable.facts.protocol import DRAIN_OP, LEAVE_OP, NANNY_PLUGIN_NAME, WORKER_PLUGIN_NAME
from scalable.instrumentation import dask_blocks, dask_compat, propagation
from scalable.instrumentation.dask_blocks import BlockListener
from scalable.instrumentation.dask_compat import is_on_loop, run_on
from scalable.instrumentation.fact_sources import GraphCount, LocalSource, RemoteSource
from scalable.instrumentation.hub import Hub
from scalable.instrumentation.nanny_plugin import ScalableNannyPlugin
from scalable.instrumentation.scheduler_plugin import ScalableSchedulerPlugin
from scalable.instrumentation.source_sender import SourceSender
from scalable.instrumentation.worker_plugin import MemoryWorkerPlugin, ScalableWorkerPlugin

#: Seconds that attaching or detaching may take where the caller waits for it.
CONNECTION_TIMEOUT: Final = 5.0
#: The part of these seconds that is for the nannies.
NANNY_TIMEOUT: Final = 2.0
#: Seconds that closing a run waits at most for what workers have measured.
DRAIN_WAIT: Final = 1.0


class ClusterConnection:
    """Connects one run to the cluster of one client.

    Made and used by the thread that called ``instrument()``; what must happen on the scheduler's
    event loop is sent there. `carrier` makes the annotation of the client's next graph; `blocks`
    hears of the blocks of Dask's ``span()``. `problem` is called with a sentence that says what
    could not be attached, and where. Without `uses_files` the workers keep no temporary files.
    `plugins` are further plugins of the workers, each with a name of the run's own.
    """

    def __init__(
        self,
        client: Client,
        run: str,
        *,
        scope: Literal["client", "cluster"],
        sample_interval: float,
        log_level: int,
        carrier: Callable[[GraphRequest], str | None],
        blocks: BlockListener,
        problem: Callable[[str], None],
        uses_files: bool = True,
        plugins: Sequence[WorkerPlugin] = (),
    ) -> None:
        self.client = client
        self._uses_files = uses_files
        self._plugins = plugins
        self.run = run
        self._problem = problem
        self._make_carrier = carrier
        self._sources = SourceSender(client)
        self._blocks = blocks
        self._sent = GraphCount()
        self._plugin = ScalableSchedulerPlugin(
            run,
            client=client.id,
            scope=scope,
            sample_interval=sample_interval,
            log_level=log_level,
            worker_plugins=tuple(plugin_name(plugin) for plugin in plugins),
        )
        self._address = dask_compat.scheduler_address(client)
        self._connection_args = client.connection_args
        self._local = _scheduler_in_this_process(self._address)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._connected = False
        self.source: FactSource | None = None

    def workers(self) -> list[dict[str, Any]]:
        """The workers as found: name, address, threads, memory limit."""
        if self._local is not None:
            states = list(self._local.workers.values())
            found = [(it.address, it.name, it.nthreads, it.memory_limit) for it in states]
        else:
            found = [
                (address, it.get("name"), it.get("nthreads"), it.get("memory_limit"))
                for address, it in dask_compat.fetch_workers(self.client).items()
            ]
        return [
            {
                "name": str(name),
                "address": address,
                "nthreads": nthreads,
                "memory_limit_bytes": memory_limit or None,
            }
            for address, name, nthreads, memory_limit in found
        ]

    # -- attaching ----------------------------------------------------------------------------

    def connect(self) -> None:
        """Attach everything; on the event loop itself, the workers are attached later."""
        if reason := dask_compat.unsupported_version():
            self._problem(reason)
            return
        propagation.install()
        propagation.set_source(self.client, self._carrier, self._sent.add)
        dask_blocks.listen(self._blocks)
        self._connected = True
        try:
            if self._local is not None:
                self._connect_local(self._local)
            else:
                self._connect_remote()
        except Exception as error:
            self._problem(f"the scheduler at {self._address} cannot be watched: {error!r}")

    async def settle(self) -> None:
        """Wait for what :meth:`connect` had to leave to the event loop."""
        while self._tasks:
            await asyncio.wait(set(self._tasks), timeout=CONNECTION_TIMEOUT)

    def _connect_local(self, scheduler: Scheduler) -> None:
        def attach() -> None:
            self._plugin.attach(scheduler)
            Hub.of(scheduler).add_sources(self._sources.give_first())
            scheduler.add_plugin(self._plugin, name=self._plugin.name)
            self._sent.is_counting = True

        async def attach_all() -> None:
            attach()
            await self._watch_workers(scheduler)

        self.source = LocalSource(self._plugin, self._sent)
        if is_on_loop(scheduler.loop):
            attach()
            self._later(self._watch_workers(scheduler))
        else:
            run_on(scheduler.loop, attach_all, CONNECTION_TIMEOUT)

    def _connect_remote(self) -> None:
        source = self.source = RemoteSource(
            self._address, self._connection_args, self.run, self._sent
        )

        async def register() -> None:
            scheduler: Any = self.client.scheduler
            try:
                await _register(scheduler, "scheduler", self._plugin, self._plugin.name)
            except Exception as error:
                self.source = None
                self._problem(
                    f"the scheduler at {self._address} cannot load scalable ({error!r}); "
                    "install the same version there"
                )
                return
            source.registered.set()
            self._sent.is_counting = True
            await self._sources.send_first()
            await self._watch_workers(scheduler)

        self._now_or_later(register)

    async def _watch_workers(self, scheduler: Any) -> None:
        """Register the plugins of all workers and nannies, present and future."""
        try:
            plugin = ScalableWorkerPlugin() if self._uses_files else MemoryWorkerPlugin()
            answers = await _register(scheduler, "worker", plugin, WORKER_PLUGIN_NAME)
        except Exception as error:
            self._problem(f"the workers cannot be watched: {error!r}")
            return
        failed = [address for address, answer in answers.items() if answer["status"] == "error"]
        if failed:
            self._problem(f"these workers cannot be watched: {', '.join(sorted(failed)[:10])}")
        for further in self._plugins:
            try:
                await _register(scheduler, "worker", further, plugin_name(further))
            except Exception as error:
                self._problem(f"{plugin_name(further)} cannot be added to the workers: {error!r}")
        registered = asyncio.ensure_future(
            _register(scheduler, "nanny", ScalableNannyPlugin(), NANNY_PLUGIN_NAME)
        )
        try:
            # Dask waits here for every nanny that is starting, which may take longer.
            await asyncio.wait_for(asyncio.shield(registered), NANNY_TIMEOUT)
        except TimeoutError:
            registered.add_done_callback(_retrieve)
        except Exception as error:
            self._problem(f"the nannies cannot be watched: {error!r}")

    def _carrier(self, request: GraphRequest) -> str | None:
        """Called by each thread that sends a graph, before it is sent."""
        with propagation.guard.watch("sources"):
            self._sources.send_new()
        return self._make_carrier(request)

    # -- detaching ----------------------------------------------------------------------------

    def drain(self) -> None:
        """Fetch from the workers what their code has measured until now; bounded in time."""
        try:
            if self._local is not None:
                hub = self._local.extensions.get("scalable")
                if hub is not None and hub.measures and not is_on_loop(self._local.loop):
                    run_on(self._local.loop, hub.drain, DRAIN_WAIT)
            elif self.client.status == "running" and not is_on_loop(self.client.loop):
                run_on(self.client.loop, getattr(self.client.scheduler, DRAIN_OP), DRAIN_WAIT)
        except Exception:
            return  # the cluster does not answer, which the recorder will notice itself

    def disconnect(self, guard: Guard, *, outlived: bool = False) -> None:
        """Undo :meth:`connect`, as far as the cluster still answers; `guard` counts failures.

        If the run `outlived` its client, the scheduler is asked over a new connection.
        """
        if not self._connected:
            return
        self._connected = False
        propagation.set_source(self.client, None)
        propagation.remove()
        dask_blocks.unlisten(self._blocks)
        try:
            if self._local is not None:
                self._disconnect_local(self._local)
            elif self.client.status == "running":
                self._now_or_later(lambda: self._leave(self.client.scheduler))
            elif outlived and "scheduler_gone" not in guard.errors and not _in_a_loop():
                asyncio.run(asyncio.wait_for(self._leave_without_client(), CONNECTION_TIMEOUT))
        except Exception as error:
            # The cluster is shutting down: nothing is left there to undo.
            guard.count("disconnect", error)

    def _disconnect_local(self, scheduler: Scheduler) -> None:
        loop = scheduler.loop
        running = dask_compat.asyncio_loop(loop)
        if running is None or running.is_closed() or not running.is_running():
            self._plugin.detach_quietly()
        elif is_on_loop(loop):
            self._later(self._plugin.leave())
        else:
            run_on(loop, self._plugin.leave, CONNECTION_TIMEOUT)

    async def _leave_without_client(self) -> None:
        scheduler: Any = rpc(self._address, connection_args=self._connection_args)
        try:
            await self._leave(scheduler)
        finally:
            await scheduler.close_rpc()

    async def _leave(self, scheduler: Any) -> None:
        await getattr(scheduler, LEAVE_OP)(run=self.run)

    # -- on the client's loop -----------------------------------------------------------------

    def _now_or_later(self, function: Callable[[], Any]) -> None:
        """Run a coroutine function on the client's loop; wait for it unless that is this loop."""
        if is_on_loop(self.client.loop):
            self._later(function())
        else:
            run_on(self.client.loop, function, CONNECTION_TIMEOUT)

    def _later(self, coroutine: Any) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def plugin_name(plugin: WorkerPlugin) -> str:
    """Name under which a worker plugin is registered."""
    return str(getattr(plugin, "name", type(plugin).__name__))


async def _register(scheduler: Any, kind: str, plugin: Any, name: str) -> Any:
    """Register a plugin with a scheduler in this process, or through its RPC."""
    comm = (None,) if isinstance(scheduler, Scheduler) else ()
    register = getattr(scheduler, f"register_{kind}_plugin")
    return await register(*comm, plugin=dumps(plugin), name=name, idempotent=True)


def _in_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _retrieve(future: asyncio.Future[Any]) -> None:
    """Read the outcome, so that asyncio does not report it as never retrieved."""
    if not future.cancelled():
        future.exception()


def _scheduler_in_this_process(address: str) -> Scheduler | None:
    for scheduler in dask_compat.schedulers_here():
        if address in dask_compat.addresses(scheduler):
            return scheduler
    return None
