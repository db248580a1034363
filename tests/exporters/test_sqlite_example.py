"""The example of a run store by somebody else: a package of its own, installed as such."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("zstandard")
from scalable.testing import RunStoreConformance

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "sqlite-run-store"


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the example is installed, without what it depends on, which is here."""
    path = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    options = ["--no-deps", "--no-build-isolation", "--target", str(path), str(EXAMPLE)]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return path


class TestSqlite(RunStoreConformance):
    @pytest.fixture
    def store(self, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
        monkeypatch.syspath_prepend(str(site))
        import sqlite_run_store

        store = sqlite_run_store.SqliteStore
        return store(store.Config(str(tmp_path / "runs.db")))


PROGRAM = """
import scalable
from dask.distributed import Client, LocalCluster

if __name__ == "__main__":
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster:
        with Client(cluster) as client, scalable.instrument(client) as run:
            assert client.submit(pow, 2, 3).result() == 8
    print(run.run_id)
"""


def test_yaml_and_a_url_choose_it(site: Path, tmp_path: Path) -> None:
    database = tmp_path / "runs.db"
    configuration = {"run_store": {"type": "sqlite", "config": {"path": str(database)}}}
    (tmp_path / "stores.yaml").write_text(json.dumps(configuration))
    (tmp_path / "program.py").write_text(PROGRAM)
    variables = {"PYTHONPATH": str(site), "SCALABLE_CONFIGURATION_FILE": "stores.yaml"}

    def python(*arguments: str, cwd: Path = tmp_path, **environ: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=cwd,
            env={**os.environ, **environ},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    run_id = python("program.py", **variables).strip()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    url = f"sqlite://{database}"
    for arguments in (("--runs-dir", url), ("--runs-dir", url, run_id)):
        report = python(
            "-m", "scalable", "report", *arguments, "--json", cwd=elsewhere, PYTHONPATH=str(site)
        )
        assert json.loads(report)["counts"]["tasks_succeeded"] == 1
    listed = python("-m", "scalable", "runs", "--json", **variables)
    assert [run["run_id"] for run in json.loads(listed)] == [run_id]
    wrong = {"run_store": {"type": "sqlite", "config": {"pth": "x"}}}
    (tmp_path / "stores.yaml").write_text(json.dumps(wrong))
    with pytest.raises(AssertionError, match=r"config\.pth: unknown key; did you mean 'path'"):
        python("-m", "scalable", "runs", **variables)


def test_the_page_shows_the_example_as_it_is() -> None:
    page = (EXAMPLE.parents[1] / "run-stores.md").read_text()
    assert f"```py\n{(EXAMPLE / 'sqlite_run_store.py').read_text()}```" in page
