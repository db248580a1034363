"""`scalable retry`: run a program again, and take from its last run what still holds."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from scalable.cli._commands import CommandError, deliver, deliver_json, json_option
from scalable.cli._manifest import target_option
from scalable.cli._places import Runs, same_option
from scalable.cli._runs import RunChoice, run_options
from scalable.cli._terminal import echo, safe

if TYPE_CHECKING:
    from scalable.again.command import Command
    from scalable.again.outcome import Group
    from scalable.again.prediction import Expected, Prediction
    from scalable.cache.store import Store
    from scalable.code.changes import Change
    from scalable_runs.reader import RunReader

_EPILOG = """\b
Examples:
  scalable retry --dry-run            what would be reused, and what not
  scalable retry                      the latest run
  scalable retry run-2026 --target hpc
  scalable retry --explain fit        one task, or all of a name
  scalable retry -- --year 2014       with further arguments
\b
Results are kept by @cacheable, `cache: true` in the manifest, or for all
tasks: instrument(client, keep_results=True), SCALABLE_KEEP_RESULTS=1, or
`keep_results: true` in the manifest. A result is reused if the function with
all that it calls, the arguments and the files among them are the same.
The exit code is that of the program; 1 if it is not started.
"""

#: Tasks that are explained or listed at most.
_MAX_EXPLAINED: Final = 10
_MAX_LISTED: Final = 1_000
_MAX_DIFF_LINES: Final = 40
_AFTER_DASHES: Final = "scalable.after_dashes"


class _RetryCommand(click.Command):
    """Does not parse what follows `--`: these arguments are the program's."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        at = args.index("--") if "--" in args else len(args)
        ctx.meta[_AFTER_DASHES] = tuple(args[at + 1 :])
        return super().parse_args(ctx, args[:at])


@click.command(cls=_RetryCommand, epilog=_EPILOG)
@run_options
@target_option
@click.option("--dry-run", is_flag=True, help="Show what would be reused; start nothing.")
@click.option("--explain", metavar="TASK", help="Say why for one task (id or name); start nothing.")
@click.option(
    "--command",
    "given",
    metavar="TEXT",
    help="The command line to run instead of the recorded one.",
)
@click.option("--cwd", metavar="DIR", help="Where to run it. Default: where it was started.")
@json_option
@click.pass_context
def retry(
    ctx: click.Context,
    choice: RunChoice,
    target: str | None,
    dry_run: bool,
    explain: str | None,
    given: str | None,
    cwd: str | None,
    as_json: bool,
) -> None:
    """Run the program of RUN again, and reuse the results that still hold.

    First it prints what will be reused, what will be computed again, and why. Arguments of the
    program itself go after `--`. With --json, one document says what was expected and what
    happened, and the program's own output goes to standard error.
    """
    from scalable.again.past import read_past
    from scalable.again.prediction import predict

    reader = choice.open()
    past = read_past(reader)
    prediction = predict(past, _store(reader))
    if explain is not None:
        _explain(prediction, explain, reader, as_json=as_json)
        return
    command = _command(reader, given, cwd, target, ctx.meta[_AFTER_DASHES])
    document = _document(reader, command, prediction)
    if dry_run:
        deliver_json(document) if as_json else deliver(_table(reader, command, prediction))
        return
    if reader.is_live:
        raise CommandError(
            f"{reader.run_id} is still being recorded: wait for its end, or end its program. "
            f"Look at it: scalable report {reader.run_id}"
        )
    echo(_table(reader, command, prediction), err=True, nl=False)
    began = datetime.now(UTC)
    code = _execute(command, as_json=as_json)
    new = _new_run(choice.runs_dir, reader.run_id, began)
    if as_json:
        deliver_json({**document, "exit_code": code, "outcome": _outcome_document(new, past)})
    elif new is not None:
        from scalable.again.outcome import outcome_of

        echo(_outcome_text(new, outcome_of(new, past), choice.runs_dir), err=True, nl=False)
    ctx.exit(code)


# -- what is run ----------------------------------------------------------------------------------


