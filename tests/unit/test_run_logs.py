"""`scalable logs`: what is shown of a run's logs, and in which order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from run_builder import START, RunBuilder, address, at, failure, life, task
from scalable.analysis import LogChoice, RunLogs
from scalable.cli import cli
from scalable_runs.packed.pack import pack
from scalable_runs.reader import RunReader
from scalable_runs.redact import Redactor
from scalable_runs.task_logs import task_log

HOSTILE = "\x1b[31mred\x1b[0m \x1b]0;title\x07\x9b2Jend\u202e"


def printed(task_id: str, text: str, offset: float, stream: str = "stdout", **more: Any) -> Any:
    return {
        "event_type": "log",
        "timestamp": at(offset),
        "event_name": "dask.task.output",
        "body": text,
        "attributes": {
            "log.iostream": stream,
            "dask.task.key": task_id,
            "dask.task.name": task_id.partition("-")[0],
            "dask.task.attempt": 1,
            **more,
        },
        "scope": {"name": "scalable.output"},
        "resource": {"dask.worker.name": "0", "dask.worker.address": address(0)},
        "span_id": "00f067aa0ba902b7",
    }


def logged(text: str, offset: float, level: str = "INFO", number: int = 9, **more: Any) -> Any:
    return {
        "event_type": "log",
        "timestamp": at(offset),
        "severity_number": number,
        "severity_text": level,
        "body": text,
        "attributes": more,
        "scope": {"name": "mine"},
        "resource": {"dask.worker.name": "0"},
    }


def worker_log(path: Path, *lines: tuple[float, bytes]) -> None:
    """A worker's log, and when its lines were written."""
    folder = path / "logs" / "workers" / "0"
    folder.mkdir(parents=True)
    offset, times = 0, b""
    for when, line in lines:
        times += b"%d %.4f\n" % (offset, START.timestamp() + when)
        offset += len(line)
    (folder / "20260102T030405.000000Z.stderr.log").write_bytes(b"".join(it for _, it in lines))
    (folder / "20260102T030405.000000Z.stderr.log.times").write_bytes(times)


@pytest.fixture
def run(tmp_path: Path) -> RunBuilder:
    """A run with output of every kind, of which some arrived late."""
    run = RunBuilder(tmp_path / "runs", "run-20260102T030405Z-flights-00000001")
    run.add(*life("load-1", 1, 3), task("running", "clean-2", 2.0, worker=address(0)))
    run.add(logged("a record", 2.5, "WARNING", 13, **{"dask.task.key": "load-1"}))
    run.add(printed("load-1", "late\nbut early", 1.5))
    run.add(printed("clean-2", f"50 %\r100 % {HOSTILE}", 3.5, "stderr"))
    run.add(failure("ValueError", "no", 4.5, task_id="clean-2", attempt=1, will_retry=True))
    run.add(
        printed("clean-2", "second", 5.5, **{"dask.task.attempt": 2, "dask.output.left_out": 7})
    )
    worker_log(
        run.path,
        (0.5, b"worker begins\n"),
        (1.6, b"late\n"),
        (2.6, b"2026-01-02 03:04:07,600 - mine - WARNING - a record\n"),
        (4.6, b"from C password=planted-secret-1\n"),
        (6.5, b"no end"),
    )
    return run


def logs(path: Path, *arguments: str) -> Result:
    given = ["logs", str(path), *arguments]
    result: Result = CliRunner().invoke(cli, given, prog_name="scalable")
    return result


def said(result: Result) -> list[str]:
    """The lines without their times."""
    assert result.exit_code == 0, result.output
    return [" ".join(line.split()[1:]) for line in result.stdout.splitlines()]


EVERYTHING = [
    "worker 0 output worker begins",
    "load-1 stdout late",
    "load-1 stdout but early",
    "load-1 WARNING mine: a record",
    "clean-2 stderr 100 % red end",
    "clean-2 FAILED ValueError: no (will run again)",
    "worker 0 output from C password=planted-secret-1",
    "clean-2 #2 stdout [... 7 characters left out ...]",
    "clean-2 #2 stdout second",
    "worker 0 output no end",
]


