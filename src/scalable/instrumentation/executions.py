"""Executions of tasks on a worker, and when each starts and ends in its thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from scalable.code.tracebacks import has_unnamed
from scalable.common.guard import Guard
from scalable.facts.identity import task_id
from scalable.facts.texts import module_of
from scalable.instrumentation.exception_details import ExceptionDetails, details_of, details_of_task
from scalable.instrumentation.output_streams import add_raw_output
from scalable.instrumentation.parameters import describe_failed_call

if TYPE_CHECKING:
    from distributed.worker_state_machine import TaskState

    from scalable.instrumentation.outbox import Outbox
    from scalable.instrumentation.printed import Printed

_set_item: Final = dict[int, Any].__setitem__
_del_item: Final = dict[int, Any].__delitem__


class Execution:
    """One execution of a task.

    Created on the worker's loop; started, metered and ended by the thread that runs the task.
    """

    # Class attributes as defaults: most executions change few of them.
    #: The annotation of the task.
    carrier: str | None = None
    #: Receives what its code records.
    outbox: Outbox | None = None
    #: How far the scheduler's clock is ahead, in seconds: the same for all times of an attempt
    #: and of what its code records.
    ahead = 0.0
    #: What Dask adds to the times of its code instead.
    dask_delay = 0.0
    #: Submissions of its code that further graphs may join; made by the thread that sends one.
    submissions: dict[Any, Any] | None = None
    #: What its code has printed; made by the first thread that prints.
    printed: Printed | None = None
    #: Its start; 0 while it waits for its thread.
    start = 0.0
    #: The task's own code runs; set by its thread.
    began = False
    announced = False
    #: No thread of this process runs it: a coroutine, or a task for a process pool.
    elsewhere = False
    #: The task was cancelled: no message of Dask will show that it had started.
    dropped = False
    #: Slot in the slot file.
    slot = 0
    #: CPU time of its thread at its start, and CPU time of the task, in seconds: None until it has
    #: ended, and if no thread of this process runs it.
    cpu_began = 0.0
    cpu: float | None = None
    #: The exception, if it is longer than Dask keeps.
    raised: ExceptionDetails | None = None
    #: Its class; what is left of an exception that cannot be pickled does not say the module.
    error_class: type | None = None
    #: What it was called with, of an attempt that failed; empty if that is not known.
    parameters = b""

    def __init__(self, task: TaskState) -> None:
        self.task = task
        self.run_id: int = task.run_id
        #: Its code opened spans that the process exports itself; set by the thread that opens them.
        self.exports = False

    def describe(self, error: BaseException, *, is_shortened: bool) -> None:
        """Keep what Dask does not keep of `error`: its class, and its details if it is long.

        And what the task was called with, and the details if frames have lost their file: only here
        is their code known. Called where its code ran.
        """
        self.error_class = type(error)
        if is_shortened or has_unnamed(error):
            self.raised = details_of(error)
        self.parameters = describe_failed_call(error, self.carrier)
        if not self.elsewhere:
            add_raw_output(self)

    def details(self) -> ExceptionDetails:
        """Return what is known of the exception of the task."""
        details = self.raised or details_of_task(self.task)
        kind = self.error_class
        if not details.module and kind is not None and kind.__qualname__ == details.error_type:
            details = details._replace(module=module_of(kind))
        return details

    @property
    def key(self) -> str:
        """The task."""
        return task_id(self.task.key)


class ActiveThreads(dict[int, Any]):
    """Replaces a worker's table of what each thread runs, and reports each entry.

    Dask enters the key of a task here as the first step in the task's thread, and removes it as the
    last: only this shows that an attempt runs and does not wait for a thread. The thread uses a
    copy of the context made for this execution, so what is set there ends with it.

    The threads of tasks change entries, under the worker's `active_threads_lock`.
    """

    def __init__(self, replaced: dict[int, Any], guard: Guard) -> None:
        super().__init__(replaced)
        self._guard = guard
        #: The worker's original table: tasks that ran before are removed from it.
        self._replaced = replaced
        self._before = dict(replaced)
        #: Called in the thread of each task; None after the watch has ended. The table stays, since
        #: threads hold references to it.
        self.began: Callable[[Any], None] | None = None
        self.ended: Callable[[], None] | None = None

    def __setitem__(self, thread: int, key: Any) -> None:
        _set_item(self, thread, key)
        began = self.began
        if began is not None:
            try:
                began(key)
            except BaseException as error:
                self._guard.failed("began", error)

    def __delitem__(self, thread: int) -> None:
        _del_item(self, thread)
        ended = self.ended
        if ended is not None:
            try:
                ended()
            except BaseException as error:
                self._guard.failed("ended", error)

    def tidy(self) -> bool:
        """Drop what has left the original table; return whether something is still there."""
        for thread, key in list(self._before.items()):
            if thread not in self._replaced:
                del self._before[thread]
                if self.get(thread) is key:
                    _del_item(self, thread)
        return bool(self._before)
