"""Tracebacks of what was sent by value name the file or the cell, wherever they are shown."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest

SECRET = "hunter2-planted-in-source"

PROGRAM = """
import functools, logging, os, sys
from pathlib import Path
from distributed import Client, LocalCluster
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
import scalable

log = logging.getLogger("mine")

def deep(x):
    return 1 / x  # at: deep

def function(x):
    return deep(x)  # at: function

def caught(x):
    try:
        deep(x)
    except ZeroDivisionError as error:
        log.exception("it failed")  # at: logged
        raise ValueError("chained") from error  # at: caught

def decorate(function):
    @functools.wraps(function)
    def wrapper(x):
        return function(x)  # at: wrapper
    return wrapper

@decorate
def decorated(x):
    return deep(x)  # at: decorated

def outer(x):
    def nested(y):
        return deep(y)  # at: nested
    return nested(x)  # at: outer

class Model:
    def method(self, x):
        return deep(x)  # at: method

    def __call__(self, x):
        return deep(x)  # at: __call__

def grouped(x):
    errors = []
    for each in (1, 2):
        try:
            deep(x)  # at: grouped
        except ZeroDivisionError as error:
            errors.append(error)
    raise ExceptionGroup("many", errors)

def recursive(x):
    return recursive(x - 1) if x else deep(x)  # at: recursive

def spanned(x):
    with trace.get_tracer("mine").start_as_current_span("inner"):
        deep(x)  # at: spanned

async def coroutine(x):
    return deep(x)  # at: coroutine

def secretive(x):
    return login(password="hunter2-planted-in-source", count=1 / x)  # at: secretive

anonymous = lambda x: deep(x)  # at: <lambda>

if __name__ == "__main__":
    exporter = InMemorySpanExporter()
    options = {}
    if "thread" in sys.argv:
        options["tracer_provider"] = provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(exporter))
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=1, dashboard_address=None, silence_logs=60
        ) as cluster,
        Client(cluster) as client,
    ):
        with scalable.instrument(client, **options):
            # The file changes while it runs.
            Path(__file__).write_text("# another text" + "\\n" * 200)
            tasks = {
                "function": function, "caught": caught, "decorated": decorated, "outer": outer,
                "method": Model().method, "__call__": Model(), "grouped": grouped,
                "spanned": spanned, "coroutine": coroutine, "secretive": secretive,
                "<lambda>": anonymous, "partial": functools.partial(function, x=0),
            }
            futures = [
                client.submit(task, *(() if name == "partial" else (0,)), key=name)
                for name, task in tasks.items()
            ]
            futures.append(client.submit(recursive, 9, key="recursive"))
            for future in futures:
                future.exception()
    for span in exporter.get_finished_spans():
        for event in span.events:
            if event.name == "exception":
                print(span.name, event.attributes["exception.stacktrace"])
