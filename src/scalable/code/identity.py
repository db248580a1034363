"""What a function is, with what it calls: :func:`identify`, and what differs between two.

The identity of a function is a digest over a sorted list of components, and each is kept, so that a
difference can be named: the function's own syntax, the project's helpers, classes, decorators,
values and constants that it reaches by name, and the versions of the packages that it uses. Code is
compared by its syntax, never by bytecode: formatting, comments and the version of Python change
nothing. What cannot be seen is listed.
"""

from __future__ import annotations

import functools
from types import FunctionType, MethodType
from typing import Any

from scalable.code import values
from scalable.code.changes import Change, differences
from scalable.code.collect import Collector
from scalable.code.model import (
    CLOSURE,
    SOURCE,
    Component,
    FunctionIdentity,
)
from scalable.code.objects import module_of_class, name_of_code
from scalable.code.packages import PROJECT, root_of
from scalable.code.syntax import digest_of

__all__ = ["Change", "Component", "FunctionIdentity", "differences", "identify", "source_of"]


def identify(function: Any) -> FunctionIdentity:
    """Identify a function, a method, a class, a partial or another callable object.

    No code of the user's runs for it. It takes about a millisecond, and more when the source of a
    module is read for the first time.

    Parameters
    ----------
    function : callable
        What a task calls.

    Returns
    -------
    FunctionIdentity
        Also for what has no source; `not_covered` says so then.
    """
    inner = _innermost(function)
    file = None
    if inner is not None:
        file = inner.__globals__.get("__file__") or inner.__code__.co_filename
    collector = Collector(root_of(file if type(file) is str else None))
    try:
        _collect(collector, function, inner)
        collector.run()
    except Exception as error:
        collector.leave(f"what comes after an error ({type(error).__name__})")
    return _made(collector, function, inner)


def source_of(function: Any) -> str | None:
    """The source text of a function, as far as it is known in this process."""
    return identify(function).source


def _collect(collector: Collector, function: Any, inner: FunctionType | None) -> None:
    if inner is not None:
        # First, so that it is the source and no helper.
        collector.function(inner, SOURCE)
        collector.run()
    if function is not inner and not collector.code(function, SOURCE):
        collector.live_class(type(function))
        name = f"the object of {values.type_name(type(function))}"
        collector.value(CLOSURE, name, function)


def _innermost(function: Any) -> FunctionType | None:
    """The Python function that is called in the end; None if there is none."""
    for _ in range(20):
        kind = type(function)
        if kind is FunctionType:
            wrapped = function.__dict__.get("__wrapped__")
            if wrapped is None:
                return function
            function = wrapped
        elif kind in (MethodType, staticmethod, classmethod):
            function = function.__func__
        elif kind is functools.partial:
            function = function.func
        elif issubclass(kind, type):
            return None
        else:
            try:
                state = object.__getattribute__(function, "__dict__")
            except Exception:
                state = {}
            wrapped = state.get("__wrapped__") if type(state) is dict else None
            function = wrapped if wrapped is not None else _call_method(kind)
    return None


def _call_method(kind: type) -> Any:
    for each in type.__getattribute__(kind, "__mro__"):
        found = type.__getattribute__(each, "__dict__").get("__call__")
        if found is not None:
            return found
    return None


def _made(collector: Collector, function: Any, inner: FunctionType | None) -> FunctionIdentity:
    module, qualname = _named(function, inner)
    namespace = None if inner is None else inner.__globals__
    if collector.origin(module, namespace) != PROJECT:
        # Two functions of a package differ by their names.
        name = f"{module}.{qualname}"
        collector.add(SOURCE, name, digest_of(name))
    components = tuple(sorted(collector.components.values()))
    source = next((each for each in components if each.kind == SOURCE and each.detail), None)
    file, line = None, None
    if source is not None:
        file, _, number = source.detail.rpartition(":")
        line = int(number)
    elif inner is not None:
        file, line = inner.__code__.co_filename, inner.__code__.co_firstlineno
    return FunctionIdentity(
        components,
        tuple(collector.not_covered),
        module,
        qualname,
        file,
        line,
        None if source is None else source.source,
    )


def _named(function: Any, inner: FunctionType | None) -> tuple[str, str]:
    if inner is not None:
        module = inner.__globals__.get("__name__")
        return module if type(module) is str else "", inner.__code__.co_qualname
    name = name_of_code(function)
    named = function if issubclass(type(function), type) else type(function)
    if name != values.type_name(named):  # a function that is not written in Python
        module, _, name = name.rpartition(".")
        return module, name
    return module_of_class(named), type.__dict__["__qualname__"].__get__(named)
