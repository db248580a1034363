"""Cached results on disk, shared by all processes of a user.

An entry is a directory that is renamed into place when it is complete. Two workers that compute the
same result make the same entry, and the first rename wins; a killed one leaves only a temporary
directory, which is removed later. There are no locks that could be left behind.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import shutil
import stat
import threading
import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final, cast

from scalable.common import spool
from scalable.common.digests import measure
from scalable.common.forks import unlocked_in_forks
from scalable.common.units import memory_bytes

logger = logging.getLogger("scalable")

#: Where entries are kept, and the limit of their bytes.
DIRECTORY_VARIABLE: Final = "SCALABLE_CACHE_DIR"
LIMIT_VARIABLE: Final = "SCALABLE_CACHE_LIMIT"
DEFAULT_DIRECTORY: Final = Path(".scalable/cache")
DEFAULT_LIMIT: Final = 10 * 10**9

#: Attribute, true, of functions whose calls are looked up by themselves.
KEEPS_ITSELF: Final = "__scalable_cacheable__"

#: Layout of entries; each layout has a directory of its own.
_LAYOUT: Final = "v1"
_RESULT: Final = "result.joblib"
_CONTENT: Final = "content"
_META: Final = "meta.json"
_TEMPORARY: Final = "tmp-"
#: Bytes read of meta.json.
_MAX_META: Final = 64 * 1024
#: Age in seconds at which a temporary directory was left by a killed process.
_ABANDONED: Final = 6 * 3600.0
#: Above the limit, entries are removed until this share of it is used.
_KEEP: Final = 0.8
#: The total size is computed at a process's first entry, and each time it has written this share.
_LOOK_AFTER: Final = 0.05

_default_directory: Path | None = None


class FileType:
    """An argument that is the path of a file, compared by the content of the file.

    As `return_type`: the function returns the path of a file that it wrote. Its content is kept,
    and written there again on a hit.
    """


class DirType:
    """An argument that is the path of a directory, compared by the names and contents of its files.

    As `return_type`: the function returns the path of a directory that it wrote.
    """


def set_directory(directory: Path | None) -> Path | None:
    """Set the session's directory for this process; returns the one before."""
    global _default_directory
    before, _default_directory = _default_directory, directory
    return before


def cache_directory(given: str | os.PathLike[str] | None = None) -> Path:
    """`given`, else ``SCALABLE_CACHE_DIR``, the session's directory, or ``.scalable/cache``."""
    chosen = given or os.environ.get(DIRECTORY_VARIABLE) or _default_directory or DEFAULT_DIRECTORY
    return Path(chosen).expanduser()


def cache_limit() -> int:
    """Limit of all entries in bytes: ``SCALABLE_CACHE_LIMIT`` such as 50G, or 10 GB."""
    text = os.environ.get(LIMIT_VARIABLE, "").strip()
    return memory_bytes(text) if text else DEFAULT_LIMIT


@dataclass(frozen=True, slots=True)
class Found:
    """A result from the store."""

    value: Any
    size: int
    #: What was kept with it; see :meth:`Store.save`.
    about: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class Entry:
    """A kept result: its directory, its bytes, and when it was last made or read."""

    path: Path
    size: int
    used: float

    @property
    def function(self) -> str:
        """Name of the function whose result it is."""
        try:
            return str(_read_meta(self.path)["function_name"])
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            return "?"

    def is_of(self, function: str) -> bool:
        """Whether it is a result of this function, given by its full name or the last part."""
        name = self.function
        return function in (name, name.rpartition(".")[2])


class TooLargeError(Exception):
    """A result has more bytes than are kept."""


