"""The runs in a place of objects."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Final

from scalable_runs import journal, schema
from scalable_runs.remote.cache import ReadCache
from scalable_runs.remote.keys import CHUNKS
from scalable_runs.remote.store import RemoteStore
from scalable_runs.stores.base import Store, StoreRoot
from scalable_runs.stores.run_store import Object, RunStore

#: Keys of one folder that is not a run that are listed before the rest of it is passed over.
_MAX_FOREIGN: Final = 1_000
#: Comes after every key of a folder.
_END: Final = "\U0010ffff"


class RemoteRoot:
    """Runs in a place of objects. Implements :class:`~scalable_runs.stores.base.StoreRoot`.

    Used by one thread.

    Parameters
    ----------
    objects
        The place.
    cache
        Keeps what was read on this machine; None: nothing is kept.
    local
        The directory of runs on this machine in which a new run is recorded, before it is brought
        to the place.
    """

    def __init__(
        self, objects: RunStore, cache: ReadCache | None = None, local: StoreRoot | None = None
    ) -> None:
        self.objects = objects
        self.location = objects.location
        self._local = local
        self._cache = cache
        self._listed: dict[str, list[Object]] = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.location!r})"

    @property
    def shared(self) -> bool:
        """Whether several programs may write one run."""
        return self.objects.shared and self._local is not None and self._local.shared

    def new(self, run_id: str, writer: str | None = None) -> Store:
        """Return where a run is recorded on this machine."""
        if self._local is None:
            raise OSError(errno.EROFS, "a run is recorded on this machine and copied from there")
        return self._local.new(run_id, writer)

    def exists(self) -> bool:
        """Whether the place answers."""
        try:
            next(iter(self.objects.list()), None)
        except FileNotFoundError:
            return False
        return True

    def ids(self) -> list[str]:
        """Return the runs by one listing; :meth:`find` uses it too, until the next one."""
        self._listed = {}
        for folder, entries in self._folders():
            if schema.RUN_ID_PATTERN.fullmatch(folder) and _is_run(folder, entries):
                self._listed[folder] = entries
        return list(self._listed)

    def find(self, run_id: str) -> RemoteStore | None:
        """Return a run's store; None if there is no object of it."""
        if schema.RUN_ID_PATTERN.fullmatch(run_id) is None:
            return None
        entries = self._listed.pop(run_id, None) or list(self.objects.list(f"{run_id}/"))
        if not entries:
            return None
        return RemoteStore(self.objects, run_id, entries=entries, cache=self._cache)

    def _folders(self) -> Iterator[tuple[str, list[Object]]]:
        """Yield the objects of each folder; large folders that are no runs are not listed."""
        after = ""
        while True:
            folder, entries = "", list[Object]()
            skip = ""
            for entry in self.objects.list(after=after):
                name = entry.key.partition("/")[0] if "/" in entry.key else ""
                if name != folder:
                    if folder:
                        yield folder, entries
                    folder, entries = name, []
                if name:
                    entries.append(entry)
                    if len(entries) == _MAX_FOREIGN and not _is_run(folder, entries):
                        skip = f"{folder}/{_END}"
                        break
            else:
                if folder:
                    yield folder, entries
                return
            after = skip


def _is_run(run_id: str, entries: list[Object]) -> bool:
    """Whether a folder holds anything of a run."""
    start = len(run_id) + 1
    if schema.RUN_ID_TIME.match(run_id):
        return True
    for entry in entries:
        name = entry.key[start:]
        if name == schema.RUN or name in journal.NAMES:
            return True
        if name.partition("/")[0] in (CHUNKS, schema.WRITERS) and name.endswith(".jsonl.zst"):
            return True
    return False
