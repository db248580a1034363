"""Results of tasks that are kept and taken again; executions are counted on disk."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
from distributed import Client, LocalCluster

import scalable
from cluster import kept_tasks
from cluster.kept_tasks import LOG
from scalable import catalog
from scalable_runs.reader import RunReader
from scalable_runs.schema import ARTIFACTS, CACHE


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """Two workers in this process: each has the plugin, and each task is kept once."""
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=False, dashboard_address=":0"
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(kept_tasks.Log, "path", str(tmp_path / "log"))
    return tmp_path


def executions() -> Counter[str]:
    """Executions since the last call, by the first word that they noted."""
    log = Path(LOG.path)
    if not log.exists():
        return Counter()
    found = Counter(line.split()[0] for line in log.read_text().splitlines())
    log.unlink()
    return found


def record(client: Client, work: Callable[[], Any], **options: Any) -> tuple[Any, RunReader]:
    options = {"recorder": "thread", "keep_results": True, **options}
    with scalable.instrument(client, **options) as run:
        result = work()
    return result, run.reader()


def lookups(run: RunReader) -> list[dict[str, Any]]:
    return list(run.records(CACHE))


def test_a_kept_result_is_taken_in_the_next_run_and_both_runs_say_so(client: Client) -> None:
    def work() -> Any:
        squares = client.map(kept_tasks.square, range(4))
        return client.submit(kept_tasks.pick, squares, place=3).result()

    result, first = record(client, work)
    assert result == 9
    assert executions() == {"square": 4, "pick": 1}
    again, second = record(client, work)
    assert again == 9
    assert executions() == {}
    assert [one["hit"] for one in lookups(first)] == [False] * 5
    assert [one["hit"] for one in lookups(second)] == [True] * 5
    assert {one["reused_from"] for one in lookups(second)} == {first.run_id}
    for one in ("key_digest", "function_identity", "arguments_digest", "result_digest"):
        assert {line[one] for line in lookups(first)} == {line[one] for line in lookups(second)}
    picked = next(one for one in lookups(first) if one["task_name"] == "pick")
    assert set(picked["arguments"]) == {"pair", "place"}
    assert first.document["kept"]["results_bytes"] == 256 * 2**20
    assert "kept" not in record(client, work, keep_results=None)[1].document
    assert executions() == {"square": 4, "pick": 1}, "nothing is taken without the option"


def test_equal_values_are_the_same_argument_whatever_made_them(client: Client) -> None:
    def work(order: int) -> Any:
        table = {"a": 1, "b": np.arange(6).reshape(2, 3), 3: {"x", "y", "z", None}}
        pairs = list(table.items())[::order]
        return client.submit(kept_tasks.pick, [dict(pairs), 1]).result()["a"]

    record(client, lambda: work(1))
    executions()
    assert record(client, lambda: work(-1))[0] == 1
    assert executions() == {}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({-1: "a", None: "b"}, {-2: "a", None: "b"}),
        ({-1, "a"}, {-2, "a"}),
        (np.arange(4), np.arange(4.0)),
        ([1, 2], (1, 2)),
        (True, 1),
    ],
)
def test_values_that_differ_are_told_apart(client: Client, one: Any, other: Any) -> None:
    for value in (one, other):
        record(client, lambda value=value: client.submit(kept_tasks.pick, [value]).result())
    assert executions() == {"pick": 2}


def test_a_function_that_is_an_argument_counts_by_its_code(client: Client) -> None:
    def with_constant(number: int) -> Any:
        return lambda x: x + number

    work = [
        lambda: client.submit(kept_tasks.apply, with_constant(1), 1).result(),
        lambda: client.submit(kept_tasks.apply, with_constant(2), 1).result(),
    ]
    assert [record(client, each)[0] for each in (*work, *work)] == [2, 3, 2, 3]
    assert executions() == {"apply": 2}


def test_fused_and_nested_calls_are_kept_as_a_whole(client: Client) -> None:
    def work() -> Any:
        square, pick = dask.delayed(kept_tasks.square), dask.delayed(kept_tasks.pick)
        return client.compute(pick([square(3), 1]), optimize_graph=True).result()

    assert record(client, work)[0] == record(client, work)[0] == 9
    assert executions() == {"square": 1, "pick": 1}


def test_what_a_program_asks_for_twice_in_a_run_is_computed_twice(client: Client) -> None:
    def work() -> Any:
        futures = [client.submit(kept_tasks.count, 0, pure=False) for _ in range(4)]
        return client.gather(futures)

    first, _ = record(client, work)
    assert len(set(first)) == 4
    again, run = record(client, work)
    assert len(set(again)) == 4
    assert executions() == {"count": 8}
    assert all("another result before" in one["not_kept"] for one in lookups(run))


@pytest.mark.parametrize(
    ("function", "arguments", "why"),
    [
        (kept_tasks.future, (1,), "Future of Dask"),
        (kept_tasks.large, (2**20 + 1,), "larger than 1 MiB"),
        (kept_tasks.lock, (0,), "cannot be hashed"),
        (kept_tasks.fail, (1,), "it raised ValueError"),
    ],
)
def test_what_is_not_kept_is_computed_again_and_said_once(
    client: Client,
    caplog: pytest.LogCaptureFixture,
    function: Any,
    arguments: Any,
    why: str,
) -> None:
    def work() -> Any:
        for each in [client.submit(function, *arguments, pure=False) for _ in range(2)]:
            each.exception()

    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            _, run = record(client, work, keep_results=2**20)
            own = [one for one in lookups(run) if one["task_name"] == function.__name__]
            assert [why in one["not_kept"] for one in own] == [True, True]
    assert executions().total() == 4
    said = [line for line in caplog.messages if "are not kept" in line]
    assert len(said) == (0 if function is kept_tasks.fail else 2), "once a run"


def test_a_changed_input_file_is_read_again(client: Client, place: Path) -> None:
    data = place / "data.csv"
    data.write_text("one")

    def work() -> Any:
        return client.submit(kept_tasks.read, str(data)).result()

    assert record(client, work)[0] == record(client, work)[0] == "one"
    assert executions() == {"read": 1}
    data.write_text("two")
    assert record(client, work)[0] == record(client, work)[0] == "two"
    assert executions() == {"read": 1}


def test_a_file_that_a_task_wrote_is_written_again_once_it_is_gone(
    client: Client, place: Path
) -> None:
    written = place / "out.txt"

    def work() -> Any:
        return client.submit(kept_tasks.write, str(written), "text").result()

    record(client, work)
    _, second = record(client, work)
    assert executions() == {"write": 1}
    [artifact] = second.records(ARTIFACTS)
    assert artifact["location"] == str(written)
    assert artifact["metadata"]["reused_from"]
    written.unlink()
    record(client, work)
    assert written.read_text() == "text"
    assert executions() == {"write": 1}


def test_functions_with_a_cache_of_their_own_and_actors_are_left_alone(client: Client) -> None:
    def work() -> Any:
        counter = client.submit(kept_tasks.Counter, actor=True).result()
        return client.submit(kept_tasks.cached, 1).result(), counter.add().result()

    assert record(client, work)[0] == record(client, work)[0] == (2, 1)
    assert executions() == {"cached": 1, "actor": 2}
    assert [one["function_name"] for one in lookups(record(client, work)[1]) if one["hit"]] == [
        "cluster.kept_tasks.cached"
    ]


def test_tasks_of_other_clients_are_not_touched(client: Client) -> None:
    assert client.cluster is not None
    with Client(client.cluster) as other:

        def work() -> Any:
            return other.submit(kept_tasks.square, 7).result()

        record(client, work)
        record(client, work)
    assert executions() == {"square": 2}


def test_a_retry_takes_what_is_kept_and_keeps_the_rest(client: Client) -> None:
    def work() -> Any:
        return client.gather(client.map(kept_tasks.square, range(3)))

    _, first = record(client, work)
    executions()
    _, second = record(client, work, keep_results=None, retry_of=first.run_id)
    assert executions() == {}
    assert second.document["retry_of"] == first.run_id


def test_nothing_stays_on_the_workers_once_the_run_has_ended(client: Client) -> None:
    from scalable.instrumentation import task_calls

    record(client, lambda: client.submit(kept_tasks.square, 1).result())
    client.submit(kept_tasks.square, 5).result()
    assert task_calls._hooks == ()
    assert not [name for name in client.cluster.scheduler.worker_plugins if "keep" in name]


def test_an_output_in_the_catalog_is_taken_from_there_once_it_is_gone(
    client: Client, place: Path
) -> None:
    written = place / "results" / "out.txt"
    written.parent.mkdir()

    def work() -> Any:
        return client.submit(kept_tasks.put, str(written), "text").result()

    record(client, work)
    written.unlink()
    written.parent.rmdir()
    _, second = record(client, work)
    assert executions() == {"put": 1}
    assert written.read_text() == "text"
    written.write_text("changed by hand")
    record(client, work)
    assert executions() == {"put": 1}
    assert written.read_text() == "text"
    assert [one["hit"] for one in lookups(second)] == [True]


def test_a_new_version_in_the_catalog_is_read_again(client: Client, place: Path) -> None:
    def work() -> Any:
        return client.submit(kept_tasks.get, "data").result()

    source = place / "data.txt"
    for text in ("one", "two"):
        source.write_text(text)
        catalog.put(source, name="data")
        assert record(client, work)[0] == record(client, work)[0] == text
    assert executions() == {"get": 2}
