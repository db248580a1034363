"""The alert rules: made by the code, accepted by Prometheus, and given when they should be."""

from __future__ import annotations

import importlib.util
import re
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from scalable.telemetry import instruments
from servers.harness import COLLECTOR_CONFIG, program

RULES = COLLECTOR_CONFIG / "grafana" / "alerts.yaml"
RUN = 'service_name="floods", scalable_run_id="run-1"'
#: The time of a rule's evaluation at which series that begin after 5 minutes have been seen.
LATER = "6m"


@pytest.fixture
def code(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module that makes the rules."""
    pytest.importorskip("grafana_foundation_sdk")
    monkeypatch.syspath_prepend(str(COLLECTOR_CONFIG))
    spec = importlib.util.spec_from_file_location("alerts", COLLECTOR_CONFIG / "alerts.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def promtool(*arguments: str | Path) -> str:
    path = Path(program("prometheus")).with_name("promtool")
    done = subprocess.run([path, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_file_is_what_the_code_makes(code: ModuleType):
    assert RULES.read_text() == code.rendered(), "`make docs` writes it anew"


def test_prometheus_accepts_the_rules():
    assert "SUCCESS: 3 rules found" in promtool("check", "rules", RULES)


def test_datasources_ask_for_metrics_that_exist(code: ModuleType):
    path = COLLECTOR_CONFIG / "grafana" / "provisioning" / "datasources" / "scalable.yaml"
    known = {
        code.series_name(it, part) for it in instruments.INSTRUMENTS for part in ("", "bucket")
    }
    asked = set(re.findall(r"\b(?:dask|scalable)_\w+(?=\{)", path.read_text()))
    assert asked
    assert asked <= known


def series(name: str, values: str, labels: str = "") -> dict[str, str]:
    return {"series": f"{name}{{{RUN}{labels}}}", "values": values}


def expected(name: str, at: str, labels: dict[str, str] | None) -> dict[str, Any]:
    """That an alert is given at a time with more labels; with None, that it is not."""
    common = {"service_name": "floods", "scalable_run_id": "run-1"}
    alerts = [] if labels is None else [{"exp_labels": {**common, **labels}}]
    return {"eval_time": at, "alertname": name, "exp_alerts": alerts}


def check(tmp_path: Path, input_series: list[dict[str, str]], *wanted: dict[str, Any]) -> None:
    """Evaluate the rules each minute over series with a value each 15 s."""
    rules = yaml.safe_load(RULES.read_text())
    for rule in rules["groups"][0]["rules"]:
        rule["annotations"] = {}  # texts are compared whole
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules))
    test = {
        "rule_files": ["rules.yaml"],
        "evaluation_interval": "1m",
        "tests": [
            {"interval": "15s", "input_series": input_series, "alert_rule_test": list(wanted)}
        ],
    }
    path = tmp_path / "test.yaml"
    path.write_text(yaml.safe_dump(test))
    promtool("test", "rules", path)


def test_a_lost_worker_is_told_also_of_a_run_of_one_scrape(tmp_path: Path):
    name, reason = "ScalableWorkerLost", ', dask_worker_reason="heartbeat-timeout"'
    labels = {"severity": "warning", "dask_worker_reason": "heartbeat-timeout"}
    check(
        tmp_path,
        [series("dask_worker_lost_total", "_x20 1 _x60", reason)],
        expected(name, "4m", None),
        expected(name, LATER, labels),
        expected(name, "15m", None),
    )


def test_a_lost_worker_is_told_once_while_the_run_goes_on(tmp_path: Path):
    name, reason = "ScalableWorkerLost", ', dask_worker_reason="connection-lost"'
    labels = {"severity": "warning", "dask_worker_reason": "connection-lost"}
    check(
        tmp_path,
        [series("dask_worker_lost_total", "0x20 1x60", reason)],
        expected(name, "4m", None),
        expected(name, LATER, labels),
        expected(name, "15m", None),
    )


@pytest.mark.parametrize(("failed", "told"), [(30, True), (5, False)])
def test_a_share_of_failures_is_told(tmp_path: Path, failed: int, told: bool):
    check(
        tmp_path,
        [
            series("dask_task_attempts_total", "0x19 100x60", ', dask_task_result="success"'),
            series("dask_task_attempts_total", f"0x19 {failed}x60", ', dask_task_result="failure"'),
        ],
        expected("ScalableFailureShare", LATER, {"severity": "warning"} if told else None),
        expected("ScalableFailureShare", "30m", None),
    )


def test_a_few_failures_of_a_few_attempts_are_not_told(tmp_path: Path):
    check(
        tmp_path,
        [series("dask_task_attempts_total", "0x19 5x60", ', dask_task_result="failure"')],
        expected("ScalableFailureShare", LATER, None),
    )


@pytest.mark.parametrize(
    "dropped",
    [
        series("otel_sdk_exporter_span_exported_total", "_x20 7x60", ', error_type="503"'),
        series("otel_sdk_processor_log_processed_total", "_x20 7x60", ', error_type="queue_full"'),
        series("scalable_recorder_facts_dropped_total", "0x19 7x60"),
    ],
    ids=["not accepted", "queue full", "of the scheduler"],
)
def test_dropped_telemetry_is_told(tmp_path: Path, dropped: dict[str, str]):
    name = "ScalableTelemetryDropped"
    check(
        tmp_path,
        [dropped, series("otel_sdk_exporter_span_exported_total", "9x80")],
        expected(name, "4m", None),
        expected(name, LATER, {"severity": "info"}),
        expected(name, "30m", None),
    )
