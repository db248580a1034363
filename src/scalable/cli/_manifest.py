"""What the commands on manifests share: options, and errors in the terminal's words."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from scalable.cli._common import CommandError

_Command = TypeVar("_Command", bound=Callable[..., Any])


def manifest_option(command: _Command) -> _Command:
    """Add `--manifest`."""
    return click.option(
        "--manifest",
        type=click.Path(path_type=Path),
        envvar="SCALABLE_MANIFEST",
        show_envvar=True,
        metavar="FILE",
        help="The manifest. Default: scalable.yaml here or in the nearest directory above.",
    )(command)


def target_option(command: _Command) -> _Command:
    """Add `--target`."""
    return click.option(
        "--target",
        envvar="SCALABLE_TARGET",
        show_envvar=True,
        metavar="NAME",
        help="The target; `auto`: inside a Slurm job the slurm one, else the local one.",
    )(command)


@contextmanager
def session_errors() -> Generator[None]:
    """Let what is wrong with a manifest or a session end the command with exit code 1.

    Raises
    ------
    CommandError
        With every problem, one a line; or what to install.
    """
    try:
        from scalable.session.errors import ManifestError, SessionError
        from scalable.session.manifest import load_manifest as _  # noqa: F401
    except ImportError as error:
        raise CommandError(
            f"This needs packages that are not installed ({error}).\n\n"
            "Install them: pip install 'scalable-otel[session]'"
        ) from None
    try:
        yield
    except ManifestError as error:
        count = len(error.problems)
        raise CommandError(f"{count} problem{'' if count == 1 else 's'}:\n{error}") from None
    except SessionError as error:
        raise CommandError(f"{error}.") from None
