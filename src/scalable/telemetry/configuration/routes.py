"""Where signals go besides the run's directory, by the application's providers or OTEL_*."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import entry_points
from typing import Any, Final, Literal, TypeAlias
from urllib.parse import urlsplit
from uuid import uuid4

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
from scalable.telemetry import semconv
from scalable.telemetry.configuration.config_file import (
    ConfigurationFileError,
    read_configuration,
)
from scalable.telemetry.configuration.exporters import EXTRA, ConfiguredExporter
from scalable.telemetry.configuration.limits import SignalLimits, limits_of
from scalable.telemetry.export.provider_tracers import sdk_tracer, tracer_of
from scalable.telemetry.export.shipping import SignalName
from scalable.telemetry.signals.spans import SCOPE, Sampling, sampled_like
from scalable_runs.redact import Redactor

SIGNALS: Final[tuple[SignalName, ...]] = ("traces", "metrics", "logs")

#: Name of the exporter of the run's directory, which is always written.
_OURS: Final = "scalable_runs"
ExceptionSignal: TypeAlias = Literal["spans", "logs", "both"]

_PROTOCOLS: Final = {
    "grpc": "otlp_proto_grpc",
    "http/protobuf": "otlp_proto_http",
    "http/json": "otlp_json_http",
}
_JSON: Final = "http/json"


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
        names = _exporter_names(routes.environ, signal, warn)
        found = [point for name in names if (point := _entry_point(signal, name, warn))]
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


def _exporter_names(
    environ: Mapping[str, str], signal: SignalName, warn: Callable[[str], None]
) -> list[str]:
    text = environ.get(f"OTEL_{signal.upper()}_EXPORTER", "").strip()
    if not text:
        endpoints = (f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
        text = "otlp" if any(environ.get(name, "").strip() for name in endpoints) else "none"
    names = [name.strip() for name in text.split(",") if name.strip()]
    return [
        _by_protocol(environ, signal, warn) if name == "otlp" else name
        for name in names
        if name not in ("none", _OURS)
    ]


def _by_protocol(
    environ: Mapping[str, str], signal: SignalName, warn: Callable[[str], None]
) -> str:
    """Name of the OTLP exporter; the specification's default protocol is http/protobuf."""
    prefix = "OTEL_EXPORTER_OTLP"
    protocol = environ.get(f"{prefix}_{signal.upper()}_PROTOCOL", "").strip()
    protocol = protocol or environ.get(f"{prefix}_PROTOCOL", "").strip()
    if protocol == _JSON and not entry_points(
        group=f"opentelemetry_{signal}_exporter", name=_PROTOCOLS[_JSON]
    ):
        # A receiver of one of the two accepts the other at the same address.
        warn(f"the exporter for OTLP as {_JSON} is not installed: http/protobuf is used")
        protocol = "http/protobuf"
    if protocol:
        return _PROTOCOLS.get(protocol, protocol)
    endpoint = environ.get(f"{prefix}_{signal.upper()}_ENDPOINT") or environ.get(
        f"{prefix}_ENDPOINT", ""
    )
    # 4317 is the port of gRPC alone, which is the default protocol of other languages.
    return _PROTOCOLS["grpc" if _port(endpoint) == 4317 else "http/protobuf"]


def _port(endpoint: str) -> int | None:
    try:
        return urlsplit(endpoint if "//" in endpoint else f"//{endpoint}").port
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


def make_resource(
    run: str, project: str, redact: Redactor, base: Resource | None = None
) -> Resource:
    """The resource of a run: the environment (``OTEL_SERVICE_NAME``, …) has precedence.

    `base` is the application's own, or a configuration file's, which takes the environment's place.
    """
    attributes: Mapping[str, Any] = {semconv.RUN_ID: run, semconv.PROJECT: project}
    resource = Resource.create(attributes) if base is None else base.merge(Resource(attributes))
    service = str(resource.attributes.get("service.name", ""))
    if not service or service.startswith("unknown_service"):
        # Nobody has named the service: the SDK did.
        resource = resource.merge(Resource({"service.name": project}))
    if not resource.attributes.get(semconv.SERVICE_INSTANCE):
        instance = _instance_of(os.getpid())
        resource = resource.merge(Resource({semconv.SERVICE_INSTANCE: instance}))
    schema_url = resource.schema_url or semconv.SCHEMA_URL
    return Resource(redact.attributes(resource.attributes), schema_url)


@lru_cache(maxsize=1)
def _instance_of(pid: int) -> str:
    """The instance that this process is, as in the SDK's own resources; older ones have none."""
    return str(Resource.create({}).attributes.get(semconv.SERVICE_INSTANCE) or uuid4())


def exception_signal(environ: Mapping[str, str]) -> ExceptionSignal:
    """Where exceptions are sent: on spans (today's default), in logs, or in both."""
    chosen = {
        part.strip() for part in environ.get("OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN", "").split(",")
    }
    if "logs/dup" in chosen:
        return "both"
    return "logs" if "logs" in chosen else "spans"
