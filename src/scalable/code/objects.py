"""Looks into live objects without running code of theirs."""

from __future__ import annotations

import functools
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, Final

from scalable.code import values
from scalable.code.findings import MISSING
from scalable.code.modules import namespace_of

#: Types of functions that are not written in Python.
BUILTIN_CODE: Final = (
    BuiltinFunctionType,
    type(str.join),
    type(str.__add__),
    type("".__add__),
    type(dict.__dict__["fromkeys"]),
)


def name_of_module(module: Any) -> str:
    """The name of a live module."""
    name = namespace_of(module).get("__name__")
    return name if type(name) is str else ""


def module_of_class(kind: type) -> str:
    """The name of the module of a class."""
    found = type.__getattribute__(kind, "__dict__").get("__module__")
    return found if type(found) is str else "builtins"


def has_slots(kind: type) -> bool:
    """Whether instances have a state that is in no dictionary."""
    return any(
        "__slots__" in type.__getattribute__(each, "__dict__")
        for each in type.__getattribute__(kind, "__mro__")
    )


def own_dict(value: Any) -> dict[str, Any]:
    """The attributes of an object itself."""
    try:
        found = object.__getattribute__(value, "__dict__")
    except Exception:
        return {}
    return found if type(found) is dict else {}


def name_of_code(found: Any) -> str:
    """The name of a function, a class, or what wraps one."""
    if type(found) is FunctionType:
        return f"{found.__globals__.get('__name__')}.{found.__code__.co_qualname}"
    if issubclass(type(found), type):
        return values.type_name(found)
    if type(found) in (MethodType, staticmethod, classmethod):
        return name_of_code(found.__func__)
    if type(found) is functools.partial:
        return name_of_code(found.func)
    if type(found) is BuiltinFunctionType:
        return f"{found.__module__}.{found.__name__}"
    wrapped = own_dict(found).get("__wrapped__")
    return values.type_name(type(found)) if wrapped is None else name_of_code(wrapped)


def function_in(value: Any) -> FunctionType | None:
    """The Python function in a member of a class."""
    kind = type(value)
    if kind in (staticmethod, classmethod):
        value = value.__func__
    elif kind is property:
        value = value.fget
    return value if type(value) is FunctionType else None


def cells_of(function: FunctionType) -> dict[str, Any]:
    """The variables that a function closes over; `MISSING` for one that is not set."""
    found: dict[str, Any] = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not set yet
            found[name] = MISSING
    return found
