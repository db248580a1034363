"""The thread that copies a run while it is recorded."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic, sleep

import pytest

from exporters.remote_world import Counting, contents, everything, fill, lost_connection
from exporters.store_world import RUN_ID, create, failure
from scalable_runs.remote import background
from scalable_runs.remote.background import Shipping, start_shipping
from scalable_runs.remote.shipper import Shipper, read_states
from scalable_runs.remote.store import RemoteStore
from scalable_runs.schema import FAILURES
from scalable_runs.stores.file import FileStore
from scalable_runs.stores.memory_objects import MemoryObjects
from scalable_runs.writer import RunWriter


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[RunWriter]:
    made = create(tmp_path)
    yield made
    made.close()


def ship(objects: Counting, writer: RunWriter, warned: list[str] | None = None) -> Shipping:
    sentences = [] if warned is None else warned
    return start_shipping("the place", lambda: objects, writer.path, warn=sentences.append)


def until(condition: Callable[[], bool], timeout: float = 30.0) -> None:
    end = monotonic() + timeout
    while not condition():
        assert monotonic() < end
        sleep(0.01)


def test_a_run_is_brought_while_it_goes_on_and_ended_at_its_close(writer: RunWriter):
    objects = Counting()
    shipping = ship(objects, writer)
    fill(writer, 1, 50)
    assert shipping.flush(30)
    contents(objects.inner, writer.path)
    assert shipping.document() == {"missing_bytes": 0}
    fill(writer, 50, 100)
    writer.close({"counts": {}}, status="completed")
    assert shipping.finish(30)
    assert everything(RemoteStore(objects.inner, RUN_ID)) == everything(writer.path)
    assert read_states(FileStore(writer.path))["memory"].complete


def test_a_failure_is_brought_at_once(writer: RunWriter, monkeypatch: pytest.MonkeyPatch):
    objects = Counting()
    shipping = ship(objects, writer)
    assert shipping.flush(30)
    # No round is due for hours.
    monkeypatch.setattr(shipping, "_interval", 10_000.0)
    assert shipping.flush(30)
    writer.append(FAILURES, [failure(1)])
    writer.flush()
    until(lambda: FAILURES in RemoteStore(objects.inner, RUN_ID).names())
    shipping.finish(30)


def test_a_place_that_does_not_answer_is_told_once_and_does_not_hold_up(
    writer: RunWriter, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(background, "_FIRST_PAUSE", 0.01)
    objects, warned = Counting(), list[str]()
    down = True

    def fail(verb: str, key: str) -> None:
        if down:
            raise lost_connection()

    objects.before = fail
    shipping = ship(objects, writer, warned)
    fill(writer, 1, 50)
    assert not shipping.flush(0.5)
    until(lambda: shipping.errors >= 3)
    document = shipping.document()
    assert document["missing_bytes"] > 0
    assert document["error"] == "the connection was lost"
    assert len(warned) == 1
    assert "scalable sync" in warned[0]
    assert read_states(FileStore(writer.path))["memory"].error == "the connection was lost"
    down = False
    writer.close(status="completed")
    assert shipping.finish(30)
    assert everything(RemoteStore(objects.inner, RUN_ID))["records"]
    assert read_states(FileStore(writer.path))["memory"].error == ""


def test_a_place_that_hangs_does_not_hold_up_the_end(writer: RunWriter):
    objects = Counting()
    hangs = threading.Event()
    objects.before = lambda verb, key: assert_true(hangs.wait(60))
    shipping = ship(objects, writer)
    fill(writer, 1, 50)
    assert not shipping.flush(0.1)
    writer.close(status="completed")
    before = monotonic()
    assert not shipping.finish(0.2)
    assert monotonic() - before < 30
    hangs.set()
    until(lambda: shipping.finish(0.1))
    contents(objects.inner, writer.path)


def assert_true(value: bool) -> None:
    assert value


class CreatesTwice(MemoryObjects):
    def create(self, key: str, data: bytes) -> bool:
        self.put(key, data)
        return True


def test_a_place_that_creates_one_object_twice_is_refused_and_not_asked_again(writer: RunWriter):
    objects, warned = CreatesTwice(), list[str]()
    shipping = start_shipping("the place", lambda: objects, writer.path, warn=warned.append)
    assert not shipping.flush(30)
    assert not shipping.finish(30)
    (sentence,) = warned
    assert "lets two writers create the same object" in sentence
    assert list(objects.list()) == []


def test_a_place_is_tried_once(writer: RunWriter):
    objects = MemoryObjects()
    tried: list[str] = []
    create = objects.create
    objects.create = lambda key, data: tried.append(key) or create(key, data)  # type: ignore[method-assign]
    for _ in range(2):
        Shipper(objects, writer.path).ship()
    assert len({key for key in tried if ".probe" in key}) == 2
    assert not [entry for entry in objects.list() if ".probe" in entry.key]


def test_a_recorder_that_was_replaced_stops(writer: RunWriter):
    objects = Counting()
    first = ship(objects, writer)
    assert first.flush(30)
    second = ship(objects, writer)
    assert second.flush(30)
    fill(writer, 1, 20)
    assert writer.sync(10)
    assert not first.flush(30)
    assert second.flush(30)
    assert not first.finish(30)
    writer.close(status="completed")
    assert second.finish(30)
    assert everything(RemoteStore(objects.inner, RUN_ID)) == everything(writer.path)
