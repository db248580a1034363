"""Every reach behind the public interface of OpenTelemetry's API and of :mod:`logging`."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final, Literal, cast

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry._logs import _internal as otel_logs
from opentelemetry.context import Context
from opentelemetry.context.contextvars_context import ContextVarsRuntimeContext
from opentelemetry.metrics import _internal as otel_metrics


def attach_context() -> Callable[[Context], Any]:
    """The shortest way to do what :func:`opentelemetry.context.attach` does."""
    runtime: Any = getattr(otel_context, "_RUNTIME_CONTEXT", None)
    if type(runtime) is ContextVarsRuntimeContext:
        # Two functions of Python less; another runtime context may do more than set a variable.
        return cast("Any", runtime)._current_context.set
    return otel_context.attach


Signal = Literal["traces", "metrics", "logs"]

_OTEL_PROVIDERS: Final[dict[Signal, tuple[Any, str]]] = {
    "traces": (trace, "_TRACER_PROVIDER"),
    "metrics": (otel_metrics, "_METER_PROVIDER"),
    "logs": (otel_logs, "_LOGGER_PROVIDER"),
}


def otel_provider(signal: Signal) -> Any:
    """The provider that was set for this process, or None."""
    module, name = _OTEL_PROVIDERS[signal]
    return getattr(module, name)


def place_otel_provider(signal: Signal, provider: Any) -> None:
    """Put a provider in the place of none, or take it away (None).

    Not by ``set_tracer_provider`` and its like: those work once, and that is the user's.
    """
    module, name = _OTEL_PROVIDERS[signal]
    setattr(module, name, provider)
    if signal == "metrics":
        # Instruments made before any provider was there wait for one.
        waiting = cast("Any", otel_metrics)._PROXY_METER_PROVIDER
        if provider is None:
            waiting._real_meter_provider = None
        else:
            waiting.on_set_meter_provider(provider)


def call_handlers() -> Callable[..., Any]:
    """The method of every logger that passes a record to its handlers."""
    return logging.Logger.callHandlers


def set_call_handlers(function: Callable[..., Any]) -> None:
    """Put another function in its place."""
    logging.Logger.callHandlers = function  # pyright: ignore[reportAttributeAccessIssue]
