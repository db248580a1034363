"""`scalable crash-logs`: the last output of workers that died, to list, show and send."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scalable.cli._common import CommandError, echo, open_run, runs_dir_option

if TYPE_CHECKING:
    from scalable_runs.reader import RunReader

_EPILOG = """\b
Examples:
  scalable crash-logs list
  scalable crash-logs show 3
  scalable crash-logs upload --dry-run
"""


@click.group("crash-logs", epilog=_EPILOG)
def crash_logs() -> None:
    """List, show or send the logs of workers that died.

    Every worker that was lost has what its process wrote last in its run, unless it ran on another
    host: then the list says where the log stayed.
    """


def _run_options(command: Any) -> Any:
    command = click.option("--run-id", metavar="ID", help="A run's id, or its beginning.")(command)
    return runs_dir_option(command)


@crash_logs.command("list")
@_run_options
def list_logs(run_id: str | None, runs_dir: Path) -> None:
    """List the logs of one run's dead workers, the first death first."""
    from scalable.analysis._text import printable, table
    from scalable.crash_upload import find, outcomes

    reader = open_run(runs_dir, run_id)
    sent = {str(record.get("log")): str(record.get("outcome")) for record in outcomes(reader.path)}
    rows: list[list[str]] = []
    for record in reader.records("failures.jsonl"):
        details: Any = record.get("details") or {}
        if record.get("failure_class") != "WorkerLost" or not isinstance(details, dict):
            continue
        log = str(details.get("stderr_path") or "")
        path = find(reader.path, log) if log else None
        size = f"{path.stat().st_size:,}" if path is not None else "-"
        how = details.get("signal") or details.get("exit_code")
        rows.append(
            [
                printable(details.get("worker_id") or details.get("worker") or "-"),
                printable(details.get("cause") or "unknown"),
                printable("-" if how is None else how),
                str(record.get("timestamp") or "")[:19],
                size,
                sent.get(log, "-"),
                printable(log or "no log"),
            ]
        )
    if not rows:
        echo(f"No worker was lost in {reader.run_id}.", err=True)
        return
    header = ["Worker", "Cause", "Ended", "Lost at (UTC)", "Bytes", "Sent", "Log"]
    right = [False, False, True, False, True, False, False]
    echo("\n".join(table([header, *rows], right)))


@crash_logs.command("show")
@click.argument("worker")
@_run_options
def show_log(worker: str, run_id: str | None, runs_dir: Path) -> None:
    """Show the log of the worker of that name (of its last death, if it died more than once)."""
    from scalable.analysis._text import printable_lines
    from scalable.crash_upload import find

    reader = open_run(runs_dir, run_id)
    found = [log for log in _logs(reader) if log.worker_id == worker]
    path = find(reader.path, found[-1].log) if found else None
    if path is None:
        raise CommandError(
            f"{reader.run_id} has no log of a dead worker {worker!r}.\n\n"
            "List them: scalable crash-logs list"
        )
    with path.open(encoding="utf-8", errors="replace", newline="\n") as lines:
        for line in lines:
            echo("\n".join(printable_lines(line.rstrip("\n")) or [""]))


@crash_logs.command("upload")
@_run_options
@click.option(
    "--url",
    envvar="SCALABLE_CRASH_UPLOAD_URL",
    show_envvar=True,
    metavar="URL",
    help="Where to ask for a place.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be sent, and send nothing.")
@click.option("--no-redact", is_flag=True, help="Send the raw bytes, with what secrets they hold.")
def upload(
    run_id: str | None, runs_dir: Path, url: str | None, dry_run: bool, no_redact: bool
) -> None:
    """Send the logs of a run's dead workers that were not sent yet.

    Each is sent once: what the run's uploads.jsonl says is uploaded is left out.
    """
    import json

    from scalable.analysis._text import plural, printable_lines
    from scalable.crash_upload import CrashUploads
    from scalable_runs.redact import Redactor

    if url is None and not dry_run:
        raise click.UsageError("Name a place by --url or SCALABLE_CRASH_UPLOAD_URL.")
    reader = open_run(runs_dir, run_id)
    environment: Any = reader.document.get("environment")
    packages: Any = environment.get("packages") if isinstance(environment, dict) else None
    versions = {str(k): str(v) for k, v in packages.items()} if isinstance(packages, dict) else {}
    redact = None if no_redact else Redactor.from_environment(os.environ, {})
    try:
        uploads = CrashUploads(
            reader.path,
            reader.run_id,
            url or "https://example.invalid/",
            redact=redact,
            versions=versions,
        )
    except ValueError as error:
        raise click.BadParameter(f"{error}.", param_hint="--url") from None
    logs = list(_logs(reader))
    if dry_run:
        for log in logs:
            content = uploads.content(log)
            if content is None:
                echo(f"{log.log}: empty, not sent")
                continue
            echo(json.dumps(uploads.request(log, content), indent=2))
            for line in printable_lines(content.data.decode("utf-8", "replace")):
                echo(f"  | {line}")
        return
    failed = 0
    for log, outcome, reason in uploads.send_all(logs):
        failed += outcome not in ("uploaded", "skipped")
        echo(f"{log.log}: {outcome}{f' ({reason})' if reason else ''}")
    if not logs:
        echo(f"{reader.run_id} has no logs of dead workers.", err=True)
    if failed:
        raise CommandError(f"{plural(failed, 'log')} could not be sent; run this again later.")


def _logs(reader: RunReader) -> Any:
    from scalable.crash_upload import crash_logs

    return crash_logs(reader)
