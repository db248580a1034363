"""`scalable compare`: what differs between two runs."""

from __future__ import annotations

from pathlib import Path

import click

from scalable.cli._commands import deliver, markdown_option, output_option
from scalable.cli._places import Runs, runs_option
from scalable.cli._runs import RunChoice, complete_runs
from scalable.cli._terminal import layout, progress_bar

_EPILOG = """\b
Examples:
  scalable compare run-20260102 run-20260102T030405Z-flights-1a2b3c4d
  scalable compare run-20260102            with the latest run
  scalable compare run-20260102 --format md --output changes.md
  scalable compare run-20260102 --json | jq .differences
\b
With --exit-status the exit code is 1 if anything differs, as that of diff is.
A run is an id, the beginning of one, the path of its directory or packed
file, or its URL.
"""


@click.command(epilog=_EPILOG)
@click.argument("before", shell_complete=complete_runs)
@click.argument("after", required=False, shell_complete=complete_runs)
@runs_option
@markdown_option
@output_option
@click.option("--exit-status", is_flag=True, help="Exit with 1 if anything differs.")
@click.pass_context
def compare(
    ctx: click.Context,
    before: str,
    after: str | None,
    runs_dir: Runs,
    format_: str,
    output: Path | None,
    exit_status: bool,
) -> None:
    """Show what differs between two runs: BEFORE and AFTER.

    Outcome, code, functions with what they call, packages, environment, arguments, inputs, results
    by their digests, and metrics. What only one of them has recorded is said at the end.
    """
    from scalable.analysis import json_text
    from scalable.analysis.compare import compare as compare_runs
    from scalable.analysis.compare_sections import comparison_outline
    from scalable.analysis.markdown_renderer import outline_markdown
    from scalable.analysis.text_renderer import outline_text

    readers = [RunChoice(runs_dir, name).open() for name in (before, after)]
    with progress_bar("Reading the runs") as progress:
        found = compare_runs(readers[0], readers[1], progress)
    if format_ == "json":
        text = json_text(found.document())
    elif format_ == "md":
        text = outline_markdown(comparison_outline(found))
    else:
        text = outline_text(comparison_outline(found), **layout(output))
    deliver(text, output, "the comparison", as_json=format_ == "json")
    if exit_status and found.differences:
        ctx.exit(1)
