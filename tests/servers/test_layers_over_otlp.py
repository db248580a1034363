"""A large collection over OTLP, at a span budget far below its number of tasks."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from scalable_runs.schema import TASKS
from servers.checker import Run, check, report
from servers.checker.model import Received
from servers.harness import Collector
from servers.programs import run_program

BODY = """
    import dask.bag
    from distributed import span

    bag = dask.bag.from_sequence(range(800), npartitions=200)
    with span("prepare"):
        total = bag.map(double).filter(lambda x: x % 3 == 0).sum(split_every=4).compute()
    result = [total, sum(client.gather(client.map(double, range(150))))]
"""
BUDGET = 30


def test_a_collection_arrives_as_its_layers_at_a_small_budget(collector: Collector, tmp_path: Path):
    environ = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.http,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "SCALABLE_SPAN_BUDGET": str(BUDGET),
    }
    done = run_program(tmp_path, BODY, environ)
    collector.stop()
    assert done.said["result"] == [sum(2 * x for x in range(800) if x % 3 == 0), 150 * 149]
    received = Received(collector.spans(), collector.metric_points(), collector.log_records())
    found = [it for it in check(received, Run(done.run)) if it.rule != "exemplars"]
    assert report(found) == ""

    spans = {span["span_id"]: span for span in received.spans}
    layers = [span for span in spans.values() if "dask.layer.name" in span["attributes"]]
    submissions = {it["name"]: it for it in spans.values() if it["kind"] == "producer"}
    assert set(submissions) == {"compute sum-aggregate", "map double"}
    assert {layer["parent_span_id"] for layer in layers} == {
        it["span_id"] for it in submissions.values()
    }
    assert submissions["compute sum-aggregate"]["attributes"]["dask.span.name"] == ["prepare"]
    # The submissions say how large their graphs are.
    known = {it["task_id"] for it in done.run.records(TASKS) if it["state"] == "submitted"}
    sizes = {name: it["attributes"]["dask.graph.tasks"] for name, it in submissions.items()}
    assert sizes == {"compute sum-aggregate": len(known) - 150, "map double": 150}
    assert submissions["map double"]["attributes"]["dask.graph.layers"] == 1
    shown = sum(
        it["parent_span_id"] == submissions["compute sum-aggregate"]["span_id"] for it in layers
    )
    # Layers of one task have no span.
    in_all = submissions["compute sum-aggregate"]["attributes"]["dask.graph.layers"]
    assert shown <= in_all <= shown + 2
    # They say of all tasks what the budget says of a few.
    names = Counter(it["task_name"] for it in done.run.records(TASKS) if it["state"] == "succeeded")
    counted: Counter[str] = Counter()
    for layer in layers:
        attributes = layer["attributes"]
        counted[attributes["dask.task.name"]] += attributes["dask.layer.tasks.succeeded"]
        assert (
            sum(attributes["dask.rollup.duration.bucket_counts"])
            == attributes["dask.layer.attempts"]
        )
    assert sum(counted.values()) > 300
    assert all(names[name] - count in (0, 1, 2) for name, count in counted.items())
    sent = [span for span in spans.values() if span["kind"] == "consumer"]
    assert len(sent) <= 2 * BUDGET
