"""The functions that tasks call, as workers see them, and two workers with different code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import dask.bag as bag
import pytest
from click.testing import CliRunner
from distributed import Client

import scalable
from cluster import oracle
from cluster.tasks import wait_until
from scalable.cli import cli
from scalable.code.check import check

PLANTED = "planted-in-code-17"

MODEL = f"""\
from tidying import clean

API_KEY = "{PLANTED}"
RATE = 0.5


def load(x):
    password = "{PLANTED}"
    return clean(x) * RATE


def plain(x):
    return x + len(API_KEY)
"""
TIDYING = "def clean(x):\n    return x + 1\n"
OTHER = "def clean(x):\n    return x + 2\n"


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("sources")
    for name, tidying in (("own", TIDYING), ("other", OTHER)):
        (place / name).mkdir()
        (place / name / "modelling.py").write_text(MODEL)
        (place / name / "tidying.py").write_text(tidying)
    return place


@pytest.fixture(scope="module")
def modelling(sources: Path) -> Iterator[ModuleType]:
    """The module, as the program has it."""
    sys.path.insert(0, str(sources / "own"))
    import modelling  # pyright: ignore[reportMissingImports]

    yield modelling
    sys.path.remove(str(sources / "own"))
    for name in ("modelling", "tidying"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def client(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A cluster of processes: worker `same`, and worker `odd` with another version of a helper."""
    directory = tmp_path_factory.mktemp("cluster")
    file = directory / "scheduler.json"
    path = [str(place) for place in Path(__file__).parents[:2]]
    common = ("--scheduler-file", str(file), "--no-dashboard")
    worker = ("worker", *common, "--no-nanny", "--nthreads", "1", "--name")
    commands = (
        ("own", "scheduler", "--host", "127.0.0.1", "--port", "0", *common),
        ("own", *worker, "same"),
        ("other", *worker, "odd"),
    )
    with ExitStack() as stack:
        for code, kind, *options in commands:
            process = subprocess.Popen(
                [sys.executable, "-m", f"distributed.cli.dask_{kind}", *options],
                cwd=directory,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join([str(sources / code), *path])},
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
        wait_until(file.exists)
        found = stack.enter_context(Client(json.loads(file.read_text())["address"]))
        found.wait_for_workers(2)
        yield found


def functions(run: Any) -> list[dict[str, Any]]:
    path = run.run_dir / "functions.jsonl"
    return oracle.read(run.run_dir, "functions.jsonl") if path.exists() else []


def named(record: dict[str, Any]) -> set[str]:
    return {f"{each['kind']} {each['name']}" for each in record["components"]}


def on(client: Client, name: str) -> str:
    workers = client.scheduler_info()["workers"]
    return next(address for address, it in workers.items() if it["name"] == name)


def test_two_workers_with_different_code_are_named(
    client: Client, modelling: ModuleType, sources: Path, tmp_path: Path
):
    with scalable.instrument(client, runs_dir=tmp_path / "runs") as run:
        same = client.submit(modelling.load, 1, workers=[on(client, "same")])
        assert same.result() == 1.0
        wait_until(lambda: run.flush() or functions(run))
        odd = client.submit(modelling.load, 2, workers=[on(client, "odd")])
        again = client.map(modelling.load, range(10, 20))
        client.gather([odd, *again])
    oracle.check_contract(run.run_dir)
    first, second = functions(run)
    for record, worker in ((first, "same"), (second, "odd")):
        assert record["task_name"] == "load"
        assert record["function_name"] == "modelling.load"
        assert record["worker_id"] == worker
        assert record["worker"].startswith("tcp://")
        assert record["line"] == 7
        assert record["python"].startswith(f"{sys.version_info[0]}.{sys.version_info[1]}.")
        assert named(record) == {
            *("source modelling.load", "helper tidying.clean", "constant modelling.RATE")
        }
    assert first["file"] == str(sources / "own" / "modelling.py")
    assert first["identity"] != second["identity"]
    assert check(first) == check(second) == ()
    sentence = "worker odd ran another version of load: helper tidying.clean differs"
    report = CliRunner().invoke(cli, ["report", str(run.run_dir)])
    assert sentence in " ".join(report.output.split()), report.output
    diagnosis = CliRunner().invoke(cli, ["diagnose", str(run.run_dir)])
    capital = f"{sentence[0].upper()}{sentence[1:]}"
    assert capital in " ".join(diagnosis.output.split()), diagnosis.output
    for path in [path for path in tmp_path.rglob("*") if path.is_file()]:
        assert PLANTED.encode() not in path.read_bytes(), path


def test_a_run_of_one_short_task_knows_its_function(
    client: Client, modelling: ModuleType, tmp_path: Path
):
    for number in range(3):
        # Each run is told, also those that begin when the workers know the function.
        with scalable.instrument(client, runs_dir=tmp_path / "runs") as run:
            client.submit(modelling.plain, number, workers=[on(client, "same")]).result()
        (record,) = functions(run)
        assert record["function_name"] == "modelling.plain"
        (constant,) = (it for it in record["components"] if it["kind"] == "constant")
        assert constant["detail"] == "[redacted]"


def test_functions_that_are_wrapped_or_that_dask_calls(client: Client, tmp_path: Path):
    offset = 3

    def shifted(x: int, by: int = 1) -> int:
        return x + by + offset

    with scalable.instrument(client, runs_dir=tmp_path / "runs") as run:
        client.gather(client.map(partial(shifted, by=2), range(5)))
        bag.range(4, npartitions=2).map(lambda x: x + offset).sum().compute(scheduler=client)
        client.submit(int, "4").result()
    found = {record["function_name"].rpartition(".")[2]: record for record in functions(run)}
    assert {"shifted", "<lambda>", "int"} <= set(found)
    assert not [name for name in found if name in ("map_chunk", "empty_safe_apply")]
    assert f"closure offset of {found['shifted']['function_name']}" in named(found["shifted"])
