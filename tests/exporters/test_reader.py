"""The reader on runs in every state: old, cut, damaged, foreign, live, lost."""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import threading
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_world import RUN_ID, create, failure, read, run_document, task, written

from scalable_runs import _process, schema
from scalable_runs import runs as runs_module
from scalable_runs.reader import (
    AmbiguousRunError,
    FileProblems,
    RunNotFoundError,
    RunReader,
    find_runs,
    parse_time,
    resolve_run,
)
from scalable_runs.schema import FAILURES, TASKS

SHARED = Path(__file__).parents[3] / "shared" / "fixtures" / "peer-runs"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 60 tasks; tests that change it copy it."""
    writer = create(tmp_path_factory.mktemp("finished"))
    writer.append(TASKS, [task(n) for n in range(1, 61)])
    writer.append(FAILURES, [failure(n) for n in range(1, 4)])
    writer.close(
        {"counts": {"task_events": 60}},
        status="completed",
        finished_at="2026-11-21T16:33:05.000000Z",
    )
    return writer.path


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / RUN_ID))


def said(reader: RunReader) -> str:
    return "\n".join(text for one in reader.problems.values() for text in one.sentences())


# Whole runs


def test_a_finished_run_shows_everything_and_has_no_problems(finished: Path) -> None:
    reader = RunReader(finished)
    assert reader.status == "completed"
    assert not reader.is_live
    assert reader.run_id == RUN_ID
    assert reader.started_at == datetime(2026, 11, 21, 16, 33, 3, tzinfo=UTC)
    assert reader.finished_at == datetime(2026, 11, 21, 16, 33, 5, tzinfo=UTC)
    assert reader.files() == list(schema.JOURNALS)
    assert list(reader.records(TASKS)) == [written(task(n), n) for n in range(1, 61)]
    assert list(reader.records(schema.CACHE)) == list(reader.records("absent.jsonl")) == []
    summary = reader.summary()
    assert summary is not None
    assert summary["counts"] == {"task_events": 60}
    assert reader.problems == {}


def test_reading_twice_counts_a_problem_once(run: Path) -> None:
    with (run / TASKS).open("ab") as file:
        file.write(b"broken\n")
    reader = RunReader(run)
    for _ in range(2):
        assert len(list(reader.records(TASKS))) == 60
        assert reader.problems[TASKS].broken == 1


def test_progress_adds_up_to_the_size(finished: Path) -> None:
    reader = RunReader(finished)
    seen: list[int] = []
    list(reader.records(TASKS, progress=seen.append))
    assert sum(seen) == reader.size(TASKS) == (finished / TASKS).stat().st_size > 0
    assert reader.size(schema.SPANS) == 0


def test_a_reader_that_stops_early_leaves_no_file_open(finished: Path) -> None:
    before = set(Path("/proc/self/fd").iterdir())
    records = RunReader(finished).records(TASKS)
    next(records)
    assert isinstance(records, Iterator)
    records.close()  # type: ignore[attr-defined]
    assert len(set(Path("/proc/self/fd").iterdir()) - before) <= 1


# Cut, flipped, overwritten


def test_cut_at_every_byte_of_its_last_4_kb_a_journal_loses_only_what_was_cut(run: Path) -> None:
    data = (run / TASKS).read_bytes()
    ends = [index + 1 for index, byte in enumerate(data) if byte == 10]
    for size in range(len(data) - 1, len(data) - 4097, -1):
        os.truncate(run / TASKS, size)
        records, reader = read(run)
        whole = sum(end <= size for end in ends)
        # A line that lacks nothing but its newline is whole all the same.
        complete = whole + (size + 1 in ends)
        assert records == [written(task(n), n) for n in range(1, complete + 1)], size
        problems = reader.problems[TASKS]
        assert problems.missing == 60 - complete
        assert problems.missing_bytes == len(data) - size
        assert problems.torn == (size not in ends and size + 1 not in ends)
        assert problems.sentences()


@pytest.mark.parametrize("name", [schema.RUN, schema.SUMMARY, schema.OWNER])
def test_a_document_cut_at_every_byte_is_named_and_the_journals_still_read(
    run: Path, name: str
) -> None:
    data = (run / name).read_bytes()
    for size in range(len(data) - 2, -1, -1):
        os.truncate(run / name, size)
        records, reader = read(run)
        assert len(records) == 60
        summary = reader.summary()
        assert (summary is None) == (name == schema.SUMMARY)
        assert reader.problems[name].unreadable
        assert name in said(reader)
        if name == schema.RUN:
            assert reader.document == {}
            assert reader.run_id == RUN_ID


def test_every_flipped_bit_is_seen_and_none_crashes_the_reader(run: Path) -> None:
    data = (run / TASKS).read_bytes()
    originals = [written(task(n), n) for n in range(1, 61)]
    random_ = random.Random(7)
    positions = random_.sample(range(len(data)), 400) + list(range(len(data) - 200, len(data)))
    for position in positions:
        damaged = bytearray(data)
        damaged[position] ^= 1 << random_.randrange(8)
        (run / TASKS).write_bytes(damaged)
        records, reader = read(run)
        same = sum(record in originals for record in records)
        assert same >= 58, position
        problems = reader.problems[TASKS]
        assert problems.crc_mismatches == 1
        assert "checksum" in said(reader)


def test_nul_bytes_at_the_end_and_in_the_middle_are_counted_as_loss(run: Path) -> None:
    data = (run / TASKS).read_bytes()
    lines = data.splitlines(keepends=True)
    for first, last in ((50, 60), (10, 20), (0, 60), (0, 1), (59, 60)):
        start = sum(map(len, lines[:first]))
        end = sum(map(len, lines[:last]))
        (run / TASKS).write_bytes(data[:start] + bytes(end - start) + data[end:])
        records, reader = read(run)
        kept = [n for n in range(1, 61) if not first < n <= last]
        assert [record["seq"] for record in records] == kept
        problems = reader.problems[TASKS]
        assert problems.nul_bytes == end - start
        assert problems.missing == last - first
        assert "NUL" in said(reader)
    # Within a line, and behind half of one.
    (run / TASKS).write_bytes(data[:30] + bytes(5) + data[35:])
    assert len(read(run)[0]) == 59
    (run / TASKS).write_bytes(data[:-40] + bytes(100))
    records, reader = read(run)
    assert len(records) == 59
    assert (reader.problems[TASKS].torn, reader.problems[TASKS].nul_bytes) == (1, 100)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_the_reader_survives_random_damage(finished: Path, data: Any) -> None:
    journal = (finished / TASKS).read_bytes()
    document = (finished / schema.RUN).read_bytes()
    run = finished.parent / "damaged"
    run.mkdir(exist_ok=True)
    for name, content in ((TASKS, journal), (schema.RUN, document)):
        damaged = bytearray(content)
        for _ in range(data.draw(st.integers(0, 4))):
            at = data.draw(st.integers(0, len(damaged)))
            cut = data.draw(st.integers(0, 300))
            damaged[at : at + cut] = data.draw(
                st.one_of(
                    st.binary(max_size=50),
                    st.sampled_from(
                        [b"\n", b"{}\n", b"[]\n", b"\0" * 50, b'{"seq":-1}\n', b"\xff"]
                    ),
                )
            )
        (run / name).write_bytes(damaged)
    records, reader = read(run)
    for record in records:
        assert isinstance(record, dict)
        assert isinstance(record["event_type"], str)
    seqs = [record.get("seq") for record in records]
    if (run / TASKS).read_bytes() != journal and reader.document.get("journal"):
        unchanged = [written(task(n), n) for n in range(1, 61)] == records
        assert unchanged or reader.problems, seqs
    for problems in reader.problems.values():
        assert problems.sentences()


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (b"not json", "broken"),
        (b"[1, 2]", "broken"),
        (b"3", "broken"),
        (b"null", "broken"),
        (b"\xff\xfe", "broken"),
        (b'{"a": 1', "broken"),
        (b"[" * 100_000, "broken"),
        (b"{}", "foreign"),
        (b'{"schema_version": 1, "run_id": "other", "event_type": "task", "seq": 31}', "foreign"),
        (b'{"schema_version": 1, "run_id": "%b", "seq": 31}' % RUN_ID.encode(), "foreign"),
        (b'{"schema_version": "1", "run_id": "%b", "event_type": ""}' % RUN_ID.encode(), "foreign"),
        (b'{"schema_version": 2, "run_id": "%b", "event_type": "task"}' % RUN_ID.encode(), "newer"),
        (b'{"schema_version": 1, "run_id": {}, "event_type": [], "seq": {}}', "foreign"),
    ],
)  # fmt: skip
def test_a_line_that_is_not_a_record_is_skipped_counted_and_reported(
    run: Path, line: bytes, kind: str
) -> None:
    lines = (run / TASKS).read_bytes().splitlines(keepends=True)
    (run / TASKS).write_bytes(b"".join([*lines[:30], line, b"\n", *lines[30:]]))
    records, reader = read(run)
    assert [record["seq"] for record in records] == list(range(1, 61))
    assert getattr(reader.problems[TASKS], kind) == 1
    assert reader.problems[TASKS].missing == 0
    assert said(reader)


def test_empty_lines_are_no_problem(run: Path) -> None:
    data = (run / TASKS).read_bytes()
    os.truncate(run / schema.RUN, 0)
    (run / TASKS).write_bytes(b"\n\n" + data.replace(b"\n", b"\n\n"))
    records, reader = read(run)
    assert len(records) == 60
    assert TASKS not in reader.problems


# Sequence numbers


def sequence(path: Path, *seqs: Any) -> tuple[list[Any], FileProblems]:
    path.mkdir(parents=True)
    (path / schema.RUN).write_bytes(orjson.dumps(run_document(path.name, status="completed")))
    with (path / TASKS).open("wb") as file:
        for seq in seqs:
            file.write(orjson.dumps(written(task(1), seq, path.name)) + b"\n")
    records, reader = read(path)
    return [record["seq"] for record in records], reader.problems.get(TASKS, FileProblems(TASKS))


def test_gaps_are_counted_exactly_and_the_first_are_named(tmp_path: Path) -> None:
    seqs, problems = sequence(tmp_path / "a", 3, 4, 8, 9, 11)
    assert seqs == [3, 4, 8, 9, 11]
    assert problems.missing == 2 + 3 + 1
    assert problems.gaps == [(1, 2), (5, 7), (10, 10)]
    assert "6 lines missing (seq 1–2, 5–7, 10)" in problems.sentences()[0]
    _, problems = sequence(tmp_path / "b", *range(2, 200, 2))
    assert problems.missing == 99
    assert len(problems.gaps) == 10
    assert problems.sentences()[0].endswith("…)")


def test_repeated_lines_are_read_once(tmp_path: Path) -> None:
    seqs, problems = sequence(tmp_path / "a", 1, 2, 3, 2, 3, 4)
    assert seqs == [1, 2, 3, 4]
    assert (problems.repeated, problems.missing) == (2, 0)


def test_one_damaged_number_does_not_affect_later_lines(tmp_path: Path) -> None:
    seqs, problems = sequence(tmp_path / "a", 1, 2, 900, 4, 5)
    assert seqs == [1, 2, 900, 4, 5]
    assert (problems.missing, problems.disordered, problems.gaps) == (0, 1, [])
    seqs, problems = sequence(tmp_path / "b", 1, 2, 900, 6, 7)
    assert seqs == [1, 2, 900, 6, 7]
    assert (problems.missing, problems.disordered, problems.gaps) == (2, 1, [(4, 5)])


@pytest.mark.parametrize("seq", [0, -1, 1.5, "3", True, [1], {}])
def test_an_invalid_number_is_reported(tmp_path: Path, seq: Any) -> None:
    seqs, problems = sequence(tmp_path / "a", 1, seq, 2)
    assert seqs == [1, seq, 2]
    assert problems.disordered == 1


def test_segments_are_read_in_order(tmp_path: Path) -> None:
    run = tmp_path / RUN_ID
    run.mkdir()
    (run / schema.RUN).write_bytes(orjson.dumps(run_document(status="completed")))
    for name, seqs in {
        TASKS: (1, 2),
        "tasks.1.jsonl": (3,),
        "tasks.2.jsonl": (4, 5),
        "tasks.10.jsonl": (6,),
        "tasks.x.jsonl": (9,),
        "tasks.01.jsonl": (9,),
        "mytasks.1.jsonl": (9,),
    }.items():
        (run / name).write_bytes(
            b"".join(orjson.dumps(written(task(seq), seq)) + b"\n" for seq in seqs)
        )
    records, reader = read(run)
    assert [record["seq"] for record in records] == [1, 2, 3, 4, 5, 6]
    assert reader.problems == {}
    assert reader.files() == [TASKS]
    (run / TASKS).unlink()
    assert [record["seq"] for record in read(run)[0]] == [3, 4, 5, 6]


def test_a_synced_file_that_is_missing_is_reported(run: Path) -> None:
    (run / TASKS).unlink()
    records, reader = read(run)
    assert records == []
    problems = reader.problems[TASKS]
    assert problems.missing == 60
    assert "missing" in problems.unreadable
    assert said(reader)


# Large, odd and hostile files


def test_a_line_of_any_length_is_read_in_bounded_memory(tmp_path: Path) -> None:
    run = tmp_path / RUN_ID
    run.mkdir()
    (run / schema.RUN).write_bytes(orjson.dumps(run_document(status="completed")))
    good = [orjson.dumps(written(task(n), n)) + b"\n" for n in (1, 2, 3)]
    with (run / TASKS).open("wb") as file:
        file.write(good[0] + b'{"x":"')
        file.write(b"a" * 30_000_000)
        file.write(b'"}\n' + good[1])
        file.truncate(file.tell() + 200_000_000)
        file.seek(0, os.SEEK_END)
        file.write(b"\n" + good[2])
    tracemalloc.start()
    try:
        records, reader = read(run)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [record["seq"] for record in records] == [1, 2, 3]
    assert reader.problems[TASKS].broken == 2
    assert reader.problems[TASKS].nul_bytes == 200_000_000
    assert peak < 80_000_000


def test_a_long_line_that_is_a_record_is_read(tmp_path: Path) -> None:
    writer = create(tmp_path)
    writer.append(FAILURES, [failure(1) | {"message": "x" * 3_000_000}])
    writer.close()
    records, reader = read(writer.path, FAILURES)
    assert len(records[0]["message"]) == 3_000_000
    assert reader.problems == {}


def test_links_pipes_and_directories_in_place_of_files_are_reported_and_never_waited_for(
    run: Path, tmp_path: Path
) -> None:
    for name, kind in ((TASKS, "link"), (FAILURES, "pipe"), (schema.WORKERS, "directory")):
        (run / name).unlink()
        if kind == "link":
            (run / name).symlink_to("/etc/passwd")
        elif kind == "pipe":
            os.mkfifo(run / name)
        else:
            (run / name).mkdir()
    (run / schema.SUMMARY).unlink()
    os.mkfifo(run / schema.SUMMARY)
    reader = RunReader(run)
    for file in (TASKS, FAILURES, schema.WORKERS):
        assert list(reader.records(file)) == []
        assert reader.problems[file].unreadable
    assert reader.summary() is None
    assert "regular file" in reader.problems[schema.SUMMARY].unreadable


@pytest.mark.parametrize("content", [b"", b"[]", b"3", b"{", b"\0" * 100, b"\xff", b"null"])
def test_an_unreadable_run_json_is_a_problem_and_no_error(run: Path, content: bytes) -> None:
    (run / schema.RUN).write_bytes(content)
    reader = RunReader(run)
    assert reader.document == {}
    assert reader.run_id == RUN_ID
    assert reader.problems[schema.RUN].unreadable
    assert len(list(reader.records(TASKS))) == 60


def test_without_run_json_the_records_say_whose_they_are(run: Path, tmp_path: Path) -> None:
    (run / schema.RUN).unlink()
    renamed = run.rename(tmp_path / "renamed")
    records, reader = read(renamed)
    assert len(records) == 60
    assert reader.run_id == "renamed"


@pytest.mark.parametrize(
    "journal", [3, [], {TASKS: 3}, {TASKS: {}}, {TASKS: {"bytes": -1, "seq": "x", "crc32": None}}]
)
def test_a_strange_journal_in_run_json_is_ignored(run: Path, journal: Any) -> None:
    document = orjson.loads((run / schema.RUN).read_bytes()) | {"journal": journal}
    (run / schema.RUN).write_bytes(orjson.dumps(document))
    records, reader = read(run)
    assert len(records) == 60
    assert reader.problems == {}


def test_a_key_of_the_journal_in_run_json_is_no_path(run: Path) -> None:
    document = orjson.loads((run / schema.RUN).read_bytes())
    mark = document["journal"][TASKS]
    names = ["../x.jsonl", "/etc/passwd", "notes.jsonl", *map(str, range(100_000))]
    document["journal"] |= dict.fromkeys(names, mark)
    (run / schema.RUN).write_bytes(orjson.dumps(document))
    reader = RunReader(run)
    assert reader.marks().keys() <= set(schema.JOURNALS)
    assert len(list(reader.records(TASKS))) == 60
    assert reader.problems == {}


@pytest.mark.parametrize("more", [b"", b"\n{}\n"])
def test_a_hole_of_gigabytes_is_counted_and_not_read(run: Path, more: bytes) -> None:
    path = run / TASKS
    before = path.stat().st_size
    os.truncate(path, 200 * 10**9)
    with path.open("ab") as file:
        file.write(more)
    told: list[int] = []
    reader = RunReader(run)
    assert len(list(reader.records(TASKS, progress=told.append))) == 60
    problems = reader.problems[TASKS]
    assert problems.nul_bytes == 200 * 10**9 - before
    assert problems.broken == 1
    assert problems.foreign == (1 if more else 0)
    assert sum(told) == path.stat().st_size
    assert len(told) < 1_000


def test_a_hole_in_what_was_synced_is_damage(run: Path) -> None:
    path = run / TASKS
    data = path.read_bytes()
    with path.open("r+b") as file:
        file.truncate(len(data) // 2)
        file.truncate(10**9)
    document = orjson.loads((run / schema.RUN).read_bytes())
    document["journal"][TASKS]["bytes"] = 10**9
    (run / schema.RUN).write_bytes(orjson.dumps(document))
    reader = RunReader(run)
    assert len(list(reader.records(TASKS))) < 60
    assert reader.problems[TASKS].crc_mismatches == 1


def test_a_line_in_many_blocks_is_put_together_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = create(tmp_path)
    writer.append(FAILURES, [failure(n) | {"message": "x" * 10_000} for n in range(1, 4)])
    writer.close()
    monkeypatch.setattr("scalable_runs.stores.file.BLOCK", 7)
    records, reader = read(writer.path, FAILURES)
    assert [len(record["message"]) for record in records] == [10_000] * 3
    assert reader.problems == {}


# Live or lost


def process(**changes: Any) -> dict[str, Any]:
    return {**_process.this_process("2026-11-21T16:33:03.000000Z"), **changes}


def put_recorder(
    run: Path, recorder: dict[str, Any] | None, owner: dict[str, Any] | None, beat_s: float = 0
) -> None:
    beat = datetime.now(UTC) - timedelta(seconds=beat_s)
    document: Any = run_document()
    if recorder is not None:
        document["recorder"] = {**recorder, "heartbeat_at": beat.isoformat()}
    (run / schema.RUN).write_bytes(orjson.dumps(document))
    if owner is None:
        (run / schema.OWNER).unlink()
    else:
        (run / schema.OWNER).write_bytes(orjson.dumps(owner))


@pytest.mark.parametrize(
    ("recorder", "owner", "beat_s", "status"),
    [
        (process(), process(), 0, "running"),
        (process(), process(), 3600, "running"),
        (process(), None, 3600, "running"),
        (process(pid=2**22 + 1), process(), 0, "lost"),
        (process(), process(process_started="1"), 0, "lost"),
        (process(host="elsewhere"), process(host="elsewhere"), 10, "running"),
        (process(host="elsewhere"), process(host="elsewhere"), 31, "lost"),
        (process(boot_id="other", pid=1), process(), 10, "running"),
        (process(boot_id="other", pid=1), process(), 31, "lost"),
        (process(pid=2**22 + 1), process(pid_namespace="pid:[1]"), 10, "running"),
        (process(pid=2**22 + 1), process(pid_namespace="pid:[1]"), 31, "lost"),
        (process(pid="x"), process(), 31, "lost"),
        (process(pid=-1), process(), 31, "lost"),
        (process(pid=True), process(), 31, "lost"),
    ],
)
def test_a_run_is_lost_once_its_recorder_is_gone(
    run: Path,
    recorder: dict[str, Any],
    owner: dict[str, Any] | None,
    beat_s: float,
    status: str,
) -> None:
    put_recorder(run, recorder, owner, beat_s)
    reader = RunReader(run)
    assert reader.status == status
    assert reader.is_live == (status == "running")
    assert reader.last_seen_at is not None


def written_by(writer: int) -> dict[str, Any]:
    started = _process._start_time(writer)
    return {"writer": {"pid": writer, "process_started": started}}


@pytest.fixture
def writer() -> Iterator[subprocess.Popen[bytes]]:
    """A process that writes a run for another, and ends with its input."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        yield process
        process.kill()


