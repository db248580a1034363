"""Graphs that tasks send have submissions and layers of their own, whatever happens to a task."""

from __future__ import annotations

import asyncio
import inspect
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import dask
import dask.bag
import pytest
from distributed import Client, LocalCluster, get_client, rejoin, secede, worker_client
from opentelemetry import trace

import scalable
from cluster import tasks
from scalable_runs.reader import RunReader
from scalable_runs.schema import SPANS, TASKS

ENDS = {"succeeded", "failed", "cancelled", "retried", "lost"}


def inc(x: int) -> int:
    return x + 1


def rainfall(x: int) -> int:
    return 2 * x


def with_worker_client() -> int:
    with worker_client() as client:
        return sum(client.gather(client.map(rainfall, range(4))))


def with_get_client() -> int:
    bag = dask.bag.from_sequence(range(8), npartitions=4).map(inc).sum()
    future = get_client().compute(bag)
    secede()
    total = future.result()
    rejoin()
    return total


def with_an_array() -> float:
    da = pytest.importorskip("dask.array")
    return float(da.ones((8, 8), chunks=4).mean(axis=0).sum().compute())


def with_a_dataframe() -> int:
    pandas, dd = pytest.importorskip("pandas"), pytest.importorskip("dask.dataframe")
    frame = dd.from_pandas(pandas.DataFrame({"a": [1, 2, 1, 2], "b": range(4)}), npartitions=2)
    return int(frame.groupby("a").b.sum().compute().sum())


def in_a_loop() -> int:
    with worker_client() as client:
        return sum(client.gather([client.submit(inc, number, pure=False) for number in range(20)]))


def in_batches() -> int:
    with worker_client() as client:
        return sum(client.gather(client.map(rainfall, range(4), batch_size=2, pure=False)))


def of_several_functions() -> int:
    with worker_client() as client:
        return sum(client.gather([client.submit(each, 1, pure=False) for each in (inc, rainfall)]))


def below_a_span() -> int:
    with trace.get_tracer("mine").start_as_current_span("mine"), worker_client() as client:
        return client.submit(inc, 1, pure=False).result()


def of_what_is_known() -> int:
    """The second graph has no task that the scheduler does not know."""
    with worker_client() as client:
        known = client.submit(inc, 77, key="known")
        again = client.compute(dask.delayed(inc)(77, dask_key_name="known"))
        return known.result() + again.result()


#: Each task, its submissions, their graphs and tasks; None for a number that Dask decides.
WAYS: list[tuple[Callable[[], Any], list[tuple[str, int, int | None]]]] = [
    (with_worker_client, [("map rainfall", 1, 4)]),
    (with_get_client, [("compute sum-aggregate", 1, None)]),
    (with_an_array, [("compute sum-aggregate", 1, None)]),
    (with_a_dataframe, [("compute groupby-sum", 1, None)]),
    (in_a_loop, [("submit inc", 20, 20)]),
    (in_batches, [("map rainfall", 2, 4)]),
    (of_several_functions, [("submit inc and others", 2, 2)]),
    (below_a_span, [("submit inc", 1, 1)]),
    (of_what_is_known, [("submit known", 1, 1), ("compute known", 1, 0)]),
]


class Recorded:
    """The spans of a run, with attempts, each with its parent; none is missing."""

    def __init__(self, directory: Path) -> None:
        reader = RunReader(directory)
        self.spans: dict[str, Any] = {it["span_id"]: it for it in reader.records(SPANS)}
        assert len(self.spans) == sum(1 for _ in reader.records(SPANS))
        self.attempts: dict[str, Any] = {
            it["span_id"]: it
            for it in reader.records(TASKS)
            if it["state"] in ENDS and "span_id" in it
        }
        self.all = self.spans | self.attempts
        for each in self.all.values():
            above = each.get("parent_span_id")
            assert above is None or above in self.all, each
            if above is not None:
                assert each["trace_id"] == self.all[above]["trace_id"]

    def submissions(self, task: str) -> list[Any]:
        """The submissions of a task, by time."""
        found = [
            it
            for it in self.spans.values()
            if it["kind"] == "producer" and it["attributes"].get("dask.submission.task") == task
        ]
        return sorted(found, key=lambda it: it["start_time"])

    def attempts_below(self, span: Any) -> list[Any]:
        """Attempts whose submission is the span."""
        found: list[Any] = []
        for each in self.attempts.values():
            above = self.all[each["parent_span_id"]]
            if "dask.layer.name" in above.get("attributes", {}):
                above = self.all[above["parent_span_id"]]
            if above is span:
                found.append(each)
        return found


