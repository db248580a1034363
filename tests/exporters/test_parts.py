"""A run of several writers: each has a part of its own, and a reader reads them as one run."""

from __future__ import annotations

import json
import random
import resource
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from store_world import RUN_ID, run_document, task

from scalable.analysis import load_report
from scalable_runs import schema
from scalable_runs.reader import RunReader
from scalable_runs.schema import FAILURES, TASKS
from scalable_runs.stores.base import Store
from scalable_runs.stores.file import FileStore
from scalable_runs.stores.memory import MemoryStore
from scalable_runs.writer import RunWriter


class FileRun:
    def __init__(self, runs: Path) -> None:
        self.path = runs / RUN_ID
        self.store: Store = FileStore(self.path)

    def part(self, writer: str) -> Store:
        return FileStore(self.path / schema.WRITERS / writer)


class MemoryRun:
    def __init__(self, _: Path) -> None:
        self.store = MemoryStore(RUN_ID)

    def part(self, writer: str) -> Store:
        return self.store.part(writer)


@pytest.fixture(params=[FileRun, MemoryRun])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> FileRun | MemoryRun:
    return request.param(tmp_path / "runs")


def join(store: Store, writer: str) -> RunWriter:
    return RunWriter.create(store, run_document(), writer=writer)


def test_each_version_of_the_code_is_there_once(run: FileRun | MemoryRun) -> None:
    for name, at, commit in (("a", "1", "12ab"), ("b", "2", "12ab"), ("c", "3", "34cd")):
        writer = join(run.part(name), name)
        entry = {"code_identifier": commit, "observed_at": f"2026-01-0{at}T00:00:00Z"}
        writer.close(status="completed", code_identities=[entry])
    found = RunReader(run.store).document["code_identities"]
    assert [entry["code_identifier"] for entry in found] == ["12ab", "34cd"]


def test_records_of_all_writers_come_by_time(run: FileRun | MemoryRun) -> None:
    writers = [join(run.part(name), name) for name in ("a", "b", "c")]
    for number in range(1, 31):
        writers[number % 3].append(TASKS, [task(number)])
    for writer in writers:
        writer.close(status="completed")
    reader = RunReader(run.store)
    records = list(reader.records(TASKS))
    assert [record["task_id"] for record in records] == [f"inc-{n}" for n in range(1, 31)]
    for name in ("a", "b", "c"):
        own = [record["seq"] for record in records if record.get("writer") == name]
        assert own == list(range(1, 11))
    assert reader.status == "completed"
    assert {
        name: one["status"] for name, one in reader.document["writers"].items()
    } == dict.fromkeys("abc", "completed")
    assert not [problems for name, problems in reader.problems.items() if name != schema.RUN]
    assert reader.size(TASKS) == sum(part.size(TASKS) for part in reader.parts.values()) > 0
    assert len(list(reader.records(FAILURES))) == 0
    assert reader.marks()["writers/a/tasks.jsonl"]["bytes"] == reader.file_size(
        "writers/a/tasks.jsonl"
    )


def test_a_run_goes_on_while_one_of_its_writers_does(run: FileRun | MemoryRun) -> None:
    one, other = join(run.part("a"), "a"), join(run.part("b"), "b")
    one.close(status="failed", finished_at="2026-11-21T17:00:00.000000Z")
    reader = RunReader(run.store)
    assert (reader.status, reader.is_live, reader.finished_at) == ("running", True, None)
    other.close(status="completed", finished_at="2026-11-21T18:00:00.000000Z")
    reader = RunReader(run.store)
    assert reader.status == "failed"
    assert reader.document["finished_at"] == "2026-11-21T18:00:00.000000Z"


def test_losses_belong_to_their_writer(tmp_path: Path) -> None:
    run = FileRun(tmp_path)
    for name in ("a", "b"):
        writer = join(run.part(name), name)
        writer.append(TASKS, [task(number) for number in range(1, 6)])
        writer.update_run(telemetry={"dropped": {"facts": 2}, "errors": {}})
        writer.close(status="completed")
    damaged = run.path / schema.WRITERS / "b" / TASKS
    whole = damaged.read_bytes().splitlines(keepends=True)
    damaged.write_bytes(b"".join(whole[:1] + whole[2:4]) + whole[4][:20])
    reader = RunReader(run.store)
    assert len(list(reader.records(TASKS))) == 8
    assert TASKS not in reader.problems
    problems = reader.problems["writers/b/tasks.jsonl"]
    assert problems.gaps == [(2, 2, "b"), (5, 5, "b")]
    assert problems.torn == 1
    assert "writers/b/tasks.jsonl: 2 lines missing (seq 2 of b, 5 of b)" in problems.sentences()
    assert reader.document["telemetry"]["dropped"] == {"facts": 4}


