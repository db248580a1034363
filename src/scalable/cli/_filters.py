"""Options that choose runs: by project, status, time and name."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import click

#: Statuses of runs, as they are listed.
STATUSES: Final = ("running", "completed", "failed", "cancelled", "lost")
_AGE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h|d|w)")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


class Age(click.ParamType):  # pyright: ignore[reportMissingTypeArgument] (generic since click 8.2)
    """A span of time such as 12h or 30d, in seconds."""

    name = "age"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, float):
            return value
        match = _AGE.fullmatch(str(value).strip())
        if match is None:
            self.fail(
                f"{value!r} is not a span of time: write a number with s, m, h, d or w, "
                "such as 12h or 30d.",
                param,
                ctx,
            )
        return float(match[1]) * _SECONDS[match[2]]


class Moment(click.ParamType):  # pyright: ignore[reportMissingTypeArgument]
    """A point in time: a date, a time, or an age."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        if isinstance(value, datetime):
            return value
        text = str(value).strip()
        try:
            if (match := _AGE.fullmatch(text)) is not None:
                age = timedelta(seconds=float(match[1]) * _SECONDS[match[2]])
                return datetime.now(UTC) - age
            time = datetime.fromisoformat(text)
        except (ValueError, OverflowError):
            self.fail(
                f"{value!r} is not a time: write an age (12h, 7d), a date (2026-11-28) or a date "
                "and a time (2026-11-28T06:00, in UTC).",
                param,
                ctx,
            )
        return time if time.tzinfo is not None else time.replace(tzinfo=UTC)


def filter_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--project`, `--status`, `--since`, `--name`; the command gets a `which`."""

    @functools.wraps(command)
    def filtered(
        *,
        project: str | None,
        status: tuple[str, ...],
        since: datetime | None,
        name: str | None,
        **rest: Any,
    ) -> Any:
        from scalable.analysis import RunFilter

        return command(which=RunFilter(project, status, since, name), **rest)

    added = click.option(
        "--name",
        metavar="NAME",
        help="Only runs whose id begins with it or has it in its middle; a pattern with * is "
        "compared with the whole id.",
    )(filtered)
    added = click.option(
        "--since",
        type=Moment(),
        metavar="TIME",
        help="Only runs that started since then: 12h, 7d, 2026-11-28 or 2026-11-28T06:00 (UTC).",
    )(added)
    added = click.option(
        "--status",
        type=click.Choice(STATUSES),
        multiple=True,
        help="Only runs with this status; may be given more than once.",
    )(added)
    return click.option("--project", metavar="NAME", help="Only runs of this project.")(added)
