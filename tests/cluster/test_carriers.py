"""The span of a task's parent reaches the task, whatever propagator is configured."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.request import Request, urlopen

import pytest
from distributed import Client, LocalCluster, worker_client
from opentelemetry import baggage, context, propagate, trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.propagators.b3 import B3MultiFormat, B3SingleFormat
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.propagators.jaeger import JaegerPropagator
from opentelemetry.propagators.ot_trace import OTTracePropagator
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState

import scalable
from cluster import oracle


class Failing(TextMapPropagator):
    """A propagator of the user's that raises."""

    fields: ClassVar[set[str]] = set()

    def inject(self, carrier: Any, context: Any = None, setter: Any = None) -> None:
        raise RuntimeError("inject")

    def extract(self, carrier: Any, context: Any = None, getter: Any = None) -> Any:
        raise RuntimeError("extract")


class Altering(TextMapPropagator):
    """A propagator that writes fields of other meaning under the names of the package's own."""

    fields: ClassVar[set[str]] = set()

    def inject(self, carrier: Any, context: Any = None, setter: Any = None) -> None:
        carrier.update({"traceparent": "00-" + "1" * 32 + "-" + "2" * 16 + "-00", "run": "other"})

    def extract(self, carrier: Any, context: Any = None, getter: Any = None) -> Any:
        return trace.set_span_in_context(NonRecordingSpan(SpanContext(1, 2, True)), context)


PROPAGATORS = {
    "none": CompositePropagator([]),
    "baggage": CompositePropagator([W3CBaggagePropagator()]),
    "b3": B3SingleFormat(),
    "b3multi": B3MultiFormat(),
    "jaeger": JaegerPropagator(),
    "ottrace": OTTracePropagator(),
    "failing": Failing(),
    "altering": Altering(),
}
#: Flags and state that few propagators know.
CALLER = SpanContext(
    0x1234_5678_9ABC_DEF0_1234_5678_9ABC_DEF0,
    0xFEED,
    False,
    TraceFlags(3),
    TraceState([("vendor", "t61rcWkgMzE"), ("rojo", "00f067aa0ba902b7")]),
)


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    # Threads of this process: a propagator that is set in code is the workers' too.
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=4, processes=False, dashboard_address=":0"
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def look() -> tuple[SpanContext, object]:
    return trace.get_current_span().get_span_context(), baggage.get_baggage("tenant")


def outer() -> list[tuple[SpanContext, object]]:
    with worker_client() as inner:
        return [look(), inner.submit(look, pure=False).result()]


@pytest.mark.parametrize("name", PROPAGATORS)
def test_the_span_travels_with_every_propagator(client, monkeypatch, name):
    monkeypatch.setattr(propagate, "_HTTP_TEXT_FORMAT", PROPAGATORS[name])
    current = trace.set_span_in_context(NonRecordingSpan(CALLER))
    with scalable.instrument(client, recorder="thread") as run:
        token = context.attach(baggage.set_baggage("tenant", "blue", current))
        try:
            seen = client.submit(outer, pure=False).result()
        finally:
            context.detach(token)
    ends = [lives[-1] for lives in oracle.lives(run.run_dir).values()]
    for (ids, tenant), end in zip(seen, ends, strict=True):
        assert ids.trace_id == CALLER.trace_id
        assert f"{ids.span_id:016x}" == end["span_id"]
        assert ids.trace_flags == CALLER.trace_flags
        assert ids.trace_state == CALLER.trace_state
        assert name in ("b3", "b3multi", "none", "failing", "altering") or tenant == "blue"
    spans = oracle.read(run.run_dir, "spans.jsonl")
    submissions = {
        span["parent_span_id"]: span["span_id"] for span in spans if span["kind"] == "producer"
    }
    assert submissions.keys() == {f"{CALLER.span_id:016x}", ends[0]["span_id"]}
    assert [end["parent_span_id"] for end in ends] == [
        submissions[f"{CALLER.span_id:016x}"],
        submissions[ends[0]["span_id"]],
    ]


# -- outgoing requests ----------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[tuple[str, list[Any]]]:
    """An HTTP server of somebody else's, and the headers of the requests that it got."""
    received: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            received.append(self.headers)
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{http.server_port}/", received
        finally:
            http.shutdown()
            thread.join()


def ask(url: str) -> str:
    """In a task: a request, as an instrumented library makes it."""
    kind = trace.SpanKind.CLIENT
    with trace.get_tracer("http").start_as_current_span("GET", kind=kind) as span:
        request = Request(url)
        propagate.inject(request.headers)
        with urlopen(request):
            return f"{span.get_span_context().span_id:016x}"


