"""A run that is recorded while the storage that it is copied to is killed and paused."""

from __future__ import annotations

import json
import operator
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from distributed import Client, LocalCluster

import scalable
from exporters.remote_world import everything
from scalable.cli import cli
from scalable_runs.reader import resolve_run
from scalable_runs.remote.root import RemoteRoot
from servers.harness import wait_until
from servers.storages import VersityGateway

#: As `make chaos` asks for, a fifth of it; else few.
KILLS = max(1, int(os.environ["CHAOS_N"]) // 5) if "CHAOS_N" in os.environ else 2
#: Seconds within which the copy has all, after the storage is back.
BACK = 30.0
TASKS = 40


@pytest.mark.chaos
@pytest.mark.timeout(120 + 60 * KILLS)
def test_a_run_goes_on_while_its_storage_is_killed_and_paused(
    start_s3: Callable[[], VersityGateway], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start_s3()
    for name, value in server.environ().items():
        monkeypatch.setenv(name, value)
    place = "s3://runs/faults"
    here = tmp_path / "here"
    root = RemoteRoot(server.store("faults"))
    done = 0

    def work(client: Client) -> None:
        nonlocal done
        numbers = range(done, done + TASKS)
        assert client.gather(client.map(operator.neg, numbers)) == [-n for n in numbers]
        done += TASKS

    def has_all(run_id: str) -> bool:
        store = root.find(run_id)
        if store is None:
            return False
        records = resolve_run(root, run_id).records("tasks.jsonl")
        return sum(record["state"] == "succeeded" for record in records) == done

    with (
        LocalCluster(
            n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0"
        ) as cluster,
        Client(cluster) as client,
        scalable.instrument(
            client, run_store=place, runs_dir=here, close_timeout=BACK, recorder="process"
        ) as run,
    ):
        for number in range(KILLS):
            work(client)
            run.flush()
            server.kill()
            work(client)
            # What was recorded meanwhile is on this machine.
            assert run.flush()
            server.start()
            work(client)
            assert run.flush()
            wait_until(lambda: has_all(run.run_id), f"the copy after kill {number}", BACK)
        server.pause()
        work(client)
        assert run.flush()
        server.resume()
        wait_until(lambda: has_all(run.run_id), "the copy after the pause", BACK)
    arguments = ["sync", "--runs-dir", str(here), "--to", place, "--json"]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    assert [(row["run_id"], row["complete"]) for row in json.loads(result.stdout)] == [
        (run.run_id, True)
    ]
    assert has_all(run.run_id)
    store = root.find(run.run_id)
    assert store is not None
    assert everything(store) == everything(here / run.run_id)
