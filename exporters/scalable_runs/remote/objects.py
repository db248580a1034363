"""What shippers and readers do with single objects."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Final

from scalable_runs.remote import chunks
from scalable_runs.remote.chunks import Header
from scalable_runs.stores.run_store import RunStore

#: Bytes asked for at once.
RANGE: Final = 8 * 1024 * 1024
#: Bytes asked for first of a chunk: a small one is all there with that.
BEGINNING: Final = 64 * 1024


class ChangedError(OSError):
    """An object was replaced or cut while it was read."""


def parts(store: RunStore, key: str, size: int, start: int = 0) -> Iterator[bytes]:
    """Yield an object of a known size, from `start` on.

    Raises
    ------
    ChangedError
        It has another size now.
    OSError
        It cannot be read.
    """
    while start < size:
        part = store.get(key, start, min(RANGE, size - start))
        if not part:
            raise ChangedError("the object was replaced while it was read")
        yield part
        start += len(part)


def has_content(store: RunStore, key: str, size: int, crc32: int) -> bool:
    """Read an object back; return whether it has this size and checksum."""
    crc = found = 0
    try:
        # One byte more than there must be: a longer object is not that content.
        for part in parts(store, key, size):
            crc = zlib.crc32(part, crc)
            found += len(part)
        return found == size and crc == crc32 and not store.get(key, size, 1)
    except (ChangedError, FileNotFoundError):
        return False


def read_header(read: Callable[[int, int], bytes], size: int) -> Header:
    """Return the header of a chunk.

    Parameters
    ----------
    read
        Returns bytes of the object: where they begin, and how many at most.
    size
        Size of the object.

    Raises
    ------
    ValueError
        The object is not a chunk, or damaged.
    OSError
        It cannot be read.
    """
    beginning = read(0, BEGINNING)
    needed = chunks.header_size(beginning)
    if len(beginning) < needed:
        beginning += read(len(beginning), needed - len(beginning))
    return chunks.parse_header(beginning, size)
