"""Executions of tasks on a worker, and the moment at which each begins and ends in its thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from scalable.common.guard import Guard
from scalable.facts.identity import task_id
from scalable.instrumentation.exception_details import ExceptionDetails, details_of

if TYPE_CHECKING:
    from distributed.worker_state_machine import TaskState

    from scalable.instrumentation.outbox import Outbox

_set_item: Final = dict[int, Any].__setitem__
_del_item: Final = dict[int, Any].__delitem__


class Execution:
    """One execution of a task.

    Made on the worker's loop; begun, metered and ended by the thread that runs the task.
    """

    # Class attributes until they change: most executions change few of them.
    #: The annotation that the task came with.
    carrier: str | None = None
    #: Takes what its code records.
    outbox: Outbox | None = None
    #: When it began; 0 while it waits for its thread.
    start = 0.0
    #: The task's own code runs; set by its thread.
    began = False
    announced = False
    #: No thread of this process runs it: a coroutine, or a task for a pool of processes.
    elsewhere = False
    #: The task was cancelled: no message of Dask will show that it had begun.
    dropped = False
    #: Place in the slot file.
    slot = 0
    #: CPU time of its thread as it began, in seconds; and what the task took of it: None until it
    #: has ended, and where no thread of this process runs it.
    cpu_began = 0.0
    cpu: float | None = None
    #: What it raised, where that is longer than Dask keeps.
    raised: ExceptionDetails | None = None

    def __init__(self, task: TaskState) -> None:
        self.task = task
        self.run_id: int = task.run_id

    def describe(self, error: BaseException) -> None:
        """Keep the details of `error`, which Dask is about to cut."""
        self.raised = details_of(error)

    @property
    def key(self) -> str:
        """The task."""
        return task_id(self.task.key)


class ActiveThreads(dict[int, Any]):
    """Takes the place of a worker's table of what each thread runs, and reports each entry.

    Dask's first act in the thread of a task is to enter its key here, its last to remove it: the
    only moments at which the thread itself shows that an attempt runs, and not only waits for a
    thread. The thread works in a copy of the context made for this execution: what is set there
    ends with it.

    Entries are made by the threads of tasks, under the worker's `active_threads_lock`.
    """

    def __init__(self, replaced: dict[int, Any], guard: Guard) -> None:
        super().__init__(replaced)
        self._guard = guard
        #: The worker's first table: what ran when this one came leaves that one.
        self._replaced = replaced
        self._before = dict(replaced)
        #: Called in the thread of each task; None once nobody watches. The table itself stays:
        #: threads hold on to it.
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
        """Drop what has left the first table; returns whether something is still there."""
        for thread, key in list(self._before.items()):
            if thread not in self._replaced:
                del self._before[thread]
                if self.get(thread) is key:
                    _del_item(self, thread)
        return bool(self._before)
