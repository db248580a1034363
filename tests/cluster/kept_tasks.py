"""Tasks whose executions are counted on disk, apart from anything that is recorded."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path
from typing import Any

from distributed import get_client

from scalable import catalog, record_artifact
from scalable.cache.cacheable import cacheable

_counter = itertools.count()


def note(log: Any, text: str) -> None:
    with Path(log.path).open("a") as file:
        file.write(f"{text}\n")


class Log:
    """A place for notes that is the same argument wherever it is."""

    path = ""

    def __reduce__(self) -> Any:
        return Log, ()


LOG = Log()


def square(x: Any) -> Any:
    note(LOG, f"square {x!r}"[:40])
    return x * x


def pick(pair: Any, place: int = 0) -> Any:
    note(LOG, "pick")
    return pair[place]


def fail(x: Any) -> Any:
    note(LOG, "fail")
    raise ValueError(f"no {x}")


def count(x: Any) -> tuple[Any, int]:
    """Another result each time."""
    note(LOG, "count")
    return x, next(_counter)


def apply(function: Any, x: Any) -> Any:
    note(LOG, "apply")
    return function(x)


def read(path: Any) -> str:
    note(LOG, "read")
    return Path(path).read_text()


def write(path: str, text: str) -> str:
    note(LOG, "write")
    Path(path).write_text(text)
    record_artifact(path)
    return path


def future(x: int) -> Any:
    note(LOG, "future")
    return [get_client().submit(abs, x)]


def large(size: int) -> bytes:
    note(LOG, "large")
    return b"x" * size


def lock(x: int) -> Any:
    note(LOG, "lock")
    return (x, threading.Lock())[:1] if x else threading.Lock()


@cacheable
def cached(x: int) -> int:
    note(LOG, "cached")
    return x + 1


class Counter:
    def __init__(self) -> None:
        note(LOG, "actor")
        self.n = 0

    def add(self) -> int:
        self.n += 1
        return self.n


def put(path: str, text: str) -> str:
    """Write a file and put it into the catalog."""
    note(LOG, "put")
    Path(path).write_text(text)
    catalog.put(path, name="out")
    return path


def get(name: str) -> str:
    note(LOG, "get")
    return catalog.get(name).read_text()
