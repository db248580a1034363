"""Digests of arguments and results: equal ones have equal values, in any process.

Values are hashed as :func:`joblib.hash` does. Functions and classes among them count by their code,
not by their names: a changed function is a changed argument.
"""

from __future__ import annotations

import hashlib
import os
import sys
import types
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import PurePath
from typing import Any, ClassVar, Final, NamedTuple, cast

from scalable.instrumentation.task_calls import MISSING, TaskCall

#: Hexadecimal digits of the digest of one argument.
DIGITS: Final = 32
#: Characters of a text that may be a path.
_MAX_PATH: Final = 1_024
#: Files among the arguments of one call.
_MAX_FILES: Final = 1_000

_FUNCTIONS: Final = (
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodType,
    types.MethodWrapperType,
    types.WrapperDescriptorType,
    types.MethodDescriptorType,
)

#: Returns a digest of the code of a function or class; raises NotKeptError.
CodeDigest = Callable[[Any], str]


class NotKeptError(Exception):
    """A result cannot be kept; the message says why."""


class Fingerprint(NamedTuple):
    """Digests of the arguments of a call, by name, and the files that they name."""

    arguments: dict[str, str]
    files: tuple[str, ...]

    @property
    def digest(self) -> str:
        """One digest of all arguments."""
        state = hashlib.sha256()
        for name, found in sorted(self.arguments.items()):
            state.update(f"{name}\0{found}\0".encode("utf-8", "backslashreplace"))
        return state.hexdigest()


def fingerprint(call: TaskCall, code: CodeDigest) -> Fingerprint:
    """Return digests of the arguments of a call.

    Raises
    ------
    NotKeptError
        An argument cannot be hashed.
    """
    files: dict[str, None] = {}
    arguments: dict[str, str] = {}
    for name, value in call.arguments().items():
        try:
            arguments[name] = digest_of(value, code, files)
        except NotKeptError as error:
            raise NotKeptError(f"its argument {name} {error}") from None
    return Fingerprint(arguments, tuple(files))


def digest_of(value: Any, code: CodeDigest, files: dict[str, None] | None = None) -> str:
    """Return a digest of a value; `files` gets the paths of existing files that are in it.

    Raises
    ------
    NotKeptError
        It cannot be hashed: it cannot be pickled, or it stands for something of a cluster.
    """
    hasher = _hasher_class("numpy" in sys.modules)(code, {} if files is None else files)
    try:
        return str(hasher.hash(value))[:DIGITS]
    except NotKeptError:
        raise
    except Exception as error:
        # Anybody's code runs when a value is pickled.
        reason = f"{type(error).__name__}: {error}".replace("\n", " ")[:200]
        raise NotKeptError(f"cannot be hashed ({reason})") from None


@cache
def _hasher_class(has_numpy: bool) -> Any:
    from joblib import hashing

    base: Any = hashing.NumpyHasher if has_numpy else hashing.Hasher

    class ByValue(base):  # pyright: ignore[reportUntypedBaseClass]
        """Hashes one value; used by one thread."""

        dispatch: ClassVar[dict[Any, Any]] = base.dispatch.copy()

        def __init__(self, code: CodeDigest, files: dict[str, None]) -> None:
            super().__init__(hash_name="sha1")
            self._code = code
            self._files = files

        def save(self, obj: Any, *more: Any) -> None:
            kind: Any = type(obj)
            if kind is str:
                if _may_be_path(obj):
                    self._note_file(obj)
            elif isinstance(obj, PurePath):
                self._note_file(str(obj))
            elif kind is types.MethodType:
                obj = _Stands("method", self._code(obj.__func__), obj.__self__)
            elif isinstance(obj, _FUNCTIONS):
                obj = _Stands("function", self._code(obj))
            elif isinstance(obj, type) and obj is not _Stands:
                if getattr(types, "GenericAlias", None) is not obj and not _is_plain(obj):
                    obj = _Stands("class", self._code(obj))
            elif kind is TaskCall:
                call = cast("TaskCall", obj)
                obj = _Stands("call", self._code(call.function), call.arguments())
            elif obj is MISSING:
                raise NotKeptError("is not known where it is used")
            elif _is_of_cluster(kind):
                raise NotKeptError(f"is or has a {kind.__name__} of Dask")
            super().save(obj, *more)

        def _note_file(self, path: str) -> None:
            if len(self._files) < _MAX_FILES and os.path.isfile(path):  # noqa: PTH113
                self._files[os.path.abspath(path)] = None  # noqa: PTH100

        def save_any_set(self, items: Any) -> None:
            """Save what has no order, in the order of the digests of its items."""
            found = sorted(digest_of(item, self._code, self._files) for item in items)
            self.save((type(items).__name__, found))

        dispatch[set] = save_any_set
        dispatch[frozenset] = save_any_set

        def _batch_setitems(self, items: Iterable[tuple[Any, Any]], *more: Any) -> None:
            pairs = list(items)
            if not all(type(key) is str for key, _ in pairs):
                # Other keys may have no order, or not one order in all processes.
                pairs = [
                    ((digest_of(key, self._code, self._files), key), value) for key, value in pairs
                ]
                pairs.sort(key=lambda pair: pair[0][0])
                for (_, key), value in pairs:
                    self.save(key)
                    self.save(value)
                return
            for key, value in sorted(pairs, key=lambda pair: pair[0]):
                self.save(key)
                self.save(value)

    return ByValue


class _Stands:
    """Stands for code in what is hashed."""

    def __init__(self, *what: Any) -> None:
        self.what = what

    def __reduce__(self) -> Any:
        return tuple, (self.what,)


@cache
def _is_plain(kind: type) -> bool:
    """Whether a class is one of Python itself, whose name says all."""
    return kind.__module__ in ("builtins", "collections", "datetime", "decimal", "fractions")


def _may_be_path(text: str) -> bool:
    return (
        0 < len(text) <= _MAX_PATH
        and "\n" not in text
        and "\0" not in text
        and ("/" in text or "." in text)
    )


def _is_of_cluster(kind: type) -> bool:
    """Whether objects of a class stand for something that lives in a cluster."""
    return cast("str", getattr(kind, "__module__", None) or "").startswith("distributed.")


def result_digest(result: Any, code: CodeDigest) -> str:
    """Return a digest of a result; raises NotKeptError if another cluster cannot use it."""
    try:
        return digest_of(result, code)
    except NotKeptError as error:
        raise NotKeptError(f"its result {error}") from None


def key_of(function_identity: str, arguments: str) -> str:
    """Return the key of a result in the store."""
    return hashlib.sha256(f"{function_identity}\0{arguments}".encode()).hexdigest()
