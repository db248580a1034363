"""Digests of plain values: literals, containers of them, arrays and tables.

No code of the user's runs for it: values are examined by their exact type, and what is of another
type has no digest.
"""

from __future__ import annotations

import ast
import datetime
import decimal
import fractions
import hashlib
import operator
import pathlib
import re
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Final, cast

#: Values below one value, and how deep they may be nested.
MAX_VALUES: Final = 10_000
MAX_DEPTH: Final = 20
#: Bytes of an array, a table or a text.
MAX_BYTES: Final = 64 * 2**20
#: Characters of a value that are shown.
MAX_SHOWN: Final = 100

_SCALARS: Final = (
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    type(None),
    type(...),
    type(NotImplemented),
)
#: Types whose text says all of a value.
_BY_TEXT: Final = (
    *(datetime.date, datetime.datetime, datetime.time, datetime.timedelta, datetime.timezone),
    *(decimal.Decimal, fractions.Fraction, uuid.UUID, range, slice),
    *(pathlib.PurePosixPath, pathlib.PureWindowsPath, pathlib.PosixPath, pathlib.WindowsPath),
)

#: Digest of a function, a class or an object of the project's; None for what has none.
Known = Callable[[Any], str | None]


class NoDigestError(Exception):
    """A value, or something in it, is of a type that has no digest; says which."""


def is_plain(value: Any) -> bool:
    """Whether a value cannot change: a scalar, or a tuple or a frozen set of them."""
    return _is_plain(value, 0)


def _is_plain(value: Any, depth: int) -> bool:
    kind = type(value)
    if kind in (tuple, frozenset):
        small = depth < MAX_DEPTH and len(value) <= MAX_VALUES
        return small and all(_is_plain(each, depth + 1) for each in value)
    return kind in _SCALARS or (kind in _BY_TEXT and kind is not slice) or kind is re.Pattern


def shown(value: Any) -> str:
    """A plain value in one line, cut to :data:`MAX_SHOWN` characters; else its type."""
    kind = type(value)
    if kind in (str, bytes):
        text = ascii(value[:MAX_SHOWN]) if kind is bytes else repr(value[:MAX_SHOWN])
    elif kind is int:
        text = str(value) if abs(value) < 10**MAX_SHOWN else hex(value >> (value.bit_length() - 99))
    elif kind in _SCALARS or kind in _BY_TEXT or _is_short(value, kind):
        text = repr(value)
    else:
        text = type_name(kind)
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 1]}…"


def _is_short(value: Any, kind: type) -> bool:
    if kind not in (tuple, list, set, frozenset, dict) or len(value) > 10:
        return False
    return is_plain(tuple(value.items()) if kind is dict else tuple(value))


def type_name(kind: type) -> str:
    """Module and name of a type, without code of its metaclass."""
    module = type.__getattribute__(kind, "__dict__").get("__module__", "")
    name = type.__dict__["__qualname__"].__get__(kind)
    return f"{module}.{name}" if type(module) is str and module not in ("", "builtins") else name


def value_digest(value: Any, known: Known | None = None) -> str:
    """SHA-256 of a value, as hex digits; raises :class:`NoDigestError`.

    `known` has the digest of what is not a plain value.
    """
    return _Digests(known).of(value, 0).hex()


class _Digests:
    """Digests of one value and all that is in it; used by one thread."""

    def __init__(self, known: Known | None) -> None:
        self._known = known
        self._left = MAX_VALUES
        self._open: set[int] = set()

    def of(self, value: Any, depth: int) -> bytes:
        self._left -= 1
        kind = type(value)
        if self._left < 0 or depth > MAX_DEPTH:
            raise NoDigestError("too many values")
        if kind in _SCALARS:
            return _scalar(value)
        if kind in _BY_TEXT:
            return _made(_portable_name(kind), repr(value).encode("utf-8", "surrogatepass"))
        if kind is re.Pattern:
            return _made("pattern", self.of(value.pattern, depth + 1), b"%d" % value.flags)
        if id(value) in self._open:
            return _made("cycle")
        self._open.add(id(value))
        try:
            return self._container(value, kind, depth + 1)
        finally:
            self._open.discard(id(value))

    def _container(self, value: Any, kind: type, depth: int) -> bytes:
        if kind in (tuple, list):
            return _made(kind.__name__, *(self.of(each, depth) for each in tuple(value)))
        if kind in (set, frozenset):
            return _made(kind.__name__, *sorted(self.of(each, depth) for each in tuple(value)))
        if kind is dict:
            pairs = [self.of(k, depth) + self.of(v, depth) for k, v in tuple(value.items())]
            return _made("dict", *pairs)
        if kind is bytearray:
            return _made("bytearray", bytes(value[: MAX_BYTES + 1]))
        found = _numpy_or_pandas(value, kind, self, depth)
        if found is None and self._known is not None:
            text = self._known(value)
            found = None if text is None else _made("known", text.encode())
        if found is None:
            raise NoDigestError(type_name(kind))
        return found


