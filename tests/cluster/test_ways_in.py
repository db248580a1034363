"""Every way into Dask, from every kind of client and cluster."""

from __future__ import annotations

import asyncio
import operator
import os
import subprocess
import sys

import dask
import dask.array as da
import dask.bag as db
import dask.dataframe as dd
import pandas as pd
import pytest
from distributed import Client, LocalCluster, fire_and_forget, wait

import scalable
from cluster import oracle, tasks


@pytest.fixture(scope="module")
def shared():
    """One cluster of worker processes for the tests that leave no trace on it."""
    with LocalCluster(n_workers=2, threads_per_worker=2, dashboard_address=":0") as cluster:
        with Client(cluster) as client:
            yield cluster, client


def _names(run) -> set[str]:
    return {record["task_name"] for record in oracle.read(run.run_dir, "tasks.jsonl")}


def _counts(run) -> dict[str, int]:
    states = [lines[-1]["state"] for lines in oracle.lives(run.run_dir).values()]
    return {state: states.count(state) for state in set(states)}


def test_map_in_batches(shared, notes_dir):
    _, client = shared
    with scalable.instrument(client) as run:
        futures = client.map(tasks.add, [str(notes_dir)] * 40, range(40), batch_size=7, pure=False)
        client.gather(futures)
    oracle.check_contract(run.run_dir)
    assert _counts(run) == {"succeeded": 40}
    oracle.check_attempts(run.run_dir, notes_dir)


def test_get_with_tuple_keys(shared):
    _, client = shared
    with scalable.instrument(client) as run:
        graph = {("x", 0): 1, ("y", 0): (operator.add, ("x", 0), 10), "z": (sum, [("y", 0), 1])}
        assert client.get(graph, "z") == 12
    oracle.check_contract(run.run_dir)
    assert "z" in oracle.lives(run.run_dir)
    assert any(key.startswith("('y', 0)") for key in oracle.lives(run.run_dir))


def test_delayed_compute_and_persist(shared, notes_dir):
    _, client = shared
    with scalable.instrument(client) as run:
        parts = [dask.delayed(tasks.add)(str(notes_dir), i, pure=False) for i in range(8)]
        total = dask.delayed(sum)(parts)
        assert total.compute() == 28
        kept = total.persist()
        wait(kept)
        assert kept.compute() == 28
    oracle.check_contract(run.run_dir)
    oracle.check_attempts(run.run_dir, notes_dir)
    assert {"add", "sum"} <= _names(run)


def test_collections(shared):
    _, client = shared
    with scalable.instrument(client) as run:
        assert (
            db.from_sequence(range(20), npartitions=4).map(lambda x: x * 2).sum().compute() == 380
        )
        assert int(da.ones((40, 40), chunks=(10, 10)).sum().compute()) == 1600
        frame = dd.from_pandas(pd.DataFrame({"a": range(30), "b": range(30)}), npartitions=3)
        assert int(frame.groupby("b").a.sum().sum().compute()) == 435
        persisted = frame.persist()
        assert len(persisted) == 30
    oracle.check_contract(run.run_dir)
    assert set(_counts(run)) == {"succeeded"}


def test_shuffle_between_workers(shared):
    """Dask's P2P shuffle puts annotations of its own on its tasks, and reschedules some of them."""
    _, client = shared
    frame = dd.from_pandas(pd.DataFrame({"a": range(2000), "b": [i % 7 for i in range(2000)]}), 4)
    with scalable.instrument(client) as run:
        assert len(frame.shuffle("b").compute()) == 2000
    oracle.check_contract(run.run_dir)
    assert set(_counts(run)) == {"succeeded"}
    assert any(name.startswith("shuffle") for name in _names(run))


def test_futures_of_futures(shared):
    _, client = shared
    with scalable.instrument(client) as run:
        one = client.submit(operator.add, 1, 1)
        two = client.submit(operator.add, one, 1)
        three = client.submit(sum, [one, two])
        assert three.result() == 5
    oracle.check_contract(run.run_dir)
    assert oracle.lives(run.run_dir)[three.key][0]["dependency_count"] == 2
    assert set(oracle.lives(run.run_dir)[three.key][0]["dependencies"]) == {one.key, two.key}


