"""Every way a task goes, held against notes on disk and the scheduler's own log."""

from __future__ import annotations

import json
import operator
import os
import signal

import pytest
from distributed import KilledWorker, wait

import scalable
from cluster import oracle, tasks


def test_success_has_three_lines_with_dasks_own_times(make_cluster, notes_dir, transitions):
    cluster, client = make_cluster()
    log = transitions(cluster)
    with scalable.instrument(client, project="demo") as run:
        futures = client.map(tasks.add, [str(notes_dir)] * 20, range(20))
        assert sum(client.gather(futures)) == sum(range(20))
        keys = [future.key for future in futures]
    oracle.check_contract(run.run_dir)
    oracle.check_attempts(run.run_dir, notes_dir)
    oracle.check_transitions(run.run_dir, log, keys)
    assert set(oracle.lives(run.run_dir)) == set(keys)
    for key in keys:
        submitted, running, succeeded = oracle.lives(run.run_dir)[key]
        assert submitted["task_name"] == "add"
        assert running["span_id"] == succeeded["span_id"]
        assert len(running["trace_id"]) == 32
        assert succeeded["result_type"] == "int"
        assert succeeded["worker_id"] in {"0", "1"}


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (tasks.fail, "ValueError", "bad input"),
        (tasks.fail_with_cause, "RuntimeError", "no such entry"),
        (tasks.fail_unpicklable, "Unpicklable", "it holds a lock"),
        (tasks.fail_not_rebuilt, "NotRebuilt", "1 and 2"),
        (tasks.fail_at_length, "ValueError", "it began\nand went on"),
        # Dask itself asks for its text and gets this instead.
        (tasks.fail_hostile, "RuntimeError", "no text for you"),
    ],
)
def test_exception_is_recorded_whole(make_cluster, notes_dir, function, error, message):
    _, client = make_cluster(n_workers=1)
    with scalable.instrument(client) as run:
        future = client.submit(function, str(notes_dir))
        wait(future)
        assert future.status == "error"
    oracle.check_contract(run.run_dir)
    oracle.check_attempts(run.run_dir, notes_dir)
    assert oracle.states(run.run_dir, future.key) == ["submitted", "running", "failed"]
    last = oracle.lives(run.run_dir)[future.key][-1]
    assert last["error_type"] == error
    own = {"Unpicklable", "NotRebuilt"}
    assert last.get("error_class") == (f"cluster.tasks.{error}" if error in own else None)
    assert message in last["error_message"]
    (failure,) = oracle.read(run.run_dir, "failures.jsonl")
    assert failure["failure_class"] == error
    assert failure["task_id"] == future.key
    details = failure["details"]
    assert details["phase"] == "task_execution"
    assert details["will_retry"] is False
    assert details["worker"].startswith("tcp://")
    assert details["attempt"] == 1
    assert details["traceback"].startswith("Traceback (most recent call last)") or (
        "Traceback (most recent call last)" in details["traceback"]
    )
    assert function.__name__ in details["traceback"]
    if function in (tasks.fail_with_cause, tasks.fail_at_length):
        assert "KeyError: 'missing'" in details["traceback"]
    if function is tasks.fail_at_length:
        assert last["error_message"].endswith("and went on\nit ended")
        assert len(last["error_message"]) <= 10_000
        assert "characters left out" in last["error_message"]


def test_each_odd_key_is_a_task_of_its_own(make_cluster):
    _, client = make_cluster(n_workers=1)
    plain = [("x", 1), 2, 2.5, ("文件", (3, "é")), "2000-01-01", "nul-\x00", " ", "k" * 20_000]
    marked = {"('x', 1)": "\"('x', 1)\"", "2": "'2'", "2.5": "'2.5'"}
    keys = [*plain, *marked]
    with scalable.instrument(client) as run:
        first = [client.submit(int, number, key=key) for number, key in enumerate(keys)]
        after = client.submit(sum, first, key="after")
        failing = client.submit(int, "no number", key=("bad", 1))
        twin = client.submit(int, "no number", key="('bad', 1)", retries=1)
        wait([after, failing, twin])
        assert after.result() == sum(range(len(keys)))
    oracle.check_contract(run.run_dir)
    lives = oracle.lives(run.run_dir)
    ids = [*map(str, plain), *marked.values()]
    assert set(lives) == {*ids, "after", "('bad', 1)", "\"('bad', 1)\""}
    for task_id in ids:
        assert oracle.states(run.run_dir, task_id) == ["submitted", "running", "succeeded"]
    assert set(lives["after"][0]["dependencies"]) == set(ids)
    failed = [record["task_id"] for record in oracle.read(run.run_dir, "failures.jsonl")]
    assert sorted(failed) == ["\"('bad', 1)\"", "\"('bad', 1)\"", "('bad', 1)"]


