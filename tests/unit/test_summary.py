"""RunSummary: the same numbers live and by scan, true to every attempt, in bounded memory."""

from __future__ import annotations

import math
import random
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from run_builder import (
    RunBuilder,
    address,
    at,
    eventful,
    failure,
    life,
    run_document,
    task,
    usage,
    worker,
)
from scalable_runs.reader import RunReader
from scalable_runs.schema import FILE_OF, JOURNALS, Record
from scalable_runs.summary import (
    EXACT_VALUES,
    MAX_FAILURE_GROUPS,
    MAX_NAMES,
    OTHER,
    RELATIVE_ERROR,
    RunSummary,
    name_of_key,
)

RUN: dict[str, Any] = dict(run_document("run-1", finished_at=at(60), status="completed"))


def fed(*records: Record) -> RunSummary:
    summary = RunSummary()
    for record in records:
        summary.add(FILE_OF[record["event_type"]], record)
    return summary


def document(*records: Record) -> dict[str, Any]:
    return fed(*records).document(RUN)


def scanned(path: Path) -> dict[str, Any]:
    reader = RunReader(path)
    summary = RunSummary()
    for file in JOURNALS:
        summary.add_all(file, reader.records(file))
    assert not reader.problems
    return summary.document(reader.document)


# -- an oracle: tasks that live at random, and what is true of them ----------------------------


@dataclass
class Life:
    """One task of the oracle; it writes its own lines and keeps its own books."""

    task_id: str
    state: str = "new"
    attempt: int = 0
    lines: list[Record] = field(default_factory=list)
    books: Counter[str] = field(default_factory=Counter)
    durations: list[float] = field(default_factory=list)

    def say(self, state: str, clock: float, **fields: Any) -> Record:
        if self.state in ("succeeded", "failed", "cancelled"):
            fields["reopens"] = self.state
            if state == "submitted":
                self.books["resubmitted"] += 1
            else:
                fields["recomputed"] = True
        if state == "submitted":
            self.books["submitted"] += 1
        if state in ("retried", "lost"):
            self.books[state] += 1
        self.state = {"submitted": "waiting", "retried": "waiting", "lost": "waiting"}.get(
            state, state
        )
        return task(state, self.task_id, clock, attempt=self.attempt, **fields)

    def step(self, choice: int, clock: float, duration: float) -> Record:
        where = address(choice % 3)
        end: dict[str, Any] = {"worker": where, "duration_s": duration, "queue_s": duration / 2}
        match self.state:
            case "new":
                return self.say("submitted", clock)
            case "succeeded" | "failed" | "cancelled" if choice % 3 == 0:
                return self.say("submitted", clock)
            case "waiting" | "succeeded" | "failed" | "cancelled":
                if self.state == "waiting" and choice % 5 == 4:
                    return self.say("cancelled", clock)
                if self.state == "waiting" and choice % 5 == 3 and self.attempt == 0:
                    return self.say("failed", clock, error_type="E", blame="another")
                self.attempt += 1
                self.books["attempts"] += 1
                if choice % 7 == 1:  # killed before its worker could tell that it began
                    return self.say("lost", clock, worker=where)
                return self.say("running", clock, worker=where)
            case _:
                state = ("succeeded", "failed", "retried", "lost", "cancelled")[choice % 5]
                if state in ("lost", "cancelled"):
                    return self.say(state, clock, worker=where)
                self.durations.append(duration)
                return self.say(state, clock, **end)


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[Record], list[Life]]:
    names = ["inc", "add", "('sum"]
    tasks = [Life(f"{names[i % 3]}-{i:032x}") for i in range(draw(st.integers(1, 6)))]
    steps = draw(
        st.lists(
            st.tuples(
                st.integers(0, len(tasks) - 1), st.integers(0, 200), st.floats(0, 1e4, width=32)
            ),
            max_size=60,
        )
    )
    records: list[Record] = [worker("ready", number, 0) for number in range(3)]
    for clock, (index, choice, duration) in enumerate(steps):
        records.append(tasks[index].step(choice, clock, duration))
        if choice % 11 == 0:
            records.append(usage(choice % 3, clock, duration))
        if choice % 13 == 0:
            records.append(failure("E", f"row {choice}", clock, task_id=tasks[index].task_id))
        if choice % 17 == 0:
            records.append(worker("lost" if choice % 2 else "ready", choice % 3, clock))
    return records, tasks


