"""The cost of OTLP, with a local sink in a process of its own that only accepts and counts."""

from __future__ import annotations

import contextlib
import functools
import gzip
import json
import os
import subprocess
import sys
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import scalable
from benchmarks import clusters
from benchmarks.clusters import Cluster, Sample
from benchmarks.table import Row

_SERVICES = {
    "traces": "opentelemetry.proto.collector.trace.v1.TraceService",
    "metrics": "opentelemetry.proto.collector.metrics.v1.MetricsService",
    "logs": "opentelemetry.proto.collector.logs.v1.LogsService",
}


@dataclass
class Shipped:
    """What was sent, by the program's own count, and what arrived."""

    spans: int = 0
    received: int = 0
    not_sent: int = 0
    attempts: int = 0


def to_a_sink(directory: Path, quick: bool) -> list[Row]:
    """No-op tasks, recorded and sent over OTLP, against bare."""
    tasks, slices, count = clusters.amount(quick, 800, 10_000)
    a_slice = tasks // slices
    rows: list[Row] = []
    with clusters.local_cluster() as cluster:
        clusters.run_map(cluster.client, tasks)
        for protocol in ("http/protobuf", "grpc"):
            shipped = Shipped()
            with sink() as ports:
                measure = {
                    "b": functools.partial(clusters.bare, cluster, clusters.run_map, a_slice),
                    "i": functools.partial(_sent, cluster, a_slice, directory, protocol, ports),
                }
                measure["i"] = functools.partial(measure["i"], shipped)
                taken = clusters.rounds(count, slices, measure, protocol)
            name = protocol.partition("/")[0]
            rows += [
                Row.of_ratios(
                    f"otlp-{name}-wall",
                    f"{tasks:,} no-op tasks, OTLP over {name} to a local sink: wall",
                    clusters.ratios(taken, "i"),
                    clusters.controls(taken),
                    budget=1.10,
                    note=f"{shipped.received:,} spans for {shipped.attempts:,} attempts arrived; "
                    "the span budget sums up the rest",
                ),
                Row(
                    key=f"otlp-{name}-lost",
                    what=f"spans of {shipped.spans:,} sent over {name} missing at the sink",
                    measured=abs(shipped.spans - shipped.received) + shipped.not_sent,
                    budget=0,
                    kind="count",
                ),
            ]
    return rows


def _sent(
    cluster: Cluster,
    tasks: int,
    runs_dir: Path,
    protocol: str,
    ports: dict[str, int],
    shipped: Shipped,
) -> Sample:
    """Execute a workload that is recorded and sent; count what was sent when it is closed."""
    environ = {
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{ports[protocol]}",
    }
    os.environ.update(environ)
    try:
        before = _count(ports)
        with scalable.instrument(
            cluster.client, project="bench", runs_dir=runs_dir, close_timeout=60.0
        ) as run:
            run.flush()
            sample = clusters.bare(cluster, clusters.run_map, tasks)
        summary = json.loads((run.run_dir / "summary.json").read_bytes())
        telemetry = summary["run"]["telemetry"]
        shipped.spans += telemetry["sent"]["traces"]
        shipped.received += _count(ports)["spans"] - before["spans"]
        shipped.not_sent += sum(telemetry.get("not_sent", {}).values())
        shipped.attempts += summary["counts"]["attempts"]
        return sample
    finally:
        for name in environ:
            del os.environ[name]


def _count(ports: dict[str, int]) -> dict[str, int]:
    with urllib.request.urlopen(f"http://127.0.0.1:{ports['http/protobuf']}/") as answer:
        return json.loads(answer.read())


@contextlib.contextmanager
def sink() -> Iterator[dict[str, int]]:
    """The sink's ports by protocol."""
    command = [sys.executable, "-m", "benchmarks.otlp"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, cwd=clusters.ROOT
    ) as process:
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())
        finally:
            process.communicate()


class _Counter:
    """Stores messages as received, and counts their spans on request, so that receiving is fast."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._messages: list[tuple[str, bytes]] = []
        self._counts: Counter[str] = Counter(spans=0)

    def take(self, signal: str, body: bytes) -> None:
        with self._lock:
            self._messages.append((signal, body))

    def counts(self) -> dict[str, int]:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
            ExportTraceServiceRequest,
        )

        with self._lock:
            messages, self._messages = self._messages, []
        for signal, body in messages:
            self._counts[f"{signal}_messages"] += 1
            if signal == "traces":
                request: Any = ExportTraceServiceRequest.FromString(body)
                for resource in request.resource_spans:
                    self._counts["spans"] += sum(len(s.spans) for s in resource.scope_spans)
        return dict(self._counts)


def serve() -> None:
    """The sink: runs until standard input ends."""
    import grpc

    counter = _Counter()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(json.dumps(counter.counts()).encode())

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            counter.take(self.path.rpartition("/")[2], body)
            self._answer(b"")

        def _answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    def accept(signal: str, body: bytes, _: Any) -> bytes:
        counter.take(signal, body)
        return b""

    rpc = grpc.server(ThreadPoolExecutor(4), options=[("grpc.max_receive_message_length", -1)])
    rpc.add_generic_rpc_handlers(
        [
            grpc.method_handlers_generic_handler(
                service,
                {"Export": grpc.unary_unary_rpc_method_handler(functools.partial(accept, signal))},
            )
            for signal, service in _SERVICES.items()
        ]
    )
    grpc_port = rpc.add_insecure_port("127.0.0.1:0")
    rpc.start()
    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    threading.Thread(target=http.serve_forever, daemon=True).start()
    ports = {"http/protobuf": http.server_address[1], "grpc": grpc_port}
    print(json.dumps(ports), flush=True)
    sys.stdin.read()
    rpc.stop(0)
    http.shutdown()


if __name__ == "__main__":
    serve()
