"""The data catalog in the tasks of a real cluster: what each attempt put and got is recorded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from distributed import LocalCluster

import scalable
from scalable import catalog
from scalable.catalog import Catalog
from scalable.cli import cli
from scalable_runs.reader import resolve_run

SECRET = "hunter2Xk9vQ"


def produce(number: int) -> str:
    folder = Path(f"made-{number}")
    folder.mkdir(exist_ok=True)
    (folder / "part.csv").write_text(f"{number}\n" * 10)
    (entry,) = catalog.put(folder / "part.csv", name=f"parts/{number}.csv", kind="part")
    return entry.digest


def consume(*digests: str) -> int:
    total = 0
    for number in range(len(digests)):
        total += sum(map(int, catalog.get(f"parts/{number}.csv").read_text().split()))
    Path("total.txt").write_text(str(total))
    catalog.put("total.txt", name="total", kind="result")
    return total


def nested() -> str:
    from distributed import worker_client

    with worker_client() as client:
        return client.submit(produce, 7, key="inner").result()


def plot() -> None:
    Path("figure.txt").write_text(catalog.get("total").read_text())
    catalog.put("figure.txt")


def artifacts(runs: Path, run_id: str | None = None) -> list[dict[str, Any]]:
    return list(resolve_run(runs, run_id).records("artifacts.jsonl"))


def spans(runs: Path, run_id: str) -> dict[str, dict[str, Any]]:
    """The last line of each task's successful attempt, by its span."""
    lines = resolve_run(runs, run_id).records("tasks.jsonl")
    return {line["span_id"]: line for line in lines if line["state"] == "succeeded"}


def lineage_names_sources_in_both(runs: Path, first: str, second: str) -> None:
    shown = CliRunner().invoke(
        cli, ["lineage", "figure.txt", second, "--runs-dir", str(runs), "--json"]
    )
    assert shown.exit_code == 0, shown.output
    found = json.loads(shown.output)
    assert [(one["run_id"], one["task_id"]) for one in found["tasks"]] == [(second, "plot")]
    # The figure has the content of the total, which is put in the first run.
    sources = {(one["run_id"], one["task_id"]) for one in found["upstream"]["tasks"]}
    assert sources == {(first, one) for one in ("consume", "produce-0", "produce-1", "produce-2")}
    assert {one["run_id"] for one in found["runs"]} == {first, second}


