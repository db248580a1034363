"""The recorder in a process of its own: found, killed, stopped, left alone, not to be had."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import json
import logging
import operator
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import dask
import psutil
import pytest
from dask.sizeof import sizeof
from distributed import Client, LocalCluster, span
from opentelemetry import propagate
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

import scalable
from cluster import oracle, tasks
from scalable import api
from scalable.analysis.load import read_journals
from scalable.common import processes
from scalable.instrumentation import user_events
from scalable.instrumentation.user_events import client_event
from scalable.telemetry.process import process as process_module
from scalable.telemetry.process import spawning
from scalable.telemetry.process.process import RecorderProcess
from scalable.telemetry.recorder.recorder import Recorder
from scalable_runs.reader import RunReader, find_runs, resolve_run


def recorders() -> list[psutil.Process]:
    """The recorders' processes of the program that runs in this directory."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter(["cmdline"]):
        if "scalable-recorder" in (process.info["cmdline"] or ()):
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.cwd() == str(Path.cwd()):
                    found.append(process)
    return found


def has_ended(process: psutil.Process) -> bool:
    """Whoever adopts orphans may take a while to notice that one has ended."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def gone(recorder: psutil.Process) -> None:
    """Wait until a process that is not ours has ended."""
    tasks.wait_until(lambda: has_ended(recorder))


@pytest.fixture
def client():
    with LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0"
    ) as cluster:
        with Client(cluster) as client:
            yield client


def test_a_run_is_written_by_a_process_of_its_own(client, notes_dir):
    with scalable.instrument(client) as run:
        (recorder,) = recorders()
        assert run.run_id in recorder.cmdline()
        assert client.gather(client.map(tasks.add, [str(notes_dir)] * 20, range(20)))
        assert run.flush()
        assert run.progress() == (20, 20, 0)
        owner = json.loads((run.run_dir / "owner.json").read_text())
        assert owner["pid"] == os.getpid()
        assert owner["writer"]["pid"] == recorder.pid
        assert RunReader(run.run_dir).status == "running"
    assert has_ended(recorder)
    oracle.check_contract(run.run_dir)
    oracle.check_attempts(run.run_dir, notes_dir)
    oracle.check_summary(run.run_dir)
    assert RunReader(run.run_dir).status == "completed"


@pytest.mark.parametrize("where", ["argument", "environment"])
def test_a_thread_where_that_was_asked_for(client, monkeypatch, where):
    if where == "environment":
        monkeypatch.setenv("SCALABLE_RECORDER", "thread")
    options = {"recorder": "thread"} if where == "argument" else {}
    with scalable.instrument(client, **options) as run:
        assert not recorders()
        assert isinstance(run._recorder, Recorder)
        assert client.submit(operator.add, 1, 1).result() == 2
    oracle.check_contract(run.run_dir)
    assert "writer" not in json.loads((run.run_dir / "owner.json").read_text())


def kill_recorder(run) -> None:
    """Kill the recorder's process; returns once another one goes on or there is none any more."""
    (recorder,) = recorders()
    restarts = len(run._recorder._restarts)
    recorder.kill()
    tasks.wait_until(
        lambda: run._recorder.finished.is_set() or len(run._recorder._restarts) > restarts
    )


def check_restarted(run, times: int) -> None:
    """The record is whole, in several files, and says that its writer changed."""
    oracle.check_contract(run.run_dir)
    reader = RunReader(run.run_dir)
    for file in reader.files():
        assert list(reader.records(file)) is not None
    assert reader.problems == {}
    assert reader.status == "completed"
    restarts = reader.document["telemetry"]["restarts"]
    assert len(restarts) == times
    assert all(restart["gap_s"] >= 0 for restart in restarts)
    counts = read_journals(reader).document(reader.document)["counts"]
    assert counts == reader.summary()["counts"]


