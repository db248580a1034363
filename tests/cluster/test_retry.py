"""`scalable retry`, as a user calls it: real programs, changed between two runs."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from scalable.cli import cli
from scalable_runs.reader import find_runs

PROGRAM = """\
import sys
from pathlib import Path

import scalable
from dask.distributed import Client, LocalCluster, wait

FACTOR = 3


def note(text):
    with open("log", "a") as file:
        file.write(text + "\\n")


def scale(x):
    return FACTOR * x


def load(number):
    note("load")
    return list(range(number))


def fit(values, shift=0):
    note("fit")
    if len(values) == 2 and Path("broken").exists():
        raise ValueError("broken")
    return sum(map(scale, values)) + shift


def total(sums):
    note("total")
    return sum(sums)


def main():
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=2, processes=PROCESSES, dashboard_address=":0"
        ) as cluster,
        Client(cluster) as client,
        scalable.instrument(client, keep_results=True),
    ):
        loads = client.map(load, range(4))
        fits = client.map(fit, loads, shift=1)
        wait(fits)
        print("total", client.submit(total, fits).result())


if __name__ == "__main__":
    main()
"""


def run_command(place: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "scalable", *arguments],
        cwd=place,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def executions(place: Path) -> Counter[str]:
    log = place / "log"
    found = Counter(log.read_text().split()) if log.exists() else Counter[str]()
    log.unlink(missing_ok=True)
    return found


def edit(place: Path, before: str, after: str) -> None:
    program = place / "program.py"
    text = program.read_text()
    assert before in text
    program.write_text(text.replace(before, after))


def retry(place: Path, *arguments: str) -> tuple[dict[str, Any], subprocess.CompletedProcess[str]]:
    done = run_command(place, "retry", "--json", *arguments)
    return (json.loads(done.stdout) if done.stdout else {}), done


def groups(document: dict[str, Any]) -> dict[tuple[str, str | None], int]:
    """Numbers of tasks by name and reason; None where the result was reused."""
    return {
        (each["task_name"], None if each["reused"] else each["reason"]): each["count"]
        for each in document["outcome"]["groups"]
    }


def expected(document: dict[str, Any]) -> dict[tuple[str, str], int]:
    return {
        (each["task_name"], each["reason"] or each["outcome"]): each["count"]
        for each in document["expected"]
    }


def test_a_failed_program_is_run_again_only_where_it_must_be(tmp_path: Path) -> None:
    """The whole path with a process of its own for the worker."""
    (tmp_path / "program.py").write_text(PROGRAM.replace("PROCESSES", "True"))
    (tmp_path / "broken").touch()
    first = subprocess.run([sys.executable, "program.py"], cwd=tmp_path, capture_output=True)
    assert first.returncode == 1
    assert executions(tmp_path) == {"load": 4, "fit": 4}
    (tmp_path / "broken").unlink()

    shown = run_command(tmp_path, "retry", "--dry-run")
    assert shown.returncode == 0, shown.stderr
    assert "failed (ValueError: broken)" in shown.stdout
    explained = run_command(tmp_path, "retry", "--explain", "total")
    assert "failed" in explained.stdout
    assert executions(tmp_path) == {}, "nothing was started"

    document, done = retry(tmp_path)
    assert done.returncode == document["exit_code"] == 0, done.stderr
    assert "total 16" in done.stderr
    assert executions(tmp_path) == {"fit": 1, "total": 1}
    assert groups(document) == {
        ("load", None): 4,
        ("fit", None): 3,
        ("fit", "it had failed"): 1,
        ("total", "it had failed"): 1,
    }
    latest = find_runs(tmp_path / ".scalable" / "runs")[0]
    assert latest.document["retry_of"] == document["run_id"]
    assert latest.run_id == document["outcome"]["run_id"]

    edit(tmp_path, "FACTOR = 3", "FACTOR = 4")
    document, done = retry(tmp_path)
    assert "total 20" in done.stderr
    assert executions(tmp_path) == {"fit": 4, "total": 1}
    assert expected(document)["fit", "code changed: __main__.fit"] == 4
    assert expected(document)["total", "depends on fit, which is computed again"] == 1
    [change] = document["changes"]
    assert "FACTOR: 3 → 4" in change["change"]
    assert groups(document) == {
        ("load", None): 4,
        ("fit", "code changed: __main__.fit"): 4,
        ("total", "argument changed: sums"): 1,
    }


def test_each_edit_runs_again_what_depends_on_it_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM.replace("PROCESSES", "False"))
    subprocess.run([sys.executable, "program.py"], cwd=tmp_path, check=True, capture_output=True)
    assert executions(tmp_path).total() == 9

    edit(tmp_path, "def scale(x):\n", 'def scale(x):  # a comment\n    """And a docstring."""\n\n')
    document, _ = retry(tmp_path)
    assert executions(tmp_path) == {}
    assert {reason for _, reason in groups(document)} == {None}

    edit(tmp_path, "shift=1)", "shift=2)")
    document, done = retry(tmp_path)
    assert executions(tmp_path) == {"fit": 4, "total": 1}
    assert groups(document)["fit", "argument changed: shift"] == 4

    # The same result as before: what uses it is not computed again.
    edit(tmp_path, "    return list(range(number))", "    return [*range(number)]")
    document, done = retry(tmp_path)
    assert executions(tmp_path) == {"load": 4}
    assert expected(document)["load", "code changed: __main__.load"] == 4
    assert "-    return list(range(number))" in document["changes"][0]["diff"]
    assert expected(document)["fit", "depends on load, which is computed again"] == 4
    assert groups(document)["fit", None] == 4
    assert "total 20" in done.stderr


SLOW = '''\
import sys
import time
import random

import scalable
from dask.distributed import Client, LocalCluster


def work(number, above):
    """Say on disk that it runs, then work for a moment."""
    with open("log", "a") as file:
        file.write(f"{number}\\n")
    time.sleep(random.Random(number).uniform(0.0, 0.05))
    return {"number": number, "sum": number + sum(each["sum"] for each in above)}


def main():
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=False, dashboard_address=":0"
        ) as cluster,
        Client(cluster) as client,
        scalable.instrument(client, keep_results=True),
    ):
        open("ready", "w").close()
        tasks = []
        for number in range(60):
            tasks.append(client.submit(work, number, tasks[-3:]))
        print("sum", tasks[-1].result()["sum"], flush=True)


if __name__ == "__main__":
    main()
'''


#: The number that the last task has, computed without Dask.
def undisturbed() -> int:
    sums: list[int] = []
    for number in range(60):
        sums.append(number + sum(sums[-3:]))
    return sums[-1]


KILLS = int(os.environ.get("CHAOS_N", "4"))


@pytest.mark.timeout(60 + 20 * KILLS)
def test_a_program_killed_again_and_again_computes_nothing_twice_that_was_kept(
    tmp_path: Path,
) -> None:
    (tmp_path / "program.py").write_text(SLOW)
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    killed = 0
    for _ in range(KILLS):
        kept = _kept_numbers(tmp_path)
        before = Counter((tmp_path / "log").read_text().split()) if kept else Counter[str]()
        (tmp_path / "ready").unlink(missing_ok=True)
        process = subprocess.Popen(
            [sys.executable, "program.py"],
            cwd=tmp_path,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while not (tmp_path / "ready").exists() and process.poll() is None:
            time.sleep(0.01)
        try:
            process.wait(chance.uniform(0.05, 0.8))
        except subprocess.TimeoutExpired:
            killed += 1
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        log = tmp_path / "log"
        now = Counter(log.read_text().split()) if log.exists() else Counter[str]()
        assert not [number for number in kept if now[number] > before[number]], f"seed {seed}"
    kept = _kept_numbers(tmp_path)
    before = Counter((tmp_path / "log").read_text().split())
    done = subprocess.run(
        [sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["sum", str(undisturbed())], f"seed {seed}"
    now = Counter((tmp_path / "log").read_text().split())
    again = [number for number in now if now[number] > before[number]]
    assert set(again).isdisjoint(kept), f"seed {seed}"
    assert len(_kept_numbers(tmp_path)) == 60
    assert killed, "no process was killed while it worked"


def _kept_numbers(place: Path) -> set[str]:
    """The tasks whose results are kept, by the results themselves."""
    import joblib

    found: set[str] = set()
    for path in (place / ".scalable" / "cache").glob("v1/*/*/result.joblib"):
        if not path.parent.name.startswith("tmp-"):
            found.add(str(joblib.load(path)["number"]))
    return found


MANIFEST = """\
version: 1
project: {name: demo}
keep_results: true
targets:
  one: {provider: local, max_workers: 1, processes: false}
  two: {provider: local, max_workers: 2, processes: false}
