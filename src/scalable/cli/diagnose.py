"""`scalable diagnose`: why a run failed, and what to do about it."""

from __future__ import annotations

from pathlib import Path

import click

from scalable.cli._commands import (
    deliver,
    exit_status_option,
    json_option,
    output_option,
    status_code,
)
from scalable.cli._runs import RunChoice, run_options
from scalable.cli._terminal import echo, layout, progress_bar

_EPILOG = """\b
Examples:
  scalable diagnose
  scalable diagnose run-20260102 --json | jq '.findings[0]'
  scalable diagnose --exit-status   # for CI
  scalable diagnose --ai    also in a model's words; set SCALABLE_AI_BASE_URL,
                            SCALABLE_AI_MODEL, SCALABLE_AI_API_KEY
\b
RUN is a run's id, the beginning of one, the path of its directory or packed
file, or its URL.
"""


@click.command(epilog=_EPILOG)
@run_options
@json_option
@output_option
@click.option(
    "--ai/--no-ai",
    "ai",
    default=False,
    help="Let a model put the findings, redacted, into prose. Off unless asked for.",
)
@exit_status_option
@click.pass_context
def diagnose(
    ctx: click.Context,
    choice: RunChoice,
    as_json: bool,
    output: Path | None,
    ai: bool,
    exit_status: bool,
) -> None:
    """Say what went wrong in one run, and what to do about it.

    Failures are grouped by cause and root, with what they have in common, what followed from them
    and what differs from what went well; lost workers with how they ended, what they ran, how their
    memory had grown and their last output. Where nothing failed: memory near its limit, stragglers,
    time lost. Works on finished, crashed and live runs.
    """
    from scalable.analysis import json_text, render_json, render_text
    from scalable.analysis.diagnose import diagnose as make_diagnosis

    reader = choice.open()
    with progress_bar("Reading the run") as progress:
        made = make_diagnosis(reader, progress)
    if ai:
        from scalable.analysis.prose import with_prose

        notes = len(made.notes)
        made = with_prose(made)
        for note in made.notes[notes:]:
            echo(note, err=True)
    text = json_text(render_json(made)) if as_json else render_text(made, **layout(output))
    deliver(text, output, f"the diagnosis of {made.run_id}", as_json=as_json)
    if exit_status:
        failed = any(finding.severity in ("critical", "error") for finding in made.findings)
        ctx.exit(status_code(made.status, failed=failed))
