"""Copies of runs in a place of objects: what is brought, and what readers find there."""

from __future__ import annotations

import io
import os
import random
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import orjson
import pytest
import zstandard

from exporters.remote_world import (
    Counting,
    Faults,
    Killed,
    closed_run,
    contents,
    everything,
    fill,
    lost_connection,
    shipper,
)
from exporters.store_world import RUN_ID, create, create_shared, run_document
from run_builder import RunBuilder, eventful
from scalable.analysis import load_report, render_json
from scalable_runs import schema
from scalable_runs.reader import RunReader, find_runs, resolve_run
from scalable_runs.remote.cache import ReadCache
from scalable_runs.remote.compression import decompressed, decompressed_parts
from scalable_runs.remote.fence import SupersededError
from scalable_runs.remote.position import OtherRunError
from scalable_runs.remote.root import RemoteRoot
from scalable_runs.remote.shipper import sync
from scalable_runs.remote.store import RemoteStore
from scalable_runs.remote.syncing import sync_run
from scalable_runs.schema import FAILURES, JOURNALS, TASKS, WRITERS
from scalable_runs.stores.base import place_of
from scalable_runs.stores.file import FileStore
from scalable_runs.stores.memory_objects import MemoryObjects
from scalable_runs.stores.run_store import Object
from scalable_runs.writer import RunWriter


@pytest.mark.parametrize("compress", [False, True])
def test_a_closed_run_is_there_file_by_file(tmp_path: Path, compress: bool):
    path = closed_run(tmp_path)
    objects = MemoryObjects()
    state = sync(shipper(objects, path, compress=compress))
    assert state.complete
    assert state.missing_bytes == 0
    keys = {entry.key.removeprefix(f"{RUN_ID}/") for entry in objects.list()}
    local = {file.name for file in path.iterdir()}
    expected = {
        f"{name}.zst" if compress and (path / name).stat().st_size and name in JOURNALS else name
        for name in local
    }
    assert keys == expected | {"writers/main/epoch-000001"}
    for name in local:
        data = objects.get(f"{RUN_ID}/{name}") if name in keys else b""
        if name not in keys:
            packed = objects.get(f"{RUN_ID}/{name}.zst")
            data = (
                zstandard.ZstdDecompressor()
                .stream_reader(io.BytesIO(packed), read_across_frames=True)
                .read()
            )
        assert data == (path / name).read_bytes()
    assert everything(RemoteStore(objects, RUN_ID)) == everything(path)


def test_a_live_run_is_read_while_it_grows(tmp_path: Path):
    writer = create(tmp_path)
    objects = MemoryObjects()
    copy = shipper(objects, writer.path, role="recorder")
    for first in range(1, 200, 50):
        fill(writer, first, first + 50)
        assert writer.sync(10)
        copy.ship()
        contents(objects, writer.path)
        found, there = everything(writer.path), everything(RemoteStore(objects, RUN_ID))
        assert there["records"] == found["records"]
        assert there["problems"] == {}
        assert len(there["records"][TASKS]) == first + 49
    writer.close(status="completed")
    assert copy.finish()
    assert everything(RemoteStore(objects, RUN_ID)) == everything(writer.path)


def test_any_zstd_tool_reads_a_chunk(tmp_path: Path):
    writer = create(tmp_path)
    fill(writer, 1, 50)
    objects = MemoryObjects()
    shipper(objects, writer.path).ship()
    (chunk,) = objects.list(f"{RUN_ID}/chunks/")
    data = (
        zstandard.ZstdDecompressor()
        .stream_reader(io.BytesIO(objects.get(chunk.key)), read_across_frames=True)
        .read()
    )
    lines = b"".join((writer.path / name).read_bytes() for name in JOURNALS)
    assert sorted(data.splitlines()) == sorted(lines.splitlines())
    writer.close()


def test_what_is_there_is_not_brought_again(tmp_path: Path):
    path = closed_run(tmp_path)
    objects = Counting()
    assert sync(shipper(objects, path)).complete
    objects.requests.clear()
    assert sync(shipper(objects, path)).complete
    assert objects.requests == {"list": 2, "get": 1}


def eventful_run(runs_dir: Path) -> Path:
    builder = RunBuilder(runs_dir, RUN_ID)
    eventful(builder)
    return builder.finish(10)


