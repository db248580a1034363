"""OpenTelemetry's declarative configuration: what ``OTEL_CONFIG_FILE`` says, for the recorder.

The SDK's own reader (``opentelemetry-sdk[file-configuration]``) parses and validates the file and
makes exporters and sampler. By the specification the file takes the place of the ``OTEL_*``
variables that configure the SDK.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.sampling import DEFAULT_ON

from scalable.telemetry.configuration.exporters import OURS, ConfiguredExporter
from scalable.telemetry.configuration.limits import DEFAULT_COUNT, AttributeLimits, SignalLimits
from scalable.telemetry.export.shipping import BATCH, DELAYS, QUEUE, Limits, SignalName

#: What to install where a file is configured and the SDK cannot read it.
EXTRA: Final = "pip install 'scalable-otel[file-configuration]'"

#: Exporters that another process can use as well as this one.
_PORTABLE: Final = ("otlp_http", "otlp_grpc")
_SCOPE: Final = "opentelemetry.configuration"
#: Variables that the file takes the place of; those that describe exporters are for the SDK.
_REPLACED: Final = (
    *("OTEL_BSP_", "OTEL_BLRP_", "OTEL_METRIC", "OTEL_TRACES_", "OTEL_LOGS_"),
    *("OTEL_PYTHON_ID_GENERATOR", "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"),
)


class ConfigurationFileError(Exception):
    """A file cannot be used; the message is a sentence without its end."""


@dataclass(frozen=True, slots=True)
class FileConfiguration:
    """What a file says.

    Attributes
    ----------
    exporters : dict
        For each signal that the file configures, its exporters; the run's directory is not one.
    resource : Resource
        The file's resource, with what its detectors find.
    sampler, id_generator
        Those of the tracer provider.
    limits : SignalLimits
        Limits of attributes, events and links.
    variables : dict
        Further settings as the ``OTEL_*`` variables that would mean the same.
    options : dict
        Options of ``instrument()``: those of the instrumentation ``dask``, else of the exporter
        ``scalable_runs``. A file that disables the SDK switches the record off.
    left_out : tuple of str
        What the recorder cannot do, as sentences for the user.
    """

    exporters: dict[SignalName, list[ConfiguredExporter]] = field(
        default_factory=dict[SignalName, list[ConfiguredExporter]]
    )
    resource: Resource = field(default_factory=lambda: Resource({}))
    sampler: Any = DEFAULT_ON
    id_generator: Any = None
    limits: SignalLimits = field(default_factory=SignalLimits)
    variables: dict[str, str] = field(default_factory=dict[str, str])
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    left_out: tuple[str, ...] = ()

    def environ(self, environ: Mapping[str, str]) -> dict[str, str]:
        """`environ` with the file's settings in the place of the variables that it replaces."""
        kept = {name: value for name, value in environ.items() if not name.startswith(_REPLACED)}
        return {**kept, **self.variables}


def read_configuration(path: str, environ: Mapping[str, str]) -> FileConfiguration:
    """Read a file; the same content in the same environment is read once.

    Raises
    ------
    ConfigurationFileError
        The SDK cannot read it.
    """
    try:
        found = Path(path).stat()
    except OSError as error:
        raise ConfigurationFileError(f"{path!r} cannot be read: {error.strerror}") from error
    identity = (str(Path(path).absolute()), found.st_mtime_ns, found.st_size)
    made = _read_once(identity, tuple(sorted(environ.items())))
    if isinstance(made, ConfigurationFileError):
        raise made
    return made


@lru_cache(maxsize=4)
def _read_once(
    identity: tuple[str, int, int], environ: tuple[tuple[str, str], ...]
) -> FileConfiguration | ConfigurationFileError:
    """Read a file as it is now, in the environment as it is now."""
    path = identity[0]
    sdk = _Sdk.load()
    if isinstance(sdk, ConfigurationFileError):
        return sdk
    try:
        with _quiet():
            return _FileReader(sdk, sdk.load_config_file(path)).read()
    except Exception as error:
        what = str(error) or type(error).__name__
        return ConfigurationFileError(f"{path!r} cannot be used: {what.strip().rstrip('.')}")


