"""A session whose workers are jobs of a real Slurm."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

from cluster import session_tasks as tasks
from scalable import ScalableSession, diagnose_run
from scalable_runs import schema
from scalable_runs.reader import RunReader
from servers.harness import Slurm

MANIFEST = f"""\
version: 1
project: {{name: demo}}
targets:
  laptop: {{provider: local}}
  hpc:
    provider: slurm
    queue: short
    walltime: 00:05:00
    interface: lo
    max_workers: 1
    start_timeout: 120
    python: {sys.executable}
    env: {{PYTHONPATH: "{{path}}"}}
components:
  analysis: {{cpus: 1, memory: 256MiB, tags: [ana], walltime: 00:02:00}}
"""


def test_the_workers_of_a_session_are_jobs_of_slurm(slurm: Slurm, tmp_path: Path):
    path = ":".join(entry for entry in sys.path if entry)
    (tmp_path / "scalable.yaml").write_text(MANIFEST.replace("{path}", path))
    with ScalableSession.from_yaml(target="hpc") as session:
        client = session.client
        assert client is not None
        assert len(slurm.jobs()) == 1
        futures = client.map(tasks.double, range(10), tag="ana")
        assert sum(client.gather(futures)) == 90
        client.submit(tasks.tell, str(tmp_path), 3, tag="analysis").result()
    assert session.status == "completed"
    assert session.run_dir is not None
    run = RunReader(session.run_dir)
    assert run.document["provider_name"] == "slurm"
    states = [dict(record) for record in run.records(schema.TASKS)]
    doubled = [r for r in states if r["task_name"] == "double" and r["state"] == "succeeded"]
    assert {(r["component"], r["tag"]) for r in doubled} == {("analysis", "ana")}
    (artifact,) = run.records(schema.ARTIFACTS)
    assert artifact["task_name"] == "tell"
    ready = [r for r in run.records(schema.WORKERS) if r["state"] == "ready"]
    assert [(r["provider"], r["component"]) for r in ready] == [("slurm", "analysis")]


def test_a_job_that_meets_its_time_limit_is_named_walltime(slurm: Slurm, tmp_path: Path):
    path = ":".join(entry for entry in sys.path if entry)
    # A minute is the least that Slurm takes; some seconds later it ends the job.
    manifest = MANIFEST.replace("{path}", path).replace("00:05:00", "00:01:00")
    (tmp_path / "scalable.yaml").write_text(manifest.replace(", walltime: 00:02:00", ""))
    with ScalableSession.from_yaml(target="hpc") as session:
        client = session.client
        assert client is not None
        go = tmp_path / "go"
        future = client.submit(tasks.wait_for, str(go), tag="ana", key="waits")
        assert session.run_dir is not None
        lost = _lost_worker(session.run_dir)
        go.touch()
        future.cancel()
    (failure,) = (
        record
        for record in RunReader(session.run_dir).records(schema.FAILURES)
        if record["failure_class"] == "WorkerLost"
    )
    assert lost["details"]["reason"]
    assert failure["details"]["cause"] == "walltime"
    assert failure["details"]["tasks"] == ["waits"]
    assert -60 < failure["details"]["time_left_s"] < 30
    (finding,) = (f for f in diagnose_run(session.run_dir).findings if f.category == "walltime")
    assert "waits" in finding.evidence.task_ids


def _lost_worker(run_dir: Path) -> dict[str, object]:
    """The `lost` line of the run, once it is there."""
    deadline = time.monotonic() + 150
    while time.monotonic() < deadline:
        for record in RunReader(run_dir).records(schema.WORKERS):
            if record["state"] in ("lost", "removed"):
                return dict(record)
        threading.Event().wait(0.5)
    raise AssertionError("no worker left within 150 s")
