"""A layer of a graph has a span between its submission and its attempts; every parent is there."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import dask.bag
import pytest
from distributed import Client, LocalCluster, span, wait, worker_client

import scalable
from scalable_runs.reader import RunReader
from scalable_runs.schema import SPANS, TASKS

#: What ends an attempt.
ENDS = {"succeeded", "failed", "cancelled", "retried", "lost"}


def inc(x: int) -> int:
    return x + 1


def odd(x: int) -> int:
    if x % 2 == 0:
        raise ValueError("even")
    return x


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0"
    ) as cluster:
        yield cluster


@pytest.fixture
def client(cluster) -> Iterator[Client]:
    with Client(cluster) as client:
        yield client


class Recorded:
    """Spans of a run, and its attempts, each with its parent."""

    def __init__(self, directory: Path) -> None:
        reader = RunReader(directory)
        self.spans: dict[str, Any] = {it["span_id"]: it for it in reader.records(SPANS)}
        self.attempts: list[Any] = [
            it for it in reader.records(TASKS) if it["state"] in ENDS and "span_id" in it
        ]
        assert len(self.spans) == sum(1 for _ in reader.records(SPANS))
        known = {*self.spans, *(it["span_id"] for it in self.attempts)}
        for each in (*self.spans.values(), *self.attempts):
            assert each.get("parent_span_id") is None or each["parent_span_id"] in known

    def named(self, name: str) -> list[Any]:
        return [it for it in self.spans.values() if it["name"] == name]

    def below(self, span: Any) -> list[Any]:
        return [it for it in self.attempts if it["parent_span_id"] == span["span_id"]]

    @property
    def layers(self) -> list[Any]:
        return [it for it in self.spans.values() if "dask.layer.name" in it["attributes"]]


def test_a_collection_reads_as_its_layers(client):
    with scalable.instrument(client, recorder="thread") as run:
        total = dask.bag.from_sequence(range(40), npartitions=20).map(inc).map(inc).sum()
        assert total.compute() == sum(range(40)) + 80
    recorded = Recorded(run.run_dir)
    (submission,) = recorded.named("compute sum-aggregate")
    assert recorded.layers
    for layer in recorded.layers:
        children = recorded.below(layer)
        attributes = layer["attributes"]
        assert layer["parent_span_id"] == submission["span_id"]
        assert layer["trace_id"] == submission["trace_id"]
        assert layer["name"] == f"{attributes['dask.task.name']} (layer)"
        assert {it["task_name"] for it in children} == {attributes["dask.task.name"]}
        assert all(attributes["dask.layer.name"] in it["task_id"] for it in children)
        assert len(children) > 1
        assert attributes["dask.layer.tasks.known"] == len(children)
        assert attributes["dask.layer.tasks.succeeded"] == len(children)
        assert attributes["dask.layer.attempts"] == len(children)
        assert sum(attributes["dask.rollup.duration.bucket_counts"]) == len(children)
        assert layer["end_time"] == max(it["timestamp"] for it in children)
        assert layer["start_time"] <= layer["end_time"]
    # What remains: single tasks, such as the last step of the sum.
    names = Counter(it["task_name"] for it in recorded.below(submission))
    assert set(names.values()) == {1}


def test_a_map_is_a_layer_with_its_failures(client):
    with scalable.instrument(client, recorder="thread") as run:
        wait(client.map(odd, range(10), retries=1))
    recorded = Recorded(run.run_dir)
    (layer,) = recorded.layers
    attributes = layer["attributes"]
    assert recorded.spans[layer["parent_span_id"]]["name"] == "map odd"
    assert attributes["dask.layer.tasks.known"] == 10
    assert attributes["dask.layer.tasks.succeeded"] == 5
    assert attributes["dask.layer.tasks.failed"] == 5
    assert attributes["dask.layer.retried"] == 5
    assert attributes["dask.layer.attempts"] == 15 == len(recorded.below(layer))


def test_single_submits_and_single_tasks_have_no_layer(client):
    with scalable.instrument(client, recorder="thread") as run:
        client.gather([client.submit(inc, number, pure=False) for number in range(20)])
        client.gather(client.map(inc, [100]))
        assert dask.delayed(inc)(1).compute() == 2
    recorded = Recorded(run.run_dir)
    assert recorded.layers == []
    names = {it["name"] for it in recorded.spans.values() if it["kind"] == "producer"}
    assert names == {"submit inc", "map inc", "compute inc"}
    (submission,) = recorded.named("submit inc")
    assert len(recorded.below(submission)) == 20


def test_tasks_that_run_again_after_their_layer_was_sent_have_a_further_one(client):
    """A result is lost with its worker, long after the layer's tasks had ended."""
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, dashboard_address=":0"
    ) as cluster:
        with Client(cluster) as client, scalable.instrument(client, recorder="thread") as run:
            futures = client.map(inc, range(8), pure=False)
            wait(futures)
            deadline = time.monotonic() + 30
            while not _layers(run.run_dir):
                assert time.monotonic() < deadline
                run.flush(5)
            worker = next(iter(cluster.workers.values()))
            client.sync(worker.close, nanny=False)
            wait(futures)
            assert client.gather(futures) == list(range(1, 9))
    recorded = Recorded(run.run_dir)
    layers = sorted(recorded.layers, key=lambda it: it["start_time"])
    assert len({layer["span_id"] for layer in layers}) == len(layers)
    assert len(layers) in (1, 2)  # Dask copies results from a worker that closes, if it has time
    assert layers[0]["attributes"]["dask.layer.tasks.known"] == 8
    assert sum(len(recorded.below(layer)) for layer in layers) == len(recorded.attempts)


def _layers(directory: Path) -> list[Any]:
    return [it for it in RunReader(directory).records(SPANS) if it["name"] == "inc (layer)"]


def nested(x: int) -> int:
    with worker_client() as inner:
        return sum(inner.gather(inner.map(inc, range(x, x + 3))))


def test_a_span_of_dask_is_on_the_submission(client):
    with scalable.instrument(client, recorder="thread") as run:
        with span("prepare", "clean") as last:
            wait(client.map(inc, range(4), pure=False))
            assert client.submit(nested, 1).result() == 9
    recorded = Recorded(run.run_dir)
    submission, inner = recorded.named("map inc")
    assert "dask.submission.task" not in submission["attributes"]
    assert inner["attributes"]["dask.submission.task"].startswith("nested-")
    assert submission["attributes"]["dask.span.name"] == ["prepare", "clean"]
    assert submission["attributes"]["dask.span.id"][-1] == last
