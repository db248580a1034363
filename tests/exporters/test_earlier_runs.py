"""Runs that earlier versions recorded are read as those versions read them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from scalable.cli import cli
from scalable_runs.reader import RunReader

RUNS = Path(__file__).parents[1] / "fixtures/runs"
NAMES = sorted(path.name for path in RUNS.iterdir() if path.is_dir())


@pytest.fixture(params=NAMES, ids=[name.split("-")[2] for name in NAMES])
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def expected(name: str) -> dict[str, Any]:
    return json.loads((RUNS / f"{name}.expected.json").read_text())


def printed(command: str, name: str) -> dict[str, Any]:
    result = CliRunner().invoke(cli, [command, name, "--runs-dir", str(RUNS), "--json"])
    return json.loads(result.stdout)


def test_there_are_earlier_runs():
    assert len(NAMES) >= 4


def test_every_record_is_read_as_before(name: str, expected: dict[str, Any]):
    reader = RunReader(RUNS / name)
    journals: dict[str, dict[str, Any]] = {}
    for file in reader.files():
        lines = [json.dumps(record, sort_keys=True) + "\n" for record in reader.records(file)]
        digest = hashlib.sha256("".join(lines).encode()).hexdigest()
        journals[file] = {"records": len(lines), "sha256": digest}
    assert journals == expected["journals"]
    assert reader.status == expected["status"]
    assert {file: found.sentences() for file, found in reader.problems.items()} == (
        expected["problems"]
    )


def test_the_report_has_the_figures_of_before(name: str, expected: dict[str, Any]):
    found = printed("report", name)
    for sentences in ("path", "missing", "notes", "why"):
        found["report"].pop(sentences)
    assert found == expected["report"]


def test_the_diagnosis_has_the_findings_of_before(name: str, expected: dict[str, Any]):
    found = [
        {
            **{key: finding[key] for key in ("severity", "category", "confidence", "count")},
            "task_names": finding["evidence"]["task_names"],
        }
        for finding in printed("diagnose", name)["findings"]
    ]
    assert found == expected["findings"]
