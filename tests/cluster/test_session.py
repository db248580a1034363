"""Sessions on real clusters: started from a manifest, recorded, ended whatever happens."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import dask
import pytest
from distributed import Client, LocalCluster, as_completed, wait

import scalable
from cluster import session_tasks as tasks
from scalable import ScalableSession, SessionError, StartError, TagError, current_session
from scalable_runs import schema
from scalable_runs.reader import RunReader, find_runs

TWELVE = {
    *schema.JOURNALS,
    schema.MANIFEST,
    schema.PLAN,
    schema.LOCK,
    schema.RUN,
    schema.SUMMARY,
}

MANIFEST = """\
version: 1
project: {name: demo}
targets:
  processes: {provider: local, max_workers: 2, start_timeout: 60}
  threads: {provider: local, max_workers: 2, threads_per_worker: 2, processes: false}
  groups: {provider: local, workers: {analysis: 1, io: 1}, processes: false}
  nobody: {provider: existing, address: 'tcp://127.0.0.1:1', start_timeout: 0.5}
components:
  analysis: {cpus: 1, memory: 1G, tags: [ana], walltime: 01:00:00}
  io: {cpus: 2, memory: 2G}
tasks:
  simulate: {component: io, cache: true}
  shout: {component: analysis}
telemetry: {close_timeout: 8}
"""


@pytest.fixture(autouse=True)
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "scalable.yaml"
    path.write_text(MANIFEST)
    return path


def records(session: ScalableSession, file: str) -> list[dict[str, Any]]:
    assert session.run_dir is not None
    return [dict(record) for record in RunReader(session.run_dir).records(file)]


def last_states(session: ScalableSession) -> dict[str, dict[str, Any]]:
    return {record["task_id"]: record for record in records(session, schema.TASKS)}


def files_of(session: ScalableSession) -> set[str]:
    assert session.run_dir is not None
    return {path.name for path in session.run_dir.iterdir()}


def run_document(session: ScalableSession) -> dict[str, Any]:
    assert session.run_dir is not None
    return json.loads((session.run_dir / schema.RUN).read_text())


# -- the twelve files -----------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["processes", "threads"])
def test_a_session_leaves_twelve_files(target: str, tmp_path: Path):
    session = ScalableSession.from_yaml(target=target)
    client = session.start()
    assert session.start() is client
    assert current_session() is session
    futures = [client.submit(tasks.double, i, tag="analysis") for i in range(20)]
    pids = set(client.gather(client.map(tasks.tell, [str(tmp_path)] * 4, range(4), tag="ana")))
    assert client.gather(futures) == [2 * i for i in range(20)]
    (tmp_path / "output.csv").write_text("a,b\n")
    session.record_artifact("output.csv", kind="result")
    session.record_artifact(task_name="all", artifact_name="out", location="output.csv")
    session.record_metric("score", 0.5)
    session.close()
    session.close()

    assert session.run_dir is not None
    assert files_of(session) >= TWELVE
    assert session.status == "completed"
    assert current_session() is None
    document = run_document(session)
    assert (document["target_name"], document["provider_name"]) == (target, "local")
    assert document["source_manifest_path"] == str(tmp_path / "scalable.yaml")
    assert document["manifest_lock"] == session.manifest.lock
    assert document["status"] == "completed"
    assert document["telemetry"]["errors"] == {}
    assert (session.run_dir / schema.MANIFEST).read_text() == MANIFEST
    assert (session.run_dir / schema.LOCK).read_text() == f"{session.manifest.lock}\n"
    plan = json.loads((session.run_dir / schema.PLAN).read_text())
    (group,) = plan["workers"]
    assert (group["workers"], group["components"]) == (2, ["analysis", "io"])

    doubled = [r for r in last_states(session).values() if r["task_name"] == "double"]
    assert len(doubled) == 20
    assert {(r["state"], r["component"], r["tag"], r["requested_workers"]) for r in doubled} == {
        ("succeeded", "analysis", "analysis", 1)
    }
    usage = [r for r in records(session, schema.RESOURCES) if r.get("component") == "analysis"]
    assert {
        (r["requested_cpus"], r["requested_memory"], r["requested_walltime"])
        for r in usage
        if r["entity_type"] == "task"
    } == {(1.0, "1G", "01:00:00")}

    told = {r["task_id"]: r for r in records(session, schema.ARTIFACTS) if "task_id" in r}
    assert len(told) == 4
    spans = {r["task_id"]: r["span_id"] for r in last_states(session).values()}
    for key, record in told.items():
        content = Path(record["location"]).read_bytes()
        assert record["digest"] == f"sha256:{hashlib.sha256(content).hexdigest()}"
        assert record["size_bytes"] == len(content)
        assert record["tag"] == "ana"
        assert record["span_id"] == spans[key]
    own = [r for r in records(session, schema.ARTIFACTS) if "task_id" not in r]
    assert [(r["artifact_name"], r.get("kind"), r.get("task_name")) for r in own] == [
        ("output.csv", "result", None),
        ("out", None, "all"),
    ]
    points = [r for r in records(session, schema.METRICS) if r["name"] in ("loss", "score")]
    assert sorted(r["value"] for r in points) == sorted([1.0, 0.5, 1 / 3, 0.25, 0.5])
    estimate, *costs = records(session, schema.COST)
    assert estimate["metadata"]["estimate"] is True
    assert [(r["total_hourly"], r["currency"]) for r in costs] == [(0.25, "EUR")] * 4
    assert (os.getpid() in pids) == (target == "threads")
    assert client.status == "closed"
    assert session.cluster.status.name == "closed"


def test_two_kinds_of_workers_serve_their_own_component():
    with ScalableSession.from_yaml(target="groups") as session:
        client = session.client
        assert client is not None
        info = client.scheduler_info(n_workers=-1)["workers"]
        assert sorted(json.dumps(worker["resources"]) for worker in info.values()) == [
            '{"analysis": 1.0}',
            '{"io": 1.0}',
        ]
        where = {name: address for address, w in info.items() for name in w["resources"]}
        futures = client.map(tasks.double, range(6), tag="io")
        client.gather(futures)
        assert {a for ws in client.who_has(futures).values() for a in ws} == {where["io"]}
    ready = [r for r in records(session, schema.WORKERS) if r["state"] == "ready"]
    assert sorted(r["component"] for r in ready) == ["analysis", "io"]


# -- tags -----------------------------------------------------------------------------------------


def test_a_tag_that_no_worker_can_serve_is_an_error_at_once():
    with ScalableSession.from_yaml(target="threads") as session:
        client = session.client
        assert client is not None
        with pytest.raises(TagError, match=r"no worker serves the tag 'analyis'; did you mean"):
            client.submit(tasks.double, 1, tag="analyis")
        with pytest.raises(TagError, match=r"add `tags: \[gpu\]` to a component in .*yaml:9"):
            client.submit(tasks.double, 1, tag="gpu")
        with pytest.raises(TagError, match=r"tags: ana, analysis, io"):
            client.map(tasks.double, [1], tag="gpu")
        with pytest.raises(TagError, match=r"n=3: no worker serves more than 2"):
            client.submit(tasks.double, 1, tag="io", n=3)
        with pytest.raises(TagError, match="n cannot be 0"):
            client.submit(tasks.double, 1, tag="io", n=0)
        assert client.submit(tasks.double, 4, tag="io", n=2).result() == 8
        # Without a tag everything is Dask's, the function's own n too.
        assert client.submit(tasks.with_n, 4, n=3).result() == 7
        assert sum(client.gather(client.map(tasks.double, [1, 2]))) == 6
        assert dask.delayed(tasks.double)(5).compute() == 10


def test_what_the_manifest_says_of_a_function_holds_wherever_it_is_submitted(tmp_path: Path):
    calls = tmp_path / "calls"
    with ScalableSession.from_yaml(target="threads") as session:
        client = session.client
        assert client is not None
        for _ in range(2):
            future = client.submit(tasks.simulate, 1, str(calls), pure=False)
            assert future.key.startswith("simulate-")
            assert future.result() == 2
    assert calls.stat().st_size == 1
    assert [r["hit"] for r in records(session, schema.CACHE)] == [False, True]
    assert {r["component"] for r in records(session, schema.TASKS)} == {"io"}


# -- beginnings that fail -------------------------------------------------------------------------


def test_a_start_that_fails_is_a_failed_run_and_leaves_nothing_running():
    session = ScalableSession.from_yaml(target="nobody")
    with pytest.raises(StartError, match="the session did not start"):
        session.start()
    assert session.status == "failed"
    assert session.run_dir is not None
    assert files_of(session) >= TWELVE
    (failure,) = records(session, schema.FAILURES)
    assert failure["details"]["phase"] == "session.start"
    assert failure["failure_class"] == "OSError"
    assert run_document(session)["status"] == "failed"
    with pytest.raises(SessionError, match="a session is started once"):
        session.start()


def test_workers_that_do_not_come_in_time_fail_the_start(manifest: Path):
    with LocalCluster(n_workers=0, processes=False, dashboard_address=":0") as cluster:
        manifest.write_text(MANIFEST.replace("tcp://127.0.0.1:1", cluster.scheduler_address))
        session = ScalableSession.from_yaml(target="nobody")
        with pytest.raises(StartError, match="0/1 workers"):
            session.start()
        (failure,) = records(session, schema.FAILURES)
        assert failure["details"]["phase"] == "session.start"
        assert "scalable" not in cluster.scheduler.extensions
    assert run_document(session)["status"] == "failed"


def test_a_missing_package_is_an_error_with_the_extra(
    manifest: Path, monkeypatch: pytest.MonkeyPatch
):
    manifest.write_text("version: 1\nproject: {name: x}\ntargets: {hpc: {provider: slurm}}\n")
    monkeypatch.setitem(sys.modules, "dask_jobqueue", None)
    with pytest.raises(StartError, match=r"pip install 'scalable-otel\[slurm\]'"):
        ScalableSession.from_yaml().start()


SLURM = """\
version: 1
project: {name: x}
targets: {hpc: {provider: slurm, interface: lo, local_directory: spill, job_cpu: 2}}
components: {analysis: {cpus: 1, memory: 1G}}
"""


def test_a_machine_without_sbatch_is_reported_before_anything_starts(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    manifest.write_text(SLURM)
    monkeypatch.setenv("PATH", str(tmp_path))
    session = ScalableSession.from_yaml()
    with pytest.raises(StartError, match="sbatch is not on the PATH of this machine"):
        session.start()
    assert session.cluster is None
    (failure,) = records(session, schema.FAILURES)
    assert failure["failure_class"] == "ProviderError"
    assert failure["details"]["phase"] == "session.start"


@pytest.fixture
def log_levels() -> Iterator[None]:
    """Restore the levels of log handlers, which dask-jobqueue leaves changed after an error."""
    levels = [(handler, handler.level) for handler in logging.root.handlers]
    yield
    for handler, level in levels:
        handler.setLevel(level)


@pytest.mark.usefixtures("log_levels")
def test_a_job_refused_by_slurm_ends_the_start_with_the_reason(manifest: Path, tmp_path: Path):
    manifest.write_text(SLURM)
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text(
        "#!/bin/sh\necho 'sbatch: error: invalid partition specified: x' >&2\nexit 1\n"
    )
    sbatch.chmod(0o755)
    session = ScalableSession.from_yaml()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{sbatch.parent}:{os.environ['PATH']}")
        with pytest.raises(StartError, match="invalid partition specified: x"):
            session.start()
    (failure,) = records(session, schema.FAILURES)
    assert (failure["failure_class"], failure["details"]["phase"]) == (
        "ProviderError",
        "session.start",
    )


# -- ends -----------------------------------------------------------------------------------------


def test_an_exception_in_the_block_fails_the_run():
    session = ScalableSession.from_yaml(target="threads")
    with pytest.raises(ZeroDivisionError), session:
        raise ZeroDivisionError("by the block")
    (failure,) = records(session, schema.FAILURES)
    assert failure["details"]["phase"] == "session.context"
    assert failure["failure_class"] == "ZeroDivisionError"
    assert session.status == run_document(session)["status"] == "failed"


def test_ctrl_c_in_the_block_cancels_the_run():
    session = ScalableSession.from_yaml(target="threads")
    with pytest.raises(KeyboardInterrupt), session:
        raise KeyboardInterrupt
    assert session.status == "cancelled"
    assert records(session, schema.FAILURES) == []


def test_every_step_of_closing_happens_even_if_one_before_fails(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("SCALABLE_TELEMETRY_PARQUET", "1")
    session = ScalableSession.from_yaml(target="threads")
    client: Any = session.start()
    client.submit(tasks.double, 1).result()
    close = client.close

    def broken(*args: Any, **kwargs: Any) -> None:
        close()
        raise RuntimeError("no way")

    client.close = broken
    session.close()
    client.close = close
    assert session.status == "failed"
    (failure,) = records(session, schema.FAILURES)
    assert (failure["details"]["phase"], failure["message"]) == ("session.close", "no way")
    assert session.cluster.status.name == "closed"
    assert session.run_dir is not None
    assert (session.run_dir / schema.SUMMARY).exists()
    assert (session.run_dir / "tasks.parquet").exists()
    assert current_session() is None


def test_parquet_snapshots_hold_what_the_journals_hold(monkeypatch: pytest.MonkeyPatch):
    import pyarrow.parquet

    monkeypatch.setenv("SCALABLE_TELEMETRY_PARQUET", "1")
    with ScalableSession.from_yaml(target="threads") as session:
        assert session.client is not None
        session.client.gather(session.client.map(tasks.double, range(5), tag="io"))
    assert session.run_dir is not None
    for journal in (schema.TASKS, schema.WORKERS, schema.COST):
        table = pyarrow.parquet.read_table(session.run_dir / f"{Path(journal).stem}.parquet")
        rows = records(session, journal)
        assert table.column("seq").to_pylist() == [row["seq"] for row in rows]
        assert table.column("timestamp").to_pylist() == [
            datetime.fromisoformat(row["timestamp"]) for row in rows
        ]
    assert not (session.run_dir / "failures.parquet").exists()


LEFT_OPEN = """\
import sys
import scalable
from distributed import Client

