"""The checks of ``conftest.py`` see what a test leaves behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CONFTEST = Path(__file__).parents[1] / "conftest.py"

# Each leak ends with the inner pytest: nothing is left behind by this test itself.
PLANTED = """
import os, subprocess, sys, threading

left = []

def test_clean(tmp_path):
    (tmp_path / "file").write_text("")
    thread = threading.Thread(target=lambda: None, name="scalable-x")
    thread.start()
    thread.join()

def test_thread():
    threading.Thread(target=threading.main_thread().join, name="worker").start()

def test_daemon_thread_of_ours():
    threading.Thread(target=threading.Event().wait, name="scalable-x", daemon=True).start()

def test_daemon_thread_of_others():
    threading.Thread(target=threading.Event().wait, name="IO loop", daemon=True).start()

def test_process():
    code = "import sys; sys.stdin.read()"
    left.append(subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE))

def test_open_file(tmp_path):
    left.append((tmp_path / "tasks.jsonl").open("a"))

def test_open_file_that_was_deleted(tmp_path):
    left.append((tmp_path / "tasks.jsonl").open("a"))
    (tmp_path / "tasks.jsonl").unlink()

def test_open_directory(tmp_path):
    left.append(os.open(tmp_path, os.O_RDONLY))

def test_world(tmp_path):
    assert os.getcwd() == str(tmp_path)
    assert os.environ["SCALABLE_STRICT"] == "1"
    assert "SCALABLE_RUNS_DIR" not in os.environ
    assert "OTEL_SERVICE_NAME" not in os.environ
"""


def test_each_kind_of_leak_fails_its_test(tmp_path: Path, monkeypatch):
    text = CONFTEST.read_text()
    assert "GRACE = 10.0" in text
    (tmp_path / "conftest.py").write_text(text.replace("GRACE = 10.0", "GRACE = 0.3"))
    (tmp_path / "test_planted.py").write_text(PLANTED)
    monkeypatch.setenv("SCALABLE_RUNS_DIR", "elsewhere")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "elsewhere")
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", "--basetemp=base"],
        capture_output=True,
        text=True,
        check=False,
    )
    outcomes = {
        line.split("::")[1].split()[0]: line.split()[0]
        for line in result.stdout.splitlines()
        if "::" in line and line.split()[0] in ("PASSED", "ERROR")
    }
    assert {name for name, outcome in outcomes.items() if outcome == "ERROR"} == {
        "test_thread",
        "test_daemon_thread_of_ours",
        "test_process",
        "test_open_file",
        "test_open_file_that_was_deleted",
        "test_open_directory",
    }, result.stdout
    assert {"test_clean", "test_daemon_thread_of_others", "test_world"} <= set(outcomes)
