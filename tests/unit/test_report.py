"""Reports: true to the journals, plain about what is missing, safe and readable on a terminal."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from run_builder import (
    RunBuilder,
    address,
    at,
    eventful,
    failure,
    life,
    task,
    worker,
)
from scalable.analysis import (
    Report,
    json_text,
    load_overviews,
    load_report,
    render_json,
    render_overviews,
    render_text,
)
from scalable.analysis.layout import cells, fit, wrap
from scalable.analysis.terminal import terminal_line
from scalable.analysis.units import gigabytes, percent, seconds
from scalable_runs.reader import RunReader, find_runs
from scalable_runs.schema import Record

RUN_ID = "run-20260102T030405Z-flights-0a1b2c3d"


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    run = RunBuilder(tmp_path / "runs", RUN_ID)
    eventful(run)
    run.add(task("succeeded", "model-1", 9, attempt=2, worker=address(3), duration_s=1.5))
    run.add(*(worker("removed", number, 12) for number in (0, 1, 3)))
    return run.finish(12.5)


@pytest.fixture
def crashed(tmp_path: Path) -> Path:
    run = RunBuilder(tmp_path / "runs", RUN_ID)
    eventful(run)
    return run.crash(10)


def report(path: Path, **options: Any) -> Report:
    return load_report(RunReader(path), **options)


def text(path: Path, width: int = 80, **options: Any) -> str:
    return render_text(report(path), width, **options)


def edit(path: Path, **changes: Any) -> None:
    document = json.loads(path.read_bytes())
    path.write_text(json.dumps({**document, **changes}))


# -- where the numbers come from ---------------------------------------------------------------


def test_a_finished_run_is_shown_from_its_summary_without_reading_a_journal(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RunReader, "records", None)
    told = report(finished)
    assert (told.source, told.status, told.missing, told.notes) == (
        "summary.json",
        "completed",
        (),
        (),
    )
    assert told.counts["tasks_succeeded"] == 129
    assert told.wall_s == 12.5


def test_a_scan_shows_the_same_as_the_summary(finished: Path) -> None:
    summed, scanned = report(finished), report(finished, scan=True)
    assert scanned.source == "scan"
    assert scanned.document == summed.document
    assert scanned.tasks == summed.tasks
    assert scanned.workers == summed.workers


@pytest.mark.parametrize(
    "damage",
    ["", "{", "[]", "{}", '{"schema_version": 1}', '{"schema_version": 1, "counts": 3}'],
)
def test_a_damaged_summary_is_replaced_by_a_scan(finished: Path, damage: str) -> None:
    expected = report(finished).counts
    (finished / "summary.json").write_text(damage)
    told = report(finished)
    assert (told.source, told.counts) == ("scan", expected)
    assert told.notes == ("summary.json is missing or does not fit: counted from the journals.",)


def test_a_missing_summary_is_replaced_by_a_scan(finished: Path) -> None:
    expected = report(finished).counts
    (finished / "summary.json").unlink()
    assert report(finished).counts == expected


def test_a_journal_cut_after_its_run_was_closed_is_noticed_and_read(finished: Path) -> None:
    tasks = finished / "tasks.jsonl"
    data = tasks.read_bytes()
    tasks.write_bytes(data[: len(data) // 2])
    told = report(finished)
    assert told.source == "scan"
    assert told.counts["tasks_succeeded"] < 129
    assert any("tasks.jsonl" in sentence for sentence in told.missing)
    assert "What the record lacks" in render_text(told)


def test_a_scan_shows_how_far_it_is(crashed: Path) -> None:
    steps: list[tuple[int, int]] = []
    report(crashed, progress=lambda done, total: steps.append((done, total)))
    total = sum(file.stat().st_size for file in crashed.glob("*.jsonl"))
    assert steps[-1] == (total, total)
    assert steps == sorted(steps)


# -- states of a run ---------------------------------------------------------------------------


def test_a_live_run_is_reported_as_live_and_shows_what_runs(tmp_path: Path) -> None:
    run = RunBuilder(tmp_path, RUN_ID)
    eventful(run)
    run.add(task("submitted", "last-1", 10), task("submitted", "last-2", 10))
    run.flush()
    try:
        told = report(run.path)
        assert told.is_live
        assert [(one["task_id"], one["attempt"]) for one in told.unfinished] == [("model-1", 2)]
        shown = render_text(told)
        assert "flights  running for " in shown
        assert "Still running: these are the numbers at " in shown
        assert "Running now (1 task)" in shown
        assert "2 tasks waiting to run" in shown
        assert "What the record lacks" not in shown
        assert render_json(told)["report"]["is_live"] is True
    finally:
        run.finish(11)


def test_a_lost_run_shows_what_ran_when_its_recorder_died(crashed: Path) -> None:
    told = report(crashed)
    shown = render_text(told)
    assert told.status == "lost"
    assert told.wall_s == 10.0
    assert "flights  lost after 10.0 s" in shown
    assert "process 4242 on login-3) is gone; last sign of life at 03:04:15" in shown
    assert "Running when the recorder died (1 task)" in shown
    (row,) = (line for line in shown.splitlines() if line.endswith("model-1"))
    assert row.split() == ["2.50", "s", "2", "3", "(127.0.0.1:40004)", "model-1"]
    assert "What became of 1 task is not known" in shown


def test_a_failed_run_shows_why(tmp_path: Path) -> None:
    run = RunBuilder(tmp_path, RUN_ID)
    run.add(failure("ZeroDivisionError", "division by zero", 1, phase="run"))
    shown = text(run.finish(2, status="failed"))
    assert shown.startswith("flights  failed in 2.00 s\n")
    assert shown.splitlines()[2] == "ZeroDivisionError: division by zero"
    assert "ended the run" in shown


def test_an_empty_run_is_a_report_too(tmp_path: Path) -> None:
    run = RunBuilder(tmp_path, RUN_ID)
    shown = text(run.finish(0.1))
    assert "No task was recorded." in shown
    assert "Slowest" not in shown
    assert "Failures" not in shown
    assert "Workers" not in shown


# -- what is told ------------------------------------------------------------------------------


def test_the_text_shows_names_failures_and_workers(finished: Path) -> None:
    shown = text(finished)
    lines = shown.splitlines()
    assert "Tasks     135 tasks: 129 succeeded, 6 failed" in lines
    assert "Attempts  134 attempts: 1 raised and retried, 1 lost with their worker" in lines
    assert "Workers   4 workers, 1 lost; at most 1.23 GB of 4.00 GB (31%) of memory in one" in lines
    names = lines.index("Tasks by name (most time first; Queued: mean wait for a worker)")
    assert lines[names + 1].split()[:4] == ["Name", "Tasks", "Total", "Mean"]
    assert lines[names + 1].split()[4:] == ["p50", "p95", "Max", "Queued"]
    assert lines[names + 2].split()[:2] == ["read-csv", "120"]
    assert "    1 succeeded, 3 failed, 1 retried" in lines
    assert "Failures (4 attempts failed, 1 worker lost, 2 causes)" in lines
    assert "  4 × ValueError: could not convert string to float: 'NA' (row …)" in lines
    assert "      (4 messages: 0, 1, 2, 3)" in lines
    assert "      in parse-row; on 3 workers; 1 attempt retried; 3 dependents failed with" in lines
    assert "      /home/ada/flights/delays.py:41 in parse_row" in lines
    assert '          return float(row["delay"])' in lines
    assert lines[-1] == "Why, and what to do: scalable diagnose"
    assert not any("^^^^" in line or "Traceback" in line for line in lines)
    assert "    lost: SIGKILL, worker process died" in lines


def test_a_traceback_shows_the_users_frames_and_not_dasks(tmp_path: Path) -> None:
    run = RunBuilder(tmp_path, RUN_ID)
    frames = [
        ("/env/lib/python3.11/site-packages/distributed/worker.py", "_run_task", "task(data)"),
        ("/env/lib/python3.11/site-packages/dask/_task_spec.py", "__call__", "self.func()"),
        ("/home/ada/flights.py", "outer", "inner()"),
        ("/home/ada/flights.py", "inner", "1 / 0"),
    ]
    traceback = "Traceback (most recent call last):\n" + "".join(
        f'  File "{file}", line 1, in {name}\n    {code}\n    ~~^~~\n'
        for file, name, code in frames
    )
    run.add(
        failure("ZeroDivisionError", "division by zero", 1, traceback=traceback + "Zero…\n"),
        failure("KeyError", "x", 1, traceback="\n".join(traceback.splitlines()[:4])),
    )
    shown = text(run.finish(2))
    assert "in outer" in shown
    assert "          1 / 0\n" in shown
    assert "_task_spec" not in shown
    assert "          task(data)\n" in shown  # nothing of the user's: better Dask's than none
    assert "~~^~~" not in shown


def test_the_slowest_attempts_come_slowest_first(finished: Path) -> None:
    took = [attempt["duration_s"] for attempt in report(finished).slowest]
    assert took == sorted(took, reverse=True)
    assert took[0] == pytest.approx(2.1)


def test_many_names_causes_and_workers_are_shortened_and_reported(tmp_path: Path) -> None:
    run = RunBuilder(tmp_path, RUN_ID)
    for i in range(45):
        letters = chr(97 + i // 26) + chr(97 + i % 26)
        run.add(*life(f"step {letters}", i, 1.0 + i))
        run.add(failure("ValueError", f"cause {letters}", i, task_id=f"step {letters}"))
        run.add(worker("ready", i, 0))
    shown = text(run.finish(100))
    assert "and 25 more names with 25 tasks" in shown
    assert "and 35 of 35 more causes" in shown
    assert "and 29 more workers" in shown
    assert len(shown.splitlines()) < 120


# -- what is missing ---------------------------------------------------------------------------


def test_lost_torn_and_dropped_records_are_named(crashed: Path) -> None:
    lines = (crashed / "tasks.jsonl").read_bytes().splitlines(keepends=True)
    (crashed / "tasks.jsonl").write_bytes(
        b"".join(lines[:10] + lines[13:20] + [b"{broken\n"] + lines[20:]) + b'{"torn'
    )
    edit(
        crashed / "run.json",
        journal={},
        telemetry={
            "dropped": {"failures.jsonl": 7, "facts": 1200, "none": 0},
            "errors": {"write:ENOSPC": 2},
            "uncertain": {"workers.jsonl": 1},
        },
    )
    shown = text(crashed)
    missing = "\n".join(report(crashed).missing)
    assert "tasks.jsonl: 3 lines missing (seq 11–13)." in missing
    assert "tasks.jsonl: 1 broken line skipped." in missing
    assert "tasks.jsonl: its last line is torn and was skipped." in missing
    assert "failures.jsonl: 7 records could not be written, and are lost." in missing
    assert "1,200 × facts: dropped while recording." in missing
    assert "2 × write:ENOSPC: an error while recording." in missing
    assert "workers.jsonl: 1 record may not have reached the disk (a sync failed)." in missing
    assert "none" not in missing
    assert "What the record lacks" in shown
    assert all(sentence.split(":")[0] in shown for sentence in report(crashed).missing)


def test_a_damaged_run_json_is_named_and_the_journals_still_read(crashed: Path) -> None:
    (crashed / "run.json").write_text("{")
    told = report(crashed)
    assert told.counts["tasks_succeeded"] == 128
    assert any(sentence.startswith("run.json: ") for sentence in told.missing)


def old_run(path: Path, *, finished: bool) -> Path:
    """A run as the older tool wrote it: no seq, whole seconds, nulls, files left out."""
    path.mkdir(parents=True)
    common = {"schema_version": 1, "run_id": path.name, "timestamp": "2026-11-21T16:33:03Z"}
    nulls = dict.fromkeys(("duration_s", "error_message", "error_type", "worker"))
    rows: list[Record] = []
    for i in range(30):
        one = {**common, **nulls, "event_type": "task", "task_id": f"{i:032x}"}
        one["task_name"] = f"slow[{i}]"
        rows += [{**one, "state": "submitted"}, {**one, "state": "running"}]
        if finished or i < 10:
            rows.append(
                {**one, "state": "succeeded", "duration_s": 0.5, "worker": f"slow-{i:032x}"}
            )
    data = "".join(json.dumps(row) + "\n" for row in rows)
    (path / "tasks.jsonl").write_text(data if finished else data + '{"component": "wor')
    (path / "workers.jsonl").write_text(
        json.dumps(
            {**common, "event_type": "worker", "state": "cluster_created", "worker_id": None}
        )
        + "\n"
    )
    run = {
        "schema_version": 1,
        "run_id": path.name,
        "project_name": "minimal",
        "target_name": "local",
        "provider_name": "local",
        "started_at": "2026-11-21T16:33:00Z",
        "finished_at": "2026-11-21T16:33:09Z" if finished else None,
        "status": "completed" if finished else "running",
    }
    (path / "run.json").write_text(json.dumps(run))
    if finished:
        counts = {"task_events": 90, "tasks_succeeded": 30, "tasks_failed": 0}
        (path / "summary.json").write_text(json.dumps({"run": run, "counts": counts, "timing": {}}))
    return path


def test_a_finished_run_of_the_older_tool_is_counted_from_its_journals(tmp_path: Path) -> None:
    told = report(old_run(tmp_path / RUN_ID, finished=True))
    assert (told.status, told.source, told.missing) == ("completed", "scan", ())
    assert [(name, row["count"], row["succeeded"]) for name, row in told.tasks.items()] == [
        ("slow", 30, 30)
    ]
    assert told.workers == []
    assert any("older tool" in note for note in told.notes)


def test_a_killed_run_of_the_older_tool_reads_as_lost(tmp_path: Path) -> None:
    path = old_run(tmp_path / RUN_ID, finished=False)
    edit(path / "run.json", recorder={"host": "x", "pid": 1, "boot_id": "", "heartbeat_at": at()})
    told = report(path)
    assert told.status == "lost"
    assert told.counts["tasks_succeeded"] == 10
    assert told.counts["tasks_running"] == 20
    assert told.missing == ("tasks.jsonl: its last line is torn and was skipped.",)
    shown = render_text(told)
    assert f"slow {10:032x}\n" in shown
    assert "and 0 more" not in shown


# -- JSON --------------------------------------------------------------------------------------

CONTRACT: dict[str, set[str]] = {
    "counts": {
        "task_events", "resource_events", "worker_events", "failure_events", "cache_events",
        "artifact_events", "cost_events", "tasks_submitted", "tasks_succeeded", "tasks_failed",
        "tasks_cancelled", "tasks_retried", "attempts", "workers_lost",
    },
    "timing": {
        "wall_s", "task_duration_count", "task_duration_total_s", "task_duration_avg_s", "tasks",
    },
    "cache": {"hits", "misses", "hit_ratio"},
    "resources": {
        "requested_cpu_min", "requested_cpu_max", "requested_cpu_avg", "observed_memory_gb_max",
        "worker_seconds", "busy_ratio",
    },
    "cost": {"estimates_count", "total_hourly", "total_monthly"},
    "failures": {"classes"},
}  # fmt: skip


@pytest.mark.parametrize("state", ["finished", "crashed"])
def test_json_has_the_shape_of_summary_json_and_more(
    state: str, request: pytest.FixtureRequest
) -> None:
    path: Path = request.getfixturevalue(state)
    document = json.loads(json_text(render_json(report(path))))
    for section, keys in CONTRACT.items():
        assert keys <= document[section].keys(), section
    for row in document["timing"]["tasks"].values():
        for what in ("duration", "queue"):
            assert row[what].keys() == {"count", "total", "mean", "p50", "p95", "max"}
    assert document["run"]["run_id"] == RUN_ID
    assert document["run"]["status"] == document["report"]["status"]
    assert document["report"].keys() == {
        "path", "status", "why", "is_live", "as_of", "source", "missing", "notes",
    }  # fmt: skip


# -- hostile and wide text ---------------------------------------------------------------------

HOSTILE = "\x1b]0;owned\x07\x1b[31mred\x1b[0m\x9b2J\x00\u202egnp.exe\u2066\u200b\r\nnext\ttab\ud800"


def hostile(tmp_path: Path) -> Path:
    run = RunBuilder(tmp_path, RUN_ID, project_name=HOSTILE, provider_name=HOSTILE)
    named = HOSTILE.replace("\ud800", "")
    run.add(
        worker("ready", 0, 0, reason=named),
        worker("lost", 0, 1, reason=named, signal=named),
        *life(f"{named}-1", 0, 1.0, task_name=named),
        task("submitted", f"{named}-2", 0, task_name=named),
        task("failed", f"{named}-2", 1, task_name=named, error_type=named, error_message=named),
        failure(named, named, 1, task_id=f"{named}-2", worker=named, traceback=f"T\n  {named}\nE"),
        task("submitted", f"{named}-3", 0, task_name=named),
        task("running", f"{named}-3", 0, task_name=named, worker=f"tcp://{named}"),
    )
    return run.finish(2)


@pytest.mark.parametrize("width", [60, 80, 200])
def test_nothing_recorded_reaches_the_terminal_but_as_text(tmp_path: Path, width: int) -> None:
    shown = text(hostile(tmp_path), width)
    found = {unicodedata.category(character) for character in shown.replace("\n", "")}
    assert not found & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert "gnp.exe" in shown
    assert "owned" not in shown


def test_a_directory_name_that_is_not_unicode_is_shown_in_json(finished: Path) -> None:
    moved = finished.parents[1] / "caf\udce9"
    finished.parent.rename(moved)
    document = json.loads(json_text(render_json(report(moved / finished.name))))
    assert document["report"]["path"].endswith(f"/caf?/{RUN_ID}")


def test_hostile_text_in_json_is_escaped_and_kept(tmp_path: Path) -> None:
    told = report(hostile(tmp_path))
    shown = json_text(render_json(told))
    assert not {"\x1b", "\x9b", "\u202e", "\u2066", "\x7f"} & set(shown)
    assert json.loads(shown)["failures"]["groups"][0]["message"] == told.failures[0].message


@given(st.text())
def test_printable_text_is_one_harmless_line(given_text: str) -> None:
    line = terminal_line(given_text)
    assert not any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in line)
    assert terminal_line(line) == line


@pytest.mark.parametrize("width", [60, 80, 100])
@pytest.mark.parametrize("color", [False, True])
def test_no_line_is_wider_than_asked_for(tmp_path: Path, width: int, color: bool) -> None:
    run = RunBuilder(tmp_path, RUN_ID, project_name="p" * 90, provider_name="説明" * 50)
    eventful(run)
    long = "('read-parquet-fused-groupby-aggregate-" + "x" * 100 + "', 12345, 0)"
    message = "no such file: " + "/very/long/path" * 40
    run.add(
        *life(long, 1, 123_456.0, task_name="n" * 120),
        *life("日本語の名前のタスク" * 8, 1, 4321.5),
        failure("E" * 90, message, 2, task_id=long, traceback=f"T\n  {'y' * 300}\nE"),
        worker("lost", 9, 5, reason="r" * 200),
    )
    for shown in (text(run.finish(20_000), width, color=color), text(run.path, width)):
        plain = [terminal_line(line) if color else line for line in shown.splitlines()]
        wide = [line for line in plain if cells(line) > width and not line.startswith("Path ")]
        assert wide == []


def test_colour_comes_only_when_asked_for(finished: Path) -> None:
    assert "\x1b" not in text(finished)
    coloured = text(finished, color=True)
    # Some of its tasks failed.
    assert "\x1b[33;1mcompleted\x1b[0m" in coloured
    assert [terminal_line(line) for line in coloured.splitlines()] == [
        line.strip() for line in text(finished).splitlines()
    ]


# -- words -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"),
        (0, "0 s"),
        (1e-9, "0.00 µs"),
        (0.0000123, "12.3 µs"),
        (0.0009996, "1.00 ms"),
        (0.0123, "12.3 ms"),
        (0.9996, "1.00 s"),
        (1.234, "1.23 s"),
        (9.996, "10.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1m 00s"),
        (83, "1m 23s"),
        (3599.6, "1h 00m"),
        (3661, "1h 01m"),
        (100 * 3600, "4d 04h"),
    ],
)
def test_seconds(value: float | None, shown: str) -> None:
    assert seconds(value) == shown


def test_shares_and_memory() -> None:
    assert [percent(ratio) for ratio in (None, 0, 0.0034, 0.099, 0.5, 1, 1.2)] == [
        "-", "0%", "0.3%", "9.9%", "50%", "100%", "120%",
    ]  # fmt: skip
    assert [gigabytes(value) for value in (None, 0.0123, 0.9999, 12.34, 512)] == [
        "-", "12 MB", "1.00 GB", "12.3 GB", "512 GB",
    ]  # fmt: skip


@given(st.text(), st.integers(4, 40))
def test_a_cut_text_fits(given_text: str, width: int) -> None:
    for keep in ("start", "ends"):
        assert cells(fit(given_text, width, keep=keep)) <= width


@given(st.lists(st.text(alphabet="abc日é", min_size=1, max_size=30)), st.integers(8, 40))
def test_wrapping_loses_nothing_and_fits(words: list[str], width: int) -> None:
    lines = wrap(" ".join(words), width, indent="  ", first="- ")
    assert all(cells(line) <= width for line in lines)
    assert "".join("".join(line[2:].split()) for line in lines) == "".join(words)


# -- overviews ---------------------------------------------------------------------------------


def test_overviews_count_finished_lost_and_old_runs(finished: Path) -> None:
    runs_dir = finished.parent
    crashed = RunBuilder(runs_dir, "run-20260102T040000Z-flights-00000001", started_at=at(1))
    eventful(crashed)
    crashed.crash(10)
    old_run(runs_dir / "run-20251121T163303Z-minimal-00000002", finished=True)
    (runs_dir / "notes").mkdir()
    told = {one.path.name[:20]: one for one in load_overviews(find_runs(runs_dir))}
    assert [(one.status, one.tasks, one.failures) for one in told.values()] == [
        ("completed", 30, 0),
        ("lost", 135, 6),
        ("completed", 135, 6),
    ]
    assert "notes" not in told  # it holds nothing of a run
    assert told["run-20260102T040000Z"].duration_s == 9.0


def test_overviews_read_no_more_than_they_may(crashed: Path) -> None:
    (one,) = load_overviews(find_runs(crashed.parent), max_read=100)
    assert (one.tasks, one.failures, one.status) == (None, None, "lost")
    assert one.duration_s == 10.0


@pytest.mark.parametrize("width", [80, 200])
def test_the_table_of_runs_fits_and_its_ids_can_be_given_back(tmp_path: Path, width: int) -> None:
    for tail in ("a0000000", "a0000001", "b0000000"):
        RunBuilder(
            tmp_path, f"run-20260102T030405Z-a-long-project-name-{tail}",
            project_name="a-long-project-name" * 3,
        ).finish(1)  # fmt: skip
    RunBuilder(tmp_path, "run-20250102T030405Z-p-00000000", started_at=at(-3e7)).finish(1)
    overviews = list(load_overviews(find_runs(tmp_path)))
    head, *rows = render_overviews(overviews, width).splitlines()
    assert " ".join(head.split()) == "Run Project Status Started (UTC) Took Tasks Failed"
    ids = [row.split()[0] for row in rows]
    for beginning, overview in zip(ids, overviews, strict=True):
        matching = [one.run_id for one in overviews if one.run_id.startswith(beginning)]
        assert matching == [overview.run_id]
    if width == 200:
        assert ids == [overview.run_id for overview in overviews]


def test_the_table_of_runs_fits_80_columns_with_usual_ids(tmp_path: Path) -> None:
    for i in range(3):
        run = RunBuilder(
            tmp_path, f"run-20260102T03040{i}Z-delays-of-2013-0000000{i}",
            project_name="delays-of-2013",
        )  # fmt: skip
        eventful(run)
        run.finish(12345)
    shown = render_overviews(list(load_overviews(find_runs(tmp_path))))
    assert max(map(len, shown.splitlines())) <= 80
    assert "completed  2026-01-02 03:04  3h 25m    135       6" in shown
