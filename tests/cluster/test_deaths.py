"""Real deaths of real workers: each has one certificate that says how, what ran and its last words.

The clusters are shared by the deaths that do not need one of their own.
"""

from __future__ import annotations

import asyncio
import ctypes
import faulthandler
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import termios
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import dask
import psutil
import pytest
from distributed import Client, KilledWorker, LocalCluster, Status

import scalable
from cluster import dying, oracle, tasks
from scalable import diagnose_run, facts
from scalable.analysis import render_text
from scalable.instrumentation import tee


def lost(run_dir: Path) -> list[dict[str, Any]]:
    return [r for r in oracle.read(run_dir, "workers.jsonl") if r["state"] == "lost"]


def removed(run_dir: Path) -> list[dict[str, Any]]:
    return [r for r in oracle.read(run_dir, "workers.jsonl") if r["state"] == "removed"]


def certificates(run_dir: Path) -> list[dict[str, Any]]:
    records = oracle.read(run_dir, "failures.jsonl")
    return [record["details"] for record in records if record["failure_class"] == "WorkerLost"]


def killed(run_dir: Path) -> dict[str, dict[str, Any]]:
    records = oracle.read(run_dir, "failures.jsonl")
    return {r["task_id"]: r["details"] for r in records if r["failure_class"] == "KilledWorker"}


def worker_pid(cluster: LocalCluster, number: int = 0) -> int:
    return list(cluster.scheduler.workers.values())[number].pid


def _is_watched(cluster: LocalCluster, client) -> bool:
    """The one worker has its plugin, and its nanny knows where it is."""
    plugins = client.run(lambda dask_worker: sorted(dask_worker.plugins))
    nannies = {nanny.worker_address for nanny in cluster.workers.values()}
    return set(plugins) == nannies and all("scalable" in names for names in plugins.values())


#: How a task ends its worker → cause, signal, exit status, what stands in its log.
DEATHS: dict[str, tuple[str, str | None, int, str]] = {
    "kill": ("killed", "SIGKILL", -signal.SIGKILL, "last words of kill"),
    "terminate": ("killed", "SIGTERM", -signal.SIGTERM, "last words of terminate"),
    "segfault": ("segfault", "SIGSEGV", -signal.SIGSEGV, "Fatal Python error: Segmentation fault"),
    "exit": ("exited", None, 3, "last words of exit"),
    "abort": ("segfault", "SIGABRT", -signal.SIGABRT, "Fatal Python error: Aborted"),
}


def test_every_way_to_die(make_cluster, capfd):
    """One after the other on one cluster: each certificate is its own worker's."""
    cluster, client = make_cluster(n_workers=1)
    keys: dict[str, str] = {}
    with dask.config.set({"distributed.scheduler.allowed-failures": 0}):
        cluster.scheduler.allowed_failures = 0
        with scalable.instrument(client) as run:
            for how in DEATHS:
                future = client.submit(getattr(dying, how), pure=False)
                with pytest.raises(KilledWorker):
                    future.result(timeout=60)
                keys[how] = future.key
                client.wait_for_workers(1, timeout=60)
                # Dask gives a worker tasks before its plugins are there, and its nanny may not
                # know its address yet.
                tasks.wait_until(lambda: _is_watched(cluster, client))
    oracle.check_contract(run.run_dir)
    for directory in (run.run_dir / "logs").rglob("*/.."):
        assert directory.stat().st_mode & 0o777 == 0o700
    found = certificates(run.run_dir)
    assert len(found) == len(lost(run.run_dir)) == len(DEATHS)
    spans = {
        span["span_id"]: span
        for span in oracle.read(run.run_dir, "spans.jsonl")
        if span["name"].startswith("worker ")
    }
    records = [
        record
        for record in oracle.read(run.run_dir, "failures.jsonl")
        if record["failure_class"] == "WorkerLost"
    ]
    for how, details, line, record in zip(DEATHS, found, lost(run.run_dir), records, strict=True):
        cause, name, status, words = DEATHS[how]
        if details["exit_code"] == 255:
            # Two threads of Dask's nanny asked for the status at once, and it was lost.
            assert details["cause"] in (cause, "unknown")
            continue
        assert details["cause"] == line["details"]["cause"] == cause, (how, details)
        assert details.get("signal") == line["details"].get("signal") == name, how
        assert details["exit_code"] == line["details"]["exit_code"] == status, how
        assert details["tasks"] == [keys[how]]
        assert words in details["stderr_tail"], how
        log = (run.run_dir / details["stderr_path"]).read_text()
        assert f"last words of {how}\n" in log
        assert details["stderr_path"].startswith(f"logs/workers/{details['worker_id']}/")
        assert details["memory_bytes"] > 0
        assert details["memory_samples"]
        assert "not_known" not in details
        span = spans[record["span_id"]]
        assert span["status"]["code"] == "error"
        death = killed(run.run_dir)[keys[how]]["deaths"]
        assert [(d["cause"], d.get("signal"), d["tasks_running"]) for d in death] == [
            (cause, name, 1)
        ]
    segfault = found[list(DEATHS).index("segfault")]["stderr_tail"]
    assert "in segfault" in segfault
    # What a user saw before is still seen, and once.
    shown = capfd.readouterr()
    for how in DEATHS:
        assert (shown.out + shown.err).count(f"last words of {how}\n") == 1
    diagnosis = diagnose_run(run.run_dir)
    categories = {finding.category for finding in diagnosis.findings}
    assert {"killed", "segfault"} <= categories
    assert "in segfault" in render_text(diagnosis)


