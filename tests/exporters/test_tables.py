"""Journals as tables: what pyarrow, pandas, polars and DuckDB read of them."""

from __future__ import annotations

import csv
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from store_world import create, task

from run_builder import RunBuilder, eventful
from scalable.cli import cli
from scalable_runs.reader import RunReader
from scalable_runs.schema import TASKS
from scalable_runs.tables import write_csv

RUN = "run-20260102T030405Z-flights-0a1b2c3d"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    builder = RunBuilder(tmp_path / "runs", RUN)
    eventful(builder)
    return builder.finish(12)


def scalable(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, prog_name="scalable")


def convert(run: Path, form: str, output: Path) -> dict[str, Any]:
    result = scalable("convert", str(run), "--to", form, "--output", str(output), "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_every_library_reads_the_parquet_files_with_their_types(run: Path, tmp_path: Path) -> None:
    parquet: Any = pytest.importorskip("pyarrow.parquet")
    pandas: Any = pytest.importorskip("pandas")
    polars: Any = pytest.importorskip("polars")
    duckdb: Any = pytest.importorskip("duckdb")
    told = convert(run, "parquet", tmp_path / "tables")
    records = list(RunReader(run).records(TASKS))
    reader = RunReader(run)
    filled = [file for file in reader.files() if reader.size(file)]
    assert told["tables"] == [file.removesuffix(".jsonl") for file in filled]
    path = tmp_path / "tables" / "tasks.parquet"
    table = parquet.read_table(path)
    assert table.num_rows == len(records)
    types = {field.name: str(field.type) for field in table.schema}
    assert types["timestamp"] == "timestamp[us, tz=UTC]"
    assert types["task_name"].startswith("dictionary<values=string")
    assert types["duration_s"] == "double"
    assert types["seq"] == "int64"
    first = datetime.fromisoformat(records[0]["timestamp"]).astimezone(UTC)
    assert table["timestamp"][0].as_py() == first
    frame = pandas.read_parquet(path)
    assert frame["timestamp"].dt.tz is not None
    assert frame["state"].dtype == "category"
    assert list(frame["task_id"]) == [record["task_id"] for record in records]
    lazy = polars.read_parquet(path)
    assert lazy["timestamp"].dtype.is_temporal()
    durations = sum(record.get("duration_s") or 0 for record in records)
    assert lazy["duration_s"].sum() == pytest.approx(durations)
    (row,) = duckdb.sql(
        f"SELECT count(*), min(timestamp), sum(duration_s) FROM '{path}'"
    ).fetchall()
    assert (row[0], row[1].astimezone(UTC)) == (len(records), first)
    assert row[2] == pytest.approx(durations)
    failures = parquet.read_table(tmp_path / "tables" / "failures.parquet").to_pylist()
    expected = [record["details"] for record in RunReader(run).records("failures.jsonl")]
    assert [json.loads(row["details"]) for row in failures] == expected


def test_a_duckdb_database_has_a_table_for_each_journal(run: Path, tmp_path: Path) -> None:
    duckdb: Any = pytest.importorskip("duckdb")
    pytest.importorskip("pyarrow")
    told = convert(run, "duckdb", tmp_path / "run.duckdb")
    with duckdb.connect(str(tmp_path / "run.duckdb"), read_only=True) as database:
        tables = [name for (name,) in database.execute("SHOW TABLES").fetchall()]
        assert sorted(tables) == sorted(told["tables"])
        for name in tables:
            (number,) = database.execute(f"SELECT count(*) FROM {name}").fetchone()
            assert number == len(list(RunReader(run).records(f"{name}.jsonl")))
        types = dict(
            database.execute("SELECT column_name, column_type FROM (DESCRIBE tasks)").fetchall()
        )
        assert types["timestamp"].startswith("TIMESTAMP")
        assert types["duration_s"] == "DOUBLE"


def test_csv_has_a_header_times_and_json(run: Path, tmp_path: Path) -> None:
    convert(run, "csv", tmp_path / "tables")
    with (tmp_path / "tables" / "tasks.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    records = list(RunReader(run).records(TASKS))
    assert [row["task_id"] for row in rows] == [record["task_id"] for record in records]
    assert {row["timestamp"][-1] for row in rows} == {"Z"}
    with_result = [row for row in rows if row["state"] == "succeeded"]
    assert all(float(row["duration_s"]) >= 0 for row in with_result)


def test_values_of_no_type_become_text(tmp_path: Path) -> None:
    writer = create(tmp_path)
    changes: list[dict[str, Any]] = [
        {"timestamp": "2026-01-02T03:04:05Z", "phases_start": "2999-99-99", "big": 2**70},
        {"task_name": 3, "phases_start": "2026-01-02T03:04:05.5Z", "big": 1, "mine": [1, {"a": 2}]},
    ]
    writer.append(TASKS, [task(n + 1) | change for n, change in enumerate(changes)])
    writer.close()
    (path,) = write_csv(RunReader(writer.path), tmp_path)
    with path.open(encoding="utf-8", newline="") as file:
        first, second = csv.DictReader(file)
    assert first["phases_start"] == "2999-99-99"
    assert second["phases_start"] == "2026-01-02T03:04:05.5Z"
    assert json.loads(second["mine"]) == [1, {"a": 2}]


@pytest.mark.parametrize("form", ["csv", "parquet", "duckdb"])
def test_what_is_there_stays_unless_it_is_to_be_replaced(
    run: Path, tmp_path: Path, form: str
) -> None:
    if form != "csv":
        pytest.importorskip("pyarrow")
    if form == "duckdb":
        pytest.importorskip("duckdb")
    output = tmp_path / "out"
    output.write_text("mine")
    arguments = ("convert", str(run), "--to", form, "--output", str(output))
    refused = scalable(*arguments)
    assert refused.exit_code == 1
    assert "--force" in refused.output
    assert output.read_text() == "mine"
    assert scalable(*arguments, "--force").exit_code == 0
    assert scalable(*arguments, "--force").exit_code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "runs"]


@pytest.mark.parametrize(
    ("form", "module", "extra"),
    [("parquet", "pyarrow", "parquet"), ("duckdb", "duckdb", "duckdb")],
)
def test_a_missing_library_is_named_with_its_extra(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, module: str, extra: str
) -> None:
    monkeypatch.setitem(__import__("sys").modules, module, None)
    result = scalable("convert", str(run), "--to", form, "--output", str(tmp_path / "out"))
    assert result.exit_code == 1
    assert f"scalable-otel[{extra}]" in result.output
    assert not (tmp_path / "out").exists()


def test_a_run_that_goes_on_while_it_is_converted(tmp_path: Path) -> None:
    """The rows are those of the first reading, whose columns are known."""
    writer = create(tmp_path / "runs")
    writer.append(TASKS, [task(1), task(2)])
    writer.flush()
    calls: list[int] = []

    def go_on(length: int) -> None:
        calls.append(length)
        if len(calls) == 2:
            writer.append(TASKS, [{**task(3), "unheard_of": 1}])
            writer.flush()

    folder = tmp_path / "tables"
    folder.mkdir()
    (path,) = write_csv(RunReader(writer.path), folder, go_on)
    assert len(calls) >= 2
    with path.open(encoding="utf-8", newline="") as file:
        assert [row["task_id"] for row in csv.DictReader(file)] == ["inc-1", "inc-2"]
    writer.close()
