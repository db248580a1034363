"""Manifest-driven use: what is run and where, and everything recorded without a further line."""

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from scalable.manifest.errors import ManifestError, SessionError
    from scalable.session.client import ScalableClient, TagError
    from scalable.session.session import ScalableSession, StartError, current_session

__all__ = [
    "ManifestError",
    "ScalableClient",
    "ScalableSession",
    "SessionError",
    "StartError",
    "TagError",
    "current_session",
]

#: Imported at first use: manifests are checked where Dask is not.
_HOME: Final = {
    "ManifestError": "scalable.manifest.errors",
    "ScalableClient": "scalable.session.client",
    "ScalableSession": "scalable.session.session",
    "SessionError": "scalable.manifest.errors",
    "StartError": "scalable.session.session",
    "TagError": "scalable.session.client",
    "current_session": "scalable.session.session",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOME[name]), name)