@pytest.mark.lenient
def test_another_recorder_goes_on_with_the_run_of_one_that_was_killed(client, notes_dir, caplog):
    with scalable.instrument(client) as run:
        add = [str(notes_dir)] * 10
        early = client.map(tasks.add, add, range(10))
        client.gather(early)
        held = client.submit(tasks.hold, str(notes_dir), "gate")
        after = client.submit(tasks.add, str(notes_dir), held)
        run.note(client_event("cost", {"total_hourly": 1.0, "currency": "EUR"}))
        assert run.flush()
        kill_recorder(run)
        assert "another one" in caplog.text
        client.gather(client.map(tasks.add, add, range(10, 20)))
        assert run.flush(30)
        assert RunReader(run.run_dir).is_live
        kill_recorder(run)
        run.note(client_event("cost", {"total_hourly": 2.0, "currency": "EUR"}))
        (notes_dir / "gate").touch()
        after.result()
        # Of the first file's: forgotten, computed again under the same key.
        again = early[0].key
        del early
        tasks.wait_until(lambda: again not in client.cluster.scheduler.tasks)
        client.submit(tasks.add, str(notes_dir), 0, key=again).result()
    check_restarted(run, 2)
    oracle.check_attempts(run.run_dir, notes_dir)
    assert oracle.states(run.run_dir, held.key) == ["submitted", "running", "succeeded"]
    assert [line["attempt"] for line in oracle.lives(run.run_dir)[held.key]] == [0, 1, 1]
    ids = {line["span_id"] for line in oracle.lives(run.run_dir)[held.key][1:]}
    assert len(ids) == 1
    assert [cost["total_hourly"] for cost in oracle.read(run.run_dir, "cost.jsonl")] == [1.0, 2.0]
    assert (run.run_dir / "tasks.1.jsonl").exists()
    workers = oracle.read(run.run_dir, "workers.jsonl")
    assert [line["state"] for line in workers] == ["launched", "ready"]


@pytest.mark.lenient
def test_blocks_of_dask_outlive_a_recorder_that_was_killed(client):
    """One is open all the time, one was left before its span could be written, one was written."""

    def blocks() -> list[dict]:
        records = RunReader(run.run_dir).records("spans.jsonl")
        return [it for it in records if "dask.span.blocks" in it["attributes"]]

    with scalable.instrument(client) as run:
        with span("all"):
            with span("written"):
                client.submit(operator.neg, 1, pure=False).result()
            tasks.wait_until(lambda: run.flush() and blocks())
            with span("left"):
                client.submit(operator.neg, 2, pure=False).result()
            assert run.flush()
            kill_recorder(run)
            client.submit(operator.neg, 3, pure=False).result()
            with span("later"):
                client.submit(operator.neg, 4, pure=False).result()
            assert run.flush(30)
    check_restarted(run, 1)
    found = {it["name"]: it for it in blocks()}
    assert len(found) == len(blocks()) == 4
    top = found.pop("all")
    assert {it["parent_span_id"] for it in found.values()} == {top["span_id"]}
    # Some tasks may have been counted by the one that was killed.
    has_counts = {name for name, it in found.items() if "dask.span.tasks.known" in it["attributes"]}
    assert {"written"} <= has_counts <= {"written", "later"}
    assert "dask.span.tasks.known" not in top["attributes"]
    known = {it["span_id"] for it in RunReader(run.run_dir).records("spans.jsonl")}
    for record in RunReader(run.run_dir).records("spans.jsonl"):
        assert record.get("parent_span_id") in {*known, None}
        assert record["end_time"] <= top["end_time"] or record["trace_id"] != top["trace_id"]


@pytest.mark.lenient
def test_a_recorder_killed_in_the_middle_of_much_work_doubles_and_loses_nothing(client):
    with scalable.instrument(client) as run:
        for _ in range(3):
            futures = client.map(operator.neg, range(1_500), pure=False)
            tasks.wait_until(lambda: run.progress()[0] % 1_500 > 100)
            kill_recorder(run)
            client.gather(futures)
            assert run.flush(60)
            del futures
        assert client.submit(failing, key="failing").exception()
    check_restarted(run, 3)
    counts = RunReader(run.run_dir).summary()["counts"]
    assert (counts["tasks"], counts["tasks_succeeded"], counts["tasks_failed"]) == (4_501, 4_500, 1)
    assert counts["attempts"] == 4_501