def test_each_retry_is_an_attempt_with_its_own_failure(make_cluster, notes_dir, transitions):
    cluster, client = make_cluster()
    log = transitions(cluster)
    with scalable.instrument(client) as run:
        future = client.submit(tasks.flaky, str(notes_dir), 3, retries=5)
        assert future.result() == 3
    oracle.check_contract(run.run_dir)
    oracle.check_attempts(run.run_dir, notes_dir)
    oracle.check_transitions(run.run_dir, log, [future.key])
    assert oracle.states(run.run_dir, future.key) == [
        "submitted",
        *["running", "retried"] * 3,
        "running",
        "succeeded",
    ]
    failures = oracle.read(run.run_dir, "failures.jsonl")
    assert [f["details"]["attempt"] for f in failures] == [1, 2, 3]
    assert all(f["details"]["will_retry"] for f in failures)
    assert [f["message"] for f in failures] == ["attempt 0", "attempt 1", "attempt 2"]


def test_reschedule_is_an_attempt_and_no_failure(make_cluster, notes_dir, transitions):
    cluster, client = make_cluster()
    log = transitions(cluster)
    with scalable.instrument(client) as run:
        future = client.submit(tasks.reschedule, str(notes_dir), 2)
        assert future.result() == 2
    oracle.check_contract(run.run_dir)
    oracle.check_attempts(run.run_dir, notes_dir)
    oracle.check_transitions(run.run_dir, log, [future.key])
    lines = oracle.lives(run.run_dir)[future.key]
    ends = [line for line in lines if line["state"] in ("retried", "succeeded")]
    assert [line.get("rescheduled") for line in ends] == [True, True, None]
    assert all("error_type" not in line for line in lines)
    assert not oracle.read(run.run_dir, "failures.jsonl")


def test_actor_is_lost_with_its_worker(make_cluster):
    _, client = make_cluster(n_workers=2)
    with scalable.instrument(client) as run:
        actor = client.submit(tasks.Counter, actor=True, key="counter")
        counter = actor.result()
        assert counter.increment().result() == 1
        after = client.submit(operator.add, 1, 1, key="after")
        assert after.result() == 2
        (worker,) = client.who_has([actor])["counter"]
        pids = {address: info["pid"] for address, info in client.run(_identity).items()}
        os.kill(pids[worker], signal.SIGKILL)
        tasks.wait_until(lambda: actor.status == "error")
    oracle.check_contract(run.run_dir)
    assert oracle.states(run.run_dir, "counter") == ["submitted", "running", "succeeded", "failed"]
    last = oracle.lives(run.run_dir)["counter"][-1]
    assert last["reopens"] == "succeeded"
    assert last["error_message"] == "Worker holding Actor was lost"
    (failure,) = [r for r in oracle.read(run.run_dir, "failures.jsonl") if r.get("task_id")]
    assert failure["message"] == "Worker holding Actor was lost"
    assert [death["worker"] for death in failure["details"]["deaths"]] == [worker]
    assert failure["details"]["cause"] == "killed"
    counts = json.loads((run.run_dir / "summary.json").read_text())["counts"]
    assert (counts["tasks"], counts["tasks_failed"]) == (2, 1)


def _identity() -> dict[str, int]:
    return {"pid": os.getpid()}


def test_retries_used_up_end_in_failure(make_cluster, notes_dir):
    _, client = make_cluster(n_workers=1)
    with scalable.instrument(client) as run:
        future = client.submit(tasks.flaky, str(notes_dir), 9, retries=1)
        wait(future)
    oracle.check_contract(run.run_dir)
    assert oracle.states(run.run_dir, future.key) == [
        "submitted",
        "running",
        "retried",
        "running",
        "failed",
    ]
    failures = oracle.read(run.run_dir, "failures.jsonl")
    assert [f["details"]["will_retry"] for f in failures] == [True, False]


