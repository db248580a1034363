"""What a graph was sent for, and on which line: for every way of Dask to send one."""

from __future__ import annotations

import asyncio
import inspect
import linecache
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import dask
import dask.bag
import pytest
from distributed import Client, LocalCluster, span, worker_client

from scalable.facts.graphs import GraphRequest
from scalable.instrumentation import call_sites, dask_compat
from scalable.instrumentation.call_sites import request_of
from scalable_runs.summary import name_of_key


def inc(x: int) -> int:
    return x + 1


def add(x: int, y: int) -> int:
    return x + y


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0"
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


@contextmanager
def requests() -> Iterator[list[GraphRequest]]:
    """What is asked for in the block, as the function that sends a graph sees it."""
    found: list[GraphRequest] = []

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        def send_to_scheduler(self: Client, message: Any) -> Any:
            if dask_compat.is_graph(message):
                found.append(request_of(sys._getframe(1), message))
            return original(self, message)

        return send_to_scheduler

    patch = dask_compat.graph_patch(wrap)
    patch.apply()
    try:
        yield found
    finally:
        patch.undo()


def names_of(request: GraphRequest) -> list[str]:
    names = (name_of_key(str(output)) for output in request.outputs)
    return sorted(set(names))


def a_submit(client: Client) -> Any:
    return client.submit(inc, 1)


def a_map(client: Client) -> Any:
    return client.map(inc, range(5))


def a_map_in_batches(client: Client) -> Any:
    return client.map(add, range(5), range(5), batch_size=2)


def with_a_key(client: Client) -> Any:
    return client.submit(inc, 1, key=("chunk-2026", 1))


def a_lambda(client: Client) -> Any:
    return client.submit(lambda: 1)


def computed(client: Client) -> Any:
    return client.compute(dask.delayed(inc)(1))


def computed_in_a_list(client: Client) -> Any:
    return client.compute([dask.delayed(inc)(1), 7, dask.delayed(add)(1, 2)])


def persisted(client: Client) -> Any:
    return client.persist(dask.delayed(inc)(1))


def got(client: Client) -> Any:
    return client.get({"first": (inc, 1), "second": (inc, "first")}, "second")


def by_dask(client: Client) -> Any:
    return dask.compute(dask.delayed(inc)(1), {"a": dask.delayed(add)(1, 2)})


def by_a_method(client: Client) -> Any:
    return dask.delayed(inc)(1).compute()


def persisted_by_a_method(client: Client) -> Any:
    return dask.delayed(inc)(1).persist()


def a_bag(client: Client) -> Any:
    return dask.bag.from_sequence(range(4), npartitions=2).map(inc).sum().compute()


def an_array(client: Client) -> Any:
    da = pytest.importorskip("dask.array")
    return da.ones((4, 4), chunks=2).mean(axis=0).compute()


def a_dataframe(client: Client) -> Any:
    pandas, dd = pytest.importorskip("pandas"), pytest.importorskip("dask.dataframe")
    frame = dd.from_pandas(pandas.DataFrame({"a": [1, 2, 1], "b": [1, 2, 3]}), npartitions=2)
    return frame.groupby("a").b.sum().compute()


class Composed:
    """A collection without a name, such as xarray's datasets."""

    def __init__(self, part: Any) -> None:
        self.part = part

    def __dask_graph__(self) -> Any:
        return self.part.__dask_graph__()

    def __dask_keys__(self) -> Any:
        return self.part.__dask_keys__()

    def __dask_postcompute__(self) -> Any:
        return self.part.__dask_postcompute__()

    __dask_optimize__ = staticmethod(lambda graph, keys, **more: graph)
    __dask_scheduler__ = staticmethod(dask.threaded.get)


def of_a_nameless_collection(client: Client) -> Any:
    return dask.compute(Composed(dask.delayed(inc)(1)))


WAYS = [
    (a_submit, "submit", ["inc"], 1),
    (a_map, "map", ["inc"], 5),
    (a_map_in_batches, "map", ["add"], 2),
    (with_a_key, "submit", ["chunk"], 1),
    (a_lambda, "submit", ["lambda"], 1),
    (computed, "compute", ["inc"], 1),
    (computed_in_a_list, "compute", ["add", "inc"], 2),
    (persisted, "persist", ["inc"], 1),
    (got, "get", ["second"], 1),
    (by_dask, "compute", ["add", "inc"], 2),
    (by_a_method, "compute", ["inc"], 1),
    (persisted_by_a_method, "persist", ["inc"], 1),
    (a_bag, "compute", ["sum-aggregate"], 1),
    (an_array, "compute", ["mean_agg-aggregate"], 1),
    (a_dataframe, "compute", ["groupby-sum"], 1),
    (of_a_nameless_collection, "compute", ["Composed"], 1),
]


@pytest.mark.parametrize(("way", "operation", "names", "count"), WAYS)
def test_a_call_says_what_it_asks_for_and_where(client, way, operation, names, count):
    with requests() as found:
        way(client)
    first = found[0]
    assert {request.operation for request in found} == {operation}
    assert names_of(first) == names
    assert first.total == count
    assert len(found) == (3 if first.is_part else 1)
    assert first.is_part is (way is a_map_in_batches)
    assert first.site is not None
    assert first.site.function == f"{__name__}.{way.__name__}"
    assert first.site.file == __file__
    lines, start = inspect.getsourcelines(way)
    assert first.site.line == start + len(lines) - 1
    assert first.span is None


