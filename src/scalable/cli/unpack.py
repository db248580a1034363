"""`scalable unpack`: the directory of a packed run."""

from __future__ import annotations

import click

from scalable.cli._commands import CommandError, deliver_json, json_option
from scalable.cli._runs import RunChoice, run_options
from scalable.cli._terminal import echo, progress_bar

_EPILOG = """\b
Examples:
  scalable unpack run-20260102
  scalable unpack ./run-20260102T060000Z-flights-0a1b2c3d.tar.zst --keep
"""


@click.command(epilog=_EPILOG)
@run_options
@click.option("--keep", is_flag=True, help="Keep the file beside the directory.")
@json_option
def unpack(choice: RunChoice, keep: bool, as_json: bool) -> None:
    """Replace a packed run, RUN.tar.zst, by its directory."""
    reader = choice.open()
    from scalable_runs.packed import pack as packing
    from scalable_runs.packed.store import PackedStore

    if not isinstance(reader.store, PackedStore):
        raise CommandError(f"{reader.store.location} is not packed.")
    try:
        with progress_bar("Unpacking") as progress:
            directory = packing.unpack(reader.store.file, keep=keep, progress=progress)
    except OSError as error:
        raise CommandError(f"{reader.run_id} was not unpacked: {error}") from None
    if as_json:
        deliver_json({"run_id": reader.run_id, "path": str(directory)})
    else:
        echo(str(directory))
