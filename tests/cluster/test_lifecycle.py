"""How a run begins and ends: by a block, by itself, by an exception, by a crash."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
from distributed import Client, LocalCluster

import scalable
from cluster import oracle, tasks
from scalable import api
from scalable.catalog import places
from scalable.instrumentation.task_facts import TaskFacts
from scalable_runs.reader import find_runs, resolve_run


def _status(run) -> str:
    return json.loads((run.run_dir / "run.json").read_text())["status"]


@pytest.fixture
def client():
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0"
    ) as cluster:
        with Client(cluster) as client:
            yield client


def test_block_left_by_an_exception_fails_the_run(client):
    with pytest.raises(ZeroDivisionError), scalable.instrument(client) as run:
        1 / 0  # noqa: B018
    oracle.check_contract(run.run_dir)
    assert _status(run) == run.status == "failed"
    (failure,) = oracle.read(run.run_dir, "failures.jsonl")
    assert failure["failure_class"] == "ZeroDivisionError"
    assert failure["details"]["phase"] == "run"
    assert "1 / 0" in failure["details"]["traceback"]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (KeyboardInterrupt(), "cancelled"),
        (asyncio.CancelledError(), "cancelled"),
        (SystemExit(0), "completed"),
        (SystemExit(2), "failed"),
    ],
)
def test_status_follows_what_ended_the_block(client, error, status):
    with pytest.raises(type(error)), scalable.instrument(client) as run:
        raise error
    assert _status(run) == status


def test_second_call_returns_the_first_run(client):
    with scalable.instrument(client) as run:
        assert scalable.instrument(client) is run
        assert scalable.instrument() is run
    with scalable.instrument(client) as other:
        assert other is not run
    assert len(find_runs(run.run_dir.parent)) == 2


def test_options_of_a_second_call_change_nothing_and_that_is_reported(client, caplog):
    with scalable.instrument(client, project="one") as run:
        assert scalable.instrument(client, project="one") is run
        assert "changes nothing" not in caplog.text
        assert scalable.instrument(client, project="two", sample_interval=9) is run
    (said,) = [m for m in caplog.messages if "changes nothing" in m]
    assert f"in run {run.run_id}: project='two', sample_interval=9" in said


def test_a_block_within_a_block_leaves_the_run_open(client):
    with scalable.instrument(client) as run:
        with scalable.instrument(client) as same:
            assert same is run
        with pytest.raises(ZeroDivisionError), scalable.instrument(client):
            1 / 0  # noqa: B018
        assert not run.closed
        assert client.submit(sum, [1, 2]).result() == 3
    assert _status(run) == "completed"

    async def nested() -> None:
        async with scalable.instrument(client) as outer:
            async with scalable.instrument(client):
                pass
            assert not outer.closed
        assert outer.closed

    asyncio.run(nested())


def test_what_the_program_itself_records_belongs_to_its_run(client, tmp_path, caplog):
    (tmp_path / "out.csv").write_text("a\n")
    with scalable.instrument(client) as run:
        scalable.record_artifact("out.csv")
        scalable.record_metric("loss", 0.5)
    (record,) = oracle.read(run.run_dir, "artifacts.jsonl")
    assert record["artifact_name"] == "out.csv"
    assert "is not recorded" not in caplog.text
    scalable.record_metric("loss", 0.5)
    scalable.record_metric("loss", 0.4)
    assert caplog.text.count("is not recorded") == 1


def test_uninstrument_undoes_everything(client):
    scheduler = client.cluster.scheduler
    worker = next(iter(client.cluster.workers.values()))
    plugins = set(scheduler.plugins)
    handlers = dict(scheduler.handlers)
    stream = dict(scheduler.stream_handlers)
    own = set(vars(client))
    method = Client._send_to_scheduler
    run = scalable.instrument(client)
    tasks.wait_until(lambda: "scalable" in worker.plugins)
    scalable.uninstrument(client)
    assert run.closed
    assert set(scheduler.plugins) == plugins
    assert scheduler.handlers == handlers
    # A late message of a worker must still find a listener.
    assert set(scheduler.stream_handlers) - set(stream) == {"scalable-facts"}
    assert {name: scheduler.stream_handlers[name] for name in stream} == stream
    assert "scalable" not in worker.plugins
    assert "execute" not in vars(worker)
    assert set(vars(client)) == own
    assert Client._send_to_scheduler is method
    scalable.uninstrument(client)
    assert client.submit(sum, [1, 2]).result() == 3


def test_closed_client_ends_its_run(notes_dir):
    with LocalCluster(n_workers=1, processes=False, dashboard_address=":0") as cluster:
        client = Client(cluster)
        run = scalable.instrument(client)
        held = client.submit(tasks.hold, str(notes_dir), "gate")
        tasks.wait_for_notes(notes_dir, 1)
        client.close()
        assert run.closed
        (notes_dir / "gate").touch()
    oracle.check_contract(run.run_dir)
    assert _status(run) == "completed"
    assert oracle.states(run.run_dir, held.key) == ["submitted", "running", "cancelled"]


def test_representations(client):
    with scalable.instrument(client, project="<b>") as run:
        assert run.run_id in repr(run)
        assert "running" in repr(run)
        assert "<b>" not in run._repr_html_()
    assert "completed" in repr(run)
    assert len(run.trace_id) == 32
    assert run.run_dir.is_dir()
    run.close()
    assert run.flush() is True
    with pytest.raises(ValueError, match="allowed: completed, failed, cancelled"):
        run.close("done")


def test_off_does_nothing(client, monkeypatch, tmp_path):
    client.submit(sum, [0]).result()  # the worker's thread is there from now on
    threads = set(threading.enumerate())
    plugins = set(client.cluster.scheduler.plugins)
    for variable, value in (
        ("SCALABLE_TELEMETRY", "off"),
        ("SCALABLE_TELEMETRY", "No"),
        ("OTEL_SDK_DISABLED", "True"),
    ):
        with monkeypatch.context() as patch:
            patch.setenv(variable, value)
            with scalable.instrument(client) as run:
                assert client.submit(sum, [1, 2]).result() == 3
            assert run.enabled is False
            assert scalable.instrument(client) is run
            assert scalable.instrument() is run
    assert scalable.instrument(client, enabled=False) is run
    assert run.flush()
    run.close()
    assert "off" in repr(run)
    assert set(threading.enumerate()) == threads
    assert set(client.cluster.scheduler.plugins) == plugins
    assert not (tmp_path / ".scalable").exists()


def test_argument_beats_environment(client, monkeypatch, tmp_path):
    monkeypatch.setenv("SCALABLE_RUNS_DIR", str(tmp_path / "environment"))
    monkeypatch.setenv("SCALABLE_PROJECT", "from environment")
    with scalable.instrument(client) as run:
        pass
    assert run.run_dir.parent == tmp_path / "environment"
    assert "from-environment" in run.run_id
    with scalable.instrument(client, runs_dir=tmp_path / "argument", project="given") as run:
        pass
    assert run.run_dir.parent == tmp_path / "argument"
    assert "-given-" in run.run_id


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("SCALABLE_TELEMETRY", "maybe", "SCALABLE_TELEMETRY cannot be 'maybe'; allowed: 1, true"),
        ("SCALABLE_SCOPE", "me", "SCALABLE_SCOPE cannot be 'me'; allowed: client, cluster"),
        ("SCALABLE_SAMPLE_INTERVAL", "0", "SCALABLE_SAMPLE_INTERVAL cannot be '0'"),
        ("SCALABLE_CLOSE_TIMEOUT", "nan", "SCALABLE_CLOSE_TIMEOUT cannot be 'nan'"),
    ],
)
def test_wrong_values_name_option_value_and_what_is_allowed(
    client, monkeypatch, name, value, words
):
    monkeypatch.setenv(name, value)
    with pytest.raises(scalable.OptionError) as caught:
        scalable.instrument(client)
    assert words in str(caught.value)


def test_without_a_client_the_error_shows_what_to_do():
    with pytest.raises(ValueError, match="make one first"):
        scalable.instrument()
    with pytest.raises(TypeError, match=r"distributed\.Client, not str"):
        scalable.instrument("tcp://127.0.0.1:8786")  # type: ignore[arg-type]


@pytest.mark.lenient
def test_unwritable_directory_lets_the_work_go_on(client, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    with scalable.instrument(client, runs_dir=tmp_path / "file") as run:
        assert client.submit(sum, [1, 2]).result() == 3
    assert run.enabled is False
    assert "records nothing" in caplog.text


@pytest.mark.lenient
@pytest.mark.parametrize("recorder", ["process", "thread"])
@pytest.mark.parametrize(
    "place",
    [
        "begin.find_routes",
        "begin.make_resource",
        "telemetry.process.process.RecorderProcess.start",
        "telemetry.recorder.recorder.Recorder.start",
        "api._hook_client",
    ],
)
def test_an_internal_error_at_the_beginning_lets_the_work_go_on(
    client, monkeypatch, caplog, place, recorder
):
    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(f"scalable.{place}", fail)
    api._guard.errors.clear()
    scheduler = client.cluster.scheduler
    plugins, method = set(scheduler.plugins), Client._send_to_scheduler
    with scalable.instrument(client, recorder=recorder) as run:
        assert client.submit(sum, [1, 2]).result() == 3
    met = {"process": "Recorder.start", "thread": "RecorderProcess.start"}[recorder]
    assert run.enabled is place.endswith(f".{met}")
    assert ("internal error in instrument" in caplog.text) is not run.enabled
    assert set(scheduler.plugins) == plugins
    assert Client._send_to_scheduler is method
    # Nor does the catalog of a run that did not begin stay in force.
    assert places.in_force() == (None, None)


def _script(tmp_path: Path, body: str) -> Path:
    script = tmp_path / "script.py"
    head = """
        import os, signal, sys, threading
        from pathlib import Path
        from distributed import Client, LocalCluster
        import scalable
        from cluster import tasks

        if __name__ == "__main__":
            notes = Path("notes"); notes.mkdir(exist_ok=True)
    """
    script.write_text(textwrap.dedent(head) + textwrap.indent(textwrap.dedent(body), "    "))
    return script


def _run(script: Path, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(p for p in sys.path if p))
    return subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_interpreter_exit_ends_the_run(tmp_path):
    script = _script(
        tmp_path,
        """
        cluster = LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0")
        client = Client(cluster)
        run = scalable.instrument(client)
        print(sum(client.gather(client.map(tasks.add, [str(notes)] * 10, range(10)))))
        """,
    )
    result = _run(script, tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "45\n"
    assert "scalable" not in result.stderr
    (run,) = find_runs(tmp_path / ".scalable/runs")
    assert run.status == "completed"
    oracle.check_contract(run.path)
    oracle.check_attempts(run.path, tmp_path / "notes")


def test_unhandled_exception_fails_the_run(tmp_path):
    script = _script(
        tmp_path,
        """
        cluster = LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0")
        client = Client(cluster)
        scalable.instrument(client)
        client.submit(tasks.fail, str(notes)).result()
        """,
    )
    result = _run(script, tmp_path)
    assert result.returncode == 1
    assert "ValueError: bad input" in result.stderr
    (run,) = find_runs(tmp_path / ".scalable/runs")
    assert run.status == "failed"
    phases = [f["details"]["phase"] for f in oracle.read(run.path, "failures.jsonl")]
    assert sorted(phases) == ["run", "task_execution"]


def test_end_of_asyncio_run_without_any_close(tmp_path):
    script = _script(
        tmp_path,
        """
        import asyncio
        async def main():
            cluster = await LocalCluster(
                n_workers=1, threads_per_worker=1, asynchronous=True, dashboard_address=":0"
            )
            client = await Client(cluster, asynchronous=True)
            scalable.instrument(client)
            print(sum(await client.gather(client.map(tasks.add, [str(notes)] * 10, range(10)))))
        asyncio.run(main())
        """,
    )
    result = _run(script, tmp_path)
    assert result.stdout == "45\n", result.stderr
    (run,) = find_runs(tmp_path / ".scalable/runs")
    assert run.status == "completed"
    oracle.check_contract(run.path)
    oracle.check_attempts(run.path, tmp_path / "notes")


def test_killed_driver_leaves_a_lost_run_that_shows_what_ran(tmp_path):
    script = _script(
        tmp_path,
        """
        cluster = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0")
        client = Client(cluster)
        run = scalable.instrument(client)
        client.gather(client.map(tasks.add, [str(notes)] * 10, range(10)))
        held = [client.submit(tasks.hold, str(notes), "never", i) for i in range(2)]
        tasks.wait_for_notes(notes, 22)
        tasks.wait_until(lambda: run.flush() and
                         (run.run_dir / "tasks.jsonl").read_text().count('"running"') == 12)
        os.kill(os.getpid(), signal.SIGKILL)
        """,
    )
    result = _run(script, tmp_path)
    assert result.returncode == -signal.SIGKILL
    (tmp_path / "notes" / "never").touch()
    reader = resolve_run(tmp_path / ".scalable/runs")
    assert reader.status == "lost"
    states: dict[str, str] = {}
    for record in reader.records("tasks.jsonl"):
        states[record["task_id"]] = record["state"]
    assert sorted(states.values()) == ["running"] * 2 + ["succeeded"] * 10
    oracle.check_attempts(reader.path, tmp_path / "notes")


def test_scheduler_that_is_killed_does_not_hold_the_close(tmp_path, notes_dir):
    file = tmp_path / "scheduler.json"
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(p for p in sys.path if p))
    common = {
        "cwd": tmp_path,
        "env": environment,
        "stdout": subprocess.DEVNULL,
        "stderr": subprocess.DEVNULL,
    }
    command = [sys.executable, "-m", "dask"]
    scheduler = subprocess.Popen(
        [*command, "scheduler", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)],
        **common,
    )
    tasks.wait_until(file.exists)
    worker = subprocess.Popen(
        [*command, "worker", "--scheduler-file", str(file), "--no-nanny", "--no-dashboard"],
        **common,
    )
    try:
        with Client(scheduler_file=str(file), timeout=20) as client:
            with scalable.instrument(client, close_timeout=2) as run:
                done = client.submit(tasks.add, str(notes_dir), 1)
                assert done.result() == 1
                held = client.submit(tasks.hold, str(notes_dir), "gate")
                never = client.submit(tasks.add, str(notes_dir), held)
                tasks.wait_for_notes(notes_dir, 3)
                tasks.wait_until(
                    lambda: run.flush() and len(oracle.read(run.run_dir, "tasks.jsonl")) == 6
                )
                scheduler.send_signal(signal.SIGKILL)
                scheduler.wait()
            (notes_dir / "gate").touch()
    finally:
        scheduler.kill()
        worker.kill()
        scheduler.wait()
        worker.wait()
    oracle.check_lives(run.run_dir, unknown=2)
    oracle.check_summary(run.run_dir)
    assert oracle.states(run.run_dir, done.key) == ["submitted", "running", "succeeded"]
    assert oracle.states(run.run_dir, held.key) == ["submitted", "running"]
    assert oracle.states(run.run_dir, never.key) == ["submitted"]
    document = json.loads((run.run_dir / "run.json").read_text())
    assert document["status"] == run.status == "lost"
    assert document["telemetry"]["errors"]["scheduler_gone"] == 1
    (failure,) = oracle.read(run.run_dir, "failures.jsonl")
    assert failure["failure_class"] == "SchedulerLost"
    assert failure["details"]["tasks"] == [held.key]
    assert failure["details"]["tasks_waiting"] == 1


@pytest.mark.parametrize("is_seen", [True, False])
def test_graphs_that_never_reached_the_scheduler_are_counted(make_cluster, monkeypatch, is_seen):
    if not is_seen:
        monkeypatch.setattr(TaskFacts, "update_graph", lambda *_, **__: None)
        monkeypatch.setattr(TaskFacts, "_note_new", lambda *_: False)
    _, client = make_cluster(n_workers=1, processes=False)
    with scalable.instrument(client) as run:
        document = run.run_dir / "run.json"

        def unseen() -> int:
            return json.loads(document.read_text())["telemetry"].get("graphs_unseen", 0)

        assert client.submit(int, 1, pure=False).result() == 1
        assert client.gather(client.map(int, range(3), pure=False)) == [0, 1, 2]
        if not is_seen:
            tasks.wait_until(lambda: unseen() == 2)
    assert unseen() == (0 if is_seen else 2)
    assert len(oracle.lives(run.run_dir)) == (4 if is_seen else 0)
