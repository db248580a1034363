"""What we rely on behind Dask's public interface, one test for each function of `dask_compat`.

They run on the oldest and on the newest release of distributed that is supported.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from importlib.metadata import PackageNotFoundError
from queue import Queue
from types import SimpleNamespace
from typing import Any

import dask
import distributed
import pytest
from dask.task_spec import Task
from distributed import Client, Event, LocalCluster, Nanny, Scheduler, Worker, wait
from distributed.diagnostics.plugin import SchedulerPlugin
from distributed.protocol import to_serialize
from distributed.protocol.pickle import dumps

from scalable.common.requirements import required_distributed
from scalable.facts.protocol import EXPORTS_CHILDREN, THREAD_CPU
from scalable.instrumentation import dask_compat


@pytest.fixture
def cluster(make_cluster) -> tuple[LocalCluster, Client]:
    """Scheduler and worker in this process."""
    return make_cluster(n_workers=1, threads=2, processes=False)


@pytest.fixture
def scheduler(cluster) -> Scheduler:
    return cluster[0].scheduler


@pytest.fixture
def worker(cluster) -> Worker:
    return next(iter(cluster[0].workers.values()))


@pytest.fixture
def client(cluster) -> Client:
    return cluster[1]


def on_loop(client: Client, function: Callable[..., Any], *args: Any) -> Any:
    async def call() -> Any:
        return function(*args)

    return client.sync(call)


def eventually(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Transitions(SchedulerPlugin):
    """Keeps what Dask tells its plugins of each transition."""

    name = "transitions"

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, dict[str, Any]]] = []

    def transition(self, key: Any, start: str, finish: str, *args: Any, **kwargs: Any) -> None:
        assert not args
        self.seen.append((start, finish, kwargs))

    def of(self, start: str, finish: str) -> list[dict[str, Any]]:
        return [kwargs for *ends, kwargs in self.seen if ends == [start, finish]]


@pytest.fixture
def transitions(client, scheduler) -> Iterator[Transitions]:
    plugin = Transitions()
    on_loop(client, scheduler.add_plugin, plugin)
    yield plugin
    on_loop(client, scheduler.remove_plugin, plugin.name)


def test_every_reach_has_a_test():
    found = {
        name
        for name, value in vars(dask_compat).items()
        if (inspect.isfunction(value) or inspect.isclass(value))
        and value.__module__ == dask_compat.__name__
    }
    tested = {name.removeprefix("test_").partition("__")[0] for name in globals()}
    assert not {name for name in found if name.lower() not in tested}


# -- versions and processes -----------------------------------------------------------------------


def test_unsupported_version(monkeypatch):
    assert dask_compat.unsupported_version() == ""
    monkeypatch.setattr(distributed, "__version__", "2024.1.0")
    assert dask_compat.unsupported_version() == (
        f"distributed 2024.1.0 is too old, {required_distributed()} is needed"
    )
    monkeypatch.setattr(distributed, "__version__", "2999.1.0+5.gabcdef")
    assert dask_compat.unsupported_version() == ""


@pytest.mark.parametrize(
    "requirements", [None, ["click>=8.1"], PackageNotFoundError("scalable-otel")]
)
def test_unsupported_version__any_where_the_package_is_not_installed(monkeypatch, requirements):
    def requires(name):
        if isinstance(requirements, Exception):
            raise requirements
        return requirements

    monkeypatch.setattr("scalable.common.requirements.requires", requires)
    assert dask_compat.unsupported_version() == ""


def test_schedulers_here(cluster, scheduler):
    assert scheduler in dask_compat.schedulers_here()
    cluster[1].close()
    cluster[0].close()
    assert scheduler not in dask_compat.schedulers_here()


def test_was_made_here(scheduler, worker, monkeypatch):
    assert dask_compat.was_made_here(scheduler)
    assert dask_compat.was_made_here(worker)
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert not dask_compat.was_made_here(worker)


def test_is_only_worker_here(make_cluster, worker):
    assert not dask_compat.is_only_worker_here(worker)
    _, client = make_cluster(n_workers=1)

    def ask(dask_worker: Worker) -> bool:
        from scalable.instrumentation import dask_compat

        return dask_compat.is_only_worker_here(dask_worker)

    assert list(client.run(ask).values()) == [True]


def test_launched(make_cluster, worker):
    assert 0 <= time.time() - dask_compat.launched(worker) < 60
    _, client = make_cluster(n_workers=1)

    def ask(dask_worker: Worker) -> tuple[float, float]:
        import psutil

        from scalable.instrumentation import dask_compat

        return dask_compat.launched(dask_worker), psutil.Process().create_time()

    ((launched, created),) = client.run(ask).values()
    # psutil adds to a boot time that is in whole seconds.
    assert -0.02 < launched - created < 1.02


def test_asyncio_loop(client):
    loop = dask_compat.asyncio_loop(client.loop)
    assert loop is on_loop(client, asyncio.get_running_loop)
    assert dask_compat.asyncio_loop(object()) is None


def test_is_on_loop(client):
    assert not dask_compat.is_on_loop(client.loop)
    assert on_loop(client, dask_compat.is_on_loop, client.loop)


def test_run_on(client):
    async def thread() -> int:
        return threading.get_ident()

    there = dask_compat.run_on(client.loop, thread, 5.0)
    assert there != threading.get_ident()
    with pytest.raises(TimeoutError):
        dask_compat.run_on(client.loop, lambda: asyncio.sleep(60), 0.01)


# -- clients --------------------------------------------------------------------------------------


def test_global_client(client):
    assert dask_compat.global_client() is client
    with ThreadPoolExecutor(1) as pool:
        # Another thread has no client of its own context; the last one made counts there.
        assert pool.submit(dask_compat.global_client).result() is client
        client.close()
        assert pool.submit(dask_compat.global_client).result() is None


def test_scheduler_address(client, scheduler):
    assert dask_compat.scheduler_address(client) == scheduler.address
    client.close()
    assert dask_compat.scheduler_address(client) in ("", scheduler.address)


def test_fetch_workers(client, worker):
    ((address, found),) = dask_compat.fetch_workers(client).items()
    assert address == worker.address
    assert (found["name"], found["nthreads"]) == (worker.name, 2)
    assert found["memory_limit"] is not None
    assert "resources" in found
    # The loop cannot wait: it gets what the client was told, in the same form.
    assert set(on_loop(client, dask_compat.fetch_workers, client)) <= {address}


def test_fetch_workers__of_more_than_a_client_is_told(make_cluster):
    _, client = make_cluster(n_workers=7, processes=False)
    assert len(dask_compat.fetch_workers(client)) == 7
    client.close()
    assert dask_compat.fetch_workers(client) == {}


def test_stream_of(client, scheduler):
    stream = dask_compat.stream_of(client)
    seen: list[Any] = []
    dask_compat.stream_handlers(scheduler)["mine"] = lambda **message: seen.append(message)
    on_loop(client, stream.send, {"op": "mine", "x": 1})
    eventually(lambda: seen)
    assert seen == [{"client": client.id, "x": 1}]
    assert dask_compat.stream_of(client) is stream


def test_close_method(client):
    calls: list[str] = []
    original = dask_compat.close_method(client)

    async def closing(*args: Any, **kwargs: Any) -> Any:
        calls.append("closed")
        return await original(*args, **kwargs)

    client.__dict__["_close"] = closing
    client.close()
    assert calls


@contextmanager
def graphs_of(client: Client, seen: Callable[[dict[str, Any]], object]) -> Iterator[None]:
    """Call `seen` with each message of a client that :func:`dask_compat.is_graph`."""

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        def send_to_scheduler(self: Client, message: Any) -> Any:
            if dask_compat.is_graph(message):
                assert self is client
                seen(message)
            return original(self, message)

        return send_to_scheduler

    patch = dask_compat.graph_patch(wrap)
    patch.apply()
    try:
        yield
    finally:
        patch.undo()


def test_graph_patch(client):
    sent: list[Any] = []
    with graphs_of(client, sent.append):
        client.submit(int, 1).result()
        client.gather(client.map(int, [1, 2]))
        client.compute(dask.delayed(int)(2)).result()
        dask.delayed(int)(3).compute(scheduler=client)
        client.persist(dask.delayed(int)(4)).compute(scheduler=client)
        client.get({"x": (int, 5)}, "x")
    assert len(sent) == 7
    client.submit(int, 5).result()
    assert len(sent) == 7


def test_span_patch():
    seen: list[Any] = []

    class Module:
        def __getattr__(self, name: str) -> Any:
            return getattr(dask, name)

        @contextmanager
        def annotate(self, **annotations: Any) -> Iterator[None]:
            seen.append(annotations["span"])
            with dask.annotate(**annotations):
                yield
            seen.append(None)

    patch = dask_compat.span_patch(lambda original: Module())
    patch.apply()
    try:
        with distributed.span("a") as first, distributed.span("b", "c") as last:
            assert dask.get_annotations()["span"] == seen[-1]
    finally:
        patch.undo()
    with distributed.span("d"):
        pass
    one, two, *ends = seen
    assert (one["name"], one["ids"]) == (("a",), (first,))
    assert two["name"] == ("a", "b", "c")
    assert two["ids"][::2] == (first, last)
    assert ends == [None, None]


def test_is_graph(client):
    found: list[Any] = []
    with graphs_of(client, found.append):
        future = client.submit(int, 1)
        assert len(found) == 1
        future.result()
        # Its release is a message, too.
        del future
    assert len(found) == 1
    assert not dask_compat.is_graph(None)


def test_graph_annotations(client):
    found: list[Any] = []
    with (
        graphs_of(client, lambda message: found.append(dask_compat.graph_annotations(message))),
        dask.annotate(color="blue"),
    ):
        client.submit(int, 1, priority=2).result()
    assert found == [{"color": "blue", "priority": 2}]


def test_annotate_graph(client, scheduler):
    def annotate(message: dict[str, Any]) -> None:
        dask_compat.annotate_graph(message, "size", "large")

    given = {"color": "blue"}
    with graphs_of(client, annotate), dask.annotate(**given):
        future = client.submit(int, 1)
        future.result()
        found = on_loop(client, lambda: dict(scheduler.tasks[future.key].annotations))
    assert found["color"] == "blue"
    assert found["size"] == "large"
    assert given == {"color": "blue"}


def test_shown_annotations(client, scheduler):
    class Plugin(SchedulerPlugin):
        def update_graph(self, scheduler: Scheduler, **kwargs: Any) -> None:
            shown = dask_compat.shown_annotations(scheduler)
            seen.put(dict(shown))
            del shown["size"]

    seen: Queue[dict[str, Any]] = Queue()
    on_loop(client, lambda: scheduler.add_plugin(Plugin(), name="shown"))
    try:
        for number in range(2):  # the second graph has no new task
            with dask.annotate(color="blue", size=number):
                future = client.compute(dask.delayed(int)(2, dask_key_name="shown"))
                assert seen.get(timeout=30) == {"color": "blue", "size": number}
                future.result()
    finally:
        on_loop(client, lambda: scheduler.remove_plugin("shown"))
    assert scheduler.computations[-1].annotations == {"color": "blue"}
    none_kept: Any = SimpleNamespace(computations=())
    assert dask_compat.shown_annotations(none_kept) == {}


def test_hide_frames():
    name = "distributed.diagnostics.computations.ignore-modules"
    with dask.config.set({name: [*dask.config.get(name)]}):
        assert Client._get_computation_code()[-1].filename == __file__
        dask_compat.hide_frames(__name__)
        dask_compat.hide_frames(__name__)
        assert not [code for code in Client._get_computation_code() if code.filename == __file__]
        assert sum(__name__ in pattern for pattern in dask.config.get(name)) == 1
    with dask.config.set({name: "a mistake of the user's"}):
        dask_compat.hide_frames(__name__)


# -- schedulers -----------------------------------------------------------------------------------


def test_addresses(client, scheduler):
    assert scheduler.address in dask_compat.addresses(scheduler)
    assert dask_compat.scheduler_address(client) in dask_compat.addresses(scheduler)


@pytest.mark.parametrize("name", ["scheduler", "worker"])
def test_rpc_handlers(request, client, name):
    server = request.getfixturevalue(name)

    def answer(value: int) -> int:
        return value + 1

    dask_compat.rpc_handlers(server)["compat_answer"] = answer

    async def ask() -> Any:
        async with distributed.rpc(server.address) as peer:
            return await peer.compat_answer(value=1)

    try:
        assert client.sync(ask) == 2
    finally:
        del dask_compat.rpc_handlers(server)["compat_answer"]


def test_stream_handlers(client, scheduler, worker):
    received: list[tuple[int, str | None]] = []

    def receive(value: int, worker: str | None = None) -> None:
        received.append((value, worker))

    dask_compat.stream_handlers(scheduler)["compat-message"] = receive
    on_loop(client, worker.batched_send, {"op": "compat-message", "value": 3})
    eventually(lambda: received)
    # Dask adds which worker it came from.
    assert received == [(3, worker.address)]


def test_send_to_worker(client, scheduler, worker):
    received: list[int] = []

    def receive(value: int) -> None:
        received.append(value)

    dask_compat.stream_handlers(worker)["compat-message"] = receive
    message = {"op": "compat-message", "value": 4}
    on_loop(client, dask_compat.send_to_worker, scheduler, worker.address, message)
    eventually(lambda: received)
    assert received == [4]
    on_loop(client, dask_compat.send_to_worker, scheduler, "tcp://127.0.0.1:1", message)


def test_registered_at(client, scheduler, worker):
    before = time.time()
    found = on_loop(client, dask_compat.registered_at, scheduler, worker.address)
    assert before - 60 < found < before
    assert on_loop(client, dask_compat.registered_at, scheduler, "tcp://nobody") >= before


def test_observed_tick(client, scheduler):
    eventually(lambda: on_loop(client, dask_compat.observed_tick, scheduler) > 0)


def test_loop_lag(worker, scheduler, client):
    assert dask_compat.loop_lag(0.02) == 0.0
    assert dask_compat.loop_lag(1.02) == pytest.approx(1.0)
    # What workers report of it comes with their heartbeats.
    eventually(lambda: "event_loop_interval" in scheduler.workers[worker.address].metrics)


def test_spilled_bytes(client, scheduler):
    assert on_loop(client, dask_compat.spilled_bytes, scheduler) == (0, 0)
    metrics = scheduler.cumulative_worker_metrics
    metrics["execute", None, "f", "disk-write", "bytes"] += 5
    metrics["get-data", "disk-read", "bytes"] += 3
    metrics["get-data", "disk-read", "seconds"] += 1
    metrics["latency"] += 1
    assert on_loop(client, dask_compat.spilled_bytes, scheduler) == (5, 3)


def test_memory_on_disk(scheduler, worker):
    state = scheduler.workers[worker.address]
    eventually(lambda: state.metrics.get("spilled_bytes"))
    assert dask_compat.memory_on_disk(state) == 0
    state.metrics["spilled_bytes"] = {"memory": 9, "disk": 5}
    assert dask_compat.memory_on_disk(state) == 5
    assert dask_compat.memory_on_disk(SimpleNamespace(metrics={})) == 0


def test_function_name(client, scheduler):
    future = client.submit(sorted, [1])
    future.result()
    run_spec = scheduler.tasks[future.key].run_spec
    assert dask_compat.function_name(run_spec) == "sorted"
    assert dask_compat.function_name(Task("key", partial(sorted), [1])) == "sorted"
    assert dask_compat.function_name(Task("key", time.sleep, 1)) == "sleep"
    assert dask_compat.function_name(None) is None


def test_parse_startstops(client, transitions):
    client.submit(time.sleep, 0.01).result()
    (done,) = transitions.of("processing", "memory")
    start, stop, phases, cpu = dask_compat.parse_startstops(done["startstops"])
    assert start is not None
    assert stop is not None
    assert start <= stop
    assert cpu is None
    for action, began, ended in phases:
        assert action
        assert began <= ended
    # What the hook is called with besides.
    assert {"worker", "nbytes", "typename", "stimulus_id"} <= set(done)
    assert dask_compat.parse_startstops(None) == (None, None, (), None)


def test_stimulus_reason(client, scheduler, transitions):
    started, release = Event("started"), Event("release")

    def block() -> None:
        Event("started").set()
        Event("release").wait()

    future = client.submit(block)
    started.wait()
    client.cancel([future])
    eventually(lambda: transitions.of("processing", "released"))
    (left,) = transitions.of("processing", "released")
    assert left["stimulus_id"] != dask_compat.stimulus_reason(left["stimulus_id"])
    assert "cancel" in dask_compat.stimulus_reason(left["stimulus_id"])
    release.set()


def _fail(text: str) -> None:
    raise ValueError(text)


def test_load_exception(client, worker, transitions):
    future = client.submit(_fail, "bad input", retries=0)
    wait(future)
    (erred,) = transitions.of("processing", "erred")
    assert erred["exception_text"] == "ValueError('bad input')"
    assert "_fail" in erred["traceback_text"]
    error = dask_compat.load_exception(worker.state.tasks[future.key].exception)
    assert isinstance(error, ValueError)
    assert error.args == ("bad input",)

    original = ValueError("x")
    for form in (
        original,
        dumps(original),
        to_serialize(dumps(original)),
    ):
        error = dask_compat.load_exception(form)
        assert isinstance(error, ValueError), form
        assert error.args == ("x",)
    assert dask_compat.load_exception(b"no pickle") is None
    assert dask_compat.load_exception(None) is None


# -- workers --------------------------------------------------------------------------------------


def test_wrap_execute(client, worker):
    begun: list[Any] = []

    def before(key: Any) -> None:
        # Dask's own state says what runs, and its number.
        task = worker.state.tasks[key]
        begun.append((key, task.run_id, asyncio.current_task()))

    undo = dask_compat.wrap_execute(worker, before)
    futures = client.map(int, range(3), pure=False)
    wait(futures)
    assert {key for key, _, _ in begun} == {future.key for future in futures}
    assert len({number for _, number, _ in begun}) == 3
    # Each runs in an asyncio task of its own: what is set in its context ends with it.
    assert len({id(task) for *_, task in begun}) == 3
    undo()
    client.submit(int, 7).result()
    assert len(begun) == 3
    assert "execute" not in vars(worker)


def test_has_threads(client, worker):
    assert dask_compat.has_threads(worker, "default")
    assert not dask_compat.has_threads(worker, "missing")
    with ProcessPoolExecutor(1) as pool:
        worker.executors["processes"] = pool
        assert not dask_compat.has_threads(worker, "processes")
        del worker.executors["processes"]

    # Only there the thread of a task enters its key, and has a context of its own.
    async def coroutine() -> list[Any]:
        return list(distributed.get_worker().active_threads.values())

    def in_a_thread() -> list[Any]:
        return list(distributed.get_worker().active_threads.values())

    threaded = client.submit(in_a_thread)
    assert threaded.result() == [threaded.key]
    assert client.submit(coroutine).result() == []


def test_active_threads(client, worker):
    """What `ActiveThreads` relies on: a thread's first act is to enter its key, under a lock."""
    entries: list[Any] = []

    class Table(dict[int, Any]):
        def __setitem__(self, thread: int, key: Any) -> None:
            assert worker.active_threads_lock.locked()
            entries.append(("begin", key))
            super().__setitem__(thread, key)

        def __delitem__(self, thread: int) -> None:
            assert worker.active_threads_lock.locked()
            entries.append(("end", self[thread]))
            super().__delitem__(thread)

    before, worker.active_threads = worker.active_threads, Table()
    try:
        future = client.submit(int, 3)
        future.result()
        eventually(lambda: len(entries) == 2)
    finally:
        worker.active_threads = before
    assert entries == [("begin", future.key), ("end", future.key)]


