"""Kept results on disk, for every process that computes them.

An entry is a directory made beside the others and renamed into place when it is whole: two workers
that compute the same at once make the same entry, the first rename stays, and a killed one leaves
nothing but a temporary directory that is cleared away later. There is no lock to be left behind.
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
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, cast

from scalable.common import spool
from scalable.common.digests import measure
from scalable.common.forks import unlocked_in_forks

#: Where entries are kept, and how many bytes of them at most.
DIRECTORY_VARIABLE: Final = "SCALABLE_CACHE_DIR"
LIMIT_VARIABLE: Final = "SCALABLE_CACHE_LIMIT"
DEFAULT_DIRECTORY: Final = Path(".scalable/cache")
DEFAULT_LIMIT: Final = 10 * 10**9
#: Layout of entries: another one is another directory, so that versions do not meet.
_LAYOUT: Final = "v1"
_RESULT: Final = "result.joblib"
_CONTENT: Final = "content"
_META: Final = "meta.json"
_TEMPORARY: Final = "tmp-"
#: Bytes read of an entry's description.
_MAX_META: Final = 64 * 1024
#: A temporary directory of that age was left by a killed process, in seconds.
_ABANDONED: Final = 6 * 3600.0
#: Above the limit, entries are removed until so much of it is used.
_KEEP: Final = 0.8
#: The size of all is looked up at a process's first entry, and after so much of the limit.
_LOOK_AFTER: Final = 0.05
logger = logging.getLogger("scalable")

_default_directory: Path | None = None


class FileType:
    """An argument that is the path of a file: its content decides, not its name.

    As `return_type`: the function returns the path of a file that it wrote. Its content is kept,
    and put back there on a hit.
    """


class DirType:
    """An argument that is the path of a directory: its files' names and contents decide.

    As `return_type`: the function returns the path of a directory that it wrote.
    """


def set_directory(directory: Path | None) -> Path | None:
    """Set where this process keeps entries; returns what was set before. The session calls it."""
    global _default_directory
    before, _default_directory = _default_directory, directory
    return before


def cache_directory(given: str | os.PathLike[str] | None = None) -> Path:
    """Where entries are: `given`, ``SCALABLE_CACHE_DIR``, the session's, ``.scalable/cache``."""
    chosen = given or os.environ.get(DIRECTORY_VARIABLE) or _default_directory or DEFAULT_DIRECTORY
    return Path(chosen).expanduser()


def cache_limit() -> int:
    """Return how many bytes entries may take: ``SCALABLE_CACHE_LIMIT`` such as 50G, or 10 GB.

    Raises
    ------
    ValueError
        The variable is no size.
    """
    text = os.environ.get(LIMIT_VARIABLE, "").strip()
    if not text:
        return DEFAULT_LIMIT
    from scalable.common.units import memory_bytes

    return memory_bytes(text)


