"""A catalog in a directory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from scalable.catalog.files import new_file, publish, remove_abandoned, temporary_in
from scalable.common.digests import consume, file_digest, open_regular, without_holes

#: Of a place: contents by digest; texts of other keys are beside them.
CONTENT: Final = "content"
#: What is not complete yet, and digests of large files.
_TEMPORARY: Final = "tmp"
_DIGESTS: Final = "digests"


class LocalPlace:
    """Keeps a catalog in a directory; any number of threads and processes may use it.

    Each file is written beside its place, synced and then given its name, so that a killed process
    leaves nothing but a temporary file. See :class:`~scalable.catalog.places.Place`.
    """

    _cleaned: Final[set[Path]] = set()

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def location(self) -> str:
        """The directory's path."""
        return str(self.root)

    @property
    def staging(self) -> Path:
        """The directory of temporary files."""
        folder = self.root / _TEMPORARY
        if folder not in self._cleaned:
            self._cleaned.add(folder)
            remove_abandoned(folder)
        return folder

    @property
    def digests(self) -> Path:
        """The directory in which digests of large files are remembered."""
        return self.root / _DIGESTS

    def path_of(self, hexadecimal: str) -> Path:
        """Return where a content is, or would be."""
        return self.root / CONTENT / hexadecimal[:2] / hexadecimal

    def add(self, hexadecimal: str, temporary: Path) -> None:
        """Keep a complete file as the content of that digest; the file goes."""
        # What was changed there is replaced.
        path = self.path_of(hexadecimal)
        publish(temporary, path, replace=path.exists() and not self.has(hexadecimal))

    def has(self, hexadecimal: str) -> bool:
        """Whether there is a content of that digest, and it is what it should be."""
        try:
            found = file_digest(self.path_of(hexadecimal), kept_in=self.digests)[1]
        except OSError:
            return False
        return found == f"sha256:{hexadecimal}"

    def fetch(self, hexadecimal: str) -> tuple[Path, str]:
        """Return where a content is, and its digest as found there."""
        path = self.path_of(hexadecimal)
        return path, file_digest(path, kept_in=self.digests)[1]

    def contents(self) -> Iterator[str]:
        """Yield the digits of every content."""
        for shard in self.list(CONTENT):
            for name in self.list(f"{CONTENT}/{shard}"):
                if len(name) == 64:
                    yield name

    def measure(self, hexadecimal: str) -> str:
        """Return the digest of a content, read anew."""
        with open_regular(self.path_of(hexadecimal)) as file:
            return consume(without_holes(file))[1]

    def write(self, key: str, text: bytes) -> None:
        """Keep a text under a relative path."""
        temporary = temporary_in(self.staging)
        with new_file(temporary) as file:
            file.write(text)
        publish(temporary, self.root / key, replace=True)

    def read(self, key: str, limit: int) -> bytes:
        """Return the text under a relative path."""
        with open_regular(self.root / key) as file:
            return file.read(limit)

    def list(self, key: str) -> list[str]:
        """Return the names of what is directly below a relative path."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return sorted(path.name for path in (self.root / key).iterdir())
        return []
