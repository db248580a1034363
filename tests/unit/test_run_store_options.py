"""Where a run is kept: one thing, said by argument, variable, manifest or file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from scalable.common.options import OptionError, resolve, resolve_all
from scalable.configured import configured_options, configured_store
from scalable.manifest.errors import ManifestError
from scalable.manifest.load import check_manifest, parse_manifest
from scalable_runs.stores.memory import MemoryRoot
from scalable_runs.stores.memory_objects import MemoryObjects
from scalable_runs.stores.places import PlaceError, StoreSpec, copied_to, open_root, spec_of

SECRET = "hunter2hunter2"
MINIO = {
    "endpoint": "http://127.0.0.1:9000",
    "access_key": "key-id-of-someone",
    "secret_key": SECRET,
    "bucket_name": "bucket",
}
MANIFEST = """\
version: 1
project: {name: p}
targets: {here: {provider: local}}
"""


@pytest.mark.parametrize(
    ("place", "type_", "location"),
    [
        ("s3://bucket/some/prefix", "object", "s3://bucket/some/prefix"),
        ("s3://bucket?endpoint=http://host:9000&region=eu", "object", "s3://bucket at host"),
        ("gs://bucket/p", "object", "gs://bucket/p"),
        ("az://container/p", "object", "az://container/p"),
        ("file:///a%20folder/runs", "file-system", "/a folder/runs"),
        ("memory://", "buffered", "memory"),
        ("buffered", "buffered", "memory"),
        ({"type": "minio", "config": MINIO}, "object", "s3://bucket at 127.0.0.1"),
        ({"type": "chunked-minio", "config": MINIO}, "chunked-object", "s3://bucket at 127.0.0.1"),
        ({"type": "object", "config": {"url": "gs://b/p"}}, "object", "gs://b/p"),
        ({"type": "file-system", "config": {"log_folder": "/runs"}}, "file-system", "/runs"),
        ({"type": "chunked-fs", "config": {"log_folder": "/runs"}}, "chunked-fs", "/runs"),
    ],
)
def test_what_names_a_place(place, type_, location):
    spec = spec_of(place)
    assert (spec.type, spec.location) == (type_, location)
    assert spec_of(spec.plain()) == spec, "it is the same in another process"


def test_other_names_of_settings_mean_the_same():
    others = {
        "endpoint_url": MINIO["endpoint"],
        "aws_access_key_id": MINIO["access_key"],
        "aws_secret_access_key": SECRET,
        "bucket": "bucket",
    }
    given = spec_of({"type": "minio", "config": others})
    assert given == spec_of({"type": "object", "config": MINIO})


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (
            {"type": "minio", "config": {**MINIO, "acces_key": SECRET}},
            "config.acces_key: unknown key; did you mean 'access_key'?",
        ),
        (
            {"type": "minio", "config": {"bucket": "b", "bucket_name": "c"}},
            "config.bucket_name: mean",
        ),
        ({"type": "filesystem"}, "type: there is no run store 'filesystem'; did you mean 'file-s"),
        (
            {"type": "file-system", "config": {"log_fodler": "/"}},
            "config.log_fodler: unknown key; did",
        ),
        ({"tpye": "object"}, "tpye: unknown key; did you mean 'type'?"),
        ({"config": {}}, "type: is missing; run stores: file-system, buffered, chunked-fs"),
        ({"type": "object"}, "config.bucket_name: is missing"),
        (
            {"type": "object", "config": {"bucket": "b", "timeout": "soon"}},
            "config.timeout: must be",
        ),
        (
            {"type": "object", "config": {"bucket": "b", "provider": "s4"}},
            "config.provider: there is",
        ),
        ({"type": "object", "config": ["b"]}, "config: must be a mapping"),
        (f"s3://{SECRET}:{SECRET}@bucket", "s3:// with a password or key: give secrets by their"),
        (f"s3://bucket?secret_key={SECRET}", "s3:// with secret_key: give secrets by their"),
        ("file://host/runs", "file:// with a host"),
        (3, "an object of type int is not a place of runs"),
    ],
)
def test_a_wrong_place_says_what_is_right_and_no_secret(place, message):
    with pytest.raises(PlaceError) as caught:
        spec_of(place)
    assert str(caught.value).startswith(message)
    assert SECRET not in str(caught.value)


def test_no_text_of_a_place_has_its_secrets():
    settings = resolve({"run_store": {"type": "minio", "config": MINIO}}, {})
    assert settings.run_store is not None
    shown = settings.run_store.shown()
    assert shown["config"]["secret_key"] == shown["config"]["access_key"] == "***"
    texts = [repr(settings), repr(settings.place), str(settings.run_store), repr(shown)]
    assert not any(SECRET in text or MINIO["access_key"] in text for text in texts)
    assert SECRET in str(settings.place.plain()), "the recorder's process needs it"


def test_an_object_of_the_program_stays_there(tmp_path):
    root, objects = MemoryRoot(), MemoryObjects()
    assert not spec_of(root).portable
    assert not spec_of(objects).portable
    assert spec_of(root).open() is root
    assert spec_of(open_root(tmp_path)).portable, "a directory is the same elsewhere"


def test_a_store_of_objects_is_written_on_this_machine(tmp_path):
    spec = spec_of("s3://bucket/runs").beside(tmp_path)
    store = spec.writing().new("run-1")
    assert store.directory == tmp_path / "run-1"


def test_where_copies_can_be(tmp_path):
    there = copied_to(f"file://{tmp_path}?compress=true")
    assert (there.type, there.config["path"], there.config["compress"]) == (
        *("object", str(tmp_path)),
        True,
    )
    assert copied_to(str(tmp_path)).location == str(tmp_path)
    with pytest.raises(PlaceError, match="memory keeps no copies"):
        copied_to("memory://")


# --- options ----------------------------------------------------------------------------------


def configured(tmp_path: Path, text: str, variable: str = "SCALABLE_CONFIGURATION_FILE"):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return configured_store({**os.environ, variable: str(path), "TOKEN": SECRET})


@pytest.mark.parametrize("key", ["run_store", "run-store", "run_log_store", "run-log-store"])
@pytest.mark.parametrize("variable", ["SCALABLE_CONFIGURATION_FILE", "RUNNABLE_CONFIGURATION_FILE"])
def test_a_file_names_the_store(tmp_path, key, variable):
    text = (
        f"{key}:\n  type: minio\n  config: {{bucket: b, access_key: a, secret_key: '${{TOKEN}}'}}\n"
    )
    found = configured(tmp_path, text, variable)
    assert found is not None
    settings = resolve({}, {}, configured={"run_store": found})
    assert settings.run_store is not None
    assert settings.run_store.config["secret_key"] == SECRET
    assert found.name.endswith(f"config.yaml: {key}")


def test_what_another_tool_has_in_its_file_is_no_error(tmp_path):
    text = """\
