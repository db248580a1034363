"""Broken manifests, and what is said of each: exactly."""

from __future__ import annotations

import pytest

from scalable.manifest import check as manifests
from scalable.manifest.errors import ManifestError
from scalable.manifest.load import check_manifest, parse_manifest

BASE = """\
version: 1
project: {name: demo}
targets:
  local: {provider: local, max_workers: 2}
components:
  worker: {cpus: 1, memory: 1G}
"""

# fmt: off
#: Name: what of the base is replaced (all of it: None, nothing: ""), by what, and what is said.
CASES: dict[str, tuple[str | None, str, str]] = {
    "empty": (
        None,
        "",
        "1:1: the manifest is empty; `scalable init` writes one",
    ),
    "not-a-mapping": (
        None,
        "- a\n",
        "1:1: a manifest is a mapping of keys, not a list",
    ),
    "scalar": (
        None,
        "hello\n",
        "1:1: a manifest is a mapping of keys, not 'hello'",
    ),
    "broken-yaml": (
        None,
        "version: 1\nproject: [\n",
        (
            "3:1: not valid YAML: while parsing a flow node expected the node content, but"
            " found '<stream end>'"
        ),
    ),
    "tab": (
        None,
        "version: 1\nproject:\n\tname: x\n",
        (
            "3:1: not valid YAML: while scanning for the next token found character '\\t' t"
            "hat cannot start any token"
        ),
    ),
    "two-documents": (
        "",
        (
            "---\nversion: 1\nproject: {name: demo}\ntargets:\n  local: {provider: local, max"
            "_workers: 2}\ncomponents:\n  worker: {cpus: 1, memory: 1G}\n"
        ),
        (
            "7:1: not valid YAML: there is more than one document: a manifest is one, with"
            "out `---` in between"
        ),
    ),
    "key-twice": (
        "",
        "project: {name: other}\n",
        "7:1: project: is given twice; first on line 2",
    ),
    "no-version": (
        "version: 1\n",
        "",
        "1:1: version: is missing",
    ),
    "version-2": (
        "version: 1\n",
        "version: 2\n",
        "1:10: version: must be 1, not 2: no other version is known",
    ),
    "version-text": (
        "version: 1\n",
        "version: one\n",
        "1:10: version: must be 1, not 'one': no other version is known",
    ),
    "no-project": (
        "project: {name: demo}\n",
        "",
        "1:1: project: is missing",
    ),
    "project-no-name": (
        "project: {name: demo}\n",
        "project: {}\n",
        "2:1: project.name: is missing",
    ),
    "project-text": (
        "project: {name: demo}\n",
        "project: demo\n",
        "2:10: project: must be a mapping of keys, not 'demo'",
    ),
    "project-name-empty": (
        "project: {name: demo}\n",
        "project: {name: ''}\n",
        "2:17: project.name: must not be empty",
    ),
    "project-name-true": (
        "project: {name: demo}\n",
        "project: {name: yes}\n",
        "2:17: project.name: must be text, not true: write it in quotes",
    ),
    "project-name-long": (
        "project: {name: demo}\n",
        "project: {name: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx}\n",
        "2:17: project.name: must have at most 60 characters",
    ),
    "unknown-section": (
        "",
        "component: {}\n",
        "7:1: component: unknown key; did you mean 'components'?",
    ),
    "unknown-section-far": (
        "",
        "zebra: {}\n",
        (
            "7:1: zebra: unknown key; allowed: version, project, targets, components, tas"
            "ks, overlays, telemetry, run_store, catalog, keep_results"
        ),
    ),
    "unknown-project-key": (
        "project: {name: demo}\n",
        "project: {name: demo, storage: x}\n",
        "2:23: project.storage: unknown key; did you mean 'default_storage'?",
    ),
    "no-targets": (
        "targets:\n  local: {provider: local, max_workers: 2}\n",
        "",
        "1:1: targets: is missing: a manifest needs at least one target",
    ),
    "targets-empty": (
        "targets:\n  local: {provider: local, max_workers: 2}\n",
        "targets: {}\n",
        "3:1: targets: is empty: a manifest needs at least one target",
    ),
    "targets-list": (
        "  local: {provider: local, max_workers: 2}\n",
        "  - local\n",
        "3:1: targets: must be a mapping of keys, not a list",
    ),
    "target-text": (
        "  local: {provider: local, max_workers: 2}\n",
        "  local: local\n",
        "4:3: targets.local: must be a mapping of keys, not 'local'",
    ),
    "target-auto": (
        "  local: {provider: local, max_workers: 2}\n",
        "  auto: {provider: local}\n",
        "4:3: targets.auto: `auto` chooses among targets and cannot be the name of one",
    ),
    "no-provider": (
        "  local: {provider: local, max_workers: 2}\n",
        "  local: {max_workers: 2}\n",
        (
            "4:3: targets.local.provider: is missing; providers: local, existing, slurm, "
            "kubernetes, aws, gcp"
        ),
    ),
    "provider-typo": (
        "  local: {provider: local, max_workers: 2}\n",
        "  local: {provider: slrum}\n",
        "4:21: targets.local.provider: there is no provider 'slrum'; did you mean 'slurm'?",
    ),
    "provider-unknown": (
        "  local: {provider: local, max_workers: 2}\n",
        "  local: {provider: mainframe}\n",
        (
            "4:21: targets.local.provider: there is no provider 'mainframe'; providers: l"
            "ocal, existing, slurm, kubernetes, aws, gcp"
        ),
    ),
    "provider-number": (
        "  local: {provider: local, max_workers: 2}\n",
        "  local: {provider: 7}\n",
        (
            "4:11: targets.local.provider: must be text, not 7; providers: local, existin"
            "g, slurm, kubernetes, aws, gcp"
        ),
    ),
    "option-typo": (
        "  local: {provider: local, max_workers: 2}\n",
        "  local: {provider: local, max_worker: 2}\n",
        "4:28: targets.local.max_worker: unknown key; did you mean 'max_workers'?",
    ),
    "option-of-another-provider": (
        "  local: {provider: local, max_workers: 2}\n",
        "  local: {provider: local, queue: short}\n",
        (
            "4:28: targets.local.queue: unknown key; allowed: provider, overlay, max_work"
            "ers, adaptive, workers, start_timeout, prices, region, threads_per_worker, p"
            "rocesses, containers, memory_limit, dashboard_address"
        ),
    ),
    "workers-zero": (
        "  local: {provider: local, max_workers: 2}\n",
        "  local: {provider: local, max_workers: 0}\n",
        "4:41: targets.local.max_workers: must be at least 1, not 0",
    ),
    "workers-text": (
        "  local: {provider: local, max_workers: 2}\n",
        "  local: {provider: local, max_workers: many}\n",
        "4:41: targets.local.max_workers: must be a whole number, not 'many'",
    ),
    "workers-float": (
        "  local: {provider: local, max_workers: 2}\n",
        "  local: {provider: local, max_workers: 2.5}\n",
        "4:41: targets.local.max_workers: must be a whole number, not 2.5",
    ),
    "workers-true": (
        "  local: {provider: local, max_workers: 2}\n",
        "  local: {provider: local, max_workers: true}\n",
        "4:41: targets.local.max_workers: must be a number, not true",
    ),
    "processes-text": (
        "  local: {provider: local, max_workers: 2}\n",
        "  local: {provider: local, processes: perhaps}\n",
        "4:39: targets.local.processes: must be true or false, not 'perhaps'",
    ),
    "containers": (
        "  local: {provider: local, max_workers: 2}\n",
        "  local: {provider: local, containers: docker}\n",
        "4:40: targets.local.containers: must be 'none', not 'docker'",
    ),
    "memory-limit": (
        "  local: {provider: local, max_workers: 2}\n",
        "  local: {provider: local, memory_limit: lots}\n",
        (
            "4:42: targets.local.memory_limit: must be a size such as 1G, 512MiB or 4GB, "
            "not 'lots'"
        ),
    ),
    "adaptive-text": (
        "  local: {provider: local, max_workers: 2}\n",
        "  local: {provider: local, adaptive: sometimes}\n",
        (
            "4:38: targets.local.adaptive: must be true, false, or a mapping with minimum"
            " and maximum"
        ),
    ),
    "adaptive-key": (
        "  local: {provider: local, max_workers: 2}\n",
        "  local: {provider: local, adaptive: {min: 1}}\n",
        "4:39: targets.local.adaptive.min: unknown key; did you mean 'minimum'?",
    ),
    "start-timeout": (
        "  local: {provider: local, max_workers: 2}\n",
        "  local: {provider: local, start_timeout: 0}\n",
        "4:43: targets.local.start_timeout: must be more than 0, not 0",
    ),
    "timeout-inf": (
        "  local: {provider: local, max_workers: 2}\n",
        "  local: {provider: local, start_timeout: .inf}\n",
        "4:43: targets.local.start_timeout: must be a finite number, not .inf",
    ),
    "worker-group-unknown": (
        "  local: {provider: local, max_workers: 2}\n",
        "  local: {provider: local, workers: {wroker: 1}}\n",
        (
            "4:38: targets.local.workers.wroker: there is no component 'wroker'; did you "
            "mean 'worker'?"
        ),
    ),
    "overlay-unknown": (
        "  local: {provider: local, max_workers: 2}\n",
        "  local: {provider: local, overlay: big}\n",
        "4:37: targets.local.overlay: there is no overlay 'big'; there are no overlays",
    ),
    "walltime-two-parts": (
        "  local: {provider: local, max_workers: 2}\n",
        "  hpc: {provider: slurm, walltime: 1:30}\n",
        (
            "4:36: targets.hpc.walltime: must be a time such as 02:00:00, 1-12:00:00, 90m"
            " or a number of seconds"
        ),
    ),
    "walltime-word": (
        "  local: {provider: local, max_workers: 2}\n",
        "  hpc: {provider: slurm, walltime: long}\n",
        (
            "4:36: targets.hpc.walltime: must be a time such as 02:00:00, 1-12:00:00, 90m"
            " or a number of seconds"
        ),
    ),
    "walltime-zero": (
        "  local: {provider: local, max_workers: 2}\n",
        "  hpc: {provider: slurm, walltime: 00:00:00}\n",
        "4:36: targets.hpc.walltime: must be longer than 0",
    ),
    "existing-nothing": (
        "  local: {provider: local, max_workers: 2}\n",
        "  far: {provider: existing}\n",
        "4:8: targets.far: needs either `address` or `scheduler_file`",
    ),
    "existing-both": (
        "  local: {provider: local, max_workers: 2}\n",
        "  far: {provider: existing, address: 'tcp://a:1', scheduler_file: s.json}\n",
        "4:8: targets.far: needs either `address` or `scheduler_file`",
    ),
    "existing-tls": (
        "  local: {provider: local, max_workers: 2}\n",
        "  far: {provider: existing, address: 'tls://a:1', tls: {ca_file: ca.pem}}\n",
        "4:51: targets.far.tls.cert: is missing\n4:51: targets.far.tls.key: is missing",
    ),
    "aws-instance-type": (
        "  local: {provider: local, max_workers: 2}\n",
        "  cloud: {provider: aws, instance_type: m5.large}\n",
        "4:10: targets.cloud: `instance_type` needs `service: ec2`",
    ),
    "gcp-no-project": (
        "  local: {provider: local, max_workers: 2}\n",
        "  cloud: {provider: gcp}\n",
        "4:3: targets.cloud.project_id: is missing",
    ),
    "currency": (
        "  local: {provider: local, max_workers: 2}\n",
        "  local: {provider: local, prices: {currency: dollars}}\n",
        (
            "4:47: targets.local.prices.currency: 'dollars' is not allowed: three capital"
            " letters, such as USD"
        ),
    ),
    "price": (
        "  local: {provider: local, max_workers: 2}\n",
        "  local: {provider: local, prices: {core_hour: -1}}\n",
        "4:48: targets.local.prices.core_hour: must be at least 0, not -1",
    ),
    "component-text": (
        "  worker: {cpus: 1, memory: 1G}\n",
        "  worker: big\n",
        "6:11: components.worker: must be a mapping of keys, not 'big'",
    ),
    "component-typo": (
        "  worker: {cpus: 1, memory: 1G}\n",
        "  worker: {cpu: 1}\n",
        "6:12: components.worker.cpu: unknown key; did you mean 'cpus'?",
    ),
    "cpus-zero": (
        "  worker: {cpus: 1, memory: 1G}\n",
        "  worker: {cpus: 0}\n",
        "6:18: components.worker.cpus: must be more than 0, not 0",
    ),
    "memory-unit": (
        "  worker: {cpus: 1, memory: 1G}\n",
        "  worker: {memory: 4Q}\n",
        (
            "6:20: components.worker.memory: must be a size such as 1G, 512MiB or 4GB, no"
            "t '4Q'"
        ),
    ),
    "memory-no-unit": (
        "  worker: {cpus: 1, memory: 1G}\n",
        "  worker: {memory: 4}\n",
        "6:20: components.worker.memory: 4 is less than 1 MiB: a unit such as G is missing",
    ),
    "component-name": (
        "  worker: {cpus: 1, memory: 1G}\n",
        "  'a/b': {cpus: 1}\n",
        (
            "6:3: components.a/b: 'a/b' is not allowed: letters, digits, `_`, `.`, `-` an"
            "d spaces"
        ),
    ),
    "mount": (
        "  worker: {cpus: 1, memory: 1G}\n",
        "  worker: {mounts: ['a:b:ro:x']}\n",
        "6:21: components.worker.mounts[0]: must be SOURCE:TARGET, or SOURCE:TARGET:ro",
    ),
    "mount-list": (
        "  worker: {cpus: 1, memory: 1G}\n",
        "  worker: {mounts: data}\n",
        "6:20: components.worker.mounts: must be a list, not 'data'",
    ),
    "env-true": (
        "  worker: {cpus: 1, memory: 1G}\n",
        "  worker: {env: {DEBUG: on}}\n",
        "6:25: components.worker.env.DEBUG: must be text, not true: write it in quotes",
    ),
    "tag-taken": (
        "  worker: {cpus: 1, memory: 1G}\n",
        "  worker: {tags: [fast]}\n  other: {tags: [fast]}\n",
        (
            "7:18: components.other.tags[0]: the tag 'fast' belongs to component 'worker'"
            " already"
        ),
    ),
    "tag-is-a-component": (
        "  worker: {cpus: 1, memory: 1G}\n",
        "  worker: {}\n  other: {tags: [worker]}\n",
        (
            "7:18: components.other.tags[0]: the tag 'worker' belongs to component 'worke"
            "r' already"
        ),
    ),
    "task-component": (
        "",
        "tasks:\n  run: {component: wroker}\n",
        "8:20: tasks.run.component: there is no component 'wroker'; did you mean 'worker'?",
    ),
    "task-cache": (
        "",
        "tasks:\n  run: {cache: never}\n",
        "8:16: tasks.run.cache: must be true or false, not 'never'",
    ),
    "task-typo": (
        "",
        "tasks:\n  run: {output: x}\n",
        "8:9: tasks.run.output: unknown key; did you mean 'outputs'?",
    ),
    "overlay-text": (
        "",
        "overlays: {big: 2}\n",
        "7:12: overlays.big: must be a mapping of keys, not 2",
    ),
    "overlay-list": (
        "",
        "overlays: [big]\n",
        "7:1: overlays: must be a mapping of keys, not a list",
    ),
    "overlay-version": (
        "",
        "overlays: {big: {version: 2}}\n",
        "7:18: overlays.big.version: an overlay cannot change this",
    ),
    "overlay-addition": (
        "",
        "overlays: {big: {components: {worker: {tags+: fast}}}}\n",
        (
            "7:40: overlays.big.components.worker.tags+: `tags+` adds to a list: must be "
            "a list, not 'fast'"
        ),
    ),
    "overlay-value": (
        "",
        "overlays:\n  big:\n    components:\n      worker: {cpus: none}\n",
        "10:22: overlays.big.components.worker.cpus: must be a number, not 'none'",
    ),
    "overlay-takes-away": (
        "",
        "overlays: {big: {project: null}}\n",
        "7:18: overlays.big.project: is missing",
    ),
    "telemetry-typo": (
        "",
        "telemetry: {scop: client}\n",
        "7:13: telemetry.scop: unknown key; did you mean 'scope'?",
    ),
    "telemetry-value": (
        "",
        "telemetry: {scope: everyone}\n",
        "7:20: telemetry.scope: cannot be 'everyone'; allowed: client, cluster",
    ),
    "telemetry-list": (
        "",
        "telemetry: [scope]\n",
        "7:1: telemetry: must be a mapping of keys, not a list",
    ),
    "variable-missing": (
        "project: {name: demo}\n",
        'project: {name: "${NOWHERE}"}\n',
        (
            "2:17: project.name: the environment has no NOWHERE; set it, or write ${NOWHE"
            "RE:-default}"
        ),
    ),
    "variable-broken": (
        "project: {name: demo}\n",
        'project: {name: "${1X}"}\n',
        (
            "2:17: project.name: ${1X} is not a variable; write ${NAME}, ${NAME:-default}, o"
            "r $$ for a dollar sign"
        ),
    ),
    "variable-value": (
        "  local: {provider: local, max_workers: 2}\n",
        '  local: {provider: local, max_workers: "${NOWHERE:-few}"}\n',
        "4:41: targets.local.max_workers: must be a whole number, not 'few'",
    ),
    "variable-in-flow": (
        "project: {name: demo}\n",
        "project: {name: ${NOWHERE}}\n",
        (
            "2:18: not valid YAML: while parsing a flow mapping expected ',' or '}', but g"
            "ot '{'; inside { } and [ ] a ${NAME} must be in quotes"
        ),
    ),
    "tag": (
        "project: {name: demo}\n",
        "project: {name: !!python/name:os.system x}\n",
        (
            "2:17: project.name: the tag !!python/name:os.system is not allowed: manifest"
            "s hold plain values"
        ),
    ),
    "alias-of-itself": (
        "",
        "tasks: &a\n  run: *a\n",
        "8:3: tasks.run: an alias (*) is inside the value it refers to",
    ),
    "several": (
        None,
        (
            "version: 3\nproject: {name: demo}\ntargets:\n  local: {provider: locl, max_work"
            "ers: 2}\ncomponents:\n  worker: {cpus: x, memory: 1G}\n"
        ),
        (
            "1:10: version: must be 1, not 3: no other version is known\n4:21: targets.loc"
            "al.provider: there is no provider 'locl'; did you mean 'local'?\n6:18: compon"
            "ents.worker.cpus: must be a number, not 'x'"
        ),
    ),
}
# fmt: on


