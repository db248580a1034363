"""The program of each cell of the matrix: an application with Dask, run as a script.

``matrix_program.py KIND``, where KIND says whose OpenTelemetry it has: ``relay`` none,
``zero-code-processes`` and ``zero-code-threads`` that of ``opentelemetry-instrument``, ``own``
providers of its own, ``sentry`` and ``logfire`` theirs. Its last line of output is JSON: the run's
directory, the spans that others have, and what Sentry was given.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import dask
from distributed import Client, LocalCluster, worker_client
from opentelemetry import context, trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

log = logging.getLogger("application")


def span(name: str) -> Any:
    """A span of the application's own."""
    return trace.get_tracer("application").start_as_current_span(name)


# -- tasks --------------------------------------------------------------------------------------


def leaf(x: int) -> int:
    with span("read"):
        time.sleep(0.002)
    return x


def quiet(x: int) -> int:
    return x


def nest(x: int) -> int:
    """A task that has tasks computed, below spans of its own."""
    with span("outer"), span("inner"):
        log.warning("nesting %d", x)
        with worker_client() as client:
            return sum(client.gather(client.map(leaf, [x, x + 100], pure=False)))


def flaky(path: str) -> str:
    """A task that fails the first time, with an open span."""
    with span("try"):
        if first_time(path):
            raise ValueError("the first time")
    return "done"


def fail(x: int) -> None:
    with span("break"):
        raise KeyError(x)


def big(x: int) -> bytes:
    return bytes(2_000_000 + x)


def size(*values: bytes) -> int:
    return sum(map(len, values))


def kill(path: str) -> str:
    """A task that ends its worker's process the first time."""
    if first_time(path):
        os.kill(os.getpid(), signal.SIGKILL)
    return "survived"


def first_time(path: str) -> bool:
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def flush() -> None:
    """Send what an SDK of this process keeps: what it has not sent dies with a worker."""
    flush_spans: Any = getattr(trace.get_tracer_provider(), "force_flush", None)
    if flush_spans is not None:
        flush_spans()


# -- whose OpenTelemetry ------------------------------------------------------------------------


def exporters() -> tuple[Any, Any, Any]:
    """OTLP exporters for spans, metrics and log records, over the protocol of the environment."""
    if os.environ["OTEL_EXPORTER_OTLP_PROTOCOL"] == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    else:
        from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    return OTLPSpanExporter(), OTLPMetricExporter(), OTLPLogExporter()


def resource() -> Any:
    from opentelemetry.sdk.resources import Resource

    return Resource.create({"service.name": "application"})


def own(said: dict[str, Any]) -> Callable[[], None]:
    """Providers that the application makes and sets."""
    from opentelemetry import metrics
    from opentelemetry._logs import set_logger_provider
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    spans, points, records = exporters()
    tracers = TracerProvider(resource=resource(), shutdown_on_exit=False)
    tracers.add_span_processor(BatchSpanProcessor(spans))
    reader = PeriodicExportingMetricReader(points)
    meters = MeterProvider([reader], resource(), shutdown_on_exit=False)
    loggers = LoggerProvider(resource(), shutdown_on_exit=False)
    loggers.add_log_record_processor(BatchLogRecordProcessor(records))
    trace.set_tracer_provider(tracers)
    metrics.set_meter_provider(meters)
    set_logger_provider(loggers)

    def shutdown() -> None:
        for provider in (tracers, meters, loggers):
            provider.shutdown()

    return shutdown


def sentry(said: dict[str, Any]) -> Callable[[], None]:
    """Sentry's processor at the application's tracer provider; no other providers."""
    import sentry_sdk
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from sentry_sdk.integrations.opentelemetry import SentrySpanProcessor
    from sentry_sdk.transport import Transport

    class Kept(Transport):
        """Keeps the transactions instead of sending them."""

        def capture_envelope(self, envelope: Any) -> None:
            transaction = envelope.get_transaction_event()
            if transaction is not None:
                spans = [found["span_id"] for found in transaction["spans"]]
                said["sentry"] += [transaction["contexts"]["trace"]["span_id"], *spans]

    said["sentry"] = []
    sentry_sdk.init(
        dsn="https://key@localhost/1",
        instrumenter="otel",
        traces_sample_rate=1.0,
        transport=Kept,
        default_integrations=False,
    )
    tracers = TracerProvider(resource=resource(), shutdown_on_exit=False)
    tracers.add_span_processor(SentrySpanProcessor())
    tracers.add_span_processor(BatchSpanProcessor(exporters()[0]))
    trace.set_tracer_provider(tracers)

    def shutdown() -> None:
        sentry_sdk.flush()
        tracers.shutdown()

    return shutdown


