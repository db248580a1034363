"""The generator of synthetic runs tells the truth, and the table judges as it says."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import clusters, plot, synthetic, table
from benchmarks.clusters import Sample
from benchmarks.synthetic import Shape, SyntheticCluster
from benchmarks.table import Row
from scalable_runs.reader import RunReader
from scalable_runs.schema import FAILURES, TASKS

LIVELY = Shape(
    tasks=300,
    workers=3,
    nthreads=2,
    names=("load", "clean"),
    graph=100,
    duration=0.01,
    failing=0.2,
    retries=1,
    lost_workers=3,
    seed=7,
)


@pytest.fixture(scope="module")
def lively(tmp_path_factory):
    return synthetic.record(tmp_path_factory.mktemp("runs"), LIVELY)


def test_recorded_counts_are_the_simulations_own(lively):
    summary = json.loads((lively.path / "summary.json").read_bytes())
    counts, truth = summary["counts"], lively.truth
    assert truth["submitted"] == LIVELY.tasks
    assert min(truth[name] for name in ("failed", "retried", "lost")) > 0
    assert truth["workers_lost"] == LIVELY.lost_workers
    for name in ("submitted", "succeeded", "failed", "retried", "lost"):
        assert counts[f"tasks_{name}"] == truth[name], name
    assert counts["attempts"] == truth["attempts"]
    assert counts["workers_lost"] == truth["workers_lost"]
    assert summary["run"]["telemetry"]["errors"] == {}
    assert not lively.warnings


def test_recorded_lines_are_complete_and_end_each_task(lively):
    reader = RunReader(lively.path)
    states: dict[str, str] = {}
    for record in reader.records(TASKS):
        states[record["task_id"]] = record["state"]
    assert len(states) == LIVELY.tasks
    assert set(states.values()) == {"succeeded", "failed"}
    failures = sum(1 for _ in reader.records(FAILURES))
    truth = lively.truth
    assert failures == truth["failed"] + truth["retried"] + truth["workers_lost"]
    assert not any(found.missing or found.broken for found in reader.problems.values())


def test_same_seed_gives_the_same_facts_and_another_seed_others():
    def facts_of(seed):
        shape = Shape(tasks=50, failing=0.1, retries=2, lost_workers=1, duration=0.01, seed=seed)
        return list(SyntheticCluster(shape).facts())

    assert facts_of(1) == facts_of(1)
    assert facts_of(1) != facts_of(2)


def test_crashed_run_reads_as_lost_and_has_every_task(tmp_path):
    command = [sys.executable, "-m", "benchmarks.synthetic", str(tmp_path), "--tasks", "20"]
    paths = os.pathsep.join(path for path in sys.path if path)
    crashed = subprocess.run(
        [*command, "--crash"],
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        check=False,
    )
    assert crashed.returncode == -signal.SIGKILL
    reader = RunReader(Path(crashed.stdout.decode().strip()))
    assert reader.status == "lost"
    assert not (reader.path / "summary.json").exists()
    assert sum(record["state"] == "succeeded" for record in reader.records(TASKS)) == 20


def row(**changes):
    return Row(**{"key": "a", "what": "something", "measured": 1.0, **changes})


def test_budget_is_the_most_that_is_allowed():
    assert row(budget=1.0).met is True
    assert row(budget=0.9).met is False
    assert row().met is None


def test_short_form_fails_on_counts_only():
    slow = row(budget=0.5)
    lossy = row(budget=0.5, kind="count")
    assert table.missed([slow, lossy, row()]) == [slow, lossy]
    assert table.missed([slow, lossy, row()], counts_only=True) == [lossy]


def test_ceiling_holds_where_a_budget_is_out_of_reach():
    known = row(budget=0.5, ceiling=1.2, kind="count")
    worse = row(budget=0.5, ceiling=0.9, kind="count")
    assert table.missed([known, worse]) == [known, worse]
    assert table.missed([known, worse], counts_only=True) == [worse]


def test_row_of_rounds_shows_median_spread_and_control():
    found = Row.of_rounds("a", "what", [3.0, 1.0, 2.0], [1.0, 0.9, 1.3])
    assert (found.measured, found.spread, found.floor) == (2.0, (1.0, 3.0), (1.0, 0.9, 1.3))


def test_row_of_ratios_has_the_standard_error_of_the_mean():
    assert Row.of_ratios("a", "what", [1.0, 1.2, 1.1], [1.0]).note == (
        "mean 1.100 ± 0.058 (standard error)"
    )
    assert Row.of_ratios("a", "what", [1.0], [1.0], note="x").note == "x"


def test_ways_take_turns_there_and_back_and_none_stays_in_the_middle():
    order: list[str] = []

    def execute(letter: str) -> Sample:
        order.append(letter)
        return Sample(float(len(order)), {})

    measure = {letter: functools.partial(execute, letter) for letter in "bio"}
    (taken,) = clusters.rounds(1, 3, measure, "test")
    assert "".join(order) == "biooibiobboiobiibo"
    assert [sample.wall for sample in taken["b"]] == [1, 6, 9, 10, 14, 17]
    assert clusters.ratios([taken], "i") == [
        (2 + 5 + 7 + 12 + 15 + 16) / (1 + 6 + 9 + 10 + 14 + 17)
    ]
    assert clusters.controls([taken]) == [(6 + 10 + 17) / (1 + 9 + 14)]


def test_rows_survive_json():
    rows = [Row.of_rounds("a", "what", [3.0, 1.0], [1.0, 0.9], budget=2.0), row(note="x")]
    assert table.rows_of(json.loads(json.dumps(table.documents(rows)))) == rows


def test_table_shows_each_row_and_its_verdict():
    rows = [row(what="fast", budget=2, unit="s"), row(what="slow", budget=0.5), row(what="told")]
    lines = table.render(rows).splitlines()
    assert lines[2].split() == ["fast", "≤", "2", "s", "1", "s", "yes"]
    assert lines[3].split() == ["slow", "≤", "0.500", "1", "NO"]
    assert lines[4].split() == ["told", "1"]
    assert table.render_markdown(rows).count("\n") == 4


def test_plot_has_a_dot_for_each_round():
    rows = [Row.of_rounds("a", "5 <tasks>: wall", [1.01, 1.02], [1.0, 0.99], budget=1.03)]
    drawn = plot.ratios_plot([*rows, row(budget=3.0)])
    assert drawn.count("fill-opacity") == 4
    assert "5 &lt;tasks&gt;" in drawn
