"""`scalable crash-logs`: the last output of workers that died, to list, show and send."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from scalable.cli._commands import (
    CommandError,
    HelpGroup,
    completed,
    deliver_json,
    json_option,
    sentence,
)
from scalable.cli._places import nearest_runs_dir
from scalable.cli._runs import RunChoice, run_options
from scalable.cli._terminal import echo, layout

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from scalable.crash_upload.logs import CrashLog
    from scalable.crash_upload.uploads import CrashUploads
    from scalable_runs.reader import RunReader

#: Characters of one cell of the list.
_MAX_CELL: Final = 200
_HEADER: Final = ["Worker", "Cause", "Ended", "Lost at (UTC)", "Bytes", "Sent", "Log"]
_RIGHT: Final = [False, False, True, False, True, False, False]

_EPILOG = """\b
Examples:
  scalable crash-logs list
  scalable crash-logs show 3
  scalable crash-logs list run-20260102 --json
  scalable crash-logs upload --dry-run
"""


@click.group("crash-logs", cls=HelpGroup, epilog=_EPILOG)
def crash_logs() -> None:
    """List, show or send the logs of workers that died.

    A run holds the last output of every worker that was lost. If a worker ran on another host, its
    log stayed there, and the list says where.
    """


def _complete_workers(
    ctx: click.Context, _: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    from scalable.crash_upload.logs import deaths

    try:
        reader = RunChoice(ctx.params.get("runs_dir") or nearest_runs_dir()).open()
        workers = [str(death["worker_id"]) for death in deaths(reader)]
    except click.ClickException:
        return []
    return completed(dict.fromkeys(workers), incomplete)


@crash_logs.command("list", short_help="List the logs of one run's dead workers.")
@run_options
@json_option
def list_logs(choice: RunChoice, as_json: bool) -> None:
    """List the logs of one run's dead workers, the first death first."""
    from scalable.analysis.layout import Page, fit, table
    from scalable.analysis.terminal import terminal_line
    from scalable.crash_upload.logs import deaths, outcomes

    reader = choice.open()
    sent = {record.get("log"): record.get("outcome") for record in outcomes(reader.store)}
    dead = list(deaths(reader))
    found = [_described(reader, death, sent) for death in dead]
    if as_json:
        deliver_json(found)
        return
    if not found:
        echo(f"No worker was lost in {reader.run_id}.", err=True)
        return
    rows = [
        [fit(terminal_line(value), _MAX_CELL) for value in _row(log, death)]
        for log, death in zip(found, dead, strict=True)
    ]
    width = layout(None)
    if not width["strict"]:
        echo("\n".join(table([_HEADER, *rows], _RIGHT)))
        return
    # On a narrow terminal, names of logs are below their rows, and two columns are left out.
    laid_out = Page(**width).table(_HEADER, rows, _RIGHT, stretch=6, drop=(5, 4))
    echo("\n".join(line for lines in laid_out for line in lines))


def _described(reader: RunReader, death: dict[str, Any], sent: dict[Any, Any]) -> dict[str, Any]:
    log = death.get("stderr_path") or None
    entry = reader.store.stat(log) if log else None
    return {
        "worker_id": death["worker_id"],
        "cause": death["cause"],
        "ended_by": death.get("signal") or death.get("exit_code"),
        "lost_at": death["lost_at"],
        "log": log,
        "path": _log_path(reader, log) if log and entry else None,
        "size_bytes": entry.size if entry else None,
        "upload": sent.get(log or ""),
    }


def _log_path(reader: RunReader, log: str) -> str | None:
    """Return where a log is; None in a packed run, out of which only `show` reads it."""
    from scalable.analysis import path_text

    if reader.store.directory is not None:
        return path_text((reader.path / log).resolve())
    return None if isinstance(reader.place, Path) else f"{reader.place}/{log}"


def _row(log: dict[str, Any], death: dict[str, Any]) -> list[Any]:
    size = log["size_bytes"]
    return [
        log["worker_id"] or "-",
        log["cause"],
        "-" if log["ended_by"] is None else log["ended_by"],
        (log["lost_at"] or "")[:19],
        "-" if size is None else f"{size:,}",
        log["upload"] or "-",
        log["log"] or _why_no_log(death),
    ]


