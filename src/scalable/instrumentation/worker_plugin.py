"""The plugin on each worker: watches its executions and captures its output."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final

from distributed import Status
from distributed.diagnostics.plugin import WorkerPlugin

from scalable import facts
from scalable.common.guard import Guard, guarded
from scalable.facts.protocol import SENT_METRIC, STREAM_OP, WORKER_PLUGIN_NAME
from scalable.instrumentation.capture import Capture
from scalable.instrumentation.environments import WorkerEnvironment
from scalable.instrumentation.plugin_source import reduced
from scalable.instrumentation.relay_providers import is_worker_process
from scalable.instrumentation.worker_watch import Watch

if TYPE_CHECKING:
    from distributed import Worker

#: A plugin that reports to the scheduler that this package cannot be imported.
_FALLBACK: Final = f"""
import logging, time
from distributed.diagnostics.plugin import WorkerPlugin
reason = type(error).__name__ + ": " + str(error)
logging.getLogger("distributed.worker").warning(
    "scalable cannot watch this worker (%s); tasks run on, unwatched", reason
)
class Plugin(WorkerPlugin):
    def setup(self, worker):
        now = time.time() + worker.scheduler_delay
        report = (
            {facts.WORKER_EVENT}, now, worker.address, {facts.UNWATCHED!r}, {{"reason": reason}}
        )
        worker.batched_send({{"op": {STREAM_OP!r}, "reports": [(None, report)]}})
"""


class ScalableWorkerPlugin(WorkerPlugin):
    """Watches the executions of one worker; every method is called by the worker's event loop."""

    name = WORKER_PLUGIN_NAME
    idempotent = True
    #: Whether the worker's output and running attempts are kept in temporary files.
    uses_files: ClassVar[bool] = True

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as source text: a worker without this package must start all the same."""
        return reduced(type(self), _FALLBACK)

    def setup(self, worker: Worker) -> None:
        """Begin to watch."""
        self.guard = Guard()
        self._watch: Watch | None = None
        self._capture: Capture | None = None
        self._environment: WorkerEnvironment | None = None
        self._set_up(worker)
        self._describe(worker)
        self._begin_capture(worker)

    def teardown(self, worker: Worker) -> None:
        """Undo :meth:`setup`."""
        self._tear_down(worker)
        self._end_capture(worker)

    @guarded("worker_setup")
    def _set_up(self, worker: Worker) -> None:
        self._watch = Watch(worker, self.guard, uses_files=self.uses_files)
        worker.metrics[SENT_METRIC] = self._on_heartbeat
        # Dask calls it directly, six times per task.
        self.transition = self._watch.transition

    @guarded("environment_setup")
    def _describe(self, worker: Worker) -> None:
        # Another process is described by whom it belongs to: the program, or the scheduler.
        watch = self._watch
        if watch is not None and is_worker_process(worker):
            self._environment = WorkerEnvironment(worker, lambda: watch.clock.seconds, self.guard)
            self._environment.start()

    def _on_heartbeat(self, worker: Worker) -> int:
        """Metric of Dask's heartbeats: the bytes sent; looks for new modules by the way."""
        if self._environment is not None:
            with self.guard.watch("environment"):
                self._environment.check()
        return 0 if self._watch is None else self._watch.heartbeat(worker)

    @guarded("worker_teardown")
    def _tear_down(self, worker: Worker) -> None:
        worker.metrics.pop(SENT_METRIC, None)
        vars(self).pop("transition", None)
        if self._watch is not None:
            self._watch.stop()
            self._watch = None

    @guarded("capture_setup")
    def _begin_capture(self, worker: Worker) -> None:
        if not self.uses_files:
            return
        ahead = self._watch.clock.seconds if self._watch is not None else 0.0
        self._capture = Capture.start(worker, ahead)
        if self._capture is not None and self._watch is not None:
            self._watch.output.follow(self._capture)

    @guarded("capture_teardown")
    def _end_capture(self, worker: Worker) -> None:
        # The process of a closing worker ends, and may still write its last output.
        if self._capture is not None and worker.status in (Status.running, Status.paused):
            self._capture.stop()
            self._capture = None


class MemoryWorkerPlugin(ScalableWorkerPlugin):
    """Watches a worker for a run that leaves nothing on disk; called by the worker's event loop.

    Where a run with files and one without are recorded on one cluster at the same time, that which
    began first decides.
    """

    uses_files = False
