"""Size and SHA-256 of a file, a directory tree or a remote object."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import Any, Final, cast

#: Bytes read at once.
_CHUNK: Final = 1024 * 1024


def measure(place: str, *, digest: bool = True) -> tuple[int, str | None]:
    """Size in bytes, and ``sha256:<hex>`` of the content, of a file, a directory or a URL.

    Raises
    ------
    OSError, ImportError, ValueError
        The content cannot be read.
    """
    if "://" in place:
        return _measure_url(place, digest)
    path = Path(place).expanduser()
    if path.is_dir():
        return _measure_tree(path, digest)
    if not digest:
        return path.stat().st_size, None
    return _measure_file(path)


def _measure_file(path: Path) -> tuple[int, str]:
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError("it is neither a file nor a directory")
    with path.open("rb") as file:
        return _consume(file)


def _measure_tree(root: Path, digest: bool) -> tuple[int, str | None]:
    """Digest the sorted paths and the digests of their files: a moved file is a change."""
    total = 0
    state = hashlib.sha256()
    for path in sorted(root.rglob("*"), key=lambda path: path.relative_to(root).as_posix()):
        name = path.relative_to(root).as_posix().encode("utf-8", "surrogateescape")
        if path.is_symlink():
            state.update(b"l" + name + b"\0" + os.fsencode(path.readlink()) + b"\0")
        elif path.is_file():
            size, found = _measure_file(path) if digest else (path.stat().st_size, "")
            total += size
            state.update(b"f" + name + b"\0" + found.encode() + b"\0")
    return total, f"sha256:{state.hexdigest()}" if digest else None


def _measure_url(url: str, digest: bool) -> tuple[int, str | None]:
    import fsspec

    if not digest:
        system, path = cast("Any", fsspec).core.url_to_fs(url)
        return int(system.size(path)), None
    with cast("Any", fsspec).open(url, "rb") as file:
        return _consume(file)


def _consume(file: Any) -> tuple[int, str]:
    state = hashlib.sha256()
    size = 0
    while chunk := file.read(_CHUNK):
        size += len(chunk)
        state.update(chunk)
    return size, f"sha256:{state.hexdigest()}"
