"""Brings contents into a catalog: each is complete before anybody sees it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

from scalable.catalog.entries import tree_text
from scalable.catalog.errors import CatalogError, NotInCatalogError, redactor
from scalable.catalog.files import copy_hashed, copy_stream, new_file, temporary_in
from scalable.catalog.places import TREES, Place, without_user
from scalable.common.digests import TreeItem, recall, tree_digest, tree_paths


class Incoming:
    """Brings contents into a place, from the thread that calls it."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def path(self, path: Path) -> tuple[int, str, int | None]:
        """Copy a file or a directory; returns size, digest, and the number of a directory's files.

        Raises OSError if it cannot be read, or changes meanwhile.
        """
        if not path.is_dir():
            return *self._file(path), None
        paths = tree_paths(path)
        for below, _ in paths:
            if redactor()(below) != below:
                raise CatalogError(
                    f"{below[:80]!r} in {path} seems to have a secret in its name, and names are "
                    "shown: rename it, or put the other files by a pattern"
                )
        items = [self._item(below, found) for below, found in paths]
        digest = tree_digest(items)
        hexadecimal = digest.removeprefix("sha256:")
        self._place.write(f"{TREES}/{hexadecimal}.json", tree_text(items))
        return sum(item.size for item in items), digest, len(items)

    def url(self, url: str) -> tuple[int, str]:
        """Copy a file that fsspec can read; returns size and digest."""
        try:
            import fsspec
        except ImportError:
            raise CatalogError(
                "a URL needs fsspec, which is not installed: pip install 'scalable-otel[dask]'"
            ) from None
        try:
            with cast("Any", fsspec).open(url, "rb") as source:
                return self.stream(source)
        except CatalogError:
            raise
        except Exception as error:
            reason = without_user(str(error)) or type(error).__name__
            wrong = NotInCatalogError if isinstance(error, FileNotFoundError) else CatalogError
            raise wrong(f"{without_user(url)} cannot be read: {reason}") from None

    def stream(self, source: Any) -> tuple[int, str]:
        """Copy what is read of `source`; returns size and digest."""
        temporary = temporary_in(self._place.staging)
        with new_file(temporary) as file:
            size, digest = copy_stream(source, file)
        self._keep(temporary, digest)
        return size, digest

    def _item(self, below: str, path: Path) -> TreeItem:
        if path.is_symlink():
            return TreeItem(below, None, os.fspath(path.readlink()))
        size, digest = self._file(path)
        return TreeItem(below, digest, None, size)

    def _file(self, path: Path) -> tuple[int, str]:
        known = recall(path, kept_in=self._place.digests)
        if known is not None and self._place.has(known[1].removeprefix("sha256:")):
            return known
        temporary = temporary_in(self._place.staging)
        size, digest = copy_hashed(path, temporary, self._place.digests)
        self._keep(temporary, digest)
        return size, digest

    def _keep(self, temporary: Path, digest: str) -> None:
        try:
            self._place.add(digest.removeprefix("sha256:"), temporary)
        finally:
            temporary.unlink(missing_ok=True)
