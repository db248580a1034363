"""``opentelemetry-instrument`` on an untouched script, with a real collector."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections import Counter
from pathlib import Path

import pytest

from scalable_runs.reader import find_runs
from scalable_runs.schema import TASKS
from servers.harness import Collector
from servers.installed import entry_points

SCRIPT = """
from distributed import Client, LocalCluster, worker_client
from opentelemetry import trace

def inner(x):
    return x + 1

def outer(x):
    with trace.get_tracer("app").start_as_current_span("own work"), worker_client() as client:
        return client.submit(inner, x).result()

if __name__ == "__main__":
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster:
        with Client(cluster) as client:
            print(sum(client.gather(client.map(outer, range(4)))))
"""


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A directory for the import path with the entry points that an installation has."""
    return entry_points(tmp_path / "site")


def test_an_untouched_script_is_recorded(collector: Collector, tmp_path: Path, installed: Path):
    program = Path(sysconfig.get_path("scripts")) / "opentelemetry-instrument"
    assert program.exists()
    (tmp_path / "app.py").write_text(SCRIPT)
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("OTEL_", "SCALABLE_"))}
    path = os.pathsep.join(filter(None, [str(installed), environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        [str(program), sys.executable, "app.py"],
        cwd=tmp_path,
        env={
            **environ,
            "PYTHONPATH": path,
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.http,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            # Names the service of the whole program, in its own providers too.
            "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": "scalable",
            "SCALABLE_PROJECT": "untouched",
            "OTEL_METRIC_EXPORT_INTERVAL": "1000",
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "10"
    collector.stop()
    (run,) = find_runs(tmp_path / ".scalable" / "runs")  # no worker made one of its own
    states = Counter(record["state"] for record in run.records(TASKS))
    assert states == {"submitted": 8, "running": 8, "succeeded": 8}
    spans = collector.spans()
    by_id = {span["span_id"]: span for span in spans}
    consumers = Counter(span["name"] for span in spans if span["kind"] == "consumer")
    assert consumers == {"outer": 4, "inner": 4}
    for span in spans:
        assert not span["parent_span_id"] or span["parent_span_id"] in by_id
        if span["name"] == "inner":
            # Under the task that submitted it, however deep it stood there.
            chain = [span["name"]]
            while span["parent_span_id"]:
                span = by_id[span["parent_span_id"]]
                chain.append(span["name"])
            assert "outer" in chain
            assert len({by_id[one]["trace_id"] for one in by_id if by_id[one] is span}) == 1
    signals = [*spans, *collector.metric_points(), *collector.log_records()]
    assert {signal["resource"]["service.name"] for signal in signals} == {"untouched"}
    attempts = [
        point["value"]
        for point in collector.metric_points("dask.task.attempts")
        if point["attributes"]["dask.task.name"] == "outer"
        and point["attributes"]["dask.task.result"] == "success"
    ]
    assert attempts[-1] == 4
