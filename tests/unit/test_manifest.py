"""Manifests: found, read, merged, locked, one target chosen."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from scalable.common.units import memory_bytes
from scalable.manifest.errors import ManifestError, SessionError
from scalable.manifest.load import (
    check_manifest,
    choose_target,
    find_manifest,
    load_manifest,
    parse_manifest,
)
from scalable.manifest.lock import canonical, digest
from scalable.manifest.model import clock
from scalable.manifest.overlays import merge
from scalable.manifest.providers import BUILT_IN, GROUP, find_provider, provider_names
from scalable.manifest.scaffold import PROVIDERS, manifest_text
from scalable.manifest.schema import manifest_schema

MINIMAL = """\
version: 1
project: {name: minimal-demo}
targets:
  local: {provider: local, max_workers: 2, threads_per_worker: 1, processes: false,
    containers: none}
  hpc:   {provider: slurm, queue: short, account: GCIMS, walltime: 02:00:00, interface: ib0}
components:
  worker: {cpus: 1, memory: 1G}
tasks:
  run_worker: {component: worker}
"""

OVERLAID = """\
version: 1
project: {name: demo}
targets:
  local: {provider: local}
  big: {provider: local, overlay: [wide, deep]}
components:
  worker: {cpus: 1, memory: 1G, tags: [a], env: {LEVEL: low, GONE: x}}
overlays:
  wide: {components: {worker: {cpus: 4, tags+: [b, a], env: {GONE: null}}}}
  deep: {components: {worker: {env: {LEVEL: high}}}, targets: {big: {max_workers: 7}}}
  unused: {components: {worker: {cpus: 64}}}
