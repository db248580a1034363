"""What failed attempts were called with, in words: what differs, and what all had."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import orjson

from scalable.analysis.layout import fit
from scalable_runs.schema import ArgumentSummary, ArgumentValue

#: Parameters named in one sentence, values listed of one, and characters of a value.
_MAX_NAMES: Final = 4
_MAX_VALUES: Final = 8
_MAX_VALUE: Final = 60
_HIDDEN: Final = "[redacted]"


def argument_sentences(arguments: Sequence[ArgumentSummary], count: int) -> Iterator[str]:
    """Yield what tells the calls of `count` failed attempts apart, then what they share.

    Examples
    --------
    >>> values = [{"value": 0, "count": 1}, {"value": 7, "count": 2}]
    >>> list(argument_sentences([{"name": "x", "count": 3, "values": values, "others": 0}], 3))
    ['the 3 that failed have x 0, 7 (2×)']
    """
    known = max((row["count"] for row in arguments), default=0)
    told = [row for row in arguments if _tells(row)]
    if not told:
        return
    if known == 1:
        whose = "it was called with" if count == 1 else f"one of the {count:,} was called with"
        yield f"{whose} {_list(told, _only)}"
        return
    whose = f"the {known:,} that failed have"
    if known < count:
        whose = f"of the {count:,} that failed, {known:,} are known to have"
    differing = [row for row in told if _differs(row)]
    same = [row for row in told if not _differs(row) and row["count"] == known]
    if differing:
        yield f"{whose} {_list(differing, _values, '; ')}"
    if same:
        yield (
            f"all of them have {_list(same, _only)}"
            if differing
            else (f"{whose} the same {_list(same, _only)}")
        )


def _tells(row: ArgumentSummary) -> bool:
    """Whether the values say something: not only that they are secret, or objects of one kind."""
    shown = [value for value in row["values"] if value.get("value") != _HIDDEN]
    if len(shown) == 1 and "value" not in shown[0]:
        return " " in shown[0].get("description", "")
    return bool(shown)


def _differs(row: ArgumentSummary) -> bool:
    return len(row["values"]) > 1 or row["others"] > 0


def _list(rows: Sequence[ArgumentSummary], show: Any, separator: str = ", ") -> str:
    parts = [f"{row['name']} {show(row)}" for row in rows[:_MAX_NAMES]]
    if len(rows) > _MAX_NAMES:
        parts.append(f"and {len(rows) - _MAX_NAMES:,} more")
    return separator.join(parts)


def _only(row: ArgumentSummary) -> str:
    return _value(row["values"][0])


def _values(row: ArgumentSummary) -> str:
    values = row["values"]
    if "min" in row and "max" in row:
        if len(values) > _MAX_VALUES:
            number = f"{len(values):,} different values" if not row["others"] else "many values"
            return f"from {row['min']:g} to {row['max']:g} ({number})"
        values = sorted(values, key=lambda value: value.get("value", 0.0))
    shown = [_value(value) + _times(value) for value in values[:_MAX_VALUES]]
    more = len(values) - len(shown)
    if row["others"]:
        return f"{', '.join(shown)} and more than {more:,} more"
    return ", ".join(shown) + (f" and {more:,} more" if more else "")


def _times(value: ArgumentValue) -> str:
    count = value.get("count", 1)
    return f" ({count:,}×)" if count > 1 else ""


def _value(value: ArgumentValue | Mapping[str, Any]) -> str:
    if "value" not in value:
        return fit(str(value.get("description") or "object"), _MAX_VALUE)
    found: Any = value["value"]
    if isinstance(found, str):
        return f"“{fit(found, _MAX_VALUE)}”"
    return fit(orjson.dumps(found).decode(), _MAX_VALUE)


def joined_arguments(
    one: Sequence[ArgumentSummary], other: Sequence[ArgumentSummary]
) -> list[ArgumentSummary]:
    """Put the arguments of two groups of failures together."""
    rows: dict[str, ArgumentSummary] = {}
    for row in (*one, *other):
        before = rows.get(row["name"])
        if before is None:
            rows[row["name"]] = row
            continue
        counts: dict[bytes, ArgumentValue] = {}
        for value in (*before["values"], *row["values"]):
            shown = {name: part for name, part in value.items() if name != "count"}
            key = orjson.dumps(shown)
            seen = counts.get(key, {}).get("count", 0)
            counts[key] = {**value, "count": seen + value.get("count", 1)}
        joined: ArgumentSummary = {
            "name": row["name"],
            "count": before["count"] + row["count"],
            "values": list(counts.values()),
            "others": before["others"] + row["others"],
        }
        if "min" in before and "max" in before and "min" in row and "max" in row:
            joined["min"] = min(before["min"], row["min"])
            joined["max"] = max(before["max"], row["max"])
        rows[row["name"]] = joined
    return list(rows.values())
