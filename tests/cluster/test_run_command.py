"""`scalable plan` and `scalable run`, as a user calls them."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from scalable.cli import cli
from scalable_runs import schema
from scalable_runs.reader import RunReader, find_runs

MANIFEST = """\
version: 1
project: {name: demo}
targets:
  threads: {provider: local, max_workers: 3, processes: false}
  processes: {provider: local, max_workers: 1, memory_limit: none}
  hpc:
    {provider: slurm, max_workers: 4, walltime: 02:00:00, prices: {currency: EUR, core_hour: 0.5}}
  fargate: {provider: aws, region: eu-west-1, max_workers: 10}
  k8s: {provider: kubernetes, max_workers: 2}
  single: {provider: slurm}
components:
  analysis: {cpus: 2, memory: 4G, env: {API_KEY: abc-123}}
"""

SCRIPT = """\
import sys
from scalable import ScalableSession, current_session

def double(x):
    return 2 * x

if __name__ == "__main__":
    session = ScalableSession.from_yaml()
    assert session is current_session()
    client = session.start()
    print("result", sum(client.gather(client.map(double, range(5), tag="analysis"))), sys.argv)
    if "--fail" in sys.argv:
        raise ValueError("as asked")
    if "--exit" in sys.argv:
        sys.exit(7)
    session.close()
"""

MODULE = """\
def main(client, args):
    print("module", client.submit(len, args).result())
    return 3
"""

WAITING = """\
import sys, time
from scalable import current_session

def wait():
    while True:
        time.sleep(0.01)

client = current_session().client
future = client.submit(wait)
try:
    print("waiting", flush=True)
    future.result()
except KeyboardInterrupt:
    if "--stubborn" in sys.argv:
        print("again", flush=True)
        while True:
            time.sleep(0.01)
    raise
