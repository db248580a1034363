"""Which run a task belongs to, carried by Dask's annotations from client to scheduler to worker.

In the process of an instrumented client, and in every worker process, graphs are annotated as they
are sent. The annotation is the *carrier*: the run's id and the OTel context (in the form of the
configured propagator) under which the tasks are to appear.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Final, TypeAlias

from distributed import Client

from scalable.facts import ANNOTATION
from scalable.guard import Guard
from scalable.instrumentation import internals

#: JSON-like: ``{"run": …, "traceparent": …}``.
Carrier: TypeAlias = dict[str, Any]

#: Makes the carrier of the attempt whose code is running: set by the worker, called where that code
#: submits tasks of its own.
nested_carrier: Final[ContextVar[Callable[[], Carrier | None] | None]] = ContextVar(
    "scalable_nested_carrier", default=None
)

#: Attribute of a client: makes the carrier of the next graph.
SOURCE_ATTRIBUTE: Final = "_scalable_carrier_source"

#: Errors of this room, in any run of the process.
guard: Final = Guard()

_lock = threading.Lock()
_users = 0
_original: Callable[..., Any] | None = None


def set_source(client: Client, source: Callable[[], Carrier | None] | None) -> None:
    """Let `source` make the carrier of every graph that `client` sends; None takes it back."""
    if source is None:
        client.__dict__.pop(SOURCE_ATTRIBUTE, None)
    else:
        setattr(client, SOURCE_ATTRIBUTE, source)


def install() -> None:
    """Annotate graphs in this process. Called by any thread; counted, undone by :func:`remove`."""
    global _users, _original
    with _lock:
        _users += 1
        if _users == 1:
            _original = internals.graph_to_futures()
            internals.set_graph_to_futures(_annotating(_original))


def remove() -> None:
    """Undo one :func:`install`; the last one gives Dask's own method back."""
    global _users, _original
    with _lock:
        if _users == 0:
            return
        _users -= 1
        if _users == 0 and _original is not None:
            # Somebody may have wrapped the method after us: theirs stays, ours finds no carrier.
            if getattr(internals.graph_to_futures(), "_scalable", False):
                internals.set_graph_to_futures(_original)
            _original = None


def _annotating(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def graph_to_futures(self: Client, *args: Any, **kwargs: Any) -> Any:
        try:
            carrier = _carrier_of(self)
        except BaseException as error:
            guard.failed("carrier", error)
            carrier = None
        if carrier is None:
            return original(self, *args, **kwargs)
        with internals.annotate(**{ANNOTATION: carrier}):
            return original(self, *args, **kwargs)

    graph_to_futures.__dict__["_scalable"] = True
    return graph_to_futures


def _carrier_of(client: Client) -> Carrier | None:
    source = nested_carrier.get()
    if source is None:
        source = getattr(client, SOURCE_ATTRIBUTE, None)
    return source() if source is not None else None
