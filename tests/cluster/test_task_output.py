"""What tasks print is kept with the attempt that printed it."""

from __future__ import annotations

import contextlib
import contextvars
import ctypes
import io
import logging
import os
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest
from distributed import Client

import scalable
from cluster import oracle
from cluster.tasks import wait_until


def texts(run: Any) -> dict[str, str]:
    """Content of the files of attempts, by name."""
    return {path.name: path.read_text() for path in (run.run_dir / "logs" / "tasks").glob("*.log")}


def printed(run: Any) -> list[dict[str, Any]]:
    path = Path(run.run_dir) / "logs.jsonl"
    found = oracle.read(run.run_dir, "logs.jsonl") if path.exists() else []
    return [it for it in found if it.get("event_name") == "dask.task.output"]


def talk(fails: bool = False) -> str:
    print("to stdout")
    sys.stderr.write("to stderr\n")
    print("api_key=planted-secret-value")
    warnings.warn(f"careful {fails}", stacklevel=1)
    logging.getLogger("of.the.user").warning("logged")
    context = contextvars.copy_context()
    thread = threading.Thread(target=lambda: context.run(print, "from a thread of the task"))
    thread.start()
    thread.join()
    print("no newline at the end", end="")
    if fails:
        raise ValueError("no")
    return "done"


async def coroutine(name: str) -> None:
    import asyncio

    print(name, "began")
    await asyncio.sleep(0.05)
    print(name, "ends")
    raise RuntimeError(name)


def test_the_output_of_failed_attempts_is_kept_and_no_other(make_cluster):
    _, client = make_cluster(n_workers=1)
    with scalable.instrument(client) as run:
        client.submit(talk, key="well").result()
        failing = client.submit(talk, True, key="bad", retries=1)
        both = [client.submit(coroutine, name, key=name) for name in ("left", "right")]
        assert isinstance(failing.exception(), ValueError)
        for future in both:
            assert isinstance(future.exception(), RuntimeError)
    found = texts(run)
    assert set(found) == {"bad.1.log", "bad.2.log", "left.1.log", "right.1.log"}
    assert found["left.1.log"] == "left began\nleft ends\n"
    assert found["right.1.log"] == "right began\nright ends\n"
    lines = found["bad.1.log"].splitlines()
    assert lines[:2] == ["to stdout", "to stderr"]
    assert "UserWarning: careful True" in found["bad.1.log"]
    assert lines[-3:] == ["logged", "from a thread of the task", "no newline at the end"]
    assert "planted-secret" not in str(
        [path.read_text() for path in run.run_dir.rglob("*.*") if path.is_file()]
    )

    attempts = [
        it for it in oracle.read(run.run_dir, "tasks.jsonl") if it["state"] in ("retried", "failed")
    ]
    spans = {(it["task_id"], it["attempt"]): it["span_id"] for it in attempts}
    records = printed(run)
    assert {it["attributes"]["dask.task.key"] for it in records} == {"bad", "left", "right"}
    for it in records:
        of = it["attributes"]["dask.task.key"], it["attributes"]["dask.task.attempt"]
        assert it["span_id"] == spans[of]
        assert it["resource"]["dask.worker.address"]
    first = [it for it in records if it["span_id"] == spans["bad", 1]]
    assert [(it["attributes"]["log.iostream"], it["body"]) for it in first][:2] == [
        ("stdout", "to stdout"),
        ("stderr", "to stderr"),
    ]
    # The record of the logger is there already.
    assert not any("logged" in it["body"] for it in first)
    assert [it["timestamp"] for it in first] == sorted(it["timestamp"] for it in first)


def loud(lines: int) -> int:
    for number in range(lines):
        print(f"line {number}", "x" * 70)
    return lines


def test_all_output_is_kept_if_asked_for_and_bounded(make_cluster):
    _, client = make_cluster(n_workers=1, threads=4)
    with scalable.instrument(client, task_output="all") as run:
        few = [client.submit(loud, 1 + number, key=f"few-{number}") for number in range(8)]
        assert client.gather(few) == list(range(1, 9))
        flood = client.submit(loud, 50_000, key=("flood", 1))
        assert flood.result() == 50_000
    found = texts(run)
    assert len(found) == 9
    for number in range(8):
        assert found[f"few-{number}.1.log"].count("\n") == 1 + number
    (flooded,) = [text for name, text in found.items() if name.startswith("flood-1-")]
    assert len(flooded) < 70_000
    assert flooded.startswith("line 0 x")
    assert flooded.endswith(f"line 49999 {'x' * 70}\n")
    head, _, tail = flooded.partition("[... ")
    left_out = int(tail.partition(" ")[0].replace(",", ""))
    assert left_out + len(head) + len(tail.partition("...]\n")[2]) == pytest.approx(
        sum(len(f"line {number} ") + 71 for number in range(50_000)), abs=80
    )
    whole = [it for it in printed(run) if it["attributes"]["dask.task.key"] == "('flood', 1)"]
    assert sum(it["attributes"].get("dask.output.left_out", 0) for it in whole) == left_out


def test_nothing_is_kept_if_it_is_off(make_cluster):
    _, client = make_cluster(n_workers=1)
    with scalable.instrument(client, task_output="off") as run:
        assert client.submit(talk, True, key="bad").exception() is not None
    assert texts(run) == {}
    assert printed(run) == []