# -- what is taken of the SDK's package ------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Sdk:
    """What the package ``opentelemetry-configuration`` offers.

    The factories of exporters are private: what is public makes whole providers, whose processors
    keep their exporters to themselves and start threads. A contract test covers them.
    """

    load_config_file: Callable[[str], Any]
    create_resource: Callable[..., Resource]
    create_tracer_provider: Callable[..., Any]
    #: For each signal, makes an exporter of its part of the file.
    make_exporter: Mapping[SignalName, Callable[[Any], Any]]

    @classmethod
    def load(cls) -> _Sdk | ConfigurationFileError:
        """Import the package; the error names what to install."""
        try:
            public = import_module(f"{_SCOPE}.file")
            return cls(
                public.load_config_file,
                public.create_resource,
                public.create_tracer_provider,
                {
                    "traces": import_module(f"{_SCOPE}._tracer_provider")._create_span_exporter,
                    "metrics": import_module(
                        f"{_SCOPE}._meter_provider"
                    )._create_push_metric_exporter,
                    "logs": import_module(f"{_SCOPE}._logger_provider")._create_log_record_exporter,
                },
            )
        except (ImportError, AttributeError) as error:
            return ConfigurationFileError(
                "it needs opentelemetry-sdk 1.44 or newer with its extra file-configuration "
                f"({error}): {EXTRA}"
            )


@contextmanager
def _quiet() -> Generator[None]:
    """Hide the errors that the package logs: they are in the exceptions that it raises."""
    names = [name for name in logging.root.manager.loggerDict if name.startswith(_SCOPE)]
    loggers = [logging.getLogger(name) for name in names]
    for logger in loggers:
        logger.addFilter(_is_no_error)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(_is_no_error)


def _is_no_error(record: logging.LogRecord) -> bool:
    return record.levelno < logging.ERROR


class _FileReader:
    """Takes a parsed file apart; used once, by the thread that reads the file."""

    def __init__(self, sdk: _Sdk, parsed: Any) -> None:
        self._sdk = sdk
        self._parsed = parsed
        self._exporters: dict[SignalName, list[ConfiguredExporter]] = {}
        self._variables: dict[str, str] = {}
        self._of_directory: dict[str, Any] = {}
        self._left_out: list[str] = []

    def read(self) -> FileConfiguration:
        """What the file says."""
        parsed = self._parsed
        of_dask = _options_of_dask(parsed)
        if parsed.disabled:
            return FileConfiguration(options={**of_dask, "enabled": False})
        resource = self._sdk.create_resource(parsed.resource)
        sampler, id_generator = self._tracing(resource)
        self._take_processors("traces", parsed.tracer_provider)
        self._take_processors("logs", parsed.logger_provider)
        if parsed.meter_provider is not None:
            self._take_readers(parsed.meter_provider)
        return FileConfiguration(
            exporters=self._exporters,
            resource=resource,
            sampler=sampler,
            id_generator=id_generator,
            limits=_limits(parsed),
            variables=self._variables,
            options={**self._of_directory, **of_dask},
            left_out=tuple(self._left_out),
        )

    def _tracing(self, resource: Resource) -> tuple[Any, Any]:
        config = self._parsed.tracer_provider
        if config is None:
            return DEFAULT_ON, None
        provider = self._sdk.create_tracer_provider(replace(config, processors=[]), resource)
        # It has nothing to do: this removes its hook from the end of the interpreter.
        provider.shutdown()
        return provider.sampler, provider.id_generator

    def _take_processors(self, signal: SignalName, provider: Any) -> None:
        for processor in () if provider is None else provider.processors:
            batch, simple = processor.batch, processor.simple
            if batch is not None:
                queue = _queue_of(batch, DELAYS[signal])
            elif simple is not None:
                queue = Limits(QUEUE, 1, 0.0)
            else:
                self._left_out.append(
                    f"of the processors of {signal}, the recorder has `batch` and `simple` alone"
                )
                continue
            self._take_exporter(signal, (batch or simple).exporter, queue)

    def _take_readers(self, provider: Any) -> None:
        intervals: list[int] = []
        for reader in provider.readers:
            if reader.periodic is None:
                self._left_out.append("of the metric readers, the recorder has `periodic` alone")
                continue
            intervals.append(reader.periodic.interval or 60_000)
            self._take_exporter("metrics", reader.periodic.exporter, None)
        if intervals:
            self._variables["OTEL_METRIC_EXPORT_INTERVAL"] = str(min(intervals))
        if provider.views:
            self._left_out.append("views do not apply to the metrics of the recorder")
        if provider.exemplar_filter is not None:
            self._variables["OTEL_METRICS_EXEMPLAR_FILTER"] = provider.exemplar_filter.value

    def _take_exporter(self, signal: SignalName, config: Any, queue: Limits | None) -> None:
        name, mapping = _chosen(config)
        if name == OURS:
            given = mapping if isinstance(mapping, Mapping) else {}
            self._of_directory |= {
                key: value for key, value in given.items() if key in ("runs_dir", "project")
            }
            return
        make = self._sdk.make_exporter[signal]
        self._exporters.setdefault(signal, []).append(
            ConfiguredExporter(name, name in _PORTABLE, lambda: make(config), queue)
        )
        preference = getattr(mapping, "temporality_preference", None)
        if preference is not None:
            variable = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"
            self._variables.setdefault(variable, preference.value)


