"""What the documentation lists is what the code has."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from scalable.cli import COMMANDS
from scalable.options import OPTIONS
from scalable.telemetry.semconv import RECORD_MAP
from scalable_runs import layout
from scalable_runs.redact import Redactor

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
RUN_DIRECTORY = (ROOT / "docs" / "run-directory.md").read_text()


def code_words(text: str) -> set[str]:
    """Every word that stands in backticks."""
    return {
        word for span in re.findall(r"`([^`\n]+)`", text) for word in re.findall(r"[\w.]+", span)
    }


def test_readme_lists_every_option_with_its_variable_in_order():
    rows = re.findall(r"^\| `(\w+)` \| `(SCALABLE_\w+)` \|", README, re.MULTILINE)
    assert rows == [(option.name, option.variable) for option in OPTIONS]


def test_readme_lists_every_command():
    rows = re.findall(r"^\| `scalable (\w+)` \|", README, re.MULTILINE)
    assert sorted(rows) == sorted(COMMANDS)


def test_readme_names_only_variables_that_exist():
    ours = set(re.findall(r"SCALABLE_\w+", README + RUN_DIRECTORY))
    assert ours == {option.variable for option in OPTIONS}


def test_every_file_of_a_run_is_described():
    described = code_words(RUN_DIRECTORY)
    files = {*layout.JOURNALS, *layout.SIGNALS, layout.MANIFEST, layout.PLAN, layout.LOCK}
    assert files | {layout.RUN, layout.SUMMARY, layout.OWNER} <= described


def test_every_field_that_is_recorded_is_described():
    recorded = {
        field.removeprefix("details.")
        for fields in RECORD_MAP.fields.values()
        for field in fields.values()
    } | {field for field, _ in RECORD_MAP.metrics.values()}
    assert recorded - code_words(RUN_DIRECTORY) == set()


def test_every_family_of_secrets_is_described():
    # `extra` are the patterns that a program adds itself, through the exporters' redactor.
    assert set(Redactor.families) - {"extra"} <= code_words(RUN_DIRECTORY)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_into_80_columns(name: str):
    from scalable.cli import cli

    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    with click.Context(
        command, parent=click.Context(cli, info_name="scalable"), info_name=name
    ) as ctx:
        text = command.get_help(ctx)
    assert [line for line in text.splitlines() if len(line) > 80] == []
