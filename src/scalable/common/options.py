"""The options of ``instrument()``: each declared once, with variable, default and meaning.

Precedence is argument, environment, manifest, configuration file (of a run store or of
OpenTelemetry), default. The table in the documentation is made by :func:`documentation`.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, TypedDict, get_type_hints

from scalable.common import catalog_places, run_stores
from scalable.common.otel_environment import sdk_disabled
from scalable.common.output_levels import LEVELS, TaskOutput
from scalable.common.run_stores import FromFile, Origin
from scalable.common.units import memory_bytes
from scalable_runs.schema import RUN_ID_PATTERN
from scalable_runs.stores.places import FILE_SYSTEM, PlaceError, StoreSpec

Scope = Literal["client", "cluster"]
Parameters = Literal["off", "failed", "sample", "all"]
Host = Literal["process", "thread"]

_TRUE: Final = frozenset({"1", "true", "t", "yes", "y", "on", "enable", "enabled"})
_FALSE: Final = frozenset({"0", "false", "f", "no", "n", "off", "disable", "disabled", "none"})
#: Longest project name that becomes part of a run id.
_MAX_PROJECT: Final = 60


class OptionError(ValueError):
    """An option has a value that is not allowed; the message names the allowed values."""


class InstrumentOptions(TypedDict, total=False):
    """Keyword arguments of ``instrument()``; None means not given."""

    project: str | None
    runs_dir: str | os.PathLike[str] | None
    run_id: str | None
    run_store: Any
    runs_dir_remote: Any
    scope: Scope | None
    enabled: bool | None
    sample_interval: float | None
    close_timeout: float | None
    redact_off: str | None
    crash_upload: str | None
    baggage_attributes: str | None
    task_environment: bool | None
    span_budget: int | None
    task_events: bool | None
    running_after: float | None
    log_level: str | int | None
    code_patch: bool | None
    task_output: TaskOutput | None
    parameters: Parameters | None
    catalog: str | os.PathLike[str] | None
    keep_results: bool | int | str | None
    keep_failed: bool | int | str | None
    objects: bool | int | str | None
    retry_of: str | None
    environment: bool | None
    recorder: Host | None
    parquet: bool | None
    tracer_provider: Any
    meter_provider: Any
    logger_provider: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """An option, declared by a field of :class:`Settings`."""

    #: Keyword argument of ``instrument()``.
    name: str
    #: Value if it is not set, and as shown in the documentation.
    default: Any
    default_text: str
    #: Environment variable that sets it; empty if there is only an argument.
    variable: str
    #: Description of the allowed values, for messages and documentation.
    allowed: str
    meaning: str
    #: Converts a value; raises ValueError or TypeError.
    parse: Callable[[Any], Any]


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError(value)


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(value)
    return value.strip()[:_MAX_PROJECT]


def _path(value: Any) -> Path:
    path = Path(value)
    # A URL would become a local directory called "s3:".
    if "\0" in str(path) or not str(value) or "://" in str(value):
        raise ValueError(value)
    return path.expanduser()


def _catalog(value: Any) -> str:
    text = os.fspath(value).strip()
    try:
        catalog_places.absolute(text)
    except ValueError as error:
        # A URL may hold a password: it is not told.
        raise PlaceError(str(error)) from None
    return text


def _run_id(value: Any) -> str:
    # A number may come from YAML.
    text = str(value).strip() if type(value) is int else value.strip()
    if RUN_ID_PATTERN.fullmatch(text) is None:
        raise ValueError(value)
    return text


def _one_of(*allowed: str) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        text = value.strip().lower() if isinstance(value, str) else value
        if text not in allowed:
            raise ValueError(value)
        return text

    return parse


def _seconds(minimum: float) -> Callable[[Any], float]:
    def parse(value: Any) -> float:
        if isinstance(value, bool):
            raise TypeError(value)
        seconds = float(value)
        if not math.isfinite(seconds) or seconds < minimum:
            raise ValueError(value)
        return seconds

    return parse


def _names(value: Any) -> frozenset[str]:
    parts = value.split(",") if isinstance(value, str) else list(value)
    return frozenset(part.strip() for part in parts if part.strip())


def _count(value: Any) -> int:
    if isinstance(value, bool):
        raise TypeError(value)
    count = int(value)
    if count < 0 or count != float(value):
        raise ValueError(value)
    return count


def _log_level(value: Any) -> int:
    if isinstance(value, bool):
        raise TypeError(value)
    text = str(value).strip().upper()
    if text == "OFF":
        return logging.CRITICAL + 1
    level = int(text) if text.isdigit() else logging.getLevelNamesMapping()[text]
    if not 0 <= level <= logging.CRITICAL + 1:
        raise ValueError(value)
    return level


def _kept_bytes(most: int) -> Callable[[Any], int]:
    """Parse a switch, or the most bytes of one kept thing; on stands for `most`, off for 0."""

    def parse(value: Any) -> int:
        if isinstance(value, int) and not isinstance(value, bool) and value > 1:
            return value
        text = str(value).strip()
        if text.lower() in _TRUE:
            return most
        return 0 if text.lower() in _FALSE else memory_bytes(text)

    return parse


def _upload_url(value: Any) -> str:
    """A first check; :func:`scalable.crash_upload.transfer.check_url` is the strict one."""
    text = str(value).strip()
    local = ("http://127.", "http://localhost:", "http://localhost/", "http://[::1]")
    if not isinstance(value, str) or not text.startswith(("https://", *local)):
        raise ValueError(value)
    return text


def _option(
    default: Any,
    variable: str,
    parse: Callable[[Any], Any],
    allowed: str,
    meaning: str,
    default_text: str = "",
) -> Any:
    """Declare an option as a field; see :class:`Option`."""
    about: dict[str, Any] = {
        "variable": variable,
        "parse": parse,
        "allowed": allowed,
        "meaning": meaning,
        "default_text": default_text or str(default),
    }
    return field(default=default, metadata=about)


def _provider(kind: str, signals: str) -> Any:
    """Declare a provider, which is an argument only."""

    def parse(value: Any) -> Any:
        if not callable(getattr(value, f"get_{kind}", None)):
            raise TypeError(value)
        return value

    meaning = (
        f"Where {signals} go. Default: the application's, if it has set one; else as OTEL_* says."
    )
    return _option(None, "", parse, f"a {kind} provider", meaning, "see meaning")


_ON_OR_OFF: Final = "1, true, yes, on, 0, false, no, off"
#: Bytes of one result, and of one failed call, that are kept unless another number is given.
KEPT_RESULT: Final = 256 * 2**20
KEPT_FAILURE: Final = 8 * 2**20
KEPT_OBJECT: Final = 64 * 2**20


@dataclass(frozen=True, slots=True)
class RecorderOptions:
    """Options of a recorder, in whichever process it is: plain values."""

    span_budget: int = _option(
        5_000,
        "SCALABLE_SPAN_BUDGET",
        _count,
        "a whole number, 0 for none",
        "Spans of tasks sent over OTLP for each trace at most: all that failed, the slowest, a "
        "sample; the rest is summed up. The run directory has them all.",
    )
    task_events: bool = _option(
        False,
        "SCALABLE_TASK_EVENTS",
        _boolean,
        _ON_OR_OFF,
        "Send the events of every task (submitted, running) over OTLP too.",
        "off",
    )
    running_after: float = _option(
        10.0,
        "SCALABLE_RUNNING_AFTER",
        _seconds(0.0),
        "seconds, at least 0",
        "An attempt that has run for this long is shown over OTLP before it ends, as a span of "
        "zero length; 0 shows none.",
    )
    log_level: int = _option(
        logging.INFO,
        "SCALABLE_LOG_LEVEL",
        _log_level,
        "a level of Python's logging (DEBUG, INFO, WARNING, ERROR, CRITICAL, or a number), OFF",
        "Least severe log record of tasks and of Dask that is kept.",
        "INFO",
    )
    code_patch: bool = _option(
        True,
        "SCALABLE_CODE_PATCH",
        _boolean,
        _ON_OR_OFF,
        "Keep what differs from the commit of the program's repository in the run, as code.patch: "
        "without secrets, 1 MB at most.",
        "on",
    )
    task_output: TaskOutput = _option(
        "failed",
        "SCALABLE_TASK_OUTPUT",
        _one_of(*LEVELS),
        ", ".join(LEVELS),
        "Attempts whose output (stdout and stderr) is kept: those that failed, or all.",
    )
    environment: bool = _option(
        True,
        "SCALABLE_ENVIRONMENT",
        _boolean,
        _ON_OR_OFF,
        "Record what program, scheduler and workers run with: versions of all packages, Dask's "
        "configuration, host, variables of an allow-list; without secrets.",
        "on",
    )
    parameters: Parameters = _option(
        "failed",
        "SCALABLE_PARAMETERS",
        _one_of("off", "failed", "sample", "all"),
        "off, failed, sample, all",
        "Attempts whose arguments are described: those that failed or were retried; with `sample` "
        "and `all` those that succeed too, with what they return.",
    )


@dataclass(frozen=True, slots=True)
class Settings(RecorderOptions):
    """The options of one run, resolved."""

    project: str = _option(
        "",
        "SCALABLE_PROJECT",
        _text,
        "a name, not empty",
        "Name of the project; part of the run id. Default: the name of the working directory.",
        "the working directory's name",
    )
    runs_dir: Path = _option(
        Path(".scalable/runs"),
        "SCALABLE_RUNS_DIR",
        _path,
        "a path on this machine; `run_store` names other places",
        "Directory in which each run gets a directory of its own.",
        "`.scalable/runs`",
    )
    run_id: str | None = _option(
        None,
        "SCALABLE_RUN_ID",
        _run_id,
        "up to 128 letters, digits, '.', '_' and '-', the first a letter or a digit",
        "Id of the run. Programs with the same id write one run together if the run store is "
        "`chunked-fs` or `chunked-object`; with others it must be new.",
        "made of the time, the project and random digits",
    )
    run_store: StoreSpec | None = _option(
        None,
        "SCALABLE_RUN_STORE",
        run_stores.run_store,
        "a URL (s3://bucket/prefix, gs://, az://, file://, memory://), or the name of a type; in "
        "a file also a mapping with `type` and `config`, as an argument that or an object",
        "Where and how the run is kept. Default: a directory in `runs_dir`.",
        "file-system",
    )
    runs_dir_remote: StoreSpec | None = _option(
        None,
        "SCALABLE_RUNS_DIR_REMOTE",
        run_stores.remote,
        "a URL of an object storage, or the path of a mounted directory",
        "Where a copy of the run is kept; it is brought there while the run goes on. "
        "`?compress=true` at the end of a URL compresses its files.",
        "none",
    )
    scope: Scope = _option(
        "client",
        "SCALABLE_SCOPE",
        _one_of("client", "cluster"),
        "client, cluster",
        "Whose tasks are recorded: those this client causes, or all of the scheduler's.",
    )
    enabled: bool = _option(
        True,
        "SCALABLE_TELEMETRY",
        _boolean,
        _ON_OR_OFF,
        "Off records nothing: no plugin, no thread, no file.",
        "on",
    )
    sample_interval: float = _option(
        5.0,
        "SCALABLE_SAMPLE_INTERVAL",
        _seconds(0.1),
        "seconds, at least 0.1",
        "Time between two samples of the workers' CPU and memory.",
    )
    close_timeout: float = _option(
        5.0,
        "SCALABLE_CLOSE_TIMEOUT",
        _seconds(0.0),
        "seconds, at least 0",
        "Longest time that closing a run waits for what the scheduler still holds. Facts that "
        "arrive extend the wait, up to three times as long in all.",
    )
    redact_off: frozenset[str] = _option(
        frozenset[str](),
        "SCALABLE_REDACT_OFF",
        _names,
        "names of redaction families, separated by commas",
        "Families of secrets that are not looked for.",
        "none",
    )
    baggage_attributes: frozenset[str] = _option(
        frozenset[str](),
        "SCALABLE_BAGGAGE_ATTRIBUTES",
        _names,
        "keys of baggage, separated by commas, or *",
        "Entries of OpenTelemetry's baggage that become attributes of submissions, of attempts and "
        "of the spans of their code.",
        "none",
    )
    task_environment: bool = _option(
        False,
        "SCALABLE_TASK_ENVIRONMENT",
        _boolean,
        _ON_OR_OFF,
        "Set TRACEPARENT, TRACESTATE and BAGGAGE for processes that tasks start with `subprocess`.",
        "off",
    )
    crash_upload: str | None = _option(
        None,
        "SCALABLE_CRASH_UPLOAD_URL",
        _upload_url,
        "an https address (http on this machine)",
        "Send the logs of workers that died there, redacted; off unless set.",
        "off",
    )
    keep_results: int = _option(
        0,
        "SCALABLE_KEEP_RESULTS",
        _kept_bytes(KEPT_RESULT),
        f"{_ON_OR_OFF}, or the largest size such as 500MB",
        "Keep the results of tasks across runs, and take what is kept instead of computing it "
        "again; the same code and the same arguments are the same result. On keeps results up to "
        "256 MiB.",
        "off",
    )
    keep_failed: int = _option(
        0,
        "SCALABLE_KEEP_FAILED",
        _kept_bytes(KEPT_FAILURE),
        f"{_ON_OR_OFF}, or the largest size such as 50MB",
        "Keep function and arguments of attempts that fail, as they are, for `scalable replay`. On "
        "keeps up to 8 MiB of each.",
        "off",
    )
    objects: int = _option(
        0,
        "SCALABLE_OBJECTS",
        _kept_bytes(KEPT_OBJECT),
        f"{_ON_OR_OFF}, or the largest size such as 50MB",
        "Keep arguments and results that are described (see `parameters`) and are too large for "
        "the record, or no plain values, in the data catalog. On keeps up to 64 MiB of each.",
        "off",
    )
    retry_of: str | None = _option(
        None,
        "SCALABLE_RETRY_OF",
        _run_id,
        "the id of a run",
        "The run that this one repeats: results are kept, and taken from what was kept. "
        "`scalable retry` sets it.",
        "none",
    )
    recorder: Host = _option(
        "process",
        "SCALABLE_RECORDER",
        _one_of("process", "thread"),
        "process, thread",
        "What turns facts into signals and files: a process of its own, or a thread of the "
        "program; see below.",
    )
    catalog: str = _option(
        catalog_places.DEFAULT,
        "SCALABLE_CATALOG",
        _catalog,
        "a path, or a URL that fsspec can write to (s3://bucket/prefix, gs://…)",
        "Where the data catalog keeps what `catalog.put()` and the `outputs` of the manifest's "
        "tasks put there.",
        "`.scalable/catalog`",
    )
    parquet: bool = _option(
        False,
        "SCALABLE_TELEMETRY_PARQUET",
        _boolean,
        _ON_OR_OFF,
        "Write a parquet copy of each journal when the run is closed (`scalable-otel[parquet]`).",
        "off",
    )
    tracer_provider: Any = _provider("tracer", "spans")
    meter_provider: Any = _provider("meter", "metrics")
    logger_provider: Any = _provider("logger", "log records")

    @property
    def place(self) -> StoreSpec:
        """Where the run is kept."""
        return (self.run_store or StoreSpec(FILE_SYSTEM)).beside(self.runs_dir)

    @property
    def copy(self) -> StoreSpec | None:
        """Where the run is copied while it is written."""
        return self.place if self.place.is_elsewhere else self.runs_dir_remote

    @property
    def given(self) -> StoreSpec | None:
        """The place that is an object of this program, if one is: another process has it not."""
        places = [place for place in (self.place, self.copy) if place is not None]
        return next((place for place in places if not place.portable), None)

    @property
    def secrets(self) -> dict[str, str]:
        """Values in the settings of places that no text may have, by names that say so."""
        places = [place for place in (self.place, self.copy) if place is not None]
        return {
            "catalog": self.catalog,  # a password in a URL is found
            **{
                f"{name}_secret": value
                for place in places
                for name, value in place.secrets().items()
            },
        }

    @property
    def has_providers(self) -> bool:
        """Whether a provider was given."""
        given = (self.tracer_provider, self.meter_provider, self.logger_provider)
        return any(provider is not None for provider in given)

    @property
    def is_portable(self) -> bool:
        """Whether a process of its own can record the run."""
        return not self.has_providers and self.given is None


_FIELDS: Final = {each.name: each for each in fields(Settings)}
#: All options, in the order of the arguments of ``instrument()``.
OPTIONS: Final = tuple(
    Option(name=name, default=_FIELDS[name].default, **_FIELDS[name].metadata)
    for name in InstrumentOptions.__annotations__
)

#: Options whose values name places, and may hold secrets.
PLACES: Final = ("run_store", "runs_dir_remote")
#: Options that are sections of the manifest, beside `telemetry`.
SECTIONS: Final = ("run_store", "catalog", "keep_results")

#: The options that plain data can give, for OpenTelemetry's declarative configuration.
FileOptions: Final = make_dataclass(
    "FileOptions",
    [
        (option.name, get_type_hints(InstrumentOptions)[option.name], None)
        for option in OPTIONS
        if option.variable
    ],
    frozen=True,
    slots=True,
)


class Resolved(NamedTuple):
    """The options of a run, and where each value comes from."""

    settings: Settings
    origins: Mapping[str, Origin]


def resolve(
    given: Mapping[str, Any],
    environ: Mapping[str, str] | None = None,
    manifest: Mapping[str, Any] | None = None,
    configured: Mapping[str, Any] | None = None,
) -> Settings:
    """Resolve the options of a run: arguments, environment, the manifest's `telemetry` section and
    `run_store`, what is `configured` in a file.

    A value of None counts as not given.

    Raises
    ------
    OptionError
        A value is not allowed, or needs a package that is not installed.
    TypeError
        There is no option of that name.
    """
    return resolve_all(given, environ, manifest, configured).settings


def resolve_all(
    given: Mapping[str, Any],
    environ: Mapping[str, str] | None = None,
    manifest: Mapping[str, Any] | None = None,
    configured: Mapping[str, Any] | None = None,
) -> Resolved:
    """Resolve the options of a run as :func:`resolve`, with the origin of each."""
    environment = os.environ if environ is None else environ
    in_manifest = {} if manifest is None else manifest
    _check_names(given, in_manifest)
    values: dict[str, Any] = {}
    origins: dict[str, Origin] = {}
    for option in OPTIONS:
        value, origin = given.get(option.name), Origin(0, f"{option.name}=")
        if value is None and option.variable:
            value = environment.get(option.variable, "").strip() or None
            origin = Origin(1, option.variable)
        if value is None:
            value = in_manifest.get(option.name)
            origin = Origin(2, _in_manifest(option.name))
        if value is None and configured:
            value, origin = configured.get(option.name), Origin(3, f"dask.{option.name}")
            if isinstance(value, FromFile):
                origin = Origin(3, value.name)
                value = value.value
        if value is None:
            origin = Origin(4, "default")
        values[option.name] = _parsed(option, value, origin.name)
        origins[option.name] = origin
    if sdk_disabled(environment) and given.get("enabled") is None:
        values["enabled"] = False
        origins["enabled"] = Origin(1, "OTEL_SDK_DISABLED")
    values["project"] = values["project"] or _directory_name()
    wrong = run_stores.settle(values, origins)
    if wrong is None and values["enabled"]:
        wrong = run_stores.missing_library(values, origins)
    if wrong is not None:
        raise OptionError(wrong)
    return Resolved(Settings(**values), origins)


def _check_names(given: Mapping[str, Any], in_manifest: Mapping[str, Any]) -> None:
    known = {option.name for option in OPTIONS}
    for name in given:
        if name not in known:
            raise TypeError(
                f"instrument() has no option {name!r}; it has {', '.join(sorted(known))}"
            )
    settable = {option.name for option in OPTIONS if option.variable}
    for name in in_manifest:
        if name not in settable:
            raise OptionError(
                f"telemetry.{name} is not an option; allowed: {', '.join(sorted(settable))}"
            )


def _in_manifest(name: str) -> str:
    """Return where an option stands in the manifest."""
    return name if name in SECTIONS else f"telemetry.{name}"


def project_name(environ: Mapping[str, str]) -> str:
    """Name of the project by the environment alone; never raises."""
    text = environ.get(_FIELDS["project"].metadata["variable"], "").strip()
    return text[:_MAX_PROJECT] or _directory_name()


def documentation() -> str:
    """The table of all options in Markdown, for the documentation."""
    rows = ["| option | variable | default | allowed | meaning |", "|---|---|---|---|---|"]
    for option in OPTIONS:
        variable = f"`{option.variable}`" if option.variable else "argument only"
        cells = (f"`{option.name}`", variable, option.default_text, option.allowed, option.meaning)
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def _directory_name() -> str:
    try:
        return Path.cwd().name[:_MAX_PROJECT] or "run"
    except OSError:  # it was deleted
        return "run"


def _parsed(option: Option, value: Any, origin: str) -> Any:
    if value is None:
        return option.default
    try:
        return option.parse(value)
    except PlaceError as error:
        # The value may hold secrets: only what is wrong is told.
        raise OptionError(f"{origin.removesuffix('=')}: {error}") from None
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise OptionError(f"{origin} cannot be {value!r}; allowed: {option.allowed}") from error