def _command(
    reader: RunReader,
    given: str | None,
    cwd: str | None,
    target: str | None,
    extra: tuple[str, ...],
) -> Command:
    from scalable.again.command import NoCommandError, command_of

    try:
        return command_of(
            reader.run_id, _recorded(reader), given=given, cwd=cwd, target=target, extra=extra
        )
    except NoCommandError as error:
        raise CommandError(f"{reader.run_id} cannot be retried: {error}.") from None


def _recorded(reader: RunReader) -> dict[str, Any]:
    found: Any = (reader.document.get("environment") or {}).get("command")
    return found if isinstance(found, dict) else {}


def _store(reader: RunReader) -> Store:
    """Return the store that the program's workers will use."""
    import os

    from scalable.cache.store import DIRECTORY_VARIABLE, Store

    kept: dict[str, Any] = reader.document.get("kept") or {}
    place = os.environ.get(DIRECTORY_VARIABLE) or kept.get("directory")
    if place:
        return Store(Path(str(place)).expanduser())
    return Store(Path(str(_recorded(reader).get("cwd") or "."), ".scalable", "cache"))


def _execute(command: Command, *, as_json: bool) -> int:
    """Run the program and return its exit code, as a shell does."""
    try:
        process = subprocess.Popen(
            command.argv,
            cwd=command.cwd,
            env=command.environ(),
            stdout=sys.stderr.fileno() if as_json else None,
        )
    except OSError as error:
        raise CommandError(f"{command.argv[0]} cannot be started: {error.strerror}.") from None
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        # Ctrl-C reaches the program too, which ends in its own way.
        before[signal.SIGINT] = signal.signal(signal.SIGINT, signal.SIG_IGN)
        before[signal.SIGTERM] = signal.signal(
            signal.SIGTERM, lambda number, frame: process.send_signal(number)
        )
    try:
        code = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return code if code >= 0 else 128 - code


def _new_run(runs: Runs, retry_of: str, began: datetime) -> RunReader | None:
    """Return the run that the program has recorded, if it is in the same place."""
    from scalable_runs.reader import find_runs

    try:
        found = find_runs(runs)
    except (OSError, ValueError, ImportError):
        return None
    for run in found:
        if run.document.get("retry_of") == retry_of and run.started_at is not None:
            return run if run.started_at.timestamp() >= began.timestamp() - 1.0 else None
    return None


# -- what is shown --------------------------------------------------------------------------------


def _table(reader: RunReader, command: Command, prediction: Prediction) -> str:
    from scalable.again.prediction import AGAIN, DEPENDS, REUSED

    words = {REUSED: "reused", AGAIN: "again", DEPENDS: "depends"}
    lines = [
        f"Retry of {reader.run_id} ({reader.status})",
        f"  {command.text}",
        f"  in {Path(command.cwd).absolute()}",
        "",
    ]
    groups = prediction.groups()
    width = max([len(name) for _, name, _, _ in groups], default=0)
    for outcome, name, reason, tasks in groups:
        detail = tasks[0].detail if len({each.detail for each in tasks}) == 1 else ""
        why = f"{reason}{f' ({detail})' if detail and outcome != DEPENDS else ''}"
        lines.append(
            f"  {words[outcome]:<8}{len(tasks):>7,}  {name:<{min(width, 40)}}  {why[:200]}".rstrip()
        )
    if not groups:
        lines.append("  The run has no tasks.")
    lines.append("")
    for name, changes in prediction.changes.items():
        for change in changes:
            lines += [f"  {name}: {change.sentence}", *_diff_lines(change)]
    lines += [f"  Not known before it runs: {each}." for each in prediction.unknown]
    total = f"{prediction.count(REUSED):,} reused, {prediction.count(AGAIN):,} computed again"
    if depends := prediction.count(DEPENDS):
        total += f", {depends:,} depend on new results"
    lines.append(f"  {total}; arguments that the program itself passes are known when it runs.")
    return safe("\n".join(lines)) + "\n\n"


def _diff_lines(change: Change) -> list[str]:
    return [f"      {line}" for line in change.diff.splitlines()[:_MAX_DIFF_LINES]]


