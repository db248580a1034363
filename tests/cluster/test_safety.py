"""Telemetry that fails: the workload's results are those of a bare run."""

from __future__ import annotations

import json
import operator
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner
from distributed import Client, LocalCluster, wait

import scalable
from cluster import oracle, tasks
from scalable.cli import cli
from scalable.instrumentation import python_logs
from scalable.instrumentation.fact_buffer import FactBuffer
from scalable.instrumentation.fact_sources import LocalSource
from scalable.instrumentation.hub import Hub
from scalable.instrumentation.scheduler_plugin import ScalableSchedulerPlugin
from scalable.instrumentation.slot_file import SlotFile
from scalable.instrumentation.task_facts import TaskFacts
from scalable.instrumentation.worker_facts import WorkerFacts
from scalable.instrumentation.worker_watch import Watch
from scalable.telemetry.ledger import Ledger
from scalable.telemetry.ledger.signals import SignalSink
from scalable.telemetry.ledger.tasks import TaskBook
from scalable.telemetry.recorder.router import SignalRouter
from scalable.telemetry.submissions.submissions import Submissions
from scalable_runs.summary import RunSummary
from scalable_runs.writer import RunWriter

pytestmark = pytest.mark.lenient


def _workload(client: Client, directory: Path) -> list[object]:
    """Some of everything; returns what a user sees."""
    fine = client.map(operator.add, range(10), range(10))
    after = client.submit(sum, fine)
    bad = client.submit(operator.truediv, 1, 0)
    behind = client.submit(operator.add, bad, 1)
    flaky = client.submit(tasks.flaky, str(directory), 1, retries=2)
    nested = client.submit(tasks.nested_worker_client, str(directory), 2)
    dropped = client.submit(tasks.add, str(directory), 99)
    dropped.cancel()
    wait([*fine, after, bad, behind, flaky, nested])
    return [
        client.gather(fine),
        after.result(),
        repr(bad.exception()),
        repr(behind.exception()),
        flaky.result(),
        nested.result(),
        dropped.status,
    ]


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    directory = tmp_path_factory.mktemp("bare")
    with _cluster() as cluster, Client(cluster) as client:
        return _workload(client, directory)


def _cluster() -> LocalCluster:
    return LocalCluster(n_workers=2, threads_per_worker=2, processes=False, dashboard_address=":0")


HOOKS = [
    (TaskFacts, "_note_new"),
    (TaskFacts, "_is_ours"),
    (TaskFacts, "_submit"),
    (TaskFacts, "_failed"),
    (TaskFacts, "_erred"),
    (TaskFacts, "_left_worker"),
    (FactBuffer, "add"),
    (FactBuffer, "note"),
    (WorkerFacts, "_sample"),
    (WorkerFacts, "note_gone"),
    (ScalableSchedulerPlugin, "receive"),
    (ScalableSchedulerPlugin, "pull"),
    (Hub, "_notice_late"),
    (Watch, "_begin"),
    (Watch, "_began"),
    (Watch, "_ended"),
    (Watch, "moved"),
    (Watch, "_announce"),
    (Watch, "_report"),
    (SlotFile, "begin"),
    (SlotFile, "end"),
    (LocalSource, "pull"),
    (Submissions, "carrier"),
    (Ledger, "enter"),
    (Ledger, "tick"),
    (TaskBook, "forget"),
    (TaskBook, "submitted"),
    (TaskBook, "succeeded"),
    (TaskBook, "failed"),
    (SignalSink, "drain"),
    (SignalRouter, "export"),
    (RunSummary, "add_all"),
    (RunSummary, "document"),
    (RunWriter, "append"),
    (RunWriter, "flush"),
    (RunWriter, "update_run"),
]


@pytest.mark.parametrize(
    ("owner", "method"), HOOKS, ids=[f"{owner.__name__}.{method}" for owner, method in HOOKS]
)
@pytest.mark.parametrize("error", [RuntimeError, SystemExit, MemoryError])
def test_each_step_may_raise(bare, notes_dir, monkeypatch, owner, method, error):
    assert hasattr(owner, method)
    calls = 0

    def broken(*args, **kwargs):
        nonlocal calls
        calls += 1
        raise error(f"planted in {method}")

    monkeypatch.setattr(owner, method, broken)
    with _cluster() as cluster, Client(cluster) as client:
        # Planted in this process: a recorder in another one would not meet it.
        with scalable.instrument(client, close_timeout=1, recorder="thread"):
            assert _workload(client, notes_dir) == bare
        assert client.submit(operator.add, 1, 1).result() == 2
    # What these steps answer to does not happen in every run of the workload.
    # Nor does what has failed stay behind.
    assert not python_logs._collectors
    assert calls or method in (
        "note_gone", "_left_worker", "receive", "_announce", "_notice_late", "_is_ours",
    )  # fmt: skip


