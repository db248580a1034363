"""What the commands share: options, errors, the terminal, progress."""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

if TYPE_CHECKING:
    from scalable_runs.reader import RunReader

#: Where runs are written unless told otherwise.
RUNS_DIR: Final = Path(".scalable/runs")

HOW_TO_RECORD: Final = """\
Record one with a line in your own program:

    import scalable
    from dask.distributed import Client

    with Client() as client, scalable.instrument(client):
        ...  # any Dask

or watch one being recorded: scalable demo"""

_WIDTH_WITHOUT_TERMINAL: Final = 80
_MAX_WIDTH: Final = 120
#: A scan shorter than that needs no progress bar.
_PATIENCE_S: Final = 1.0

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
    click.echo(safe(text, styled=styled), err=err, nl=nl)


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


def confirm(question: str) -> None:
    """Ask a question on standard error.

    Raises
    ------
    click.Abort
        The answer is no.
    """
    click.confirm(safe(question), abort=True, err=True)


class CommandError(click.ClickException):
    """The command cannot do what was asked; the message says why and what to do (exit code 1)."""

    exit_code = 1


def runs_dir_option(command: _Command) -> _Command:
    """Add `--runs-dir`."""
    return click.option(
        "--runs-dir",
        type=click.Path(file_okay=False, path_type=Path),
        default=RUNS_DIR,
        show_default=True,
        envvar="SCALABLE_RUNS_DIR",
        show_envvar=True,
        metavar="DIR",
        help="Where the runs are.",
    )(command)


def run_options(command: _Command) -> _Command:
    """Add `--latest`, `--run-id` and `--runs-dir`: which run is meant."""
    command = runs_dir_option(command)
    command = click.option("--run-id", metavar="ID", help="A run's id, or the beginning of one.")(
        command
    )
    return click.option(
        "--latest", is_flag=True, help="The run that started last. This is the default."
    )(command)


def output_option(command: _Command) -> _Command:
    """Add `--output`."""
    return click.option(
        "--output",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="Write to a file instead of standard output.",
    )(command)


def open_run(runs_dir: Path, run_id: str | None) -> RunReader:
    """Return the run that was asked for, the latest without an id.

    Raises
    ------
    CommandError
        There is no such run, or more than one.
    """
    from scalable_runs.reader import AmbiguousRunError, RunNotFoundError, find_runs, resolve_run

    try:
        return resolve_run(runs_dir, run_id)
    except AmbiguousRunError as error:
        raise CommandError(f"{error}.") from None
    except RunNotFoundError as error:
        check_readable(runs_dir)
        if find_runs(runs_dir):
            raise CommandError(
                f"{error}.\n\nList all runs: scalable runs{_option(runs_dir)}"
            ) from None
        raise CommandError(f"{no_runs(runs_dir)}\n\n{HOW_TO_RECORD}") from None


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
    """Return the columns to fill: those of the terminal, 80 where the output is none."""
    if not sys.stdout.isatty():
        return _WIDTH_WITHOUT_TERMINAL
    return min(_MAX_WIDTH, shutil.get_terminal_size((_WIDTH_WITHOUT_TERMINAL, 24)).columns)


def wants_color() -> bool:
    """Whether standard output is a terminal that shows colours (https://no-color.org)."""
    return (
        sys.stdout.isatty()
        and not os.environ.get("NO_COLOR")
        and os.environ.get("TERM", "") != "dumb"
    )


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
        self._due = time.monotonic() + _PATIENCE_S
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
