"""The span budget in a real collector: every parent is there, whoever exports the children."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from scalable.telemetry import semconv
from scalable_runs.reader import find_runs
from scalable_runs.schema import TASKS
from servers import otlp_json
from servers.harness import Collector
from servers.installed import entry_points
from servers.programs import run_program
from servers.test_export import export

TASKS_OF_USER = """
import os
from opentelemetry import trace

def span(name):
    return trace.get_tracer("of.the.user").start_as_current_span(name)

def step(x):
    with span("outer"), span("inner"):
        return x

def nest(x):
    from distributed import worker_client
    with span("around"), worker_client() as other:
        return sum(other.gather(other.map(step, [1_000 * x + 1, 1_000 * x + 2])))

def die(path):
    with span("first"):
        pass
    with span("open"):
        with span("within"):
            pass
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return "survived"
        from scalable.instrumentation.outbox import FLUSH_INTERVAL
        import time
        time.sleep(2 * FLUSH_INTERVAL)  # what has ended has been sent
        os.kill(os.getpid(), 9)
"""


def check(spans: list[dict[str, Any]]) -> None:
    by_id = {span["span_id"]: span for span in spans}
    assert len(by_id) == len(spans)
    for span in spans:
        parent = span["parent_span_id"]
        assert not parent or by_id[parent]["trace_id"] == span["trace_id"]


@pytest.mark.parametrize("budget", [1, 60])
def test_spans_that_are_relayed_have_their_parents(
    collector: Collector, tmp_path: Path, budget: int
):
    done = run_program(
        tmp_path,
        """
        result = [sum(client.gather(client.map(step, range(400))))]
        result.append(sum(client.gather(client.map(nest, range(4)))))
        result.append(client.submit(die, "died").result())
        """,
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.http,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "SCALABLE_SPAN_BUDGET": str(budget),
        },
        setup=TASKS_OF_USER,
    )
    collector.stop()
    assert done.said["result"] == [79_800, 12_012, "survived"]
    spans = collector.spans()
    check(spans)
    sent = Counter(span["trace_id"] for span in spans if span["kind"] == "consumer")
    (most,) = {count for trace, count in sent.items() if count == max(sent.values())}
    assert most == budget  # no place is kept for nothing
    left_out = sum(span["attributes"].get(semconv.ROLLUP_COUNT, 0) for span in spans)
    attempts = {
        record["span_id"]
        for record in done.run.records(TASKS)
        if "span_id" in record and record["state"] not in ("submitted", "running")
    }
    assert sum(sent.values()) + left_out == len(attempts) == 400 + 4 + 8 + 2
    names = Counter(span["name"] for span in spans)
    assert names["outer"] <= budget
    if budget > 1:
        assert names["outer"] > 10
        # The worker was killed while a span was open that has a child.
        (stand_in,) = [span for span in spans if semconv.STAND_IN in span["attributes"]]
        (within,) = [span for span in spans if span["parent_span_id"] == stand_in["span_id"]]
        assert (within["name"], by_parent(spans, stand_in)["status"]) == ("within", "error")
    send_again(tmp_path, budget)


def send_again(tmp_path: Path, budget: int) -> None:
    """Later, from the directory: the rules are the same."""
    for chosen in (["--span-budget", str(budget)], ["--all"]):
        done = export(tmp_path, "--file", "run.jsonl", *chosen)
        assert done.returncode == 0, done.stderr
        spans = otlp_json.spans(tmp_path / "run.jsonl")
        check(spans)
        sent = Counter(span["trace_id"] for span in spans if span["kind"] == "consumer")
        left_out = sum(span["attributes"].get(semconv.ROLLUP_COUNT, 0) for span in spans)
        assert sum(sent.values()) + left_out == 400 + 4 + 8 + 2
        names = Counter(span["name"] for span in spans)
        if chosen == ["--all"]:
            assert names["outer"] == names["inner"] == 408
        else:
            assert max(sent.values()) == budget
            assert names["outer"] <= budget


def by_parent(spans: list[dict[str, Any]], span: dict[str, Any]) -> dict[str, Any]:
    (parent,) = [each for each in spans if each["span_id"] == span["parent_span_id"]]
    return parent


SCRIPT = f"""
{TASKS_OF_USER}
from distributed import Client, LocalCluster

if __name__ == "__main__":
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster:
        with Client(cluster) as client:
            bare = client.map(abs, range(300))
            print(sum(client.gather(bare)) + sum(client.gather(client.map(step, range(100)))))
            print(sum(client.gather(client.map(nest, range(4)))))
"""


def test_spans_that_workers_export_have_their_parents(collector: Collector, tmp_path: Path):
    installed = entry_points(tmp_path / "site")
    (tmp_path / "app.py").write_text(SCRIPT)
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("OTEL_", "SCALABLE_"))}
    program = str(Path(sysconfig.get_path("scripts")) / "opentelemetry-instrument")
    done = subprocess.run(
        [program, sys.executable, "app.py"],
        cwd=tmp_path,
        env={
            **environ,
            "PYTHONPATH": os.pathsep.join(
                filter(None, [str(installed), environ.get("PYTHONPATH", "")])
            ),
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.http,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "SCALABLE_SPAN_BUDGET": "5",
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-2:] == [str(44_850 + 4_950), "12012"]
    collector.stop()
    (run,) = find_runs(tmp_path / ".scalable" / "runs")
    spans = collector.spans()
    check(spans)
    sent = Counter(span["name"] for span in spans if span["kind"] == "consumer")
    # Each of these has children; of the others the budget holds.
    assert (sent["step"], sent["nest"]) == (108, 4)
    assert sent["abs"] <= 5
    assert Counter(span["name"] for span in spans)["inner"] == 108
    left_out = sum(span["attributes"].get(semconv.ROLLUP_COUNT, 0) for span in spans)
    assert sum(sent.values()) + left_out == run.summary()["counts"]["attempts"] == 412
