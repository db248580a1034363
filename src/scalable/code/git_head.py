"""The commit that is checked out, read from git's files: no process is started for it.

For processes of the cluster, where a child process could be taken for one of the user's.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

#: Bytes of a file of git's that are read.
_MAX_FILE: Final = 16 * 1024 * 1024
_COMMIT: Final = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
#: A reference that refers to others, at most this often.
_MAX_DEPTH: Final = 5


def commit_of(directory: Path) -> str | None:
    """Return the commit that is checked out where a directory is; None if there is none.

    Also if it cannot be read: references may be kept in another form (`reftable`).
    """
    try:
        places = _git_directories(directory.absolute())
        if places is None:
            return None
        own, common = places
        text = _read(own / "HEAD")
        for _ in range(_MAX_DEPTH):
            if not text.startswith("ref: "):
                break
            name = text.removeprefix("ref: ").strip()
            if ".." in name or not name.startswith("refs/"):
                return None
            text = _reference(own, common, name)
    except (OSError, ValueError):
        return None
    return text.strip() if _COMMIT.fullmatch(text.strip()) else None


def _git_directories(directory: Path) -> tuple[Path, Path] | None:
    """Return git's directory of a work tree, and that of its repository."""
    for place in (directory, *directory.parents):
        found = place / ".git"
        if found.is_file():
            # A work tree of its own, or a submodule.
            found = place / _read(found).partition("gitdir:")[2].strip()
        if (found / "HEAD").exists():
            common = found / "commondir"
            return found, (found / _read(common).strip() if common.exists() else found)
    return None


def _reference(own: Path, common: Path, name: str) -> str:
    for place in (own, common):
        if (place / name).is_file():
            return _read(place / name)
    for line in _read(common / "packed-refs").splitlines():
        commit, _, packed = line.partition(" ")
        if packed == name:
            return commit
    return ""


def _read(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(_MAX_FILE).decode("utf-8", "surrogateescape")
