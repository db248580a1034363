"""Servers as fixtures. Each is started by calling the fixture and stopped when the test ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from servers.faulty_proxy import FaultyProxy
from servers.harness import Collector, Jaeger, Prometheus, Server, Slurm
from servers.storages import Azurite, FakeGoogle, Storage, VersityGateway


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


def _storage(kind: type[Storage], factory: pytest.TempPathFactory) -> Iterator[Any]:
    server = kind(factory.mktemp(kind.name))
    try:
        server.start()
        yield server
    finally:
        server.stop()


# One of each for all tests, which take prefixes of their own and do not stop it. A test names it
# among its arguments: asked for later, it would count as left behind by the test.


@pytest.fixture(scope="session")
def versitygw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VersityGateway]:
    """A storage that speaks S3, for all tests."""
    yield from _storage(VersityGateway, tmp_path_factory)


@pytest.fixture(scope="session")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    """A storage of Azure's kind, for all tests."""
    yield from _storage(Azurite, tmp_path_factory)


@pytest.fixture(scope="session")
def fake_google(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeGoogle]:
    """A storage of Google's kind, for all tests."""
    yield from _storage(FakeGoogle, tmp_path_factory)


@pytest.fixture
def start_s3(servers: Callable[..., Any]) -> Callable[[], VersityGateway]:
    """A storage that speaks S3 and may be killed, paused and started again."""
    return lambda: servers(VersityGateway)


@pytest.fixture
def faulty() -> Iterator[Callable[[VersityGateway], FaultyProxy]]:
    """A proxy before a storage, that answers as a test says."""
    with ExitStack() as stack:
        yield lambda server: stack.enter_context(FaultyProxy(server.ports[0]))
