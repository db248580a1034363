"""Brings the files of a closed run as they are, so that any other tool reads them."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from io import BytesIO
from itertools import repeat
from typing import Final

from scalable_runs.remote.chunks import PIECE
from scalable_runs.remote.compression import compressed
from scalable_runs.remote.keys import COMPRESSED, RunKeys
from scalable_runs.remote.local_files import LocalFiles
from scalable_runs.remote.objects import has_content
from scalable_runs.stores.base import Hole
from scalable_runs.stores.run_store import Object, RunStore

#: A larger file is compressed, whatever was asked for.
LARGE: Final = 64 * 1024 * 1024
#: A file that is still larger when compressed stays in its chunks.
_MAX_OBJECT: Final = 128 * 1024 * 1024
#: Smaller files are put at the same time.
_SMALL: Final = 1024 * 1024
_THREADS: Final = 8


class PlainFiles:
    """Puts the files of a closed run's lines; used by one thread.

    Parameters
    ----------
    store, keys, files
        The place, the keys there, and the files here.
    compress
        Whether all files of lines are compressed (`tasks.jsonl.zst`), and not just large ones.
    """

    def __init__(
        self, store: RunStore, keys: RunKeys, files: LocalFiles, *, compress: bool
    ) -> None:
        self._store = store
        self._keys = keys
        self._files = files
        self._compress = compress
        #: Sizes of the files that were seen to have arrived.
        self._arrived: dict[str, int] = {}

    def put_all(
        self,
        there: Mapping[str, Object],
        ends: Mapping[str, int],
        progress: Callable[[int], None],
    ) -> bool:
        """Put all files, and check that they arrived.

        Parameters
        ----------
        there
            What is in the place, by the name in the run.
        ends
            How much of each file the chunks have.
        progress
            Called with the bytes of each file that is there, on any thread.

        Returns
        -------
        bool
            Whether no chunk is needed any more.

        Raises
        ------
        OSError
            A file cannot be read here or put there.
        """
        files = self._files.journals()
        # A disk may have lost what the place has.
        whole = [file for file in files if self._files.size(file) >= ends.get(file, 0)]
        small = [file for file in whole if self._files.size(file) <= _SMALL]
        with ThreadPoolExecutor(_THREADS, "scalable-copy") as pool:
            arrived = list(pool.map(self._put, small, repeat(there), repeat(progress)))
        arrived += [self._put(file, there, progress) for file in whole if file not in small]
        return all(arrived) and len(whole) == len(files) and not ends.keys() - set(files)

    def _put(self, file: str, there: Mapping[str, Object], progress: Callable[[int], None]) -> bool:
        size = self._files.size(file)
        if self._arrived.get(file) == size:
            return True
        name, other = file, file + COMPRESSED
        if size > LARGE or (self._compress and size):
            name, other = other, name
            data = self._compressed(file)
            if data is None:
                return False
        else:
            data = self._files.part(file, 0, size) if size else b""
        key, crc32 = self._keys.files + name, zlib.crc32(data)
        found = there.get(name)
        is_there = found is not None and found.size == len(data)
        if not (is_there and has_content(self._store, key, len(data), crc32)):
            self._store.put(key, data)
            if not has_content(self._store, key, len(data), crc32):
                raise OSError(f"{key} does not have the content that was put")
        if other in there:
            self._store.delete(self._keys.files + other)
        self._arrived[file] = size
        progress(size)
        return True

    def _compressed(self, file: str) -> bytes | None:
        """Return a whole file in frames; None if that is too large."""
        # Its value is not a copy.
        data = BytesIO()
        for block in self._blocks(file):
            data.write(compressed(block))
            if data.tell() > _MAX_OBJECT:
                return None
        return data.getvalue()

    def _blocks(self, file: str) -> Iterator[bytes]:
        held = bytearray()
        for block in self._files.store.read(file):
            held += bytes(block.length) if isinstance(block, Hole) else block
            while len(held) >= PIECE:
                yield bytes(held[:PIECE])
                del held[:PIECE]
        if held:
            yield bytes(held)


def delete_all(store: RunStore, keys: RunKeys) -> None:
    """Delete the chunks; those that cannot be are left to the next one who tries."""
    entries = [entry for _, entry in keys.chunks_of(list(store.list(keys.chunks)))]
    with suppress(OSError), ThreadPoolExecutor(_THREADS, "scalable-copy") as pool:
        list(pool.map(store.delete, [entry.key for entry in entries]))
