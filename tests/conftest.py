"""What holds for every test: a world of its own, internal errors raise, nothing is left behind."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

#: How long what a test started may take to be gone once the test is over.
GRACE = 10.0

#: Threads that Dask and the standard library keep for the life of the process, by name.
_PROCESS_WIDE_THREADS = (
    "Dask-Offload",
    "TCP-Executor",
    "asyncio_",
    "pytest_timeout",
)
#: Processes that multiprocessing keeps for the life of the process, by a word of the command line.
_PROCESS_WIDE_PROCESSES = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")
#: Variable that tells the processes of these tests, also those that are nobody's children.
_MARK = "_TESTS_RUN_BY"
#: Words of the command lines of our processes that are not children of a program or worker.
_DETACHED = ("scalable-recorder", "tee.py")


def pytest_configure() -> None:
    # A developer's own settings must not decide what the tests find. Set here and not in a fixture:
    # a cluster that serves a whole module starts its processes before any test's fixtures.
    for name in list(os.environ):
        # Where the servers of tests/servers are kept is no setting of what is tested.
        ours = name.startswith(("SCALABLE_", "OTEL_")) and name != "SCALABLE_SERVERS_CACHE"
        if ours or name in ("TRACEPARENT", "TRACESTATE", "BAGGAGE"):
            del os.environ[name]
    os.environ["SCALABLE_STRICT"] = "1"
    os.environ[_MARK] = str(os.getpid())


@pytest.fixture(autouse=True)
def nothing_left_behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fail a test that leaves threads, processes or open files of run directories behind."""
    base = tmp_path_factory.getbasetemp().resolve()
    looks: dict[str, Callable[[], set[str]]] = {
        "threads": running_threads,
        "processes": lambda: child_processes() | detached_processes(),
        "open files": lambda: open_files(base),
    }
    before = {what: look() for what, look in looks.items()}
    yield
    deadline = time.monotonic() + GRACE
    while True:
        left = {what: sorted(look() - before[what]) for what, look in looks.items()}
        if not any(left.values()):
            return
        if time.monotonic() > deadline:
            break
        threading.Event().wait(0.01)
    found = "; ".join(f"{what}: {', '.join(names)}" for what, names in left.items() if names)
    pytest.fail(f"left behind {GRACE:.0f} s after the test: {found}", pytrace=False)


@pytest.fixture(autouse=True)
def world_of_its_own(
    nothing_left_behind: None,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Run the test in an empty directory; swallow internal errors only if it is ``lenient``."""
    monkeypatch.chdir(tmp_path)
    if request.node.get_closest_marker("lenient"):
        monkeypatch.delenv("SCALABLE_STRICT", raising=False)


def running_threads() -> set[str]:
    """Threads that keep a process alive, and ours in any case."""
    return {
        f"{thread.name} (id {thread.ident})"
        for thread in threading.enumerate()
        if thread is not threading.main_thread()
        and (not thread.daemon or thread.name.lower().startswith("scalable"))
        and not thread.name.startswith(_PROCESS_WIDE_THREADS)
    }


def child_processes() -> set[str]:
    """Child processes, and theirs, that still run."""
    found: set[str] = set()
    for process in psutil.Process().children(recursive=True):
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            command = " ".join(process.cmdline())
        except psutil.NoSuchProcess:
            continue
        if not any(word in command for word in _PROCESS_WIDE_PROCESSES):
            found.add(f"{process.pid} ({command[:80]})")
    return found


def detached_processes() -> set[str]:
    """Processes of ours that these tests have started and that are nobody's children."""
    found: set[str] = set()
    for process in psutil.process_iter(["cmdline"]):
        command = " ".join(process.info["cmdline"] or ())
        if any(word in command for word in _DETACHED):
            with contextlib.suppress(psutil.Error):
                if process.environ().get(_MARK) == str(os.getpid()):
                    found.add(f"{process.pid} ({command[:80]})")
    return found


def open_files(below: Path) -> set[str]:
    """Open files and directories below `below`, also deleted ones."""
    descriptors = Path("/proc/self/fd")
    if not descriptors.is_dir():
        return {
            file.path
            for file in psutil.Process().open_files()
            if Path(file.path).is_relative_to(below)
        }
    found: set[str] = set()
    for descriptor in descriptors.iterdir():
        try:
            target = descriptor.readlink()
        except OSError:
            continue
        if target.is_relative_to(below):
            found.add(f"{target} (descriptor {descriptor.name})")
    return found