"""


@pytest.fixture(autouse=True)
def files(tmp_path: Path) -> None:
    (tmp_path / "scalable.yaml").write_text(MANIFEST)
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "steps.py").write_text(MODULE)
    (tmp_path / "waiting.py").write_text(WAITING)


def scalable(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "scalable.cli", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def the_run() -> RunReader:
    (found,) = find_runs(Path(".scalable/runs"))
    return found


# -- plan -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("threads", [
            "workers  3 workers × 1 thread, 2 CPUs, 4 GB; component analysis\n",
            "cost     none: your own machine\n",
        ]),
        ("hpc", [
            "4 workers × 2 threads, 2 CPUs, 4 GB, 02:00:00 at most",
            "about 4.00 EUR an hour (an estimate",
        ]),
        ("fargate", [
            "10 workers ×",
            "about 0.99 USD an hour (an estimate: built-in",
            "2025-01",
        ]),
        ("k8s", ["2 workers ×", "no price is known"]),
        ("single", ["1 worker ×", "the target has neither max_workers nor workers"]),
    ],
)  # fmt: skip
def test_plan_shows_what_would_be_started_and_what_it_may_cost(target: str, says: list[str]):
    done = CliRunner().invoke(cli, ["plan", "--target", target])
    assert done.exit_code == 0, done.output
    for sentence in says:
        assert sentence in done.output
    assert not Path(".scalable").exists()


def test_plan_writes_its_files_without_secrets():
    arguments = ["plan", "--target", "threads", "--objective", "cost", "--policy", "adaptive"]
    done = CliRunner().invoke(cli, [*arguments, "--output", "out"])
    assert done.exit_code == 0, done.output
    assert "up to 1 worker ×" in done.output
    plan = json.loads(Path("out/plan.json").read_text())
    assert (plan["workers"][0]["workers"], plan["adaptive"]) == (1, True)
    assert plan["workers"][0]["env"] == ["API_KEY"]
    assert plan["cost"]["estimate"] is True
    assert "abc-123" not in Path("out/plan.json").read_text()
    assert Path("out/manifest.lock").read_text() == plan["manifest_lock"] + "\n"
    CliRunner().invoke(cli, [*arguments, "--output", "dry", "--dry-run"])
    assert not Path("dry").exists()
    assert json.loads(CliRunner().invoke(cli, [*arguments, "--json"]).stdout) == plan


# -- run ------------------------------------------------------------------------------------------


def test_a_script_runs_in_the_session_and_its_run_is_recorded():
    done = scalable("run", "--target", "threads", "--workflow", "script.py", "--", "--year", "7")
    assert done.returncode == 0, done.stderr
    assert "result 20 ['script.py', '--year', '7']" in done.stdout
    run = the_run()
    assert run.status == "completed"
    assert str(run.path) in done.stderr
    states = [r["state"] for r in run.records(schema.TASKS)]
    assert states.count("succeeded") == 5


@pytest.mark.parametrize(("option", "code", "failure"), [
    ("--fail", 1, ("ValueError", "as asked")),
    ("--exit", 7, ("SystemExit", "exit status 7")),
])  # fmt: skip
def test_the_exit_code_is_the_workflows(option: str, code: int, failure: tuple[str, str]):
    done = scalable("run", "--target", "threads", "script.py", option)
    assert done.returncode == code
    assert ("ValueError: as asked" in done.stderr) == (option == "--fail")
    run = the_run()
    assert run.status == "failed"
    (record,) = run.records(schema.FAILURES)
    assert (record["failure_class"], record["message"]) == failure
    assert record["details"]["phase"] == "session.context"
    if option == "--fail":
        # What runs the script is not part of its traceback.
        frames = [line for line in done.stderr.splitlines() if line.startswith("  File ")]
        assert [frame.split('"')[1] for frame in frames] == ["script.py"]


def test_a_function_of_a_module_gets_what_it_asks_for_and_its_result_is_no_exit_code():
    done = scalable("run", "--target", "threads", "--workflow", "steps:main", "a", "b")
    assert done.returncode == 0, done.stderr
    assert "module 2" in done.stdout
    assert the_run().status == "completed"


def test_manifest_workflow_and_arguments_are_distinguished(tmp_path: Path):
    (tmp_path / "scalable.yaml").rename(tmp_path / "other.yaml")
    Path("show.py").write_text("import sys; print(sys.argv)")
    for before, behind, shown in (
        (["other.yaml", "show.py"], ["--year", "7"], ["show.py", "--year", "7"]),
        (["--manifest", "other.yaml", "show.py"], ["x.yaml"], ["show.py", "x.yaml"]),
        (["other.yaml", "--workflow", "show.py"], ["a.yaml"], ["show.py", "a.yaml"]),
        (["show.py", "a", "--b", "--manifest=other.yaml"], ["--target"],
         ["show.py", "a", "--b", "--target"]),
    ):  # fmt: skip
        done = scalable("run", "--no-telemetry", "--target", "threads", *before, "--", *behind)
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"{shown}\n"
    both = scalable("run", "other.yaml", "--manifest", "other.yaml", "show.py")
    assert both.returncode == 2
    assert "MANIFEST and --manifest exclude each other" in both.stderr
    for command in ("validate", "plan"):
        assert scalable(command, "other.yaml", "--target", "threads").returncode == 0
    missing = scalable("validate", "nowhere.yaml")
    assert (missing.returncode, "no manifest at nowhere.yaml" in missing.stderr) == (1, True)


def test_what_is_switched_for_one_run_can_be_switched_on_the_command_line(tmp_path: Path):
    elsewhere = tmp_path / "elsewhere"
    done = scalable(
        "run", "--target", "threads", "script.py",
        "--runs-dir", "elsewhere", "--log-level", "DEBUG",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(find_runs(elsewhere)) == 1
    assert scalable("run", "--target", "threads", "script.py", "--no-telemetry").returncode == 0
    assert not Path(".scalable/runs").exists()
    for arguments, says in (
        (["--log-level", "loud"], "--log-level cannot be 'loud'; allowed: a level of Python's"),
        (["--crash-upload", "ftp://x"], "--crash-upload cannot be 'ftp://x'; allowed: an https"),
    ):
        wrong = scalable("run", "--target", "threads", "script.py", *arguments)
        assert wrong.returncode == 2
        assert says in wrong.stderr


UNGUARDED = """\
import os
from pathlib import Path
from scalable import current_session

def die_once(flag):
    if not Path(flag).exists():
        Path(flag).touch()
        os.kill(os.getpid(), 9)
    return "alive"

