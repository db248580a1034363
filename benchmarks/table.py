"""Rows, budgets, the table, and which rows make the benchmarks fail."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

#: ``count``: independent of the speed of the machine; ``time``: dependent on it.
Kind = Literal["count", "time"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table.

    Attributes
    ----------
    key
        Short name, unique.
    what
        What was measured, in words.
    measured
        The figure, in `unit`.
    budget
        What it may be at most; None where a figure is only reported.
    spread
        Smallest and largest of the single measurements.
    floor
        Median, smallest and largest of the control (bare against bare) of the same rounds.
    ceiling
        Of a count whose budget is known to be out of reach: what it must not grow beyond all the
        same.
    rounds, control
        The single measurements, for the plot.
    note
        What a reader must know besides.
    """

    key: str
    what: str
    measured: float
    unit: str = ""
    budget: float | None = None
    kind: Kind = "time"
    ceiling: float | None = None
    spread: tuple[float, float] | None = None
    floor: tuple[float, float, float] | None = None
    rounds: tuple[float, ...] = ()
    control: tuple[float, ...] = ()
    note: str = ""

    @classmethod
    def of_rounds(
        cls,
        key: str,
        what: str,
        rounds: Sequence[float],
        control: Sequence[float] = (),
        **more: Any,
    ) -> Self:
        """A row from single measurements: their median, their spread, and the control's."""
        floor = (statistics.median(control), min(control), max(control)) if control else None
        return cls(
            key=key,
            what=what,
            measured=statistics.median(rounds),
            spread=(min(rounds), max(rounds)),
            floor=floor,
            rounds=tuple(rounds),
            control=tuple(control),
            **more,
        )

    @classmethod
    def of_ratios(
        cls,
        key: str,
        what: str,
        rounds: Sequence[float],
        control: Sequence[float],
        *,
        note: str = "",
        **more: Any,
    ) -> Self:
        """A row of ratios, with their mean and its standard error."""
        words = [f"mean {mean_and_error(rounds, 3)}"] if len(rounds) > 1 else []
        words += [note] if note else []
        return cls.of_rounds(key, what, rounds, control, note="; ".join(words), **more)

    @classmethod
    def of_document(cls, document: dict[str, Any]) -> Self:
        """Inverse of :func:`dataclasses.asdict`, from JSON."""
        lists = ("spread", "floor", "rounds", "control")
        return cls(
            **{
                name: tuple(value) if name in lists and value is not None else value
                for name, value in document.items()
            }
        )

    @property
    def met(self) -> bool | None:
        """Whether the budget holds; None without a budget."""
        return None if self.budget is None else self.measured <= self.budget


def documents(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Rows for JSON, with the verdict."""
    return [{**asdict(row), "met": row.met} for row in rows]


def rows_of(found: Iterable[dict[str, Any]]) -> list[Row]:
    """Rows from JSON."""
    return [
        Row.of_document({name: value for name, value in row.items() if name != "met"})
        for row in found
    ]


def missed(rows: Iterable[Row], *, counts_only: bool = False) -> list[Row]:
    """Rows whose budget is missed.

    With `counts_only`, only counts, which no slow machine explains; those with a ceiling only if
    they exceed it.
    """
    missed = [row for row in rows if row.met is False]
    if not counts_only:
        return missed
    return [
        row
        for row in missed
        if row.kind == "count" and (row.ceiling is None or row.measured > row.ceiling)
    ]


def render(rows: Sequence[Row]) -> str:
    """The table as text, one row a line."""
    head = ("what", "budget", "measured", "spread", "control", "met")
    body = [
        (
            row.what,
            "" if row.budget is None else f"≤ {number(row.budget)} {row.unit}".rstrip(),
            f"{number(row.measured)} {row.unit}".rstrip(),
            "" if row.spread is None else f"{number(row.spread[0])} … {number(row.spread[1])}",
            "" if row.floor is None else _floor(row.floor),
            {True: "yes", False: "NO", None: ""}[row.met],
        )
        for row in rows
    ]
    widths = [max(len(line[column]) for line in [head, *body]) for column in range(len(head))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in [head, *body]
    ]
    lines.insert(1, "  ".join("─" * width for width in widths))
    return "\n".join(lines)


def render_markdown(rows: Sequence[Row]) -> str:
    """The table for docs/performance.md."""
    lines = ["| what | budget | measured | spread | control | met |", "|---|---|---|---|---|---|"]
    for row in rows:
        cells = (
            row.what,
            "" if row.budget is None else f"≤ {number(row.budget)} {row.unit}".rstrip(),
            f"{number(row.measured)} {row.unit}".rstrip(),
            "" if row.spread is None else f"{number(row.spread[0])} … {number(row.spread[1])}",
            "" if row.floor is None else _floor(row.floor),
            {True: "yes", False: "**no**", None: ""}[row.met],
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def number(value: float) -> str:
    """A number with a useful number of digits.

    Examples
    --------
    >>> number(1.0312), number(0.0), number(1045.81), number(1_000_000)
    ('1.031', '0', '1,046', '1,000,000')
    """
    if value == int(value):
        return f"{int(value):,}"
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}"
    if size >= 10:
        return f"{value:.1f}"
    return f"{value:.3f}" if size >= 0.01 else f"{value:.2g}"


def mean_and_error(values: Sequence[float], digits: int, unit: str = "") -> str:
    """Mean of two or more single measurements and its standard error.

    Examples
    --------
    >>> mean_and_error([1.0, 1.2, 1.1], 2)
    '1.10 ± 0.06 (standard error)'
    """
    error = statistics.stdev(values) / len(values) ** 0.5
    words = f"{statistics.mean(values):.{digits}f} ± {error:.{digits}f} {unit}".rstrip()
    return f"{words} (standard error)"


def _floor(floor: tuple[float, float, float]) -> str:
    return f"{number(floor[0])} ({number(floor[1])} … {number(floor[2])})"
