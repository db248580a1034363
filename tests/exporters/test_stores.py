"""What every store promises: one suite, run against each of them."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import threading
import zlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson
import pytest
from store_world import RUN_ID, check_accounting, create, failure, read, run_document, task, written

from scalable_runs import schema, sync_loop
from scalable_runs.problems import LossCounter, Problem
from scalable_runs.reader import RunReader, find_runs, resolve_run
from scalable_runs.schema import FAILURES, TASKS
from scalable_runs.stores.base import Store, StoreRoot, joined
from scalable_runs.stores.file import FileRoot, FileStore
from scalable_runs.stores.memory import MemoryRoot, MemoryStore
from scalable_runs.writer import Found, RunWriter, identity

TIMEOUT = 60


class Place(ABC):
    """Where a store keeps one run, seen from behind it."""

    #: The store of a run that does not exist yet.
    store: Store

    @classmethod
    @abstractmethod
    def many(cls, runs: Path) -> tuple[StoreRoot, Callable[[str], Store]]:
        """A place of many runs, and what makes the store of a new one."""

    @abstractmethod
    def put(self, name: str, data: bytes) -> None:
        """Write a file as nobody should."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file as nobody should."""

    @abstractmethod
    def reopened(self) -> Store:
        """The store that another process would have for the same run."""

    def content(self, name: str) -> bytes:
        return joined(self.store.read(name))


class FilePlace(Place):
    def __init__(self, runs: Path) -> None:
        self.path = runs / RUN_ID
        self.store = FileStore(self.path)

    @classmethod
    def many(cls, runs: Path) -> tuple[StoreRoot, Callable[[str], Store]]:
        return FileRoot(runs), lambda run_id: FileStore(runs / run_id)

    def put(self, name: str, data: bytes) -> None:
        (self.path / name).write_bytes(data)

    def remove(self, name: str) -> None:
        (self.path / name).unlink()

    def reopened(self) -> Store:
        return FileStore(self.path)


class MemoryPlace(Place):
    def __init__(self, _: Path) -> None:
        self.memory = MemoryStore()
        self.store = self.memory

    @classmethod
    def many(cls, runs: Path) -> tuple[StoreRoot, Callable[[str], Store]]:
        root = MemoryRoot()
        return root, root.add

    def put(self, name: str, data: bytes) -> None:
        with self.memory.attach(name) as file:
            file.write(data)

    def remove(self, name: str) -> None:
        del self.memory._files[name]

    def reopened(self) -> Store:
        return self.memory


#: Every store of this package; the suite runs for each of them.
PLACES = {"file": FilePlace, "memory": MemoryPlace}


@pytest.fixture(params=PLACES.values(), ids=PLACES)
def place_in(request: pytest.FixtureRequest) -> Callable[[Path], Place]:
    return request.param


@pytest.fixture
def place(place_in: Callable[[Path], Place], tmp_path: Path) -> Place:
    return place_in(tmp_path / "runs")


@pytest.fixture(autouse=True)
def many_syncs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync_loop, "MIN_GAP", 0.0)