def test_a_run_is_lost_once_its_writer_is_gone(run: Path, writer: subprocess.Popen[bytes]) -> None:
    put_recorder(run, process(), process(**written_by(writer.pid)))
    assert RunReader(run).status == "running"
    writer.kill()
    writer.wait()
    assert RunReader(run).status == "lost"


@pytest.mark.parametrize("noted", ["x", {}, {"pid": "x"}, {"pid": True}])
def test_a_writer_that_cannot_be_read_is_none(run: Path, noted: Any) -> None:
    put_recorder(run, process(), process(writer=noted))
    assert RunReader(run).status == "running"
    put_recorder(run, process(pid=2**22 + 1), process(pid=2**22 + 1, writer=noted))
    assert RunReader(run).status == "lost"


def test_the_end_of_a_writer_whose_program_is_gone_is_waited_for(
    run: Path, writer: subprocess.Popen[bytes]
) -> None:
    gone = process(pid=2**22 + 1)
    put_recorder(run, gone, {**gone, **written_by(writer.pid)})
    assert writer.stdin is not None
    ending = threading.Timer(0.2, writer.stdin.close)
    ending.start()
    assert RunReader(run).status == "lost"
    assert _process._is_zombie(writer.pid)
    ending.join()


def test_a_writer_that_does_not_end_is_not_waited_for_for_ever(
    run: Path, writer: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_process, "EXIT_TIMEOUT", 0.1)
    gone = process(pid=2**22 + 1)
    put_recorder(run, gone, {**gone, **written_by(writer.pid)})
    assert RunReader(run).status == "lost"
    assert writer.poll() is None


