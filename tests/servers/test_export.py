"""`scalable export`: the same spans again, later, from the directory alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from scalable_runs.schema import TASKS
from servers import otlp_json
from servers.harness import Collector, free_ports
from servers.programs import run_program
from servers.test_run_over_otlp import BODY, attempts, endpoint


def export(
    directory: Path, *arguments: str, environ: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("OTEL_", "SCALABLE_"))}
    return subprocess.run(
        [sys.executable, "-c", "from scalable.cli import main; main()", "export", *arguments],
        cwd=directory,
        env={**clean, **(environ or {})},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def shape(span: dict[str, Any]) -> tuple[Any, ...]:
    return (
        span["trace_id"],
        span["parent_span_id"],
        span["name"],
        span["kind"],
        span["start"],
        span["end"],
        span["status"],
    )


def test_what_is_sent_again_are_the_same_spans(
    start_collector: Callable[..., Collector], tmp_path: Path
):
    live, later = start_collector(), start_collector()
    done = run_program(tmp_path, BODY, endpoint(live, "http/protobuf"))
    sent = export(tmp_path, "--run-id", done.said["id"], "--otlp", later.http, "--json")
    assert sent.returncode == 0, sent.stderr
    said = json.loads(sent.stdout)
    live.stop()
    later.stop()
    before = {span["span_id"]: span for span in live.spans()}
    again = {span["span_id"]: span for span in later.spans()}
    assert {i: shape(span) for i, span in again.items()} == {
        i: shape(span) for i, span in before.items()
    }
    assert said["attempts"] == len(attempts(done))
    assert said["spans"] == len(again)
    failed = next(s for s in before.values() if s["name"] == "fail")
    repeated = again[failed["span_id"]]["attributes"]
    internal = {"scalable.record", "scalable.provider"}
    internal |= {name for name in failed["attributes"] if name.startswith("scalable.observed")}
    assert {k: v for k, v in failed["attributes"].items() if k not in internal} == repeated
    assert said["log_records"] == len(later.log_records()) > 0
    counts = done.run.summary()["counts"]
    made = sum(point["value"] for point in later.metric_points("dask.task.attempts"))
    assert made == counts["attempts"]


def test_a_file_of_otlp_holds_the_same(tmp_path: Path):
    pytest.importorskip("opentelemetry.exporter.otlp.proto.common")
    done = run_program(tmp_path, BODY)
    sent = export(tmp_path, "--file", "run.jsonl", "--all")
    assert sent.returncode == 0, sent.stderr
    spans = otlp_json.spans(tmp_path / "run.jsonl")
    by_id = {span["span_id"]: span for span in spans}
    assert len(by_id) == len(spans)
    assert set(attempts(done)) <= set(by_id)
    assert all(not s["parent_span_id"] or s["parent_span_id"] in by_id for s in spans)


def test_a_crashed_run_is_sent_whole(collector: Collector, tmp_path: Path):
    script = f"""
    import os, time
    from distributed import Client, LocalCluster
    import scalable
    def double(x): return 2 * x
    def wait(): time.sleep(600)
    if __name__ == "__main__":
        with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as cluster:
            client = Client(cluster)
            run = scalable.instrument(client)
            client.gather(client.map(double, range(5)))
            hanging = client.submit(wait)
            path = run.run_dir / "{TASKS}"
            while [path.read_text().count(word) for word in ("running", "succeeded")] != [6, 5]:
                time.sleep(0.05)
            print(os.getpid(), flush=True)
            time.sleep(600)
    """
    (tmp_path / "crash.py").write_text(textwrap.dedent(script))
    with subprocess.Popen(
        [sys.executable, "crash.py"], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert int(process.stdout.readline()) == process.pid
        os.kill(process.pid, signal.SIGKILL)
    sent = export(
        tmp_path, "--otlp", collector.grpc, environ={"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
    )
    assert sent.returncode == 0, sent.stderr
    collector.stop()
    spans = collector.spans()
    by_id = {span["span_id"]: span for span in spans}
    assert all(not s["parent_span_id"] or s["parent_span_id"] in by_id for s in spans)
    consumers = [span for span in spans if span["kind"] == "consumer"]
    assert sorted(span["name"] for span in consumers) == ["double"] * 5 + ["wait"]
    (hanging,) = [span for span in consumers if span["name"] == "wait"]
    assert hanging["attributes"]["error.type"] == "RunLost"
    (root,) = [span for span in spans if span["name"].startswith("run ")]
    assert root["status"] == "error"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--otlp", "http://x", "--file", "y"), 2, "exclude each other"),
        (("--otlp", "collector:4318"), 1, "is not the address of a collector"),
        ((), 1, "Nowhere to send to: give --otlp URL or --file FILE"),
        (("--file", "no/such/place"), 1, "no/such/place cannot be written"),
    ],
)
def test_wrong_usage_shows_the_right_usage(
    tmp_path: Path, arguments: tuple[str, ...], code: int, said: str
):
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor

    from scalable_runs.otel.exporter import RunsSpanExporter  # any run will do

    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(RunsSpanExporter()))
    provider.get_tracer("t").start_span("s").end()
    provider.shutdown()
    done = export(tmp_path, *arguments)
    assert done.returncode == code
    assert said in done.stderr


def test_a_collector_that_is_not_there_is_an_error_with_its_reason(tmp_path: Path):
    run_program(tmp_path, "result = client.submit(double, 1).result()", workers=1)
    (port,) = free_ports(1)
    done = export(
        tmp_path,
        "--otlp",
        f"http://127.0.0.1:{port}",
        environ={"OTEL_EXPORTER_OTLP_TIMEOUT": "1"},
    )
    assert done.returncode == 1
    where = f"http://127.0.0.1:{port}"
    assert f"The collector at {where} does not take it: Connection refused." in done.stderr
    assert "Traceback" not in done.stderr