@given(world=worlds())
@settings(max_examples=300, deadline=None)
def test_every_count_is_that_of_an_oracle(world: tuple[list[Record], list[Life]]) -> None:
    records, tasks = world
    summary = fed(*records)
    counts = summary.document(RUN)["counts"]
    states = Counter(life.state for life in tasks)
    books = sum((life.books for life in tasks), Counter[str]())
    assert counts["tasks"] == len(tasks) - states["new"]
    for state in ("succeeded", "failed", "cancelled"):
        assert counts[f"tasks_{state}"] == states[state]
    alive = summary.states()
    assert counts["tasks_running"] == states["running"] == alive["running"]
    assert counts["tasks_waiting"] == states["waiting"] == alive["waiting"]
    assert counts["tasks_submitted"] == books["submitted"]
    assert counts["tasks_retried"] == books["retried"]
    assert counts["tasks_lost"] == books["lost"]
    assert counts["attempts"] == books["attempts"]
    assert counts["unusable_events"] == 0
    assert summary.document(RUN)["timing"]["task_duration_total_s"] == pytest.approx(
        sum(sum(life.durations) for life in tasks)
    )


@given(world=worlds(), asked=st.booleans())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_fed_live_and_read_from_disk_it_is_the_same(
    world: tuple[list[Record], list[Life]],
    asked: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    run = RunBuilder(tmp_path_factory.mktemp("runs"), "run-1")
    run.add(*world[0])
    if asked:
        run.summary.document({})  # asked in the middle: must not change what comes out
    path = run.finish(61.5)
    reader = RunReader(path)
    written = reader.summary()
    assert written is not None
    live, scan = run.summary.document(reader.document), scanned(path)
    assert live == scan
    assert {**written, "run": live["run"]} == live


def test_the_eventful_run_is_the_same_live_and_by_scan(tmp_path: Path) -> None:
    run = RunBuilder(tmp_path, "run-1")
    eventful(run)
    path = run.finish(12)
    assert run.summary.document(RunReader(path).document) == scanned(path)


# -- attempts and lives ------------------------------------------------------------------------


def test_an_attempt_without_its_running_line_is_counted_once() -> None:
    counts = document(
        task("submitted", "inc-1", 0),
        task("lost", "inc-1", 1, attempt=1, worker=address(0)),
        task("running", "inc-1", 2, attempt=2, worker=address(1)),
        task("lost", "inc-1", 3, attempt=2, worker=address(1)),
        task("failed", "inc-1", 4, attempt=3, error_type="KilledWorker"),
    )["counts"]
    assert counts["attempts"] == 3
    assert (counts["tasks_lost"], counts["tasks_failed"]) == (2, 1)


def test_a_result_computed_again_is_one_task_with_two_attempts() -> None:
    again = {"reopens": "succeeded", "recomputed": True}
    row = document(
        *life("inc-1", 0, 1.0),
        task("running", "inc-1", 3, attempt=2, worker=address(1), **again),
        task(
            "succeeded", "inc-1", 4, attempt=2, worker=address(1), duration_s=1.0, recomputed=True
        ),
    )["timing"]["tasks"]["inc"]
    assert (row["count"], row["succeeded"], row["attempts"]) == (1, 1, 2)
    assert row["recomputed"] == 1
    assert row["duration"]["count"] == 2


def test_a_lost_result_that_is_not_needed_is_cancelled_and_not_computed_again() -> None:
    row = document(
        *life("inc-1", 0, 1.0),
        task("cancelled", "inc-1", 3, attempt=1, reopens="succeeded", recomputed=True),
    )["timing"]["tasks"]["inc"]
    assert (row["count"], row["succeeded"], row["cancelled"]) == (1, 0, 1)
    assert (row["attempts"], row["recomputed"]) == (1, 0)


def test_a_task_seen_first_when_it_ends_counts_with_its_attempt() -> None:
    row = document(task("succeeded", "inc-1", 1, attempt=1, worker=address(0), duration_s=0.5))[
        "timing"
    ]["tasks"]["inc"]
    assert (row["count"], row["submitted"], row["succeeded"], row["attempts"]) == (1, 0, 1, 1)


def test_a_dependent_that_never_ran_has_no_attempt() -> None:
    counts = document(
        task("submitted", "inc-1", 0),
        task("failed", "inc-1", 1, attempt=0, error_type="ValueError", blame="read-1"),
    )["counts"]
    assert (counts["tasks_failed"], counts["attempts"]) == (1, 0)


def test_a_dependent_that_fails_again_without_running_has_no_further_attempt() -> None:
    counts = document(
        *life("inc-1", 0, 1.0),
        task("failed", "inc-1", 3, attempt=1, error_type="E", blame="a-1", reopens="succeeded"),
    )["counts"]
    assert (counts["attempts"], counts["tasks_failed"], counts["tasks_succeeded"]) == (1, 1, 0)


def test_a_result_whose_next_attempt_never_began_has_no_further_attempt() -> None:
    """It was to be computed again, and its worker was one too many that died."""
    counts = document(
        *life("inc-1", 0, 1.0),
        task(
            "failed", "inc-1", 3, attempt=1, error_type="KilledWorker", worker=address(1),
            reopens="succeeded", recomputed=True,
        ),
    )["counts"]  # fmt: skip
    assert (counts["attempts"], counts["tasks_failed"], counts["tasks_succeeded"]) == (1, 1, 0)


def test_a_task_submitted_twice_while_it_lives_is_one_task() -> None:
    summary = fed(
        task("submitted", "inc-1", 0),
        task("running", "inc-1", 1, worker=address(0)),
        task("submitted", "inc-1", 2),
    )
    counts = summary.document(RUN)["counts"]
    assert (counts["tasks"], counts["tasks_submitted"]) == (1, 2)
    assert (counts["tasks_running"], counts["tasks_waiting"]) == (1, 0)


def test_what_runs_is_reported_oldest_first() -> None:
    summary = fed(
        *(task("submitted", f"inc-{i}", 0) for i in range(4)),
        task("running", "inc-2", 2, worker=address(1)),
        task("running", "inc-1", 1, worker=address(0)),
    )
    assert [(one["task_id"], one["attempt"], one["worker"]) for one in summary.running()] == [
        ("inc-1", 1, address(0)),
        ("inc-2", 1, address(1)),
    ]
    assert summary.states()["waiting"] == 2
    assert summary.running(limit=1)[0]["since"] == at(1)
    assert summary.document(RUN)["last_at"] == at(2)


# -- durations ---------------------------------------------------------------------------------


def durations(values: list[float]) -> dict[str, Any]:
    return document(
        *(
            task("succeeded", f"inc-{i}", 0, duration_s=value, worker=address(0))
            for i, value in enumerate(values)
        )
    )["timing"]["tasks"]["inc"]["duration"]


def nearest_rank(values: list[float], share: float) -> float:
    return sorted(values)[math.ceil(share * len(values)) - 1]


@pytest.mark.parametrize("count", [1, 2, 3, 19, 20, 21, EXACT_VALUES])
def test_percentiles_of_few_values_are_exact(count: int) -> None:
    values = [random.Random(count).lognormvariate(-2, 2) for _ in range(count)]
    found = durations(values)
    assert found["p50"] == nearest_rank(values, 0.50)
    assert found["p95"] == nearest_rank(values, 0.95)
    assert found["max"] == max(values)
    assert found["mean"] == pytest.approx(sum(values) / count)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("count", [EXACT_VALUES + 1, 2 * EXACT_VALUES, 7_321])
def test_percentiles_of_many_values_are_within_the_stated_error(count: int, seed: int) -> None:
    dice = random.Random(seed)
    values = [dice.lognormvariate(-6 + 3 * seed, 1 + seed) for _ in range(count)]
    values[:3] = [0.0, 1e-12, 3600.0 * 24 * 30]
    found = durations(values)
    for share in (0.50, 0.95):
        exact = nearest_rank(values, share)
        assert found[f"p{share * 100:.0f}"] == pytest.approx(exact, rel=RELATIVE_ERROR * 1.001)
    assert found["max"] == max(values)
    assert found["total"] == pytest.approx(math.fsum(values))
    assert found["count"] == count


def test_asking_in_the_middle_changes_nothing() -> None:
    values = [1.0 + i for i in range(3 * EXACT_VALUES)]  # one counted twice would show
    summary = RunSummary()
    for i, value in enumerate(values):
        summary.add("tasks.jsonl", task("succeeded", f"inc-{i}", 0, duration_s=value))
        if i % 500 == 0:
            summary.document(RUN)
    assert summary.document(RUN)["timing"]["tasks"]["inc"]["duration"] == durations(values)


def test_many_equal_values_have_that_value_as_percentile() -> None:
    found = durations([0.01] * (EXACT_VALUES * 3))
    assert found["p50"] == found["p95"] == found["max"] == 0.01


def test_many_zeros_have_zero_as_percentile() -> None:
    found = durations([0.0] * (EXACT_VALUES * 2) + [5.0])
    assert (found["p50"], found["max"]) == (0.0, 5.0)


def test_an_impossible_duration_is_counted_and_left_out() -> None:
    counted = document(
        task("succeeded", "inc-1", 0, duration_s=-1.0),
        task("succeeded", "inc-2", 0, duration_s=float("nan")),
        task("succeeded", "inc-3", 0, duration_s="long"),
        task("succeeded", "inc-4", 0, duration_s=2.0, queue_s=-0.0005),
    )
    assert counted["counts"]["unusable_events"] == 3
    assert counted["counts"]["tasks_succeeded"] == 4
    assert counted["timing"]["task_duration_total_s"] == 2.0
    assert counted["timing"]["tasks"]["inc"]["queue"]["total"] == 0.0


def test_the_slowest_attempts_are_the_slowest_the_first_of_equals_first() -> None:
    records = [
        task("succeeded", f"inc-{i}", 0, duration_s=float(i % 20), worker=address(0))
        for i in range(60)
    ]
    slowest = document(*records)["timing"]["slowest"]
    assert [one["duration_s"] for one in slowest] == [19.0] * 3 + [18.0] * 3 + [17.0] * 3 + [16.0]
    assert [one["task_id"] for one in slowest[:3]] == ["inc-19", "inc-39", "inc-59"]


# -- workers and resources ---------------------------------------------------------------------


def test_a_workers_busy_share_is_of_its_own_lifetime_and_threads() -> None:
    found = document(
        worker("launched", 0, 1),
        worker("ready", 0, 10),
        worker("lost", 0, 20, signal="SIGKILL", reason="killed"),
        worker("ready", 1, 30),
        *life("inc-1", 12, 5.0, number=0),
        *life("inc-2", 31, 15.0, number=1),
        usage(0, 15, 1.5, cpu=1.9),
    )["resources"]
    first, second = found["workers"]
    assert (first["lifetime_s"], first["busy_s"], first["busy_ratio"]) == (10, 5, 0.25)
    assert (first["state"], first["lost"], first["signal"]) == ("lost", 1, "SIGKILL")
    assert (first["memory_gb_max"], first["cpu_max"]) == (1.5, 1.9)
    assert (second["lifetime_s"], second["busy_ratio"]) == (30, 0.25)
    assert (found["worker_seconds"], found["thread_seconds"], found["busy_seconds"]) == (40, 80, 20)
    assert found["busy_ratio"] == 0.25
    assert found["observed_memory_gb_max"] == 1.5


def test_a_worker_older_than_the_run_is_counted_from_the_runs_start() -> None:
    (row,) = document(worker("ready", 0, -600), worker("removed", 0, 20))["resources"]["workers"]
    assert row["lifetime_s"] == 20


def test_two_workers_at_one_address_have_two_lives() -> None:
    (row,) = document(
        worker("ready", 0, 0),
        worker("lost", 0, 10, reason="killed"),
        worker("ready", 0, 20),
        worker("removed", 0, 25),
    )["resources"]["workers"]
    assert (row["lives"], row["lifetime_s"], row["lost"], row["state"]) == (2, 15, 1, "removed")
    assert row["reason"] is None


def test_a_worker_launched_without_an_address_is_the_one_that_gets_ready() -> None:
    launched = worker("launched", 7, 1, host="node-1")
    del launched["worker"]
    attempts = list(life("inc-1", 3, 1.0, number=7))
    ready = worker("ready", 7, 2)
    for records in ([launched, ready, *attempts], [*attempts, launched, ready]):
        (row,) = document(*records)["resources"]["workers"]
        assert (row["worker"], row["worker_id"], row["state"]) == (address(7), "7", "ready")
        assert row["host"] == "node-1"


def test_requested_cpus_and_cache_are_summed_up() -> None:
    found = document(
        *(
            {
                "event_type": "resource",
                "timestamp": at(),
                "entity_type": "task",
                "entity_id": f"inc-{cpus}",
                "requested_cpus": cpus,
                "observed_memory_gb": cpus / 10,
            }
            for cpus in (1, 2, 6)
        ),
        *({"event_type": "cache", "timestamp": at(), "hit": hit} for hit in (True, True, False)),
        {"event_type": "artifact", "timestamp": at(), "artifact_name": "model"},
    )
    resources = found["resources"]
    assert (resources["requested_cpu_min"], resources["requested_cpu_max"]) == (1, 6)
    assert resources["requested_cpu_avg"] == 3
    assert resources["observed_memory_gb_max"] == 0.6
    assert found["cache"] == {"hits": 2, "misses": 1, "hit_ratio": pytest.approx(2 / 3)}
    assert found["counts"]["artifact_events"] == 1


def cost(hourly: float, currency: str = "USD", **metadata: Any) -> Record:
    return {
        "event_type": "cost",
        "timestamp": at(),
        "currency": currency,
        "total_hourly": hourly,
        "total_monthly": hourly * 730,
        "metadata": metadata,
    }


def test_costs_are_summed_up_by_currency_apart_from_estimates() -> None:
    costs = (cost(0.5, estimate=True), cost(1.2, "EUR"), cost(0.3, "EUR"), cost(2.0))
    found = document(*costs)["cost"]
    assert (found["records_count"], found["estimates_count"]) == (4, 1)
    assert {name: row["total_hourly"] for name, row in found["by_currency"].items()} == {
        "EUR": 1.5,
        "USD": 2.0,
    }
    assert found["estimate"]["total_hourly"] == 0.5
    assert (found["currency"], found["total_hourly"]) == (None, None)
    assert document(cost(1.2, "EUR"), cost(0.3, "EUR"))["cost"]["total_hourly"] == 1.5
    assert document(cost(1.0, estimate=True), cost(2.0, estimate=True))["cost"] == {
        "records_count": 2,
        "estimates_count": 2,
        "currency": "USD",
        "total_hourly": 2.0,
        "total_monthly": 1460.0,
        "by_currency": {},
        "estimate": {"currency": "USD", "total_hourly": 2.0, "total_monthly": 1460.0},
    }


def test_attempts_that_died_with_their_worker_were_busy_until_then() -> None:
    found = document(
        worker("ready", 0, 0, nthreads=1),
        task("submitted", "f-1", 0),
        task("running", "f-1", 1, worker=address(0)),
        task("lost", "f-1", 4, worker=address(0)),
        worker("lost", 0, 4, nthreads=1),
    )
    (row,) = found["resources"]["workers"]
    assert (row["busy_s"], row["attempts"], row["busy_ratio"]) == (3.0, 1, 0.75)
    assert (found["timing"]["cut_short_count"], found["timing"]["cut_short_total_s"]) == (1, 3.0)
    assert found["timing"]["task_duration_count"] == 0


def test_a_lost_workers_peak_counts_and_not_only_what_was_sampled() -> None:
    found = document(
        worker("ready", 0, 0),
        usage(0, 1, 0.2),
        worker("lost", 0, 4, memory_bytes=200_000_000),
        failure(
            "WorkerLost", "gone", 4, phase="worker_lost", worker=address(0),
            memory_peak_bytes=392_000_000,
        ),
    )  # fmt: skip
    assert found["resources"]["workers"][0]["memory_gb_max"] == 0.392
    assert found["resources"]["observed_memory_gb_max"] == 0.392


def test_results_computed_again_are_counted_as_tasks_and_as_times() -> None:
    again = {"reopens": "succeeded", "recomputed": True}
    records: list[Record] = []
    for i in range(2):
        records += life(f"f-{i}", 1, 1)
        for attempt in (2, 3):
            records.append(task("running", f"f-{i}", attempt * 2, attempt=attempt, **again))
            records.append(task("succeeded", f"f-{i}", attempt * 2 + 1, attempt=attempt))
    counts = document(*records)["counts"]
    assert (counts["tasks_recomputed"], counts["tasks_recomputed_distinct"]) == (4, 2)


def test_the_different_messages_of_one_cause_are_kept_within_bounds() -> None:
    found = document(*(failure("ValueError", f"bad row {i % 3}", i) for i in range(9)))
    (group,) = found["failures"]["groups"]
    assert (group["count"], group["messages"]) == (9, ["bad row 0", "bad row 1", "bad row 2"])
    many = document(*(failure("ValueError", f"{i}" + "x" * 480, i) for i in range(6_000)))
    kept = [text for group in many["failures"]["groups"] for text in group["messages"]]
    assert len(kept) <= 1_000


# -- failures ----------------------------------------------------------------------------------


def test_failures_are_grouped_by_class_and_by_message_without_its_numbers() -> None:
    records: list[Record] = []
    for i in range(6):
        kind = "ValueError" if i < 4 else "KeyError"
        task_id = f"parse-{i:032x}"
        details: dict[str, Any] = {"will_retry": i == 0, "traceback": f"Traceback\n  frame {i}"}
        message = f"bad row {i} at 0x7f{i}a"
        records += [
            failure(kind, message, i, task_id=task_id, worker=address(i % 2), **details),
            task("failed", task_id, i, error_type=kind, error_message=message),
        ]
    records.append(
        task(
            "failed",
            "mean-1",
            9,
            attempt=0,
            error_type="ValueError",
            blame="parse-0",
            error_message="bad row 1 at 0x7f1a",
        )
    )
    found = document(*records)["failures"]
    assert found["classes"] == {"ValueError": 4, "KeyError": 2}
    first, second = found["groups"]
    assert (first["failure_class"], first["count"], first["retried"]) == ("ValueError", 4, 1)
    assert first["message"] == "bad row 0 at 0x7f0a"
    assert first["pattern"] == "bad row # at #"
    assert first["task_names"] == {"parse": 4}
    assert first["workers"] == {address(0): 2, address(1): 2}
    assert (first["first_at"], first["last_at"]) == (at(0), at(3))
    assert first["traceback"] == "Traceback\n  frame 0"
    assert first["dependents_failed"] == 1
    assert second["count"] == 2


def test_the_error_that_ended_the_run_is_not_one_more_failed_attempt() -> None:
    groups = document(
        failure("ValueError", "bad row 1", 1, task_id="parse-1"),
        failure("ValueError", "bad row 1", 2, phase="run"),
    )["failures"]["groups"]
    assert [(group["phase"], group["count"]) for group in groups] == [
        ("task_execution", 1),
        ("run", 1),
    ]
    assert groups[1]["task_names"] == {}


def test_lost_workers_are_grouped_by_their_reason() -> None:
    groups = document(
        *(
            failure(
                "WorkerLost",
                f"worker {name} at {address(i)} was lost",
                i,
                phase="worker_lost",
                reason="killed" if i < 2 else "timeout",
                worker=address(i),
            )
            for i, name in enumerate(("ann", "bob", "cid"))
        )
    )["failures"]["groups"]
    assert [(group["pattern"], group["count"]) for group in groups] == [
        ("killed", 2),
        ("timeout", 1),
    ]
    assert groups[0]["workers"] == {address(0): 1, address(1): 1}


def test_usage_is_that_of_the_address_where_a_name_came_twice() -> None:
    def used(number: int, memory_gb: float) -> Record:
        return {**usage(number, 1, memory_gb), "entity_id": "same", "worker": address(number)}

    rows = document(
        worker("ready", 0, 0) | {"worker_id": "same"},
        worker("ready", 1, 0) | {"worker_id": "same"},
        used(0, 3.0),
        used(1, 1.0),
    )["resources"]["workers"]
    assert [row["memory_gb_max"] for row in rows] == [3.0, 1.0]


def test_without_failure_records_the_tasks_show_the_causes() -> None:
    (group,) = document(
        task("failed", "parse-1", 1, worker=address(0), error_type="E", error_message="no 1"),
        task("failed", "parse-2", 2, worker=address(0), error_type="E", error_message="no 2"),
    )["failures"]["groups"]
    assert (group["count"], group["task_names"], group["traceback"]) == (2, {"parse": 2}, None)


def test_a_long_traceback_keeps_both_its_ends() -> None:
    (group,) = document(
        failure("E", "m", 0, traceback="first" + "x" * 100_000 + "last", task_id="a-1")
    )["failures"]["groups"]
    assert len(group["traceback"]) < 21_000
    assert group["traceback"].startswith("first")
    assert group["traceback"].endswith("last")


# -- bounds ------------------------------------------------------------------------------------


def test_further_names_are_summed_under_other_and_lose_no_task() -> None:
    names = MAX_NAMES + 50
    found = document(
        *(task("submitted", f"k{i}", 0, task_name=f"name{i}x") for i in range(names)),
        *(
            task("succeeded", f"k{i}", 1, task_name=f"name{i}x", duration_s=1.0)
            for i in range(names)
        ),
    )
    rows = found["timing"]["tasks"]
    assert len(rows) == MAX_NAMES + 1
    assert rows[OTHER]["count"] == rows[OTHER]["succeeded"] == 50
    assert found["counts"]["tasks_succeeded"] == names


def test_causes_beyond_the_bound_are_still_counted() -> None:
    letters = [
        f"cause {chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(MAX_FAILURE_GROUPS + 9)
    ]
    groups = document(*(failure("E", text, 0) for text in letters))["failures"]["groups"]
    assert len(groups) == MAX_FAILURE_GROUPS + 1
    assert groups[0]["message"] == OTHER
    assert groups[0]["count"] == 9


def finishing(count: int) -> Iterator[Record]:
    """Cheap records: tracing memory makes each of them dear enough."""
    common = {"timestamp": at(), "task_name": "inc"}
    for i in range(count):
        task_id = f"inc-{i:032x}"
        yield {"task_id": task_id, "state": "submitted", "attempt": 0, **common}
        ran = {"task_id": task_id, "attempt": 1, "worker": address(i % 4), **common}
        yield {**ran, "state": "running"}
        yield {**ran, "state": "succeeded", "duration_s": 0.001 * (i % 977), "queue_s": 0.5}


def test_memory_does_not_grow_with_tasks_that_finish() -> None:
    summary = RunSummary()
    tracemalloc.start()
    try:
        summary.add_all("tasks.jsonl", finishing(20_000))
        early, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        summary.add_all("tasks.jsonl", finishing(200_000))
        late, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert summary.document(RUN)["counts"]["tasks_succeeded"] == 220_000
    assert late - early < 64 * 1024
    assert peak - early < 256 * 1024


# -- what others wrote -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"timestamp": None},
        {"timestamp": 5, "state": "running", "task_id": "a"},
        {"timestamp": "t", "state": "dancing", "task_id": "a"},
        {"timestamp": "t", "state": ["running"], "task_id": "a"},
        {"timestamp": "t", "state": "running", "task_id": {}},
        {"timestamp": "t", "state": "running", "task_id": "a", "attempt": "one"},
    ],
)
def test_a_record_of_impossible_values_is_counted_and_harms_nothing(record: Record) -> None:
    summary = fed(*life("inc-1", 0, 1.0))
    summary.add("tasks.jsonl", record)
    counts = summary.document(RUN)["counts"]
    assert counts["unusable_events"] == 1
    assert counts["tasks_succeeded"] == 1


