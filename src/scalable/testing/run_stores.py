"""What every run store must do, as tests."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, cast

import pytest

from scalable_runs.reader import RunReader, find_runs, resolve_run
from scalable_runs.remote.root import RemoteRoot
from scalable_runs.remote.shipper import Shipper
from scalable_runs.remote.store import RemoteStore
from scalable_runs.rundoc import as_found, run_document
from scalable_runs.schema import FAILURES, TASKS
from scalable_runs.stores.base import joined
from scalable_runs.stores.file import FileStore
from scalable_runs.stores.probe import check_exclusive
from scalable_runs.stores.run_store import Object, RunStore
from scalable_runs.writer import RunWriter

#: Texts that are no keys.
HOSTILE: Final = (
    "",
    "/",
    "/a",
    "a/",
    "a//b",
    ".",
    "..",
    "../a",
    "a/../b",
    "a/./b",
    "a\0b",
    "a\\b",
    "a\ud800b",
)


LOG: Final = "logs/worker/stderr.log"


class RunStoreConformance:
    """The tests that every :class:`~scalable_runs.stores.RunStore` passes, ours and others.

    A subclass gives one fixture, `store`: an empty place, for each test a new one.

    Examples
    --------
    >>> class TestMyStore(RunStoreConformance):
    ...     @pytest.fixture
    ...     def store(self, tmp_path):
    ...         return MyStore(MyStore.Config(path=str(tmp_path / "runs")))
    """

    def test_an_object_is_read_whole_or_in_part(self, store: RunStore):
        store.put("runs/a.txt", b"0123456789")
        assert store.get("runs/a.txt") == b"0123456789"
        assert store.get("runs/a.txt", 4) == b"456789"
        assert store.get("runs/a.txt", 4, 3) == b"456"
        assert store.get("runs/a.txt", 8, 100) == b"89"
        assert store.get("runs/a.txt", 3, 0) == b""

    @pytest.mark.parametrize("start", [3, 4, 100])
    def test_behind_the_end_there_is_nothing(self, store: RunStore, start: int):
        store.put("a", b"012")
        assert store.get("a", start) == b""
        assert store.get("a", start, 5) == b""

    def test_an_empty_object_is_an_object(self, store: RunStore):
        assert store.create("empty", b"")
        assert store.get("empty") == b""
        assert store.get("empty", 0, 10) == store.get("empty", 0, 10_000_000) == b""
        assert [entry.size for entry in store.list()] == [0]
        assert not store.create("empty", b"x")

    def test_what_is_not_there_is_not_found(self, store: RunStore):
        for read in (lambda: store.get("a"), lambda: store.get("a/b", 1, 2)):
            with pytest.raises(FileNotFoundError):
                read()
        store.delete("a")
        store.delete("a/b")
        assert list(store.list()) == []
        assert list(store.list("a/", "a/b")) == []

    def test_put_replaces_as_a_whole_and_changes_the_version(self, store: RunStore):
        store.put("a", b"long content")
        (before,) = store.list()
        store.put("a", b"short")
        (after,) = store.list()
        assert store.get("a") == b"short"
        assert (after.key, after.size) == ("a", 5)
        assert before.version != after.version
        assert before.version
        assert [after] == list(store.list())

    def test_create_makes_only_what_is_absent(self, store: RunStore):
        assert store.create("writers/w/epoch-1", b"first")
        assert not store.create("writers/w/epoch-1", b"second")
        assert not store.create("writers/w/epoch-1", b"first")
        assert store.get("writers/w/epoch-1") == b"first"
        store.put("other", b"x")
        assert not store.create("other", b"y")
        store.delete("other")
        assert store.create("other", b"z")
        assert store.get("other") == b"z"

    def test_of_32_writers_at_a_barrier_exactly_one_makes_an_object(self, store: RunStore):
        barrier = threading.Barrier(32)

        def attempt(number: int) -> bool:
            barrier.wait()
            return store.create("epoch", str(number).encode())

        with ThreadPoolExecutor(32) as pool:
            won = list(pool.map(attempt, range(32)))
        assert won.count(True) == 1
        assert store.get("epoch") == str(won.index(True)).encode()

    def test_it_may_have_several_writers(self, store: RunStore):
        if not store.shared:
            pytest.skip("a run in it has one writer")
        check_exclusive(store)
        assert list(store.list()) == []

    def test_a_listing_is_in_the_order_of_keys(self, store: RunStore):
        keys = ["a", "a-b", "b/1", "b/10", "b/2", "b-/x", "b./x", "b0/x", "c d", "z/é/x", "z/日本"]
        for key in reversed(keys):
            store.put(key, key.encode())
        assert [entry.key for entry in store.list()] == sorted(keys)
        assert [entry.size for entry in store.list()] == [len(key.encode()) for key in sorted(keys)]

    def test_a_listing_has_what_begins_with_the_prefix_and_comes_after_a_key(self, store: RunStore):
        keys = ["r/a/1", "r/a/2", "r/a-b/1", "r/ab/1", "r/b", "r-/1", "s"]
        for key in keys:
            store.put(key, b"x")

        def listed(prefix: str, after: str = "") -> list[str]:
            return [entry.key for entry in store.list(prefix, after)]

        for prefix in ["", "r", "r/", "r/a", "r/a/", "r/a/1", "r/b", "r/c", "r/a/1/x"]:
            for after in ["", "r/a/", "r/a/1", "r/a/10", "r/a/\U0010ffff", "r/a~", "s"]:
                wanted = [key for key in sorted(keys) if key.startswith(prefix) and key > after]
                assert listed(prefix, after) == wanted, (prefix, after)

    def test_a_listing_says_when_an_object_was_written(self, store: RunStore):
        store.put("a", b"x")
        store.put("b", b"x")
        first, second = store.list()
        assert first.modified <= second.modified
        assert first.modified > 1_600_000_000

    def test_keys_may_have_any_other_letter(self, store: RunStore):
        keys = ["a b/%41/+&=?#;:@,!$'()[]{}~^|\"<>é日.jsonl.zst", "...", "a/..b", "-", "%2e%2e/x"]
        for key in keys:
            assert store.create(key, key.encode())
        assert [entry.key for entry in store.list()] == sorted(keys)
        assert [store.get(key).decode() for key in keys] == keys
        for key in keys:
            store.delete(key)
        assert list(store.list()) == []

    @pytest.mark.parametrize("key", HOSTILE)
    def test_what_is_no_key_is_refused(self, store: RunStore, key: str):
        calls: list[Callable[[], object]] = [
            lambda: store.get(key),
            lambda: store.put(key, b"x"),
            lambda: store.create(key, b"x"),
            lambda: store.delete(key),
        ]
        for call in calls:
            with pytest.raises(OSError, match="not the key of an object"):
                call()
        assert list(store.list()) == []

    def test_threads_share_it_and_see_what_others_wrote(self, store: RunStore):
        def work(number: int) -> None:
            for turn in range(3):
                store.put(f"t/{number:02}", f"{number} {turn}".encode())
                assert store.get(f"t/{number:02}") == f"{number} {turn}".encode()
                assert f"t/{number:02}" in [entry.key for entry in store.list("t/")]

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))
        assert len(list(store.list("t/"))) == 8

    def test_an_object_of_some_megabytes_is_moved_whole(self, store: RunStore):
        data = bytes(range(256)) * (9 * 4096)
        assert store.create("large", data)
        assert store.get("large") == data
        assert store.get("large", len(data) - 3) == data[-3:]

    def test_nothing_is_left_of_what_was_deleted(self, store: RunStore):
        for key in ("run/chunks/w/1", "run/chunks/w/2", "run/run.json"):
            store.put(key, b"x")
        store.delete("run/chunks/w/1")
        store.delete("run/chunks/w/1")
        assert [entry.key for entry in store.list("run/")] == ["run/chunks/w/2", "run/run.json"]
        store.delete("run/chunks/w/2")
        store.delete("run/run.json")
        assert list(store.list()) == []

    # Runs in it

    def test_a_run_in_it_is_the_run_that_was_recorded(self, store: RunStore, tmp_path: Path):
        path = _recorded(tmp_path, "run-1", closed=True)
        assert _copied(store, path)
        assert _read(RemoteStore(store, "run-1")) == _read(FileStore(path))

    def test_a_run_in_it_is_read_while_it_is_recorded(self, store: RunStore, tmp_path: Path):
        writer = _writer(tmp_path, "run-1")
        shipper = Shipper(store, writer.path, role="recorder")
        for turn in range(1, 4):
            _append(writer, 20)
            assert writer.sync(30)
            shipper.ship()
            found = list(RunReader(RemoteStore(store, "run-1")).records(TASKS))
            assert [record["seq"] for record in found] == list(range(1, 20 * turn + 1))
        writer.close(status="completed")
        assert shipper.finish()
        assert _read(RemoteStore(store, "run-1")) == _read(FileStore(writer.path))

    @pytest.mark.parametrize("seed", range(5))
    def test_a_copy_that_is_interrupted_anywhere_is_finished_later(
        self, store: RunStore, tmp_path: Path, seed: int
    ):
        path = _recorded(tmp_path, "run-1", closed=True)
        failing = _Failing(store, seed)
        for _ in range(20):
            with suppress(ConnectionError):
                _copied(failing, path)
        assert _copied(store, path)
        assert _read(RemoteStore(store, "run-1")) == _read(FileStore(path))
        assert not list(store.list("run-1/chunks/"))

    def test_many_runs_are_found_and_one_is_removed(self, store: RunStore, tmp_path: Path):
        names = [f"run-2026010{day}T000000Z-a-0000000{day}" for day in (1, 2, 3)]
        for name in names:
            assert _copied(store, _recorded(tmp_path, name, closed=True))
        root = RemoteRoot(store)
        assert [run.run_id for run in find_runs(root)] == names[::-1]
        assert resolve_run(root, names[0][:13]).run_id == names[0]
        RemoteStore(store, names[1]).delete()
        assert [run.run_id for run in find_runs(RemoteRoot(store))] == [names[2], names[0]]
        assert not list(store.list(f"{names[1]}/"))


class _Failing(RunStore):
    """A place that fails by chance, before something is done or after it."""

    def __init__(self, store: RunStore, seed: int) -> None:
        self.location = store.location
        self._store = store
        self._random = random.Random(seed)

    def _fail(self) -> None:
        if self._random.random() < 0.1:
            raise ConnectionError("the connection was lost")

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        self._fail()
        return self._store.get(key, start, length)

    def put(self, key: str, data: bytes) -> None:
        self._fail()
        self._store.put(key, data)
        self._fail()

    def create(self, key: str, data: bytes) -> bool:
        self._fail()
        created = self._store.create(key, data)
        self._fail()
        return created

    def list(self, prefix: str = "", after: str = "") -> Iterator[Object]:
        self._fail()
        return self._store.list(prefix, after)

    def delete(self, key: str) -> None:
        self._fail()
        self._store.delete(key)
        self._fail()


def _writer(runs_dir: Path, run_id: str) -> RunWriter:
    found = as_found("conformance", "local", ())
    document = run_document(
        run_id,
        project="conformance",
        target=found.target,
        provider="local",
        lock=found.lock,
        started=1_767_225_600.0,
        trace_id="1" * 32,
        environment={},
        manifest_path=None,
    )
    return RunWriter.create(runs_dir / "local", document)


def _append(writer: RunWriter, number: int) -> None:
    first = writer.last_numbers().get(TASKS, 0) + 1
    at = "2026-01-01T00:00:00.000000Z"
    for n in range(first, first + number):
        task = {"task_id": f"inc-{n}", "task_name": "inc", "state": "succeeded", "attempt": 1}
        record = {"event_type": "task", "timestamp": at, **task, "note": "é" * 300}
        writer.append(TASKS, [cast("Any", record)])
    failure = {"event_type": "failure", "timestamp": at, "failure_class": "error"}
    writer.append(FAILURES, [cast("Any", failure)])


def _recorded(runs_dir: Path, run_id: str, *, closed: bool) -> Path:
    writer = _writer(runs_dir, run_id)
    _append(writer, 300)
    with writer.store.attach(LOG) as file:
        file.write(b"Killed\n")
    if closed:
        writer.close({"counts": {"tasks": 300}}, status="completed")
    return writer.path


def _copied(store: RunStore, path: Path) -> bool:
    shipper = Shipper(store, path)
    shipper.ship()
    return shipper.finish()


def _read(store: Any) -> dict[str, Any]:
    """All that a reader says of a run."""
    reader = RunReader(store)
    return {
        "document": reader.document,
        "status": reader.status,
        "summary": reader.summary(),
        "records": {file: list(reader.records(file)) for file in reader.files()},
        "log": joined(reader.store.read(LOG)) if reader.store.stat(LOG) else None,
        "problems": {name: found.sentences() for name, found in reader.problems.items()},
    }