@pytest.mark.parametrize("owner", [RunWriter, Ledger])
def test_a_step_that_hangs_blocks_nothing(bare, notes_dir, monkeypatch, owner):
    method = "append" if owner is RunWriter else "enter"
    original = getattr(owner, method)
    gate = threading.Event()

    def hanging(*args, **kwargs):
        gate.wait(60)
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, method, hanging)
    with _cluster() as cluster, Client(cluster) as client:
        run = scalable.instrument(client, close_timeout=0.5, recorder="thread")
        assert _workload(client, notes_dir) == bare
        run.close()
        assert run.closed
        assert client.submit(operator.add, 1, 1).result() == 2
    gate.set()
    tasks.wait_until(lambda: run._recorder.finished.is_set())


@pytest.mark.parametrize("text", ["__repr__", "__str__"])
def test_hostile_arguments(notes_dir, text):
    class Hostile:
        pass

    def refuse(self):
        raise RuntimeError("no text")

    setattr(Hostile, text, refuse)
    with _cluster() as cluster, Client(cluster) as client, scalable.instrument(client) as run:
        assert client.submit(isinstance, Hostile(), int, pure=False).result() is False
    oracle.check_contract(run.run_dir)


def test_directory_removed_in_the_middle(notes_dir, caplog):
    import shutil

    with _cluster() as cluster, Client(cluster) as client:
        with scalable.instrument(client) as run:
            client.gather(client.map(operator.add, range(10), range(10)))
            assert run.flush()
            shutil.rmtree(run.run_dir)
            client.gather(client.map(operator.add, range(10), range(100, 110)))
            assert run.flush()
            client.gather(client.map(operator.add, range(10), range(200, 210)))
    document = json.loads((run.run_dir / "run.json").read_text())
    assert document["status"] == "completed"
    assert document["telemetry"]["dropped"] or document["telemetry"]["errors"]
    summary = json.loads((run.run_dir / "summary.json").read_text())
    assert summary["counts"]["tasks_succeeded"] == 30


#: Runs a command in a Python that has Dask but not this package.
WITHOUT = """
import runpy, sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("scalable", "scalable_runs"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocker())
sys.argv = ["dask", *sys.argv[1:]]
runpy.run_module("dask", run_name="__main__")
"""


@pytest.fixture
def foreign(tmp_path):
    """`dask scheduler` and `dask worker`, each with or without this package."""
    processes = []
    file = tmp_path / "scheduler.json"
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(p for p in sys.path if p))

    def start(*arguments, lacks: bool):
        how = ["-c", WITHOUT] if lacks else ["-m", "dask"]
        process = subprocess.Popen(
            [sys.executable, *how, *arguments],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        processes.append(process)

    def launch(scheduler_lacks: bool, workers_lack: list[bool]) -> Path:
        start(
            "scheduler", "--port", "0", "--no-dashboard", "--scheduler-file", str(file),
            lacks=scheduler_lacks,
        )  # fmt: skip
        tasks.wait_until(file.exists)
        for lacks in workers_lack:
            add_worker(lacks)
        return file

    def add_worker(lacks: bool) -> None:
        start(
            "worker", "--scheduler-file", str(file), "--no-nanny", "--no-dashboard",
            "--nthreads", "1", lacks=lacks,
        )  # fmt: skip

    launch.add_worker = add_worker
    yield launch
    # A worker without a nanny may take a SIGTERM for a lost scheduler, and wait for it.
    for process in reversed(processes):
        process.kill()
        process.wait()


def test_scheduler_without_the_package(foreign, caplog):
    file = foreign(True, [False])
    with Client(scheduler_file=str(file)) as client:
        client.wait_for_workers(1)
        with scalable.instrument(client) as run:
            assert client.submit(sum, [1, 2]).result() == 3
    warnings = [r for r in caplog.records if "cannot load scalable" in r.message]
    assert len(warnings) == 1
    assert "No module named 'scalable'" in warnings[0].message
    assert "tcp://" in warnings[0].message
    document = json.loads((run.run_dir / "run.json").read_text())
    assert document["status"] == "completed"
    assert document["telemetry"]["errors"]


def test_workers_without_the_package_now_and_later(foreign, caplog):
    file = foreign(False, [True])
    with Client(scheduler_file=str(file)) as client:
        client.wait_for_workers(1)
        with scalable.instrument(client) as run:
            assert client.submit(sum, [1, 2]).result() == 3
            foreign.add_worker(True)
            client.wait_for_workers(2)
            futures = client.map(operator.add, range(20), range(20))
            assert client.gather(futures) == list(range(0, 40, 2))
            bad = client.submit(operator.truediv, 1, 0)
            wait(bad)
    warnings = [r.message for r in caplog.records if "cannot be watched" in r.message]
    assert len(warnings) == 1
    assert "No module named 'scalable'" in warnings[0]
    unwatched = json.loads((run.run_dir / "run.json").read_text())["telemetry"]["unwatched_workers"]
    assert len(unwatched) == 2
    shown = CliRunner().invoke(cli, ["report"]).output
    assert shown.count("could not be watched") == 1
    oracle.check_contract(run.run_dir)
    lives = oracle.lives(run.run_dir)
    assert all(lives[future.key][-1]["state"] == "succeeded" for future in futures)
    (failure,) = oracle.read(run.run_dir, "failures.jsonl")
    assert failure["failure_class"] == "ZeroDivisionError"
    assert failure["message"] == "division by zero"
