"""A collector that is absent, slow, refusing or broken costs the work nothing."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from scalable_runs.schema import TASKS
from servers.harness import Collector, free_ports
from servers.programs import Done, run_program

BODY = """
    doubled = client.map(double, range(200))
    total = client.submit(add, *doubled)
    bad = client.submit(fail, 3)
    result = [total.result(), repr(bad.exception())]
"""
RESULT = [39_800, "KeyError(3)"]
CLOSE_TIMEOUT = 3.0
#: What closing may take: its timeout, the grace for the disk, and a busy machine.
TIMEOUT = CLOSE_TIMEOUT + 1.0 + 4.0


@contextmanager
def http_server(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[int]:
    """A server whose every POST is answered by `answer`."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            answer(self)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def status(code: int, **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


@contextmanager
def black_hole() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(64)
        yield listening.getsockname()[1]


@contextmanager
def broken_tls(directory: Path) -> Iterator[int]:
    """A server with a certificate that nobody has signed."""
    key, certificate = directory / "key.pem", directory / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"),
            *("-subj", "/CN=localhost", "-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    stopped = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.1)

        def serve() -> None:
            while not stopped.is_set():
                try:
                    connection, _ = listening.accept()
                except TimeoutError:
                    continue
                with connection:
                    connection.settimeout(5)
                    with suppress(OSError):
                        context.wrap_socket(connection, server_side=True).close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            stopped.set()
            thread.join()


def check(done: Done) -> None:
    assert done.said["result"] == RESULT
    counts = done.run.summary()["counts"]
    assert counts["tasks_succeeded"] == 201
    assert counts["tasks_failed"] == 1
    assert len(list(done.run.records(TASKS))) == 3 * 202
    assert done.run.status == "completed"
    assert done.said["closed_s"] < TIMEOUT
    warnings = [line for line in done.stderr.splitlines() if "WARNING" in line or "ERROR" in line]
    assert len(warnings) == 1, done.stderr
    assert "signals cannot be sent" in warnings[0]
    assert f"scalable export --run-id {done.said['id']}" in warnings[0]
    assert done.run.document["telemetry"]["not_sent"]["traces"] >= 1
    assert done.run.document["telemetry"]["errors"] == {}


FAULTS = ("absent", "silent", "slow", "503", "429", "400", "tls")


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
@pytest.mark.parametrize("fault", FAULTS)
def test_the_work_goes_on_and_the_directory_is_whole(tmp_path: Path, fault: str, protocol: str):
    let_go = threading.Event()
    with ExitStack() as stack:
        stack.callback(let_go.set)
        scheme = "http"
        if fault == "absent":
            (port,) = free_ports(1)
        elif fault == "silent":
            port = stack.enter_context(black_hole())
        elif fault == "tls":
            port = stack.enter_context(broken_tls(tmp_path))
            scheme = "https"
        elif protocol == "grpc":
            pytest.skip("an answer of HTTP")
        elif fault == "slow":

            def slow(handler: BaseHTTPRequestHandler) -> None:
                let_go.wait(10)
                status(503)(handler)

            port = stack.enter_context(http_server(slow))
        else:
            port = stack.enter_context(http_server(status(int(fault), Retry_After="2")))
        done = run_program(
            tmp_path,
            BODY,
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": f"{scheme}://127.0.0.1:{port}",
                "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
                "OTEL_BSP_SCHEDULE_DELAY": "100",
                "SCALABLE_CLOSE_TIMEOUT": str(CLOSE_TIMEOUT),
            },
            timeout=60,
        )
        check(done)


def test_a_collector_that_comes_back_gets_what_it_missed(collector: Collector, tmp_path: Path):
    """The program itself says when the collector is to go, and when to come back."""
    stop, stopped = tmp_path / "stop", tmp_path / "stopped"
    start, started = tmp_path / "start", tmp_path / "started"
    waiting = threading.Event()
    ended = threading.Event()

    def keep() -> None:
        for asked, act, done in (
            (stop, collector.kill, stopped),
            (start, collector.start, started),
        ):
            while not asked.exists() and not ended.is_set():
                waiting.wait(0.02)
            if not ended.is_set():
                act()
                done.touch()

    keeper = threading.Thread(target=keep)
    keeper.start()
    try:
        done = run_program(
            tmp_path,
            """
            def ask(what, answer):
                open(what, "w").close()
                while not os.path.exists(answer):
                    time.sleep(0.02)
            first = sum(client.gather(client.map(double, range(50))))
            ask("stop", "stopped")
            second = sum(client.gather(client.map(double, range(50, 100))))
            from scalable.telemetry.export.shipping import Shipper
            shippers = run._recorder._router._spans.shippers
            while not any(shipper.counts.failures for shipper in shippers):
                time.sleep(0.02)
            ask("start", "started")
            third = sum(client.gather(client.map(double, range(100, 150))))
            while any(shipper.waiting for shipper in shippers):
                time.sleep(0.02)
            result = [first, second, third]
            """,
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": collector.http,
                "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
                "OTEL_BSP_SCHEDULE_DELAY": "100",
                # The program looks into its recorder.
                "SCALABLE_RECORDER": "thread",
            },
            timeout=90,
        )
    finally:
        ended.set()
        keeper.join()
    collector.stop()
    assert done.said["result"] == [2450, 7450, 12450]
    consumers = [span for span in collector.spans() if span["kind"] == "consumer"]
    assert len({span["span_id"] for span in consumers}) == 150
    assert done.run.document["telemetry"].get("not_sent", {}) == {}


def test_nothing_configured_starts_no_thread_and_imports_no_exporter(tmp_path: Path):
    done = run_program(
        tmp_path,
        """
        import sys, threading
        result = [
            client.submit(double, 1).result(),
            [t.name for t in threading.enumerate() if "otlp" in t.name.lower()],
            [name for name in sys.modules if name.startswith("opentelemetry.exporter")],
        ]
        """,
        workers=1,
    )
    assert done.said["result"] == [2, [], []]


def test_an_exporter_that_is_missing_is_named_with_its_extra(tmp_path: Path):
    done = run_program(
        tmp_path,
        "result = client.submit(double, 1).result()",
        {"OTEL_TRACES_EXPORTER": "otlp_proto_carrier_pigeon", "OTEL_METRICS_EXPORTER": "none"},
        workers=1,
    )
    assert done.said["result"] == 2
    assert "is not installed; pip install 'scalable-otel[otlp]'" in done.stderr
