"""What a task calls: its function and arguments, where its code runs.

A task of Dask is a node of :mod:`dask._task_spec`: a function whose arguments may be references to
other tasks' results (`TaskRef`, `Alias`), data (`DataNode`), containers of those (`List`, `Dict`,
…) and further tasks. A fused task calls ``_execute_subgraph`` with the tasks that were fused.
"""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import os
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import partial
from types import FrameType, FunctionType, TracebackType
from typing import Any, Final, TypeAlias, cast

from dask import _task_spec as task_spec

from scalable.common.forks import unlocked_in_forks
from scalable.common.guard import Guard
from scalable.instrumentation import dask_compat
from scalable.instrumentation.signatures import bind, unwrapped

__all__ = [
    "MISSING",
    "TaskCall",
    "around",
    "bind",
    "call_of",
    "call_of_exception",
    "function_of",
    "functions_given",
    "functions_of",
]

#: Tasks of one fused task that are looked at most.
_MAX_FUSED: Final = 1_000
#: Frames of Dask that are looked at most, at the top of a traceback.
_MAX_FRAMES: Final = 200

#: Packages whose frames stand between Dask's call of a task and the task's own function.
_DASKS: Final = frozenset({"dask", "distributed", "toolz", "cytoolz", "scalable"})

#: Errors of this module, in any run of the process.
guard: Final = Guard()


class _Missing:
    """A result that a task refers to and that is not known here."""

    def __repr__(self) -> str:
        return "<not known>"


#: Stands for an argument that is not known.
MISSING: Final = _Missing()


