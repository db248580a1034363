"""Where a command finds runs: a directory, or a place that the user's configuration names."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import click
from click.core import ParameterSource

from scalable.cli._commands import CommandError, sentence
from scalable.cli._terminal import echo

if TYPE_CHECKING:
    from scalable.common.options import Settings
    from scalable_runs.stores.places import StoreSpec

#: A directory of runs, or another place.
Runs: TypeAlias = "Path | StoreSpec"

#: Where runs are written by default.
RUNS_DIR: Final = Path(".scalable/runs")
_MANIFESTS: Final = ("scalable.yaml", "scalable.yml")
#: Variables of which any may name a run store.
_VARIABLES: Final = (
    *("SCALABLE_RUN_STORE", "SCALABLE_CONFIGURATION_FILE", "RUNNABLE_CONFIGURATION_FILE"),
)


class RunsParameter(click.ParamType):  # pyright: ignore[reportMissingTypeArgument]
    """A directory, or a URL of a place of runs."""

    name = "directory or URL"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return a path or a :class:`StoreSpec`."""
        if not isinstance(value, str) or "://" not in value:
            if isinstance(value, str | Path):
                return click.Path(file_okay=False, path_type=Path).convert(value, param, ctx)
            return value
        from scalable_runs.stores.places import PlaceError, spec_of

        try:
            spec = spec_of(value)
        except PlaceError as error:
            self.fail(sentence(error), param, ctx)
        if spec.is_elsewhere:
            return spec
        if not spec.folder:
            self.fail("memory has no runs that a command can read.", param, ctx)
        return Path(spec.folder)


def runs_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--runs-dir`; the command gets a directory, or another place of runs."""
    return click.option(
        "--runs-dir",
        type=RunsParameter(),
        default=nearest_runs_dir,
        envvar="SCALABLE_RUNS_DIR",
        show_envvar=True,
        callback=_with_configuration,
        metavar="DIR|URL",
        help="Where the runs are: a directory, or a URL such as s3://bucket/prefix. Default: the "
        "configured run store, else .scalable/runs here or in the nearest directory above.",
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


def _with_configuration(ctx: click.Context, param: click.Parameter, value: Runs) -> Runs:
    if ctx.get_parameter_source(str(param.name)) is ParameterSource.COMMANDLINE:
        return value
    return value if ctx.resilient_parsing else configured_runs(value)


def configured_runs(runs_dir: Runs) -> Runs:
    """Return the place of the configured run store; `runs_dir` if none is configured."""
    manifest = _manifest_options()
    if not isinstance(runs_dir, Path):
        return runs_dir
    if not manifest and not any(os.environ.get(name, "").strip() for name in _VARIABLES):
        return runs_dir
    store = configured_settings(manifest).run_store
    if store is None or store.type == "buffered":
        return runs_dir
    if store.is_elsewhere:
        return store.beside(runs_dir)
    folder = store.config.get("log_folder")
    return Path(folder) if folder else runs_dir


def configured_settings(manifest: Mapping[str, Any] | None = None) -> Settings:
    """Return the options that variables, the manifest and a configuration file set.

    Parameters
    ----------
    manifest
        Those of the manifest, if they are known; by default that of a session here.

    Raises
    ------
    CommandError
        A value is not allowed.
    """
    from scalable.common.options import OptionError, resolve
    from scalable.configured import configured_store

    given = _manifest_options() if manifest is None else manifest
    try:
        file = configured_store(os.environ)
        configured = {} if file is None else {"run_store": file}
        return resolve({"enabled": False}, None, given, configured)
    except OptionError as error:
        raise CommandError(sentence(error)) from None


def _manifest_options() -> Mapping[str, Any]:
    """Return the run store of the manifest that a session would use; empty without one."""
    path = nearest_manifest()
    if path is None or "run_store" not in text_of(path):
        return {}
    from scalable.cli._manifest import session_errors

    try:
        with session_errors():
            from scalable.manifest.load import load_manifest

            store = load_manifest(path).run_store
    except click.ClickException as error:
        lines = error.message.splitlines()
        message = next((line for line in lines if not line.endswith(":")), error.message)
        echo(f"The run store of {path} is not used: {message}", err=True)
        return {}
    return {} if store is None else {"run_store": store}


def nearest_manifest() -> Path | None:
    """Find a manifest as sessions do, without the packages that read it."""
    if named := os.environ.get("SCALABLE_MANIFEST", "").strip():
        return Path(named)
    here = Path.cwd()
    places = (above / name for above in (here, *here.parents) for name in _MANIFESTS)
    return next((path for path in places if path.is_file()), None)


def text_of(path: Path) -> str:
    """Return the text of a file; empty if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return ""


def location_of(runs: Runs) -> str:
    """Name a place of runs for people."""
    return str(runs) if isinstance(runs, Path) else runs.location


def local_runs(runs: Runs) -> Path:
    """Return the directory of runs on this machine; raises CommandError if there is none."""
    if isinstance(runs, Path):
        return runs
    if not runs.local:
        raise CommandError(
            f"{runs.location} is not on this machine: name a directory by --runs-dir."
        )
    return Path(runs.local)


def check_readable(runs: Runs) -> None:
    """Raise CommandError if a place exists and cannot be read."""
    if not isinstance(runs, Path):
        try:
            runs.open().exists()
        except (OSError, ValueError, ImportError) as error:
            raise unreadable(runs, error) from None
        return
    try:
        with os.scandir(runs):
            pass
    except FileNotFoundError:
        pass
    except OSError as error:
        raise CommandError(
            f"{runs} cannot be read: {error.strerror}. Name another directory by --runs-dir."
        ) from None


def unreadable(runs: Runs, error: Exception) -> CommandError:
    """Return the error of a command for a place that does not answer."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    place = location_of(runs)
    # Most errors of a storage name it.
    is_named = place.partition(" at ")[0] in reason
    text = reason if is_named else f"{place} cannot be read: {reason}"
    if not isinstance(runs, Path) and runs.local:
        text += f"\n\nThe runs on this machine: scalable runs --runs-dir {runs.local}"
    return CommandError(text)


def no_runs(runs: Runs) -> str:
    """Return the message that there are no runs."""
    if not isinstance(runs, Path):
        return f"There are no runs in {runs.location} yet."
    where = runs if runs.is_absolute() else f"{runs} (in {Path.cwd()})"
    if runs.is_dir():
        return f"There are no runs in {where} yet."
    return f"There are no runs yet: {where} does not exist."


def run_ids(runs: Runs) -> list[str]:
    """Return the ids of runs for completion; none if the place cannot be read."""
    from scalable_runs.stores.places import open_root

    try:
        return open_root(runs).ids()
    except (OSError, ValueError, ImportError):
        return []


def same_option(runs: Runs) -> str:
    """Return the option that names a place, for commands in messages."""
    if isinstance(runs, Path):
        return "" if runs == RUNS_DIR else f" --runs-dir {runs}"
    return "" if runs.local else f" --runs-dir {runs.location.partition(' at ')[0]}"
