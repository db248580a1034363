"""`scalable runs`: what there is to look at."""

from __future__ import annotations

from pathlib import Path

import click

from scalable.cli._commands import deliver, json_option
from scalable.cli._runs import HOW_TO_RECORD, check_readable, no_runs, runs_dir_option
from scalable.cli._terminal import echo, layout

_EPILOG = """\b
Examples:
  scalable runs
  scalable runs --json | jq -r '.[] | select(.status == "lost") | .run_id'
"""


@click.command(epilog=_EPILOG)
@runs_dir_option
@json_option
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    metavar="N",
    help="Only the newest N runs.",
)
def runs(runs_dir: Path, as_json: bool, limit: int | None) -> None:
    """List the recorded runs, newest first.

    A run that is not finished has no summary yet: its tasks are counted if its journals are small,
    else the table shows a dash and `scalable report` counts them.
    """
    from dataclasses import asdict

    from scalable.analysis import json_text, load_overviews, path_text, render_overviews
    from scalable_runs.reader import find_runs

    check_readable(runs_dir)
    readers = find_runs(runs_dir)
    overviews = list(load_overviews(readers[:limit]))
    if as_json:
        rows = [{**asdict(overview), "path": path_text(overview.path)} for overview in overviews]
        deliver(json_text(rows), as_json=True)
    elif overviews:
        page = layout(None)
        deliver(render_overviews(overviews, page["width"], page["color"], strict=page["strict"]))
    if not overviews:
        echo(f"{no_runs(runs_dir)}\n\n{HOW_TO_RECORD}", err=True)
    elif len(readers) > len(overviews) and not as_json:
        echo(f"… and {len(readers) - len(overviews):,} older", err=True)