@pytest.mark.parametrize("nested", [tasks.nested_worker_client, tasks.nested_get_client])
def test_tasks_that_submit_tasks(shared, notes_dir, nested):
    _, client = shared
    with scalable.instrument(client) as run:
        outer = client.submit(nested, str(notes_dir), 5, pure=False)
        outer.result()
    oracle.check_contract(run.run_dir)
    oracle.check_attempts(run.run_dir, notes_dir)
    inner = [key for key in oracle.lives(run.run_dir) if key.startswith("add")]
    assert len(inner) == 5
    traces = {
        record["trace_id"]
        for record in oracle.read(run.run_dir, "tasks.jsonl")
        if "trace_id" in record
    }
    assert len(traces) == 1


def test_actor_is_recorded_as_the_task_that_makes_it(shared):
    _, client = shared
    with scalable.instrument(client) as run:
        counter = client.submit(tasks.Counter, actor=True).result()
        assert counter.increment().result() == 1
        del counter
    oracle.check_contract(run.run_dir)
    assert _names(run) == {"Counter"}


def test_coroutine_function(shared, notes_dir):
    _, client = shared
    with scalable.instrument(client) as run:
        assert client.submit(tasks.asynchronous, str(notes_dir), 4).result() == 4
    oracle.check_contract(run.run_dir)
    assert _counts(run) == {"succeeded": 1}


def test_fire_and_forget(shared, notes_dir):
    _, client = shared
    with scalable.instrument(client) as run:
        future = client.submit(tasks.hold, str(notes_dir), "gate", pure=False)
        fire_and_forget(future)
        key = future.key
        del future
        # Dask forgets the task only if it heard of the wish before the task was finished.
        tasks.wait_until(lambda: client.run_on_scheduler(_wished, key))
        (notes_dir / "gate").touch()
        tasks.wait_for_notes(notes_dir, 2)
        tasks.wait_until(lambda: client.run_on_scheduler(_knows, key) is False)
    oracle.check_contract(run.run_dir)
    assert oracle.states(run.run_dir, key) == ["submitted", "running", "succeeded"]


def _knows(key, dask_scheduler=None):
    return key in dask_scheduler.tasks


def _wished(key, dask_scheduler=None):
    task = dask_scheduler.tasks.get(key)
    wishes = {client.client_key for client in task.who_wants or ()} if task is not None else set()
    return wishes == {"fire-and-forget"}


def test_threads_instead_of_processes(make_cluster, notes_dir):
    _, client = make_cluster(n_workers=2, threads=2, processes=False)
    with scalable.instrument(client) as run:
        client.gather(client.map(tasks.add, [str(notes_dir)] * 30, range(30)))
        assert client.submit(tasks.nested_worker_client, str(notes_dir), 3).result() == 6
    oracle.check_contract(run.run_dir)
    assert _counts(run) == {"succeeded": 34}
    states = [r["state"] for r in oracle.read(run.run_dir, "workers.jsonl")]
    assert states == ["launched", "ready"] * 2


def test_asynchronous_client(notes_dir):
    async def main():
        async with (
            LocalCluster(
                n_workers=2, threads_per_worker=1, asynchronous=True, dashboard_address=":0"
            ) as cluster,
            Client(cluster, asynchronous=True) as client,
        ):
            async with scalable.instrument(client) as run:
                futures = client.map(tasks.add, [str(notes_dir)] * 10, range(10))
                assert sum(await client.gather(futures)) == 45
                bad = client.submit(tasks.fail, str(notes_dir))
                await wait(bad)
            return run

    run = asyncio.run(main())
    oracle.check_contract(run.run_dir)
    oracle.check_attempts(run.run_dir, notes_dir)
    assert _counts(run) == {"succeeded": 10, "failed": 1}


def test_synchronous_block_in_a_coroutine(notes_dir):
    async def main():
        async with (
            LocalCluster(
                n_workers=1, threads_per_worker=1, asynchronous=True, dashboard_address=":0"
            ) as cluster,
            Client(cluster, asynchronous=True) as client,
        ):
            with scalable.instrument(client) as run:
                futures = client.map(tasks.add, [str(notes_dir)] * 10, range(10))
                assert sum(await client.gather(futures)) == 45
            return run

    run = asyncio.run(main())
    oracle.check_contract(run.run_dir)
    oracle.check_attempts(run.run_dir, notes_dir)


