"""A trial of what several writers of one run rely on: of two that create an object, one wins."""

from __future__ import annotations

import contextlib
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Final
from weakref import WeakValueDictionary

from scalable_runs.stores.run_store import RunStore

#: Not the name of a run: it is left out of every list of runs.
_FOLDER: Final = ".probe"
_WRITERS: Final = 4


class NotExclusiveError(OSError):
    """A storage lets two writers create one object."""


#: Storages of this process that were tried, by identity: they need not be hashable.
_TRIED: Final[WeakValueDictionary[int, RunStore]] = WeakValueDictionary()


def check_once(store: RunStore) -> None:
    """Try a storage that says it may have several writers; what was tried is not tried again."""
    if store.shared and id(store) not in _TRIED:
        check_exclusive(store)
        _TRIED[id(store)] = store


def check_exclusive(store: RunStore) -> None:
    """Create an object twice, and another by several threads at a time; remove both.

    Parameters
    ----------
    store
        The storage that several programs are to write.

    Raises
    ------
    NotExclusiveError
        Two of them won, or one that lost has replaced the content.
    OSError
        The storage cannot be used.
    """
    trial = f"{_FOLDER}/{uuid.uuid4().hex}"
    keys = [f"{trial}-1", f"{trial}-2"]
    try:
        _check(store, keys[0], [_create(store, keys[0], number) for number in range(2)])
        barrier = threading.Barrier(_WRITERS)

        def at_once(number: int) -> bool:
            barrier.wait()
            return _create(store, keys[1], number)

        with ThreadPoolExecutor(_WRITERS) as pool:
            _check(store, keys[1], list(pool.map(at_once, range(_WRITERS))))
    finally:
        for key in keys:
            with contextlib.suppress(OSError):
                store.delete(key)


def _create(store: RunStore, key: str, number: int) -> bool:
    return store.create(key, str(number).encode())


def _check(store: RunStore, key: str, won: list[bool]) -> None:
    # Nobody may have won: the answer was lost, and the repeated request met its own object.
    content = store.get(key)
    winners = {str(number).encode() for number, has_won in enumerate(won) if has_won}
    if len(winners) > 1 or (winners and content not in winners):
        raise NotExclusiveError(
            f"{store.location} lets two writers create the same object, so that several programs "
            "cannot write one run there: update the storage, or choose another one"
        )
