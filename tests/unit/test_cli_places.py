"""Commands that read runs where the configuration says they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from run_builder import RunBuilder, life
from scalable.cli import cli
from scalable_runs.remote.shipper import Shipper, sync
from scalable_runs.stores.directory import DirectoryObjects
from scalable_runs.stores.places import spec_of

HERE = "run-20260102T030405Z-flights-0a1b2c3d"
THERE = "run-20260102T040506Z-flights-1a1b2c3d"
MANIFEST = """\
version: 1
project: {name: p}
targets: {here: {provider: local}}
"""


def scalable(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, prog_name="scalable")


def made(runs: Path, run_id: str) -> Path:
    run = RunBuilder(runs, run_id)
    run.add(*life("inc-1", 0, 1.0))
    run.finish(2)
    return runs / run_id


@pytest.fixture
def store(tmp_path: Path) -> dict[str, Any]:
    """A place with one run, which is not on this machine; another run is only here."""
    made(tmp_path / ".scalable" / "runs", HERE)
    (tmp_path / "there").mkdir()
    config = {"provider": "directory", "path": str(tmp_path / "there")}
    found = {"type": "object", "config": config}
    objects = spec_of(found).objects()
    assert objects is not None
    assert sync(Shipper(objects, made(tmp_path / "elsewhere", THERE))).complete
    return found


@pytest.fixture(params=["file", "manifest"])
def configured(request, store, tmp_path, monkeypatch) -> None:
    """The place, named in a file of its own or in the manifest."""
    section = f"run_store: {json.dumps(store)}\n"
    if request.param == "manifest":
        (tmp_path / "scalable.yaml").write_text(MANIFEST + section)
    else:
        (tmp_path / "config.yaml").write_text(section)
        monkeypatch.setenv("SCALABLE_CONFIGURATION_FILE", "config.yaml")


@pytest.mark.usefixtures("configured")
def test_every_command_reads_the_configured_store(tmp_path):
    listed = json.loads(scalable("runs", "--json").output)
    assert [one["run_id"] for one in listed] == [THERE, HERE], "those there, and those here"
    report = json.loads(scalable("report", THERE, "--json").output)
    assert report["report"]["path"] == f"{tmp_path / 'there'}/{THERE}"
    assert report["counts"]["tasks_succeeded"] == 1
    for command in (["diagnose", THERE], ["crash-logs", "list", THERE], ["report", HERE]):
        result = scalable(*command)
        assert result.exit_code == 0, result.output
    there = scalable("export", THERE, "--file", "run.otlp")
    here = scalable("export", str(tmp_path / "elsewhere" / THERE), "--file", "run.otlp")
    assert there.output == here.output
    # What is named by the option is all that is read.
    only = json.loads(scalable("runs", "--json", "--runs-dir", ".scalable/runs").output)
    assert [one["run_id"] for one in only] == [HERE]


@pytest.mark.usefixtures("configured")
def test_sync_copies_to_the_configured_store(tmp_path):
    result = scalable("sync", "--all", "--json")
    assert result.exit_code == 0, result.output
    (copied,) = json.loads(result.stdout)
    assert copied["run_id"] == HERE
    assert copied["complete"]
    assert (tmp_path / "there" / HERE / "tasks.jsonl").is_file()


@pytest.mark.usefixtures("configured")
def test_a_listing_of_both_places_reads_no_run_that_an_index_knows(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for number in range(110):
        run_id = f"run-20260103T030405Z-many-{number:08x}"
        path = made(tmp_path / "elsewhere", run_id)
        (tmp_path / "there" / run_id).mkdir()
        for name in ("run.json", "summary.json"):
            (tmp_path / "there" / run_id / name).write_bytes((path / name).read_bytes())
    first = json.loads(scalable("runs", "--json").output)
    assert len(first) == 112
    monkeypatch.setattr(DirectoryObjects, "get", None)
    again = json.loads(scalable("runs", "--json").output)
    assert again == first


def test_a_broken_manifest_does_not_keep_runs_from_being_read(store, tmp_path):
    (tmp_path / "scalable.yaml").write_text(f"{MANIFEST}run_store: minoi\n")
    result = scalable("runs", "--json")
    assert "is not used" in result.stderr
    assert [one["run_id"] for one in json.loads(result.stdout)] == [HERE]

    config = "{path: '${NOWHERE}', log: '${NOR_THERE}'}"
    (tmp_path / "scalable.yaml").write_text(
        f"{MANIFEST}run_store: {{type: object, config: {config}}}\n"
    )
    assert "the environment has no NOWHERE" in scalable("runs").stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["report", "--runs-dir", "s4://b"], 2, "s4:// is not the place of a run store"),
        (["report", "--runs-dir", "memory://"], 2, "memory has no runs that a command can read"),
        (["sync", "--runs-dir", "s3://bucket/x", "--to", "there"], 1, "is not on this machine"),
    ],
)
def test_a_place_that_cannot_be_read(store, arguments, code, message):
    result = scalable(*arguments)
    assert (result.exit_code, message in result.stderr) == (code, True), result.stderr


def test_a_storage_that_does_not_answer_is_one_sentence(monkeypatch, tmp_path):
    pytest.importorskip("obstore")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    url = "s3://bucket/runs?endpoint=http://127.0.0.1:9&timeout=0.5"
    for arguments in (["report"], ["runs"], ["report", "run-2026"]):
        result = scalable(*arguments, "--runs-dir", url)
        assert result.exit_code == 1
        assert result.stderr.count("s3://bucket/runs") == 1
        assert "internal error" not in result.stderr
    monkeypatch.setenv("SCALABLE_RUN_STORE", url)
    result = scalable("report")
    assert result.exit_code == 1
    assert f"scalable runs --runs-dir {tmp_path}" in result.stderr


def test_the_configuration_is_listed_with_its_origins(monkeypatch, tmp_path):
    monkeypatch.setenv("SCALABLE_SPAN_BUDGET", "7")
    config = {"bucket_name": "b", "secret_key": "hunter2hunter2", "access_key": "someone-else"}
    section = f"run_store: {json.dumps({'type': 'minio', 'config': config})}\n"
    (tmp_path / "scalable.yaml").write_text(f"{MANIFEST}telemetry: {{scope: cluster}}\n{section}")
    result = scalable("config", "--manifest", "scalable.yaml", "--json")
    listed = {one["option"]: one for one in json.loads(result.output)["options"]}
    assert (listed["span_budget"]["value"], listed["span_budget"]["origin"]) == (
        *(7, "SCALABLE_SPAN_BUDGET"),
    )
    assert (listed["scope"]["value"], listed["scope"]["origin"]) == ("cluster", "telemetry.scope")
    assert (listed["project"]["value"], listed["recorder"]["origin"]) == ("p", "default")
    assert listed["run_store"]["value"] == {
        "type": "object",
        "config": {"bucket_name": "b", "secret_key": "***", "access_key": "***"},
    }
    text = scalable("config", "--manifest", "scalable.yaml").output
    assert "run_store           object (bucket_name=b" in text
    assert "hunter2" not in text + result.output


def test_every_type_says_when_not_to_use_it():
    listed = json.loads(scalable("config", "--stores", "--json").output)
    assert [one["type"] for one in listed][:5] == [
        *("file-system", "buffered", "chunked-fs", "object", "chunked-object"),
    ]
    assert all(one["not_for"].startswith("Not for ") for one in listed[:5])
    assert "minio" in scalable("config", "--stores").output
