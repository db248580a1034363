"""The values of arguments that failures of one cause had."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, cast

import orjson

from scalable_runs.schema import ArgumentSummary

#: Parameters followed of one cause, and different values kept of each.
MAX_PARAMETERS: Final = 50
MAX_VALUES: Final = 50
#: Characters of a value.
MAX_CHARACTERS: Final = 200


@dataclass(slots=True)
class _Values:
    count: int = 0
    #: By its JSON: how often, and the value or its description.
    seen: dict[bytes, list[Any]] = field(default_factory=dict[bytes, list[Any]])
    others: int = 0
    #: The least and the greatest, if all are numbers.
    least: float = math.inf
    greatest: float = -math.inf
    are_numbers: bool = True


class Arguments:
    """Counts the values of each parameter, up to a number of them; one thread feeds it."""

    def __init__(self) -> None:
        #: Calls whose arguments are known.
        self.calls = 0
        self._by_name: dict[str, _Values] = {}

    def add(self, parameters: object) -> None:
        """Add the arguments of one call, as a record has them."""
        if not isinstance(parameters, list) or not parameters:
            return
        self.calls += 1
        for entry in cast("Iterable[Any]", parameters):
            name = entry.get("name") if isinstance(entry, Mapping) else None
            if not isinstance(name, str) or name == "…":
                continue
            values = self._by_name.get(name)
            if values is None:
                if len(self._by_name) >= MAX_PARAMETERS:
                    continue
                values = self._by_name[name] = _Values()
            self._count(values, cast("Mapping[str, Any]", entry))

    def _count(self, values: _Values, entry: Mapping[str, Any]) -> None:
        shown: dict[str, Any]
        if "value" in entry and len(orjson.dumps(entry["value"])) <= MAX_CHARACTERS:
            shown = {"value": entry["value"]}
        else:
            shown = {"description": describe(entry)[:MAX_CHARACTERS]}
        values.count += 1
        number: Any = shown.get("value")
        if type(number) in (int, float):
            values.least = min(values.least, number)
            values.greatest = max(values.greatest, number)
        else:
            values.are_numbers = False
        key = orjson.dumps(shown)
        row = values.seen.get(key)
        if row is not None:
            row[0] += 1
        elif len(values.seen) < MAX_VALUES:
            values.seen[key] = [1, shown]
        else:
            values.others += 1

    def document(self) -> list[ArgumentSummary]:
        """Return a row for each parameter, in the order of the call."""
        return [_row(name, values) for name, values in self._by_name.items()]


def _row(name: str, values: _Values) -> ArgumentSummary:
    row: Any = {
        "name": name,
        "count": values.count,
        "values": [{**shown, "count": count} for count, shown in values.seen.values()],
        "others": values.others,
    }
    if values.are_numbers:
        row |= {"min": values.least, "max": values.greatest}
    return row


def describe(entry: Mapping[str, Any]) -> str:
    """Say what is known of a value that is not given itself, in a few words."""
    shape: Any = entry.get("shape")
    length = entry.get("length")
    parts = [
        str(entry.get("type") or ""),
        " × ".join(map(str, cast("list[Any]", shape))) if isinstance(shape, list) else "",
        str(entry.get("dtype") or ""),
        str(entry.get("description") or ""),
        f"of length {length:,}" if isinstance(length, int) else "",
    ]
    return " ".join(filter(None, parts)) or "object"