class TaskCall:
    """A call of a function by a task.

    Used by the thread that runs the task. It refers to the arguments themselves: keep it no longer
    than the task runs.

    Attributes
    ----------
    function : callable
        The function, without partials.
    args : tuple
    kwargs : dict
        Its arguments. One that is a call in itself, of a function whose result is not known (a
        nested task, or one of those that were fused), is another :class:`TaskCall`.
    """

    __slots__ = ("_node", "_parts", "_values", "function")

    def __init__(
        self,
        function: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        node: Any = None,
        values: Any = None,
    ) -> None:
        self._node = node
        self._values = values
        self.function = function
        self._parts: tuple[tuple[Any, ...], dict[str, Any]] | None = None
        if node is None:
            self.function, args, keywords = unwrapped(function, args, kwargs or {})
            self._parts = args, keywords

    @property
    def args(self) -> tuple[Any, ...]:
        """Its positional arguments."""
        return self._resolved()[0]

    @property
    def kwargs(self) -> dict[str, Any]:
        """Its keyword arguments."""
        return self._resolved()[1]

    def arguments(self, *, defaults: bool = False) -> dict[str, Any]:
        """The arguments by name; see :func:`~scalable.instrumentation.signatures.bind`."""
        args, kwargs = self._resolved()
        return bind(self.function, args, kwargs, defaults=defaults)

    def _resolved(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if self._parts is None:
            node, values = self._node, self._values
            args = tuple(_resolve(value, values) for value in node.args)
            kwargs = {name: _resolve(value, values) for name, value in node.kwargs.items()}
            _, args, kwargs = unwrapped(node.func, args, kwargs)
            self._parts = args, kwargs
        return self._parts


class _Fused(dict[Any, Any]):
    """Results within a fused task, by key: those of its own tasks are calls."""

    def __init__(self, inner: Mapping[Any, Any], outer: Mapping[Any, Any]) -> None:
        super().__init__(outer)
        self._inner = inner

    def __missing__(self, key: Any) -> Any:
        node = self._inner.get(key, MISSING)
        found = self[key] = node if node is MISSING else _resolve(node, self)
        return found


def call_of(run_spec: Any, values: Mapping[Any, Any]) -> TaskCall | None:
    """What a task calls; None if it calls nothing, or nothing that is known.

    Parameters
    ----------
    run_spec : dask._task_spec.GraphNode
        The task.
    values : mapping
        Results of the tasks that it refers to, by key. They are not changed, and no function is
        called: what another call within the task would return is that call.
    """
    found = _resolve(run_spec, values) if isinstance(run_spec, task_spec.Task) else None
    if found is None and type(run_spec) is tuple and run_spec and callable(run_spec[0]):
        legacy = cast("tuple[Any, ...]", run_spec)
        return TaskCall(legacy[0], legacy[1:])
    return found if type(found) is TaskCall else None


def function_of(run_spec: Any) -> Any:
    """The function that a task calls, or None; of a fused task that whose result it returns."""
    return next(functions_of(run_spec), None)


def functions_of(run_spec: Any) -> Iterator[Any]:
    """The functions that a task calls: that whose result it returns, then those fused with it."""
    node, inner = _last_of(run_spec)
    if isinstance(node, task_spec.Task):
        yield unwrapped(node.func, _callables(node.args), node.kwargs)[0]
        for number, other in enumerate(inner.values()):
            if number >= _MAX_FUSED:
                return
            if other is not node and isinstance(other, task_spec.Task):
                yield from functions_of(other)


def functions_given(run_spec: Any, limit: int) -> Iterator[Any]:
    """Functions that are data of a task, and of those fused with it: what Dask's functions call."""
    waiting, left = [run_spec], _MAX_FUSED
    while waiting and left and limit:
        node, left = waiting.pop(), left - 1
        if type(node) is task_spec.DataNode:
            node = node.value
        if type(node) in (FunctionType, partial):
            yield node
            limit -= 1
        elif isinstance(node, task_spec.Task):
            waiting += [*node.args, *node.kwargs.values()]
        elif type(node) is dict:
            waiting += node.values()
        elif type(node) in (list, tuple):
            waiting += node


def _last_of(node: Any) -> tuple[Any, Mapping[Any, Any]]:
    """Of a fused task that which returns its result, and all; of another, itself."""
    if isinstance(node, task_spec.Task) and node.func is task_spec._execute_subgraph:
        inner, out = cast("Any", node.args[:2])
        return inner.get(out), inner
    return node, {}


def _callables(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Arguments as data: a function may be among them, as data of a task."""
    return tuple(value.value if type(value) is task_spec.DataNode else value for value in args)


def _resolve(value: Any, values: Any) -> Any:
    """An argument of a task as its function receives it, as far as that calls nothing."""
    if type(value) is task_spec.TaskRef:
        return _look_up(values, value.key)
    if not isinstance(value, task_spec.GraphNode):
        return value
    if isinstance(value, task_spec.Alias):
        return _look_up(values, value.target)
    if isinstance(value, task_spec.DataNode):
        return value.value
    if isinstance(value, task_spec.NestedContainer):
        return _container(type(value).constructor, value, values)
    if isinstance(value, task_spec.Task):
        if value.func is task_spec._execute_subgraph:
            inner, out, keys, *given = cast("Any", value.args)
            outer = dict(zip(keys, (_resolve(item, values) for item in given), strict=False))
            return _Fused(inner, outer)[out]
        if value.func is task_spec._identity_cast:
            return _container(cast("Any", value.kwargs["typ"]), value, values)
        function = unwrapped(value.func, _callables(value.args), value.kwargs)[0]
        return TaskCall(function, node=value, values=values)
    return MISSING


def _container(constructor: Any, node: Any, values: Any) -> Any:
    items = [_resolve(item, values) for item in node.args]
    try:
        return constructor(items)
    except TypeError:  # a set of what cannot be hashed: Dask's call fails for it, too
        return items


def _look_up(values: Any, key: Any) -> Any:
    try:
        return values[key]
    except (KeyError, TypeError):
        return MISSING


# -- failed calls ---------------------------------------------------------------------------------

_error_class: Any = BaseException
_traceback_of: Final[Callable[[BaseException], TracebackType | None]] = (
    _error_class.__traceback__.__get__
)


def call_of_exception(error: BaseException) -> TaskCall | None:
    """The call that raised: what Dask called last, as the frames of the traceback show it.

    Of fused tasks it is the one that failed, and of a bag's partition the call for one item. The
    arguments are the objects that the function received, as it left them. To be called in the
    thread that ran the task.

    Parameters
    ----------
    error : BaseException
        What the code of a task has raised.

    Returns
    -------
    TaskCall or None
        None if the exception was not raised below a call of a task, or before it.
    """
    found: TaskCall | None = None
    traceback = _traceback_of(error)
    for _ in range(_MAX_FRAMES):
        traceback = _below_hooks(traceback)
        if traceback is None or not _is_dasks(traceback.tb_frame):
            break
        found = _call_in(traceback.tb_frame) or found
        traceback = traceback.tb_next
    return found


def _is_dasks(frame: FrameType) -> bool:
    module = dict.get(frame.f_globals, "__name__")
    return type(module) is str and module.partition(".")[0] in _DASKS


def _call_in(frame: FrameType) -> TaskCall | None:
    code = frame.f_code
    if code is _CALL:
        own: dict[str, Any] = frame.f_locals
        node: Any = own.get("self")
        # A container is a task, too: it failed before the task's function was called.
        if "new_argspec" not in own or isinstance(node, task_spec.NestedContainer):
            return None
        if node.func is task_spec._execute_subgraph:
            return None
        return TaskCall(node.func, own["new_argspec"], own.get("kwargs"))
    if code.co_name == "_run_task_async":
        # The frame of the call has ended: the coroutine that it returned failed.
        own = frame.f_locals
        task = own.get("task")
        return call_of(task.task if isinstance(task, _Hooked) else task, own.get("data") or {})
    if code.co_name == "__next__" and code.co_qualname == "_MapChunk.__next__":
        return _call_for_item(frame.f_locals)
    return None


def _call_for_item(own: Mapping[str, Any]) -> TaskCall | None:
    """The call of a bag's function for one item, in a frame of ``dask.bag.core._MapChunk``."""
    if "vals" not in own:
        return None
    chunk = own["self"]
    if "kwargs" in own:
        return TaskCall(chunk.f, tuple(own["args"]), own["kwargs"])
    return TaskCall(chunk.f, tuple(own["vals"]))


_CALL: Final = task_spec.Task.__call__.__code__

# -- around calls ---------------------------------------------------------------------------------

#: Called in the thread of a task with its call, and with what runs it and returns its result.
Hook: TypeAlias = Callable[[TaskCall, Callable[[], Any]], Any]
#: The same of a coroutine task, on the worker's loop.
CoroutineHook: TypeAlias = Callable[[TaskCall, Callable[[], Awaitable[Any]]], Awaitable[Any]]

_lock = unlocked_in_forks(threading.Lock())
#: Hooks, the outermost first; replaced as a whole.
_hooks: tuple[Hook, ...] = ()
_coroutine_hooks: tuple[CoroutineHook, ...] = ()


def around(hook: Hook | None, coroutine_hook: CoroutineHook | None = None) -> Callable[[], None]:
    """Have a hook called around each call of a task, in this process; for any thread.

    Dask's own functions are wrapped as long as there is a hook: without one, nothing is added to a
    task. Tasks in pools of processes have no hooks, nor have methods of actors.

    Parameters
    ----------
    hook : callable
        ``hook(call, proceed) -> result``, called in the thread of the task. ``proceed()`` runs the
        task, at most once, and returns its result or raises what it raised. What the hook returns
        is the result of the task. An error of the hook is counted, and the task runs on without
        it; an error of the task reaches Dask, whatever the hook does. Of several hooks the one
        that was added first is outermost.
    coroutine_hook : callable
        The same for tasks that are coroutines: a coroutine function with an awaitable
        ``proceed()``, on the worker's loop.

    Returns
    -------
    callable
        Removes the hook.
    """
    global _hooks, _coroutine_hooks
    ended = False
    with _lock:
        if hook is not None:
            _hooks = (*_hooks, hook)
        if coroutine_hook is not None:
            _coroutine_hooks = (*_coroutine_hooks, coroutine_hook)
    for patch in _patches:
        patch.apply()

    def undo() -> None:
        nonlocal ended
        global _hooks, _coroutine_hooks
        with _lock:
            if ended:
                return
            ended = True
            _hooks = _without(_hooks, hook)
            _coroutine_hooks = _without(_coroutine_hooks, coroutine_hook)
        for patch in _patches:
            patch.undo()

    return undo


def _without(hooks: tuple[Any, ...], hook: Any) -> tuple[Any, ...]:
    for place, found in enumerate(hooks):
        if found is hook:
            return (*hooks[:place], *hooks[place + 1 :])
    return hooks


class _Outcome:
    """How the code of a task ended; written once, by what runs it."""

    __slots__ = ("error", "has_begun", "value")

    def __init__(self) -> None:
        self.has_begun = False
        self.value: Any = None
        self.error: BaseException | None = None

    def again(self) -> Any:
        """The same outcome."""
        if self.error is not None:
            raise self.error
        return self.value


class _Hooked:
    """A task with hooks around it; called in its place, once."""

    def __init__(self, task: Any, hooks: tuple[Any, ...]) -> None:
        self.task = task
        self._hooks = hooks

    def __call__(self, values: Any = ()) -> Any:
        try:
            call = call_of(self.task, values)
        except BaseException as error:
            guard.failed("task_call", error)
            call = None
        if call is None:
            return self.run(values)
        return _through(self._hooks, call, lambda: self.run(values))

    def run(self, values: Any) -> Any:
        """Run the task itself."""
        return self.task(values)


class _HookedCoroutine(_Hooked):
    """A coroutine task with hooks around it."""

    async def __call__(self, values: Any = ()) -> Any:
        try:
            call = call_of(self.task, values)
        except BaseException as error:
            guard.failed("task_call", error)
            call = None
        if call is None:
            return await self.run(values)
        return await _through_coroutine(self._hooks, call, lambda: self.run(values))

    async def run(self, values: Any) -> Any:
        """Run the task itself."""
        return await self.task(values)


#: Code of the first and the last frame that hooks put between Dask and a task.
_FIRST: Final = (_Hooked.__call__.__code__, _HookedCoroutine.__call__.__code__)
_LAST: Final = (_Hooked.run.__code__, _HookedCoroutine.run.__code__)


def _below_hooks(traceback: TracebackType | None) -> TracebackType | None:
    """A traceback without the frames of hooks, if it begins with them."""
    if traceback is None or traceback.tb_frame.f_code not in _FIRST:
        return traceback
    found = traceback
    while found is not None and found.tb_frame.f_code not in _LAST:
        found = found.tb_next
    return found.tb_next if found is not None else traceback


def _through(hooks: tuple[Hook, ...], call: TaskCall, run: Callable[[], Any]) -> Any:
    if not hooks:
        return run()
    outcome = _Outcome()

    def proceed() -> Any:
        if outcome.has_begun:
            return outcome.again()
        outcome.has_begun = True
        try:
            outcome.value = _through(hooks[1:], call, run)
        except BaseException as error:
            outcome.error = error
            raise
        return outcome.value

    try:
        result = hooks[0](call, proceed)
    except BaseException as error:
        if error is outcome.error:
            raise
        guard.failed("task_hook", error)
        result = proceed()
    return outcome.again() if outcome.error is not None else result


async def _through_coroutine(
    hooks: tuple[CoroutineHook, ...], call: TaskCall, run: Callable[[], Awaitable[Any]]
) -> Any:
    if not hooks:
        return await run()
    outcome = _Outcome()

    async def proceed() -> Any:
        if outcome.has_begun:
            return outcome.again()
        outcome.has_begun = True
        try:
            outcome.value = await _through_coroutine(hooks[1:], call, run)
        except BaseException as error:
            outcome.error = error
            raise
        return outcome.value

    try:
        result = await hooks[0](call, proceed)
    except BaseException as error:
        if error is outcome.error:
            raise
        guard.failed("task_hook", error)
        result = await proceed()
    return outcome.again() if outcome.error is not None else result


def _with_hooks(original: Callable[..., Any]) -> Callable[..., Any]:
    pid = os.getpid()

    def run_task_simple(task: Any, *args: Any, **kwargs: Any) -> Any:
        hooks = _hooks
        if hooks and os.getpid() == pid:
            task = _Hooked(task, hooks)
        return original(task, *args, **kwargs)

    return run_task_simple


def _with_coroutine_hooks(original: Callable[..., Any]) -> Callable[..., Any]:
    def run_task_async(task: Any, *args: Any, **kwargs: Any) -> Any:
        if _coroutine_hooks:
            task = _HookedCoroutine(task, _coroutine_hooks)
        return original(task, *args, **kwargs)

    return run_task_async


def _without_own_frames(original: Callable[[], Any]) -> Callable[[], Any]:
    def get_traceback() -> Any:
        traceback = original()
        below = _below_hooks(traceback)
        if below is traceback:
            return traceback
        # Dask leaves out its own frames at the top; below the hooks there are some more.
        while below is not None and below.tb_frame.f_globals.get("__name__") == task_spec.__name__:
            below = below.tb_next
        return below

    return get_traceback


_patches: Final = (
    dask_compat.run_patch(_with_hooks),
    dask_compat.run_coroutine_patch(_with_coroutine_hooks),
    dask_compat.traceback_patch(_without_own_frames),
)
