"""Random workloads: whatever is submitted, fails, is killed or cancelled, the record is true."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import signal
import uuid
from collections import Counter
from datetime import datetime
from pathlib import Path

import pytest
from distributed import Client, LocalCluster, wait
from distributed.client import FuturesCancelledError
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import scalable
from cluster import oracle, tasks

EXAMPLES = int(os.environ.get("FIDELITY_EXAMPLES", "12"))

KINDS = st.sampled_from(
    [
        *("work", "work", "work", "fail", "flaky", "die_once", "die", "nested", "unpicklable"),
        *("reschedule", "long"),
    ]
)
NODES = st.lists(
    st.tuples(KINDS, st.lists(st.integers(0, 30), max_size=3), st.integers(0, 2)),
    min_size=1,
    max_size=18,
)
#: A task that kills every worker it meets takes its neighbours along.
MAX_DEATHS = {"die": 1, "die_once": 2}
ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["cancel", "release", "kill", "flush", "retry", "retire"]),
        st.integers(0, 30),
    ),
    max_size=4,
)


@pytest.mark.timeout(900)
def test_random_workloads(tmp_path_factory):
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        phases=[Phase.explicit, Phase.reuse, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(nodes=NODES, actions=ACTIONS)
    def check(nodes, actions):
        with LocalCluster(
            n_workers=3,
            threads_per_worker=1,
            dashboard_address=":0",
            silence_logs=logging.CRITICAL,
            memory_limit=0,
        ) as cluster:
            _check(cluster, tmp_path_factory.mktemp("notes"), nodes, actions)

    check()


def _check(cluster: LocalCluster, directory: Path, nodes, actions) -> None:
    log = oracle.TransitionLog()
    log.scheduler = cluster.scheduler
    log.name = f"oracle-{uuid.uuid4().hex}"
    cluster.loop.add_callback(cluster.scheduler.add_plugin, log)
    with Client(cluster) as client:
        with scalable.instrument(client, runs_dir=directory / "runs") as run:
            futures = _submit(client, directory, nodes)
            keys = [str(future.key) for future in futures]
            dropped = _act(cluster, client, run, futures, actions)
            left = [future for future in futures if future is not None]
            # A nanny may give up on a worker that dies at once again: then Dask itself waits for
            # ever, and what is left is cancelled as the run closes.
            with contextlib.suppress(FuturesCancelledError, TimeoutError):
                wait(left, timeout=20)
            # Results that were lost after their future was done are computed again: what begins as
            # the run closes may be in the record or not.
            with contextlib.suppress(TimeoutError):
                tasks.wait_until(lambda: _is_quiet(cluster), timeout=5)
            statuses = {str(future.key): future.status for future in left}
    cluster.loop.add_callback(cluster.scheduler.remove_plugin, log.name)

    oracle.check_contract(run.run_dir)
    killed = any(action in ("kill", "retire") for action, _ in actions)
    recorded = oracle.lives(run.run_dir)
    # What was cancelled at once may have reached the scheduler after the run's end, or never.
    unseen = dropped - set(recorded)
    assert set(keys) - unseen <= set(recorded)
    began = [entry for entry in oracle.notes(directory) if entry["what"] == "start"]
    finished = json.loads((run.run_dir / "run.json").read_text())["finished_at"]
    # The recorder asks for the last time a moment before it takes that time.
    last = datetime.fromisoformat(finished).timestamp() - 0.1
    assert all(entry["time"] > last for entry in began if entry["key"] in unseen)
    noted = {entry["key"] for entry in began}
    until = last if killed else math.inf
    oracle.check_attempts(run.run_dir, directory, noted - unseen, cut_short=killed, until=until)
    known = {row["key"] for row in log.rows}
    assert set(recorded) <= known
    wanted = {"finished": "succeeded", "error": "failed", "cancelled": "cancelled"}
    for key, status in statuses.items():
        last = recorded[key][-1]
        if key in dropped or status not in wanted:
            continue  # a future whose result is lost is being computed again when the run ends
        if dropped and status == "cancelled" and last["state"] in ("succeeded", "failed"):
            continue  # it had ended when what it depends on was cancelled, and it with that
        if last.get("recomputed") or last.get("reopens"):
            assert last["state"] in (wanted[status], "cancelled"), (key, status, recorded[key])
        else:
            assert last["state"] == wanted[status], (key, status, recorded[key])
    oracle.check_transitions(run.run_dir, log, recorded, until=until)


def _is_quiet(cluster: LocalCluster) -> bool:
    done = ("memory", "erred", "released", "forgotten")
    return all(task.state in done for task in list(cluster.scheduler.tasks.values()))


def _submit(client: Client, directory: Path, nodes) -> list:
    futures: list = []
    where = str(directory)
    deaths: Counter[str] = Counter()
    for number, (wanted, dependencies, retries) in enumerate(nodes):
        deaths[wanted] += 1
        kind = wanted if deaths[wanted] <= MAX_DEATHS.get(wanted, len(nodes)) else "work"
        inputs = [futures[index % len(futures)] for index in dependencies if futures]
        # Collections have tuples for keys.
        key = (kind, number) if number % 3 == 2 else f"{kind}-{number}"
        common = {"key": key, "retries": retries}
        name = f"mark-{number}"
        if kind == "work":
            future = client.submit(tasks.after, where, inputs, **common)
        elif kind == "fail":
            future = client.submit(tasks.fail, where, f"node {number}", **common)
        elif kind == "flaky":
            future = client.submit(tasks.flaky, where, 1, name, **common)
        elif kind == "die_once":
            future = client.submit(tasks.die_once, where, name, **common)
        elif kind == "die":
            future = client.submit(tasks.die, where, **common)
        elif kind == "reschedule":
            future = client.submit(tasks.reschedule, where, 2, name, **common)
        elif kind == "long":
            future = client.submit(tasks.fail_at_length, where, **common)
        elif kind == "nested":
            future = client.submit(tasks.nested_worker_client, where, 2, number, **common)
        else:
            future = client.submit(tasks.fail_unpicklable, where, **common)
        futures.append(future)
    return futures


def _act(cluster, client: Client, run, futures: list, actions) -> set[str]:
    """Disturb the workload; returns the keys whose futures were cancelled or released."""
    dropped: set[str] = set()
    for action, number in actions:
        index = number % len(futures)
        if action == "kill":
            workers = list(cluster.scheduler.workers.values())
            if workers:
                victim = workers[number % len(workers)].pid
                try:
                    os.kill(victim, signal.SIGKILL)
                except ProcessLookupError:
                    continue
        elif action == "flush":
            run.flush()
        elif action == "retry":
            if futures[index] is not None and futures[index].status == "error":
                futures[index].retry()
        elif action == "retire":
            workers = list(cluster.scheduler.workers)
            if len(workers) > 1:
                client.retire_workers([workers[number % len(workers)]], close_workers=True)
        elif futures[index] is not None:
            dropped.add(str(futures[index].key))
            if action == "cancel":
                client.cancel([futures[index]])
            futures[index] = None
    return dropped
