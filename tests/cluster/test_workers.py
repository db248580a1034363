"""Every worker's life: asked to go or lost, and how it used its host."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import dask
import pytest
from distributed import Client, LocalCluster, wait

import scalable
from cluster import oracle, tasks


def _last_states(run) -> dict[str, str]:
    states: dict[str, str] = {}
    for record in oracle.read(run.run_dir, "workers.jsonl"):
        states[record["worker"]] = record["state"]
    return states


def _gone(run) -> int:
    """How many workers the record says have left by now."""
    run.flush()
    states = [record["state"] for record in oracle.read(run.run_dir, "workers.jsonl")]
    return states.count("removed") + states.count("lost")


def test_scale_up_and_down(make_cluster):
    cluster, client = make_cluster(n_workers=1)
    with scalable.instrument(client) as run:
        cluster.scale(3)
        client.wait_for_workers(3)
        cluster.scale(1)
        tasks.wait_until(lambda: _gone(run) == 2)
    oracle.check_contract(run.run_dir)
    assert sorted(_last_states(run).values()) == ["ready", "removed", "removed"]
    for record in oracle.read(run.run_dir, "workers.jsonl"):
        assert record["details"]["pid"] > 0
        assert record["details"]["nthreads"] == 1
        assert record["details"]["nanny"].startswith("tcp://")


def test_adaptive_scaling_removes_what_it_started(make_cluster, notes_dir):
    cluster, client = make_cluster(n_workers=0)
    with scalable.instrument(client) as run:
        cluster.adapt(minimum=0, maximum=2, interval="100ms", wait_count=2)
        client.gather(client.map(tasks.add, [str(notes_dir)] * 20, range(20)))
        tasks.wait_until(lambda: not cluster.scheduler.workers and _gone(run) >= 1)
        tasks.wait_until(lambda: set(_last_states(run).values()) == {"removed"})
    oracle.check_contract(run.run_dir)
    oracle.check_attempts(run.run_dir, notes_dir)
    assert set(_last_states(run).values()) == {"removed"}


def test_retire_and_close_are_removals(make_cluster):
    cluster, client = make_cluster(n_workers=3)
    with scalable.instrument(client) as run:
        first, second, _ = list(cluster.scheduler.workers)
        client.retire_workers([first])
        tasks.wait_until(lambda: _gone(run) == 1)
        cluster.scheduler.loop.add_callback(cluster.scheduler.close_worker, second)
        tasks.wait_until(lambda: _gone(run) == 2)
    oracle.check_contract(run.run_dir)
    states = _last_states(run)
    assert states[first] == "removed"
    assert states[second] == "removed"


def test_sigkill_is_a_loss(make_cluster, notes_dir):
    _, client = make_cluster(n_workers=2)
    with scalable.instrument(client) as run:
        held = client.submit(tasks.hold, str(notes_dir), "gate")
        tasks.wait_for_notes(notes_dir, 1)
        victim = oracle.notes(notes_dir)[0]["pid"]
        os.kill(victim, signal.SIGKILL)
        tasks.wait_for_notes(notes_dir, 2)
        (notes_dir / "gate").touch()
        held.result()
        client.wait_for_workers(2)
    oracle.check_contract(run.run_dir)
    oracle.check_attempts(run.run_dir, notes_dir)
    lost = [r for r in oracle.read(run.run_dir, "workers.jsonl") if r["state"] == "lost"]
    assert [record["details"]["pid"] for record in lost] == [victim]


def test_closing_the_cluster_first_removes_all(notes_dir):
    cluster = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0")
    client = Client(cluster)
    run = scalable.instrument(client)
    client.gather(client.map(tasks.add, [str(notes_dir)] * 10, range(10)))
    cluster.close()
    client.close()
    assert run.closed
    oracle.check_contract(run.run_dir)
    oracle.check_attempts(run.run_dir, notes_dir)
    assert sorted(_last_states(run).values()) == ["removed", "removed"]


def test_nothing_began_on_a_worker_that_closed_before_its_turn(make_cluster, notes_dir):
    """It had a free thread and a task assigned to it, and left in good order."""
    cluster, client = make_cluster(n_workers=2)
    first, _ = list(cluster.scheduler.workers)

    def hold_back(dask_worker):
        dask_worker.state.running = False

    with scalable.instrument(client) as run:
        client.run(hold_back, workers=[first])
        future = client.submit(
            tasks.add, str(notes_dir), 1, 2, workers=[first], allow_other_workers=True
        )
        tasks.wait_until(lambda: cluster.scheduler.workers[first].processing)
        cluster.scheduler.loop.add_callback(cluster.scheduler.close_worker, first)
        assert future.result() == 3
    oracle.check_contract(run.run_dir)
    oracle.check_attempts(run.run_dir, notes_dir)
    records = oracle.read(run.run_dir, "tasks.jsonl")
    assert first not in {r["worker"] for r in records if r["state"] == "running"}


def test_usage_is_sampled_at_join_on_an_interval_and_at_leave(make_cluster):
    cluster, client = make_cluster(n_workers=1)
    with scalable.instrument(client, sample_interval=0.1) as run:
        tasks.wait_until(lambda: run.flush() and len(_samples(run)) >= 6)
        cluster.scale(0)
        tasks.wait_until(lambda: _gone(run) == 1)
    oracle.check_contract(run.run_dir)
    samples = _samples(run)
    assert all(sample["entity_id"] == "0" for sample in samples)
    assert all(sample["observed_cpu"] >= 0 for sample in samples)
    assert max(sample["observed_memory_gb"] for sample in samples) > 0.01
    gone = oracle.read(run.run_dir, "workers.jsonl")[-1]
    assert samples[-1]["timestamp"] == gone["timestamp"]


def _samples(run):
    records = oracle.read(run.run_dir, "resources.jsonl")
    return [record for record in records if record["entity_type"] == "worker"]


def test_memory_and_cpu_of_an_attempt(make_cluster, notes_dir):
    _, client = make_cluster(n_workers=1)
    with scalable.instrument(client) as run:
        future = client.submit(sum, range(3_000_000))
        future.result()
    oracle.check_contract(run.run_dir)
    (usage,) = [
        record
        for record in oracle.read(run.run_dir, "resources.jsonl")
        if record["entity_type"] == "task"
    ]
    assert usage["entity_id"] == future.key
    assert 0 < usage["observed_cpu"] < 1.5
    assert oracle.lives(run.run_dir)[future.key][-1]["cpu_s"] > 0


def test_cpu_of_an_attempt_whose_result_went_to_disk_at_once(make_cluster, notes_dir):
    """What Dask reports of the execution does not end with the execution itself then."""
    with dask.config.set({"distributed.worker.memory.target": 1e-9}):
        _, client = make_cluster(n_workers=1)
        with scalable.instrument(client) as run:
            future = client.submit(_busy, 1_000_000)
            wait(future)
            metadata = client.run_on_scheduler(
                lambda dask_scheduler: dask_scheduler.tasks[future.key].metadata
            )
    (*_, end) = oracle.lives(run.run_dir)[future.key]
    assert end["cpu_s"] > 0
    assert not metadata


def _busy(number):
    return b"x" * sum(1 for _ in range(number))


def test_closing_scheduler_waits_for_a_remote_recorder(notes_dir):
    """`asyncio.run` with the cluster in the same loop, closed before the client."""

    async def main():
        cluster = await LocalCluster(
            n_workers=1, threads_per_worker=1, asynchronous=True, dashboard_address=":0"
        )
        client = await Client(cluster, asynchronous=True)
        run = scalable.instrument(client)
        await client.gather(client.map(tasks.add, [str(notes_dir)] * 5, range(5)))
        await cluster.close()
        await client.close()
        return run

    run = asyncio.run(main())
    assert run.closed
    oracle.check_contract(run.run_dir)
    oracle.check_attempts(run.run_dir, notes_dir)


def test_tasks_that_wait_without_any_worker_are_reported_while_the_run_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, notes_dir: Path
):
    from scalable.telemetry.recorder import run_health

    monkeypatch.setattr(run_health, "WORKERLESS_AFTER", 0.5)
    command = [sys.executable, "-m", "dask", "worker", "--no-nanny", "--name", "w7"]
    with LocalCluster(n_workers=0, dashboard_address=":0") as cluster:
        worker = subprocess.Popen(
            [*command, cluster.scheduler_address], stderr=subprocess.DEVNULL, cwd=notes_dir
        )
        try:
            with Client(cluster) as client, scalable.instrument(client, recorder="thread"):
                assert client.submit(sum, [1, 2]).result(60) == 3
                future = client.submit(time.sleep, 600)
                tasks.wait_until(lambda: any(client.processing().values()))
                worker.kill()
                worker.wait()
                tasks.wait_until(lambda: "no worker is left" in caplog.text, timeout=60)
                del future
        finally:
            worker.kill()
            worker.wait()
    (said,) = [m for m in caplog.messages if "no worker is left" in m]
    assert "1 task waits and no worker is left: the last one, w7, has been gone for" in said
