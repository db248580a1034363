"""A block of Dask's own `span()` is a span, with the submissions in it below."""

from __future__ import annotations

import contextvars
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, LocalCluster, span, wait, worker_client
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider

import scalable
from scalable.instrumentation import dask_compat
from scalable.telemetry.submissions.open_spans import MAX_NAME, MAX_SIBLINGS
from scalable_runs.reader import RunReader
from scalable_runs.schema import SPANS, TASKS


def inc(x: int) -> int:
    return x + 1


def odd(x: int) -> int:
    if x % 2 == 0:
        raise ValueError("even")
    return x


def nested(x: int) -> int:
    with worker_client() as inner:
        return sum(inner.gather(inner.map(inc, range(x, x + 3))))


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
    """Spans of a run's directory; every parent but the caller's is there."""

    def __init__(self, directory: Path, outside: frozenset[str] = frozenset()) -> None:
        reader = RunReader(directory)
        records = list(reader.records(SPANS))
        self.spans: dict[str, Any] = {it["span_id"]: it for it in records}
        assert len(self.spans) == len(records)
        attempts = {it["span_id"] for it in reader.records(TASKS) if "span_id" in it}
        known = {*self.spans, *attempts, *outside, None}
        assert {it.get("parent_span_id") for it in records} <= known

    @property
    def blocks(self) -> list[Any]:
        return [it for it in self.spans.values() if "dask.span.blocks" in it["attributes"]]

    def named(self, name: str) -> Any:
        (found,) = [it for it in self.spans.values() if it["name"] == name]
        return found

    def below(self, block: Any) -> list[str]:
        found = [it for it in self.spans.values() if it.get("parent_span_id") == block["span_id"]]
        for each in found:
            assert each["trace_id"] == block["trace_id"]
            assert block["start_time"] <= each["start_time"]
            assert each["end_time"] <= block["end_time"]
        return sorted(it["name"] for it in found)


def counts(block: Any) -> dict[str, int]:
    """The counts of a block that are not zero."""
    names = ("tasks.known", "tasks.succeeded", "tasks.failed", "tasks.cancelled")
    about = block["attributes"]
    found = {name: about[f"dask.span.{name}"] for name in (*names, "attempts", "retried", "lost")}
    return {name.removeprefix("tasks."): count for name, count in found.items() if count}


def await_blocks(run: Any, *names: str) -> None:
    """Wait until the spans of these blocks, and no others, are written."""
    deadline = time.monotonic() + 30
    found: list[str] = []
    while len(found) < len(names):
        assert time.monotonic() < deadline
        run.flush(5)
        records = RunReader(run.run_dir).records(SPANS)
        found = [it["name"] for it in records if "dask.span.blocks" in it["attributes"]]
    assert found == list(names)


def test_nested_blocks_are_nested_spans(client):
    with scalable.instrument(client, recorder="thread") as run:
        with span("etl") as outer:
            wait(client.map(inc, range(5), pure=False))
            with span("load", "clean") as inner:
                wait(client.map(odd, range(4), retries=1, pure=False))
                assert client.submit(nested, 1).result() == 9
            with span("empty"):
                pass
        client.submit(inc, 1, pure=False).result()
    recorded = Recorded(run.run_dir)
    etl, load, clean = map(recorded.named, ("etl", "load", "clean"))
    assert len(recorded.blocks) == 3
    assert recorded.below(etl) == ["load", "map inc"]
    assert recorded.below(load) == ["clean"]
    assert recorded.below(clean) == ["map odd", "submit nested"]
    assert "parent_span_id" not in etl
    (link,) = etl["links"]
    assert recorded.spans[link["span_id"]]["name"].startswith("run ")
    assert etl["attributes"]["dask.span.id"] == [outer]
    assert clean["attributes"]["dask.span.name"] == ["etl", "load", "clean"]
    assert clean["attributes"]["dask.span.id"][-1] == inner
    # Two of `odd` fail twice; `nested` submits three tasks.
    assert counts(clean) == {
        "known": 8, "succeeded": 6, "failed": 2, "attempts": 10, "retried": 2
    }  # fmt: skip
    assert counts(load) == counts(clean)
    assert counts(etl) == {
        "known": 13, "succeeded": 11, "failed": 2, "attempts": 15, "retried": 2
    }  # fmt: skip
    ends = [
        it["timestamp"]
        for it in RunReader(run.run_dir).records(TASKS)
        if it["state"] in ("succeeded", "failed") and it["trace_id"] == etl["trace_id"]
    ]
    assert etl["end_time"] == max(ends)
    assert "parent_span_id" not in recorded.named("submit inc")


def test_a_block_is_sent_when_it_has_been_left_and_its_tasks_have_ended(client):
    with scalable.instrument(client, recorder="thread") as run:
        with span("outer"):
            with span("inner"):
                wait(client.map(inc, range(3), pure=False))
            await_blocks(run, "inner")
            wait(client.map(inc, range(2), pure=False))
        await_blocks(run, "inner", "outer")
    assert len(Recorded(run.run_dir).blocks) == 2
    assert counts(Recorded(run.run_dir).named("outer"))["known"] == 5