@pytest.fixture(scope="module", params=[True, False], ids=["processes", "threads"])
def client(request: pytest.FixtureRequest) -> Iterator[Client]:
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=2, processes=request.param, dashboard_address=":0"
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def test_a_graph_of_a_task_has_a_submission_of_its_own(client):
    with scalable.instrument(client) as run:
        futures = [client.submit(way, pure=False) for way, _ in WAYS]
        client.gather(futures)
        keys = [future.key for future in futures]
        del futures
    recorded = Recorded(run.run_dir)
    lines = {it["task_id"]: it for it in recorded.attempts.values()}
    for (way, expected), key in zip(WAYS, keys, strict=True):
        found = recorded.submissions(key)
        assert [it["name"] for it in found] == [name for name, _, _ in expected]
        for submission, (name, graphs, count) in zip(found, expected, strict=True):
            attributes, below = submission["attributes"], recorded.attempts_below(submission)
            assert attributes["dask.graph.count"] == graphs
            assert len(below) == count if count is not None else below
            assert attributes["dask.submission.operation"] == name.partition(" ")[0]
            assert attributes["code.function.name"] == f"{__name__}.{way.__name__}"
            first = inspect.getsourcelines(way)[1]
            assert first < attributes["code.line.number"] <= first + 6
            above = recorded.all[submission["parent_span_id"]]
            if way is below_a_span and above is not lines[key]:
                # In the program's process there is no provider that records it.
                assert above["name"] == "mine"
                above = recorded.all[above["parent_span_id"]]
            assert above is lines[key]
            assert _start(above, run.run_dir) <= submission["start_time"]
            assert submission["start_time"] <= submission["end_time"] <= above["timestamp"]
            assert all(submission["start_time"] <= _start(it, run.run_dir) for it in below)
    layers = Counter(
        recorded.spans[it["parent_span_id"]]["name"]
        for it in recorded.spans.values()
        if "dask.layer.name" in it["attributes"]
    )
    assert layers["map rainfall"] == 2
    assert layers["compute sum-aggregate"] >= 2
    assert not any(name.startswith("submit") for name in layers)
    assert RunReader(run.run_dir).document["telemetry"]["errors"] == {}


def _start(attempt: Any, directory: Path) -> str:
    return next(
        it["timestamp"]
        for it in RunReader(directory).records(TASKS)
        if it["state"] == "running" and it["span_id"] == attempt["span_id"]
    )


def deep(level: int) -> list[str]:
    if level == 0:
        return [trace.format_span_id(trace.get_current_span().get_span_context().span_id)]
    with worker_client() as client:
        (below,) = client.gather(client.map(deep, [level - 1], pure=False))
    return [trace.format_span_id(trace.get_current_span().get_span_context().span_id), *below]


def test_tasks_of_tasks_of_tasks_are_in_one_tree(client):
    with scalable.instrument(client) as run:
        seen = client.submit(deep, 3, pure=False).result()
    recorded = Recorded(run.run_dir)
    assert len(seen) == 4
    for upper, lower in pairwise(seen):
        submission = recorded.all[recorded.attempts[lower]["parent_span_id"]]
        assert submission["name"] == "map deep"
        assert submission["parent_span_id"] == upper
    top = recorded.all[recorded.attempts[seen[0]]["parent_span_id"]]
    assert top["name"] == "submit deep"
    assert "parent_span_id" not in top


def die_once_within(directory: str) -> int:
    with worker_client() as client:
        futures = client.map(inc, range(3), pure=False)
        client.gather(futures)
        tasks.die_once(directory)
        return sum(client.gather(futures))


def test_a_worker_that_is_killed_loses_no_submission(make_cluster, notes_dir):
    _, client = make_cluster(n_workers=2, threads=2)
    with scalable.instrument(client) as run:
        assert client.submit(die_once_within, str(notes_dir), key="dies").result() == 6
        assert client.submit(deep, 2, pure=False).result()
    recorded = Recorded(run.run_dir)
    attempts = sorted(
        (it for it in recorded.attempts.values() if it["task_id"] == "dies"),
        key=lambda it: it["attempt"],
    )
    assert [it["state"] for it in attempts] == ["lost", "succeeded"]
    found = recorded.submissions("dies")
    assert [it["parent_span_id"] for it in found] == [it["span_id"] for it in attempts]
    assert [it["name"] for it in found] == ["map inc", "map inc"]
    assert [len(recorded.attempts_below(it)) for it in found] == [3, 3]


def test_a_client_that_is_connecting_sends_each_graph_for_what_it_is(client):
    """Dask keeps such messages, and sends them again from its own event loop."""

    address = client.scheduler.address

    async def early() -> int:
        inner = Client(address, asynchronous=True)
        future = inner.submit(inc, 1, pure=False)
        async with inner:
            return await future

    def task() -> int:
        return asyncio.run(early())

    with scalable.instrument(client) as run:
        assert client.submit(task, key="early").result() == 2
    recorded = Recorded(run.run_dir)
    (submission,) = recorded.submissions("early")
    assert submission["name"] == "submit inc"
    assert submission["attributes"]["code.function.name"].endswith(".early")
    assert len(recorded.attempts_below(submission)) == 1
