"""The `scalable` command.

Each command lives in a module of its own and is imported when it is called; `scalable --help`
imports neither Dask nor OpenTelemetry nor any command.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any, Final

import click

from scalable.cli._common import CommandError, echo, safe

#: Name of a command: where it is, and what the list of commands says of it.
COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "report": ("scalable.cli.report:report", "Tell what one run did, and how it went."),
    "diagnose": (
        "scalable.cli.diagnose:diagnose",
        "Say what went wrong in one run, and what to do about it.",
    ),
    "crash-logs": (
        "scalable.cli.crash_logs:crash_logs",
        "List, show or send the logs of workers that died.",
    ),
    "runs": ("scalable.cli.runs:runs", "List the recorded runs, newest first."),
    "init": ("scalable.cli.init:init", "Write a commented manifest."),
    "validate": ("scalable.cli.validate:validate", "Check a manifest in one pass."),
    "schema": ("scalable.cli.schema:schema", "Print the manifest's JSON schema, for editors."),
    "export": (
        "scalable.cli.export:export",
        "Send a recorded run to an OpenTelemetry collector.",
    ),
    "plan": ("scalable.cli.plan:plan", "Say what would be started, and what it may cost."),
    "run": ("scalable.cli.run:run", "Run a script or a function in a session."),
    "cache": ("scalable.cli.cache:cache", "Look at results kept by @cacheable, or remove them."),
    "demo": ("scalable.cli.demo:demo", "Record a real workload and show its report."),
}

_EPILOG: Final = """\b
Record a run: one line in your own program,
  with scalable.instrument(client):
      ...  # any Dask
then look at it:
  scalable report                      the latest run
  scalable report --run-id run-2026    another one, by the beginning of its id
  scalable report --format json | jq .counts
  scalable diagnose                    why it failed, and what to do about it
  scalable runs                        all of them

Runs are read from .scalable/runs below the current directory; --runs-dir or SCALABLE_RUNS_DIR
names another place. Exit codes: 0 done, 1 no such run or not readable, 2 wrong usage.
"""


class _Commands(click.Group):
    """A group that imports a command when it is called, not when it is listed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        try:
            return super().make_context(*args, **extra)  # here --help and --version are printed
        except BrokenPipeError:
            raise _end_of_reader() from None

    def invoke(self, ctx: click.Context) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            raise _end_of_reader() from None
        except click.ClickException as error:
            vars(error)["message"] = safe(error.message)  # for type checkers it is final
            raise
        except (click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            # What a workflow raises is the user's own, and is shown as Python shows it.
            if ctx.invoked_subcommand in _RUN_CODE or os.environ.get("SCALABLE_STRICT") == "1":
                raise
            raise CommandError(safe(_internal_error(error))) from error
        return result

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from difflib import get_close_matches

            near = get_close_matches(args[0], COMMANDS, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(COMMANDS)}."
            raise click.UsageError(f"{error.message} {hint}", ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


#: Commands that run somebody's program.
_RUN_CODE: Final = frozenset({"run", "demo"})


def _internal_error(error: Exception) -> str:
    return (
        f"internal error: {type(error).__name__}: {str(error)[:500]}\n\n"
        "This is a fault of scalable. SCALABLE_STRICT=1 shows where it is raised: please report it."
    )


def _print_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from scalable import __version__

        echo(f"scalable {__version__}")
        ctx.exit()


@click.group(
    cls=_Commands,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version and exit.",
)
def cli() -> None:
    """Look at what Dask runs really did.

    Every run recorded with scalable.instrument(client) keeps a complete copy of itself on disk:
    each task attempt, each worker, each failure. `report`, `diagnose` and `runs` read it, also
    while the run goes on and after its program was killed. They need no cluster and no Dask.
    """


def main() -> None:
    """Run the command line and exit; what the `scalable` script calls."""
    # A name that the terminal's encoding lacks must not end a report with a traceback.
    for stream in (sys.stdout, sys.stderr):
        reconfigure: Any = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")
    try:
        status = cli.main(prog_name="scalable", standalone_mode=False)
    except click.exceptions.Exit as exit_:
        status = exit_.exit_code
    except click.ClickException as error:
        error.show()
        status = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        echo("\nInterrupted.", err=True)
        status = 130
    sys.exit(status if isinstance(status, int) else 0)


def _end_of_reader() -> click.exceptions.Exit:
    """Go quietly when the reader of a pipe (`head`, a pager) has seen enough: all went well."""
    # The interpreter flushes once more on its way out: let that go nowhere.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return click.exceptions.Exit(0)
