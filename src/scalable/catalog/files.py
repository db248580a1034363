"""Files of a catalog on this machine: written whole or not at all, and never changed."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Generator
from pathlib import Path
from typing import IO, Any, Final

from scalable.common.digests import (
    CHUNK,
    ChangedMeanwhileError,
    Identity,
    consume,
    open_regular,
    remember,
    without_holes,
)

#: Request of Linux that makes a file share another one's blocks until either is written.
_FICLONE: Final = 0x40049409
_TRIES: Final = 3
_NO_DATA: Final = bytearray(CHUNK)
#: Age in seconds at which a temporary file was left by a killed process.
_ABANDONED: Final = 6 * 3600.0
#: Errors of a file system that has no hard links, or does not allow this one.
_NO_LINKS: Final = frozenset(
    {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV, errno.EACCES}
)


def temporary_in(folder: Path) -> Path:
    """Return a new path for a file or directory that is not complete yet."""
    folder.mkdir(parents=True, exist_ok=True)
    return folder / secrets.token_hex(12)


@contextlib.contextmanager
def new_file(path: Path) -> Generator[IO[bytes]]:
    """Write a new file; it is synced to the disk and read-only once the block is done.

    Nothing is left after an error.
    """
    try:
        with path.open("xb") as file:
            yield file
            file.flush()
            # The umask has been taken off the mode.
            os.fchmod(file.fileno(), os.fstat(file.fileno()).st_mode & 0o444)
            os.fsync(file.fileno())
    except BaseException:
        with contextlib.suppress(OSError):
            path.unlink()
        raise


def copy_hashed(source: Path, target: Path, kept_in: Path) -> tuple[int, str]:
    """Copy a file to a new one; returns size and digest of the copy, which is remembered.

    The copy is one state of the source: one that is written meanwhile is read again. It shares the
    source's blocks where the file system can do that, and else has its holes. It is never a hard
    link: what is later written to the source would change it.

    Raises
    ------
    ChangedMeanwhileError
        The source changes each time.
    OSError
        It cannot be read, or the copy cannot be written.
    """
    for _ in range(_TRIES):
        with open_regular(source) as file:
            before = Identity.of(os.fstat(file.fileno()))
            began = time.time_ns()
            with new_file(target) as copy:
                cloned = _clone(file, copy)
                if cloned:
                    with target.open("rb") as again:
                        size, digest = consume(without_holes(again))
                else:
                    size, digest = copy_stream(without_holes(file), copy)
            same = Identity.of(os.fstat(file.fileno())) == before and size == before.size
            if same:
                remember(before, digest, began, source, kept_in)
            if same or cloned:
                return size, digest
        target.unlink()
    raise ChangedMeanwhileError(source)


def copy_stream(source: Any, target: IO[bytes]) -> tuple[int, str]:
    """Copy what is read of `source`, with holes for zeros; returns size and digest."""

    def write(buffer: bytearray, count: int) -> None:
        if count == CHUNK and buffer == _NO_DATA:
            target.seek(count, os.SEEK_CUR)
        else:
            target.write(memoryview(buffer)[:count])

    size, digest = consume(source, write)
    target.truncate(size)
    return size, digest


def _clone(source: IO[bytes], target: IO[bytes]) -> bool:
    try:
        fcntl.ioctl(target.fileno(), _FICLONE, source.fileno())
    except OSError:  # another file system, or one that cannot share blocks
        return False
    return True


def publish(temporary: Path, target: Path, *, replace: bool = False) -> bool:
    """Give a complete file its name; returns whether it was the first one of that name.

    Of several processes one is first; the files of the others go. With `replace` the last one is
    kept.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        if replace:
            temporary.replace(target)
        else:
            os.link(temporary, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        temporary.replace(target)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    sync_directory(target.parent)
    return True


def sync_directory(path: Path) -> None:
    """Bring the names in a directory to the disk."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def link_or_point(content: Path, view: Path) -> None:
    """Give a file of the catalog another name, by a hard link or else a symbolic one.

    Both files of the catalog are read-only, and the content is checked each time it is asked for.
    """
    try:
        os.link(content, view)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        view.symlink_to(content.absolute())


def is_same_file(content: Path, view: Path) -> bool:
    """Whether a name leads to a file of the catalog."""
    try:
        return os.path.samestat(content.stat(), view.stat())
    except OSError:
        return False


def remove_abandoned(folder: Path) -> None:
    """Remove what killed processes have left among the temporary files."""
    now = time.time()
    with contextlib.suppress(OSError):
        for path in list(folder.iterdir()):
            with contextlib.suppress(OSError):
                if now - path.lstat().st_mtime > _ABANDONED:
                    remove(path)


def remove(path: Path) -> None:
    """Remove a file or a directory, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
