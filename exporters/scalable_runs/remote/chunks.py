"""The form of a chunk: an immutable object with lines of a run's files. No I/O.

A chunk is a header and then a zstd frame for each piece of a file. The header is a skippable frame,
so any zstd tool decompresses a chunk to its lines. The lines of all files of one writer are
numbered as one stream. The name of a chunk has its first and its last number, and the CRC-32 of its
bytes: two objects of one name are the same.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, cast

import orjson

from scalable_runs.remote.compression import compressed, decompressed
from scalable_runs.stores.run_store import is_key

#: Compressed bytes at which a chunk is full.
FULL: Final = 8 * 1024 * 1024
#: Bytes of a file in one piece; only a longer line makes a larger one.
PIECE: Final = 1024 * 1024
#: A longer line is not copied.
MAX_PIECE: Final = 64 * 1024 * 1024
#: A larger header is damage.
MAX_HEADER: Final = 1024 * 1024

_VERSION: Final = 1
_MAGIC: Final = (0x184D2A50).to_bytes(4, "little")
_PREFIX: Final = 8
_NAME: Final = re.compile(r"(\d{12,18})-(\d{12,18})-([0-9a-f]{8})\.jsonl\.zst")


class ChunkName(NamedTuple):
    """What the name of a chunk says; sorts in the order of the stream.

    Attributes
    ----------
    first, last
        Numbers of its first and last line in the stream of its writer.
    crc32
        Of its bytes.
    """

    first: int
    last: int
    crc32: int

    def __str__(self) -> str:
        return f"{self.first:012d}-{self.last:012d}-{self.crc32:08x}.jsonl.zst"

    @classmethod
    def parse(cls, name: str) -> ChunkName | None:
        """Return what a name says; None if it is not that of a chunk."""
        match = _NAME.fullmatch(name)
        if match is None:
            return None
        found = cls(int(match[1]), int(match[2]), int(match[3], 16))
        return found if 1 <= found.first <= found.last and str(found) == name else None


class Piece(NamedTuple):
    """A part of a file in a chunk.

    Attributes
    ----------
    file
        Name of the file in the run.
    start, bytes
        Where it begins in the file, and its size.
    crc32
        Of these bytes.
    at, size
        Where its frame begins in the object, and the frame's size.
    """

    file: str
    start: int
    bytes: int
    crc32: int
    at: int
    size: int

    @property
    def end(self) -> int:
        """Where it ends in the file."""
        return self.start + self.bytes

    def content(self, frame: bytes) -> bytes:
        """Return the bytes of the file.

        Raises
        ------
        ValueError
            The frame is damaged.
        """
        data = decompressed(frame, self.bytes)
        if zlib.crc32(data) != self.crc32:
            raise ValueError("the checksum of a piece is wrong")
        return data


@dataclass(frozen=True, slots=True)
class Header:
    """What a chunk holds.

    Attributes
    ----------
    pieces
        Its pieces, in the order of their frames.
    ends
        How much of each file is in the place with this chunk, by file; also of empty files.
    size
        Bytes of the whole object.
    """

    pieces: tuple[Piece, ...]
    ends: Mapping[str, int]
    size: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """A chunk to be put.

    Attributes
    ----------
    name
        Its name.
    data
        Its bytes.
    ends
        As in its header.
    """

    name: ChunkName
    data: bytes
    ends: Mapping[str, int]


class ChunkBuilder:
    """Collects pieces until a chunk is full; used by one thread.

    Parameters
    ----------
    first
        Number of its first line in the stream.
    ends
        How much of each file is in the place already.

    Attributes
    ----------
    size
        Compressed bytes so far.
    """

    def __init__(self, first: int, ends: Mapping[str, int]) -> None:
        self.size = 0
        self._first = self._next = first
        self._ends = dict(ends)
        self._pieces: list[tuple[str, int, int, int, int]] = []
        self._frames: list[bytes] = []

    def __bool__(self) -> bool:
        return bool(self._pieces)

    @property
    def is_full(self) -> bool:
        """Whether it should be put."""
        return self.size >= FULL

    def add(self, file: str, data: bytes) -> None:
        """Add the next whole lines of a file."""
        frame = compressed(data)
        start = self._ends.get(file, 0)
        self._pieces.append((file, start, len(data), zlib.crc32(data), len(frame)))
        self._frames.append(frame)
        self.size += len(frame)
        self._ends[file] = start + len(data)
        self._next += data.count(b"\n")

    def add_empty(self, file: str) -> None:
        """Note a file in which nothing is yet."""
        self._ends.setdefault(file, 0)

    def build(self) -> Chunk:
        """Return the chunk."""
        header = orjson.dumps({"version": _VERSION, "pieces": self._pieces, "ends": self._ends})
        data = b"".join((_MAGIC, len(header).to_bytes(4, "little"), header, *self._frames))
        name = ChunkName(self._first, self._next - 1, zlib.crc32(data))
        return Chunk(name, data, self._ends)


def header_size(beginning: bytes) -> int:
    """Return how many bytes of an object its header needs.

    Raises
    ------
    ValueError
        It is not a chunk.
    """
    if beginning[:4] != _MAGIC or len(beginning) < _PREFIX:
        raise ValueError("not a chunk")
    size = _PREFIX + int.from_bytes(beginning[4:_PREFIX], "little")
    if size > MAX_HEADER:
        raise ValueError("the header of a chunk is too large")
    return size


def parse_header(beginning: bytes, size: int) -> Header:
    """Return what a chunk holds.

    Parameters
    ----------
    beginning
        At least the header.
    size
        Bytes of the object.

    Raises
    ------
    ValueError
        It is not the header of a chunk of that size.
    """
    at = header_size(beginning)
    if len(beginning) < at:
        raise ValueError("the header of a chunk is cut off")
    found: Any = orjson.loads(beginning[_PREFIX:at])
    try:
        version, rows, ends = found["version"], found["pieces"], found["ends"]
    except (TypeError, KeyError):
        raise ValueError("not the header of a chunk") from None
    if version != _VERSION or not isinstance(rows, list) or not _are_ends(ends):
        raise ValueError("not the header of a chunk of this version")
    pieces: list[Piece] = []
    for row in cast("list[Any]", rows):
        piece = _piece(row, at)
        if piece.end > ends.get(piece.file, -1):
            raise ValueError("a piece ends behind the end of its file")
        at += piece.size
        pieces.append(piece)
    if at != size:
        raise ValueError("the object has not the size of its pieces")
    return Header(tuple(pieces), ends, size)


def is_file(name: str) -> bool:
    """Whether a chunk may hold lines of a file of that name."""
    return name.endswith(".jsonl") and "/" not in name and is_key(name) and name.isprintable()


def _are_ends(ends: Any) -> bool:
    return isinstance(ends, dict) and all(
        is_file(name) and type(end) is int and end >= 0
        for name, end in cast("dict[str, Any]", ends).items()
    )


def _piece(row: Any, at: int) -> Piece:
    if not isinstance(row, list) or len(cast("list[Any]", row)) != 5:
        raise ValueError("not a piece")
    file, *numbers = cast("list[Any]", row)
    if not isinstance(file, str) or any(type(n) is not int or n < 0 for n in numbers):
        raise ValueError("not a piece")
    start, length, crc32, size = numbers
    if not 0 < length <= 2 * MAX_PIECE:
        raise ValueError("the size of a piece is wrong")
    return Piece(file, start, length, crc32, at, size)
