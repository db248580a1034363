"""`scalable report`: what one run did."""

from __future__ import annotations

from pathlib import Path

import click

from scalable.cli._commands import (
    deliver,
    exit_status_option,
    markdown_option,
    output_option,
    status_code,
)
from scalable.cli._runs import RunChoice, run_options
from scalable.cli._terminal import layout, progress_bar

_EPILOG = """\b
Examples:
  scalable report
  scalable report run-20260102
  scalable report .scalable/runs/run-20260102T030405Z-flights-1a2b3c4d
  scalable report --json | jq .counts
  scalable report --format md --output run.md   # one page, for a pull request
  scalable report --exit-status   # for CI
\b
RUN is a run's id, the beginning of one, the path of its directory or packed
file, or its URL.
"""


@click.command(epilog=_EPILOG)
@run_options
@markdown_option
@output_option
@click.option(
    "--scan",
    is_flag=True,
    help="Read every line of the journals, also of a run that has a summary.json.",
)
@exit_status_option
@click.pass_context
def report(
    ctx: click.Context,
    choice: RunChoice,
    format_: str,
    output: Path | None,
    scan: bool,
    exit_status: bool,
) -> None:
    """Show what one run did, and how it went.

    What ran and how long, the tasks by name, the slowest attempts, failures by cause, workers, and
    what the record lacks. A run that is going on is shown as it is now, one whose program was
    killed with what was running then.
    """
    from scalable.analysis import (
        json_text,
        load_report,
        render_json,
        render_markdown,
        render_text,
    )

    reader = choice.open()
    with progress_bar("Reading the run") as progress:
        loaded = load_report(reader, progress, scan=scan)
    if format_ == "json":
        text = json_text(render_json(loaded))
    elif format_ == "md":
        text = render_markdown(loaded)
    else:
        text = render_text(loaded, **layout(output))
    deliver(text, output, f"the report of {loaded.run_id}", as_json=format_ == "json")
    if exit_status:
        ctx.exit(status_code(loaded.status, failed=bool(loaded.counts.get("tasks_failed"))))
