"""The catalog: contents by their digests, and the versions of names."""

from __future__ import annotations

import contextlib
import glob
import io
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from scalable.catalog import names, views
from scalable.catalog.entries import (
    MAX_TREE,
    MAX_VERSION,
    CatalogEntry,
    new_version,
    read_entry,
    read_tree,
)
from scalable.catalog.errors import CatalogError, ChangedError, NotInCatalogError, redactor
from scalable.catalog.incoming import Incoming
from scalable.catalog.opening import open_place
from scalable.catalog.places import TREES, Place, without_user
from scalable.common.digests import (
    TreeItem,
    is_digest,
    tree_digest,
)

_NAMES: Final = "names"
_VERSION: Final = re.compile(r"(\d{8}T\d{6}\.\d{6}Z-[0-9a-f]{8})\.json")
#: Entries that a pattern may match.
_MAX_MATCHES: Final = 100_000


@dataclass(frozen=True, slots=True)
class Changed:
    """Something in the catalog that is not as it was put there.

    Attributes
    ----------
    what : str
        ``content``, ``directory`` or ``version``.
    names : tuple of str
        Names of which a version has it, as far as they are known.
    expected, found : str
        The digest that it should have; the one it has, or why there is none.
    """

    what: str
    names: tuple[str, ...]
    expected: str
    found: str