def test_many_blocks_of_one_name_share_a_span(client):
    count = 3 * MAX_SIBLINGS
    with scalable.instrument(client, recorder="thread") as run:
        with span("loop"):
            futures = []
            for number in range(count):
                with span("step"):
                    futures.append(client.submit(inc, number, pure=False))
            wait(futures)
    recorded = Recorded(run.run_dir)
    loop = recorded.named("loop")
    steps = [it for it in recorded.blocks if it["name"] == "step"]
    assert {it["parent_span_id"] for it in steps} == {loop["span_id"]}
    assert len(steps) == MAX_SIBLINGS + 1
    assert sorted(it["attributes"]["dask.span.blocks"] for it in steps) == [
        *[1] * MAX_SIBLINGS,
        count - MAX_SIBLINGS,
    ]
    assert sum(counts(it)["known"] for it in steps) == count == counts(loop)["succeeded"]
    # In the shared one, single submits of one line are one submission.
    shared = max(steps, key=lambda it: it["attributes"]["dask.span.blocks"])
    assert len(recorded.below(shared)) < MAX_SIBLINGS


def test_a_span_of_the_caller_in_a_block_keeps_its_submissions(client):
    provider = TracerProvider(shutdown_on_exit=False)
    tracer = provider.get_tracer("of.the.application")
    with scalable.instrument(client, recorder="thread") as run:
        with tracer.start_as_current_span("request") as request, span("step"):
            wait(client.map(inc, range(3), pure=False))
            with tracer.start_as_current_span("query") as query:
                client.submit(inc, 1, pure=False).result()
                with span("part"):
                    client.submit(odd, 1, pure=False).result()
    ids = {it: f"{it.get_span_context().span_id:016x}" for it in (request, query)}
    recorded = Recorded(run.run_dir, frozenset(ids.values()))
    step, part = recorded.named("step"), recorded.named("part")
    assert step["parent_span_id"] == ids[request]
    assert step["trace_id"] == f"{request.get_span_context().trace_id:032x}"
    assert recorded.below(step) == ["map inc"]
    # Below a span of the caller, and linked to the block in both directions.
    single = recorded.named("submit inc")
    assert single["parent_span_id"] == part["parent_span_id"] == ids[query]
    assert recorded.below(part) == ["submit odd"]
    assert [it["span_id"] for it in single["links"]] == [step["span_id"]]
    assert [it["span_id"] for it in part["links"]] == [step["span_id"]]
    assert {it["span_id"] for it in step["links"]} == {single["span_id"], part["span_id"]}
    assert counts(step)["known"] == 5


def test_a_copied_context_belongs_to_the_span_that_was_sent(client):
    with scalable.instrument(client, recorder="thread") as run:
        with span("step"):
            client.submit(inc, 1, pure=False).result()
            copied = contextvars.copy_context()
        await_blocks(run, "step")
        copied.run(lambda: client.submit(odd, 1, pure=False).result())
    recorded = Recorded(run.run_dir)
    assert len(recorded.blocks) == 1
    assert recorded.named("submit odd")["parent_span_id"] == recorded.named("step")["span_id"]


def test_each_run_has_a_span_of_its_own_and_names_are_redacted_and_short(cluster, client):
    with Client(cluster, set_as_default=False) as other:
        with (
            scalable.instrument(client, recorder="thread") as one,
            scalable.instrument(other, recorder="thread") as two,
            span("password=hunter2"),
            span("x" * 10_000),
        ):
            client.submit(inc, 1, pure=False).result()
            other.submit(inc, 2, pure=False).result()
        runs = [Recorded(each.run_dir) for each in (one, two)]
    assert {len(it.blocks) for it in runs} == {2}
    assert not {*runs[0].spans} & {*runs[1].spans}
    for recorded in runs:
        names = {it["name"] for it in recorded.blocks}
        assert "x" * MAX_NAME in names
        assert "hunter2" not in json.dumps(list(recorded.spans.values()))


def test_without_a_run_dask_has_its_own_functions_again(client):
    import distributed.spans

    def original() -> bool:
        return distributed.spans.dask is dask_compat.dask

    assert original()
    with scalable.instrument(client, recorder="thread"):
        assert not original()
    assert original()


class Order(SpanProcessor):
    """Notes which spans begin and end."""

    def __init__(self) -> None:
        self.open: list[str] = []
        self.seen: list[tuple[str, str | None]] = []

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        self.open.append(f"{span.context.span_id:016x}")

    def on_end(self, span: ReadableSpan) -> None:
        assert span.context is not None
        self.open.remove(f"{span.context.span_id:016x}")
        parent = None if span.parent is None else f"{span.parent.span_id:016x}"
        assert parent is None or parent in self.open, span.name
        self.seen.append((span.name, parent))


def test_processors_of_the_application_see_a_block_around_its_submissions(client):
    order = Order()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(order)
    with scalable.instrument(client, tracer_provider=provider) as run:
        with span("etl"):
            wait(client.map(inc, range(3), pure=False))
            with span("step"):
                client.submit(odd, 1, pure=False).result()
    recorded = Recorded(run.run_dir)
    assert order.open == []
    names = [name for name, _ in order.seen]
    assert names.count("etl") == names.count("step") == 1
    assert dict(order.seen)["step"] == recorded.named("etl")["span_id"]
    assert names.index("map inc") < names.index("etl")
    assert names.index("submit odd") < names.index("step") < names.index("etl")
