"""`scalable init`, `validate` and `schema`, as a user calls them."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import jsonschema
import yaml
from click.testing import CliRunner, Result

from scalable.cli import cli

GOOD = """\
version: 1
project: {name: demo}
targets:
  local: {provider: local}
  far: {provider: existing, address: 'tcp://host:8786'}
"""


def scalable(*arguments: str, environ: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(cli, arguments, env=environ)


def test_what_init_writes_is_valid():
    done = scalable("init", "--project", "floods", "--provider", "local", "--provider", "slurm")
    assert done.exit_code == 0, done.output
    assert "Wrote scalable.yaml" in done.output
    written = yaml.safe_load(Path("scalable.yaml").read_text())
    assert written["project"] == {"name": "floods"}
    assert list(written["targets"]) == ["local", "slurm"]
    checked = scalable("validate")
    assert checked.exit_code == 0
    assert "scalable.yaml is valid." in checked.output
    assert "local (local, chosen), slurm (slurm)" in checked.output


def test_init_overwrites_a_manifest_only_on_request():
    Path("scalable.yaml").write_text(GOOD)
    done = scalable("init", "--yes")
    assert done.exit_code == 1
    assert "scalable.yaml exists. Replace it by --force" in done.output
    assert Path("scalable.yaml").read_text() == GOOD
    assert scalable("init", "--yes", "--force").exit_code == 0
    assert Path("scalable.yaml").read_text() != GOOD


def test_init_refuses_what_would_be_no_valid_manifest():
    done = scalable("init", "--yes", "--memory", "lots")
    assert done.exit_code == 1
    assert "--memory lots: components.worker.memory: must be a size such as 1G" in done.output
    assert "scalable.yaml:" not in done.output
    done = scalable("init", "--yes", "--cpus", "0")
    assert "--cpus 0.0: components.worker.cpus: must be" in done.output
    assert not Path("scalable.yaml").exists()


def asked(answers: str) -> str:
    """What `scalable init` shows on a terminal on which these lines are typed."""
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "scalable.cli", "init"],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env={**os.environ, "TERM": "dumb"},
    )
    os.close(terminal)
    shown = b""
    try:
        os.write(controller, answers.encode())
        while True:
            try:
                part = os.read(controller, 4096)
            except OSError:
                break
            if not part:
                break
            shown += part
        assert process.wait(30) == 0, shown
    finally:
        os.close(controller)
    return shown.decode()


def test_init_asks_on_a_terminal():
    asked("rivers\nslurm, local\n\n7\n\n4G\n")
    written = yaml.safe_load(Path("scalable.yaml").read_text())
    assert written["project"]["name"] == "rivers"
    assert list(written["targets"]) == ["slurm", "local"]
    assert written["targets"]["local"]["max_workers"] == 7
    assert written["components"] == {"worker": {"cpus": 1, "memory": "4G"}}


def test_init_asks_again_at_once_for_what_cannot_be():
    shown = asked("\nslrm\n3 local\n\nlots\n0\n2\nmany\n0\n0.5\nbig\n4G\n")
    for said in (
        "there is no provider 'slrm'; did you mean 'slurm'?",
        "'lots' is not a whole number",
        "targets.slurm.max_workers: must be",
        "'many' is not a number",
        "components.worker.cpus: must be",
        "components.worker.memory: must be a size such as 1G",
    ):
        assert said in shown
    assert "scalable.yaml:" not in shown
    assert "1 local, 2 existing, 3 slurm" in shown
    written = yaml.safe_load(Path("scalable.yaml").read_text())
    assert list(written["targets"]) == ["slurm", "local"]
    assert written["targets"]["local"]["max_workers"] == 2
    assert written["components"] == {"worker": {"cpus": 0.5, "memory": "4G"}}


def test_validate_names_every_problem_and_exits_with_1():
    Path("scalable.yaml").write_text(GOOD.replace("demo", "''").replace("address", "adress"))
    done = scalable("validate")
    assert done.exit_code == 1
    assert "2 problems:" in done.output
    assert "scalable.yaml:2:17: project.name: must not be empty" in done.output
    assert "scalable.yaml:5:29: targets.far.adress: unknown key; did you mean 'address'?" in (
        done.output
    )
    as_json = scalable("validate", "--json")
    assert as_json.exit_code == 1
    found = json.loads(as_json.stdout)
    assert not found["valid"]
    assert [problem["key"] for problem in found["problems"]] == [
        "project.name",
        "targets.far.adress",
    ]


def test_validate_shows_what_was_chosen():
    Path("elsewhere.yaml").write_text(GOOD)
    environ = {"SCALABLE_MANIFEST": "elsewhere.yaml", "SCALABLE_TARGET": "far"}
    found = json.loads(scalable("validate", "--json", environ=environ).stdout)
    assert (found["valid"], found["target"], found["provider"]) == (True, "far", "existing")
    assert found["manifest_lock"].startswith("sha256:")
    done = scalable("validate", "--manifest", "elsewhere.yaml", "--target", "fra")
    assert done.exit_code == 1
    assert "there is no such target; did you mean 'far'?" in done.output


def test_without_a_manifest_validate_shows_how_to_get_one():
    done = scalable("validate")
    assert done.exit_code == 1
    assert "`scalable init` writes one" in done.output


def test_the_schema_can_be_written_to_a_file():
    printed = scalable("schema")
    assert printed.exit_code == 0
    assert scalable("schema", "--output", "s.json").exit_code == 0
    assert Path("s.json").read_text() == printed.stdout
    jsonschema.validate(yaml.safe_load(GOOD), json.loads(printed.stdout))
    done = scalable("schema", "--output", "no/where.json")
    assert done.exit_code == 1
    assert "cannot be written" in done.output


def test_checking_a_manifest_imports_neither_dask_nor_opentelemetry():
    Path("scalable.yaml").write_text(GOOD)
    code = (
        "import sys; from scalable.cli import cli; cli(['validate'], standalone_mode=False); "
        "print(sorted({n.split('.')[0] for n in sys.modules} & "
        "{'dask', 'distributed', 'opentelemetry'}))"
    )
    # A package that other tests need brings a plugin for pydantic, which imports OpenTelemetry.
    environ = {**os.environ, "PYDANTIC_DISABLE_PLUGINS": "__all__"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environ
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_without_pydantic_the_error_names_the_extra():
    code = (
        "import sys; sys.modules['pydantic'] = None; sys.argv[1:] = ['validate']; "
        "from scalable.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "pip install 'scalable-otel[session]'" in done.stderr
