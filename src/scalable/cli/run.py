"""`scalable run`: a script, or a function of a module, in a session."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click

from scalable.cli._common import echo
from scalable.cli._manifest import manifest_option, session_errors, target_option

_EPILOG = """\b
Examples:
  scalable run --workflow steps.py
  scalable run --target hpc --workflow steps.py -- --year 2013
  scalable run --workflow package.module:main
  scalable run --dry-run
In the workflow, ScalableSession.from_yaml() and current_session() are the
session that runs; a function may have parameters named session, client, args.
"""
#: Seconds between two looks at how far the work is.
_LOOK: Final = 0.5
#: Exit code after Ctrl-C, as shells have it.
_INTERRUPTED: Final = 130


@click.command(
    epilog=_EPILOG,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": True},
)
@manifest_option
@target_option
@click.option(
    "--workflow", metavar="FILE", help="A script, or module:function. Default: workflow.py."
)
@click.option("--dry-run", is_flag=True, help="Say what would be started; start nothing.")
@click.option("--no-progress", is_flag=True, help="Show no progress on a terminal.")
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def run(
    ctx: click.Context,
    manifest: Path | None,
    target: str | None,
    workflow: str | None,
    dry_run: bool,
    no_progress: bool,
    args: tuple[str, ...],
) -> None:
    """Run a workflow in a session: what it does is recorded from its first line.

    The exit code is the workflow's own: 1 for an exception, 130 after Ctrl-C. Ctrl-C once lets the
    session close in good order, as cancelled; twice stops at once.
    """
    with session_errors():
        from scalable.session.session import ScalableSession
        from scalable.session.workflow import find_workflow

        session = ScalableSession.from_yaml(manifest, target=target)
        if dry_run:
            from scalable.cli.plan import plan_text

            echo(plan_text(session.plan(dry_run=True)), nl=False)
            return
        execute = find_workflow(workflow or "workflow.py")
        session.start()
    ctx.exit(_in_session(session, execute, args, progress=not no_progress))


def _in_session(session: Any, execute: Any, args: tuple[str, ...], *, progress: bool) -> int:
    from scalable.session.session import provide

    code, status, error = 1, "failed", None
    provide(session)
    with _second_stops():
        try:
            with _progress(session, wanted=progress):
                code = execute(session, args)
            status = "completed" if code == 0 else "failed"
        except KeyboardInterrupt:
            code, status = _INTERRUPTED, "cancelled"
            echo("\nInterrupted: closing the session. Once more stops at once.", err=True)
        except BaseException as raised:
            error = raised
            echo("".join(traceback.format_exception(raised)), err=True, nl=False)
        finally:
            provide(None)
        session.end_of_workflow(status, error)
    if session.run_dir is not None:
        echo(f"The run: {session.run_dir} ({session.status})", err=True)
    return code


@contextmanager
def _second_stops() -> Generator[None]:
    """Let the first Ctrl-C raise, as always, and a second one end the process at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    seen = False

    def interrupted(number: int, frame: Any) -> None:
        nonlocal seen
        if seen:
            # Workers of this machine end with their connection; what is recorded is on disk.
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
    """Show on a terminal how many tasks are done, once the work takes longer than a moment."""
    if not wanted or not sys.stderr.isatty() or session.run_dir is None:
        yield
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

    ended = threading.Event()

    def show() -> None:
        if ended.wait(2 * _LOOK):
            return
        columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            shown = bar.add_task("Tasks", total=None)
            while not ended.wait(_LOOK):
                done, known, failed = session.counts()
                said = f"Tasks ({failed} failed)" if failed else "Tasks"
                bar.update(shown, completed=done, total=known or None, description=said)

    thread = threading.Thread(target=show, name="scalable-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
