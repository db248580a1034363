"""Where signals go besides the run's directory, by the application's providers or OTEL_*."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, Literal, TypeAlias

from opentelemetry import _logs, metrics, trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import Sampler
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    TraceFlags,
    set_span_in_context,
)

from scalable.common.otel_environment import configuration_file
from scalable.telemetry.configuration.config_file import (
    ConfigurationFileError,
    read_configuration,
)
from scalable.telemetry.configuration.exporters import ConfiguredExporter, exporters_named
from scalable.telemetry.configuration.limits import SignalLimits, limits_of
from scalable.telemetry.export.provider_tracers import sdk_tracer, tracer_of
from scalable.telemetry.export.shipping import SignalName
from scalable.telemetry.signals.spans import SCOPE, Sampling, sampled_like

SIGNALS: Final[tuple[SignalName, ...]] = ("traces", "metrics", "logs")

ExceptionSignal: TypeAlias = Literal["spans", "logs", "both"]


@dataclass(slots=True)
class Routes:
    """Where each kind of signal goes; made by the thread that begins a run, cheaply.

    Attributes
    ----------
    providers : dict
        The application's provider of a signal, if there is one.
    exporters : dict
        Else the exporters that are configured, by variables or by a file.
    environ : mapping
        Further settings as variables: the environment, or what a file says in its place.
    resource : Resource or None
        That of the application's tracer provider, or of a file.
    sampler
        Decides which traces are sent.
    id_generator : IdGenerator or None
        That of the application's tracer provider, or the one that is configured.
    limits : SignalLimits
        Limits of attributes, events and links, for `exporters`.
    """

    providers: dict[SignalName, Any] = field(default_factory=dict[SignalName, Any])
    exporters: dict[SignalName, list[ConfiguredExporter]] = field(
        default_factory=dict[SignalName, list[ConfiguredExporter]]
    )
    environ: Mapping[str, str] = field(default_factory=dict[str, str])
    resource: Resource | None = None
    sampler: Any = None
    id_generator: Any = None
    limits: SignalLimits = field(default_factory=SignalLimits)

    @property
    def somewhere(self) -> bool:
        """Whether any signal goes anywhere."""
        return bool(self.providers or self.exporters)

    @property
    def portable(self) -> bool:
        """Whether another process can send as well as this one.

        An object of the application's is here alone.
        """
        chosen = [exporter for each in self.exporters.values() for exporter in each]
        return not self.providers and all(exporter.portable for exporter in chosen)

    def sample(
        self,
        trace_id: int,
        parent: SpanContext | None,
        name: str = "submit",
        attributes: Mapping[str, Any] | None = None,
        kind: SpanKind = SpanKind.PRODUCER,
    ) -> Sampling:
        """Let the sampler decide on a span; called by any thread."""
        context = set_span_in_context(NonRecordingSpan(parent)) if parent is not None else None
        try:
            result = self.sampler.should_sample(
                context,
                trace_id,
                name,
                kind,
                None if attributes is None else dict(attributes),
                None,
            )
            sampled = TraceFlags.SAMPLED if result.decision.is_sampled() else 0
            state, added = result.trace_state, dict(result.attributes or {})
        except Exception:
            # The application's sampler failed: the parent decides; without one, the trace is kept.
            return sampled_like(parent)
        other = 0 if parent is None else parent.trace_flags & ~TraceFlags.SAMPLED
        return Sampling(TraceFlags(other | sampled), state, added)


def find_routes(
    environ: Mapping[str, str],
    warn: Callable[[str], None],
    *,
    tracer_provider: Any = None,
    meter_provider: Any = None,
    logger_provider: Any = None,
) -> Routes:
    """Find out where signals go.

    For each signal: the provider given, else the application's own (the global one, where it has
    set one), else the exporters of the file that ``OTEL_CONFIG_FILE`` names, else, without a file,
    those that ``OTEL_<SIGNAL>_EXPORTER`` names, else OTLP where an endpoint is configured, else
    nowhere.
    """
    routes = Routes(environ=environ, limits=limits_of(environ))
    given: dict[SignalName, Any] = {
        "traces": tracer_provider or _set_by_application(trace.get_tracer_provider()),
        "metrics": meter_provider or _set_by_application(metrics.get_meter_provider()),
        "logs": logger_provider or _set_by_application(_logs.get_logger_provider()),
    }
    routes.providers = {
        signal: provider for signal, provider in given.items() if provider is not None
    }
    path = configuration_file(environ)
    if len(routes.providers) == len(given):
        pass  # the application is configured, by whatever means
    elif path:
        _add_file(routes, path, warn)
    else:
        _add_variables(routes, warn)
    _add_tracing(routes, warn)
    return routes


def _add_file(routes: Routes, path: str, warn: Callable[[str], None]) -> None:
    """Add what a configuration file says; nothing but the directory if it cannot be used."""
    try:
        configured = read_configuration(path, routes.environ)
    except ConfigurationFileError as error:
        warn(f"the configuration file of OpenTelemetry is not used, and nothing is sent: {error}")
        return
    for sentence in configured.left_out:
        warn(f"in {path}, {sentence}")
    for signal, exporters in configured.exporters.items():
        if signal not in routes.providers:
            routes.exporters[signal] = exporters
    routes.environ = configured.environ(routes.environ)
    routes.resource, routes.limits = configured.resource, configured.limits
    routes.sampler, routes.id_generator = configured.sampler, configured.id_generator


def _add_variables(routes: Routes, warn: Callable[[str], None]) -> None:
    for signal in SIGNALS:
        if signal in routes.providers:
            continue
        found = exporters_named(routes.environ, signal, warn)
        if found:
            routes.exporters[signal] = found


def _set_by_application(provider: Any) -> Any:
    """`provider`; None if it is one of the API's proxies, which mean that none is set."""
    return None if type(provider).__module__.split(".")[:2] in _STAND_INS else provider


_STAND_INS: Final = (
    ["opentelemetry", "trace"],
    ["opentelemetry", "metrics"],
    ["opentelemetry", "_logs"],
)


def _add_tracing(routes: Routes, warn: Callable[[str], None]) -> None:
    provider = routes.providers.get("traces")
    if provider is not None:
        try:
            tracer = tracer_of(provider, SCOPE)
        except Exception as error:
            warn(
                f"the tracer provider {type(provider).__qualname__} cannot be used "
                f"({type(error).__name__}: {error}): the run's spans are in its directory alone"
            )
            del routes.providers["traces"]
        else:
            # Also behind a wrapper, which may have neither.
            behind: Any = sdk_tracer(tracer)
            routes.sampler = getattr(behind, "sampler", None)
            routes.id_generator = getattr(behind, "id_generator", None)
            resource = getattr(behind, "resource", getattr(provider, "resource", None))
            routes.resource = resource if isinstance(resource, Resource) else None
    if routes.sampler is None:
        names = ("OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG")
        routes.sampler = _sampler(*map(os.environ.get, names))


@lru_cache(maxsize=8)
def _sampler(*configured: str | None) -> Sampler:
    """The sampler of the environment, which the SDK reads itself.

    Kept for what is `configured`: a provider leaves something behind in each process that is
    forked, for ever.
    """
    return TracerProvider(resource=Resource({}), shutdown_on_exit=False).sampler


def exception_signal(environ: Mapping[str, str]) -> ExceptionSignal:
    """Where exceptions are sent: on spans (today's default), in logs, or in both."""
    chosen = {
        part.strip() for part in environ.get("OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN", "").split(",")
    }
    if "logs/dup" in chosen:
        return "both"
    return "logs" if "logs" in chosen else "spans"
