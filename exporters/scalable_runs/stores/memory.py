"""Runs in memory, for tests and for programs that keep nothing."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Final

from scalable_runs import journal, schema
from scalable_runs.journal import Segment
from scalable_runs.problems import LossCounter
from scalable_runs.schema import JournalMark
from scalable_runs.stores.base import Entry, Found, RunGoneError, Synced, is_inside

_BLOCK: Final = 256 * 1024


class MemoryStore:
    """A run in this process's memory. Implements :class:`~scalable_runs.stores.base.Store`.

    Any thread may call it, a reader's too while the run is written. "Durable" means until the
    object is gone.

    Parameters
    ----------
    name
        Names the store for people.

    Examples
    --------
    >>> from scalable_runs.reader import RunReader
    >>> store = MemoryStore()
    >>> RunReader(store).files()
    []
    """

    def __init__(self, name: str = "memory") -> None:
        self.location = name
        self._files: dict[str, bytearray] = {}
        self._modified: dict[str, float] = {}
        self._segments: dict[str, Segment] = {}
        self._marks: dict[str, JournalMark] = {}
        self._losses = LossCounter()
        self._exists = False
        #: Stores of several writers, by name.
        self._parts: dict[str, MemoryStore] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.location!r})"

    @property
    def directory(self) -> None:
        """There is none."""

    def create(
        self, documents: Mapping[str, bytes], journals: Mapping[str, int], losses: LossCounter
    ) -> None:
        """Begin the run."""
        with self._lock:
            if self._exists:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), self.location)
            self._losses = losses
            self._exists = True
            self._segments = {name: Segment(name, seq) for name, seq in journals.items()}
            self._marks = journal.empty_marks(journals)
            for name in journals:
                self._put(name, b"")
            for name, data in documents.items():
                self._put(name, data)

    def reopen(
        self, found: Mapping[str, Found], marks: Mapping[str, JournalMark], losses: LossCounter
    ) -> None:
        """Go on in new segments."""
        with self._lock:
            self._check()
            self._losses = losses
            self._marks = dict(marks)
            self._segments = {}
            for name, left in found.items():
                number = 1
                while (segment := journal.segment_name(name, number)) in self._files:
                    number += 1
                self._segments[name] = Segment(segment, max(left.last, left.given_out))

    def append(self, journal: str, lines: bytes) -> int:
        """Take all lines."""
        with self._lock:
            self._check()
            segment = self._segments.setdefault(journal, Segment(journal))
            if segment.name not in self._files:
                self._put(segment.name, b"")
            self._files[segment.name] += lines
            self._modified[segment.name] = time.time()
            segment.write(lines)
            segment.count(lines)
            return len(lines)

    def sync(self) -> Synced:
        """Mark what there is."""
        with self._lock:
            self._check()
            written = [one for one in self._segments.values() if one.name in self._files]
            self._marks |= {segment.name: segment.mark() for segment in written}
            return Synced(dict(self._marks), complete=True)

    def replace(self, name: str, data: bytes) -> None:
        """Replace a document."""
        with self._lock:
            self._check()
            self._put(name, data)

    def seal(self) -> None:
        """There is nothing to end."""

    def close(self) -> None:
        """There is nothing to release: the run can still be read."""

    def delete(self) -> None:
        """Forget everything."""
        with self._lock:
            self._exists = False
            self._files.clear()
            self._modified.clear()
            self._parts.clear()

    @contextmanager
    def attach(self, name: str, *, append: bool = False) -> Generator[BinaryIO]:
        """Collect what is written, and take it in at the end."""
        if not is_inside(name):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        file = BytesIO()
        yield file
        with self._lock:
            before = bytes(self._files.get(name, b"")) if append else b""
            self._put(name, before + file.getvalue())

    def link(self, name: str, path: Path) -> bool:
        """No file is in memory."""
        return False

    def detach(self, name: str) -> None:
        """Forget an attachment."""
        with self._lock:
            self._files.pop(name, None)

    def names(self) -> set[str]:
        """Return the names that have no folder."""
        with self._lock:
            return {name for name in self._files if "/" not in name}

    def inside(self, folder: str) -> list[str]:
        """Return the names of attachments below a folder."""
        with self._lock:
            return sorted(name for name in self._files if name.startswith(f"{folder}/"))

    def segments(self) -> dict[str, list[str]]:
        """Return `tasks.jsonl`, `tasks.1.jsonl`, …"""
        return journal.segments_of(self.names())

    def stat(self, name: str) -> Entry | None:
        """Return the size and when it was last changed."""
        with self._lock:
            data = self._files.get(name)
            return None if data is None else Entry(len(data), self._modified[name])

    def read(self, name: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Yield all of it as it is now."""
        with self._lock:
            if name not in self._files:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
            end = None if length is None else start + length
            data = bytes(memoryview(self._files[name])[start:end])
        for at in range(0, len(data), _BLOCK):
            yield data[at : at + _BLOCK]

    def parts(self) -> dict[str, MemoryStore]:
        """Return the parts that have begun, in the order of their names."""
        with self._lock:
            parts = sorted(self._parts.items())
        return {name: part for name, part in parts if schema.RUN in part.names()}

    def part(self, writer: str) -> MemoryStore:
        """Return the store of one of several writers of this run, made now if there is none."""
        with self._lock:
            found = self._parts.get(writer)
            if found is None:
                location = f"{self.location}/{schema.WRITERS}/{writer}"
                found = self._parts[writer] = MemoryStore(location)
            return found

    def _put(self, name: str, data: bytes) -> None:
        self._files[name] = bytearray(data)
        self._modified[name] = time.time()

    def _check(self) -> None:
        if self._exists:
            return
        if self._segments:
            self._losses.note("removed", "", "the run was removed while it was recorded")
        for name, segment in self._segments.items():
            self._losses.lose(name, segment.lines)
        self._segments = {}
        raise RunGoneError(errno.ENOENT, os.strerror(errno.ENOENT), self.location)


class MemoryRoot:
    """Runs in memory, by id. Implements :class:`~scalable_runs.stores.base.StoreRoot`."""

    def __init__(self, name: str = "memory") -> None:
        self.location = name
        self._stores: dict[str, MemoryStore] = {}

    @property
    def shared(self) -> bool:
        """A run has one writer."""
        return False

    def new(self, run_id: str, writer: str | None = None) -> MemoryStore:
        """Return the store of a run, made now if there is none."""
        return self._stores.get(run_id) or self.add(run_id)

    def add(self, run_id: str) -> MemoryStore:
        """Return a new store for a run."""
        store = self._stores[run_id] = MemoryStore(f"memory://{run_id}")
        return store

    def exists(self) -> bool:
        """Always."""
        return True

    def ids(self) -> list[str]:
        """Return the runs that were added."""
        return list(self._stores)

    def find(self, run_id: str) -> MemoryStore | None:
        """Return the store of a run."""
        return self._stores.get(run_id)
