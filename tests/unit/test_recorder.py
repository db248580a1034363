"""The recorder on its own, fed by a simulated cluster."""

from __future__ import annotations

import pytest

from benchmarks import synthetic
from benchmarks.synthetic import Shape
from scalable.telemetry.providers import Exits
from scalable.telemetry.recorder import STRIDE
from scalable_runs.layout import TASKS
from scalable_runs.reader import RunReader


@pytest.mark.lenient
def test_an_internal_error_costs_the_facts_of_one_stride(tmp_path, monkeypatch):
    original, calls = Exits.export, 0

    def broken_once(self, *arguments):
        nonlocal calls
        calls += 1
        if calls == 5:
            raise RuntimeError("planted")
        original(self, *arguments)

    monkeypatch.setattr(Exits, "export", broken_once)
    recorded = synthetic.record(tmp_path, Shape(tasks=1_000), tolerant=True)
    assert recorded.errors == {"recorder:RuntimeError": 1}
    lines = sum(1 for _ in RunReader(recorded.path).records(TASKS))
    # Three lines a task; a fact makes two at most.
    assert 3_000 - 2 * STRIDE <= lines < 3_000