@pytest.fixture
def command_line_cluster(tmp_path):
    """`dask scheduler` and two `dask worker` processes, one with and one without a nanny."""
    processes = []
    file = tmp_path / "scheduler.json"
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(p for p in sys.path if p))

    def start(*arguments):
        process = subprocess.Popen(
            [sys.executable, "-m", "dask", *arguments],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        processes.append(process)
        return process

    start(
        "scheduler", "--port", "0", "--no-dashboard", "--scheduler-file", str(file),
        "--host", "127.0.0.1",
    )  # fmt: skip
    tasks.wait_until(file.exists)
    for name, nanny in (("with", "--nanny"), ("without", "--no-nanny")):
        start(
            "worker", "--scheduler-file", str(file), nanny, "--name", name, "--nthreads", "1",
            "--no-dashboard", "--host", "127.0.0.1",
        )  # fmt: skip
    yield file, start
    for process in reversed(processes):
        process.terminate()
    for process in processes:
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def test_scheduler_and_workers_of_the_command_line(command_line_cluster, notes_dir):
    file, start = command_line_cluster
    with Client(scheduler_file=str(file)) as client:
        client.wait_for_workers(2)
        with scalable.instrument(client) as run:
            client.gather(client.map(tasks.add, [str(notes_dir)] * 50, range(50)))
            dead = client.submit(
                tasks.die_once, str(notes_dir), workers=["with"], allow_other_workers=True
            )
            assert dead.result() == "alive"
            bad = client.submit(tasks.flaky, str(notes_dir), 1, retries=1)
            assert bad.result() == 1
            long = client.submit(tasks.hold, str(notes_dir), "gate")
            tasks.wait_for_notes(notes_dir, 107)
            (notes_dir / "gate").touch()
            long.result()
            late = start(
                "worker", "--scheduler-file", str(file), "--nanny", "--name", "late",
                "--nthreads", "1", "--no-dashboard", "--host", "127.0.0.1",
            )  # fmt: skip
            client.wait_for_workers(3)
            here = client.submit(tasks.add, str(notes_dir), 77, workers=["late"])
            here.result()
            late.terminate()
            tasks.wait_until(lambda: len(client.scheduler_info()["workers"]) == 2)
            assert run.flush()
            assert list(client.run_on_scheduler(_plugins)) == [run.run_id]
        assert client.run_on_scheduler(_plugins) is None
        assert client.submit(operator.add, 1, 1).result() == 2
    oracle.check_contract(run.run_dir)
    oracle.check_attempts(run.run_dir, notes_dir)
    workers = oracle.read(run.run_dir, "workers.jsonl")
    by_name = {}
    for record in workers:
        by_name.setdefault(record["worker_id"], []).append(record["state"])
    assert by_name == {
        "with": ["launched", "ready", "lost", "launched", "ready"],
        "without": ["launched", "ready"],
        "late": ["launched", "ready", "removed"],
    }


@pytest.mark.parametrize("block", ["async with", "with"])
def test_asynchronous_client_of_a_scheduler_elsewhere(command_line_cluster, notes_dir, block):
    file, _ = command_line_cluster

    async def main():
        async with Client(scheduler_file=str(file), asynchronous=True) as client:
            await client.wait_for_workers(2)
            run = scalable.instrument(client)
            if block == "async with":
                async with run:
                    await client.gather(client.map(tasks.add, [str(notes_dir)] * 20, range(20)))
            else:
                with run:
                    await client.gather(client.map(tasks.add, [str(notes_dir)] * 20, range(20)))
        return run

    run = asyncio.run(main())
    oracle.check_contract(run.run_dir)
    oracle.check_attempts(run.run_dir, notes_dir)
    assert _counts(run) == {"succeeded": 20}


def _plugins(dask_scheduler=None):
    hub = dask_scheduler.extensions.get("scalable")
    return None if hub is None else list(hub.plugins)
