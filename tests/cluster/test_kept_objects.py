"""Arguments and results that the record only describes are kept in the catalog, where asked."""

from __future__ import annotations

import json
import pickle
import threading
from typing import Any

import pytest

import scalable
from scalable import catalog


def join(parts: list[int], text: str, lock: Any = None) -> list[int]:
    del lock
    if text == "fail":
        raise ValueError(len(parts))
    return [*parts, len(text)]


class Locked:
    """Cannot be pickled once it has its lock."""

    def take(self) -> Locked:
        self.lock = threading.Lock()
        return self


def locked() -> Any:
    return Locked().take()


def ends(run: Any) -> dict[str, dict[str, Any]]:
    lines = (run.run_dir / "tasks.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return {one["task_id"]: one for one in records if one["state"] in ("succeeded", "failed")}


def value_of(description: dict[str, Any], place: Any) -> Any:
    name = description["catalog"]
    return pickle.loads(catalog.Catalog(place).get(name).read_bytes())


@pytest.mark.parametrize("level", ["failed", "all"])
def test_values_that_are_described_are_kept(make_cluster, tmp_path, level):
    _, client = make_cluster(n_workers=1)
    place = tmp_path / "kept"
    long = list(range(1_000))
    with scalable.instrument(client, parameters=level, objects=True, catalog=place) as run:
        client.submit(join, long, "well", key="good").result()
        assert client.submit(join, long, "fail", key="bad").exception() is not None
    found = ends(run)
    inputs = {one["name"]: one for one in found["bad"]["input_parameters"]}
    assert value_of(inputs["parts"], place) == long
    # What the record has whole is not kept again.
    assert inputs["text"]["value"] == "fail"
    assert "catalog" not in inputs["text"]
    if level == "failed":
        assert "input_parameters" not in found["good"]
        return
    (result,) = found["good"]["output_parameters"]
    assert value_of(result, place) == [*long, 4]
    inputs = {one["name"]: one for one in found["good"]["input_parameters"]}
    # Equal contents are one.
    assert value_of(inputs["parts"], place) == long
    assert len(list(catalog.Catalog(place).entries())) == 2


def test_what_is_too_large_or_cannot_be_pickled_is_described_only(make_cluster, tmp_path):
    _, client = make_cluster(n_workers=1, processes=False)
    place = tmp_path / "kept"
    with scalable.instrument(client, parameters="all", objects="1MiB", catalog=place) as run:
        lock = client.submit(locked, key="lock")
        client.submit(join, list(range(10**6)), "well", lock, key="large").result()
    inputs = {one["name"]: one for one in ends(run)["large"]["input_parameters"]}
    assert inputs["parts"]["length"] == 10**6
    assert "catalog" not in inputs["parts"]
    assert "catalog" not in inputs["lock"]


def test_nothing_is_kept_without_being_asked(make_cluster, tmp_path):
    _, client = make_cluster(n_workers=1)
    place = tmp_path / "kept"
    with scalable.instrument(client, parameters="all", catalog=place) as run:
        client.submit(join, list(range(1_000)), "well", key="good").result()
    assert "catalog" not in json.dumps(ends(run))
    assert not place.exists()
