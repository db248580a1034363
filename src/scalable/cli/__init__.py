"""The `scalable` command.

Each command has a module of its own, which is imported when the command is called: `scalable
--help` imports neither Dask nor OpenTelemetry nor any command.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Generator
from typing import Any, Final

import click

from scalable.cli._commands import CommandError, HelpGroup
from scalable.cli._encoding import replace_missing_characters
from scalable.cli._terminal import echo, safe
from scalable.common.hints import suggestion

#: Name of a command → its text in the list. Its module and function have the same name.
COMMANDS: Final[dict[str, str]] = {
    "report": "Show what one run did, and how it went.",
    "logs": "Show what tasks and workers of a run printed and logged.",
    "diagnose": "Say what went wrong in one run, and what to do about it.",
    "compare": "Show what differs between two runs.",
    "crash-logs": "List, show or send the logs of workers that died.",
    "runs": "List the recorded runs, newest first.",
    "sync": "Copy what the place of copies lacks of runs.",
    "clean": "Remove recorded runs that are no longer needed.",
    "pack": "Make one file of a run, which every command reads in place.",
    "unpack": "Make a directory of a packed run.",
    "convert": "Write a run's journals as parquet, CSV or a DuckDB database.",
    "merge": "Merge the parts of a run that several programs wrote.",
    "init": "Write a commented manifest.",
    "validate": "Check a manifest.",
    "schema": "Print the manifest's JSON schema, for editors.",
    "export": "Send a run to a collector, or write it for another tool.",
    "plan": "Show what a session would start, and what it may cost.",
    "run": "Run a script or a function in a session.",
    "retry": "Run a program again, and reuse the results that still hold.",
    "replay": "Run one failed attempt here, with the arguments it had.",
    "config": "Show every option in force, and where it comes from.",
    "cache": "List or remove the results kept by @cacheable.",
    "catalog": "List, check or read what the data catalog keeps.",
    "lineage": "Tell where a file or a task came from.",
    "demo": "Record a real workload and show its report.",
}
#: Commands that run the user's program.
_RUN_CODE: Final = frozenset({"run", "demo"})

_EPILOG: Final = """\b
Record a run: one line in your own program,
  with scalable.instrument(client):
      ...  # any Dask
then look at it:
  scalable report                      the latest run
  scalable report run-2026             another one, by the beginning of its id
  scalable report --json | jq .counts  for programs
  scalable diagnose                    why it failed, and what to do about it
  scalable runs                        all of them

Runs are read from .scalable/runs here or in the nearest directory above; --runs-dir or
SCALABLE_RUNS_DIR names another directory, --runs-dir s3://bucket/prefix or SCALABLE_RUN_STORE
another place. Exit codes: 0 done, 1 not done (no such run, not
readable, problems found), 2 wrong usage.

\b
Completion of commands, run ids and names, for bash (zsh, fish alike):
  eval "$(_SCALABLE_COMPLETE=bash_source scalable)"
"""


class _Commands(HelpGroup):
    """A group that imports a command when it is called, not when it is listed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        name = cmd_name.replace("-", "_")
        command: click.Command = getattr(importlib.import_module(f"scalable.cli.{name}"), name)
        return command

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        with _reader_may_leave():  # --help and --version are printed here
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with _reader_may_leave():
                result = super().invoke(ctx)
                sys.stdout.flush()
                return result
        except click.ClickException as error:
            vars(error)["message"] = safe(error.message)  # for type checkers it is final
            raise
        except (click.exceptions.Exit, click.Abort, OSError):
            raise
        except Exception as error:
            # What the user's program raises is shown as Python shows it.
            if ctx.invoked_subcommand in _RUN_CODE or os.environ.get("SCALABLE_STRICT") == "1":
                raise
            raise CommandError(
                safe(
                    f"internal error: {type(error).__name__}: {str(error)[:500]}\n\nThis is a bug "
                    "of scalable: please report it. SCALABLE_STRICT=1 shows where it is raised."
                )
            ) from error

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            hint = suggestion(args[0], COMMANDS, "there are").capitalize()
            end = "" if hint.endswith("?") else "."
            raise click.UsageError(f"{error.message} {hint}{end}", ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


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
    "-V",
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version and exit.",
)
def cli() -> None:
    """Look at what Dask runs really did.

    Every run recorded with scalable.instrument(client) has a complete record on disk: each task
    attempt, each worker, each failure. `report`, `diagnose` and `runs` read it, also while the run
    is going on and after its program was killed. They need no cluster and no Dask.
    """


def main() -> None:
    """Run the command line and exit; the `scalable` script calls this."""
    for stream in (sys.stdout, sys.stderr):
        replace_missing_characters(stream)
    try:
        status = cli.main(prog_name="scalable", standalone_mode=False)
    except click.exceptions.Exit as exit_:
        status = exit_.exit_code
    except click.ClickException as error:
        _print_error(error)
        status = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        _print_error("\nInterrupted.")
        status = 130
    except OSError as error:
        _discard_output()
        about = error.strerror or str(error)
        place = "cannot write" if error.filename is None else os.fsdecode(error.filename)
        _print_error(click.ClickException(f"{place}: {about}."))
        status = 1
    sys.exit(status if isinstance(status, int) else 0)


@contextlib.contextmanager
def _reader_may_leave() -> Generator[None]:
    """Exit with 0 if the reader of a pipe (`head`, a pager) has closed it; click exits with 1."""
    try:
        yield
    except BrokenPipeError:
        _discard_output()
        raise click.exceptions.Exit(0) from None


def _print_error(error: click.ClickException | str) -> None:
    with contextlib.suppress(OSError):  # standard error may be closed too
        if isinstance(error, str):
            echo(error, err=True)
        else:
            error.show()


def _discard_output() -> None:
    """Let the interpreter's last flush of standard output succeed."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
