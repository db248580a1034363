"""Runs that several programs write, on a file system that they share (NFS, Lustre, a local disk).

Each program writes a directory of its own, `<run>/writers/<writer>`, which is a
:class:`~scalable_runs.stores.file.FileStore`. What belongs to all of them is made by whoever comes
first and is not changed after that. There is no lock, and nothing is replaced that two may write.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from pathlib import Path
from typing import Final, Protocol

from scalable_runs import schema
from scalable_runs.stores._directory import CREATE, OPEN_DIRECTORY, TEMPORARY
from scalable_runs.stores.base import Store, StoreRoot
from scalable_runs.stores.file import FileRoot, FileStore

#: Errors of file systems that have no hard links.
_NO_LINKS: Final = frozenset(
    {errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.EXDEV}
)


class SharedStore(Store, Protocol):
    """A run that several programs write, without their parts; any of them may call it.

    Every method may raise OSError, and nothing else.
    """

    def make(self, name: str, data: bytes) -> bool:
        """Make a document unless there is one; of several programs exactly one gets True.

        It is durable, and whoever reads it finds all of it.
        """
        ...

    def made(self, folder: str) -> set[str]:
        """Return the names in a folder of the run, those that others made before this call too.

        This holds for folders in which the caller has made something.
        """
        ...

    def put(self, name: str, data: bytes) -> None:
        """Make or replace a document that can be made again by any reader."""
        ...


class SharedRoot(StoreRoot, Protocol):
    """A place of runs that several programs may write."""

    def run(self, run_id: str) -> SharedStore:
        """Return a run, without the parts; it need not exist."""
        ...


class SharedFileStore(FileStore):
    """A run's directory that several programs share. Implements :class:`SharedStore`."""

    def make(self, name: str, data: bytes) -> bool:
        """Write a file of another name, and link it: that fails if the name is taken.

        After that the directory is read anew, also where a file server's client caches it.
        """
        path = self._new(name)
        if path.exists():
            return False
        temporary = path.with_name(TEMPORARY.format(f"{path.name}.{secrets.token_hex(8)}"))
        try:
            _write_new(temporary, data)
            return _linked(temporary, path, data)
        finally:
            temporary.unlink(missing_ok=True)
            _sync_directory(path.parent)

    def made(self, folder: str) -> set[str]:
        """List the folder, without temporary files."""
        try:
            names = os.listdir(self._inside(folder))  # noqa: PTH208 (names alone)
        except FileNotFoundError:
            return set()
        return {name for name in names if not name.startswith(".")}

    def put(self, name: str, data: bytes) -> None:
        """Write a file of another name, and rename it."""
        path = self._new(name)
        temporary = path.with_name(TEMPORARY.format(f"{path.name}.{secrets.token_hex(8)}"))
        try:
            _write_new(temporary, data)
            temporary.rename(path)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_directory(path.parent)

    def _new(self, name: str) -> Path:
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        return super()._new(name)


def _write_new(path: Path, data: bytes) -> None:
    with os.fdopen(os.open(path, CREATE, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _linked(temporary: Path, path: Path, data: bytes) -> bool:
    try:
        os.link(temporary, path, follow_symlinks=False)
        return True
    except FileExistsError:
        # The answer to a first try may have been lost on the way from a file server.
        return temporary.stat().st_nlink == 2
    except OSError as error:
        if temporary.stat().st_nlink == 2:
            return True
        if error.errno not in _NO_LINKS:
            raise
    # Readers that find half of it try again.
    with contextlib.suppress(FileExistsError):
        _write_new(path, data)
        return True
    return False


def _sync_directory(path: Path) -> None:
    fd = os.open(path, OPEN_DIRECTORY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(fd)
    finally:
        os.close(fd)


class SharedFileRoot(FileRoot):
    """A directory of runs that several programs may write. Implements :class:`SharedRoot`.

    Do not use it where a run has one writer: a plain directory is simpler to read for other tools.
    """

    @property
    def shared(self) -> bool:
        """Several programs may write one run."""
        return True

    def new(self, run_id: str, writer: str | None = None) -> FileStore:
        """Return the directory of a writer's part, which need not exist."""
        if writer is None:
            raise ValueError("a writer of a run that several programs write needs a name")
        return FileStore(self.path / run_id / schema.WRITERS / writer)

    def run(self, run_id: str) -> SharedFileStore:
        """Return a run's directory."""
        return SharedFileStore(self.path / run_id)
