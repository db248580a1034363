"""The arguments of a call by their names; nothing here runs code of the function or its arguments.

Names are read from code objects: :func:`inspect.signature` would ask the function for attributes
that it may compute.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, Final, NamedTuple

#: Wrappers around a function that are looked through at most.
MAX_WRAPPERS: Final = 20
#: Modules whose `curry` is known: a partial with the same attributes.
_CURRY: Final = frozenset({"toolz.functoolz", "cytoolz.functoolz"})

#: The bases of a class with itself, and what it defines, by the methods of `type` alone.
bases_of: Final = type.__dict__["__mro__"].__get__
fields_of: Final = type.__dict__["__dict__"].__get__
#: Fills a gap among the arguments of a partial, from Python 3.14 on.
_GAP: Final[Any] = getattr(functools, "Placeholder", object())


class Parameters(NamedTuple):
    """The parameters of a function."""

    #: That may be given by position, and how many of them only so.
    positional: tuple[str, ...]
    positional_only: int
    keyword_only: tuple[str, ...]
    #: Name of ``*args``; empty without one.
    rest: str
    has_keywords: bool
    defaults: Mapping[str, Any]


def unwrapped(
    function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """The function that a call is for: without partials, and without what Dask has put around it.

    Returns
    -------
    tuple
        The function, its positional arguments and its keyword arguments.
    """
    keywords = dict(kwargs)
    for _ in range(MAX_WRAPPERS):
        if _is_partial(function):
            args = (*_filled(function.args, args), *args[_gaps(function.args) :])
            keywords = {**function.keywords, **keywords}
            function = function.func
        elif _is_dasks(function, "dask.utils", "apply") and args:
            keywords = {**_plain_dict(args[2:3]), **_plain_dict((keywords.get("kwargs"),))}
            function, args = args[0], _plain_tuple(args[1:2])
        elif _is_dasks(function, "dask.dataframe.core", "apply_and_enforce"):
            keywords.pop("_meta", None)
            function = keywords.pop("_func", function)
        else:
            break
    return function, args, keywords


def bind(
    function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, defaults: bool = False
) -> dict[str, Any]:
    """The arguments of a call by name.

    Parameters
    ----------
    function : callable
        The function; see :func:`unwrapped`.
    args, kwargs
        Its arguments.
    defaults : bool
        Add the defaults of parameters that are not given.

    Returns
    -------
    dict
        In the order of the parameters. What fills ``*args`` is one tuple by the name ``*args``,
        and so are all positional arguments of a function whose parameters are not known. The
        object of a method is its first argument.
    """
    function, args, keywords = unwrapped(function, args, kwargs)
    if type(function) is MethodType:
        function, args = function.__func__, (function.__self__, *args)
    for parameters, own in _candidates(function):
        bound = _bound(parameters, (*own, *args), keywords, defaults=defaults)
        if bound is not None:
            return bound
    return {**({"*args": args} if args else {}), **keywords}


def _bound(
    parameters: Parameters, args: tuple[Any, ...], kwargs: dict[str, Any], *, defaults: bool
) -> dict[str, Any] | None:
    """By name; None if the call does not fit the parameters."""
    names = parameters.positional
    given = dict(zip(names, args, strict=False))
    rest = args[len(names) :]
    if rest and not parameters.rest:
        return None
    by_name = {*names[parameters.positional_only :], *parameters.keyword_only}
    if any(
        name in given if name in by_name else not parameters.has_keywords for name in kwargs
    ) or any(name not in given and name not in kwargs for name in _required(parameters)):
        return None
    bound: dict[str, Any] = {}
    for name in (*names, *parameters.keyword_only):
        if name in given:
            bound[name] = given[name]
        elif name in kwargs and name in by_name:
            bound[name] = kwargs[name]
        elif defaults and name in parameters.defaults:
            bound[name] = parameters.defaults[name]
    if rest:
        bound[f"*{parameters.rest}"] = rest
    bound.update((name, value) for name, value in kwargs.items() if name not in by_name)
    return bound


def _required(parameters: Parameters) -> Iterator[str]:
    for name in (*parameters.positional, *parameters.keyword_only):
        if name not in parameters.defaults:
            yield name


def _candidates(function: Any) -> Iterator[tuple[Parameters, tuple[Any, ...]]]:
    """Parameters that a callable may have, and what Python puts before its arguments."""
    kind = type(function)
    own: tuple[Any, ...] = ()
    if kind is BuiltinFunctionType:
        found = _of_builtin(function)
        if found is not None:
            yield found, ()
        return
    if kind is not FunctionType:
        is_class = issubclass(kind, type)
        names = ("__init__", "__new__") if is_class else ("__call__",)
        found = next(
            filter(None, (_method(function if is_class else kind, n) for n in names)), None
        )
        if found is None:
            return
        if is_class:
            # The object that is made is not an argument.
            for parameters in _of_function(found):
                yield _without_first(parameters), ()
            return
        function, own = found, (function,)
    for parameters in _of_function(function):
        yield parameters, own


def _of_function(function: FunctionType) -> Iterator[Parameters]:
    """Parameters of what a decorator has wrapped, if it says so, and then of the function."""
    found: list[FunctionType] = [function]
    for _ in range(MAX_WRAPPERS):
        inner = dict.get(found[-1].__dict__, "__wrapped__")
        if type(inner) is not FunctionType:
            break
        found.append(inner)
    for each in reversed(found):
        yield _of_code(each)


def _of_code(function: FunctionType) -> Parameters:
    code = function.__code__
    names = code.co_varnames
    count, keyword_count = code.co_argcount, code.co_kwonlyargcount
    positional = names[:count]
    keyword_only = names[count : count + keyword_count]
    given = function.__defaults__ or ()
    defaults = dict(zip(positional[len(positional) - len(given) :], given, strict=False))
    defaults.update(function.__kwdefaults__ or {})
    has_rest = bool(code.co_flags & inspect.CO_VARARGS)
    return Parameters(
        positional,
        code.co_posonlyargcount,
        keyword_only,
        names[count + keyword_count] if has_rest else "",
        bool(code.co_flags & inspect.CO_VARKEYWORDS),
        defaults,
    )


def _of_builtin(function: BuiltinFunctionType) -> Parameters | None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return None
    kinds = inspect.Parameter
    parameters = signature.parameters.values()
    return Parameters(
        tuple(p.name for p in parameters if p.kind < kinds.VAR_POSITIONAL),
        sum(p.kind is kinds.POSITIONAL_ONLY for p in parameters),
        tuple(p.name for p in parameters if p.kind is kinds.KEYWORD_ONLY),
        next((p.name for p in parameters if p.kind is kinds.VAR_POSITIONAL), ""),
        any(p.kind is kinds.VAR_KEYWORD for p in parameters),
        {p.name: p.default for p in parameters if p.default is not kinds.empty},
    )


def _without_first(parameters: Parameters) -> Parameters:
    return parameters._replace(
        positional=parameters.positional[1:],
        positional_only=max(0, parameters.positional_only - 1),
    )


def _method(owner: type, name: str) -> FunctionType | None:
    """A method as its class or the nearest base defines it; None if that is not Python's own."""
    for base in bases_of(owner):
        if name in (fields := fields_of(base)):
            found = fields[name]
            if type(found) is staticmethod:
                found = found.__func__
            return found if type(found) is FunctionType else None
    return None


