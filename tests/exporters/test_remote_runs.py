"""Many runs in a place of objects: one listing, and an index that is never trusted."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from exporters.remote_world import Counting
from run_builder import RunBuilder, eventful
from scalable.analysis import list_runs
from scalable_runs.remote.root import RemoteRoot
from scalable_runs.remote.shipper import Shipper, sync
from scalable_runs.stores.memory_objects import MemoryObjects

RUNS = 300


@pytest.fixture
def objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Counting:
    """Copies of one run under many names."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    first = "run-20260102T030405Z-flights-00000000"
    builder = RunBuilder(tmp_path / "runs", first)
    eventful(builder)
    place = MemoryObjects()
    assert sync(Shipper(place, builder.finish(10))).complete
    for entry in list(place.list(f"{first}/")):
        data = place.get(entry.key)
        for number in range(1, RUNS):
            run_id = f"{first[:-8]}{number:08}"
            content = data.replace(first.encode(), run_id.encode())
            place.put(entry.key.replace(first, run_id), content)
    return Counting(place)


def test_many_runs_take_one_listing_and_an_index(objects: Counting, tmp_path: Path):
    runs, _ = list_runs(RemoteRoot(objects))
    assert len(runs) == RUNS
    assert {run.tasks for run in runs} == {runs[0].tasks}
    # Nobody had an index: two documents of each run, and the index is kept for others.
    assert objects.requests == {"list": 1, "get": 2 * RUNS + 1, "put": 1}

    objects.requests.clear()
    assert list_runs(RemoteRoot(objects))[0] == runs
    assert objects.requests == {"list": 1}

    objects.requests.clear()
    for file in (tmp_path / "cache").rglob("*.json"):
        file.unlink()
    assert list_runs(RemoteRoot(objects))[0] == runs
    assert objects.requests == {"list": 1, "get": 1}


@pytest.mark.parametrize("damage", ["stale", "cut", "foreign", "lies"])
def test_an_index_is_never_wrong(objects: Counting, tmp_path: Path, damage: str):
    before, _ = list_runs(RemoteRoot(objects))
    for file in (tmp_path / "cache").rglob("*.json"):
        file.unlink()
    place = objects.inner
    root = RemoteRoot(objects)
    key = ".index.json.zst"
    if damage == "stale":
        run_id = before[7].run_id
        for name in ("run.json", "summary.json"):
            data = orjson.loads(place.get(f"{run_id}/{name}"))
            (data if name == "run.json" else data["run"])["status"] = "failed"
            place.put(f"{run_id}/{name}", orjson.dumps(data))
        for entry in list(place.list(f"{before[8].run_id}/")):
            place.delete(entry.key)
        expected = {run.run_id: run.status for run in before if run is not before[8]}
        expected[run_id] = "failed"
        found, _ = list_runs(root)
        assert {run.run_id: run.status for run in found} == expected
        return
    if damage == "cut":
        place.put(key, place.get(key)[:-20])
    elif damage == "foreign":
        place.put(key, b"<html>" * 1000)
    else:
        content = orjson.loads(root.kept_index())
        for row in content["rows"].values():
            row[0] = [1, 2.0, 3, 4.0]
            row[1][0] = "run-20200101T000000Z-lie-00000000"
        root.keep_index(orjson.dumps(content))
    assert list_runs(root)[0] == before
