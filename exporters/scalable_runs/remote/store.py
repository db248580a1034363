"""A run in a place of objects, for readers."""

from __future__ import annotations

import errno
import os
from collections.abc import Generator, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Final

import orjson

from scalable_runs import journal, schema
from scalable_runs.remote.cache import ReadCache
from scalable_runs.remote.cached_objects import CachedObjects
from scalable_runs.remote.chunked_files import ChunkedFiles, ChunksGoneError
from scalable_runs.remote.compression import decompressed_parts
from scalable_runs.remote.keys import COMPRESSED, RunKeys, writers_of
from scalable_runs.remote.objects import RANGE
from scalable_runs.stores.base import Entry, is_inside
from scalable_runs.stores.file import BLOCK
from scalable_runs.stores.read_only import ReadOnly
from scalable_runs.stores.run_store import Object, RunStore

#: Times that a file is read on after the run was closed meanwhile.
_MAX_TURNS: Final = 3
#: Bytes of a document that is read before it is asked for.
_SMALL: Final = 1024 * 1024
#: Bytes asked for at once of the parts of a run, of all together and of one at least.
_OF_ALL_PARTS: Final = 32 * 1024 * 1024
_LEAST: Final = 64 * 1024
#: Parts that are looked at at the same time.
_THREADS: Final = 16


