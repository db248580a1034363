"""Keeps on this machine what was read of objects, by place, key and version."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Final

#: Bytes of everything that is kept.
MAX_BYTES: Final = 512 * 1024 * 1024
#: Bytes of one thing that is kept.
MAX_ENTRY: Final = 16 * 1024 * 1024
#: Writes after which the size of everything is looked at.
_CHECK_EVERY: Final = 64
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_CRC: Final = 4


def default_directory() -> Path:
    """Return where it is kept: below `XDG_CACHE_HOME`, or `.cache` of the user."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".cache") / "scalable" / "objects"


class ReadCache:
    """A directory of parts of objects. Any thread and process may use it at the same time.

    It is a help only: what cannot be read or written is passed over. Nobody else's directory is
    used, and only the user can read what is kept.

    Parameters
    ----------
    directory
        Where it is kept; made when something is.
    limit
        Bytes of everything that is kept; what was not used for the longest time goes first.
    """

    def __init__(self, directory: Path | None = None, limit: int = MAX_BYTES) -> None:
        self._directory = directory
        self._limit = limit
        self._writes = 0

    def get(self, *identity: object) -> bytes | None:
        """Return what was put with this identity; None if it is not there."""
        try:
            path = self._path(identity)
            descriptor = os.open(path, _READ)
        except (OSError, RuntimeError):
            return None
        try:
            with os.fdopen(descriptor, "rb") as file:
                if os.fstat(descriptor).st_uid != os.getuid():
                    return None
                content = file.read(MAX_ENTRY + _CRC)
            os.utime(path)
        except OSError:
            return None
        data = content[_CRC:]
        return data if content[:_CRC] == _checksum(data) else None

    def put(self, data: bytes, *identity: object) -> None:
        """Keep something."""
        if len(data) > MAX_ENTRY:
            return
        with suppress(OSError, RuntimeError):
            path = self._path(identity)
            _make_private(path.parent)
            descriptor, temporary = tempfile.mkstemp(prefix=".", dir=path.parent)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(_checksum(data))
                    file.write(data)
                os.rename(temporary, path)  # noqa: PTH104
            except OSError:
                Path(temporary).unlink(missing_ok=True)
                raise
            self._writes += 1
            if self._writes % _CHECK_EVERY == 1:
                self._prune(path.parent)

    def _path(self, identity: tuple[object, ...]) -> Path:
        directory = self._directory = self._directory or default_directory()
        text = "\0".join(map(str, identity))
        return directory / hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    def _prune(self, directory: Path) -> None:
        """Remove the oldest until a tenth is free."""
        with os.scandir(directory) as found:
            entries = [(e.stat(follow_symlinks=False), e.path) for e in found]
        total = sum(entry.st_size for entry, _ in entries)
        if total <= self._limit:
            return
        for entry, path in sorted(entries, key=lambda one: one[0].st_mtime):
            with suppress(OSError):
                os.unlink(path)  # noqa: PTH108
            total -= entry.st_size
            if total <= 0.9 * self._limit:
                return


def _checksum(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(_CRC, "little")


def _make_private(directory: Path) -> None:
    """Make a directory that only the user can read.

    Raises
    ------
    OSError
        It is somebody else's, or others can write to it.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise PermissionError(f"{directory} is not a directory of this user")
    if stat.S_IMODE(found.st_mode) & 0o077:
        directory.chmod(0o700)
