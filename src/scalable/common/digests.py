"""Size and SHA-256 of a file, a directory tree or a remote object.

The digest of a file is remembered by the file's identity, size and times, in this process and,
where a directory is named, in files. It is computed again once any of these differs.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any, Final, NamedTuple, cast

from scalable.common.forks import unlocked_in_forks

#: Bytes read at once.
CHUNK: Final = 1024 * 1024
_ZEROS: Final = bytes(CHUNK)
#: Times that a file is read that changes meanwhile.
_TRIES: Final = 3
#: A file whose last change is younger may change again without a change of its times: file systems
#: keep them in steps of up to two seconds.
SETTLED_NS: Final = 2_500_000_000
#: Digests remembered in this process.
_MAX_REMEMBERED: Final = 20_000
#: Smaller files are read again rather than looked up in a file.
_WORTH_A_FILE: Final = 8 * 1024 * 1024


class ChangedMeanwhileError(OSError):
    """A file changed each time while it was read."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(
            f"{os.fspath(path)} changed while it was read: wait until it is complete, or write it "
            "under another name and rename it"
        )


class Identity(NamedTuple):
    """What tells whether a file is still the one that was read."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    #: The owner of a file can set its mtime, but not this.
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Identity:
        """Return the identity of a file."""
        return cls(
            status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
        )


_remembered: Final[dict[Identity, str]] = {}
_lock: Final = unlocked_in_forks(threading.Lock())


def measure(
    place: str, *, digest: bool = True, kept_in: Path | None = None
) -> tuple[int, str | None]:
    """Size in bytes, and ``sha256:<hex>`` of the content, of a file, a directory or a URL.

    Parameters
    ----------
    place
        A path, or a URL that fsspec can read.
    digest
        Whether to compute the digest.
    kept_in
        A directory in which digests of large files are remembered for other processes.

    Raises
    ------
    OSError, ImportError, ValueError
        The content cannot be read.
    """
    if "://" in place:
        return _measure_url(place, digest)
    path = Path(place).expanduser()
    if path.is_dir():
        return _measure_tree(path, digest, kept_in)
    if not digest:
        return path.stat().st_size, None
    return file_digest(path, kept_in=kept_in)


def file_digest(path: Path, *, kept_in: Path | None = None) -> tuple[int, str]:
    """Size and ``sha256:<hex>`` of a regular file, remembered; see :func:`measure`.

    Raises
    ------
    ChangedMeanwhileError
        It changes while it is read, each time.
    OSError
        It cannot be read, or is not a regular file.
    """
    for _ in range(_TRIES):
        with open_regular(path) as file:
            identity = Identity.of(os.fstat(file.fileno()))
            known = _recall(identity, path, kept_in)
            if known is not None:
                return identity.size, known
            began = time.time_ns()
            size, digest = consume(without_holes(file))
            if Identity.of(os.fstat(file.fileno())) == identity and size == identity.size:
                remember(identity, digest, began, path, kept_in)
                return size, digest
    raise ChangedMeanwhileError(path)


def open_regular(path: Path) -> IO[bytes]:
    """Open a regular file for reading; a pipe or a device raises OSError and never blocks."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path} is neither a file nor a directory")
    return os.fdopen(descriptor, "rb")


def consume(file: Any, into: Callable[[bytearray, int], None] | None = None) -> tuple[int, str]:
    """Size and digest of what is read of `file`, into one buffer: new memory is what reading costs.

    `into` is called with the buffer, and the number of bytes in it, for each part.
    """
    state = hashlib.sha256()
    size = 0
    buffer = bytearray(CHUNK)
    view = memoryview(buffer)
    while count := file.readinto(view):
        size += count
        state.update(view[:count])
        if into is not None:
            into(buffer, count)
    return size, f"sha256:{state.hexdigest()}"


