"""``scalable.yaml``: found, read, checked, and one of its targets chosen."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from scalable.common.hints import suggestion
from scalable.manifest import lock
from scalable.manifest.check import AUTO, MergedManifest, as_mapping, find_problems, overlays_of
from scalable.manifest.errors import ManifestError, Problem, SessionError
from scalable.manifest.model import Root, Target
from scalable.manifest.providers import Provider
from scalable.manifest.source import read_source

#: Names under which a manifest is looked for, in a directory and those above it.
NAMES: Final = ("scalable.yaml", "scalable.yml")
MANIFEST_VARIABLE: Final = "SCALABLE_MANIFEST"
TARGET_VARIABLE: Final = "SCALABLE_TARGET"


@dataclass(frozen=True, slots=True)
class Manifest:
    """A valid manifest, and the target that was chosen; its overlays are applied."""

    path: Path | None
    target_name: str
    target: Target
    provider: type[Provider]
    #: Project, components and tasks.
    root: Root
    #: Options of ``instrument()``.
    telemetry: dict[str, Any]
    #: ``sha256:<hex>`` of the canonical content.
    lock: str
    #: The text without secrets.
    copy: str
    #: Provider of every target.
    targets: dict[str, str] = field(default_factory=dict[str, str])
    #: The option `run_store`: a text or a mapping, which may hold secrets.
    run_store: Any = field(default=None, repr=False)

    @property
    def options(self) -> dict[str, Any]:
        """Options of ``instrument()``, with the project's name and the run store."""
        found = {"project": self.root.project.name, **self.telemetry}
        if self.root.catalog is not None:
            found["catalog"] = self.root.catalog
        if self.root.keep_results is not None:
            found["keep_results"] = self.root.keep_results
        return found if self.run_store is None else {**found, "run_store": self.run_store}

    def make_provider(self) -> Provider:
        """Return a provider for the chosen target."""
        return self.provider(self.target, self.root.components, self.root.project.name)


def find_manifest(
    path: str | os.PathLike[str] | None = None, environ: Mapping[str, str] | None = None
) -> Path:
    """Return the path of the manifest.

    It is `path` (the manifest or its directory), else ``SCALABLE_MANIFEST``, else ``scalable.yaml``
    in the working directory or the nearest directory above it.
    """
    environment = os.environ if environ is None else environ
    given, origin = path, ""
    if given is None and (variable := environment.get(MANIFEST_VARIABLE, "").strip()):
        given, origin = variable, f" ({MANIFEST_VARIABLE})"
    if given is not None:
        place = Path(given).expanduser()
        found = _in_directory(place) if place.is_dir() else place if place.exists() else None
        if found is None:
            raise SessionError(
                f"there is no manifest at {place}{origin}; `scalable init` writes one"
            )
        return found
    here = Path.cwd()
    for directory in (here, *here.parents):
        if (found := _in_directory(directory)) is not None:
            return found
    raise SessionError(
        f"no {NAMES[0]} in {here} or above it; `scalable init` writes one, "
        f"--manifest or {MANIFEST_VARIABLE} names one elsewhere"
    )


def _in_directory(directory: Path) -> Path | None:
    return next((directory / name for name in NAMES if (directory / name).is_file()), None)


def load_manifest(
    path: str | os.PathLike[str] | None = None,
    *,
    target: str | None = None,
    environ: Mapping[str, str] | None = None,
) -> Manifest:
    """Find, read and check a manifest, and choose a target.

    The target is a name or ``auto``; by default ``SCALABLE_TARGET``, else the only target, else
    ``auto``. Raises ManifestError with every problem, or SessionError if there is no manifest or no
    such target.
    """
    found = find_manifest(path, environ)
    return parse_manifest(read_text(found), found, target=target, environ=environ)


def read_text(path: Path) -> str:
    """Return a manifest's text; raises SessionError if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise SessionError(f"{path} cannot be read: {reason}") from None


def parse_manifest(
    text: str,
    path: Path | None = None,
    *,
    target: str | None = None,
    environ: Mapping[str, str] | None = None,
) -> Manifest:
    """Check the text of a manifest and choose a target; see :func:`load_manifest`."""
    environment = os.environ if environ is None else environ
    source = read_source(text, shown(path), environment)
    targets = {
        name: str(as_mapping(options).get("provider"))
        for name, options in as_mapping(source.data.get("targets")).items()
    }
    if source.problems or not targets:
        raise ManifestError(find_problems(source))
    variable = environment.get(TARGET_VARIABLE, "").strip()
    try:
        if target is None and variable:
            chosen = choose_target(targets, variable, environment, origin=TARGET_VARIABLE)
        else:
            chosen = choose_target(targets, target, environment)
    except SessionError:
        if problems := find_problems(source):
            raise ManifestError(problems) from None
        raise
    merged = MergedManifest(source, overlays_of(source, chosen), only=chosen)
    merged.check()
    if source.problems:
        raise ManifestError(source.problems)
    assert merged.root is not None
    return Manifest(
        path,
        chosen,
        *merged.targets[chosen],
        merged.root,
        merged.telemetry,
        lock.digest(merged.canonical()),
        source.redacted(),
        targets,
        merged.run_store,
    )


def check_manifest(
    text: str, file: str, environ: Mapping[str, str] | None = None
) -> tuple[Problem, ...]:
    """Return every problem of a manifest named `file`: of all targets and overlays, used or not."""
    return tuple(sorted(find_problems(read_source(text, file, environ))))


def choose_target(
    targets: Mapping[str, str],
    wanted: str | None,
    environ: Mapping[str, str],
    *,
    origin: str = "target",
) -> str:
    """Return the target that is `wanted`: a name, ``auto``, or None for the only one or ``auto``.

    `targets` has the provider of each target; `origin` says in the error where `wanted` comes from.
    """
    if wanted is not None and wanted != AUTO:
        if wanted in targets:
            return wanted
        hint = suggestion(wanted, targets, "targets")
        raise SessionError(f"{origin} {wanted!r}: there is no such target; {hint}")
    if wanted is None and len(targets) == 1:
        return next(iter(targets))
    provider = "slurm" if environ.get("SLURM_JOB_ID") else "local"
    for name, of in targets.items():
        if of == provider:
            return name
    where = "inside a Slurm job" if provider == "slurm" else "outside a Slurm job"
    raise SessionError(
        f"target auto: {where} it is the target with `provider: {provider}`, and there is none; "
        f"choose one by target= or {TARGET_VARIABLE}: {', '.join(targets)}"
    )


def shown(path: Path | None) -> str:
    """Return a manifest's name for messages: relative to the working directory if it is below."""
    if path is None:
        return NAMES[0]
    try:
        return str(path.resolve().relative_to(Path.cwd().resolve()))
    except ValueError:
        return str(path)
