"""Columns of Parquet files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from store_world import create, task

from scalable_runs.parquet import write_snapshots
from scalable_runs.schema import TASKS

NAMES = "dictionary<values=string, indices=int32, ordered=0>"


def test_declared_columns_have_the_type_of_the_schema_and_others_that_of_their_values(
    tmp_path: Path,
):
    parquet: Any = pytest.importorskip("pyarrow.parquet")
    writer = create(tmp_path)
    changes: list[dict[str, Any]] = [
        {"duration_s": 2, "nbytes": 3, "dependencies": ["a"], "mine": 1},
        {"duration_s": 0.5, "nbytes": None, "cpu_s": "broken", "mine": "x", "extra": 2},
    ]
    writer.append(TASKS, [task(n + 1) | change for n, change in enumerate(changes)])
    writer.close()
    assert write_snapshots(writer.path) == ["tasks.parquet"]
    table = parquet.read_table(writer.path / "tasks.parquet")
    types = {field.name: str(field.type) for field in table.schema}
    expected = {
        **{"duration_s": "double", "nbytes": "int64", "cpu_s": "double", "attempt": "int64"},
        **{"dependencies": "string", "mine": "string", "extra": "int64"},
        **{
            "timestamp": "timestamp[us, tz=UTC]",
            "state": "dictionary<values=string, indices=int32, ordered=0>",
        },
    }
    assert {name: types[name] for name in expected} == expected
    rows = table.to_pylist()
    assert [row["duration_s"] for row in rows] == [2.0, 0.5]
    assert [row["nbytes"] for row in rows] == [3, None]
    assert [row["dependencies"] for row in rows] == ['["a"]', None]
    assert [row["mine"] for row in rows] == ["1", "x"]
    assert rows[1]["cpu_s"] is None
