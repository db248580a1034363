"""Digests of functions and classes that take part in a call."""

from __future__ import annotations

import threading
import weakref
from typing import Any, Final

from scalable.again.fingerprints import NotKeptError
from scalable.code.identity import identify
from scalable.code.model import PACKAGE, FunctionIdentity
from scalable.common.forks import unlocked_in_forks

#: Objects whose digests are remembered.
_MAX_KNOWN: Final = 10_000


class CodeDigests:
    """Digests of code by the identity of functions; any thread may call it."""

    def __init__(self) -> None:
        self._lock = unlocked_in_forks(threading.Lock())
        #: By id: the object, while it lives, and its digest.
        self._known: dict[int, tuple[weakref.ref[Any], str]] = {}

    def of_function(self, function: Any) -> str:
        """Return the digest of what a task calls, as in functions.jsonl; raises NotKeptError."""
        found = _identified(function)
        if not found.dependable:
            reason = found.not_covered[0] if found.not_covered else "it has no source"
            raise NotKeptError(f"its code is not known ({reason})")
        return found.digest

    def of_value(self, code: Any) -> str:
        """Return the digest of a function or class in a value; raises NotKeptError.

        One of an installed package counts by its name: results do not depend on the version of
        what data is made of.
        """
        known = self._known.get(id(code))
        if known is not None and known[0]() is code:
            return known[1]
        found = _identified(code)
        if all(each.kind == PACKAGE for each in found.components):
            digest = f"{getattr(code, '__module__', '')}.{getattr(code, '__qualname__', '')}"
        elif found.dependable or isinstance(code, type):
            digest = found.digest
        else:
            raise NotKeptError(f"has code that is not known: {found.name}")
        self._remember(code, digest)
        return digest

    def _remember(self, code: Any, digest: str) -> None:
        try:
            reference = weakref.ref(code)
        except TypeError:  # a function of C
            return
        with self._lock:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            self._known[id(code)] = reference, digest


def _identified(code: Any) -> FunctionIdentity:
    try:
        return identify(code)
    except Exception as error:
        raise NotKeptError(f"its code is not known ({type(error).__name__}: {error})") from None
