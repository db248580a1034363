"""Runs in memory: whole lines and signals, without a disk, a clock or a cluster."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from scalable import facts
from scalable.testing import MEASURED, START, CountingIds, InMemorySignals, StepClock, record_facts
from scalable_runs import schema

ADDRESS = "tcp://10.0.0.1:8786"
RUN = "run-20260101T000000Z-test-00000001"
ATTEMPT = {"trace_id": f"{1:032x}", "span_id": "43fdd4e64a518981"}
FACTS = [
    facts.WorkerReady(facts.WORKER_READY, START, ADDRESS, "0", "host", 1, 2, 0, None),
    facts.WorkerHello(facts.WORKER_HELLO, START, ADDRESS, START - 2),
    facts.Submitted(facts.SUBMITTED, START + 1, "x", "x", None, (), 0, None, False),
    facts.Started(facts.STARTED, START + 1.5, "x", 7, ADDRESS),
    facts.Succeeded(
        facts.SUCCEEDED,
        *(START + 4, "x", 7, ADDRESS),
        *(START + 1.5, START + 3.5, START + 1.25, (), 24, "int", 1.75),
    ),
    "x",
]


def record(number: int, timestamp: str, kind: str, **fields: object) -> dict[str, object]:
    return {
        "schema_version": schema.SCHEMA_VERSION,
        "run_id": RUN,
        "seq": number,
        "event_type": kind,
        "timestamp": f"2026-01-01T00:00:0{timestamp}Z",
        **fields,
    }


def test_the_lines_of_a_task_are_known_as_a_whole():
    run = record_facts(FACTS)
    task = {"task_id": "x", "task_name": "x"}
    assert run.lines(schema.TASKS) == [
        record(1, "1.000000", "task", **task, state="submitted", attempt=0),
        record(
            2, "1.500000", "task", **task, **ATTEMPT, state="running", attempt=1, worker=ADDRESS
        ),
        record(
            *(3, "3.500000", "task"),
            **task,
            **ATTEMPT,
            parent_span_id=f"{1:016x}",
            state="succeeded",
            attempt=1,
            worker=ADDRESS,
            worker_id="0",
            duration_s=2.0,
            queue_s=0.25,
            cpu_s=1.75,
            nbytes=24,
            result_type="int",
        ),
    ]
    assert run.reader.status == "completed"
    assert run.lines(schema.TASKS, without={"run_id", "seq", "schema_version", "timestamp"})[0] == {
        "event_type": "task",
        **task,
        "state": "submitted",
        "attempt": 0,
    }


def test_the_same_facts_give_the_same_lines_and_signals():
    first, second = record_facts(FACTS), record_facts(FACTS)
    for file in schema.JOURNALS:
        assert first.lines(file) == second.lines(file)
    summaries = [dict(run.reader.summary()) for run in (first, second)]
    for summary in summaries:
        del summary["run"]  # the time of the last sync
    assert summaries[0] == summaries[1]
    assert [span.to_json() for span in first.signals.spans] == [
        span.to_json() for span in second.signals.spans
    ]


def test_times_and_durations_of_tasks_are_measured():
    times = {"timestamp", "phases_start", "duration_s", "queue_s", "transfer_s", "cpu_s"}
    assert times <= MEASURED
    assert not MEASURED & {"task_id", "state", "attempt", "nbytes", "error_message"}


def test_signals_are_those_of_the_run():
    signals = record_facts(FACTS).signals
    assert [span.name for span in signals.spans] == ["x", "worker 0", "run test"]
    assert [span.context.trace_id for span in signals.spans] == [1, 1, 1]
    events = [log.log_record.event_name for log in signals.logs]
    assert events == ["scalable.run.started", *["dask.worker.state_change"] * 2]
    (resource,) = signals.metrics().resource_metrics
    names = {metric.name for scope in resource.scope_metrics for metric in scope.metrics}
    assert "dask.task.duration" in names


def test_nothing_is_written_to_disk():
    run = record_facts(FACTS, task_events=True, project="tides")
    assert run.run_id == "run-20260101T000000Z-tides-00000001"
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_a_run_ends_as_it_is_told_and_what_is_unfinished_at_the_time_of_the_clock(status):
    clock = StepClock()
    clock.step(9.0)
    run = record_facts(FACTS[:4], clock=clock, status=status)
    assert run.reader.status == status
    last = run.lines(schema.TASKS)[-1]
    assert (last["state"], last["timestamp"]) == ("cancelled", "2026-01-01T00:00:09.000000Z")
    assert run.reader.document["finished_at"] == "2026-01-01T00:00:09.000000Z"


def test_a_clock_stands_still_until_it_is_moved():
    clock = StepClock(5.0)
    assert clock() == clock() == 5.0
    clock.step()
    assert clock() == 6.0


def test_ids_count_in_the_sdk_too():
    tracer = InMemorySignals(CountingIds())
    with tracer.tracer_provider.get_tracer("test").start_as_current_span("outer"):
        with tracer.tracer_provider.get_tracer("test").start_as_current_span("inner"):
            pass
    inner, outer = tracer.spans
    assert (outer.context.trace_id, outer.context.span_id) == (1, 1)
    assert (inner.context.trace_id, inner.context.span_id) == (1, 2)


def test_the_documentation_names_all_that_is_public():
    import scalable.testing

    page = (Path(__file__).parents[2] / "docs/testing.md").read_text()
    words = set(re.findall(r"\w+", page))
    assert set(scalable.testing.__all__) - {"RecordedRun"} <= words