class Store:
    """The entries of one directory; any number of threads and processes may use it at once.

    Unpickling an entry runs code that is in it. Every directory and file is therefore private to
    its user, whatever the umask, and nothing is read that another user could have written.
    """

    _lock: Final = unlocked_in_forks(threading.Lock())
    #: Bytes written by this process since the total was last computed, by directory.
    _unseen: Final[dict[Path, int]] = {}

    def __init__(self, directory: Path, limit: int | None = None) -> None:
        self.directory = directory
        self.limit = cache_limit() if limit is None else limit
        self._entries = directory / _LAYOUT

    # -- one entry --------------------------------------------------------------------------------

    def load(self, digest: str, return_type: Any = None) -> Found | None:
        """Return the result kept under `digest`, or None; an entry that is broken is removed."""
        path = self._path(digest)
        try:
            for directory in (self._entries, path.parent, path):
                spool.check_unwritable(directory)
            meta = _read_meta(path)
            size = int(meta["size_bytes"])
            import joblib

            with os.fdopen(spool.open_private(path / _RESULT), "rb") as file:
                value = cast("Any", joblib).load(file)
            if return_type in (FileType, DirType):
                _check_content(path / _CONTENT)
                _restore(path / _CONTENT, Path(value))
            with contextlib.suppress(OSError):
                os.utime(path)
            return Found(value, size, _about(meta))
        except FileNotFoundError:
            return None
        except Exception as error:
            logger.warning(
                "scalable: a cached result cannot be read (%s); it is computed again", error
            )
            self._remove(path)
            return None

    def about(self, digest: str) -> Mapping[str, Any] | None:
        """Return what was kept with a result, without loading it; None if it is not kept."""
        path = self._path(digest)
        try:
            for directory in (self._entries, path.parent, path):
                spool.check_unwritable(directory)
            return _about(_read_meta(path))
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            return None

    def discard(self, digest: str) -> None:
        """Remove a result, if it is kept."""
        self._remove(self._path(digest))

    def save(
        self,
        digest: str,
        result: Any,
        return_type: Any,
        function_name: str,
        duration: float,
        *,
        about: Mapping[str, Any] | None = None,
        most: int | None = None,
    ) -> int:
        """Keep a result; returns its bytes. After an error nothing is left.

        Parameters
        ----------
        digest : str
            What it is found by. A result that is kept stays.
        result
            The result.
        return_type
            :class:`FileType` or :class:`DirType` if it is the path of what was written.
        function_name : str
            Function that returned it.
        duration : float
            Seconds that this took.
        about : mapping, optional
            Plain values to keep with it.
        most : int, optional
            Bytes that it may have; TooLargeError is raised if it has more.
        """
        import joblib

        path = self._path(digest)
        self._make_shard(path.parent)
        temporary = _temporary_beside(path)
        temporary.mkdir(mode=0o700)
        try:
            if return_type in (FileType, DirType):
                result = os.fspath(result)
                _copy(Path(result), temporary / _CONTENT)
                if (temporary / _CONTENT).is_file():
                    (temporary / _CONTENT).chmod(0o600)
            with _new_file(temporary / _RESULT) as file:
                cast("Any", joblib).dump(result, file if most is None else LimitedFile(file, most))
            size = _size(temporary)
            meta: dict[str, Any] = {
                "function_name": function_name,
                "duration_s": duration,
                "size_bytes": size,
                "created_at": time.time(),
            }
            if about:
                meta["about"] = dict(about)
            with _new_file(temporary / _META) as file:
                file.write(json.dumps(meta).encode())
            try:
                temporary.rename(path)
            except OSError:
                if not path.is_dir():
                    raise
                # Another worker was first, with the same result.
                shutil.rmtree(temporary, ignore_errors=True)
                return size
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        self._enforce_limit(size)
        return size

    def _path(self, digest: str) -> Path:
        return self._entries / digest[:2] / digest

    def _make_shard(self, shard: Path) -> None:
        """Make the directory of an entry's directory, private to this user.

        Raises PermissionError if another user can write to it or to the store.
        """
        spool.make_private(shard)
        for directory in (self._entries, shard):
            status = directory.lstat()
            if stat.S_IMODE(status.st_mode) != 0o700 and status.st_uid == os.geteuid():
                directory.chmod(0o700)  # an earlier version left it to the umask
            spool.check_unwritable(directory)

    def _remove(self, path: Path) -> None:
        """Remove an entry at once: a reader finds all of it or nothing."""
        away = _temporary_beside(path)
        with contextlib.suppress(OSError):
            path.rename(away)
            shutil.rmtree(away, ignore_errors=True)

    # -- all of them ------------------------------------------------------------------------------

    def entries(self) -> Iterator[Entry]:
        """Yield every complete entry."""
        for path in self._all():
            if not path.name.startswith(_TEMPORARY):
                with contextlib.suppress(OSError):
                    yield Entry(path, _size(path), path.stat().st_mtime)

    def matching(self, function: str | None = None, older_than: float | None = None) -> list[Entry]:
        """Return entries, all or some: of a function, last used `older_than` seconds ago.

        The name of a function may be its last part alone.
        """
        now = time.time()
        return [
            entry
            for entry in self.entries()
            if (older_than is None or now - entry.used >= older_than)
            and (function is None or entry.is_of(function))
        ]

    def clear(
        self, function: str | None = None, older_than: float | None = None
    ) -> tuple[int, int]:
        """Remove the entries of :meth:`matching`; returns their number and bytes."""
        entries = self.matching(function, older_than)
        for entry in entries:
            self._remove(entry.path)
        if function is None and older_than is None:
            self._remove_abandoned(0.0)
        return len(entries), sum(entry.size for entry in entries)

    def _enforce_limit(self, written: int) -> None:
        """Remove the entries used longest ago if there are too many bytes."""
        with self._lock:
            unseen = self._unseen.get(self.directory)
            if unseen is not None and unseen + written < self.limit * _LOOK_AFTER:
                self._unseen[self.directory] = unseen + written
                return
            self._unseen[self.directory] = 0
        self._remove_abandoned(_ABANDONED)
        entries = sorted(self.entries(), key=lambda entry: entry.used)
        total = sum(entry.size for entry in entries)
        if total <= self.limit * (1 - _LOOK_AFTER):
            return
        for entry in entries:
            if total <= self.limit * _KEEP:
                break
            self._remove(entry.path)
            total -= entry.size

    def _remove_abandoned(self, age: float) -> None:
        now = time.time()
        for path in self._all():
            if path.name.startswith(_TEMPORARY):
                with contextlib.suppress(OSError):
                    if now - path.stat().st_mtime >= age:
                        shutil.rmtree(path, ignore_errors=True)

    def _all(self) -> Iterator[Path]:
        with contextlib.suppress(OSError):
            for shard in sorted(self._entries.iterdir()):
                with contextlib.suppress(OSError):
                    yield from sorted(shard.iterdir())