def test_memory_kill_by_the_nanny(notes_dir):
    with dask.config.set({"distributed.worker.memory.monitor-interval": "20ms"}):
        with (
            LocalCluster(
                n_workers=1,
                threads_per_worker=1,
                memory_limit="250MB",
                dashboard_address=":0",
                silence_logs=logging.CRITICAL,
            ) as cluster,
            Client(cluster) as client,
        ):
            cluster.scheduler.allowed_failures = 0
            with scalable.instrument(client, sample_interval=0.1) as run:
                future = client.submit(dying.allocate, 400)
                with pytest.raises(KilledWorker):
                    future.result(timeout=60)
    (details,) = certificates(run.run_dir)
    assert details["cause"] == "memory_limit"
    assert details["confidence"] == "high"
    assert details["signal"] in ("SIGTERM", "SIGKILL")
    assert details["memory_peak_bytes"] > 0.9 * details["memory_limit_bytes"]
    (finding,) = [f for f in diagnose_run(run.run_dir).findings if f.severity == "error"]
    assert finding.category == "memory_limit"
    assert "needs at least" in finding.suggestion


def test_dask_ends_a_worker_that_sends_no_heartbeat(make_cluster, monkeypatch):
    """The signal that ends it is Dask's own: nobody needs to look for a sender."""
    # Dask waits for ten heartbeats at the least.
    monkeypatch.setattr("distributed.scheduler.heartbeat_interval", lambda workers: 0.2)
    with dask.config.set({"distributed.scheduler.worker-ttl": "2s"}):
        cluster, client = make_cluster(n_workers=1)
    cluster.scheduler.allowed_failures = 0
    with scalable.instrument(client) as run:
        future = client.submit(dying.hold_the_interpreter, pure=False)
        with pytest.raises(KilledWorker):
            future.result(timeout=60)
    oracle.check_contract(run.run_dir)
    (details,) = certificates(run.run_dir)
    assert details["cause"] == "timeout"
    assert details["tasks"] == [future.key]
    assert details["heartbeat_age_s"] >= details["worker_ttl_s"] == 2.0
    (line,) = lost(run.run_dir)
    assert line["details"]["reason"] == "worker-ttl"
    assert line["details"]["worker_ttl_s"] == 2.0
    assert killed(run.run_dir)[future.key]["deaths"][0]["cause"] == "timeout"