@dataclass(frozen=True, slots=True)
class Found:
    """A result from the store."""

    value: Any
    size: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One kept result, as `scalable cache info` shows it.

    Attributes
    ----------
    path : pathlib.Path
        Its directory.
    size : int
        Bytes.
    used : float
        When it was last made or read, seconds since the epoch.
    """

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


class Store:
    """The entries of one directory; any number of threads and processes may use it at once.

    To read an entry is to run code that is in it. Every directory and file is therefore made for
    its user alone, whatever the umask, and nothing is read that somebody else could have written.

    Parameters
    ----------
    directory : path
        Made at the first entry, private to its user.
    limit : int, optional
        Bytes that entries may take. Default: :func:`cache_limit`.
    """

    _lock: Final = unlocked_in_forks(threading.Lock())
    #: Bytes written by this process since the size of all was last looked up, by directory.
    _unseen: Final[dict[Path, int]] = {}

    def __init__(self, directory: Path, limit: int | None = None) -> None:
        self.directory = directory
        self.limit = cache_limit() if limit is None else limit
        self._entries = directory / _LAYOUT

    # -- one entry --------------------------------------------------------------------------------

    def load(self, digest: str, return_type: Any = None) -> Found | None:
        """Return what is kept under `digest`, or None; what cannot be read any more is removed."""
        path = self._path(digest)
        try:
            for directory in (self._entries, path.parent, path):
                spool.check_unwritable(directory)
            size = int(_read_meta(path)["size_bytes"])
            import joblib

            with os.fdopen(spool.open_private(path / _RESULT), "rb") as file:
                value = cast("Any", joblib).load(file)
            if return_type in (FileType, DirType):
                _check_content(path / _CONTENT)
                _put_back(path / _CONTENT, Path(value))
            with contextlib.suppress(OSError):
                os.utime(path)
            return Found(value, size)
        except FileNotFoundError:
            return None
        except Exception as error:
            logger.warning(
                "scalable: a kept result cannot be read (%s); it is computed anew", error
            )
            self._remove(path)
            return None

    def save(
        self, digest: str, result: Any, return_type: Any, function_name: str, took: float
    ) -> int:
        """Keep a result; returns its bytes.

        Raises
        ------
        Exception
            It cannot be pickled or written; nothing is left then.
        """
        import joblib

        path = self._path(digest)
        self._make(path.parent)
        temporary = path.parent / f"{_TEMPORARY}{secrets.token_hex(8)}"
        temporary.mkdir(mode=0o700)
        try:
            if return_type in (FileType, DirType):
                _copy(Path(os.fspath(result)), temporary / _CONTENT)
                if (temporary / _CONTENT).is_file():
                    (temporary / _CONTENT).chmod(0o600)
                result = os.fspath(result)
            with _create(temporary / _RESULT) as file:
                cast("Any", joblib).dump(result, file)
                file.flush()
                os.fsync(file.fileno())
            size = _size(temporary)
            meta = {
                "function_name": function_name,
                "duration_s": took,
                "size_bytes": size,
                "created_at": time.time(),
            }
            with _create(temporary / _META) as file:
                file.write(json.dumps(meta).encode())
                file.flush()
                os.fsync(file.fileno())
            try:
                temporary.rename(path)
            except OSError:
                if not path.is_dir():
                    raise
                # Another worker was first; what it kept is the same.
                shutil.rmtree(temporary, ignore_errors=True)
                return size
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        self._bound(size)
        return size

    # -- all of them ------------------------------------------------------------------------------

    def entries(self) -> Iterator[Entry]:
        """Every entry that is whole."""
        for path in self._all():
            if not path.name.startswith(_TEMPORARY):
                with contextlib.suppress(OSError):
                    yield Entry(path, _size(path), path.stat().st_mtime)

    def matching(self, function: str | None = None, older_than: float | None = None) -> list[Entry]:
        """Return the entries that :meth:`clear` would remove."""
        now = time.time()
        return [
            entry
            for entry in self.entries()
            if (older_than is None or now - entry.used >= older_than)
            and (
                function is None or function in ((name := entry.function), name.rpartition(".")[2])
            )
        ]

    def clear(
        self, function: str | None = None, older_than: float | None = None
    ) -> tuple[int, int]:
        """Remove entries; returns how many there were and their bytes.

        Parameters
        ----------
        function : str, optional
            Only those of the function of this name, or whose name ends with it after a dot.
        older_than : float, optional
            Only those last used so many seconds ago.
        """
        count = freed = 0
        for entry in self.matching(function, older_than):
            self._remove(entry.path)
            count, freed = count + 1, freed + entry.size
        if function is None and older_than is None:
            self._clear_abandoned(0.0)
        return count, freed

    def _bound(self, written: int) -> None:
        """Remove the entries used longest ago once there are too many bytes."""
        with self._lock:
            unseen = self._unseen.get(self.directory)
            if unseen is not None and unseen + written < self.limit * _LOOK_AFTER:
                self._unseen[self.directory] = unseen + written
                return
            self._unseen[self.directory] = 0
        self._clear_abandoned(_ABANDONED)
        entries = sorted(self.entries(), key=lambda entry: entry.used)
        total = sum(entry.size for entry in entries)
        if total <= self.limit * (1 - _LOOK_AFTER):
            return
        for entry in entries:
            if total <= self.limit * _KEEP:
                break
            self._remove(entry.path)
            total -= entry.size

    def _clear_abandoned(self, age: float) -> None:
        now = time.time()
        for path in self._all():
            if path.name.startswith(_TEMPORARY):
                with contextlib.suppress(OSError):
                    if now - path.stat().st_mtime >= age:
                        shutil.rmtree(path, ignore_errors=True)

    def _remove(self, path: Path) -> None:
        """Take an entry away as a whole: a reader finds all of it or nothing."""
        away = path.parent / f"{_TEMPORARY}{secrets.token_hex(8)}"
        with contextlib.suppress(OSError):
            path.rename(away)
            shutil.rmtree(away, ignore_errors=True)

    def _all(self) -> Iterator[Path]:
        with contextlib.suppress(OSError):
            for shard in sorted(self._entries.iterdir()):
                with contextlib.suppress(OSError):
                    yield from sorted(shard.iterdir())

    def _make(self, shard: Path) -> None:
        """Make the directories of an entry, each for this user alone.

        Raises
        ------
        PermissionError
            Somebody else can write to one of them.
        """
        missing = [shard]
        while not missing[-1].parent.exists():
            missing.append(missing[-1].parent)
        for directory in reversed(missing):
            directory.mkdir(mode=0o700, exist_ok=True)
        for directory in (self._entries, shard):
            status = directory.lstat()
            if stat.S_IMODE(status.st_mode) != 0o700 and status.st_uid == os.geteuid():
                directory.chmod(0o700)  # an earlier version left it to the umask
            spool.check_unwritable(directory)

    def _path(self, digest: str) -> Path:
        return self._entries / digest[:2] / digest


def _read_meta(entry: Path) -> dict[str, Any]:
    with os.fdopen(spool.open_private(entry / _META), "rb") as file:
        return json.loads(file.read(_MAX_META))


def _create(path: Path) -> IO[bytes]:
    """Make a file that its user alone may read and write, whatever the umask."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, 0o600), "wb")


def _check_content(path: Path) -> None:
    """Raise OSError if what is kept is, or holds, a pipe, a device or a socket."""
    allowed = (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK)
    kinds = {stat.S_IFMT(below.lstat().st_mode) for below in (path, *path.rglob("*"))}
    if path.is_symlink() or not kinds <= set(allowed):
        raise OSError(f"{path} holds what is no file")


def _size(path: Path) -> int:
    found = (below.lstat() for below in path.rglob("*"))
    return sum(status.st_size for status in found if stat.S_ISREG(status.st_mode))


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True)
    else:
        shutil.copyfile(source, target)


def _put_back(content: Path, place: Path) -> None:
    """Put kept files where the function would have written them, unless they are there."""
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
