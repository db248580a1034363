"""Options of ``instrument()`` in OpenTelemetry's configuration file."""

from __future__ import annotations

import os
from typing import Any, Final

from scalable.common.guard import Warnings
from scalable.common.options import OptionError, resolve
from scalable.common.otel_environment import configuration_file, usable_environment

_warn: Final = Warnings("scalable: ")


def configured_options() -> dict[str, Any]:
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
