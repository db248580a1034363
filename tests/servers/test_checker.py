"""Each rule of the checker holds for what is right, and finds the fault that is planted."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from run_builder import RunBuilder, task
from scalable.telemetry import instruments, semconv
from scalable_runs.reader import RunReader
from servers import checker
from servers.checker import Finding, Received, Run, report
from servers.checker.model import Item

ROOT = Path(__file__).parents[2]
RUN_ID = "run-20260102T030405Z-flights-0000beef"
TRACE = "0af7651916cd43dd8448eb211c80319c"
URL = "https://example.org/schemas/1.2.3"
WORKER = "tcp://127.0.0.1:40001"
MS = 1_000_000
START = 1_767_323_045_000 * MS

RESOURCE = {
    "service.name": "flights",
    semconv.SERVICE_INSTANCE: "0b1c3e70-6f5a-4b7e-9d54-6d4a3c1b2a01",
    semconv.HOST_NAME: "login-3",
    semconv.RUN_ID: RUN_ID,
    semconv.PROJECT: "flights",
}
OF_WORKER = {**RESOURCE, semconv.SERVICE_INSTANCE: "0b1c3e70-6f5a-4b7e-9d54-6d4a3c1b2a02"}


def around(scope: str = semconv.SCOPE_NAME, resource: Item = RESOURCE) -> Item:
    own = scope == semconv.SCOPE_NAME
    return {
        "resource": resource,
        "resource_schema_url": URL,
        "scope": scope,
        "scope_attributes": {},
        "scope_schema_url": URL if own else "",
    }


def span(
    number: int, name: str, parent: int, start: int, end: int, kind: str = "internal", **more: Any
) -> Item:
    """Its times are milliseconds since the start."""
    return {
        "name": name,
        "trace_id": TRACE,
        "span_id": f"{number:016x}",
        "parent_span_id": f"{parent:016x}" if parent else "",
        "trace_state": "vendor=1",
        "flags": 0x101,
        "kind": kind,
        "start": START + start * MS,
        "end": START + end * MS,
        "status": "unset",
        "attributes": {},
        "events": [],
        "links": [],
        **around(),
        **more,
    }


def attempt(number: int, key: str, start: int, end: int, attempt: int = 1, **more: Any) -> Item:
    values = {
        semconv.TASK_KEY: key,
        semconv.TASK_NAME: "read",
        semconv.TASK_ATTEMPT: attempt,
        semconv.TASK_RESULT: "success",
        semconv.WORKER_ADDRESS: WORKER,
        **more.pop("attributes", {}),
    }
    return span(number, "read", 2, start, end, "consumer", attributes=values, **more)


def point(name: str, value: float, time: int, attributes: Item, kind: str = "sum") -> Item:
    found: Item = {
        "name": name,
        "unit": "1",
        "description": "",
        "type": kind,
        "temporality": "cumulative",
        "monotonic": kind == "sum" and name != instruments.TASK_COUNT.name,
        "start": START,
        "time": START + time * MS,
        "attributes": attributes,
        "exemplars": [],
        **around(),
    }
    if kind == "histogram":
        of_first = {"trace_id": TRACE, "span_id": f"{4:016x}", "time": START, "value": 0.01}
        return {**found, "count": value, "buckets": [value, 0], "exemplars": [of_first]}
    return {**found, "value": value}


def record(event: str, span_id: int = 0, **more: Any) -> Item:
    return {
        "event_name": event,
        "body": event,
        "time": START,
        "trace_id": TRACE if span_id else "",
        "span_id": f"{span_id:016x}" if span_id else "",
        "flags": 1 if span_id else 0,
        "attributes": {},
        **around(),
        **more,
    }


def block(dask_id: str, *, succeeded: int, attempts: int) -> dict[str, Any]:
    """Attributes of a block of Dask's `span()`."""
    return {
        semconv.DASK_SPAN_ID: [dask_id],
        semconv.DASK_SPAN_BLOCKS: 1,
        semconv.DASK_SPAN_TASKS: succeeded,
        semconv.DASK_SPAN_SUCCEEDED: succeeded,
        semconv.DASK_SPAN_FAILED: 0,
        semconv.DASK_SPAN_CANCELLED: 0,
        semconv.DASK_SPAN_ATTEMPTS: attempts,
    }


