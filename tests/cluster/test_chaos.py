"""The driver killed at random moments: what was recorded survives, and little is missing."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from datetime import datetime
from pathlib import Path

import pytest

from cluster import oracle
from scalable_runs.reader import resolve_run
from scalable_runs.schema import JOURNALS

KILLS = int(os.environ.get("CHAOS_N", "20"))
#: What may be missing after a SIGKILL, in seconds before it.
BOUND = 0.5

DRIVER = """
    import sys
    from pathlib import Path
    from distributed import Client, LocalCluster, as_completed
    import scalable
    from cluster import tasks

    notes = Path("notes"); notes.mkdir()
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=False,
                      dashboard_address=":0") as cluster, Client(cluster) as client:
        with scalable.instrument(client, runs_dir="runs"):
            print("ready", flush=True)
            number = 0
            pending = as_completed([client.submit(tasks.nap, str(notes), i) for i in range(8)])
            for done in pending:
                number += 1
                kind = number % 7
                if kind == 0:
                    pending.add(client.submit(tasks.flaky, str(notes), 1, f"f{number}", retries=1))
                else:
                    pending.add(client.submit(tasks.nap, str(notes), 100 + number))
"""


@pytest.mark.chaos
@pytest.mark.timeout(60 + 20 * KILLS)
def test_killed_driver(tmp_path):
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    oldest = 0.0
    for number in range(KILLS):
        directory = tmp_path / str(number)
        directory.mkdir()
        delay = chance.uniform(0.0, 2.0)
        killed = _kill_a_driver(directory, delay)
        missing = _check(directory, killed)
        assert missing <= BOUND, f"{missing:.3f} s are missing (seed {seed}, kill {number})"
        oldest = max(oldest, missing)
    print(f"\n{KILLS} kills, seed {seed}: the oldest finished task missing was {oldest:.3f} s old")


def _kill_a_driver(directory: Path, delay: float) -> float:
    script = directory / "driver.py"
    script.write_text(textwrap.dedent(DRIVER))
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(p for p in sys.path if p))
    with subprocess.Popen(
        [sys.executable, str(script)],
        cwd=directory,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == b"ready\n"
        with contextlib.suppress(subprocess.TimeoutExpired):
            driver.wait(delay)
        assert driver.poll() is None, "the driver ended by itself"
        driver.send_signal(signal.SIGKILL)
        killed = time.time()
    return killed


def _check(directory: Path, killed: float) -> float:
    """The run reads as lost, nothing is invented; returns the age of what is missing."""
    reader = resolve_run(directory / "runs")
    assert reader.status == "lost"
    records = {file: list(reader.records(file)) for file in JOURNALS}
    for file, problems in reader.problems.items():
        assert problems.broken == 0, (file, problems)
        assert problems.missing == 0, (file, problems)
    noted: dict[str, list[dict]] = {}
    for entry in oracle.notes(directory / "notes"):
        noted.setdefault(entry["key"], []).append(entry)
    states: dict[str, str] = {}
    for record in records["tasks.jsonl"]:
        states[record["task_id"]] = record["state"]
        if record["state"] == "running":
            assert record["task_id"] in noted or _age(record, killed) < BOUND
        if record["state"] == "succeeded":
            assert any(entry["what"] == "end" for entry in noted[record["task_id"]])
    missing = 0.0
    for key, entries in noted.items():
        for entry in entries:
            if entry["what"] == "end" and states.get(key) != "succeeded":
                missing = max(missing, killed - entry["time"])
    return missing


def _age(record: dict, killed: float) -> float:
    return killed - datetime.fromisoformat(record["timestamp"]).timestamp()
