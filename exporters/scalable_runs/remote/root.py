"""The runs in a place of objects."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice, repeat
from typing import Final

from scalable_runs import journal, schema
from scalable_runs.remote.cache import ReadCache
from scalable_runs.remote.compression import compressed, decompressed_parts
from scalable_runs.remote.keys import CHUNKS
from scalable_runs.remote.store import RemoteStore
from scalable_runs.stores.base import Store, StoreRoot
from scalable_runs.stores.run_store import Object, RunStore

#: Keys of one folder that is not a run that are listed before the rest of it is passed over.
_MAX_FOREIGN: Final = 1_000
#: An index of the runs, which readers share. No run has this name.
_INDEX: Final = ".index.json.zst"
#: Bytes of the index, and how many MiB it has when it is not compressed.
_MAX_INDEX: Final = 16 * 1024 * 1024
_MAX_INDEX_PARTS: Final = 256
#: Documents that are read at the same time.
_THREADS: Final = 16
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

    # What a listing of many runs needs

    def prefetch(self, stores: Iterable[Store], names: Sequence[str]) -> None:
        """Read documents of many runs at the same time, for who reads them one after another.

        Errors are passed over: they come again when the document is read.
        """
        found = [store for store in stores if isinstance(store, RemoteStore)]
        if len(found) > 1:
            with ThreadPoolExecutor(_THREADS, "scalable-read") as pool:
                for name in names:
                    list(pool.map(RemoteStore.prefetch, found, repeat(name)))

    def kept_index(self) -> bytes:
        """Return what :meth:`keep_index` kept, of whichever reader was the last; empty if nothing.

        It is as old as that, so each row must be compared with the listing.
        """
        with suppress(OSError, ValueError):
            data = self.objects.get(_INDEX, 0, _MAX_INDEX)
            return b"".join(islice(decompressed_parts(iter([data])), _MAX_INDEX_PARTS))
        return b""

    def keep_index(self, data: bytes) -> None:
        """Keep an index of the runs in the place, for other readers; it need not be possible."""
        with suppress(OSError):
            packed = compressed(data)
            if len(packed) <= _MAX_INDEX:
                self.objects.put(_INDEX, packed)

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
        # A closed part has no chunks any more.
        if name.startswith(f"{schema.WRITERS}/") and name.endswith(f"/{schema.RUN}"):
            return True
    return False
