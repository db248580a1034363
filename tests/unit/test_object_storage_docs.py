"""The page on object storages has the settings that the code has."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from scalable_runs.stores.objects import AzureObjects, GoogleObjects, S3Objects

PAGE = (Path(__file__).parents[2] / "docs" / "object-storage.md").read_text()


def rows() -> dict[str, tuple[str, str]]:
    """Other names, and whose setting it is, of every setting of the table."""
    found: dict[str, tuple[str, str]] = {}
    for row in re.findall(r"^\| (`.*) \|$", PAGE.split("## Credentials")[0], re.MULTILINE):
        names, others, whose, _ = (cell.strip() for cell in row.split("|", 3))
        for name in re.findall(r"`(\w+)`", names):
            found[name] = others, whose
    return found


@pytest.mark.parametrize(
    ("kind", "provider"), [(S3Objects, "S3"), (GoogleObjects, "Google"), (AzureObjects, "Azure")]
)
def test_the_page_lists_every_setting_and_its_other_names(kind: Any, provider: str):
    table = rows()
    fields = {field.name for field in dataclasses.fields(kind.Config)}
    listed = {name for name, (_, whose) in table.items() if whose in ("all", provider)}
    assert listed == fields
    for other, name in kind.Config.SYNONYMS.items():
        assert f"`{other}`" in table[name][0]
