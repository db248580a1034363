"""How the place of runs is named: by a path, a URL, a type with its settings, or an object.

A :class:`StoreSpec` is what such a name means. It consists of plain values, so that the process
that records a run opens the same place; only an object of the program stays in the program.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, TypeAlias, cast

from scalable_runs.hints import suggestion
from scalable_runs.stores.base import Store, StoreRoot
from scalable_runs.stores.file import FileRoot
from scalable_runs.stores.run_store import RunStore
from scalable_runs.stores.settings import PlaceError, without_password
from scalable_runs.stores.types import (
    ALIASES,
    Buffered,
    FileSystem,
    Named,
    StoreType,
    absolute,
    built_in,
    find_type,
    of_url,
    type_names,
)

__all__ = ["Place", "PlaceError", "StoreSpec", "open_root", "spec_of", "store_of"]

#: What names a place of runs.
Place: TypeAlias = "str | os.PathLike[str] | Mapping[str, Any] | StoreSpec | StoreRoot | RunStore"

FILE_SYSTEM: Final = FileSystem.name
BUFFERED: Final = Buffered.name
_KEYS: Final = ("type", "config", "local")


@dataclass(frozen=True, slots=True)
class StoreSpec:
    """A place of runs by its type and settings; plain values but for `root` and `given`.

    Attributes
    ----------
    type
        Name of the type, such as ``file-system``.
    config
        Its settings, checked. They may hold secrets, which no text of this object shows.
    local
        The directory of runs on this machine, in which a run is written before it is copied to a
        place elsewhere. Empty: the place is only read.
    root
        An object of this program that is the place; else None.
    given
        An object of this program to which runs are copied; else None.
    """

    type: str
    config: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False)
    local: str = ""
    root: StoreRoot | None = field(default=None, repr=False)
    given: RunStore | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.type!r}, {self.location!r})"

    @property
    def location(self) -> str:
        """Names the place for people, without secrets."""
        if self.root is not None or self.given is not None:
            return cast("Any", self.root or self.given).location
        return self._type.describe(self.config, self.local)

    @property
    def portable(self) -> bool:
        """Whether another process can open the place."""
        return self.root is None and self.given is None and self._type.portable

    @property
    def shared(self) -> bool:
        """Whether several programs may write one run."""
        if self.root is not None:
            return self.root.shared
        return self.given.shared if self.given is not None else self._type.shared

    @property
    def is_elsewhere(self) -> bool:
        """Whether runs are copied to another place while they are written."""
        return self.given is not None or (self.root is None and _is_elsewhere(self._type))

    @property
    def is_cloud(self) -> bool:
        """Whether it is an object storage that needs a library."""
        return self.is_elsewhere and self.given is None and self._type.is_cloud(self.config)

    @property
    def folder(self) -> str:
        """The directory of runs on this machine, if there is one."""
        if isinstance(self.root, FileRoot):
            return str(self.root.path)
        if self.root is not None or self.type == BUFFERED:
            return ""
        return self.config.get("log_folder") or self.local

    @property
    def _type(self) -> StoreType:
        return find_type(self.type)

    def shown(self) -> dict[str, Any]:
        """Return type and settings for people: the secret ones are hidden."""
        if self.root is not None or self.given is not None:
            return {"type": self.type, "location": self.location}
        secrets = self._type.secrets(self.config)
        config = {
            key: "***" if key in secrets else without_password(value)
            for key, value in self.config.items()
        }
        return {"type": self.type, "config": config} if config else {"type": self.type}

    def secrets(self) -> dict[str, str]:
        """Return the secret settings."""
        if self.root is not None or self.given is not None:
            return {}
        names = self._type.secrets(self.config)
        return {name: str(value) for name, value in self.config.items() if name in names and value}

    def plain(self) -> dict[str, Any]:
        """Return plain values from which :func:`spec_of` makes an equal one."""
        return {"type": self.type, "config": dict(self.config), "local": self.local}

    def beside(self, local: str | os.PathLike[str]) -> StoreSpec:
        """Return this place for writing, with a directory on this machine; paths are absolute."""
        config = dict(self.config)
        if config.get("log_folder"):
            config["log_folder"] = absolute(config["log_folder"])
        return replace(self, config=config, local=absolute(os.fspath(local)))

    def writing(self) -> StoreRoot:
        """Return where runs are written on this machine; what others hold is not opened."""
        if self.root is not None:
            return self.root
        if self.given is not None:
            return find_type("chunked-object" if self.shared else "object").root({}, self.local)
        return self._type.root(self.config, self.local)

    def objects(self) -> RunStore | None:
        """Return the place to which runs are copied, opened; None if there is none."""
        if self.root is not None:
            return None
        return self.given or self._type.objects(self.config)

    def opened(self) -> RunStore:
        """Return the place to which runs are copied, opened.

        Raises
        ------
        OSError
            It cannot be opened, or keeps no copies.
        """
        found = self.objects()
        if found is None:
            raise OSError(f"{self.location} keeps no copies of runs")
        return found

    def open(self) -> StoreRoot:
        """Return the place to be read: what is elsewhere, and what is on this machine."""
        if not self.is_elsewhere:
            return self.writing()
        from scalable_runs.stores.elsewhere import BothRoots, open_elsewhere

        def there() -> StoreRoot:
            return open_elsewhere(cast("RunStore", self.objects()))

        if not self.local:
            return there()
        return BothRoots(self.location, self.writing(), there, self.shared)


def _is_elsewhere(kind: StoreType) -> bool:
    return not isinstance(kind, FileSystem | Buffered)


def spec_of(place: Place) -> StoreSpec:
    """Return what a name of a place means.

    Parameters
    ----------
    place
        A path; a URL (`s3://bucket/prefix`, `gs://…`, `az://…`, `file:///…`, `memory://`, or one
        whose scheme is a type that another package brings); the name of a type; a mapping with
        `type` and `config`; a :class:`~scalable_runs.stores.run_store.RunStore`; or a
        :class:`~scalable_runs.stores.base.StoreRoot`.

    Raises
    ------
    PlaceError
        It is none of these, or a setting is wrong.
    """
    if isinstance(place, StoreSpec):
        return place
    if isinstance(place, Mapping):
        return _of_mapping(place)
    if isinstance(place, os.PathLike):
        return StoreSpec(FILE_SYSTEM, {"log_folder": os.fspath(place)})
    if isinstance(place, str):
        return _of_text(place)
    if isinstance(place, FileRoot) and type(place) is FileRoot:
        return StoreSpec(FILE_SYSTEM, {"log_folder": place.location})
    if isinstance(place, RunStore):
        return StoreSpec(type(place).__name__, given=place)
    return _of_root(place)


def _of_root(place: Any) -> StoreSpec:
    if not all(callable(getattr(place, name, None)) for name in ("new", "find", "ids")):
        raise PlaceError(
            f"an object of type {type(place).__name__} is not a place of runs: give a URL, a "
            "mapping with `type`, a RunStore or a StoreRoot"
        )
    return StoreSpec(type(place).__name__, root=place)


def _of_mapping(given: Mapping[str, Any]) -> StoreSpec:
    for key in given:
        if key not in _KEYS:
            raise PlaceError(f"unknown key; {suggestion(str(key), _KEYS[:2])}", str(key))
    name = given.get("type")
    if not isinstance(name, str):
        state = "is missing" if name is None else "must be text"
        raise PlaceError(f"{state}; run stores: {', '.join(type_names())}", "type")
    config: Any = given.get("config")
    if config is not None and not isinstance(config, Mapping):
        raise PlaceError("must be a mapping of keys", "config")
    try:
        kind = find_type(str(name))
    except PlaceError as error:
        raise PlaceError(error.reason, "type") from None
    found = kind.check(cast("Mapping[str, Any]", config or {}))
    return StoreSpec(ALIASES.get(name, str(name)), found, str(given.get("local") or ""))


def _of_text(text: str) -> StoreSpec:
    if "://" not in text:
        if built_in(text) is not None:
            return _of_mapping({"type": text})
        return StoreSpec(FILE_SYSTEM, {"log_folder": str(Path(text).expanduser())})
    named = of_url(text)
    return _of_mapping({"type": named.type, "config": named.config})


def chosen(text: str) -> StoreSpec:
    """Return the place that a URL or the name of a type means; a path is none.

    Raises
    ------
    PlaceError
        It is neither.
    """
    if "://" in text:
        return _of_text(text)
    find_type(text)
    return _of_mapping({"type": text})


def copied_to(text: str) -> StoreSpec:
    """Return the place of copies that a URL or the path of a mounted directory means.

    Raises
    ------
    PlaceError
        It is neither.
    """
    named = of_url(text) if "://" in text else Named(FILE_SYSTEM, {"log_folder": text})
    config = dict(named.config)
    if named.type == BUFFERED:
        raise PlaceError("memory keeps no copies: give a URL of a storage, or a directory")
    if named.type != FILE_SYSTEM:
        return _of_mapping({"type": named.type, "config": config})
    config |= {"provider": "directory", "path": absolute(config.pop("log_folder"))}
    return _of_mapping({"type": "object", "config": config})


def secret_settings(given: Mapping[str, Any]) -> list[str]:
    """Return the keys in `config` of a mapping whose values are secret, by any of their names."""
    config: Any = given.get("config")
    try:
        kind = find_type(str(given.get("type")))
        secrets = kind.secrets(config)
        synonyms = kind.synonyms(config)
    except PlaceError:
        return []
    return [name for name in config if synonyms.get(name, name) in secrets]


def open_root(place: Place) -> StoreRoot:
    """Return a place of runs, to be read; see :func:`spec_of`."""
    if isinstance(place, FileRoot):
        return place
    if isinstance(place, str) and "://" not in place:
        # A directory may have the name of a type.
        return FileRoot(place)
    return spec_of(place).open()


def store_of(place: Place | Store, run_id: str, writer: str | None = None) -> Store:
    """Return the store of a run that :meth:`Store.create` makes, or that it has made.

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
        return FileRoot(absolute(os.fspath(place))).new(run_id, writer)
    return spec_of(cast("Place", place)).writing().new(run_id, writer)
