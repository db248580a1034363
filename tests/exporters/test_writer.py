"""The writer when nothing is broken, and when somebody misuses it."""

from __future__ import annotations

import math
import os
import stat
import threading
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_world import RUN_ID, create, failure, lines, read, run_document, task, written

from scalable_runs import schema
from scalable_runs.reader import RunReader
from scalable_runs.schema import FAILURES, SPANS, TASKS
from scalable_runs.stores import file as file_store
from scalable_runs.writer import Problem, RunWriter

CONTRACT = {
    *schema.JOURNALS,
    schema.MANIFEST,
    schema.PLAN,
    schema.LOCK,
    schema.RUN,
    schema.SUMMARY,
}


def test_a_finished_run_has_the_twelve_files_and_nothing_that_was_temporary(tmp_path: Path) -> None:
    writer = create(tmp_path, manifest="project: x\n", plan={"workers": 2}, lock="abc\n")
    before_close = {entry.name for entry in writer.path.iterdir()}
    writer.close({"counts": {}}, status="completed")
    assert CONTRACT - before_close == {schema.SUMMARY}
    assert {entry.name for entry in writer.path.iterdir()} == CONTRACT | {schema.OWNER}
    assert (writer.path / schema.MANIFEST).read_text() == "project: x\n"
    assert orjson.loads((writer.path / schema.PLAN).read_bytes()) == {"workers": 2}
    assert (writer.path / schema.LOCK).read_text() == "abc\n"
    assert all((writer.path / file).read_bytes() == b"" for file in schema.JOURNALS)


