"""Instrumentation without changes to the code: ``opentelemetry-instrument python app.py``."""

from __future__ import annotations

import functools
import logging
import multiprocessing
import threading
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, ClassVar, Final, cast
from weakref import WeakSet

from opentelemetry.instrumentation.instrumentor import BaseInstrumentor

from scalable.common.forks import unlocked_in_forks
from scalable.common.options import OPTIONS, FileOptions, resolve
from scalable.common.requirements import required_distributed

if TYPE_CHECKING:
    from distributed import Client

    from scalable.api import Instrumentation

logger = logging.getLogger("scalable")

#: Attribute of a client that starts on an event loop: it is recorded once it has started.
_MARK: Final = "_scalable_to_be_instrumented"


class DaskInstrumentor(BaseInstrumentor):
    """Instruments each Dask client of this process as it is made.

    Called by the thread of ``opentelemetry-instrument`` or of the program; the hooks run in the
    thread that makes a client. Clients that tasks make in a worker are not instrumented: their
    tasks belong to the run already.

    Examples
    --------
    >>> from scalable.autoinstrument import DaskInstrumentor
    >>> DaskInstrumentor().instrument(project="tides")  # doctest: +SKIP
    """

    #: The options that a configuration file of OpenTelemetry can give, below
    #: ``instrumentation/development: python: dask:``. The SDK looks for this name.
    configuration: ClassVar[type] = FileOptions

    _undo: tuple[Callable[[], None], ...] = ()

    def instrumentation_dependencies(self) -> Collection[str]:
        """The versions of Dask that can be instrumented."""
        return (required_distributed(),)

    def _instrument(self, **kwargs: Any) -> None:
        from distributed import Client

        # A distribution passes the same arguments to every instrumentor.
        options = {name: value for name, value in kwargs.items() if name in _OPTIONS}
        if foreign := sorted(kwargs.keys() - options.keys()):
            logger.debug("scalable: not options of instrument(): %s", ", ".join(foreign))
        # A wrong value is reported here, not when a client is made.
        resolve(options)
        self._lock = unlocked_in_forks(threading.Lock())
        self._runs: WeakSet[Instrumentation] = WeakSet()
        undo: list[Callable[[], None]] = []
        try:
            for name, wrapped in (
                ("__init__", self._init(Client.__init__, options)),
                ("_start", self._start(cast("Any", Client)._start, options)),
            ):
                undo.append(_replace(Client, name, wrapped))
        except BaseException:
            for step in reversed(undo):
                step()
            raise
        self._undo = tuple(undo)

    def _uninstrument(self, **kwargs: Any) -> None:
        undo, self._undo = self._undo, ()
        for step in reversed(undo):
            step()
        with self._lock:
            runs = list(self._runs)
        for run in runs:
            run.close()

    def _init(self, original: Callable[..., None], options: dict[str, Any]) -> Callable[..., None]:
        @functools.wraps(original)
        def __init__(client: Client, *args: Any, **kwargs: Any) -> None:  # noqa: N807
            original(client, *args, **kwargs)
            if not self._undo or _in_a_worker():
                return
            if client.asynchronous:
                client.__dict__[_MARK] = True
            elif client.status == "running":
                self._begin(client, options)

        return __init__

    def _start(self, original: Callable[..., Any], options: dict[str, Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        async def _start(client: Client, *args: Any, **kwargs: Any) -> Any:
            result = await original(client, *args, **kwargs)
            if client.__dict__.pop(_MARK, False) and client.status == "running":
                self._begin(client, options)
            return result

        return _start

    def _begin(self, client: Client, options: dict[str, Any]) -> None:
        from scalable.api import instrument

        try:
            run = instrument(client, **options)
        except Exception as error:
            logger.warning("scalable cannot record %r: %s", client, error)
            return
        if run.enabled:
            with self._lock:
                self._runs.add(run)


_OPTIONS: Final = frozenset(option.name for option in OPTIONS)
#: Name of a worker's process under a nanny.
_WORKER_PROCESS: Final = "Dask Worker process (from Nanny)"


def _in_a_worker() -> bool:
    """Whether this is a worker's process, or a task makes the client."""
    from distributed import get_worker

    if multiprocessing.current_process().name == _WORKER_PROCESS:
        return True
    try:
        get_worker()
    except ValueError:
        return False
    return True


def _replace(owner: type, name: str, replacement: Callable[..., Any]) -> Callable[[], None]:
    """Replace a method; returns the undo function."""
    original = owner.__dict__[name]
    setattr(owner, name, replacement)

    def undo() -> None:
        # If somebody has wrapped it since, that stays, and ours does nothing.
        if owner.__dict__.get(name) is replacement:
            setattr(owner, name, original)

    return undo
