"""The recorder on its own, fed by a simulated cluster."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks import synthetic
from benchmarks.synthetic import Shape
from cluster import tasks
from scalable import facts
from scalable.telemetry.recorder import wire
from scalable.telemetry.recorder.recorder import CHUNK
from scalable.telemetry.recorder.router import SignalRouter
from scalable_runs.reader import RunReader
from scalable_runs.schema import ARTIFACTS, FAILURES, TASKS


@pytest.mark.lenient
def test_an_internal_error_costs_the_facts_of_one_stride(tmp_path, monkeypatch):
    original, calls = SignalRouter.export, 0

    def broken_once(self, *arguments):
        nonlocal calls
        calls += 1
        if calls == 5:
            raise RuntimeError("planted")
        original(self, *arguments)

    monkeypatch.setattr(SignalRouter, "export", broken_once)
    recorded = synthetic.record(tmp_path, Shape(tasks=1_000), tolerant=True)
    assert recorded.errors == {"recorder:RuntimeError": 1}
    lines = sum(1 for _ in RunReader(recorded.path).records(TASKS))
    # Three lines a task; a fact makes two at most.
    assert 3_000 - 2 * CHUNK <= lines < 3_000


# -- closing --------------------------------------------------------------------------------------


class Scripted:
    """A source that gives what it is told to give, then that nothing is left."""

    def __init__(self, *answers: Sequence[facts.Fact] | Exception) -> None:
        self.left = list(answers)
        self.after = 1

    def pull(self, after: int, limit: int, timeout: float) -> facts.Batch:
        answer = self.left.pop(0) if self.left else ()
        if isinstance(answer, Exception):
            if not self.left:
                self.left.append(answer)  # for ever
            time.sleep(min(timeout, 0.01))
            raise answer
        self.after += len(answer)
        return facts.Batch(list(answer), self.after, bool(self.left), 0, {}, time.time())

    def close(self) -> None:
        pass


def submitted(key: str) -> facts.Submitted:
    return facts.Submitted(facts.SUBMITTED, 1.0, key, key, None, (), 0, None, False)


def started(key: str) -> facts.Started:
    return facts.Started(facts.STARTED, 2.0, key, 7, "tcp://a:1")


def forgotten(key: str) -> facts.Forgotten:
    return facts.Forgotten(facts.FORGOTTEN, 3.0, key)


def closed(runs_dir: Path, *answers: Sequence[facts.Fact] | Exception, timeout: float = 5.0) -> Any:
    """A run that is closed while its scheduler answers like that."""
    recorder = synthetic.make_recorder(runs_dir, Shape(tasks=0), [])
    recorder.end("completed", timeout, None)
    recorder.start(Scripted(*answers))
    assert recorder.finished.wait(60)
    return RunReader(recorder.run_dir)


def counts(run: Any) -> Mapping[str, int]:
    return run.summary()["counts"]


def test_a_run_whose_end_is_asked_for_during_a_pull_gets_what_came_meanwhile(tmp_path):
    recorder = synthetic.make_recorder(tmp_path, Shape(tasks=0), [])
    source = Scripted([], [submitted("x"), forgotten("x")])
    pull = source.pull

    def pull_and_end(after: int, limit: int, timeout: float) -> facts.Batch:
        answer = pull(after, limit, timeout)
        recorder.end("completed", 5.0, None)
        # The facts came after this answer was made.
        return answer._replace(more=False)

    source.pull = pull_and_end
    recorder.start(source)
    assert recorder.finished.wait(60)
    assert [line["task_id"] for line in RunReader(recorder.run_dir).records(TASKS)] == ["x", "x"]


def test_a_flush_asked_for_after_a_pull_waits_for_the_next_one(tmp_path, monkeypatch):
    recorder = synthetic.make_recorder(tmp_path, Shape(tasks=0), [])
    take, known = recorder._take, []
    flush = threading.Thread(target=lambda: (recorder.flush(30), known.append(recorder.progress())))

    def take_while_flush_is_asked_for(batch: facts.Batch | None) -> None:
        if not flush.ident:
            flush.start()
            tasks.wait_until(lambda: recorder._flush_asked)
        take(batch)

    monkeypatch.setattr(recorder, "_take", take_while_flush_is_asked_for)
    source = Scripted([], [submitted("x")])
    pull = source.pull
    source.pull = lambda *arguments: pull(*arguments)._replace(more=False)
    recorder.start(source)
    tasks.wait_until(lambda: known)
    flush.join(60)
    recorder.close("completed", 5.0)
    assert known == [(0, 1, 0)]


def test_slow_answers_while_closing_end_no_pulling(tmp_path):
    late = ConnectionError("late")
    run = closed(tmp_path, [submitted("x")], late, TimeoutError(), late, [forgotten("x")])
    assert run.status == "completed"
    assert run.document["telemetry"]["errors"] == {}
    assert (counts(run)["tasks_cancelled"], counts(run)["tasks_unknown"]) == (1, 0)


def test_a_scheduler_that_never_answers_leaves_ends_unknown(tmp_path):
    seen = [submitted("x"), submitted("y"), started("y")]
    run = closed(tmp_path, seen, ConnectionError("late"), timeout=0.1)
    assert run.status == "lost"
    assert run.document["telemetry"]["errors"] == {"close:timeout": 1}
    assert [line["state"] for line in run.records(TASKS)] == ["submitted", "submitted", "running"]
    assert counts(run)["tasks_unknown"] == 2
    assert counts(run)["tasks_cancelled"] == 0
    assert run.summary()["unfinished"]["tasks"][0]["task_id"] == "y"


def test_a_scheduler_that_is_lost_is_reported_with_what_ran(tmp_path):
    run = closed(
        tmp_path, [submitted("x"), submitted("y"), started("y")], ConnectionRefusedError("refused")
    )
    assert run.status == "lost"
    assert run.document["telemetry"]["errors"] == {"scheduler_gone": 1}
    (failure,) = run.records(FAILURES)
    assert failure["failure_class"] == "SchedulerLost"
    assert failure["details"]["tasks"] == ["y"]
    assert counts(run)["tasks_unknown"] == 2


def test_a_scheduler_that_closed_in_good_order_has_cancelled_what_was_left(tmp_path):
    bye = facts.SchedulerClosed(facts.SCHEDULER_CLOSED, 3.0)
    run = closed(tmp_path, [submitted("x"), bye], ConnectionRefusedError("refused"))
    assert run.status == "completed"
    assert run.document["telemetry"]["errors"] == {}
    assert (counts(run)["tasks_cancelled"], counts(run)["tasks_unknown"]) == (1, 0)


def test_closing_goes_on_while_facts_arrive(tmp_path, monkeypatch):
    """Longer than its timeout, until nothing has come for so long."""
    monkeypatch.setattr(wire, "CLOSE_EXTENSION", 100.0)
    many = [[submitted(f"x{number}"), forgotten(f"x{number}")] for number in range(6)]
    waits = [ConnectionError("late")] * 8
    answers = [answer for batch in many for answer in (*waits, batch)]
    began = time.monotonic()
    run = closed(tmp_path, *answers, timeout=1.0)
    assert time.monotonic() - began > 1.0
    assert run.status == "completed"
    assert counts(run)["tasks"] == 6


def test_events_of_the_program_are_bounded_in_bytes_and_the_rest_is_counted(tmp_path):
    recorder = synthetic.make_recorder(tmp_path, Shape(tasks=0), [])
    fields = {"artifact_name": "x" * 30_000, "location": "y", "kind": "z", "stage": "put"}
    event = facts.UserEvent(facts.USER_EVENT, 1.0, None, None, "", "artifact", fields)
    for _ in range(1_000):
        recorder.note(event)
    recorder.end("completed", 5.0, None)
    recorder.start(Scripted())
    assert recorder.finished.wait(60)
    run = RunReader(recorder.run_dir)
    kept = sum(1 for _ in run.records(ARTIFACTS))
    assert kept * 30_000 <= facts.MAX_NOTED
    assert run.document["telemetry"]["errors"] == {"note:dropped": 1_000 - kept}
