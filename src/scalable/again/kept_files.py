"""What a kept result depends on besides its key: the files that its task read or wrote."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from scalable.common.digests import measure


def differs_key(key: str) -> str:
    """Return the key of the mark that a call had two different results: none of them is used."""
    return hashlib.sha256(f"{key}\0differs".encode()).hexdigest()


class FileState(NamedTuple):
    """A file as it was found; compared before its content is."""

    size: int
    mtime_ns: int
    inode: int


def states_of(paths: Iterable[str]) -> dict[str, FileState | None]:
    """Return the states of files; None for one that is not there."""
    return {path: _state(path) for path in paths}


def _state(path: str) -> FileState | None:
    try:
        found = Path(path).stat()
    except (OSError, ValueError):
        return None
    return FileState(found.st_size, found.st_mtime_ns, found.st_ino)


def files_of(
    before: Mapping[str, FileState | None], artifacts: Iterable[Mapping[str, Any]]
) -> dict[str, list[list[str]]]:
    """Return the files that a task read and wrote, each with its digest.

    Parameters
    ----------
    before : mapping
        The files among its arguments, as they were before it ran: one that has changed since was
        written by it.
    artifacts : iterable of mapping
        Artifacts that its code recorded.
    """
    inputs: dict[str, str] = {}
    outputs: dict[str, str] = {}
    for path, now in states_of(before).items():
        found = digest_now(path)
        if found is not None:
            (inputs if now == before[path] else outputs)[path] = found
    for artifact in artifacts:
        place, digest = artifact.get("location"), artifact.get("digest")
        if isinstance(place, str) and isinstance(digest, str):
            (inputs if artifact.get("stage") == "get" else outputs)[place] = digest
    return {"inputs": [*map(list, inputs.items())], "outputs": [*map(list, outputs.items())]}


def changed_file(about: Mapping[str, Any]) -> str:
    """Say which file of a kept result is not as it was; empty if all are."""
    for path, digest in about.get("inputs") or ():
        if digest_now(path) != digest:
            return f"input file changed: {path}"
    for path, digest in about.get("outputs") or ():
        if digest_now(path) != digest:
            return f"output file changed or gone: {path}"
    return ""


def digest_now(place: Any) -> str | None:
    """Return the digest of a file, a directory or a URL; None if it cannot be read."""
    try:
        return measure(str(place))[1]
    except (OSError, ImportError, ValueError):
        return None