class Strict(io.TextIOWrapper):
    """A stream with its own method to write."""

    def write(self, text: str) -> int:
        return super().write(text.upper())


def hostile() -> dict[str, Any]:
    class Text(str):
        def __len__(self) -> int:
            raise RuntimeError("a hostile text")

        __getitem__ = __iter__ = __str__ = None  # type: ignore[assignment]

    found: dict[str, Any] = {"tty": sys.stdout.isatty(), "fd": sys.stdout.fileno()}
    found["types"] = type(sys.stdout).__name__, sys.stdout.encoding, sys.stdout.errors
    found["written"] = sys.stdout.write("seven\n\n")
    sys.stdout.write(Text("a hostile text\n"))
    sys.stdout.writelines(["one\n", "two\n"])
    print("ä€😀 \x1b[31mred\x1b[0m \x00 nul")
    for wrong in (b"bytes", None, 3):
        with contextlib.suppress(TypeError):
            sys.stdout.write(wrong)  # type: ignore[arg-type]
    with contextlib.suppress(UnicodeEncodeError):
        print("a lone surrogate \ud800")
    with contextlib.redirect_stdout(io.StringIO()) as elsewhere:
        print("redirected")
    found["redirected"] = elsewhere.getvalue()
    found["own"] = "write" in vars(sys.stdout)
    raise ValueError(repr(found))


def test_streams_stay_what_they_are(make_cluster):
    _, client = make_cluster(n_workers=1)

    def bare() -> tuple[Any, ...]:
        return (
            type(sys.stdout).__name__,
            sys.stdout.encoding,
            sys.stdout.errors,
            vars(sys.stdout).get("write"),
        )

    (before,) = client.run(bare).values()
    with scalable.instrument(client) as run:
        error = client.submit(hostile, key="hostile").exception()
    found = eval(str(error))
    assert found["types"] == before[:3]
    assert (found["fd"], found["written"], found["redirected"]) == (1, 7, "redirected\n")
    assert found["own"]
    assert before[3] is None
    (text,) = texts(run).values()
    assert text.startswith("seven\n\na hostile text\none\ntwo\n")
    assert "ä€😀 \x1b[31mred\x1b[0m \x00 nul\n" in text
    assert "redirected" not in text
    assert run.errors == {} if hasattr(run, "errors") else True
    with Client(client.scheduler.address) as other:
        wait_until(lambda: all(it[3] is None for it in other.run(bare).values()))


def mixed(number: int, how: str) -> int:
    print(f"python {number}")
    os.write(1, f"raw {number}\n".encode())
    subprocess.run([sys.executable, "-c", f"print('child {number}')"], check=True)
    ctypes.CDLL(None).printf(f"C {number}\n".encode())
    print(f"python again {number}", flush=True)
    if how == "fails":
        raise ValueError(str(number))
    return number


def is_captured(dask_worker: Any) -> bool:
    """The helper that copies the output of the worker's process reads it."""
    capture = dask_worker.plugins["scalable"]._capture
    os.write(2, b"is it read?\n")
    return not capture.is_behind() and capture.log.stat().st_size > 0


def test_output_of_c_and_of_children_belongs_to_the_attempt_that_ran_alone(make_cluster):
    _, client = make_cluster(n_workers=1)
    with scalable.instrument(client, task_output="all") as run:
        wait_until(lambda: all(client.run(is_captured).values()))
        for number, how in enumerate(("works", "fails", "works")):
            wait_for = client.submit(mixed, number, how, key=f"mixed-{number}")
            assert (wait_for.exception() is not None) == (how == "fails")
    found = texts(run)
    for number in range(3):
        lines = found[f"mixed-{number}.1.log"].splitlines()
        assert sorted(lines) == sorted(
            f"{kind} {number}" for kind in ("python", "raw", "child", "C", "python again")
        )
    inferred = {it["body"] for it in printed(run) if it["attributes"].get("dask.output.inferred")}
    assert {line for body in inferred for line in body.split("\n")} == {
        f"{kind} {number}" for kind in ("raw", "child", "C") for number in range(3)
    }


def test_output_that_may_be_another_tasks_is_not_taken_for_ones_own(make_cluster):
    _, client = make_cluster(n_workers=1, threads=4)
    with scalable.instrument(client) as run:
        wait_until(lambda: all(client.run(is_captured).values()))
        futures = [client.submit(mixed, number, "fails", key=f"m-{number}") for number in range(4)]
        assert all(isinstance(it.exception(), ValueError) for it in futures)
    found = texts(run)
    assert len(found) == 4
    for number in range(4):
        lines = found[f"m-{number}.1.log"].splitlines()
        assert [line for line in lines if not line.startswith("[")] == [
            f"python {number}",
            f"python again {number}",
        ]
    assert any("not known whose they are" in text for text in found.values())


def mute(number: int) -> int:
    return number


def test_a_task_that_prints_nothing_has_no_file_and_a_worker_no_more_work(make_cluster):
    _, client = make_cluster(n_workers=1)
    with scalable.instrument(client) as run:
        assert client.gather(client.map(mute, range(20))) == list(range(20))

        def ends(dask_worker: Any) -> str:
            return dask_worker.active_threads.ended.__name__

        assert set(client.run(ends).values()) == {"_ended"}
    assert texts(run) == {}