@pytest.mark.parametrize("file", JOURNALS)
def test_nonsense_in_any_journal_raises_nothing(file: str) -> None:
    summary = RunSummary()
    for value in (None, 1, "x", [], {}, float("nan"), True):
        keys = (
            "timestamp", "state", "task_id", "task_name", "worker", "worker_id", "details",
            "failure_class", "message", "entity_id", "entity_type", "requested_cpus", "hit",
        )  # fmt: skip
        summary.add(file, dict.fromkeys(keys, value))
        summary.add(file, {**dict.fromkeys(keys, value), "timestamp": at(), "state": "lost"})
    summary.document({"started_at": 5, "finished_at": [], "recorder": "x"})
    summary.running()


def test_old_records_with_nulls_and_numbered_names_are_counted() -> None:
    def old(state: str, i: int, **fields: Any) -> Record:
        return {
            "event_type": "task",
            "schema_version": 1,
            "timestamp": "2026-11-21T16:36:25Z",
            "task_id": f"{i:032x}",
            "task_name": f"slow[{i}]",
            "state": state,
            "worker": None,
            "duration_s": None,
            "error_type": None,
            "error_message": None,
            **fields,
        }

    found = document(
        *(old(state, i) for i in range(3) for state in ("submitted", "running")),
        old("succeeded", 0, duration_s=1.5, worker="slow-0123"),
        old("failed", 1, duration_s=0.5, worker="slow-4567", error_type="E", error_message="no"),
    )
    row = found["timing"]["tasks"]["slow"]
    assert (row["count"], row["succeeded"], row["failed"], row["attempts"]) == (3, 1, 1, 3)
    assert found["resources"]["workers"] == []
    assert found["unfinished"]["running"] == 1


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("inc-5b2fe4f8e3d1a6c09f1b2c3d4e5f6a7b", "inc"),
        ("read-csv-5b2fe4f8e3d1a6c09f1b2c3d4e5f6a7b", "read-csv"),
        ("('sum-aggregate-0f1e2d3c4b5a69788796a5b4c3d2e1f0', 3, 0)", "sum-aggregate"),
        ("f-0a1b2c3d-0a1b-0a1b-0a1b-0a1b2c3d4e5f", "f"),
        ("f-0a1b2c3d-0a1b-0a1b-0a1b-0a1b2c3d4e5f-12", "f"),
        ("model-3", "model"),
        ("my own key", "my own key"),
        ("", ""),
    ],
)
def test_the_name_of_a_key(key: str, name: str) -> None:
    assert name_of_key(key) == name


