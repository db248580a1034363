"""Graphs that tasks send, over OTLP at any span budget, and again from the directory."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from scalable.telemetry import semconv
from servers import otlp_json
from servers.checker import Run, check, report
from servers.checker.model import Received
from servers.harness import Collector
from servers.programs import run_program
from servers.test_export import export

SETUP = """
import os, signal
from pathlib import Path
import dask.bag
from distributed import worker_client

def step(x):
    return x + 1

def middle(x):
    with worker_client() as client:
        return sum(client.gather(client.map(step, range(x, x + 5), pure=False)))

def top(x):
    with worker_client() as client:
        return client.submit(middle, x, pure=False).result()

def collect(x):
    return dask.bag.from_sequence(range(x), npartitions=4).map(step).sum().compute()

def die(x):
    with worker_client() as client:
        total = sum(client.gather(client.map(step, range(100, 104), pure=False)))
        if not Path(x).exists():
            Path(x).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return total
"""
BODY = """
    result = [sum(client.gather(client.map(top, range(0, 200, 10))))]
    result.append(sum(client.gather(client.map(collect, range(8, 12)))))
    result.append(client.submit(die, "died").result())
"""
RESULT = [sum(5 * x + 15 for x in range(0, 200, 10)), 36 + 45 + 55 + 66, 410]


@pytest.mark.parametrize("budget", [1, 40, 5_000])
def test_submissions_of_tasks_have_their_parents(collector: Collector, tmp_path: Path, budget: int):
    done = run_program(
        tmp_path,
        BODY,
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.http,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "SCALABLE_SPAN_BUDGET": str(budget),
        },
        setup=SETUP,
    )
    collector.stop()
    assert done.said["result"] == RESULT
    received = Received(collector.spans(), collector.metric_points(), collector.log_records())
    found = [it for it in check(received, Run(done.run)) if it.rule != "exemplars"]
    assert report(found) == ""
    live = {span["span_id"]: span for span in received.spans}
    sent = export(tmp_path, "--file", "again.jsonl", "--span-budget", str(budget))
    assert sent.returncode == 0, sent.stderr
    spans = otlp_json.spans(tmp_path / "again.jsonl")
    assert report(check(Received(spans, [], []))) == ""
    again = {span["span_id"]: span for span in spans}
    nested = nested_of(live)
    (root,) = [span for span in live.values() if semconv.SPANS_SENT in span["attributes"]]
    left_out = root["attributes"].get(semconv.SPANS_NESTED_LEFT_OUT, 0)
    made = [it for it in done.run.records("spans.jsonl") if semconv.SUBMIT_TASK in it["attributes"]]
    assert len(nested) + left_out == len(made)
    if budget < 5_000:
        assert left_out > 0
        return
    assert left_out == 0
    assert Counter(span["name"] for span in nested.values() if span["kind"] == "producer") == {
        "submit middle": 20,
        "map step": 22,
        "compute sum-aggregate": 4,
    }
    assert all(semconv.GRAPH_TASKS in span["attributes"] for span in live.values() if is_one(span))
    # What is exported later is the same, with the sizes of the graphs.
    assert nested == nested_of(again)
    assert live.keys() == again.keys()


def is_one(span: Any) -> bool:
    """Whether a span is a submission."""
    return span["kind"] == "producer"


def nested_of(spans: dict[str, Any]) -> dict[str, Any]:
    """Submissions of tasks, and layers of their graphs."""
    parts = ("name", "kind", "parent_span_id", "trace_id", "start", "end", "attributes")
    return {
        span_id: {part: span[part] for part in parts}
        for span_id, span in spans.items()
        if semconv.SUBMIT_TASK in span["attributes"]
    }
