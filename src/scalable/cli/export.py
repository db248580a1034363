"""`scalable export`: a recorded run for a collector, or in the format of another tool."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scalable.cli._commands import CommandError, deliver, json_option
from scalable.cli._runs import RunChoice, run_options
from scalable.cli._terminal import echo, progress_bar
from scalable.common.otel_environment import usable

if TYPE_CHECKING:
    from scalable.provenance.ro_crate import Profile

_EPILOG = """\b
Examples:
  scalable export run-20260102 --otlp http://127.0.0.1:4318
  scalable export --otlp http://127.0.0.1:4317   over gRPC, by the port
  scalable export --file run.otlp.jsonl --all
  OTEL_EXPORTER_OTLP_ENDPOINT=http://collector:4318 scalable export
  scalable export --ro-crate crate --author "A. Researcher"
  scalable export --prov run.prov.json
  scalable export --openlineage events.jsonl

\b
Headers, certificates, compression, timeouts and protocol are set by
OTEL_EXPORTER_OTLP_*, those of OpenLineage by OPENLINEAGE_*. Exit codes: 0
everything was accepted, 1 no such run, or not everything was accepted,
2 wrong usage.
"""

#: Options that name what is made: one of them is given, or none.
_TARGETS = ("otlp", "file", "ro_crate", "prov", "openlineage")


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
@click.option(
    "--ro-crate",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Make an RO-Crate: the run's files, and a description that archives read.",
)
@click.option(
    "--profile",
    type=click.Choice(["process", "provenance"]),
    help="What the crate follows. Default: provenance if the manifest declares tasks.",
)
@click.option("--author", metavar="NAME", default="", help="Who publishes the crate.")
@click.option("--affiliation", metavar="NAME", default="", help="The author's organization.")
@click.option(
    "--license",
    metavar="URL",
    default="",
    help="Terms of use of the crate, such as https://spdx.org/licenses/CC-BY-4.0.",
)
@click.option(
    "--prov",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the run as W3C PROV-JSON.",
)
@click.option(
    "--openlineage",
    is_flag=False,
    flag_value="",
    metavar="[URL|FILE]",
    help="Send OpenLineage events, by default to the place of OPENLINEAGE_URL.",
)
@click.option("--namespace", metavar="NAME", help="Namespace of OpenLineage's jobs.")
@json_option
def export(
    choice: RunChoice,
    otlp: str | None,
    file: Path | None,
    span_budget: int,
    all_: bool,
    as_json: bool,
    **others: Any,
) -> None:
    """Send a recorded run to an OpenTelemetry collector, or write it for another tool.

    Over OTLP, spans, log records and metrics are the same as those sent during the run, with the
    same ids. A run whose program was killed can be sent too: tasks that were running then end with
    the last record. RO-Crate, PROV and OpenLineage count tasks by name and final state; attempts
    that failed are described one by one.
    """
    _check_targets({"otlp": otlp, "file": file, **others})
    if any(others[name] is not None for name in ("ro_crate", "prov", "openlineage")):
        _write(choice, as_json, **others)
        return
    _resend(choice, otlp, file, None if all_ else span_budget, as_json)


def _check_targets(options: Mapping[str, Any]) -> None:
    given = [name for name in _TARGETS if options[name] is not None]
    if len(given) > 1:
        first, second = (f"--{name.replace('_', '-')}" for name in given[:2])
        raise click.UsageError(f"{first} and {second} exclude each other: give one of them.")
    for name, needed in (
        ("profile", "ro_crate"),
        ("author", "ro_crate"),
        ("affiliation", "ro_crate"),
        ("license", "ro_crate"),
        ("namespace", "openlineage"),
    ):
        if options[name] and options[needed] is None:
            raise click.UsageError(f"--{name} belongs to --{needed.replace('_', '-')}.")


def _write(
    choice: RunChoice,
    as_json: bool,
    *,
    ro_crate: Path | None,
    prov: Path | None,
    openlineage: str | None,
    profile: Profile | None,
    author: str,
    affiliation: str,
    license: str,
    namespace: str | None,
) -> None:
    """Write a run in the format of another tool, and say what was written."""
    from scalable.cli import _provenance

    reader = choice.open()
    if ro_crate is not None:
        from scalable.provenance.ro_crate import People

        people = People(author, affiliation, license)
        done = _provenance.write_ro_crate(reader, ro_crate, people, profile)
        told = f"an RO-Crate ({done['profile']} run) with {done['files']:,} files"
    elif prov is not None:
        done = _provenance.write_prov(reader, prov)
        told = f"PROV with {done.get('activity', 0):,} activities"
    else:
        done = _provenance.send_openlineage(reader, openlineage or None, namespace)
        told = f"{done['events']:,} OpenLineage events"
    if as_json:
        deliver(f"{json.dumps({'run_id': reader.run_id, **done})}\n", as_json=True)
    else:
        echo(f"{reader.run_id}: {told}, in {done['destination']}")


def _resend(
    choice: RunChoice, otlp: str | None, file: Path | None, budget: int | None, as_json: bool
) -> None:
    """Send a run over OTLP, or write what would be sent, and say what came of it."""
    # Before OpenTelemetry is imported, and for good: the command is a process of its own.
    usable(os.environ, lambda sentence: echo(f"Warning: {sentence}.", err=True))
    from scalable.telemetry.resend.destinations import FileDestination, OtlpDestination, ResendError
    from scalable.telemetry.resend.resend import resend

    reader = choice.open()
    try:
        destination = FileDestination(file) if file is not None else OtlpDestination(otlp)
        try:
            with progress_bar("Sending the run") as progress:
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