class Catalog:
    """Files, directories and bytes under names; each name has versions, and each version a digest.

    Any number of threads and processes, on any hosts, may use one place at once. Nothing is locked:
    a content is complete before it has its name, and a version is written after its content.

    Parameters
    ----------
    place : path or URL, optional
        A directory, or a URL that fsspec can read and write. Default: that of the run that goes on
        here, else ``SCALABLE_CATALOG``, else ``.scalable/catalog``.
    """

    def __init__(self, place: str | os.PathLike[str] | None = None) -> None:
        self._place: Place = open_place(place)
        self._incoming = Incoming(self._place)

    @property
    def location(self) -> str:
        """Where it is, without secrets."""
        return self._place.location

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.location}>"

    # -- put ----------------------------------------------------------------------------------

    def put(
        self,
        path_or_glob: str | os.PathLike[str],
        *,
        name: str | None = None,
        kind: str | None = None,
        origin: Callable[[], dict[str, Any]] | None = None,
    ) -> tuple[CatalogEntry, ...]:
        """Put files and directories there; see :func:`scalable.catalog.put`.

        `origin` returns the fields of an entry that say which run and attempt put it there.
        """
        about = {"kind": kind, **(origin() if origin is not None else {})}
        text = os.fspath(path_or_glob)
        if name is not None:
            names.check_name(name)
        if "://" in text:
            chosen = names.check_name(name if name is not None else names.name_of_path(text))
            size, digest = self._incoming.url(text)
            return (self._version(chosen, digest, size, None, without_user(text), about),)
        path = Path(text).expanduser()
        if os.path.lexists(path) or not glob.has_magic(text):
            chosen = name if name is not None else names.name_of_path(path)
            return (self._put_path(path, names.check_name(chosen), about),)
        found = _matches(text)
        chosen_names = [names.check_name(_name_of_match(one, text, name)) for one in found]
        return tuple(
            self._put_path(Path(one), chosen, about)
            for one, chosen in zip(found, chosen_names, strict=True)
        )

    def put_bytes(
        self, data: bytes | bytearray | memoryview, *, name: str, kind: str | None = None
    ) -> str:
        """Put bytes there under a name; returns their digest. Nothing is recorded.

        Raises
        ------
        CatalogError
            The name is not allowed, or the place cannot be written.
        """
        names.check_name(name)
        size, digest = self._incoming.stream(io.BytesIO(data))
        return self._version(name, digest, size, None, None, {"kind": kind}).digest

    def _put_path(self, path: Path, name: str, about: dict[str, Any]) -> CatalogEntry:
        source = os.path.abspath(path)  # noqa: PTH100 - links are kept
        try:
            size, digest, files = self._incoming.path(path)
        except FileNotFoundError:
            raise NotInCatalogError(_no_file(path)) from None
        return self._version(name, digest, size, files, source, about)

    def _version(
        self,
        name: str,
        digest: str,
        size: int,
        files: int | None,
        source: str | None,
        about: dict[str, Any],
    ) -> CatalogEntry:
        """Make a version of a name, unless the latest one is the same already."""
        folder = f"{_NAMES}/{names.spelled(name)}"
        versions = self._versions(name)
        version, now = new_version(versions[-1] if versions else None)
        entry = CatalogEntry(name, version, digest, size, files, created_at=now)
        shown = redactor()(source) if source is not None else None
        entry = replace(entry, source=shown, **about)
        latest = self._read(name, versions[-1]) if versions else None
        if latest is not None and (latest.digest, latest.kind) == (digest, entry.kind):
            return replace(entry, version=latest.version, created_at=latest.created_at)
        self._place.write(f"{folder}/{version}.json", entry.text())
        return entry

    # -- look up ------------------------------------------------------------------------------

    def names(self) -> Iterator[str]:
        """Yield every name, in the order in which they are kept."""
        for spelled in self._place.list(_NAMES):
            name = names.unspelled(spelled)
            if names.spelled(name) == spelled:
                yield name
            else:  # a long name is in its versions only
                for version in reversed(self._place.list(f"{_NAMES}/{spelled}")):
                    with contextlib.suppress(OSError, ValueError):
                        key = f"{_NAMES}/{spelled}/{version}"
                        yield read_entry(self._place.read(key, MAX_VERSION)).name
                        break

    def versions(self, name: str) -> list[CatalogEntry]:
        """Return the versions of a name, the latest last; one that cannot be read is left out."""
        read = (self._read(names.check_name(name), version) for version in self._versions(name))
        return [entry for entry in read if entry is not None]

    def entry(self, name: str, *, digest: str | None = None) -> CatalogEntry:
        """Return the latest version of a name, or the latest of a digest.

        Parameters
        ----------
        name
            Its name, or a whole digest (``sha256:…``) of any version.
        digest
            A digest, or its beginning.

        Raises
        ------
        NotInCatalogError
            There is none; names that are close are named.
        """
        if is_digest(name):
            return self._entry_of_digest(name)
        names.check_name(name)
        wanted = None if digest is None else digest.removeprefix("sha256:")
        if wanted is not None and re.fullmatch("[0-9a-f]{4,64}", wanted) is None:
            raise CatalogError(
                f"{digest!r} is not the beginning of a digest: give 4 digits or more"
            )
        found: list[str] = []
        for version in reversed(self._versions(name)):
            entry = self._read(name, version)
            if entry is not None and (wanted is None or _digits(entry.digest).startswith(wanted)):
                return entry
            found += [] if entry is None else [entry.digest[:19]]
        if found:
            others = ", ".join(dict.fromkeys(found))
            raise NotInCatalogError(f"{name!r} has no version {digest}: it has {others}")
        raise NotInCatalogError(
            f"{name!r} is not in the catalog {self.location}: {names.near(name, self.names())}"
        )

    def entries(self) -> Iterator[CatalogEntry]:
        """Yield the latest version of each name."""
        for name in self.names():
            with contextlib.suppress(NotInCatalogError):
                yield self.entry(name)

    def holders(self, digest: str) -> Iterator[CatalogEntry]:
        """Yield every version with a digest, and of directories those with such a file."""
        trees = set(self.directories_with(digest))
        for name in self.names():
            for entry in self.versions(name):
                if entry.digest == digest or entry.digest in trees:
                    yield entry

    def has(self, digest: str) -> bool:
        """Whether the content of a file or directory is there, and right as far as it is read."""
        if self._place.has(_digits(digest)):
            return True
        try:
            items = self._tree(digest, digest)
        except CatalogError:
            return False
        return all(item.digest is None or self._place.has(_digits(item.digest)) for item in items)

    def digest(self, name: str) -> str:
        """Return the digest of what :meth:`get` returns for a name, without reading it.

        Raises
        ------
        NotInCatalogError
            There is nothing of that name.
        """
        if is_digest(name):
            if not self.has(name):
                raise NotInCatalogError(f"{name} is not in the catalog {self.location}")
            return name
        entries = self.found(name)
        is_one = entries[0].name == name
        return entries[0].digest if is_one else tree_digest(self._joined(entries, name))

    def restore(
        self, name: str, digest: str, *, origin: Callable[[], dict[str, Any]] | None = None
    ) -> CatalogEntry:
        """Make an earlier version of a name the latest one; nothing if it is.

        Raises
        ------
        NotInCatalogError
            There is no such version, or its content is gone.
        """
        entry = self.entry(name, digest=digest)
        if not self.has(digest):
            raise NotInCatalogError(f"the content of {name!r}, {digest}, is gone")
        about = {"kind": entry.kind, **(origin() if origin is not None else {})}
        return self._version(name, digest, entry.size_bytes, entry.files, entry.source, about)

    # -- get ----------------------------------------------------------------------------------

    def get(self, name: str, *, digest: str | None = None) -> Path:
        """Return a path on this machine; see :func:`scalable.catalog.get`."""
        return self.fetch(name, self.found(name, digest=digest))

    def found(self, name: str, *, digest: str | None = None) -> tuple[CatalogEntry, ...]:
        """Return what :meth:`get` reads: one entry, or the latest of all names below a name.

        Raises
        ------
        NotInCatalogError
            There is none.
        """
        try:
            return (self.entry(name, digest=digest),)
        except NotInCatalogError:
            below = [] if digest else [one for one in self.names() if one.startswith(f"{name}/")]
            if not below:
                raise
        return tuple(self.entry(one) for one in below)

    def fetch(self, name: str, entries: tuple[CatalogEntry, ...]) -> Path:
        """Check what :meth:`found` has returned for a name, and return a path of it.

        Raises
        ------
        ChangedError
            The content is not what was put there.
        NotInCatalogError
            It is gone.
        """
        first = entries[0]
        is_one = is_digest(name) or first.name == name
        if is_one and not first.is_directory:
            content = self._content(first.digest, first.name)
            return views.file(self._views(first.digest), content, names.last_part(first.name))
        shown = first.name if is_one else name
        items = self._tree(first.digest, shown) if is_one else self._joined(entries, name)
        contents: dict[str | None, Path] = {
            item.digest: self._content(item.digest, f"{shown}/{item.path}")
            for item in items
            if item.digest is not None
        }
        folder = self._views(tree_digest(items))
        return views.directory(folder, items, contents, names.last_part(shown))

    def read(self, name: str, *, digest: str | None = None) -> bytes:
        """Return the content of a file, or that of a digest, checked, as bytes."""
        if is_digest(name):
            return self._content(name, name).read_bytes()
        entry = self.entry(name, digest=digest)
        if entry.is_directory:
            raise CatalogError(f"{name!r} is a directory in the catalog: get() returns its path")
        return self._content(entry.digest, entry.name).read_bytes()

    def _joined(self, entries: tuple[CatalogEntry, ...], base: str) -> list[TreeItem]:
        items: list[TreeItem] = []
        for entry in entries:
            below = entry.name.removeprefix(f"{base}/")
            if entry.is_directory:
                of_entry = self._tree(entry.digest, entry.name)
                items += [item._replace(path=f"{below}/{item.path}") for item in of_entry]
            else:
                items.append(TreeItem(below, entry.digest, None, entry.size_bytes))
        return items

    def _content(self, digest: str, name: str) -> Path:
        try:
            path, found = self._place.fetch(_digits(digest))
        except FileNotFoundError:
            raise NotInCatalogError(
                f"the content of {name!r}, {digest}, is gone from the catalog {self.location}"
            ) from None
        if found != digest:
            raise self._changed(name, digest, found)
        return path

    def _tree(self, digest: str, name: str) -> list[TreeItem]:
        try:
            text = self._place.read(f"{TREES}/{_digits(digest)}.json", MAX_TREE)
        except FileNotFoundError:
            raise NotInCatalogError(
                f"the list of files of {name!r}, {digest}, is gone from {self.location}"
            ) from None
        try:
            items = read_tree(text)
        except ValueError as error:
            raise self._changed(name, digest, f"nothing that can be read ({error})") from None
        if tree_digest(items) != digest:
            raise self._changed(name, digest, tree_digest(items))
        return items

    def _changed(self, name: str, expected: str, found: str) -> ChangedError:
        message = (
            f"{name!r} was changed in the catalog {self.location}: {expected} was put there, now "
            f"it is {found}. Put it there again, or get an earlier version"
        )
        return ChangedError(message, expected, found)

    def _views(self, digest: str) -> Path:
        return self._place.staging.parent / "files" / _digits(digest)

    # -- verify -------------------------------------------------------------------------------

    def verify(
        self, only: str | None = None, progress: Callable[[int, int], None] | None = None
    ) -> Iterator[Changed]:
        """Read all contents again, or those of a name, and yield what is not as it was put there.

        `progress` is called with the number of contents read so far, and of all.
        """
        wanted: dict[str, list[str]] = {}
        known = [only] if only is not None else list(self.names())
        for name in known:
            for version in self._versions(name):
                entry = self._read(name, version)
                if entry is None:
                    yield Changed("version", (name,), version, "not readable")
                else:
                    yield from self._wanted(entry, wanted)
        there = set(wanted) if only is not None else {*wanted, *self._all_contents()}
        for number, digest in enumerate(sorted(there)):
            try:
                found = self._place.measure(_digits(digest))
            except FileNotFoundError:
                found = "gone"
            if found != digest:
                yield Changed("content", tuple(wanted.get(digest, ())), digest, found)
            if progress is not None:
                progress(number + 1, len(there))

    def _wanted(self, entry: CatalogEntry, wanted: dict[str, list[str]]) -> Iterator[Changed]:
        """Note which contents a version needs."""
        digests = [entry.digest]
        if entry.is_directory:
            try:
                items = self._tree(entry.digest, entry.name)
            except ChangedError as error:
                yield Changed("directory", (entry.name,), error.expected, error.found)
                return
            except NotInCatalogError:
                yield Changed("directory", (entry.name,), entry.digest, "gone")
                return
            digests = [item.digest for item in items if item.digest is not None]
        for digest in digests:
            holders = wanted.setdefault(digest, [])
            if entry.name not in holders and len(holders) < 10:
                holders.append(entry.name)

    # -- what is kept -------------------------------------------------------------------------

    def _all_contents(self) -> set[str]:
        return {f"sha256:{hexadecimal}" for hexadecimal in self._place.contents()}

    def _versions(self, name: str) -> list[str]:
        matches = map(_VERSION.fullmatch, self._place.list(f"{_NAMES}/{names.spelled(name)}"))
        return [match[1] for match in matches if match is not None]

    def _read(self, name: str, version: str) -> CatalogEntry | None:
        try:
            key = f"{_NAMES}/{names.spelled(name)}/{version}.json"
            entry = read_entry(self._place.read(key, MAX_VERSION))
        except (FileNotFoundError, ValueError):
            return None
        # What it says of itself is not believed where the place says it too.
        return replace(entry, name=name, version=version)

    def _entry_of_digest(self, digest: str) -> CatalogEntry:
        for entry in self.holders(digest):
            if entry.digest == digest:
                return entry
        raise NotInCatalogError(f"{digest} is in no version of the catalog {self.location}")

    def directories_with(self, digest: str) -> Iterator[str]:
        """Yield the digests of directories with a file of this digest."""
        for name in self._place.list(TREES):
            with contextlib.suppress(FileNotFoundError, ValueError):
                text = self._place.read(f"{TREES}/{name}", MAX_TREE)
                if any(item.digest == digest for item in read_tree(text)):
                    yield f"sha256:{name.removesuffix('.json')}"