def failing() -> None:
    raise ValueError("planted")


@pytest.mark.lenient
def test_a_recorder_that_dies_again_and_again_is_given_up_and_nothing_else(
    client, notes_dir, caplog, monkeypatch
):
    monkeypatch.setattr(process_module, "RESTART_DELAYS", (0.0,))
    run = scalable.instrument(client)
    client.gather(client.map(tasks.add, [str(notes_dir)] * 10, range(10)))
    assert run.flush()
    kill_recorder(run)
    assert run.flush(30)
    kill_recorder(run)
    tasks.wait_until(lambda: run._recorder.finished.is_set())
    assert "the run is shown as lost" in caplog.text
    assert RunReader(run.run_dir).status == "lost"
    assert client.gather(client.map(operator.add, range(10), range(100, 110)))
    assert not run.flush(0.1)
    run.close()
    assert run.closed
    assert RunReader(run.run_dir).status == "lost"
    oracle.check_attempts(run.run_dir, notes_dir)
    assert client.submit(operator.add, 1, 1).result() == 2


@pytest.mark.lenient
def test_a_recorder_killed_while_the_run_is_closed_is_replaced(client, monkeypatch):
    run = scalable.instrument(client)
    (recorder,) = recorders()
    client.gather(client.map(operator.neg, range(50)))
    assert run.flush()
    recorder.suspend()
    closing = threading.Thread(target=run.close)
    closing.start()
    tasks.wait_until(lambda: run._recorder._close)
    recorder.kill()
    closing.join(60)
    tasks.wait_until(lambda: run._recorder.finished.is_set(), 60)
    check_restarted(run, 1)


@pytest.mark.lenient
def test_a_recorder_that_hangs_blocks_nothing(client, notes_dir):
    run = scalable.instrument(client, close_timeout=0.5)
    (recorder,) = recorders()
    recorder.suspend()
    try:
        assert client.gather(client.map(tasks.add, [str(notes_dir)] * 10, range(10)))
        assert not run.flush(0.1)
        for _ in range(1_000):
            run.note(client_event("artifact", {"artifact_name": "x" * 30_000}))
        run.close()
        assert run.closed
    finally:
        recorder.resume()
    # What it had been asked for it does, once it is able to.
    tasks.wait_until(lambda: run._recorder.finished.is_set())
    assert not recorders()
    about = RunReader(run.run_dir)
    assert about.status == "completed"
    # What is beyond the bound of what waits is told in the run.
    kept = len(oracle.read(run.run_dir, "artifacts.jsonl"))
    assert about.document["telemetry"]["errors"]["note:dropped"] == 1_000 - kept
    assert run._recorder.guard.errors["note:dropped"] == 1_000 - kept


@pytest.mark.parametrize("missing", ["program", "module", "answer", "possible"])
def test_where_there_can_be_no_process_it_is_a_thread(client, monkeypatch, caplog, missing):
    caplog.set_level(logging.INFO, "scalable")
    if missing == "program":
        monkeypatch.setattr(spawning, "get_executable", lambda: "/does/not/exist")
    elif missing == "module":
        monkeypatch.setattr(spawning, "_BOOTSTRAP", "import nothing_of_this_name")
    elif missing == "answer":
        monkeypatch.setattr(spawning, "_BOOTSTRAP", "import sys; sys.stdin.buffer.read()")
        monkeypatch.setattr(process_module, "START_TIMEOUT", 0.2)
    else:
        monkeypatch.setattr(sys, "frozen", True, raising=False)
    with scalable.instrument(client) as run:
        assert not recorders()
        assert isinstance(run._recorder, Recorder)
        assert client.submit(operator.add, 1, 1).result() == 2
    oracle.check_contract(run.run_dir)
    assert RunReader(run.run_dir).status == "completed"
    if missing != "possible":
        assert "recorder" in caplog.text