def manifest(old: str | None, new: str) -> str:
    if old is None:
        return new
    return BASE.replace(old, new) if old else BASE + new


@pytest.mark.parametrize(("old", "new", "said"), CASES.values(), ids=CASES)
def test_errors_of_a_broken_manifest_show_what_and_where(old: str | None, new: str, said: str):
    found = check_manifest(manifest(old, new), "scalable.yaml", {})
    assert [str(problem).removeprefix("scalable.yaml:") for problem in found] == said.split("\n")


def test_the_manifest_that_the_cases_break_is_valid():
    assert check_manifest(BASE, "scalable.yaml", {}) == ()


def test_loading_raises_every_problem_at_once():
    with pytest.raises(ManifestError) as raised:
        parse_manifest(BASE.replace("demo", "''").replace("1G", "lots"), environ={})
    assert [(problem.line, problem.key) for problem in raised.value.problems] == [
        (2, "project.name"),
        (6, "components.worker.memory"),
    ]


# More than anybody reads

MANY = 5_000
HEAD = "version: 1\nproject: {name: x}\n"
TARGET = "targets:\n  local: {provider: local}\n"


@pytest.mark.parametrize(
    "text",
    [
        HEAD + TARGET + "".join(f"key{n}: 1\n" for n in range(MANY)),
        HEAD + TARGET + "".join(f"    key{n}: 1\n" for n in range(MANY)),
        HEAD + TARGET + "telemetry:\n" + "".join(f"  key{n}: 1\n" for n in range(MANY)),
        HEAD + TARGET + "overlays:\n" + "".join(f"  o{n}: {{projekt: 1}}\n" for n in range(150)),
        HEAD + TARGET + "components:\n" + "".join(f"  {n}: ${{X{n}}}\n" for n in range(MANY)),
        HEAD + TARGET + "a: 1\n" * MANY,
    ],
    ids=["top", "target", "telemetry", "overlays", "variables", "twice"],
)
def test_at_most_a_hundred_problems_are_reported(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up: list[str] = []
    near = manifests.suggestion
    monkeypatch.setattr(
        manifests, "suggestion", lambda word, *rest: looked_up.append(word) or near(word, *rest)
    )
    problems = check_manifest(text, "m.yaml", {})
    assert len(problems) <= 101
    assert len(looked_up) <= 101
    if len(problems) > 1:
        assert str(problems[0]) == "m.yaml: these are 100 problems, and there may be more"


@pytest.mark.parametrize("section", ["targets", "overlays"])
def test_more_targets_or_overlays_than_can_be_tried_are_not_tried(section: str) -> None:
    entry = "{provider: local}" if section == "targets" else "{project: {name: y}}"
    many = "".join(f"  n{n}: {entry}\n" for n in range(MANY))
    text = HEAD + (TARGET if section == "overlays" else "") + f"{section}:\n{many}"
    assert [problem.key for problem in check_manifest(text, "m.yaml", {})] == [section]
