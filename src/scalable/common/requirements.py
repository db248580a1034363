"""The versions of Dask that this package works with, as its metadata says."""

from __future__ import annotations

from importlib.metadata import requires


def required_distributed() -> str:
    """Requirement of the extra ``dask``."""
    requirements = [text.partition(";")[0].strip() for text in requires("scalable-otel") or ()]
    return next(text for text in requirements if text.startswith("distributed"))