def test_only_the_owner_can_look_into_a_run(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        writer = create(tmp_path / "deep" / "runs")
        writer.append(SPANS, [{"event_type": "span", "timestamp": "…"}])
        writer.close({})
    finally:
        os.umask(old)
    assert stat.S_IMODE(writer.path.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in writer.path.iterdir()} == {0o600}


def test_records_come_back_in_order_with_version_run_and_sequence(tmp_path: Path) -> None:
    writer = create(tmp_path)
    assert writer.append(TASKS, [task(1), task(2)]) == 2
    assert writer.append(FAILURES, (failure(n) for n in (1,))) == 1
    assert writer.append(TASKS, [task(3)]) == 1
    writer.flush()
    assert lines(writer.path / TASKS) == [written(task(n), n) for n in (1, 2, 3)]
    assert lines(writer.path / FAILURES) == [written(failure(1), 1)]
    first = (writer.path / TASKS).read_bytes()
    assert first.startswith(
        b'{"schema_version":1,"run_id":"%b","seq":1,"event_type":"task","timestamp":'
        % RUN_ID.encode()
    )
    writer.close()


def test_nothing_reaches_the_file_before_a_flush_and_everything_after(tmp_path: Path) -> None:
    writer = create(tmp_path, sync_interval=10)
    writer.append(TASKS, [task(1)])
    assert (writer.path / TASKS).stat().st_size == 0
    writer.flush()
    assert len(lines(writer.path / TASKS)) == 1
    writer.close()


def test_a_full_buffer_is_flushed_by_append(tmp_path: Path) -> None:
    writer = create(tmp_path, sync_interval=10)
    writer.append(TASKS, [task(n, 1000) for n in range(1, 1001)])
    assert (writer.path / TASKS).stat().st_size > 1_000_000
    writer.close()


def test_no_write_is_larger_than_64_kib_or_ends_within_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = create(tmp_path, sync_interval=10)
    pieces: list[bytes] = []
    real = os.write

    def watched(fd: int, data: Any) -> int:
        pieces.append(bytes(data))
        return real(fd, data)

    monkeypatch.setattr(file_store.os, "write", watched)
    writer.append(TASKS, [task(n, n % 700) for n in range(1, 901)])
    writer.append(FAILURES, [failure(1) | {"message": "x" * 200_000}, failure(2)])
    writer.flush()
    monkeypatch.undo()
    assert len(pieces) > 5
    assert all(piece.endswith(b"\n") for piece in pieces)
    assert all(len(piece) <= 64 * 1024 or piece.count(b"\n") == 1 for piece in pieces)
    assert b"".join(pieces[:-2]) == (writer.path / TASKS).read_bytes()
    writer.close()


def test_a_short_write_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = create(tmp_path, sync_interval=10)
    real = os.write
    monkeypatch.setattr(file_store.os, "write", lambda fd, data: real(fd, data[:7]))
    writer.append(TASKS, [task(1), task(2)])
    writer.flush()
    monkeypatch.undo()
    writer.close()
    assert lines(writer.path / TASKS) == [written(task(n), n) for n in (1, 2)]
    assert not read(writer.path)[1].problems


def test_a_sync_marks_bytes_sequence_and_checksum_of_every_file(tmp_path: Path) -> None:
    writer = create(tmp_path, sync_interval=10)
    writer.append(TASKS, [task(1), task(2)])
    assert writer.sync(10)
    journal = orjson.loads((writer.path / schema.RUN).read_bytes())["journal"]
    data = (writer.path / TASKS).read_bytes()
    assert set(journal) == set(schema.JOURNALS)
    assert journal[TASKS] == {
        "bytes": len(data),
        "seq": 2,
        "crc32": zlib.crc32(data),
    }
    assert journal[FAILURES] == {"bytes": 0, "seq": 0, "crc32": 0}
    writer.close()


def test_an_urgent_sync_does_not_wait_for_the_timer(tmp_path: Path) -> None:
    writer = create(tmp_path, sync_interval=10)
    writer.append(FAILURES, [failure(1)])
    writer.update_run(urgent=True, trace_id="changed")
    run = writer.path / schema.RUN
    deadline = threading.Event()
    while orjson.loads(run.read_bytes())["trace_id"] != "changed":
        assert not deadline.wait(0.005)
    assert orjson.loads(run.read_bytes())["journal"][FAILURES]["seq"] == 1
    writer.close()


def test_the_timer_syncs_and_updates_the_heartbeat(tmp_path: Path) -> None:
    writer = create(tmp_path, sync_interval=0.02)
    run = writer.path / schema.RUN
    first = orjson.loads(run.read_bytes())["recorder"]["heartbeat_at"]
    writer.append(TASKS, [task(1)])
    wait = threading.Event()
    while (now := orjson.loads(run.read_bytes()))["journal"][TASKS]["seq"] != 1:
        wait.wait(0.005)
    assert now["recorder"]["heartbeat_at"] > first
    assert now["recorder"]["pid"] == os.getpid()
    writer.close()


def test_close_writes_the_summary_with_the_final_run(tmp_path: Path) -> None:
    writer = create(tmp_path)
    writer.append(TASKS, [task(1)])
    writer.update_run(telemetry={"dropped": {"facts": 3}, "errors": {"hook": 1}})
    seen: list[Any] = []

    def summary(run: Any) -> dict[str, Any]:
        seen.append(run)
        return {"run": "is replaced", "counts": {"task_events": 1}}

    writer.close(summary, status="failed", finished_at="2026-11-21T16:34:00.000000Z")
    reader = RunReader(writer.path)
    document = orjson.loads((writer.path / schema.SUMMARY).read_bytes())
    assert list(document) == ["run", "counts"]
    assert document["counts"] == {"task_events": 1}
    assert document["run"]["status"] == reader.status == "failed"
    assert seen[0]["journal"][TASKS]["seq"] == 1
    assert reader.document["telemetry"] == {"dropped": {"facts": 3}, "errors": {"hook": 1}}
    assert reader.finished_at == datetime(2026, 11, 21, 16, 34, tzinfo=UTC)


def test_close_is_idempotent_and_later_lines_are_counted_as_lost(tmp_path: Path) -> None:
    writer = create(tmp_path)
    writer.append(TASKS, [task(1)])
    writer.close(status="completed")
    before = {file.name: file.read_bytes() for file in writer.path.iterdir()}
    writer.close({"counts": {}}, status="failed")
    assert writer.append(TASKS, [task(2), task(3)]) == 0
    writer.flush()
    writer.request_sync()
    assert writer.sync(1) is False
    assert {file.name: file.read_bytes() for file in writer.path.iterdir()} == before
    assert writer.losses == {TASKS: 2}


def test_closing_on_many_threads_at_once_closes_once(tmp_path: Path) -> None:
    writer = create(tmp_path)
    calls: list[int] = []
    closers = [
        threading.Thread(target=writer.close, args=(lambda run: calls.append(1) or {},))
        for _ in range(8)
    ]
    for closer in closers:
        closer.start()
    for closer in closers:
        closer.join()
    assert calls == [1]


def test_a_summary_that_raises_does_not_keep_the_run_from_closing(tmp_path: Path) -> None:
    problems: list[Problem] = []
    writer = create(tmp_path, on_problem=problems.append)

    def summary(run: Any) -> dict[str, Any]:
        raise RuntimeError("no numbers")

    writer.close(summary, status="completed")
    reader = RunReader(writer.path)
    assert reader.status == "completed"
    assert reader.document["telemetry"]["errors"] == {"internal:RuntimeError": 1}
    assert [problem.kind for problem in problems] == ["internal:RuntimeError"]


def test_many_threads_append_flush_and_sync_without_losing_order(tmp_path: Path) -> None:
    writer = create(tmp_path, sync_interval=0.01)

    def work(thread: int) -> None:
        for number in range(100):
            writer.append(TASKS, [task(thread * 1000 + number)])
            if number % 10 == 0:
                writer.flush()
            if number % 25 == 0:
                writer.request_sync()

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close(status="completed")
    records, reader = read(writer.path)
    assert [record["seq"] for record in records] == list(range(1, 601))
    for thread in range(6):
        mine = [r["task_id"] for r in records if int(r["task_id"][4:]) // 1000 == thread]
        assert mine == [f"inc-{thread * 1000 + number}" for number in range(100)]
    assert reader.problems == {}


def test_values_that_orjson_refuses_are_written(tmp_path: Path) -> None:
    class Strange:
        def __repr__(self) -> str:
            raise RuntimeError("hostile")

        __str__ = __repr__

    @dataclass
    class Point:
        x: int

    loop: dict[str, Any] = {}
    loop["self"] = loop
    values: list[Any] = [
        "lone \ud800 surrogate",
        2**70,
        1 << 20_000,
        math.nan,
        math.inf,
        loop,
        {1: "a", None: "b", Strange(): "c", "\udfff": "d"},
        Strange(),
        b"bytes \xff",
        {"a", "b"} - {"b"},
        MappingProxyType({"k": MappingProxyType({"n": 1})}),
        PurePosixPath("/x"),
        Point(1),
        (1, (2, (3,))),
        "NUL \0 and newline \n and ESC \x1b",
    ]
    writer = create(tmp_path)
    assert writer.append(TASKS, [task(1) | {"value": value} for value in values]) == len(values)
    writer.close()
    got = [record["value"] for record in lines(writer.path / TASKS)]
    assert got[:5] == [
        "lone \\ud800 surrogate",
        str(2**70),
        "<int of 20001 bits>",
        None,
        None,
    ]
    assert got[6] == {"1": "a", "None": "b", "<Strange>": "c", "\\udfff": "d"}
    assert got[7:] == [
        "<Strange>",
        "bytes \\xff",
        ["a"],
        {"k": {"n": 1}},
        "/x",
        {"x": 1},
        [1, [2, [3]]],
        "NUL \0 and newline \n and ESC \x1b",
    ]
    assert writer.losses == writer.errors == {}


def test_a_record_that_cannot_be_read_at_all_is_counted_and_leaves_a_gap(tmp_path: Path) -> None:
    class Hostile(Mapping[str, Any]):
        def __getitem__(self, key: str) -> Any:
            raise RuntimeError("no items for you")

        def __iter__(self) -> Iterator[str]:
            return iter("a")

        def __len__(self) -> int:
            return 1

    problems: list[Problem] = []
    writer = create(tmp_path, on_problem=problems.append)
    bad: Any = {"event_type": "task", "x": 2**70, "y": Hostile()}
    assert writer.append(TASKS, [task(1), bad, bad, task(4)]) == 2
    writer.close()
    records, reader = read(writer.path)
    assert [record["seq"] for record in records] == [1, 4]
    assert reader.problems[TASKS].gaps == [(2, 3)]
    assert writer.losses == {TASKS: 2}
    assert reader.document["telemetry"]["dropped"] == {TASKS: 2}
    assert [problem.kind for problem in problems] == ["encode:RuntimeError"]


def test_records_whose_iterator_raises_keep_those_before(tmp_path: Path) -> None:
    def broken() -> Any:
        yield task(1)
        yield task(2)
        raise RuntimeError("no more")

    writer = create(tmp_path)
    with pytest.raises(RuntimeError, match="no more"):
        writer.append(TASKS, broken())
    writer.append(TASKS, [task(3)])
    writer.close()
    assert lines(writer.path / TASKS) == [written(task(n), n) for n in (1, 2, 3)]


@pytest.mark.parametrize(
    "run_id", ["", ".", "..", "../x", "a/b", "/etc", ".hidden", "a" * 129, "a\n", "-x", "ä", "a b"]
)
def test_a_run_id_that_is_no_plain_file_name_is_refused(tmp_path: Path, run_id: str) -> None:
    with pytest.raises(ValueError, match="not a run id"):
        create(tmp_path / "runs", run_id)
    assert not (tmp_path / "runs").exists()


def test_a_second_writer_is_refused_whether_the_first_is_open_closed_or_dead(
    tmp_path: Path,
) -> None:
    writer = create(tmp_path)
    with pytest.raises(FileExistsError):
        create(tmp_path)
    writer.close()
    with pytest.raises(FileExistsError):
        create(tmp_path)
    owner = orjson.loads((writer.path / schema.OWNER).read_bytes())
    assert owner["pid"] == os.getpid()
    assert set(owner) == {
        "host",
        "pid",
        "boot_id",
        "pid_namespace",
        "process_started",
        "created_at",
    }


def test_a_symbolic_link_in_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    runs = tmp_path / "runs"
    runs.mkdir()
    (runs / RUN_ID).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        create(runs)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_an_unknown_journal_is_refused(tmp_path: Path) -> None:
    writer = create(tmp_path)
    with pytest.raises(ValueError, match="no journal is called"):
        writer.append("../escape.jsonl", [task(1)])
    writer.close()
    with pytest.raises(ValueError, match="above 0"):
        create(tmp_path, "run-other", sync_interval=0)


def test_a_forked_child_writes_nothing(tmp_path: Path) -> None:
    writer = create(tmp_path, sync_interval=10)
    writer.append(TASKS, [task(1)])
    child = os.fork()
    if child == 0:
        writer.append(TASKS, [task(2)])
        writer.flush()
        writer.update_run(urgent=True, status="failed")
        writer.request_sync()
        writer.count_error("x", "y")
        writer.sync(1)
        writer.close({}, status="failed")
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert status == 0
    assert (writer.path / TASKS).stat().st_size == 0
    writer.append(TASKS, [task(2)])
    writer.close(status="completed")
    assert lines(writer.path / TASKS) == [written(task(n), n) for n in (1, 2)]
    assert RunReader(writer.path).status == "completed"


def test_problems_are_reported_once_a_kind_and_a_raising_callback_is_no_problem(
    tmp_path: Path,
) -> None:
    told: list[str] = []

    def tell(problem: Problem) -> None:
        told.append(problem.kind)
        raise RuntimeError("callback")

    writer = create(tmp_path, on_problem=tell)
    for _ in range(3):
        writer.count_error("hook:ValueError", "a hook failed")
        writer.count_error("other", "something else")
    writer.close()
    assert told == ["hook:ValueError", "other"]
    assert writer.errors == {"hook:ValueError": 3, "other": 3}


def test_run_json_accepts_values_that_json_cannot_express(tmp_path: Path) -> None:
    document: Any = run_document(environment={"path": {1: b"\xff"}, "name": "\ud800"})
    writer = RunWriter.create(tmp_path, document, manifest="\ud800")
    writer.close()
    environment = RunReader(writer.path).document["environment"]
    assert environment == {"path": {"1": "\\xff"}, "name": "\\ud800"}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("append"), st.integers(0, 30), st.integers(0, 3000)),
            st.tuples(st.sampled_from(["flush", "sync", "fail"]), st.just(0), st.just(0)),
        ),
        max_size=12,
    )
)
def test_whatever_is_appended_comes_back(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, int]]
) -> None:
    writer = create(tmp_path_factory.mktemp("runs"), sync_interval=10)
    count = 0
    for step, number, padding in steps:
        if step == "append":
            writer.append(TASKS, [task(count + n, padding) for n in range(number)])
            count += number
        elif step == "flush":
            writer.flush()
        elif step == "sync":
            writer.request_sync()
        else:
            writer.append(FAILURES, [failure(1)])
    writer.close({}, status="completed")
    records, reader = read(writer.path)
    assert [record["task_id"] for record in records] == [f"inc-{n}" for n in range(count)]
    assert [record["seq"] for record in records] == list(range(1, count + 1))
    assert reader.problems == {}


def test_a_run_may_belong_to_another_process(tmp_path: Path) -> None:
    writer = create(tmp_path, program=os.getppid())
    owner = orjson.loads((writer.path / schema.OWNER).read_bytes())
    assert owner["pid"] == os.getppid()
    assert owner["writer"]["pid"] == os.getpid()
    assert writer.sync(10)
    run = orjson.loads((writer.path / schema.RUN).read_bytes())
    assert run["recorder"]["pid"] == os.getppid()
    writer.close()
