"""How the place of runs is named: by a path, a URL, a type with its settings, or an object.

A :class:`StoreSpec` is what such a name means. It consists of plain values, so that the process
that records a run opens the same place; only an object of the program stays in the program.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, TypeAlias, cast

from scalable_runs.stores.base import Store, StoreRoot
from scalable_runs.stores.file import FileRoot

#: Third parties register their stores under this group of entry points.
GROUP: Final = "scalable.run_stores"
#: Where runs are by default.
DEFAULT_FOLDER: Final = ".scalable/runs"

#: What names a place of runs.
Place: TypeAlias = "str | os.PathLike[str] | Mapping[str, Any] | StoreSpec | StoreRoot"


class PlaceError(ValueError):
    """A place of runs cannot be what was given; the message says what it can be."""


@dataclass(frozen=True, slots=True)
class StoreSpec:
    """A place of runs by its type and settings; plain values but for `root`.

    Attributes
    ----------
    type
        Name of the type, such as ``file-system``.
    config
        Its settings. They may hold secrets, which no text of this object shows.
    local
        The directory of runs on this machine; stores elsewhere keep their journals there.
    root
        An object of this program that is the place; else None.
    """

    type: str
    config: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False)
    local: str = ""
    root: StoreRoot | None = field(default=None, repr=False, compare=False)

    @property
    def shared(self) -> bool:
        """Whether several programs may write one run there."""
        return self.type in _SHARED if self.root is None else self.root.shared

    @property
    def portable(self) -> bool:
        """Whether another process can open the place."""
        return self.root is None and self.type != BUFFERED

    def plain(self) -> dict[str, Any]:
        """Return plain values from which :func:`spec_of` makes an equal one."""
        return {"type": self.type, "config": dict(self.config), "local": self.local}

    def beside(self, local: str | os.PathLike[str]) -> StoreSpec:
        """Return this place with another directory on this machine."""
        return replace(self, local=os.fspath(local))

    def open(self) -> StoreRoot:
        """Return the place itself."""
        if self.root is not None:
            return self.root
        return _TYPES[self.type](self)


FILE_SYSTEM: Final = "file-system"
BUFFERED: Final = "buffered"
CHUNKED_FS: Final = "chunked-fs"
_SHARED: Final = frozenset({CHUNKED_FS})


def _open_files(spec: StoreSpec) -> StoreRoot:
    return FileRoot(spec.config.get("log_folder") or spec.local or DEFAULT_FOLDER)


def _open_shared_files(spec: StoreSpec) -> StoreRoot:
    from scalable_runs.stores.shared import SharedFileRoot

    return SharedFileRoot(_open_files(spec).location)


def _open_memory(spec: StoreSpec) -> StoreRoot:
    from scalable_runs.stores.memory import MemoryRoot

    return MemoryRoot()


_TYPES: Final[dict[str, Callable[[StoreSpec], StoreRoot]]] = {
    FILE_SYSTEM: _open_files,
    BUFFERED: _open_memory,
    CHUNKED_FS: _open_shared_files,
}


def spec_of(place: Place) -> StoreSpec:
    """Return what a name of a place means.

    Parameters
    ----------
    place
        A path, a URL, a type's name, a mapping with `type` and `config`, or an object.

    Raises
    ------
    PlaceError
        It is none of these.
    """
    if isinstance(place, StoreSpec):
        return place
    if isinstance(place, Mapping):
        return _of_mapping(place)
    if isinstance(place, os.PathLike):
        return StoreSpec(FILE_SYSTEM, {"log_folder": os.fspath(place)})
    if isinstance(place, str):
        return _of_text(place)
    return StoreSpec(type(place).__name__, root=place)


def _of_mapping(given: Mapping[str, Any]) -> StoreSpec:
    if given.get("type") not in _TYPES:
        raise PlaceError(f"there is no type of run store {given.get('type')!r}")
    return StoreSpec(given["type"], given.get("config") or {}, given.get("local") or "")


def _of_text(text: str) -> StoreSpec:
    if text in _TYPES:
        return StoreSpec(text)
    scheme, separator, rest = text.partition("://")
    if not separator:
        return StoreSpec(FILE_SYSTEM, {"log_folder": text})
    if scheme == "file":
        return StoreSpec(FILE_SYSTEM, {"log_folder": rest})
    if scheme == "memory":
        return StoreSpec(BUFFERED)
    raise PlaceError(f"{scheme}:// is not the place of a run store")


def open_root(place: Place) -> StoreRoot:
    """Return a place of runs; see :func:`spec_of`."""
    return spec_of(place).open()


def store_of(place: Place | Store, run_id: str, writer: str | None = None) -> Store:
    """Return the store of a run that :meth:`Store.create` makes.

    Parameters
    ----------
    place
        The place of runs, or the store itself.
    run_id
        The run's id.
    writer
        The writer's name, if the run has several.
    """
    if hasattr(place, "append"):
        return cast("Store", place)
    if isinstance(place, (str, os.PathLike)) and "://" not in os.fspath(place):
        place = Path(place).absolute()
    return open_root(cast("Place", place)).new(run_id, writer)
