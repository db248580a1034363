"""Puts values into words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from scalable.analysis.sections import Kind, Value


def seconds(value: float | None) -> str:
    """Return a time span in at most seven characters, with the unit that suits it."""
    if value is None:
        return "-"
    if value <= 0:
        return "0 s"
    for unit, factor in (("µs", 1e6), ("ms", 1e3), ("s", 1.0)):
        amount = value * factor
        if amount < (59.95 if unit == "s" else 999.5):
            return f"{_three_digits(amount)} {unit}"
    whole = round(value)
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    if whole < 100 * 3600:
        return f"{whole // 3600}h {whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d {whole % 86400 // 3600:02d}h"


def _three_digits(amount: float) -> str:
    if amount < 9.995:
        return f"{amount:.2f}"
    return f"{amount:.1f}" if amount < 99.95 else f"{amount:.0f}"


def gigabytes(value: float | None) -> str:
    """Return an amount of memory given in 10^9 bytes."""
    if value is None:
        return "-"
    if value < 0.9995:
        return f"{value * 1e3:.0f} MB"
    return f"{_three_digits(value)} GB"


def percent(ratio: float | None) -> str:
    """Return a share."""
    if ratio is None:
        return "-"
    return f"{ratio:.1%}" if 0 < ratio < 0.0995 else f"{ratio:.0%}"


def plural(count: int, singular: str, several: str | None = None) -> str:
    """Return a count with its noun."""
    return f"{count:,} {singular if count == 1 else several or singular + 's'}"


def memory(peak: float | None, limit: float | None) -> str:
    """Return a peak of memory with its limit, both in 10^9 bytes."""
    if not peak or not limit:
        return gigabytes(peak)
    return f"{gigabytes(peak)} of {gigabytes(limit)} ({percent(peak / limit)})"


def size(value: float | None) -> str:
    """Return a number of bytes."""
    if value is None:
        return "-"
    if value < 1e4:
        return f"{value:,.0f} B"
    return f"{value / 1e3:,.0f} kB" if value < 1e6 else gigabytes(value / 1e9)


def counts(*rows: tuple[int, str]) -> str:
    """Return those counts that are not zero, each with its word."""
    return ", ".join(f"{count:,} {word}" for count, word in rows if count)


def members(table: Mapping[str, int], shown: int = 3) -> str:
    """Return the first members of a table with how often each was counted."""
    names = [
        f"{name} ({count:,}×)" if count > 1 else name for name, count in list(table.items())[:shown]
    ]
    more = len(table) - len(names)
    return ", ".join(names) + (f" and {more:,} more" if more else "")


_FORMATS: Final[Mapping[Kind, Callable[[float], str]]] = {
    "ordinal": str,
    "count": "{:,}".format,
    "number": "{:.6g}".format,
    "seconds": seconds,
    "gigabytes": gigabytes,
    "bytes": size,
    "share": percent,
}


def formatted(value: Value, kind: Kind) -> str:
    """Return a value of a table as its kind is written."""
    if value is None:
        return "-"
    return value if isinstance(value, str) else _FORMATS[kind](value)