def test_files_that_no_number_is_made_of_are_ignored() -> None:
    summary = RunSummary()
    assert summary.add_all("spans.jsonl", [{"timestamp": at(99)}]) == 0
    assert summary.document(RUN)["last_at"] is None


def test_writers_of_one_run_may_have_the_same_tasks_and_workers() -> None:
    """Each program that writes a run has a cluster of its own."""
    summary = RunSummary()
    address = "tcp://127.0.0.1:4001"
    for writer in ("a", "b"):
        summary.add(
            "workers.jsonl",
            {
                "timestamp": "2026-01-01T00:00:00.000000Z",
                "writer": writer,
                "worker": address,
                "worker_id": "0",
                "state": "ready",
            },
        )
    for second, (writer, state) in enumerate(
        [
            ("a", "submitted"),
            ("b", "submitted"),
            ("a", "running"),
            ("b", "running"),
            ("a", "succeeded"),
        ]
    ):
        summary.add(
            "tasks.jsonl",
            {
                "timestamp": f"2026-01-01T00:00:0{second}.000000Z",
                "writer": writer,
                "task_id": "inc-1",
                "task_name": "inc",
                "state": state,
                "attempt": 0 if state == "submitted" else 1,
                "worker": address,
                **({"duration_s": 2.0} if state == "succeeded" else {}),
            },
        )
    document = summary.document({})
    counts = document["counts"]
    assert (counts["tasks"], counts["tasks_succeeded"], counts["tasks_running"]) == (2, 1, 1)
    assert [
        (row.get("writer"), row["worker"], row["attempts"])
        for row in document["resources"]["workers"]
    ] == [("a", address, 1), ("b", address, 0)]
    assert [row.get("writer") for row in document["unfinished"]["tasks"]] == ["b"]
    assert [row.get("writer") for row in document["timing"]["slowest"]] == ["a"]