def test_running_tasks(client, worker):
    started, release = Event("started"), Event("release")

    def block() -> None:
        distributed.secede()
        Event("started").set()
        Event("release").wait()

    future = client.submit(block)
    started.wait()
    eventually(lambda: on_loop(client, lambda: list(dask_compat.running_tasks(worker))))
    ((task, start),) = on_loop(client, lambda: list(dask_compat.running_tasks(worker)))
    assert task.key == future.key
    assert start > 0
    release.set()
    wait(future)


def test_report_times(client, worker, transitions):
    class Adding(distributed.WorkerPlugin):
        def transition(self, key: Any, start: str, finish: str, **kwargs: Any) -> None:
            if (start, finish) == ("executing", "memory"):
                dask_compat.report_times(worker.state.tasks[key], 0.25, 7.0, 100.0)

    worker.plugins["adding"] = Adding()
    client.submit(int, 3).result()
    (done,) = transitions.of("processing", "memory")
    start, stop, _, cpu = dask_compat.parse_startstops(done["startstops"])
    assert cpu == 0.25
    (compute,) = (item for item in done["startstops"] if item["action"] == "compute")
    assert compute[THREAD_CPU] == 0.25
    assert (start, stop) == (compute["start"] + 7.0, compute["stop"] + 7.0)


