"""Objects as files below a directory, such as one that is mounted from elsewhere."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import uuid
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

from scalable_runs.stores.run_store import Object, RunStore, checked, is_key

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
#: With O_NONBLOCK, a pipe in place of a file does not make the reader wait.
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_TEMPORARY: Final = ".{}.tmp"
#: What file systems without hard links answer.
_NO_LINKS: Final = frozenset(
    {errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EACCES}
)


class DirectoryObjects(RunStore):
    """Objects as files below a directory. Any thread may call it, and other programs write too.

    An object is written to a temporary file, synced, and then given its name: by a rename, or, if
    it must be new, by a hard link. Where the file system has no hard links the file is made with
    `O_EXCL` and written in place: a reader may then meet a part of it, also after a crash.

    No symbolic link below the directory is followed.

    Parameters
    ----------
    config
        Its `path` is made if the directory above it exists.
    """

    @dataclass(frozen=True)
    class Config:
        """Options.

        Attributes
        ----------
        path
            The directory.
        """

        path: str

    shared: ClassVar[bool] = True

    def __init__(self, config: Config) -> None:
        self._root = Path(config.path).expanduser().absolute()
        self.location = str(self._root)

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """Read a file."""
        with self._folder(key) as (folder, name):
            fd = os.open(name, _READ, dir_fd=folder)
        with os.fdopen(fd, "rb", buffering=0) as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise OSError(f"{key} in {self.location} is not a regular file")
            file.seek(start)
            return _read(file.fileno(), length)

    def put(self, key: str, data: bytes) -> None:
        """Write a file and rename it into place."""
        with self._written(key, data) as (folder, temporary, name):
            os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
            os.fsync(folder)

    def create(self, key: str, data: bytes) -> bool:
        """Write a file and link it into place."""
        with self._folder(key, make=True) as (folder, name):
            if _is_there(folder, name):
                return False
        with self._written(key, data) as (folder, temporary, name):
            try:
                os.link(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
            except FileExistsError:
                # A file server repeats a link of which the answer was lost, and then says this.
                if os.stat(temporary, dir_fd=folder).st_nlink < 2:
                    return False
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                if not _write_in_place(folder, name, data):
                    return False
            os.fsync(folder)
            return True

    def list(self, prefix: str = "", after: str = "") -> Iterator[Object]:
        """Walk the directory in the order of keys."""
        try:
            root = os.open(self._root, _DIRECTORY & ~os.O_NOFOLLOW)
        except FileNotFoundError:
            return
        try:
            yield from _walk(root, "", prefix, after)
        finally:
            os.close(root)

    def delete(self, key: str) -> None:
        """Remove a file, and the directories that it leaves empty."""
        with contextlib.suppress(FileNotFoundError):
            with self._folder(key) as (folder, name):
                os.unlink(name, dir_fd=folder)
                os.fsync(folder)
        while "/" in key:
            key = key.rpartition("/")[0]
            try:
                with self._folder(key) as (folder, name):
                    os.rmdir(name, dir_fd=folder)
            except OSError:
                return

    @contextmanager
    def _folder(self, key: str, *, make: bool = False) -> Generator[tuple[int, str]]:
        """Open the directory of a key's file; also gives the file's name in it."""
        *folders, name = checked(key).split("/")
        if make:
            self._make_root()
        fd = os.open(self._root, _DIRECTORY & ~os.O_NOFOLLOW)
        try:
            for folder in folders:
                if make:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(folder, 0o700, dir_fd=fd)
                        os.fsync(fd)
                fd, above = os.open(folder, _DIRECTORY, dir_fd=fd), fd
                os.close(above)
            yield fd, name
        finally:
            os.close(fd)

    def _make_root(self) -> None:
        with contextlib.suppress(FileExistsError):
            try:
                self._root.mkdir(0o700)
            except FileNotFoundError:
                raise FileNotFoundError(
                    f"there is no directory {self._root.parent}: mount it or make it"
                ) from None

    @contextmanager
    def _written(self, key: str, data: bytes) -> Generator[tuple[int, str, str]]:
        """Write a temporary file beside a key's; gives directory, temporary and final name."""
        with self._folder_with_temporary(key) as (folder, temporary, name, fd):
            try:
                with os.fdopen(fd, "wb", buffering=0) as file:
                    _write(file.fileno(), data)
                yield folder, temporary, name
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary, dir_fd=folder)

    @contextmanager
    def _folder_with_temporary(self, key: str) -> Generator[tuple[int, str, str, int]]:
        temporary = _TEMPORARY.format(uuid.uuid4().hex)
        for last in (False, False, True):
            with self._folder(key, make=True) as (folder, name):
                try:
                    fd = os.open(temporary, _CREATE, 0o600, dir_fd=folder)
                except FileNotFoundError:
                    # Another has removed the directory, which was empty, in between.
                    if last:
                        raise
                    continue
                yield folder, temporary, name, fd
                return


def _is_there(folder: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _write_in_place(folder: int, name: str, data: bytes) -> bool:
    """Make a file that must be new; False if there is one."""
    try:
        fd = os.open(name, _CREATE, 0o600, dir_fd=folder)
    except FileExistsError:
        return False
    with os.fdopen(fd, "wb", buffering=0) as file:
        try:
            _write(file.fileno(), data)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=folder)
            raise
    return True


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    os.fsync(fd)


def _read(fd: int, length: int | None) -> bytes:
    blocks: list[bytes] = []
    left = length
    while left is None or left > 0:
        block = os.read(fd, 1024 * 1024 if left is None else min(left, 1024 * 1024))
        if not block:
            break
        blocks.append(block)
        left = None if left is None else left - len(block)
    return b"".join(blocks)


def _walk(fd: int, above: str, prefix: str, after: str) -> Iterator[Object]:
    """Yield the objects below a directory; `above` is its key with a slash at the end."""
    with os.scandir(fd) as entries:
        folders = {entry.name: entry.is_dir(follow_symlinks=False) for entry in entries}
    # As the keys are ordered: "a-b" comes before "a/b".
    for path, name in sorted((above + name + "/" * folders[name], name) for name in folders):
        if folders[name]:
            inside = path.startswith(prefix) or prefix.startswith(path)
            if inside and (path > after or after.startswith(path)) and is_key(path[:-1]):
                yield from _walk_into(fd, name, path, prefix, after)
        elif path.startswith(prefix) and path > after and is_key(path) and not _is_temporary(name):
            with contextlib.suppress(FileNotFoundError):
                found = os.stat(name, dir_fd=fd, follow_symlinks=False)
                if stat.S_ISREG(found.st_mode):
                    version = f"{found.st_mtime_ns}-{found.st_size}-{found.st_ino}"
                    yield Object(path, found.st_size, found.st_mtime, version)


def _walk_into(fd: int, name: str, path: str, prefix: str, after: str) -> Iterator[Object]:
    try:
        below = os.open(name, _DIRECTORY, dir_fd=fd)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        yield from _walk(below, path, prefix, after)
    finally:
        os.close(below)


def _is_temporary(name: str) -> bool:
    # NFS gives files that are removed while they are open such names.
    return name.startswith(".nfs") or (name.startswith(".") and name.endswith(".tmp"))
