"""Diagnoses of runs as a recorder leaves them: finished, crashed, live and of an older tool."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import run_builder as build
from scalable import diagnose_run
from scalable.analysis import render_json, render_text
from scalable.analysis.diagnose import Diagnosis, Finding, observations
from scalable.analysis.prose import Endpoint, with_prose
from scalable.causes import Case, classify
from scalable.cli import cli

PARSE = build.TRACEBACK


def run_at(tmp_path: Path, name: str = "run-20260102T030405Z-x-0000aaaa", **changes: Any):
    return build.RunBuilder(tmp_path / "runs", name, **changes)


def only(diagnosis: Diagnosis, category: str) -> Finding:
    found = [finding for finding in diagnosis.findings if finding.category == category]
    assert len(found) == 1, [(f.category, f.title) for f in diagnosis.findings]
    return found[0]


def errors(diagnosis: Diagnosis) -> list[Finding]:
    return [f for f in diagnosis.findings if f.severity in ("critical", "error")]


def fail(run, task_id: str, offset: float, error: str, message: str, number: int = 0, **more: Any):
    """One attempt that raised for good."""
    run.add(
        build.task("submitted", task_id, offset - 1, **more.pop("submitted", {})),
        build.task("running", task_id, offset - 0.5, worker=build.address(number)),
        build.failure(
            error, message, offset, task_id=task_id, worker=build.address(number), **more
        ),
        build.task(
            "failed",
            task_id,
            offset,
            worker=build.address(number),
            duration_s=0.5,
            error_type=error,
            error_message=message,
        ),
    )


def test_thirteen_failures_of_one_root_are_one_finding_with_its_pattern(tmp_path):
    run = run_at(tmp_path)
    run.add(*(build.worker("ready", n, 0, host=f"node-{n}") for n in range(3)))
    for i in range(30):
        run.add(*build.life(f"parse-row-{i:032x}", 1, 0.1, number=i % 3))
    for i in range(100, 113):
        message = f"could not convert string to float: 'NA{i}'"
        fail(run, f"parse-row-{i:032x}", 5 + i / 100, "ValueError", message, 2, traceback=PARSE)
        run.add(
            build.task(
                "failed",
                f"mean-{i}",
                7,
                attempt=0,
                blame=f"parse-row-{i:032x}",
                error_type="ValueError",
                error_message=message,
            )
        )
    found = errors(diagnose_run(run.finish(10, "failed")))
    assert [finding.category for finding in found] == ["input_validation"]
    (finding,) = found
    assert finding.severity == "error"
    assert finding.count == 13
    assert finding.evidence.task_names == {"parse-row": 13}
    assert finding.evidence.workers == {build.address(2): 13}
    assert finding.evidence.hosts == {"node-2": 13}
    assert finding.evidence.first_at is not None
    assert any("all 13 on host node-2" in said for said in finding.evidence.sentences)
    assert any("13 of 43 tasks" in said for said in finding.evidence.sentences)
    assert [(c.count, c.title) for c in finding.consequences] == [
        (13, "13 tasks failed because of them")
    ]


def test_two_roots_of_one_cause_are_two_findings(tmp_path):
    run = run_at(tmp_path)
    fail(run, "a-1", 5, "ValueError", "bad", traceback=PARSE)
    fail(run, "b-1", 5, "ValueError", "bad", traceback=PARSE.replace("line 41", "line 77"))
    assert len(errors(diagnose_run(run.finish(10, "failed")))) == 2


def test_inputs_and_durations_that_differ_are_named(tmp_path):
    run = run_at(tmp_path)
    run.add(*(build.worker("ready", n, 0, host="here") for n in range(2)))
    for i in range(8):
        run.add(*build.life(f"load-{i:032x}", 1, 0.1, nbytes=10**9 if i >= 6 else 10**6))
        task_id = f"fit-{i:032x}"
        inputs = {"dependencies": [f"load-{i:032x}"], "dependency_count": 1}
        if i >= 6:
            fail(run, task_id, 5, "ValueError", "no", 0, submitted=inputs, traceback=PARSE)
            continue
        submitted, running, done = build.life(task_id, 2, 0.02)
        run.add({**submitted, **inputs}, running, done)
    (finding,) = errors(diagnose_run(run.finish(10, "failed")))
    said = " / ".join(finding.evidence.sentences)
    assert "they had inputs of 1.00 GB on average, those that succeeded 1 MB" in said
    assert "they ran 500 ms on average, those that succeeded 20.0 ms" in said


def test_what_a_retry_made_good_is_a_lesser_finding(tmp_path):
    run = run_at(tmp_path)
    for i in range(3):
        task_id = f"fetch-{i:032x}"
        run.add(build.task("submitted", task_id, 1), build.task("running", task_id, 1))
        run.add(
            build.failure(
                "ConnectionError", "refused", 2, task_id=task_id, will_retry=True, attempt=1
            ),
            build.task("retried", task_id, 2, error_type="ConnectionError"),
            build.task("running", task_id, 3, attempt=2),
            build.task("succeeded", task_id, 3.5, attempt=2, duration_s=0.5),
        )
    finding = only(diagnose_run(run.finish(10)), "connection")
    assert finding.severity == "info"
    assert finding.count == 3
    assert "Retries helped" in finding.suggestion


def death(run, number: int, offset: float, tasks: list[str], **details: Any) -> None:
    run.add(build.worker("lost", number, offset, **details))
    run.add(
        build.failure(
            "WorkerLost",
            f"worker {number} was lost",
            offset,
            phase="worker_lost",
            worker=build.address(number),
            worker_id=str(number),
            tasks=tasks,
            **details,
        )
    )


def test_a_lost_worker_is_shown_with_cause_tasks_memory_and_last_output(tmp_path):
    run = run_at(tmp_path)
    run.add(build.worker("ready", 0, 0, host="node-0"))
    death(
        run,
        0,
        5,
        ["big-1"],
        host="node-0",
        signal="SIGTERM",
        exit_code=-15,
        reason="memory-limit",
        memory_kill=True,
        memory_bytes=14_200_000_000,
        memory_limit_bytes=16_000_000_000,
        memory_samples=[[1.0, 2_000_000_000], [11.0, 14_200_000_000]],
        stderr_tail="loading tile 7\nloading tile 8\n",
        stderr_path="logs/workers/0/20260102T030405Z.stderr.log",
    )
    log = run.path / "logs/workers/0/20260102T030405Z.stderr.log"
    log.parent.mkdir(parents=True)
    log.write_text("loading tile 7\nloading tile 8\n")
    finding = only(diagnosis := diagnose_run(run.finish(10)), "memory_limit")
    assert finding.confidence == "high"
    assert "Peak 14.2 GB of a limit of 16.0 GB, needs at least 20.0 GB" in finding.suggestion
    text = render_text(diagnosis)
    for words in ("SIGTERM", "node-0", "big-1", "loading tile 8", "2.00 GB 10.0 s before"):
        assert words in " ".join(text.split()), text
    assert "logs/workers/0/20260102T030405Z.stderr.log" in finding.evidence.files
    assert f"scalable crash-logs show 0 --run-id {run.path.name}" in " ".join(text.split())
    log.unlink()
    gone = diagnose_run(run.path)
    assert only(gone, "memory_limit").evidence.files == ("failures.jsonl", "workers.jsonl")
    assert "crash-logs" not in render_text(gone)


def test_the_stack_of_a_crash_names_its_culprit(tmp_path):
    """Beside a task that was there at a death of another cause, and ran alone at that one."""
    run = run_at(tmp_path)
    run.add(*(build.worker("ready", n, 0) for n in range(3)))
    stack = (
        "Fatal Python error: Segmentation fault\n\n"
        "Current thread 0x00007f1a (most recent call first):\n"
        '  File "/usr/lib/python3.11/ctypes/__init__.py", line 517 in string_at\n'
        '  File "model.py", line 8 in solve\n'
        '  File "/usr/lib/python3.11/threading.py", line 1045 in run\n\n'
        "Thread 0x00007f1b (most recent call first):\n"
        '  File "model.py", line 3 in hog\n'
    )
    crash = {"signal": "SIGSEGV", "exit_code": -11, "stderr_tail": stack}
    death(run, 0, 3, ["solve-1", "fine-1"], **crash)
    death(run, 1, 4, ["hog-1", "solve-1"], **crash)
    death(run, 2, 5, ["hog-1"], signal="SIGTERM", exit_code=-15, reason="memory-limit")
    diagnosis = diagnose_run(run.finish(10, "failed"))
    segfault = only(diagnosis, "segfault")
    assert segfault.evidence.culprits == (
        "likely culprit: solve-1, which ran at 2 deaths; its code is on the stack of the crash",
        "likely innocent: fine-1, hog-1, running beside it",
    )
    assert [frame.where() for frame in segfault.evidence.frames] == [
        "model.py:8 in solve",
        "/usr/lib/python3.11/ctypes/__init__.py:517 in string_at",
    ]


def test_failures_of_killed_tasks_are_listed_under_the_deaths_with_culprit_and_innocent(tmp_path):
    run = run_at(tmp_path)
    run.add(*(build.worker("ready", n, 0) for n in range(3)))
    death(run, 0, 3, ["crash-1", "fine-1"], signal="SIGSEGV", exit_code=-11)
    death(run, 1, 4, ["crash-1"], signal="SIGSEGV", exit_code=-11)
    run.add(
        build.failure("KilledWorker", "Attempted …", 4, task_id="crash-1", worker=build.address(1)),
        build.task("submitted", "after-1", 1),
        build.task("failed", "after-1", 4, attempt=0, blame="crash-1"),
    )
    diagnosis = diagnose_run(run.finish(10, "failed"))
    assert [finding.category for finding in diagnosis.findings] == ["segfault"]
    (finding,) = diagnosis.findings
    assert finding.count == 2
    assert finding.evidence.culprits == (
        "likely culprit: crash-1, which ran at 2 deaths, once alone",
        "likely innocent: fine-1, running beside it",
    )
    assert "1 task failed with KilledWorker" in [c.title for c in finding.consequences]


def test_the_programs_own_end_repeats_no_failure_of_a_task(tmp_path):
    run = run_at(tmp_path)
    fail(run, "a-1", 5, "ValueError", "bad", traceback=PARSE)
    run.add(build.failure("ValueError", "bad", 6, phase="run", traceback=PARSE))
    assert len(errors(diagnose_run(run.finish(10, "failed")))) == 1
    other = run_at(tmp_path, "run-20260102T030405Z-x-0000bbbb")
    other.add(build.failure("FileNotFoundError", "[Errno 2] x", 6, phase="run"))
    (finding,) = errors(diagnose_run(other.finish(10, "failed")))
    assert (finding.severity, finding.category) == ("critical", "missing_file")


def test_a_crashed_run_shows_what_was_running(tmp_path):
    run = run_at(tmp_path)
    build.eventful(run)
    diagnosis = diagnose_run(run.crash(9))
    assert diagnosis.status == "lost"
    finding = diagnosis.findings[0]
    assert (finding.severity, finding.category) == ("critical", "unfinished")
    assert "model-1" in finding.evidence.task_ids


def test_where_nothing_failed(tmp_path):
    run = run_at(tmp_path)
    run.add(*(build.worker("ready", n, 0) for n in range(4)))
    for i in range(40):
        run.add(*build.life(f"work-{i:032x}", 1, 0.2, number=0 if i % 2 else i % 4))
    run.add(*build.life(f"work-{99:032x}", 1, 9.0, number=0))
    run.add(
        build.usage(1, 5, 3.6),
        build.task("running", f"work-{1:032x}", 6, reopens="succeeded", recomputed=True, attempt=2),
        build.task("succeeded", f"work-{1:032x}", 7, recomputed=True, attempt=2, duration_s=0.1),
        *build.life("shuffle-1", 2, 1.0, number=1, transfer_s=20.0),
        build.worker("removed", 2, 9, spilled_bytes=3 * 10**9),
    )
    diagnosis = diagnose_run(run.finish(10))
    categories = {finding.category for finding in diagnosis.findings}
    expected = {"memory_pressure", "spilling", "straggler", "skew", "recomputation", "transfer"}
    assert expected <= categories, categories
    assert "3.60 GB of a limit of 4.00 GB" in only(diagnosis, "memory_pressure").suggestion
    assert all(finding.suggestion for finding in diagnosis.findings)


def test_workers_closed_at_work_are_reported_but_not_as_deaths(tmp_path):
    run = run_at(tmp_path)
    run.add(
        *(build.worker("ready", n, 0) for n in range(3)),
        build.worker("removed", 0, 2, reason="close-worker", tasks_running=2),
        build.worker("removed", 1, 3, reason="worker-lifetime-reached", tasks_running=1),
        build.worker("removed", 2, 4, reason="scheduler-close", tasks_running=1),
    )
    diagnosis = diagnose_run(run.finish(5))
    assert {finding.category: finding.severity for finding in diagnosis.findings} == {
        "cancelled": "warning",
        "walltime": "warning",
    }
    assert "2 attempts ran there" in only(diagnosis, "cancelled").title


def test_tasks_too_small_and_a_driver_that_is_the_bottleneck(tmp_path):
    run = run_at(tmp_path)
    run.add(build.worker("ready", 0, 0))
    for i in range(1_200):
        run.add(*build.life(f"tiny-{i:032x}", 1 + i / 60, 0.001))
    categories = {finding.category for finding in diagnose_run(run.finish(30)).findings}
    assert categories == {"small_tasks", "driver_bound"}


def test_nothing_to_find_is_reported(tmp_path):
    run = run_at(tmp_path)
    run.add(build.worker("ready", 0, 0), *build.life("a-1", 1, 1.0))
    diagnosis = diagnose_run(run.finish(3))
    assert diagnosis.findings == ()
    assert diagnosis.summary.endswith("Nothing stands out.")


def test_hostile_records_do_no_harm(tmp_path):
    run = run_at(tmp_path)
    run.add(
        {"event_type": "failure", "timestamp": build.at(1), "failure_class": 7, "details": []},
        {"event_type": "failure", "timestamp": 5, "failure_class": "WorkerLost", "message": None},
        build.failure("\x1b[31mX", "\x1b]0;evil\x07text", 2, task_id="\x1b[2Jt", tasks=[1, None]),
        build.worker("lost", 0, 3, memory_samples=[["x"], 3], exit_code="x"),
    )
    diagnosis = diagnose_run(run.finish(5))
    text = render_text(diagnosis)
    assert "\x1b" not in text
    json.dumps(render_json(diagnosis))


def old_run(directory: Path, *, with_failures: bool) -> Path:
    """As the tool before this one wrote it: no seq, whole seconds, no details."""
    path = directory / "run-20251121T163303Z-old-3fbef279"
    path.mkdir(parents=True)
    base = {"schema_version": 1, "run_id": path.name, "timestamp": "2025-11-21T16:33:03Z"}
    tasks = [
        {**base, "event_type": "task", "task_id": f"t{i}", "task_name": f"slow[{i}]",
         "state": state, "error_type": error, "error_message": "bad input 7" if error else None}
        for i in range(2)
        for state, error in (("submitted", None), ("running", None), ("failed", "ValueError"))
    ]  # fmt: skip
    (path / "tasks.jsonl").write_text("".join(json.dumps(task) + "\n" for task in tasks))
    if with_failures:
        rows = [
            {**base, "event_type": "failure", "failure_class": "ValueError", "task_id": f"t{i}",
             "message": "bad input 7", "details": {}}
            for i in range(2)
        ]  # fmt: skip
        (path / "failures.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = {**base, "project_name": "old", "status": "failed", "started_at": base["timestamp"]}
    (path / "run.json").write_text(json.dumps(run))
    return path


@pytest.mark.parametrize("with_failures", [True, False])
def test_a_run_of_an_older_tool(tmp_path, with_failures):
    finding = only(diagnose_run(old_run(tmp_path, with_failures=with_failures)), "input_validation")
    assert finding.count == 2


def test_the_command(tmp_path, monkeypatch):
    run = run_at(tmp_path)
    fail(run, "a-1", 5, "ValueError", "bad", traceback=PARSE)
    path = run.finish(10, "failed")
    monkeypatch.setenv("SCALABLE_RUNS_DIR", str(path.parent))
    runner = CliRunner()
    text = runner.invoke(cli, ["diagnose"])
    assert text.exit_code == 0, text.output
    assert "Unexpected input: 1 task failed (ValueError)" in text.output
    assert "What to do:" in text.output
    document = json.loads(runner.invoke(cli, ["diagnose", "--format", "json"]).output)
    assert document["findings"][0]["category"] == "input_validation"
    assert document["findings"][0]["evidence"]["task_ids"] == ["a-1"]
    written = runner.invoke(cli, ["diagnose", "--output", "d.txt", "--no-ai"])
    assert written.exit_code == 0
    assert "What to do:" in Path("d.txt").read_text()
    assert runner.invoke(cli, ["diagnose", "--latest", "--run-id", "x"]).exit_code == 2
    assert runner.invoke(cli, ["diagnose", "--run-id", "none"]).exit_code == 1


def test_a_diagnosis_needs_neither_dask_nor_opentelemetry(tmp_path):
    run = run_at(tmp_path)
    fail(run, "a-1", 5, "ValueError", "bad", traceback=PARSE)
    path = run.finish(10, "failed")
    program = (
        "import sys, scalable.ai; from scalable import diagnose_run;"
        f"diagnose_run(run_dir={str(path)!r}, no_ai=True);"
        "print([m for m in ('dask', 'distributed', 'opentelemetry') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


# -- a model's words ------------------------------------------------------------------------------


class Model(ThreadingHTTPServer):
    """Answers as it is told to, and keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.answer: tuple[int, bytes, dict[str, str]] = (200, b"", {})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Model

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, dict(self.headers), body))
        status, answer, headers = self.server.answer
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def model() -> Iterator[Model]:
    with Model() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def words(text: str) -> bytes:
    return json.dumps({"choices": [{"message": {"content": text}}]}).encode()


