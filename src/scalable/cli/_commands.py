"""What the commands share: errors, groups, options, completion and output."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from scalable.cli._terminal import confirm, echo, plain_json, wants_color

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

Command = TypeVar("Command", bound=Callable[..., Any])


class CommandError(click.ClickException):
    """The command cannot do what was asked; the message says why and what to do (exit code 1)."""

    exit_code = 1


def sentence(error: Exception) -> str:
    """Return the text of an error as a sentence; a command at its end can be copied as it is."""
    text = str(error)
    return text if text.endswith((".", "?", "!", "]'")) else f"{text}."


class HelpGroup(click.Group):
    """A group that lists commands as declared, and prints its help if there is none (exit 0)."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:
            echo(ctx.get_help())
            ctx.exit()
        return super().parse_args(ctx, args)


def completed(names: Iterable[str], incomplete: str) -> list[CompletionItem]:
    """Return the names that begin with what the user has typed."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--format text|json` and `--json`; the command gets `as_json`."""

    @functools.wraps(command)
    def told(*, format_: str, **rest: Any) -> Any:
        return command(as_json=format_ == "json", **rest)

    return _format_option(told, "Text for people, or JSON for programs.")


def markdown_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--format text|json|md` and `--json`; the command gets `format_`."""
    text = "Text for people, JSON for programs, Markdown for a page or a pull request."
    return _format_option(command, text, "md")


def _format_option(command: Callable[..., Any], text: str, *more: str) -> Callable[..., Any]:
    @functools.wraps(command)
    def formatted(*, format_: str, json_: bool, **rest: Any) -> Any:
        return command(format_="json" if json_ else format_, **rest)

    added = click.option("--json", "json_", is_flag=True, help="The same as --format json.")(
        formatted
    )
    return click.option(
        "--format",
        "format_",
        type=click.Choice(["text", "json", *more]),
        default="text",
        show_default=True,
        help=text,
    )(added)


def output_option(command: Command) -> Command:
    """Add `--output`."""
    return click.option(
        "--output",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="Write to a file instead of standard output.",
    )(command)


def exit_status_option(command: Command) -> Command:
    """Add `--exit-status`; see :func:`status_code`."""
    return click.option(
        "--exit-status",
        is_flag=True,
        help="Exit with 1 if the run is failed, cancelled or lost, or if tasks failed.",
    )(command)


def status_code(status: str, *, failed: bool) -> int:
    """Return the exit code for a run's outcome."""
    return 1 if failed or status not in ("completed", "running") else 0


def deliver(
    text: str, output: Path | None = None, what: str = "", *, as_json: bool = False
) -> None:
    """Print a text that ends with a newline, or write it to `output`.

    `what` names it in the message after that. JSON is UTF-8 in any terminal.
    """
    if output is None:
        echo(plain_json(text) if as_json else text, nl=False, styled=wants_color() and not as_json)
        return
    write_file(output, text)
    echo(f"Wrote {what} to {output}", err=True)


def deliver_json(value: Any) -> None:
    """Print a value as JSON."""
    from scalable.analysis import json_text

    deliver(json_text(value), as_json=True)


def write_file(path: Path, text: str, *, mode: str = "w", what: str = "file") -> None:
    """Write a text to a file; raises CommandError if it cannot be written."""
    try:
        with path.open(mode, encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise CommandError(
            f"{path} cannot be written: {error.strerror}. Name another {what} by --output."
        ) from None


def ask(question: str) -> None:
    """End the command unless the answer is yes."""
    try:
        if not confirm(question):
            raise CommandError("Nothing was removed.")
    except click.Abort:
        if sys.stdin.isatty():
            raise  # Ctrl-C
        raise CommandError(
            "There is no terminal to ask on: --yes removes without asking."
        ) from None


def size_text(size: int) -> str:
    """Return a number of bytes for people."""
    if size < 1000:
        return f"{size} B"
    value = float(size)
    for unit in ("kB", "MB", "GB"):
        value /= 1000
        if value < 1000:
            return f"{value:.1f} {unit}"
    return f"{value / 1000:.1f} TB"
