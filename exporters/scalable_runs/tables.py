"""A run's journals as tables with typed columns: parquet, CSV, DuckDB.

A column has the type of its field: times are timestamps in UTC with microseconds; names, states and
other texts of which there are few are dictionary-encoded; nested values (`details`, `attributes`,
`line_items`, …) are JSON text. Where values are of several types, text holds them all.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Final, Literal, cast, get_origin

from scalable_runs import fields
from scalable_runs.fields import fields_of
from scalable_runs.plain import parse_time
from scalable_runs.reader import RunReader
from scalable_runs.schema import DECLARATION_OF, JOURNALS, AnyRecord
from scalable_runs.stores.base import Store

#: What brings pyarrow.
EXTRA: Final = "pip install 'scalable-otel[parquet]'"
#: What brings DuckDB.
DUCKDB_EXTRA: Final = "pip install 'scalable-otel[duckdb]'"
#: Records written at once.
_ROWS: Final = 20_000

#: Called with the bytes read since the last call.
Progress = Callable[[int], None]


def write_snapshots(run: str | os.PathLike[str] | Store) -> list[str]:
    """Attach ``<journal>.parquet`` to a run for each journal that has records.

    Signals (spans, logs, metrics) are left out; :func:`write_parquet` has them as well.

    Parameters
    ----------
    run
        The run's directory, or its store.

    Returns
    -------
    list of str
        The files' names in the run.

    Raises
    ------
    ImportError
        pyarrow is not installed.
    OSError
        A file cannot be written.
    """
    arrow, parquet = _arrow()
    reader = RunReader(run)
    written: list[str] = []
    for journal in JOURNALS:
        table = _Table(reader, journal, None)
        if not table.columns:
            continue
        name = f"{table.name}.parquet"
        with reader.store.attach(name) as file:
            _write_parquet(arrow, parquet, table, file)
        written.append(name)
    return written


def write_parquet(reader: RunReader, folder: Path, progress: Progress | None = None) -> list[Path]:
    """Write ``<journal>.parquet`` into a folder for each journal and signal that has records.

    Raises
    ------
    ImportError
        pyarrow is not installed; the message names the extra.
    OSError
        A file cannot be written.
    """
    arrow, parquet = _arrow()
    written: list[Path] = []
    for table in _tables(reader, progress):
        path = folder / f"{table.name}.parquet"
        with path.open("xb") as file:
            _write_parquet(arrow, parquet, table, file)
        written.append(path)
    return written


def write_csv(reader: RunReader, folder: Path, progress: Progress | None = None) -> list[Path]:
    """Write ``<journal>.csv`` into a folder: UTF-8, with a header, an empty field for null.

    Raises
    ------
    OSError
        A file cannot be written.
    """
    written: list[Path] = []
    for table in _tables(reader, progress):
        path = folder / f"{table.name}.csv"
        with path.open("x", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, table.columns)
            writer.writeheader()
            for rows in table.batches():
                writer.writerows(
                    {name: _csv_value(value) for name, value in row.items()} for row in rows
                )
        written.append(path)
    return written


def write_duckdb(reader: RunReader, path: Path, progress: Progress | None = None) -> list[str]:
    """Write a DuckDB database with a table for each journal and signal that has records.

    Returns
    -------
    list of str
        Names of the tables.

    Raises
    ------
    ImportError
        duckdb or pyarrow is not installed; the message names the extra.
    OSError
        The database cannot be written.
    """
    try:
        import duckdb as library
    except ImportError as error:
        raise ImportError(f"duckdb is not installed: {DUCKDB_EXTRA}") from error
    duckdb = cast("Any", library)
    arrow, _ = _arrow()
    written: list[str] = []
    try:
        with duckdb.connect(str(path)) as database:
            for table in _tables(reader, progress):
                schema = table.schema(arrow)
                verb = f"CREATE TABLE {table.name} AS"
                for rows in table.batches():
                    batch = arrow.Table.from_pylist(rows, schema=schema)
                    database.register("batch", batch)
                    database.execute(f"{verb} SELECT * FROM batch")
                    database.unregister("batch")
                    verb = f"INSERT INTO {table.name}"
                written.append(table.name)
    except duckdb.Error as error:
        raise OSError(f"{path} cannot be written: {error}") from error
    return written


def _arrow() -> tuple[Any, Any]:
    try:
        import pyarrow as arrow  # pyright: ignore[reportMissingTypeStubs]
        import pyarrow.parquet as parquet  # pyright: ignore[reportMissingTypeStubs]
    except ImportError as error:
        raise ImportError(f"pyarrow is not installed: {EXTRA}") from error
    return cast("Any", arrow), cast("Any", parquet)


def _write_parquet(arrow: Any, parquet: Any, table: _Table, file: Any) -> None:
    schema = table.schema(arrow)
    with parquet.ParquetWriter(file, schema) as writer:
        for rows in table.batches():
            writer.write_table(arrow.Table.from_pylist(rows, schema=schema))


def _tables(reader: RunReader, progress: Progress | None) -> Iterator[_Table]:
    for journal in reader.files():
        table = _Table(reader, journal, progress)
        if table.columns:
            yield table


def _csv_value(value: Any) -> Any:
    return value.isoformat().replace("+00:00", "Z") if hasattr(value, "isoformat") else value


Column = Literal["bool", "int64", "float64", "string", "names", "time"]


class _Table:
    """One journal as a table; used by one thread, which reads the journal twice.

    Attributes
    ----------
    name
        The journal's, without its ending.
    columns
        The type of each column; there are none if there is no record.
    """

    def __init__(self, reader: RunReader, journal: str, progress: Progress | None) -> None:
        self.name = journal.removesuffix(".jsonl")
        self._reader = reader
        self._journal = journal
        self._progress = progress
        self._count = 0
        self.columns = _columns(journal, self._counted())

    def _counted(self) -> Iterator[Any]:
        for record in self._reader.records(self._journal, progress=self._progress):
            self._count += 1
            yield record

    def batches(self) -> Iterator[list[dict[str, Any]]]:
        """The rows, some thousands at a time; without those that came after the first reading.

        Raises
        ------
        OSError
            The run cannot be read, or another writer's records came between.
        """
        records = self._reader.records(self._journal, progress=self._progress)
        rows = islice(records, self._count)
        while batch := [_row(record, self.columns) for record in islice(rows, _ROWS)]:
            yield batch

    def schema(self, arrow: Any) -> Any:
        """The columns as pyarrow knows them."""
        types = {
            "bool": arrow.bool_(),
            "int64": arrow.int64(),
            "float64": arrow.float64(),
            "string": arrow.string(),
            "names": arrow.dictionary(arrow.int32(), arrow.string()),
            "time": arrow.timestamp("us", tz="UTC"),
        }
        return arrow.schema([(name, types[column]) for name, column in self.columns.items()])


def _columns(journal: str, records: Iterator[Any]) -> dict[str, Column]:
    declared = fields_of(DECLARATION_OF.get(journal, AnyRecord))
    columns: dict[str, Column | None] = {}
    for record in records:
        for name, value in record.items():
            if name not in columns:
                columns[name] = _declared(declared[name]) if name in declared else None
            if value is None:
                continue
            column, found = columns[name], _column(value)
            if column == found or (column == "names" and found == "string"):
                continue
            if column == "time" and found == "string" and parse_time(value) is not None:
                continue
            mixed: Column = "float64" if {column, found} == {"int64", "float64"} else "string"
            columns[name] = found if column is None else mixed
    return {name: column or "string" for name, column in columns.items()}


def _declared(field: fields.Field) -> Column | None:
    """Return the type of a declared field; None if it may be anything."""
    if field.kind is fields.time:
        return "time"
    if get_origin(field.type) is Literal or field.name in _NAMES:
        return "names"
    return _COLUMNS.get(field.type)


#: Texts of which a run has few.
_NAMES: Final = frozenset(
    {
        *("run_id", "writer", "trace_id", "component", "provider", "host"),
        *("task_name", "function_name", "tag", "worker", "worker_id", "result_type"),
        *("error_type", "error_class", "failure_class", "entity_type", "phase"),
        *("kind", "name", "severity", "unit", "outcome"),
    }
)
#: Columns of other declared fields.
_COLUMNS: Final[Mapping[Any, Column]] = {
    bool: "bool",
    int: "int64",
    float: "float64",
    str: "string",
}


def _column(value: Any) -> Column:
    column = _COLUMNS.get(type(value), "string")
    return "string" if column == "int64" and not -(2**63) <= value < 2**63 else column


def _row(record: Any, columns: Mapping[str, Column]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name, value in record.items():
        column = columns.get(name)
        if column is None:
            raise OSError("the run went on while it was read: repeat this, or wait for its end")
        if value is None:
            pass
        elif column == "time":
            value = parse_time(value)
        elif column in ("string", "names") and not isinstance(value, str):
            value = json.dumps(value, ensure_ascii=False)
        elif column == "float64" and isinstance(value, int):
            value = float(value)
        row[name] = value
    return row