def test_report_times__moved_and_others():
    """Dask adds its delay to transfers and to the task's code, but not to reading and writing."""
    actions = ("transfer", "disk-read", "compute", "disk-write")
    task: Any = SimpleNamespace(
        startstops=[{"action": action, "start": 10.0, "stop": 11.0} for action in actions]
    )
    dask_compat.report_times(task, None, 7.0, 100.0)
    start, stop, phases, cpu = dask_compat.parse_startstops(task.startstops)
    assert (start, stop, cpu) == (17.0, 18.0, None)
    assert phases == (
        ("transfer", 17.0, 18.0),
        ("disk-read", 110.0, 111.0),
        ("disk-write", 110.0, 111.0),
    )


def test_report_times__nothing_to_add():
    task: Any = SimpleNamespace(startstops=[{"action": "compute", "start": 10.0, "stop": 11.0}])
    dask_compat.report_times(task, None, 0.0, 0.0)
    assert task.startstops == [{"action": "compute", "start": 10.0, "stop": 11.0}]


def test_round_trip(client, worker):
    """Exact where no heartbeat was missed."""

    async def beat() -> tuple[float, float, float]:
        before = dask_compat.mean_round_trip(worker)
        began = time.monotonic()
        await worker.heartbeat()
        return before, time.monotonic() - began, dask_compat.clock_delay(worker)

    before, took, delay = client.sync(beat)
    measured = dask_compat.round_trip(worker, before)
    assert 0 < measured <= took + 1e-6
    # One clock: the scheduler answered between the request and its arrival.
    assert abs(delay) <= measured / 2 + 1e-6


