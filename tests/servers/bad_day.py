"""A recorded run in which everything happens that a dashboard shows, until it is told to stop.

Run as ``python bad_day.py DIRECTORY``. Tasks succeed, fail, are retried and cancelled; results
move between workers and to disk and back; a worker is killed and what it had is computed again.
The file ``going`` says when that is over; the rest is repeated until there is a file ``stop``.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import dask
from distributed import Client, LocalCluster, wait

import scalable

MEGABYTE = 1_000_000


def numbers(seed: int) -> bytes:
    return bytes([seed % 256]) * (4 * MEGABYTE)


def combine(*parts: bytes) -> int:
    time.sleep(0.02)
    return sum(len(part) for part in parts)


def sometimes(directory: str, number: int) -> int:
    flag = Path(directory, f"tried-{number}")
    time.sleep(0.01)
    if not flag.exists():
        flag.touch()
        raise ConnectionError("not yet")
    return number


def never(number: int) -> None:
    logging.getLogger("bad_day").warning("giving up on %d", number)
    raise ValueError(f"{number} is wrong")


def slow(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def deadly(directory: str) -> str:
    flag = Path(directory, "killed")
    if not flag.exists():
        flag.touch()
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGKILL)
    return "survived"


def a_round(client: Client, directory: str, number: int) -> Any:
    """Some of everything but the death of a worker; what it returns keeps results in memory."""
    workers = sorted(client.scheduler_info(n_workers=-1)["workers"])
    kept = [
        client.submit(
            numbers, 10 * number + i, workers=workers[i % len(workers)], allow_other_workers=True
        )
        for i in range(6)
    ]
    sums = [client.submit(combine, *kept[i:], pure=False) for i in range(3)]
    retried = [
        client.submit(sometimes, directory, 10 * number + i, retries=3, pure=False)
        for i in range(3)
    ]
    wrong = client.submit(never, number, pure=False)
    late = client.submit(slow, 0.5, pure=False)
    wait([*sums, *retried, wrong])
    late.cancel()
    return kept


def main(directory: str) -> None:
    dask.config.set(
        {
            "distributed.scheduler.allowed-failures": 5,
            # Results go to disk from 20 MB on.
            "distributed.worker.memory.target": 0.01,
        }
    )
    with (
        LocalCluster(
            n_workers=3,
            threads_per_worker=2,
            memory_limit="2GB",
            dashboard_address=":0",
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster) as client,
        scalable.instrument(client, project="bad-day", sample_interval=0.5) as run,
    ):
        print(run.run_id, run.run_dir, flush=True)
        kept = a_round(client, directory, 0)
        client.submit(deadly, directory, pure=False).result()
        client.wait_for_workers(3)
        Path(directory, "going").touch()
        number = 1
        while not Path(directory, "stop").exists():
            kept = a_round(client, directory, number)
            number += 1
        del kept


if __name__ == "__main__":
    main(sys.argv[1])