def logfire(said: dict[str, Any]) -> Callable[[], None]:
    """Logfire, which sends over OTLP too: by itself over HTTP alone."""
    import logfire as package

    more: dict[str, Any] = {}
    if os.environ["OTEL_EXPORTER_OTLP_PROTOCOL"] == "grpc":
        from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        spans, points, records = exporters()
        for signal_name in ("TRACES", "METRICS", "LOGS"):
            os.environ[f"OTEL_{signal_name}_EXPORTER"] = "none"
        more = {
            "additional_span_processors": [BatchSpanProcessor(spans)],
            "metrics": package.MetricsOptions(
                additional_readers=[PeriodicExportingMetricReader(points)]
            ),
            "advanced": package.AdvancedOptions(
                log_record_processors=[BatchLogRecordProcessor(records)]
            ),
        }
    package.configure(
        send_to_logfire=False,
        console=False,
        service_name="application",
        inspect_arguments=False,
        distributed_tracing=True,
        **more,
    )
    return lambda: package.shutdown(flush=True) and None


KINDS: dict[str, Callable[[dict[str, Any]], Callable[[], None]]] = {
    "own": own,
    "sentry": sentry,
    "logfire": logfire,
}


# -- the program --------------------------------------------------------------------------------


def remote_parent(said: dict[str, Any]) -> context.Context | None:
    """A span of another program, with a trace state, as a web server would read it."""
    header = os.environ.get("MATRIX_PARENT")
    if header is None:
        return None
    said["outside"] = [header.split("-")[2]]
    carrier = {"traceparent": header, "tracestate": "vendor=opaque,other=1"}
    return TraceContextTextMapPropagator().extract(carrier)


def work(client: Client, can_kill: bool) -> list[Any]:
    """Compute: each of the four parts is a trace of its own, the first below the parent."""
    results: list[Any] = []
    with span("request"):
        leaves = client.map(leaf, range(24))
        nested = client.map(nest, range(4))
        blobs = client.map(big, range(4))
        results += [client.submit(sum, leaves).result(), sum(client.gather(nested))]
        results.append(client.submit(size, *blobs).result())
        del leaves, nested, blobs
    with span("failures"):
        failed = client.map(fail, range(2))
        results.append([repr(future.exception()) for future in failed])
        results.append(client.submit(flaky, str(Path("flaky").resolve()), retries=2).result())
    part = [dask.delayed(quiet, pure=False)(x) for x in range(40)]
    results.append(dask.delayed(sum)(part).compute())
    client.run(flush)
    if can_kill:
        results.append(client.submit(kill, str(Path("kill").resolve())).result())
    return results


EXPECTED = [
    sum(range(24)),
    sum(2 * x + 100 for x in range(4)),
    8_000_006,
    ["KeyError(0)", "KeyError(1)"],
    "done",
    sum(range(40)),
]


def main(kind: str) -> None:
    said: dict[str, Any] = {"outside": []}
    shutdown = KINDS[kind](said) if kind in KINDS else lambda: None
    threads = kind == "zero-code-threads"
    with ExitStack() as stack:
        cluster = stack.enter_context(
            LocalCluster(
                n_workers=2,
                threads_per_worker=2,
                processes=not threads,
                dashboard_address=":0",
                memory_limit=0,
                silence_logs=logging.CRITICAL,
            )
        )
        client = stack.enter_context(Client(cluster))
        run = None
        if not kind.startswith("zero-code"):
            import scalable

            run = scalable.instrument(client)
        parent = remote_parent(said)
        token = context.attach(parent) if parent is not None else None
        results = work(client, can_kill=not threads)
        if token is not None:
            context.detach(token)
        assert results == EXPECTED + ["survived"] * (not threads), results
        if run is not None:
            run.close()
    shutdown()
    print(json.dumps(said), flush=True)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")
    main(sys.argv[1])
