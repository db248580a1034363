"""`scalable logs`: what the tasks and the workers of a run printed and logged."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import click

from scalable.cli._commands import CommandError, json_option
from scalable.cli._filters import Moment
from scalable.cli._runs import RunChoice, run_options
from scalable.cli._terminal import echo, plain_json, wants_color

if TYPE_CHECKING:
    from scalable.analysis import LogChoice, RunLogs

#: Seconds between two looks at a live run.
INTERVAL: Final = 0.5
#: Severity number of OpenTelemetry at which each level begins.
_LEVELS: Final = {"DEBUG": 5, "INFO": 9, "WARNING": 13, "ERROR": 17, "CRITICAL": 21}

_EPILOG: Final = """\b
Examples:
  scalable logs                        the latest run
  scalable logs run-2026 --task parse-row --attempt 1
  scalable logs --task parse-row       all tasks of that name
  scalable logs --worker 3 --since 10m
  scalable logs --level WARNING -n 50
  scalable logs -f                     while the run goes on, until it ends
  scalable logs --json | jq -r 'select(.stream == "stderr") | .text'
\b
Each line has its time (UTC), the task (#2: its second attempt) or the worker,
and what it is: stdout or stderr of a task, the level of a logger's record,
FAILED where an attempt failed, and `output` (or stdout, stderr) of a worker's
process where the task is not known.

The output of tasks that succeed is kept with SCALABLE_TASK_OUTPUT=all. RUN is
a run's id, the beginning of one, the path of its directory or packed file, or
its URL.
"""


@click.command(epilog=_EPILOG)
@run_options
@click.option(
    "--task",
    metavar="TASK",
    help="Only this task: its key, the beginning of one, or the name of several.",
)
@click.option("--attempt", type=click.IntRange(min=1), metavar="N", help="Only this attempt.")
@click.option("--worker", metavar="WORKER", help="Only this worker: its name or its address.")
@click.option(
    "--since",
    type=Moment(),
    metavar="TIME",
    help="Only lines since then: 10m, 7d, 2026-11-28 or 2026-11-28T06:00 (UTC).",
)
@click.option(
    "--level",
    type=click.Choice(list(_LEVELS), case_sensitive=False),
    help="Only records of loggers of at least this level, and failures.",
)
@click.option(
    "-n", "--tail", type=click.IntRange(min=0), metavar="N", help="Only the last N entries so far."
)
@click.option(
    "-f", "--follow", is_flag=True, help="Show further lines as they come, until the run ends."
)
@json_option
@click.pass_context
def logs(
    ctx: click.Context,
    choice: RunChoice,
    task: str | None,
    attempt: int | None,
    worker: str | None,
    since: datetime | None,
    level: str | None,
    tail: int | None,
    follow: bool,
    as_json: bool,
) -> None:
    """Show what the tasks and workers of a run printed and logged, in order of time.

    Works while the run goes on, after its program was killed, on packed runs and on copies. JSON is
    one object a line.
    """
    from scalable.analysis import LogChoice, RunLogs
    from scalable_runs.redact import Redactor

    wanted = LogChoice(
        task, attempt, worker, since, None if level is None else _LEVELS[level.upper()]
    )
    # The same run, also if another one begins meanwhile.
    first = choice.open()
    name = str(first.place) if choice.name is None else choice.name
    fixed = RunChoice(choice.runs_dir, name)
    opened = [first]
    run = RunLogs(
        lambda: opened.pop() if opened else fixed.open(),
        wanted,
        Redactor.from_environment(os.environ),
    )
    try:
        lines = run.lines()
        shown = _show(lines if tail is None else lines[max(0, len(lines) - tail) :], as_json)
        if follow:
            shown += _show(run.follow(lambda: time.sleep(INTERVAL)), as_json)
    except KeyboardInterrupt:
        if not follow:
            raise
        sys.stdout.flush()
        ctx.exit(130)
    if run.left_out:
        echo(f"{run.left_out:,} earlier lines are left out: choose with --since.", err=True)
    if not shown:
        _explain(run, wanted)


def _show(lines: Iterable[Any], as_json: bool) -> int:
    from scalable.analysis import render_log
    from scalable.analysis.terminal import escape_json

    count = 0
    color = wants_color()
    for line in lines:
        count += 1
        if as_json:
            text = json.dumps(line.plain(), ensure_ascii=False)
            echo(plain_json(escape_json(text)))
        else:
            echo(render_log(line, color=color), nl=False, styled=color)
        if not count % 100:
            sys.stdout.flush()
    sys.stdout.flush()
    return count


def _explain(run: RunLogs, wanted: LogChoice) -> None:
    """Say why there is nothing; raises CommandError if there is no such task."""
    from scalable.analysis.log_choice import Windows

    if wanted.task is not None and not Windows(run.run, wanted.task).tasks:
        raise CommandError(
            f"{run.run.run_id} has no task like {wanted.task!r}.\n\nThe tasks of the run: "
            f"scalable report {run.run.run_id}"
        )
    echo(
        "There are no such lines. The output of tasks that succeed is kept with "
        "SCALABLE_TASK_OUTPUT=all.",
        err=True,
    )
