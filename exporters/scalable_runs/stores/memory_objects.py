"""Objects in memory, for tests."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from scalable_runs.stores.run_store import Object, RunStore, checked


class MemoryObjects(RunStore):
    """Objects in this process's memory, until the object is gone. Any thread may call it.

    Examples
    --------
    >>> store = MemoryObjects()
    >>> store.create("a", b"1"), store.create("a", b"2")
    (True, False)
    """

    @dataclass(frozen=True)
    class Config:
        """Options.

        Attributes
        ----------
        name
            Names the place for people.
        """

        name: str = "memory"

    shared: ClassVar[bool] = True

    def __init__(self, config: Config | None = None) -> None:
        self.location = (config or self.Config()).name
        self._objects: dict[str, tuple[bytes, float, int]] = {}
        self._writes = 0
        self._lock = threading.Lock()

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """Return content."""
        with self._lock:
            if (found := self._objects.get(checked(key))) is None:
                raise FileNotFoundError(f"there is no object {key} in {self.location}")
        return found[0][start : None if length is None else start + length]

    def put(self, key: str, data: bytes) -> None:
        """Make or replace."""
        with self._lock:
            self._set(key, data)

    def create(self, key: str, data: bytes) -> bool:
        """Make if absent."""
        with self._lock:
            if checked(key) in self._objects:
                return False
            self._set(key, data)
            return True

    def _set(self, key: str, data: bytes) -> None:
        self._writes += 1
        self._objects[checked(key)] = bytes(data), time.time(), self._writes

    def list(self, prefix: str = "", after: str = "") -> Iterator[Object]:
        """Yield what was there at the first call."""
        with self._lock:
            found = [
                Object(key, len(data), modified, str(version))
                for key, (data, modified, version) in sorted(self._objects.items())
                if key.startswith(prefix) and key > after
            ]
        yield from found

    def delete(self, key: str) -> None:
        """Remove."""
        with self._lock:
            self._objects.pop(checked(key), None)
