"""Packs a run's directory into one file, and back."""

from __future__ import annotations

import contextlib
import os
import stat
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from scalable_runs.packed.archive import BLOCK, Archive, ArchiveWriter
from scalable_runs.schema import PACKED
from scalable_runs.stores._directory import CREATE, remove_directory, sync_directory

#: Called with the bytes done and all there are.
Progress = Callable[[int, int], None]

_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def pack(run: Path, *, keep: bool = False, progress: Progress | None = None) -> Path:
    """Replace a run's directory by `<run>.tar.zst` beside it.

    The file appears once all of it was read back and compared; only then the directory goes.

    Parameters
    ----------
    run
        The directory. Nobody may be writing it.
    keep
        Keep the directory.
    progress
        Called now and then.

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    FileExistsError
        The file exists.
    ImportError
        zstandard is not installed; the message names the extra.
    OSError
        A file cannot be read or written; the directory is as it was.
    """
    packed = run.with_name(run.name + PACKED)
    if os.path.lexists(packed):
        raise FileExistsError(f"{packed} exists")
    files = _files_of(run)
    told = _Told(progress, 2 * sum(found.st_size for found in files.values()))
    temporary = run.with_name(f".{packed.name}.{os.getpid()}.tmp")
    try:
        with os.fdopen(os.open(temporary, CREATE, 0o600), "wb") as file:
            writer = ArchiveWriter(file, run.name)
            for name, found in files.items():
                content = _content(run / name, found.st_size)
                writer.add(name, found.st_size, found.st_mtime, told.of(content))
            writer.finish()
            file.flush()
            os.fsync(file.fileno())
        _verify(temporary, writer, told)
        os.link(temporary, packed)
        sync_directory(run.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    if not keep:
        remove_directory(run)
    return packed


def unpack(packed: Path, *, keep: bool = False, progress: Progress | None = None) -> Path:
    """Replace a packed run by its directory.

    Parameters
    ----------
    packed
        The file, `<run>.tar.zst`.
    keep
        Keep the file.
    progress
        Called now and then.

    Returns
    -------
    pathlib.Path
        The directory.

    Raises
    ------
    FileExistsError
        The directory exists.
    OSError
        The file is damaged or cannot be read, or a file cannot be written; the packed run is as it
        was.
    """
    run = packed.with_name(packed.name.removesuffix(PACKED))
    if os.path.lexists(run):
        raise FileExistsError(f"{run} exists")
    archive = Archive(packed)
    told = _Told(progress, sum(member.size for member in archive.members.values()))
    temporary = packed.with_name(f".{run.name}.{os.getpid()}.tmp")
    if temporary.exists():  # left by a process of the same number that was killed
        remove_directory(temporary)
    temporary.mkdir(mode=0o700)
    try:
        for name, member in archive.members.items():
            path = temporary / name
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            crc = 0
            with os.fdopen(os.open(path, CREATE, 0o600), "wb") as file:
                for block in told.of(archive.read(name)):
                    file.write(block)
                    crc = zlib.crc32(block, crc)
                file.flush()
                os.fsync(file.fileno())
            if member.crc32 not in (None, crc):
                raise OSError(f"{packed.name} is damaged: {name} is not what was packed")
            os.utime(path, (member.modified, member.modified))
        temporary.rename(run)
        sync_directory(run.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            remove_directory(temporary)
        raise
    if not keep:
        packed.unlink()
    return run


class _Told:
    """Counts the bytes that pass."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress = progress
        self._total = total
        self._done = 0

    def of(self, content: Iterator[bytes]) -> Iterator[bytes]:
        for block in content:
            self._done += len(block)
            if self._progress is not None:
                self._progress(self._done, self._total)
            yield block


def _files_of(run: Path) -> dict[str, os.stat_result]:
    """Return all regular files of a run, by name; hidden ones belong to its writer."""
    found: dict[str, os.stat_result] = {}
    for folder, folders, names in os.walk(run):
        folders.sort()
        for name in sorted(names):
            path = Path(folder, name)
            about = path.lstat()
            if stat.S_ISREG(about.st_mode) and not name.startswith("."):
                found[str(path.relative_to(run))] = about
    return found


def _content(path: Path, size: int) -> Iterator[bytes]:
    with os.fdopen(os.open(path, _READ), "rb") as file:
        while size > 0 and (data := file.read(min(BLOCK, size))):
            size -= len(data)
            yield data
        if file.read(1):
            raise OSError(f"{path.name} was changed while it was packed")


def _verify(path: Path, writer: ArchiveWriter, told: _Told) -> None:
    archive = Archive(path)
    if archive.members != writer.members:
        raise OSError(f"{path.name} was not written as it should be")
    for name, member in archive.members.items():
        crc = 0
        for block in told.of(archive.read(name)):
            crc = zlib.crc32(block, crc)
        if crc != member.crc32:
            raise OSError(f"{path.name} was not written as it should be: {name} differs")
