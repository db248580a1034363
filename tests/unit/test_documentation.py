"""What the documentation lists is what the code has."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import click
import pytest

from core import oldest_dask
from scalable.cli import COMMANDS
from scalable.telemetry.record_map import RECORD_MAP
from scalable_runs import schema
from scalable_runs.redact import Redactor

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
RUN_DIRECTORY = (ROOT / "docs" / "run-directory.md").read_text()
FIELDS = (ROOT / "docs" / "fields.md").read_text()


def code_words(text: str) -> set[str]:
    """Every word that stands in backticks."""
    return {
        word for span in re.findall(r"`([^`\n]+)`", text) for word in re.findall(r"[\w.]+", span)
    }


def test_readme_lists_every_command():
    rows = re.findall(r"^\| `scalable ([\w-]+)` \|", README, re.MULTILINE)
    assert sorted(rows) == sorted(COMMANDS)


def test_the_readme_has_the_oldest_dask_of_the_package():
    (oldest,) = re.findall(r"\(`distributed`\) ([\d.]+) or newer", README)
    # Of pyproject.toml: the metadata of an editable installation may be older.
    assert oldest_dask() == oldest


def test_the_documentation_names_only_variables_that_the_code_reads():
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    named = {name for page in pages for name in re.findall(r"SCALABLE_[A-Z_]+", page.read_text())}
    code = "".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    assert named - set(re.findall(r"SCALABLE_[A-Z_]+", code)) == set()


def test_every_file_of_a_run_is_described():
    described = code_words(RUN_DIRECTORY)
    files = {*schema.JOURNALS, *schema.SIGNALS, schema.MANIFEST, schema.PLAN, schema.LOCK}
    assert files | {schema.RUN, schema.SUMMARY, schema.OWNER} <= described


def test_every_field_that_is_recorded_is_described():
    recorded = {field for fields in RECORD_MAP.fields.values() for field in fields.values()} | {
        field for field, _ in RECORD_MAP.metrics.values()
    }
    assert recorded - code_words(FIELDS) == set()


def test_every_family_of_secrets_is_described():
    # `extra` are the patterns that a program adds itself, through the exporters' redactor.
    assert set(Redactor.families) - {"extra"} <= code_words(RUN_DIRECTORY)


def reference() -> ModuleType:
    """The module that makes the tables of the page on OpenTelemetry."""
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs" / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tables_of_names_are_made_from_the_code():
    pytest.importorskip("grafana_foundation_sdk")
    for name in reference().TABLES:
        page = (ROOT / "docs" / name).read_text()
        assert page == reference().rendered(name), "`make docs` updates the tables"


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
