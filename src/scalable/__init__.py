"""Records what a Dask cluster really did: tasks, workers, failures, as OpenTelemetry signals.

>>> import scalable
>>> with scalable.instrument(client):  # doctest: +SKIP
...     ...  # any Dask

Importing this package imports neither Dask nor OpenTelemetry: what needs them is loaded at first
use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scalable.ai import diagnose_run
    from scalable.api import Instrumentation, instrument, uninstrument
    from scalable.options import OptionError

__version__ = "0.1.0"

__all__ = [
    "Instrumentation",
    "OptionError",
    "__version__",
    "diagnose_run",
    "instrument",
    "uninstrument",
]

_HOME = {
    "Instrumentation": "scalable.api",
    "instrument": "scalable.api",
    "uninstrument": "scalable.api",
    "OptionError": "scalable.options",
    "diagnose_run": "scalable.ai",
}


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
