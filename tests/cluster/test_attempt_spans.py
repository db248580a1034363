"""What the code of a task writes to the current span arrives on the span of its attempt."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextvars import copy_context
from pathlib import Path
from typing import Any

import dask
import pytest
from distributed import Client, LocalCluster
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext, Status, StatusCode

import scalable
from cluster import oracle, tasks

LINKED = SpanContext(0xABC, 0xDEF, True)


@pytest.fixture(scope="module", params=[True, False], ids=["processes", "threads"])
def client(request: pytest.FixtureRequest) -> Iterator[Client]:
    # A daemonic worker may have no processes of its own.
    with dask.config.set({"distributed.worker.daemon": False}):
        with (
            LocalCluster(
                n_workers=1, threads_per_worker=2, processes=request.param, dashboard_address=":0"
            ) as cluster,
            Client(cluster) as client,
        ):
            yield client


def write_all(number: int = 1) -> bool:
    """In a task: everything that can be written."""
    span = trace.get_current_span()
    span.set_attribute("number", number)
    span.set_attributes({"words": ["a", "b"], "dask.task.key": "not mine", "password": "hunter2"})
    span.add_event("half way", {"left": 5})
    span.add_link(LINKED, {"why": "related"})
    span.set_status(Status(StatusCode.ERROR, "looks wrong"))
    span.update_name(f"piece {number}")
    try:
        raise ValueError("handled")
    except ValueError as error:
        span.record_exception(error)
    span.end()  # the attempt goes on
    span.set_attribute("last", True)
    return span.is_recording()


async def write_in_a_coroutine() -> bool:
    await asyncio.sleep(0)
    return write_all()


def write_in_a_thread() -> bool:
    found: list[bool] = []
    context = copy_context()
    thread = threading.Thread(target=context.run, args=(lambda: found.append(write_all()),))
    thread.start()
    thread.join()
    return found[0]


def in_a_pool(client: Client) -> bool:
    client.run(_add_pool)
    with dask.annotate(executor="pool"):
        found = client.submit(write_all, pure=False).result()
    client.run(_end_pool)
    return found


def _add_pool(dask_worker: Any) -> None:
    dask_worker.executors["pool"] = ProcessPoolExecutor(1)


def _end_pool(dask_worker: Any) -> None:
    dask_worker.executors.pop("pool").shutdown()


WAYS: dict[str, Callable[[Client], bool]] = {
    "function": lambda client: client.submit(write_all, pure=False).result(),
    "coroutine": lambda client: client.submit(write_in_a_coroutine, pure=False).result(),
    "thread": lambda client: client.submit(write_in_a_thread, pure=False).result(),
    "process pool": in_a_pool,
}


@pytest.mark.parametrize("way", WAYS)
def test_what_code_writes_is_on_the_span_and_in_the_record(client, way):
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with scalable.instrument(client, tracer_provider=provider) as run:
        assert WAYS[way](client) is True
    (line,) = [it for it in oracle.read(run.run_dir, "tasks.jsonl") if it["state"] == "succeeded"]
    details = line["details"]
    assert details["span_name"] == "piece 1"
    assert details["status"] == {"code": "error", "description": "looks wrong"}
    assert details["attributes"] == {
        "number": 1,
        "words": ["a", "b"],
        "dask.task.key": "not mine",
        "password": "[redacted]",
        "last": True,
    }
    assert [event["name"] for event in details["events"]] == ["half way", "exception"]
    assert details["events"][0]["attributes"] == {"left": 5}
    assert details["events"][1]["attributes"]["exception.message"] == "handled"
    (link,) = details["links"]
    assert link["span_id"] == f"{LINKED.span_id:016x}"
    assert "dropped" not in details
    (sent,) = [span for span in exporter.get_finished_spans() if span.name == "piece 1"]
    assert sent.attributes is not None
    assert sent.attributes["number"] == 1
    assert sent.attributes["dask.task.key"] == line["task_id"]
    assert [event.name for event in sent.events] == ["half way", "exception"]
    assert [link.context.span_id for link in sent.links] == [LINKED.span_id]
    assert sent.status.status_code is StatusCode.ERROR
    assert sent.kind is trace.SpanKind.CONSUMER


def write_and_fail(directory: str) -> int:
    span = trace.get_current_span()
    span.set_attribute("file", directory)
    span.set_status(StatusCode.OK)
    tasks.flaky(directory, 1)
    return 1


def test_each_attempt_has_its_own_and_a_failure_its_own_status(client, notes_dir):
    with scalable.instrument(client) as run:
        client.submit(write_and_fail, str(notes_dir), retries=1, pure=False).result()
        client.submit(abs, -1, pure=False).result()
    lines = [it for it in oracle.read(run.run_dir, "tasks.jsonl") if "attempt" in it]
    written = {(it["state"], it["attempt"]) for it in lines if "details" in it}
    assert written == {("retried", 1), ("succeeded", 2)}
    assert {line["details"]["status"]["code"] for line in lines if "details" in line} == {"ok"}


def write_much() -> None:
    span = trace.get_current_span()
    for number in range(1_000):
        span.set_attribute(f"a{number}", "x" * 100)
        span.add_event("step", {"number": number})
        if number % 100 == 0:
            time.sleep(0.05)  # some of it is sent before the rest is written


def test_what_is_written_has_the_limits_of_a_span(client):
    with scalable.instrument(client) as run:
        client.submit(write_much, pure=False).result()
    (line,) = [it for it in oracle.read(run.run_dir, "tasks.jsonl") if "details" in it]
    details = line["details"]
    assert list(details["attributes"]) == [f"a{number}" for number in range(872, 1_000)]
    numbers = [event["attributes"]["number"] for event in details["events"]]
    assert numbers == list(range(872, 1_000))
    assert details["dropped"] == {"attributes": 872, "events": 872}


def write_and_die(directory: str) -> None:
    path = Path(directory) / "died"
    if path.exists():
        return
    trace.get_current_span().add_event("before the end")
    time.sleep(1.0)
    path.touch()
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_loses_only_what_was_not_sent(make_cluster, notes_dir):
    _, client = make_cluster(n_workers=1)
    with scalable.instrument(client) as run:
        client.submit(write_and_die, str(notes_dir), pure=False).result()
    (line,) = [it for it in oracle.read(run.run_dir, "tasks.jsonl") if it["state"] == "lost"]
    assert [event["name"] for event in line["details"]["events"]] == ["before the end"]


def keep_the_span() -> Any:
    KEPT.append(trace.get_current_span())


KEPT: list[Any] = []


def write_to_the_kept_span() -> bool:
    KEPT[-1].set_attribute("late", True)
    return KEPT[-1].is_recording()


def test_after_its_end_nothing_is_written_to_it(client):
    with scalable.instrument(client) as run:
        client.submit(keep_the_span, pure=False).result()
        assert not client.submit(write_to_the_kept_span, pure=False).result()
    assert not [it for it in oracle.read(run.run_dir, "tasks.jsonl") if "details" in it]