def test_mean_round_trip(client, worker):
    """No heartbeat can have taken longer than what the mean allows."""
    assert 0 < dask_compat.mean_round_trip(worker) <= dask_compat.round_trip(worker, 0.0)


def test_clock_delay(client, worker, transitions):
    """Dask adds the value at the begin of an execution to the times of its code."""
    worker.periodic_callbacks["heartbeat"].stop()
    worker.scheduler_delay = 1_000.0
    before = time.time()
    client.submit(int, 4).result()
    (done,) = transitions.of("processing", "memory")
    start, stop, *_ = dask_compat.parse_startstops(done["startstops"])
    assert before <= start - 1_000.0 <= stop - 1_000.0 <= time.time()


def test_report_exports(client, worker, transitions):
    class Adding(distributed.WorkerPlugin):
        def transition(self, key: Any, start: str, finish: str, **kwargs: Any) -> None:
            if (start, finish) == ("executing", "memory"):
                dask_compat.report_exports(worker.state.tasks[key])

    worker.plugins["adding"] = Adding()
    client.submit(int, 3).result()
    (done,) = transitions.of("processing", "memory")
    assert done["startstops"][-1][EXPORTS_CHILDREN] is True


def test_truncation_patch(client):
    cut: list[tuple[int, int]] = []

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        def truncate_exception(e: BaseException, *args: Any, **kwargs: Any) -> Any:
            short = original(e, *args, **kwargs)
            if short is not e:
                cut.append((len(str(e)), len(str(short))))
            return short

        return truncate_exception

    patch = dask_compat.truncation_patch(wrap)
    patch.apply()
    try:
        wait(client.submit(_fail, "short"))
        assert not cut
        wait(client.submit(_fail, "x" * 50_000))
    finally:
        patch.undo()
    ((before, after),) = cut
    assert before == 50_000
    assert after < 20_000