def test_values_that_are_not_python_s_own_get_there(client):
    numpy = pytest.importorskip("numpy")

    class Size(int):
        pass

    class Sized:
        pass

    sizeof.register(Sized, lambda _: numpy.int64(24))

    class Text(str):
        __slots__ = ()

    with scalable.instrument(client) as run:
        assert isinstance(run._recorder, RecorderProcess)
        with dask.annotate(scalable={"run": run.run_id, "more": object()}):
            assert client.submit(abs, -1, key="annotated").result() == 1
        cost = {"total_hourly": Size(3), "currency": Text("EUR"), "metadata": {"of": Path("a")}}
        run.note(client_event("cost", cost))
        assert isinstance(client.submit(Sized, key="sized").result(), Sized)
    oracle.check_contract(run.run_dir)
    (cost,) = oracle.read(run.run_dir, "cost.jsonl")
    assert cost["total_hourly"] == 3
    assert cost["currency"] == "EUR"
    assert cost["metadata"] == {"of": "a"}
    assert oracle.states(run.run_dir, "annotated")[-1] == "succeeded"
    assert oracle.lives(run.run_dir)["sized"][-1]["nbytes"] == 24


# -- the program's end --------------------------------------------------------------------------


@contextlib.contextmanager
def program(tmp_path: Path, body: str) -> Iterator[subprocess.Popen[str]]:
    """A program with a cluster and a run, in a process group of its own."""
    script = tmp_path / "program.py"
    head = """
        import os, signal, sys, threading, time
        from pathlib import Path
        from distributed import Client, LocalCluster
        import scalable
        from cluster import tasks
        if __name__ == "__main__":
            notes = Path("notes"); notes.mkdir(exist_ok=True)
            cluster = LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0")
            client = Client(cluster)
            run = scalable.instrument(client)
            client.gather(client.map(tasks.add, [str(notes)] * 10, range(10)))
    """
    script.write_text(textwrap.dedent(head) + textwrap.indent(textwrap.dedent(body), "    "))
    with subprocess.Popen(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(place for place in sys.path if place)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as it:
        try:
            yield it
        finally:
            it.kill()


def test_a_killed_program_takes_its_recorder_with_it(tmp_path):
    body = """
        run.flush()
        print("ready", flush=True)
        threading.Event().wait()
    """
    with program(tmp_path, body) as it:
        assert it.stdout.readline() == "ready\n"
        (recorder,) = recorders()
        it.kill()
        it.wait()
        # Whoever reads now reads all that the recorder had to write.
        reader = resolve_run(tmp_path / ".scalable/runs")
        assert reader.status == "lost"
        assert has_ended(recorder)
        gone(recorder)
    oracle.check_attempts(reader.path, tmp_path / "notes")
    assert list(reader.records("tasks.jsonl"))
    assert not reader.problems


def test_a_recorder_that_gets_no_processor_loses_nothing_with_the_program(tmp_path):
    """What is in its pipe is its own, whenever it comes to reading it."""
    body = """
        run.flush()
        import psutil
        it = run._recorder
        psutil.Process(it._process.pid).suspend()
        client.gather(client.map(tasks.add, [str(notes)] * 500, range(10, 510)))
        (plugin,) = [p for name, p in cluster.scheduler.plugins.items() if run.run_id in name]
        tasks.wait_until(lambda: not plugin.buffer.waiting)
        last = it._facts.next_pull
        tasks.wait_until(lambda: it._facts.next_pull > last)  # what was fetched has been written
        os.kill(os.getpid(), signal.SIGKILL)
    """
    with program(tmp_path, body) as it:
        assert it.wait(60) == -signal.SIGKILL, it.stderr.read()
        (recorder,) = recorders()
        recorder.resume()
        gone(recorder)
    reader = resolve_run(tmp_path / ".scalable/runs")
    assert reader.status == "lost"
    states = {record["task_id"]: record["state"] for record in reader.records("tasks.jsonl")}
    assert list(states.values()) == ["succeeded"] * 510
    oracle.check_attempts(reader.path, tmp_path / "notes")


def test_a_process_forked_from_the_program_does_not_keep_its_recorder(tmp_path):
    body = """
        run.flush()
        forked = os.fork()
        if not forked:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            while True:
                signal.pause()
        print(forked, flush=True)
        threading.Event().wait()
    """
    with program(tmp_path, body) as it:
        forked = psutil.Process(int(it.stdout.readline()))
        (recorder,) = recorders()
        it.kill()
        it.wait()
        try:
            gone(recorder)
            assert forked.is_running()
        finally:
            forked.kill()
    assert resolve_run(tmp_path / ".scalable/runs").status == "lost"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_job_is_recorded_as_the_program_takes_it(tmp_path, number):
    body = """
        def stop(*_):
            raise KeyboardInterrupt
        signal.signal(signal.SIGTERM, stop)
        # Ignored, where a shell has started the tests in the background.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with run:
            print("ready", flush=True)
            threading.Event().wait()
    """
    with program(tmp_path, body) as it:
        assert it.stdout.readline() == "ready\n"
        (recorder,) = recorders()
        # What a terminal does, and what a batch system does to every process of a job.
        os.killpg(it.pid, number)
        recorder.send_signal(number)
        it.communicate(timeout=60)
        gone(recorder)
    (run,) = find_runs(tmp_path / ".scalable/runs")
    assert run.status == "cancelled"
    oracle.check_contract(run.path)
    oracle.check_attempts(run.path, tmp_path / "notes")


def test_what_was_noted_and_sent_before_the_end_is_there(tmp_path):
    body = """
        from scalable.instrumentation.user_events import client_event
        run.note(client_event("cost", {"total_hourly": 1.5}))
        run.fail("cleanup", ValueError("could not tidy up"))
        sys.exit(0)
    """
    with program(tmp_path, body) as it:
        _, errors = it.communicate(timeout=60)
        assert it.returncode == 0, errors
    (run,) = find_runs(tmp_path / ".scalable/runs")
    assert run.status == "completed"
    oracle.check_contract(run.path)
    assert [cost["total_hourly"] for cost in oracle.read(run.path, "cost.jsonl")] == [1.5]
    (failure,) = oracle.read(run.path, "failures.jsonl")
    assert failure["details"]["phase"] == "cleanup"
    spans = oracle.read(run.path, "spans.jsonl")
    assert [span["name"] for span in spans if span["kind"] == "producer"] == ["map add"]


def test_no_more_is_left_than_before(client, monkeypatch):
    with scalable.instrument(client):
        pass
    descriptors = psutil.Process().num_fds()
    at_exit = atexit._ncallbacks()
    at_fork: list[object] = []
    monkeypatch.setattr(os, "register_at_fork", lambda **hooks: at_fork.append(hooks))
    for _ in range(3):
        with scalable.instrument(client):
            assert client.submit(operator.add, 1, time.time()).result()
    assert atexit._ncallbacks() == at_exit
    assert not at_fork
    # Dask closes a connection when its loop gets to it.
    tasks.wait_until(lambda: psutil.Process().num_fds() <= descriptors + 1)


def test_an_exporter_that_prints_does_so_where_the_program_prints(tmp_path):
    body = """
        run.close()
        os.environ["OTEL_TRACES_EXPORTER"] = "console"
        with scalable.instrument(client) as run:
            client.submit(abs, -1).result()
    """
    with program(tmp_path, body) as it:
        output, errors = it.communicate(timeout=60)
        assert it.returncode == 0, errors
    assert '"name": "abs"' in output


@pytest.mark.parametrize(
    ("environment", "recorders_there"),
    [
        ({"OTEL_TRACES_EXPORTER": "none"}, 1),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, 1),
        ({"OTEL_LOGS_EXPORTER": "console"}, 0),
    ],
)
def test_exporters_decide_where_it_runs(client, monkeypatch, environment, recorders_there):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with scalable.instrument(client, close_timeout=0.5):
        assert len(recorders()) == recorders_there