def test_a_comprehension_is_at_the_line_of_its_function(client):
    with requests() as found:
        listed = [client.submit(inc, number) for number in range(3)]
        line = sys._getframe().f_lineno - 1
        total = sum(client.submit(add, 1, future).result() for future in listed)
    assert total == 9
    name = f"{__name__}.test_a_comprehension_is_at_the_line_of_its_function"
    assert {(found.site.function, found.site.line) for found in found[:3]} == {(name, line)}
    assert {(found.site.function, found.site.line) for found in found[3:]} == {(name, line + 2)}
    assert found[0].site is found[1].site


def test_a_nested_function_has_its_qualified_name(client):
    def outer() -> Any:
        return (lambda: client.submit(inc, 7))()

    with requests() as found:
        outer()
    (request,) = found
    assert request.site.function.endswith("<locals>.outer.<locals>.<lambda>")


def test_a_cell_of_a_notebook_is_the_users(client):
    source, name = "\nfuture = client.submit(inc, 70)\n", "/tmp/ipykernel_1/2.py"
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    with requests() as found:
        exec(compile(source, name, "exec"), {"client": client, "inc": inc, "__name__": "__main__"})
    (request,) = found
    assert request.site == ("__main__.<module>", name, 2)


def test_code_of_a_library_that_dask_leaves_out_is_passed(client):
    library: dict[str, Any] = {"__name__": "xarray.core", "inc": inc}
    exec("def load(client):\n    return client.submit(inc, 71)\n", library)
    with requests() as found:
        library["load"](client)
        line = sys._getframe().f_lineno - 1
    assert found[0].site.line == line
    assert found[0].site.file == __file__


def test_code_in_a_place_that_dask_leaves_out_is_better_than_none(client):
    here = {"distributed.diagnostics.computations.ignore-modules": [r".*"]}
    call_sites._roles.clear()
    try:
        with dask.config.set(here), requests() as found:
            client.submit(inc, 72)
            line = sys._getframe().f_lineno - 1
    finally:
        call_sites._roles.clear()
    assert (found[0].site.file, found[0].site.line) == (__file__, line)


@pytest.mark.parametrize("mistake", ["submit", [b"bytes"], ["("], 7])
def test_a_mistake_in_the_configuration_of_dask_does_not_matter(client, mistake):
    call_sites._roles.clear()
    names = (f"distributed.diagnostics.computations.ignore-{what}" for what in ("modules", "files"))
    try:
        with dask.config.set(dict.fromkeys(names, mistake)), requests() as found:
            client.submit(inc, 73)
    finally:
        call_sites._roles.clear()
    assert found[0].site is not None


def test_a_task_that_sends_a_graph_says_so(client):
    def task() -> int:
        with worker_client() as inner:
            return inner.submit(inc, 74).result()

    with requests() as found:
        assert client.submit(task).result() == 75
    assert [request.operation for request in found] == ["submit", "submit"]
    assert found[1].site.function.endswith("<locals>.task")


def test_an_asynchronous_client_says_where_its_coroutine_is(client):
    async def run() -> None:
        async with Client(client.scheduler.address, asynchronous=True) as inner:
            assert await inner.submit(inc, 76) == 77
            assert await inner.compute(dask.delayed(inc)(77)) == 78

    with requests() as found:
        asyncio.run_coroutine_threadsafe(run(), client.loop.asyncio_loop).result(60)
    assert [request.operation for request in found] == ["submit", "compute"]
    assert {request.site.function.rpartition(".")[2] for request in found} == {"run"}


def test_a_span_of_dask_is_known(client):
    with requests() as found, span("prepare", "clean") as last:
        client.submit(inc, 79)
        with span("inner"), dask.annotate(color="blue"):
            client.submit(inc, 80)
    assert found[0].span.names == ("prepare", "clean")
    assert found[0].span.ids[-1] == last
    assert found[1].span.names == ("prepare", "clean", "inner")
    assert found[1].span.ids[:2] == found[0].span.ids


@pytest.mark.parametrize("value", ["mine", 7, {"name": 1, "ids": 2}, {"name": ["a"]}])
def test_an_annotation_of_that_name_of_the_users_is_no_span(value):
    message = {"keys": {"inc-1"}, "annotations": SimpleNamespace(data={"span": value})}
    assert request_of(sys._getframe(), message).span is None


def test_what_is_remembered_is_bounded(client, monkeypatch):
    monkeypatch.setattr(call_sites, "MAX_KNOWN", 8)
    with requests() as found:
        for number in range(30):
            place: dict[str, Any] = {"client": client, "inc": inc, "__name__": f"made.{number}"}
            exec(f"client.submit(inc, {number + 100})", place)
    assert len(call_sites._roles) <= 8
    assert len(call_sites._sites) <= 8
    expected = [f"made.{number}.<module>" for number in range(30)]
    assert [request.site.function for request in found] == expected
