from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import dask
import distributed
import pytest
from distributed import Client, LocalCluster
from packaging.version import Version

from cluster.oracle import TransitionLog

dask.config.set({"distributed.scheduler.allowed-failures": 2})


@pytest.fixture
def notes_dir(tmp_path: Path) -> Path:
    directory = tmp_path / "notes"
    directory.mkdir()
    return directory


@pytest.fixture
def make_cluster() -> Iterator[Callable[..., tuple[LocalCluster, Client]]]:
    """A cluster of worker processes and a client, closed at the end of the test."""
    with ExitStack() as stack:

        def make(n_workers: int = 2, threads: int = 1, processes: bool = True, **more: Any):
            cluster = LocalCluster(
                n_workers=n_workers,
                threads_per_worker=threads,
                processes=processes,
                dashboard_address=":0",
                silence_logs=logging.CRITICAL,
                memory_limit=0,
                **more,
            )
            stack.callback(close, cluster)
            client = stack.enter_context(Client(cluster))
            return cluster, client

        yield make


def close(cluster: LocalCluster) -> None:
    """Close it as leaving its context does.

    Before 2026.8 that may wait for ever: for a nanny that begins its worker process twice at once,
    or for one whose first close failed.
    """
    try:
        cluster.close(timeout=30)
    except TimeoutError:
        if Version(distributed.__version__) >= Version("2026.8"):
            raise
        for nanny in cluster.workers.values():
            with suppress(OSError):
                if pid := getattr(nanny, "pid", None):
                    os.kill(pid, signal.SIGKILL)


@pytest.fixture
def transitions() -> Callable[[LocalCluster], TransitionLog]:
    """The scheduler's own log of transitions, kept by a plugin of the test."""

    def attach(cluster: LocalCluster) -> TransitionLog:
        log = TransitionLog()
        log.scheduler = cluster.scheduler
        cluster.loop.add_callback(cluster.scheduler.add_plugin, log)
        return log

    return attach