def test_dependents_of_a_failed_task_blame_it(make_cluster, notes_dir):
    _, client = make_cluster()
    with scalable.instrument(client) as run:
        bad = client.submit(tasks.fail, str(notes_dir))
        middle = client.submit(operator.add, bad, 1)
        last = client.submit(operator.add, middle, 1)
        wait([bad, middle, last])
    oracle.check_contract(run.run_dir)
    for future in (middle, last):
        submitted, failed = oracle.lives(run.run_dir)[future.key]
        assert submitted["dependency_count"] == 1
        assert failed["state"] == "failed"
        assert failed["attempt"] == 0
        assert failed["blame"] == bad.key
    assert len(oracle.read(run.run_dir, "failures.jsonl")) == 1


def test_task_is_run_again_after_its_worker_was_killed(make_cluster, notes_dir):
    _, client = make_cluster()
    with scalable.instrument(client) as run:
        future = client.submit(tasks.die_once, str(notes_dir))
        assert future.result() == "alive"
    oracle.check_contract(run.run_dir)
    oracle.check_attempts(run.run_dir, notes_dir)
    assert oracle.states(run.run_dir, future.key) == [
        "submitted",
        "running",
        "lost",
        "running",
        "succeeded",
    ]
    lost = [r for r in oracle.read(run.run_dir, "workers.jsonl") if r["state"] == "lost"]
    assert len(lost) == 1
    assert lost[0]["details"]["tasks_running"] == 1
    failures = oracle.read(run.run_dir, "failures.jsonl")
    assert [f["failure_class"] for f in failures] == ["WorkerLost"]
    assert failures[0]["details"]["phase"] == "worker_lost"


@pytest.mark.parametrize("threads", [1, 2])
def test_only_what_had_started_on_a_killed_worker_is_lost(make_cluster, notes_dir, threads):
    """Tasks that only waited on the worker were no attempts there."""
    _, client = make_cluster(n_workers=2, threads=threads)
    with scalable.instrument(client) as run:
        futures = [client.submit(tasks.add, str(notes_dir), i) for i in range(30)]
        futures += [client.submit(tasks.die_once, str(notes_dir), f"d{i}") for i in range(2)]
        futures += [client.submit(tasks.add, str(notes_dir), i) for i in range(30, 60)]
        wait(futures)
        assert all(future.status == "finished" for future in futures)
    oracle.check_contract(run.run_dir)
    # With two threads, one may kill the process while the other writes its note.
    oracle.check_attempts(run.run_dir, notes_dir, cut_short=threads > 1)


@pytest.mark.parametrize("function", [tasks.die, tasks.leave])
def test_killed_worker_fails_the_task_and_names_its_deaths(make_cluster, notes_dir, function):
    _, client = make_cluster()
    with scalable.instrument(client) as run:
        future = client.submit(function, str(notes_dir))
        with pytest.raises(KilledWorker):
            future.result()
    oracle.check_contract(run.run_dir)
    oracle.check_attempts(run.run_dir, notes_dir)
    assert oracle.states(run.run_dir, future.key) == [
        "submitted",
        *["running", "lost"] * 2,
        "running",
        "failed",
    ]
    last = oracle.lives(run.run_dir)[future.key][-1]
    assert last["error_type"] == "KilledWorker"
    assert last["error_class"] == "distributed.scheduler.KilledWorker"
    classes = [f["failure_class"] for f in oracle.read(run.run_dir, "failures.jsonl")]
    assert sorted(classes) == ["KilledWorker", "WorkerLost", "WorkerLost", "WorkerLost"]


def test_lost_result_is_computed_again(make_cluster, notes_dir, transitions):
    cluster, client = make_cluster()
    log = transitions(cluster)
    with scalable.instrument(client) as run:
        future = client.submit(tasks.add, str(notes_dir), 5)
        wait(future)
        (holder,) = client.who_has(future)[future.key]
        killer = client.submit(
            tasks.die_once, str(notes_dir), workers=[holder], allow_other_workers=True
        )
        assert killer.result() == "alive"
        assert future.result() == 5
        wait(future)
    oracle.check_contract(run.run_dir)
    oracle.check_attempts(run.run_dir, notes_dir)
    oracle.check_transitions(run.run_dir, log, [future.key])
    lines = oracle.lives(run.run_dir)[future.key]
    assert [line["state"] for line in lines] == [
        "submitted",
        "running",
        "succeeded",
        "running",
        "succeeded",
    ]
    assert [line.get("recomputed", False) for line in lines] == [False] * 3 + [True] * 2
    assert [line["attempt"] for line in lines] == [0, 1, 1, 2, 2]
    lost = [r for r in oracle.read(run.run_dir, "workers.jsonl") if r["state"] == "lost"]
    assert lost[0]["details"]["tasks_recomputed"] == 1