def _why_no_log(death: dict[str, Any]) -> str:
    if death.get("stderr_path"):
        return f"it stayed on the worker's host, {death['stderr_path']}"
    unknown = death.get("not_known")
    if isinstance(unknown, list) and "its last output" in unknown:
        return "nothing was captured"
    return "it wrote nothing"


@crash_logs.command("show", short_help="Show the log of a dead worker.")
@click.argument("worker", shell_complete=_complete_workers)
@run_options
def show_log(worker: str, choice: RunChoice) -> None:
    """Show the log of a worker, given by name; if it died more than once, the last one."""
    from scalable.analysis.terminal import terminal_lines
    from scalable.crash_upload.logs import crash_logs, deaths, read_log

    reader = choice.open()
    logs = [log.log for log in crash_logs(reader) if log.worker_id == worker]
    if not logs:
        for death in deaths(reader):
            if worker in (death["worker_id"], death.get("worker")):
                reason = _why_no_log(death)
                raise CommandError(f"{reader.run_id} holds no log of worker {worker}: {reason}.")
        raise CommandError(
            f"{reader.run_id} has no dead worker {worker!r}.\n\nList them: scalable crash-logs list"
        )
    try:
        text = read_log(reader.store, logs[-1]).decode("utf-8", "replace")
    except OSError as error:
        where = f"{reader.place}/{logs[-1]}"
        raise CommandError(f"{where} cannot be read: {error.strerror or error}.") from None
    echo("\n".join(terminal_lines(text)))


@crash_logs.command("upload", short_help="Send the logs that were not sent yet.")
@run_options
@click.option(
    "--url",
    envvar="SCALABLE_CRASH_UPLOAD_URL",
    show_envvar=True,
    metavar="URL",
    help="Address that answers with the place for a log.",
)
@click.option("--dry-run", is_flag=True, help="Print what would be sent, and send nothing.")
@click.option("-v", "--verbose", is_flag=True, help="With --dry-run: print the texts as well.")
@click.option("--no-redact", is_flag=True, help="Send the logs without redacting secrets.")
def upload(
    choice: RunChoice, url: str | None, dry_run: bool, verbose: bool, no_redact: bool
) -> None:
    """Send the logs of a run's dead workers that were not sent yet.

    Each log is sent once: the run's uploads.jsonl records which ones were.
    """
    from scalable.analysis.units import plural
    from scalable.crash_upload.logs import crash_logs
    from scalable.crash_upload.uploads import CrashUploads
    from scalable_runs.redact import Redactor

    if url is None and not dry_run:
        raise click.UsageError("Name an address by --url or SCALABLE_CRASH_UPLOAD_URL.")
    reader = choice.open()
    environment: dict[str, Any] = reader.document.get("environment") or {}
    try:
        uploads = CrashUploads(
            reader.store,
            reader.run_id,
            url or "https://example.invalid/",
            redact=None if no_redact else Redactor.from_environment(os.environ).lines,
            versions=environment.get("packages") or {},
        )
    except ValueError as error:
        raise click.BadParameter(sentence(error), param_hint="--url") from None
    logs = list(crash_logs(reader))
    if not logs:
        echo(f"{reader.run_id} has no logs of dead workers.", err=True)
    if dry_run:
        for log in logs:
            _print_what_would_be_sent(uploads, log, verbose=verbose)
        return
    failed = 0
    for log, outcome, reason in uploads.send_all(logs):
        failed += outcome not in ("uploaded", "skipped")
        echo(f"{log.log}: {outcome}{f' ({reason})' if reason else ''}")
    if failed:
        raise CommandError(f"{plural(failed, 'log')} could not be sent; run this again later.")


def _print_what_would_be_sent(uploads: CrashUploads, log: CrashLog, *, verbose: bool) -> None:
    from scalable.analysis.terminal import terminal_lines

    content = uploads.content(log)
    skipped = uploads.why_skipped(content)
    if content is None or skipped is not None:
        echo(f"{log.log}: would be skipped ({skipped})")
        return
    echo(f"{log.log}: {len(content.data):,} bytes would be sent")
    if verbose:
        echo(json.dumps(uploads.request(log, content), indent=2))
        for line in terminal_lines(content.data.decode("utf-8", "replace")):
            echo(f"  | {line}")
