"""`scalable replay`: run one failed attempt again, alone, in this process."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

import click

from scalable.cli._commands import CommandError, deliver_json, json_option
from scalable.cli._places import Runs, runs_option
from scalable.cli._runs import RunChoice, complete_runs
from scalable.cli._terminal import confirm, echo, safe

if TYPE_CHECKING:
    from scalable.again.replaying import FailedAttempt, Replayed
    from scalable_runs.reader import RunReader

_EPILOG = """\b
Examples:
  scalable replay run-2026 fit            the last failed attempt of fit
  scalable replay run-2026 fit --attempt 1
  scalable replay run-2026 fit-5f3a --pdb
\b
The calls of failed attempts are kept only where that is asked for:
instrument(client, keep_failed=True), or SCALABLE_KEEP_FAILED=1.
Exit codes: 0 it succeeded, 1 it failed or cannot be replayed.
"""

#: Tasks that are named in messages.
_MAX_NAMED: Final = 10
_MAX_REPR: Final = 200


@click.command(epilog=_EPILOG)
@click.argument("run", shell_complete=complete_runs)
@click.argument("task")
@click.option("--attempt", type=click.IntRange(min=1), metavar="N", help="Default: the last.")
@click.option("--pdb", is_flag=True, help="Debug it where it failed, after the failure.")
@click.option("--yes", is_flag=True, help="Do not ask before its objects are unpickled.")
@runs_option
@json_option
def replay(
    run: str,
    task: str,
    attempt: int | None,
    pdb: bool,
    yes: bool,
    runs_dir: Runs,
    as_json: bool,
) -> None:
    """Run a failed attempt of TASK (id or name) of RUN here, with the arguments it had.

    Function and arguments are pickled in the run: unpickling runs code that is in them, so it is
    asked for first, and only files that nobody else could have written are read. No cluster is
    needed; the packages and modules that the task uses are.
    """
    from scalable.again.replaying import read_call, replay_call, unpickle
    from scalable_runs.failed_calls import KeptCallError

    if pdb and as_json:
        raise click.UsageError("--pdb and --json exclude each other: give one of them.")
    reader = RunChoice(runs_dir, run).open()
    failed = _chosen(reader, task, attempt)
    try:
        about, data = read_call(reader, failed)
        _agree(reader, failed, about, yes=yes)
        call = unpickle(data, reader)
    except KeptCallError as error:
        raise CommandError(f"{failed.title} cannot be replayed: {error}.") from None
    replayed = replay_call(call)
    if as_json:
        deliver_json(_document(reader, failed, replayed))
    else:
        _show(failed, replayed)
    if replayed.error is not None and pdb:
        import pdb as debugger

        debugger.post_mortem(replayed.trace)
    click.get_current_context().exit(0 if replayed.error is None else 1)


def _chosen(reader: RunReader, task: str, number: int | None) -> FailedAttempt:
    """Return the failed attempt that is meant: of those with a kept call the last."""
    from scalable.again.past import read_past
    from scalable.again.replaying import failed_attempts, is_kept

    found = failed_attempts(reader)
    own = [each for each in found if each.task_id == task]
    if not own:
        tasks = read_past(reader).tasks
        named = {key for key, each in tasks.items() if each.name == task}
        own = [each for each in found if each.task_id in named]
        if task in tasks or (named and not own):
            raise CommandError(f"No attempt of {task} failed in {reader.run_id}.")
    if not own:
        ids = list(dict.fromkeys(each.task_id for each in found))
        listed = f" These failed: {', '.join(ids[:_MAX_NAMED])}." if ids else " No task failed."
        raise CommandError(f"{reader.run_id} has no task {task}.{listed}")
    if number is not None:
        numbers = sorted({each.attempt for each in own if each.attempt})
        own = [each for each in own if each.attempt == number]
        if not own:
            raise CommandError(
                f"Attempt {number} of {task} did not fail; these did: "
                f"{', '.join(map(str, numbers))}."
            )
    kept = [each for each in own if is_kept(reader, each)]
    return (kept or own)[-1]


def _agree(reader: RunReader, failed: FailedAttempt, about: dict[str, Any], *, yes: bool) -> None:
    """Say what will be run, and ask."""
    echo(
        safe(
            f"{failed.title} of {reader.run_id}: {about.get('function', '?')}, "
            f"{about['size']:,} bytes of pickled objects. Loading them runs code that is in them."
        ),
        err=True,
    )
    if yes:
        return
    if not sys.stdin.isatty():
        raise CommandError("There is no terminal to ask on: --yes loads them without asking.")
    if not confirm("Load and run it here?"):
        raise CommandError("Nothing was run.")


def _show(failed: FailedAttempt, replayed: Replayed) -> None:
    if replayed.error is None:
        echo(safe(f"It succeeded: {_described(replayed.result)}"))
        echo(safe(f"On {failed.worker or 'its worker'} it was {_as_recorded(failed)}"))
        return
    echo(safe(replayed.text), err=True, nl=False)
    if replayed.is_same_as(failed):
        echo(safe(f"It failed again in the same way: {_as_recorded(failed)}"))
    else:
        echo(safe(f"It failed in another way; on its worker it was {_as_recorded(failed)}"))


def _as_recorded(failed: FailedAttempt) -> str:
    return f"{failed.failure_class}: {failed.message[:_MAX_REPR]}"


def _described(result: Any) -> str:
    try:
        text = repr(result)
    except Exception:  # anybody's __repr__
        text = ""
    name = type(result).__name__
    return text if text and len(text) <= _MAX_REPR else f"it returned a {name}"


def _document(reader: RunReader, failed: FailedAttempt, replayed: Replayed) -> dict[str, Any]:
    error = replayed.error
    return {
        "run_id": reader.run_id,
        "task_id": failed.task_id,
        "attempt": failed.attempt,
        "recorded": {"failure_class": failed.failure_class, "message": failed.message},
        "succeeded": error is None,
        "same_failure": replayed.is_same_as(failed) if error is not None else None,
        "failure_class": type(error).__qualname__ if error is not None else None,
        "traceback": replayed.text or None,
        "result_type": type(replayed.result).__name__ if error is None else None,
    }
