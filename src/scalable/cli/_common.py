"""What the commands share: options, errors, the terminal, progress."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from scalable_runs.reader import RunReader

#: Where runs are written unless told otherwise.
RUNS_DIR: Final = Path(".scalable/runs")

HOW_TO_RECORD: Final = """\
Record one with a line in your own program:

    import scalable
    from dask.distributed import Client

    if __name__ == "__main__":
        with Client() as client, scalable.instrument(client):
            ...  # any Dask

or watch one being recorded: scalable demo"""

_WIDTH_WITHOUT_TERMINAL: Final = 80
_MAX_WIDTH: Final = 120
#: A scan shorter than that needs no progress bar.
_PROGRESS_DELAY: Final = 1.0
#: Runs listed where the beginning of an id matches several.
_MAX_LISTED: Final = 10
#: Run ids offered for completion at most.
_MAX_COMPLETIONS: Final = 200

_Command = TypeVar("_Command", bound=Callable[..., Any])


def echo(text: str = "", *, err: bool = False, nl: bool = True, styled: bool = False) -> None:
    """Print a text; every command prints through this function and no other.

    What a terminal would act on is removed: names, messages and paths come from runs, manifests
    and file systems that may be somebody else's.

    Parameters
    ----------
    text
        What to print, on one line or several.
    err
        Print to standard error.
    nl
        End with a newline.
    styled
        Keep the colours that the text has been given here.
    """
    # Colours that are wanted in a pipe too must be asked for: click takes them away there.
    click.echo(safe(text, styled=styled), err=err, nl=nl, color=(styled and wants_color()) or None)


def safe(text: str, *, styled: bool = False) -> str:
    """Return a text without what a terminal would act on; see :func:`echo`."""
    if _PLAIN.fullmatch(text):
        return text
    from scalable.analysis._text import terminal_text

    return terminal_text(text, styled=styled)


_PLAIN: Final = re.compile(r"[\n\t -~]*")


def ask(question: str, default: str) -> str:
    """Ask for a text on standard error; Enter takes the default."""
    answer: str = click.prompt(safe(question), default=default, err=True)
    return answer


def confirm(question: str) -> bool:
    """Ask a question on standard error; returns whether the answer is yes.

    Raises
    ------
    click.Abort
        There is no answer.
    """
    return click.confirm(safe(question), err=True)


class CommandError(click.ClickException):
    """The command cannot do what was asked; the message says why and what to do (exit code 1)."""

    exit_code = 1


class HelpGroup(click.Group):
    """A group that prints its help where it is called without a command (exit code 0).

    Its commands are listed in the order of their declaration.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:
            echo(ctx.get_help())
            ctx.exit()
        return super().parse_args(ctx, args)


# -- which run -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RunChoice:
    """The run that a command was asked for.

    Attributes
    ----------
    runs_dir : Path
        Where runs are looked for.
    name : str or None
        A run's id, the beginning of one, or the path of its directory; None is the latest.
    """

    runs_dir: Path
    name: str | None = None

    def open(self) -> RunReader:
        """Return the run.

        Raises
        ------
        CommandError
            There is no such run, more than one, or the directory is not one of a run.
        """
        reader = _run_at_path(self.name) or open_run(self.runs_dir, self.name)
        if not reader.document and not reader.files():
            raise CommandError(
                f"{reader.path} is not a run: {_why_no_run(reader)}.\n\n"
                f"List all runs: scalable runs{_option(self.runs_dir)}"
            )
        return reader


