"""Runs of a real cluster in places that are not directories of this machine."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest
from distributed import Client, LocalCluster

import scalable
from scalable_runs.reader import RunReader, find_runs, resolve_run
from scalable_runs.stores.memory import MemoryRoot
from scalable_runs.stores.memory_objects import MemoryObjects


def double(number: int) -> int:
    return 2 * number


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="module")
def client():
    cluster = LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None)
    with cluster, Client(cluster) as client:
        yield client


def work(client: Client, offset: int) -> None:
    numbers = range(offset, offset + 20)
    assert client.gather(client.map(double, numbers)) == [2 * number for number in numbers]


def succeeded(reader: RunReader) -> int:
    return sum(record["state"] == "succeeded" for record in reader.records("tasks.jsonl"))


def test_a_buffered_run_is_read_from_its_object_and_nothing_is_on_disk(client, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    with scalable.instrument(client, project="tides", run_store="buffered") as run:
        work(client, 0)
        assert run.flush()
        assert run.reader().status == "running"
    assert run.run_dir is None
    assert "buffered" not in repr(run)
    reader = run.reader()
    assert (reader.status, succeeded(reader)) == ("completed", 20)
    assert reader.summary() is not None
    assert "20 tasks" in " ".join(run.report().split())
    assert sorted(tmp_path.rglob("*")) == before == sorted(Path.cwd().rglob("*"))


def test_parquet_of_a_buffered_run_is_in_memory(client):
    pytest.importorskip("pyarrow")
    with scalable.instrument(client, run_store="memory://", parquet=True) as run:
        work(client, 100)
    assert "tasks.parquet" in run.reader().store.names()
    assert list(Path.cwd().iterdir()) == []


def test_an_object_of_the_program_keeps_the_run(client, caplog):
    root = MemoryRoot()
    with scalable.instrument(client, run_store=root) as run:
        work(client, 200)
    assert [reader.run_id for reader in find_runs(root)] == [run.run_id]
    assert succeeded(resolve_run(root)) == 20
    assert "the recorder is a thread of it" in caplog.text


def test_a_run_is_copied_to_an_object_of_the_program(client, tmp_path):
    objects = MemoryObjects()
    with scalable.instrument(client, runs_dir_remote=objects, runs_dir=tmp_path) as run:
        work(client, 300)
    (copied,) = find_runs(objects)
    assert (copied.run_id, copied.status, succeeded(copied)) == (run.run_id, "completed", 20)
    assert run.run_dir == tmp_path / run.run_id


@pytest.mark.parametrize("way", ["store", "copy"])
def test_a_run_is_copied_by_the_recorders_process(client, tmp_path, way, monkeypatch):
    there, here = tmp_path / "there", tmp_path / "here"
    there.mkdir()
    if way == "store":
        config = {"provider": "directory", "path": str(there), "compress": True}
        options = {"run_store": {"type": "object", "config": config}}
    else:
        options = {"runs_dir_remote": f"file://{there}?compress=true"}
    with scalable.instrument(client, runs_dir=here, **options) as run:
        work(client, 400 if way == "store" else 500)
    assert (there / run.run_id / "run.json").exists(), "it is there when the block has ended"
    assert (there / run.run_id / "tasks.jsonl.zst").exists(), "compressed, as asked for"
    place = {"type": "object", "config": {"provider": "directory", "path": str(there)}}
    copied, local = resolve_run(place), RunReader(here / run.run_id)
    assert copied.status == local.status == "completed"
    assert list(copied.records("tasks.jsonl")) == list(local.records("tasks.jsonl"))
    assert "obstore" not in sys.modules


def test_a_buffered_run_that_loses_a_worker_has_its_certificate(tmp_path, monkeypatch):
    spool = tmp_path / "spool"
    spool.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(spool))
    monkeypatch.setenv("TMPDIR", str(spool))
    cluster = LocalCluster(
        n_workers=1, threads_per_worker=1, dashboard_address=None, local_directory=tmp_path / "dask"
    )
    with cluster, Client(cluster) as client:
        with scalable.instrument(client, run_store="buffered") as run:
            client.submit(double, 1).result()
            assert list(spool.glob("scalable-*/**/*")) == [], "not even a temporary file"
            assert client.submit(die, retries=0).exception() is not None
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline and not any(
                record.get("failure_class") == "WorkerLost"
                for record in run.reader().records("failures.jsonl")
            ):
                run.flush()
                time.sleep(0.1)
        causes = [
            (record.get("details") or {}).get("cause")
            for record in run.reader().records("failures.jsonl")
            if record.get("failure_class") == "WorkerLost"
        ]
    assert causes
    assert [path for path in spool.glob("scalable-*/**/*") if path.is_file()] == []
