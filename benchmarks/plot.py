"""The plot of docs/performance.md: every round's ratio beside its control, as SVG."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from html import escape
from typing import Final

from benchmarks.table import Row, number

_WIDTH: Final = 860
_LEFT: Final = 330
_RIGHT: Final = 70
_ROW: Final = 46
_TOP: Final = 64
_COLORS: Final = {"control": "#8a8f98", "rounds": "#1f6feb", "budget": "#d1242f"}


def ratios_plot(rows: Sequence[Row]) -> str:
    """Draw the rows that are ratios with a control.

    Each dot is one round, each bar a median; the red line is the budget.
    """
    shown = [row for row in rows if row.control and not row.unit and row.budget is not None]
    values = [value for row in shown for value in (*row.rounds, *row.control, row.budget or 1.0)]
    low, high = min([0.95, *values]), max([1.07, *values])
    low, high = low - 0.01, high + 0.01

    def x(value: float) -> float:
        return _LEFT + (value - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    height = _TOP + _ROW * len(shown) + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        'font-family="system-ui, sans-serif" font-size="12" role="img">',
        "<title>Instrumented ÷ bare, each round, beside bare ÷ bare</title>",
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
        '<text x="16" y="24" font-size="15" font-weight="600">Instrumented ÷ bare</text>',
        *_legend(),
    ]
    for tick in _ticks(low, high):
        at = x(tick)
        color = "#57606a" if tick == 1.0 else "#e3e6ea"
        parts.append(
            f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP - 8}" y2="{height - 34}" '
            f'stroke="{color}"/>'
            f'<text x="{at:.1f}" y="{height - 16}" text-anchor="middle" fill="#57606a">'
            f"×{tick:.2f}</text>"
        )
    for index, row in enumerate(shown):
        middle = _TOP + _ROW * index + _ROW / 2
        parts.append(
            f'<text x="{_LEFT - 14}" y="{middle + 4:.1f}" text-anchor="end">'
            f"{escape(_label(row))}</text>"
        )
        for values_of, name, shift in ((row.rounds, "rounds", -8), (row.control, "control", 8)):
            color = _COLORS[name]
            parts += [
                f'<circle cx="{x(value):.1f}" cy="{middle + shift:.1f}" r="3.2" fill="{color}" '
                'fill-opacity="0.45"/>'
                for value in values_of
            ]
            median = x(statistics.median(values_of))
            parts.append(
                f'<line x1="{median:.1f}" x2="{median:.1f}" y1="{middle + shift - 6:.1f}" '
                f'y2="{middle + shift + 6:.1f}" stroke="{color}" stroke-width="3"/>'
            )
        budget = x(row.budget or 1.0)
        parts.append(
            f'<line x1="{budget:.1f}" x2="{budget:.1f}" y1="{middle - 18:.1f}" '
            f'y2="{middle + 18:.1f}" stroke="{_COLORS["budget"]}" stroke-dasharray="3 2"/>'
            f'<text x="{_WIDTH - _RIGHT + 12}" y="{middle - 4:.1f}" fill="{_COLORS["rounds"]}">'
            f"×{number(round(row.measured, 3))}</text>"
        )
    parts.append("</svg>\n")
    return "\n".join(parts)


def _legend() -> list[str]:
    words = {
        "rounds": "instrumented ÷ bare, a dot each round",
        "control": "bare ÷ bare (noise)",
        "budget": "budget",
    }
    parts: list[str] = []
    at = 16
    for name, text in words.items():
        parts.append(f'<circle cx="{at + 4}" cy="42" r="4" fill="{_COLORS[name]}"/>')
        parts.append(f'<text x="{at + 14}" y="46" fill="#57606a">{text}</text>')
        at += 34 + 6 * len(text)
    return parts


def _label(row: Row) -> str:
    name, _, rest = row.what.partition(": ")
    kind = "CPU" if rest.startswith("CPU") else "off, wall" if "off" in rest else "wall"
    if "scheduler in a process" in rest:
        kind = "CPU of a scheduler apart"
    elif "the workers" in rest:
        kind = "CPU of the workers"
    return f"{name}: {kind}"


def _ticks(low: float, high: float) -> list[float]:
    span = high - low
    step = next(s for s in (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0) if span / s <= 9)
    first = round((low // step + 1) * step, 2)
    ticks: list[float] = []
    while first < high:
        ticks.append(round(first, 2))
        first += step
    return ticks
