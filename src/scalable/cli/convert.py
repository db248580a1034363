"""`scalable convert`: a run's journals for programs that read tables."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from scalable.cli._commands import CommandError, deliver_json, json_option
from scalable.cli._runs import RunChoice, run_options
from scalable.cli._terminal import echo, progress_bar

if TYPE_CHECKING:
    from scalable_runs.reader import RunReader

_EPILOG = """\b
Examples:
  scalable convert --to parquet
  scalable convert run-20260102 --to csv --output tables/
  scalable convert --to duckdb --output run.duckdb
  duckdb run.duckdb "SELECT task_name, sum(duration_s) FROM tasks GROUP BY 1"

One table for each journal: tasks, workers, failures, resources, spans, …
Times are timestamps in UTC with microseconds; names and states are dictionary-encoded in parquet;
nested values (details, attributes, line_items, …) are JSON text.
"""


@click.command(epilog=_EPILOG)
@run_options
@click.option(
    "--to",
    "form",
    type=click.Choice(["parquet", "csv", "duckdb"]),
    required=True,
    help="parquet and csv: a file for each journal; duckdb: one database.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="The directory, or the database. Default: RUN-parquet, RUN-csv or RUN.duckdb here.",
)
@click.option("--force", is_flag=True, help="Replace what is there.")
@json_option
def convert(choice: RunChoice, form: str, output: Path | None, force: bool, as_json: bool) -> None:
    """Write a run's journals as tables with typed columns: parquet, CSV or a DuckDB database."""
    reader = choice.open()
    if output is None:
        output = Path(f"{reader.run_id}.duckdb" if form == "duckdb" else f"{reader.run_id}-{form}")
    if output.exists() and not force:
        raise CommandError(f"{output} exists: give --force to replace it, or another --output.")
    temporary = output.with_name(f".{output.name}.tmp")
    _remove(temporary)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        tables = _write(reader, form, temporary)
        _remove(output)
        temporary.rename(output)
    except (OSError, ImportError) as error:
        raise CommandError(f"{reader.run_id} was not converted: {error}") from None
    finally:
        with contextlib.suppress(OSError):
            _remove(temporary)
    if as_json:
        deliver_json({"run_id": reader.run_id, "path": str(output), "tables": tables})
    else:
        echo(f"{output}: {', '.join(tables) or 'no records'}")


def _write(reader: RunReader, form: str, path: Path) -> list[str]:
    from scalable_runs import tables

    total = 2 * sum(map(reader.size, reader.files()))
    with progress_bar("Converting") as show:
        progress = None if show is None else _counted(show, total)
        if form == "duckdb":
            return tables.write_duckdb(reader, path, progress)
        path.mkdir(mode=0o700)
        write = tables.write_parquet if form == "parquet" else tables.write_csv
        return [written.stem for written in write(reader, path, progress)]


def _counted(show: Callable[[int, int], None], total: int) -> Callable[[int], None]:
    done = 0

    def progress(length: int) -> None:
        nonlocal done
        done += length
        show(done, total)

    return progress


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
