"""`scalable schema`: the manifest's JSON schema."""

from __future__ import annotations

from pathlib import Path

import click

from scalable.cli._commands import deliver, output_option
from scalable.cli._manifest import session_errors

_EPILOG = """\b
Examples:
  scalable schema --output scalable.schema.json
and, for editors, as the first line of the manifest:
  # yaml-language-server: $schema=./scalable.schema.json
"""


@click.command(epilog=_EPILOG)
@output_option
def schema(output: Path | None) -> None:
    """Print the JSON schema of scalable.yaml, for editors that complete and check.

    It has the options of every provider that is installed.
    """
    from scalable.analysis import json_text

    with session_errors():
        from scalable.manifest.schema import manifest_schema

        text = json_text(manifest_schema())
    deliver(text, output, "the schema", as_json=True)
