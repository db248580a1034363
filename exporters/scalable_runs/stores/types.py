"""The types of run stores: their settings, and how a place is made of them.

Nothing here imports a library of an object storage before a place is opened.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Final
from urllib.parse import parse_qsl, unquote, urlsplit

from scalable_runs.hints import suggestion
from scalable_runs.stores.base import StoreRoot
from scalable_runs.stores.file import FileRoot
from scalable_runs.stores.run_store import NoOptions, RunStore
from scalable_runs.stores.settings import PlaceError, checked, made, settings_of, synonyms_of

#: Third parties register their subclasses of :class:`RunStore` in this group of entry points.
GROUP: Final = "scalable.run_stores"
#: Where runs are by default.
DEFAULT_FOLDER: Final = ".scalable/runs"


class StoreType(ABC):
    """How runs are kept.

    Attributes
    ----------
    name
        Its name in a configuration.
    summary
        What it is, in one sentence.
    not_for
        When not to use it, in one sentence.
    """

    name: str
    summary: str
    not_for: str
    #: Declares the settings.
    Config: ClassVar[type[Any]] = NoOptions
    #: Whether another process can open the same place.
    portable: ClassVar[bool] = True

    @property
    def shared(self) -> bool:
        """Whether several programs may write one run."""
        return False

    def declarations(self, config: Mapping[str, Any]) -> tuple[type, ...]:
        """Return the dataclasses that declare the settings."""
        return (self.Config,)

    def check(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return settings by their own names; raises PlaceError if they cannot be used."""
        return checked(config, *self.declarations(config))

    def describe(self, config: Mapping[str, Any], local: str) -> str:
        """Name the place for people, without secrets."""
        return self.name

    def secrets(self, config: Mapping[str, Any]) -> set[str]:
        """Return the names of settings that are secret."""
        declared = [one for each in self.declarations(config) for one in settings_of(each)]
        return {setting.name for setting in declared if setting.secret}

    def synonyms(self, config: Mapping[str, Any]) -> dict[str, str]:
        """Return other names of settings."""
        return synonyms_of(*self.declarations(config))

    def is_cloud(self, config: Mapping[str, Any]) -> bool:
        """Whether the place is an object storage that needs a library."""
        return False

    @abstractmethod
    def root(self, config: Mapping[str, Any], local: str) -> StoreRoot:
        """Return where a run is written on this machine; runs are made below `local`."""

    def objects(self, config: Mapping[str, Any]) -> RunStore | None:
        """Return the place to which runs are copied, opened; None if there is none."""
        return None


class FileSystem(StoreType):
    """One writer for each run, on a file system."""

    name = "file-system"
    summary = "a directory for each run"
    not_for = "Not for several programs that write one run: each of them gets a run of its own."

    @dataclass(frozen=True)
    class Config:
        """Settings.

        Attributes
        ----------
        log_folder
            The directory of runs. Default: the option `runs_dir`.
        """

        log_folder: str = ""

    def check(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Expand the user's directory."""
        found = super().check(config)
        if found.get("log_folder"):
            found["log_folder"] = str(Path(found["log_folder"]).expanduser())
        return found

    def describe(self, config: Mapping[str, Any], local: str) -> str:
        """Return the directory."""
        return config.get("log_folder") or local or DEFAULT_FOLDER

    def root(self, config: Mapping[str, Any], local: str) -> StoreRoot:
        """Return the directory of runs."""
        return FileRoot(self.describe(config, local))


class ChunkedFileSystem(FileSystem):
    """Many writers for one run, on a file system that they share."""

    name = "chunked-fs"
    summary = "a directory for each run, with a part for each program that joins it"
    not_for = "Not for programs that do not join: a single writer needs no parts."

    @property
    def shared(self) -> bool:
        """Always."""
        return True

    def root(self, config: Mapping[str, Any], local: str) -> StoreRoot:
        """Return the directory of runs."""
        module: Any = import_module("scalable_runs.stores.shared")
        return module.SharedFileRoot(self.describe(config, local))


class Buffered(StoreType):
    """Memory of the program."""

    name = "buffered"
    summary = "the program's memory, nothing on disk"
    not_for = "Not for a record that has to outlive the program, or for millions of tasks."
    portable = False

    def describe(self, config: Mapping[str, Any], local: str) -> str:
        """Return that it is memory."""
        return "memory"

    def root(self, config: Mapping[str, Any], local: str) -> StoreRoot:
        """Return a new place in memory."""
        from scalable_runs.stores.memory import MemoryRoot

        return MemoryRoot()


#: Object storages by the name in `provider`, which is also the scheme of their URLs; others
#: that mean the same are in :data:`SCHEMES`.
PROVIDERS: Final = {
    "s3": "scalable_runs.stores.objects:S3Objects",
    "gs": "scalable_runs.stores.objects:GoogleObjects",
    "az": "scalable_runs.stores.objects:AzureObjects",
    "directory": "scalable_runs.stores.directory:DirectoryObjects",
}
#: Schemes of URLs of object storages.
SCHEMES: Final = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "az": "az", "azure": "az"}


