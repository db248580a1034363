"""A run that is copied elsewhere while it is recorded, by the recorder's process."""

from __future__ import annotations

import json
import operator
from pathlib import Path

import pytest
from click.testing import CliRunner
from distributed import Client, LocalCluster

import scalable
from cluster import tasks
from cluster.test_recorder_process import kill_recorder
from scalable.cli import cli
from scalable_runs.reader import RunReader, resolve_run
from scalable_runs.remote.root import RemoteRoot
from scalable_runs.schema import TASKS
from scalable_runs.stores.directory import DirectoryObjects


@pytest.fixture(scope="module")
def client():
    with LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0"
    ) as cluster:
        with Client(cluster) as client:
            yield client


def root(path: Path) -> RemoteRoot:
    return RemoteRoot(DirectoryObjects(DirectoryObjects.Config(str(path))))


def records(reader: RunReader) -> list[dict]:
    return list(reader.records(TASKS))


def test_a_run_is_copied_while_its_recorder_is_killed(client, tmp_path: Path):
    there = tmp_path / "there"
    there.mkdir()
    with scalable.instrument(client, runs_dir_remote=str(there)) as run:
        assert client.gather(client.map(operator.neg, range(100)))
        assert run.flush()
        tasks.wait_until(lambda: there.joinpath(run.run_id, "run.json").exists())
        kill_recorder(run)
        failed = client.submit(operator.truediv, 1, 0)
        assert failed.exception() is not None
        assert run.flush()
        # A failure is brought at once, by the recorder that goes on.
        tasks.wait_until(lambda: _failures(there, run.run_id) == 1)
    copy, here = resolve_run(root(there), run.run_id), RunReader(run.run_dir)
    assert copy.status == here.status == "completed"
    assert records(copy) == records(here)
    assert copy.summary() == here.summary()
    assert copy.document == here.document
    assert not copy.problems
    assert (there / run.run_id / "summary.json").read_bytes() == (
        run.run_dir / "summary.json"
    ).read_bytes()
    assert not (there / run.run_id / "chunks").exists() or not any(
        (there / run.run_id / "chunks").rglob("*.zst")
    )
    (state,) = json.loads((run.run_dir / "remote.json").read_text()).values()
    assert state["complete"]
    assert list(here.document["telemetry"]["remote"]) == [str(there)]


def _failures(there: Path, run_id: str) -> int:
    store = root(there).find(run_id)
    return 0 if store is None else sum(1 for _ in RunReader(store).records("failures.jsonl"))


def test_a_place_that_is_gone_is_told_and_synced_later(client, tmp_path: Path):
    there = tmp_path / "there"
    there.write_text("a file, so it keeps no objects")
    with scalable.instrument(client, runs_dir_remote=str(there), close_timeout=1) as run:
        assert client.submit(operator.add, 1, 1).result() == 2
    here = RunReader(run.run_dir)
    assert here.status == "completed"
    runs = str(run.run_dir.parent)
    arguments = ["sync", "--runs-dir", runs, "--to", str(there), "--json"]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 1
    assert "not complete in" in CliRunner().invoke(cli, ["runs", "--runs-dir", runs]).stderr
    there.unlink()
    there.mkdir()
    for _ in range(2):
        result = CliRunner().invoke(cli, arguments)
        assert result.exit_code == 0, result.output
        (state,) = json.loads(result.stdout)
        assert state["complete"]
    assert records(resolve_run(root(there))) == records(here)
    assert not CliRunner().invoke(cli, ["runs", "--runs-dir", runs]).stderr