def test_a_report_of_a_closed_run_reads_two_small_objects(tmp_path: Path):
    objects = Counting()
    run = eventful_run(tmp_path / "runs")
    assert sync(shipper(objects, run)).complete
    objects.requests.clear()
    cache = ReadCache(tmp_path / "cache")
    there = render_json(load_report(RunReader(RemoteStore(objects, run.name, cache=cache))))
    here = render_json(load_report(RunReader(run)))
    here["report"]["path"] = there["report"]["path"]
    assert there == here
    assert objects.requests == {"list": 1, "get": 2}
    # The second time even they are here.
    load_report(RunReader(RemoteStore(objects, run.name, cache=cache)))
    assert objects.requests == {"list": 2, "get": 2}


@pytest.mark.parametrize("lie", ["another run", "more", "fewer"])
def test_a_summary_that_lies_about_its_run_is_not_believed(tmp_path: Path, lie: str):
    objects = MemoryObjects()
    sync(shipper(objects, eventful_run(tmp_path)))
    key = f"{RUN_ID}/summary.json"
    summary = orjson.loads(objects.get(key))
    if lie == "another run":
        summary["run"]["run_id"] = "run-20260101T000000Z-other-00000000"
    else:
        summary["counts"]["task_events"] += 7 if lie == "more" else -7
    objects.put(key, orjson.dumps(summary))
    reader = RunReader(RemoteStore(objects, RUN_ID))
    assert reader.summary() is None
    sentence = reader.problems["summary.json"].sentences()[0]
    assert "another run" in sentence or "records of tasks.jsonl" in sentence


def test_a_crashed_run_is_brought_with_lines_that_were_not_synced(tmp_path: Path):
    writer = create(tmp_path, sync_interval=1000.0)
    fill(writer, 1, 100)
    with (writer.path / TASKS).open("ab") as file:
        file.write(b'{"schema_version":1,"torn')
    objects = MemoryObjects()
    state = sync(shipper(objects, writer.path))
    assert not state.complete
    contents(objects, writer.path)
    assert len(everything(RemoteStore(objects, RUN_ID))["records"][TASKS]) == 99
    writer.close()


def test_runs_are_found_by_id_and_by_the_beginning_of_one(tmp_path: Path):
    objects = MemoryObjects()
    for number in range(3):
        writer = create(tmp_path, f"run-2026112{number}T000000Z-a-00000000")
        fill(writer, 1, 5)
        writer.close(status="completed")
        sync(shipper(objects, writer.path))
    objects.put("notes/readme.txt", b"not a run")
    objects.put("something", b"else")
    root = RemoteRoot(objects)
    assert [run.run_id for run in find_runs(root)] == [
        f"run-2026112{number}T000000Z-a-00000000" for number in (2, 1, 0)
    ]
    assert resolve_run(root).run_id.startswith("run-20261122")
    assert resolve_run(root, "run-20261121").status == "completed"
    assert resolve_run(root, "run-20261121T000000Z-a-00000000").status == "completed"


def test_a_run_with_several_writers_is_read_by_parts(tmp_path: Path):
    objects = MemoryObjects()
    run = tmp_path / RUN_ID
    writers = [
        RunWriter.create(FileStore(run / WRITERS / name), run_document(), writer=name)
        for name in ("rank-0", "rank-1")
    ]
    for number, writer in enumerate(writers):
        fill(writer, number * 100 + 1, number * 100 + 50)
        assert writer.sync(10)
    for writer, name in zip(writers, ("rank-0", "rank-1"), strict=True):
        shipper(objects, writer.path, run_id=RUN_ID, writer=name).ship()
    found, there = everything(run), everything(RemoteStore(objects, RUN_ID))
    assert len(there["records"][TASKS]) == 98
    assert there["records"] == found["records"]
    for writer, name in zip(writers, ("rank-0", "rank-1"), strict=True):
        writer.close(status="completed")
        assert shipper(objects, writer.path, run_id=RUN_ID, writer=name).finish()
    found, there = everything(run), everything(RemoteStore(objects, RUN_ID))
    # A directory that all share lacks what the first writer makes; a copy consists of the parts.
    assert list(found.pop("problems")) == [schema.RUN]
    assert there.pop("problems") == {}
    assert there == found
    assert sync_run(objects, FileStore(run)).complete


def test_a_closed_run_of_several_writers_is_found_by_any_name(tmp_path: Path):
    # Its chunks are gone, and nobody but `scalable sync` copies the run.json of the whole.
    objects = MemoryObjects()
    objects.create("array-1/writers/rank-0/run.json", b"{}")
    assert RemoteRoot(objects).ids() == ["array-1"]