@dataclass(frozen=True)
class Copying:
    """Settings of every place that runs are copied to.

    Attributes
    ----------
    compress
        Whether all files of lines are compressed when the run has ended, not just large ones.
    """

    compress: bool = False


@dataclass(frozen=True)
class Provider(Copying):
    """Settings of types that stand for several storages.

    Attributes
    ----------
    provider
        Which one.
    """

    provider: str = "s3"


class Objects(StoreType):
    """A place of objects, to which a run on this machine is copied while it is written."""

    def __init__(self, name: str, summary: str, not_for: str, *, shared: bool = False) -> None:
        self.name = name
        self.summary = summary
        self.not_for = not_for
        self._shared = shared

    @property
    def shared(self) -> bool:
        """As the type says."""
        return self._shared

    def place_class(self, config: Mapping[str, Any]) -> type[RunStore]:
        """Return the class of the place."""
        provider = config.get("provider", Provider.provider)
        if provider not in PROVIDERS:
            hint = suggestion(str(provider), PROVIDERS)
            raise PlaceError(f"there is no provider {provider!r}; {hint}", "config.provider")
        return _loaded(PROVIDERS[provider])

    def is_cloud(self, config: Mapping[str, Any]) -> bool:
        """Whether the provider is an object storage."""
        return config.get("provider", Provider.provider) in SCHEMES.values()

    def declarations(self, config: Mapping[str, Any]) -> tuple[type, ...]:
        """Return those of the provider, and those that all have."""
        return (self.place_class(config).Config, Provider)

    def check(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Take `url` apart first, if it is given."""
        config = dict(config)
        url = config.pop("url", None)
        if url is not None:
            config = {**of_url(str(url)).config, **config}
        return super().check(config)

    def describe(self, config: Mapping[str, Any], local: str) -> str:
        """Return the URL, and the endpoint if there is one."""
        if "path" in config:
            return str(config["path"])
        scheme = config.get("provider", Provider.provider)
        bucket, prefix = config.get("bucket_name", ""), config.get("prefix", "").strip("/")
        where = f"{scheme}://{bucket}/{prefix}".rstrip("/")
        host = urlsplit(config.get("endpoint") or "").hostname
        return f"{where} at {host}" if host else where

    def root(self, config: Mapping[str, Any], local: str) -> StoreRoot:
        """Return the directory of the runs on this machine."""
        here: StoreType = ChunkedFileSystem() if self.shared else FileSystem()
        return here.root({}, local)

    def objects(self, config: Mapping[str, Any]) -> RunStore:
        """Open the place."""
        place = self.place_class(config)
        try:
            return place(made(place.Config, config))  # pyright: ignore[reportCallIssue]
        except ValueError as error:
            raise PlaceError(str(error)) from None


class ThirdParty(Objects):
    """A place of objects that another package brings."""

    def __init__(self, name: str, place: type[RunStore]) -> None:
        about = (place.__doc__ or "").strip().partition("\n")[0].rstrip(".")
        not_for = getattr(place, "not_for", "See the package that brings it.")
        super().__init__(name, about or f"of {place.__module__}", not_for, shared=place.shared)
        self._place = place

    def place_class(self, config: Mapping[str, Any]) -> type[RunStore]:
        """Return the class that was registered."""
        return self._place

    def is_cloud(self, config: Mapping[str, Any]) -> bool:
        """Whatever it needs, its own package brings."""
        return False

    def declarations(self, config: Mapping[str, Any]) -> tuple[type, ...]:
        """Return those of the class, and those that all have."""
        return (self._place.Config, Copying)

    def check(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Check the settings."""
        return StoreType.check(self, config)

    def describe(self, config: Mapping[str, Any], local: str) -> str:
        """Return the type with the settings that are not secret."""
        secrets = self.secrets(config)
        shown = [f"{name}={value}" for name, value in config.items() if name not in secrets]
        return f"{self.name} ({', '.join(shown)})" if shown else self.name


_OBJECT: Final = "object storage; a run is also kept in runs_dir, and copied while it is written"
_CHUNKED: Final = "object storage alone; each program that joins a run writes objects of its own"
_NOT_OBJECT: Final = "Not for several programs that write one run: see chunked-object."
_NOT_CHUNKED: Final = "Not for one writer, which `object` serves with fewer requests."
FILES: Final = FileSystem()
MEMORY: Final = Buffered()
SHARED_FILES: Final = ChunkedFileSystem()
OBJECTS: Final = Objects("object", _OBJECT, _NOT_OBJECT)
SHARED_OBJECTS: Final = Objects("chunked-object", _CHUNKED, _NOT_CHUNKED, shared=True)
_BUILT_IN: Final[tuple[StoreType, ...]] = (FILES, MEMORY, SHARED_FILES, OBJECTS, SHARED_OBJECTS)
#: Names of types that mean another one.
ALIASES: Final = {"minio": "object", "chunked-minio": "chunked-object"}


@dataclass(frozen=True, slots=True)
class Named:
    """A type by its name, and settings that are not checked yet."""

    type: str
    config: dict[str, Any]


def built_in(name: str) -> StoreType | None:
    """Return a type of this package, by its name or another that means it."""
    name = ALIASES.get(name, name)
    return next((one for one in _BUILT_IN if one.name == name), None)


def find_type(name: str) -> StoreType:
    """Return the type of a name.

    Raises
    ------
    PlaceError
        There is none, or the package that brings it cannot be used.
    """
    found = built_in(name)
    if found is not None:
        return found
    return _third_party(name)


def all_types() -> list[StoreType]:
    """Return all types: those of this package, and those that others bring."""
    return [*_BUILT_IN, *(_third_party(name) for name in third_parties())]


def type_names() -> list[str]:
    """Return the names of all types, and the aliases."""
    return [*(one.name for one in _BUILT_IN), *ALIASES, *third_parties()]


@cache
def _registered() -> dict[str, Any]:
    from importlib.metadata import entry_points

    found = {entry.name: entry for entry in entry_points(group=GROUP)}
    return {name: entry for name, entry in found.items() if built_in(name) is None}


def third_parties() -> Iterable[str]:
    """Return the names of types that others bring."""
    return _registered().keys()


@cache
def _third_party(name: str) -> StoreType:
    entry = _registered().get(name)
    if entry is None:
        raise PlaceError(f"there is no run store {name!r}; {suggestion(name, type_names())}")
    try:
        place: Any = entry.load()
    except Exception as error:
        raise PlaceError(f"run store {name!r} cannot be used: {error}") from error
    if isinstance(place, type) and issubclass(place, RunStore):
        return ThirdParty(name, place)
    raise PlaceError(f"run store {name!r} cannot be used: {entry.value} is not a RunStore")


def of_url(url: str) -> Named:
    """Return the type and the settings that a URL stands for.

    What follows a `?` are settings, such as ``?endpoint=http://127.0.0.1:9000&region=eu-west-1``.

    Raises
    ------
    PlaceError
        The URL is not that of a place of runs.
    """
    scheme, _, rest = url.partition("://")
    scheme = scheme.lower()
    parts = urlsplit(f"any://{rest}")
    if "@" in parts.netloc:
        raise PlaceError(
            f"{scheme}:// with a password or key: give secrets by their own settings or variables"
        )
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    path = unquote(parts.path)
    if scheme == "memory":
        return Named(Buffered.name, query)
    if scheme == "file":
        if parts.netloc not in ("", "localhost"):
            raise PlaceError(f"file:// with a host {parts.netloc!r}: write file:///the/directory")
        return Named(FileSystem.name, {"log_folder": path, **query})
    if scheme in SCHEMES:
        config: dict[str, Any] = {"provider": SCHEMES[scheme], "bucket_name": parts.netloc}
        if path.strip("/"):
            config["prefix"] = path.strip("/")
        return _without_secrets(Named("object", {**config, **query}), scheme)
    if scheme in third_parties():
        place = find_type(scheme)
        declared = {one.name for each in place.declarations({}) for one in settings_of(each)}
        if "url" in declared:
            return Named(scheme, {"url": url})
        if "path" in declared:
            return _without_secrets(Named(scheme, {"path": parts.netloc + path, **query}), scheme)
        raise PlaceError(f"{scheme}:// has no URL: give `type: {scheme}` and `config:`")
    known = ["file", "memory", *SCHEMES, *third_parties()]
    raise PlaceError(f"{scheme}:// is not the place of a run store; {suggestion(scheme, known)}")


def _without_secrets(named: Named, scheme: str) -> Named:
    secret = find_type(named.type).secrets(named.config) & named.config.keys()
    if secret:
        raise PlaceError(
            f"{scheme}:// with {min(secret)}: give secrets by their own settings or variables"
        )
    return named


def _loaded(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)


def absolute(folder: str) -> str:
    """Return a directory's absolute path, that of the working directory for an empty one."""
    return os.path.abspath(os.path.expanduser(folder))  # noqa: PTH100, PTH111