def _options_of_dask(parsed: Any) -> dict[str, Any]:
    """Options below ``instrumentation/development: python: dask:``."""
    instrumentation = parsed.instrumentation_development
    python = getattr(instrumentation, "python", None) or {}
    return dict(python.get("dask") or {})


def _chosen(config: Any) -> tuple[str, Any]:
    """Name and part of the one component that a section has, as the SDK chooses it."""
    if is_dataclass(config):
        for each in fields(config):
            if (part := getattr(config, each.name)) is not None:
                return each.name, part
    further: Mapping[str, Any] = getattr(config, "additional_properties", None) or {}
    return next(iter(further.items()), ("", None))


def _queue_of(batch: Any, delay: float) -> Limits:
    capacity = max(1, batch.max_queue_size or QUEUE)
    if batch.schedule_delay is not None:
        delay = batch.schedule_delay / 1e3
    return Limits(capacity, min(batch.max_export_batch_size or BATCH, capacity), delay)


def _limits(parsed: Any) -> SignalLimits:
    """The limits, which the section of a signal has precedence over for that signal."""
    shared, tracing, logs = (
        parsed.attribute_limits,
        getattr(parsed.tracer_provider, "limits", None),
        getattr(parsed.logger_provider, "limits", None),
    )

    def first(name: str, sections: Sequence[Any], default: int | None) -> int | None:
        found = (getattr(section, name, None) for section in sections)
        return next((value for value in found if value is not None), default)

    length = first("attribute_value_length_limit", (tracing, shared), None)
    return SignalLimits(
        AttributeLimits(first("attribute_count_limit", (tracing, shared), DEFAULT_COUNT), length),
        AttributeLimits(first("event_attribute_count_limit", (tracing,), DEFAULT_COUNT), length),
        AttributeLimits(first("link_attribute_count_limit", (tracing,), DEFAULT_COUNT), length),
        AttributeLimits(
            first("attribute_count_limit", (logs, shared), DEFAULT_COUNT),
            first("attribute_value_length_limit", (logs, shared), None),
        ),
        first("event_count_limit", (tracing,), DEFAULT_COUNT),
        first("link_count_limit", (tracing,), DEFAULT_COUNT),
    )
