"""How a program was started: read in real processes, redacted, whole enough to start it again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scalable.common.command_lines import redacted_arguments, secrets_in
from scalable_runs.redact import Redactor

PRINTS = """
import json
from scalable.common.command_lines import own_command_line
print(json.dumps(own_command_line()))
"""


def started(arguments: list[str], where: Path, text: str | None = None) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=where,
        input=text,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PWD": str(where)},
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (["program.py", "--year", "2013"], "script"),
        (["-X", "dev", "-W", "ignore", "program.py"], "script"),
        (["-m", "package.steps", "-m", "x"], "module"),
        (["-Wignore", "-Im", "json.tool", "--help"], None),
        (["-c", PRINTS, "argument"], "text"),
    ],
)
def test_a_program_can_be_started_again_by_what_is_recorded_of_it(
    arguments: list[str], kind: str | None, tmp_path: Path
) -> None:
    (tmp_path / "program.py").write_text(PRINTS)
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "steps.py").write_text(PRINTS)
    if kind is None:
        from scalable.common.command_lines import _what_runs

        assert _what_runs(arguments) == ("module", 1)
        return
    found = started(arguments, tmp_path)
    assert found["kind"] == kind
    assert found["argv"] == arguments
    assert found["cwd"] == str(tmp_path)
    assert found.get("module") == ("package.steps" if kind == "module" else None)
    assert started(found["argv"], tmp_path) == found


def test_a_program_that_was_piped_to_python_says_so(tmp_path: Path) -> None:
    assert started(["-"], tmp_path, PRINTS)["kind"] == "stdin"
    assert started([], tmp_path, PRINTS)["kind"] == "stdin"


def test_a_program_that_went_to_another_directory_is_found_where_it_was_started(
    tmp_path: Path,
) -> None:
    (tmp_path / "program.py").write_text(f"import os\nos.chdir('/')\n{PRINTS}")
    assert started(["program.py"], tmp_path)["cwd"] == str(tmp_path)


def test_the_command_of_this_project_is_recorded_as_a_module(tmp_path: Path) -> None:
    (tmp_path / "steps.py").write_text(PRINTS)
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "scalable"
    command.write_text(f"#!{sys.executable}\n{PRINTS}")
    found = started([str(command), "run", "steps.py"], tmp_path)
    assert found["argv"] == ["-m", "scalable", "run", "steps.py"]
    assert found["module"] == "scalable"


SECRET = "hunter2-Tr0ub4dor"


@pytest.mark.parametrize(
    "argv",
    [
        ["steps.py", "--password", SECRET, "--year", "2013"],
        ["steps.py", f"--api-key={SECRET}", "2013"],
        ["steps.py", f"postgres://me:{SECRET}@db/x", "2013"],
        ["steps.py", "--", "mysql", "-u", "me", f"-p{SECRET}", "2013"],
        ["steps.py", f"db_password={SECRET}", "2013"],
    ],
)
def test_secrets_are_left_out_of_a_recorded_command_and_are_named(argv: list[str]) -> None:
    found = redacted_arguments(argv, Redactor())
    assert SECRET not in json.dumps(found)
    assert found[0] == "steps.py"
    assert found[-1] == "2013"
    assert len(secrets_in(found)) == 1
    assert secrets_in(argv) == []


def test_the_option_of_a_removed_value_is_named() -> None:
    found = redacted_arguments(["steps.py", "--password", SECRET], Redactor())
    assert secrets_in(found) == ["--password [redacted]"]