def test_culprit_and_innocent_are_distinguished(make_cluster, notes_dir):
    """Two tasks on one worker when it dies, then the culprit alone on others."""
    cluster, client = make_cluster(n_workers=1, threads=2)
    cluster.scheduler.allowed_failures = 1
    with scalable.instrument(client) as run:
        innocent = client.submit(tasks.hold, str(notes_dir), "gate", key="innocent")
        tasks.wait_for_notes(notes_dir, 1)
        culprit = client.submit(dying.kill, key="culprit")
        tasks.wait_until(lambda: (run.flush(), len(lost(run.run_dir)) >= 1)[1])
        (notes_dir / "gate").touch()
        with pytest.raises(KilledWorker):
            culprit.result(timeout=60)
        tasks.wait_until(lambda: innocent.done())
    assert len(certificates(run.run_dir)) >= 2
    details = killed(run.run_dir)["culprit"]
    assert details["deaths_present"] == len(details["deaths"]) == 2
    assert {death["signal"] for death in details["deaths"]} == {"SIGKILL"}


def test_two_deaths_at_once(make_cluster, notes_dir):
    cluster, client = make_cluster(n_workers=2)
    with scalable.instrument(client) as run:
        futures = [client.submit(tasks.hold, str(notes_dir), "gate", i) for i in range(2)]
        tasks.wait_for_notes(notes_dir, 2)
        pids = [worker_pid(cluster, 0), worker_pid(cluster, 1)]
        for pid, number in zip(pids, (signal.SIGKILL, signal.SIGSEGV), strict=True):
            os.kill(pid, number)
        tasks.wait_for_notes(notes_dir, 4)
        (notes_dir / "gate").touch()
        client.gather(futures)
    oracle.check_contract(run.run_dir)
    assert {d["pid"]: d["signal"] for d in certificates(run.run_dir)} == dict(
        zip(pids, ("SIGKILL", "SIGSEGV"), strict=True)
    )


def test_asked_to_go_is_no_death(make_cluster, notes_dir):
    """Retire, close while a task runs, scale down, the end of the cluster: no certificate."""
    cluster, client = make_cluster(n_workers=4)
    with scalable.instrument(client) as run:
        addresses = list(cluster.scheduler.workers)
        client.retire_workers([addresses[0]])
        held = client.submit(tasks.hold, str(notes_dir), "gate", workers=[addresses[1]])
        tasks.wait_for_notes(notes_dir, 1)
        cluster.scheduler.loop.add_callback(cluster.scheduler.close_worker, addresses[1])
        tasks.wait_until(lambda: addresses[1] not in cluster.scheduler.workers)
        (notes_dir / "gate").touch()
        held.cancel()
        cluster.scale(1)
        tasks.wait_until(lambda: len(cluster.scheduler.workers) <= 1)
        tasks.wait_until(
            lambda: (
                run.flush()
                and [r["state"] for r in oracle.read(run.run_dir, "workers.jsonl")].count("removed")
                >= 2
            )
        )
    assert certificates(run.run_dir) == []
    assert lost(run.run_dir) == []
    running = {r["worker"]: r["details"]["tasks_running"] for r in removed(run.run_dir)}
    assert running[addresses[1]] == 1


def test_the_connection_is_cut(make_cluster):
    """The scheduler drops the worker's stream; its process is told nothing and is not killed."""
    cluster, client = make_cluster(n_workers=1)
    with scalable.instrument(client) as run:
        (address,) = list(cluster.scheduler.workers)

        async def cut() -> None:
            cluster.scheduler.stream_comms[address].comm.abort()

        client.sync(cut)
        tasks.wait_until(lambda: run.flush() and lost(run.run_dir))
    (details,) = certificates(run.run_dir)
    assert details["cause"] == "connection", details
    assert "signal" not in details


def test_a_death_while_the_recorder_is_away(make_cluster, monkeypatch):
    """Facts wait at the scheduler; what scheduler and nanny said is joined all the same."""
    from scalable.instrumentation.fact_sources import LateError, LocalSource

    cluster, client = make_cluster(n_workers=1)
    away = [False]
    pull = LocalSource.pull

    def sometimes(self, *args):
        if away[0]:
            raise LateError("away")
        return pull(self, *args)

    monkeypatch.setattr(LocalSource, "pull", sometimes)
    with scalable.instrument(client) as run:
        pid = worker_pid(cluster)
        away[0] = True
        os.kill(pid, signal.SIGKILL)
        tasks.wait_until(lambda: len(cluster.scheduler.workers) == 1 and worker_pid(cluster) != pid)
        away[0] = False
    (details,) = certificates(run.run_dir)
    assert (details["pid"], details["signal"], details["cause"]) == (pid, "SIGKILL", "killed")


