"""The answer that the demo found, as text."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from scalable.demo.run import Outcome
    from scalable.demo.workload import Row

#: Groups with fewer departures are left out: their shares mean little.
_ENOUGH: Final = 2_000
_TITLES: Final = {
    "hour": "by hour of departure",
    "airport": "by airport",
    "weather": "by weather at the airport",
    "previous": "by the plane's flight before, that day",
    "carrier": "by carrier",
}


def answer_text(outcome: Outcome) -> str:
    """Return the question and its answer, as a table with conclusions."""
    lines = [
        "",
        "What makes a flight leave New York late, that is 15 minutes or more?",
        "",
        f"{'':<42}{'departures':>10}  {'late':>6}  {'mean delay':>10}",
    ]
    for factor, rows in groupby(outcome.rows, key=lambda row: row.factor):
        lines.append(_TITLES[factor])
        lines += [_line(row) for row in rows if row.flights >= _ENOUGH and row.group != "no record"]
    lines += ["", _carry_over(outcome.rows)]
    if outcome.rejected:
        lines += ["", "Carriers that could not be rated, because of their records:"]
        lines += [f"  {sentence}" for sentence in outcome.rejected]
    if outcome.as_pandas:
        lines += ["", "Plain pandas, without a cluster, computes the same numbers."]
    return "\n".join([*lines, ""])


def _line(row: Row) -> str:
    # The interval, if there is one, fills the space after the group's name.
    note = "" if row.interval is None else f"({row.interval[0]:.1%} to {row.interval[1]:.1%})"
    name = f"  {row.group:<17}{note}"
    return f"{name:<42}{row.flights:>10,}  {row.late:>6.1%}  {row.delay:>6.1f} min"


def _carry_over(rows: Sequence[Row]) -> str:
    previous = [row for row in rows if row.factor == "previous"]
    best, worst = previous[0], previous[-1]
    return (
        "A plane carries its delay on: after a flight that came in an hour late or more,\n"
        f"it leaves late again in {worst.late:.0%} of cases; after one in time, in {best.late:.0%}."
    )