async def _double(x: int) -> int:
    return 2 * x


def calls_seen(client: Client, make_patch: Callable[..., Any]) -> list[tuple[str, Any]]:
    """Calls of tasks in a thread and on the loop, as a patch sees them: key and data."""
    seen: list[tuple[str, Any]] = []

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        def run(task: Task, data: dict[str, Any], *args: Any) -> Any:
            def call(values: dict[str, Any]) -> Any:
                seen.append((str(task.key), dict(values)))
                return task(values)

            return original(call, data, *args)

        return run

    four = client.submit(int, "4", key="four")
    wait(four)
    patch = make_patch(wrap)
    patch.apply()
    try:
        assert client.submit(abs, four, key="in a thread").result() == 4
        assert client.submit(_double, four, key="on the loop").result() == 8
    finally:
        patch.undo()
    assert client.submit(abs, four, key="afterwards").result() == 4
    return seen


def test_run_patch(client):
    assert calls_seen(client, dask_compat.run_patch) == [("in a thread", {"four": 4})]


def test_run_coroutine_patch(client):
    assert calls_seen(client, dask_compat.run_coroutine_patch) == [("on the loop", {"four": 4})]


def test_traceback_patch(client):
    frames: list[str] = []

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        def get_traceback() -> Any:
            traceback = original()
            frames.append(traceback.tb_frame.f_code.co_name)
            return traceback

        return get_traceback

    patch = dask_compat.traceback_patch(wrap)
    patch.apply()
    try:
        wait(client.submit(_fail, "planned"))
    finally:
        patch.undo()
    # Without the frames of Dask above it.
    assert frames == ["_fail"]