def good() -> Received:
    """A run of five attempts: one fails and is made again, two are in a rollup."""
    failed = {
        "attributes": {semconv.TASK_RESULT: "failure", semconv.ERROR_TYPE: "ValueError"},
        "status": "error",
        "events": [{"name": "exception", "time": START + 30 * MS, "attributes": {}}],
    }
    rollup = {
        semconv.TASK_NAME: "read",
        semconv.ROLLUP_COUNT: 2,
        semconv.ROLLUP_BUCKETS: [2, 0],
    }
    counts = {semconv.SPANS_SENT: 3, semconv.SPANS_SUMMARIZED: 2}
    link = {"trace_id": TRACE, "span_id": f"{4:016x}", "attributes": {}}
    of_user = around("of.the.user", OF_WORKER)
    spans = [
        span(1, "run flights", 0, 0, 100, attributes=counts),
        span(2, "submit flights", 1, 5, 10, "producer"),
        span(3, "worker 0", 1, 0, 90, attributes={semconv.WORKER_ADDRESS: WORKER}),
        attempt(4, "read-1", 8, 20, links=[link]),
        attempt(5, "read-2", 20, 30, **failed),
        attempt(6, "read-2", 40, 50, 2),
        span(7, "read (others)", 2, 10, 60, attributes=rollup),
        {**span(8, "parse", 4, 9, 19), **of_user},
        span(9, "etl", 1, 5, 60, attributes=block("a", succeeded=2, attempts=3)),
        span(10, "map read", 9, 6, 7, "producer", attributes={semconv.DASK_SPAN_ID: ["a"]}),
    ]
    result = {semconv.TASK_NAME: "read", semconv.TASK_RESULT: "success"}
    values = {
        instruments.TASK_ATTEMPTS.name: 5,
        instruments.TASK_RETRIES.name: 1,
    }
    points = [point(name, 1, 50, result) for name in values]
    points += [point(name, value, 60, result) for name, value in values.items()]
    points.append(point(instruments.TASK_DURATION.name, 5, 60, result, "histogram"))
    points.append(point(instruments.TASK_COUNT.name, 4, 60, {semconv.TASK_STATE: "succeeded"}))
    records = [
        record(semconv.EVENT_RUN, 1),
        record("", 8, **of_user),
        record("", 99, flags=0, **of_user),
    ]
    return Received(spans, points, records)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The directory of that run."""
    built = RunBuilder(tmp_path_factory.mktemp("runs"), RUN_ID, trace_id=TRACE)
    parent = f"{2:016x}"
    for number in range(4):
        built.add(task("submitted", f"read-{number + 1}", 0))
    ended = (("succeeded", 1, 4), ("retried", 2, 5), ("succeeded", 2, 6))
    for state, key, span_id in (*ended, ("succeeded", 3, 10), ("succeeded", 4, 11)):
        ids = {"trace_id": TRACE, "span_id": f"{span_id:016x}", "parent_span_id": parent}
        number = 2 if span_id == 6 else 1
        at = {"attempt": number, "worker": WORKER, "duration_s": 0.01, **ids}
        built.add(task(state, f"read-{key}", 1 + number, task_name="read", **at))
    return Run(RunReader(built.finish(5, telemetry={"dropped": 0, "errors": {}})))


def check(received: Received, run: Run | None = None) -> list[Finding]:
    """What the rules find, but for names: spans here have only what the other rules look at."""
    return [finding for finding in checker.check(received, run) if finding.rule != "names"]


def test_what_is_right_is_not_complained_of(run: Run):
    assert report(check(good(), run)) == ""


def change(place: str, number: int, **values: Any) -> Callable[[Received], None]:
    """Change an item of what was received."""
    return lambda received: getattr(received, place)[number].update(values)


def attribute(place: str, number: int, name: str, value: Any) -> Callable[[Received], None]:
    def plant(received: Received) -> None:
        item = getattr(received, place)[number]
        item["attributes"] = {**item["attributes"], name: value}
        if value is None:
            del item["attributes"][name]

    return plant


def resource(number: int, name: str, value: Any) -> Callable[[Received], None]:
    """Change the resource of a span."""

    def plant(received: Received) -> None:
        item = received.spans[number]
        item["resource"] = {**item["resource"], name: value}

    return plant


def elsewhere(received: Received) -> None:
    """The run is in no resource; only the spans have it as attributes."""
    for item in (*received.spans, *received.points, *received.records):
        without = (semconv.RUN_ID, semconv.PROJECT)
        item["resource"] = {k: v for k, v in item["resource"].items() if k not in without}
    for item in (*received.spans, *received.records):
        item["attributes"].update({semconv.RUN_ID: RUN_ID, semconv.PROJECT: "flights"})


AN_EVENT = [{"name": "exception", "time": START + 31 * MS, "attributes": {}}]
A_LINK = {"trace_id": TRACE, "span_id": f"{98:016x}"}

A_TRACE = {"trace_id": "1" * 32, "span_id": f"{1:016x}"}

#: Each with the rule that finds it, first, and those that are broken too.
FAULTS: list[tuple[str, str, Callable[[Received], Any]]] = [
    ("a span twice", "ids", lambda it: it.spans.append(it.spans[7])),
    ("an invalid id", "ids, log records", change("spans", 7, trace_id="0" * 32, parent_span_id="")),
    ("a parent that was not sent", "parents", change("spans", 7, parent_span_id="f" * 16)),
    ("a parent in another trace", "parents, log records", change("spans", 7, trace_id="1" * 32)),
    ("a second root", "roots", change("spans", 7, parent_span_id="")),
    ("an end before its start", "times", change("spans", 7, end=START + 8 * MS)),
    ("a child before its attempt", "times", change("spans", 7, start=START + 7 * MS)),
    ("a child after its attempt", "times", change("spans", 7, end=START + 21 * MS)),
    ("an attempt before its submission", "times", change("spans", 3, start=START + 4 * MS)),
    ("a worker before its run", "times", change("spans", 2, start=START - 50 * MS)),
    ("a worker after its run", "times", change("spans", 2, end=START + 101 * MS)),
    ("an event after its span", "events", change("spans", 4, events=AN_EVENT)),
    ("an attempt after its worker", "workers", change("spans", 2, end=START + 39 * MS)),
    ("attempts that overlap", "attempts", change("spans", 5, start=START + 29 * MS)),
    ("two first attempts", "attempts, directory", attribute("spans", 5, semconv.TASK_ATTEMPT, 1)),
    ("a link to nothing", "links", change("spans", 3, links=[A_LINK])),
    ("a link by another trace", "links", change("spans", 3, links=[A_TRACE])),
    ("a trace state that is lost", "tracestate", change("spans", 7, trace_state="")),
    ("an exemplar of nothing", "exemplars", change("points", 4, exemplars=[A_LINK])),
    ("a record of nothing", "log records", change("records", 1, span_id="f" * 16)),
    ("a record that denies its span", "log records", change("records", 1, flags=0)),
    ("an attempt without a name", "attributes", attribute("spans", 5, semconv.TASK_RESULT, None)),
    ("an error without a type", "attributes", attribute("spans", 4, semconv.ERROR_TYPE, None)),
    ("a service without a name", "service.name", resource(7, "service.name", "unknown_service:x")),
    ("an instance that is an address", "instances", resource(7, semconv.SERVICE_INSTANCE, WORKER)),
    ("another host", "host.name", resource(7, semconv.HOST_NAME, "127.0.0.1")),
    ("points without a run", "run", elsewhere),
    ("a scope without a schema", "schema URL", change("spans", 4, scope_schema_url="")),
    ("two schemas", "schema URL", change("spans", 4, scope_schema_url=f"{URL}4")),
    ("a resource without a schema", "schema URL", change("spans", 7, resource_schema_url="")),
    ("a counter that falls", "streams", change("points", 0, value=6)),
    ("points out of order", "streams", change("points", 0, time=START + 61 * MS)),
    ("a unit that changes", "streams", change("points", 0, unit="s")),
    ("a stream that begins again", "streams", change("points", 0, start=START + 1)),
    ("a point without a start", "points", change("points", 5, start=0)),
    ("buckets that do not add up", "points", change("points", 4, buckets=[4, 0])),
    ("an attempt that was not made", "directory", change("spans", 5, span_id="e" * 16)),
    ("another key", "directory", attribute("spans", 3, semconv.TASK_KEY, "read-9")),
    ("a rollup's buckets", "rollups", attribute("spans", 6, semconv.ROLLUP_BUCKETS, [1])),
    ("a run without a root", "root", attribute("spans", 0, semconv.SPANS_SENT, None)),
    ("a root that miscounts", "root", attribute("spans", 0, semconv.SPANS_SENT, 4)),
    ("a sum that is wrong", "sums", change("points", 2, value=4)),
    ("a state that is wrong", "sums", change("points", 5, value=3)),
    ("a submission out of its block", "blocks", change("spans", 9, parent_span_id=f"{1:016x}")),
    ("a block that miscounts", "blocks", attribute("spans", 8, semconv.DASK_SPAN_TASKS, 3)),
    ("two successes of an attempt", "blocks", attribute("spans", 8, semconv.DASK_SPAN_ATTEMPTS, 1)),
    ("a block twice", "blocks", lambda it: it.spans.append({**it.spans[8], "span_id": "a" * 16})),
    ("a start that was not sent", "log records", change("records", 0, event_name="x")),
]  # fmt: skip


@pytest.mark.parametrize(
    ("rules", "plant"), [fault[1:] for fault in FAULTS], ids=[fault[0] for fault in FAULTS]
)
def test_a_planted_fault_is_found(run: Run, rules: str, plant: Callable[[Received], Any]):
    received = copy.deepcopy(good())
    plant(received)
    found = check(received, run)
    assert {finding.rule for finding in found} == set(rules.split(", ")), report(found)


def test_attempts_that_nobody_accounts_for_are_found(run: Run):
    received = good()
    del received.spans[6]
    received.spans[0]["attributes"][semconv.SPANS_SUMMARIZED] = 0
    (found,) = check(received, run)
    assert found.rule == "attempts"
    assert "sent {'read': 3}, written {'read': 5}" in found.message


def test_two_processes_with_one_id_and_two_ids_of_one_process_are_found():
    received = good()
    for number, instance, pid in ((7, 1, 10), (6, 1, 11), (5, 2, 10)):
        name = f"{instance:08x}-6f5a-4b7e-9d54-6d4a3c1b2a02"
        received.spans[number]["resource"] = {
            **RESOURCE,
            semconv.SERVICE_INSTANCE: name,
            semconv.PROCESS_PID: pid,
        }
    assert [finding.rule for finding in check(received)] == ["instances", "instances"]


def test_a_loss_that_the_run_admits_is_found(tmp_path: Path):
    built = RunBuilder(tmp_path, RUN_ID)
    lost = Run(RunReader(built.finish(1, telemetry={"dropped": {"spans": 3}, "errors": {}})))
    messages = [it.message for it in check(Received([], [], []), lost) if it.rule == "telemetry"]
    assert messages == ["dropped: {'spans': 3}"]


def test_names_that_are_not_registered_are_found():
    received = good()
    received.spans[7]["attributes"] = {"dask.unheard_of": 1}
    messages = [it.message for it in checker.check(received) if it.rule == "names"]
    assert any("dask.unheard_of" in message for message in messages)


def test_spans_that_others_have_may_be_referred_to():
    received = good()
    received.spans[7]["parent_span_id"] = A_LINK["span_id"]
    received.spans[3]["links"] = [A_LINK]
    assert {finding.rule for finding in check(received)} == {"parents", "links"}
    assert check(replace(received, outside=frozenset({A_LINK["span_id"]}))) == []


def test_what_each_program_sent_is_told_apart():
    received = good()
    mine = received.where({semconv.SERVICE_INSTANCE: OF_WORKER[semconv.SERVICE_INSTANCE]}, ["a"])
    assert [found["name"] for found in mine.spans] == ["parse"]
    assert len(mine.records) == 2
    assert mine.points == []
    assert mine.outside == {"a"}


def test_the_command_checks_files(tmp_path: Path):
    message = {
        "resourceSpans": [
            {
                "resource": {"attributes": []},
                "scopeSpans": [
                    {"spans": [{"traceId": TRACE, "spanId": "0" * 15 + "1", "name": "a"}]}
                ],
            }
        ]
    }
    (tmp_path / "traces.jsonl").write_text(json.dumps(message) + "\n")
    done = subprocess.run(
        [sys.executable, "-m", "servers.checker", str(tmp_path / "traces.jsonl")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": "tests"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith("1 spans, 0 metric points, 0 log records\nservice.name: 1\n")