def _document(reader: RunReader, command: Command, prediction: Prediction) -> dict[str, Any]:
    return {
        "run_id": reader.run_id,
        "status": reader.status,
        "command": command.argv,
        "cwd": str(Path(command.cwd).absolute()),
        "expected": [
            {
                "outcome": outcome,
                "task_name": name,
                "reason": reason or None,
                "count": len(tasks),
                "details": sorted({each.detail for each in tasks if each.detail})[:_MAX_LISTED],
                "task_ids": [each.task.task_id for each in tasks[:_MAX_LISTED]],
            }
            for outcome, name, reason, tasks in prediction.groups()
        ],
        "changes": _changes(prediction),
        "unknown": prediction.unknown,
    }


def _changes(prediction: Prediction) -> list[dict[str, Any]]:
    return [
        {
            "function_name": name,
            "change": change.sentence,
            "diff": change.diff or None,
        }
        for name, changes in prediction.changes.items()
        for change in changes
    ]


def _explain(prediction: Prediction, name: str, reader: RunReader, *, as_json: bool) -> None:
    from scalable.again.prediction import matching

    found = matching(prediction.expected, name)
    if not found:
        names = sorted({each.task.name for each in prediction.expected})
        raise CommandError(
            f"{reader.run_id} has no task {name!r}; tasks are named {', '.join(names[:10])}."
        )
    if as_json:
        deliver_json([_explained(each) for each in found[:_MAX_LISTED]])
        return
    for each in found[:_MAX_EXPLAINED]:
        echo("\n".join(_explanation(each, prediction)))
    if len(found) > _MAX_EXPLAINED:
        echo(f"… and {len(found) - _MAX_EXPLAINED:,} more; --json has all")


def _explained(each: Expected) -> dict[str, Any]:
    lookup = each.task.lookup or {}
    return {
        "task_id": each.task.task_id,
        "task_name": each.task.name,
        "state": each.task.state,
        "outcome": each.outcome,
        "reason": each.reason or None,
        "detail": each.detail or None,
        "function_name": lookup.get("function_name"),
        "function_identity": lookup.get("function_identity"),
        "arguments": lookup.get("arguments"),
        "key_digest": lookup.get("key_digest"),
    }


def _explanation(each: Expected, prediction: Prediction) -> list[str]:
    lookup = each.task.lookup or {}
    words = {"again": "computed again", "depends": "reused if its inputs are the same"}
    lines = [f"{each.task.task_id}: {words.get(each.outcome, each.outcome)}"]
    if each.reason:
        lines.append(f"  why        {each.reason}{f' ({each.detail})' if each.detail else ''}")
    lines.append(f"  it was     {each.task.state}")
    if lookup.get("function_name"):
        lines.append(
            f"  function   {lookup['function_name']} {lookup.get('function_identity', '')}"
        )
    for name, digest in (lookup.get("arguments") or {}).items():
        lines.append(f"  argument   {name} {digest}")
    for name, changes in prediction.changes.items():
        if name in each.reason:
            for change in changes:
                lines += [f"  {name}: {change.sentence}", *_diff_lines(change)]
    return [safe(line) for line in lines]


def _outcome_text(new: RunReader, groups: list[Group], runs: Runs) -> str:
    from scalable.again.outcome import totals

    count = totals(groups)
    lines = [f"\n{new.run_id}: {count[True]:,} reused, {count[False]:,} computed"]
    for group in groups:
        word = "reused" if group.reused else "computed"
        lines.append(f"  {word:<8}{group.count:>7,}  {group.name}  {group.reason[:200]}".rstrip())
    lines.append(f"Look at it: scalable report {new.run_id}{same_option(runs)}")
    return safe("\n".join(lines)) + "\n"


def _outcome_document(new: RunReader | None, past: Any) -> dict[str, Any] | None:
    if new is None:
        return None
    from scalable.again.outcome import outcome_of, totals

    groups = outcome_of(new, past)
    count = totals(groups)
    return {
        "run_id": new.run_id,
        "status": new.status,
        "reused": count[True],
        "computed": count[False],
        "groups": [
            {
                "task_name": each.name,
                "reused": each.reused,
                "reason": each.reason or None,
                "count": each.count,
                "task_ids": each.tasks,
            }
            for each in groups
        ],
    }
