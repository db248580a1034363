"""Parquet copies of a run's journals, for programs that read columns."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from itertools import islice
from typing import Any, Final, cast

from scalable_runs.reader import RunReader
from scalable_runs.schema import JOURNALS
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
        schema = _schema(library, reader.records(journal))
        if schema is None:
            continue
        name = f"{journal.removesuffix('.jsonl')}.parquet"
        with reader.store.attach(name) as file, writer_type(file, schema) as writer:
            rows = iter(reader.records(journal))
            while batch := [_row(record, schema) for record in islice(rows, _ROWS)]:
                writer.write_table(library.Table.from_pylist(batch, schema=schema))
        written.append(name)
    return written


def _schema(library: Any, records: Iterator[Any]) -> Any:
    """Types of all columns; where a column has several, text holds them all."""
    kinds: dict[str, str] = {}
    for record in records:
        for name, value in record.items():
            kind = _kind(value)
            before = kinds.setdefault(name, kind)
            if before != kind:
                numbers = {before, kind} <= {"int64", "float64"}
                kinds[name] = "float64" if numbers else "string"
    if not kinds:
        return None
    types = {
        "bool": library.bool_(),
        "int64": library.int64(),
        "float64": library.float64(),
        "string": library.string(),
    }
    return library.schema([(name, types[kind]) for name, kind in kinds.items()])


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int64" if -(2**63) <= value < 2**63 else "string"
    return "float64" if isinstance(value, float) else "string"


def _row(record: Any, schema: Any) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name, value in record.items():
        wants = str(schema.field(name).type)
        if wants == "string" and not isinstance(value, str):
            value = json.dumps(value, ensure_ascii=False)
        elif wants == "double" and isinstance(value, int):
            value = float(value)
        row[name] = value
    return row
