"""Finds how much of a run is in a place already."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Final

from scalable_runs.remote.chunks import ChunkName, Header
from scalable_runs.remote.keys import RunKeys
from scalable_runs.remote.local_files import LocalFiles
from scalable_runs.remote.objects import read_header
from scalable_runs.stores.run_store import RunStore

#: Damaged or foreign chunks at the end that are passed over; if there are more, all is brought
#: again, which does no harm.
_MAX_DAMAGED: Final = 20


class OtherRunError(OSError):
    """The place has lines that are not those of this directory."""


@dataclass(slots=True)
class Position:
    """How much is in a place.

    Attributes
    ----------
    line
        Number of the next line of the stream.
    ends
        Bytes of each file.
    """

    line: int = 1
    ends: Mapping[str, int] = field(default_factory=dict[str, int])

    def missing(self, files: LocalFiles) -> int:
        """Return how many bytes of the run's lines are not in the place."""
        sizes = ((name, files.size(name)) for name in files.journals())
        return sum(max(0, size - self.ends.get(name, 0)) for name, size in sizes)


def find_position(store: RunStore, keys: RunKeys, files: LocalFiles) -> Position:
    """Return what the last good chunk says that has all before it in the place.

    Each was put when that was so, but somebody may have removed some since.

    Raises
    ------
    OtherRunError
        Its lines are not those of the directory.
    OSError
        The place cannot be read.
    """
    found = keys.chunks_of(store.list(keys.chunks))
    end = _end_of_first(name for name, _ in found)
    found = [(name, entry) for name, entry in found if name.last <= end]
    for name, entry in islice(reversed(found), _MAX_DAMAGED):
        try:
            header = read_header(partial(store.get, entry.key), entry.size)
        except (ValueError, FileNotFoundError):
            continue
        if is_of(header, files):
            return Position(name.last + 1, header.ends)
        raise OtherRunError(
            f"{store.location} has another run of the name {keys.run_id}: the lines there are not "
            "those of this directory, which may have been made anew"
        )
    return Position()


def _end_of_first(names: Iterable[ChunkName]) -> int:
    """Return the last line up to which no line is missing."""
    end = 0
    for name in sorted(names):
        if name.first > end + 1:
            break
        end = max(end, name.last)
    return end


def is_of(header: Header, files: LocalFiles) -> bool:
    """Whether a chunk holds lines of these files, as far as they are still there."""
    for piece in header.pieces:
        data = files.part(piece.file, piece.start, piece.bytes) if files.size(piece.file) else b""
        if len(data) == piece.bytes and zlib.crc32(data) != piece.crc32:
            return False
    return True
