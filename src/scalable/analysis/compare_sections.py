"""A comparison as an outline."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from scalable.analysis.compare import Comparison, Difference
from scalable.analysis.sections import (
    Block,
    Column,
    Item,
    Outline,
    Quote,
    Row,
    Section,
    Sentence,
    Table,
)
from scalable.analysis.units import plural

_TITLES: Final = {
    "status": "Outcome",
    "code": "Code",
    "function": "Functions",
    "package": "Packages",
    "environment": "Environment",
    "parameter": "Parameters",
    "input": "Inputs",
    "result": "Results",
    "metric": "Metrics",
}
_MAX_ROWS: Final = 40
_MAX_CELL: Final = 200


def comparison_outline(found: Comparison) -> Outline:
    """Return what a comparison says."""
    sections = [Section((Quote((f"before  {found.before}", f"after   {found.after}")),))]
    for subject, title in _TITLES.items():
        rows = [one for one in found.differences if one.subject == subject]
        if rows:
            same = found.same.get(subject, 0)
            aside = f"{len(rows):,} differ" + (f", {same:,} equal" if same else "")
            sections.append(Section(tuple(_blocks(subject, rows)), title, aside))
    if not found.differences:
        sections.append(Section((Sentence("Nothing that was recorded differs.", tone="good"),)))
    if found.unknown:
        told = tuple(Sentence(text, "bullet", "quiet") for text in found.unknown)
        sections.append(Section(told, "What could not be compared"))
    count = len(found.differences)
    told = plural(count, "difference") if count else "no difference"
    return Outline("Comparison", tuple(sections), told, "warning" if count else "good")


def _blocks(subject: str, rows: list[Difference]) -> Iterator[Block]:
    if subject == "function":
        for row in rows[:_MAX_ROWS]:
            yield _function(row)
    else:
        yield Table(
            (Column("Name"), Column("Before"), Column("After")),
            tuple(
                Row((row.name, _shown(row.before), _shown(row.after))) for row in rows[:_MAX_ROWS]
            ),
            widest=0,
        )
    if len(rows) > _MAX_ROWS:
        yield Sentence(f"and {len(rows) - _MAX_ROWS:,} more: --json has all", "aside", "quiet")


def _function(row: Difference) -> Item:
    if row.before is None or row.after is None:
        which = "second" if row.before is None else "first"
        return Item("- ", row.name, (Sentence(f"only in the {which} run"),), "warning")
    blocks: list[Block] = [Sentence(text, "bullet") for text in row.details]
    if row.diff:
        blocks.append(Quote(row.diff))
    return Item("- ", row.name, tuple(blocks), "warning")


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, dict):
        value = ", ".join(f"{name} {one}" for name, one in value.items())  # pyright: ignore
    text = str(value)
    if text.startswith("sha256:"):
        text = text[:19]
    return text if len(text) <= _MAX_CELL else f"{text[: _MAX_CELL - 1]}…"
