"""The versions of Dask that this package works with, as its metadata says."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, requires


def required_distributed() -> str:
    """Requirement of the extra ``dask``; any version if the package is not installed."""
    try:
        requirements = requires("scalable-otel") or ()
    except PackageNotFoundError:
        requirements = ()
    names = [text.partition(";")[0].strip() for text in requirements]
    return next((name for name in names if name.startswith("distributed")), "distributed")
