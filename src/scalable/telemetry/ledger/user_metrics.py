"""The numbers that the program and its tasks record, each as a series."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

from scalable_runs.schema import UserMetric

#: Names of metrics that are kept; points of further ones are in metrics.jsonl alone.
MAX_METRICS: Final = 200


class UserMetrics:
    """The last value and the least and the greatest of each metric; used by one thread."""

    def __init__(self) -> None:
        self._found: dict[str, UserMetric] = {}
        #: A point was added since the last :meth:`document`.
        self.changed = False

    def add(self, name: str, value: float, unit: str, step: int | None) -> None:
        """Add a point; `step` is its place in the series, if it has one.

        The last value is that of the greatest step; without steps, that which came last.
        """
        row = self._found.get(name)
        if row is None:
            if len(self._found) >= MAX_METRICS:
                return
            row = self._found[name] = {"count": 0}
        self.changed = True
        row["count"] = row.get("count", 0) + 1
        if unit:
            row["unit"] = unit
        if step is None or step >= row.get("step", step):
            _set(row, "last", "step", value, step)
        if value < row.get("min", value) or "min" not in row:
            _set(row, "min", "min_step", value, step)
        if value > row.get("max", value) or "max" not in row:
            _set(row, "max", "max_step", value, step)

    def document(self) -> dict[str, UserMetric]:
        """Return the rows by name."""
        self.changed = False
        return {name: cast("UserMetric", {**row}) for name, row in self._found.items()}

    def restore(self, document: object) -> None:
        """Continue from what a recorder that died had written to run.json."""
        if isinstance(document, Mapping):
            for name, row in cast("Mapping[str, Any]", document).items():
                if isinstance(row, dict) and len(self._found) < MAX_METRICS:
                    self._found.setdefault(name, cast("Any", {**row}))


def _set(row: Any, name: str, of_step: str, value: float, step: int | None) -> None:
    row[name] = value
    if step is not None:
        row[of_step] = step
    else:
        row.pop(of_step, None)
