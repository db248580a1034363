"""Reads runs in places of objects, and those that are on this machine as well."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from scalable_runs.stores.base import Store, StoreRoot

if TYPE_CHECKING:
    from scalable_runs.stores.places import StoreSpec


def open_elsewhere(spec: StoreSpec) -> StoreRoot:
    """Return the runs of a place of objects, and if it is written here, those on this machine."""
    if not spec.local:
        return _remote(spec)
    return BothRoots(spec)


def _remote(spec: StoreSpec) -> StoreRoot:
    cache: Any = import_module("scalable_runs.remote.cache")
    root: Any = import_module("scalable_runs.remote.root")
    return root.RemoteRoot(spec.objects(), cache.ReadCache(cache.default_directory()))


class BothRoots:
    """Runs on this machine and the place that they are copied to.

    Implements :class:`~scalable_runs.stores.base.StoreRoot`; used by one thread. A run that one
    program writes is read here if it is here: it is never behind. Of a run that several write this
    machine may have only some parts, so it is read there first.
    """

    def __init__(self, spec: StoreSpec) -> None:
        self._spec = spec
        self._here = spec.writing()
        self._there: StoreRoot | None = None
        self.location = spec.location

    @property
    def shared(self) -> bool:
        """As the place says."""
        return self._spec.shared

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

    def _remote(self) -> StoreRoot:
        if self._there is None:
            self._there = _remote(self._spec)
        return self._there