def test_attempt_that_began_after_the_scheduler_had_taken_it_back(make_cluster, notes_dir):
    """What it depends on was lost with another worker; its own had a copy, and ran it."""
    cluster, client = make_cluster(n_workers=2)
    first, second = list(cluster.scheduler.workers.values())

    def is_assigned() -> bool:
        found = cluster.scheduler.tasks.get("taken")
        return found is not None and found.state == "processing"

    # The scheduler is not to know of the copy.
    cluster.scheduler.stream_handlers["add-keys"] = lambda **_: None
    with scalable.instrument(client) as run:
        there = {"allow_other_workers": True, "workers": [second.address]}
        needed = client.submit(
            tasks.add, str(notes_dir), 1, workers=[first.address], allow_other_workers=True
        )
        copied = client.submit(tasks.after, str(notes_dir), [needed], key="copied", **there)
        wait(copied)
        os.kill(second.pid, signal.SIGSTOP)
        try:
            taken = client.submit(tasks.after, str(notes_dir), [needed], key="taken", **there)
            tasks.wait_until(is_assigned)
            os.kill(first.pid, signal.SIGKILL)
            tasks.wait_until(lambda: not is_assigned())
        finally:
            os.kill(second.pid, signal.SIGCONT)
        wait([taken, copied])
    oracle.check_contract(run.run_dir)
    oracle.check_attempts(run.run_dir, notes_dir)
    assert oracle.states(run.run_dir, "taken") == [
        "submitted",
        "running",
        "lost",
        "running",
        "succeeded",
    ]


def test_cancelled_while_waiting_and_while_running(make_cluster, notes_dir):
    cluster, client = make_cluster(n_workers=1)
    with scalable.instrument(client) as run:
        running = client.submit(tasks.hold, str(notes_dir), "gate")
        waiting = client.submit(tasks.add, str(notes_dir), 1)
        behind = client.submit(operator.add, running, 1)
        tasks.wait_for_notes(notes_dir, 1)
        client.cancel([running, waiting, behind], force=True)
        tasks.wait_until(lambda: running.key not in cluster.scheduler.tasks)
        (notes_dir / "gate").touch()
        assert client.submit(operator.add, 1, 2).result() == 3
    oracle.check_contract(run.run_dir)
    oracle.check_attempts(run.run_dir, notes_dir)
    assert oracle.states(run.run_dir, running.key) == ["submitted", "running", "cancelled"]
    # The worker may have begun it before it heard of the cancellation: the notes decide.
    assert oracle.states(run.run_dir, waiting.key)[-1] == "cancelled"
    assert oracle.states(run.run_dir, behind.key) == ["submitted", "cancelled"]


def test_released_before_it_ran_is_cancelled(make_cluster, notes_dir):
    _, client = make_cluster(n_workers=1)
    with scalable.instrument(client) as run:
        running = client.submit(tasks.hold, str(notes_dir), "gate")
        unwanted = client.submit(tasks.add, str(notes_dir), 1)
        key = unwanted.key
        tasks.wait_for_notes(notes_dir, 1)
        del unwanted
        (notes_dir / "gate").touch()
        running.result()
        client.submit(operator.add, 1, 2).result()
    oracle.check_contract(run.run_dir)
    oracle.check_attempts(run.run_dir, notes_dir)
    assert oracle.lives(run.run_dir)[key][-1]["state"] in ("cancelled", "succeeded")


def test_what_still_runs_when_the_run_closes_is_cancelled(make_cluster, notes_dir):
    _, client = make_cluster(n_workers=1)
    with scalable.instrument(client) as run:
        running = client.submit(tasks.hold, str(notes_dir), "gate")
        queued = client.submit(tasks.add, str(notes_dir), 1)
        tasks.wait_for_notes(notes_dir, 1)
    (notes_dir / "gate").touch()
    wait([running, queued])
    oracle.check_contract(run.run_dir)
    assert oracle.states(run.run_dir, running.key) == ["submitted", "running", "cancelled"]
    assert oracle.states(run.run_dir, queued.key) == ["submitted", "cancelled"]


