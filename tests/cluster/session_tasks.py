"""What the workers of the session tests run."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from scalable import FileType, cacheable, record_artifact, record_cost, record_metric


def double(number: int) -> int:
    return 2 * number


def with_n(number: int, n: int = 0) -> int:
    return number + n


def fails_for(number: int, bad: tuple[int, ...]) -> int:
    if number in bad:
        raise ValueError(f"bad number {number}")
    return number


def fails_until(path: str, times: int) -> int:
    """Fail the first `times` calls; each leaves a byte."""
    with Path(path).open("ab") as file:
        file.write(b".")
    calls = Path(path).stat().st_size
    if calls <= times:
        raise ConnectionError(f"call {calls}")
    return calls


def wait_for(path: str) -> str:
    while not Path(path).exists():
        time.sleep(0.01)
    return "done"


def tell(directory: str, number: int) -> int:
    """Record one of everything."""
    place = Path(directory) / f"result-{number}.txt"
    place.write_text(f"result {number}\n")
    record_artifact(place, kind="result", metadata={"number": number})
    record_metric("loss", 1 / (number + 1), unit="1", attributes={"fold": number})
    record_cost(0.25, currency="EUR")
    return os.getpid()


@cacheable
def slow_square(number: int, calls: str) -> int:
    with Path(calls).open("ab") as file:
        file.write(b".")
    return number * number


@cacheable(return_type=FileType, source=FileType)
def shout(source: str, target: str) -> str:
    Path(target).write_text(Path(source).read_text().upper())
    return target


@cacheable
def batch(numbers: tuple[int, ...], calls: str) -> int:
    with Path(calls).open("ab") as file:
        file.write(b".")
    return sum(numbers)


def simulate(number: int, calls: str) -> int:
    """Is cached because the manifest says so."""
    with Path(calls).open("ab") as file:
        file.write(b".")
    return number + 1


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def call(function: Callable[..., object], *args: object) -> object:
    return function(*args)