def run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `[RUN]`, `--run-id`, `--latest` and `--runs-dir`; the command gets a `choice`."""

    @functools.wraps(command)
    def chosen(
        *, run: str | None, run_id: str | None, latest: bool, runs_dir: Path, **rest: Any
    ) -> Any:
        if (run is not None) + (run_id is not None) + latest > 1:
            raise click.UsageError(
                "RUN, --run-id and --latest exclude each other: give one of them."
            )
        return command(choice=RunChoice(runs_dir, run if run is not None else run_id), **rest)

    added = runs_dir_option(chosen)
    added = click.option(
        "--run-id",
        metavar="ID",
        shell_complete=_complete_runs,
        help="The same as RUN.",
    )(added)
    added = click.option(
        "--latest", is_flag=True, help="The run that started last. This is the default."
    )(added)
    return click.argument("run", required=False, shell_complete=_complete_runs)(added)


def runs_dir_option(command: _Command) -> _Command:
    """Add `--runs-dir`."""
    return click.option(
        "--runs-dir",
        type=click.Path(file_okay=False, path_type=Path),
        default=nearest_runs_dir,
        envvar="SCALABLE_RUNS_DIR",
        show_envvar=True,
        metavar="DIR",
        help="Where the runs are. Default: .scalable/runs here or in the nearest directory above.",
    )(command)


def nearest_runs_dir() -> Path:
    """Return `.scalable/runs` of the working directory, else of the nearest one above that has it.

    Where none has it, that of the working directory.
    """
    here = Path.cwd()
    for above in (here, *here.parents):
        if (above / RUNS_DIR).is_dir():
            return RUNS_DIR if above == here else Path(os.path.relpath(above / RUNS_DIR, here))
    return RUNS_DIR


def open_run(runs_dir: Path, run_id: str | None) -> RunReader:
    """Return the run of that id or beginning of an id, the latest without one.

    Raises
    ------
    CommandError
        There is no such run, or more than one.
    """
    from scalable_runs.reader import AmbiguousRunError, RunNotFoundError, find_runs, resolve_run

    try:
        return resolve_run(runs_dir, run_id)
    except AmbiguousRunError as error:
        listed = [f"  {one}" for one in error.matching[:_MAX_LISTED]]
        if len(error.matching) > _MAX_LISTED:
            listed.append(f"  and {len(error.matching) - _MAX_LISTED:,} older ones")
        raise CommandError(
            "\n".join(
                [f"{run_id!r} matches {len(error.matching):,} runs, give more of the id:", *listed]
            )
        ) from None
    except RunNotFoundError as error:
        check_readable(runs_dir)
        if find_runs(runs_dir):
            raise CommandError(
                f"{error}.\n\nList all runs: scalable runs{_option(runs_dir)}"
            ) from None
        raise CommandError(f"{no_runs(runs_dir)}\n\n{HOW_TO_RECORD}") from None


def _why_no_run(reader: RunReader) -> str:
    problems = reader.problems.get("run.json")
    if problems is None or not os.path.lexists(reader.path / "run.json"):
        return "it has neither run.json nor journals"
    return f"run.json cannot be read ({problems.unreadable}), and there are no journals"


def _run_at_path(name: str | None) -> RunReader | None:
    """Return the run in a directory, where a name is a path and not an id."""
    from scalable_runs.reader import RunReader

    if name is None:
        return None
    path = Path(name).expanduser()
    if os.sep in name or name in (".", ".."):
        if not path.is_dir():
            raise CommandError(f"{name} is not the directory of a run: it does not exist.")
        return RunReader(path.resolve() if path.name in ("", "..") else path)
    # In the directory of runs itself, an id is a path too.
    return RunReader(path) if (path / "run.json").is_file() else None


def _complete_runs(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    from scalable_runs.schema import RUN_ID_PATTERN

    if os.sep in incomplete:
        return [CompletionItem(incomplete, type="dir")]
    try:
        names = os.listdir(ctx.params.get("runs_dir") or nearest_runs_dir())  # noqa: PTH208
    except OSError:
        return []
    # An id begins with its time: the latest stand first.
    matching = sorted(
        (name for name in names if name.startswith(incomplete) and RUN_ID_PATTERN.fullmatch(name)),
        reverse=True,
    )
    return [CompletionItem(name) for name in matching[:_MAX_COMPLETIONS]]


# -- what is printed -----------------------------------------------------------------------------


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--format text|json` and `--json`; the command gets `as_json`."""

    @functools.wraps(command)
    def formatted(*, format_: str, json_: bool, **rest: Any) -> Any:
        return command(as_json=json_ or format_ == "json", **rest)

    added = click.option("--json", "json_", is_flag=True, help="The same as --format json.")(
        formatted
    )
    return click.option(
        "--format",
        "format_",
        type=click.Choice(["text", "json"]),
        default="text",
        show_default=True,
        help="Text for people, or JSON for programs.",
    )(added)


def output_option(command: _Command) -> _Command:
    """Add `--output`."""
    return click.option(
        "--output",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="Write to a file instead of standard output.",
    )(command)


def exit_status_option(command: _Command) -> _Command:
    """Add `--exit-status`; see :func:`status_code`."""
    return click.option(
        "--exit-status",
        is_flag=True,
        help="Exit with 1 if the run is failed, cancelled or lost, or if tasks failed.",
    )(command)


def status_code(status: str, *, failed: bool) -> int:
    """Return the exit code that tells a script how a run went."""
    return 1 if failed or status not in ("completed", "running") else 0


