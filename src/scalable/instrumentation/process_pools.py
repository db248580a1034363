"""Context of tasks that a worker runs in a pool of processes, and what their code records there.

Dask does not say which task a call of the executor is for. :class:`ContextPool` replaces the
executor: each call carries the attempt, and each result the items that its code recorded.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from scalable.common.guard import Guard
from scalable.common.otel_environment import sdk_disabled
from scalable.instrumentation import propagation
from scalable.instrumentation.outbox import Outbox, Source
from scalable.instrumentation.own_exports import OwnExports
from scalable.instrumentation.parameters import describe_failed_call
from scalable.instrumentation.python_logs import LogCollector
from scalable.instrumentation.relay_providers import RelayProviders

#: Items that one task returns at most, and their bytes.
MAX_ITEMS: Final = 1_000
MAX_BYTES: Final = 2**20


@dataclass(slots=True)
class TaskContext:
    """The attempt whose code a process of the pool runs."""

    key: str
    run_id: int
    carrier: str | None
    #: How far the scheduler's clock is ahead, in seconds.
    ahead: float
    log_level: float
    #: Takes what the code records; set in the process of the pool.
    outbox: Any = None
    exports: bool = False
    submissions: dict[Any, Any] | None = None
    #: What the task was called with, if it failed.
    parameters: bytes = b""

    def describe(self, error: BaseException, *, is_shortened: bool) -> None:
        """Keep what the task was called with; called where its code raised `error`."""
        self.parameters = describe_failed_call(error, self.carrier)


class TaskResult(NamedTuple):
    """The function's result, items as ``(kind, run, item)``, and how many were left out.

    `exports` and `parameters` are those of the attempt.
    """

    result: Any
    exports: bool
    parameters: bytes
    items: list[tuple[int, str | None, bytes]]
    left_out: dict[tuple[int, str | None], int]


class ContextPool(Executor):
    """Replaces a pool of processes in a worker's table of executors.

    :meth:`submit` is called by the worker's loop, in the context of the attempt.
    """

    def __init__(
        self, pool: ProcessPoolExecutor, outbox: Outbox, log_level: Callable[[], float]
    ) -> None:
        self.pool = pool
        self._outbox = outbox
        self._log_level = log_level

    def __getattr__(self, name: str) -> Any:
        return getattr(self.pool, name)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run `fn` in the pool, below the current attempt."""
        attempt = propagation.current_attempt.get()
        if attempt is None:
            return self.pool.submit(fn, *args, **kwargs)
        context = TaskContext(
            attempt.key, attempt.run_id, attempt.carrier, attempt.ahead, self._log_level()
        )
        outer: Future[Any] = Future()
        inner = self.pool.submit(run_in_context, context, fn, *args, **kwargs)

        def cancel(ended: Future[Any]) -> None:
            if ended.cancelled():
                inner.cancel()

        def finish(ended: Future[TaskResult]) -> None:
            if not outer.set_running_or_notify_cancel():
                return
            try:
                result, attempt.exports, attempt.parameters, items, left_out = ended.result()
            except BaseException as error:
                outer.set_exception(error)
                return
            for item in items:
                self._outbox.put(*item)
            for (kind, run), count in left_out.items():
                self._outbox.drop(kind, run, count)
            outer.set_result(result)

        outer.add_done_callback(cancel)
        inner.add_done_callback(finish)
        return outer

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Shut the pool down."""
        self.pool.shutdown(wait, cancel_futures=cancel_futures)


class ItemBuffer:
    """Replaces the outbox in a process of the pool, which runs one task at a time."""

    def __init__(self) -> None:
        self.takes_spans = not sdk_disabled(os.environ)
        self._noted: list[Source] = []
        self.items: list[tuple[int, str | None, bytes]] = []
        self.left_out: dict[tuple[int, str | None], int] = {}
        self._bytes = 0

    def put(self, kind: int, run: str | None, item: bytes) -> None:
        """Take an item, or count it as left out."""
        if len(self.items) >= MAX_ITEMS or self._bytes + len(item) > MAX_BYTES:
            self.left_out[kind, run] = self.left_out.get((kind, run), 0) + 1
        else:
            self._bytes += len(item)
            self.items.append((kind, run, item))

    def note(self, source: Source) -> None:
        """Something was written: `source` is asked for it when the task has ended."""
        self._noted.append(source)

    def empty(self) -> tuple[Any, Any]:
        """Remove and return the items and counts."""
        noted, self._noted = self._noted, []
        for source in noted:
            item = source.take()
            if item is not None:
                self.put(source.kind, source.run, item)
        found = (self.items, self.left_out)
        self.items, self.left_out, self._bytes = [], {}, 0
        return found


class _PoolProcess:
    """State of a process of the pool."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.ahead = 0.0
        self.buffer = ItemBuffer()
        outbox: Any = self.buffer
        guard = Guard()
        self.relay: RelayProviders | None = None
        if self.buffer.takes_spans:
            self.relay = RelayProviders(outbox, lambda: self.ahead, guard)
            self.relay.start()
        self.logs = LogCollector(outbox, lambda: self.ahead, guard)
        self.logs.start()
        self.own_exports = OwnExports(guard)
        # It describes exceptions where they are raised.
        propagation.install()


_here: _PoolProcess | None = None


def run_in_context(
    context: TaskContext, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
) -> TaskResult:
    """Run a task in a process of the pool."""
    global _here
    if _here is None or _here.pid != os.getpid():
        _here = _PoolProcess()
    here = _here
    here.ahead, here.logs.level = context.ahead, context.log_level
    context.outbox = here.buffer
    here.own_exports.follow()
    propagation.enter(context)
    result = fn(*args, **kwargs)
    if here.own_exports.follow():
        context.exports = True
    if here.relay is not None and here.relay.measured:
        here.relay.collect(force=True)
    return TaskResult(result, context.exports, context.parameters, *here.buffer.empty())