def _temporary_beside(entry: Path) -> Path:
    return entry.parent / f"{_TEMPORARY}{secrets.token_hex(8)}"


def _read_meta(entry: Path) -> dict[str, Any]:
    with os.fdopen(spool.open_private(entry / _META), "rb") as file:
        return json.loads(file.read(_MAX_META))


def _about(meta: Mapping[str, Any]) -> Mapping[str, Any]:
    about = meta.get("about")
    return cast("dict[str, Any]", about) if isinstance(about, dict) else {}


class LimitedFile:
    """A file that refuses what is beyond its limit; used by the thread that writes to it."""

    def __init__(self, file: IO[bytes], most: int) -> None:
        self._file = file
        self._left = most

    def write(self, data: Any) -> int:
        """Write all of `data`, bytes or a buffer; raises TooLargeError."""
        size = memoryview(data).nbytes
        self._left -= size
        if self._left < 0:
            raise TooLargeError
        self._file.write(data)
        return size

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@contextlib.contextmanager
def _new_file(path: Path) -> Generator[IO[bytes]]:
    """Write a new file that is private to its user, whatever the umask; it is synced to disk."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def _check_content(path: Path) -> None:
    """Raise OSError if kept content is or holds a pipe, a device or a socket."""
    kinds = {stat.S_IFMT(below.lstat().st_mode) for below in (path, *path.rglob("*"))}
    if path.is_symlink() or not kinds <= {stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK}:
        raise OSError(f"{path} holds something that is not a file")


def _size(path: Path) -> int:
    found = (below.lstat() for below in path.rglob("*"))
    return sum(status.st_size for status in found if stat.S_ISREG(status.st_mode))


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True)
    else:
        shutil.copyfile(source, target)


def _restore(content: Path, place: Path) -> None:
    """Write kept files where the function would have written them, unless they are there."""
    if place.exists() and measure(str(place)) == measure(str(content)):
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = place.with_name(f".{place.name}.{secrets.token_hex(4)}")
    try:
        _copy(content, temporary)
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        temporary.replace(place)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)
