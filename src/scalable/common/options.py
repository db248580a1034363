"""Every option of ``instrument()``: one table that declares name, variable, default and meaning.

Precedence is argument, environment, manifest, default. The documentation's table is made from this
one (:func:`documentation`).
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, Literal, TypedDict

Scope = Literal["client", "cluster"]
Host = Literal["process", "thread"]

_TRUE: Final = frozenset({"1", "true", "t", "yes", "y", "on", "enable", "enabled"})
_FALSE: Final = frozenset({"0", "false", "f", "no", "n", "off", "disable", "disabled", "none"})
#: Longest project name that becomes part of a run id.
_MAX_PROJECT: Final = 60


class OptionError(ValueError):
    """An option has a value that it cannot have; the message names it and what is allowed."""


class InstrumentOptions(TypedDict, total=False):
    """Keyword arguments of ``instrument()``; None means: not given."""

    project: str | None
    runs_dir: str | os.PathLike[str] | None
    scope: Scope | None
    enabled: bool | None
    sample_interval: float | None
    close_timeout: float | None
    redact_off: str | None
    crash_upload: str | None
    span_budget: int | None
    task_events: bool | None
    running_after: float | None
    log_level: str | int | None
    recorder: Host | None
    parquet: bool | None
    tracer_provider: Any
    meter_provider: Any
    logger_provider: Any


@dataclass(frozen=True, slots=True)
class Option:
    """One row of the table.

    Attributes
    ----------
    name : str
        Keyword argument of ``instrument()``.
    variable : str
        Environment variable that sets it; empty where only an argument can.
    default : object
        Value where neither is given.
    allowed : str
        What it can be, in words, for messages and documentation.
    meaning : str
        What it does.
    parse : callable
        Makes the value of what was given; raises ValueError or TypeError.
    """

    name: str
    variable: str
    default: Any
    allowed: str
    meaning: str
    parse: Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Settings:
    """The options of one run, resolved."""

    project: str
    runs_dir: Path
    scope: Scope
    enabled: bool
    sample_interval: float
    close_timeout: float
    redact_off: frozenset[str]
    crash_upload: str | None
    span_budget: int
    task_events: bool
    running_after: float
    log_level: int
    recorder: Host
    parquet: bool
    tracer_provider: Any
    meter_provider: Any
    logger_provider: Any

    @property
    def providers(self) -> bool:
        """Some provider was given."""
        given = (self.tracer_provider, self.meter_provider, self.logger_provider)
        return any(provider is not None for provider in given)


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
    # A URL would become a directory of this machine that is called "s3:".
    if "\0" in str(path) or not str(value) or "://" in str(value):
        raise ValueError(value)
    return path.expanduser()


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


def _provider(method: str) -> Callable[[Any], Any]:
    def parse(value: Any) -> Any:
        if not callable(getattr(value, method, None)):
            raise TypeError(value)
        return value

    return parse


def _upload_url(value: Any) -> str:
    """Looked at closely where it is used: see :func:`scalable.crash_upload.transfer.check_url`."""
    text = str(value).strip()
    local = ("http://127.", "http://localhost:", "http://localhost/", "http://[::1]")
    if not isinstance(value, str) or not text.startswith(("https://", *local)):
        raise ValueError(value)
    return text


#: The table.
OPTIONS: Final = (
    Option(
        "project",
        "SCALABLE_PROJECT",
        None,
        "a name, not empty",
        "Name of the project; part of the run id. Default: the name of the working directory.",
        _text,
    ),
    Option(
        "runs_dir",
        "SCALABLE_RUNS_DIR",
        Path(".scalable/runs"),
        "a path on this machine",
        "Directory in which each run gets a directory of its own.",
        _path,
    ),
    Option(
        "scope",
        "SCALABLE_SCOPE",
        "client",
        "client, cluster",
        "Whose tasks are recorded: those this client causes, or all of the scheduler's.",
        _one_of("client", "cluster"),
    ),
    Option(
        "enabled",
        "SCALABLE_TELEMETRY",
        True,
        "1, true, yes, on, 0, false, no, off",
        "Off records nothing: no plugin, no thread, no file.",
        _boolean,
    ),
    Option(
        "sample_interval",
        "SCALABLE_SAMPLE_INTERVAL",
        5.0,
        "seconds, at least 0.1",
        "Time between two samples of the workers' CPU and memory.",
        _seconds(0.1),
    ),
    Option(
        "close_timeout",
        "SCALABLE_CLOSE_TIMEOUT",
        5.0,
        "seconds, at least 0",
        "Longest time that closing a run waits for what the scheduler still holds, counted "
        "anew as long as facts arrive, three times that in all.",
        _seconds(0.0),
    ),
    Option(
        "redact_off",
        "SCALABLE_REDACT_OFF",
        frozenset[str](),
        "names of redaction families, separated by commas",
        "Families of secrets that are not looked for.",
        _names,
    ),
    Option(
        "crash_upload",
        "SCALABLE_CRASH_UPLOAD_URL",
        None,
        "an https address (http on this machine)",
        "Send the logs of workers that died there, redacted; off unless set.",
        _upload_url,
    ),
    Option(
        "span_budget",
        "SCALABLE_SPAN_BUDGET",
        5_000,
        "a whole number, 0 for none",
        "Spans of tasks that go over OTLP for each trace at most: all that failed, the slowest, a "
        "sample; the rest is summed up. The run directory has them all.",
        _count,
    ),
    Option(
        "task_events",
        "SCALABLE_TASK_EVENTS",
        False,
        "1, true, yes, on, 0, false, no, off",
        "Send the events of every task (submitted, running) over OTLP too.",
        _boolean,
    ),
    Option(
        "running_after",
        "SCALABLE_RUNNING_AFTER",
        10.0,
        "seconds, at least 0",
        "An attempt that runs for so long is shown over OTLP before it ends, by a span of no "
        "length; 0 shows none.",
        _seconds(0.0),
    ),
    Option(
        "log_level",
        "SCALABLE_LOG_LEVEL",
        logging.INFO,
        "a level of Python's logging (DEBUG, INFO, WARNING, ERROR, CRITICAL, or a number), OFF",
        "Least severe log record of tasks and of Dask that is kept.",
        _log_level,
    ),
    Option(
        "recorder",
        "SCALABLE_RECORDER",
        "process",
        "process, thread",
        "What makes signals and files of the facts: a process of its own, or a thread of the "
        "program; see below.",
        _one_of("process", "thread"),
    ),
    Option(
        "parquet",
        "SCALABLE_TELEMETRY_PARQUET",
        False,
        "1, true, yes, on, 0, false, no, off",
        "Write a parquet copy of each journal when the run is closed (`scalable-otel[parquet]`).",
        _boolean,
    ),
    Option(
        "tracer_provider",
        "",
        None,
        "a tracer provider",
        "Where spans go. Default: the application's, if it has set one; else as OTEL_* says.",
        _provider("get_tracer"),
    ),
    Option(
        "meter_provider",
        "",
        None,
        "a meter provider",
        "Where metrics go. Default: the application's, if it has set one; else as OTEL_* says.",
        _provider("get_meter"),
    ),
    Option(
        "logger_provider",
        "",
        None,
        "a logger provider",
        "Where log records go. Default: the application's, if it has set one; else as OTEL_* says.",
        _provider("get_logger"),
    ),
)


def resolve(
    given: Mapping[str, Any],
    environ: Mapping[str, str] | None = None,
    manifest: Mapping[str, Any] | None = None,
) -> Settings:
    """Resolve the options of a run.

    Parameters
    ----------
    given : mapping
        Keyword arguments; None counts as not given.
    environ : mapping, optional
        Environment; default ``os.environ``.
    manifest : mapping, optional
        What the manifest's `telemetry` section says, by name of option; None counts as not given.

    Raises
    ------
    OptionError
        A value is not allowed.
    TypeError
        There is no option of that name.
    """
    environment = os.environ if environ is None else environ
    known = {option.name for option in OPTIONS}
    for name in given:
        if name not in known:
            raise TypeError(
                f"instrument() has no option {name!r}; it has {', '.join(sorted(known))}"
            )
    in_manifest = {} if manifest is None else manifest
    settable = {option.name for option in OPTIONS if option.variable}
    for name in in_manifest:
        if name not in settable:
            raise OptionError(
                f"telemetry.{name} is no option; allowed: {', '.join(sorted(settable))}"
            )
    values: dict[str, Any] = {}
    for option in OPTIONS:
        value, origin = given.get(option.name), f"{option.name}="
        if value is None and option.variable:
            value, origin = environment.get(option.variable, "").strip() or None, option.variable
        if value is None:
            value, origin = in_manifest.get(option.name), f"telemetry.{option.name}"
        values[option.name] = _parsed(option, value, origin)
    if _disabled_by_otel(environment) and given.get("enabled") is None:
        values["enabled"] = False
    if values["project"] is None:
        values["project"] = Path.cwd().name[:_MAX_PROJECT] or "run"
    assert set(values) == {field.name for field in fields(Settings)}
    return Settings(**values)


def documentation() -> str:
    """The table of all options in Markdown, as it stands in the documentation."""
    rows = ["| option | variable | default | allowed | meaning |", "|---|---|---|---|---|"]
    for option in OPTIONS:
        variable = f"`{option.variable}`" if option.variable else "argument only"
        default = _DEFAULT_TEXTS.get(option.name) or str(option.default)
        rows.append(
            f"| `{option.name}` | {variable} | {default} | {option.allowed} | {option.meaning} |"
        )
    return "\n".join(rows) + "\n"


_DEFAULT_TEXTS: Final = {
    "project": "the working directory's name",
    "runs_dir": "`.scalable/runs`",
    "enabled": "on",
    "redact_off": "none",
    "crash_upload": "off",
    "task_events": "off",
    "parquet": "off",
    "log_level": "INFO",
    "tracer_provider": "see meaning",
    "meter_provider": "see meaning",
    "logger_provider": "see meaning",
}


def _parsed(option: Option, value: Any, origin: str) -> Any:
    if value is None:
        return option.default
    try:
        return option.parse(value)
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise OptionError(f"{origin} cannot be {value!r}; allowed: {option.allowed}") from error


def _disabled_by_otel(environ: Mapping[str, str]) -> bool:
    # The specification knows one spelling: "true", in any case. Everything else means false.
    return environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
