"""Records of Python's logging reach the run, and the terminal shows what it always showed."""

from __future__ import annotations

import gc
import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, LocalCluster, get_worker
from opentelemetry import trace

import scalable
from cluster import oracle, tasks


def logs(run: Any, logger: str) -> list[dict[str, Any]]:
    path = Path(run.run_dir) / "logs.jsonl"
    found = oracle.read(run.run_dir, "logs.jsonl") if path.exists() else []
    return [record for record in found if record["scope"]["name"] == logger]


def talk() -> str:
    logger = logging.getLogger("of.the.user")
    logger.setLevel(logging.DEBUG)
    logger.debug("whispered")
    logger.info("said %s", "aloud")
    with trace.get_tracer("test").start_as_current_span("inner") as span:
        logger.warning("Called", extra={"rows": 3, "odd": {"not": "a value"}})
        try:
            raise ValueError("password=hunter2")
        except ValueError:
            logger.exception("cried")
    return f"{span.get_span_context().span_id:016x}"


def test_records_of_a_task_have_its_trace_span_key_and_worker(make_cluster):
    _, client = make_cluster(n_workers=1)
    with scalable.instrument(client) as run:
        future = client.submit(talk)
        inner = future.result()
        key = future.key
    attempt = oracle.lives(run.run_dir)[key][-1]
    found = logs(run, "of.the.user")
    assert [log["body"] for log in found] == ["said aloud", "Called", "cried"]
    assert [log["severity_text"] for log in found] == ["INFO", "WARNING", "ERROR"]
    assert [log["severity_number"] for log in found] == [9, 13, 17]
    assert [log["span_id"] for log in found] == [attempt["span_id"], inner, inner]
    assert {log["trace_id"] for log in found} == {attempt["trace_id"]}
    assert {log["attributes"]["dask.task.key"] for log in found} == {key}
    assert {log["resource"]["dask.worker.address"] for log in found} == {attempt["worker"]}
    assert found[1]["attributes"]["rows"] == 3
    assert found[1]["attributes"]["odd"] == "{'not': 'a value'}"
    assert found[0]["attributes"]["code.function.name"] == "talk"
    error = found[2]["attributes"]
    assert error["exception.type"] == "ValueError"
    assert "hunter2" not in json.dumps(found)
    assert "Traceback" in error["exception.stacktrace"]


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("DEBUG", ["whispered", "said aloud", "Called", "cried"]),
        ("WARNING", ["Called", "cried"]),
        ("OFF", []),
    ],
)
def test_the_level_can_be_chosen(make_cluster, level, expected):
    _, client = make_cluster(n_workers=1)
    with scalable.instrument(client, log_level=level) as run:
        client.submit(talk).result()
    assert [log["body"] for log in logs(run, "of.the.user")] == expected
    if level == "OFF":
        assert not (run.run_dir / "logs.jsonl").exists() or not oracle.read(
            run.run_dir, "logs.jsonl"
        )


def test_each_run_has_records_from_its_own_level_on(make_cluster):
    cluster, first = make_cluster(n_workers=1)
    with Client(cluster) as second:
        with (
            scalable.instrument(first, log_level="ERROR", scope="cluster") as one,
            scalable.instrument(second, log_level="DEBUG", scope="cluster") as two,
        ):
            second.submit(talk).result()
    assert [log["body"] for log in logs(one, "of.the.user")] == ["cried"]
    assert [log["body"] for log in logs(two, "of.the.user")] == [
        "whispered", "said aloud", "Called", "cried",
    ]  # fmt: skip


def test_records_of_dasks_loggers_come_from_scheduler_workers_and_nannies(make_cluster):
    def say(name: str) -> None:
        logger = logging.getLogger(name)
        before = logger.level
        logger.setLevel(logging.INFO)
        logger.warning("from %s", name)
        logger.setLevel(before)

    _, client = make_cluster(n_workers=1)
    with scalable.instrument(client) as run:
        client.run(say, "distributed.worker")
        client.run_on_scheduler(say, "distributed.scheduler")
        # The nannies of a local cluster live in this process.
        say("distributed.nanny")
        say("of.the.application")
        names = {f"distributed.{part}" for part in ("worker", "scheduler", "nanny")}

        def silent() -> set[str]:
            return {
                name
                for name in names
                if not any(log["body"] == f"from {name}" for log in logs(run, name))
            }

        try:
            tasks.wait_until(lambda: not silent())
        except TimeoutError:
            pytest.fail(f"not there: {silent()}; {(run.run_dir / 'run.json').read_text()}")
    (worker,) = [log for log in logs(run, "distributed.worker") if log["body"].startswith("from")]
    assert worker["resource"]["dask.worker.address"].startswith("tcp://")
    assert "trace_id" not in worker
    assert logs(run, "of.the.application") == []


