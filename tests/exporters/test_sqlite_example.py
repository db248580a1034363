"""The example of a run store by somebody else: a package of its own, installed as such."""

from __future__ import annotations

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


def test_the_page_shows_the_example_as_it_is() -> None:
    page = (EXAMPLE.parents[1] / "run-stores.md").read_text()
    assert f"```py\n{(EXAMPLE / 'sqlite_run_store.py').read_text()}```" in page
