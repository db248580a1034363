"""Worker → facts: the functions that tasks call, with what these call."""

from __future__ import annotations

import asyncio
import platform
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from time import time
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from scalable import facts
from scalable.code.check import record_of
from scalable.code.identity import identify
from scalable.code.sources import program_sources
from scalable.common.forks import unlocked_in_forks
from scalable.common.guard import Guard
from scalable.instrumentation import propagation
from scalable.instrumentation.task_calls import functions_given, functions_of

if TYPE_CHECKING:
    from distributed import Worker

    from scalable.instrumentation.executions import Execution

#: Functions that are known at most; then all are looked at again.
MAX_KNOWN: Final = 10_000
#: Tasks whose functions wait to be identified; those of further tasks are looked at later.
MAX_WAITING: Final = 1_000
#: Versions of functions that a worker reports at most.
MAX_REPORTED: Final = 2_000
#: Functions of one task.
MAX_OF_TASK: Final = 100
#: Seconds that the end of a run waits for functions that are being identified.
SETTLE_TIME: Final = 0.4
#: Seconds that the first function waits for the program's sources, which may arrive after it.
SOURCES_WAIT: Final = 0.3

#: Functions of these packages call functions that are data of the task.
_DASKS: Final = frozenset({"dask", "distributed", "toolz", "cytoolz"})


class _Seen(NamedTuple):
    """A task whose functions are to be identified."""

    run: str | None
    key: str
    run_id: int
    spec: Any


class TaskFunctions:
    """Identifies each function that a worker's tasks call, once.

    Used by the worker's loop; what takes time is done by a thread that lives as long as there is
    something to do.
    """

    def __init__(
        self,
        worker: Worker,
        ahead: Callable[[], float],
        report: Callable[[str | None, facts.Fact], None],
        guard: Guard,
    ) -> None:
        self._worker = worker
        self._ahead = ahead
        self._report = report
        self._guard = guard
        #: Addresses of functions that need no look, for the loop's quick test.
        self.known: set[int] = set()
        #: Keeps what :attr:`known` has by its address.
        self._kept: list[Any] = []
        #: Of functions that are made anew for each task: the hashes of their code.
        self._tokens: set[Any] = set()
        self._waiting: deque[_Seen] = deque()
        self._lock = unlocked_in_forks(threading.Lock())
        self._thread: threading.Thread | None = None
        self._reported: set[tuple[str | None, str, str]] = set()
        self._announced: set[str | None] = set()

    def forget(self) -> None:
        """Look at all functions again: a run began, or the program has new sources."""
        self.known.clear()
        self._kept.clear()
        self._tokens.clear()
        self._announced.clear()

    def look(self, execution: Execution) -> None:
        """Have the functions of a task identified, unless they are known."""
        try:
            self._look(execution)
        except BaseException as error:
            self._guard.failed("functions", error)

    def _look(self, execution: Execution) -> None:
        spec = execution.task.run_spec
        function = getattr(spec, "func", None)
        if len(self._kept) + len(self._tokens) > MAX_KNOWN:
            self.forget()
        token = _token(function, execution.task.key)
        if token not in self._tokens:
            if function is not None and not self._enqueue(execution, spec):
                return
            self._tokens.add(token)
        if type(token) is int and _is_shared(function):
            self.known.add(id(function))
            self._kept.append(function)

    def _enqueue(self, execution: Execution, spec: Any) -> bool:
        run = propagation.run_of(execution)
        seen = _Seen(run, execution.key, execution.run_id, spec)
        with self._lock:
            if len(self._waiting) >= MAX_WAITING:
                return False
            self._waiting.append(seen)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="scalable-functions", daemon=True
                )
                self._thread.start()
        if run not in self._announced:
            self._announced.add(run)
            # The scheduler asks a worker that measures for what it has before a run ends.
            worker = self._worker.address
            empty = facts.RelayBatch(facts.RELAY_METRICS, time(), worker, 0, b"", 0)
            self._report(run, empty)
        return True

    async def settle(self) -> None:
        """Wait until what was seen is identified, for :data:`SETTLE_TIME` at most."""
        loop = asyncio.get_running_loop()
        until = loop.time() + SETTLE_TIME
        while self._thread is not None and loop.time() < until:
            await asyncio.sleep(0.01)
        # Callbacks of the thread have been called by then.
        await asyncio.sleep(0)

    # -- the thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._thread = None
                    return
                seen = self._waiting.popleft()
            with self._guard.watch("functions"):
                self._identify(seen)

    def _identify(self, seen: _Seen) -> None:
        program_sources().wait_for_first(SOURCES_WAIT)
        for function in _all_functions(seen.spec):
            found = identify(function)
            place = seen.run, found.name, found.digest
            if place in self._reported or len(self._reported) >= MAX_REPORTED:
                continue
            self._reported.add(place)
            fields = {**record_of(found), "python": platform.python_version()}
            fact = facts.UserEvent(
                facts.USER_EVENT,
                time() + self._ahead(),
                seen.key,
                seen.run_id,
                self._worker.address,
                facts.FUNCTION,
                fields,
            )
            bounded: Any = facts.bounded(fact)
            if bounded is not None:
                # The stream belongs to the worker's loop.
                self._worker.loop.add_callback(self._report, seen.run, bounded)


def _all_functions(spec: Any) -> Iterator[Any]:
    """The functions of a task; of one of Dask's own functions those that are its data."""
    found = {id(function): function for function in islice(functions_of(spec), MAX_OF_TASK)}
    if any(map(_is_dasks, (getattr(spec, "func", None), *found.values()))):
        given = {id(function): function for function in functions_given(spec, MAX_OF_TASK)}
        both = found | given
        found = {key: each for key, each in both.items() if not _is_dasks(each)}
    yield from found.values()


def _token(function: Any, key: Any) -> Any:
    """What tells a function from others, also from one of the same name."""
    if type(function) is FunctionType:
        if _is_dasks(function):
            return id(function), _layer(key)
        # Two pieces of equal code are the same function, wherever they were unpickled.
        return hash(function.__code__)
    if function is None or _is_of_module(function):
        return id(function)
    if type(function) is partial and type(function.func) is FunctionType:
        return "partial", hash(function.func.__code__), _layer(key)
    return id(type(function)), _layer(key)


def _layer(key: Any) -> str:
    """What tasks of one call have in common: their key without numbers and hash."""
    name = key[0] if type(key) is tuple and key else key
    return name.rpartition("-")[0] or name if type(name) is str else ""


def _is_dasks(function: Any) -> bool:
    if type(function) is not FunctionType:
        return False
    module = function.__globals__.get("__name__")
    return type(module) is str and module.partition(".")[0] in _DASKS


def _is_of_module(function: Any) -> bool:
    """Whether it is a function of a module that is not written in Python."""
    return type(function) is BuiltinFunctionType and type(function.__self__) is ModuleType


def _is_shared(function: Any) -> bool:
    """Whether all tasks have this very object: it is unpickled by its name."""
    if type(function) is not FunctionType:
        return True
    module = sys.modules.get(function.__module__ or "")
    return module is not None and vars(module).get(function.__qualname__) is function
