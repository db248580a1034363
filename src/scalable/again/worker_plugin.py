"""The plugin on each worker of a run that keeps results or failed calls."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

from distributed.diagnostics.plugin import WorkerPlugin

from scalable.again.failed_calls import KeptFailures
from scalable.again.keeping import KeptResults
from scalable.again.kept_objects import KeptObjects
from scalable.again.settings import KeepSettings
from scalable.common.forks import unlocked_in_forks
from scalable.common.guard import Guard, guarded
from scalable.instrumentation.parameters import keep_objects
from scalable.instrumentation.plugin_source import reduced
from scalable.instrumentation.task_calls import around

if TYPE_CHECKING:
    from distributed import Worker

#: A plugin that does nothing: what is not kept is computed.
_FALLBACK: Final = """
import logging
from distributed.diagnostics.plugin import WorkerPlugin
logging.getLogger("distributed.worker").warning(
    "scalable keeps no results on this worker (%s: %s)", type(error).__name__, error
)
class Plugin(WorkerPlugin):
    def __init__(self, *settings):
        pass
"""


_lock: Final = unlocked_in_forks(threading.Lock())
#: Of each run the workers of this process that keep for it, and what ends it.
_kept: Final[dict[str, tuple[int, Callable[[], None]]]] = {}


def _begin(settings: KeepSettings) -> None:
    """Put hooks around the tasks of this process, once for all its workers."""
    with _lock:
        workers, undo = _kept.get(settings.run) or (0, _hooks(settings))
        _kept[settings.run] = workers + 1, undo


def _hooks(settings: KeepSettings) -> Callable[[], None]:
    undo = ExitStack()
    if settings.failed:
        undo.callback(around(KeptFailures(settings)))
    if settings.results:
        undo.callback(around(KeptResults(settings)))
    if settings.objects:
        undo.callback(keep_objects(settings.run, KeptObjects(settings)))
    return undo.close


def _end(settings: KeepSettings) -> None:
    with _lock:
        workers, undo = _kept.pop(settings.run, (0, None))
        if undo is not None and workers > 1:
            _kept[settings.run] = workers - 1, undo
            return
    if undo is not None:
        undo()


class KeepingPlugin(WorkerPlugin):
    """Has hooks around the tasks of one worker; its methods are called by the worker's loop."""

    idempotent = True

    def __init__(self, *settings: Any) -> None:
        self.settings = KeepSettings(*settings)
        self.name = self.settings.plugin_name
        self.guard = Guard()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as source text: a worker without this package must start all the same."""
        return reduced(type(self), _FALLBACK, tuple(self.settings))

    @guarded("keep_setup")
    def setup(self, worker: Worker) -> None:
        """Begin to keep."""
        _begin(self.settings)

    @guarded("keep_teardown")
    def teardown(self, worker: Worker) -> None:
        """End it."""
        _end(self.settings)
