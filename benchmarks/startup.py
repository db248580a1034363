"""The cost of starting."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.clusters import ROOT
from benchmarks.table import Row

_INSTRUMENT = """
import sys, time
from distributed import Client, LocalCluster
if __name__ == "__main__":
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0",
                      silence_logs=50) as cluster, Client(cluster) as client:
        for _ in range(2):
            began = time.perf_counter()
            import scalable
            run = scalable.instrument(client, runs_dir=sys.argv[1])
            print(time.perf_counter() - began, flush=True)
            run.close()
"""


def startup(directory: Path, quick: bool) -> list[Row]:
    """Importing, `--help`, and the start of a recording."""
    count = 5 if quick else 21
    nothing = [_wall("-c", "pass") for _ in range(count)]
    imported = [_wall("-c", "import scalable") for _ in range(count)]
    helped = [_wall("-m", "scalable.cli", "--help") for _ in range(count)]
    script = directory / "begin.py"
    script.write_text(_INSTRUMENT)
    first: list[float] = []
    again: list[float] = []
    for _ in range(1 if quick else 5):
        output = subprocess.run(
            [sys.executable, str(script), str(directory / "runs")],
            stdout=subprocess.PIPE,
            check=True,
        ).stdout.split()
        first.append(float(output[0]))
        again.append(float(output[1]))
    interpreter = statistics.median(nothing)
    return [
        Row.of_rounds(
            "import",
            "import scalable, beyond the interpreter's own start",
            [(wall - interpreter) * 1e3 for wall in imported],
            [(wall - interpreter) * 1e3 for wall in nothing],
            unit="ms",
            budget=30,
            note=f"an empty program takes {interpreter * 1e3:.0f} ms",
        ),
        Row.of_rounds("help", "scalable --help, all of it", helped, nothing, unit="s", budget=0.2),
        Row.of_rounds(
            "instrument-first",
            "instrument() to ready on a live cluster, first in its process, imports included",
            first,
            unit="s",
            budget=0.3,
        ),
        Row.of_rounds(
            "instrument-again", "instrument() to ready, second time", again, unit="s", budget=0.3
        ),
    ]


def _wall(*arguments: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began