def _portable_name(kind: type) -> str:
    # A path is of another class on another system.
    return "path" if issubclass(kind, pathlib.PurePath) else kind.__name__


def _scalar(value: Any) -> bytes:
    kind = type(value)
    if kind is str:
        if len(value) > MAX_BYTES:
            raise NoDigestError("a text that is too long")
        return _made("str", value.encode("utf-8", "surrogatepass"))
    if kind is bytes:
        if len(value) > MAX_BYTES:
            raise NoDigestError("bytes that are too long")
        return _made("bytes", value)
    text = hex(value) if kind is int else repr(value)
    return _made(kind.__name__, text.encode())


def _made(kind: str, *parts: bytes) -> bytes:
    state = hashlib.sha256(kind.encode())
    for part in parts:
        state.update(b"%d:" % len(part))
        state.update(part)
    return state.digest()


def _numpy_or_pandas(value: Any, kind: type, digests: _Digests, depth: int) -> bytes | None:
    """Arrays of numbers and tables; their packages have been imported, as there is a value."""
    module = type.__getattribute__(kind, "__dict__").get("__module__", "")
    if type(module) is not str:
        return None
    package = module.partition(".")[0]
    if package == "numpy":
        return _numpy(value, kind)
    if package == "pandas" and kind.__name__ in ("DataFrame", "Series", "Index", "RangeIndex"):
        return _pandas(value, kind, digests, depth)
    return None


def _numpy(value: Any, kind: type) -> bytes | None:
    import numpy as np

    if kind is np.ndarray:
        if value.dtype.hasobject:
            raise NoDigestError("an array of objects")
        if value.nbytes > MAX_BYTES:
            raise NoDigestError(f"an array of {value.nbytes} bytes")
        what = f"{value.dtype.str} {value.dtype.names} {value.shape}"
        return _made("ndarray", what.encode(), np.ascontiguousarray(value).tobytes())
    if issubclass(kind, np.generic) and kind.__module__ == "numpy" and kind is not np.void:
        return _made("numpy", kind.__name__.encode(), value.tobytes())
    if issubclass(kind, np.dtype):
        return _made("dtype", str(value).encode())
    return None


def _pandas(value: Any, kind: type, digests: _Digests, depth: int) -> bytes | None:
    import pandas as pd

    if kind not in (pd.DataFrame, pd.Series, pd.Index, pd.RangeIndex):
        return None
    usage: Any = value.memory_usage(index=True) if kind is pd.DataFrame else value.memory_usage()
    if int(usage.sum() if kind is pd.DataFrame else usage) > MAX_BYTES:
        raise NoDigestError("a table that is too large")
    dtypes = value.dtypes if kind is pd.DataFrame else [value.dtype]
    try:
        hashed: Any = cast("Any", pd).util.hash_pandas_object(
            value, index=kind is not pd.RangeIndex
        )
        content = hashed.to_numpy().tobytes()
    except (TypeError, ValueError):
        raise NoDigestError("a table with objects") from None
    names = value.columns if kind is pd.DataFrame else [value.name]
    head = digests.of([str(each) for each in [*names, *dtypes]], depth)
    return _made(kind.__name__, head, content)


# -- values of expressions ------------------------------------------------------------------------

_BINARY: Final[Mapping[type, Callable[[Any, Any], Any]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
#: Largest number that a product is computed of, and largest text.
_MAX_FOLDED: Final = 10**30
_MAX_TEXT: Final = 1_000


class NotLiteralError(Exception):
    """The value of an expression is not known without running it."""


def fold(node: ast.AST) -> Any:
    """The value of an expression of literals; raises :class:`NotLiteralError`."""
    try:
        return ast.literal_eval(node)  # type: ignore[arg-type]
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        pass
    if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        left, right = fold(node.left), fold(node.right)
        if all(_is_small_number(each) for each in (left, right)):
            try:
                return _BINARY[type(node.op)](left, right)
            except (ArithmeticError, TypeError, ValueError):
                pass
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = fold(node.operand)
        if _is_small_number(value):
            return -value
    if isinstance(node, ast.Tuple):
        return tuple(fold(each) for each in node.elts)
    raise NotLiteralError


def _is_small_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < _MAX_FOLDED
