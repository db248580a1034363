"""`scalable diagnose`: why a run failed, and what to do about it."""

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
  scalable diagnose
  scalable diagnose --run-id run-20260102 --format json | jq '.findings[0]'
  scalable diagnose --ai    also in a model's words; set SCALABLE_AI_BASE_URL,
                            SCALABLE_AI_MODEL, SCALABLE_AI_API_KEY
"""


@click.command(epilog=_EPILOG)
@run_options
@click.option(
    "--format",
    "format_",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Text for people or JSON for programs.",
)
@output_option
@click.option(
    "--ai/--no-ai",
    "ai",
    default=False,
    help="Let a model put the findings, redacted, into prose. Off unless asked for.",
)
def diagnose(
    latest: bool,
    run_id: str | None,
    runs_dir: Path,
    format_: str,
    output: Path | None,
    ai: bool,
) -> None:
    """Say what went wrong in one run, and what to do about it.

    Failures are grouped by cause and root, with what they have in common, what followed from them
    and what differs from what went well; lost workers with how they ended, what they ran, how their
    memory had grown and their last output. Where nothing failed: memory near its limit, stragglers,
    time lost. Works on finished, crashed and live runs.
    """
    if latest and run_id is not None:
        raise click.UsageError("--latest and --run-id exclude each other: give one of them.")
    from scalable.analysis.diagnose import diagnose as make_diagnosis
    from scalable.analysis.diagnosis_text import diagnosis_document, render_diagnosis
    from scalable.analysis.render import json_text

    reader = open_run(runs_dir, run_id)
    if not reader.document and not reader.files():
        raise CommandError(
            f"{reader.path} is not a run: it has neither run.json nor journals.\n\n"
            "List all runs: scalable runs"
        )
    with progress_bar("Reading the run") as progress:
        made = make_diagnosis(reader, progress)
    if ai:
        from scalable.analysis.prose import with_prose

        notes = len(made.notes)
        made = with_prose(made)
        for note in made.notes[notes:]:
            echo(note, err=True)
    if format_ == "json":
        text = json_text(diagnosis_document(made))
    elif output is None:
        text = render_diagnosis(made, width=terminal_width(), color=wants_color())
    else:
        text = render_diagnosis(made)
    if output is None:
        echo(text, nl=False, styled=wants_color())
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CommandError(
            f"{output} cannot be written: {error.strerror}. Name another file by --output."
        ) from None
    echo(f"Wrote the diagnosis of {made.run_id} to {output}", err=True)