def test_without_run_json_the_owner_decides_whether_the_run_is_live(run: Path) -> None:
    (run / schema.RUN).unlink()
    (run / schema.OWNER).write_bytes(orjson.dumps(process()))
    assert RunReader(run).status == "running"
    (run / schema.OWNER).write_bytes(orjson.dumps(process(pid=2**22 + 1)))
    assert RunReader(run).status == "lost"


def test_a_live_run_is_read_up_to_where_it_is(tmp_path: Path) -> None:
    writer = create(tmp_path, sync_interval=10)
    writer.append(TASKS, [task(1)])
    assert writer.sync(10)
    writer.append(TASKS, [task(2)])
    writer.flush()
    reader = RunReader(writer.path)
    assert reader.is_live
    assert reader.summary() is None
    assert [record["seq"] for record in reader.records(TASKS)] == [1, 2]
    # Half a line at the end of a live run is being written, not torn.
    with (writer.path / TASKS).open("ab") as file:
        file.write(b'{"half')
    assert [record["seq"] for record in reader.records(TASKS)] == [1, 2]
    assert reader.problems == {}
    writer.close()


# Finding runs


def test_runs_come_newest_first_by_their_start_not_by_their_name(tmp_path: Path) -> None:
    for name, started in (
        ("run-z", "2026-11-21T10:00:00Z"),
        ("run-a", "2026-11-21T12:00:00.000000Z"),
        ("run-m", "2026-11-21T12:30:00+01:00"),
    ):
        writer = create(tmp_path, name)
        writer.close(started_at=started, status="completed")
    assert [run.run_id for run in find_runs(tmp_path)] == ["run-a", "run-m", "run-z"]
    assert resolve_run(tmp_path).run_id == "run-a"