"""


# -- reading --------------------------------------------------------------------------------------


def test_a_manifest_of_the_known_shape_loads_unchanged():
    manifest = parse_manifest(MINIMAL, environ={})
    assert (manifest.target_name, manifest.provider.name) == ("local", "local")
    assert manifest.target.model_dump(include={"max_workers", "processes", "containers"}) == {
        "max_workers": 2,
        "processes": False,
        "containers": "none",
    }
    assert manifest.root.components["worker"].cpus == 1
    assert manifest.root.tasks["run_worker"].component == "worker"
    assert manifest.copy == MINIMAL
    hpc: Any = parse_manifest(MINIMAL, target="hpc", environ={}).target
    assert (hpc.account, hpc.walltime, hpc.interface) == ("GCIMS", 7200, "ib0")


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("02:00:00", 7200),
        ("12:00:00", 43200),  # a number to the base of 60 in YAML 1.1
        ("'12:00:00'", 43200),
        ("1-00:30:00", 88200),
        ("7200", 7200),
        ("90m", 5400),
        ("'${LIMIT:-02:00:00}'", 7200),
    ],
)
def test_a_walltime_is_read_as_it_was_written(written: str, seconds: int):
    text = MINIMAL.replace("02:00:00", written)
    target: Any = parse_manifest(text, target="hpc", environ={}).target
    assert target.walltime == seconds


def test_a_number_is_accepted_as_text():
    target: Any = parse_manifest(MINIMAL.replace("GCIMS", "0123"), target="hpc", environ={}).target
    assert target.account == "0123"


def test_a_size_is_read_with_its_unit():
    assert (memory_bytes("1G"), memory_bytes("1.5GiB"), memory_bytes("512 MB")) == (
        10**9,
        3 * 2**29,
        512 * 10**6,
    )
    assert clock(7265) == "02:01:05"


def test_variables_come_from_the_environment_and_have_defaults():
    text = MINIMAL.replace("max_workers: 2", 'max_workers: "${N:-3}"').replace(
        "minimal-demo", '"${NAME}-$${x}"'
    )
    manifest = parse_manifest(text, environ={"NAME": "floods"})
    assert manifest.root.project.name == "floods-${x}"
    assert manifest.target.max_workers == 3
    assert parse_manifest(text, environ={"NAME": "f", "N": "5"}).target.max_workers == 5


def test_merge_keys_and_aliases_are_read():
    text = MINIMAL.replace(
        "  worker: {cpus: 1, memory: 1G}",
        "  worker: &w {cpus: 1, memory: 1G}\n  big: {<<: *w, cpus: 8}",
    )
    components = parse_manifest(text, environ={}).root.components
    assert (components["big"].cpus, components["big"].memory) == (8, "1G")


def test_aliases_that_multiply_are_stopped():
    levels = "\n".join(f"  l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 9))
    text = f"version: 1\ntasks:\n  l0: &l0 [x]\n{levels}\n"
    assert any("too many values" in problem.message for problem in check_manifest(text, "m", {}))


def test_deep_nesting_is_a_problem_and_not_a_crash():
    found = check_manifest("a: " + "[" * 5000 + "]" * 5000, "m", {})
    assert any("nests" in problem.message for problem in found)


@given(st.text(max_size=200))
def test_no_text_breaks_the_check(text: str):
    assert check_manifest(text, "m", {})


@given(st.text(alphabet="version: 1\nprojectam{}[],$\"'&*!|>-?#0:", max_size=120))
def test_no_damage_of_the_text_breaks_the_check(noise: str):
    cut = len(noise) * 7 % len(OVERLAID)
    check_manifest(OVERLAID[:cut] + noise + OVERLAID[cut:], "m", {})


# -- finding --------------------------------------------------------------------------------------


def test_the_nearest_manifest_above_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "scalable.yaml").write_text(MINIMAL)
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert find_manifest(environ={}) == tmp_path / "scalable.yaml"
    (tmp_path / "a" / "scalable.yaml").write_text(MINIMAL)
    assert find_manifest(environ={}) == tmp_path / "a" / "scalable.yaml"
    other = tmp_path / "other.yaml"
    other.write_text(MINIMAL)
    assert find_manifest(environ={"SCALABLE_MANIFEST": str(other)}) == other
    assert find_manifest(tmp_path, {"SCALABLE_MANIFEST": str(other)}) == tmp_path / "scalable.yaml"


def test_without_a_manifest_the_error_shows_how_to_get_one(tmp_path: Path):
    with pytest.raises(SessionError, match=r"no scalable.yaml in .* or above it; `scalable init`"):
        find_manifest(environ={})
    with pytest.raises(SessionError, match=r"no manifest at nowhere.yaml \(SCALABLE_MANIFEST\)"):
        find_manifest(environ={"SCALABLE_MANIFEST": "nowhere.yaml"})
    (tmp_path / "scalable.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(SessionError, match="it is not UTF-8"):
        load_manifest(environ={})


# -- targets --------------------------------------------------------------------------------------


def test_auto_is_slurm_inside_a_slurm_job_and_local_elsewhere():
    targets = {"laptop": "local", "hpc": "slurm"}
    assert choose_target(targets, "auto", {}) == "laptop"
    assert choose_target(targets, None, {"SLURM_JOB_ID": "7"}) == "hpc"
    assert choose_target({"hpc": "slurm"}, None, {}) == "hpc"
    assert choose_target(targets, "hpc", {}) == "hpc"
    with pytest.raises(SessionError, match=r"`provider: local`, and there is none.*: hpc, far"):
        choose_target({"hpc": "slurm", "far": "existing"}, None, {})


def test_the_variable_chooses_the_target_and_an_argument_wins():
    assert parse_manifest(MINIMAL, environ={"SCALABLE_TARGET": "hpc"}).target_name == "hpc"
    chosen = parse_manifest(MINIMAL, target="local", environ={"SCALABLE_TARGET": "hpc"})
    assert chosen.target_name == "local"
    with pytest.raises(SessionError, match=r"SCALABLE_TARGET 'hcp'.*did you mean 'hpc'"):
        parse_manifest(MINIMAL, environ={"SCALABLE_TARGET": "hcp"})


def test_a_provider_that_is_missing_here_matters_only_where_it_is_chosen():
    text = MINIMAL.replace("provider: slurm, queue: short", "provider: elsewhere, odd: option")
    assert parse_manifest(text, target="local", environ={}).target_name == "local"
    with pytest.raises(ManifestError, match="there is no provider 'elsewhere'"):
        parse_manifest(text, target="hpc", environ={})
    assert len(check_manifest(text, "m", {})) == 1


THIRD_PARTY = """\
from pydantic import Field
from scalable.manifest.providers import Provider
from scalable.manifest.model import Target

class MoonTarget(Target):
    crater: str = Field(description="Where.")

class MoonProvider(Provider):
    name = "moon"
    options_type = MoonTarget
    def start(self, groups, *, asynchronous):
        raise NotImplementedError
