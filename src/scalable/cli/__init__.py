"""The `scalable` command.

Each command lives in a module of its own and is imported when it is called; `scalable --help`
imports neither Dask nor OpenTelemetry nor any command.
"""

from __future__ import annotations

import codecs
import contextlib
import importlib
import os
import sys
from collections.abc import Generator
from typing import Any, Final

import click

from scalable.cli._commands import CommandError, HelpGroup
from scalable.cli._terminal import echo, safe

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
  scalable report run-2026             another one, by the beginning of its id
  scalable report --json | jq .counts  for programs
  scalable diagnose                    why it failed, and what to do about it
  scalable runs                        all of them

Runs are read from .scalable/runs here or in the nearest directory above; --runs-dir or
SCALABLE_RUNS_DIR names another place. Exit codes: 0 done, 1 not done (no such run, not
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
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        with _reader_may_leave():  # here --help and --version are printed
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
            # What a workflow raises is the user's own, and is shown as Python shows it.
            if ctx.invoked_subcommand in _RUN_CODE or os.environ.get("SCALABLE_STRICT") == "1":
                raise
            raise CommandError(safe(_internal_error(error))) from error

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

    Every run recorded with scalable.instrument(client) keeps a complete copy of itself on disk:
    each task attempt, each worker, each failure. `report`, `diagnose` and `runs` read it, also
    while the run goes on and after its program was killed. They need no cluster and no Dask.
    """


def main() -> None:
    """Run the command line and exit; what the `scalable` script calls."""
    for stream in (sys.stdout, sys.stderr):
        _fit_encoding(stream)
    try:
        status = cli.main(prog_name="scalable", standalone_mode=False)
    except click.exceptions.Exit as exit_:
        status = exit_.exit_code
    except click.ClickException as error:
        _say_error(error)
        status = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        _say_error("\nInterrupted.")
        status = 130
    except OSError as error:
        _give_up_output()
        about = error.strerror or str(error)
        place = "cannot write" if error.filename is None else os.fsdecode(error.filename)
        _say_error(click.ClickException(f"{place}: {about}."))
        status = 1
    sys.exit(status if isinstance(status, int) else 0)


@contextlib.contextmanager
def _reader_may_leave() -> Generator[None]:
    """Go quietly when the reader of a pipe (`head`, a pager) has seen enough: all went well.

    Here and not in :func:`main`, as click ends the process with 1 for it.
    """
    try:
        yield
    except BrokenPipeError:
        _give_up_output()
        raise click.exceptions.Exit(0) from None


def _say_error(what: click.ClickException | str) -> None:
    try:
        if isinstance(what, str):
            echo(what, err=True)
        else:
            what.show()
    except OSError:
        pass  # standard error takes nothing either: the exit code tells


def _give_up_output() -> None:
    """Let the interpreter's own flush at the end go nowhere, instead of failing once more."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# -- terminals that cannot show every character ---------------------------------------------------

#: What stands for the characters of our own texts where the encoding lacks them.
_PLAIN: Final = {
    **{"…": "...", "→": "->", "×": "x", "µ": "u", "•": "*", "–": "-", "—": "-", "≥": ">="},
    **{"“": '"', "”": '"', "‘": "'", "’": "'", "⁰": "0", "²": "2", "⁹": "9"},
    **dict.fromkeys("─━═╌", "-"),
    **dict.fromkeys("│┃║╎", "|"),
    **dict.fromkeys("┌┐└┘├┤┬┴┼╭╮╰╯", "+"),
}
#: ASCII by another name: click writes UTF-8 to a stream whose encoding is called ASCII.
_ASCII: Final = "scalable_ascii"


def _fit_encoding(stream: Any) -> None:
    """Let a stream write what its encoding lacks in plain characters, instead of failing."""
    reconfigure: Any = getattr(stream, "reconfigure", None)
    if reconfigure is None:
        return
    codecs.register(_find_ascii)
    codecs.register_error("scalable_plain", _plain)
    encoding = codecs.lookup(stream.encoding or "utf-8").name
    if encoding == "ascii" or (encoding == "utf-8" and _is_c_locale()):
        reconfigure(encoding=_ASCII, errors="scalable_plain")
    else:
        reconfigure(errors="scalable_plain")


def _is_c_locale() -> bool:
    """Whether the locale is explicitly one of ASCII, which Python takes for one of UTF-8."""
    if os.environ.get("PYTHONUTF8") == "1" or os.environ.get("PYTHONIOENCODING"):
        return False
    names = (os.environ.get(name) for name in ("LC_ALL", "LC_CTYPE", "LANG"))
    return next((name for name in names if name), "") in ("C", "POSIX")


def _find_ascii(name: str) -> codecs.CodecInfo | None:
    if name != _ASCII:
        return None
    found = codecs.lookup("ascii")
    return codecs.CodecInfo(
        found.encode,
        found.decode,
        found.streamreader,
        found.streamwriter,
        found.incrementalencoder,
        found.incrementaldecoder,
        name=_ASCII,
    )


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(_PLAIN.get(character, "?") for character in lacking), error.end
