"""`scalable runs`: what there is to look at."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from scalable.cli._commands import deliver, json_option
from scalable.cli._filters import filter_options
from scalable.cli._places import Runs, check_readable, no_runs, runs_option, unreadable
from scalable.cli._runs import HOW_TO_RECORD
from scalable.cli._terminal import echo, layout

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scalable.analysis import RunFilter
    from scalable.analysis.overview import Overview

_EPILOG = """\b
Examples:
  scalable runs
  scalable runs --status lost --since 7d
  scalable runs --project flights --limit 20
  scalable runs --json | jq -r '.[] | select(.status == "lost") | .run_id'
"""


@click.command(epilog=_EPILOG)
@runs_option
@filter_options
@json_option
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    metavar="N",
    help="Only the newest N runs.",
)
def runs(runs_dir: Runs, which: RunFilter, as_json: bool, limit: int | None) -> None:
    """List the recorded runs, newest first.

    A run that is not finished has no summary yet: its tasks are counted if its journals are small,
    else the table shows a dash and `scalable report` counts them.
    """
    from dataclasses import asdict

    from scalable.analysis import (
        RunFilter,
        json_text,
        list_runs,
        load_overviews,
        path_text,
        render_overviews,
    )
    from scalable_runs.stores.places import open_root

    check_readable(runs_dir)
    root = open_root(runs_dir)
    try:
        overviews, matching = list_runs(root, which, limit=limit, count=load_overviews)
    except (OSError, ValueError, ImportError) as error:
        raise unreadable(runs_dir, error) from None
    if as_json:
        rows = [{**asdict(overview), "path": path_text(overview.path)} for overview in overviews]
        for row in rows:
            if not row["writers_lost"]:  # of a run with one writer, it is never anything else
                del row["writers_lost"]
        deliver(json_text(rows), as_json=True)
    elif overviews:
        page = layout(None)
        deliver(render_overviews(overviews, page["width"], page["color"], strict=page["strict"]))
    if behind := _behind(overviews):
        echo(
            f"{len(behind):,} {'run is' if len(behind) == 1 else 'runs are'} not complete in "
            f"{', '.join(sorted(set(behind.values())))}: scalable sync --all",
            err=True,
        )
    if not overviews and which != RunFilter() and root.ids():
        echo(f"No run in {root.location} is like that.", err=True)
    elif not overviews:
        echo(f"{no_runs(runs_dir)}\n\n{HOW_TO_RECORD}", err=True)
    elif matching > len(overviews) and not as_json:
        echo(f"… and {matching - len(overviews):,} older", err=True)


def _behind(overviews: Sequence[Overview]) -> dict[str, str]:
    """Return the runs on this machine that have ended and whose copy lacks something: where."""
    from scalable_runs.reader import parse_time
    from scalable_runs.remote.shipper import read_states
    from scalable_runs.stores.file import FileStore

    found: dict[str, str] = {}
    for run in overviews:
        directory = run.path
        if not isinstance(directory, Path) or run.status == "running":
            continue
        if (directory / "remote.json").is_file():
            for place, state in read_states(FileStore(directory)).items():
                # A lost run is never closed: it is behind if it went on after somebody looked.
                looked = parse_time(state.at)
                is_late = run.last_at is None or looked is None or looked < run.last_at
                if not state.complete and (run.status != "lost" or state.missing_bytes or is_late):
                    found[run.run_id] = place
    return found
