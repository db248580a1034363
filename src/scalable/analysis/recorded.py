"""What the program recorded itself: artifacts and metrics, the first of each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, cast

from scalable.analysis.report import Recorded
from scalable_runs.reader import RunReader
from scalable_runs.schema import ARTIFACTS, METRICS, Record

#: Bytes of a journal that are read, and names that are kept.
_MAX_BYTES: Final = 4 * 2**20
_MAX_NAMES: Final = 200
#: Metrics that Dask and this package measure are reported elsewhere.
_NOT_OWN: Final = ("dask.", "scalable.", "process.", "system.", "otel.")


def artifacts_of(reader: RunReader) -> tuple[Recorded, ...]:
    """Return the artifacts that the program recorded, in the order of their names."""
    found: list[Recorded] = []
    for record in _records(reader, ARTIFACTS):
        if len(found) < _MAX_NAMES:
            detail = {
                name: record.get(name)
                for name in ("location", "kind", "stage", "size_bytes", "digest", "task_id")
                if record.get(name) is not None
            }
            found.append(Recorded(str(record.get("artifact_name") or "-"), 1, detail))
    return tuple(sorted(found, key=lambda row: row.name))


def metrics_of(reader: RunReader) -> tuple[Recorded, ...]:
    """Return the program's own numbers, in the order of their names.

    Earlier versions, and several programs of one run, have them in metrics.jsonl alone.
    """
    kept: object = reader.document.get("user_defined_metrics")
    if isinstance(kept, dict) and kept and not reader.parts:
        rows = cast("dict[str, Any]", kept)
        return tuple(
            Recorded(name, rows[name].get("count") or 1, _detail(rows[name]))
            for name in sorted(rows)[:_MAX_NAMES]
            if isinstance(rows[name], dict) and {"last", "min", "max"} <= rows[name].keys()
        )
    found: dict[str, list[float]] = {}
    units: dict[str, str] = {}
    for record in _records(reader, METRICS):
        name, value = record.get("name"), record.get("value")
        if name is None or value is None or record.get("kind") != "gauge":
            continue
        if name.startswith(_NOT_OWN) or (name not in found and len(found) >= _MAX_NAMES):
            continue
        found.setdefault(name, []).append(float(value))
        units[name] = record.get("unit") or ""
    return tuple(
        Recorded(
            name,
            len(values),
            {
                "last": values[-1],
                "min": min(values),
                "max": max(values),
                **({"unit": units[name]} if units[name] not in ("", "1") else {}),
            },
        )
        for name, values in sorted(found.items())
    )


def _detail(row: dict[str, Any]) -> dict[str, Any]:
    """What is shown of a series: numbers and a unit."""
    found = {
        name: row[name]
        for name in ("last", "step", "min", "min_step", "max", "max_step")
        if type(row.get(name)) in (int, float)
    }
    unit = row.get("unit")
    return found | ({"unit": unit} if isinstance(unit, str) and unit != "1" else {})


def _records(reader: RunReader, file: str) -> Iterator[Record]:
    """Yield the records of a journal, of one that is too large none."""
    if 0 < reader.size(file) <= _MAX_BYTES:
        yield from reader.records(file)