"""
#: The frames of each task.
FRAMES = {
    "function": ("function", "deep"),
    "caught": ("deep", "caught"),
    "decorated": ("wrapper", "decorated", "deep"),
    "outer": ("outer", "nested", "deep"),
    "method": ("method", "deep"),
    "__call__": ("__call__", "deep"),
    "grouped": ("grouped", "deep"),
    "spanned": ("spanned", "deep"),
    "coroutine": ("coroutine", "deep"),
    "secretive": ("secretive",),
    "<lambda>": ("<lambda>", "deep"),
    "partial": ("function", "deep"),
    "recursive": ("recursive", "deep"),
}


def frames_of(text: str, file: str) -> dict[str, str]:
    """Each marked line of a source, as a traceback shows it."""
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        code, mark, name = line.partition("  # at: ")
        if mark:
            found[name] = f'File "{file}", line {number}, in {name}\n{code.strip()}  # at: {name}'
    return found


def flat(text: str) -> str:
    """A traceback without indentation, and lines of groups."""
    return "\n".join(line.strip(" |+") for line in text.splitlines())


def run_program(*command: str, cwd: Path) -> str:
    env = {**os.environ, "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, *command], cwd=cwd, env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def read(run: Path, file: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / file).read_text().splitlines()]


def runs_below(directory: Path) -> list[Path]:
    found = (directory / ".scalable" / "runs").glob("run-*")
    return sorted(found, key=lambda run: json.loads((run / "run.json").read_text())["started_at"])


def tracebacks(run: Path) -> dict[str | None, str]:
    return {
        it.get("task_id"): flat(it["details"]["traceback"]) for it in read(run, "failures.jsonl")
    }


@pytest.mark.parametrize("how", [("script.py", "thread"), ("-m", "script")])
def test_each_traceback_of_a_program_names_its_file(how, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(PROGRAM)
    printed = run_program(*how, cwd=tmp_path)
    (run,) = runs_below(tmp_path)
    lines = frames_of(PROGRAM, str(script))
    shown = tracebacks(run)
    for task, names in FRAMES.items():
        for name in names:
            expected = lines[name]
            if task == "secretive":
                assert expected.splitlines()[0] in shown[task]
            else:
                assert expected in shown[task], task
    assert "[Previous line repeated" in shown["recursive"]
    assert "direct cause" in shown["caught"]
    assert all("<dynamic-code>" not in text for text in shown.values())
    # A log record with an exception, and the line that made it.
    (record,) = [it for it in read(run, "logs.jsonl") if it.get("body") == "it failed"]
    attributes = record["attributes"]
    assert lines["deep"] in flat(attributes["exception.stacktrace"])
    assert attributes["code.file.path"] == str(script)
    # A span of user code, of whose exception only the text was known.
    spans = read(run, "spans.jsonl")
    (inner,) = [it for it in spans if it["name"] == "inner"]
    assert lines["spanned"] in flat(json.dumps(inner).encode().decode("unicode_escape"))
    # What was exported.
    if "thread" in how:
        exported = flat(printed)
        for names in FRAMES.values():
            for name in names:
                assert lines[name].splitlines()[0] in exported
        assert "<dynamic-code>" not in exported
        assert SECRET not in printed
    # What people read.
    for command in ("report", "diagnose"):
        said = run_program("-m", "scalable", command, str(run), cwd=tmp_path)
        assert str(script) in said
        assert "<dynamic-code>" not in said
    for file in run.rglob("*"):
        if file.is_file():
            assert SECRET.encode() not in file.read_bytes(), file


CELLS = [
    """
    import pathlib, time
    from distributed import Client, LocalCluster
    import scalable
    go = str(pathlib.Path("go").absolute())
    cluster = LocalCluster(n_workers=1, threads_per_worker=3, dashboard_address=None)
    client = Client(cluster)
    run = scalable.instrument(client)
    """,
    """
    def bad(x):
        return 1 / x  # first

    def waits(path):
        while not pathlib.Path(path).exists():
            time.sleep(0.01)
        return bad(0)  # old
    """,
    """
    first = client.submit(waits, go, key="old")
    """,
    """
    def bad(x):
        return 2 / x  # second

    def waits(path):
        while not pathlib.Path(path).exists():
            time.sleep(0.02)
        return bad(0)  # new
    """,
    """
    second = client.submit(waits, go, key="new")
    third = client.submit(lambda x: 3 / x, 0, key="lambda")
    third.exception()
    pathlib.Path(go).touch()
    first.exception(), second.exception()
    run.close()
    client.close(); cluster.close()
    """,
    """
    cluster = LocalCluster(n_workers=1, processes=False, dashboard_address=None)
    client = Client(cluster)
    try:
        with scalable.instrument(client):
            client.submit(bad, 0, key="here").exception()
            bad(0)
    except ZeroDivisionError:
        pass
    client.close(); cluster.close()
    """,
]


def test_each_traceback_of_a_notebook_names_its_cell(tmp_path):
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(textwrap.dedent(cell).strip()) for cell in CELLS]
    )
    where = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3", resources=where).execute()
    first, second = runs_below(tmp_path)
    shown = tracebacks(first)
    # The cell was run again with other code on the same lines while its task waited.
    assert 'File "In [2]", line 7, in waits\nreturn bad(0)  # old' in shown["old"]
    assert 'File "In [2]", line 2, in bad\nreturn 1 / x  # first' in shown["old"]
    assert 'File "In [4]", line 7, in waits\nreturn bad(0)  # new' in shown["new"]
    assert 'File "In [4]", line 2, in bad\nreturn 2 / x  # second' in shown["new"]
    assert 'File "In [5]", line 2, in <lambda>\nthird = client.submit' in shown["lambda"]
    # A failure in the program itself, and one of a worker in its process.
    here = tracebacks(second)
    assert 'File "In [4]", line 2, in bad\nreturn 2 / x  # second' in here["here"]
    assert 'File "In [6]", line 6, in <module>\nbad(0)' in here[None]
    spans = [it["attributes"] for it in read(second, "spans.jsonl")]
    assert {it["code.file.path"] for it in spans if "code.file.path" in it} == {"In [6]"}
    for command in ("report", "diagnose"):
        said = run_program("-m", "scalable", command, str(first), cwd=tmp_path)
        # Of several failures of one kind the first is shown.
        assert "In [5]:2 in <lambda>" in said
        assert "ipykernel_" not in said