def test_the_name_of_a_run_follows_that_of_its_place():
    class Elsewhere(MemoryObjects):
        address = "s3://bucket/runs"

    store = RemoteStore(Elsewhere(), RUN_ID)
    assert store.location == f"s3://bucket/runs/{RUN_ID}"
    assert place_of(store) == store.location


def test_two_shippers_of_one_run_do_no_harm(tmp_path: Path):
    writer = create(tmp_path)
    objects = MemoryObjects()
    recorder = shipper(objects, writer.path, role="recorder")
    command = shipper(objects, writer.path)
    fill(writer, 1, 30)
    recorder.ship()
    for first in (30, 60, 90):
        fill(writer, first, first + 15)
        command.ship()
        fill(writer, first + 15, first + 30)
        recorder.ship()
        assert writer.sync(10)
        recorder.ship()
        command = shipper(objects, writer.path)
        contents(objects, writer.path)
    writer.close(status="completed")
    assert recorder.finish()
    assert everything(RemoteStore(objects, RUN_ID)) == everything(writer.path)


def test_a_command_yields_to_a_recorder_and_a_recorder_to_its_successor(tmp_path: Path):
    writer = create(tmp_path)
    objects = MemoryObjects()
    first = shipper(objects, writer.path, role="recorder")
    first.ship()
    command = shipper(objects, writer.path)
    command.ship()
    fill(writer, 1, 10)
    assert writer.sync(10)
    first.ship()  # goes on: a command ends soon
    fill(writer, 10, 20)
    assert writer.sync(10)
    with pytest.raises(SupersededError):
        command.ship()
    successor = shipper(objects, writer.path, role="recorder")
    successor.ship()
    shipper(objects, writer.path).ship()
    fill(writer, 20, 30)
    assert writer.sync(10)
    with pytest.raises(SupersededError):
        first.ship()
    successor.ship()
    contents(objects, writer.path)
    writer.close()


def test_an_older_run_json_does_not_stay(tmp_path: Path):
    """A command that is slow must not replace the last run.json by an older one."""
    writer = create(tmp_path)
    fill(writer, 1, 20)
    objects = Counting()
    recorder = shipper(objects.inner, writer.path, role="recorder")

    def close(verb: str, key: str) -> None:
        if (verb, key) == ("put", f"{RUN_ID}/run.json"):
            objects.before = lambda verb, key: None
            writer.close(status="completed")
            assert recorder.finish()

    objects.before = close
    assert sync(shipper(objects, writer.path)).complete
    assert everything(RemoteStore(objects, RUN_ID)) == everything(writer.path)


def test_what_only_chunks_have_stays_there(tmp_path: Path):
    """A file was removed here after it was copied: no later copy takes its lines away there."""
    writer = create(tmp_path)
    fill(writer, 1, 50)
    assert writer.sync(10)
    objects = MemoryObjects()
    shipper(objects, writer.path, role="recorder").ship()
    lines = (writer.path / FAILURES).read_bytes()
    writer.close(status="completed")
    (writer.path / FAILURES).unlink()
    for _ in range(3):
        sync(shipper(objects, writer.path))
        assert b"".join(RemoteStore(objects, RUN_ID).read(FAILURES)) == lines


def test_a_plain_file_that_is_damaged_does_not_cost_the_chunks(tmp_path: Path):
    """All sizes are right and run.json is there, but no chunk was deleted yet."""
    writer = create(tmp_path)
    fill(writer, 1, 50)
    assert writer.sync(10)
    objects = Counting()
    shipper(objects, writer.path, role="recorder").ship()
    writer.close(status="completed")

    def kill(verb: str, key: str) -> None:
        if verb == "delete" and "/chunks/" in key:
            raise Killed

    objects.before = kill
    with pytest.raises(Killed):
        sync(shipper(objects, writer.path))
    objects.before = lambda verb, key: None
    objects.put(f"{RUN_ID}/{TASKS}", bytes((writer.path / TASKS).stat().st_size))
    assert sync(shipper(objects, writer.path)).complete
    assert objects.get(f"{RUN_ID}/{TASKS}") == (writer.path / TASKS).read_bytes()
    assert not list(objects.list(f"{RUN_ID}/chunks/"))


