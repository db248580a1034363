"""Sources below a directory, and a digest over all of them: the identity of code without git."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import BinaryIO, Final, NamedTuple

from scalable.code.commands import Deadline
from scalable_runs.redact.text import words

#: Ends of the names of files that are sources, in whatever language a workflow uses.
SUFFIXES: Final = words(
    """
    .py .pyi .pyx .pxd .ipynb .r .rmd .jl .sql .sh .bash .c .h .cc .cpp .hpp .cu .f .f90 .rs .go
    .java .scala .js .ts .yaml .yml .toml .cfg .ini .smk .nf .wdl .cwl
    """
)
#: Directories with files that others made.
_SKIPPED: Final = words(
    """
    __pycache__ node_modules site-packages dist-packages build dist dask-worker-space
    dask-scratch-space
    """
)
MAX_FILES: Final = 5_000
MAX_BYTES: Final = 64 * 1024 * 1024
#: Entries of directories that are looked at.
_MAX_ENTRIES: Final = 100_000
_CHUNK: Final = 1024 * 1024


class SourceDigest(NamedTuple):
    """A digest over the sources below a directory.

    Attributes
    ----------
    digest
        `sha256:` and hexadecimal digits; None if there is none.
    files
        Number of sources that it covers.
    problem
        Why it does not cover all of them; empty if it does.
    """

    digest: str | None
    files: int
    problem: str = ""


class _LimitError(Exception):
    """There is more than may be read."""


def is_source(name: str) -> bool:
    """Whether a file is a source, by its name."""
    return PurePath(name).suffix.lower() in SUFFIXES


def digest_of(directory: Path, deadline: Deadline) -> SourceDigest:
    """Return a digest over names and contents of the sources below a directory.

    Hidden directories, virtual environments and what was built are left out. The digest of equal
    files is equal on every machine. It never raises: what cannot be read is the `problem`.
    """
    total = hashlib.sha256()
    files = size = 0
    try:
        for path, name in _sources(directory, deadline):
            if files >= MAX_FILES:
                raise _LimitError(f"there are more than {MAX_FILES:,} sources")
            content, length = _digest(path, MAX_BYTES - size, deadline)
            total.update(f"{len(os.fsencode(name))}:".encode() + os.fsencode(name) + content)
            files, size = files + 1, size + length
    except TimeoutError:
        # Where it stopped depends on the machine: the same files would give another digest.
        text = f"Not all sources could be read within {deadline.seconds:g} s: there is no digest."
        return SourceDigest(None, files, text)
    except _LimitError as error:
        found = f"sha256:{total.hexdigest()}"
        return SourceDigest(found, files, f"The digest covers the first {files:,}, as {error}.")
    except OSError as error:
        return SourceDigest(None, files, f"The sources cannot be read: {error}.")
    if not files:
        return SourceDigest(None, 0, "There are no sources below the directory.")
    return SourceDigest(f"sha256:{total.hexdigest()}", files)


def _sources(directory: Path, deadline: Deadline) -> Iterator[tuple[Path, str]]:
    """Yield each source and its name below the directory, in the order of the names."""
    seen = 0
    waiting = [(directory, "")]
    while waiting:
        place, prefix = waiting.pop()
        if deadline.is_over():
            raise TimeoutError
        try:
            with os.scandir(place) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError:
            if not prefix:
                raise
            continue
        seen += len(entries)
        if seen > _MAX_ENTRIES:
            raise _LimitError(f"there are more than {_MAX_ENTRIES:,} files")
        below: list[tuple[Path, str]] = []
        for entry in entries:
            name = f"{prefix}{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                if not _is_skipped(entry):
                    below.append((Path(entry.path), f"{name}/"))
            elif is_source(entry.name) and entry.is_file():
                yield Path(entry.path), name
        waiting += reversed(below)


def _is_skipped(entry: os.DirEntry[str]) -> bool:
    if entry.name.startswith(".") or entry.name in _SKIPPED or entry.name.endswith(".egg-info"):
        return True
    return Path(entry.path, "pyvenv.cfg").exists()


def _digest(path: Path, left: int, deadline: Deadline) -> tuple[bytes, int]:
    """Return the digest of a file's content, and its length."""
    found = hashlib.sha256()
    length = 0
    with open_file(path) as file:
        while data := file.read(_CHUNK):
            length += len(data)
            if length > left:
                raise _LimitError(f"they have more than {MAX_BYTES // 1024**2} MiB")
            if deadline.is_over():
                raise TimeoutError
            found.update(data)
    return found.digest(), length


def open_file(path: Path, *, follow: bool = True) -> BinaryIO:
    """Open a file to be read, if it is one.

    Raises
    ------
    OSError
        It cannot be opened, or is a directory, a device or a pipe; without `follow` also a link.
    """
    # A named pipe would wait for its writer.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)
    descriptor = os.open(path, flags if follow else flags | getattr(os, "O_NOFOLLOW", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"not a file: {path}")
    return os.fdopen(descriptor, "rb")
