"""The attempt is the current span of its task's code, whichever way that code is run."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import dask
import pytest
from distributed import Client, LocalCluster, get_client, get_worker, secede, worker_client
from opentelemetry import baggage, context, trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

import scalable
from cluster import oracle, tasks

#: The span of the caller, as a framework around the application would have opened it.
CALLER = SpanContext(0x1234_5678_9ABC_DEF0_1234_5678_9ABC_DEF0, 0xFEED, False, TraceFlags(3))


class Seen(NamedTuple):
    """What a task's code saw."""

    key: str
    trace_id: str
    span_id: str
    flags: int
    tenant: object
    #: Span below which the task's annotation puts its attempt.
    parent_id: str


def look(key: str | None = None, *, parent: str = "") -> Seen:
    """In a task: what is current here."""
    if key is None:
        worker = get_worker()
        try:
            key = str(worker.get_current_task())
        except KeyError:  # a coroutine is in no thread: it is the one task that runs
            (key,) = worker.active_keys
        annotation = worker.state.tasks[key].annotations["scalable"]
        parent = json.loads(annotation)["traceparent"].split("-")[2]
    ids = trace.get_current_span().get_span_context()
    return Seen(
        key,
        f"{ids.trace_id:032x}",
        f"{ids.span_id:016x}",
        int(ids.trace_flags),
        baggage.get_baggage("tenant"),
        parent,
    )


def plain(directory: str) -> list[Seen]:
    return [look()]


async def coroutine(directory: str) -> list[Seen]:
    first = look()
    await asyncio.sleep(0.001)
    task = asyncio.create_task(asyncio.to_thread(look, first.key, parent=first.parent_id))
    return [first, look(), await task]


def inner(number: int) -> Seen:
    return look()


def with_worker_client(directory: str) -> list[Seen]:
    with worker_client() as client:
        return [look(), *client.gather(client.map(inner, range(3)))]


def with_get_client(directory: str) -> list[Seen]:
    client = get_client()
    futures = client.map(inner, range(3))
    secede()
    return [look(), *client.gather(futures)]


def with_compute(directory: str) -> list[Seen]:
    return [look(), *dask.compute(*[dask.delayed(inner)(number) for number in range(3)])]


def at_second_try(directory: str) -> list[Seen]:
    tasks.flaky(directory, 1)
    return [look()]


def after_death(directory: str) -> list[Seen]:
    tasks.die_once(directory)
    return [look()]


def pooled(key: str) -> list[Seen]:
    return [look(key)]


def submit(function: Callable[[str], Any], **options: Any) -> Callable[[Client, str], list[Seen]]:
    def way(client: Client, directory: str) -> list[Seen]:
        return client.submit(function, directory, pure=False, **options).result()

    return way


def delayed(client: Client, directory: str) -> list[Seen]:
    return client.compute(dask.delayed(plain)(directory)).result()


def in_a_pool(client: Client, directory: str) -> list[Seen]:
    client.run(_add_pool)
    with dask.annotate(executor="pool"):
        return client.submit(pooled, "in-the-pool", key="in-the-pool").result()


WAYS = {
    "submit": submit(plain),
    "delayed": delayed,
    "coroutine": submit(coroutine),
    "worker_client": submit(with_worker_client),
    "get_client": submit(with_get_client),
    "compute": submit(with_compute),
    "retried": submit(at_second_try, retries=2),
    "worker lost": submit(after_death),
    "process pool": in_a_pool,
}
#: What needs a process to die, or has none of its own to come from.
NEED_PROCESSES = {"worker lost"}


@contextmanager
def called() -> Iterator[None]:
    """Open the caller's span, and its baggage."""
    current = trace.set_span_in_context(NonRecordingSpan(CALLER))
    token = context.attach(baggage.set_baggage("tenant", "blue", current))
    try:
        yield
    finally:
        context.detach(token)


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("processes", [True, False], ids=["processes", "threads"])
@pytest.mark.parametrize("way", WAYS)
def test_code_of_a_task_runs_below_its_attempt(notes_dir, way, processes, asynchronous):
    if way in NEED_PROCESSES and not processes:
        pytest.skip("a thread cannot be killed")
    arguments: dict[str, Any] = {
        "n_workers": 1 if way == "process pool" else 2,
        "threads_per_worker": 2,
        "processes": processes,
        "dashboard_address": ":0",
        "silence_logs": logging.CRITICAL,
        "memory_limit": 0,
    }
    # A daemonic worker may have no processes of its own.
    with dask.config.set({"distributed.worker.daemon": way != "process pool"}):
        seen, run = _run(arguments, way, str(notes_dir), asynchronous)
    check(run.run_dir, seen)


