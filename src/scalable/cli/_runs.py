"""Which run a command reads: options, lookup, completion."""

from __future__ import annotations

import errno
import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from scalable.cli._commands import CommandError, completed
from scalable.cli._places import (
    Runs,
    RunsParameter,
    check_readable,
    nearest_runs_dir,
    no_runs,
    run_ids,
    runs_option,
    same_option,
    unreadable,
)

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from scalable_runs.reader import RunReader

HOW_TO_RECORD: Final = """\
Record one with a line in your own program:

    import scalable
    from dask.distributed import Client

    if __name__ == "__main__":
        with Client() as client, scalable.instrument(client):
            ...  # any Dask

or watch one being recorded: scalable demo"""
#: Runs listed if several match the beginning of an id.
_MAX_LISTED: Final = 10
#: Run ids offered for completion at most.
_MAX_COMPLETIONS: Final = 200


@dataclass(frozen=True, slots=True)
class RunChoice:
    """The run that a command reads.

    `name` is an id, the beginning of one, a directory or a URL; None is the latest run in
    `runs_dir`.
    """

    runs_dir: Runs
    name: str | None = None

    def open(self) -> RunReader:
        """Return the run; raises CommandError if there is none, or more than one."""
        reader = _run_at_path(self.name) or open_run(self.runs_dir, self.name)
        if not reader.document and not reader.files():
            raise CommandError(
                f"{reader.path} is not a run: {_why_no_run(reader)}.\n\n"
                f"List all runs: scalable runs{same_option(self.runs_dir)}"
            )
        return reader


def run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `[RUN]`, `--run-id`, `--latest` and `--runs-dir`; the command gets a `choice`."""

    @functools.wraps(command)
    def chosen(
        *, run: str | None, run_id: str | None, latest: bool, runs_dir: Runs, **rest: Any
    ) -> Any:
        if (run is not None) + (run_id is not None) + latest > 1:
            raise click.UsageError(
                "RUN, --run-id and --latest exclude each other: give one of them."
            )
        return command(choice=RunChoice(runs_dir, run if run is not None else run_id), **rest)

    added = runs_option(chosen)
    added = click.option(
        "--run-id",
        metavar="ID",
        shell_complete=complete_runs,
        help="The same as RUN.",
    )(added)
    added = click.option(
        "--latest", is_flag=True, help="The run that started last. This is the default."
    )(added)
    return click.argument("run", required=False, shell_complete=complete_runs)(added)


def open_run(runs_dir: Runs, run_id: str | None) -> RunReader:
    """Return the run of an id or the beginning of one; without an id the latest."""
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
    except (OSError, ValueError, ImportError) as error:
        if isinstance(runs_dir, Path):
            raise
        raise unreadable(runs_dir, error) from None
    except RunNotFoundError as error:
        check_readable(runs_dir)
        if find_runs(runs_dir):
            raise CommandError(
                f"{error}.\n\nList all runs: scalable runs{same_option(runs_dir)}"
            ) from None
        raise CommandError(f"{no_runs(runs_dir)}\n\n{HOW_TO_RECORD}") from None


def _why_no_run(reader: RunReader) -> str:
    problems = reader.problems.get("run.json")
    if problems is None or problems.unreadable == os.strerror(errno.ENOENT):
        return "it has neither run.json nor journals"
    return f"run.json cannot be read ({problems.unreadable}), and there are no journals"


def _run_at_path(name: str | None) -> RunReader | None:
    """Return the run in a directory; None if the name is an id."""
    from scalable_runs.reader import RunReader

    if name is None:
        return None
    if "://" in name:
        return _run_at_url(name)
    path = Path(name).expanduser()
    if os.sep in name or name in (".", ".."):
        if not path.is_dir() and not _is_packed(path):
            raise CommandError(f"{name} is not the directory of a run: it does not exist.")
        return RunReader(path.resolve() if path.name in ("", "..") else path)
    # In the directory of runs, an id is also a path.
    return RunReader(path) if (path / "run.json").is_file() or _is_packed(path) else None


def _run_at_url(url: str) -> RunReader:
    """Return the run at a URL, whose last part is the run's id."""
    address, mark, settings = url.partition("?")
    above, _, run_id = address.rstrip("/").rpartition("/")
    place = RunsParameter().convert(f"{above}{mark}{settings}", None, None)
    return open_run(place, run_id)


def _is_packed(path: Path) -> bool:
    from scalable_runs.schema import PACKED

    return path.name.endswith(PACKED) and path.is_file()


def complete_runs(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the runs in the place of the command, for completion."""
    from click.shell_completion import CompletionItem

    if os.sep in incomplete:
        return [CompletionItem(incomplete, type="dir")]
    names = run_ids(ctx.params.get("runs_dir") or nearest_runs_dir())
    # An id begins with its time: list the latest first.
    latest = sorted(names, reverse=True)
    return completed(latest, incomplete)[:_MAX_COMPLETIONS]
