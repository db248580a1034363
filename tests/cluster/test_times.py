"""Times of workers are on the scheduler's clock, and one shift is for an attempt and all below."""

from __future__ import annotations

import logging
import os
import time
from typing import Any

import dask
import pytest
from distributed import Client, Event, LocalCluster, Worker
from opentelemetry import trace

import scalable
from cluster import oracle
from scalable_runs.plain import seconds_of

#: What Dask takes the scheduler's clock to be ahead, as after a slow heartbeat.
WRONG = 0.4
#: How far the clock of another host is behind.
BEHIND = 5_000.0


def set_delay(seconds: float, dask_worker: Worker) -> None:
    """Let Dask have measured this; no heartbeat measures it anew."""
    dask_worker.periodic_callbacks["heartbeat"].stop()
    dask_worker.scheduler_delay = seconds


def move_to_another_host(seconds: float, dask_worker: Worker) -> None:
    """Let the worker's clock be behind, as one of another host may be."""
    set_delay(seconds, dask_worker)
    clock: Any = dask_worker.plugins["scalable"]._watch.clock
    clock.is_shared = False
    clock.observe(seconds, 0.001)


def step() -> tuple[float, float]:
    """One attempt with a user span, a record of logging and an cost; returns its times."""
    began = time.time()
    with trace.get_tracer("user").start_as_current_span("inside"):
        logging.getLogger("user").warning("inside")
        time.sleep(0.01)
    scalable.record_cost(total_hourly=1.0)
    return began, time.time()


@pytest.mark.parametrize(
    ("move", "ahead"),
    [(set_delay, 0.0), (move_to_another_host, BEHIND)],
    ids=["one host", "another host"],
)
def test_what_an_attempt_records_is_within_it(make_cluster, move: Any, ahead: float):
    _, client = make_cluster(n_workers=1)
    with scalable.instrument(client) as run:
        client.submit(step, pure=False).result()  # the worker has the settings by now
        client.run(move, WRONG if ahead == 0.0 else ahead)
        began, ended = client.submit(step, pure=False).result()
    done = [
        line for line in oracle.read(run.run_dir, "tasks.jsonl") if line["state"] == "succeeded"
    ]
    end = seconds_of(done[-1]["timestamp"])
    start = end - done[-1]["duration_s"]
    assert start <= began + ahead + 1e-5
    assert ended + ahead - 1e-5 <= end
    assert end - start < ended - began + 0.1
    (_, span) = [it for it in oracle.read(run.run_dir, "spans.jsonl") if it["name"] == "inside"]
    (_, log) = [it for it in oracle.read(run.run_dir, "logs.jsonl") if it["body"] == "inside"]
    cost = oracle.read(run.run_dir, "cost.jsonl")[-1]
    times = [span["start_time"], span["end_time"], log["timestamp"], cost["timestamp"]]
    for at in map(seconds_of, times):
        assert start <= at <= end


class Slow:
    """A result that takes a while to send, to read and to write."""

    def __init__(self, wait: float) -> None:
        self.wait = wait
        self.data = os.urandom(10_000)

    def __sizeof__(self) -> int:
        return len(self.data)

    def __reduce__(self) -> Any:
        time.sleep(self.wait)
        return restored, (self.wait,)


def restored(wait: float) -> Slow:
    time.sleep(wait)
    return Slow(wait)


def hold() -> None:
    Event("release").wait()


def passed_on(it: Slow) -> Slow:
    return it


def test_phases_lie_within_their_attempt():
    """Though Dask has measured the clock anew since a transfer, and has the result on disk."""
    with (
        dask.config.set({"distributed.worker.memory.target": 1e-7}),  # each result goes to disk
        LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=":0", memory_limit="4GB"
        ) as cluster,
        Client(cluster) as client,
        scalable.instrument(client) as run,
    ):
        first, second = client.scheduler_info()["workers"]
        data = client.submit(Slow, 0.05, workers=[first])
        client.submit(int, workers=[second]).result()
        held = client.submit(hold, workers=[second], pure=False)
        client.run(set_delay, WRONG, workers=[second])
        done = client.submit(passed_on, data, workers=[second])
        while second not in client.who_has([data])[data.key]:
            time.sleep(0.01)
        client.run(set_delay, 0.0, workers=[second])
        Event("release", client=client).set()
        held.result()
        done.result()
        key = done.key
    (line,) = [
        line
        for line in oracle.read(run.run_dir, "tasks.jsonl")
        if line["task_id"] == key and line["state"] == "succeeded"
    ]
    phases = {
        it["name"]: it
        for it in oracle.read(run.run_dir, "spans.jsonl")
        if it.get("parent_span_id") == line["span_id"]
    }
    assert set(phases) <= {"transfer", "disk-read"}
    assert "disk-read" in phases
    for span in phases.values():
        assert line["phases_start"] <= span["start_time"] <= span["end_time"] <= line["timestamp"]
    assert line["transfer_s"] >= 0.05
    assert line["disk_write_s"] >= 0.05


def test_a_worker_begins_when_its_nanny_started_it(make_cluster):
    cluster, client = make_cluster(n_workers=0)
    with scalable.instrument(client) as run:
        before = time.time()
        cluster.scale(1)
        client.wait_for_workers(1)
        after = time.time()
        client.submit(int).result()
    (launched,) = [
        line for line in oracle.read(run.run_dir, "workers.jsonl") if line["state"] == "launched"
    ]
    assert before - 0.02 <= seconds_of(launched["timestamp"]) <= after