@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_at_each_step_of_the_end(tmp_path: Path, moment: str):
    """A reader finds all lines at any moment, and a later copy ends what was begun."""
    writer = create(tmp_path)
    fill(writer, 1, 50)
    assert writer.sync(10)
    objects = Counting()
    recorder = shipper(objects, writer.path, role="recorder")
    recorder.ship()
    start = list(objects.inner.list())
    begun = {entry.key: objects.inner.get(entry.key) for entry in start}
    fill(writer, 50, 60)
    writer.close({"counts": {}}, status="completed")
    found = everything(writer.path)
    step, is_killed = 0, True
    while is_killed:
        objects.inner = MemoryObjects()
        for key, data in begun.items():
            objects.inner.put(key, data)
        count = iter(range(step, -1, -1))

        def kill(verb: str, key: str, count: Iterator[int] = count) -> None:
            if next(count, 1) == 0:
                raise Killed

        recorder = shipper(objects, writer.path, role="recorder")
        setattr(objects, moment, kill)
        try:
            assert recorder.finish()
            is_killed = False
        except Killed:
            pass
        objects.before = objects.after = lambda verb, key: None
        there = everything(RemoteStore(objects, RUN_ID))
        numbers = [record["seq"] for record in there["records"][TASKS]]
        assert numbers == list(range(1, len(numbers) + 1))
        assert len(numbers) >= 49
        assert sync(shipper(objects, writer.path)).complete
        assert everything(RemoteStore(objects, RUN_ID)) == found
        assert not list(objects.list(f"{RUN_ID}/chunks/"))
        step += 1
    assert step > 30


@pytest.mark.parametrize("name", [b"a\\b.log", b"a\xff.log", b"a\\b.jsonl", b"chunks"])
def test_a_name_that_no_object_can_have_does_not_hold_up_the_rest(tmp_path: Path, name: bytes):
    path = closed_run(tmp_path)
    Path(os.fsdecode(bytes(path) + b"/" + name)).write_text("{}\n")
    objects = MemoryObjects()
    copy = shipper(objects, path)
    assert sync(copy).complete
    assert len(copy.problems) == (name != b"chunks")
    for problem in copy.problems:
        assert "is not copied" in problem
        assert problem.isprintable()


def test_it_is_said_that_too_many_files_are_beside_the_journals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("scalable_runs.remote.local_files.MAX_ATTACHMENTS", 2)
    path = closed_run(tmp_path)
    for number in range(3):
        (path / f"{number}.log").write_text("x")
    copy = shipper(MemoryObjects(), path)
    assert sync(copy).complete
    assert copy.problems == ["only 2 of 3 files beside the journals are copied"]


def test_a_run_with_several_writers_that_was_closed_is_complete_there(tmp_path: Path):
    writers = [create_shared(tmp_path, name) for name in ("rank-0", "rank-1")]
    run, objects = FileStore(tmp_path / RUN_ID), MemoryObjects()
    for number, writer in enumerate(writers):
        fill(writer, number * 100 + 1, number * 100 + 50)
        assert writer.sync(10)
        assert not sync_run(objects, run).complete
        writer.close(status="completed", finished_at="2026-11-21T16:34:03.000000Z")
    for _ in range(2):
        assert sync_run(objects, run).complete
        assert everything(RemoteStore(objects, RUN_ID)) == everything(run.path)
    assert everything(run.path)["summary"] is not None


def test_what_somebody_removed_there_is_brought_again(tmp_path: Path):
    writer = create(tmp_path)
    objects = MemoryObjects()
    recorder = shipper(objects, writer.path, role="recorder")
    for first in range(1, 81, 20):
        fill(writer, first, first + 20)
        recorder.ship()
    chunks = list(objects.list(f"{RUN_ID}/chunks/"))
    assert len(chunks) == 4
    # A part of the lines: a command finds that out by the names.
    objects.delete(chunks[1].key)
    assert sync(shipper(objects, writer.path)).missing_bytes == 0
    contents(objects, writer.path)
    # All of the run: a recorder finds that out as well, and goes on.
    RemoteStore(objects, RUN_ID).delete()
    for first in (81, 101):
        fill(writer, first, first + 20)
        assert writer.sync(10)
        recorder.ship()
    contents(objects, writer.path)
    assert everything(RemoteStore(objects, RUN_ID)) == everything(writer.path)
    writer.close(status="completed")
    assert recorder.finish()
    assert everything(RemoteStore(objects, RUN_ID)) == everything(writer.path)


