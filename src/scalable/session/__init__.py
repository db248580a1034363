"""Sessions: start what a manifest declares, submit tasks to it, record everything."""

from typing import TYPE_CHECKING, Final

from scalable.common.lazy import lazy

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

_MODULES: Final = {
    "ManifestError": "scalable.manifest.errors",
    "ScalableClient": "scalable.session.client",
    "ScalableSession": "scalable.session.session",
    "SessionError": "scalable.manifest.errors",
    "StartError": "scalable.session.session",
    "TagError": "scalable.session.client",
    "current_session": "scalable.session.session",
}

__getattr__ = lazy(__name__, _MODULES)