def test_what_tasks_put_and_get_is_recorded_with_the_attempt(
    make_cluster: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SCALABLE_CATALOG", raising=False)
    place = tmp_path / "kept"
    _, client = make_cluster(2)
    with scalable.instrument(client, runs_dir="runs", catalog=str(place)) as run:
        Path("weather.csv").write_text("rain")
        catalog.put("weather.csv", name="weather")
        made = [client.submit(produce, number, key=f"produce-{number}") for number in range(3)]
        assert client.submit(consume, *made, key="consume").result() == 30
        digest = client.submit(nested, key="outer").result()
        assert catalog.get("parts/7.csv").read_text() == "7\n" * 10
        run_id = run.run_id
    with scalable.instrument(client, runs_dir="runs", catalog=str(place)) as run:
        client.submit(plot, key="plot").result()
        second = run.run_id
    lineage_names_sources_in_both(tmp_path / "runs", run_id, second)
    # After the run the place of the program counts again, and nothing is recorded.
    assert Catalog().location == str(tmp_path / ".scalable/catalog")
    found, of_span = artifacts(tmp_path / "runs", run_id), spans(tmp_path / "runs", run_id)
    assert {one["catalog"] for one in found} == {str(place)}
    by_task = {
        (of_span[one["span_id"]]["task_id"] if one["span_id"] in of_span else None): one
        for one in found
    }
    assert set(by_task) == {None, "produce-0", "produce-1", "produce-2", "consume", "inner"}
    for task, one in by_task.items():
        assert one.get("task_id") == task
    stages = [(one["stage"], one["artifact_name"]) for one in found if one.get("task_id") is None]
    assert stages == [("put", "weather"), ("get", "parts/7.csv")]
    stages = [
        (one["stage"], one["artifact_name"]) for one in found if one.get("task_id") == "consume"
    ]
    assert stages == [*(("get", f"parts/{number}.csv") for number in range(3)), ("put", "total")]
    put = {one["digest"] for one in found if one["stage"] == "put"}
    got = [one for one in found if one["stage"] == "get"]
    assert {one["digest"] for one in got} < put
    assert {one["put_by"] for one in got} == {run_id}
    assert by_task["inner"]["digest"] == digest
    # The entry itself knows who has put it there.
    entry = Catalog(place).entry("total")
    assert (entry.run_id, entry.task_id) == (run_id, "consume")
    assert of_span[entry.span_id or ""]["task_id"] == "consume"
    assert entry.trace_id == of_span[entry.span_id or ""]["trace_id"]


def test_without_a_run_it_works_and_records_nothing(
    make_cluster: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SCALABLE_CATALOG", str(tmp_path / "kept"))
    _, client = make_cluster(1)
    client.submit(produce, 3).result()
    (entry,) = Catalog().versions("parts/3.csv")
    assert entry.run_id is entry.span_id is None
    assert catalog.get("parts/3.csv").read_text() == "3\n" * 10
    assert not Path("runs").exists()
    assert not Path(".scalable").exists()


def shout() -> str:
    with Path("calls").open("a") as file:
        file.write("x")
    loud = catalog.get("words").joinpath("first").read_text().upper()
    Path("loud").write_text(loud)
    catalog.put("loud")
    return loud


def test_a_kept_result_is_used_while_the_names_that_its_task_got_are_the_same(
    make_cluster: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SCALABLE_CATALOG", raising=False)
    monkeypatch.setenv("SCALABLE_CACHE_DIR", str(tmp_path / "cache"))
    _, client = make_cluster(1)
    here = Catalog()

    def run(result: str, calls: int) -> None:
        with scalable.instrument(client, runs_dir="runs", keep_results=True):
            assert client.submit(shout, key="shout").result() == result
        assert len(Path("calls").read_text()) == calls
        # What it puts is there, whether or not it was called.
        assert here.read("loud") == Path("loud").read_bytes() == result.encode()

    here.put_bytes(b"one", name="words/first")
    run("ONE", 1)
    run("ONE", 1)
    here.put_bytes(b"mine", name="loud")
    Path("loud").unlink()
    run("ONE", 1)
    here.put_bytes(b"two", name="words/first")
    run("TWO", 2)
    here.put_bytes(b"further", name="words/second")
    run("TWO", 3)
    run("TWO", 3)


TASKS = f"""\
version: 1
project: {{name: demo}}
targets:
  here: {{provider: local, max_workers: 1, processes: true, start_timeout: 60}}
catalog: CATALOG
tasks:
  write: {{outputs: ['made/*.csv', 'token={SECRET}.txt', 'absent.csv']}}
"""


def write() -> int:
    Path("made").mkdir()
    for name in ("a", "b"):
        Path(f"made/{name}.csv").write_text(name)
    Path(f"token={SECRET}.txt").write_text("x")
    return 1


def test_outputs_of_the_manifest_are_put_there_and_no_secret_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SCALABLE_CATALOG", raising=False)
    manifest = tmp_path / "scalable.yaml"
    manifest.write_text(TASKS.replace("CATALOG", "kept"))
    session = scalable.ScalableSession.from_yaml(manifest, target="here", runs_dir="runs")
    with session:
        assert session.start().submit(write).result() == 1
        assert catalog.get("made/a.csv").read_text() == "a"
    found = [one for one in artifacts(tmp_path / "runs") if one.get("kind") == "output"]
    assert {(one["stage"], one["artifact_name"], "digest" in one) for one in found} == {
        ("put", "made/a.csv", True),
        ("put", "made/b.csv", True),
        ("put", "token=[redacted]", False),
        ("put", "absent.csv", False),
        ("get", "made/a.csv", True),
    }
    assert list(Catalog("kept").names()) == ["made/a.csv", "made/b.csv"]
    hides_secret(tmp_path / "runs", capfd)


def hides_secret(runs: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for path in (one for one in runs.rglob("*") if one.is_file()):
        assert SECRET.encode() not in path.read_bytes(), path
    shown = capfd.readouterr()
    assert SECRET not in shown.out + shown.err


def refused() -> str:
    try:
        catalog.put(__file__, name="x")
    except catalog.CatalogError as error:
        return str(error)
    return ""


def test_a_password_in_the_place_is_nowhere(
    make_cluster: Callable[..., tuple[LocalCluster, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    place = f"ftp://me:{SECRET}@127.0.0.1:1/catalog"
    cluster, client = make_cluster(1)
    with scalable.instrument(client, runs_dir="runs", catalog=place):
        scalable.instrument(client, catalog=f"{place}/other")  # which is ignored, and named
        future = client.submit(refused, key="task")
        assert "127.0.0.1" not in future.result()  # the worker was not told: its own place counts
        assert "cannot be" in refused()
        scheduler: Any = cluster.scheduler
        assert SECRET not in repr(scheduler.tasks["task"].annotations)
    hides_secret(tmp_path / "runs", capfd)
