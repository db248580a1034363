"""What README and docs show runs as it is pasted: samples as programs, commands as commands."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click
import pytest
import yaml

from run_builder import RunBuilder, eventful, failure
from scalable.catalog import Catalog
from scalable.cli import COMMANDS, cli
from scalable.manifest.load import check_manifest, parse_manifest
from scalable_runs.reader import find_runs, resolve_run

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))))
LOST = "run-20260102T030405Z-flights-1a2b3c4d"


class Sample(NamedTuple):
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    text: str


def samples(page: str) -> Iterator[Sample]:
    text = (ROOT / page).read_text()
    for match in re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield Sample(page, text.count("\n", 0, match.start()) + 1, match[1], match[2])


ALL = [sample for page in PAGES for sample in samples(page)]
#: Files that are no manifests are fenced as `yml`.
MANIFESTS = [sample for sample in ALL if sample.language == "yaml"]


def program(text: str, directory: Path) -> subprocess.CompletedProcess[str]:
    script = directory / "sample.py"
    script.write_text(text)
    return subprocess.run(
        [sys.executable, script.name],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )


# -- programs -------------------------------------------------------------------------------------

#: What a page's programs must print, in their order; others print what they like.
SAYS = {
    "README.md": ["2470", "succeeded|square|count", "45"],
    "docs/session.md": [
        "2470",
        r"16 results, 4 errors: \[3, 8, 13, 18\]",
        r"left to do: \[3, 8, 13, 18\]\n\[9, 64, 169, 324\]",
        "1\nthe archive did not answer\nthe archive did not answer\n2",
        "cancelled",
        "",
        "16 out.txt",
    ],
    "docs/diagnose.md": ["completed"],
    "docs/run-directory.md": ["count", "completed"],
    "docs/reproducibility.md": ["2026,3.1", "732"],
    "docs/testing.md": ["power succeeded 1", "2026-01-01T00:00:01.500000Z cancelled", ""],
}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", SAYS)
def test_the_programs_of_a_page_run_as_they_are_pasted(page: str, tmp_path: Path):
    (tmp_path / "scalable.yaml").write_text(MANIFESTS[0].text)
    programs = [sample for sample in samples(page) if sample.language == "python"]
    assert len(programs) == len(SAYS[page])
    if "Client" not in programs[0].text and "Session" not in programs[0].text:
        # A page about what a run has left: that of the first page's first program.
        first = next(sample for sample in samples("README.md") if sample.language == "python")
        assert program(first.text, tmp_path).returncode == 0
    for sample, says in zip(programs, SAYS[page], strict=True):
        done = program(sample.text, tmp_path)
        where = f"{sample.page}:{sample.line}"
        assert done.returncode == 0, f"{where}: {done.stderr}"
        assert re.search(says, done.stdout), f"{where}: {done.stdout}"
        assert "Traceback" not in done.stderr.replace("Traceback: ", ""), f"{where}: {done.stderr}"
    for run in find_runs(tmp_path / ".scalable" / "runs"):
        assert run.status == "completed"


#: A page whose first program, a quick start, is run against real servers.
QUICK_START = "docs/opentelemetry.md"
#: What the other programs of that page print.
SAYS_BESIDES = [
    r"31\.0\n(.*\n)*.*\"gauge read\"",
    r"285\n(?!.*dask\.worker)(?!.*dask\.task\.duration).*'task_seconds'",
]


@pytest.mark.parametrize("number", range(len(SAYS_BESIDES)))
def test_the_programs_beside_the_quick_start_run_as_they_are_pasted(number: int, tmp_path: Path):
    _, *programs = [sample for sample in samples(QUICK_START) if sample.language == "python"]
    assert len(programs) == len(SAYS_BESIDES)
    done = program(programs[number].text, tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(SAYS_BESIDES[number], done.stdout), done.stdout


def test_every_page_with_programs_is_run():
    assert {s.page for s in ALL if s.language == "python"} == {*SAYS, QUICK_START}


# -- manifests ------------------------------------------------------------------------------------


def merged(first: Any, second: Any) -> Any:
    if isinstance(first, dict) and isinstance(second, dict):
        return {
            key: merged(first[key], second[key]) if key in first and key in second
            else second.get(key, first.get(key))
            for key in {**first, **second}
        }  # fmt: skip
    return second


def test_the_manifests_hold_also_with_the_parts_that_are_added():
    whole, *parts = (sample.text for sample in MANIFESTS)
    assert check_manifest(whole, "scalable.yaml") == ()
    for part in parts:
        both = yaml.safe_dump(merged(yaml.safe_load(whole), yaml.safe_load(part)))
        assert check_manifest(both, "scalable.yaml") == ()
        for target in yaml.safe_load(part).get("targets", {}):
            parse_manifest(both, target=target)


# -- commands -------------------------------------------------------------------------------------


def commands(text: str) -> Iterator[str]:
    """Lines that begin with `scalable`, without what is said about them behind two blanks."""
    for line in re.findall(r"^ {2,4}(?:[A-Z_]+=\S+ )?(scalable [a-z-]+.*)$", text, re.MULTILINE):
        yield re.split(r"\s{2,}|\s+#", line)[0].strip()


def epilogs() -> Iterator[str]:
    with click.Context(cli) as context:
        for name in COMMANDS:
            command = cli.get_command(context, name)
            assert command is not None
            yield command.epilog or ""
    yield cli.epilog or ""


SHOWN = sorted(
    {
        command
        for text in (*((ROOT / page).read_text() for page in PAGES), *epilogs())
        for command in commands(text)
    }
)
#: What is tried elsewhere: it wants a server, a model, Slurm, minutes, or an answer to a question.
ELSEWHERE = (
    *("scalable demo", "scalable diagnose --ai", "scalable export", "scalable cache clear --old"),
    *("scalable crash-logs upload run-", "scalable crash-logs upload --no-redact"),
    *("scalable run steps.py --target hpc", "scalable pack", "scalable unpack", "scalable sync"),
    *("scalable clean", "scalable convert --to duckdb", "scalable merge"),
    *("scalable retry", "scalable replay"),
)


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with all that the commands name."""
    home = tmp_path_factory.mktemp("newcomer")
    (home / "scalable.yaml").write_text(MANIFESTS[0].text)
    (home / "other.yaml").write_text(MANIFESTS[0].text)
    (home / "steps.py").write_text("import sys; print(sys.argv)")
    (home / "package").mkdir()
    (home / "package" / "__init__.py").touch()
    (home / "package" / "module.py").write_text("def main(client): print(client)")
    run = RunBuilder(home / ".scalable" / "runs", LOST)
    eventful(run)
    log = "logs/workers/3/20260102T030405.000000Z.stderr.log"
    (run.path / log).parent.mkdir(parents=True)
    (run.path / log).write_text("Killed\n")
    run.add(
        failure(
            "WorkerLost", "lost", 5, phase="worker_lost", worker_id="3", cause="killed",
            stderr_path=log,
        )
    )  # fmt: skip
    here = Catalog(home / ".scalable" / "catalog")
    here.put_bytes(b"1", name="maps/a.tif")
    digest = here.put_bytes(b"3.1", name="results/yield.csv")
    run.add(
        {
            "event_type": "artifact",
            "artifact_name": "results/yield.csv",
            "stage": "put",
            "digest": digest,
        }
    )
    run.finish(12.5)
    return home