def _digits(digest: str) -> str:
    return digest.removeprefix("sha256:")


def _matches(pattern: str) -> list[str]:
    recursive = "**" in pattern.split("/")
    text = str(Path(pattern).expanduser())
    found: list[str] = []
    for one in glob.iglob(text, recursive=recursive):  # noqa: PTH207 - `**` of glob is wanted
        # In `**`, a directory's files are found as well.
        if Path(one).is_file() or (not recursive and Path(one).is_dir()):
            found.append(one)
        if len(found) > _MAX_MATCHES:
            raise CatalogError(
                f"{pattern} matches more than {_MAX_MATCHES:,} files: put the directory instead"
            )
    if not found:
        raise NotInCatalogError(f"no file matches {pattern}")
    return sorted(found)


def _name_of_match(path: str, pattern: str, name: str | None) -> str:
    if name is None:
        return names.name_of_path(path)
    base = names.glob_base(str(Path(pattern).expanduser()))
    below = os.path.relpath(path, base or ".")
    return f"{name}/{Path(below).as_posix()}"


def _no_file(path: Path) -> str:
    """Say that there is no such file, and which are close."""
    text = f"there is no file {path}"
    with contextlib.suppress(OSError):
        beside = [one.name for one in path.parent.iterdir()]
        hint = names.near(path.name, beside) if beside else ""
        if hint.startswith("did you mean"):
            return f"{text}: {hint}"
    return f"{text} (in {Path.cwd()})" if not path.is_absolute() else text