def test_broken_runs_are_listed_and_links_and_foreign_directories_are_not(tmp_path: Path) -> None:
    create(tmp_path).close(status="completed", started_at="2026-11-21T10:00:00Z")
    (tmp_path / "run-20261121T110000Z-no-document-00000000").mkdir()
    broken = tmp_path / "run-20261121T120000Z-broken-00000000"
    broken.mkdir()
    (broken / schema.RUN).write_bytes(b'{"run_id": 3, "started_at": [], "status": {}}')
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "tasks.txt").write_text("")
    (tmp_path / "a file").write_text("")
    (tmp_path / "run-link").symlink_to("/etc")
    runs = find_runs(tmp_path)
    assert [run.path.name for run in runs] == [
        broken.name,
        "run-20261121T110000Z-no-document-00000000",
        RUN_ID,
    ]
    assert [run.status for run in runs] == ["running", "lost", "completed"]
    assert schema.RUN in runs[1].problems
    # The latest is one that says something of itself.
    assert resolve_run(tmp_path).path == broken
    with pytest.raises(RunNotFoundError):
        resolve_run(tmp_path, "run-link")


def test_a_run_in_the_place_of_the_directory_of_runs_is_that_run(run: Path) -> None:
    assert [one.path for one in find_runs(run)] == [run]
    assert resolve_run(run).path == resolve_run(run, RUN_ID[:12]).path == run
    (run / "logs").mkdir()
    with pytest.raises(RunNotFoundError):
        resolve_run(run, "logs")