print("began")
print(current_session().client.submit(die_once, str(Path("flag").resolve())).result(90))
"""


def test_a_worker_that_is_started_again_does_not_run_the_script_once_more(tmp_path: Path):
    (tmp_path / "unguarded.py").write_text(UNGUARDED)
    done = scalable("run", "--target", "processes", "unguarded.py")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["began", "alive"]


BESIDE = """\
from distributed import wait
from scalable import current_session
from beside import Value, twice

client = current_session().client
print("result", client.submit(twice, Value(21)).result(60))
"""


def test_a_module_beside_the_script_is_there_for_the_worker_processes_too(tmp_path: Path):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "wf.py").write_text(BESIDE)
    (folder / "beside.py").write_text(
        "class Value:\n    def __init__(self, n): self.n = n\n"
        "def twice(value): return Value(2 * value.n).n\n"
    )
    done = scalable("run", "--target", "processes", "elsewhere/wf.py")
    assert done.returncode == 0, done.stderr
    assert "result 42" in done.stdout


@pytest.mark.parametrize(
    ("workflow", "says"),
    [
        ("missing.py", "there is no such file"),
        ("nowhere:main", "there is no module 'nowhere'"),
        ("steps:other", "steps has no function 'other'"),
        ("steps", "neither a file nor module:function"),
    ],
)
def test_a_workflow_that_is_not_there_starts_nothing(workflow: str, says: str):
    done = scalable("run", "--target", "threads", "--workflow", workflow)
    assert done.returncode == 1
    assert says in done.stderr
    assert not Path(".scalable").exists()


def test_dry_run_starts_nothing():
    done = scalable("run", "--target", "hpc", "--dry-run")
    assert done.returncode == 0
    assert "target   hpc (slurm)" in done.stdout
    assert not Path(".scalable").exists()


class Program:
    """`scalable run` with its standard output at hand."""

    def __init__(self, *arguments: str, **more: Any) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "scalable.cli", "run", *arguments],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            **more,
        )

    def wait_for(self, word: str) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if word in line:
                return
        raise AssertionError(f"it never said {word}")

    def interrupt(self) -> None:
        # As a terminal does: the whole group.
        os.killpg(self.process.pid, signal.SIGINT)


@pytest.fixture
def start() -> Iterator[Any]:
    programs: list[Program] = []

    def make(*arguments: str, **more: Any) -> Program:
        programs.append(Program(*arguments, **more))
        return programs[-1]

    yield make
    for program in programs:
        if program.process.poll() is None:
            os.killpg(program.process.pid, signal.SIGKILL)
            program.process.wait()
        assert program.process.stdout is not None
        program.process.stdout.close()


def test_ctrl_c_once_closes_the_run_as_cancelled(start: Any):
    program = start("--target", "processes", "--workflow", "waiting.py", stderr=subprocess.DEVNULL)
    program.wait_for("waiting")
    program.interrupt()
    assert program.process.wait(60) == 130
    run = the_run()
    assert run.status == "cancelled"
    assert [r["state"] for r in run.records(schema.TASKS)][-1] == "cancelled"


def test_ctrl_c_twice_stops_at_once(start: Any):
    program = start(
        "--target", "threads", "--workflow", "waiting.py", "--", "--stubborn",
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    program.wait_for("waiting")
    program.interrupt()
    program.wait_for("again")
    program.interrupt()
    assert program.process.wait(20) == 130
    assert the_run().status == "lost"


def test_progress_is_shown_on_a_terminal(start: Any):
    controller, terminal = pty.openpty()
    program = start(
        "--target", "processes", "--workflow", "waiting.py",
        stderr=terminal, env={**os.environ, "TERM": "xterm", "COLUMNS": "80"},
    )  # fmt: skip
    os.close(terminal)
    shown: list[bytes] = []
    seen = threading.Event()

    def read() -> None:
        while True:
            try:
                part = os.read(controller, 4096)
            except OSError:
                return
            if not part:
                return
            shown.append(part)
            if b"0/1" in b"".join(shown):
                seen.set()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        assert seen.wait(60), b"".join(shown)
        program.interrupt()
        assert program.process.wait(60) == 130
    finally:
        reader.join(10)
        os.close(controller)
    assert b"Tasks" in b"".join(shown)
    assert b"closing the session" in b"".join(shown)
