"""Frees what a process forked from a program or a worker must not inherit: locks and pipes."""

from __future__ import annotations

import os
import threading
from typing import Any, Final, Protocol, TypeVar
from weakref import WeakSet

#: Seconds that a fork waits for :data:`no_fork` at most: its holder may wait for the thread that
#: forks.
FORK_WAIT: Final = 5.0


class Inherited(Protocol):
    """Something that a process forked from this one must release."""

    def after_fork(self) -> None:
        """Release it; called in the forked process, by its only thread."""
        ...


T = TypeVar("T")

#: Held during steps that a forked process must not see half done: a fork in another thread waits
#: until it is released.
no_fork: Final = threading.RLock()
_locks: Final[WeakSet[Any]] = WeakSet()
_inherited: Final[WeakSet[Inherited]] = WeakSet()
_holds = threading.local()


def unlocked_in_forks(lock: T) -> T:
    """Return `lock`, a lock or condition, which will be free in each forked process."""
    _locks.add(lock)
    return lock


def let_go_in_forks(owner: Inherited) -> None:
    """Call `owner` in each forked process, as long as it is referenced."""
    _inherited.add(owner)


def _before() -> None:
    _holds.it = no_fork.acquire(timeout=FORK_WAIT)


def _after_in_parent() -> None:
    if _holds.it:
        no_fork.release()


def _after_in_child() -> None:
    if _holds.it:
        no_fork.release()
    else:
        _renew(no_fork)
    for lock in list(_locks):
        _renew(lock)
    for owner in list(_inherited):
        owner.after_fork()


def _renew(lock: Any) -> None:
    # As the standard library does with its own locks.
    lock._at_fork_reinit()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child
    )
