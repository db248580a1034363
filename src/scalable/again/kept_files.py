"""What a kept result depends on besides its key: the files that its task read or wrote."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from scalable.catalog.kept import digest_in, is_put_away, put_again, sources_of
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

    Returns
    -------
    dict
        `inputs` and `outputs`: place and digest of each; `catalog_inputs`: catalog, name, digest;
        `catalog_outputs`: catalog, name, digest, and the file that was put there.
    """
    inputs: dict[str, str] = {}
    outputs: dict[str, str] = {}
    got: list[list[str]] = []
    put: list[list[str]] = []
    for path, now in states_of(before).items():
        found = digest_now(path)
        if found is not None:
            (inputs if now == before[path] else outputs)[path] = found
    for artifact in artifacts:
        place, digest = str(artifact.get("location") or ""), artifact.get("digest")
        catalog, name = artifact.get("catalog"), str(artifact.get("artifact_name") or "")
        if not isinstance(digest, str):
            continue
        is_input = artifact.get("stage") == "get"
        if isinstance(catalog, str):
            if is_input:
                got.append([*sources_of(artifact), digest])
            else:
                put.append([catalog, name, digest, place])
        elif place:
            (inputs if is_input else outputs)[place] = digest
    for _, _, _, place in put:
        outputs.pop(place, None)
    found = {
        "inputs": [*map(list, inputs.items())],
        "outputs": [*map(list, outputs.items())],
        "catalog_inputs": got,
        "catalog_outputs": put,
    }
    return {name: each for name, each in found.items() if each}


def changed_file(about: Mapping[str, Any], *, restore: bool = False) -> str:
    """Say which file of a kept result is not as it was; empty if all are.

    A file that was put into the catalog and is not there may be taken from the catalog: with
    `restore` it is, and the latest version of its name is again the one that was put there, which
    others will get.
    """
    for path, digest in about.get("inputs") or ():
        if digest_now(path) != digest:
            return f"input file changed: {path}"
    for catalog, name, digest in about.get("catalog_inputs") or ():
        if digest_in(catalog, name) != digest:
            return f"input file changed: {name} in {catalog}"
    for path, digest in about.get("outputs") or ():
        if digest_now(path) != digest:
            return f"output file changed or gone: {path}"
    for catalog, name, digest, path in about.get("catalog_outputs") or ():
        is_other = Path(path).exists() and digest_now(path) != digest
        if is_other or not (put_again if restore else is_put_away)(catalog, name, digest, path):
            return f"output file changed or gone: {path}"
    return ""


def digest_now(place: Any) -> str | None:
    """Return the digest of a file, a directory or a URL; None if it cannot be read."""
    try:
        return measure(str(place))[1]
    except (OSError, ImportError, ValueError):
        return None