if __name__ == "__main__":
    if sys.argv[1] == "session":
        session = scalable.ScalableSession.from_yaml(target="threads")
        client = session.start()
    else:
        client = Client(processes=False, n_workers=1, dashboard_address=":0")
        scalable.instrument(client)
    client.submit(sum, [1, 2]).result()
"""


@pytest.mark.parametrize("way", ["session", "client"])
def test_parquet_copies_are_written_when_the_program_ends(way: str, tmp_path: Path):
    import pyarrow.parquet

    (tmp_path / "left.py").write_text(LEFT_OPEN)
    done = subprocess.run(
        [sys.executable, "left.py", way],
        env={**os.environ, "SCALABLE_TELEMETRY_PARQUET": "yes"},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert "scalable" not in done.stderr
    (run,) = find_runs(tmp_path / ".scalable" / "runs")
    assert run.status == "completed"
    table = pyarrow.parquet.read_table(run.path / "tasks.parquet")
    assert table.column("seq").to_pylist() == [r["seq"] for r in run.records(schema.TASKS)]


def test_nonsense_for_parquet_is_an_error_before_anything_starts(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SCALABLE_TELEMETRY_PARQUET", "maybe")
    with pytest.raises(scalable.OptionError, match="SCALABLE_TELEMETRY_PARQUET cannot be 'maybe'"):
        ScalableSession.from_yaml(target="threads")


def test_what_cannot_be_done_at_the_end_is_an_error_at_the_start(monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "pyarrow", None)
        with pytest.raises(scalable.OptionError, match=r"pip install 'scalable-otel\[parquet\]'"):
            ScalableSession.from_yaml(target="threads", parquet=True)
    with pytest.raises(scalable.OptionError, match="a path on this machine"):
        ScalableSession.from_yaml(target="threads", runs_dir="s3://bucket/runs")


KILLED = """\
import sys
from scalable import ScalableSession
from cluster import session_tasks as tasks

