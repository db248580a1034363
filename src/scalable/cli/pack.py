"""`scalable pack`: one file for a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from scalable.cli._commands import CommandError, deliver_json, json_option, size_text
from scalable.cli._runs import RunChoice, run_options
from scalable.cli._terminal import echo, progress_bar

if TYPE_CHECKING:
    from scalable_runs.reader import RunReader

_EPILOG = """\b
Examples:
  scalable pack                        the latest run
  scalable pack run-20260102 --keep    and keep its directory
  scalable report run-20260102         reads the packed run in place
  scalable unpack run-20260102

Any tar unpacks the file as well: tar --zstd -xf RUN.tar.zst
"""


@click.command(epilog=_EPILOG)
@run_options
@click.option("--keep", is_flag=True, help="Keep the directory beside the file.")
@json_option
def pack(choice: RunChoice, keep: bool, as_json: bool) -> None:
    """Replace a run's directory by one compressed file, RUN.tar.zst.

    Every command reads it in place. The file is read back and compared before the directory goes.
    """
    reader = choice.open()
    directory = _directory_of(reader)
    from scalable_runs.packed import pack as packing

    before = sum(path.lstat().st_size for path in directory.rglob("*") if path.is_file())
    try:
        with progress_bar("Packing") as progress:
            packed = packing.pack(directory, keep=keep, progress=progress)
    except (OSError, ImportError) as error:
        raise CommandError(f"{reader.run_id} was not packed: {error}") from None
    size = packed.stat().st_size
    if as_json:
        deliver_json({"run_id": reader.run_id, "path": str(packed), "size_bytes": size})
    else:
        echo(f"{packed}: {size_text(size)}, of {size_text(before)}")


def _directory_of(reader: RunReader) -> Path:
    from scalable_runs.packed.store import PackedStore

    if reader.is_live:
        raise CommandError(
            f"{reader.run_id} is being recorded: pack it when it has ended. Nothing was changed."
        )
    if isinstance(reader.store, PackedStore):
        raise CommandError(f"{reader.run_id} is packed already: {reader.store.file}")
    directory = reader.store.directory
    if directory is None:
        raise CommandError(f"{reader.store.location} is not on this machine: it cannot be packed.")
    return directory