def _run(arguments: dict[str, Any], way: str, directory: str, asynchronous: bool) -> Any:
    if asynchronous:
        return asyncio.run(_asynchronous(arguments, way, directory))
    with LocalCluster(**arguments) as cluster, Client(cluster) as client:
        with scalable.instrument(client) as run, called():
            return WAYS[way](client, directory), run


async def _asynchronous(arguments: dict[str, Any], way: str, directory: str) -> Any:
    """The cluster in the application's own loop, its client used from a thread beside it."""
    async with LocalCluster(**arguments, asynchronous=True) as cluster:
        async with Client(cluster, asynchronous=True) as client:
            async with scalable.instrument(client) as run:
                with called():
                    if way == "process pool":
                        await client.run(_add_pool)
                        with dask.annotate(executor="pool"):
                            future = client.submit(pooled, "in-the-pool", key="in-the-pool")
                    elif way == "delayed":
                        future = client.compute(dask.delayed(plain)(directory))
                    else:
                        function, options = FUNCTIONS[way]
                        future = client.submit(function, directory, pure=False, **options)
                    return await future, run


def _add_pool(dask_worker: Any) -> None:
    dask_worker.executors["pool"] = ProcessPoolExecutor(1)


FUNCTIONS: dict[str, tuple[Callable[[str], Any], dict[str, Any]]] = {
    "submit": (plain, {}),
    "coroutine": (coroutine, {}),
    "worker_client": (with_worker_client, {}),
    "get_client": (with_get_client, {}),
    "compute": (with_compute, {}),
    "retried": (at_second_try, {"retries": 2}),
    "worker lost": (after_death, {}),
}


def check(run_dir: Any, seen: list[Seen]) -> None:
    """What each task saw is its last attempt, in the caller's trace, with the caller's baggage."""
    oracle.wait_closed(run_dir)
    lives = oracle.lives(run_dir)
    assert seen
    for one in seen:
        last = lives[one.key][-1]
        assert last["state"] == "succeeded"
        assert (one.trace_id, one.span_id) == (last["trace_id"], last["span_id"])
        assert one.trace_id == f"{CALLER.trace_id:032x}"
        assert one.flags & TraceFlags.SAMPLED
        assert one.tenant == "blue"
    above = submissions(run_dir)
    submitted = next(it for it, parent in above.items() if parent == f"{CALLER.span_id:016x}")
    outer, nested = seen[0], [one for one in seen if one.key != seen[0].key]
    if outer.parent_id:
        assert outer.parent_id == submitted
    assert {above[one.parent_id] for one in nested} <= {outer.span_id}


def submissions(run_dir: Any) -> dict[str, str | None]:
    """The submissions of a run, and the span above each."""
    return {
        span["span_id"]: span.get("parent_span_id")
        for span in oracle.read(run_dir, "spans.jsonl")
        if span["kind"] == "producer"
    }


def test_nested_tasks_hang_below_the_span_that_is_open_where_they_are_sent(make_cluster):
    def outer() -> tuple[str, Seen]:
        tracer = trace.get_tracer("test")
        with tracer.start_as_current_span("mine") as span, worker_client() as client:
            found = client.submit(inner, 1).result()
        return f"{span.get_span_context().span_id:016x}", found

    _, client = make_cluster()
    with scalable.instrument(client) as run:
        opened, found = client.submit(outer).result()
    assert submissions(run.run_dir)[found.parent_id] == opened
    (mine,) = [it for it in oracle.read(run.run_dir, "spans.jsonl") if it["name"] == "mine"]
    assert mine["span_id"] == opened