class FaultyStore:
    """A store, one of whose verbs fails from its Nth call on, for as often as wanted."""

    def __init__(self, store: Store, verb: str, when: int, code: int, times: int) -> None:
        self._store = store
        self._verb = verb
        self._failing = range(when, when + times)
        self._code = code
        self._calls = 0
        self._lock = threading.Lock()
        self.failed = 0

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._store, name)
        return self._counted(real) if name == self._verb else real

    def _counted(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            with self._lock:
                self._calls += 1
                fails = self._calls in self._failing
                self.failed += fails
            if fails:
                raise OSError(self._code, os.strerror(self._code))
            return real(*arguments, **keywords)

        return call


def scenario(writer: RunWriter) -> dict[str, int]:
    count = 0
    for batch in range(4):
        writer.append(TASKS, [task(count + n + 1) for n in range(3)])
        count += 3
        writer.append(FAILURES, [failure(batch + 1)])
        writer.flush()
        if batch % 2 == 1:
            writer.sync(30)
    writer.close({"counts": {}}, status="completed")
    return {TASKS: count, FAILURES: 4}


ONCE, FOR_EVER = 1, 10**9


# Whole runs


def test_a_run_comes_back_as_it_was_written(place: Place) -> None:
    writer = create(place.store, manifest="project: x\n", plan={"workers": 2}, lock="abc\n")
    appended = scenario(writer)
    reader = RunReader(place.reopened())
    assert reader.status == "completed"
    assert reader.run_id == RUN_ID
    assert reader.files() == list(schema.JOURNALS)
    assert list(reader.records(TASKS)) == [written(task(n), n) for n in range(1, 13)]
    assert list(reader.records(FAILURES)) == [written(failure(n), n) for n in range(1, 5)]
    assert list(reader.records(schema.COST)) == []
    summary = reader.summary()
    assert summary is not None
    assert summary["counts"] == {}
    assert summary["run"]["status"] == "completed"
    assert reader.problems == {}
    assert reader.size(TASKS) == len(place.content(TASKS)) > 0
    assert place.content(schema.MANIFEST) == b"project: x\n"
    assert orjson.loads(place.content(schema.PLAN)) == {"workers": 2}
    assert place.content(schema.LOCK) == b"abc\n"
    check_accounting(writer, appended)


def test_every_store_holds_the_same_files(tmp_path: Path) -> None:
    timed = {schema.RUN, schema.SUMMARY, schema.OWNER}
    found: list[dict[str, bytes]] = []
    for name, kind in PLACES.items():
        place = kind(tmp_path / name)
        scenario(create(place.store))
        found.append(
            {name: b"" if name in timed else place.content(name) for name in place.store.names()}
        )
    assert all(files == found[0] for files in found)


def test_a_run_is_written_once(place: Place) -> None:
    writer = create(place.store)
    for store in (place.store, place.reopened()):
        with pytest.raises(FileExistsError):
            create(store)
    writer.close(status="completed")
    with pytest.raises(FileExistsError):
        create(place.reopened())


def test_a_run_that_is_written_can_be_read(place: Place) -> None:
    writer = create(place.store, sync_interval=10)
    writer.append(TASKS, [task(1)])
    reader = RunReader(place.reopened())
    assert reader.is_live
    assert list(reader.records(TASKS)) == []
    writer.flush()
    assert [record["seq"] for record in reader.records(TASKS)] == [1]
    assert reader.summary() is None
    assert reader.last_seen_at is not None
    writer.close(status="completed")
    assert RunReader(place.reopened()).status == "completed"


def test_a_mark_shows_bytes_sequence_and_checksum_of_each_segment(place: Place) -> None:
    writer = create(place.store, sync_interval=10)
    writer.append(TASKS, [task(1), task(2)])
    writer.append(schema.SPANS, [{"event_type": "span", "timestamp": "2026"}])
    assert writer.sync(10)
    journal = orjson.loads(place.content(schema.RUN))["journal"]
    data = place.content(TASKS)
    assert set(journal) == {*schema.JOURNALS, schema.SPANS}
    assert journal[TASKS] == {"bytes": len(data), "seq": 2, "crc32": zlib.crc32(data)}
    assert journal[FAILURES] == {"bytes": 0, "seq": 0, "crc32": 0}
    writer.close()


def test_another_writer_goes_on_where_one_died(place: Place) -> None:
    first = create(place.store)
    first.append(TASKS, [task(number) for number in range(3)])
    assert first.sync()
    first.append(TASKS, [task(3)])
    first.flush()  # and then it is never heard of again
    document: Any = RunReader(place.reopened()).document
    document["telemetry"] = {"dropped": {FAILURES: 2, "facts": 1}, "errors": {"fsync:EIO": 1}}
    second = RunWriter.resume(place.reopened(), document, {TASKS: Found(4, 6, 4)})
    second.written[TASKS] = Counter({identity(task(3)): 1})
    kept = second.unwritten(TASKS, [task(3), task(3), task(4)])
    assert kept == [task(3), task(4)]
    second.append(TASKS, kept)
    second.append(FAILURES, [failure(1)])
    second.close(status="completed", telemetry={"dropped": {"facts": 5}, "errors": {"x": 1}})
    reader = RunReader(place.reopened())
    assert [record["seq"] for record in reader.records(TASKS)] == [1, 2, 3, 4, 7, 8]
    assert reader.problems[TASKS].gaps == [(5, 6)]
    assert place.store.segments()[TASKS] == [TASKS, "tasks.1.jsonl"]
    assert "cost.1.jsonl" not in place.store.names()
    told = reader.document["telemetry"]
    assert told["dropped"] == {FAILURES: 2, TASKS: 2, "facts": 5}
    assert told["errors"] == {"fsync:EIO": 1, "x": 1}
    first.close()


def die_after_writing(name: str, runs: str) -> None:
    """For a process of its own."""
    writer = create(PLACES[name](Path(runs)).store, sync_interval=10)
    writer.append(TASKS, [task(n) for n in range(1, 6)])
    writer.flush()
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("name", [name for name in PLACES if name != "memory"])
def test_lines_that_were_taken_survive_the_death_of_the_process(name: str, tmp_path: Path) -> None:
    program = "import sys, test_stores; test_stores.die_after_writing(*sys.argv[1:])"
    died = subprocess.run(
        [sys.executable, "-c", program, name, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        timeout=TIMEOUT,
    )
    assert died.returncode == -signal.SIGKILL
    records, reader = read(PLACES[name](tmp_path).reopened())
    assert records == [written(task(n), n) for n in range(1, 6)]
    assert reader.status == "lost"


def test_a_removed_run_is_made_again_and_its_lines_are_counted(place: Place) -> None:
    problems: list[Problem] = []
    writer = create(place.store, manifest="m", sync_interval=10, on_problem=problems.append)
    writer.append(TASKS, [task(1), task(2)])
    writer.append(FAILURES, [failure(1)])
    assert writer.sync(10)
    writer.append(TASKS, [task(3)])
    place.reopened().delete()
    writer.flush()
    writer.append(TASKS, [task(4)])
    writer.append(FAILURES, [failure(2)])
    writer.close({}, status="completed")
    assert writer.losses == {TASKS: 2, FAILURES: 1}
    assert [problem.kind for problem in problems] == ["removed"]
    records, reader = read(place.reopened())
    assert [record["seq"] for record in records] == [3, 4]
    assert reader.problems[TASKS].gaps == [(1, 2)]
    assert reader.status == "completed"
    assert reader.document["telemetry"]["dropped"] == {TASKS: 2, FAILURES: 1}
    assert place.content(schema.MANIFEST) == b"m"


def test_a_run_removed_while_nothing_happens_is_made_again_by_the_sync(place: Place) -> None:
    writer = create(place.store, sync_interval=10)
    place.reopened().delete()
    assert writer.sync(10)
    assert RunReader(place.reopened()).status == "running"
    writer.close(status="completed")


# Verbs that fail


@pytest.mark.parametrize("times", [ONCE, FOR_EVER], ids=["once", "from-then-on"])
@pytest.mark.parametrize("code", ["EIO", "ENOSPC", "ESTALE"])
@pytest.mark.parametrize("verb", ["append", "sync", "replace", "seal", "close"])
def test_every_failing_verb_is_survived_counted_and_reported(
    place_in: Callable[[Path], Place], tmp_path: Path, verb: str, code: str, times: int
) -> None:
    for when in range(1, 100):
        place = place_in(tmp_path / str(when))
        problems: list[Problem] = []
        faulty: Any = FaultyStore(place.store, verb, when, getattr(errno, code), times)
        writer = create(faulty, sync_interval=10, on_problem=problems.append)
        appended = scenario(writer)
        place.store.close()
        check_accounting(writer, appended)
        reader = RunReader(place.reopened())
        if reader.status == "completed":
            told = reader.document["telemetry"]
            assert writer.losses == told["dropped"]
            assert writer.uncertain == told.get("uncertain", {})
        assert bool(writer.errors) == bool(faulty.failed), (verb, when)
        assert sorted(problem.kind for problem in problems) == sorted(writer.errors)
        if times == ONCE:
            # It came right again, so nothing at all is lost.
            assert writer.losses == {}
            assert reader.status == "completed"
        if not faulty.failed:
            break
    else:
        pytest.fail("the writer never came to its end")
    assert when > 1


def test_a_run_that_cannot_be_made_is_an_error_and_leaves_nothing(place: Place) -> None:
    faulty: Any = FaultyStore(place.store, "create", 1, errno.ENOSPC, ONCE)
    with pytest.raises(OSError, match="No space"):
        create(faulty)
    assert set(place.store.names()) == set()
    create(faulty).close()


class HesitantStore:
    """A store that takes one line at a time, and each only at the second try."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._tries = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def append(self, journal: str, lines: bytes) -> int:
        self._tries += 1
        if self._tries % 2:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return self._store.append(journal, lines[: lines.index(b"\n") + 1])


def test_lines_that_are_taken_one_by_one_are_all_there_once(place: Place) -> None:
    hesitant: Any = HesitantStore(place.store)
    writer = create(hesitant, sync_interval=10)
    writer.append(TASKS, [task(n) for n in range(1, 8)])
    for _ in range(20):
        writer.flush()
    writer.close(status="completed")
    records, reader = read(place.reopened())
    assert records == [written(task(n), n) for n in range(1, 8)]
    assert (writer.losses, reader.problems) == ({}, {})
    assert writer.errors["write:EAGAIN"] >= 7


class HangingStore:
    """A store, one of whose verbs hangs until it is released."""

    def __init__(self, store: Store, verb: str) -> None:
        self._store = store
        self._verb = verb
        self.hanging, self.released = threading.Event(), threading.Event()

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._store, name)
        return self._hang(real) if name == self._verb else real

    def _hang(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            self.hanging.set()
            assert self.released.wait(TIMEOUT)
            return real(*arguments)

        return call


def test_a_store_that_hangs_at_close_does_not_hang_the_application(place: Place) -> None:
    problems: list[Problem] = []
    hanging: Any = HangingStore(place.store, "sync")
    writer = create(hanging, sync_interval=10, on_problem=problems.append)
    writer.append(TASKS, [task(1)])
    writer.close({}, timeout=0.05, status="completed")
    assert [problem.kind for problem in problems] == ["close:timeout"]
    hanging.released.set()
    writer._loop.thread.join(TIMEOUT)
    assert RunReader(place.reopened()).status == "completed"


@pytest.mark.parametrize("verb", ["append", "sync"])
def test_appending_does_not_wait_for_a_store_that_hangs(place: Place, verb: str) -> None:
    hanging: Any = HangingStore(place.store, verb)
    writer = create(hanging, sync_interval=10)
    writer.append(TASKS, [task(1)])
    waiting = threading.Thread(target=writer.flush if verb == "append" else writer.sync)
    waiting.start()
    assert hanging.hanging.wait(TIMEOUT)
    # Enough to be flushed at once if the store were free.
    assert writer.append(TASKS, [task(n, 1000) for n in range(2, 1001)]) == 999
    if verb == "sync":
        writer.flush()
    hanging.released.set()
    waiting.join()
    writer.close()
    assert [record["seq"] for record in read(place.reopened())[0]] == list(range(1, 1001))


# Damage


@pytest.fixture
def finished(place: Place) -> Place:
    """A finished run of 30 tasks."""
    writer = create(place.store)
    writer.append(TASKS, [task(n) for n in range(1, 31)])
    writer.close({"counts": {}}, status="completed")
    return place


def test_cut_at_every_byte_a_journal_loses_only_what_was_cut(finished: Place) -> None:
    data = finished.content(TASKS)
    ends = [index + 1 for index, byte in enumerate(data) if byte == 10]
    for size in range(len(data) - 1, len(data) - 1000, -1):
        finished.put(TASKS, data[:size])
        records, reader = read(finished.reopened())
        complete = sum(end <= size for end in ends) + (size + 1 in ends)
        assert records == [written(task(n), n) for n in range(1, complete + 1)], size
        problems = reader.problems[TASKS]
        assert problems.missing == 30 - complete
        assert problems.missing_bytes == len(data) - size


def test_every_flipped_bit_is_seen(finished: Place) -> None:
    data = finished.content(TASKS)
    originals = [written(task(n), n) for n in range(1, 31)]
    chance = random.Random(7)
    for position in chance.sample(range(len(data)), 200):
        damaged = bytearray(data)
        damaged[position] ^= 1 << chance.randrange(8)
        finished.put(TASKS, bytes(damaged))
        records, reader = read(finished.reopened())
        assert sum(record in originals for record in records) >= 28, position
        assert reader.problems[TASKS].crc_mismatches == 1


@pytest.mark.parametrize("name", [schema.RUN, schema.SUMMARY, schema.OWNER])
def test_a_damaged_document_is_named_and_the_journals_still_read(
    finished: Place, name: str
) -> None:
    data = finished.content(name)
    for size in range(len(data) - 2, -1, -7):
        finished.put(name, data[:size])
        records, reader = read(finished.reopened())
        assert len(records) == 30
        assert (reader.summary() is None) == (name == schema.SUMMARY)
        assert reader.problems[name].unreadable


def test_a_missing_journal_is_named(finished: Place) -> None:
    finished.remove(TASKS)
    records, reader = read(finished.reopened())
    assert records == []
    assert reader.problems[TASKS].missing == 30
    assert "missing" in reader.problems[TASKS].unreadable


# Several writers


def lines_of(*numbers: tuple[str, int]) -> bytes:
    records = [{**written(task(seq), seq), "writer": writer} for writer, seq in numbers]
    return b"".join(orjson.dumps(record) + b"\n" for record in records)


def test_numbers_are_followed_writer_by_writer(finished: Place) -> None:
    document = orjson.loads(finished.content(schema.RUN))
    document["journal"] = {}
    finished.put(schema.RUN, orjson.dumps(document))
    finished.put(
        TASKS, lines_of(("a", 1), ("b", 1), ("a", 2), ("b", 2), ("b", 5), ("a", 3), ("a", 3))
    )
    records, reader = read(finished.reopened())
    assert [(record["writer"], record["seq"]) for record in records] == [
        *(("a", 1), ("b", 1), ("a", 2), ("b", 2), ("b", 5), ("a", 3)),
    ]
    problems = reader.problems[TASKS]
    assert (problems.missing, problems.repeated, problems.disordered) == (2, 1, 0)
    assert problems.gaps == [(3, 4, "b")]
    assert "2 lines missing (seq 3–4 of b)" in problems.sentences()[0]


def test_a_mark_is_compared_with_the_numbers_of_the_file_s_writer(finished: Place) -> None:
    first, second = lines_of(("a", 1), ("a", 2)), lines_of(("b", 1))
    document = orjson.loads(finished.content(schema.RUN))
    document["journal"] = {
        TASKS: {"bytes": len(first), "seq": 2, "crc32": zlib.crc32(first)},
        "tasks.1.jsonl": {"bytes": len(second) + 1, "seq": 3, "crc32": 0},
    }
    finished.put(schema.RUN, orjson.dumps(document))
    finished.put(TASKS, first)
    finished.put("tasks.1.jsonl", second)
    _, reader = read(finished.reopened())
    assert reader.problems[TASKS].gaps == [(2, 3, "b")]
    assert reader.problems[TASKS].missing_bytes == 1


def test_a_writer_may_have_a_name_and_its_records_carry_it(place: Place) -> None:
    writer = create(place.store, writer="rank-3")
    writer.append(TASKS, [task(1), task(2)])
    writer.close(status="completed")
    records, reader = read(place.reopened())
    assert [(record["writer"], record["seq"]) for record in records] == [
        ("rank-3", 1),
        ("rank-3", 2),
    ]
    assert reader.problems == {}
    assert reader.document["journal"][TASKS]["seq"] == 2
    for wrong in ('"', "a b", ""):
        with pytest.raises(ValueError, match="not a writer"):
            create(MemoryStore(), writer=wrong)


@pytest.mark.parametrize("writer", [3, {}, ["a"], None])
def test_a_writer_that_is_no_name_is_left_out(finished: Place, writer: Any) -> None:
    record = orjson.dumps({**written(task(31), 31), "writer": writer})
    finished.put(TASKS, finished.content(TASKS) + record + b"\n")
    records, reader = read(finished.reopened())
    assert len(records) == 31
    assert records[-1]["writer"] is None
    if writer is not None:
        assert reader.problems[TASKS].wrong == 1


# Attachments


def test_an_attachment_is_old_or_new_and_can_be_added_to(finished: Place) -> None:
    store = finished.reopened()
    for text in (b"one", b"two"):
        with store.attach("logs/worker/a.log") as file:
            file.write(text)
    with suppress(RuntimeError), store.attach("logs/worker/a.log") as file:
        file.write(b"half")
        raise RuntimeError
    assert finished.content("logs/worker/a.log") == b"two"
    for line in (b"1\n", b"2\n"):
        with store.attach("uploads.jsonl", append=True) as file:
            file.write(line)
    assert finished.content("uploads.jsonl") == b"1\n2\n"
    entry = store.stat("logs/worker/a.log")
    assert entry is not None
    assert entry.size == 3
    assert joined(store.read("logs/worker/a.log", 1)) == b"wo"
    assert "uploads.jsonl" in store.names()
    assert "logs/worker/a.log" not in store.names()
    # What a reader does not know does not disturb it.
    assert read(store)[1].problems == {}


def test_a_file_may_be_linked_and_is_detached(finished: Place, tmp_path: Path) -> None:
    store, log = finished.reopened(), tmp_path / "log"
    log.write_bytes(b"one")
    linked = store.link("logs/a.log", log)
    assert linked == (store.stat("logs/a.log") is not None)
    if linked:
        log.write_bytes(b"three")
        assert finished.content("logs/a.log") == b"three"
        assert not store.link("logs/a.log", log)
    with store.attach("logs/a.log") as file:
        file.write(b"redacted")
    assert log.read_bytes() in (b"one", b"three")
    for _ in range(2):
        store.detach("logs/a.log")
        assert store.stat("logs/a.log") is None


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "/etc/passwd", "logs/../../x", "logs//x", "a\0b", "logs/"]
)
def test_a_name_never_leads_out_of_the_run(finished: Place, name: str) -> None:
    store = finished.reopened()
    assert store.stat(name) is None
    with pytest.raises(OSError):
        list(store.read(name))
    with pytest.raises(OSError), store.attach(name) as file:
        file.write(b"x")


def test_what_is_not_there_is_not_found(finished: Place) -> None:
    store = finished.reopened()
    assert store.stat("absent") is None
    with pytest.raises(FileNotFoundError):
        list(store.read("absent"))
    store.delete()
    assert set(store.names()) == set()
    assert dict(store.segments()) == {}


def test_blocks_are_bounded(finished: Place) -> None:
    with finished.store.attach("large") as file:
        file.write(bytes(10**6))
    sizes = [len(block) for block in finished.store.read("large") if isinstance(block, bytes)]
    assert sum(sizes) == 10**6
    assert max(sizes) <= 2**20


def test_a_closed_store_can_be_read_and_closed_again(finished: Place) -> None:
    for _ in range(2):
        finished.store.close()
    assert len(read(finished.store)[0]) == 30


# Many runs


@pytest.fixture(params=PLACES.values(), ids=PLACES)
def root(request: pytest.FixtureRequest, tmp_path: Path) -> StoreRoot:
    root, add = request.param.many(tmp_path)
    for number in range(3):
        run_id = f"run-2026010{number + 1}T000000Z-a-{number:08x}"
        started = f"2026-01-0{number + 1}T00:00:00.000000Z"
        document = run_document(run_id, started_at=started)
        RunWriter.create(add(run_id), document).close(status="completed")
    return root


def test_runs_are_found_newest_first_and_by_the_beginning_of_an_id(root: StoreRoot) -> None:
    assert root.exists()
    newest = [run.run_id for run in find_runs(root)]
    assert newest == sorted(root.ids(), reverse=True)
    assert len(newest) == 3
    assert resolve_run(root).run_id == newest[0]
    assert resolve_run(root, newest[1]).run_id == newest[1]
    assert resolve_run(root, newest[2][:12]).run_id == newest[2]
    assert root.find("absent") is None
    for run_id in root.ids():
        store = root.find(run_id)
        assert store is not None
        assert Path(store.location).name.startswith(run_id)


def test_a_store_counts_into_the_counter_that_it_was_given() -> None:
    store = MemoryStore()
    losses = LossCounter()
    store.create({schema.RUN: b"{}"}, {TASKS: 0}, losses)
    store.append(TASKS, b'{"seq":1,"a":1}\n{"seq":2,"a":1}\n')
    store.delete()
    with pytest.raises(OSError, match="No such file"):
        store.sync()
    assert (losses.losses, losses.errors) == ({TASKS: 2}, {"removed": 1})
