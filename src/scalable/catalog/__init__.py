"""The data catalog: files under names, each version known by the SHA-256 of its content.

>>> from scalable import catalog
>>> catalog.put("results/yield.csv", name="yield")  # doctest: +SKIP
>>> path = catalog.get("yield")  # doctest: +SKIP

Both functions work in the program and in tasks, and in a run each is recorded with its attempt.
:class:`Catalog` is the same without a record, at any place.
"""

from __future__ import annotations

import os
from pathlib import Path

from scalable.catalog.entries import CatalogEntry, whole
from scalable.catalog.errors import CatalogError, ChangedError, NotInCatalogError
from scalable.catalog.recording import origin, place_here, record
from scalable.catalog.store import Catalog, Changed
from scalable.common.digests import is_digest

__all__ = [
    "Catalog",
    "CatalogEntry",
    "CatalogError",
    "Changed",
    "ChangedError",
    "NotInCatalogError",
    "get",
    "put",
]


def put(
    path_or_glob: str | os.PathLike[str], *, name: str | None = None, kind: str | None = None
) -> tuple[CatalogEntry, ...]:
    """Put a file, a directory or the matches of a pattern into the catalog.

    The content is copied, with the SHA-256 of all of it: what is later written to the file does not
    change the catalog. On file systems that can (Btrfs, XFS), the copy shares the file's blocks.

    Parameters
    ----------
    path_or_glob : path or str
        A path, a pattern (``out/*.csv``, ``out/**/*.csv``), or the URL of one file.
    name : str, optional
        Its name in the catalog: a relative path. Default: the path from the working directory, or
        its last part if it is not below that. The matches of a pattern have the names
        ``name/<path below the directory that the pattern begins with>``.
    kind : str, optional
        What it is, such as ``result``.

    Returns
    -------
    tuple of CatalogEntry
        One for a path, one for each match of a pattern.

    Raises
    ------
    NotInCatalogError
        There is no such file; files with a name close to it are named. It is a FileNotFoundError.
    ChangedMeanwhileError
        The file is being written. It is an OSError.
    CatalogError
        The name is not allowed, or the catalog cannot be written.
    """
    here = Catalog(place_here())
    entries = here.put(path_or_glob, name=name, kind=kind, origin=origin)
    record("put", entries, here.location)
    return entries


def get(name: str, *, digest: str | None = None) -> Path:
    """Return a path on this machine under which something in the catalog can be read.

    The content is checked by its digest first. What is at the path is read-only, and belongs to the
    catalog: copy it to change it.

    Parameters
    ----------
    name : str
        Its name; a whole digest (``sha256:…``) of any version; or what several names begin with, as
        those of a pattern do: a directory with the latest version of each.
    digest : str, optional
        The digest of an earlier version, or its beginning. Default: the latest version.

    Returns
    -------
    pathlib.Path
        A file with the last part of the name, or a directory.

    Raises
    ------
    NotInCatalogError
        It is not there; names that are close are named. It is a FileNotFoundError.
    ChangedError
        It was changed in the catalog; both digests are named.
    CatalogError
        The catalog cannot be read.
    """
    here = Catalog(place_here())
    entries = here.found(name, digest=digest)
    path = here.fetch(name, entries)
    pinned = digest is not None or is_digest(name)
    record("get", entries, here.location, path, pinned=pinned)
    if not pinned and entries[0].name != name:
        # The names below it may become more.
        record("get", (whole(name, entries, here.digest(name)),), here.location, path)
    return path