@pytest.mark.parametrize("processes", [True, False], ids=["processes", "threads"])
def test_a_request_of_a_task_carries_state_flags_and_baggage(make_cluster, server, processes):
    url, received = server
    _, client = make_cluster(n_workers=1, processes=processes)
    with scalable.instrument(client, recorder="thread"):
        current = trace.set_span_in_context(NonRecordingSpan(CALLER))
        token = context.attach(baggage.set_baggage("tenant", "blue", current))
        try:
            span_id = client.submit(ask, url, pure=False).result()
        finally:
            context.detach(token)
        ours = client.submit(ask, url, pure=False).result()
    continued, begun = received
    assert continued["traceparent"] == f"00-{CALLER.trace_id:032x}-{span_id}-03"
    assert continued["tracestate"] == CALLER.trace_state.to_header()
    assert continued["baggage"] == "tenant=blue"
    # A trace that the package begins has a random id, and says so.
    assert begun["traceparent"].split("-")[2:] == [ours, "03"]


# -- what the program was started in --------------------------------------------------------------


def test_a_run_hangs_below_the_span_of_the_environment(client, monkeypatch):
    monkeypatch.setenv("TRACEPARENT", f"00-{CALLER.trace_id:032x}-{CALLER.span_id:016x}-01")
    monkeypatch.setenv("TRACESTATE", CALLER.trace_state.to_header())
    monkeypatch.setenv("BAGGAGE", "tenant=blue,team=a")
    with scalable.instrument(client) as run:  # in a process of its own
        token = context.attach(baggage.set_baggage("tenant", "red"))
        ids, tenant = client.submit(look, pure=False).result()
        context.detach(token)
        _, inherited = client.submit(look, pure=False).result()
    assert run.trace_id == f"{CALLER.trace_id:032x}"
    spans = oracle.read(run.run_dir, "spans.jsonl")
    (root,) = [span for span in spans if span["name"].startswith("run ")]
    assert root["parent_span_id"] == f"{CALLER.span_id:016x}"
    assert root["trace_id"] == run.trace_id != f"{ids.trace_id:032x}"
    # The caller's own baggage has precedence.
    assert (tenant, inherited) == ("red", "blue")


def open_a_span() -> str:
    with trace.get_tracer("test").start_as_current_span("inner", attributes={"team": "mine"}):
        return "done"


def nested() -> str:
    token = context.attach(baggage.set_baggage("tenant", "green"))
    try:
        with worker_client() as inner:
            return inner.submit(open_a_span, pure=False).result()
    finally:
        context.detach(token)


@pytest.mark.parametrize("chosen", ["tenant, team", "*"])
def test_chosen_entries_of_baggage_are_attributes(make_cluster, monkeypatch, chosen):
    monkeypatch.setenv("BAGGAGE", "team=a")
    _, client = make_cluster(n_workers=1, threads=2)
    with scalable.instrument(client, baggage_attributes=chosen) as run:
        token = context.attach(baggage.set_baggage("tenant", "blue"))
        try:
            client.submit(nested, pure=False).result()
        finally:
            context.detach(token)
    ends = [lives[-1]["details"]["attributes"] for lives in oracle.lives(run.run_dir).values()]
    assert ends == [{"tenant": "blue", "team": "a"}, {"tenant": "green", "team": "a"}]
    tenants = {
        span["name"]: span["attributes"]["tenant"]
        for span in oracle.read(run.run_dir, "spans.jsonl")
        if span["kind"] == "producer"
    }
    assert tenants == {"submit nested": "blue", "submit open_a_span": "green"}
    (inner,) = [it for it in oracle.read(run.run_dir, "spans.jsonl") if it["name"] == "inner"]
    # What the code itself has set stays.
    assert (inner["attributes"]["tenant"], inner["attributes"]["team"]) == ("green", "mine")
    (root,) = [it for it in oracle.read(run.run_dir, "spans.jsonl") if it["name"][:4] == "run "]
    assert root["attributes"]["team"] == "a"


def start_a_process() -> tuple[str, str, str]:
    code = "import os; print(os.environ.get('TRACEPARENT'))"
    command = [sys.executable, "-c", code]
    own = {**os.environ, "TRACEPARENT": "mine"}
    found = [
        subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout.strip()
        for env in (None, own)
    ]
    return f"{trace.get_current_span().get_span_context().span_id:016x}", found[0], found[1]


@pytest.mark.parametrize("asked", [True, False])
def test_processes_of_tasks_get_the_context_where_asked(client, monkeypatch, asked):
    inherited = f"00-{CALLER.trace_id:032x}-{CALLER.span_id:016x}-01"
    monkeypatch.setenv("TRACEPARENT", inherited)
    with scalable.instrument(client, recorder="thread", task_environment=asked):
        span_id, found, own = client.submit(start_a_process, pure=False).result()
    assert found.split("-")[2] == span_id if asked else found == inherited
    assert own == "mine"
