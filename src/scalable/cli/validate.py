"""`scalable validate`: everything that is wrong with a manifest, in one pass."""

from __future__ import annotations

from pathlib import Path

import click

from scalable.cli._commands import deliver, json_option
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
    """Check a manifest: every target, every overlay, used or not.

    Each problem is named with file, line, column and key. Nothing is started. Exit code 0 if all
    is well, 1 if there are problems.
    """
    with session_errors():
        from scalable.manifest.errors import ManifestError
        from scalable.manifest.load import (
            check_manifest,
            find_manifest,
            parse_manifest,
            read_text,
            shown,
        )

        path = find_manifest(manifest)
        text = read_text(path)
        problems = check_manifest(text, shown(path))
        if problems and not as_json:
            raise ManifestError(problems)
        loaded = None if problems else parse_manifest(text, path, target=target)
    if as_json:
        from scalable.analysis import json_text

        rows = [problem._asdict() for problem in problems]
        found = {
            "manifest": str(path),
            "valid": not problems,
            "problems": rows,
            "target": loaded and loaded.target_name,
            "provider": loaded and loaded.provider.name,
            "targets": loaded and loaded.targets,
            "manifest_lock": loaded and loaded.lock,
        }
        deliver(json_text(found), as_json=True)
        ctx.exit(1 if problems else 0)
    assert loaded is not None
    targets = ", ".join(
        f"{name} ({provider})" if name != loaded.target_name else f"{name} ({provider}, chosen)"
        for name, provider in loaded.targets.items()
    )
    echo(f"{shown(path)} is valid.\ntargets  {targets}\nlock     {loaded.lock}")