tasks:
  write: {outputs: [out.txt]}
"""
STEPS = """\
from pathlib import Path

def write(text):
    with open("log", "a") as file:
        file.write("write\\n")
    Path("out.txt").write_text(text)

def main(client, args):
    print("wrote", client.submit(write, *args).result())
"""


def test_a_session_is_retried_on_another_target_with_its_outputs(tmp_path: Path) -> None:
    (tmp_path / "scalable.yaml").write_text(MANIFEST)
    (tmp_path / "steps.py").write_text(STEPS)
    done = run_command(tmp_path, "run", "--target", "one", "steps:main", "--", "text")
    assert done.returncode == 0, done.stderr
    assert executions(tmp_path) == {"write": 1}
    (tmp_path / "out.txt").unlink()
    document, done = retry(tmp_path, "--target", "two")
    assert done.returncode == 0, done.stderr
    assert executions(tmp_path) == {}
    assert groups(document) == {("write", None): 1}
    assert (tmp_path / "out.txt").read_text() == "text", "taken from the catalog"
    latest = find_runs(tmp_path / ".scalable" / "runs")[0]
    assert latest.document["target_name"] == "two"


# -- the command ----------------------------------------------------------------------------------


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a recorded run whose run.json can be changed."""
    monkeypatch.chdir(tmp_path)
    from scalable_runs.rundoc import as_found, new_run_id, run_document
    from scalable_runs.writer import RunWriter

    run_id = new_run_id("demo", time.time())
    found = as_found("demo", "local")
    document: Any = run_document(
        run_id,
        project="demo",
        target="existing",
        provider="local",
        lock=found.lock,
        started=time.time(),
        trace_id="0" * 31 + "1",
        environment={},
    )
    writer = RunWriter.create(
        tmp_path / ".scalable" / "runs",
        document,
        manifest=found.manifest,
        plan=found.plan,
        lock=found.lock,
    )
    writer.close(status="completed")
    return tmp_path / ".scalable" / "runs" / run_id / "run.json"