def test_records_of_a_nanny_elsewhere_come_too():
    with (
        LocalCluster(n_workers=0, dashboard_address=":0", silence_logs=50) as cluster,
        Client(cluster) as client,
        scalable.instrument(client) as run,
    ):
        command = [sys.executable, "-m", "distributed.cli.dask_worker", cluster.scheduler_address]
        options = ["--nthreads", "1", "--no-dashboard", "--memory-limit", "0"]
        with subprocess.Popen([*command, *options], stderr=subprocess.DEVNULL) as process:
            try:
                client.wait_for_workers(1, timeout=60)
                (pid,) = client.run(os.getpid).values()
                os.kill(pid, signal.SIGKILL)
                tasks.wait_until(
                    lambda: any(
                        f"{pid} was killed by signal 9" in log["body"]
                        for log in logs(run, "distributed.nanny")
                    )
                )
            finally:
                process.terminate()
                process.wait(60)
    found = logs(run, "distributed.nanny")
    assert {log["resource"]["process.pid"] for log in found} == {process.pid}


def test_a_flood_is_bounded_and_counted(make_cluster):
    made = 20_000

    def flood() -> None:
        logger = logging.getLogger("of.the.user")
        logger.addHandler(logging.NullHandler())
        logger.propagate = False
        for number in range(made):
            logger.error("line %d", number)

    _, client = make_cluster(n_workers=1)
    with scalable.instrument(client) as run:
        client.submit(flood).result()
        client.submit(int, 1).result()
    kept = len(logs(run, "of.the.user"))
    telemetry = json.loads((run.run_dir / "run.json").read_bytes())["telemetry"]
    assert kept + telemetry["dropped"]["log_records"] == made
    assert 500 <= kept < made


def test_a_handler_of_opentelemetrys_is_not_doubled(make_cluster):
    def handled() -> None:
        from opentelemetry.sdk._logs import LoggingHandler

        logger = logging.getLogger("of.the.user")
        logger.addHandler(LoggingHandler())
        logger.warning("once")

    _, client = make_cluster(n_workers=1)
    with scalable.instrument(client) as run:
        future = client.submit(handled)
        future.result()
        key = future.key
    (log,) = [
        log for log in oracle.read(run.run_dir, "logs.jsonl") if "once" in str(log.get("body"))
    ]
    assert log["span_id"] == oracle.lives(run.run_dir)[key][-1]["span_id"]
    assert log["attributes"]["dask.task.key"] == key


def test_log_records_of_the_telemetry_itself_are_not_sent_again(make_cluster):
    def speak() -> None:
        for name in ("scalable", "scalable.x", "opentelemetry.sdk.trace", "of.the.user"):
            logging.getLogger(name).error("hello")

    _, client = make_cluster(n_workers=1)
    with scalable.instrument(client) as run:
        client.submit(speak).result()
    names = {log["scope"]["name"] for log in oracle.read(run.run_dir, "logs.jsonl")}
    assert "of.the.user" in names
    assert not {name for name in names if name.startswith(("scalable", "opentelemetry"))}


def test_a_harmful_record_harms_no_reader(make_cluster):
    def hostile() -> int:
        class Bad:
            def __str__(self) -> str:
                raise RuntimeError("no text for you")

            __repr__ = __str__

        logger = logging.getLogger("of.the.user")
        logger.addHandler(logging.NullHandler())
        logger.propagate = False
        logger.error("%s", Bad(), extra={"bad": Bad()})
        logger.error("%d and %d", 1)
        logger.error("lone \udcff surrogate", extra={"huge": 2**70, "nan": float("nan")})
        return 1

    _, client = make_cluster(n_workers=1)
    with scalable.instrument(client) as run:
        assert client.submit(hostile).result() == 1
    assert len(logs(run, "of.the.user")) == 3


def test_logging_is_as_it_was(make_cluster):
    """No handler and no level of anybody's changes; nothing stays behind."""

    def look() -> Any:
        # Each worker of Dask's has a handler that goes with its last reference.
        gc.collect()
        names = ("", "distributed", "distributed.worker", "distributed.nanny")
        return [
            (name, logging.getLogger(name).level, len(logging.getLogger(name).handlers))
            for name in names
        ]

    def configure() -> int:
        get_worker()
        logging.basicConfig(level=logging.INFO)
        count = len(logging.getLogger().handlers)
        for handler in list(logging.getLogger().handlers):
            logging.getLogger().removeHandler(handler)
        return count

    _, client = make_cluster(n_workers=1)
    here, there = look(), client.run(look)
    with scalable.instrument(client):
        client.submit(talk).result()
        assert look() == here
        assert client.run(look) == there
        # It does nothing where the root logger has a handler already.
        assert client.submit(configure).result() == 1


PROGRAM = textwrap.dedent("""
    import logging, sys
    from distributed import Client, LocalCluster
    import scalable

    def work():
        logging.getLogger("of.the.user").warning("on the terminal")
        logging.getLogger("of.the.user").info("not on the terminal")

    if __name__ == "__main__":
        with LocalCluster(n_workers=1, dashboard_address=":0") as cluster:
            with Client(cluster) as client:
                if sys.argv[1] == "bare":
                    client.submit(work).result()
                else:
                    with scalable.instrument(client):
                        client.submit(work).result()
""")


def test_the_terminal_shows_what_it_shows_without_us(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    shown = [
        subprocess.run(
            [sys.executable, program, how], capture_output=True, text=True, timeout=120, check=True
        )
        for how in ("bare", "recorded")
    ]
    assert shown[0].stderr == shown[1].stderr == "on the terminal\n"
    assert shown[0].stdout == shown[1].stdout == ""
