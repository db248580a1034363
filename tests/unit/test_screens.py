"""What `scalable report` and `scalable diagnose` say: whose failure it was, where, and no more than
is known."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import run_builder as build
from run_builder import RunBuilder, failure, task, worker
from scalable import diagnose_run
from scalable.analysis import load_report, render_json, render_text
from scalable.analysis.diagnose import Diagnosis, Finding
from scalable.analysis.frames import crash_frames, relevant_frames
from scalable.analysis.layout import Page, cells
from scalable.analysis.messages import pattern_of
from scalable_runs.reader import RunReader

RUN_ID = "run-20260102T030405Z-x-0000aaaa"
INSTALLED = "/opt/env/lib/python3.11/site-packages"


def new_run(tmp_path: Path, **changes: Any) -> RunBuilder:
    return RunBuilder(tmp_path / "runs", RUN_ID, **changes)


def report_text(path: Path, **options: Any) -> str:
    return render_text(load_report(RunReader(path)), **options)


def one_line(text: str) -> str:
    return " ".join(text.split())


def first(diagnosis: Diagnosis) -> Finding:
    return diagnosis.findings[0]


def traceback_of(*frames: tuple[str, int, str, str], error: str = "ValueError: bad") -> str:
    lines = ["Traceback (most recent call last):"]
    for file, line, function, code in frames:
        lines.append(f'  File "{file}", line {line}, in {function}')
        if code:
            lines.append(f"    {code}")
    return "\n".join([*lines, error, ""])


def attempt_failed(run: RunBuilder, task_id: str, error: str, message: str, **details: Any) -> None:
    run.add(task("submitted", task_id, 1), task("running", task_id, 1, worker=build.address(0)))
    run.add(failure(error, message, 2, task_id=task_id, worker=build.address(0), **details))
    run.add(
        task(
            "failed", task_id, 2, worker=build.address(0), duration_s=1.0, error_type=error,
            error_message=message,
        )
    )  # fmt: skip


def death(run: RunBuilder, number: int, offset: float, tasks: list[str], **details: Any) -> None:
    run.add(
        worker("lost", number, offset, **details),
        failure(
            "WorkerLost",
            f"worker {number} at {build.address(number)} was lost while it ran 1 task "
            "(connection-lost); it ended",
            offset,
            phase="worker_lost",
            worker=build.address(number),
            worker_id=str(number),
            tasks=tasks,
            **details,
        ),
    )


# -- the program's and the session's own failures --------------------------------------------------


@pytest.mark.parametrize("phase", ["run", "session.context"])
def test_an_exception_of_the_program_is_no_tasks_failure(tmp_path: Path, phase: str) -> None:
    run = new_run(tmp_path)
    text = traceback_of(("/home/ada/ctx.py", 3, "<module>", 'raise ValueError("nope")'))
    run.add(failure("ValueError", "nope", 1, phase=phase, traceback=text))
    path = run.finish(2, "failed")
    finding = first(diagnosis := diagnose_run(path))
    assert (finding.severity, finding.title) == (
        "critical",
        "The program ended with ValueError (ctx.py:3)",
    )
    shown = render_text(diagnosis)
    assert "task failed" not in shown
    assert "/home/ada/ctx.py:3 in <module>" in shown
    report = report_text(path)
    assert report.splitlines()[2] == "ValueError: nope"
    assert "ended the run" in report


def test_a_failed_start_of_a_session_is_a_finding_and_its_closing_is_not(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    ours = traceback_of((f"{INSTALLED}/scalable/session/session.py", 292, "_connect", "x"))
    run.add(
        failure("OSError", "Timed out trying to connect to tcp://10.0.0.1:8786 after 60 s", 1,
                phase="session.start", traceback=ours),
        failure("AssertionError", "", 1, phase="session.close"),
    )  # fmt: skip
    path = run.finish(2, "failed")
    diagnosis = diagnose_run(path)
    assert [finding.title[:27] for finding in diagnosis.findings] == ["The session did not start: "]
    assert "session.py" not in render_text(diagnosis)
    assert report_text(path).splitlines()[2].startswith("The session did not start: Timed out")


@pytest.mark.parametrize(
    ("message", "words"),
    [("7", "exit status 7"), ("no input", "exit status 1, “no input”"), ("None", "exit status 0")],
)
def test_sys_exit_is_reported_with_its_status(tmp_path: Path, message: str, words: str) -> None:
    run = new_run(tmp_path)
    text = traceback_of(("/home/ada/x.py", 9, "main", "sys.exit(code)"))
    run.add(failure("SystemExit", message, 1, phase="run", traceback=text))
    path = run.finish(2, "failed")
    assert first(diagnose_run(path)).title == f"The program ended itself with {words} (x.py:9)"
    assert f"The program ended itself: {words}." in report_text(path)


def test_a_failed_run_without_a_failure_is_not_reported_as_unremarkable(
    tmp_path: Path,
) -> None:
    run = new_run(tmp_path)
    run.add(*build.life("a-1", 1, 0.1))
    diagnosis = diagnose_run(run.finish(2, "failed"))
    assert "its record does not say why" in first(diagnosis).title
    assert "Nothing stands out" not in diagnosis.summary


def test_what_came_back_from_a_task_is_no_second_failure(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    attempt_failed(
        run, "f-1", "ValueError", "bad 1", traceback=traceback_of(("<dynamic-code>", 4, "f", ""))
    )
    ended = traceback_of(
        ("/home/ada/onefail.py", 12, "<module>", "client.submit(f, 1).result()"),
        ("<dynamic-code>", 4, "f", ""),
    )
    run.add(failure("ValueError", "bad 1", 3, phase="run", traceback=ended))
    path = run.finish(4, "failed", environment={"program": "onefail.py"})
    shown = report_text(path)
    assert "Failures (1 attempt failed)" in shown
    assert "ended the run: /home/ada/onefail.py:12 in <module>" in shown
    assert "onefail.py:4 in f" in shown
    assert "<dynamic-code>" not in shown
    assert "onefail.py:4 in f" in render_text(diagnose_run(path))


# -- frames ----------------------------------------------------------------------------------------

PANDAS = traceback_of(
    (f"{INSTALLED}/distributed/worker.py", 99, "_run_task", "return task()"),
    ("/home/ada/prices.py", 20, "outer", "return middle(df)"),
    ("/home/ada/prices.py", 14, "middle", "return inner(df, 'price')"),
    ("/home/ada/prices.py", 10, "inner", "return df[column].mean()"),
    (f"{INSTALLED}/pandas/core/frame.py", 4102, "__getitem__", "indexer = get_loc(key)"),
    (f"{INSTALLED}/pandas/core/indexes/base.py", 3812, "get_loc", "raise KeyError(key) from err"),
    error="KeyError: 'price'",
)


def test_the_users_frames_are_shown_and_where_a_library_raised() -> None:
    assert [frame.where() for frame in relevant_frames(PANDAS)] == [
        "/home/ada/prices.py:20 in outer",
        "/home/ada/prices.py:14 in middle",
        "/home/ada/prices.py:10 in inner",
        f"{INSTALLED}/pandas/core/indexes/base.py:3812 in get_loc",
    ]


def test_a_chain_shows_the_users_frames_where_the_last_exception_has_none() -> None:
    text = (
        traceback_of(("/home/ada/x.py", 1, "mine", "a()"))
        + "\nDuring handling of the above exception, another exception occurred:\n\n"
        + traceback_of((f"{INSTALLED}/dask/core.py", 2, "theirs", "b()"))
    )
    assert [frame.function for frame in relevant_frames(text)] == ["mine"]
    assert [frame.function for frame in relevant_frames(traceback_of(
        (f"{INSTALLED}/dask/core.py", 2, "theirs", "b()"),
        (f"{INSTALLED}/numpy/x.py", 2, "numpys", "b()"),
    ))] == ["numpys"]  # fmt: skip


def test_frames_of_an_exception_group_are_read() -> None:
    text = (
        '  + Exception Group Traceback (most recent call last):\n  |   File "x.py", line 3, in f\n'
    )
    assert [frame.where() for frame in relevant_frames(text)] == ["x.py:3 in f"]


def test_the_stack_of_a_crash_is_that_of_its_thread_alone() -> None:
    stack = (
        "Fatal Python error: Segmentation fault\n\n"
        'Thread 0x01 (most recent call first):\n  File "y.py", line 3 in other\n\n'
        "Current thread 0x02 (most recent call first):\n"
        f'  File "{INSTALLED}/lib/x.py", line 517 in native\n'
        '  File "model.py", line 8 in solve\n'
        '  File "model.py", line 2 in outer\n'
        f'  File "{INSTALLED}/distributed/worker.py", line 1 in run\n'
    )
    assert [frame.function for frame in crash_frames(stack)] == ["outer", "solve", "native"]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_places_are_whole_in_a_pipe_and_lose_directories_on_a_terminal(
    tmp_path: Path, width: int
) -> None:
    run = new_run(tmp_path)
    attempt_failed(run, "outer-1", "KeyError", "'price'", traceback=PANDAS)
    diagnosis = diagnose_run(path := run.finish(4))
    place = f"{INSTALLED}/pandas/core/indexes/base.py:3812"
    for render in (
        lambda **options: render_text(diagnosis, **options),
        lambda **options: report_text(path, **options),
    ):
        piped = render(width=width)
        assert place in re.sub(r"\s", "", piped)
        assert "base.py:3812" in piped
        assert place + " in get_loc" in render(strict=False)
        shown = render(width=width, elide=True)
        assert "base.py:3812 in get_loc" in shown
        for text in (piped, shown):
            lines = [line for line in text.splitlines() if not line.startswith("Path ")]
            assert max(map(cells, lines)) <= width


def test_a_long_key_is_whole_in_a_pipe_and_shortened_on_a_terminal(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    key = "fit-" + "0123456789abcdef" * 4
    run.add(*build.life(key, 1, 2.0))
    path = run.finish(4)
    assert key in report_text(path)
    shown = report_text(path, elide=True)
    assert key not in shown
    assert key[-6:] in shown


def test_wide_characters_take_two_columns(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    attempt_failed(run, "f-1", "ValueError", "数据框缺少列名" * 40)
    path = run.finish(4)
    for text in (report_text(path), render_text(diagnose_run(path))):
        lines = [line for line in text.splitlines() if not line.startswith("Path ")]
        assert max(map(cells, lines)) <= 80
        assert "数据框缺少列名" in text


def test_narrow_terminals_drop_columns_and_do_not_cut_cells() -> None:
    header = ["Name", "One", "Two", "State"]
    rows = [["a-name-of-some-length", "1" * 12, "2" * 12, "succeeded"]]
    lines = Page(60, elide=True).table(header, rows, [False] * 4, stretch=0, drop=(2, 1))
    assert lines[0][0].split() == ["Name", "One", "State"]
    assert all("…" not in line for row in lines for line in row)


# -- memory, time and counts -----------------------------------------------------------------------


def test_a_peak_is_that_of_the_certificate_with_its_limit(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    run.add(worker("ready", 0, 0, memory_limit_bytes=400_000_000), build.usage(0, 1, 0.207))
    run.add(task("submitted", "g-1", 0), task("running", "g-1", 1, worker=build.address(0)))
    death(
        run, 0, 5, ["g-1"], memory_limit_bytes=400_000_000, memory_peak_bytes=392_000_000,
        memory_bytes=207_000_000, memory_kill=True, signal="SIGTERM", exit_code=-15,
    )  # fmt: skip
    run.add(task("lost", "g-1", 5, worker=build.address(0)))
    path = run.finish(6)
    shown = report_text(path)
    assert "at most 392 MB of 400 MB (98%) of memory in one" in shown
    assert "207 MB" not in shown
    assert "4.00 s in an attempt that was lost or cancelled" in one_line(shown)
    row = next(line for line in shown.splitlines() if line.startswith("  0 (127.0.0.1:40001)"))
    assert row.split()[2:] == ["2", "5.00", "s", "40%", "1", "392", "MB", "400", "MB", "lost"]
    said = render_text(diagnose_run(path))
    assert "used 392 MB of 400 MB (98%)" in one_line(said)
    assert "207 MB" not in said


@pytest.mark.parametrize(
    ("error", "message", "said"),
    [
        ("MemoryError", "", "nothing shows how much"),
        ("_ArrayMemoryError", "Unable to allocate 8.00 TiB for an array", "asked for 8.00 TiB"),
        ("RuntimeError", "OOM: scenario 7 exceeded memory limit", "The message mentions memory"),
        ("RuntimeError", "CUDA out of memory. Tried to allocate 2.00 GiB (GPU 0)", "the GPU"),
    ],
)
def test_no_need_of_memory_is_invented(tmp_path: Path, error: str, message: str, said: str) -> None:
    run = new_run(tmp_path)
    run.add(worker("ready", 0, 0), build.usage(0, 1, 0.1))
    attempt_failed(run, "f-1", error, message)
    finding = first(diagnose_run(run.finish(4)))
    assert finding.category == "oom"
    assert said in finding.suggestion
    assert "needs at least" not in finding.suggestion


def test_a_limit_is_advised_where_the_peak_was_near_it(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    run.add(worker("ready", 0, 0), build.usage(0, 1, 3.9))
    attempt_failed(run, "f-1", "MemoryError", "")
    oom = next(f for f in diagnose_run(run.finish(4)).findings if f.category == "oom")
    assert "Peak 3.90 GB of a limit of 4.00 GB" in oom.suggestion


def test_tasks_are_counted_apart_from_their_attempts(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    for attempt in (1, 2):
        run.add(
            failure("ValueError", "bad", attempt, task_id="f-1", will_retry=True, attempt=attempt)
        )
    attempt_failed(run, "f-1", "ValueError", "bad")
    attempt_failed(run, "f-2", "ValueError", "bad")
    said = first(diagnose_run(run.finish(4))).evidence.sentences
    assert "2 of 2 tasks named f, in 4 attempts" in said


def test_results_computed_again_are_reported_as_tasks_and_times(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    for i in range(2):
        run.add(*build.life(f"f-{i}", 1, 1))
        for number in (2, 3):
            again = {"attempt": number, "reopens": "succeeded", "recomputed": True}
            run.add(task("running", f"f-{i}", 2 * number, **again))
            run.add(task("succeeded", f"f-{i}", 2 * number + 1, attempt=number, duration_s=1.0))
    found = [f for f in diagnose_run(run.finish(9)).findings if f.category == "recomputation"]
    assert [finding.title for finding in found] == [
        "2 tasks had to be computed again, 4 times in all"
    ]


def test_differences_too_short_to_matter_are_not_reported(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    run.add(*(record for i in range(5) for record in build.life(f"f-{i}", 1, 0.00006)))
    run.add(
        failure("KeyError", "'x'", 2, task_id="f-9"),
        task("failed", "f-9", 2, duration_s=0.0008, error_type="KeyError", error_message="'x'"),
    )
    path = run.finish(4)
    assert "on average" not in render_text(diagnose_run(path))
    assert "Slowest attempts" not in report_text(path)


# -- lost workers ----------------------------------------------------------------------------------


def test_a_signal_from_outside_has_no_culprit(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    death(run, 0, 5, ["follow-1"], signal="SIGKILL", exit_code=-9)
    diagnosis = diagnose_run(run.finish(6))
    assert first(diagnosis).category == "killed"
    assert first(diagnosis).evidence.culprits == ()
    assert "culprit" not in render_text(diagnosis)
    assert "ran follow-1" in render_text(diagnosis)


def test_four_deaths_of_one_task_are_reported_once(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    for number in range(4):
        death(run, number, 2 + number, ["boom-1"], signal="SIGSEGV", exit_code=-11)
    shown = render_text(diagnose_run(run.finish(9)))
    assert "Likely culprit: boom-1, the only task that ran at all 4 deaths" in shown
    assert shown.count("boom-1") == 2
    assert shown.count("SIGSEGV") == 2  # in the summary and in the title
    assert "boom-1, …" not in shown


def test_a_worker_that_dask_ended_is_not_killed_from_outside(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    death(
        run, 0, 9, ["hold"], reason="worker-ttl", signal="SIGKILL", exit_code=-9,
        heartbeat_age_s=10.4, worker_ttl_s=5.0,
    )  # fmt: skip
    finding = first(diagnose_run(run.finish(9)))
    assert finding.category == "timeout"
    assert finding.title == "No heartbeat for 10.4 s while hold ran: Dask itself ended 1 worker"
    assert "distributed.scheduler.worker-ttl is 5.00 s" in finding.evidence.sentences
    assert "who sends the signal" not in finding.suggestion


def test_a_worker_has_one_name_everywhere(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    run.add(worker("ready", 0, 0))
    attempt_failed(run, "f-1", "ValueError", "bad")
    path = run.finish(4)
    for text in (report_text(path), render_text(diagnose_run(path))):
        assert "0 (127.0.0.1:40001)" in text
        assert "tcp://" not in text


# -- ends that are not known -----------------------------------------------------------------------


def test_the_number_of_unknown_ends_is_at_the_top(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    run.add(*build.life("a-1", 1, 1.0), task("submitted", "b-1", 1), task("submitted", "b-2", 1))
    run.add(task("running", "b-2", 2, worker=build.address(0)))
    path = run.finish(4, "failed", telemetry={"errors": {"close:timeout": 1}})
    shown = report_text(path)
    assert "What became of 2 tasks is not known" in shown.splitlines()[2]
    assert "3 tasks: 1 succeeded, 2 with an unknown end" in shown
    finding = first(diagnosis := diagnose_run(path))
    assert (finding.category, finding.count) == ("unknown_end", 2)
    assert "2 with an unknown end" in one_line(render_text(diagnosis))


def test_a_scheduler_that_was_lost_is_critical(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    run.add(*(task("submitted", f"nap-{i}", 1) for i in range(10)))
    run.add(task("running", "nap-0", 2, worker=build.address(0)))
    run.add(
        failure(
            "SchedulerLost", "the scheduler was lost (OSError)", 4, phase="scheduler_lost",
            tasks=["nap-0"], tasks_running=1, tasks_waiting=9,
        )
    )  # fmt: skip
    path = run.finish(4, "lost")
    finding = first(diagnosis := diagnose_run(path))
    assert (finding.severity, finding.category) == ("critical", "scheduler_lost")
    assert finding.title == (
        "The scheduler was lost with 1 task running and 9 that had not started"
    )
    assert len(diagnosis.findings) == 1
    shown = one_line(render_text(diagnosis))
    assert "nap-0 was running on worker 127.0.0.1:40001 for 2.00 s" in shown
    assert "task failed" not in shown


def test_tasks_that_wait_for_workers_that_are_lost_are_reported(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    run.add(worker("ready", 0, 0), task("submitted", "a-1", 1))
    tail = "Traceback (most recent call last):\nModuleNotFoundError: No module named 'helpers'\n"
    death(run, 0, 2, [], reason="connection-lost", exit_code=0, stderr_tail=tail)
    findings = {finding.category: finding for finding in diagnose_run(run.crash(4)).findings}
    assert findings["no_workers"].title == "1 task waits and no worker is left to run it"
    assert "1 task waits and no worker is left to run it." in report_text(run.path)
    assert "No module named 'helpers'" in " ".join(findings["import_error"].evidence.sentences)


def test_a_cancelled_run_shows_what_ran_and_names_every_state(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    run.add(*build.life("quick-1", 1, 1.0))
    run.add(task("submitted", "outer", 1), task("running", "outer", 2, worker=build.address(0)))
    run.add(task("submitted", "rest", 1), task("cancelled", "rest", 4))
    run.add(task("cancelled", "outer", 4, worker=build.address(0)))
    diagnosis = diagnose_run(run.finish(4, "cancelled"))
    assert "3 tasks, 1 succeeded, 2 cancelled" in diagnosis.summary
    assert "Nothing stands out" not in diagnosis.summary
    said = first(diagnosis).evidence.sentences
    assert said[0] == "outer had been running for 2.00 s, and was cancelled"
    assert "1 more task had not started" in said


def test_a_worker_ended_by_the_same_ctrl_c_is_not_a_finding(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    run.add(worker("ready", 0, 0))
    run.add(task("submitted", "outer", 1), task("running", "outer", 2, worker=build.address(0)))
    run.add(worker("removed", 0, 4, reason="worker-close", tasks_running=1))
    run.add(task("lost", "outer", 4, worker=build.address(0), error_type="WorkerLost"))
    run.add(task("cancelled", "outer", 4, attempt=1))
    diagnosis = diagnose_run(path := run.finish(4, "cancelled"))
    assert [finding.category for finding in diagnosis.findings] == ["cancelled"]
    assert first(diagnosis).evidence.sentences == (
        "outer had been running for 2.00 s, and was cancelled",
    )
    assert "Failures" not in report_text(path)


def test_an_empty_run_says_that_nothing_was_recorded(tmp_path: Path) -> None:
    path = new_run(tmp_path).finish(1)
    assert "no task of this client reached the scheduler" in one_line(diagnose_run(path).summary)
    assert report_text(path).count("No task was recorded.") == 1


def test_reschedule_is_no_failure(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    run.add(task("submitted", "f-1", 1), task("running", "f-1", 1))
    run.add(failure("Reschedule", "", 2, task_id="f-1", will_retry=True))
    run.add(task("retried", "f-1", 2, rescheduled=True), task("running", "f-1", 2, attempt=2))
    run.add(task("succeeded", "f-1", 3, attempt=2, duration_s=1.0))
    path = run.finish(4)
    assert not [f for f in diagnose_run(path).findings if f.severity in ("error", "critical")]
    assert "Failures" not in report_text(path)


# -- messages, costs, artifacts --------------------------------------------------------------------


def test_messages_that_differ_are_a_pattern_with_values(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    for i in range(25):
        attempt_failed(run, f"read-{i}", "ValueError", f"cannot read /in/{i}.nc: byte {i * 7}")
    diagnosis = diagnose_run(path := run.finish(4))
    for text in (report_text(path), render_text(diagnosis)):
        assert "cannot read /in/….nc: byte …" in text
        assert "(25 messages: 0, 1, 2, 3, 4, …)" in text
    messages = render_json(diagnosis)["findings"][0]["evidence"]["messages"]
    assert len(messages) == 25
    (group,) = render_json(load_report(RunReader(path)))["failures"]["groups"]
    assert group["messages"] == list(messages)


def test_messages_that_differ_in_words_are_one_where_one_line_raised(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    text = traceback_of(("/home/ada/x.py", 3, "read", "raise"))
    for name in ("alpha", "beta", "gamma"):
        attempt_failed(run, f"read-{name}", "ValueError", f"no station {name}", traceback=text)
    shown = report_text(run.finish(4))
    assert "3 × ValueError: no station …" in shown
    assert "(3 messages: alpha, beta, gamma)" in shown


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        (["same", "same"], "same"),
        (["a 1 b", "a 2 b"], "a … b"),
        (["no file a", "no file b or c"], "no file …"),
        (["", "x"], "…"),
    ],
)
def test_patterns(messages: list[str], text: str) -> None:
    assert pattern_of(messages).text == text


def test_costs_artifacts_and_metrics_are_shown(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    base = {"event_type": "cost", "timestamp": build.at(1)}
    run.add(
        {**base, "currency": "USD", "total_hourly": 0.5, "metadata": {"estimate": True}},
        {**base, "currency": "EUR", "total_hourly": 1.2},
        {**base, "currency": "USD", "total_hourly": 2.0},
        {
            "event_type": "artifact", "timestamp": build.at(1), "artifact_name": "out.csv",
            "location": "/data/out.csv", "kind": "result", "size_bytes": 2048,
            "digest": "sha256:" + "ab" * 32,
        },
    )  # fmt: skip
    metric = {"event_type": "metric", "timestamp": build.at(1), "kind": "gauge"}
    run.writer.append(
        "metrics.jsonl",
        [
            {**metric, "name": "loss", "value": 0.5},
            {**metric, "name": "loss", "value": 0.25},
            {**metric, "name": "dask.workers", "value": 3},
        ],
    )
    path = run.finish(4)
    shown = report_text(path)
    assert "Cost      1.20 EUR an hour; 2.00 USD an hour; 0.50 USD an hour by estimate" in shown
    assert "Artifacts (1)" in shown
    assert "out.csv" in shown
    row = next(line for line in shown.splitlines() if line.endswith("loss"))
    assert row.split() == ["2", "0.25", "0.25", "0.5", "loss"]
    document = json.loads(json.dumps(render_json(load_report(RunReader(path)))))
    assert document["artifacts"][0]["location"] == "/data/out.csv"
    assert document["metrics"] == {"loss": {"count": 2, "last": 0.25, "min": 0.25, "max": 0.5}}
    assert document["cost"]["by_currency"]["EUR"]["total_hourly"] == 1.2


def test_what_the_record_lacks_is_reported_once(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    run.add(*build.life("a-1", 1, 1.0))
    path = run.finish(4, telemetry={"dropped": {"facts": 7}})
    shown = render_text(diagnose_run(path))
    assert shown.count("7 × facts: dropped") == 1


@pytest.mark.parametrize("file", ["scalable/demo/workload.py", "scalable/demo.py"])
def test_the_demo_counts_as_a_program_of_the_user(file: str):
    traceback = (
        f'  File "/env/lib/python3.12/site-packages/{file}", line 7, in check\n    raise X\n'
    )
    (frame,) = relevant_frames(traceback)
    assert frame.is_own
