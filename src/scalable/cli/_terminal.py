"""What the commands print, and how: text, colours, widths, questions, progress."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click

_WIDTH_WITHOUT_TERMINAL: Final = 80
_MAX_WIDTH: Final = 120
#: Seconds before a progress bar appears.
_PROGRESS_DELAY: Final = 1.0
_FORCE_COLOR: Final = ("FORCE_COLOR", "CLICOLOR_FORCE")
_PLAIN: Final = re.compile(r"[\n\t -~]*")


def echo(text: str = "", *, err: bool = False, nl: bool = True, styled: bool = False) -> None:
    """Print a text; every command prints through this function only.

    Control characters that a terminal acts on are removed, since names, messages and paths may
    come from other people. A `styled` text keeps its colours.
    """
    # click removes colours in a pipe unless they are requested.
    click.echo(safe(text, styled=styled), err=err, nl=nl, color=(styled and wants_color()) or None)


def safe(text: str, *, styled: bool = False) -> str:
    """Return a text without what a terminal acts on; see :func:`echo`."""
    if _PLAIN.fullmatch(text):
        return text
    from scalable.analysis.terminal import terminal_text

    return terminal_text(text, styled=styled)


def ask(question: str, default: str) -> str:
    """Ask for a text on standard error; Enter takes the default."""
    answer: str = click.prompt(safe(question), default=default, err=True)
    return answer


def confirm(question: str) -> bool:
    """Ask a question on standard error; raises click.Abort if standard input has ended."""
    return click.confirm(safe(question), err=True)


def plain_json(text: str) -> str:
    """Return JSON in ASCII, if the encoding of standard output is not UTF-8."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    if encoding.lower().replace("-", "").replace("_", "") == "utf8":
        return text
    return re.sub("[^\x00-\x7f]", lambda match: json.dumps(match[0])[1:-1], text)


def terminal_width() -> int:
    """Return the columns to fill: the terminal's; without one those of ``COLUMNS``, or 80."""
    columns = os.environ.get("COLUMNS", "")
    if not sys.stdout.isatty():
        return int(columns) if columns.isdecimal() and int(columns) else _WIDTH_WITHOUT_TERMINAL
    return min(_MAX_WIDTH, shutil.get_terminal_size((_WIDTH_WITHOUT_TERMINAL, 24)).columns)


def layout(output: Path | None) -> dict[str, Any]:
    """Return how to lay out a text for a terminal, a pipe or a file.

    Text is shortened only on a terminal. If no width is known, file names are not wrapped, so that
    they can be searched for.
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
    """Whether standard output shows colours: a terminal does by default.

    ``NO_COLOR`` (https://no-color.org) overrides ``FORCE_COLOR`` (https://force-color.org) and
    ``CLICOLOR_FORCE``, which also colour output to a pipe.
    """
    if os.environ.get("NO_COLOR"):
        return False
    if any(os.environ.get(name, "0") not in ("", "0") for name in _FORCE_COLOR):
        return True
    return sys.stdout.isatty() and os.environ.get("TERM", "") != "dumb"


@contextmanager
def progress_bar(
    what: str, *, of_bytes: bool = True
) -> Generator[Callable[[int, int], None] | None]:
    """Show a progress bar on standard error if the work takes longer than a second.

    Yields a function that takes how much is done, and how much there is, in bytes or in things;
    None without a terminal.
    """
    if not sys.stderr.isatty():
        yield None
        return
    bar = _Bar(what, of_bytes)
    try:
        yield bar.advance
    finally:
        bar.stop()


class _Bar:
    """A progress bar of rich, which is imported only when the bar appears."""

    def __init__(self, what: str, of_bytes: bool = True) -> None:
        self._what = what
        self._of_bytes = of_bytes
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
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            MofNCompleteColumn,
            Progress,
            TimeRemainingColumn,
        )

        self._progress = Progress(
            "{task.description}",
            BarColumn(),
            DownloadColumn() if self._of_bytes else MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._progress.add_task(self._what, completed=done, total=total)
        self._progress.start()
