"""Runs of many writers in a place of objects: how much is asked for, and how often."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from exporters.remote_world import Counting, fill
from exporters.store_world import RUN_ID, run_document, task
from scalable_runs.reader import RunReader
from scalable_runs.remote.shipper import Shipper
from scalable_runs.remote.store import RemoteStore
from scalable_runs.run_parts import combined
from scalable_runs.schema import TASKS, WRITERS
from scalable_runs.stores.file import FileStore
from scalable_runs.stores.memory_objects import MemoryObjects
from scalable_runs.writer import RunWriter


class Measured(MemoryObjects):
    """A place that notes how much each request asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.lengths: list[int] = []

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        data = super().get(key, start, length)
        self.lengths.append(len(data))
        return data


@pytest.mark.parametrize("is_closed", [True, False])
def test_parts_of_many_writers_are_read_little_by_little_and_once(tmp_path: Path, is_closed: bool):
    """So that the memory of a reader does not grow with the number of writers."""
    objects, many, lines = Measured(), 70, 1500
    for number in range(many):
        name = f"rank-{number}"
        writer = RunWriter.create(FileStore(tmp_path / name), run_document(), writer=name)
        fill(writer, 1, 2)
        if number < 2:
            writer.append(TASKS, [task(line, 1000) for line in range(2, lines + 1)])
        writer.flush()
        if is_closed:
            writer.close(status="completed")
        else:
            assert writer.sync(10)
        copy = Shipper(objects, tmp_path / name, run_id=RUN_ID, writer=name)
        _ = copy.finish() if is_closed else copy.ship()
        writer.close()
    size = (tmp_path / "rank-0" / TASKS).stat().st_size
    assert size > 3 * 1024 * 1024
    objects.lengths.clear()
    store = RemoteStore(objects, RUN_ID)
    reader = RunReader(store)
    assert sum(1 for _ in reader.records(TASKS)) == 2 * lines + many - 2
    assert max(objects.lengths) <= 512 * 1024
    assert sum(objects.lengths) < 2.5 * size + many * 64 * 1024
    assert max(map(len, store.parts()["rank-0"].read(TASKS))) <= 256 * 1024


def test_the_state_of_all_parts_is_asked_for_at_the_same_time(tmp_path: Path):
    objects = Counting()
    for number in range(4):
        name = f"rank-{number}"
        writer = RunWriter.create(FileStore(tmp_path / name), run_document(), writer=name)
        writer.close(status="completed")
        assert Shipper(objects, tmp_path / name, run_id=RUN_ID, writer=name).finish()
    together = threading.Barrier(4)

    def meet(verb: str, key: str) -> None:
        if key.endswith("/run.json") and WRITERS in key:
            together.wait(10)

    objects.before = meet
    objects.keys.clear()
    assert RunReader(RemoteStore(objects, RUN_ID)).status == "completed"
    assert [verb for verb, _ in objects.keys] == ["list", *["get"] * 4]


def test_what_the_copies_of_all_parts_lack_is_added_up():
    def run(**remote: int | str) -> dict[str, Any]:
        return {"telemetry": {"remote": {"s3://bucket/runs": remote}}}

    parts = {"a": run(missing_bytes=2, errors=1), "b": run(missing_bytes=3, error="no answer")}
    made = combined({}, parts, {})
    remote = {"missing_bytes": 5, "errors": 1, "error": "no answer"}
    assert made["telemetry"]["remote"] == {"s3://bucket/runs": remote}
