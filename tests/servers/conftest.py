"""Servers as fixtures. Each is started by calling the fixture and stopped when the test ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from servers.harness import Collector, Jaeger, Prometheus, Server, Slurm


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Start a server of a class of `servers.harness`, in a directory of its own."""
    with ExitStack() as stack:
        counts: dict[str, int] = {}

        def start(kind: type[Server], *arguments: Any, **more: Any) -> Server:
            number = counts[kind.name] = counts.get(kind.name, 0) + 1
            server = kind(tmp_path / f"{kind.name}-{number}", *arguments, **more)
            stack.callback(server.stop)
            server.start()
            return server

        yield start


@pytest.fixture
def start_collector(servers: Callable[..., Any]) -> Callable[..., Collector]:
    """A collector; keyword arguments as :class:`servers.harness.Collector` takes them."""
    return lambda **more: servers(Collector, **more)


@pytest.fixture
def collector(start_collector: Callable[..., Collector]) -> Collector:
    """A collector that takes everything and writes it to files."""
    return start_collector()


@pytest.fixture
def jaeger(servers: Callable[..., Any]) -> Jaeger:
    """Jaeger, empty."""
    return servers(Jaeger)


@pytest.fixture
def start_prometheus(servers: Callable[..., Any]) -> Callable[..., Prometheus]:
    """Prometheus that scrapes the targets it is given."""
    return lambda *targets: servers(Prometheus, targets)


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slurm]:
    """A Slurm of one node, partition `short`; `sbatch` and the like are on PATH."""
    server = Slurm(tmp_path / "slurm")
    try:
        server.start()
        for name, value in server.environ.items():
            monkeypatch.setenv(name, value)
        yield server
    finally:
        server.stop()
