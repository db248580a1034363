"""The cells of the matrix: programs that differ in whose OpenTelemetry they have, and in its setup.

What each sends to one collector is told apart by an attribute of the resource.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from scalable.telemetry import semconv
from scalable_runs.reader import RunReader, find_runs
from servers.checker import Finding, Received, Run, check
from servers.checker.model import Item, shown
from servers.harness import Collector

KINDS = ("relay", "zero-code-processes", "zero-code-threads", "own", "sentry", "logfire")
#: Spans of tasks of each trace: fewer than there are, and more.
BUDGETS = {"small": 12, "default": None}
PROPAGATORS = {"none": "none", "w3c": "tracecontext,baggage", "b3": "b3"}
PROTOCOLS = ("http/protobuf", "grpc")

#: Resource attribute that has the name of a cell.
CELL = "test.cell"
_PROGRAM = Path(__file__).with_name("matrix_program.py")
#: A sampled span of somebody else, with the flag of a random trace id.
_PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-03"


class Cell(NamedTuple):
    """One combination."""

    kind: str
    budget: str
    propagator: str
    protocol: str

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.budget}-{self.propagator}-{self.protocol.split('/')[0]}"


#: Every combination.
ALL = [Cell(*values) for values in itertools.product(KINDS, BUDGETS, PROPAGATORS, PROTOCOLS)]

#: Each kind once, each propagator twice, and each other value three times.
SHORT = [
    Cell("relay", "small", "w3c", "grpc"),
    Cell("zero-code-processes", "small", "none", "http/protobuf"),
    Cell("zero-code-threads", "default", "b3", "grpc"),
    Cell("own", "small", "b3", "http/protobuf"),
    Cell("sentry", "default", "w3c", "http/protobuf"),
    Cell("logfire", "default", "none", "grpc"),
]


class Outcome(NamedTuple):
    """How the program of a cell ended."""

    cell: Cell
    code: int
    said: dict[str, Any]
    stderr: str
    runs: list[Path]


def environment(cell: Cell, collector: Collector, installed: Path) -> dict[str, str]:
    """The variables of a cell's program; `installed` has the entry points of the package."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("OTEL_", "SCALABLE_"))}
    path = os.pathsep.join(filter(None, [str(installed), clean.get("PYTHONPATH", "")]))
    wanted = {
        "PYTHONPATH": path,
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.grpc
        if cell.protocol == "grpc"
        else collector.http,
        "OTEL_EXPORTER_OTLP_PROTOCOL": cell.protocol,
        "OTEL_PROPAGATORS": PROPAGATORS[cell.propagator],
        "OTEL_RESOURCE_ATTRIBUTES": f"{CELL}={cell.name}",
        "OTEL_METRIC_EXPORT_INTERVAL": "2000",
    }
    if (budget := BUDGETS[cell.budget]) is not None:
        wanted["SCALABLE_SPAN_BUDGET"] = str(budget)
    if cell.propagator == "w3c":
        wanted["MATRIX_PARENT"] = _PARENT
    if cell.kind.startswith("zero-code"):
        wanted["OTEL_EXPERIMENTAL_RESOURCE_DETECTORS"] = "scalable"
    return clean | wanted


