"""`scalable catalog`: what it lists, checks and copies, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from scalable.catalog import Catalog
from scalable.cli import cli


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Catalog:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SCALABLE_CATALOG", raising=False)
    found = Catalog()
    for name, data in (("maps/a.tif", b"1"), ("maps/b.tif", b"22"), ("yield", b"333")):
        found.put_bytes(data, name=name)
    found.put_bytes(b"4444", name="yield", kind="result")
    return found


def call(*words: str) -> Result:
    return CliRunner().invoke(cli, ["catalog", *words])


def test_list_shows_names_or_the_versions_of_one():
    shown = call("list").output
    assert [line.split()[-1] for line in shown.splitlines()[2:]] == [
        "maps/a.tif",
        "maps/b.tif",
        "yield",
    ]
    entries = json.loads(call("list", "yield", "--json").output)["entries"]
    assert [(one["size_bytes"], one.get("kind")) for one in entries] == [(3, None), (4, "result")]
    entries = json.loads(call("list", "maps", "--json").output)["entries"]
    assert [one["name"] for one in entries] == ["maps/a.tif", "maps/b.tif"]


def test_get_prints_a_path_or_makes_a_copy():
    assert Path(call("get", "yield").output.strip()).read_bytes() == b"4444"
    done = json.loads(call("get", "maps", "--output", "copy", "--json").output)
    assert done["path"] == "copy"
    assert Path("copy/b.tif").read_bytes() == b"22"
    Path("copy/b.tif").write_bytes(b"mine")
    again = call("get", "maps", "--output", "copy")
    assert (again.exit_code, "exists already" in again.output) == (1, True)
    missing = call("get", "yeild")
    assert missing.exit_code == 1
    assert "did you mean 'yield'?" in missing.output


def test_verify_exits_with_1_once_something_is_changed(here: Catalog):
    assert call("verify").exit_code == 0
    assert json.loads(call("verify", "--json").output)["changed"] == []
    (content,) = (
        path for path in Path(".scalable/catalog/content").rglob("*") if path.is_file()
        and path.read_bytes() == b"22"
    )  # fmt: skip
    content.chmod(0o644)
    content.write_bytes(b"23")
    done = call("verify", "--json")
    assert done.exit_code == 1
    (changed,) = json.loads(done.output)["changed"]
    assert changed["names"] == ["maps/b.tif"]
    assert changed["digest"] == here.entry("maps/b.tif").digest != changed["found"]
    assert changed["found"] in call("verify").output
    assert call("verify", "yield", "maps/a.tif").exit_code == 0
    assert call("verify", "maps").exit_code == 1


def test_the_catalog_is_found_above_by_the_manifest_or_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert "yield" in call("list").output
    Catalog(tmp_path / "other").put_bytes(b"x", name="elsewhere")
    (tmp_path / "scalable.yaml").write_text(
        "version: 1\nproject: {name: x}\ntargets: {here: {provider: local}}\ncatalog: other\n"
    )
    assert "elsewhere" in call("list").output
    assert "yield" in call("list", "--catalog", str(tmp_path / ".scalable/catalog")).output
    monkeypatch.setenv("SCALABLE_CATALOG", str(tmp_path / "nowhere"))
    missing = call("list")
    assert missing.exit_code == 1
    assert "There is no catalog in" in missing.output
