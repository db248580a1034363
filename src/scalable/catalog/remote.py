"""A catalog at a URL that fsspec can read and write."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, Final, cast

from scalable.catalog.errors import CatalogError
from scalable.catalog.files import copy_stream, new_file, temporary_in
from scalable.catalog.local import CONTENT, LocalPlace
from scalable.catalog.places import without_user
from scalable.common.digests import consume

#: Storages that show an object once it is complete. On others it is renamed into place.
_WHOLE: Final = frozenset(
    {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "oss", "memory"}
)
#: What brings a scheme that fsspec knows and cannot open.
_PACKAGES: Final = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs"}


class RemotePlace:
    """Keeps a catalog elsewhere; what is read of it is kept in a directory of this machine.

    Any thread may use it. Contents are copied here before they are sent, so that what arrives has
    the digest that it is named by. See :class:`~scalable.catalog.places.Place`.
    """

    def __init__(self, url: str, here: Path) -> None:
        self._url = url
        self._here = LocalPlace(here)
        self._scheme = url.partition("://")[0]
        self._system, self._root = self._opened()

    def _opened(self) -> tuple[Any, str]:
        try:
            import fsspec
        except ImportError:
            raise CatalogError(
                f"a catalog at {self.location} needs fsspec, which is not installed: "
                "pip install 'scalable-otel[dask]'"
            ) from None
        try:
            system, root = cast("Any", fsspec).core.url_to_fs(self._url)
        except ImportError as error:
            package = _PACKAGES.get(self._scheme, "")
            how = f"pip install {package}" if package else str(error)
            raise CatalogError(f"a catalog at {self.location} needs more packages: {how}") from None
        except Exception as error:
            raise self._failed("cannot be opened", error) from None
        return system, str(root).rstrip("/")

    @property
    def location(self) -> str:
        """The URL without user and password."""
        return without_user(self._url)

    @property
    def staging(self) -> Path:
        """The directory of temporary files."""
        return self._here.staging

    @property
    def digests(self) -> Path:
        """The directory in which digests of large files are remembered."""
        return self._here.digests

    def add(self, hexadecimal: str, temporary: Path) -> None:
        """Send a complete file; it is kept here too, for those who read it here."""
        self._here.add(hexadecimal, temporary)
        self._send(self._here.path_of(hexadecimal), f"{CONTENT}/{hexadecimal[:2]}/{hexadecimal}")

    def has(self, hexadecimal: str) -> bool:
        """Whether there is a content of that digest, and of the size that it has here.

        A content that was not read here is not trusted: it is sent again.
        """
        if not self._here.has(hexadecimal):
            return False
        with self._errors("cannot be read"):
            try:
                found = self._system.info(self._key(f"{CONTENT}/{hexadecimal[:2]}/{hexadecimal}"))
            except FileNotFoundError:
                return False
            return found.get("size") == self._here.path_of(hexadecimal).stat().st_size
        return False

    def fetch(self, hexadecimal: str) -> tuple[Path, str]:
        """Return a copy of a content on this machine, and the digest of what came."""
        path = self._here.path_of(hexadecimal)
        if self._here.has(hexadecimal):
            return path, f"sha256:{hexadecimal}"
        temporary = temporary_in(self.staging)
        with self._errors("cannot be read"), self._reading(hexadecimal) as source:
            with new_file(temporary) as target:
                _, digest = copy_stream(source, target)
        if digest == f"sha256:{hexadecimal}":
            self._here.add(hexadecimal, temporary)
        else:
            temporary.unlink()
        return path, digest

    def contents(self) -> Iterator[str]:
        """Yield the digits of every content."""
        for shard in self.list(CONTENT):
            for name in self.list(f"{CONTENT}/{shard}"):
                if len(name) == 64:
                    yield name

    def measure(self, hexadecimal: str) -> str:
        """Return the digest of a content, read anew."""
        with self._errors("cannot be read"), self._reading(hexadecimal) as source:
            return consume(source)[1]
        raise AssertionError("unreachable")

    def write(self, key: str, text: bytes) -> None:
        """Keep a text under a relative path."""
        temporary = temporary_in(self.staging)
        try:
            with new_file(temporary) as file:
                file.write(text)
            self._send(temporary, key)
        finally:
            temporary.unlink(missing_ok=True)

    def read(self, key: str, limit: int) -> bytes:
        """Return the text under a relative path."""
        with self._errors("cannot be read"), self._system.open(self._key(key), "rb") as file:
            return bytes(file.read(limit))
        raise AssertionError("unreachable")

    def list(self, key: str) -> list[str]:
        """Return the names of what is directly below a relative path."""
        path = self._key(key)
        with self._errors("cannot be read"):
            self._system.invalidate_cache()  # others write too
            try:
                found = self._system.ls(path, detail=False)
            except (FileNotFoundError, NotADirectoryError):
                return []
            names = {str(one).rstrip("/").rpartition("/")[2] for one in found}
            return sorted(names - {path.rpartition("/")[2], ""})
        return []

    def _reading(self, hexadecimal: str) -> Any:
        return self._system.open(self._key(f"{CONTENT}/{hexadecimal[:2]}/{hexadecimal}"), "rb")

    def _send(self, path: Path, key: str) -> None:
        target = self._key(key)
        with self._errors("cannot be written"):
            if self._scheme in _WHOLE:
                self._system.put_file(str(path), target)
                return
            temporary = self._key(f"tmp/{secrets.token_hex(12)}")
            self._system.makedirs(temporary.rpartition("/")[0], exist_ok=True)
            self._system.makedirs(target.rpartition("/")[0], exist_ok=True)
            self._system.put_file(str(path), temporary)
            self._system.mv(temporary, target)

    def _key(self, key: str) -> str:
        return f"{self._root}/{key}"

    @contextlib.contextmanager
    def _errors(self, what: str) -> Generator[None]:
        """Say what did not work, without the secrets that an error's own text may have."""
        try:
            yield
        except (FileNotFoundError, CatalogError):
            raise
        except Exception as error:
            raise self._failed(what, error) from None

    def _failed(self, what: str, error: Exception) -> CatalogError:
        reason = without_user(str(error)) or type(error).__name__
        user = self._url.partition("://")[2].rpartition("@")[0]
        for part in filter(None, (user, *user.split(":"))):
            reason = reason.replace(part, "***")
        return CatalogError(f"the catalog at {self.location} {what}: {reason}")
