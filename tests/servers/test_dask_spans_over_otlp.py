"""Blocks of Dask's `span()` over OTLP, at a small span budget, and sent from the directory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scalable_runs.reader import RunReader
from scalable_runs.schema import SPANS
from servers.checker import Run, check, report
from servers.checker.model import Received
from servers.harness import Collector, wait_until
from servers.programs import run_program
from servers.test_export import export, shape

BODY = """
    from distributed import span, wait, worker_client
    from opentelemetry import trace
    from opentelemetry.trace import NonRecordingSpan

    def nested(x):
        with worker_client() as inner:
            return sum(inner.gather(inner.map(double, range(x))))

    with span("etl"):
        wait(client.map(double, range(100), pure=False))
        with span("load", "clean"):
            client.submit(nested, 3).result()
            wait(client.map(fail, range(3), pure=False))
    with span("loop"):
        kept = []
        for number in range(130):
            with span("step"):
                kept.append(client.submit(double, number, pure=False))
        wait(kept)
    result = client.submit(double, 1).result()
"""
BUDGET = 20


def test_blocks_arrive_with_their_submissions_at_a_small_budget_and_again_later(
    start_collector: Callable[..., Collector], tmp_path: Path
):
    live, later = start_collector(), start_collector()
    environ = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": live.http,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "SCALABLE_SPAN_BUDGET": str(BUDGET),
    }
    done = run_program(tmp_path, BODY, environ)
    options = ("--run-id", done.said["id"], "--otlp", later.http, "--span-budget", str(BUDGET))
    sent = export(tmp_path, *options, "--json")
    assert sent.returncode == 0, sent.stderr
    live.stop()
    later.stop()
    received = Received(live.spans(), live.metric_points(), live.log_records())
    assert report(check(received, Run(done.run))) == ""

    spans = {span["span_id"]: span for span in received.spans}
    blocks = {i: it for i, it in spans.items() if "dask.span.blocks" in it["attributes"]}
    names = [it["name"] for it in blocks.values()]
    assert {"etl", "load", "clean", "loop", "step"} == set(names)
    assert names.count("step") == 101
    assert sum(it["attributes"]["dask.span.blocks"] for it in blocks.values()) == 4 + 130
    etl, loop = (next(it for it in blocks.values() if it["name"] == n) for n in ("etl", "loop"))
    assert etl["attributes"]["dask.span.tasks.known"] == 100 + 1 + 3 + 3
    assert etl["attributes"]["dask.span.tasks.failed"] == 3
    assert loop["attributes"]["dask.span.tasks.succeeded"] == 130
    submissions = [it for it in spans.values() if it["kind"] == "producer"]
    for span in submissions:
        # The one that a task made is below its attempt.
        is_nested = spans.get(span["parent_span_id"], {}).get("kind") == "consumer"
        if "dask.span.id" in span["attributes"] and not is_nested:
            assert span["parent_span_id"] in blocks
    # Spans that are not attempts are the same, whenever they are sent.
    again = {span["span_id"]: span for span in later.spans()}
    ours = {i: it for i, it in again.items() if "dask.span.blocks" in it["attributes"]}
    assert {i: shape(it) for i, it in ours.items()} == {i: shape(it) for i, it in blocks.items()}
    assert {i: it["attributes"] for i, it in ours.items()} == {
        i: it["attributes"] for i, it in blocks.items()
    }
    assert {it["parent_span_id"] for it in again.values()} <= {*again, ""}


KILLED = """
    import json, sys, time
    from distributed import Client, LocalCluster, span
    import scalable

    def slow(x):
        time.sleep(60)

    def inc(x):
        return x + 1

    if __name__ == "__main__":
        with LocalCluster(n_workers=1, threads_per_worker=2, processes=False,
                          dashboard_address=":0") as cluster, Client(cluster) as client:
            run = scalable.instrument(client)
            with span("outer"), span("inner"):
                client.submit(inc, 1).result()
                futures = client.map(slow, range(2))
                time.sleep(1.5)
                run.flush(10)
                print(json.dumps([run.run_id, run._recorder._process.pid]), flush=True)
                time.sleep(60)
"""


def spans_of(collector: Collector) -> dict[str, dict[str, Any]]:
    return {span["span_id"]: span for span in collector.spans()}


def killed_program(directory: Path, collector: Collector, *, recorder: bool) -> str:
    """Run the program and kill it in a block, with its recorder if asked; return the run's id."""
    directory.mkdir()
    program = directory / "killed.py"
    program.write_text(textwrap.dedent(KILLED))
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("OTEL_", "SCALABLE_"))}
    process = subprocess.Popen(
        [sys.executable, str(program)],
        cwd=directory,
        env={**clean, "OTEL_EXPORTER_OTLP_ENDPOINT": collector.http},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        run_id, pid = json.loads(process.stdout.readline())
        if recorder:
            os.kill(pid, signal.SIGSTOP)  # it has no time to write anything
        process.kill()
        if recorder:
            os.kill(pid, signal.SIGKILL)
    finally:
        process.kill()
        process.wait(30)
    return run_id


def test_a_program_that_is_killed_in_a_block_leaves_its_span(
    start_collector: Callable[..., Collector], tmp_path: Path
):
    live, later = start_collector(), start_collector()
    runs: dict[str, str] = {}
    for kind in ("program", "all"):
        runs[kind] = killed_program(tmp_path / kind, live, recorder=kind == "all")
    directory = tmp_path / "program" / ".scalable" / "runs" / runs["program"]
    wait_until(lambda: names_in(directory) >= {"outer", "inner"}, "the recorder to end")
    for kind, run_id in runs.items():
        sent = export(tmp_path / kind, "--run-id", run_id, "--otlp", later.http, "--all")
        assert sent.returncode == 0, sent.stderr
    wait_until(lambda: {"outer", "inner"} <= {it["name"] for it in live.spans()}, "live spans")
    live.stop()
    later.stop()
    again = {span["span_id"]: span for span in later.spans()}
    assert len(again) == len(later.spans())
    assert {it["parent_span_id"] for it in again.values()} <= {*again, ""}
    for name in ("outer", "inner"):
        found = [it for it in again.values() if it["name"] == name]
        assert len({it["trace_id"] for it in found}) == len(found) == 2
        for block in found:
            path = block["attributes"]["dask.span.name"]
            assert path == ["outer", "inner"][: len(path)]
            around = again[block["parent_span_id"]]["name"] if name == "inner" else None
            assert around in (None, "outer")
    # What was sent during the run has the same spans.
    blocks = {i: it for i, it in spans_of(live).items() if it["name"] in ("outer", "inner")}
    assert len(blocks) == 2
    assert {i: shape(again[i]) for i in blocks} == {i: shape(it) for i, it in blocks.items()}
    submissions = [it for it in spans_of(live).values() if it["kind"] == "producer"]
    trace_ids = {it["trace_id"] for it in blocks.values()}
    below = [it for it in submissions if it["trace_id"] in trace_ids]
    assert {it["name"] for it in below} == {"submit inc", "map slow"}
    assert {it["parent_span_id"] for it in below} == {
        i for i, it in blocks.items() if it["name"] == "inner"
    }


def names_in(directory: Path) -> set[str]:
    return {it["name"] for it in RunReader(directory).records(SPANS)}