def test_a_process_that_died_unseen_is_not_the_next_one(make_cluster, monkeypatch):
    """The nanny is watched from a moment on at which one process is dead, the next not there."""
    from scalable.instrumentation.nanny_plugin import ScalableNannyPlugin

    cluster, client = make_cluster(n_workers=1)
    (nanny,) = cluster.workers.values()
    instantiate, goes_on = nanny.instantiate, threading.Event()

    async def later():
        while not goes_on.is_set():
            await asyncio.sleep(0.01)
        return await instantiate()

    monkeypatch.setattr(nanny, "instantiate", later)
    reports: list[facts.WorkerExit] = []

    class Plugin(ScalableNannyPlugin):
        async def _report(self, fact: facts.WorkerExit) -> None:
            reports.append(fact)

    os.kill(worker_pid(cluster), signal.SIGKILL)
    tasks.wait_until(lambda: nanny.process.status == Status.stopped)
    client.sync(nanny.plugin_add, Plugin(), "watch")
    nanny.process.worker_kwargs["preload"] = ["import os; os._exit(3)"]
    goes_on.set()
    tasks.wait_until(lambda: reports)
    client.sync(nanny.plugin_remove, "watch")
    assert [(fact.address, fact.status) for fact in reports] == [("", 3)]


# -- workers started from a shell ------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextmanager
def shell_worker(address: str, *arguments: str, **environment: str) -> Iterator[subprocess.Popen]:
    """`dask worker` as a user starts it."""
    path = os.pathsep.join(p for p in sys.path if p)
    with subprocess.Popen(
        [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1",
         "--no-dashboard", "--memory-limit", "0", *arguments],
        env={**os.environ, "PYTHONPATH": path, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            if process.poll() is None:
                for child in psutil.Process(process.pid).children(recursive=True):
                    with suppress(psutil.NoSuchProcess):
                        child.kill()
                process.kill()
            process.stderr.close()


@pytest.fixture
def bare(make_cluster: Callable[..., Any]) -> tuple[LocalCluster, Client]:
    """A scheduler without workers."""
    return make_cluster(n_workers=0)


def run_and_kill(
    bare: tuple[LocalCluster, Client],
    notes_dir: Path,
    kill: Callable[[subprocess.Popen, int], None],
    *arguments: str,
    **environment: str,
) -> dict[str, Any]:
    """One worker from a shell, one task on it, and its end; returns its certificate."""
    cluster, client = bare
    with scalable.instrument(client) as run:
        with shell_worker(cluster.scheduler_address, *arguments, **environment) as process:
            client.wait_for_workers(1, timeout=60)
            future = client.submit(tasks.hold, str(notes_dir), "gate")
            tasks.wait_for_notes(notes_dir, 1)
            kill(process, worker_pid(cluster))
            tasks.wait_until(lambda: not cluster.scheduler.workers)
            (notes_dir / "gate").touch()
            tasks.wait_until(lambda: run.flush() and lost(run.run_dir))
        future.cancel()
    (details,) = certificates(run.run_dir)
    assert details["tasks"] == [future.key]
    return details


def test_without_a_nanny_what_is_not_known_is_reported(bare, notes_dir):
    details = run_and_kill(
        bare, notes_dir, lambda _, pid: os.kill(pid, signal.SIGKILL), "--no-nanny"
    )
    assert details["cause"] == "killed"
    assert details["confidence"] == "medium"
    assert "exit_code" not in details
    assert any("without a nanny" in said for said in details["not_known"])
    assert details["stderr_path"].startswith("logs/workers/")


def test_a_crash_without_a_nanny_is_read_from_its_last_words(bare, notes_dir):
    details = run_and_kill(
        bare, notes_dir, lambda _, pid: os.kill(pid, signal.SIGSEGV), "--no-nanny"
    )
    assert (details["cause"], details["confidence"]) == ("segfault", "medium")
    assert "Fatal Python error: Segmentation fault" in details["stderr_tail"]


def test_the_nanny_is_killed(bare, notes_dir):
    details = run_and_kill(bare, notes_dir, lambda process, _: process.kill())
    assert details["cause"] == "killed"
    assert "exit_code" not in details
    assert any("nanny sent no report" in said for said in details["not_known"])


def test_the_batch_systems_time_limit(bare, notes_dir):
    """As Slurm ends a job: SIGTERM to the nanny, which goes in good order, at the job's end."""
    now = int(time.time())
    details = run_and_kill(
        bare,
        notes_dir,
        lambda process, _: process.send_signal(signal.SIGTERM),
        SLURM_JOB_ID="41",
        SLURM_JOB_START_TIME=str(now - 3600),
        SLURM_JOB_END_TIME=str(now),
    )
    assert details["cause"] == "walltime"
    assert (details["batch_system"], details["batch_job"]) == ("slurm", "41")
    assert details["time_limit_s"] == 3600
    assert details["reason"] == "signal-15"


def test_sigterm_long_before_the_time_limit_is_no_time_limit(bare, notes_dir):
    now = int(time.time())
    details = run_and_kill(
        bare,
        notes_dir,
        lambda process, _: process.send_signal(signal.SIGTERM),
        SLURM_JOB_ID="41",
        SLURM_JOB_START_TIME=str(now),
        SLURM_JOB_END_TIME=str(now + 7200),
    )
    assert details["cause"] == "killed"


def test_lifetime_is_a_removal_with_its_own_reason(bare):
    cluster, client = bare
    with scalable.instrument(client) as run:
        with shell_worker(cluster.scheduler_address, "--lifetime", "3s") as process:
            client.wait_for_workers(1, timeout=60)
            tasks.wait_until(lambda: not cluster.scheduler.workers)
            process.wait(60)
        tasks.wait_until(
            lambda: (
                run.flush()
                and any(r["state"] == "removed" for r in oracle.read(run.run_dir, "workers.jsonl"))
            )
        )
    assert certificates(run.run_dir) == []
    (line,) = removed(run.run_dir)
    assert line["details"]["reason"] == "worker-lifetime-reached"


# -- the capture -----------------------------------------------------------------------------------


def test_output_is_shown_where_it_was_and_in_its_order_and_bounded(bare, tmp_path):
    """Both streams to one place, more than is kept: all of it passes, in order."""
    cluster, client = bare
    path = os.pathsep.join(p for p in sys.path if p)
    shown = tmp_path / "terminal"
    with shown.open("wb") as terminal, scalable.instrument(client) as run:
        process = subprocess.Popen(
            [sys.executable, "-m", "distributed.cli.dask_worker", cluster.scheduler_address,
             "--nthreads", "1", "--no-dashboard", "--memory-limit", "0"],
            env={**os.environ, "PYTHONPATH": path},
            stdout=terminal,
            stderr=terminal,
        )  # fmt: skip
        try:
            client.wait_for_workers(1, timeout=60)
            client.submit(dying.talk, 500_000).result(timeout=120)
            os.kill(worker_pid(cluster), signal.SIGKILL)
            tasks.wait_until(lambda: run.flush() and lost(run.run_dir))
        finally:
            process.terminate()
            process.wait(60)
    lines = [line for line in shown.read_bytes().splitlines() if line.startswith(b"line ")]
    assert lines == [b"line %07d ............" % number for number in range(500_000)]
    # The nanny's next worker ends with it, by the signal to the nanny.
    details = certificates(run.run_dir)[0]
    assert details["signal"] == "SIGKILL"
    log = (run.run_dir / details["stderr_path"]).read_bytes()
    assert len(log) <= 10 * 2**20 + 200
    assert b"line 0000000 " in log
    assert b"line 0499999 " in log
    assert log.count(b" bytes left out ...]") == 1


def test_uninstrument_gives_the_descriptors_back(make_cluster):
    _, client = make_cluster(n_workers=1)
    before = client.run(dying.descriptors)
    run = scalable.instrument(client)
    during = client.run(dying.descriptors)
    run.close()
    assert client.run(dying.descriptors) == before
    assert all("pipe:" in target for found in during.values() for target in found.values())
    client.submit(dying.say, "after").result()


def helper_of(client: Client, address: str) -> psutil.Process:
    """The process that copies the output of the worker at `address`."""
    (path,) = client.run(lambda dask_worker: _log_of(dask_worker), workers=[address]).values()
    for process in psutil.process_iter(["cmdline"]):
        if any(argument.endswith(path) for argument in process.info["cmdline"] or ()):
            return process
    raise AssertionError(path)


def _log_of(worker) -> str:
    return str(worker.plugins["scalable"]._capture.log)


def test_a_killed_helper_costs_no_output_and_no_task(make_cluster, capfd):
    cluster, client = make_cluster(n_workers=1)
    with scalable.instrument(client):
        (address,) = cluster.scheduler.workers
        helper_of(client, address).kill()
        tasks.wait_until(
            lambda: not any("pipe:" in t for t in client.run(dying.descriptors)[address].values())
        )
        for number in range(200):
            client.submit(dying.say, f"still {number}", pure=False).result(timeout=30)
    shown = capfd.readouterr()
    assert all(f"still {number}\n" in shown.out + shown.err for number in range(200))


def test_what_user_code_has_put_in_place_stays(make_cluster, tmp_path):
    """Output that a task has redirected for good is not turned back."""
    _, client = make_cluster(n_workers=1)
    run = scalable.instrument(client)
    client.run(dying.redirect, str(tmp_path / "log"))
    during = client.run(dying.descriptors)
    run.close()
    after = client.run(dying.descriptors)
    assert all(found[1] == str(tmp_path / "log") for found in after.values())
    assert all("pipe:" in during[address][2] for address in during)
    assert all(after[address][2] != during[address][2] for address in during)


def test_no_process_of_ours_is_a_child_of_a_worker(make_cluster):
    _, client = make_cluster(n_workers=1)
    before = client.run(dying.children)
    with scalable.instrument(client):
        assert client.run(dying.children) == before
        assert client.submit(dying.wait_for_all_children, 3).result(timeout=60) == [0, 1, 2]
        client.submit(dying.say, "after").result()


def test_the_child_of_a_task_outlives_the_worker_and_writes_on(bare, tmp_path):
    """It keeps neither the worker's certificate nor its own words back."""
    cluster, client = bare
    gate = tmp_path / "speak"
    with (
        scalable.instrument(client) as run,
        shell_worker(cluster.scheduler_address, "--no-nanny") as process,
    ):
        client.wait_for_workers(1, timeout=60)
        client.submit(dying.leave_a_child, str(gate)).result(timeout=60)
        process.kill()
        try:
            tasks.wait_until(lambda: run.flush() and lost(run.run_dir))
        finally:
            gate.touch()
        assert "said by a child" in process.stderr.read()


def test_a_program_that_adopts_orphans_is_left_no_zombies(make_cluster):
    libc = ctypes.CDLL(None)
    libc.prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER, as an init process of a container
    try:
        cluster, client = make_cluster(n_workers=1)
        cluster.scheduler.allowed_failures = 0
        with scalable.instrument(client):
            (address,) = cluster.scheduler.workers
            helper = helper_of(client, address)
            assert helper.ppid() == os.getpid()
            with pytest.raises(KilledWorker):
                client.submit(dying.kill).result(timeout=60)
            tasks.wait_until(lambda: not psutil.pid_exists(helper.pid))
    finally:
        libc.prctl(36, 0, 0, 0, 0)
        for child in psutil.Process().children():
            if child.name() == tee.NAME:
                child.wait(60)


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_workers_that_are_forked_are_captured(make_cluster, method):
    """The first one before the run begins, the next one while it goes on."""
    with dask.config.set({"distributed.worker.multiprocessing-method": method}):
        cluster, client = make_cluster(n_workers=1)
        cluster.scheduler.allowed_failures = 0
        with scalable.instrument(client) as run:
            for number in (1, 2):
                with pytest.raises(KilledWorker):
                    client.submit(dying.kill, pure=False).result(timeout=60)
                tasks.wait_until(lambda number=number: len(lost(run.run_dir)) == number)
                client.wait_for_workers(1, timeout=60)
                tasks.wait_until(lambda: _is_watched(cluster, client))
            assert client.submit(abs, -1).result(timeout=60) == 1
    oracle.check_contract(run.run_dir)
    found = certificates(run.run_dir)
    assert [details["signal"] for details in found] == ["SIGKILL", "SIGKILL"]
    assert all("last words of kill" in details["stderr_tail"] for details in found)


# -- crashes that a library handles ----------------------------------------------------------------


def test_a_handler_that_was_there_before_is_not_replaced(make_cluster):
    cluster, client = make_cluster(n_workers=1)
    cluster.scheduler.allowed_failures = 0
    client.run(dying.handle_crashes)
    before = client.run(dying.crash_handlers)
    with scalable.instrument(client) as run:
        assert client.run(dying.crash_handlers) == before
        with pytest.raises(KilledWorker):
            client.submit(dying.segfault, pure=False).result(timeout=60)
    (details,) = certificates(run.run_dir)
    assert details["signal"] == "SIGABRT"
    assert "last words of segfault" in details["stderr_tail"]
    assert "Fatal Python error" not in details["stderr_tail"]
    assert any("stack" in said and "library" in said for said in details["not_known"])


def test_a_handler_that_came_after_is_not_removed(make_cluster, tmp_path):
    _, client = make_cluster(n_workers=1)
    before = client.run(dying.crash_handlers)
    scalable.instrument(client).close()
    assert client.run(dying.crash_handlers) == before
    run = scalable.instrument(client)
    client.run(dying.handle_crashes)
    during = client.run(dying.crash_handlers)
    run.close()
    assert client.run(dying.crash_handlers) == during


def test_stacks_that_user_code_asks_for_stay(make_cluster):
    _, client = make_cluster(n_workers=1)
    run = scalable.instrument(client)
    client.run(faulthandler.enable)
    run.close()
    assert set(client.run(faulthandler.is_enabled).values()) == {True}


# -- terminals -------------------------------------------------------------------------------------


@contextmanager
def terminal_worker(address: str, *streams: str) -> Iterator[tuple[subprocess.Popen, int, int]]:
    """A worker of which some streams are a terminal; its process and the terminal's two ends."""
    master, slave = os.openpty()
    termios.tcsetwinsize(slave, (40, 100))
    path = os.pathsep.join(p for p in sys.path if p)
    with subprocess.Popen(
        [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1",
         "--no-dashboard", "--memory-limit", "0", "--no-nanny"],
        env={**os.environ, "PYTHONPATH": path},
        **{stream: slave if stream in streams else subprocess.DEVNULL
           for stream in ("stdout", "stderr")},
    ) as process:  # fmt: skip
        try:
            yield process, master, slave
        finally:
            process.kill()
            process.wait()
            os.close(slave)
            os.close(master)


def shown(master: int, end: bytes) -> bytes:
    """What is on the screen, up to `end`."""
    seen = b""
    while end not in seen:
        seen += os.read(master, 65_536)
    return seen


@pytest.mark.parametrize("streams", [("stdout", "stderr"), ("stdout",), ("stderr",)])
def test_a_terminal_is_one_still(bare, streams):
    cluster, client = bare
    with terminal_worker(cluster.scheduler_address, *streams) as (process, master, slave):
        client.wait_for_workers(1, timeout=60)
        screens: list[bytes] = []

        def look() -> list[Any]:
            sizes = [client.submit(dying.terminal, n, pure=False).result() for n in (1, 2)]
            client.submit(dying.draw, pure=False).result()
            client.submit(os.write, 1 if "stdout" in streams else 2, b"end\n", pure=False).result()
            screens.append(shown(master, b"end\r\n"))
            return sizes

        before = look()
        assert (True, (100, 40)) in before
        with scalable.instrument(client) as run:
            screens.clear()
            assert look() == before
            recorded = screens.pop()
            termios.tcsetwinsize(slave, (50, 120))
            # Nobody tells a process in the background.
            tasks.wait_until(lambda: (True, (120, 50)) in look())
            client.submit(dying.kill)
            assert process.wait(60) == -signal.SIGKILL
            tasks.wait_until(lambda: run.flush() and lost(run.run_dir))
            if "stderr" in streams:
                shown(master, b"last words of kill\r\n")
    (details,) = certificates(run.run_dir)
    assert "last words of kill" in details["stderr_tail"]
    if streams == ("stdout", "stderr"):
        assert (
            b"".join(
                b"\rstep %d \x1b[32mgreen\x1b[0m\r\nresult %d\t\r\r\n" % (n, n) for n in range(3)
            )
            in recorded
        )


def test_a_worker_in_this_process_is_never_touched(make_cluster):
    before = dying.descriptors()
    _, client = make_cluster(n_workers=2, processes=False)
    with scalable.instrument(client) as run:
        client.submit(dying.say, "here").result()
        assert dying.descriptors() == before
    assert not (run.run_dir / "logs").exists()


# -- the program's own end -------------------------------------------------------------------------

DRIVER = """
    import os, signal
    from distributed import Client, LocalCluster
    import scalable
    from cluster import tasks
    from pathlib import Path

    if __name__ == "__main__":
        notes = Path("notes"); notes.mkdir()
        cluster = LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0")
        client = Client(cluster)
        run = scalable.instrument(client, runs_dir="runs")
        future = client.submit(tasks.hold, str(notes), "gate", key="held")
        tasks.wait_for_notes(notes, 1)
        run.flush()
        while not any('"running"' in line for line in open(run.run_dir / "tasks.jsonl")):
            run.flush()
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_program_is_diagnosed_from_outside(tmp_path):
    script = tmp_path / "driver.py"
    script.write_text(textwrap.dedent(DRIVER))
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(p for p in sys.path if p))
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, env=environment, timeout=120)
    assert done.returncode == -signal.SIGKILL
    diagnosis = diagnose_run(runs_dir=tmp_path / "runs")
    assert diagnosis.status == "lost"
    finding = diagnosis.findings[0]
    assert (finding.severity, finding.category) == ("critical", "unfinished")
    assert finding.evidence.task_ids == ("held",)
    (run_dir,) = (tmp_path / "runs").iterdir()
    assert json.loads((run_dir / "run.json").read_text())["status"] == "running"


def test_logs_are_sent_as_workers_die(make_cluster):
    """The whole way: a death, its certificate, its log, a server on loopback."""
    taken: dict[str, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            port = self.server.server_address[1]
            self._answer({"url": f"http://127.0.0.1:{port}/{asked['workerId']}/{asked['cause']}"})

        def do_PUT(self) -> None:
            taken[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
            self._answer({})

        def _answer(self, document: dict[str, Any]) -> None:
            body = json.dumps(document).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    cluster, client = make_cluster(n_workers=1)
    cluster.scheduler.allowed_failures = 0
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        url = f"http://127.0.0.1:{server.server_address[1]}/"
        with scalable.instrument(client, crash_upload=url) as run:
            with pytest.raises(KilledWorker):
                client.submit(dying.segfault).result(timeout=60)
        server.shutdown()
        thread.join()
    assert list(taken) == ["/0/segfault"]
    assert b"last words of segfault\n" in taken["/0/segfault"]
    (line,) = oracle.read(run.run_dir, "uploads.jsonl")
    assert (line["outcome"], line["cause"]) == ("uploaded", "segfault")


def test_a_worker_that_gives_up_before_it_came_is_no_death(make_cluster):
    """`--death-timeout`: the scheduler never heard of it, and the run invents nothing."""
    _, client = make_cluster(n_workers=1)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{nobody.getsockname()[1]}"
        command = [sys.executable, "-m", "distributed.cli.dask_worker", address]
        options = ["--death-timeout", "1s", "--no-dashboard", "--nthreads", "1"]
        with scalable.instrument(client) as run:
            done = subprocess.run(
                [*command, *options], stderr=subprocess.DEVNULL, timeout=90, check=False
            )
            assert client.submit(abs, -1).result() == 1
    assert done.returncode != 0
    assert certificates(run.run_dir) == []
    assert lost(run.run_dir) == []