def test_a_propagator_of_the_program_s_own_needs_no_thread(client, monkeypatch):
    class Own(TraceContextTextMapPropagator):
        pass

    monkeypatch.setattr(propagate, "_HTTP_TEXT_FORMAT", CompositePropagator([Own()]))
    with scalable.instrument(client):
        assert len(recorders()) == 1


# -- other processes ------------------------------------------------------------------------------


def test_the_recorder_is_not_a_child_of_the_program(client):
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    with scalable.instrument(client):
        (recorder,) = recorders()
        assert {process.pid for process in psutil.Process().children(recursive=True)} == before
        with pytest.raises(ChildProcessError):
            os.waitpid(recorder.pid, os.WNOHANG)


def test_a_container_without_a_shell(client, monkeypatch):
    monkeypatch.setattr(processes, "_SHELL", Path("/does/not/exist"))
    with scalable.instrument(client) as run:
        (recorder,) = recorders()
        assert recorder.pid == run._recorder._process.pid
        assert recorder.ppid() != os.getpid()
    assert RunReader(run.run_dir).status == "completed"


def test_a_program_that_adopts_orphans_leaves_no_zombie(client):
    libc = ctypes.CDLL(None)
    libc.prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER, as an init process of a container
    try:
        with scalable.instrument(client):
            (recorder,) = recorders()
            assert recorder.ppid() == os.getpid()
        assert not psutil.pid_exists(recorder.pid)
    finally:
        libc.prctl(36, 0, 0, 0, 0)


