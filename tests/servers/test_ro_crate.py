"""Crates of runs pass the validator of the RO-Crate community."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from scalable.cli import cli
from servers import install

RUNS = Path(__file__).parents[1] / "fixtures" / "runs"
NAMES = sorted(path.name for path in RUNS.iterdir() if path.is_dir())

#: The validator says that ids of software should be absolute, and that the file of the main
#: workflow must be in the crate: no crate with a workflow does both.
CONTRADICTION = "process-run-crate-0.5_5.1"


@pytest.fixture(scope="module")
def context() -> Path:
    found = install.find("roc-validator")
    if found is None:
        pytest.skip("roc-validator is not installed: make servers")
    return found


def issues(crate: Path, context: Path, profile: str) -> list[list[str]]:
    ran = subprocess.run(
        [sys.executable, Path(__file__).with_name("roc_check.py"), crate, context, profile],
        env={**os.environ, "PYTHONPATH": str(context.parents[3] / "site")},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    return json.loads(ran.stdout[ran.stdout.index("[") :])


def make(run: str, crate: Path, *options: str) -> dict:
    command = ["export", str(RUNS / run), "--ro-crate", str(crate), "--json", *options]
    result = CliRunner().invoke(cli, command)
    assert result.exit_code == 0, result.output
    return json.loads(result.output[result.output.index("{") :])


@pytest.mark.parametrize("run", NAMES)
def test_a_process_run_crate_has_no_required_and_no_recommended_issue(run, tmp_path, context):
    make(run, tmp_path / "crate", "--profile", "process")
    assert issues(tmp_path / "crate", context, "process-run-crate") == []


@pytest.mark.parametrize("run", NAMES)
def test_a_provenance_run_crate_has_no_issue_but_one_that_cannot_be_avoided(run, tmp_path, context):
    make(run, tmp_path / "crate", "--profile", "provenance", "--author", "A. Researcher")
    found = issues(tmp_path / "crate", context, "provenance-run-crate")
    assert [issue for issue in found if issue[1] != CONTRADICTION] == []
    assert {issue[0] for issue in found} == {"RECOMMENDED"}
