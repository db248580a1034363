"""What Dask shows of a computation, its code and its annotations, is as without the package."""

from __future__ import annotations

import inspect
import linecache
from collections.abc import Callable, Iterator
from typing import Any

import dask
import pytest
from distributed import Client, LocalCluster, wait

import scalable
from scalable.session.client import ScalableClient

NFRAMES = "distributed.diagnostics.computations.nframes"


def add(x: int, y: int = 1) -> int:
    return x + y


def submit(client: Client) -> Any:
    return client.submit(add, 1, pure=False).result()


def in_a_list(client: Client) -> Any:
    return client.gather([client.submit(add, number, pure=False) for number in range(3)])


def in_a_dictionary(client: Client) -> Any:
    return client.gather({number: client.submit(add, number, pure=False) for number in range(3)})


def in_a_generator(client: Client) -> Any:
    return sum(client.submit(add, number, pure=False).result() for number in range(3))


def mapped(client: Client) -> Any:
    return client.gather(client.map(add, range(3), pure=False))


def computed(client: Client) -> Any:
    return client.compute(dask.delayed(add)(1)).result()


def persisted(client: Client) -> Any:
    return wait(client.persist(dask.delayed(add)(1)))


def delayed(client: Client) -> Any:
    return dask.delayed(add)(1).compute(scheduler=client)


def of_several(client: Client) -> Any:
    return dask.compute(dask.delayed(add)(1), dask.delayed(add)(2), scheduler=client)


def of_an_array(client: Client) -> Any:
    da = pytest.importorskip("dask.array")
    return da.ones((4, 4), chunks=2).sum().compute(scheduler=client)


def got(client: Client) -> Any:
    return client.get({"got-by-key": (add, 1)}, "got-by-key")


def nested(client: Client) -> Any:
    def inner() -> Any:
        return (lambda: client.submit(add, 1, pure=False).result())()

    return inner()


def in_a_cell(client: Client) -> Any:
    """As Jupyter runs a cell: its source is in no file."""
    source, name = "result = client.submit(add, 1, pure=False).result()\n", "<ipython-input-1>"
    linecache.cache[name] = (len(source), None, [source], name)
    cell: dict[str, Any] = {"client": client, "add": add, "__name__": "__main__"}
    exec(compile(source, name, "exec"), cell)
    return cell["result"]


WAYS = [
    submit,
    in_a_list,
    in_a_dictionary,
    in_a_generator,
    mapped,
    computed,
    persisted,
    delayed,
    of_several,
    of_an_array,
    got,
    nested,
    in_a_cell,
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0"
    ) as cluster:
        yield cluster


def shown(client: Client, way: Callable[[Client], Any]) -> set[tuple[Any, ...]]:
    """Return the code that Dask shows: the source, lines and file of each frame."""

    def computations(dask_scheduler: Any = None) -> list[Any]:
        found = [code for each in dask_scheduler.computations for code in each.code]
        dask_scheduler.computations.clear()
        return found

    client.run_on_scheduler(computations)
    with dask.config.set({NFRAMES: 2}):
        way(client)
    # How many computations there are depends on what ends before the next one begins.
    return {
        tuple((code.code, code.lineno_frame, code.lineno_relative, code.filename) for code in codes)
        for codes in client.run_on_scheduler(computations)
    }


@pytest.fixture(scope="module")
def bare(cluster) -> dict[str, set[tuple[Any, ...]]]:
    with Client(cluster) as client:
        return {way.__name__: shown(client, way) for way in WAYS}


@pytest.mark.parametrize("kind", [Client, ScalableClient])
def test_dask_shows_the_code_of_the_user(cluster, bare, kind):
    with kind(cluster) as client, scalable.instrument(client, recorder="thread"):
        recorded = {way.__name__: shown(client, way) for way in WAYS}
    assert recorded == bare
    for way in WAYS:
        if way not in (in_a_cell, nested):
            assert {codes[-1][0] for codes in recorded[way.__name__]} == {inspect.getsource(way)}


def test_dask_shows_the_code_of_the_user_whatever_it_leaves_out(cluster):
    """A user's own list of modules to leave out does not bring a frame of ours in."""
    ignored = {"distributed.diagnostics.computations.ignore-modules": ["pytest"]}
    with Client(cluster) as client, dask.config.set(ignored):
        bare = shown(client, submit)
    with Client(cluster) as client, scalable.instrument(client, recorder="thread"):
        with dask.config.set(ignored):
            assert shown(client, submit) == bare


def test_dask_shows_the_annotations_of_the_user(cluster):
    def annotations(dask_scheduler: Any) -> dict[str, Any]:
        return dict(dask_scheduler.computations[-1].annotations)

    with Client(cluster) as client, scalable.instrument(client, recorder="thread"):
        with dask.annotate(color="blue"):
            submit(client)
        assert client.run_on_scheduler(annotations) == {"color": "blue"}
