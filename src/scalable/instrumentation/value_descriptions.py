"""Descriptions of values that user code made: bounded, and without running code of theirs.

The class of a value decides: :func:`type` cannot be deceived, as ``__class__`` can. A value is
asked for something only if its class is one of Python's or one that is known, and then by the
method of the known class: a subclass may have others. No ``repr`` is called, and nothing large is
copied.

A description has a `kind` (``json`` if `value` is the whole value as JSON, else ``object``), and
what is known of `type`, `length`, `shape`, `dtype`, `size_bytes`, `digest`, `description`. The
beginning of a value that is too long is its `preview`, as JSON.
"""

from __future__ import annotations

import datetime
import decimal
import enum
import fractions
import hashlib
import math
import pathlib
import uuid
import zoneinfo
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from types import (
    BuiltinFunctionType,
    FunctionType,
    GetSetDescriptorType,
    MethodType,
    ModuleType,
)
from typing import Any, Final

from scalable.instrumentation.array_descriptions import described_array
from scalable.instrumentation.signatures import bases_of, fields_of, name_of
from scalable.instrumentation.task_calls import MISSING, TaskCall

#: Characters of a text that is given whole, and of one within another value.
MAX_CHARACTERS: Final = 200
MAX_INNER_CHARACTERS: Final = 100
#: Values within a value, and levels of them.
MAX_PARTS: Final = 40
MAX_DEPTH: Final = 4
#: Bytes of which a digest is made at most: half a millisecond.
MAX_HASHED: Final = 2**20

Description = dict[str, Any]

#: What JSON says without the name of the type.
_JSON: Final = frozenset({bool, int, float, str, list, dict, type(None)})
#: Classes whose `str` is all of them and runs no code but Python's.
_AS_TEXT: Final = frozenset(
    {
        datetime.date,
        datetime.timedelta,
        decimal.Decimal,
        fractions.Fraction,
        uuid.UUID,
        pathlib.PosixPath,
        pathlib.WindowsPath,
        pathlib.PurePosixPath,
        pathlib.PureWindowsPath,
    }
)
_ZONES: Final = frozenset({type(None), datetime.timezone, zoneinfo.ZoneInfo})


def describe(value: Any) -> Description:
    """Describe a value; never raises for what the value is."""
    try:
        return _described(value)
    except Exception:  # a container that another thread changes meanwhile, …
        return {"kind": "object", "type": type_name(type(value))}


def type_name(kind: type) -> str:
    """Name of a class with its module, unless it is built in."""
    name = _text(_name(kind), MAX_INNER_CHARACTERS)
    module = _module(kind)
    if type(module) is not str or module in ("builtins", "__main__"):
        return name
    return f"{_text(module, MAX_INNER_CHARACTERS)}.{name}"


_name: Final = type.__dict__["__qualname__"].__get__
_module: Final = type.__dict__["__module__"].__get__


def _described(value: Any) -> Description:
    kind = type(value)
    if kind is str:
        return _string(value)
    parts = _Parts()
    made = parts.json(value)
    if made is not _NOTHING:
        found: Description = {"kind": "json" if parts.is_whole else "object"}
        found["value" if parts.is_whole else "preview"] = made
        if kind not in _JSON:
            found["type"] = type_name(kind)
        if not parts.is_whole and (length := _length(value)) is not None:
            found["length"] = length
        return found
    if issubclass(kind, bytes | bytearray | memoryview):
        return _bytes(value, kind)
    found = {"kind": "object", "type": type_name(kind)}
    found.update(described_array(value, MAX_HASHED) or _object(value))
    return found


def _string(value: str) -> Description:
    length = str.__len__(value)
    text = _text(value, MAX_CHARACTERS)
    if length <= MAX_CHARACTERS:
        return {"kind": "json", "value": text}
    found: Description = {"kind": "object", "type": "str", "length": length}
    # A part of a word may be a part of a secret, which no pattern would find.
    text = text[: max(text.rfind(" "), text.rfind("\n"), 0)]
    if text:
        found["preview"] = f"{text} …"
    if length <= MAX_HASHED // 4:
        found["digest"] = _digest(value.encode("utf-8", "surrogatepass"))
    return found


def _bytes(value: Any, kind: type) -> Description:
    size = memoryview.nbytes.__get__(value) if kind is memoryview else len(value)  # pyright: ignore[reportAttributeAccessIssue]
    found: Description = {"kind": "object", "type": type_name(kind), "size_bytes": size}
    if kind in (bytes, bytearray) and size <= MAX_HASHED:
        found["digest"] = _digest(value)
    return found


def _digest(data: bytes | bytearray) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _object(value: Any) -> Description:
    """What is known of a value that is no data of a known kind."""
    kind = type(value)
    if kind is TaskCall:
        return {"type": "call", "description": f"the result of {name_of(value.function)}()"}
    if value is MISSING:
        return {"type": "unknown", "description": "not known"}
    if kind in (FunctionType, BuiltinFunctionType, MethodType):
        return {"description": _text(name_of(value), MAX_CHARACTERS)}
    if kind is partial:
        return {"description": _text(name_of(value.func), MAX_CHARACTERS)}
    if issubclass(kind, type):
        return {"type": "type", "description": type_name(value)}
    if kind in (range, slice):
        return {"description": str(value)}
    if kind is complex:
        return {"description": str(value)}
    if kind is ModuleType:
        return {}
    parts = _Parts()
    own = _own_fields(value)
    if not own:
        return {}
    return {"preview": parts.table(own.items(), len(own), 0)}


