"""The exporters that are configured, by the variables or by a file, and how they are made."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final, Self
from urllib.parse import SplitResult, urlsplit

from scalable.telemetry.export.shipping import Limits, SignalName

#: What to install where an OTLP exporter is configured and missing.
EXTRA: Final = "pip install 'scalable-otel[otlp]'"

#: Name of the exporter of the run's directory, which is always written.
OURS: Final = "scalable_runs"
#: Package of the OTLP exporters.
_OTLP: Final = "opentelemetry.exporter.otlp."

_PROTOCOLS: Final = {
    "grpc": "otlp_proto_grpc",
    "http/protobuf": "otlp_proto_http",
    "http/json": "otlp_json_http",
}
_JSON: Final = "http/json"


@dataclass(frozen=True, slots=True)
class ConfiguredExporter:
    """An exporter that is made later, by the thread that uses it."""

    name: str
    #: Whether another process can send as well as this one. An exporter that is not OTLP's may
    #: print, or keep what it gets, and is then meant to do so in the program.
    portable: bool
    make: Callable[[], Any]
    #: Limits of its queue; None: those of the signal.
    queue: Limits | None = None

    @classmethod
    def of(cls, point: EntryPoint) -> Self:
        """The exporter of an entry point, which its variables configure."""
        return cls(point.name, point.module.startswith(_OTLP), lambda: point.load()())


def exporters_named(
    environ: Mapping[str, str], signal: SignalName, warn: Callable[[str], None]
) -> list[ConfiguredExporter]:
    """The exporters of a signal that variables name, besides that of the run's directory."""
    names = _exporter_names(environ, signal, warn)
    return [point for name in names if (point := _entry_point(signal, name, warn))]


def endpoint_of(environ: Mapping[str, str], signal: SignalName) -> str:
    """Where variables say that OTLP of a signal is sent; an empty text if they do not."""
    return _otlp_setting(environ, signal, "ENDPOINT")


def address_of(endpoint: str) -> SplitResult:
    """The parts of an endpoint, which gRPC may have without a scheme."""
    return urlsplit(endpoint if "//" in endpoint else f"//{endpoint}")


def _otlp_setting(environ: Mapping[str, str], signal: SignalName, what: str) -> str:
    """A setting of OTLP: the signal's own has precedence over that of all signals."""
    names = (f"OTEL_EXPORTER_OTLP_{signal.upper()}_{what}", f"OTEL_EXPORTER_OTLP_{what}")
    return next((text for name in names if (text := environ.get(name, "").strip())), "")


def _exporter_names(
    environ: Mapping[str, str], signal: SignalName, warn: Callable[[str], None]
) -> list[str]:
    text = environ.get(f"OTEL_{signal.upper()}_EXPORTER", "").strip()
    if not text:
        text = "otlp" if endpoint_of(environ, signal) else "none"
    names = [name.strip() for name in text.split(",") if name.strip()]
    return [
        _by_protocol(environ, signal, warn) if name == "otlp" else name
        for name in names
        if name not in ("none", OURS)
    ]


def _by_protocol(
    environ: Mapping[str, str], signal: SignalName, warn: Callable[[str], None]
) -> str:
    """Name of the OTLP exporter; the specification's default protocol is http/protobuf."""
    protocol = _otlp_setting(environ, signal, "PROTOCOL")
    if protocol == _JSON and not entry_points(
        group=f"opentelemetry_{signal}_exporter", name=_PROTOCOLS[_JSON]
    ):
        # A receiver of one of the two accepts the other at the same address.
        warn(f"the exporter for OTLP as {_JSON} is not installed: http/protobuf is used")
        protocol = "http/protobuf"
    if protocol:
        return _PROTOCOLS.get(protocol, protocol)
    # 4317 is the port of gRPC alone, which is the default protocol of other languages.
    return _PROTOCOLS["grpc" if _port(endpoint_of(environ, signal)) == 4317 else "http/protobuf"]


def _port(endpoint: str) -> int | None:
    try:
        return address_of(endpoint).port
    except ValueError:
        return None


def _entry_point(
    signal: SignalName, name: str, warn: Callable[[str], None]
) -> ConfiguredExporter | None:
    found = next(iter(entry_points(group=f"opentelemetry_{signal}_exporter", name=name)), None)
    if found is None:
        hint = f"; {EXTRA}" if name.startswith("otlp") else ""
        warn(f"the exporter {name!r} that OTEL_* asks for is not installed{hint}")
        return None
    return ConfiguredExporter.of(found)


@contextmanager
def _quiet_grpc() -> Generator[None]:
    """Keep the core of gRPC, which reads this once, from writing to the user's standard error."""
    name = "GRPC_VERBOSITY"
    if name in os.environ or "grpc" in sys.modules:
        yield
        return
    os.environ[name] = "NONE"
    try:
        yield
    finally:
        del os.environ[name]


def load_exporter(
    signal: SignalName, chosen: ConfiguredExporter, warn: Callable[[str], None]
) -> Any:
    """An exporter as its variables configure it; None, after a warning, if it cannot be made."""
    try:
        with _quiet_grpc():
            made = chosen.make()
    except Exception as error:
        hint = f"; {EXTRA}" if isinstance(error, ImportError) else ""
        warn(f"the exporter {chosen.name!r} cannot be used: {type(error).__name__}: {error}{hint}")
        return None
    if signal == "metrics":
        from opentelemetry.sdk.metrics.export import MetricExporter

        if not isinstance(made, MetricExporter):
            warn(
                f"the exporter {chosen.name!r} is read and not sent to: give instrument() a "
                "meter_provider that has it"
            )
            return None
    return made
