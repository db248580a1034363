"""How the place of the data catalog is named: by a path, or a URL."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

#: The default place.
DEFAULT: Final = ".scalable/catalog"
#: URLs of directories on this machine.
_LOCAL: Final = ("file://", "local://")
_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\0]+")


def absolute(place: str) -> str:
    """Return a place that means the same in every working directory; raises ValueError."""
    place = place.strip()
    for prefix in _LOCAL:
        if place.startswith(prefix):
            place = place.removeprefix(prefix)
            if not place.startswith("/"):
                raise ValueError(f"{prefix} needs an absolute path")
    if "://" in place:
        if _URL.fullmatch(place) is None:
            raise ValueError("it is not a URL of a storage")
        return place.rstrip("/")
    if not place or "\0" in place:
        raise ValueError("it is not a path")
    return os.path.abspath(Path(place).expanduser())  # noqa: PTH100 - links are kept
