"""A `.tar.zst` whose members are found without unpacking it.

Any tar reads it. Headers and blocks of files are zstd frames of their own, and the last frame,
which zstd skips, has an index of them. An archive without that index, packed by another program, is
read from its beginning.
"""

from __future__ import annotations

import os
import struct
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple, cast

import orjson

from scalable_runs.remote.compression import check_installed, compressed, decompressed, stream
from scalable_runs.stores.base import Entry, is_inside

#: Bytes of a file that are compressed at once.
BLOCK: Final = 4 * 1024 * 1024

_SKIPPABLE: Final = 0x184D2A5E
_FRAME: Final = struct.Struct("<II")
#: Length of the index, its length uncompressed, and what it is.
_END: Final = struct.Struct("<II8s")
_MAGIC: Final = b"scalabl1"
_MAX_INDEX: Final = 256 * 1024 * 1024
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Member(NamedTuple):
    """A file of an archive.

    Attributes
    ----------
    size
        In bytes, uncompressed.
    modified
        When it was last written, in seconds since the epoch.
    crc32
        Of its content; None where the archive has no index.
    blocks
        Offset, compressed and uncompressed length of each block.
    """

    size: int
    modified: float
    crc32: int | None
    blocks: tuple[tuple[int, int, int], ...] = ()


class ArchiveWriter:
    """Writes an archive; used by one thread.

    Parameters
    ----------
    file
        Where to, from its beginning.
    folder
        The folder that all members are in when tar unpacks it.
    """

    def __init__(self, file: BinaryIO, folder: str) -> None:
        check_installed()
        self._file = file
        self._folder = folder
        self._at = 0
        self.members: dict[str, Member] = {}

    def add(self, name: str, size: int, modified: float, content: Iterable[bytes]) -> None:
        """Write a member of exactly `size` bytes.

        Raises
        ------
        OSError
            The content has another size: the file was changed meanwhile.
        """
        head = tarfile.TarInfo(f"{self._folder}/{name}")
        head.size, head.mtime, head.mode = size, modified, 0o600
        self._write(head.tobuf(tarfile.PAX_FORMAT))
        blocks: list[tuple[int, int, int]] = []
        done = crc = 0
        for block in _blocks_of(content):
            start = self._at
            self._write(block)
            blocks.append((start, self._at - start, len(block)))
            done += len(block)
            crc = zlib.crc32(block, crc)
        if done != size:
            raise OSError(f"{name} was changed while it was packed")
        if size % tarfile.BLOCKSIZE:
            self._write(bytes(tarfile.BLOCKSIZE - size % tarfile.BLOCKSIZE))
        self.members[name] = Member(size, modified, crc, tuple(blocks))

    def finish(self) -> None:
        """Write the end of the archive, and its index."""
        self._write(bytes(2 * tarfile.BLOCKSIZE))
        text = orjson.dumps({name: tuple(member) for name, member in self.members.items()})
        index = compressed(text)
        self._file.write(_FRAME.pack(_SKIPPABLE, len(index) + _END.size))
        self._file.write(index + _END.pack(len(index), len(text), _MAGIC))

    def _write(self, data: bytes) -> None:
        self._at += self._file.write(compressed(data))


def _blocks_of(content: Iterable[bytes]) -> Iterator[bytes]:
    held: list[bytes] = []
    size = 0
    for data in content:
        held.append(data)
        size += len(data)
        if size >= BLOCK:
            yield b"".join(held)
            held, size = [], 0
    if held:
        yield b"".join(held)


class Archive:
    """An archive that is read; any thread may, each read opens the file.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    OSError
        It cannot be read, or is no such archive; or zstandard is not installed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            check_installed()
            with self._open() as file:
                found = _index_of(file)
            self.has_index = found is not None
            self.members = self._looked_through() if found is None else found
        except (ImportError, ValueError, LookupError, TypeError, tarfile.TarError) as error:
            raise OSError(f"{path.name} cannot be read: {error}") from None

    def read(self, name: str, start: int = 0) -> Iterator[bytes]:
        """Yield a member in blocks.

        Raises
        ------
        OSError
            It is damaged. FileNotFoundError: there is none.
        """
        member = self.members.get(name)
        if member is None:
            raise FileNotFoundError(f"{self.path.name} has no {name}")
        return self._blocks(member, start) if self.has_index else self._streamed(name, start)

    def entry(self, name: str) -> Entry | None:
        """Return size and age of a member."""
        member = self.members.get(name)
        return None if member is None else Entry(member.size, member.modified)

    def _open(self) -> BinaryIO:
        return os.fdopen(os.open(self.path, _READ), "rb")

    def _blocks(self, member: Member, start: int) -> Iterator[bytes]:
        with self._open() as file:
            for offset, length, size in member.blocks:
                if start >= size:
                    start -= size
                    continue
                file.seek(offset)
                try:
                    data = decompressed(file.read(length), size)
                except ValueError as error:
                    raise OSError(f"{self.path.name} is damaged: {error}") from None
                yield data[start:]
                start = 0

    # Without an index

    def _looked_through(self) -> dict[str, Member]:
        with self._open() as file, _tar(file) as tar:
            return {
                name: Member(found.size, float(found.mtime), None)
                for found in tar
                if found.isreg() and (name := _name_in_run(found.name))
            }

    def _streamed(self, name: str, start: int) -> Iterator[bytes]:
        try:
            with self._open() as file, _tar(file) as tar:
                for found in tar:
                    content = tar.extractfile(found) if found.isreg() else None
                    if content is None or _name_in_run(found.name) != name:
                        continue
                    while data := content.read(BLOCK):
                        if start < len(data):
                            yield data[start:]
                        start = max(0, start - len(data))
                    return
        except (tarfile.TarError, ValueError) as error:
            raise OSError(f"{self.path.name} is damaged: {error}") from None


def _tar(file: BinaryIO) -> tarfile.TarFile:
    return tarfile.open(fileobj=stream(file), mode="r|")


def _name_in_run(name: str) -> str:
    """Return a member's name without the run's folder; nothing if it leads elsewhere."""
    run, _, inside = name.removeprefix("./").partition("/")
    return inside if run and inside and is_inside(inside) else ""


def _index_of(file: BinaryIO) -> dict[str, Member] | None:
    """Return what the index says; None if there is none."""
    size = file.seek(0, os.SEEK_END)
    if size < _END.size:
        return None
    file.seek(size - _END.size)
    length, whole, magic = _END.unpack(file.read(_END.size))
    if magic != _MAGIC or length > size - _END.size or whole > _MAX_INDEX:
        return None
    file.seek(size - _END.size - length)
    rows: Any = orjson.loads(decompressed(file.read(length), whole))
    if not isinstance(rows, dict):
        raise ValueError("its index is damaged")
    members: dict[str, Member] = {}
    for name, (member_size, modified, crc32, blocks) in cast("dict[str, Any]", rows).items():
        member = Member(member_size, modified, crc32, tuple((a, b, c) for a, b, c in blocks))
        if is_inside(name) and _fits(member, size):
            members[name] = member
    return members


def _fits(member: Member, size: int) -> bool:
    """Whether an index says nothing about a member that cannot be."""
    numbers = [member.size, *(number for block in member.blocks for number in block)]
    return (
        all(type(number) is int for number in numbers)
        and type(member.modified) in (int, float)
        and sum(length for _, _, length in member.blocks) == member.size
        and all(
            start >= 0 and length > 0 and start + length <= size
            for start, length, _ in member.blocks
        )
        and all(0 < length <= 2 * BLOCK for _, _, length in member.blocks)
    )
