"""The output of one worker's tasks: of Python's streams, and raw."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from scalable.common.guard import Guard
from scalable.facts.identity import carried
from scalable.facts.protocol import OUTPUT
from scalable.facts.relay_items import EITHER
from scalable.instrumentation import propagation
from scalable.instrumentation.output_streams import OutputCollector, printed_by
from scalable.instrumentation.raw_output import RawOutput, RawText, RecentOutput

if TYPE_CHECKING:
    from distributed import Worker

    from scalable.instrumentation.capture import Capture
    from scalable.instrumentation.executions import Execution
    from scalable.instrumentation.outbox import Outbox

#: Said in the output of a failed attempt.
SHARED: Final = (
    "[{count:,} more lines of the worker's output from this time are in the worker's log: other "
    "tasks ran at once, so it is not known whose they are.]\n"
)


class WorkerOutput:
    """Sends the output of the tasks of one worker; made and ended on the worker's loop.

    :meth:`ended`, :meth:`add_raw` and :meth:`only_attempt` are called by the threads of tasks.

    Parameters
    ----------
    worker : Worker
        The worker.
    outbox : Outbox
        Where output goes.
    guard : Guard
        Counts what went wrong.
    executions : mapping
        What runs.
    want_ends : callable
        Called when :meth:`ended` is to be called at the end of each execution from now on.
    own_process : bool
        Whether the process exists for this worker alone.
    """

    def __init__(
        self,
        worker: Worker,
        outbox: Outbox,
        guard: Guard,
        executions: Mapping[Any, Execution],
        want_ends: Callable[[], None],
        *,
        own_process: bool,
    ) -> None:
        self._worker = worker
        self._guard = guard
        self._executions = executions
        self._want_ends = want_ends
        self._loop_thread = threading.get_ident()
        self._own_process = own_process
        self._raw: RawOutput | None = None
        self._collector = OutputCollector(outbox, self.only_attempt)

    def start(self) -> None:
        """Take what is printed from now on."""
        self._collector.start()
        propagation.carrier_listeners.append(self._on_carrier)

    def stop(self) -> None:
        """Take no more."""
        self._collector.stop()
        if self._on_carrier in propagation.carrier_listeners:
            propagation.carrier_listeners.remove(self._on_carrier)

    def follow(self, capture: Capture) -> None:
        """Also look for output in the log of the worker's process."""
        recent = RecentOutput()
        self._raw = RawOutput(capture, recent)
        self._collector.recent = recent
        self._collector.find_raw = self.add_raw

    def _on_carrier(self, carrier: str) -> None:
        if carried(carrier).get(OUTPUT) == "all":
            self._want_ends()

    def only_attempt(self) -> Execution | None:
        """The attempt that runs, if there is but one, for output of a thread without a context.

        None on the loop, and where other code than that of tasks may print.
        """
        if not self._own_process or threading.get_ident() == self._loop_thread:
            return None
        executions = list(self._executions.values())
        return executions[0] if len(executions) == 1 and executions[0].began else None

    def ended(self, execution: Execution) -> None:
        """The code of an attempt has ended: send its output, if that is wanted in any case."""
        if carried(execution.carrier).get(OUTPUT) != "all":
            return
        if execution.error_class is None:  # else it was looked for
            self.add_raw(execution)
        if execution.printed is not None:
            execution.printed.finish()

    def add_raw(self, execution: Execution) -> None:
        """Add what did not pass Python's streams, or say that it cannot be told apart."""
        if self._raw is None or carried(execution.carrier).get(OUTPUT) == "off":
            return
        try:
            found = self._raw.since(execution.start - execution.ahead)
            others = sum(other.began for other in list(self._executions.values())) > 1
            is_shared = others or self._worker.state.nthreads > 1
            if not found or (is_shared and execution.error_class is None):
                return
            printed = printed_by(execution)
            if printed is None:
                return
            if is_shared:
                count = sum(max(1, each.text.count("\n")) for each in found)
                found = [RawText(found[-1].time, EITHER, SHARED.format(count=count))]
            printed.add_raw(found)
        except BaseException as error:
            self._guard.failed("raw_output", error)
