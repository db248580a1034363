"""The one error barrier between telemetry and the workload."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Final, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

#: Set to ``1`` (the tests do) to let an internal error out instead of counting it.
STRICT_VARIABLE: Final = "SCALABLE_STRICT"

#: These belong to the interpreter, a user's Ctrl-C or asyncio.
_NOT_OURS: Final = (KeyboardInterrupt, GeneratorExit, asyncio.CancelledError)

logger = logging.getLogger("scalable")


class Guard:
    """Counts internal errors by place, logs the first of each kind, and swallows them.

    Called from whichever thread or loop runs the guarded code. A count that two threads raise at
    the same instant may be one short; only diagnostics read it.
    """

    def __init__(self) -> None:
        #: Errors by ``<place>:<exception class>``; the place is the hook or step that failed.
        self.errors: Counter[str] = Counter()

    def failed(self, place: str, error: BaseException) -> None:
        """Count `error` and log the first of its kind.

        Raises
        ------
        BaseException
            `error` itself, if it is a cancellation, Ctrl-C or the end of a generator, or if
            ``SCALABLE_STRICT=1``. ``SystemExit`` is swallowed: inside a hook only hostile user
            code (a ``__str__`` that exits) raises it.
        """
        if isinstance(error, _NOT_OURS):
            raise error
        count = self.count(place, error)
        if os.environ.get(STRICT_VARIABLE) == "1":
            raise error
        if count == 1:
            logger.warning(
                "scalable: internal error in %s, the workload continues (further ones are counted)",
                place,
                exc_info=error,
            )

    def count(self, place: str, error: BaseException) -> int:
        """Count an error that is not logged: an expected one, or one that is reported otherwise.

        Returns
        -------
        int
            How many of its kind there have been.
        """
        kind = f"{place}:{type(error).__name__}"
        self.errors[kind] += 1
        return self.errors[kind]

    @contextmanager
    def watch(self, place: str) -> Generator[None]:
        """Guard a block; for places that are not hot."""
        try:
            yield
        except BaseException as error:
            self.failed(place, error)


def guarded(place: str) -> Callable[[Callable[P, R]], Callable[P, R | None]]:
    """Guard a method of an object that has a ``guard`` attribute (a :class:`Guard`)."""

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


class Warnings:
    """Logs each warning for the user once; called by any thread."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._seen: set[str] = set()

    def __call__(self, sentence: str) -> None:
        """Warn, unless the same sentence was logged before."""
        if sentence not in self._seen:
            self._seen.add(sentence)
            logger.warning("%s%s", self._prefix, sentence)
