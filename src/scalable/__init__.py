"""Records what a Dask cluster really did: tasks, workers, failures, as OpenTelemetry signals.

>>> import scalable
>>> with scalable.instrument(client):  # doctest: +SKIP
...     ...  # any Dask

Importing this package imports neither Dask nor OpenTelemetry: names are loaded at first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scalable.common.lazy import lazy

if TYPE_CHECKING:
    from scalable import catalog
    from scalable.ai import diagnose_run
    from scalable.api import Instrumentation, instrument, uninstrument
    from scalable.cache.cacheable import cacheable
    from scalable.cache.store import DirType, FileType
    from scalable.common.options import OptionError
    from scalable.manifest.errors import ManifestError, SessionError
    from scalable.records import record_artifact, record_cost, record_metric
    from scalable.session.client import ScalableClient, TagError
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
    "catalog",
    "current_session",
    "diagnose_run",
    "instrument",
    "record_artifact",
    "record_cost",
    "record_metric",
    "uninstrument",
]

_MODULES = {
    "Instrumentation": "scalable.api",
    "instrument": "scalable.api",
    "uninstrument": "scalable.api",
    "OptionError": "scalable.common.options",
    "diagnose_run": "scalable.ai",
    "DirType": "scalable.cache.store",
    "FileType": "scalable.cache.store",
    "cacheable": "scalable.cache.cacheable",
    "catalog": "scalable.catalog",
    "ScalableClient": "scalable.session.client",
    "ManifestError": "scalable.manifest.errors",
    "SessionError": "scalable.manifest.errors",
    "record_artifact": "scalable.records",
    "record_cost": "scalable.records",
    "record_metric": "scalable.records",
    "ScalableSession": "scalable.session.session",
    "StartError": "scalable.session.session",
    "TagError": "scalable.session.client",
    "current_session": "scalable.session.session",
}

__getattr__ = lazy(__name__, _MODULES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
