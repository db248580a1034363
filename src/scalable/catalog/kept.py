"""What a kept result depends on in the catalog: the names that its task got, and those it put."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scalable.catalog.errors import CatalogError
from scalable.catalog.recording import PINNED, origin, place_here
from scalable.catalog.store import Catalog


def sources_of(artifact: Mapping[str, Any]) -> tuple[str, str]:
    """Return the catalog and the name from which an artifact was got.

    The name is a digest where that was asked for: a new version of the name is no change then.
    """
    metadata: Any = artifact.get("metadata") or {}
    name = artifact["digest"] if metadata.get(PINNED) else artifact["artifact_name"]
    return str(artifact["catalog"]), str(name)


def digest_in(catalog: str, name: str) -> str | None:
    """Return the digest of what `get` of a name would return now; None if that is nothing."""
    try:
        here = _opened(catalog)
        return None if here is None else here.digest(name)
    except (CatalogError, OSError):
        return None


def is_put_away(catalog: str, name: str, digest: str, path: str) -> bool:
    """Whether :func:`put_again` can be done."""
    try:
        here = _opened(catalog)
        return here is not None and here.has(here.entry(name, digest=digest).digest)
    except (CatalogError, OSError):
        return False


def put_again(catalog: str, name: str, digest: str, path: str) -> bool:
    """Make what a task had put the latest version of its name again, and write its file if gone.

    Returns whether that could be done.
    """
    try:
        here = _opened(catalog)
        if here is None:
            return False
        here.restore(name, digest, origin=origin)
        if "://" not in path and not os.path.lexists(path):
            _copy(here.get(name, digest=digest), Path(path))
    except (CatalogError, OSError):
        return False
    return True


def _copy(kept: Path, target: Path) -> None:
    """Write a file or directory of the catalog to a place, as one that may be changed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    if kept.is_dir():
        shutil.copytree(kept, beside, symlinks=True, copy_function=shutil.copyfile)
    else:
        shutil.copyfile(kept, beside)
    beside.rename(target)


def _opened(catalog: str) -> Catalog | None:
    """Open a catalog by its location, which has no password."""
    here = Catalog(place_here())
    if here.location == catalog:
        return here
    return None if "://***@" in catalog else Catalog(catalog)