def test_a_thread_pool_of_user_code_sees_the_attempt_if_it_is_given_the_context(make_cluster):
    def work() -> tuple[int, int]:
        here = context.get_current()

        def inside() -> int:
            token = context.attach(here)
            try:
                return trace.get_current_span().get_span_context().span_id
            finally:
                context.detach(token)

        with ThreadPoolExecutor(1) as pool:
            return trace.get_current_span().get_span_context().span_id, pool.submit(inside).result()

    _, client = make_cluster(n_workers=1)
    with scalable.instrument(client):
        own, given = client.submit(work).result()
    assert own == given != 0


def test_a_task_after_one_that_seceded_sees_itself_and_not_the_other(make_cluster):
    def away() -> int:
        secede()
        return trace.get_current_span().get_span_context().span_id

    _, client = make_cluster(n_workers=1, threads=1)
    with scalable.instrument(client) as run:
        futures = [client.submit(away, pure=False) for _ in range(5)]
        after = client.map(inner, range(5))
        seen = [f"{span_id:016x}" for span_id in client.gather(futures)]
        found = [one.span_id for one in client.gather(after)]
        keys = [future.key for future in [*futures, *after]]
    lives = oracle.lives(run.run_dir)
    assert [*seen, *found] == [lives[key][-1]["span_id"] for key in keys]
    assert len({*seen, *found}) == 10


def test_without_a_run_there_is_no_span(make_cluster):
    _, client = make_cluster(n_workers=1)
    with scalable.instrument(client):
        assert client.submit(_current, 1, pure=False).result()
    assert client.submit(_current, 2, pure=False).result() == 0


def _current(number: int) -> int:
    return trace.get_current_span().get_span_context().span_id


@pytest.mark.parametrize("propagators", ["b3multi_of_the_test", "none"])
def test_a_propagator_of_the_program_s_own_travels_besides_the_span(tmp_path, propagators):
    """In a process of its own: OpenTelemetry reads the variable once."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    environment = {"OTEL_PROPAGATORS": "none"} if propagators == "none" else {}
    found = subprocess.run(
        [sys.executable, program, propagators],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert "as it should be" in found.stdout


PROGRAM = textwrap.dedent('''
    import json
    import sys
    from distributed import Client, LocalCluster, get_worker
    from opentelemetry import propagate, trace
    from opentelemetry.propagators.textmap import TextMapPropagator
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags
    import scalable

    class Two(TextMapPropagator):
        """Two headers, as those of B3."""
        fields = {"x-trace", "x-span"}
        def inject(self, carrier, context=None, setter=None):
            ids = trace.get_current_span(context).get_span_context()
            if ids.is_valid:
                carrier["x-trace"], carrier["x-span"] = f"{ids.trace_id:x}", f"{ids.span_id:x}"
        def extract(self, carrier, context=None, getter=None):
            if "x-trace" not in carrier:
                return context
            ids = SpanContext(int(carrier["x-trace"], 16), int(carrier["x-span"], 16), True,
                              TraceFlags(1))
            return trace.set_span_in_context(NonRecordingSpan(ids), context)

    def look():
        worker = get_worker()
        task = worker.state.tasks[worker.get_current_task()]
        ids = trace.get_current_span().get_span_context()
        return json.loads(task.annotations["scalable"]), ids.trace_id, ids.span_id

    if __name__ == "__main__":
        none = sys.argv[1] == "none"
        if not none:
            propagate.set_global_textmap(Two())
        with LocalCluster(n_workers=1, processes=False, dashboard_address=":0") as cluster:
            with Client(cluster) as client, scalable.instrument(client) as run:
                carrier, trace_id, span_id = client.submit(look).result()
        if none:
            assert set(carrier) == {"run", "traceparent"}, carrier
        else:
            assert set(carrier) == {"run", "traceparent", "x-trace", "x-span"}, carrier
            assert trace_id == int(carrier["x-trace"], 16)
        lines = (run.run_dir / "tasks.jsonl").read_text()
        assert f"{span_id:016x}" in lines and f"{trace_id:032x}" in lines
        print("as it should be")
''')
