"""`scalable merge`: make the plain files of a run that several programs wrote."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from scalable.cli._commands import CommandError, deliver_json, json_option, sentence
from scalable.cli._runs import RunChoice, run_options
from scalable.cli._terminal import echo, progress_bar

_EPILOG = """\b
Examples:
  scalable merge array-4711
  scalable merge array-4711 --to results
"""


@click.command(epilog=_EPILOG)
@run_options
@click.option(
    "--to",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Write the merged run below DIR, and leave the parts as they are.",
)
@json_option
def merge(choice: RunChoice, to: Path | None, as_json: bool) -> None:
    """Merge the parts of a run that several programs wrote into the files of a plain run.

    All commands read such a run without this too; other tools find tasks.jsonl and the others, in
    the order of time, only after it. The files are read back before the parts are removed. Logs of
    workers stay in the folders of their writers.
    """
    from scalable_runs.merging import MergeError
    from scalable_runs.merging import merge as merge_run

    reader = choice.open()
    try:
        with progress_bar("Merging the run") as progress:
            merged = merge_run(reader, to, progress=progress)
    except MergeError as error:
        raise CommandError(sentence(error)) from None
    except OSError as error:
        where = error.filename or reader.path
        raise CommandError(f"{where}: {error.strerror or error}.") from None
    if as_json:
        deliver_json({**asdict(merged), "path": str(merged.path)})
        return
    if not merged.changed:
        echo(f"{merged.path} is merged already.", err=True)
        return
    echo(f"Merged {merged.records:,} records of {len(merged.writers):,} programs: {merged.path}")
    if merged.kept:
        echo(f"Logs of workers are in {merged.path / 'writers'}, by program.", err=True)
