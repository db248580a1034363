"""Describes the calls of tasks that succeed, and what they return, for runs that ask for it.

The hooks that see the calls stand around tasks from the first task of such a run on, until the
workers of the process are not watched any more: without such a run nothing is added to a task.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from typing import Any, Final

import orjson
from dask.utils import key_split

from scalable import facts
from scalable.common.forks import unlocked_in_forks
from scalable.instrumentation.attempt_span import RunningAttempt, run_of
from scalable.instrumentation.parameters import describe_call, described, level_of
from scalable.instrumentation.propagation import current_attempt, on_parameters
from scalable.instrumentation.task_calls import TaskCall, around

#: With the level `sample`: the first calls of each task name in each process of a worker …
FIRST: Final = 10
#: … and then one of so many.
SHARE: Final = 100
#: Task names that are counted; calls of further ones are not sampled.
MAX_NAMES: Final = 1_000

_lock = unlocked_in_forks(threading.RLock())


class _Describer:
    """The hooks; used by the threads that run tasks, and by the worker's loop."""

    def __init__(self) -> None:
        #: Calls by task name. Two threads may read the same number: a sample is not exact.
        self._calls: dict[str, int] = {}

    def call(self, call: TaskCall, proceed: Callable[[], Any]) -> Any:
        """Describe a call in the thread of its task."""
        attempt = current_attempt.get()
        if attempt is None or not self._wants(attempt):
            return proceed()
        inputs = describe_call(call, run_of(attempt))
        result = proceed()
        _send(attempt, inputs, result)
        return result

    async def await_call(self, call: TaskCall, proceed: Callable[[], Awaitable[Any]]) -> Any:
        """Describe the call of a coroutine, on the worker's loop."""
        attempt = current_attempt.get()
        if attempt is None or not self._wants(attempt):
            return await proceed()
        inputs = describe_call(call, run_of(attempt))
        result = await proceed()
        _send(attempt, inputs, result)
        return result

    def _wants(self, attempt: RunningAttempt) -> bool:
        level = level_of(attempt.carrier)
        if level != "sample":
            return level == "all"
        name = key_split(attempt.key)
        count = self._calls.get(name, 0)
        if not count and len(self._calls) >= MAX_NAMES:
            return False
        self._calls[name] = count + 1
        return count < FIRST or count % SHARE == 0


def _send(attempt: RunningAttempt, inputs: bytes, result: Any) -> None:
    outbox = attempt.outbox
    if outbox is None:
        return
    run = run_of(attempt)
    item = {
        "task": attempt.key,
        "run_id": attempt.run_id,
        "inputs": orjson.Fragment(inputs),
        "outputs": orjson.Fragment(described((("result", result),), run)),
    }
    outbox.put(facts.RELAY_PARAMETERS, run, orjson.dumps(item))


class _Use:
    """Whether the hooks are there; any thread, under the module's lock."""

    watches = 0
    undo: Callable[[], None] | None = None


_use: Final = _Use()


def _begin() -> None:
    with _lock:
        if _use.undo is None and _use.watches:
            describer = _Describer()
            _use.undo = around(describer.call, describer.await_call)


def watch() -> None:
    """A worker of this process is watched: describe calls when a run asks for it."""
    with _lock:
        _use.watches += 1
        if _use.watches == 1:
            on_parameters.append(_begin)


def unwatch() -> None:
    """Undo one :func:`watch`."""
    with _lock:
        _use.watches -= 1
        if _use.watches:
            return
        on_parameters.remove(_begin)
        undo, _use.undo = _use.undo, None
    if undo is not None:
        undo()
