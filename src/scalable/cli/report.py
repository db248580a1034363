"""`scalable report`: what one run did."""

from __future__ import annotations

from pathlib import Path

import click

from scalable.cli._common import (
    CommandError,
    echo,
    open_run,
    output_option,
    progress_bar,
    run_options,
    terminal_width,
    wants_color,
)

_EPILOG = """\b
Examples:
  scalable report
  scalable report --run-id run-20260102
  scalable report --format json --output report.json
"""


@click.command(epilog=_EPILOG)
@run_options
@click.option(
    "--format",
    "format_",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Text for people, or JSON in the shape of summary.json for programs.",
)
@output_option
@click.option(
    "--scan",
    is_flag=True,
    help="Read every line of the journals, also of a run that has a summary.json.",
)
def report(
    latest: bool,
    run_id: str | None,
    runs_dir: Path,
    format_: str,
    output: Path | None,
    scan: bool,
) -> None:
    """Tell what one run did, and how it went.

    What ran and how long, the tasks by name, the slowest attempts, failures by cause, workers, and
    what the record lacks. A run that still goes on is shown as it is now; one whose program was
    killed with what ran when it died.
    """
    if latest and run_id is not None:
        raise click.UsageError("--latest and --run-id exclude each other: give one of them.")
    from scalable.analysis import json_text, load_report, render_json, render_text

    reader = open_run(runs_dir, run_id)
    if not reader.document and not reader.files():
        raise CommandError(
            f"{reader.path} is not a run: it has neither run.json nor journals.\n\n"
            "List all runs: scalable runs"
        )
    with progress_bar("Reading the run") as progress:
        loaded = load_report(reader, progress, scan=scan)
    if format_ == "json":
        text = json_text(render_json(loaded))
    elif output is None:
        text = render_text(loaded, width=terminal_width(), color=wants_color())
    else:
        text = render_text(loaded)
    if output is None:
        echo(text, nl=False, styled=wants_color())
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CommandError(
            f"{output} cannot be written: {error.strerror}. Name another file by --output."
        ) from None
    echo(f"Wrote the report of {loaded.run_id} to {output}", err=True)