def failed_run(tmp_path: Path) -> Path:
    run = run_at(tmp_path)
    fail(run, "a-1", 5, "ValueError", "login failed: password=hunter2hunter2", traceback=PARSE)
    return run.finish(10, "failed")


def test_prose_is_asked_for_redacted_and_shown(tmp_path, model, monkeypatch):
    path = failed_run(tmp_path)
    model.answer = (200, words("The rows are bad."), {})
    monkeypatch.setenv("SCALABLE_AI_BASE_URL", model.url)
    monkeypatch.setenv("SCALABLE_AI_MODEL", "small")
    monkeypatch.setenv("SCALABLE_AI_API_KEY", "key-of-the-model")
    assert diagnose_run(path).prose is None
    assert model.asked == []
    assert diagnose_run(path, no_ai=False).prose == "The rows are bad."
    ((where, headers, body),) = model.asked
    assert where == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer key-of-the-model"
    assert body["model"] == "small"
    sent = json.dumps(body)
    assert "ValueError" in sent
    assert "hunter2" not in sent
    monkeypatch.setenv("SCALABLE_RUNS_DIR", str(path.parent))
    shown = CliRunner().invoke(cli, ["diagnose", "--ai"])
    assert "The rows are bad." in shown.output


@pytest.mark.parametrize(
    "answer",
    [
        (500, b"no", {}),
        (200, b"<html>", {}),
        (200, b'{"choices": []}', {}),
        (200, b"[1]", {}),
        (302, b"", {"Location": "http://127.0.0.1:9/elsewhere"}),
    ],
    ids=["error", "html", "empty", "array", "redirect"],
)
def test_a_model_that_fails_leaves_the_plain_text_and_one_line(tmp_path, model, answer):
    model.answer = answer
    plain = diagnose_run(failed_run(tmp_path))
    tried = with_prose(plain, Endpoint(model.url, "small"))
    assert tried.prose is None
    assert tried.findings == plain.findings
    assert len(tried.notes) == len(plain.notes) + 1
    assert "\n" not in tried.notes[-1]


