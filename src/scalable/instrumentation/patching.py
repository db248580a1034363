"""Functions of other packages that are wrapped for as long as somebody needs it."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

from scalable.common.forks import unlocked_in_forks


class Patch:
    """Wraps an attribute of a module or class; any thread may apply and undo it.

    Parameters
    ----------
    owner : object
        The module or class.
    name : str
        Its attribute, a function, or a module whose functions it calls.
    wrap : callable
        Makes what takes the place of the original.
    """

    def __init__(self, owner: Any, name: str, wrap: Callable[[Any], Any]) -> None:
        self._owner = owner
        self._name = name
        self._wrap = wrap
        self._lock = unlocked_in_forks(threading.Lock())
        self._users = 0
        self._original: Any = None
        self._wrapper: Any = None

    def apply(self) -> None:
        """Wrap the function, unless an earlier call has; each call needs an :meth:`undo`."""
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._original = getattr(self._owner, self._name)
                self._wrapper = self._wrap(self._original)
                if callable(self._original):  # not a module
                    functools.update_wrapper(self._wrapper, self._original)
                setattr(self._owner, self._name, self._wrapper)

    def undo(self) -> None:
        """Undo one :meth:`apply`; the last one restores the function.

        If another package has wrapped the wrapper, both stay.
        """
        with self._lock:
            self._users = max(0, self._users - 1)
            if self._users == 0 and getattr(self._owner, self._name) is self._wrapper:
                setattr(self._owner, self._name, self._original)
                self._wrapper = None
