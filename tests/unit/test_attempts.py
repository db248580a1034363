"""The attempts of a run, as a timeline would show them."""

from __future__ import annotations

import tracemalloc
from datetime import timedelta
from pathlib import Path

import pytest

import run_builder as build
from scalable.analysis import Attempt, load_attempts
from scalable.analysis import attempts as module
from scalable_runs.reader import RunReader

W0, W1 = build.address(0), build.address(1)


def after(seconds: float):
    return build.START + timedelta(seconds=seconds)


def attempts_of(tmp_path: Path, *records) -> list[Attempt]:
    run = build.RunBuilder(tmp_path / "runs", "run-20260102T030405Z-x-0000aaaa")
    run.add(*records)
    return list(load_attempts(RunReader(run.finish(60))))


def test_an_attempt_has_its_times_its_worker_and_how_it_ended(tmp_path):
    (attempt,) = attempts_of(
        tmp_path,
        build.task("submitted", "inc-1", 0),
        build.task("running", "inc-1", 1, worker=W0),
        build.task(
            "succeeded", "inc-1", 3, worker=W0, duration_s=1.9, queue_s=0.5, transfer_s=0.25
        ),
    )
    assert attempt == Attempt(
        "inc-1", "inc", 1, W0, after(1), after(3), 1.9, 0.5, 0.25, "succeeded", None
    )
    assert attempt.elapsed_s == 2.0


def test_each_attempt_of_a_task_is_one_with_its_cause(tmp_path):
    found = attempts_of(
        tmp_path,
        build.task("submitted", "get-1", 0),
        build.task("running", "get-1", 1, worker=W0),
        build.failure(
            "OSError", "reset", 2, task_id="get-1", attempt=1, cause="connection", will_retry=True
        ),
        build.task("retried", "get-1", 2, worker=W0, duration_s=1.0),
        build.task("running", "get-1", 3, attempt=2, worker=W1),
        build.task("lost", "get-1", 4, attempt=2),
        build.task("running", "get-1", 5, attempt=3, worker=W0),
        build.failure("ValueError", "bad", 6, task_id="get-1", attempt=3, cause="input_validation"),
        build.task("failed", "get-1", 6, attempt=3, worker=W0, duration_s=1.0),
    )
    assert [(row.attempt, row.worker, row.state, row.cause) for row in found] == [
        (1, W0, "retried", "connection"),
        (2, W1, "lost", None),
        (3, W0, "failed", "input_validation"),
    ]


def test_what_never_ran_is_no_attempt(tmp_path):
    found = attempts_of(
        tmp_path,
        build.task("submitted", "a-1", 0),
        build.task("cancelled", "a-1", 1, attempt=0),
        build.task("submitted", "b-1", 0),
        build.task("running", "b-1", 1, worker=W0),
        build.task("lost", "b-1", 2, worker=W0),
        build.task("cancelled", "b-1", 3),
        build.task("submitted", "c-1", 0),
        build.task("failed", "c-1", 1, attempt=0, blame="b-1"),
    )
    assert [(row.task_id, row.state) for row in found] == [("b-1", "lost")]


def test_without_the_line_of_its_start_an_attempt_starts_its_duration_before_its_end(tmp_path):
    found = attempts_of(
        tmp_path,
        build.task("succeeded", "a-1", 5, worker=W0, duration_s=2.0),
        build.task("lost", "b-1", 6, worker=W0),
    )
    assert [(row.task_id, row.start, row.end) for row in found] == [
        ("a-1", after(3), after(5)),
        ("b-1", None, after(6)),
    ]
    assert found[1].elapsed_s is None


def test_attempts_that_run_come_last_and_have_no_end(tmp_path):
    run = build.RunBuilder(tmp_path / "runs", "run-20260102T030405Z-x-0000aaaa")
    run.add(
        build.task("running", "a-1", 1, worker=W0),
        build.task("running", "b-1", 2, worker=W1),
        build.task("succeeded", "b-1", 3, worker=W1, duration_s=1.0),
    )
    found = list(load_attempts(RunReader(run.crash(4))))
    assert [(row.task_id, row.state, row.end) for row in found] == [
        ("b-1", "succeeded", after(3)),
        ("a-1", "running", None),
    ]


def test_a_damaged_duration_costs_the_start_alone(tmp_path):
    (attempt,) = attempts_of(
        tmp_path, build.task("succeeded", "a-1", 5, worker=W0, duration_s=9e17)
    )
    assert attempt.start is None
    assert attempt.end == after(5)


def test_memory_is_bounded_by_the_attempts_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "MAX_OPEN", 100)
    run = build.RunBuilder(tmp_path / "runs", "run-20260102T030405Z-x-0000aaaa")
    for i in range(20_000):
        run.add(*build.life(f"inc-{i:032x}", 1, 0.1))
    # A damaged record: they run and never end.
    run.add(*(build.task("running", f"gone-{i}", 5) for i in range(5_000)))
    reader = RunReader(run.finish(60))
    tracemalloc.start()
    count = sum(attempt.end is not None for attempt in load_attempts(reader))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 20_000
    assert peak < 5_000_000
