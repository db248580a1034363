"""Which session is open here."""

from __future__ import annotations

import contextlib
import os
import threading
from contextvars import ContextVar, Token
from pathlib import Path
from typing import TYPE_CHECKING, Final

from scalable.common.forks import unlocked_in_forks

if TYPE_CHECKING:
    from scalable.session.session import ScalableSession

_current: Final[ContextVar[ScalableSession | None]] = ContextVar("scalable_session", default=None)
_open: Final[list[ScalableSession]] = []
_lock: Final = unlocked_in_forks(threading.Lock())
#: The session that `scalable run` has started for a script.
_provided: ScalableSession | None = None


def current_session() -> ScalableSession | None:
    """Return the open session: that of this context, else the one started last."""
    session = _current.get()
    if session is not None:
        return session
    with _lock:
        return _open[-1] if _open else None


def provide(session: ScalableSession | None) -> None:
    """Make ``from_yaml()`` return this session, while a script runs in it."""
    global _provided
    _provided = session


def provided_for(path: str | os.PathLike[str] | None, target: str | None) -> ScalableSession | None:
    """Return the session that `scalable run` has started, if it is of this manifest and target."""
    if _provided is None or target not in (None, "auto", _provided.manifest.target_name):
        return None
    same = _provided.manifest.path
    if path is None or (same is not None and Path(path).resolve() == same.resolve()):
        return _provided
    return None


def opened(session: ScalableSession) -> Token[ScalableSession | None]:
    """Add an open session; returns what :func:`closed` needs."""
    with _lock:
        _open.append(session)
    return _current.set(session)


def closed(session: ScalableSession, token: Token[ScalableSession | None]) -> None:
    """Remove a session."""
    with _lock:
        if session in _open:
            _open.remove(session)
    # Another context than that of the start keeps its own value.
    with contextlib.suppress(ValueError):
        _current.reset(token)
