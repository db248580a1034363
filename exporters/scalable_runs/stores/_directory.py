"""The open directory of a run: its documents, and the room kept for the last of them."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from typing import Final

from scalable_runs import schema

#: Flags for a file that must not exist yet.
CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
OPEN_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
TEMPORARY: Final = ".{}.tmp"
#: Kept for the last run.json and summary.json of a run whose disk is full, and kept open for the
#: last run.json of a process that may open no further file.
RESERVE: Final = ".reserve"
_RESERVE_BYTES: Final = 32 * 1024
_WRITE: Final = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_DESCRIPTOR: Final = frozenset({errno.EMFILE, errno.ENFILE})
_IS_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class Directory:
    """A run's directory by its descriptor, so that it cannot be replaced by another.

    Used by one thread at a time, that which replaces documents.

    Attributes
    ----------
    fd
        Its descriptor.
    """

    __slots__ = ("_reserve", "fd")

    def __init__(self, name: str | Path, parent: int | None = None) -> None:
        self.fd = os.open(name, OPEN_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
        self._reserve = -1

    def write_new(self, name: str, data: bytes) -> None:
        """Write a file that is not there yet, durably but for its name."""
        fd = os.open(name, CREATE, 0o600, dir_fd=self.fd)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            os.fsync(fd)
        finally:
            os.close(fd)

    def replace(self, name: str, data: bytes, *, last: bool) -> None:
        """Replace a document by a rename.

        Parameters
        ----------
        name, data
            Name and content.
        last
            The run ends: the reserve may be used.
        """
        try:
            self._replace(name, data, last)
        except OSError as error:
            if not (last and error.errno in _IS_FULL and self._free_reserve()):
                raise
            self._replace(name, data, last)

    def _replace(self, name: str, data: bytes, last: bool) -> None:
        temporary = TEMPORARY.format(name)
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=self.fd)
            self.write_new(temporary, data)
            self._rename(temporary, name)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=self.fd)
            is_last = last and name == schema.RUN and self._reserve >= 0
            if not (is_last and error.errno in _NO_DESCRIPTOR):
                raise
            self._turn_reserve_into(name, data)

    def _rename(self, name: str, to: str) -> None:
        os.rename(name, to, src_dir_fd=self.fd, dst_dir_fd=self.fd)
        os.fsync(self.fd)

    def write_reserve(self) -> None:
        """Make the reserve of a new run."""
        self.write_new(RESERVE, bytes(_RESERVE_BYTES))

    def open_reserve(self) -> None:
        """Hold the reserve open, if there is one."""
        with contextlib.suppress(OSError):
            self._reserve = os.open(RESERVE, _WRITE, dir_fd=self.fd)

    def _turn_reserve_into(self, name: str, data: bytes) -> None:
        """Replace a document without opening a file."""
        os.ftruncate(self._reserve, 0)
        done = 0
        while done < len(data):
            done += os.pwrite(self._reserve, data[done:], done)
        os.fsync(self._reserve)
        self._rename(RESERVE, name)
        self.close_reserve()

    def _free_reserve(self) -> bool:
        """Make room for the last documents; False if there was none to make."""
        self.close_reserve()
        try:
            os.unlink(RESERVE, dir_fd=self.fd)
        except OSError:
            return False
        return True

    def close_reserve(self) -> None:
        """Close the reserve, which stays."""
        if self._reserve >= 0:
            os.close(self._reserve)
            self._reserve = -1

    def is_gone(self) -> bool:
        """Whether it was removed, or its file server has forgotten it."""
        try:
            return os.fstat(self.fd).st_nlink == 0
        except OSError as error:
            return error.errno == errno.ESTALE

    def is_of(self, owner: bytes) -> bool:
        """Whether its owner.json has this content."""
        with contextlib.suppress(OSError):
            fd = os.open(schema.OWNER, _READ, dir_fd=self.fd)
            try:
                return os.read(fd, len(owner) + 1) == owner
            finally:
                os.close(fd)
        return False

    def close(self) -> None:
        """End the run: the reserve is needed no more."""
        self._free_reserve()
        with contextlib.suppress(OSError):
            os.close(self.fd)


def sync_directory(path: Path) -> None:
    """Make durable which names a directory has."""
    fd = os.open(path, OPEN_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def check_not_packed(path: Path) -> None:
    """Raise FileExistsError if a run was packed, and so has no directory."""
    packed = f"{path}{schema.PACKED}"
    if os.path.lexists(packed):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), packed)


def remove_directory(path: Path) -> None:
    """Remove a run's directory, which is no run any more from the first moment."""
    import shutil

    away = path.with_name(f".{path.name}.removed")
    if away.exists():  # an earlier removal was interrupted
        shutil.rmtree(away)
    path.rename(away)
    shutil.rmtree(away)