def test_writers_that_are_about_to_end_are_waited_for_together_in_a_list(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = orjson.loads((run / schema.RUN).read_bytes())
    gone = process(pid=2**22 + 1, process_started="1", writer=process())
    (run / schema.RUN).write_bytes(
        orjson.dumps(document | {"status": "running", "recorder": process(pid=2**22 + 1)})
    )
    (run / schema.OWNER).write_bytes(orjson.dumps(gone))
    for number in range(5):
        shutil.copytree(run, run.with_name(f"{RUN_ID}-{number}"))
    now = [0.0]

    def wait(_handle: object, timeout: float) -> None:
        now[0] += timeout + 0.1

    monkeypatch.setattr(_process.ProcessHandle, "has_ended", wait)
    for module in (_process, runs_module):
        monkeypatch.setattr(module, "monotonic", lambda: now[0])
    statuses = [one.status for one in find_runs(run.parent)]
    assert sorted(statuses) == ["lost", *5 * ["running"]]
    assert now[0] <= _process.EXIT_TIMEOUT + 0.1


def test_a_unique_prefix_is_enough_and_every_error_shows_what_to_do(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    with pytest.raises(RunNotFoundError, match=r"does not exist. Record one with scalable"):
        resolve_run(runs)
    runs.mkdir()
    with pytest.raises(RunNotFoundError, match=r"has no runs. Record one"):
        resolve_run(runs)
    for name in ("run-1-a", "run-1-b", "run-2", "run-2-more"):
        create(runs, name).close(status="completed")
    assert resolve_run(runs, "run-1-a").run_id == "run-1-a"
    assert resolve_run(runs, "run-2-").run_id == "run-2-more"
    assert resolve_run(runs, "run-2").run_id == "run-2"
    with pytest.raises(AmbiguousRunError, match=r"run-1-.*give more of the id"):
        resolve_run(runs, "run-1")
    with pytest.raises(
        RunNotFoundError, match=r"no run in .* begins with 'run-3'; the latest of 4"
    ):
        resolve_run(runs, "run-3")
    for wrong in ("../runs", "/etc", "", ".", "a/b"):
        with pytest.raises(RunNotFoundError, match="is not a run id"):
            resolve_run(runs, wrong)


def test_a_missing_directory_has_no_runs(tmp_path: Path) -> None:
    assert find_runs(tmp_path / "nowhere") == []
    reader = RunReader(tmp_path / "nowhere")
    assert reader.files() == []
    assert reader.problems[schema.RUN].unreadable


@pytest.mark.parametrize(
    ("value", "time"),
    [
        ("2026-11-21T16:33:03.000001Z", datetime(2026, 11, 21, 16, 33, 3, 1, tzinfo=UTC)),
        ("2026-11-21T16:33:03Z", datetime(2026, 11, 21, 16, 33, 3, tzinfo=UTC)),
        ("2026-11-21T17:33:03+01:00", datetime(2026, 11, 21, 16, 33, 3, tzinfo=UTC)),
        ("2026-11-21T16:33:03", datetime(2026, 11, 21, 16, 33, 3, tzinfo=UTC)),
        ("yesterday", None),
        ("0001-01-01T00:00:00+23:59", None),
        (3, None),
        (None, None),
    ],
)
def test_times_are_read_or_none(value: Any, time: datetime | None) -> None:
    assert parse_time(value) == time


# Runs of older tools


def old_record(state: str, number: int) -> bytes:
    """No seq, no span; nulls; whole seconds; the key in `worker`."""
    return (
        b'{"component": "worker", "duration_s": null, "error_message": null, "error_type": null, '
        b'"event_type": "task", "function_name": "f", "run_id": "run-old", "schema_version": 1, '
        b'"state": "%b", "tag": "worker", "task_id": "%032d", "task_name": "f", '
        b'"timestamp": "2026-11-21T16:33:03Z", "worker": "f-91a3cd3b2079a8d0ec441c38e277ffc8"}\n'
        % (state.encode(), number)
    )


@pytest.mark.parametrize("status", ["completed", "running"])
def test_a_run_of_an_older_tool_is_read_without_complaint(tmp_path: Path, status: str) -> None:
    run = tmp_path / "run-old"
    run.mkdir()
    (run / schema.RUN).write_text(
        '{"finished_at": null, "manifest_lock": "7e", "project_name": "old", "provider_name": '
        '"local", "run_id": "run-old", "schema_version": 1, "source_manifest_path": "s.yaml", '
        f'"started_at": "2026-11-21T16:33:03Z", "status": "{status}", "target_name": "local"}}'
    )
    lines = [old_record(state, n) for n in range(5) for state in ("submitted", "running")]
    (run / TASKS).write_bytes(
        b"".join(lines) + (old_record("failed", 1)[:99] * (status != "completed"))
    )
    os.utime(run / TASKS, (1, 1))
    os.utime(run / schema.RUN, (1, 1))
    records, reader = read(run)
    assert len(records) == 10
    assert records[0]["duration_s"] is None
    assert "seq" not in records[0]
    assert reader.files() == [TASKS]
    assert reader.status == ("completed" if status == "completed" else "lost")
    if status == "completed":
        assert reader.problems == {}
    else:
        assert said(reader) == "tasks.jsonl: its last line is torn and was skipped"


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared fixtures are not here")
def test_the_shared_runs_of_an_older_tool_are_read() -> None:
    killed, complete = find_runs(SHARED)
    assert (complete.status, killed.status) == ("completed", "lost")
    assert [len(list(complete.records(file))) for file in complete.files()] == [9, 3, 3, 2]
    assert complete.problems == {}
    summary = complete.summary()
    assert summary is not None
    assert summary["counts"]["task_events"] == 9
    assert len(list(killed.records(TASKS))) == 441
    assert killed.problems[TASKS].torn == 1
    assert killed.summary() is None


def test_this_host_and_process_are_described(tmp_path: Path) -> None:
    writer = create(tmp_path)
    recorder = orjson.loads((writer.path / schema.RUN).read_bytes())["recorder"]
    assert recorder["host"] == socket.gethostname()
    assert recorder["boot_id"] == _process.boot_id() != ""
    writer.close()