def test_there_are_commands_to_try():
    assert len(SHOWN) > 40
    names = {shlex.split(command, comments=True)[1] for command in SHOWN}
    assert names == set(COMMANDS)


@pytest.mark.parametrize("command", [one for one in SHOWN if not one.startswith(ELSEWHERE)])
def test_a_command_in_the_docs_works(command: str, newcomer: Path):
    shown, _, filtered = command.partition(" | ")
    words = shlex.split(shown)[1:]
    if words[0] == "init":
        words.append("--force")  # there is a manifest already
    if words[0] in ("init", "schema") and "--output" in words:
        (newcomer / "jobs").mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "scalable", *words],
        cwd=newcomer,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    # Tasks failed in the run that is looked at.
    expected = 1 if "--exit-status" in words else 0
    assert done.returncode == expected, done.stderr
    if filtered and shutil.which("jq"):
        subprocess.run(shlex.split(filtered), input=done.stdout, text=True, check=True)
    elif filtered:
        json.loads(done.stdout)
    if words[0] == "init" and "--output" not in words:
        (newcomer / "scalable.yaml").write_text(MANIFESTS[0].text)


def test_the_latest_run_of_a_newcomer_is_a_run(newcomer: Path):
    assert resolve_run(newcomer / ".scalable" / "runs").document