if __name__ == "__main__":
    session = ScalableSession.from_yaml(target="processes")
    client = session.start()
    client.submit(tasks.double, 1).result()
    future = client.submit(tasks.wait_for, "never")
    print(session.run_dir, flush=True)
    future.result()
"""


def test_a_script_killed_before_close_is_a_lost_run_that_shows_what_ran(tmp_path: Path):
    (tmp_path / "killed.py").write_text(KILLED)
    path = os.pathsep.join([*sys.path, os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, "killed.py"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        run_dir = Path(process.stdout.readline().strip())
        wait_until(lambda: '"running"' in _of_task(run_dir, "wait_for"))
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
    reader = RunReader(run_dir)
    assert reader.status == "lost"
    states = {r["task_name"]: r["state"] for r in reader.records(schema.TASKS)}
    assert states == {"double": "succeeded", "wait_for": "running"}


def _of_task(run_dir: Path, name: str) -> str:
    lines = (run_dir / schema.TASKS).read_text().splitlines()
    return "".join(line for line in lines if name in line)


def wait_until(condition: Any, seconds: float = 60.0) -> None:
    ended = threading.Event()
    for _ in range(int(seconds / 0.02)):
        if condition():
            return
        ended.wait(0.02)
    raise AssertionError("it did not happen")


def test_sessions_one_after_another_and_two_at_a_time():
    with ScalableSession.from_yaml(target="threads") as first:
        pass
    with ScalableSession.from_yaml(target="threads") as one:
        with ScalableSession.from_yaml(target="groups") as other:
            assert one.client is not None
            assert other.client is not None
            a = one.client.map(tasks.double, range(5), tag="io")
            b = other.client.map(tasks.double, range(7), tag="io")
            assert sum(one.client.gather(a)) == 20
            assert sum(other.client.gather(b)) == 42
            one.record_metric("which", 1)
            other.record_metric("which", 2)
            scalable.record_metric("own", 3)
        assert current_session() is one
    assert len(find_runs(Path(".scalable/runs"))) == 3
    assert [len(last_states(s)) for s in (first, one, other)] == [0, 5, 7]
    values = [
        [r["value"] for r in records(s, schema.METRICS) if r["name"] in ("which", "own")]
        for s in (one, other)
    ]
    assert values == [[1], [2, 3]]


def test_an_asynchronous_session():
    async def main() -> ScalableSession:
        async with ScalableSession.from_yaml(target="threads") as session:
            client: Any = session.client
            futures = [client.submit(tasks.double, i, tag="io") for i in range(5)]
            assert await client.gather(futures) == [0, 2, 4, 6, 8]
        return session

    session = asyncio.run(main())
    assert session.status == "completed"
    assert {r["state"] for r in last_states(session).values()} == {"succeeded"}


def test_telemetry_switched_off_records_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SCALABLE_TELEMETRY", "off")
    with ScalableSession.from_yaml(target="threads") as session:
        assert session.client is not None
        assert session.client.submit(tasks.double, 2, tag="io").result() == 4
        session.record_metric("m", 1)
    assert session.run_dir is None
    assert not Path(".scalable/runs").exists()


# -- an existing cluster --------------------------------------------------------------------------


def test_a_session_on_an_existing_cluster_leaves_it_as_it_was(manifest: Path):
    with LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0"
    ) as cluster:
        manifest.write_text(MANIFEST.replace("tcp://127.0.0.1:1", cluster.scheduler_address))
        with ScalableSession.from_yaml(target="nobody") as session:
            assert session.client is not None
            # Its workers know nothing of components: tags are recorded and bind to nothing.
            assert session.client.submit(tasks.double, 2, tag="io", n=5).result() == 4
        assert "scalable" not in cluster.scheduler.extensions
        with Client(cluster) as client:
            assert client.submit(tasks.double, 3).result() == 6
    (task,) = last_states(session).values()
    assert (task["state"], task["component"], task["requested_workers"]) == ("succeeded", "io", 5)


def test_workers_that_offer_a_component_serve_its_tasks(manifest: Path):
    with LocalCluster(
        n_workers=1, processes=False, dashboard_address=":0", resources={"io": 2}
    ) as cluster:
        path = Path("scheduler.json")
        path.write_text(json.dumps({"address": cluster.scheduler_address}))
        manifest.write_text(
            MANIFEST.replace("address: 'tcp://127.0.0.1:1'", "scheduler_file: scheduler.json")
        )
        with ScalableSession.from_yaml(target="nobody") as session:
            assert session.client is not None
            assert session.client.submit(tasks.double, 2, tag="io", n=2).result() == 4
            with pytest.raises(TagError, match="n=3: no worker serves more than 2"):
                session.client.submit(tasks.double, 2, tag="io", n=3)
            with pytest.raises(TagError, match="tags: io"):
                session.client.submit(tasks.double, 2, tag="analysis")


# -- patterns -------------------------------------------------------------------------------------


@pytest.fixture
def session() -> Any:
    with ScalableSession.from_yaml(target="threads") as opened:
        yield opened


@pytest.mark.filterwarnings("ignore")
def test_gather_raises_the_first_error_and_the_rest_is_recorded(session: ScalableSession):
    client = session.client
    assert client is not None
    futures = [client.submit(tasks.fails_for, i, (3,), tag="io") for i in range(6)]
    with pytest.raises(ValueError, match="bad number 3"):
        client.gather(futures)
    assert client.gather(futures, errors="skip") == [0, 1, 2, 4, 5]
    session.close()
    states = [r["state"] for r in last_states(session).values()]
    assert sorted(states) == ["failed"] + ["succeeded"] * 5


def test_as_completed_with_17_succeeded_and_3_failed_of_20(session: ScalableSession):
    client = session.client
    assert client is not None
    futures = [client.submit(tasks.fails_for, i, (4, 9, 14), tag="analysis") for i in range(20)]
    outcomes = [future.status for future in as_completed(futures)]
    assert (outcomes.count("finished"), outcomes.count("error")) == (17, 3)
    session.close()
    assert session.run_dir is not None
    counts = json.loads((session.run_dir / schema.SUMMARY).read_text())["counts"]
    assert (counts["tasks_succeeded"], counts["tasks_failed"]) == (17, 3)
    assert {r["failure_class"] for r in records(session, schema.FAILURES)} == {"ValueError"}


def test_retry_with_backoff_is_one_record_an_attempt(session: ScalableSession, tmp_path: Path):
    client = session.client
    assert client is not None
    future = client.submit(tasks.fails_until, str(tmp_path / "n"), 2, retries=3, tag="io")
    assert future.result() == 3
    # And by hand: a new task each time, with a growing pause between them.
    for attempt in range(4):
        again = client.submit(tasks.fails_until, str(tmp_path / "m"), 2, pure=False, tag="io")
        try:
            assert again.result() == 3
            break
        except ConnectionError:
            threading.Event().wait(0.01 * 2**attempt)
    session.close()
    states = [r["state"] for r in records(session, schema.TASKS) if r["task_id"] == future.key]
    assert states.count("retried") == 2
    assert states[-1] == "succeeded"
    assert len(records(session, schema.FAILURES)) == 4


def test_what_failed_is_run_again_when_it_is_submitted_again(
    session: ScalableSession, tmp_path: Path
):
    """A retry loop of the user's own, with the futures that failed still held."""
    client = session.client
    assert client is not None
    counter = tmp_path / "counter"
    held = []
    for _ in range(5):
        future = client.submit(tasks.fails_until, str(counter), 2)
        held.append(future)
        try:
            assert future.result(60) == 3
            break
        except ConnectionError:
            continue
    assert len(counter.read_text()) == 3
    assert len(held) == 3
    session.close()
    states = [r["state"] for r in records(session, schema.TASKS)]
    assert states.count("running") == 3
    assert states[-1] == "succeeded"