class RemoteStore(ReadOnly):
    """A run, or a writer's part of one, as it is in a place of objects.

    Implements the reading half of :class:`~scalable_runs.stores.base.Store`, and attachments. Used
    by one thread. What there is it finds out by one listing at the first call; a run that goes on
    is read anew with another object.

    Parameters
    ----------
    objects
        The place.
    run_id
        The run's id.
    writer
        The writer, for its part of the run.
    entries
        A listing of the run's objects; by default it is made when it is needed.
    cache
        Keeps what was read, on this machine.
    """

    why: ClassVar[str] = "a copy of a run is not written directly"
    #: A reader reads only what it needs.
    reads_are_requests: Final = True
    #: It has no directory.
    directory: Path | None = None

    def __init__(
        self,
        objects: RunStore,
        run_id: str,
        *,
        writer: str | None = None,
        entries: Iterable[Object] | None = None,
        cache: ReadCache | None = None,
    ) -> None:
        self.keys = RunKeys(run_id, writer)
        part = "" if writer is None else f"/{schema.WRITERS}/{writer}"
        self.location = f"{objects.address.rstrip('/')}/{run_id}{part}"
        self._objects = objects
        self._cache = cache
        self._reader = CachedObjects(objects, cache)
        self._prefetched: dict[str, bytes] = {}
        self._entries = None if entries is None else list(entries)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.location!r})"

    # Reading

    def parts(self) -> dict[str, RemoteStore]:
        """Return the parts of the writers, by their names."""
        if self.keys.writer is not None:
            return {}
        run_id, entries = self.keys.run_id, self._listed()
        parts = {
            writer: RemoteStore(
                self._objects, run_id, writer=writer, entries=entries, cache=self._cache
            )
            for writer in writers_of(run_id, entries)
        }
        if len(parts) > 1:
            # A reader goes through all of them at the same time.
            at_once = min(RANGE, max(_LEAST, _OF_ALL_PARTS // len(parts)))
            reader = CachedObjects(self._objects, self._cache, at_once, depth=1)
            for part in parts.values():
                part._reader = reader
            with ThreadPoolExecutor(_THREADS, "scalable-read") as pool:
                list(pool.map(RemoteStore._look, parts.values()))
        return parts

    def _look(self) -> None:
        """Read what tells the state of a part."""
        self.prefetch(schema.RUN)
        with suppress(OSError):
            if self._ends():
                self.prefetch(schema.OWNER)

    def names(self) -> set[str]:
        """Return the names of documents, files and attachments without a folder."""
        try:
            names = {name for name in self._files if "/" not in name}
            plain = {name.removesuffix(COMPRESSED) for name in names if _is_compressed(name)}
            return {name for name in names if not _is_compressed(name)} | plain | set(self._ends())
        except OSError:
            return set()

    def inside(self, folder: str) -> list[str]:
        """Return the names of attachments below a folder."""
        try:
            return sorted(name for name in self._files if name.startswith(f"{folder}/"))
        except OSError:
            return []

    def segments(self) -> dict[str, list[str]]:
        """Return `tasks.jsonl`, `tasks.1.jsonl`, …"""
        return journal.segments_of(self.names())

    def stat(self, name: str) -> Entry | None:
        """Return size and age; the size is that of the file, however it is kept."""
        try:
            entry, is_chunked = self._source(name)
            if is_chunked:
                return Entry(self._ends()[name], self._chunks.modified)
            if entry is None:
                return None
            size = entry.size
            if _is_compressed(entry.key):
                size = self._synced.get(name, size)
            return Entry(size, entry.modified)
        except OSError:
            return None

    def read(self, name: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Yield a file in parts; the next ones are asked for in advance."""
        if length is None:
            yield from self._whole(name, start)
            return
        for block in self._whole(name, start):
            yield block[:length]
            length -= len(block)
            if length <= 0:
                return

    def _whole(self, name: str, start: int) -> Iterator[bytes]:
        if not is_inside(name):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        for _ in range(_MAX_TURNS):
            try:
                for data in self._read(name, start):
                    for at in range(0, len(data), BLOCK):
                        yield data[at : at + BLOCK]
                return
            except ChunksGoneError as error:
                start = error.position
                self._look_again()
        raise OSError("its objects are replaced again and again while it is read")

    def prefetch(self, name: str) -> None:
        """Read a small document that will be read; any thread may call it."""
        entry = self._files.get(name)
        if entry is not None and entry.size <= _SMALL:
            with suppress(OSError):
                self._prefetched[name] = self._reader.get(entry, 0, entry.size)

    def _read(self, name: str, start: int) -> Iterator[bytes]:
        if not start and (data := self._prefetched.pop(name, None)) is not None:
            return iter((data,))
        entry, is_chunked = self._source(name)
        if is_chunked:
            return self._chunks.read(name, start)
        if entry is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        if _is_compressed(entry.key) and not _is_compressed(name):
            return _decompressed(self._reader.parts(entry), start)
        return self._reader.parts(entry, start)

    def _source(self, name: str) -> tuple[Object | None, bool]:
        """Return the object that has a file, and whether its chunks have it instead."""
        entry = self._files.get(name)
        if entry is None and name.endswith(".jsonl"):
            entry = self._files.get(name + COMPRESSED)
            if entry is not None:
                return entry, False
        # A plain file has all, unless the disk of the run had lost something.
        in_chunks = self._ends().get(name, -1) if name.endswith(".jsonl") else -1
        return entry, in_chunks > (entry.size if entry is not None else -1)

    @cached_property
    def _synced(self) -> Mapping[str, int]:
        """Bytes of each file, as run.json says."""
        try:
            document: Any = orjson.loads(b"".join(self.read(schema.RUN)))
            sizes = {name: mark["bytes"] for name, mark in document["journal"].items()}
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return {}
        return {name: size for name, size in sizes.items() if type(size) is int and size >= 0}

    def _ends(self) -> Mapping[str, int]:
        try:
            return self._chunks.ends
        except ChunksGoneError:
            self._look_again()
            return self._chunks.ends

    @cached_property
    def _chunks(self) -> ChunkedFiles:
        return ChunkedFiles(self._reader, self.keys.chunks_of(self._listed()))

    @cached_property
    def _files(self) -> dict[str, Object]:
        return dict(self.keys.files_of(self._listed()))

    def _listed(self) -> list[Object]:
        if self._entries is None:
            self._entries = list(self._objects.list(f"{self.keys.run_id}/"))
        return self._entries

    def _look_again(self) -> None:
        self._entries = None
        self._prefetched.clear()
        for name in ("_chunks", "_files", "_synced"):
            self.__dict__.pop(name, None)

    # Attachments, and the end of a copy

    @contextmanager
    def attach(self, name: str, *, append: bool = False) -> Generator[BinaryIO]:
        """Put what was written, at the end."""
        if not is_inside(name):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        file = BytesIO()
        yield file
        before = b""
        if append:
            with suppress(FileNotFoundError):
                before = self._objects.get(self.keys.files + name)
        self._objects.put(self.keys.files + name, before + file.getvalue())
        self._look_again()

    def link(self, name: str, path: Path) -> bool:
        """No file of this host is there."""
        return False

    def detach(self, name: str) -> None:
        """Delete an attachment."""
        self._objects.delete(self.keys.files + name)
        self._look_again()

    def delete(self) -> None:
        """Delete all objects of the run; run.json last, so that what is left is still found."""
        self._look_again()
        last = f"{self.keys.run_id}/{schema.RUN}"
        for entry in self._listed():
            if entry.key != last:
                self._objects.delete(entry.key)
        self._objects.delete(last)
        self._look_again()


def _is_compressed(name: str) -> bool:
    return name.endswith(f".jsonl{COMPRESSED}")


def _decompressed(parts: Iterator[bytes], start: int) -> Iterator[bytes]:
    try:
        for data in decompressed_parts(parts):
            if start < len(data):
                yield data[start:]
            start = max(0, start - len(data))
    except ValueError as error:
        raise OSError(str(error)) from None
