"""What failed attempts were called with, on real workers, whatever the arguments are."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import pytest
from distributed import Client, LocalCluster, Reschedule, get_worker, wait
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import scalable
from scalable.analysis import load_report, render_text
from scalable_runs.reader import RunReader
from scalable_runs.schema import FAILURES, TASKS

MAX_BYTES = 2_000
SECRET = "Zx9-known-77-value"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=2, processes=True, dashboard_address=":0"
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def simulate(scenario_id: int, *, password: str = "", rate: float = 0.5, **more: Any) -> int:
    if scenario_id % 7 == 0:
        raise ValueError("no convergence")
    return scenario_id


def fail(*args: Any, **kwargs: Any) -> None:
    raise ValueError("planned")


async def fail_on_the_loop(x: Any) -> None:
    await asyncio.sleep(0)
    raise ValueError("planned")


def fail_once(marker: str, n: int) -> int:
    path = Path(marker)
    if not path.exists():
        path.touch()
        raise ConnectionError("once")
    return n


def ask_for_another_worker(marker: str) -> int:
    path = Path(marker)
    if not path.exists():
        path.touch()
        raise Reschedule
    return 1


def ends(reader: RunReader, state: str = "failed") -> list[dict[str, Any]]:
    """Last lines of attempts, without tasks that failed because of another."""
    found = [dict(record) for record in reader.records(TASKS) if record.get("state") == state]
    return [record for record in found if "blame" not in record]


def inputs(record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {entry["name"]: entry for entry in record.get("input_parameters", ())}


def recorded(client: Client, tmp_path: Path, work: Callable[[], Any], **options: Any) -> RunReader:
    with scalable.instrument(client, runs_dir=tmp_path, **options) as run:
        work()
    return RunReader(run.run_dir)


def test_arguments_of_failed_attempts_by_name(cluster: Client, tmp_path: Path) -> None:
    def work() -> None:
        wait(cluster.map(simulate, range(1, 15), password="hunter2-hunter2", rate=0.25))

    reader = recorded(cluster, tmp_path, work)
    found = sorted((inputs(record) for record in ends(reader)), key=str)
    assert [each["scenario_id"]["value"] for each in found] == [14, 7]
    for each in found:
        assert each["rate"] == {"name": "rate", "kind": "json", "value": 0.25}
        assert each["password"] == {"name": "password", "kind": "json", "value": "[redacted]"}
    assert not any("input_parameters" in record for record in ends(reader, "succeeded"))
    failures = list(reader.records(FAILURES))
    assert sorted(f["details"]["input_parameters"][0]["value"] for f in failures) == [7, 14]
    assert_nowhere(tmp_path, "hunter2")


def assert_nowhere(place: Path, secret: str) -> None:
    for path in place.rglob("*"):
        if path.is_file():
            assert secret.encode() not in path.read_bytes(), path


def test_retried_attempts_and_those_that_only_moved(cluster: Client, tmp_path: Path) -> None:
    def work() -> None:
        first = cluster.submit(fail_once, str(tmp_path / "once"), 5, retries=1)
        second = cluster.submit(ask_for_another_worker, str(tmp_path / "moved"))
        assert (first.result(30), second.result(30)) == (5, 1)

    reader = recorded(cluster, tmp_path / "runs", work)
    retried, moved = sorted(ends(reader, "retried"), key=lambda record: "error_type" not in record)
    assert inputs(retried)["n"]["value"] == 5
    assert "input_parameters" not in moved
    assert all("input_parameters" not in record for record in ends(reader, "succeeded"))


#: From now on hostile values fail or block for whoever asks them for anything.
ARMED = threading.Event()


def asked(*args: Any, **kwargs: Any) -> Any:
    if ARMED.is_set():
        threading.Event().wait()
    raise AttributeError


class Hostile:
    """Blocks for whoever asks it for anything."""

    def __init__(self) -> None:
        self.size = 3

    __repr__ = __str__ = __len__ = __iter__ = __eq__ = __bool__ = __getattr__ = asked
    __getitem__ = __contains__ = __format__ = __array__ = __call__ = __hash__ = asked
    __index__ = __int__ = __float__ = __dir__ = asked
    shape = dtype = nbytes = property(asked)

    def __sizeof__(self) -> int:
        return asked() if ARMED.is_set() else 100

    def __getattribute__(self, name: str) -> Any:
        return asked() if ARMED.is_set() else object.__getattribute__(self, name)


class HostileText(str):
    __slots__ = ()

    def __str__(self) -> str:
        return asked()

    __repr__ = __len__ = __getitem__ = encode = __str__  # type: ignore[assignment]


class HostileTable(dict[Any, Any]):
    def items(self) -> Any:
        return asked()

    __iter__ = __len__ = keys = values = __repr__ = items


def make_hostile(kind: int) -> Any:
    return (Hostile, lambda: HostileText("text"), lambda: HostileTable(a=1))[kind]()


def disarm() -> None:
    ARMED.clear()


def fail_armed(*args: Any, more: Any) -> None:
    ARMED.set()
    raise ValueError("planned")


class Model:
    def __init__(self) -> None:
        self.layers = 3
        self.api_key = "hunter2-hunter2"

    def fit(self, rounds: int) -> None:
        raise ValueError("planned")


def test_hostile_arguments_are_held_off(cluster: Client, tmp_path: Path) -> None:
    def work() -> None:
        hostile = [cluster.submit(make_hostile, kind, pure=False) for kind in range(3)]
        wait(hostile)
        future = cluster.submit(fail_armed, *hostile, more=[hostile[0]], pure=False)
        assert isinstance(future.exception(60), ValueError)

    try:
        reader = recorded(cluster, tmp_path, work)
    finally:
        cluster.run(disarm)
    (failed,) = ends(reader)
    name = f"{Hostile.__module__}.Hostile"
    assert inputs(failed)["*args"]["description"] == f'["<{name}>","text",{{"a":1}}]'
    assert inputs(failed)["more"]["description"] == f'["<{name}>"]'
    assert not reader.document["telemetry"]["errors"]


def test_what_hostile_values_look_like() -> None:
    from scalable.instrumentation.parameters import described

    circle: list[Any] = [1]
    circle.append(circle)
    deep: list[Any] = []
    for _ in range(10_000):
        deep = [deep]
    values: dict[str, Any] = {
        "hostile": Hostile(),
        "text": HostileText("text"),
        "table": HostileTable(a=1),
        "circle": circle,
        "deep": deep,
        "lock": threading.Lock(),
        "lone": "\ud800 lone",
        "huge": 10**5_000,
        "nan": float("nan"),
        "model": Model(),
    }
    ARMED.set()
    try:
        made = described(values.items())
    finally:
        ARMED.clear()
    found = {entry["name"]: entry for entry in json.loads(made)}
    assert list(found) == list(values)
    assert found["hostile"]["preview"] == {"size": 3}
    assert found["text"]["value"] == "text"
    assert found["table"]["value"] == {"a": 1}
    assert found["lone"]["value"] == "\\ud800 lone"
    assert found["huge"]["preview"] == "an integer of 16,610 bits"
    assert found["nan"]["preview"] == "nan"
    assert found["model"]["preview"]["layers"] == 3


def test_any_number_of_arguments_takes_two_kilobytes(cluster: Client, tmp_path: Path) -> None:
    long = {f"argument_{number}": "a word " * 28 for number in range(300)}

    def work() -> None:
        wait(cluster.submit(fail, list(range(10_000)), "word " * 10_000, **long, pure=False))

    (failed,) = ends(recorded(cluster, tmp_path, work))
    made = failed["input_parameters"]
    assert len(json.dumps(made, separators=(",", ":"))) <= MAX_BYTES
    assert made[0]["name"] == "*args"
    assert made[-1]["name"] == "…"
    assert made[-1]["description"].endswith(" more")


def make_large() -> Any:
    np = pytest.importorskip("numpy")
    return np.zeros(2**30, dtype="uint8")


def fail_with_memory(data: Any, note: str) -> None:
    raise MemoryError(f"{peak()}")


def peak() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def test_a_gigabyte_is_described_and_not_copied(cluster: Client, tmp_path: Path) -> None:
    pytest.importorskip("numpy")

    def work() -> None:
        data = cluster.submit(make_large, pure=False)
        error = cluster.submit(fail_with_memory, data, "x" * 10**6, pure=False).exception(60)
        grown = cluster.run(peak)
        assert max(grown.values()) - int(str(error)) < 200 * 2**20

    (failed,) = ends(recorded(cluster, tmp_path, work))
    data = inputs(failed)["data"]
    assert data["shape"] == [2**30]
    assert (data["dtype"], data["size_bytes"]) == ("uint8", 2**30)
    assert "digest" not in data
    assert inputs(failed)["note"]["length"] == 10**6


def test_coroutines_methods_and_parts_of_collections(cluster: Client, tmp_path: Path) -> None:
    bag = pytest.importorskip("dask.bag").from_sequence([3, 7, 8], npartitions=1)

    def work() -> None:
        wait(cluster.submit(fail_on_the_loop, [1, 2]))
        wait(cluster.submit(Model().fit, 3))
        wait(cluster.compute(bag.map(simulate)))

    found = [inputs(record) for record in ends(recorded(cluster, tmp_path, work))]
    on_loop, method, item = found
    assert on_loop["x"]["value"] == [1, 2]
    assert method["rounds"]["value"] == 3
    assert method["self"]["description"] == '{"layers":3,"api_key":"[redacted]"}'
    assert item["scenario_id"]["value"] == 7
    assert_nowhere(tmp_path, "hunter2")


def test_secrets_in_arguments_are_in_no_file_and_not_sent(
    cluster: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_TEST_TOKEN", SECRET)
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    half = SECRET[: len(SECRET) // 2]

    def work() -> None:
        wait(
            cluster.submit(
                fail,
                f"a text with {SECRET}",
                {"nested": [{"token": "under-a-key"}, SECRET], SECRET: 1},
                f"https://user:pass-in-url@host/{'x' * 300}",
                f"{'x ' * 95}{SECRET} and more {'y ' * 100}",
                [SECRET] * 100,
                api_key=["under-a-key"],
                secret_number=12345,
                passwords={"a": "under-a-key"},
                scenario=4,
                pure=False,
            )
        )

    (failed,) = ends(recorded(cluster, tmp_path, work, tracer_provider=provider))
    assert inputs(failed)["scenario"]["value"] == 4
    for secret in (SECRET, half, "under-a-key", "pass-in-url", "12345"):
        assert_nowhere(tmp_path, secret)
        assert secret not in str([span.to_json() for span in exporter.get_finished_spans()])
    (span,) = [s for s in exporter.get_finished_spans() if s.name == "fail"]
    assert span.attributes["dask.task.input.scenario"] == 4
    assert span.attributes["dask.task.input.api_key"] == "[redacted]"
    assert not [name for name in span.attributes if name.startswith("scalable.task")]


def test_tasks_in_a_pool_of_processes(tmp_path: Path) -> None:
    from concurrent.futures import ProcessPoolExecutor

    with (
        LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0"
        ) as cluster,
        Client(cluster) as client,
    ):

        def add_pool() -> None:
            get_worker().executors["pool"] = ProcessPoolExecutor(1)

        client.submit(add_pool).result()

        def work() -> None:
            with dask.annotate(executor="pool"):
                wait(client.submit(simulate, 7, rate=0.1, pure=False))

        try:
            (failed,) = ends(recorded(client, tmp_path, work))
        finally:
            (worker,) = cluster.workers.values()
            worker.executors.pop("pool").shutdown()
    assert inputs(failed)["scenario_id"]["value"] == 7
    assert inputs(failed)["rate"]["value"] == 0.1


def test_what_succeeds_is_not_described(cluster: Client, tmp_path: Path) -> None:
    reader = recorded(cluster, tmp_path, lambda: cluster.gather(cluster.map(simulate, range(1, 5))))
    assert not [record for record in reader.records(TASKS) if "input_parameters" in record]


# -- attempts that succeed ------------------------------------------------------------------------


def train(rate: float, rounds: int = 3) -> dict[str, Any]:
    for step in range(rounds):
        scalable.record_metric("loss", 1.0 / (step + 1))
    return {"rate": rate, "api_key": "hunter2-hunter2"}


async def add_later(x: int, y: int) -> int:
    return x + y


def outputs(record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {entry["name"]: entry for entry in record.get("output_parameters", ())}


def test_all_attempts_say_what_they_were_called_with_and_returned(
    cluster: Client, tmp_path: Path
) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))

    def work() -> None:
        cluster.gather(cluster.map(train, [0.1, 0.2, 0.3], rounds=2, pure=False))
        cluster.submit(add_later, 1, y=2, pure=False).result()
        wait(cluster.map(simulate, range(7, 9), pure=False))

    reader = recorded(cluster, tmp_path, work, parameters="all", tracer_provider=provider)
    succeeded = {}
    for record in ends(reader, "succeeded"):
        succeeded.setdefault(record["task_name"], []).append(record)
    assert sorted(inputs(each)["rate"]["value"] for each in succeeded["train"]) == [0.1, 0.2, 0.3]
    for each in succeeded["train"]:
        assert inputs(each)["rounds"]["value"] == 2
        assert outputs(each)["loss"] == {"name": "loss", "kind": "metric", "value": 0.5}
        assert outputs(each)["result"]["value"]["api_key"] == "[redacted]"
    (added,) = succeeded["add_later"]
    assert {name: entry["value"] for name, entry in inputs(added).items()} == {"x": 1, "y": 2}
    assert outputs(added)["result"] == {"name": "result", "kind": "json", "value": 3}
    assert outputs(succeeded["simulate"][0])["result"]["value"] == 8
    (failed,) = ends(reader)
    assert inputs(failed)["scenario_id"]["value"] == 7
    assert_nowhere(tmp_path, "hunter2")
    sent = [dict(span.attributes) for span in exporter.get_finished_spans()]
    assert [s["dask.task.returned.result"] for s in sent if s.get("dask.task.input.y") == 2] == [3]
    assert not reader.document["telemetry"]["errors"]


def test_a_sample_is_the_first_of_each_name_and_a_share_of_the_rest(
    cluster: Client, tmp_path: Path
) -> None:
    def work() -> None:
        cluster.gather(cluster.map(sampled, range(250), pure=False))
        cluster.gather(cluster.map(simulate, range(1, 4), pure=False))

    reader = recorded(cluster, tmp_path, work, parameters="sample")
    described = [record for record in ends(reader, "succeeded") if inputs(record)]
    names = [record["task_name"] for record in described]
    # The first ten, the 101st and the 201st; two threads may count one number twice.
    assert 10 <= names.count("sampled") <= 14
    assert names.count("simulate") == 3
    assert all("result" in outputs(record) for record in described)


def sampled(x: int) -> int:
    return x


def test_nothing_of_it_if_it_is_off(cluster: Client, tmp_path: Path) -> None:
    def work() -> None:
        wait(cluster.map(simulate, range(7, 9), pure=False))
        cluster.submit(train, 0.5, pure=False).result()

    reader = recorded(cluster, tmp_path, work, parameters="off")
    assert len(ends(reader)) == 1
    for file in (TASKS, FAILURES):
        lines = json.dumps(list(reader.records(file)))
        assert "input_parameters" not in lines
        assert "output_parameters" not in lines


def test_metrics_of_attempts_are_on_their_last_line(cluster: Client, tmp_path: Path) -> None:
    reader = recorded(cluster, tmp_path, lambda: cluster.submit(train, 0.5, pure=False).result())
    (record,) = ends(reader, "succeeded")
    assert "input_parameters" not in record
    (metric,) = record["output_parameters"]
    assert (metric["name"], metric["kind"], round(metric["value"], 3)) == ("loss", "metric", 0.333)


def descend(start: int) -> None:
    for step in range(start, start + 4):
        scalable.record_metric("loss", 10.0 / (step + 1), step=step, unit="1")


def test_metrics_of_tasks_and_of_the_program_are_series_of_the_run(
    cluster: Client, tmp_path: Path
) -> None:
    def work() -> None:
        cluster.submit(descend, 4, pure=False).result()
        cluster.submit(descend, 0, pure=False).result()
        scalable.record_metric("score", 0.5)

    reader = recorded(cluster, tmp_path, work)
    found = reader.document["user_defined_metrics"]
    assert found["loss"] == {
        "count": 8, "unit": "1", "last": 1.25, "step": 7, "min": 1.25, "min_step": 7,
        "max": 10.0, "max_step": 0,
    }  # fmt: skip
    assert found["score"] == {"count": 1, "last": 0.5, "min": 0.5, "max": 0.5}
    assert "least at step 7, greatest at step 0" in render_text(load_report(reader))


def test_no_hook_is_left_after_a_run(cluster: Client, tmp_path: Path) -> None:
    recorded(cluster, tmp_path, lambda: cluster.submit(sampled, 1).result(), parameters="all")
    assert set(cluster.run(wrapped).values()) == {False}


def wrapped() -> bool:
    from distributed import worker

    return hasattr(worker._run_task_simple, "__wrapped__")