def test_everything_is_shown_once_in_order_of_time_and_safe_for_a_terminal(run):
    path = run.finish(7)
    found = logs(path)
    assert said(found) == EVERYTHING
    assert found.stdout.isascii()
    assert "\x1b" not in found.stdout
    times = [line.split()[0] for line in found.stdout.splitlines()]
    assert times == sorted(times)
    assert times[1] == at(1.5)[:-4] + "Z"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--task", "load-1"], EVERYTHING[1:4]),
        (["--task", "load"], EVERYTHING[1:4]),
        (["--task", "load", "--attempt", "1"], EVERYTHING[1:4]),
        (["--task", "clean-2", "--attempt", "2"], EVERYTHING[7:9]),
        (["--level", "warning"], [EVERYTHING[3], EVERYTHING[5]]),
        (["--since", at(4)], EVERYTHING[5:]),
        (["-n", "2"], EVERYTHING[-3:]),
        (["--tail", "0"], []),
        (["--worker", "1"], []),
        (["--worker", address(0), "--task", "load"], EVERYTHING[1:3]),
    ],
)
def test_what_is_asked_for_is_shown(run, arguments, expected):
    assert said(logs(run.finish(7), *arguments)) == expected


def test_a_killed_and_a_packed_run_show_the_same(run):
    path = run.crash(7)
    assert said(logs(path)) == EVERYTHING
    run.finish(7)
    packed = pack(path)
    assert said(logs(packed)) == EVERYTHING


def test_json_is_one_object_a_line(run):
    found = [json.loads(line) for line in logs(run.finish(7), "--json").stdout.splitlines()]
    assert len(found) == 8
    assert found[1] == {
        "timestamp": at(1.5),
        "source": "task",
        "text": "late\nbut early",
        "stream": "stdout",
        "task_id": "load-1",
        "task_name": "load",
        "attempt": 1,
        "worker": "0",
        "span_id": "00f067aa0ba902b7",
    }
    assert found[3]["text"] == f"50 %\r100 % {HOSTILE}"
    assert found[-2]["left_out"] == 7


def test_a_task_that_there_is_not_is_an_error(run):
    path = run.finish(7)
    missing = logs(path, "--task", "nope")
    assert missing.exit_code == 1
    assert "no task like 'nope'" in missing.output
    nothing = logs(path, "--task", "load", "--attempt", "9")
    assert nothing.exit_code == 0
    assert "SCALABLE_TASK_OUTPUT=all" in nothing.stderr


def test_a_live_run_is_followed_until_its_end(run):
    log = run.path / "logs" / "workers" / "0" / "20260102T030405.000000Z.stderr.log"
    run.flush()
    followed = RunLogs(lambda: RunReader(run.path), LogChoice(), Redactor())
    assert followed.lines()[0].text == "worker begins"
    steps = iter(range(3))
    seen: list[str] = []

    def go_on() -> None:
        step = next(steps)
        if step == 0:
            run.add(printed("load-1", "news", 8))
            run.flush()
            with log.open("ab") as file:
                file.write(b" and more\nhalf")
        elif step == 1:
            # Secrets are removed when the run ends.
            clean = log.read_bytes().replace(b"planted-secret-1", b"[redacted]")
            log.write_bytes(clean)
            run.finish(9)

    for line in followed.follow(go_on):
        seen.append(line.text)
    assert seen == ["no end and more", "news", "half"]
    assert next(steps) == 2


def test_logs_of_live_workers_are_shown_without_secrets(run):
    run.flush()
    followed = RunLogs(lambda: RunReader(run.path), LogChoice(), Redactor())
    texts = [line.text for line in followed.lines()]
    assert "from C password=[redacted]" in texts
    run.finish(7)


def test_damaged_files_are_read_as_far_as_possible(run):
    path = run.finish(7)
    with (path / "logs.jsonl").open("ab") as file:
        file.write(b'\x00\x00{"torn\n[1]\n{"body": 3, "timestamp": "never"}\n{"bo')
    (path / "logs/workers/0/20260102T030405.000000Z.stderr.log.times").write_bytes(b"x y z\n")
    found = said(logs(path))
    assert found[3:] == EVERYTHING[1:6] + EVERYTHING[7:9]
    assert sorted(found) == sorted(EVERYTHING)


def test_names_of_files_are_plain_and_differ():
    names = [task_log(it, 1) for it in ("a-1", "a 1", "a/1", "../../x", "('a', 1)", "é" * 300, "")]
    assert names[0] == "logs/tasks/a-1.1.log"
    assert len(set(names)) == len(names)
    for name in names:
        assert Path(name).parent.as_posix() == "logs/tasks"
        assert name.isascii()
        assert len(Path(name).name) < 120
