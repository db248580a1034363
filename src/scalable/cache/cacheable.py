"""``@cacheable``: results kept across runs."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import logging
import os
import textwrap
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar, overload

from scalable.cache.store import KEEPS_ITSELF, DirType, FileType, Store, cache_directory
from scalable.code.identity import identify
from scalable.common.digests import measure

P = ParamSpec("P")
R = TypeVar("R")

logger = logging.getLogger("scalable")

_warned: Final[set[str]] = set()


@overload
def cacheable(function: Callable[P, R], /) -> Callable[P, R]: ...


@overload
def cacheable(
    *,
    return_type: Any = None,
    version: str | int | None = None,
    directory: str | os.PathLike[str] | None = None,
    **argument_types: Any,
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...


def cacheable(
    function: Callable[..., Any] | None = None,
    /,
    *,
    return_type: Any = None,
    version: str | int | None = None,
    directory: str | os.PathLike[str] | None = None,
    **argument_types: Any,
) -> Any:
    """Keep a function's results across runs and processes.

    The key of a result is made of the function and its arguments (by joblib's hash; by content if
    declared as :class:`FileType` or :class:`DirType`). The function counts with what it calls: its
    syntax, and the helpers, classes, decorators, constants and closures of the project that it
    reaches by name, and the versions of other packages. Comments and formatting do not count. A
    result that cannot be kept is still returned.

    Parameters
    ----------
    function : callable
        The function, if the decorator is used without parentheses.
    return_type : type, optional
        :class:`FileType` or :class:`DirType` if it returns the path of what it wrote.
    version : str or int, optional
        Change it when something has changed that cannot be seen in the code, such as data that the
        function reads, or a function that it looks up with ``getattr(module, name)``.
    directory : path, optional
        Where results are kept. Default: ``SCALABLE_CACHE_DIR``, else the manifest's
        `local_cache`, else ``.scalable/cache``.
    **argument_types
        For arguments: :class:`FileType` or :class:`DirType`; other types have no effect.

    Examples
    --------
    >>> @cacheable
    ... def square(x):
    ...     return x * x
    >>> @cacheable(return_type=FileType, source=FileType, version=2)
    ... def convert(source, target): ...
    """

    def decorate(wrapped: Callable[..., Any]) -> Callable[..., Any]:
        parameters = inspect.signature(wrapped).parameters
        takes_any = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
        unknown = [name for name in argument_types if name not in parameters]
        if unknown and not takes_any:
            raise TypeError(
                f"{wrapped.__qualname__}() has no argument {unknown[0]!r}; it has "
                f"{', '.join(parameters) or 'none'}"
            )
        cached_function = _Cached(wrapped, return_type, version, directory, argument_types)

        @functools.wraps(wrapped)
        def cached(*args: Any, **kwargs: Any) -> Any:
            return cached_function(args, kwargs)

        setattr(cached, KEEPS_ITSELF, True)
        return cached

    return decorate if function is None else decorate(function)


class _Cached:
    """A function and its cached results; called by any thread of any process."""

    def __init__(
        self,
        function: Callable[..., Any],
        return_type: Any,
        version: str | int | None,
        directory: str | os.PathLike[str] | None,
        argument_types: Mapping[str, Any],
    ) -> None:
        self._function = function
        self._signature = inspect.signature(function)
        self._return_type = return_type
        self._version = version
        self._directory = directory
        self._argument_types = dict(argument_types)
        self._name = f"{function.__module__}.{function.__qualname__}"

    def __getstate__(self) -> dict[str, Any]:
        # The source of a script may not be available in the process that unpickles it.
        with contextlib.suppress(Exception):
            self._identity  # noqa: B018
        return self.__dict__

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            key = self._key(args, kwargs)
            store = Store(cache_directory(self._directory))
        except Exception as error:
            _warn_once(self._name, f"is not cached: {error}")
            return self._function(*args, **kwargs)
        began = time.perf_counter()
        found = store.load(key, self._return_type)
        if found is not None:
            self._record(key, True, time.perf_counter() - began, found.size)
            return found.value
        began = time.perf_counter()
        result = self._function(*args, **kwargs)
        duration = time.perf_counter() - began
        size = None
        try:
            size = store.save(key, result, self._return_type, self._name, duration)
        except Exception as error:
            _warn_once(self._name, f"its result is not cached: {error}")
        self._record(key, False, duration, size)
        return result

    def _record(self, key: str, hit: bool, duration: float, size: int | None) -> None:
        try:
            from scalable.instrumentation.user_events import emit
        except ImportError:  # without Dask nothing is recorded
            return
        fields: dict[str, Any] = {
            "function_name": self._name,
            "key_digest": key,
            "hit": hit,
            "duration_s": round(duration, 6),
        }
        if size is not None:
            fields["size_bytes"] = size
        if self._code is not None:
            fields["function_identity"] = f"sha256:{self._code}"
        emit("cache", fields)

    def _key(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        import joblib

        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        arguments: dict[str, Any] = {}
        for name, value in bound.arguments.items():
            if self._signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
                more = sorted(value.items())
                arguments[name] = {key: self._argument(key, below) for key, below in more}
            else:
                arguments[name] = self._argument(name, value)
        found = joblib.hash(arguments, hash_name="sha1")
        return hashlib.sha256(f"{self._identity}\0{found}".encode()).hexdigest()

    def _argument(self, name: str, value: Any) -> Any:
        declared = self._argument_types.get(name)
        if declared not in (FileType, DirType) or value is None:
            return value
        path = Path(os.fspath(value)).expanduser()
        if not path.exists():
            raise FileNotFoundError(f"argument {name}: {path} does not exist")
        if path.is_dir() is not (declared is DirType):
            raise OSError(
                f"argument {name}: {path} is {'a' if path.is_dir() else 'not a'} directory"
            )
        return measure(str(path))[1]

    @functools.cached_property
    def _code(self) -> str | None:
        """Digest of the function with what it calls, at its first call; None without a source.

        What it closes over may change later.
        """
        found = identify(inspect.unwrap(self._function))
        return found.digest if found.dependable else None

    @functools.cached_property
    def _identity(self) -> str:
        """Digest of the function and its version."""
        import joblib

        code = self._code
        if code is None:
            function = inspect.unwrap(self._function)
            cells = tuple(
                _closed_over(cell) for cell in getattr(function, "__closure__", None) or ()
            )
            content = (self._name, _source(function), str(self._version), cells)
        else:
            content = (self._name, code, str(self._version))
        return str(joblib.hash(content, hash_name="sha1"))


def _source(function: Any) -> str:
    try:
        return textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError):
        code = getattr(function, "__code__", None)
        if code is None:
            return ""
        # Typed at a prompt: the compiled code.
        return f"{code.co_code.hex()} {code.co_names} {_constants(code)}"


def _constants(code: Any) -> str:
    return repr([_constants(one) if hasattr(one, "co_code") else one for one in code.co_consts])


def _closed_over(cell: Any) -> Any:
    value = cell.cell_contents
    return _source(value) if inspect.isfunction(value) else value


def _warn_once(name: str, message: str) -> None:
    if name not in _warned:
        _warned.add(name)
        logger.warning("scalable: %s %s", name, message)