def test_an_unreachable_model_costs_one_line(tmp_path, monkeypatch):
    path = failed_run(tmp_path)
    monkeypatch.setenv("SCALABLE_RUNS_DIR", str(path.parent))
    missing = CliRunner().invoke(cli, ["diagnose", "--ai"])
    assert missing.exit_code == 0
    assert "SCALABLE_AI_BASE_URL" in missing.output
    monkeypatch.setenv("SCALABLE_AI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("SCALABLE_AI_MODEL", "small")
    unreachable = CliRunner().invoke(cli, ["diagnose", "--ai"])
    assert unreachable.exit_code == 0
    assert "cannot be reached" in unreachable.output
    assert "What to do:" in unreachable.output


# -- large runs -----------------------------------------------------------------------------------


def test_memory_does_not_grow_with_the_number_of_tasks(tmp_path):
    """Many tasks and failures: counted in memory, not in time."""
    run = run_at(tmp_path)
    run.add(*(build.worker("ready", n, 0) for n in range(4)))
    for i in range(20_000):
        run.add(*build.life(f"work-{i:032x}", 1, 0.01, number=i % 4))
    for i in range(100):
        message = "x" * 200 + f" {i}"
        fail(run, f"bad-{i:032x}", 5, "ValueError", message, traceback=PARSE)
    path = run.crash(9)
    program = (
        "import resource, sys; from scalable import diagnose_run;"
        f"d = diagnose_run({str(path)!r});"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, d.findings[-1].count,"
        " max(f.count for f in d.findings))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    peak, _, most = done.stdout.split()
    assert int(most) == 100
    # A forked child starts with what its parent had: only what is beyond that is ours.
    assert int(peak) < max(150_000, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + 50_000)


def test_many_thousands_of_kinds_of_failures_are_a_bounded_number_of_findings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[Case] = []
    monkeypatch.setattr(
        observations, "classify", lambda case: judged.append(case) or classify(case)
    )
    run = run_at(tmp_path)
    for number in range(6_000):
        run.add(build.failure(f"pkg.Error{number}", f"text {number}", 1, task_id=f"f-{number}"))
    run.add(build.failure("ValueError", "x" * 5_000_000, 2, task_id="g", traceback="y" * 5_000_000))
    found = diagnose_run(run.finish(3, status="failed"))
    assert len(judged) <= 5_000
    assert all(len(case.message) < 30_000 and len(case.traceback) < 30_000 for case in judged)
    assert len(found.findings) <= 2 * observations.MAX_GROUPS
    assert sum(one.count for one in found.findings if one.severity == "error") >= 2_000