def _is_partial(function: Any) -> bool:
    kind = type(function)
    return kind is functools.partial or (
        kind.__name__ == "curry" and fields_of(kind).get("__module__") in _CURRY
    )


def _gaps(args: tuple[Any, ...]) -> int:
    return sum(value is _GAP for value in args)


def _filled(args: tuple[Any, ...], more: tuple[Any, ...]) -> Iterator[Any]:
    """The arguments of a partial, with further ones in their gaps."""
    fills = iter(more)
    for value in args:
        yield next(fills, value) if value is _GAP else value


def _is_dasks(function: Any, module: str, name: str) -> bool:
    """Whether it is a certain function of Dask."""
    return (
        type(function) is FunctionType
        and function.__name__ == name
        and function.__module__ == module
    )


def _plain_tuple(found: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(found[0]) if found and type(found[0]) in (list, tuple) else ()


def _plain_dict(found: tuple[Any, ...]) -> dict[str, Any]:
    return found[0] if found and type(found[0]) is dict else {}


def name_of(function: Callable[..., Any] | None) -> str:
    """Qualified name of a function or class; of another callable that of its class."""
    kind = type(function)
    if kind is MethodType:
        return name_of(function.__func__)  # pyright: ignore[reportFunctionMemberAccess, reportOptionalMemberAccess]
    if kind in (FunctionType, BuiltinFunctionType) or kind is type:
        return str(function.__qualname__)  # pyright: ignore[reportOptionalMemberAccess]
    return kind.__qualname__
