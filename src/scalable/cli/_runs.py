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

from scalable.cli._commands import Command, CommandError, completed

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from scalable_runs.reader import RunReader

#: Where runs are written by default.
RUNS_DIR: Final = Path(".scalable/runs")
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

    `name` is an id, the beginning of one, or a directory; None is the latest run in `runs_dir`.
    """

    runs_dir: Path
    name: str | None = None

    def open(self) -> RunReader:
        """Return the run; raises CommandError if there is none, or more than one."""
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


def runs_dir_option(command: Command) -> Command:
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
    """Return `.scalable/runs` of the nearest directory that has it, from the working one up.

    If none has it, that of the working directory.
    """
    here = Path.cwd()
    for above in (here, *here.parents):
        if (above / RUNS_DIR).is_dir():
            return RUNS_DIR if above == here else Path(os.path.relpath(above / RUNS_DIR, here))
    return RUNS_DIR


def open_run(runs_dir: Path, run_id: str | None) -> RunReader:
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
    except RunNotFoundError as error:
        check_readable(runs_dir)
        if find_runs(runs_dir):
            raise CommandError(
                f"{error}.\n\nList all runs: scalable runs{_option(runs_dir)}"
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
    path = Path(name).expanduser()
    if os.sep in name or name in (".", ".."):
        if not path.is_dir() and not _is_packed(path):
            raise CommandError(f"{name} is not the directory of a run: it does not exist.")
        return RunReader(path.resolve() if path.name in ("", "..") else path)
    # In the directory of runs, an id is also a path.
    return RunReader(path) if (path / "run.json").is_file() or _is_packed(path) else None


def _is_packed(path: Path) -> bool:
    from scalable_runs.schema import PACKED

    return path.name.endswith(PACKED) and path.is_file()


def _complete_runs(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    from scalable_runs.schema import RUN_ID_PATTERN

    if os.sep in incomplete:
        return [CompletionItem(incomplete, type="dir")]
    try:
        names = os.listdir(ctx.params.get("runs_dir") or nearest_runs_dir())  # noqa: PTH208
    except OSError:
        return []
    # An id begins with its time: list the latest first.
    latest = sorted(filter(RUN_ID_PATTERN.fullmatch, names), reverse=True)
    return completed(latest, incomplete)[:_MAX_COMPLETIONS]


def no_runs(runs_dir: Path) -> str:
    """Return the message that there are no runs."""
    where = runs_dir if runs_dir.is_absolute() else f"{runs_dir} (in {Path.cwd()})"
    if runs_dir.is_dir():
        return f"There are no runs in {where} yet."
    return f"There are no runs yet: {where} does not exist."


def check_readable(runs_dir: Path) -> None:
    """Raise CommandError if a directory exists and cannot be read."""
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
