"""The program's source texts reach workers and recorder once, and harm no scheduler."""

from __future__ import annotations

import importlib
import json
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle
import pytest
from distributed import Client, LocalCluster

import scalable
from scalable.code.own_sources import own_sources
from scalable.code.sources import program_sources
from scalable.facts.protocol import CONFIG_OP, SOURCES_OP, STREAM_OP
from scalable.instrumentation import connection, dask_compat
from scalable.instrumentation.hub import Hub
from scalable_runs.reader import RunReader


@pytest.fixture
def by_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], ModuleType]]:
    """Make modules whose functions are sent by value, as those of a script are."""
    monkeypatch.syspath_prepend(tmp_path)
    made: list[ModuleType] = []

    def make(name: str) -> ModuleType:
        text = f"""
            def bad_{name}(x, text):
                return 1 / x
        """
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text).lstrip())
        importlib.invalidate_caches()
        module = importlib.import_module(name)
        cloudpickle.register_pickle_by_value(module)
        made.append(module)
        return module

    yield make
    for module in made:
        cloudpickle.unregister_pickle_by_value(module)
        sys.modules.pop(module.__name__)


def fail(client: Client, module: ModuleType, *, key: str = "", **options: Any) -> None:
    function = getattr(module, f"bad_{module.__name__}")
    # Dask asks cloudpickle where a pickle has this text, as those of a script's functions have.
    future = client.submit(function, 0, "__main__", key=key or module.__name__, **options)
    assert isinstance(future.exception(timeout=30), ZeroDivisionError)


def tracebacks(run: Any) -> dict[str, str]:
    failures = RunReader(run.run_dir).records("failures.jsonl")
    return {it["task_id"]: it["details"]["traceback"] for it in failures}


def names(module: ModuleType) -> str:
    return f'File "{module.__file__}", line 2, in bad_{module.__name__}\n    return 1 / x\n'


def known_there() -> list[str]:
    """Called in a worker."""
    return sorted(it.name for it in program_sources().since())


