"""``OTEL_*`` variables that OpenTelemetry cannot use, and how to run without them.

OpenTelemetry's packages raise, at import or at first use, if a variable names something that is not
installed or has a value that is not allowed. A wrong variable must not end the program or a task,
so it is hidden from them, with one warning for the user.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator, Mapping, MutableMapping
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Final

from scalable.common.forks import let_go_in_forks, unlocked_in_forks

#: Variables that name entry points: their group, and whether a list is allowed.
_NAMES: Final = {
    "OTEL_PROPAGATORS": ("opentelemetry_propagator", True),
    "OTEL_PYTHON_CONTEXT": ("opentelemetry_context", False),
    "OTEL_PYTHON_TRACER_PROVIDER": ("opentelemetry_tracer_provider", False),
    "OTEL_PYTHON_METER_PROVIDER": ("opentelemetry_meter_provider", False),
    "OTEL_PYTHON_LOGGER_PROVIDER": ("opentelemetry_logger_provider", False),
    "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": ("opentelemetry_resource_detector", True),
}
#: Names that are allowed although no package installs them.
_BUILT_IN: Final = {
    "OTEL_PROPAGATORS": {"none"},
    "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": {"*"},
}
EXEMPLAR_FILTER: Final = "OTEL_METRICS_EXEMPLAR_FILTER"
_EXEMPLAR_FILTERS: Final = ("always_on", "always_off", "trace_based")
_SAMPLER_ARGUMENT: Final = "OTEL_TRACES_SAMPLER_ARG"
#: Samplers whose argument is a ratio; earlier SDKs raise if it is none.
_RATIO_SAMPLERS: Final = ("traceidratio", "parentbased_traceidratio")
#: The value that switches a limit off.
_NO_LIMIT: Final = ""
#: Variables that name a configuration file; the second had that name while it was experimental.
FILE_VARIABLES: Final = ("OTEL_CONFIG_FILE", "OTEL_EXPERIMENTAL_CONFIG_FILE")


def sdk_disabled(environ: Mapping[str, str]) -> bool:
    """OpenTelemetry's switch: nothing is recorded."""
    # By the specification "true", in any case, is true and everything else is false.
    return environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"


def configuration_file(environ: Mapping[str, str]) -> str:
    """Path of the configuration file that the environment names, or an empty text."""
    return next((path for name in FILE_VARIABLES if (path := environ.get(name, "").strip())), "")


def number_in(environ: Mapping[str, str], name: str, default: float) -> float:
    """A variable's number; `default` where there is none of 0 or more."""
    try:
        number = float(environ.get(name) or default)
    except ValueError:
        return default
    return number if 0 <= number < float("inf") else default


def usable(environ: MutableMapping[str, str], warn: Callable[[str], None] | None = None) -> bool:
    """Remove from `environ` what OpenTelemetry cannot use; return True if nothing was changed.

    Parameters
    ----------
    environ : mutable mapping
        Environment. Variables with lists of names keep the installed names.
    warn : callable, optional
        Called with a sentence about the variables that are not used.
    """
    problems: list[str] = []
    for name in [name for name in environ if name.startswith("OTEL_")]:
        value = environ[name].strip()
        if name in _NAMES and value:
            _keep_installed(environ, name, value, problems)
        elif name.endswith("_LIMIT") and value != _NO_LIMIT and not _is_count(value):
            del environ[name]
            problems.append(f"{name}={value} is not a whole number of 0 or more")
        elif name == EXEMPLAR_FILTER and value.lower() not in _EXEMPLAR_FILTERS:
            del environ[name]
            problems.append(f"{name}={value} is not one of {', '.join(_EXEMPLAR_FILTERS)}")
        elif name == _SAMPLER_ARGUMENT and _is_wrong_ratio(environ, value):
            del environ[name]
            problems.append(f"{name}={value} is not a ratio from 0 to 1")
    if problems and warn is not None:
        warn(f"OpenTelemetry cannot use these variables, and ignores them: {'; '.join(problems)}")
    return not problems


class _Hidden:
    """Variables that blocks of this process hide; entered and left by any thread.

    What the first block hides is there again after the last one: blocks of several threads overlap.
    """

    def __init__(self) -> None:
        self._lock = unlocked_in_forks(threading.Lock())
        self._blocks = 0
        self._values: dict[str, str] = {}
        let_go_in_forks(self)

    def enter(self, warn: Callable[[str], None] | None) -> None:
        with self._lock:
            wanted = dict(os.environ)
            usable(wanted, warn)
            changed = {
                name: value for name, value in os.environ.items() if wanted.get(name) != value
            }
            self._values = {**changed, **self._values}
            self._blocks += 1
            for name in changed:
                if name in wanted:
                    os.environ[name] = wanted[name]
                else:
                    del os.environ[name]

    def leave(self) -> None:
        with self._lock:
            if self._blocks:
                self._blocks -= 1
                self._restore()

    def after_fork(self) -> None:
        """In a forked process, there are no other threads whose blocks end."""
        self._blocks = 0
        self._restore()

    def _restore(self) -> None:
        if not self._blocks:
            os.environ.update(self._values)
            self._values = {}


_hidden: Final = _Hidden()


@contextmanager
def usable_environment(warn: Callable[[str], None] | None = None) -> Generator[None]:
    """Hide from this process, within the block, what OpenTelemetry cannot use.

    For short blocks that import or set up parts of OpenTelemetry: other threads see the same
    environment. If all variables can be used, nothing is changed.
    """
    _hidden.enter(warn)
    try:
        yield
    finally:
        _hidden.leave()


@cache
def propagate_module() -> Any:
    """``opentelemetry.propagate``, with the configured propagators that are installed."""
    with usable_environment():
        return import_module("opentelemetry.propagate")


def _keep_installed(
    environ: MutableMapping[str, str], name: str, value: str, problems: list[str]
) -> None:
    group, is_list = _NAMES[name]
    known = _BUILT_IN.get(name, set[str]()) | entry_points(group=group).names
    names = [part.strip() for part in value.split(",")] if is_list else [value]
    missing = [part for part in names if part not in known and part.lower() not in known]
    if not missing:
        return
    problems.append(f"{name} names {', '.join(map(repr, missing))}, which is not installed")
    kept = [part for part in names if part not in missing]
    if kept:
        environ[name] = ",".join(kept)
    else:
        del environ[name]


def _is_wrong_ratio(environ: MutableMapping[str, str], value: str) -> bool:
    sampler = environ.get("OTEL_TRACES_SAMPLER", "").strip().lower()
    if not value or sampler not in _RATIO_SAMPLERS:
        return False
    try:
        return not 0 <= float(value) <= 1
    except ValueError:
        return True


def _is_count(value: str) -> bool:
    try:
        return int(value) >= 0
    except ValueError:
        return False
