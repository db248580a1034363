"""Paths under which contents of the catalog are read: with their names, and in directories."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from scalable.catalog.files import is_same_file, link_or_point, remove
from scalable.common.digests import TreeItem, tree_paths


def file(folder: Path, content: Path, name: str) -> Path:
    """Return a path of a content that has the name of its file; in `folder`, which is its own."""
    view = folder / name
    if is_same_file(content, view):
        return view
    folder.mkdir(parents=True, exist_ok=True)
    temporary = _beside(folder)
    link_or_point(content, temporary)
    # Somebody may have put something else there, even a directory.
    if view.is_dir() and not view.is_symlink():
        remove(view)
    temporary.replace(view)
    # Replacing a link to a file by another one to the same file leaves both.
    temporary.unlink(missing_ok=True)
    return view


def directory(
    folder: Path, items: list[TreeItem], contents: Mapping[str | None, Path], name: str
) -> Path:
    """Return a directory with these files; in `folder`, which is its own."""
    view = folder / name
    if _is_complete(view, items, contents):
        return view
    folder.mkdir(parents=True, exist_ok=True)
    temporary = _beside(folder)
    try:
        temporary.mkdir()
        for item in items:
            path = temporary / item.path
            path.parent.mkdir(parents=True, exist_ok=True)
            if item.link is not None:
                path.symlink_to(item.link)
            else:
                link_or_point(contents[item.digest], path)
        _swap(temporary, view)
    finally:
        remove(temporary)
    if not _is_complete(view, items, contents):
        raise OSError(f"{view} is changed by somebody else")
    return view


def _swap(new: Path, view: Path) -> None:
    """Give a directory its name; one that another process made meanwhile is as good."""
    away = _beside(view.parent)
    with contextlib.suppress(FileNotFoundError):
        view.rename(away)
    with contextlib.suppress(OSError):
        new.rename(view)
    remove(away)


def _is_complete(view: Path, items: list[TreeItem], contents: Mapping[str | None, Path]) -> bool:
    if not view.is_dir() or view.is_symlink():
        return False
    there = dict(tree_paths(view))
    if there.keys() != {item.path for item in items}:
        return False
    for item in items:
        path = there[item.path]
        if item.link is not None:
            if not path.is_symlink() or os.fspath(path.readlink()) != item.link:
                return False
        elif not is_same_file(contents[item.digest], path):
            return False
    return True


def _beside(folder: Path) -> Path:
    return folder / f".{secrets.token_hex(8)}"
