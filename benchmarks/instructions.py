"""Instructions that a plugin costs a scheduler: the same on every machine.

The scheduler of :mod:`benchmarks.alone` runs in valgrind, which counts what its processor would
execute, for few tasks and for many: the difference is due to tasks alone. Two counts differ by
0.3 %, where two measurements of time differ by 10 %. Python's garbage collector is off, and so are
Dask's timers, since time passes slowly there.
"""

from __future__ import annotations

import asyncio
import gc
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import dask

from benchmarks import alone, clusters
from benchmarks.table import Row

_WHATS: Final = {
    "bare": "bare",
    "annotated": "that an annotated graph costs",
    "idle": "that a plugin that does nothing costs",
    "ours": "that the package costs, with its annotation and its pulls",
}
#: Tasks before the count starts, so that nothing is done for the first time.
_WARM: Final = 100
#: Switches Dask's timers off.
_QUIET: Final = {
    "distributed.scheduler.worker-ttl": None,
    "distributed.scheduler.work-stealing": False,
    "distributed.scheduler.active-memory-manager.start": False,
    "distributed.admin.system-monitor.interval": "1h",
    "distributed.admin.tick.interval": "1h",
    "distributed.worker.profile.enabled": False,
    "distributed.client.heartbeat": "1h",
    "distributed.client.scheduler-info-interval": "1h",
}


def instructions(directory: Path, quick: bool) -> list[Row]:
    """Instructions of a scheduler's thread per task; nothing in the quick form."""
    if quick:
        return []
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        print("  left out: there is no valgrind (a package of the system)", file=sys.stderr)
        return []
    few, many = 200, 1_200
    ways = [(way, tasks) for way in _WHATS for tasks in (few, many)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        counts = dict(
            zip(ways, pool.map(lambda way: _count(valgrind, directory, *way), ways), strict=True)
        )
    each = {way: (counts[way, many] - counts[way, few]) / (many - few) / 1e3 for way in _WHATS}
    bare = each["bare"]
    return [
        Row(
            key=f"instructions-{way}",
            what=f"scheduler alone: instructions per task {what}",
            measured=each[way] if way == "bare" else each[way] - bare,
            unit="thousand",
            kind="count",
            note="" if way == "bare" else f"{each[way] / bare - 1:.1%} of bare",
        )
        for way, what in _WHATS.items()
    ]


def _count(valgrind: str, directory: Path, way: str, tasks: int) -> int:
    command = [valgrind, "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]
    program = [sys.executable, "-m", "benchmarks.instructions", way, str(tasks)]
    environment = {
        # The order of sets is the same in each process, and no thread waits actively.
        "PYTHONHASHSEED": "0",
        "OPENBLAS_NUM_THREADS": "1",
        "DASK_TEMPORARY_DIRECTORY": str(directory),
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    finished = subprocess.run(
        [*command, *program],
        env={**os.environ, **environment},
        cwd=clusters.ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    found = re.search(r"I\s+refs:\s+([\d,]+)", finished.stderr)
    if finished.returncode or found is None:
        raise RuntimeError(f"valgrind counted nothing:\n{finished.stderr[-2_000:]}")
    return int(found[1].replace(",", ""))


async def _execute(way: str, tasks: int) -> None:
    async with alone.Stage.set() as stage:
        for first in ("bare", "ours"):
            await stage.execute(first, _WARM)
        await stage.execute(way, tasks)
        # The cost of closing does not belong to tasks.
        os._exit(0)


def main() -> None:
    """The program that valgrind runs: ``python -m benchmarks.instructions WAY TASKS``."""
    gc.disable()
    setattr(gc, "collect", lambda *_: 0)  # noqa: B010
    alone.INTERVAL = 10.0
    with dask.config.set(_QUIET):
        asyncio.run(_execute(sys.argv[1], int(sys.argv[2])))


if __name__ == "__main__":
    main()
