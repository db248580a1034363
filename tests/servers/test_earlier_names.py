"""Runs of earlier versions are sent with the names of this one."""

from __future__ import annotations

from pathlib import Path

import pytest

from scalable.telemetry.resend.destinations import FileDestination
from scalable.telemetry.resend.resend import resend
from scalable_runs.reader import RunReader
from semconv.model import load
from servers import otlp_json
from servers.live_check import deviations

RUNS = Path(__file__).parents[1] / "fixtures" / "runs"


@pytest.mark.parametrize("name", ["work-8577fde1", "killed-b8590641", "session-ddb343fc"])
def test_signals_of_an_earlier_run_have_the_present_names(tmp_path: Path, name: str):
    pytest.importorskip("opentelemetry.exporter.otlp.proto.common")
    (directory,) = RUNS.glob(f"run-*-{name}")
    path = tmp_path / "run.jsonl"
    destination = FileDestination(path)
    try:
        resend(RunReader(directory), destination, span_budget=None)
    finally:
        destination.close()
    spans, records = otlp_json.spans(path), otlp_json.log_records(path)
    assert spans
    assert deviations(spans, records) == []
    metrics = {point["name"] for point in otlp_json.metric_points(path)}
    assert metrics.isdisjoint(load().renamed["metrics"])