def _own_fields(value: Any) -> dict[str, Any] | None:
    """The attributes that an object has itself, without asking its class to compute any."""
    for base in bases_of(type(value)):
        found = fields_of(base).get("__dict__")
        if found is not None:
            if type(found) is not GetSetDescriptorType:
                return None
            own = found.__get__(value)
            return own if type(own) is dict else None
    return None


def _length(value: Any) -> int | None:
    """Number of entries of one of Python's own containers."""
    for base in (str, list, tuple, dict, set, frozenset):
        if _is_a(value, base):
            return base.__len__(value)
    return None


def _is_a(value: Any, base: type) -> bool:
    """As :func:`isinstance`, which would ask the value for its `__class__`."""
    return issubclass(type(value), base)


def _text(value: str, limit: int) -> str:
    """The beginning of a text, by the methods of `str`, as what can be encoded."""
    cut = str.__getitem__(value, slice(0, limit))
    return cut.encode("utf-8", "backslashreplace").decode("utf-8")


_NOTHING: Final[Any] = object()


class _Parts:
    """Makes JSON of a value with what is in it, up to a number of parts."""

    def __init__(self) -> None:
        self._left = MAX_PARTS
        #: Nothing was left out or replaced.
        self.is_whole = True

    def json(self, value: Any, depth: int = 0) -> Any:
        """The value as JSON; `_NOTHING` if it is no plain value."""
        kind = type(value)
        if value is None or kind is bool:
            return value
        if issubclass(kind, enum.Enum):
            name: Any = object.__getattribute__(value, "_name_")
            return f"{_name(kind)}.{name}" if type(name) is str else _NOTHING
        if issubclass(kind, int):
            return self._integer(int.__add__(value, 0))
        if issubclass(kind, float):
            number = float.__add__(value, 0.0)
            self.is_whole = self.is_whole and math.isfinite(number)
            return number if math.isfinite(number) else str(number)
        if issubclass(kind, str):
            return self._inner_text(value)
        if kind in _AS_TEXT:
            return self._inner_text(str(value))
        if kind in (datetime.datetime, datetime.time):
            return str(value) if type(value.tzinfo) in _ZONES else _NOTHING
        if issubclass(kind, dict):
            return self.table(dict.items(value), dict.__len__(value), depth)
        for base in (list, tuple, set, frozenset):
            if issubclass(kind, base):
                items = base.__iter__(value)
                if base in (set, frozenset):
                    items = _ordered(items)
                return self._list(items, base.__len__(value), depth)
        return _NOTHING

    def table(self, items: Iterable[tuple[Any, Any]], length: int, depth: int) -> dict[str, Any]:
        """A mapping as JSON."""
        made: dict[str, Any] = {}
        for key, value in self._some(items, length, depth):
            if type(key) is str:
                name = self._inner_text(key)
            else:
                self.is_whole = False
                name = str(self._inner(key, depth))
            made[name] = self._inner(value, depth)
        return made

    def _list(self, items: Iterable[Any], length: int, depth: int) -> list[Any]:
        made = [self._inner(item, depth) for item in self._some(items, length, depth)]
        if len(made) < length:
            made.append(f"… {length - len(made):,} more")
        return made

    def _some(self, items: Iterable[Any], length: int, depth: int) -> Iterator[Any]:
        """As many as may be shown."""
        count = min(length, max(0, self._left)) if depth < MAX_DEPTH else 0
        if length > count:
            self.is_whole = False
            count = min(count, 10)
        self._left -= count
        return islice(items, count)

    def _inner(self, value: Any, depth: int) -> Any:
        made = self.json(value, depth + 1)
        if made is _NOTHING:
            self.is_whole = False
            return f"<{type_name(type(value))}>"
        if type(value) not in _JSON and not issubclass(type(value), tuple):
            # As an argument it would have its type beside it.
            self.is_whole = False
        return made

    def _inner_text(self, value: str) -> str:
        text = _text(value, MAX_INNER_CHARACTERS)
        if str.__len__(value) > MAX_INNER_CHARACTERS:
            self.is_whole = False
            return f"{text[: max(text.rfind(' '), text.rfind(chr(10)), 0)]} …"
        return text

    def _integer(self, value: int) -> Any:
        if -(2**63) <= value < 2**63:
            return value
        self.is_whole = False
        bits = value.bit_length()
        return str(value) if bits <= 256 else f"an integer of {bits:,} bits"


def _ordered(items: Iterable[Any]) -> Iterable[Any]:
    """A small set in order, if it has only numbers or only texts: equal sets then look equal."""
    found = list(islice(items, MAX_PARTS))
    if {type(item) for item in found} in ({int}, {str}, {float}):
        found.sort()
    return found
