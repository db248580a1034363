"""Options of ``instrument()`` in files: OpenTelemetry's, and that of a run store."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

from scalable.common.guard import Warnings
from scalable.common.options import OptionError, resolve
from scalable.common.otel_environment import configuration_file, usable_environment
from scalable.common.run_stores import STORE_FILES, FromFile

_warn: Final = Warnings("scalable: ")


def configured_options() -> dict[str, Any]:
    """The options in configuration files; empty without one.

    Raises
    ------
    OptionError
        The file that ``SCALABLE_CONFIGURATION_FILE`` or ``RUNNABLE_CONFIGURATION_FILE`` names
        cannot be used.
    """
    store = configured_store(os.environ)
    return {**_of_opentelemetry(), **({} if store is None else {"run_store": store})}


def configured_store(environ: Mapping[str, str]) -> FromFile | None:
    """The run store in a file of its own; None without one. Raises OptionError."""
    if not any(environ.get(variable, "").strip() for variable in STORE_FILES):
        return None
    # YAML is read only where a file is configured.
    try:
        from scalable.manifest import configuration_file as files
    except ImportError as error:
        raise OptionError(
            f"a configuration file needs {error.name}, which is not installed: "
            "pip install 'scalable-otel[session]'"
        ) from None
    file = files.find_file(environ)
    try:
        return None if file is None else files.read_file(file, environ)
    except files.ConfigurationError as error:
        if isinstance(error, files.UnreadableError) and file is not None and not file.is_ours:
            # Another tool's variable: it says so itself if it needs the file.
            _warn(str(error))
            return None
        raise OptionError(str(error)) from None


def _of_opentelemetry() -> dict[str, Any]:
    """The options in the file that ``OTEL_CONFIG_FILE`` names; empty without one.

    What is wrong with an option costs a warning. What is wrong with the file is reported where a
    run begins.
    """
    path = configuration_file(os.environ)
    if not path:
        return {}
    # The SDK is imported only where a file is configured.
    with usable_environment():
        from scalable.telemetry.configuration.config_file import (
            ConfigurationFileError,
            read_configuration,
        )

        try:
            options = read_configuration(path, os.environ).options
        except ConfigurationFileError:
            return {}
    return {name: value for name, value in options.items() if _is_usable(name, value, path)}


def _is_usable(name: str, value: Any, path: str) -> bool:
    try:
        resolve({name: value}, {})
    except (OptionError, TypeError) as error:
        _warn(f"{path}, instrumentation dask: {error}")
        return False
    return True
