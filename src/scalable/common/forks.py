"""What a process forked from a program or a worker must not inherit: held locks, open pipes."""

from __future__ import annotations

import os
import threading
from typing import Any, Final, Protocol, TypeVar
from weakref import WeakSet

#: Seconds that a fork waits for :data:`no_fork` at most: whoever holds it may wait for the thread
#: that forks.
FORK_WAIT: Final = 5.0


class Inherited(Protocol):
    """What a process forked from this one must let go."""

    def after_fork(self) -> None:
        """Let go; called in the forked process, by its only thread."""
        ...


T = TypeVar("T")

#: Held while something is done that a forked process would find half done for ever: a fork in
#: another thread waits until it is released.
no_fork: Final = threading.RLock()
_locks: Final[WeakSet[Any]] = WeakSet()
_inherited: Final[WeakSet[Inherited]] = WeakSet()
_holds = threading.local()


def unlocked_in_forks(lock: T) -> T:
    """Return `lock`, a lock or condition that will be free in each forked process."""
    _locks.add(lock)
    return lock


def let_go_in_forks(owner: Inherited) -> None:
    """Have `owner` called in each forked process for as long as somebody holds on to it."""
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
    # As the standard library does with its own.
    lock._at_fork_reinit()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child
    )
