"""Functions that the tests run on workers; each notes what it does in a directory on disk.

The notes are the oracle: they share no code with the package, and they survive a SIGKILL.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
import uuid
from pathlib import Path

from distributed import Reschedule, get_client, get_worker, rejoin, secede, worker_client
from distributed.worker import thread_state


def note(directory: str, what: str, **more: object) -> None:
    """Append a note; one file for each, whole or not there."""
    key = getattr(thread_state, "key", None)
    if key is None:
        key = get_worker().get_current_task()
    content = {"key": str(key), "what": what, "pid": os.getpid(), "time": time.time(), **more}
    target = Path(directory) / f"{uuid.uuid4().hex}.json"
    hidden = target.with_suffix(".tmp")
    hidden.write_text(json.dumps(content))
    hidden.rename(target)


def wait_for_file(path: str | Path, timeout: float = 60.0) -> None:
    """Block the task until the test lets it go."""
    gate = threading.Event()
    deadline = time.monotonic() + timeout
    while not Path(path).exists():
        if time.monotonic() > deadline:
            raise TimeoutError(path)
        gate.wait(0.01)


def add(directory: str, *values: int) -> int:
    note(directory, "start")
    total = sum(values)
    note(directory, "end")
    return total


def fail(directory: str, message: str = "bad input") -> None:
    note(directory, "start")
    raise ValueError(message)


def fail_with_cause(directory: str) -> None:
    note(directory, "start")
    try:
        {}["missing"]
    except KeyError as error:
        raise RuntimeError("no such entry") from error


class Unpicklable(Exception):
    """Cannot be pickled."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.lock = threading.Lock()


class NotRebuilt(Exception):
    """Pickles, and cannot be made anew from what was pickled."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


class Hostile(Exception):
    """Whoever looks at it is harmed."""

    def __str__(self) -> str:
        raise RuntimeError("no text for you")

    __repr__ = __str__


def fail_unpicklable(directory: str) -> None:
    note(directory, "start")
    raise Unpicklable("it holds a lock")


def fail_not_rebuilt(directory: str) -> None:
    note(directory, "start")
    raise NotRebuilt(1, 2)


def fail_at_length(directory: str) -> None:
    """With a message longer than Dask keeps, raised from another."""
    note(directory, "start")
    try:
        {}["missing"]
    except KeyError as error:
        raise ValueError("it began\n" + "and went on\n" * 200_000 + "it ended") from error


def fail_hostile(directory: str) -> None:
    note(directory, "start")
    raise Hostile


def leave(directory: str) -> None:
    """Take the worker process down from inside, not by a signal."""
    note(directory, "start")
    raise SystemExit(3)


def flaky(directory: str, times: int, name: str = "flaky") -> int:
    """Fail the first `times` times."""
    note(directory, "start")
    counter = Path(directory) / f"{name}.count"
    attempt = int(counter.read_text()) if counter.exists() else 0
    counter.write_text(str(attempt + 1))
    if attempt < times:
        raise ConnectionError(f"attempt {attempt}")
    note(directory, "end")
    return attempt


def reschedule(directory: str, times: int, name: str = "reschedule") -> int:
    """Ask to be run elsewhere the first `times` times."""
    note(directory, "start")
    counter = Path(directory) / f"{name}.count"
    attempt = int(counter.read_text()) if counter.exists() else 0
    counter.write_text(str(attempt + 1))
    if attempt < times:
        raise Reschedule
    note(directory, "end")
    return attempt


def die_once(directory: str, name: str = "dead") -> str:
    """SIGKILL the own worker the first time."""
    note(directory, "start")
    mark = Path(directory) / f"{name}.mark"
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    note(directory, "end")
    return "alive"


def die(directory: str) -> None:
    note(directory, "start")
    os.kill(os.getpid(), signal.SIGKILL)


def hold(directory: str, gate: str, value: int = 0) -> int:
    """Run until the file `gate` is there."""
    note(directory, "start")
    wait_for_file(Path(directory) / gate)
    note(directory, "end")
    return value


def on_worker_of(directory: str) -> int:
    note(directory, "start")
    note(directory, "end")
    return os.getpid()


def after(directory: str, inputs: list[object]) -> int:
    """Depend on other tasks, whatever they return."""
    note(directory, "start")
    note(directory, "end")
    return len(inputs)


def nested_worker_client(directory: str, n: int, salt: int = 1) -> int:
    note(directory, "start")
    with worker_client() as client:
        total = sum(client.gather([client.submit(add, directory, i, salt) for i in range(n)]))
    note(directory, "end")
    return total


def nested_get_client(directory: str, n: int) -> int:
    note(directory, "start")
    client = get_client()
    futures = [client.submit(add, directory, i, 2) for i in range(n)]
    secede()
    total = sum(client.gather(futures))
    rejoin()
    note(directory, "end")
    return total


async def asynchronous(directory: str, value: int) -> int:
    import asyncio

    await asyncio.sleep(0.001)
    return value


class Counter:
    """An actor."""

    def __init__(self) -> None:
        self.n = 0

    def increment(self) -> int:
        self.n += 1
        return self.n


def wait_until(condition, timeout: float = 30.0) -> None:
    """Wait in the test until `condition` holds."""
    gate = threading.Event()
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(condition)
        gate.wait(0.01)


def wait_for_notes(directory: Path, count: int) -> None:
    """Wait until at least `count` notes are in the directory."""
    wait_until(lambda: len(list(Path(directory).glob("*.json"))) >= count)


def nap(directory: str, value: int) -> int:
    """Work for a few milliseconds."""
    note(directory, "start")
    threading.Event().wait(0.005)
    note(directory, "end")
    return value