def test_sent_bytes(client, worker):
    before = dask_compat.sent_bytes(worker)
    assert client.submit(bytes, 100_000).result() == bytes(100_000)
    client.gather(client.submit(bytes, 200_000))
    assert dask_compat.sent_bytes(worker) >= before
    # Its entries are called with the worker, and come with its heartbeats.
    worker.metrics["compat"] = dask_compat.sent_bytes
    try:
        state = client.cluster.scheduler.workers[worker.address]
        eventually(lambda: "compat" in state.metrics)
    finally:
        del worker.metrics["compat"]


def test_blockedstream(client, worker):
    stream = dask_compat.BlockedStream(worker)
    assert on_loop(client, stream.is_blocked) is False
    before = worker.batched_stream.batch_count

    def two_looks() -> tuple[bool, bool]:
        worker.batched_send({"op": "long-running", "key": "nobody", "compute_duration": 1})
        return stream.is_blocked(), stream.is_blocked()

    # Within one step of the loop nothing is written.
    assert on_loop(client, two_looks)[1] is True
    eventually(lambda: worker.batched_stream.batch_count > before)
    assert on_loop(client, stream.is_blocked) is False


# -- nannies --------------------------------------------------------------------------------------


@pytest.fixture
def nanny(make_cluster) -> tuple[Nanny, Client]:
    cluster, client = make_cluster(n_workers=1)
    (found,) = cluster.workers.values()
    return found, client


def test_runs_worker(nanny):
    found, client = nanny
    assert isinstance(found, Nanny)
    assert dask_compat.runs_worker(found)
    client.sync(found.kill)
    assert not dask_compat.runs_worker(found)


def test_last_terminated_pid(nanny):
    found, _ = nanny
    assert dask_compat.last_terminated_pid(found) == -1


def test_exithook(nanny):
    found, client = nanny
    exits: list[tuple[int, bool]] = []
    hook = on_loop(client, lambda: dask_compat.ExitHook(found, lambda *given: exits.append(given)))
    address = found.worker_address

    def end(*signals: int) -> None:
        count = len(exits)
        os.kill(found.pid, signals[0])
        eventually(lambda: len(exits) > count)

    end(signal.SIGKILL)
    assert exits == [(-signal.SIGKILL, True)]
    # The next process has it, too.
    eventually(lambda: dask_compat.runs_worker(found) and found.worker_address != address)
    end(signal.SIGTERM)
    assert len(exits) == 2
    eventually(lambda: dask_compat.runs_worker(found))
    on_loop(client, hook.remove)
    assert "_on_worker_exit_sync" not in vars(found)
    pid = found.pid
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: dask_compat.runs_worker(found) and found.pid != pid)
    assert len(exits) == 2