def eventually(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def kept_by(client: Client) -> list[str]:
    """Files that each worker knows."""
    found = list(client.run(known_there).values())
    assert all(each == found[0] for each in found)
    return found[0] if found else []


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(
        n_workers=1, threads_per_worker=2, dashboard_address=":0", silence_logs=60
    ) as cluster:
        yield cluster


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[Client]:
    with Client(cluster) as client:
        yield client


@pytest.mark.parametrize("remote", [False, True], ids=["scheduler here", "scheduler elsewhere"])
def test_new_texts_are_sent_once_ahead_of_the_graph(client, by_value, monkeypatch, remote):
    if remote:
        monkeypatch.setattr(connection, "_scheduler_in_this_process", lambda address: None)
    letter = "r" if remote else "l"
    first = by_value(f"first_{letter}")
    messages: list[Any] = []
    send = dask_compat.send_to_worker

    def sent(scheduler: Any, address: str, message: Any) -> None:
        if message["op"] == CONFIG_OP and "sources" in message:
            messages.append(message["sources"])
        send(scheduler, address, message)

    monkeypatch.setattr(dask_compat, "send_to_worker", sent)
    with scalable.instrument(client) as run:
        eventually(lambda: str(first.__file__) in kept_by(client))
        before = len(messages)
        second = by_value(f"second_{letter}")
        for module in (first, second):
            fail(client, module)
        fail(client, second, key="again")
        assert [[name for name, _, _ in texts] for texts in messages[before:]] == [
            [str(second.__file__)]
        ]
    shown = tracebacks(run)
    assert names(first) in shown[first.__name__]
    assert names(second) in shown[second.__name__]
    assert names(second) in shown["again"]
    assert json.loads((run.run_dir / "run.json").read_text())["telemetry"]["errors"] == {}


def test_workers_that_join_or_restart_get_all_texts(cluster, client, by_value):
    module = by_value("joined")
    with scalable.instrument(client) as run:
        fail(client, module)
        cluster.scale(2)
        client.wait_for_workers(2, timeout=30)
        file = str(module.__file__)
        eventually(lambda: all(file in it for it in client.run(known_there).values()))
        joined = max(client.scheduler_info()["workers"].items(), key=lambda it: int(it[1]["name"]))
        fail(client, module, key="late", workers=[joined[0]])
        cluster.scale(1)
        eventually(lambda: len(cluster.workers) == 1)
    assert names(module) in tracebacks(run)["late"]


def test_clients_in_threads_and_of_the_whole_cluster(cluster, client, by_value):
    modules = [by_value(f"thread_{number}") for number in range(4)]
    with Client(cluster) as other:
        with scalable.instrument(client, scope="cluster") as run, scalable.instrument(other) as two:
            threads = [
                threading.Thread(target=fail, args=(it, module), kwargs={"key": f"{module}-{n}"})
                for n, it in enumerate((client, other))
                for module in modules
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    for recorded in (run, two):
        shown = tracebacks(recorded)
        for module in modules:
            key = f"{module}-1"
            assert names(module) in shown[key]
    assert len(tracebacks(run)) == 8


def test_text_alone_is_enough_for_a_recorder_that_was_restarted(client, by_value):
    module = by_value("restarted")

    def forget(dask_worker: Any) -> None:
        program_sources().__init__()  # type: ignore[misc]

    with scalable.instrument(client) as run:
        fail(client, module)
        client.run(forget)
        fail(client, module, key="text")
        run.flush()
        recorder = run._recorder
        recorder._process.kill()
        eventually(lambda: recorder._restarts and not recorder._died)
        fail(client, module, key="after")
    shown = tracebacks(run)
    for key in ("text", "after"):
        assert names(module) in shown[key]


def test_within_one_process_nothing_is_sent(by_value, monkeypatch):
    module = by_value("inproc")
    with (
        LocalCluster(
            n_workers=1, processes=False, dashboard_address=":0", silence_logs=60
        ) as cluster,
        Client(cluster) as client,
    ):
        with scalable.instrument(client) as run:
            monkeypatch.setattr(
                dask_compat, "send_to_worker", lambda *_: pytest.fail("something was sent")
            )
            fail(client, module)
    assert names(module) in tracebacks(run)[module.__name__]


def test_an_earlier_or_another_scheduler_comes_to_no_harm(by_value, monkeypatch):
    """Dask closes the stream of a client that sends an unknown message."""
    monkeypatch.setattr(connection, "_scheduler_in_this_process", lambda address: None)
    received: list[dict[str, Any]] = []

    def receive(self: Any, worker: Any = "", reports: Any = (), **more: Any) -> None:
        received.append(more)
        original(self, worker, reports)

    original = Hub.receive
    monkeypatch.setattr(Hub, "receive", receive)
    with (
        LocalCluster(
            n_workers=1, processes=False, dashboard_address=":0", silence_logs=60
        ) as cluster,
        Client(cluster) as client,
    ):
        scheduler = cluster.scheduler
        stream = dask_compat.stream_of(client)
        with scalable.instrument(client):
            # An earlier version takes the message, and leaves out what it does not know.
            fail(client, by_value("earlier"))
            assert any("sources" in more for more in received)
            assert client.id in scheduler.clients
            assert dask_compat.stream_of(client) is stream
            # Another scheduler at the same address knows neither request nor message.
            handlers = dask_compat.stream_handlers(scheduler)
            kept = handlers[STREAM_OP]
            handlers[STREAM_OP] = unknown_to_clients(kept)
            dask_compat.rpc_handlers(scheduler).pop(SOURCES_OP)
            client.sync(abort, client)
            eventually(
                lambda: client.status == "running" and dask_compat.stream_of(client) is not stream
            )
            fail(client, by_value("unknown"))
            fail(client, by_value("unknown_too"))
            assert client.submit(sum, [1, 2]).result(timeout=30) == 3
            assert client.id in scheduler.clients
            handlers[STREAM_OP] = kept
        assert client.submit(sum, [1, 3]).result(timeout=30) == 4


def unknown_to_clients(handler: Callable[..., Any]) -> Callable[..., Any]:
    def receive(**message: Any) -> None:
        if "client" in message:
            raise KeyError(STREAM_OP)
        handler(**message)

    return receive


async def abort(client: Client) -> None:
    dask_compat.stream_of(client).comm.abort()


def test_nothing_is_sent_for_a_client_that_is_not_recorded(client, by_value):
    with scalable.instrument(client):
        pass
    own_sources().gather()
    module = by_value("unrecorded")
    fail(client, module)
    assert str(module.__file__) not in {it.name for it in own_sources().texts.since()}