catalog: {type: file-system, config: {catalog_location: "${NOT_SET}"}}
secrets: {type: dotenv}
pipeline-executor: {type: local}
run-log-store: {type: buffered}
something-of-theirs: !!python/object:os.system {}
"""
    found = configured(tmp_path, text, "RUNNABLE_CONFIGURATION_FILE")
    assert found is not None
    assert found.value == {"type": "buffered"}


@pytest.mark.parametrize(
    ("text", "variable", "message"),
    [
        (
            "run-log-sotre: {type: buffered}\n",
            "RUNNABLE",
            ":1:1: run-log-sotre: unknown key; did you",
        ),
        (
            "runstore: buffered\n",
            "SCALABLE",
            ":1:1: runstore: unknown key; did you mean 'run_store'?",
        ),
        ("stores: buffered\n", "SCALABLE", ":1:1: stores: unknown key; allowed: run_store"),
        (
            "run_store:\n  type: bufered\n",
            "SCALABLE",
            ":2:9: run_store.type: there is no run store",
        ),
        (
            "run_store:\n  type: minio\n  config:\n    bukket_name: x\n",
            *(
                "SCALABLE",
                ":4:5: run_store.config.bukket_name: unknown key; did you mean 'bucket_n",
            ),
        ),
        (
            "run_store: ${NOT_SET_AT_ALL}\n",
            "SCALABLE",
            "run_store: the environment has no NOT_SET_",
        ),
        ("run_store: [\n", "SCALABLE", "not valid YAML"),
        (
            "run_store: buffered\nrun-log-store: buffered\n",
            "SCALABLE",
            ":2:1: run-log-store: means",
        ),
    ],
)
def test_a_wrong_file_says_where(tmp_path, text, variable, message):
    with pytest.raises(OptionError) as caught:
        configured(tmp_path, text, f"{variable}_CONFIGURATION_FILE")
    assert message in str(caught.value)


def test_a_file_that_is_not_there(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("RUNNABLE_CONFIGURATION_FILE", str(tmp_path / "none.yaml"))
    assert configured_options() == {}
    assert "RUNNABLE_CONFIGURATION_FILE" in caplog.text
    monkeypatch.setenv("SCALABLE_CONFIGURATION_FILE", str(tmp_path / "none.yaml"))
    with pytest.raises(
        OptionError, match=r"SCALABLE_CONFIGURATION_FILE=.* cannot be read: No such"
    ):
        configured_options()


def test_precedence(tmp_path):
    def resolved(given=None, environ=None, manifest=None, file=None):
        found = resolve_all(given or {}, environ or {}, manifest, file)
        return found.settings.place.location, found.origins["run_store"].name

    file = {"run_store": configured(tmp_path, "run_store: s3://file\n")}
    manifest = {"run_store": "s3://manifest"}
    environ = {"SCALABLE_RUN_STORE": "s3://variable"}
    given = {"run_store": "s3://argument"}
    assert resolved(given, environ, manifest, file) == ("s3://argument", "run_store=")
    assert resolved({}, environ, manifest, file) == ("s3://variable", "SCALABLE_RUN_STORE")
    assert resolved({}, {}, manifest, file) == ("s3://manifest", "run_store")
    assert resolved({}, {}, {}, file)[0] == "s3://file"
    assert resolved()[1] == "default"


def test_the_better_origin_of_a_directory_counts(tmp_path):
    folder = {"type": "file-system", "config": {"log_folder": "/of/the/store"}}
    one = resolve({"runs_dir": tmp_path}, {}, {"run_store": folder})
    assert one.runs_dir == tmp_path
    assert one.place.location == str(tmp_path)
    other = resolve({"run_store": folder}, {"SCALABLE_RUNS_DIR": str(tmp_path)})
    assert str(other.runs_dir) == other.place.location == "/of/the/store"
    with pytest.raises(OptionError, match="runs_dir= and the log_folder of run_store= name two"):
        resolve({"run_store": folder, "runs_dir": tmp_path}, {})


def test_a_copy_of_what_has_no_directory():
    environ = {"SCALABLE_RUNS_DIR_REMOTE": "/mnt/runs"}
    assert resolve({}, environ).copy is not None
    assert resolve({"run_store": "buffered"}, environ).copy is None
    with pytest.raises(OptionError, match="SCALABLE_RUNS_DIR_REMOTE copies directories of runs"):
        resolve({}, {**environ, "SCALABLE_RUN_STORE": "buffered"})


@pytest.mark.parametrize(
    ("given", "environ", "message"),
    [
        ({"run_store": "s4://b"}, {}, "run_store: s4:// is not the place of a run store"),
        ({"run_store": "some/path"}, {}, "run_store: there is no run store 'some/path'"),
        ({}, {"SCALABLE_RUN_STORE": "minoi"}, "SCALABLE_RUN_STORE: there is no run store"),
        (
            {"run_store": {"type": "minio", "config": {"x": SECRET}}},
            {},
            "run_store: config.x: unkn",
        ),
    ],
)
def test_a_wrong_option(given, environ, message):
    with pytest.raises(OptionError) as caught:
        resolve(given, environ)
    assert str(caught.value).startswith(message)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "library", "message"),
    [
        ({"parquet": True}, "pyarrow", "parquet= needs pyarrow, .*scalable-otel.parquet"),
        (
            {"run_store": "s3://bucket"},
            "obstore",
            "run_store= .object. needs obstore, .*otel.store",
        ),
        ({"runs_dir_remote": "/mnt"}, "zstandard", "runs_dir_remote= .* needs zstandard"),
    ],
)
def test_a_missing_extra_is_an_error_before_the_run(monkeypatch, given, library, message):
    from scalable.common import run_stores

    find = run_stores.find_spec
    monkeypatch.setattr(
        run_stores, "find_spec", lambda name: None if name == library else find(name)
    )
    with pytest.raises(OptionError, match=message):
        resolve(given, {})
    assert resolve({**given, "enabled": False}, {}).enabled is False


# --- manifest ---------------------------------------------------------------------------------


def test_a_manifest_names_the_store_and_keeps_no_secret():
    text = f"""{MANIFEST}run_store:
  type: minio
  config:
    bucket_name: bucket
    aws_access_key_id: {MINIO["access_key"]}
    secret_key: {SECRET}
    endpoint: ${{ENDPOINT}}
