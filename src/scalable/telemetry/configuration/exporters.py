"""The exporters that are configured, by the variables or by a file, and how they are made."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import Any, Final, Self

from opentelemetry.sdk.metrics.export import MetricExporter

from scalable.telemetry.export.shipping import Limits, SignalName

#: What to install where an OTLP exporter is configured and missing.
EXTRA: Final = "pip install 'scalable-otel[otlp]'"

#: Package of the OTLP exporters.
_OTLP: Final = "opentelemetry.exporter.otlp."


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
    if signal == "metrics" and not isinstance(made, MetricExporter):
        warn(
            f"the exporter {chosen.name!r} is read and not sent to: give instrument() a "
            "meter_provider that has it"
        )
        return None
    return made
