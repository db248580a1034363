"""What is missing from the record after the driver was killed by SIGKILL."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.clusters import ROOT
from benchmarks.table import Row
from scalable_runs.reader import resolve_run
from scalable_runs.schema import TASKS

_DRIVER = """
import sys
from pathlib import Path
from distributed import Client, LocalCluster, as_completed
import scalable
from benchmarks.loss import noted

if __name__ == "__main__":
    notes = Path("notes")
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=False, silence_logs=50,
                      dashboard_address=":0") as cluster, Client(cluster) as client:
        with scalable.instrument(client, runs_dir="runs"):
            print("ready", flush=True)
            pending = as_completed([
                client.submit(noted, str(notes), number, key=f"noted-{number}")
                for number in range(8)
            ])
            for number, _ in enumerate(pending, 8):
                pending.add(client.submit(noted, str(notes), number, key=f"noted-{number}"))
"""


def noted(notes: str, number: int) -> None:
    """A task that notes its end in one write, which no kill can undo."""
    time.sleep(0.002)
    descriptor = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(descriptor, f"noted-{number} {time.time()!r}\n".encode())
    finally:
        os.close(descriptor)


def loss(directory: Path, quick: bool) -> list[Row]:
    """Kill drivers at random moments and find the oldest end that is not in the record."""
    kills = 2 if quick else 20
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    oldest: list[float] = []
    finished = problems = 0
    for number in range(kills):
        place = directory / str(number)
        place.mkdir()
        killed = _kill_a_driver(place, chance.uniform(0.2, 2.5))
        age, ends, bad = _missing(place, killed)
        oldest.append(age)
        finished += ends
        problems += bad
    return [
        Row(
            key="loss",
            what=f"oldest finished task missing after SIGKILL of the driver, {kills} kills",
            measured=max(oldest),
            unit="s",
            budget=0.5,
            spread=(min(oldest), max(oldest)),
            note=f"{finished:,} tasks had ended; seed {seed}",
        ),
        Row(
            key="loss-unreadable",
            what="lines broken or missing within those records",
            measured=problems,
            budget=0,
            kind="count",
        ),
    ]


def _kill_a_driver(place: Path, delay: float) -> float:
    script = place / "driver.py"
    script.write_text(_DRIVER)
    paths = os.pathsep.join([str(ROOT), *(path for path in sys.path if path)])
    with subprocess.Popen(
        [sys.executable, str(script)],
        cwd=place,
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as driver:
        assert driver.stdout is not None
        if driver.stdout.readline() != b"ready\n":
            raise RuntimeError("the driver did not start")
        time.sleep(delay)
        driver.send_signal(signal.SIGKILL)
        return time.time()


def _missing(place: Path, killed: float) -> tuple[float, int, int]:
    """Age of the oldest end that is not recorded, ends noted, lines that cannot be read."""
    reader = resolve_run(place / "runs")
    succeeded = {
        record["task_id"] for record in reader.records(TASKS) if record["state"] == "succeeded"
    }
    bad = sum(found.broken + found.missing for found in reader.problems.values())
    ends = [line.split() for line in (place / "notes").read_text().splitlines()]
    ages = [killed - float(at) for key, at in ends if key not in succeeded]
    return max(ages, default=0.0), len(ends), bad
