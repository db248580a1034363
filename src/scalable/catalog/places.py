"""Where a catalog is: a directory on this machine, or a URL of fsspec."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from scalable.catalog.errors import CatalogError
from scalable.common import catalog_places
from scalable.common.catalog_places import DEFAULT

if TYPE_CHECKING:
    from collections.abc import Callable

#: Names the place of the catalog.
VARIABLE: Final = "SCALABLE_CATALOG"
#: Lists of the files of directories are below this path.
TREES: Final = "trees"
_USER: Final = re.compile(r"://[^/@]*@")

#: The places of the runs and sessions of this process, the latest last.
_in_force: Final[list[tuple[str, str | None]]] = []
#: That of the code's own context.
_own: ContextVar[tuple[str, str | None] | None] = ContextVar("scalable_catalog", default=None)


class Place(Protocol):
    """Keeps contents, lists of files, and versions of names; any thread may use it.

    Contents and lists have the hexadecimal digits of their digests as names, versions that of
    :func:`~scalable.catalog.names.spelled`.
    """

    @property
    def location(self) -> str:
        """Names the place for people and for the record: no secret is in it."""
        ...

    @property
    def staging(self) -> Path:
        """A directory on this machine for temporary files, also of other processes."""
        ...

    @property
    def digests(self) -> Path:
        """A directory on this machine in which digests of large files are remembered."""
        ...

    def add(self, hexadecimal: str, temporary: Path) -> None:
        """Keep a complete file as the content of that digest; the file goes."""
        ...

    def has(self, hexadecimal: str) -> bool:
        """Whether there is a content of that digest that can be trusted."""
        ...

    def fetch(self, hexadecimal: str) -> tuple[Path, str]:
        """Return a path on this machine of a content, and its digest as found there.

        Raises FileNotFoundError.
        """
        ...

    def contents(self) -> Iterator[str]:
        """Yield the digits of every content."""
        ...

    def measure(self, hexadecimal: str) -> str:
        """Return the digest of a content as found, read anew; raises FileNotFoundError."""
        ...

    def write(self, key: str, text: bytes) -> None:
        """Keep a text under a relative path; nobody sees a part of it."""
        ...

    def read(self, key: str, limit: int) -> bytes:
        """Return the text under a relative path; raises FileNotFoundError."""
        ...

    def list(self, key: str) -> list[str]:
        """Return the names of what is directly below a relative path, sorted."""
        ...


def place_of(given: str | os.PathLike[str] | None = None) -> str:
    """`given`, else the place of the run that goes on here, ``SCALABLE_CATALOG``, the default."""
    chosen = os.fspath(given) if given is not None else None
    if not chosen:
        place, _ = in_force()
        chosen = place or os.environ.get(VARIABLE, "").strip() or DEFAULT
    return absolute(chosen)


def in_force() -> tuple[str | None, str | None]:
    """Place and id of the run that goes on in this process; None without one."""
    mine = _own.get()
    if mine is not None and mine in _in_force:
        return mine
    return _in_force[-1] if _in_force else (None, None)


def use(place: str, run_id: str | None = None) -> Callable[[], None]:
    """Use a place in this process until the returned function is called."""
    entry = (absolute(place), run_id)
    _in_force.append(entry)
    _own.set(entry)

    def end() -> None:
        with contextlib.suppress(ValueError):
            _in_force.remove(entry)

    return end


def absolute(place: str) -> str:
    """Return a place that means the same in every working directory; raises CatalogError."""
    try:
        return catalog_places.absolute(place)
    except ValueError as error:
        raise CatalogError(
            f"{without_user(place)!r} is not a place of a catalog: {error}"
        ) from None


def without_user(place: str) -> str:
    """Return a place without user and password."""
    return _USER.sub("://***@", place)


def has_secret(place: str) -> bool:
    """Whether a place has a user, a password, or something like a token in it."""
    from scalable.catalog.errors import redactor

    return without_user(place) != place or redactor()(place) != place


def place_to_tell(place: str) -> str | None:
    """Return a place as it travels with tasks: none with a secret in it, which Dask shows."""
    return None if has_secret(place) else absolute(place)