def test_restart_cancels_what_there_is(make_cluster, notes_dir):
    _, client = make_cluster()
    with scalable.instrument(client) as run:
        running = client.submit(tasks.hold, str(notes_dir), "never", pure=False)
        tasks.wait_for_notes(notes_dir, 1)
        # A restart takes the workers away at once, with what they have not yet announced.
        tasks.wait_until(lambda: run.flush() and "running" in _states(run, running.key))
        client.restart()
        assert client.submit(tasks.add, str(notes_dir), 1, 2).result() == 3
    oracle.check_contract(run.run_dir)
    oracle.check_attempts(run.run_dir, notes_dir)
    assert oracle.states(run.run_dir, running.key) == ["submitted", "running", "cancelled"]
    workers = [r["state"] for r in oracle.read(run.run_dir, "workers.jsonl")]
    assert "lost" not in workers
    assert workers.count("removed") == 2
    assert workers.count("ready") == 4


def _states(run, key: str) -> list[str]:
    """States of a task so far; it may have no line yet."""
    lines = oracle.read(run.run_dir, "tasks.jsonl")
    return [line["state"] for line in lines if line["task_id"] == key]


def test_task_submitted_before_the_run_and_running_after(make_cluster, notes_dir):
    _, client = make_cluster(n_workers=1)
    early = client.submit(tasks.hold, str(notes_dir), "gate", 7)
    after = client.submit(operator.add, early, 1)
    tasks.wait_for_notes(notes_dir, 1)
    with scalable.instrument(client) as run:
        (notes_dir / "gate").touch()
        assert after.result() == 8
    oracle.check_contract(run.run_dir)
    oracle.check_attempts(run.run_dir, notes_dir)
    assert oracle.states(run.run_dir, early.key) == ["submitted", "running", "succeeded"]
    assert oracle.states(run.run_dir, after.key) == ["submitted", "running", "succeeded"]
    assert oracle.lives(run.run_dir)[early.key][0]["known_before"] is True


def test_task_of_an_earlier_run_that_still_runs(make_cluster, notes_dir):
    _, client = make_cluster(n_workers=1)
    with scalable.instrument(client, project="first") as first:
        held = client.submit(tasks.hold, str(notes_dir), "gate", 7)
        after = client.submit(operator.add, held, 1)
        tasks.wait_for_notes(notes_dir, 1)
    with scalable.instrument(client, project="second") as second:
        (notes_dir / "gate").touch()
        assert after.result() == 8
    oracle.check_contract(first.run_dir)
    oracle.check_contract(second.run_dir)
    assert oracle.states(first.run_dir, held.key) == ["submitted", "running", "cancelled"]
    for future in (held, after):
        assert oracle.states(second.run_dir, future.key) == ["submitted", "running", "succeeded"]


def test_retry_by_the_client_reopens_the_task(make_cluster, notes_dir):
    _, client = make_cluster(n_workers=1)
    with scalable.instrument(client) as run:
        future = client.submit(tasks.flaky, str(notes_dir), 1)
        wait(future)
        assert future.status == "error"
        client.retry([future])
        assert future.result() == 1
    oracle.check_contract(run.run_dir)
    lines = oracle.lives(run.run_dir)[future.key]
    assert [line["state"] for line in lines] == [
        "submitted",
        "running",
        "failed",
        "running",
        "succeeded",
    ]
    assert lines[3]["reopens"] == "failed"


def test_same_key_again_after_it_was_forgotten_is_a_new_life(make_cluster, notes_dir):
    cluster, client = make_cluster(n_workers=1)
    with scalable.instrument(client) as run:
        for _ in range(2):
            future = client.submit(tasks.add, str(notes_dir), 1, key="same")
            assert future.result() == 1
            del future
            tasks.wait_until(lambda: "same" not in cluster.scheduler.tasks)
    oracle.check_contract(run.run_dir)
    assert oracle.states(run.run_dir, "same") == ["submitted", "running", "succeeded"] * 2