"""


def test_a_third_party_provider_is_found_by_its_entry_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "moonshot.py").write_text(THIRD_PARTY)
    info = tmp_path / "moonshot-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: moonshot\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[scalable.providers]\nmoon = moonshot:MoonProvider\nbroken = moonshot:Nothing\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert provider_names() == [*BUILT_IN, "broken", "moon"]
    text = MINIMAL.replace("provider: slurm", "provider: moon").replace(
        "queue: short, account: GCIMS, walltime: 02:00:00, interface: ib0", "crater: tycho"
    )
    manifest = parse_manifest(text, target="hpc", environ={})
    assert manifest.provider.name == "moon"
    assert manifest.target.model_dump()["crater"] == "tycho"
    found = check_manifest(text.replace("crater:", "carter:"), "m", {})
    assert [problem.message for problem in found] == [
        "is missing",
        "unknown key; did you mean 'crater'?",
    ]
    (broken,) = check_manifest(text.replace("moon", "broken"), "m", {})
    assert "cannot be loaded" in broken.message
    assert "target-moon" in manifest_schema()["$defs"]
    monkeypatch.delitem(sys.modules, "moonshot")


def test_the_providers_of_this_package_are_its_entry_points():
    import tomllib

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["entry-points"][GROUP] == BUILT_IN
    for name in BUILT_IN:
        provider = find_provider(name)
        assert provider is not None
        assert provider.name == name
        assert provider.extra in project["optional-dependencies"]


# -- overlays -------------------------------------------------------------------------------------


def test_the_overlays_of_the_chosen_target_are_applied_in_order():
    worker = parse_manifest(OVERLAID, target="big", environ={}).root.components["worker"]
    assert (worker.cpus, worker.tags, worker.env) == (4, ["a", "b"], {"LEVEL": "high"})
    assert parse_manifest(OVERLAID, target="big", environ={}).target.max_workers == 7
    plain = parse_manifest(OVERLAID, target="local", environ={}).root.components["worker"]
    assert (plain.cpus, plain.tags, plain.env) == (1, ["a"], {"LEVEL": "low", "GONE": "x"})


def test_merging_replaces_adds_and_removes():
    base = {"a": 1, "b": {"c": [1], "d": 2}, "l": [1]}
    assert merge(base, {"a": 2, "b": {"d": None, "e": 3}, "l": [2]}) == {
        "a": 2,
        "b": {"c": [1], "e": 3},
        "l": [2],
    }
    assert merge(base, {"b": {"c+": [2, 1, 2]}, "new+": [5]})["b"] == {"c": [1, 2], "d": 2}
    assert merge({}, {"x": {"y": None}}) == {"x": {}}


_leaves = st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["x", "y"])
_keys = st.sampled_from(["a", "b", "c", "d"])
_lists = st.lists(st.integers(0, 3), max_size=4)
_bases = st.recursive(
    st.dictionaries(_keys, _leaves.filter(lambda value: value is not None) | _lists),
    lambda below: st.dictionaries(_keys, below | _lists),
    max_leaves=8,
)
_deltas = st.recursive(
    st.dictionaries(_keys, _leaves | _lists)
    | st.dictionaries(_keys.map(lambda key: f"{key}+"), _lists),
    lambda below: st.dictionaries(_keys, below | _leaves | _lists),
    max_leaves=8,
)


@given(_bases, _deltas)
def test_merging_is_idempotent_and_changes_neither_argument(
    base: dict[str, Any], delta: dict[str, Any]
):
    before = copy.deepcopy((base, delta))
    once = merge(base, delta)
    assert (base, delta) == before
    assert merge(once, delta) == once
    assert merge(base, {}) == base


@given(_bases, _deltas)
def test_what_is_merged_shares_nothing_with_what_it_was_made_of(
    base: dict[str, Any], delta: dict[str, Any]
):
    before = copy.deepcopy((base, delta))
    _spoil(merge(base, delta))
    assert (base, delta) == before


def _spoil(value: Any) -> None:
    if isinstance(value, dict):
        for below in list(value.values()):
            _spoil(below)
        value["spoiled"] = True
    elif isinstance(value, list):
        value.append("spoiled")


# -- lock -----------------------------------------------------------------------------------------


def test_the_lock_is_not_changed_by_comments_order_or_overlays_not_used():
    lock = parse_manifest(OVERLAID, target="local", environ={}).lock
    shuffled = yaml.safe_dump(yaml.safe_load(OVERLAID), sort_keys=True)
    assert shuffled.index("components") < shuffled.index("version")
    assert parse_manifest(shuffled, target="local", environ={}).lock == lock
    commented = "# a comment\n" + OVERLAID.replace("cpus: 1,", "cpus:   1.0,")
    assert parse_manifest(commented, target="local", environ={}).lock == lock
    without = OVERLAID.replace("cpus: 64", "cpus: 65")
    assert parse_manifest(without, target="local", environ={}).lock == lock
    assert parse_manifest(without, target="big", environ={}).lock != lock
    changed = OVERLAID.replace("memory: 1G", "memory: 2G")
    assert parse_manifest(changed, target="local", environ={}).lock != lock


def test_the_lock_names_variables_and_not_their_values():
    text = MINIMAL.replace("max_workers: 2", 'max_workers: "${N:-3}"').replace(
        "minimal-demo", '"${USER}"'
    )
    here = parse_manifest(text, environ={"USER": "ada"})
    there = parse_manifest(text, environ={"USER": "grace", "N": "9"})
    assert here.lock == there.lock
    assert parse_manifest(text.replace(":-3", ":-4"), environ={"USER": "ada"}).lock != here.lock


def test_the_lock_of_a_known_manifest_is_the_same_everywhere():
    assert parse_manifest(MINIMAL, environ={}).lock == (
        "sha256:331a56d8c32328398d52cf5c82523501df770bdc90615b42e08c403b3404d071"
    )


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=3), below),
    max_leaves=10,
)
_documents = st.dictionaries(st.text(max_size=3), _json)


@given(_documents, st.randoms())
def test_the_digest_knows_content_and_not_order(document: dict[str, Any], random: Any):
    assert digest(_shuffled(document, random)) == digest(document)
    assert json.loads(canonical(document)) == document


@given(_documents, _documents)
def test_different_content_has_another_digest(one: dict[str, Any], other: dict[str, Any]):
    assert (digest(one) == digest(other)) == (
        json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    )


def _shuffled(value: Any, random: Any) -> Any:
    if isinstance(value, dict):
        items = [(key, _shuffled(below, random)) for key, below in value.items()]
        random.shuffle(items)
        return dict(items)
    return [_shuffled(below, random) for below in value] if isinstance(value, list) else value


# -- secrets --------------------------------------------------------------------------------------


def test_secrets_never_reach_the_copy():
    text = MINIMAL.replace(
        "memory: 1G}",
        'memory: 1G, env: {API_KEY: abc-123, DB_PASSWORD: "${PASSWORD}", '
        'TOKEN: "${TOKEN:-fallback}", LEVEL: high}}',
    )
    manifest = parse_manifest(text, environ={"PASSWORD": "hunter2-from-the-environment"})
    assert "hunter2" not in manifest.copy
    assert "abc-123" not in manifest.copy
    assert "fallback" not in manifest.copy
    read = yaml.safe_load(manifest.copy)["components"]["worker"]["env"]
    assert read == {
        "API_KEY": "[redacted]",
        "DB_PASSWORD": "${PASSWORD}",
        "TOKEN": "[redacted]",
        "LEVEL": "high",
    }
    assert manifest.root.components["worker"].env["DB_PASSWORD"] == "hunter2-from-the-environment"


# -- schema and scaffold --------------------------------------------------------------------------


def test_the_schema_accepts_what_loads_and_refuses_what_does_not():
    schema = manifest_schema()
    validator = jsonschema.Draft202012Validator(schema)
    validator.check_schema(schema)
    for text in (MINIMAL, OVERLAID, manifest_text("p", PROVIDERS)):
        assert [error.message for error in validator.iter_errors(yaml.safe_load(text))] == []
    for old, new in [
        ("max_workers: 2", "max_worker: 2"),
        ("provider: slurm", "provider: slrum"),
        ("cpus: 1", "cpu: 1"),
        ("version: 1", "version: 2"),
        ("processes: false", "processes: perhaps"),
    ]:
        assert not validator.is_valid(yaml.safe_load(MINIMAL.replace(old, new))), new
    variable = MINIMAL.replace("max_workers: 2", 'max_workers: "${N:-3}"')
    assert validator.is_valid(yaml.safe_load(variable))


@pytest.mark.parametrize("name", ["p", "true", "a: b", 'quo"te', "7 hills", "Ünder wäter"])
def test_the_written_manifest_is_valid_whatever_the_name(name: str):
    text = manifest_text(name, PROVIDERS, workers=3, cpus=2.5, memory="4GiB")
    assert check_manifest(text, "scalable.yaml", {}) == ()
    manifest = parse_manifest(text, target="local", environ={})
    assert manifest.root.project.name == name
    assert manifest.target.max_workers == 3
