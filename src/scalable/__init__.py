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
    from scalable.session.cache import DirType, FileType, cacheable
    from scalable.session.client import ScalableClient, TagError
    from scalable.session.errors import ManifestError, SessionError
    from scalable.session.records import record_artifact, record_cost, record_metric
    from scalable.session.session import ScalableSession, StartError, current_session

__version__ = "0.1.0"

__all__ = [
    "DirType",
    "FileType",
    "Instrumentation",
    "ManifestError",
    "OptionError",
    "ScalableClient",
    "ScalableSession",
    "SessionError",
    "StartError",
    "TagError",
    "__version__",
    "cacheable",
    "current_session",
    "diagnose_run",
    "instrument",
    "record_artifact",
    "record_cost",
    "record_metric",
    "uninstrument",
]

_HOME = {
    "Instrumentation": "scalable.api",
    "instrument": "scalable.api",
    "uninstrument": "scalable.api",
    "OptionError": "scalable.options",
    "diagnose_run": "scalable.ai",
    "DirType": "scalable.session.cache",
    "FileType": "scalable.session.cache",
    "cacheable": "scalable.session.cache",
    "ScalableClient": "scalable.session.client",
    "ManifestError": "scalable.session.errors",
    "SessionError": "scalable.session.errors",
    "record_artifact": "scalable.session.records",
    "record_cost": "scalable.session.records",
    "record_metric": "scalable.session.records",
    "ScalableSession": "scalable.session.session",
    "StartError": "scalable.session.session",
    "TagError": "scalable.session.client",
    "current_session": "scalable.session.session",
}


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    try:
        value = getattr(importlib.import_module(home), name)
    except ImportError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("", "scalable", "scalable_runs"):
            raise
        extra = "session" if home.startswith("scalable.session") else "dask"
        raise ImportError(
            f"scalable.{name} needs {missing}, which is not installed: "
            f"pip install 'scalable-otel[{extra}]'",
            name=error.name,
        ) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
