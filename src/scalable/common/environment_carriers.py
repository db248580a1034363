"""OpenTelemetry contexts in environment variables: ``TRACEPARENT``, ``TRACESTATE``, ``BAGGAGE``.

What starts a program (a CI job, Slurm, Airflow) tells it so which span it belongs to. The names are
those of OpenTelemetry's specification of environment variables as carriers: the name of a field in
upper case, with an underscore for every other character.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from opentelemetry import baggage
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import Getter
from opentelemetry.trace import TraceState
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from scalable.common import carriers

TRACEPARENT: Final = "TRACEPARENT"
TRACESTATE: Final = "TRACESTATE"
BAGGAGE: Final = "BAGGAGE"

_BAGGAGE: Final = W3CBaggagePropagator()
#: Loggers of what reads these variables: it warns of a value that it leaves out.
_LOGGERS: Final = tuple(
    {it.__module__ for it in (TraceState, TraceContextTextMapPropagator, W3CBaggagePropagator)}
)


def variable_of(field: str) -> str:
    """Name of the variable for a field of a carrier."""
    name = re.sub(r"[^A-Za-z0-9_]", "_", field).upper() or "_"
    return f"_{name}" if name[0].isdigit() else name


class _Getter(Getter[Mapping[str, str]]):
    def get(self, carrier: Mapping[str, str], key: str) -> list[str] | None:
        value = carrier.get(variable_of(key))
        return None if value is None else [value]

    def keys(self, carrier: Mapping[str, str]) -> list[str]:
        return [name for name in carrier if variable_of(name) == name]


_GETTER: Final = _Getter()


def read_environment(environ: Mapping[str, str], warn: Callable[[str], None]) -> Context:
    """The context that the process was started in.

    Malformed values are ignored, with one warning. The variables of W3C Trace Context and of W3C
    Baggage are read whatever propagator is configured; those of the configured one besides.
    """
    with _warnings_kept():
        used = {name: value for name, value in environ.items() if value.strip()}
        malformed: list[str] = []
        for name, is_read in _READERS.items():
            if name in used and not is_read(used):
                malformed.append(name)
                del used[name]
        context = carriers.extract(used, _GETTER)
        for name, value in baggage.get_all(_BAGGAGE.extract(used, Context(), _GETTER)).items():
            context = baggage.set_baggage(name, value, context)
    if malformed:
        warn(f"these environment variables are malformed, and are ignored: {', '.join(malformed)}")
    return context


def _has_span(environ: Mapping[str, str]) -> bool:
    return carriers.span_in(environ, _GETTER) is not None


def _has_state(environ: Mapping[str, str]) -> bool:
    span = carriers.span_in(environ, _GETTER)
    # Without a parent there is nothing that it could be the state of.
    return span is None or bool(span.trace_state) or not environ[TRACESTATE].strip(" \t,")


def _has_baggage(environ: Mapping[str, str]) -> bool:
    read = baggage.get_all(_BAGGAGE.extract(environ, Context(), _GETTER))
    members = [member for member in environ[BAGGAGE].split(",") if member.strip()]
    return len(read) == len({member.partition("=")[0].strip() for member in members})


_READERS: Final[Mapping[str, Callable[[Mapping[str, str]], Any]]] = {
    TRACEPARENT: _has_span,
    TRACESTATE: _has_state,
    BAGGAGE: _has_baggage,
}


@contextmanager
def _warnings_kept() -> Generator[None]:
    """Keep the API from logging, in this thread, what it leaves out: there is one warning."""
    thread = threading.get_ident()

    def others(record: logging.LogRecord) -> bool:
        return record.thread != thread

    loggers = [logging.getLogger(name) for name in _LOGGERS]
    for logger in loggers:
        logger.addFilter(others)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(others)