class _Sparse:
    """Reads a file without reading its holes, which would fill the page cache with zeros."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._descriptor = file.fileno()
        self._size = size
        self._at = 0
        #: Where the next data begins.
        self._data = 0

    def readinto(self, view: memoryview) -> int:
        """Read the next bytes into `view`; returns their number."""
        count = min(len(view), self._size - self._at)
        if self._data <= self._at < self._size:
            try:
                self._data = os.lseek(self._descriptor, self._at, os.SEEK_DATA)
            except OSError:  # ENXIO: there is none
                self._data = self._size
        if self._data - self._at >= count:
            view[:count] = _ZEROS[:count]
        else:
            count = os.preadv(self._descriptor, [view[:count]], self._at)
        self._at += count
        return count


def without_holes(file: IO[bytes]) -> Any:
    """Return what reads an open file, at its beginning, fast also if it has holes."""
    status = os.fstat(file.fileno())
    return _Sparse(file, status.st_size) if status.st_blocks * 512 < status.st_size else file


class TreeItem(NamedTuple):
    """A file or a symbolic link in a directory tree, by its path relative to the tree."""

    path: str
    #: Digest of a file.
    digest: str | None
    #: Target of a link.
    link: str | None
    size: int = 0


def tree_digest(items: Iterable[TreeItem]) -> str:
    """Digest of the sorted paths and the digests of their files: a moved file is a change."""
    state = hashlib.sha256()
    for item in sorted(items, key=lambda item: item.path):
        name = item.path.encode("utf-8", "surrogateescape")
        if item.link is not None:
            state.update(b"l" + name + b"\0" + os.fsencode(item.link) + b"\0")
        else:
            state.update(b"f" + name + b"\0" + (item.digest or "").encode() + b"\0")
    return f"sha256:{state.hexdigest()}"


def tree_paths(root: Path) -> list[tuple[str, Path]]:
    """Return the files and symbolic links of a tree: relative path and path, sorted."""
    found = ((path.relative_to(root).as_posix(), path) for path in root.rglob("*"))
    return sorted((name, path) for name, path in found if path.is_symlink() or path.is_file())


def _measure_tree(root: Path, digest: bool, kept_in: Path | None) -> tuple[int, str | None]:
    items: list[TreeItem] = []
    for name, path in tree_paths(root):
        if path.is_symlink():
            items.append(TreeItem(name, None, os.fspath(path.readlink())))
        elif digest:
            size, found = file_digest(path, kept_in=kept_in)
            items.append(TreeItem(name, found, None, size))
        else:
            items.append(TreeItem(name, None, None, path.stat().st_size))
    return sum(item.size for item in items), tree_digest(items) if digest else None


def _measure_url(url: str, digest: bool) -> tuple[int, str | None]:
    import fsspec

    if not digest:
        system, path = cast("Any", fsspec).core.url_to_fs(url)
        return int(system.size(path)), None
    with cast("Any", fsspec).open(url, "rb") as file:
        return consume(file)


# -- what is remembered ---------------------------------------------------------------------------


def recall(path: Path, *, kept_in: Path | None = None) -> tuple[int, str] | None:
    """Size and digest of a file if they are remembered; raises OSError if it cannot be opened."""
    with open_regular(path) as file:
        identity = Identity.of(os.fstat(file.fileno()))
    known = _recall(identity, path, kept_in)
    return None if known is None else (identity.size, known)


def _recall(identity: Identity, path: Path, kept_in: Path | None) -> str | None:
    with _lock:
        known = _remembered.get(identity)
    if known is not None or kept_in is None or identity.size < _WORTH_A_FILE:
        return known
    with contextlib.suppress(OSError, ValueError, TypeError):
        *parts, digest = json.loads(_memory_of(path, kept_in).read_bytes()[:1024])
        if Identity(*parts) == identity and is_digest(digest):
            return digest
    return None


def remember(identity: Identity, digest: str, began: int, path: Path, kept_in: Path | None) -> None:
    """Remember a digest that was computed since `began`, in nanoseconds.

    It is not if the file had changed shortly before: its times might not show another change.
    """
    if began - max(identity.mtime_ns, identity.ctime_ns) < SETTLED_NS:
        return
    with _lock:
        if len(_remembered) >= _MAX_REMEMBERED:
            _remembered.clear()
        _remembered[identity] = digest
    if kept_in is None or identity.size < _WORTH_A_FILE:
        return
    with contextlib.suppress(OSError):  # a full or read-only disk: it is computed again
        target = _memory_of(path, kept_in)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f"{target.name}.{os.getpid()}-{threading.get_ident()}")
        temporary.write_text(json.dumps([*identity, digest]))
        temporary.replace(target)


def forget() -> None:
    """Forget what this process remembers."""
    with _lock:
        _remembered.clear()


def _memory_of(path: Path, kept_in: Path) -> Path:
    """Name the file that remembers the digest of a path: it differs from host to host."""
    name = f"{socket.gethostname()}\0{path.absolute()}".encode("utf-8", "surrogateescape")
    digest = hashlib.sha256(name).hexdigest()
    return kept_in / digest[:2] / digest


def is_digest(text: Any) -> bool:
    """Whether it is ``sha256:`` and 64 hexadecimal digits."""
    if not isinstance(text, str) or not text.startswith("sha256:") or len(text) != 71:
        return False
    return set(text[7:]) <= set("0123456789abcdef")
