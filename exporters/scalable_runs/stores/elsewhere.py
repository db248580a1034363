"""Reads runs in places of objects, and those that are on this machine as well."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from typing import Any

from scalable_runs.stores.base import Store, StoreRoot
from scalable_runs.stores.run_store import RunStore


def open_elsewhere(objects: RunStore) -> StoreRoot:
    """Return the runs of a place of objects, to be read."""
    cache: Any = import_module("scalable_runs.remote.cache")
    root: Any = import_module("scalable_runs.remote.root")
    return root.RemoteRoot(objects, cache.ReadCache(cache.default_directory()))


class BothRoots:
    """Runs on this machine and in the place that they are copied to.

    Implements :class:`~scalable_runs.stores.base.StoreRoot`; used by one thread. A run that one
    program writes is read here if it is here: it is never behind. Of a run that several write this
    machine may have only some parts, so it is read there first.

    Parameters
    ----------
    location
        Names the place for people.
    here
        The runs on this machine.
    there
        Returns the others; called when they are needed.
    shared
        Whether several programs may write one run.
    """

    def __init__(
        self, location: str, here: StoreRoot, there: Callable[[], StoreRoot], shared: bool
    ) -> None:
        self.location = location
        self.shared = shared
        self._here = here
        self._open = there
        self._there: StoreRoot | None = None

    def new(self, run_id: str, writer: str | None = None) -> Store:
        """Return where a run is written on this machine."""
        return self._here.new(run_id, writer)

    def exists(self) -> bool:
        """Whether there is such a place, here or there."""
        return self._here.exists() or self._remote().exists()

    def ids(self) -> list[str]:
        """Return the ids of all runs."""
        return list(dict.fromkeys([*self._here.ids(), *self._remote().ids()]))

    def find(self, run_id: str) -> Store | None:
        """Return the store of a run."""
        if self.shared:
            return self._remote().find(run_id) or self._here.find(run_id)
        return self._here.find(run_id) or self._remote().find(run_id)

    # What a listing of many runs asks of a place in which each read is a request

    def prefetch(self, stores: Iterable[Store], names: Sequence[str]) -> None:
        """Read documents of runs that are not here at the same time."""
        self._distant().prefetch([one for one in stores if one.directory is None], names)

    def kept_index(self) -> bytes:
        """Return the index that readers keep there."""
        return self._distant().kept_index()

    def keep_index(self, data: bytes) -> None:
        """Nothing: the index of both places is not that of the other one."""

    def _distant(self) -> Any:
        return self._remote()

    def _remote(self) -> StoreRoot:
        if self._there is None:
            self._there = self._open()
        return self._there
