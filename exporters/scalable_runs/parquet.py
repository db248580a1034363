"""Parquet copies of a run's journals, for programs that read columns."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, Final, cast

from scalable_runs.fields import fields_of
from scalable_runs.reader import RunReader
from scalable_runs.schema import DECLARATION_OF, JOURNALS
from scalable_runs.stores.base import Store

#: What brings pyarrow.
EXTRA: Final = "pip install 'scalable-otel[parquet]'"
#: Records written at once.
_ROWS: Final = 20_000


def write_snapshots(run: str | os.PathLike[str] | Store) -> list[str]:
    """Attach ``<journal>.parquet`` to a run for each journal that has records.

    Columns are those of the records; nested values (`details`, `line_items`, …) are JSON text.

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
    try:
        import pyarrow as arrow  # pyright: ignore[reportMissingTypeStubs]
        import pyarrow.parquet as parquet  # pyright: ignore[reportMissingTypeStubs]
    except ImportError as error:
        raise ImportError(f"pyarrow is not installed: {EXTRA}") from error
    library, writer_type = cast("Any", arrow), cast("Any", parquet).ParquetWriter
    reader = RunReader(run)
    written: list[str] = []
    for journal in JOURNALS:
        schema = _schema(library, journal, reader.records(journal))
        if schema is None:
            continue
        name = f"{journal.removesuffix('.jsonl')}.parquet"
        with reader.store.attach(name) as file, writer_type(file, schema) as writer:
            rows = iter(reader.records(journal))
            while batch := [_row(record, schema) for record in islice(rows, _ROWS)]:
                writer.write_table(library.Table.from_pylist(batch, schema=schema))
        written.append(name)
    return written


def _schema(library: Any, journal: str, records: Iterator[Any]) -> Any:
    """Return the types of all columns; where values are of several types, text holds them all."""
    declared = fields_of(DECLARATION_OF[journal])
    columns: dict[str, str | None] = {}
    for record in records:
        for name, value in record.items():
            if name not in columns:
                columns[name] = _COLUMNS.get(declared[name].type) if name in declared else None
            if value is None:
                continue
            column, found = columns[name], _column(value)
            if column != found:
                mixed = "float64" if {column, found} == {"int64", "float64"} else "string"
                columns[name] = found if column is None else mixed
    if not columns:
        return None
    types = {
        "bool": library.bool_(),
        "int64": library.int64(),
        "float64": library.float64(),
        "string": library.string(),
    }
    return library.schema([(name, types[of or "string"]) for name, of in columns.items()])


#: Columns of declared fields; what is not declared, or may be anything, has the type of its values.
_COLUMNS: Final[Mapping[Any, str]] = {
    bool: "bool",
    int: "int64",
    float: "float64",
    str: "string",
}


def _column(value: Any) -> str:
    column = _COLUMNS.get(type(value), "string")
    return "string" if column == "int64" and not -(2**63) <= value < 2**63 else column


def _row(record: Any, schema: Any) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name, value in record.items():
        column = str(schema.field(name).type)
        if value is not None and column == "string" and not isinstance(value, str):
            value = json.dumps(value, ensure_ascii=False)
        elif column == "double" and isinstance(value, int):
            value = float(value)
        row[name] = value
    return row
