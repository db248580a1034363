"""What the tests of copies of runs share: places that fail, and runs to be copied."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from exporters.store_world import RUN_ID, create, failure, task
from scalable_runs.reader import RunReader
from scalable_runs.remote.shipper import Shipper
from scalable_runs.remote.store import RemoteStore
from scalable_runs.schema import FAILURES, JOURNALS, SIGNALS, TASKS, WORKERS
from scalable_runs.stores.memory_objects import MemoryObjects
from scalable_runs.stores.run_store import Object, RunStore
from scalable_runs.writer import RunWriter


class Killed(BaseException):
    """The process that ships was killed: nothing of it runs on."""


@dataclass
class Counting(RunStore):
    """A place that counts requests by kind, and lets a test act before and after each."""

    inner: RunStore = field(default_factory=MemoryObjects)
    before: Callable[[str, str], None] = lambda verb, key: None
    after: Callable[[str, str], None] = lambda verb, key: None
    requests: Counter[str] = field(default_factory=Counter[str])
    keys: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])

    @property
    def location(self) -> str:  # type: ignore[override]
        return self.inner.location

    def _do(self, verb: str, key: str, call: Callable[[], Any]) -> Any:
        self.requests[verb] += 1
        self.keys.append((verb, key))
        self.before(verb, key)
        result = call()
        self.after(verb, key)
        return result

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        return self._do("get", key, lambda: self.inner.get(key, start, length))

    def put(self, key: str, data: bytes) -> None:
        self._do("put", key, lambda: self.inner.put(key, data))

    def create(self, key: str, data: bytes) -> bool:
        return self._do("create", key, lambda: self.inner.create(key, data))

    def list(self, prefix: str = "", after: str = "") -> Iterator[Object]:
        return iter(self._do("list", prefix, lambda: list(self.inner.list(prefix, after))))

    def delete(self, key: str) -> None:
        self._do("delete", key, lambda: self.inner.delete(key))


class Faults:
    """Requests that fail before they are done, or after, by chance; or the process is killed."""

    def __init__(self, seed: int, share: float, error: Callable[[], BaseException]) -> None:
        self._random = random.Random(seed)
        self._share = share
        self._error = error
        self.count = 0

    def __call__(self, verb: str, key: str) -> None:
        if self._random.random() < self._share:
            self.count += 1
            raise self._error()


def lost_connection() -> BaseException:
    return ConnectionError("the connection was lost")


def fill(writer: RunWriter, first: int, last: int) -> None:
    """Write some lines to three journals, in the files but not synced."""
    for number in range(first, last):
        writer.append(TASKS, [task(number)])
        if number % 10 == 0:
            writer.append(FAILURES, [failure(number)])
        if number % 25 == 0:
            record = {"event_type": "worker", "timestamp": "2026-11-21T16:33:03.000000Z"}
            writer.append(WORKERS, [record | {"worker_id": str(number), "state": "ready"}])
    writer.flush()


def closed_run(runs_dir: Path, tasks: int = 100) -> Path:
    """A run that was recorded and closed."""
    writer = create(runs_dir)
    fill(writer, 1, tasks)
    writer.close({"counts": {"task_events": tasks - 1}}, status="completed")
    return writer.path


def everything(run: Path | RemoteStore) -> dict[str, Any]:
    """All that a reader says of a run."""
    reader = RunReader(run)
    records = {
        file: list(reader.records(file)) for file in (*JOURNALS, *SIGNALS) if file in reader.files()
    }
    return {
        "records": {file: lines for file, lines in records.items() if lines},
        "status": reader.status,
        "document": reader.document,
        "summary": reader.summary(),
        "problems": {name: found.sentences() for name, found in reader.problems.items()},
    }


def contents(objects: RunStore, path: Path) -> None:
    """Check that each file of lines is restored byte for byte, as far as its lines are whole."""
    remote = RemoteStore(objects, RUN_ID)
    for file in path.glob("*.jsonl"):
        data = file.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        found = b"".join(remote.read(file.name)) if file.name in remote.names() else b""
        assert found == whole or (found == data and found.endswith(b"\n")), file.name


def shipper(objects: RunStore, path: Path, **options: Any) -> Shipper:
    return Shipper(objects, path, **options)
