"""`scalable clean`: remove runs that are no longer needed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from scalable.cli._commands import CommandError, ask, deliver, deliver_json, json_option
from scalable.cli._filters import Age, filter_options
from scalable.cli._places import Runs, check_readable, runs_option
from scalable.cli._terminal import echo, layout, progress_bar

if TYPE_CHECKING:
    from scalable.analysis import Overview, RunFilter
    from scalable_runs.stores.base import StoreRoot

_EPILOG = """\b
Examples:
  scalable clean --older-than 30d --dry-run
  scalable clean --keep 100
  scalable clean --status lost --status cancelled --older-than 7d
  scalable clean --project demo --yes

A run goes if it is all that the options say. A run that is being recorded stays, and so does
whatever else lies among the runs. Exit codes: 0 removed, or nothing to remove; 1 a run could not be
removed, or the answer was no; 2 wrong usage.
"""


@dataclass(frozen=True, slots=True)
class _Chosen:
    """What would be removed, and what stays although the options name it."""

    runs: list[Overview]
    running: int
    unreadable: int


@click.command(epilog=_EPILOG)
@runs_option
@filter_options
@click.option(
    "--older-than",
    type=Age(),
    metavar="AGE",
    help="Only runs that ended, or were last heard of, longer ago than this: 12h, 30d.",
)
@click.option(
    "--keep",
    type=click.IntRange(min=0),
    metavar="N",
    help="Keep the newest N of the runs that --project, --status, --since and --name choose.",
)
@click.option("--dry-run", is_flag=True, help="Only show what would be removed.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def clean(
    runs_dir: Runs,
    which: RunFilter,
    older_than: float | None,
    keep: int | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Remove recorded runs: old ones, all but the newest, those that were lost."""
    from scalable.analysis import RunFilter, render_overviews
    from scalable.analysis.units import plural
    from scalable_runs.stores.places import open_root

    if which == RunFilter() and older_than is None and keep is None:
        raise click.UsageError(
            "Say which runs: --older-than 30d, --keep 100, --status lost, --project NAME, …"
        )
    if as_json and not (yes or dry_run):
        raise click.UsageError("--json does not ask: give --yes or --dry-run as well.")
    if not isinstance(runs_dir, Path) and runs_dir.local:
        # What the configured store has elsewhere goes only if its URL is given.
        runs_dir = Path(runs_dir.local)
    check_readable(runs_dir)
    root = open_root(runs_dir)
    chosen = _choose(root, which, older_than, keep)
    for text in _that_stay(chosen):
        echo(text, err=True)
    if not chosen.runs and not as_json:
        echo(f"There is nothing to remove in {root.location}.", err=True)
        return
    count = plural(len(chosen.runs), "run")
    if not as_json:
        page = layout(None)
        deliver(render_overviews(chosen.runs, page["width"], page["color"], strict=page["strict"]))
        if dry_run:
            echo(f"Would remove {count} from {root.location}.", err=True)
    if dry_run:
        removed, failed = list[str](), dict[str, str]()
    else:
        if not yes:
            ask(f"Remove {count} from {root.location}?")
        removed, failed = _remove(root, chosen.runs)
    if as_json:
        names = [_name(run) for run in chosen.runs]
        deliver_json({"chosen": names, "removed": removed, "failed": failed})
    elif removed:
        echo(f"Removed {plural(len(removed), 'run')}.", err=True)
    if failed:
        told = [f"  {name}: {reason}" for name, reason in list(failed.items())[:10]]
        raise CommandError(
            "\n".join([f"{plural(len(failed), 'run')} could not be removed:", *told])
        )


def _choose(
    root: StoreRoot, which: RunFilter, older_than: float | None, keep: int | None
) -> _Chosen:
    from scalable.analysis import list_runs

    matching, _ = list_runs(root, which)
    if keep is not None:
        matching = matching[keep:]
    if older_than is not None:
        latest = datetime.now(UTC) - timedelta(seconds=older_than)
        matching = [run for run in matching if run.last_at is None or run.last_at < latest]
    ended = [run for run in matching if run.status != "running"]
    readable = [run for run in ended if run.readable]
    return _Chosen(readable, len(matching) - len(ended), len(ended) - len(readable))


def _that_stay(chosen: _Chosen) -> list[str]:
    from scalable.analysis.units import plural

    told: list[str] = []
    if chosen.running:
        told.append(f"{plural(chosen.running, 'run')} being recorded: not removed.")
    if chosen.unreadable:
        told.append(
            f"{plural(chosen.unreadable, 'run')} without a run.json that can be read: not removed; "
            "look at them and remove them by hand."
        )
    return told


def _remove(root: StoreRoot, runs: list[Overview]) -> tuple[list[str], dict[str, str]]:
    """Remove runs, oldest first; return the names of those removed, and why others were not."""
    from scalable_runs.reader import RunReader, find_stores

    removed: list[str] = []
    failed: dict[str, str] = {}
    stores = find_stores(root)
    with progress_bar("Removing", of_bytes=False) as progress:
        for done, run in enumerate(reversed(runs)):
            if progress is not None:
                progress(done, len(runs))
            name = _name(run)
            store = stores.get(name)
            try:
                if store is None:
                    continue  # somebody else has removed it
                if RunReader(store, wait=0.0).is_live:
                    failed[name] = "it is being recorded again"
                    continue
                store.delete()
                removed.append(name)
            except FileNotFoundError:
                continue
            except OSError as error:
                failed[name] = error.strerror or str(error)
    return removed, failed


def _name(run: Overview) -> str:
    """Return the name of a run among the others, which its run.json may contradict."""
    from scalable_runs.schema import PACKED

    return Path(run.path).name.removesuffix(PACKED)
