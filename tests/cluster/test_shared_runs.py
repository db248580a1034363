"""Programs with a Dask cluster each write one run, and one of them is killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cluster import shared_program
from scalable.analysis import load_report
from scalable.analysis.diagnose import diagnose
from scalable.cli import cli
from scalable.telemetry import semconv
from scalable_runs.reader import RunReader, resolve_run
from scalable_runs.schema import TASKS

RUN_ID = "job-4711"
#: How each program ends; all compute the same tasks.
KINDS = ("process", "thread", "killed")


class Program:
    def __init__(self, kind: str, directory: Path) -> None:
        environment = {
            **os.environ,
            "SCALABLE_RUN_ID": RUN_ID,
            "SCALABLE_RUN_STORE": "chunked-fs",
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        }
        self.kind = kind
        self.process = subprocess.Popen(
            [sys.executable, shared_program.__file__, kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=directory,
            env=environment,
        )

    def says(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def end(self) -> str:
        assert self.process.stdin is not None
        output, _ = self.process.communicate("\n", timeout=120)
        return output.strip()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run that three programs have written, one of which was killed."""
    directory = tmp_path_factory.mktemp("shared")
    programs = [Program(kind, directory) for kind in KINDS]
    try:
        said = [program.says().split() for program in programs]
        assert [words[0] for words in said] == ["recorded"] * len(KINDS)
        assert len({words[1] for words in said}) == 1, "one trace"
        assert {words[2] for words in said} == {str(directory / ".scalable" / "runs" / RUN_ID)}
        # The one that is killed goes first: the last of the others closes the run.
        for program in sorted(programs, key=lambda program: program.kind != "killed"):
            ended = program.end()
            assert ended == ("" if program.kind == "killed" else "completed")
    finally:
        for program in programs:
            program.process.kill()
    return directory / ".scalable" / "runs" / RUN_ID


def counts(reader: RunReader) -> Counter[Any]:
    return Counter(
        (record.get("writer"), record["state"])
        for record in reader.records(TASKS)
        if record["state"] in ("succeeded", "failed")
    )


def test_all_is_recorded_once_and_told_apart(run: Path) -> None:
    reader = RunReader(run)
    assert reader.status == "completed"
    found = counts(reader)
    assert len(reader.parts) == len(KINDS)
    for name in reader.parts:
        assert (found[name, "succeeded"], found[name, "failed"]) == (20, 1)
    keys = {record["task_id"] for record in reader.records(TASKS)}
    assert len(keys) == 21, "all programs have the same tasks"
    spans = [
        record["span_id"] for record in reader.records(TASKS) if record["state"] == "succeeded"
    ]
    assert len(set(spans)) == 20 * len(KINDS), "and spans of their own"


def test_the_report_is_of_all_and_names_the_program_that_was_killed(run: Path) -> None:
    reader = RunReader(run)
    (lost,) = [name for name, part in reader.parts.items() if part.status == "lost"]
    report = load_report(reader)
    assert report.counts["tasks"] == report.counts["attempts"] == 21 * len(KINDS)
    assert report.counts["tasks_succeeded"] == 20 * len(KINDS)
    assert len(report.workers) == len(KINDS)
    assert sum(row["attempts"] for row in report.workers) == 21 * len(KINDS)
    assert any(lost in sentence for sentence in report.missing)
    findings = {finding.category: finding for finding in diagnose(reader).findings}
    assert any(lost in sentence for sentence in findings["writer_lost"].evidence.sentences)
    shown = CliRunner().invoke(cli, ["runs", "--runs-dir", str(run.parent)])
    assert "completed, 1 lost" in shown.output
    shown = CliRunner().invoke(cli, ["report", str(run)])
    assert f"{len(KINDS)} programs, 1 of them killed" in shown.output
    assert lost in shown.output


def test_the_last_program_sends_one_root_and_that_of_the_killed_one(run: Path) -> None:
    reader = RunReader(run)
    names = Counter(
        record["name"].split()[0]
        for record in reader.records("spans.jsonl")
        if record.get("scope", {}).get("name") == semconv.SCOPE_NAME
        and record["name"].split()[0] in ("run", "writer")
    )
    assert names == {"run": 1, "writer": len(KINDS)}


@pytest.mark.parametrize("options", [(), ("--all",), ("--span-budget", "2")])
def test_an_export_has_one_root_and_no_orphan(
    run: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    done = CliRunner().invoke(cli, ["export", str(run), "--file", "out.json", *options])
    assert done.exit_code == 0, done.output
    spans: dict[str, dict[str, Any]] = {}
    for line in (tmp_path / "out.json").read_text().splitlines():
        for resource in json.loads(line).get("resourceSpans", ()):
            for scope in resource["scopeSpans"]:
                for span in scope["spans"]:
                    assert span["spanId"] not in spans, span["name"]
                    spans[span["spanId"]] = span
    trace = RunReader(run).document["trace_id"]
    of_run = [span for span in spans.values() if span["traceId"] == trace]
    assert [span["name"] for span in of_run if not span.get("parentSpanId")] == ["run array"]
    assert sum(span["name"] == "writer array" for span in of_run) == len(KINDS)
    orphans = [
        span["name"]
        for span in spans.values()
        if span.get("parentSpanId") and span["parentSpanId"] not in spans
    ]
    assert orphans == []


def test_a_merged_run_reads_the_same(run: Path, tmp_path: Path) -> None:
    before = RunReader(run)
    done = CliRunner().invoke(cli, ["merge", str(run), "--to", str(tmp_path)])
    assert done.exit_code == 0, done.output
    after = resolve_run(tmp_path)
    assert counts(after) == counts(before)
    one, other = load_report(before), load_report(after)
    assert other.source == "summary.json"
    assert one.counts == other.counts
    assert one.tasks == other.tasks
    assert one.workers == other.workers


def test_a_run_of_one_writer_must_be_new(run: Path) -> None:
    """Without the store for it, a second program with the same id is told what to do."""
    program = subprocess.run(
        [sys.executable, shared_program.__file__, "process"],
        input="\n",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={
            **os.environ,
            "SCALABLE_RUN_ID": RUN_ID,
            "SCALABLE_RUNS_DIR": str(run.parent),
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        },
    )
    assert program.returncode == 1
    assert f"OptionError: run_id cannot be '{RUN_ID}': there is such a run" in program.stderr
    assert "SCALABLE_RUN_STORE=chunked-fs" in program.stderr
