"""`scalable sync`: bring what the copies of runs lack."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scalable.cli._commands import CommandError, deliver_json, json_option
from scalable.cli._places import Runs, configured_settings, local_runs, runs_option
from scalable.cli._runs import complete_runs, open_run
from scalable.cli._terminal import echo, progress_bar

if TYPE_CHECKING:
    from scalable_runs.remote.shipper import CopyState
    from scalable_runs.stores.base import Store
    from scalable_runs.stores.places import StoreSpec

_EPILOG = """\b
Examples:
  scalable sync
  scalable sync run-20260102 --to s3://bucket/runs
  scalable sync --all --to /mnt/shared/runs
  scalable sync --all --json | jq '.[] | select(.complete | not)'

Exit code 1 if something could not be copied. It can be repeated at any time, also while the run is
recorded.
"""


@click.command(epilog=_EPILOG)
@click.argument("runs", nargs=-1, metavar="[RUN]...", shell_complete=complete_runs)
@runs_option
@click.option("--all", "all_runs", is_flag=True, help="All runs in the directory.")
@click.option(
    "--to",
    metavar="URL",
    help="Where to: s3://bucket/prefix, gs://…, az://…, or a mounted directory. Default: "
    "SCALABLE_RUNS_DIR_REMOTE, or the run store that is configured.",
)
@json_option
@click.pass_context
def sync(
    ctx: click.Context,
    runs: tuple[str, ...],
    runs_dir: Runs,
    all_runs: bool,
    to: str | None,
    as_json: bool,
) -> None:
    """Copy what the place of copies lacks of runs on this machine.

    RUN is a run's id or the beginning of one; without it the latest. What is there already is found
    by looking there. Lines of a run whose program was killed are copied too.
    """
    if runs and all_runs:
        raise click.UsageError("RUN and --all exclude each other: give one of them.")
    spec = _place(to)
    stores = _stores(local_runs(runs_dir), runs, all_runs=all_runs)
    try:
        objects = spec.objects()
    except (OSError, ValueError, ImportError) as error:
        raise CommandError(f"{spec.location} cannot be opened: {error}") from None
    if objects is None:
        raise CommandError(f"{spec.location} keeps no copies of runs.")
    results = _copy(objects, stores, compress=bool(spec.config.get("compress")))
    if as_json:
        deliver_json([{"run_id": run_id, **_plain(state)} for run_id, state in results.items()])
    for run_id, state in results.items():
        if not as_json:
            echo(f"{run_id}: {_sentence(state)}")
    if any(state.error for state in results.values()):
        ctx.exit(1)


def _place(to: str | None) -> StoreSpec:
    from scalable_runs.stores.places import PlaceError, copied_to

    if to is None:
        place = configured_settings().copy
        if place is None:
            raise CommandError(
                "There is no place to copy runs to: name it by --to or SCALABLE_RUNS_DIR_REMOTE."
            )
        return place
    try:
        return copied_to(to)
    except PlaceError as error:
        raise CommandError(f"--to: {error}") from None


def _stores(runs_dir: Path, runs: tuple[str, ...], *, all_runs: bool) -> dict[str, Store]:
    from scalable_runs.stores.file import FileRoot

    if all_runs:
        root = FileRoot(runs_dir)
        return {run_id: root.new(run_id) for run_id in sorted(root.ids())}
    readers = [open_run(runs_dir, run) for run in runs or (None,)]
    return {reader.path.name: reader.store for reader in readers}


def _copy(objects: Any, stores: dict[str, Store], *, compress: bool) -> dict[str, CopyState]:
    from scalable_runs.remote.syncing import size_of, sync_run

    total = sum(map(size_of, stores.values()))
    done = 0
    results: dict[str, CopyState] = {}
    with progress_bar("Copying") as show:

        def advance(length: int) -> None:
            nonlocal done
            done = min(total, done + length)
            if show is not None:
                show(done, total)

        try:
            for run_id, store in stores.items():
                results[run_id] = sync_run(objects, store, compress=compress, progress=advance)
        except ImportError as error:
            raise CommandError(str(error)) from None
    return results


def _plain(state: CopyState) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(state)


def _sentence(state: CopyState) -> str:
    if state.error:
        return f"not all is in {state.location}: {state.error}"
    if state.complete:
        return f"complete in {state.location}"
    return f"all there is so far is in {state.location}; the run is not closed"
