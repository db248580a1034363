"""The quick starts of docs/opentelemetry.md, followed to the letter but for the ports."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from servers.harness import Collector, ConfiguredCollector, Jaeger, http_get, wait_until

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "opentelemetry.md").read_text()


def block(title: str) -> str:
    """The code under a mark of the page."""
    found = re.search(rf"<!-- quick start: {title} -->\n```\w+\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    return found[1]


def follow(shell: str, collector: ConfiguredCollector, work: Path) -> tuple[float, str]:
    """Save the program, type the shell's lines; what the program printed."""
    # The exporter's protocol follows from the port, 4317; this one is another.
    typed = "export OTEL_EXPORTER_OTLP_PROTOCOL=grpc\n" + shell.replace(
        "http://localhost:4317", collector.grpc
    )
    assert collector.grpc in typed
    work.mkdir()
    (work / "flood.py").write_text(block("program"))
    done = subprocess.run(
        ["sh", "-ec", typed],
        cwd=work,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    answer, trace_id = done.stdout.split()
    return float(answer), trace_id


def test_the_quick_start_for_jaeger_shows_the_run(
    servers: Callable[..., Any], jaeger: Jaeger, tmp_path: Path
):
    collector = servers(
        ConfiguredCollector,
        ROOT / "collector-config" / "jaeger.yaml",
        {"JAEGER_ENDPOINT": jaeger.grpc},
    )
    answer, trace_id = follow(block("shell"), collector, tmp_path / "flood")
    assert answer > 400

    assert wait_until(jaeger.services, "a service") == ["flood"]
    root = wait_until(lambda: jaeger.trace(trace_id), "the trace that the program printed")
    assert "run flood" in {span["name"] for span in root}
    assert sum(span["name"].startswith("worker ") for span in root) == 2

    def gauges() -> list[dict[str, Any]]:
        traces = {trace for name in ("rainfall", "read gauge") for trace in found(name)}
        spans = {span["span_id"]: span for trace in traces for span in jaeger.trace(trace)}
        return [
            spans[span["parent_span_id"]]
            for span in spans.values()
            if span["name"] == "read gauge" and span["parent_span_id"] in spans
        ]

    def found(name: str) -> list[str]:
        return jaeger.search("flood", operation=name)

    parents = wait_until(
        lambda: parents if len(parents := gauges()) >= 40 else None, "40 gauges inside attempts"
    )
    assert {span["name"] for span in parents} == {"rainfall"}
    assert wait_until(lambda: found("forecast"), "the traces of forecasts")


def test_the_quick_start_for_grafana_fills_the_dashboards_and_the_logs(
    servers: Callable[..., Any],
    start_collector: Callable[..., Collector],
    jaeger: Jaeger,
    tmp_path: Path,
):
    loki = start_collector(signals=["logs"])
    collector = servers(
        ConfiguredCollector,
        ROOT / "collector-config" / "grafana.yaml",
        {"TEMPO_ENDPOINT": jaeger.grpc, "LOKI_ENDPOINT": loki.http},
    )
    _, trace_id = follow(block("shell for Grafana"), collector, tmp_path / "flood")
    assert wait_until(lambda: jaeger.trace(trace_id), "the trace that the program printed")
    status, page = http_get(f"http://127.0.0.1:{collector.port(9464)}/metrics")
    assert status == 200
    counts = re.findall(
        r'^dask_task_count\{.*dask_task_state="succeeded".*service_name="flood".*\} (\S+)$',
        page.decode(),
        re.MULTILINE,
    )
    assert [float(count) for count in counts] == [50]
    assert {record["resource"]["service.name"] for record in loki.log_records()} == {"flood"}
