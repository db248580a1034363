"""`scalable export`: send a recorded run to a collector, or write it to a file as OTLP."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

import click

from scalable.cli._commands import CommandError, deliver, json_option
from scalable.cli._runs import RunChoice, run_options
from scalable.cli._terminal import echo, progress_bar
from scalable.common.otel_environment import usable

_EPILOG = """\b
Examples:
  scalable export run-20260102 --otlp http://127.0.0.1:4318
  scalable export --otlp http://127.0.0.1:4317   over gRPC, by the port
  scalable export --file run.otlp.jsonl --all
  OTEL_EXPORTER_OTLP_ENDPOINT=http://collector:4318 scalable export

\b
Headers, certificates, compression, timeouts and protocol are set by
OTEL_EXPORTER_OTLP_*. Exit codes: 0 everything was accepted, 1 no such run, or
not everything was accepted, 2 wrong usage.
"""


@click.command(epilog=_EPILOG)
@run_options
@click.option("--otlp", metavar="URL", help="Address of a collector.")
@click.option(
    "--file",
    "file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write OTLP as JSON, one message per line, instead of sending.",
)
@click.option(
    "--span-budget",
    type=click.IntRange(min=0),
    default=5_000,
    show_default=True,
    envvar="SCALABLE_SPAN_BUDGET",
    show_envvar=True,
    metavar="N",
    help="Most task spans per trace; the rest is summed up.",
)
@click.option("--all", "all_", is_flag=True, help="Send every span, however many there are.")
@json_option
def export(
    choice: RunChoice,
    otlp: str | None,
    file: Path | None,
    span_budget: int,
    all_: bool,
    as_json: bool,
) -> None:
    """Send a recorded run to an OpenTelemetry collector.

    Spans, log records and metrics are the same as those sent during the run, with the same ids. A
    run whose program was killed can be sent too: tasks that were running then end with the last
    record.
    """
    if otlp is not None and file is not None:
        raise click.UsageError("--otlp and --file exclude each other: give one of them.")
    # Before OpenTelemetry is imported, and for good: the command is a process of its own.
    usable(os.environ, lambda sentence: echo(f"Warning: {sentence}.", err=True))
    from scalable.telemetry.resend.destinations import FileDestination, OtlpDestination, ResendError
    from scalable.telemetry.resend.resend import resend

    reader = choice.open()
    try:
        destination = FileDestination(file) if file is not None else OtlpDestination(otlp)
        try:
            with progress_bar("Sending the run") as progress:
                budget = None if all_ else span_budget
                resent = resend(reader, destination, span_budget=budget, progress=progress)
        finally:
            destination.close()
    except ResendError as error:
        raise CommandError(str(error)) from None
    where = str(file) if file is not None else (otlp or "the address of OTEL_*")
    if as_json:
        document = {"run_id": reader.run_id, "destination": where, **asdict(resent)}
        deliver(f"{json.dumps(document)}\n", as_json=True)
        return
    echo(
        f"{'Wrote' if file is not None else 'Sent'} {reader.run_id} to {where}: "
        f"{resent.spans:,} spans ({resent.attempts:,} attempts), "
        f"{resent.log_records:,} log records, {resent.metric_points:,} metric points."
    )
    if resent.left_out:
        echo(f"Records that could not be read, and were not sent: {resent.left_out:,}.", err=True)
    if resent.summarized:
        echo(
            f"{resent.summarized:,} attempts beyond the budget are summed up in rollup spans; "
            "--all sends them one by one.",
            err=True,
        )
    if resent.user_spans_left_out:
        echo(
            f"{resent.user_spans_left_out:,} spans of user code were left out with their attempts; "
            "--all sends them too.",
            err=True,
        )
