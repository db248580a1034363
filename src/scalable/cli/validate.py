"""`scalable validate`: everything that is wrong with a manifest, in one pass."""

from __future__ import annotations

from pathlib import Path

import click

from scalable.cli._commands import deliver_json, json_option
from scalable.cli._manifest import manifest_options, session_errors
from scalable.cli._terminal import echo

_EPILOG = """\b
Examples:
  scalable validate
  scalable validate other.yaml --target hpc
  scalable validate --json | jq -r '.problems[].message'
"""


@click.command(epilog=_EPILOG)
@manifest_options
@json_option
@click.pass_context
def validate(ctx: click.Context, manifest: Path | None, target: str | None, as_json: bool) -> None:
    """Check a manifest: every target and every overlay, used or not.

    Each problem is shown with file, line, column and key. Nothing is started. The exit code is 1 if
    there are problems.
    """
    with session_errors():
        from scalable.manifest import load
        from scalable.manifest.errors import ManifestError

        path = load.find_manifest(manifest)
        text = load.read_text(path)
        problems = load.check_manifest(text, load.shown(path))
        if problems and not as_json:
            raise ManifestError(problems)
        loaded = None if problems else load.parse_manifest(text, path, target=target)
    if as_json:
        deliver_json(
            {
                "manifest": str(path),
                "valid": not problems,
                "problems": [problem._asdict() for problem in problems],
                "target": loaded and loaded.target_name,
                "provider": loaded and loaded.provider.name,
                "targets": loaded and loaded.targets,
                "manifest_lock": loaded and loaded.lock,
            }
        )
        ctx.exit(1 if problems else 0)
    assert loaded is not None
    targets = ", ".join(
        f"{name} ({provider}{', chosen' if name == loaded.target_name else ''})"
        for name, provider in loaded.targets.items()
    )
    echo(f"{load.shown(path)} is valid.\ntargets  {targets}\nlock     {loaded.lock}")
