"""A packed run, for readers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, ClassVar

from scalable_runs import journal, schema
from scalable_runs.packed.archive import Archive
from scalable_runs.stores.base import Entry
from scalable_runs.stores.read_only import ReadOnly


class PackedStore(ReadOnly):
    """A run, or a writer's part of one, in a `.tar.zst`.

    Implements the reading half of :class:`~scalable_runs.stores.base.Store`. Used by one thread.

    Parameters
    ----------
    path
        The file.
    writer
        The writer, for its part of the run.
    """

    #: It has no directory.
    directory: Path | None = None
    why: ClassVar[str] = "a packed run is not changed: scalable unpack makes a directory of it"

    def __init__(self, path: str | os.PathLike[str], writer: str | None = None) -> None:
        self.file = Path(path)
        run = self.file.name.removesuffix(schema.PACKED)
        self._folder = "" if writer is None else f"{schema.WRITERS}/{writer}/"
        self.location = str(self.file.with_name(run) / self._folder)
        self._writer = writer

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.file)!r})"

    @cached_property
    def archive(self) -> Archive:
        """The file, once it has been opened."""
        return Archive(self.file)

    def parts(self) -> dict[str, PackedStore]:
        """Return the parts of the writers, by their names."""
        if self._writer is not None:
            return {}
        paths = [name.split("/") for name in self._members()]
        writers = {path[1] for path in paths if len(path) > 2 and path[0] == schema.WRITERS}
        return {
            writer: PackedStore(self.file, writer)
            for writer in sorted(writers)
            if schema.RUN_ID_PATTERN.fullmatch(writer)
        }

    def names(self) -> set[str]:
        """Return the names of members that are in no folder."""
        names = [name.removeprefix(self._folder) for name in self._members()]
        return {name for name in names if "/" not in name}

    def _members(self) -> list[str]:
        try:
            return [name for name in self.archive.members if name.startswith(self._folder)]
        except OSError:
            return []

    def inside(self, folder: str) -> list[str]:
        """Return the names of attachments below a folder."""
        names = [name.removeprefix(self._folder) for name in self._members()]
        return sorted(name for name in names if name.startswith(f"{folder}/"))

    def segments(self) -> dict[str, list[str]]:
        """Return `tasks.jsonl`, `tasks.1.jsonl`, …"""
        return journal.segments_of(self.names())

    def stat(self, name: str) -> Entry | None:
        """Return size and age as they were when the run was packed."""
        try:
            return self.archive.entry(self._folder + name)
        except OSError:
            return None

    def read(self, name: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Yield blocks of a member."""
        left = length
        for block in self.archive.read(self._folder + name, start):
            yield block if left is None else block[:left]
            if left is not None:
                left -= len(block)
                if left <= 0:
                    return

    def attach(self, name: str, *, append: bool = False) -> AbstractContextManager[BinaryIO]:
        """Raise OSError."""
        raise self._refused()

    def link(self, name: str, path: Path) -> bool:
        """Nothing is added."""
        return False

    def detach(self, name: str) -> None:
        """Raise OSError."""
        raise self._refused()

    def delete(self) -> None:
        """Remove the file."""
        self.file.unlink()