def run_cell(cell: Cell, collector: Collector, installed: Path, directory: Path) -> Outcome:
    """Run the program of a cell in a directory of its own, which is the name of its project."""
    directory.mkdir(parents=True)
    shutil.copy(_PROGRAM, directory / "program.py")
    command = [sys.executable, "program.py", cell.kind]
    if cell.kind.startswith("zero-code"):
        command.insert(0, str(Path(sysconfig.get_path("scripts")) / "opentelemetry-instrument"))
    done = subprocess.run(
        command,
        cwd=directory,
        env=environment(cell, collector, installed),
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    last = done.stdout.strip().splitlines()[-1:] or ["{}"]
    runs = find_runs(directory / ".scalable" / "runs")
    said: dict[str, Any] = json.loads(last[0]) if last[0].startswith("{") else {}
    return Outcome(cell, done.returncode, said, done.stderr, [run.path for run in runs])


def findings(outcome: Outcome, everything: Received) -> list[Finding]:
    """What the rules find in what a cell's program sent, and in how it ended."""
    if outcome.code:
        return [Finding("program", outcome.cell.name, outcome.stderr[-3000:])]
    received = everything.where({CELL: outcome.cell.name}, outcome.said["outside"])
    if len(outcome.runs) != 1:
        return [Finding("runs", outcome.cell.name, f"{len(outcome.runs)} runs were recorded")]
    found = check(received, Run(RunReader(outcome.runs[0])))
    found += _expected(outcome, received)
    return found


def _expected(outcome: Outcome, received: Received) -> list[Finding]:
    """What this program must have sent, whatever else holds."""
    cell, found = outcome.cell, list[Finding]()

    def expect(rule: str, condition: object, message: str) -> None:
        if not condition:
            found.append(Finding(rule, cell.name, message))

    warnings = [line for line in outcome.stderr.splitlines() if "WARNING scalable" in line]
    expect("warnings", not warnings, "; ".join(warnings))
    expect("warnings", "Traceback" not in outcome.stderr, outcome.stderr[-2000:])
    messages = {record["body"] for record in received.records}
    wanted = {f"nesting {x}" for x in range(4)}
    expect("user logs", wanted <= messages, f"{sorted(wanted - messages)} are missing")
    expect("metrics", received.points, "no point was received")
    found += _structure(cell, received)
    if cell.propagator == "w3c":
        trace_id = _PARENT.split("-")[1]
        inside = [span for span in received.spans if span["trace_id"] == trace_id]
        states = {span["trace_state"] for span in inside}
        expect("tracestate", states == {"vendor=opaque,other=1"}, f"spans have {sorted(states)}")
        others = {span["trace_id"] for span in received.attempts} - {trace_id}
        expect("traces", not others, f"attempts are in the traces {sorted(others)} too")
    if cell.kind == "sentry":
        sent = {span["span_id"] for span in received.spans}
        missing = sent - set(outcome.said["sentry"])
        message = f"Sentry has {len(sent) - len(missing)} of {len(sent)} spans"
        expect("sentry", not missing, message)
    return found


#: Parents of the user's spans in tasks: attempts, and other spans of the user's.
_PARENTS = {"read": "leaf", "outer": "nest", "inner": "outer", "try": "flaky", "break": "fail"}
#: Spans of the user's in all tasks: of 24 and 8 leaves, 4 nests, 2 tries, 2 failures.
_IN_TASKS = 24 + 8 + 4 * 2 + 2 + 2
#: Spans of the user's in the client.
_IN_CLIENT = ("request", "failures")


def _structure(cell: Cell, received: Received) -> Iterator[Finding]:
    """The user's spans are below their attempts, nested attempts below them; nothing is cut off."""
    user = [span for span in received.spans if span["scope"] == "application"]
    in_tasks = [span for span in user if span["name"] in _PARENTS]
    left_out = sum(
        span["attributes"].get(semconv.SPANS_FOREIGN_LEFT_OUT, 0) for span in received.spans
    )
    if len(in_tasks) + left_out != _IN_TASKS or (left_out and cell.budget == "default"):
        message = f"{len(in_tasks)} received, {left_out} left out, of {_IN_TASKS} made in tasks"
        yield Finding("user spans", cell.name, message)
    for span in user:
        wanted = _PARENTS.get(span["name"])
        parent = received.by_id.get(span["parent_span_id"], {"name": "no span"})
        if wanted and parent["name"] not in (wanted, "no span"):
            yield Finding("user spans", shown(span), f"is below {parent['name']}")
    for span in received.spans:
        if not (span["parent_span_id"] or span["kind"] == "producer"):
            is_run = semconv.SPANS_SENT in span["attributes"]
            if not (is_run or span["name"] in _IN_CLIENT):
                yield Finding("traces", shown(span), "is the root of a trace")
    if cell.budget == "default":
        nested = [
            span for span in received.attempts if _sender_of(received, span).get("name") == "inner"
        ]
        if len(nested) != 8:
            yield Finding("traces", cell.name, f"{len(nested)} of 8 nested attempts are nested")
        if cell.kind != "relay" and not _below(received, "nest", "request"):
            yield Finding("traces", cell.name, "attempts are not below the client's span")


def _sender_of(received: Received, attempt: Item) -> Item:
    """The span above an attempt's layer and submission."""
    above = received.by_id.get(attempt["parent_span_id"], {})
    while above and (above["kind"] == "producer" or semconv.LAYER_NAME in above["attributes"]):
        above = received.by_id.get(above["parent_span_id"], {})
    return above


def _below(received: Received, name: str, above: str) -> bool:
    """Whether all attempts of a name have a span of another name above them."""

    def ancestors(span: Item) -> Iterator[str]:
        while span := received.by_id.get(span["parent_span_id"], {}):
            yield span["name"]

    return all(above in ancestors(span) for span in received.attempts if span["name"] == name)
