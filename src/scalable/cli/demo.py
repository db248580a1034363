"""`scalable demo`: record a real workload, then show its answer and its report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from scalable.cli._common import RUNS_DIR, CommandError, echo, layout, open_run, wants_color

if TYPE_CHECKING:
    from scalable.demo import Outcome, Row

#: Groups with fewer departures are left out of the table: their shares say little.
_ENOUGH: Final = 2_000

_TITLES: Final = {
    "hour": "by hour of departure",
    "airport": "by airport",
    "weather": "by weather at the airport",
    "previous": "by the plane's flight before, that day",
    "carrier": "by carrier",
}

_EPILOG: Final = """\b
What happens while it runs, all of it real and all of it in the report:
  load_weather    fails twice and is retried
  a worker        is killed with SIGKILL while it works; what it was doing and
                  what it held is computed again
  check_carrier   refuses carriers whose records are incomplete
  rate_carrier    cannot run for those: the check is to blame
It takes less than a minute on two cores.
It needs more packages: pip install 'scalable-otel[demo]'
"""


@click.command(epilog=_EPILOG)
@click.option(
    "--runs-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=RUNS_DIR,
    show_default=True,
    envvar="SCALABLE_RUNS_DIR",
    show_envvar=True,
    metavar="DIR",
    help="Where to record the run.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    default=2,
    show_default=True,
    metavar="N",
    help="Number of worker processes.",
)
def demo(runs_dir: Path, workers: int) -> None:
    """Record a real workload and show its report.

    What makes a flight leave New York late, and does a plane carry its delay on to its next flight?
    A Dask cluster on this machine works that out from the 336,776 flights of 2013. On the way
    things go wrong; the answer comes out right, and the report tells what it took.
    """
    started = time.monotonic()

    def progress(message: str) -> None:
        echo(f"[{time.monotonic() - started:5.1f} s] {message}", err=True)

    try:
        from scalable.demo import NotRecordedError, run

        try:
            outcome = run(runs_dir, workers=workers, progress=progress)
        except NotRecordedError as error:
            raise CommandError(f"{error}.") from None
    except ImportError as error:
        raise CommandError(
            f"The demo needs packages that are not installed ({error}).\n\n"
            "Install them: pip install 'scalable-otel[demo]'"
        ) from None

    echo(_answer(outcome))
    _report(runs_dir, outcome.run_id)
    echo(f"\nThe run: {outcome.run_dir}")
    if not outcome.as_pandas:
        raise CommandError("The cluster and plain pandas came to different answers.")


def _report(runs_dir: Path, run_id: str) -> None:
    from scalable.analysis import load_report, render_text

    loaded = load_report(open_run(runs_dir, run_id))
    echo(render_text(loaded, **layout(None)), nl=False, styled=wants_color())


def _answer(outcome: Outcome) -> str:
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
        lines += ["", "Plain pandas, without a cluster, comes to the same numbers."]
    return "\n".join([*lines, ""])


def _line(row: Row) -> str:
    # Where there is an interval, it stands in the free space after the group's name.
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