def started_by(recorded: Path, **command: Any) -> None:
    document = json.loads(recorded.read_text())
    document["environment"]["command"] = {
        "kind": "script",
        "cwd": str(Path.cwd()),
        "executable": sys.executable,
        **command,
    }
    recorded.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ({"kind": "notebook", "argv": []}, "SCALABLE_RETRY_OF=run-"),
        ({"kind": "interactive", "argv": []}, "retry_of='run-"),
        ({"kind": "stdin", "argv": []}, "--command 'python program.py'"),
        ({"argv": ["x.py", "--password", "[redacted]"]}, "--password [redacted]"),
        ({"argv": ["x.py"], "cut": True}, "too long"),
        ({"argv": ["x.py"], "cwd": "/does/not/exist"}, "name it by --cwd"),
        ({"argv": None}, "--command"),
    ],
)
def test_a_program_that_cannot_be_started_again_is_explained(
    recorded: Path, command: dict[str, Any], message: str
) -> None:
    started_by(recorded, **command)
    done = CliRunner().invoke(cli, ["retry"])
    assert done.exit_code == 1
    assert message in done.output


def test_the_exit_code_is_that_of_the_program_and_arguments_are_added(recorded: Path) -> None:
    text = "import sys, os; print(sys.argv, os.environ['SCALABLE_RETRY_OF']); sys.exit(7)"
    started_by(recorded, kind="text", argv=["-c", text, "a"])
    done = run_command(Path.cwd(), "retry", "--", "--year", "2014")
    assert done.returncode == 7
    assert f"['-c', 'a', '--year', '2014'] {recorded.parent.name}" in done.stdout
    done = run_command(Path.cwd(), "retry", "--command", "sh -c 'kill -9 $$'")
    assert done.returncode == 128 + 9
    done = run_command(Path.cwd(), "retry", "--command", "no-such-program")
    assert done.returncode == 1
    assert "cannot be started" in done.stderr


def test_another_target_goes_before_that_of_the_recorded_command(recorded: Path) -> None:
    argv = ["-m", "scalable", "run", "--target=a", "s.py", "--run-id", "mine", "--", "--target=x"]
    started_by(recorded, kind="module", module="scalable", argv=argv)
    done = CliRunner().invoke(cli, ["retry", "--dry-run", "--json", "--target", "b", "--", "y"])
    assert json.loads(done.output)["command"] == [
        *(sys.executable, "-m", "scalable", "run", "s.py", "--", "--target=x", "y")
    ]


def test_a_run_that_is_being_recorded_is_not_retried(recorded: Path) -> None:
    started_by(recorded, argv=["-c", "raise SystemExit(0)"], kind="text")
    document = json.loads(recorded.read_text())
    document |= {"status": "running", "finished_at": None}
    recorded.write_text(json.dumps(document))
    from scalable_runs.reader import RunReader

    assert RunReader(recorded.parent).is_live, "the recorder is this process"
    done = CliRunner().invoke(cli, ["retry"])
    assert done.exit_code == 1
    assert "still being recorded" in done.output
    assert CliRunner().invoke(cli, ["retry", "--dry-run"]).exit_code == 0
