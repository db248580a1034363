"""A run kept in S3, chosen by a file with variables, read by commands, with no secret anywhere."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from distributed import Client, LocalCluster

import scalable
from scalable.cli import cli
from servers.storages import BUCKET, VersityGateway

CONFIGURATION = f"""\
run-log-store:
  type: minio
  config:
    endpoint: ${{ENDPOINT}}
    access_key: {VersityGateway.access_key}
    secret_key: "${{STORE_SECRET}}"
    bucket: {BUCKET}
    prefix: chosen
catalog:
  type: file-system
"""


def double(number: int) -> int:
    return 2 * number


@pytest.mark.parametrize("recorder", ["process", "thread"])
def test_a_run_in_s3(versitygw: VersityGateway, tmp_path: Path, monkeypatch, caplog, recorder):
    (tmp_path / "runnable.yaml").write_text(CONFIGURATION)
    monkeypatch.setenv("RUNNABLE_CONFIGURATION_FILE", "runnable.yaml")
    monkeypatch.setenv("ENDPOINT", versitygw.endpoint)
    monkeypatch.setenv("STORE_SECRET", versitygw.secret_key)
    cluster = LocalCluster(n_workers=1, processes=False, dashboard_address=None)
    had_library = "obstore" in sys.modules
    with cluster, Client(cluster) as client:
        with scalable.instrument(client, project=recorder, recorder=recorder) as run:
            client.gather(client.map(double, range(10)))
    if recorder == "process" and not had_library:
        assert "obstore" not in sys.modules, "only the recorder's process needs it"
    there = versitygw.files / BUCKET / "chosen" / run.run_id
    assert json.loads((there / "run.json").read_bytes())["status"] == "completed"
    # On another machine: the directory is empty, and the store is named as it is here.
    monkeypatch.setenv("SCALABLE_RUNS_DIR", str(tmp_path / "empty"))
    report = CliRunner().invoke(cli, ["report", run.run_id, "--json"])
    assert json.loads(report.stdout)["counts"]["tasks_succeeded"] == 10
    monkeypatch.delenv("RUNNABLE_CONFIGURATION_FILE")
    for name, value in versitygw.environ().items():
        monkeypatch.setenv(name, value)
    url = f"s3://{BUCKET}/chosen"
    by_url = CliRunner().invoke(cli, ["report", "--runs-dir", url, run.run_id, "--json"])
    assert json.loads(by_url.stdout)["counts"] == json.loads(report.stdout)["counts"]
    assert CliRunner().invoke(cli, ["report", f"{url}/{run.run_id}"]).exit_code == 0
    # Neither here nor there nor in a log is what only the configuration may have.
    kept = [*there.rglob("*"), *(tmp_path / ".scalable").rglob("*")]
    texts = [path.read_bytes() for path in kept if path.is_file()]
    assert len(texts) > 20
    for secret in (versitygw.secret_key, versitygw.access_key):
        assert not any(secret.encode() in text for text in texts)
        assert secret not in caplog.text + report.output + by_url.output + repr(run)