def test_closing_a_run_waits_for_no_other_process(client, monkeypatch):
    """A process that holds the recorder's pipe open, and lives on."""
    monkeypatch.setattr(process_module, "EXIT_TIMEOUT", 60.0)
    run = scalable.instrument(client, close_timeout=1.0)
    pipe = run._recorder._process.stdin.fileno()
    with subprocess.Popen(["sleep", "60"], pass_fds=[pipe]) as holder:
        run.close()
        assert run._recorder.finished.is_set()
        holder.kill()


@contextlib.contextmanager
def held_by_another_thread(*locks) -> Iterator[None]:
    """Another thread holds the locks."""
    held, over = threading.Event(), threading.Event()

    def hold() -> None:
        with contextlib.ExitStack() as stack:
            for lock in locks:
                stack.enter_context(lock)
            held.set()
            over.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_a_forked_process_has_no_part_in_the_run(client):
    """Nor does it wait for a lock that another thread held when it was forked."""
    with scalable.instrument(client) as run:
        it = run._recorder
        locks = (it._condition, run._lock, api._instrument_lock, user_events._lock)
        with held_by_another_thread(*locks):
            forked = os.fork()
            if not forked:
                signal.alarm(30)
                for number in (it._stdin, it._stdout):
                    with contextlib.suppress(OSError):
                        os.fstat(number)
                        os._exit(1)
                run.note(client_event("cost", {"total_hourly": 1.5}))
                user_events.emit("cost", {"total_hourly": 1.5})
                run.fail("cleanup", ValueError())
                run.flush()
                run.close("failed")
                with api._instrument_lock:
                    os._exit(0)
            assert os.waitpid(forked, 0)[1] == 0
        assert client.submit(abs, -1).result() == 1
    assert RunReader(run.run_dir).status == "completed"
    assert not oracle.read(run.run_dir, "cost.jsonl")
    assert not oracle.read(run.run_dir, "failures.jsonl")
