from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import dask
import pytest
from distributed import Client, LocalCluster

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
            cluster = stack.enter_context(
                LocalCluster(
                    n_workers=n_workers,
                    threads_per_worker=threads,
                    processes=processes,
                    dashboard_address=":0",
                    silence_logs=logging.CRITICAL,
                    memory_limit=0,
                    **more,
                )
            )
            client = stack.enter_context(Client(cluster))
            return cluster, client

        yield make


@pytest.fixture
def transitions() -> Callable[[LocalCluster], TransitionLog]:
    """The scheduler's own log of transitions, kept by a plugin of the test."""

    def attach(cluster: LocalCluster) -> TransitionLog:
        log = TransitionLog()
        log.scheduler = cluster.scheduler
        cluster.loop.add_callback(cluster.scheduler.add_plugin, log)
        return log

    return attach