def test_a_command_knows_of_a_recorder_that_began_at_the_same_moment(tmp_path: Path):
    writer = create(tmp_path)
    objects = Counting()
    first = shipper(objects.inner, writer.path, role="recorder")
    first.ship()
    successor = shipper(objects.inner, writer.path, role="recorder")

    def begin(verb: str, key: str) -> None:
        if verb == "create" and "/epoch-" in key:
            objects.before = lambda verb, key: None
            successor.ship()

    objects.before = begin
    shipper(objects, writer.path).ship()
    fill(writer, 1, 5)
    assert writer.sync(10)
    with pytest.raises(SupersededError):
        first.ship()
    successor.ship()
    writer.close()


@pytest.mark.parametrize("journal", [[], 5, {TASKS: 5}, {TASKS: {"bytes": "x"}}])
def test_marks_of_any_shape_do_not_hinder_a_reader(tmp_path: Path, journal: object):
    path = closed_run(tmp_path)
    objects = MemoryObjects()
    assert sync(shipper(objects, path, compress=True)).complete
    document = orjson.loads(objects.get(f"{RUN_ID}/run.json"))
    objects.put(f"{RUN_ID}/run.json", orjson.dumps({**document, "journal": journal}))
    reader = RunReader(RemoteStore(objects, RUN_ID))
    assert reader.size(TASKS) > 0
    assert sum(1 for _ in reader.records(TASKS)) == 99


# -- faults ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_killed_between_any_two_requests(tmp_path: Path, seed: int):
    """Shippers are killed before or after requests while the run grows, and begin again."""
    writer = create(tmp_path)
    objects = Counting()
    choice = random.Random(seed)
    copy = shipper(objects, writer.path, role="recorder")
    for first in range(1, 301, 20):
        fill(writer, first, first + 20)
        if choice.random() < 0.2:
            assert writer.sync(10)
        before, after = Faults(choice.random(), 0.1, Killed), Faults(choice.random(), 0.1, Killed)
        objects.before, objects.after = before, after
        try:
            (copy if choice.random() < 0.7 else shipper(objects, writer.path)).ship()
        except (Killed, SupersededError):
            copy = shipper(objects, writer.path, role="recorder")
        objects.before = objects.after = lambda verb, key: None
    if seed % 2:
        writer.close({"counts": {}}, status="completed")
        for _ in range(100):
            objects.before = Faults(choice.random(), 0.05, Killed)
            objects.after = Faults(choice.random(), 0.05, Killed)
            try:
                if sync(shipper(objects, writer.path)).complete:
                    break
            except Killed:
                there = everything(RemoteStore(objects.inner, RUN_ID))
                numbers = [record["seq"] for record in there["records"].get(TASKS, [])]
                assert numbers == list(range(1, len(numbers) + 1))
    objects.before = objects.after = lambda verb, key: None
    state = sync(shipper(objects, writer.path))
    assert state.missing_bytes == 0
    found, there = everything(writer.path), everything(RemoteStore(objects, RUN_ID))
    assert there["records"] == found["records"]
    assert there["problems"] == {}
    assert len(there["records"][TASKS]) == 300
    contents(objects, writer.path)
    if seed % 2:
        assert state.complete
        assert there == found
    writer.close()


@pytest.mark.parametrize("seed", range(4))
def test_a_place_that_fails_now_and_then(tmp_path: Path, seed: int):
    """Requests fail before they are done, or afterwards: one shipper goes on all the time."""
    writer = create(tmp_path)
    objects = Counting()
    objects.before = Faults(seed, 0.2, lost_connection)
    objects.after = Faults(seed + 1000, 0.2, lost_connection)
    copy = shipper(objects, writer.path, role="recorder")
    for first in range(1, 300, 20):
        fill(writer, first, first + 20)
        with suppress(OSError):
            copy.ship()
    writer.close({"counts": {}}, status="completed")
    for _ in range(200):
        with suppress(OSError):
            if copy.finish():
                break
    assert copy.state().complete
    assert everything(RemoteStore(objects.inner, RUN_ID)) == everything(writer.path)


# -- hostile places -------------------------------------------------------------------------------


def chunk_keys(objects: MemoryObjects) -> list[str]:
    return [entry.key for entry in objects.list(f"{RUN_ID}/chunks/")]


def live_copy(tmp_path: Path) -> tuple[RunWriter, MemoryObjects]:
    """A run in four chunks."""
    writer = create(tmp_path)
    objects = MemoryObjects()
    copy = shipper(objects, writer.path, role="recorder")
    for first in range(1, 200, 50):
        fill(writer, first, first + 50)
        assert writer.sync(10)
        copy.ship()
    assert len(chunk_keys(objects)) == 4
    return writer, objects


