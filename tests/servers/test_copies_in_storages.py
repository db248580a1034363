"""Runs that are copied to real storages, which are killed or misconfigured meanwhile."""

from __future__ import annotations

import json
import operator
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from distributed import Client, LocalCluster

import scalable
from cluster import tasks
from exporters.remote_world import everything, fill
from exporters.store_world import RUN_ID, create
from scalable.cli import cli
from scalable_runs.reader import RunReader, resolve_run
from scalable_runs.remote.background import start_shipping
from scalable_runs.remote.root import RemoteRoot
from scalable_runs.remote.shipper import Shipper, sync
from scalable_runs.remote.store import RemoteStore
from servers.storages import Azurite, FakeGoogle, VersityGateway


def test_a_storage_that_is_killed_in_mid_run_has_all_of_it(
    start_s3: Callable[[], VersityGateway], tmp_path: Path
):
    server = start_s3()
    writer = create(tmp_path)
    shipping = start_shipping(
        "s3", lambda: server.store("kills", timeout=5.0), writer.path, warn=lambda _: None
    )
    for number in range(5):
        fill(writer, 100 * number + 1, 100 * number + 50)
        shipping.request()
        server.kill()
        fill(writer, 100 * number + 50, 100 * number + 101)
        server.start()
        assert writer.sync(10)
    tasks.wait_until(lambda: shipping.flush(1.0), 60)
    store = server.store("kills")
    assert everything(RemoteStore(store, RUN_ID))["records"] == everything(writer.path)["records"]
    writer.close({"counts": {}}, status="completed")
    assert shipping.finish(30)
    assert everything(RemoteStore(store, RUN_ID)) == everything(writer.path)


def test_every_storage_keeps_a_run_exactly(
    versitygw: VersityGateway, azurite: Azurite, fake_google: FakeGoogle, tmp_path: Path
):
    for server in (versitygw, azurite, fake_google):
        store = server.store(uuid.uuid4().hex)
        writer = create(tmp_path / server.name)
        copy = Shipper(store, writer.path, role="recorder")
        for first in range(1, 200, 50):
            fill(writer, first, first + 50)
            assert writer.sync(10)
            copy.ship()
        there = everything(RemoteStore(store, RUN_ID))
        assert there["records"] == everything(writer.path)["records"], server.name
        writer.close({"counts": {}}, status="completed")
        assert sync(Shipper(store, writer.path)).complete, server.name
        assert everything(RemoteStore(store, RUN_ID)) == everything(writer.path), server.name
        assert RemoteRoot(store).ids() == [RUN_ID]
        assert not list(store.list(f"{RUN_ID}/chunks/"))
        store.close()


def test_a_recorded_program_and_sync_with_wrong_credentials(
    versitygw: VersityGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    prefix = uuid.uuid4().hex
    settings = versitygw.settings(prefix)

    def place(**changes: Any) -> dict[str, Any]:
        return {"type": "object", "config": {**settings, **changes}}

    with (
        LocalCluster(
            n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0"
        ) as cluster,
        Client(cluster) as client,
    ):
        with scalable.instrument(client, run_store=place()) as right:
            assert client.gather(client.map(operator.neg, range(50)))
        with scalable.instrument(
            client, run_store=place(secret_key="not-the-key"), close_timeout=1
        ) as wrong:
            assert client.submit(operator.add, 1, 1).result() == 2
    root = RemoteRoot(versitygw.store(prefix))
    copy, here = resolve_run(root, right.run_id), RunReader(right.run_dir or "")
    assert list(copy.records("tasks.jsonl")) == list(here.records("tasks.jsonl"))
    assert copy.summary() == here.summary()
    assert copy.status == "completed"

    assert wrong.run_dir is not None
    # The run is complete on this machine, and says why there is no copy.
    assert RunReader(wrong.run_dir).status == "completed"
    (state,) = json.loads((wrong.run_dir / "remote.json").read_text()).values()
    assert state["error"]
    assert "not-the-key" not in (wrong.run_dir / "remote.json").read_text()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", settings["access_key"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", settings["secret_key"])
    url = f"s3://runs/{prefix}?endpoint={versitygw.endpoint}"
    arguments = ["sync", "--all", "--runs-dir", str(wrong.run_dir.parent), "--to", url, "--json"]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    assert {row["run_id"]: row["complete"] for row in json.loads(result.stdout)} == {
        right.run_id: True,
        wrong.run_id: True,
    }
    assert resolve_run(root, wrong.run_id).status == "completed"
