"""`scalable compare` names what differs, and only that."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from scalable.cli import cli

COMMON = {"schema_version": 1, "timestamp": "2026-01-02T03:04:05.000001Z"}


def task(task_id: str, state: str = "succeeded", **more: Any) -> dict[str, Any]:
    name = task_id.partition("-")[0]
    ended = {"task_id": task_id, "task_name": name, "state": state, "attempt": 1}
    return {"event_type": "task", **ended, **more}


def function(name: str, identity: str, source: str, **components: str) -> dict[str, Any]:
    rows = [
        {"kind": kind.partition("_")[0], "name": kind.partition("_")[2], "digest": digest}
        for kind, digest in components.items()
    ]
    own = {"kind": "source", "name": f"flow.{name}", "digest": identity}
    return {
        "event_type": "function",
        "task_name": name,
        "function_name": f"flow.{name}",
        "file": "flow.py",
        "line": 3,
        "identity": f"sha256:{identity}",
        "source": source,
        "components": [own, *rows],
    }


@pytest.fixture
def runs(tmp_path: Path):
    def make(name: str, run: dict[str, Any], **journals: list[dict[str, Any]]) -> str:
        directory = tmp_path / f"run-20260102T030405Z-{name}-00000000"
        directory.mkdir()
        environment = {"python": "3.12.1", "packages": {"dask": "2026.1.0"}}
        document = {
            "schema_version": 1,
            "run_id": directory.name,
            "status": "completed",
            "environment": environment,
            **run,
        }
        (directory / "run.json").write_text(json.dumps(document))
        for journal, records in journals.items():
            with (directory / f"{journal}.jsonl").open("w") as file:
                for seq, record in enumerate(records, 1):
                    line = {**COMMON, "run_id": directory.name, "seq": seq, **record}
                    file.write(json.dumps(line) + "\n")
        return str(directory)

    return make


def compared(before: str, after: str, *options: str, code: int = 0) -> Any:
    result = CliRunner().invoke(cli, ["compare", before, after, *options])
    assert result.exit_code == code, result.output
    return json.loads(result.output) if "--json" in options else result.output


def found(document: dict[str, Any]) -> dict[tuple[str, str], tuple[Any, Any]]:
    return {
        (one["subject"], one["name"]): (one["before"], one["after"])
        for one in document["differences"]
    }


def test_equal_runs_do_not_differ(runs):
    journals = {
        "tasks": [task("load-1")],
        "functions": [function("load", "aa", "def load(): ...")],
    }
    one, other = runs("a", {}, **journals), runs("b", {}, **journals)
    document = compared(one, other, "--json", "--exit-status")
    assert document["differences"] == []
    assert document["same"]["function"] == 1
    assert "Nothing that was recorded differs" in compared(one, other)


def test_a_function_that_differs_is_named_with_its_components_and_diff(runs):
    source = "def load(x):\n    return x{}\n"
    before = function("load", "aa", source.format(""), helper_clean="1", constant_LIMIT="7")
    after = function("load", "bb", source.format(" + 1"), helper_clean="2", default_x="3")
    one = runs("a", {}, functions=[before, function("same", "cc", "")])
    other = runs("b", {}, functions=[after, function("same", "cc", "")])
    (difference,) = compared(one, other, "--json", "--exit-status", code=1)["differences"]
    assert difference["subject"] == "function"
    assert difference["name"] == "flow.load"
    assert set(difference["details"]) == {
        "constant LIMIT is no longer used",
        "default x is new",
        "function flow.load differs",
        "helper clean differs",
    }
    assert "+    return x + 1" in difference["diff"]
    text = compared(one, other)
    assert "helper clean differs" in text
    assert "+    return x + 1" in text


def test_packages_python_arguments_inputs_results_and_metrics_are_compared(runs):
    def artifact(name: str, stage: str, digest: str) -> dict[str, Any]:
        return {
            "event_type": "artifact",
            "artifact_name": name,
            "stage": stage,
            "digest": f"sha256:{digest}",
        }

    def argument(value: int) -> dict[str, Any]:
        return {"input_parameters": [{"name": "scenario_id", "kind": "json", "value": value}]}

    one = runs(
        "a",
        {"user_defined_metrics": {"loss": {"last": 0.5}}},
        tasks=[task("fit-1", **argument(1)), task("fit-2", **argument(2))],
        artifacts=[artifact("in.csv", "get", "a1"), artifact("out", "put", "b1")],
    )
    other = runs(
        "b",
        {
            "user_defined_metrics": {"loss": {"last": 0.25}},
            "environment": {"python": "3.13.0", "packages": {"dask": "2026.1.0", "numpy": "2.3"}},
        },
        tasks=[task("fit-1", **argument(1)), task("fit-2", "failed", **argument(10))],
        artifacts=[artifact("in.csv", "get", "a2"), artifact("out", "put", "b1")],
    )
    assert found(compared(one, other, "--json")) == {
        ("status", "tasks of fit"): ("2 succeeded", "1 failed, 1 succeeded"),
        ("environment", "python"): ("3.12.1", "3.13.0"),
        ("package", "numpy"): (None, "2.3"),
        ("parameter", "scenario_id of fit"): ("1, 2", "1, 10"),
        ("input", "in.csv"): ("sha256:a1", "sha256:a2"),
        ("metric", "loss"): ({"last": 0.5}, {"last": 0.25}),
    }


def test_commits_are_compared_and_uncommitted_changes_are_said(runs):
    def identity(commit: str, dependable: bool) -> dict[str, Any]:
        row = {"code_identifier": commit, "code_identifier_type": "git"}
        return {"code_identities": [{**row, "code_identifier_dependable": dependable}]}

    one, other = runs("a", identity("c0ffee", True)), runs("b", identity("decade", False))
    document = compared(one, other, "--json")
    assert found(document) == {("code", "commit"): ("c0ffee", "decade")}
    assert any("second run's code had changes" in text for text in document["unknown"])


def test_what_only_one_run_has_recorded_is_said(runs):
    one = runs("a", {}, functions=[function("load", "aa", "")])
    document = compared(one, runs("b", {}), "--json")
    assert document["differences"] == []
    assert "Only the first run has its functions in its record." in document["unknown"]


def test_markdown_and_misuse(runs):
    one = runs("a", {"status": "failed"})
    other = runs("b", {})
    assert "| run | failed | completed |" in compared(one, other, "--format", "md")
    assert "Missing argument" in CliRunner().invoke(cli, ["compare"]).output