def test_a_part_that_is_being_made_is_none_yet(tmp_path: Path) -> None:
    run = FileRun(tmp_path)
    join(run.part("a"), "a").close(status="completed")
    half = run.path / schema.WRITERS / "b"
    half.mkdir()
    (half / schema.OWNER).write_text("{}")
    (half / TASKS).touch()
    (run.path / schema.WRITERS / ".b.tmp").mkdir()
    (run.path / schema.WRITERS / "link").symlink_to(run.path / schema.WRITERS / "a")
    assert list(RunReader(run.store).parts) == ["a"]


def test_a_thousand_parts_are_read_with_few_open_files(tmp_path: Path) -> None:
    run = FileRun(tmp_path)
    name = "w{:04d}".format
    join(run.part(name(0)), name(0)).close(status="completed")
    first = run.path / schema.WRITERS / name(0)
    for number in range(1, 1_000):
        part = run.path / schema.WRITERS / name(number)
        part.mkdir()
        (part / schema.RUN).write_bytes((first / schema.RUN).read_bytes().replace(b"journal", b"j"))
        line = (
            b'{"schema_version":1,"run_id":"%b","writer":"%b","seq":%d,"event_type":"task",'
            b'"timestamp":"2026-11-21T16:33:%02d.%06dZ","task_id":"t","state":"submitted"}\n'
        )
        arguments = (RUN_ID.encode(), name(number).encode())
        (part / TASKS).write_bytes(
            b"".join(line % (*arguments, seq, seq, number) for seq in range(1, 4))
        )
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
    try:
        reader = RunReader(run.store)
        records = list(reader.records(TASKS))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    times = [record["timestamp"] for record in records]
    assert len(records) == 2_997
    assert times == sorted(times)
    assert set(Counter(record.get("writer") for record in records).values()) == {3}


def test_a_damaged_run_of_several_writers_is_read_as_far_as_possible(tmp_path: Path) -> None:
    run = FileRun(tmp_path / "whole")
    for name in ("a", "b", "c"):
        writer = join(run.part(name), name)
        writer.append(TASKS, [task(number) for number in range(1, 6)])
        writer.close({"counts": {}}, status="completed")
    (run.path / schema.RUN).write_bytes((run.path / "writers" / "a" / schema.RUN).read_bytes())
    files = sorted(path for path in run.path.rglob("*.json*") if path.stat().st_size)
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    for number in range(60):
        copy = tmp_path / str(number)
        shutil.copytree(run.path, copy)
        for path in chance.sample(files, 2):
            damaged = copy / path.relative_to(run.path)
            data = bytearray(damaged.read_bytes())
            where = chance.randrange(len(data))
            how = chance.randrange(4)
            if how == 0:
                data[where] ^= 1 << chance.randrange(8)
            elif how == 1:
                del data[where:]
            elif how == 2:
                data[where:where] = chance.choice((b"null", b'"', b"[]", b"{", b"\0" * 9, b"1e999"))
            else:
                damaged.unlink()
                continue
            damaged.write_bytes(data)
        reader = RunReader(copy)
        found = list(reader.records(TASKS))
        assert len(found) <= 15, (seed, number)
        assert reader.status in schema.RUN_STATUSES, (seed, number)
        for problems in reader.problems.values():
            assert problems.sentences(), (seed, number)
        load_report(reader)


@pytest.mark.parametrize(
    "writers", [[], {"x": {}}, {"x": None}, {"x": {"status": 7}}, {"x": {"status": "gone"}}, "a"]
)
def test_writers_that_are_none_are_left_out(tmp_path: Path, writers: Any) -> None:
    run = FileRun(tmp_path)
    join(run.part("a"), "a").close(status="completed")
    (run.path / schema.RUN).write_text(json.dumps({**run_document(), "writers": writers}))
    reader = RunReader(run.store)
    assert reader.document["writers"]["a"]["status"] == "completed"
    assert reader.status in ("completed", "lost")
    load_report(reader)


def test_a_link_in_the_place_of_all_parts_is_not_followed(tmp_path: Path) -> None:
    elsewhere, run = FileRun(tmp_path / "elsewhere"), FileRun(tmp_path / "here")
    join(elsewhere.part("a"), "a").close(status="completed")
    run.path.mkdir(parents=True)
    (run.path / schema.WRITERS).symlink_to(elsewhere.path / schema.WRITERS)
    assert RunReader(run.store).parts == {}
