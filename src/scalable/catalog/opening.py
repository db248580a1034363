"""Opens the place of a catalog."""

from __future__ import annotations

import os
from pathlib import Path

from scalable.catalog.local import LocalPlace
from scalable.catalog.places import Place, absolute, place_of
from scalable.catalog.remote import RemotePlace
from scalable.common.catalog_places import DEFAULT


def open_place(given: str | os.PathLike[str] | None = None) -> Place:
    """Open a place; see :func:`place_of`.

    Raises
    ------
    CatalogError
        It is not one, or needs a package that is not installed.
    """
    place = place_of(given)
    if "://" in place:
        return RemotePlace(place, Path(absolute(DEFAULT)))
    return LocalPlace(Path(place))
