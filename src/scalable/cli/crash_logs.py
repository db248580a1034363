"""`scalable crash-logs`: the last output of workers that died, to list, show and send."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import click

from scalable.cli._commands import CommandError, HelpGroup, deliver, json_option
from scalable.cli._runs import RunChoice, nearest_runs_dir, run_options
from scalable.cli._terminal import echo, layout

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from scalable.crash_upload.logs import CrashLog
    from scalable.crash_upload.uploads import CrashUploads
    from scalable_runs.reader import RunReader

#: Characters of one cell of the list.
_MAX_CELL: Final = 200

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

    Every worker that was lost has what its process wrote last in its run, unless it ran on another
    host: then the list says where the log stayed.
    """


def _complete_workers(
    ctx: click.Context, _: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    runs_dir = ctx.params.get("runs_dir") or nearest_runs_dir()
    try:
        names = {
            str(d.get("worker_id") or d.get("worker")): None
            for d in _deaths(RunChoice(runs_dir).open())
        }
    except click.ClickException:
        return []
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


@crash_logs.command("list", short_help="List the logs of one run's dead workers.")
@run_options
@json_option
def list_logs(choice: RunChoice, as_json: bool) -> None:
    """List the logs of one run's dead workers, the first death first."""
    from scalable.analysis import json_text, path_text
    from scalable.analysis.layout import Page, fit, table
    from scalable.analysis.terminal import terminal_line
    from scalable.crash_upload.logs import outcomes

    reader = choice.open()
    sent = {record.get("log"): record.get("outcome") for record in outcomes(reader.store)}
    rows: list[list[str]] = []
    found: list[dict[str, Any]] = []
    for details in _deaths(reader):
        log = details.get("stderr_path") or ""
        entry = reader.store.stat(log) if log else None
        size = None if entry is None else entry.size
        worker = details.get("worker_id") or details.get("worker")
        how = details.get("signal") or details.get("exit_code")
        found.append(
            {
                "worker_id": worker,
                "cause": details.get("cause") or "unknown",
                "ended_by": how,
                "lost_at": details["lost_at"],
                "log": log or None,
                "path": None if entry is None else path_text((reader.path / log).resolve()),
                "size_bytes": size,
                "upload": sent.get(log),
            }
        )
        row = [
            worker or "-",
            details.get("cause") or "unknown",
            "-" if how is None else how,
            (details["lost_at"] or "")[:19],
            "-" if size is None else f"{size:,}",
            sent.get(log) or "-",
            log or _no_log(details),
        ]
        rows.append([fit(terminal_line(value), _MAX_CELL) for value in row])
    if as_json:
        deliver(json_text(found), as_json=True)
        return
    if not rows:
        echo(f"No worker was lost in {reader.run_id}.", err=True)
        return
    header = ["Worker", "Cause", "Ended", "Lost at (UTC)", "Bytes", "Sent", "Log"]
    right = [False, False, True, False, True, False, False]
    how_wide = layout(None)
    if not how_wide["strict"]:
        echo("\n".join(table([header, *rows], right)))
        return
    # On a terminal that is too narrow the logs' names stand below their rows, and two columns go.
    laid_out = Page(**how_wide).table(header, rows, right, stretch=6, drop=(5, 4))
    echo("\n".join(line for lines in laid_out for line in lines))


@crash_logs.command("show", short_help="Show the log of a dead worker.")
@click.argument("worker", shell_complete=_complete_workers)
@run_options
def show_log(worker: str, choice: RunChoice) -> None:
    """Show the log of the worker of that name, of its last death if it died more than once."""
    from scalable.analysis.terminal import terminal_lines
    from scalable.crash_upload.logs import read_log

    reader = choice.open()
    found = [log for log in _logs(reader) if log.worker_id == worker]
    if not found:
        raise CommandError(_why_not_shown(reader, worker))
    log = found[-1].log
    try:
        text = read_log(reader.store, log).decode("utf-8", "replace")
    except OSError as error:
        where = reader.path / log
        raise CommandError(f"{where} cannot be read: {error.strerror or error}.") from None
    echo("\n".join(terminal_lines(text)))


def _why_not_shown(reader: RunReader, worker: str) -> str:
    for details in _deaths(reader):
        if worker in (details.get("worker_id"), details.get("worker")):
            return f"{reader.run_id} holds no log of worker {worker}: {_no_log(details)}."
    return f"{reader.run_id} has no dead worker {worker!r}.\n\nList them: scalable crash-logs list"


def _no_log(details: dict[str, Any]) -> str:
    """Why a run's directory has no log of a worker."""
    if details.get("stderr_path"):
        return f"it stayed on the worker's host, {details['stderr_path']}"
    unknown = details.get("not_known")
    if isinstance(unknown, list) and "its last output" in unknown:
        return "nothing was captured"
    return "it wrote nothing"


def _deaths(reader: RunReader) -> Iterator[dict[str, Any]]:
    """Yield the details of each lost worker, the first death first."""
    for record in reader.records("failures.jsonl"):
        if record.get("failure_class") == "WorkerLost":
            yield {**(record.get("details") or {}), "lost_at": record.get("timestamp")}


@crash_logs.command("upload", short_help="Send the logs that were not sent yet.")
@run_options
@click.option(
    "--url",
    envvar="SCALABLE_CRASH_UPLOAD_URL",
    show_envvar=True,
    metavar="URL",
    help="Where to ask for a place.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be sent, and send nothing.")
@click.option("-v", "--verbose", is_flag=True, help="With --dry-run: show the texts as well.")
@click.option("--no-redact", is_flag=True, help="Send the bytes as they lie in the run.")
def upload(
    choice: RunChoice, url: str | None, dry_run: bool, verbose: bool, no_redact: bool
) -> None:
    """Send the logs of a run's dead workers that were not sent yet.

    Each is sent once: what the run's uploads.jsonl says is uploaded is left out.
    """
    from scalable.analysis.units import plural
    from scalable.crash_upload.uploads import CrashUploads
    from scalable_runs.redact import Redactor

    if url is None and not dry_run:
        raise click.UsageError("Name a place by --url or SCALABLE_CRASH_UPLOAD_URL.")
    reader = choice.open()
    environment: dict[str, Any] = reader.document.get("environment") or {}
    versions: dict[str, str] = environment.get("packages") or {}
    redact = None if no_redact else Redactor.from_environment(os.environ).lines
    try:
        uploads = CrashUploads(
            reader.store,
            reader.run_id,
            url or "https://example.invalid/",
            redact=redact,
            versions=versions,
        )
    except ValueError as error:
        raise click.BadParameter(f"{error}.", param_hint="--url") from None
    logs = list(_logs(reader))
    if not logs:
        echo(f"{reader.run_id} has no logs of dead workers.", err=True)
    if dry_run:
        for log in logs:
            _say_what_would_be_sent(uploads, log, verbose=verbose)
        return
    failed = 0
    for log, outcome, reason in uploads.send_all(logs):
        failed += outcome not in ("uploaded", "skipped")
        echo(f"{log.log}: {outcome}{f' ({reason})' if reason else ''}")
    if failed:
        raise CommandError(f"{plural(failed, 'log')} could not be sent; run this again later.")


def _say_what_would_be_sent(uploads: CrashUploads, log: CrashLog, *, verbose: bool) -> None:
    import json

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


def _logs(reader: RunReader) -> Iterator[CrashLog]:
    from scalable.crash_upload.logs import crash_logs

    return crash_logs(reader)