def deliver(
    text: str, output: Path | None = None, what: str = "", *, as_json: bool = False
) -> None:
    """Print a text, or write it to a file.

    Parameters
    ----------
    text : str
        Ends with a newline.
    output : Path, optional
        The file; None is standard output.
    what : str
        What it is, for the line that says that it was written.
    as_json : bool
        It is JSON, which is UTF-8 whatever the terminal's encoding is.

    Raises
    ------
    CommandError
        The file cannot be written.
    """
    if output is None:
        echo(plain_json(text) if as_json else text, nl=False, styled=wants_color() and not as_json)
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CommandError(
            f"{output} cannot be written: {error.strerror}. Name another file by --output."
        ) from None
    echo(f"Wrote {what} to {output}", err=True)


def plain_json(text: str) -> str:
    """Return JSON that is UTF-8 in any encoding: where standard output has another, ASCII."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    if encoding.lower().replace("-", "").replace("_", "") == "utf8":
        return text
    return re.sub("[^\x00-\x7f]", lambda match: json.dumps(match[0])[1:-1], text)


def no_runs(runs_dir: Path) -> str:
    """Say that there is no run."""
    where = runs_dir if runs_dir.is_absolute() else f"{runs_dir} (in {Path.cwd()})"
    if runs_dir.is_dir():
        return f"There are no runs in {where} yet."
    return f"There are no runs yet: {where} does not exist."


def check_readable(runs_dir: Path) -> None:
    """Tell a directory that may not be read from an empty one.

    Raises
    ------
    CommandError
        It exists and cannot be read.
    """
    try:
        with os.scandir(runs_dir):
            pass
    except FileNotFoundError:
        pass
    except OSError as error:
        raise CommandError(
            f"{runs_dir} cannot be read: {error.strerror}. Name another directory by --runs-dir."
        ) from None


def _option(runs_dir: Path) -> str:
    return "" if runs_dir == RUNS_DIR else f" --runs-dir {runs_dir}"


def terminal_width() -> int:
    """Return the columns to fill: the terminal's; elsewhere those of ``COLUMNS``, or 80."""
    columns = os.environ.get("COLUMNS", "")
    if not sys.stdout.isatty():
        return int(columns) if columns.isdecimal() and int(columns) else _WIDTH_WITHOUT_TERMINAL
    return min(_MAX_WIDTH, shutil.get_terminal_size((_WIDTH_WITHOUT_TERMINAL, 24)).columns)


def layout(output: Path | None) -> dict[str, Any]:
    """Return how a text is laid out for a terminal, a pipe or a file.

    Only on a terminal is anything shortened. Where no width is known, places in files stay whole
    on their line, so that they can be searched for.
    """
    if output is not None:
        return {"strict": False}
    is_terminal = sys.stdout.isatty()
    return {
        "width": terminal_width(),
        "color": wants_color(),
        "elide": is_terminal,
        "strict": is_terminal or os.environ.get("COLUMNS", "").isdecimal(),
    }


def wants_color() -> bool:
    """Whether standard output shows colours: a terminal does, unless told otherwise.

    ``NO_COLOR`` comes first (https://no-color.org), then ``FORCE_COLOR`` (https://force-color.org)
    and ``CLICOLOR_FORCE``, which also colour what goes into a pipe.
    """
    if os.environ.get("NO_COLOR"):
        return False
    if any(os.environ.get(name, "0") not in ("", "0") for name in _FORCE_COLOR):
        return True
    return sys.stdout.isatty() and os.environ.get("TERM", "") != "dumb"


_FORCE_COLOR: Final = ("FORCE_COLOR", "CLICOLOR_FORCE")


@contextmanager
def progress_bar(what: str) -> Generator[Callable[[int, int], None] | None]:
    """Show a progress bar on standard error if the work takes longer than a second.

    Parameters
    ----------
    what
        What is being done, a few words.

    Yields
    ------
    callable or None
        To be told how much of how much is done; None where nobody would see the bar.
    """
    if not sys.stderr.isatty():
        yield None
        return
    bar = _Bar(what)
    try:
        yield bar.advance
    finally:
        bar.stop()


class _Bar:
    """A bar of rich, which is imported only if there is time to be passed."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._due = time.monotonic() + _PROGRESS_DELAY
        self._progress: Any = None
        self._task: Any = None

    def advance(self, done: int, total: int) -> None:
        if self._progress is not None:
            self._progress.update(self._task, completed=done, total=total)
        elif time.monotonic() >= self._due:
            self._start(done, total)

    def stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()

    def _start(self, done: int, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

        self._progress = Progress(
            "{task.description}",
            BarColumn(),
            DownloadColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._progress.add_task(self._what, completed=done, total=total)
        self._progress.start()
