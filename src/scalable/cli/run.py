"""`scalable run`: run a script, or a function of a module, in a session."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from scalable.cli._commands import deliver
from scalable.cli._manifest import manifest_option, one_manifest, session_errors, target_option
from scalable.cli._terminal import echo

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


_EPILOG = """\b
Examples:
  scalable run steps.py
  scalable run steps.py --target hpc -- --year 2013
  scalable run other.yaml package.module:main
  scalable run --dry-run
  scalable run steps.py --runs-dir /scratch/runs --log-level DEBUG
In the workflow, ScalableSession.from_yaml() and current_session() return the
running session; a function may have parameters named session, client, args.
Options of the workflow itself go after `--`.
"""


def _complete_files(
    ctx: click.Context, _: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="file")]


#: Key in the context of the arguments after `--`.
_AFTER_DASHES: Final = "scalable.after_dashes"
#: Seconds between two updates of the progress bar.
_UPDATE_SECONDS: Final = 0.5
#: Exit code after Ctrl-C, as in shells.
_INTERRUPTED: Final = 130


class _RunCommand(click.Command):
    """Does not parse what follows `--`: these arguments are the workflow's."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        at = args.index("--") if "--" in args else len(args)
        ctx.meta[_AFTER_DASHES] = tuple(args[at + 1 :])
        return super().parse_args(ctx, args[:at])


@click.command(
    cls=_RunCommand,
    epilog=_EPILOG,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": True},
)
@manifest_option
@target_option
@click.option(
    "--workflow",
    metavar="FILE",
    help="The workflow, if it is not an argument. Default: workflow.py.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be started; start nothing.")
@click.option("--no-progress", is_flag=True, help="Show no progress on a terminal.")
@click.option(
    "--runs-dir",
    metavar="DIR|URL",
    help="Where to record the run: a directory, or a URL such as s3://bucket/prefix.",
)
@click.option(
    "--run-id",
    metavar="ID",
    help="Id of the run, which several programs may write together. Default: a new one.",
)
@click.option(
    "--crash-upload", metavar="URL", help="Send the logs of workers that died to this address."
)
@click.option("--log-level", metavar="LEVEL", help="Least severe log record to keep, or OFF.")
@click.option("--no-telemetry", is_flag=True, help="Record nothing.")
@click.argument(
    "args",
    nargs=-1,
    type=click.UNPROCESSED,
    metavar="[MANIFEST] [WORKFLOW] [-- ARGS...]",
    shell_complete=_complete_files,
)
@click.pass_context
def run(
    ctx: click.Context,
    manifest: Path | None,
    target: str | None,
    workflow: str | None,
    dry_run: bool,
    no_progress: bool,
    runs_dir: str | None,
    run_id: str | None,
    crash_upload: str | None,
    log_level: str | None,
    no_telemetry: bool,
    args: tuple[str, ...],
) -> None:
    """Run a workflow in a session: everything it does is recorded.

    WORKFLOW is a script or module:function; a name that ends with .yaml or .yml is the MANIFEST.
    The exit code is that of sys.exit() in the workflow, else 0, or 1 after an exception, or 130
    after Ctrl-C; the value that a function returns is ignored. The first Ctrl-C closes the session
    as cancelled, the second one stops at once.
    """
    given, workflow, args = _split_arguments(args, workflow)
    manifest = one_manifest(given, manifest)
    options: Any = {
        "run_store" if runs_dir and "://" in runs_dir else "runs_dir": runs_dir,
        "run_id": run_id,
        "crash_upload": crash_upload,
        "log_level": log_level,
        "enabled": False if no_telemetry else None,
    }
    with session_errors():
        from scalable.session.session import ScalableSession
        from scalable.session.workflow import find_workflow

        with _named_as_options():
            session = ScalableSession.from_yaml(manifest, target=target, **options)
        if dry_run:
            from scalable.cli.plan import plan_text

            deliver(plan_text(session.plan(dry_run=True)))
            return
        execute = find_workflow(workflow or "workflow.py")
        session.start()
    args += ctx.meta[_AFTER_DASHES]
    ctx.exit(_in_session(session, execute, args, progress=not no_progress))


@contextmanager
def _named_as_options() -> Generator[None]:
    """Name the options of ``instrument()`` in errors as the command line does."""
    from scalable.common.options import OptionError

    try:
        yield
    except OptionError as error:
        name, equals, rest = str(error).partition("=")
        is_option = equals and name.isidentifier()
        message = f"--{name.replace('_', '-')}{rest}" if is_option else str(error)
        raise click.UsageError(f"{message}.") from None


def _split_arguments(
    args: tuple[str, ...], workflow: str | None
) -> tuple[Path | None, str | None, tuple[str, ...]]:
    """Return the manifest, the workflow and the workflow's own arguments."""
    manifest = None
    if args and args[0].endswith((".yaml", ".yml")):
        manifest, args = Path(args[0]), args[1:]
    # A dash begins an argument of the default workflow.
    if workflow is None and args and not args[0].startswith("-"):
        workflow, args = args[0], args[1:]
    return manifest, workflow, args


def _in_session(session: Any, execute: Any, args: tuple[str, ...], *, progress: bool) -> int:
    from scalable.session.session import provide
    from scalable.session.workflow import exit_code, own_frames

    code: int = 1
    status: str = "failed"
    error: BaseException | None = None
    provide(session)
    with _second_stops():
        try:
            with _progress(session, wanted=progress):
                execute(session, args)
            code, status = 0, "completed"
        except KeyboardInterrupt:
            code, status = _INTERRUPTED, "cancelled"
            echo("\nInterrupted: closing the session. Ctrl-C again stops at once.", err=True)
        except SystemExit as stop:
            code = exit_code(stop.code)
            if code == 0:
                status = "completed"
            else:
                error = stop
        except BaseException as raised:
            error = raised.with_traceback(own_frames(raised.__traceback__))
            echo("".join(traceback.format_exception(error)), err=True, nl=False)
        finally:
            provide(None)
        session.close_after(status, error)
    if session.location is not None:
        echo(f"The run: {session.location} ({session.status})", err=True)
    return code


@contextmanager
def _second_stops() -> Generator[None]:
    """Let the first Ctrl-C raise as usual, and a second one end the process at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    seen = False

    def interrupted(number: int, frame: Any) -> None:
        nonlocal seen
        if seen:
            # Local workers end when their connection does; what is recorded is on disk.
            os._exit(_INTERRUPTED)
        seen = True
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupted)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _progress(session: Any, *, wanted: bool) -> Generator[None]:
    """Show on a terminal how many tasks are done, if the work takes longer than a second."""
    if not wanted or not sys.stderr.isatty() or session.location is None:
        yield
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

    ended = threading.Event()

    def show() -> None:
        if ended.wait(2 * _UPDATE_SECONDS):
            return
        columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            shown = bar.add_task("Tasks", total=None)
            while not ended.wait(_UPDATE_SECONDS):
                done, known, failed = session.counts()
                what = f"Tasks ({failed} failed)" if failed else "Tasks"
                bar.update(shown, completed=done, total=known or None, description=what)

    thread = threading.Thread(target=show, name="scalable-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
