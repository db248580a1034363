"""What all runs on one scheduler share: RPCs, the workers' stream message, two listeners."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol

from scalable import facts
from scalable.facts import LEAVE_OP, PULL_OP, STREAM_OP

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler

    from scalable.guard import Guard

#: Largest number of facts one pull returns: bounds how long answering it holds the loop.
PULL_LIMIT: Final = 2_000
#: How long after a task left its worker its attempt's end may still be reported, in seconds.
LATE_AFTER: Final = 5.0


class Run(Protocol):
    """What the hub knows of the plugin of one run."""

    run: str
    scope: str
    guard: Guard

    def pull(self, after: int, limit: int = ...) -> dict[str, Any]:
        """Hand out facts."""
        ...

    def hear(self, fact: facts.Fact) -> None:
        """Take a worker's own fact."""
        ...

    async def leave(self) -> None:
        """End the run on this scheduler."""
        ...


class Hub:
    """What the runs on one scheduler share; lives on the scheduler's event loop.

    Adds the RPC by which recorders pull and the stream message by which workers report, and listens
    in on two messages of the workers: an attempt that will be retried reaches no plugin with its
    exception, and one that ended before its worker heard of the cancellation reaches none at all.
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
        stream: dict[str, Any] = scheduler.stream_handlers
        # Stays when the last run is gone: a worker's late message with an unknown name would make
        # Dask close that worker's stream.
        stream[STREAM_OP] = self.hear
        self._late: asyncio.TimerHandle | None = None
        self._late_until = 0.0
        self._listen_in("task-erred", self.task_erred)

    @classmethod
    def of(cls, scheduler: Scheduler) -> Hub:
        """The hub of `scheduler`, made at first use."""
        extensions: dict[str, Any] = scheduler.extensions
        hub = extensions.get("scalable")
        if hub is None:
            hub = extensions["scalable"] = cls(scheduler)
        return hub

    def forget(self, plugin: Run) -> None:
        """A run ended; with the last one the scheduler's own handlers come back."""
        self.plugins.pop(plugin.run, None)
        if self.plugins:
            return
        self._scheduler.handlers.pop(PULL_OP, None)
        self._scheduler.handlers.pop(LEAVE_OP, None)
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

    def _listen_in(self, name: str, listener: Callable[..., None]) -> None:
        stream: dict[str, Any] = self._scheduler.stream_handlers
        if name in stream and stream[name] != listener:
            self._originals[name] = stream[name]
            stream[name] = listener

    def _listen_no_more(self, name: str, listener: Callable[..., None]) -> None:
        # Somebody may have put a listener over ours: theirs stays, and with it ours.
        stream: dict[str, Any] = self._scheduler.stream_handlers
        if name in self._originals and stream.get(name) == listener:
            stream[name] = self._originals[name]

    def pull(self, run: str = "", after: int = 1, limit: int = PULL_LIMIT) -> dict[str, Any]:
        """RPC of the recorders."""
        plugin = self.plugins.get(run)
        if plugin is None:
            return {"error": "no such run"}
        try:
            return plugin.pull(after, limit)
        except BaseException as error:
            plugin.guard.failed("pull", error)
            return {"error": f"internal error: {type(error).__name__}"}

    async def leave(self, run: str = "") -> None:
        """RPC of a client that ends its run."""
        plugin = self.plugins.get(run)
        if plugin is not None:
            await plugin.leave()

    def hear(self, worker: str = "", reports: Iterable[Any] = (), **_: Any) -> None:
        """Stream message of the workers: ``(run id or None, fact)`` pairs."""
        for plugin in list(self.plugins.values()):
            try:
                for run, raw in reports:
                    if run is None or run == plugin.run or plugin.scope == "cluster":
                        for fact in facts.decode([raw]):
                            plugin.hear(fact)
            except BaseException as error:
                plugin.guard.failed("hear", error)

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
            for plugin in self.plugins.values():
                plugin.guard.failed("listen", error)

    def _notice_late(self, key: Any, message: Mapping[str, Any]) -> None:
        """An attempt ended that is no attempt any more: all it can tell is that it had begun."""
        start, _, _ = execution(message.get("startstops"))
        if start is None:
            return
        fact = facts.Started(facts.STARTED, start, str(key), message["run_id"], message["worker"])
        for plugin in list(self.plugins.values()):
            plugin.hear(fact)


def execution(
    startstops: Collection[Mapping[str, Any]] | None,
) -> tuple[float | None, float | None, tuple[facts.Phase, ...]]:
    """Start and stop of the task's own code, and what Dask did around it, of one attempt."""
    if not startstops:
        return None, None, ()
    if len(startstops) == 1:
        (item,) = startstops
        if item["action"] == "compute":
            return item["start"], item["stop"], ()
    start = stop = None
    phases: list[facts.Phase] = []
    for item in startstops:
        if item["action"] == "compute":
            start, stop = item["start"], item["stop"]
        else:
            phases.append((item["action"], item["start"], item["stop"]))
    return start, stop, tuple(phases)