def test_a_map_that_cannot_run_again_what_failed_is_reported(
    session: ScalableSession, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    client = session.client
    assert client is not None
    counters = [str(tmp_path / name) for name in "ab"]
    held = client.map(tasks.fails_until, counters, [3, 0])
    wait(held)
    assert "had failed before" not in caplog.text
    again = client.map(tasks.fails_until, counters, [3, 0])
    wait(again)
    assert [future.status for future in again] == ["error", "finished"]
    (said,) = [m for m in caplog.messages if "had failed before" in m]
    assert "1 task of this call had failed before and is not run again" in said


def test_an_asynchronous_client_runs_again_what_failed(tmp_path: Path):
    async def main() -> None:
        async with ScalableSession.from_yaml(target="threads") as session:
            client: Any = session.client
            counter = str(tmp_path / "counter")
            first = client.submit(tasks.fails_until, counter, 1)
            with pytest.raises(ConnectionError):
                await first
            assert await client.submit(tasks.fails_until, counter, 1) == 2

    asyncio.run(main())


def test_records_before_the_start_are_an_error_and_after_the_end_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    (tmp_path / "output.csv").write_text("a,b\n")
    session = ScalableSession.from_yaml(target="threads")
    for record in (
        lambda: session.record_artifact("output.csv", kind="result"),
        lambda: session.record_metric("score", 1.0),
        lambda: session.record_cost(1.2),
    ):
        with pytest.raises(SessionError, match=r"the session is not started.*after start\(\)"):
            record()
    session.start()
    session.close()
    session.record_metric("score", 1.0)
    assert "the session is closed: the metric is not recorded" in caplog.text


def test_a_timeout_and_a_cancellation(session: ScalableSession, tmp_path: Path):
    client = session.client
    assert client is not None
    future = client.submit(tasks.wait_for, str(tmp_path / "go"), tag="io")
    with pytest.raises(asyncio.TimeoutError):
        future.result(timeout=0.05)
    future.cancel()
    (tmp_path / "go").touch()
    wait_until(lambda: future.status == "cancelled")
    session.close()
    assert [r["state"] for r in last_states(session).values()] == ["cancelled"]


def test_a_fault_tolerant_pipeline_in_batches(tmp_path: Path):
    calls = tmp_path / "calls"
    batches = [tuple(range(i, i + 5)) for i in range(0, 20, 5)]
    totals: list[list[int]] = []
    for _ in range(2):
        with ScalableSession.from_yaml(target="threads") as session:
            assert session.client is not None
            done = session.client.map(tasks.batch, batches, calls=str(calls), tag="io")
            totals.append(session.client.gather(done))
    assert totals[0] == totals[1] == [sum(one) for one in batches]
    assert calls.stat().st_size == 4
    assert [r["hit"] for r in records(session, schema.CACHE)] == [True] * 4
    assert session.run_dir is not None
    summary = json.loads((session.run_dir / schema.SUMMARY).read_text())
    assert summary["cache"]["hit_ratio"] == 1.0


def test_resuming_from_the_tasks_of_an_earlier_run():
    def submit_all(client: Any, numbers: list[int], bad: tuple[int, ...]) -> list[Any]:
        return [client.submit(tasks.fails_for, i, bad, tag="io", key=f"step-{i}") for i in numbers]

    with ScalableSession.from_yaml(target="threads") as first:
        futures = submit_all(first.client, list(range(8)), (2, 5))
        for future in as_completed(futures):
            assert future.status in ("finished", "error")
    finished = {k for k, r in last_states(first).items() if r["state"] == "succeeded"}
    todo = [i for i in range(8) if f"step-{i}" not in finished]
    assert todo == [2, 5]
    with ScalableSession.from_yaml(target="threads") as second:
        assert second.client is not None
        assert second.client.gather(submit_all(second.client, todo, ())) == todo
    assert set(last_states(second)) == {"step-2", "step-5"}


def test_a_health_check_by_scheduler_info(session: ScalableSession):
    assert session.client is not None
    info = session.client.scheduler_info(n_workers=-1)
    assert len(info["workers"]) == 2
    offered = [worker["resources"] for worker in info["workers"].values()]
    assert offered == [{"analysis": 2, "io": 2}] * 2


# -- the cache in worker processes ----------------------------------------------------------------


def test_the_cache_is_shared_by_processes_and_runs(tmp_path: Path):
    calls, source = tmp_path / "calls", tmp_path / "in.txt"
    source.write_text("quiet")
    with ScalableSession.from_yaml(target="processes") as session:
        client = session.client
        assert client is not None
        squares = client.map(tasks.slow_square, [1, 2, 1, 2], calls=str(calls), pure=False)
        assert client.gather(squares) == [1, 4, 1, 4]
        place = client.submit(tasks.shout, str(source), str(tmp_path / "out.txt")).result()
        assert Path(place).read_text() == "QUIET"
        Path(place).unlink()
        again = client.submit(tasks.shout, str(source), str(tmp_path / "out.txt"), pure=False)
        assert Path(again.result()).read_text() == "QUIET"
    assert 2 <= calls.stat().st_size <= 4
    looked_up = records(session, schema.CACHE)
    assert len(looked_up) == 6
    assert all(r["task_id"] and r["key_digest"] and r["duration_s"] >= 0 for r in looked_up)
    assert [r["hit"] for r in looked_up if "shout" in r["function_name"]] == [False, True]
