"""The one error barrier between telemetry and the workload."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
from collections import Counter
from collections.abc import Callable
from typing import Any, Final, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

#: Set to ``1`` (the tests do) to let an internal error out instead of counting it.
STRICT_VARIABLE: Final = "SCALABLE_STRICT"

#: What a barrier must let through: they belong to the interpreter, a user's Ctrl-C or asyncio.
_NOT_OURS: Final = (KeyboardInterrupt, GeneratorExit, asyncio.CancelledError)

logger = logging.getLogger("scalable")


class Guard:
    """Counts internal errors by place, logs the first of each place, and swallows them.

    Called from whichever thread or loop runs the guarded code; a count that two threads add to at
    the same instant may be one short, which is why nothing but diagnostics reads it.
    """

    def __init__(self) -> None:
        #: Errors by place (the name of the hook or step that failed).
        self.errors: Counter[str] = Counter()

    def failed(self, place: str, error: BaseException) -> None:
        """Count `error`; log it the first time; re-raise what is not telemetry's to keep.

        Raises
        ------
        BaseException
            `error` itself, if it is a cancellation, Ctrl-C or the end of a generator, or if
            ``SCALABLE_STRICT=1``. ``SystemExit`` is kept: only hostile user code (a ``__str__``
            that exits) can have raised it inside a hook.
        """
        if isinstance(error, _NOT_OURS):
            raise error
        self.errors[f"{place}:{type(error).__name__}"] += 1
        if os.environ.get(STRICT_VARIABLE) == "1":
            raise error
        if self.errors[f"{place}:{type(error).__name__}"] == 1:
            logger.warning(
                "scalable: internal error in %s, the workload goes on (further ones are counted)",
                place,
                exc_info=error,
            )


class Warnings:
    """Logs each warning to the user once; called by any thread."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._seen: set[str] = set()

    def __call__(self, sentence: str) -> None:
        """Warn, unless the same has been said."""
        if sentence not in self._seen:
            self._seen.add(sentence)
            logger.warning("%s%s", self._prefix, sentence)


def guarded(place: str) -> Callable[[Callable[P, R]], Callable[P, R | None]]:
    """Wrap a method of an object that has a ``guard`` attribute (a :class:`Guard`)."""

    def decorate(function: Callable[P, R]) -> Callable[P, R | None]:
        @functools.wraps(function)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> R | None:
            try:
                return function(*args, **kwargs)
            except BaseException as error:
                owner: Any = args[0]
                owner.guard.failed(place, error)
                return None

        return wrapper

    return decorate


def printable(value: object, *, limit: int = 100_000) -> str:
    """``str(value)`` that survives a hostile ``__str__``, the middle left out above `limit`."""
    try:
        text = str(value)
    except _NOT_OURS:
        raise
    except BaseException:
        text = f"<unprintable {type(value).__qualname__} object>"
    if len(text) > limit:
        half = limit // 2
        text = f"{text[:half]}… [{len(text) - 2 * half} characters left out] …{text[-half:]}"
    # Lone surrogates cannot be encoded; they would cost the whole record.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def split_repr(text: str) -> tuple[str, str]:
    """``ValueError('bad input')`` → class and message, where only the ``repr`` is left."""
    name, bracket, rest = text.partition("(")
    if bracket and name.replace(".", "").replace("_", "").isalnum():
        return name, rest.removesuffix(")").strip("'\"")
    return "Exception", text
