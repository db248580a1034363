"""What the commands share: errors, groups, options, and where the result goes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from scalable.cli._terminal import echo, plain_json, wants_color

if TYPE_CHECKING:
    pass

_Command = TypeVar("_Command", bound=Callable[..., Any])


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