"""
    manifest = parse_manifest(text, environ={"ENDPOINT": "http://one:9000"})
    settings = resolve({}, {}, manifest.options)
    assert settings.run_store == spec_of(
        {"type": "object", "config": {**MINIO, "endpoint": "http://one:9000"}}
    )
    for kept in (manifest.copy, repr(manifest)):
        assert SECRET not in kept
        assert MINIO["access_key"] not in kept
    assert "${ENDPOINT}" in manifest.copy
    other = parse_manifest(text, environ={"ENDPOINT": "http://two:9000"})
    assert other.lock == manifest.lock, "variables are locked by name"


def test_an_overlay_changes_the_store():
    text = f"""{MANIFEST.replace("local}", "local, overlay: big}")}run_store: buffered
overlays:
  big: {{run_store: {{type: chunked-fs}}}}
"""
    manifest = parse_manifest(text, environ={})
    assert manifest.run_store == {"type": "chunked-fs"}


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ("run_store: bufferd\n", "4:12: run_store: there is no run store 'bufferd'; did you mean"),
        ("run_store: [a]\n", "4:12: run_store: must be a mapping of keys, not a list"),
        ("run_store:\n  tpye: x\n", "5:3: run_store.tpye: unknown key; did you mean 'type'?"),
        (
            "run_store:\n  type: minio\n  config:\n    bucket: b\n    endpint: x\n",
            "8:5: run_store.config.endpint: unknown key; did you mean 'endpoint'?",
        ),
        (
            "run_store:\n  type: minio\n  config:\n    bucket: b\n    timeout: x\n",
            "8:14: run_store.config.timeout: must be a number, not 'x'",
        ),
        (
            "telemetry: {run_store: buffered}\n",
            "4:13: telemetry.run_store: unknown key; it is a se",
        ),
        ("run_stor: buffered\n", "4:1: run_stor: unknown key; did you mean 'run_store'?"),
    ],
)
def test_a_manifest_says_where_the_store_is_wrong(section, problem):
    found = [str(one) for one in check_manifest(MANIFEST + section, "scalable.yaml", {})]
    assert any(one.startswith(f"scalable.yaml:{problem}") for one in found), found
    assert len(found) <= 2
    with pytest.raises(ManifestError):
        parse_manifest(MANIFEST + section, environ={})


def test_specifications_do_not_compare_by_their_text():
    assert StoreSpec("object", {"bucket_name": "a"}) != StoreSpec("object", {"bucket_name": "b"})


# --- third parties ----------------------------------------------------------------------------

THEIRS = '''
from dataclasses import dataclass, field
from scalable_runs.stores.memory_objects import MemoryObjects

class Tape(MemoryObjects):
    """Reels of tape."""

    shared = False
    not_for = "Not for people in a hurry."

    @dataclass(frozen=True)
    class Config:
        path: str
        pin: str = field(default="", repr=False)

    def __init__(self, config):
        super().__init__(MemoryObjects.Config())
        self.location = f"tape:{config.path}"

class Other:
    pass
'''


@pytest.fixture
def tape(tmp_path, monkeypatch):
    """A package that brings a type of run stores, and one that does not."""
    from scalable_runs.stores import types

    (tmp_path / "their_tape.py").write_text(THEIRS)
    about = tmp_path / "their_tape-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: their-tape\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        "[scalable.run_stores]\ntape = their_tape:Tape\nother = their_tape:Other\n"
        "object = their_tape:Tape\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for cached in (types._registered, types._third_party):
        cached.cache_clear()
    yield
    for cached in (types._registered, types._third_party):
        cached.cache_clear()


@pytest.mark.usefixtures("tape")
def test_a_package_brings_a_type_of_its_own(tmp_path):
    by_url = spec_of("tape:///reels/7")
    assert by_url == spec_of({"type": "tape", "config": {"path": "/reels/7"}})
    assert by_url.is_elsewhere
    assert by_url.portable
    objects = by_url.objects()
    assert objects is not None
    assert objects.location == "tape:/reels/7"
    with_secret = spec_of({"type": "tape", "config": {"path": "/7", "pin": SECRET}})
    assert SECRET not in repr(with_secret) + with_secret.location + str(with_secret.shown())
    assert with_secret.beside(tmp_path).writing().new("run-1").directory == tmp_path / "run-1"
    text = f"{MANIFEST}run_store:\n  type: tape\n  config: {{path: /7, pin: '{SECRET}'}}\n"
    assert SECRET not in parse_manifest(text, environ={}).copy, "declared as a secret"
    (problem,) = check_manifest(text.replace("pin:", "pim:"), "m.yaml", {})
    assert str(problem).startswith(
        "m.yaml:6:22: run_store.config.pim: unknown key; did you mean 'p"
    )


@pytest.mark.usefixtures("tape")
def test_what_a_package_cannot_bring():
    assert spec_of({"type": "object", "config": {"bucket": "b"}}).config == {"bucket_name": "b"}
    with pytest.raises(PlaceError, match="'other' cannot be used: their_tape:Other is not a Run"):
        spec_of({"type": "other"})
    with pytest.raises(PlaceError, match="did you mean 'tape'"):
        spec_of({"type": "tapes"})
