"""What the commands on manifests share: options, completion and errors."""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from scalable.cli._commands import Command, CommandError, completed, sentence

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


def manifest_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `[MANIFEST]`, `--manifest` and `--target`; the command gets `manifest` and `target`."""

    @functools.wraps(command)
    def chosen(*, given: Path | None, manifest: Path | None, **rest: Any) -> Any:
        return command(manifest=one_manifest(given, manifest), **rest)

    added = manifest_option(target_option(chosen))
    return click.argument(
        "given", metavar="[MANIFEST]", required=False, type=click.Path(path_type=Path)
    )(added)


def one_manifest(given: Path | None, option: Path | None) -> Path | None:
    """Return the manifest of the argument, else of the option or its variable; not of both."""
    if given is None:
        return option
    source = click.get_current_context().get_parameter_source("manifest")
    if source is ParameterSource.COMMANDLINE:
        raise click.UsageError("MANIFEST and --manifest exclude each other: give one of them.")
    return given


def manifest_option(command: Command) -> Command:
    """Add `--manifest`."""
    return click.option(
        "--manifest",
        type=click.Path(path_type=Path),
        envvar="SCALABLE_MANIFEST",
        show_envvar=True,
        metavar="FILE",
        help="The manifest. Default: scalable.yaml here or in the nearest directory above.",
    )(command)


def target_option(command: Command) -> Command:
    """Add `--target`."""
    return click.option(
        "--target",
        envvar="SCALABLE_TARGET",
        show_envvar=True,
        metavar="NAME",
        shell_complete=_complete_targets,
        help="The target; `auto`: inside a Slurm job the slurm one, else the local one.",
    )(command)


def _complete_targets(
    ctx: click.Context, _: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    try:
        with session_errors():
            from scalable.manifest.load import find_manifest, read_text
            from scalable.manifest.source import read_source

            path = find_manifest(ctx.params.get("given") or ctx.params.get("manifest"))
            targets: Any = read_source(read_text(path), str(path)).data.get("targets")
    except click.ClickException:
        return []
    return completed(sorted(targets) if isinstance(targets, dict) else (), incomplete)


@contextmanager
def session_errors() -> Generator[None]:
    """Turn errors of manifests and sessions into those of a command.

    CommandError has every problem, one per line, or what to install.
    """
    try:
        from scalable.common.options import OptionError
        from scalable.manifest.errors import ManifestError, SessionError
        from scalable.manifest.load import load_manifest as _  # noqa: F401
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
        raise CommandError(sentence(error)) from None
    except OptionError as error:
        raise click.UsageError(sentence(error)) from None
