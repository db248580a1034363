"""Says which of several shippers of one run may go on.

Chunks need no fence: they are never replaced, and readers trim what two shippers brought twice.
Documents do: an older run.json must not replace a newer one.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any, Final, Literal

import orjson

from scalable_runs.remote.keys import RunKeys
from scalable_runs.stores.probe import check_once
from scalable_runs.stores.run_store import RunStore

#: Who ships a run: its recorder, or a command that was started by hand.
Role = Literal["recorder", "sync"]

_MAX_CONTENT: Final = 4096
#: Others that take an epoch at the same moment.
_MAX_TRIES: Final = 1_000


class SupersededError(OSError):
    """Another process ships this run now."""


class Fence:
    """The epochs of one writer's stream; used by one thread.

    A shipper takes the next epoch when it begins, and looks for higher ones later. A command yields
    to whoever comes after it. A recorder yields only to another recorder: a command ends soon, and
    the run goes on.

    Parameters
    ----------
    store
        The place.
    keys
        The keys of the run.
    role
        Who ships.
    """

    def __init__(self, store: RunStore, keys: RunKeys, role: Role) -> None:
        self._store = store
        self._keys = keys
        self._role: Role = role
        self._epoch = 0

    @property
    def is_taken(self) -> bool:
        """Whether this shipper has begun."""
        return self._epoch > 0

    def take(self) -> None:
        """Take the next epoch.

        Raises
        ------
        NotExclusiveError
            The place would give one epoch to two.
        OSError
            The place does not answer.
        """
        check_once(self._store)
        number = 0
        for _ in range(_MAX_TRIES):
            epochs = self._epochs()
            highest = max(epochs, default=0)
            number = max(number, highest) + 1
            is_recorder = self._role == "recorder"
            about = {
                "recorder": number if is_recorder else self._recorder_of(highest),
                "host": socket.gethostname(),
                "pid": os.getpid(),
            }
            if self._store.create(self._keys.epoch(number), orjson.dumps(about)):
                break
        else:
            raise OSError(f"{self._store.location} says of every new object that it exists")
        self._epoch = number
        for epoch in epochs:
            self._store.delete(self._keys.epoch(epoch))

    def hold(self, taken_over: Callable[[], None]) -> None:
        """Check that no other shipper has come.

        Parameters
        ----------
        taken_over
            Called where a command has come meanwhile and this is a recorder, which goes on, or
            where somebody has removed what was there.

        Raises
        ------
        SupersededError
            There is one, to which this one yields.
        OSError
            The place does not answer.
        """
        highest = max(self._epochs(), default=0)
        if highest == self._epoch:
            return
        if highest < self._epoch:
            taken_over()
            self.take()
            return
        if self._role == "sync" or self._recorder_of(highest) > self._epoch:
            raise SupersededError("another process copies this run now")
        taken_over()
        self.take()

    def _epochs(self) -> list[int]:
        found = (self._keys.epoch_of(entry.key) for entry in self._store.list(self._keys.epochs))
        return [epoch for epoch in found if epoch is not None]

    def _recorder_of(self, epoch: int) -> int:
        """Return the last epoch of a recorder, as the taker of another one knew it."""
        if not epoch:
            return 0
        try:
            content: Any = orjson.loads(
                self._store.get(self._keys.epoch(epoch), length=_MAX_CONTENT)
            )
            return int(content["recorder"])
        except (FileNotFoundError, ValueError, LookupError, TypeError):
            return 0
