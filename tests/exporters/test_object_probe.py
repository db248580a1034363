"""A storage that lets two writers create one object is refused."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from scalable_runs.stores.memory_objects import MemoryObjects
from scalable_runs.stores.probe import NotExclusiveError, check_exclusive


def test_a_storage_that_creates_once_is_taken_and_left_as_it_was():
    store = MemoryObjects()
    check_exclusive(store)
    assert list(store.list()) == []


class Ignores(MemoryObjects):
    """Knows no condition, as some servers do that answer 200 all the same."""

    def create(self, key: str, data: bytes) -> bool:
        self.put(key, data)
        return True


class Races(MemoryObjects):
    """Looks first and writes then."""

    def __init__(self) -> None:
        super().__init__()
        self._together = threading.Barrier(4, timeout=10)

    def create(self, key: str, data: bytes) -> bool:
        is_there = any(entry.key == key for entry in self.list())
        if key.endswith("-2"):
            self._together.wait()
        if is_there:
            return False
        self.put(key, data)
        return True


class Replaces(MemoryObjects):
    """Says that the object is there, and has replaced it."""

    def create(self, key: str, data: bytes) -> bool:
        made = super().create(key, data)
        self.put(key, data)
        return made


@pytest.mark.parametrize("kind", [Ignores, Races, Replaces])
def test_a_storage_that_creates_twice_is_refused_with_a_sentence(kind: Any):
    store = kind()
    with pytest.raises(NotExclusiveError, match="lets two writers create the same object"):
        check_exclusive(store)
    assert list(store.list()) == []


class LosesAnswers(MemoryObjects):
    """The answer is lost; the repeated request meets its own object."""

    def create(self, key: str, data: bytes) -> bool:
        super().create(key, data)
        return False


def test_lost_answers_are_no_reason_to_refuse():
    check_exclusive(LosesAnswers())