@pytest.mark.parametrize("damage", ["bits", "cut", "empty", "foreign", "gone"])
def test_a_damaged_chunk_is_told_and_costs_only_its_own_lines(tmp_path: Path, damage: str):
    writer, objects = live_copy(tmp_path)
    key = chunk_keys(objects)[1]
    data = objects.get(key)
    if damage == "gone":
        objects.delete(key)
    else:
        objects.put(
            key,
            {
                "bits": data[:-40] + bytes(40),
                "cut": data[:-10],
                "empty": b"",
                "foreign": b"<html>not found</html>" * 100,
            }[damage],
        )
    records, problems = (
        everything(RemoteStore(objects, RUN_ID))[k] for k in ("records", "problems")
    )
    numbers = [record["seq"] for record in records[TASKS]]
    assert numbers == [*range(1, 51), *range(101, 201)]
    assert any("50 lines missing (seq 51–100)" in one for one in problems[TASKS])
    assert any("bytes that had been synced are gone" in one for one in problems[TASKS])
    # Closing the run brings the file itself.
    writer.close(status="completed")
    assert sync(shipper(objects, writer.path)).complete
    assert everything(RemoteStore(objects, RUN_ID)) == everything(writer.path)


def test_a_last_chunk_that_is_damaged_is_brought_again(tmp_path: Path):
    writer, objects = live_copy(tmp_path)
    objects.put(chunk_keys(objects)[-1], b"damaged")
    sync(shipper(objects, writer.path))
    contents(objects, writer.path)
    writer.close()


def test_foreign_objects_and_names_that_lead_elsewhere_are_left_alone(tmp_path: Path):
    writer, objects = live_copy(tmp_path)
    strange = Counting(objects)
    keys = [
        "../../etc/passwd",
        f"{RUN_ID}/../x",
        f"{RUN_ID}/chunks/main/../../run.json",
        f"{RUN_ID}/chunks/main/000000000001-000000000009-zz.jsonl.zst",
        f"{RUN_ID}/chunks/main/000000000009-000000000001-00000000.jsonl.zst",
        f"{RUN_ID}/writers/../../y/run.json",
        f"{RUN_ID}//run.json",
    ]
    foreign = [Object(key, 10, 0.0, "1") for key in keys]
    strange.list = lambda prefix="", after="": iter(  # type: ignore[method-assign]
        [
            one
            for one in sorted([*objects.list(), *foreign])
            if one.key.startswith(prefix) and one.key > after
        ]
    )
    assert everything(RemoteStore(strange, RUN_ID)) == everything(RemoteStore(objects, RUN_ID))
    assert RemoteRoot(strange).ids() == [RUN_ID]
    assert RemoteRoot(strange).find("..") is None
    store = RemoteStore(strange, RUN_ID)
    with pytest.raises(FileNotFoundError):
        list(store.read("../other/run.json"))
    assert sync(shipper(strange, writer.path)).missing_bytes == 0
    writer.close()


def test_a_listing_with_very_many_foreign_objects_is_passed_over():
    objects = Counting()
    for folder in ("a-backup", "zoo"):
        for number in range(3_000):
            objects.inner.put(f"{folder}/{number:06d}", b"")
    objects.inner.put(f"{RUN_ID}/run.json", b"{}")
    assert RemoteRoot(objects).ids() == [RUN_ID]
    assert objects.requests["list"] == 3


def test_a_run_that_is_closed_while_it_is_read(tmp_path: Path):
    writer, objects = live_copy(tmp_path)
    lines = RemoteStore(objects, RUN_ID).read(TASKS)
    beginning = next(lines)
    writer.close(status="completed")
    assert sync(shipper(objects, writer.path)).complete
    assert beginning + b"".join(lines) == (writer.path / TASKS).read_bytes()


def test_another_directory_of_the_same_name_is_refused(tmp_path: Path):
    writer, objects = live_copy(tmp_path / "a")
    writer.close()
    other = create(tmp_path / "b")
    fill(other, 500, 900)
    with pytest.raises(OtherRunError, match="another run of the name"):
        sync(shipper(objects, other.path))
    other.close()


def test_a_frame_that_would_fill_the_memory_is_refused():
    bomb = zstandard.ZstdCompressor().compress(bytes(10_000_000))
    with pytest.raises(ValueError, match="announced"):
        decompressed(bomb, 100)
    parts = list(decompressed_parts(iter([bomb])))
    assert max(map(len, parts)) <= 1024 * 1024
    assert sum(map(len, parts)) == 10_000_000
