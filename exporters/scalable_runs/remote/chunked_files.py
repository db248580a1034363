"""Restores files from chunks: exactly, whatever overlaps; what is missing is left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import Final, NamedTuple

from scalable_runs.remote.cached_objects import CachedObjects
from scalable_runs.remote.chunks import ChunkName, Header, Piece
from scalable_runs.remote.objects import BEGINNING, ChangedError, read_header
from scalable_runs.stores.run_store import Object

#: What a chunk says that cannot be read.
_NOTHING: Final = Header((), {}, 0)


class ChunksGoneError(OSError):
    """Chunks were deleted while they were read: the run was closed meanwhile.

    Attributes
    ----------
    position
        How far the file was read.
    """

    def __init__(self, position: int) -> None:
        super().__init__("its chunks were deleted while it was read")
        self.position = position


class _Part(NamedTuple):
    """Pieces that follow one another in a chunk: they are read at once."""

    entry: Object
    pieces: list[Piece]

    @property
    def start(self) -> int:
        return self.pieces[0].at

    @property
    def size(self) -> int:
        last = self.pieces[-1]
        return last.at + last.size - self.start


class ChunkedFiles:
    """The files of one writer, as its chunks have them; used by one thread.

    Parameters
    ----------
    objects
        Reads them.
    chunks
        The chunks, in the order of the stream.
    """

    def __init__(self, objects: CachedObjects, chunks: Sequence[tuple[ChunkName, Object]]) -> None:
        self._objects = objects
        self._chunks = chunks
        self._known: dict[int, Header] = {}

    @cached_property
    def ends(self) -> Mapping[str, int]:
        """How much of each file was brought, by the last chunk that can be read."""
        for number in reversed(range(len(self._chunks))):
            header = self._header(number)
            if header is not _NOTHING:
                return header.ends
        return {}

    @property
    def modified(self) -> float:
        """When the last chunk was put."""
        return max((entry.modified for _, entry in self._chunks), default=0.0)

    def read(self, file: str, start: int = 0) -> Iterator[bytes]:
        """Yield a file from `start` on; bytes that no chunk has are left out.

        Raises
        ------
        ChunksGoneError
            Chunks were deleted meanwhile.
        OSError
            The place does not answer.
        """
        position = start
        try:
            needed, others = self._needed(file, start)
        except ChunksGoneError:
            raise ChunksGoneError(start) from None
        parts = list(_joined(needed, self._objects.at_once))
        answers = self._objects.ahead(
            lambda number: self._data(parts[number]), range(len(parts)), self._objects.depth
        )
        for part, data in zip(parts, answers, strict=False):
            if data is None:
                raise ChunksGoneError(position)
            for piece in part.pieces:
                content = _content(piece, data, part.start)
                if content is None:
                    yield from self._instead(piece, position, others)
                    position = max(position, piece.end)
                elif piece.end > position:
                    position = max(position, piece.start)
                    yield content[position - piece.start :]
                    position = piece.end

    def _instead(
        self, damaged: Piece, position: int, others: Sequence[tuple[Object, Piece]]
    ) -> Iterator[bytes]:
        """Yield what others have of a piece that is damaged."""
        for entry, piece in others:
            if piece.start >= damaged.end or piece.end <= max(position, damaged.start):
                continue
            part = _Part(entry, [piece])
            content = _content(piece, self._data(part) or b"", part.start)
            if content is not None:
                position = max(position, piece.start)
                end = min(piece.end, damaged.end)
                yield content[position - piece.start : end - piece.start]
                position = end

    def _needed(
        self, file: str, start: int
    ) -> tuple[list[tuple[Object, Piece]], list[tuple[Object, Piece]]]:
        """Return the pieces that make up the file, and those that repeat them."""
        found = [
            (entry, piece)
            for number, header in enumerate(self._headers())
            for entry in (self._chunks[number][1],)
            for piece in header.pieces
            if piece.file == file and piece.end > start
        ]
        found.sort(key=lambda one: (one[1].start, -one[1].end))
        needed: list[tuple[Object, Piece]] = []
        others: list[tuple[Object, Piece]] = []
        end = start
        for one in found:
            (needed if one[1].end > end else others).append(one)
            end = max(end, one[1].end)
        return needed, others

    def _headers(self) -> list[Header]:
        return list(self._objects.ahead(self._header, range(len(self._chunks))))

    def _header(self, number: int) -> Header:
        header = self._known.get(number)
        if header is None:
            _, entry = self._chunks[number]
            header = self._known[number] = self._read_header(entry)
        return header

    def _read_header(self, entry: Object) -> Header:
        try:
            return read_header(partial(self._objects.get, entry), entry.size)
        except FileNotFoundError:
            raise ChunksGoneError(0) from None
        except (ValueError, ChangedError):
            return _NOTHING

    def _data(self, part: _Part) -> bytes | None:
        """Return the frames of a part; None if the chunk is gone."""
        try:
            if part.start + part.size <= BEGINNING:
                beginning = self._objects.get(part.entry, 0, BEGINNING)
                return beginning[part.start : part.start + part.size]
            return self._objects.get(part.entry, part.start, part.size)
        except FileNotFoundError:
            return None
        except ChangedError:
            return b""


def _joined(pieces: Sequence[tuple[Object, Piece]], at_once: int) -> Iterator[_Part]:
    """Yield pieces that are neighbours in a chunk together, up to what is read at once."""
    part: _Part | None = None
    for entry, piece in pieces:
        if (
            part is not None
            and part.entry is entry
            and part.start + part.size == piece.at
            and part.size + piece.size <= at_once
        ):
            part.pieces.append(piece)
            continue
        if part is not None:
            yield part
        part = _Part(entry, [piece])
    if part is not None:
        yield part


def _content(piece: Piece, data: bytes, start: int) -> bytes | None:
    try:
        return piece.content(data[piece.at - start : piece.at - start + piece.size])
    except ValueError:
        return None
