"""Destinations of a recorded run: a collector, or a file of OTLP."""

from __future__ import annotations

import base64
import os
import socket
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import sleep
from typing import IO, Any, Final, Protocol, cast
from urllib.parse import urlsplit

import orjson

from scalable.common.otel_environment import FILE_VARIABLES
from scalable.telemetry.configuration.exporters import EXTRA, address_of, endpoint_of, load_exporter
from scalable.telemetry.configuration.limits import LimitedExporter
from scalable.telemetry.configuration.routes import Routes, find_routes
from scalable.telemetry.export.exporter_logs import log_filter
from scalable.telemetry.export.shipping import SignalName
from scalable.telemetry.export.sinks import ExporterSink, UndeliverableError

#: Tries to send a batch, and seconds between them.
TRIES: Final = 3
PAUSE: Final = 1.0


class ResendError(Exception):
    """A run cannot be sent or written; the message has the reason and what to do."""


class Destination(Protocol):
    """Where a run goes."""

    def send(self, signal: SignalName, batch: Sequence[Any]) -> None:
        """Send spans, log records or ``MetricsData``; raises ResendError if they are refused."""
        ...

    def close(self) -> None:
        """Nothing more is sent."""
        ...


class OtlpDestination:
    """A collector; called by one thread.

    Parameters
    ----------
    url : str or None
        Its address; None: that of ``OTEL_*``.

    Raises
    ------
    ResendError
        Nothing is configured, or the exporter is not installed.
    """

    def __init__(self, url: str | None) -> None:
        problems: list[str] = []
        environ = dict(os.environ)
        if url is not None:
            _check_url(url)
            # The given address has precedence over a signal's own endpoint.
            for name in list(environ):
                if name.startswith("OTEL_EXPORTER_OTLP_") and name.endswith("_ENDPOINT"):
                    del environ[name]
            for name in FILE_VARIABLES:
                environ.pop(name, None)
            for signal in ("TRACES", "METRICS", "LOGS"):
                environ[f"OTEL_{signal}_EXPORTER"] = "otlp"
            environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = url
        routes = find_routes(environ, problems.append)
        self._sinks: dict[SignalName, list[ExporterSink[Any]]] = {}
        self._addresses = {signal: endpoint_of(environ, signal) for signal in routes.exporters}
        with _environment(environ):
            for signal, points in routes.exporters.items():
                exporters = [load_exporter(signal, point, problems.append) for point in points]
                self._sinks[signal] = [
                    ExporterSink(_limited(exporter, signal, routes), single=signal == "metrics")
                    for exporter in exporters
                    if exporter is not None
                ]
        if problems and url is not None and EXTRA in problems[0]:
            raise ResendError(f"--otlp needs exporters that are not installed: {EXTRA}.")
        if problems:
            raise ResendError(f"{problems[0]}.")
        if not any(self._sinks.values()):
            raise ResendError(
                "Nowhere to send to: give --otlp URL or --file FILE, or set "
                "OTEL_EXPORTER_OTLP_ENDPOINT."
            )

    def send(self, signal: SignalName, batch: Sequence[Any]) -> None:
        """Send a batch."""
        for sink in self._sinks.get(signal, ()):
            log_filter.capture()
            try:
                _try_to_send(sink, batch, self._addresses[signal])
            finally:
                log_filter.release()

    def close(self) -> None:
        """Shut the exporters down."""
        for sinks in self._sinks.values():
            for sink in sinks:
                sink.shutdown()


def _limited(exporter: Any, signal: SignalName, routes: Routes) -> Any:
    if signal == "metrics":
        return exporter
    limits = routes.limits
    return LimitedExporter(exporter, limits.spans if signal == "traces" else limits.logs)


class FileDestination:
    """A file of OTLP in JSON, one message per line; called by one thread."""

    def __init__(self, path: Path) -> None:
        try:
            from google.protobuf import json_format
            from opentelemetry.exporter.otlp.proto.common import (
                _log_encoder,
                metrics_encoder,
                trace_encoder,
            )
        except ImportError as error:
            raise ResendError(f"OTLP cannot be encoded here ({error}): {EXTRA}.") from error
        self._dict_of: Any = json_format.MessageToDict
        self._encode: dict[SignalName, Any] = {
            "traces": trace_encoder.encode_spans,
            "logs": _log_encoder.encode_logs,
            "metrics": metrics_encoder.encode_metrics,
        }
        try:
            self._file: IO[str] = path.open("w", encoding="utf-8")
        except OSError as error:
            raise ResendError(f"{path} cannot be written: {error.strerror}.") from error
        self._path = path

    def send(self, signal: SignalName, batch: Sequence[Any]) -> None:
        """Write a batch."""
        for content in batch if signal == "metrics" else (batch,):
            message = self._dict_of(self._encode[signal](content), use_integers_for_enums=True)
            try:
                self._file.write(orjson.dumps(_with_hex_ids(message)).decode() + "\n")
            except OSError as error:
                raise ResendError(f"{self._path} cannot be written: {error.strerror}.") from error

    def close(self) -> None:
        """Close the file."""
        try:
            self._file.close()
        except OSError as error:
            raise ResendError(f"{self._path} cannot be written: {error.strerror}.") from error


def _check_url(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ResendError(
            f"{url!r} is not the address of a collector: give one such as http://127.0.0.1:4318."
        )


def _try_to_send(sink: ExporterSink[Any], batch: Sequence[Any], address: str) -> None:
    for attempt in range(TRIES):
        try:
            sink.send(batch)
        except UndeliverableError as error:
            if error.permanent or attempt + 1 == TRIES:
                why = _unreachable(address) or str(error)
                where = f" at {address}" if address else ""
                raise ResendError(f"The collector{where} does not take it: {why}") from error
            sleep(PAUSE)
        else:
            return


def _unreachable(address: str) -> str | None:
    """Why nothing can be sent to an address; None if it accepts connections.

    An exporter reports only that it failed, not why.
    """
    parts = address_of(address)
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        if parts.hostname is not None:
            socket.create_connection((parts.hostname, port), PAUSE).close()
    except (OSError, ValueError) as error:
        return f"{getattr(error, 'strerror', None) or error}."
    return None


@contextmanager
def _environment(environ: Mapping[str, str]) -> Generator[None]:
    """Replace the environment, which exporters read when they are created."""
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


_HEX: Final = frozenset({"traceId", "spanId", "parentSpanId"})


def _with_hex_ids(message: Any) -> Any:
    """OTLP in JSON has ids as hexadecimal digits, where protobuf's own mapping has base64."""
    if isinstance(message, dict):
        found = cast("dict[str, Any]", message)
        return {
            name: base64.b64decode(value).hex()
            if name in _HEX and isinstance(value, str)
            else _with_hex_ids(value)
            for name, value in found.items()
        }
    if isinstance(message, list):
        return [_with_hex_ids(item) for item in cast("list[Any]", message)]
    return message
