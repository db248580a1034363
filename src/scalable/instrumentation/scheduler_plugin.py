"""Scheduler → facts: the life of every task and worker, as the scheduler decides it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Container, Iterable, Mapping, Sequence
from time import time
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from distributed import Status
from distributed.diagnostics.plugin import SchedulerPlugin
from distributed.protocol.pickle import loads

from scalable import __version__, facts
from scalable.common.guard import Guard, guarded, printable, split_repr
from scalable.facts import MAX_FACT, MAX_TEXT, Fact, shortened
from scalable.facts.identity import carried, task_id
from scalable.facts.protocol import (
    ANNOTATION,
    NANNY_PLUGIN_NAME,
    SENT_METRIC,
    THREAD_CPU,
    WORKER_PLUGIN_NAME,
)
from scalable.instrumentation import dask_compat
from scalable.instrumentation.hub import ANSWER_BYTES, PULL_LIMIT, Hub, execution
from scalable.instrumentation.slot_file import read_slots

if TYPE_CHECKING:
    from distributed.scheduler import Scheduler, TaskState, WorkerState

#: Memory that facts nobody has pulled yet may take, in bytes; beyond it new facts are dropped.
BUFFER_LIMIT: Final = 64 * 2**20
#: Dependencies named on a task; their number is always exact.
MAX_DEPENDENCIES: Final = 1_000
#: Bytes of errors that workers announced and whose attempts have not ended yet.
PENDING_ERRORS_LIMIT: Final = 4 * 2**20
#: Tasks assigned to a lost worker that are named, in the order in which they would have run.
MAX_ASSIGNED: Final = 1_000
#: Known tasks looked at in one step when a run begins on a busy scheduler.
ADOPTION_STEP: Final = 2_000
#: How long a closing scheduler waits for its recorder to fetch the last facts, in seconds.
LAST_PULL_TIMEOUT: Final = 1.0

#: Estimated bytes of a fact in memory (measured with tracemalloc), without its texts.
_FACT_BYTES: Final = 320
_SMALL_FACT_BYTES: Final = 160
#: Of a task that is only forgotten.
_KEY_BYTES: Final = 64
_PHASE_BYTES: Final = 150
#: Characters of all the keys that one fact names.
_MAX_NAMES: Final = MAX_FACT // 2

_FORGOTTEN: Final = facts.FORGOTTEN
_SUBMITTED: Final = facts.SUBMITTED
_SUCCEEDED: Final = facts.SUCCEEDED
#: States of a task of which the scheduler expects nothing.
_AT_REST: Final = frozenset({"released", "memory", "erred", "forgotten"})
#: In the place of the time at which a task became runnable: that it has succeeded, or failed.
_ENDED: Final = -1.0


class ScalableSchedulerPlugin(SchedulerPlugin):
    """Notes facts of one run and hands them out on request.

    Every hook is called by the scheduler's event loop. :meth:`pull` is called there too (RPC) or by
    a recorder's thread in the same process; deque operations are atomic, so both need no lock.

    Parameters
    ----------
    run : str
        Id of the run; tasks annotated with it belong to the run.
    client : str or None
        Id of the Dask client whose tasks the run records.
    scope : {"client", "cluster"}
        ``cluster`` records every task of the scheduler.
    sample_interval : float
        Seconds between samples of the workers' usage.
    log_level : int
        Least level of the log records that the run wants.
    """

    idempotent = True

    def __init__(
        self,
        run: str,
        *,
        client: str | None,
        scope: Literal["client", "cluster"] = "client",
        sample_interval: float = 5.0,
        log_level: int = logging.INFO,
    ) -> None:
        self.name = plugin_name(run)
        self.run = run
        self.client = client
        self.scope = scope
        self.sample_interval = sample_interval
        self.log_level = log_level

    # -- life ---------------------------------------------------------------------------------

    async def start(self, scheduler: Scheduler) -> None:
        """Attach to `scheduler` (called by Dask where the plugin was registered by RPC)."""
        self.attach(scheduler)

    def attach(self, scheduler: Scheduler) -> None:
        """Begin to note facts; must be called on the scheduler's event loop."""
        self.guard = Guard()
        self._scheduler = scheduler
        #: A scheduler that is restarted keeps this dictionary.
        self._tasks = scheduler.tasks
        self._facts: deque[tuple[Any, ...] | str] = deque()
        self._bytes = 0
        self._dropped = 0
        self._next = 1
        self._inflight: list[tuple[Any, ...] | str] = []
        #: Tasks of this run that the scheduler still knows → when they became runnable, or that
        #: their end has been told (:data:`_ENDED`).
        self._known: dict[Any, float] = {}
        self._workers: dict[str, WorkerState] = {}
        self._closing: dict[str, str] = {}
        self._suspects: dict[str, str] = {}
        #: Workers that Dask is about to end for want of a heartbeat → its limit, in seconds.
        self._silent: dict[str, float] = {}
        #: The most that each worker had on disk for lack of memory, in bytes.
        self._spilled: dict[str, int] = {}
        #: The worker that is being removed, and the keys of what was assigned to it.
        self._gone: tuple[str, Container[Any] | None] | None = None
        self._errors: dict[tuple[str, int], facts.AttemptError] = {}
        self._error_bytes = 0
        self._graph_is_ours = False
        #: Graphs of the client that came in.
        self._graphs = 0
        #: Whether the scheduler may know tasks that are not this run's: most never have any, and
        #: need not look at each task of a graph.
        self._others = bool(scheduler.tasks)
        #: Annotation of the last task that was found to be this run's: those of one submission have
        #: equal ones.
        self._carrier: Any = object()
        self._function: tuple[Any, str | None] = (None, None)
        self._was_pulled = False
        self._last_pull: asyncio.Event | None = None
        self._loop = asyncio.get_running_loop()
        self._detached = False
        self._hub = Hub.of(scheduler)
        self._hub.plugins[self.run] = self
        self._hub.configure()
        self._sampler = self._loop.call_later(self.sample_interval, self._sample_all)
        self._scan_existing()

    @guarded("scan_existing")
    def _scan_existing(self) -> None:
        """Note what is there already; later things come through the hooks."""
        for address, worker in self._scheduler.workers.items():
            self._worker_ready(address, worker, _registered_at(self._scheduler, address))
        tasks = self._scheduler.tasks
        client = self._scheduler.clients.get(self.client) if self.client else None
        wanted = deque(client.wants_what if client is not None else ())
        self._adopt_existing(wanted, deque(tasks), set())

    async def leave(self) -> None:
        """Undo :meth:`attach` and, with the last run, what the runs share; on the loop."""
        scheduler = self._scheduler
        if scheduler.plugins.get(self.name) is self:
            scheduler.remove_plugin(self.name)
        self.detach_quietly()
        running = scheduler.status == Status.running
        if running and not self._hub.plugins and WORKER_PLUGIN_NAME in scheduler.worker_plugins:
            await scheduler.unregister_worker_plugin(None, name=WORKER_PLUGIN_NAME)
        if running and not self._hub.plugins and NANNY_PLUGIN_NAME in scheduler.nanny_plugins:
            await scheduler.unregister_nanny_plugin(None, name=NANNY_PLUGIN_NAME)

    def detach_quietly(self) -> None:
        """Note nothing any more; the part of :meth:`leave` that needs no running loop."""
        if not self._detached:
            self._detached = True
            self._sampler.cancel()
            self._hub.forget(self)

    async def before_close(self) -> None:
        """The scheduler closes: note it for every worker, let the recorder fetch the rest."""
        if self._detached:
            return
        self._scheduler_closing()
        if self._was_pulled:
            deadline = self._loop.time() + LAST_PULL_TIMEOUT
            self._last_pull = pulled = asyncio.Event()
            while self._facts or self._inflight:
                pulled.clear()
                left = deadline - self._loop.time()
                if left <= 0:
                    break
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(pulled.wait(), left)

    async def close(self) -> None:
        """The scheduler is closed: sample nothing any more (what is buffered stays readable)."""
        self._sampler.cancel()

    @guarded("scheduler_closing")
    def _scheduler_closing(self) -> None:
        for address in list(self._workers):
            self._closing.setdefault(address, "scheduler-close")
            self._note_worker_gone(address, expected=True, recomputed=0)
        self._note(facts.SchedulerClosed(facts.SCHEDULER_CLOSED, time()))

    # -- pulling ------------------------------------------------------------------------------

    def pull(self, after: int, limit: int = PULL_LIMIT, size: int = ANSWER_BYTES) -> dict[str, Any]:
        """Hand out facts from number `after` on; everything before it is acknowledged.

        Parameters
        ----------
        after : int
            Number of the first fact wanted: `next` of the previous answer, 1 at first. A smaller
            number than that repeats what has not been acknowledged.
        limit : int
            Most facts to return; bounded by :data:`PULL_LIMIT`.
        size : int
            Most bytes to return, unless the first fact alone is larger; 0 returns no fact.

        Returns
        -------
        dict
            The fields of :class:`scalable.facts.Batch`, and the protocol and version of this side.
        """
        acknowledged = after - self._next
        if 0 < acknowledged <= len(self._inflight):
            self._next = after
            self._forget(acknowledged)
        answer = self._next_facts(max(1, min(limit, PULL_LIMIT)), min(size, ANSWER_BYTES))
        self._was_pulled = True
        if self._last_pull is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed already
                self._loop.call_soon_threadsafe(self._last_pull.set)
        return {
            "facts": answer,
            "next": self._next + len(answer),
            "more": bool(self._facts) or len(answer) < len(self._inflight),
            "dropped": self._dropped,
            "errors": dict(self.guard.errors),
            "graphs": self._graphs,
            "now": time(),
            "protocol": facts.PROTOCOL,
            "oldest": facts.OLDEST_PROTOCOL,
            "version": __version__,
        }

    def _forget(self, count: int) -> None:
        """The first facts in flight have arrived."""
        arrived = self._inflight[:count]
        del self._inflight[:count]
        # The hooks add to the sum meanwhile: an empty queue is what keeps it from drifting.
        left = self._inflight or self._facts
        self._bytes = self._bytes - _size_of_all(arrived)[0] if left else 0

    def _next_facts(self, limit: int, size: int) -> list[tuple[Any, ...] | str]:
        if size <= 0:
            return []
        inflight, queue = self._inflight, self._facts
        for _ in range(min(len(queue), limit - len(inflight))):
            inflight.append(queue.popleft())
        answer = inflight[:limit]
        if sum(_size_of_all(answer)) > size:
            fitting = 0
            for fact in answer:
                size -= sum(_size_of_all((fact,)))
                if size < 0:
                    break
                fitting += 1
            del answer[max(1, fitting) :]
        return answer

    def _note(self, fact: tuple[Any, ...] | str) -> None:
        size = _size(fact)
        if self._bytes + size > BUFFER_LIMIT or size > MAX_FACT:
            self._dropped += 1
            return
        self._bytes += size
        self._facts.append(fact)

    # -- tasks --------------------------------------------------------------------------------

    def update_graph(
        self,
        scheduler: Scheduler,
        *,
        client: str,
        tasks: list[Any],
        **kwargs: Any,
    ) -> None:
        """A graph arrived; its new tasks are noted as they make their first transition."""
        try:
            if client == self.client:
                self._graphs += 1
            self._graph_is_ours = ours = self.scope == "cluster" or client == self.client
            if not ours:
                self._others = True
            elif self._others:
                # Tasks that another client has submitted already are this client's from now on.
                for key in tasks:
                    task = scheduler.tasks[key]
                    if task.state not in _AT_REST and key not in self._known:
                        self._adopt(key, task, time(), known_before=True)
        except BaseException as error:
            self.guard.failed("update_graph", error)

    def transition(
        self,
        key: Any,
        start: str,
        finish: str,
        stimulus_id: str = "",
        worker: str = "",
        startstops: Sequence[Mapping[str, Any]] | None = None,
        nbytes: int = -1,
        typename: str = "",
        metadata: Mapping[str, Any] | None = None,
        type: bytes = b"",
        thread: int = 0,
        **kwargs: Any,
    ) -> None:
        """A task changed its state. The hottest hook: six calls a task."""
        # What every task does stands here without a call (see `_note` for what is done twice). All
        # of Dask's keywords are named, wanted or not: Python compares one that is not with each of
        # those that are, letter by letter. The facts are flat, of texts and numbers: the garbage
        # collector dismisses them at first sight, where it would visit anything else several times.
        try:
            if start == "queued" and finish == "processing":
                return  # it has been runnable since it was queued
            known = self._known
            ready = known.get(key)
            if ready is None:
                if start != "released" or finish == "forgotten" or not self._comes_in(key):
                    return
                if finish == "waiting":
                    return
            if finish == "memory":
                if start == "processing":
                    known[key] = _ENDED
                    now = begin = end = time()
                    phases: tuple[facts.Phase, ...] = ()
                    cpu = None
                    try:
                        if startstops:
                            item = startstops[0]
                            if len(startstops) == 1 and item["action"] == "compute":
                                begin, end = item["start"], item["stop"]
                                cpu = item.get(THREAD_CPU)
                            else:
                                began, ended, phases, cpu = execution(startstops)
                                begin, end = began or now, ended or now
                            if cpu.__class__ is not float:
                                cpu = None
                    except BaseException as error:
                        # One fact less exact is no reason to lose it.
                        self.guard.failed("succeeded", error)
                    fact = (
                        _SUCCEEDED,
                        now,
                        (
                            key
                            if key.__class__ is str and key >= ":" and key.isascii()
                            else task_id(key)
                        ),
                        self._tasks[key].run_id,
                        worker,
                        begin,
                        end,
                        ready,
                        phases,
                        nbytes,
                        typename,
                        cpu,
                    )
                    size = self._bytes + _FACT_BYTES + len(fact[2]) + len(typename)
                    if phases or size > BUFFER_LIMIT:
                        self._note(fact)
                    else:
                        self._bytes = size
                        self._facts.append(fact)
            elif finish == "processing":
                if start == "waiting":
                    known[key] = time()
            elif finish == "forgotten":
                del known[key]
                if ready == _ENDED and key.__class__ is str and key >= ":" and key.isascii():
                    size = self._bytes + _KEY_BYTES + len(key)
                    if size > BUFFER_LIMIT:
                        self._note(key)
                    else:
                        self._bytes = size
                        self._facts.append(key)
                else:
                    self._note((_FORGOTTEN, time(), task_id(key)))
            elif finish == "waiting":
                if start != "waiting":  # else it turned out that it must queue
                    known[key] = 0.0
                    self._note((facts.WAITING, time(), task_id(key)))
            elif finish == "released":
                if start == "processing":
                    self._left_worker(key, stimulus_id)
            elif finish == "erred":
                kwargs["worker"], kwargs["startstops"] = worker, startstops
                self._erred(key, start, kwargs)
                known[key] = _ENDED
            elif start == "waiting":  # queued, no-worker: runnable, but there is no place yet
                known[key] = time()
        except BaseException as error:
            self.guard.failed("transition", error)

    def _comes_in(self, key: Any) -> bool:
        """Take a task in that makes its first transition, if it is this run's."""
        task = self._tasks[key]
        annotations = task.annotations
        run_spec = task.run_spec
        carrier = annotations.get(ANNOTATION) if annotations else None
        if run_spec is not None and carrier == self._carrier:
            carrier = self._carrier  # one object for all: each message brought its own
        elif not self._is_ours(task):
            return False
        if task.dependencies:
            return self._adopt(key, task, time(), known_before=False)
        # What `_adopt` does, for the many of one graph that depend on nothing.
        name = key if key.__class__ is str and key >= ":" and key.isascii() else task_id(key)
        length = len(name)
        if length > MAX_TEXT:
            self._dropped += 1
            return False
        self._known[key] = 0.0
        function = getattr(run_spec, "func", None)
        if function is not self._function[0]:
            self._function = (function, _function_name(function))
        fact = (
            _SUBMITTED,
            time(),
            name,
            task.prefix.name,
            self._function[1],
            (),
            0,
            carrier,
            False,
        )
        size = self._bytes + _SMALL_FACT_BYTES + length
        if size > BUFFER_LIMIT:
            self._note(fact)
        else:
            self._bytes = size
            self._facts.append(fact)
        return True

    def _is_ours(self, task: TaskState) -> bool:
        if task.run_spec is None:  # scattered data: nothing that runs
            return False
        annotations = task.annotations
        if annotations and ANNOTATION in annotations:
            if not _annotated(task, self.run):
                return self.scope == "cluster"
            self._carrier = annotations[ANNOTATION]
            return True
        return self._graph_is_ours

    def _adopt(self, key: Any, task: TaskState, now: float, *, known_before: bool) -> bool:
        """Take a task in; False if its key is longer than any that is recorded."""
        name = task_id(key)
        if len(name) > MAX_TEXT:
            self._dropped += 1
            return False
        self._known[key] = 0.0
        dependencies = task.dependencies
        names: tuple[str, ...] = ()
        if dependencies:
            names = tuple(
                task_id(dependency.key)
                for dependency, _ in zip(dependencies, _UP_TO_MAX, strict=False)
            )
            while sum(map(len, names)) > _MAX_NAMES:
                names = names[: len(names) // 2]
        annotations = task.annotations
        carrier = annotations.get(ANNOTATION) if annotations else None
        # Tasks of one function come in a row.
        function = getattr(task.run_spec, "func", None)
        if function is not self._function[0]:
            self._function = (function, _function_name(function))
        self._note(
            (
                _SUBMITTED,
                now,
                name,
                task.prefix.name,
                self._function[1],
                names,
                len(dependencies),
                carrier,
                known_before,
            )
        )
        return True

    def _left_worker(self, key: Any, stimulus_id: str) -> None:
        erring = self._hub.erring
        if erring is not None and erring[0] == key:
            self._failed(key, erring[1], will_retry=True)
            return
        run_id = self._scheduler.tasks[key].run_id
        worker, reason = "", stimulus_id.rstrip("0123456789.-")
        if self._gone is not None:
            address, assigned = self._gone
            if assigned is None or key in assigned:
                worker, reason = address, "worker-lost"
            else:
                # It was on another worker, which may run it all the same.
                reason = "dependency-lost"
        if not worker:
            self._hub.expect_late()
        self._note(facts.Unassigned(facts.UNASSIGNED, time(), task_id(key), run_id, worker, reason))

    def _erred(self, key: Any, start: str, kwargs: Mapping[str, Any]) -> None:
        cause = kwargs.get("cause")
        if cause is None:
            blame = self._scheduler.tasks[key].exception_blame
            cause = blame.key if blame is not None else key
        if cause != key:
            self._note(facts.Blamed(facts.BLAMED, time(), task_id(key), task_id(cause)))
        elif start == "processing" or kwargs.get("exception") is not None:
            self._failed(key, kwargs, will_retry=False)
        else:
            # memory → erred, with no more in the arguments; the client is told these words.
            worker = self._gone[0] if self._gone is not None else ""
            details = {"worker": worker, "exception": RuntimeError("Worker holding Actor was lost")}
            self._failed(key, details, will_retry=False)

    def _failed(self, key: Any, details: Mapping[str, Any], *, will_retry: bool) -> None:
        task = self._scheduler.tasks[key]
        text = task_id(key)
        worker = details.get("worker") or ""
        run_id: int | None = details.get("run_id", task.run_id)
        start, stop, phases, _ = execution(details.get("startstops"))
        announced = None if run_id is None else self._errors.pop((text, run_id), None)
        if announced is not None:
            self._error_bytes -= facts.size_of(announced)
        cpu = errno = None
        bases: tuple[str, ...] = ()
        exception_text = details.get("exception_text")
        if announced is not None:
            error_type, message = announced.error_type, announced.message
            traceback, cpu = announced.traceback, announced.cpu
            bases, errno = announced.bases, announced.errno
        elif exception_text is not None:
            error_type, message = split_repr(exception_text)
            traceback = details.get("traceback_text") or ""
        else:
            # The scheduler made this exception itself: KilledWorker, NoValidWorkerError, ….
            error_type, message = _scheduler_exception(details.get("exception"))
            traceback = ""
            start = stop = None
            if worker and worker not in self._scheduler.workers:
                self._note_worker_gone(worker, expected=False, recomputed=None, also=task)
        message, traceback = shortened(message), shortened(traceback)
        self._note(
            facts.Failed(
                facts.FAILED,
                time(),
                text,
                run_id,
                worker,
                start,
                stop,
                max(0.0, self._known.get(key, 0.0)),
                phases,
                error_type,
                message,
                traceback,
                cpu,
                will_retry,
                bases,
                errno,
            )
        )

    def restart(self, scheduler: Scheduler) -> None:
        """``client.restart()``: every task is forgotten, every worker will be replaced."""
        try:
            for address in scheduler.workers:
                self._closing[address] = "restart"
            self._known.clear()
            self._note(facts.Restarted(facts.RESTARTED, time()))
        except BaseException as error:
            self.guard.failed("restart", error)

    def _adopt_existing(
        self, wanted: deque[TaskState], keys: deque[Any], seen: set[TaskState]
    ) -> None:
        """Take in tasks that were there before the run, a bounded number in one step.

        Those are what the client waits for, down to what that depends on (`wanted`), and what was
        annotated while the plugin was still on its way here (`keys`).
        """
        try:
            tasks = self._scheduler.tasks
            now = time()
            for _ in range(ADOPTION_STEP):
                if wanted:
                    task = wanted.popleft()
                    if task in seen:
                        continue
                    seen.add(task)
                    wanted.extend(task.dependencies)
                    ours = True
                elif keys:
                    found = tasks.get(keys.popleft())
                    if found is None:
                        continue
                    task = found
                    ours = self.scope == "cluster" or _annotated(task, self.run)
                else:
                    return
                under_way = task.state not in _AT_REST
                if ours and under_way and task.run_spec is not None and task.key not in self._known:
                    self._adopt(task.key, task, now, known_before=True)
            if not self._detached:
                self._loop.call_soon(self._adopt_existing, wanted, keys, seen)
        except BaseException as error:
            self.guard.failed("adopt_existing", error)

    # -- workers ------------------------------------------------------------------------------

    def add_worker(self, scheduler: Scheduler, worker: str) -> None:
        """A worker registered."""
        try:
            self._worker_ready(worker, scheduler.workers[worker], time())
        except BaseException as error:
            self.guard.failed("add_worker", error)

    def remove_worker(self, scheduler: Scheduler, worker: str, **kwargs: Any) -> None:
        """A worker left, and its tasks have made their transitions."""
        self._gone = None
        self._closing.pop(worker, None)
        self._suspects.pop(worker, None)
        self._silent.pop(worker, None)

    def log_event(self, topic: str, msg: Any) -> None:
        """Dask logs an event: the only sign of a worker's removal before its tasks are moved."""
        try:
            if not isinstance(msg, dict):
                return
            action = cast("dict[str, Any]", msg).get("action")
            if action == "remove-worker" and topic == "all":
                address = msg["worker"]
                self._note_worker_gone(
                    address,
                    expected=bool(msg.get("expected")),
                    recomputed=len(msg.get("lost-computed-tasks", ())),
                )
                self._gone = address, msg.get("processing-tasks")
            elif action == "closing-worker":
                self._closing.setdefault(topic, str(msg.get("reason") or "worker-close"))
            elif action in ("close-worker", "retire-workers"):
                for address in [topic, *_addresses(msg)]:
                    self._closing.setdefault(address, str(action))
            elif action == "restart-workers":
                for address in _addresses(msg):
                    self._closing.setdefault(address, "restart")
            elif action in ("worker-ttl-timed-out", "worker-ttl-timeout"):
                for address in _addresses(msg):
                    self._suspects[address] = "worker-ttl"
                    self._silent[address] = float(msg.get("ttl") or 0.0)
            elif topic == "worker-restart-memory":
                self._memory_kill(msg)
        except BaseException as error:
            self.guard.failed("log_event", error)

    def _memory_kill(self, message: Mapping[str, Any]) -> None:
        """A nanny ended its worker; the connection may have told that it is gone before."""
        address = str(message.get("worker"))
        if address in self._workers:
            self._suspects[address] = "memory-limit"
        rss = message.get("rss")
        fields = {"rss": rss} if isinstance(rss, int) else {}
        self._note(
            facts.WorkerEvent(facts.WORKER_EVENT, time(), address, "worker-restart-memory", fields)
        )

    def _worker_ready(self, address: str, worker: WorkerState, since: float) -> None:
        self._workers[address] = worker
        self._note(
            facts.WorkerReady(
                facts.WORKER_READY,
                since,
                address,
                str(worker.name),
                worker.host,
                worker.pid,
                worker.nthreads,
                worker.memory_limit or 0,
                worker.nanny,
                tuple(map(str, worker.resources)),
            )
        )
        self._sample(address, worker, since)

    def _note_worker_gone(
        self,
        address: str,
        *,
        expected: bool,
        recomputed: int | None,
        also: TaskState | None = None,
    ) -> None:
        worker = self._workers.pop(address, None)
        if worker is None:
            return
        now = time()
        self._sample(address, worker, now)
        suspect = self._suspects.get(address)
        reason = (
            suspect or self._closing.get(address) or ("retired" if expected else "connection-lost")
        )
        in_order = expected or address in self._closing
        expected = in_order and suspect is None
        if reason.startswith("signal-") and worker.processing:
            # It went in good order, but took work with it, and nobody of Dask had asked it to: a
            # batch system at its limit.
            expected = False
        tasks = set(worker.processing)
        if also is not None:
            tasks.add(also)
        board = read_slots(str(worker.server_id))
        if board is None and in_order:
            # Whoever leaves in good order tells what has begun, and takes the board along.
            board = ()
        began = {run_id for run_id, _ in board or ()}
        ordered = sorted(tasks, key=lambda task: (task.run_id not in began, _priority(task)))
        del ordered[MAX_ASSIGNED:]
        assigned = [(task_id(task.key), task.run_id) for task in ordered if task.run_id is not None]
        while sum(len(key) for key, _ in assigned) > _MAX_NAMES:
            del assigned[len(assigned) // 2 :]
        if recomputed is None:
            recomputed = sum(
                1 for task in worker.has_what if task.run_spec and len(task.who_has or ()) == 1
            )
        self._note(
            facts.WorkerGone(
                facts.WORKER_GONE,
                now,
                address,
                expected,
                reason,
                worker.nthreads,
                tuple(assigned),
                board,
                recomputed,
                _memory(worker),
                self._spilled.pop(address, 0),
                max(0.0, now - worker.last_seen) if worker.last_seen else None,
                self._silent.get(address),
            )
        )

    def _sample_all(self) -> None:
        try:
            now = time()
            for address, worker in self._workers.items():
                self._sample(address, worker, now)
            self._sample_scheduler(now)
            if not self._detached:
                self._sampler = self._loop.call_later(self.sample_interval, self._sample_all)
        except BaseException as error:
            self.guard.failed("sample", error)

    def _sample(self, address: str, worker: WorkerState, now: float) -> None:
        metrics = worker.metrics
        spilled: Any = metrics.get("spilled_bytes")
        if spilled:
            on_disk = spilled.get("disk", 0) if isinstance(spilled, Mapping) else spilled
            if on_disk > self._spilled.get(address, 0):
                self._spilled[address] = int(on_disk)
        self._note(
            facts.Sample(
                facts.SAMPLE,
                now,
                address,
                float(metrics.get("cpu") or 0.0) / 100.0,
                _memory(worker),
                worker.memory_limit or 0,
                worker.nbytes,
                int((metrics.get("spilled_bytes") or {}).get("disk") or 0),
                dask_compat.loop_lag(float(metrics.get("event_loop_interval") or 0.0)),
                worker.status.name,
                int(metrics.get(SENT_METRIC) or 0),
            )
        )

    def _sample_scheduler(self, now: float) -> None:
        scheduler = self._scheduler
        spilled = {"disk-write": 0, "disk-read": 0}
        for name, value in dask_compat.cumulative_worker_metrics(scheduler).items():
            # (…, "disk-write", "bytes"): written by whatever activity, of tasks of whatever name.
            if isinstance(name, tuple) and name[-1] == "bytes" and name[-2] in spilled:
                spilled[name[-2]] += int(value)
        self._note(
            facts.SchedulerSample(
                facts.SCHEDULER_SAMPLE,
                now,
                dask_compat.loop_lag(dask_compat.observed_tick(scheduler)),
                spilled["disk-write"],
                spilled["disk-read"],
            )
        )

    # -- from the workers ---------------------------------------------------------------------

    def receive(self, fact: Fact | None) -> None:
        """A worker's own fact, brought by the hub; None is one that was too large."""
        if fact is None:
            self._dropped += 1
        elif isinstance(fact, facts.AttemptError):
            self._keep_error(fact)
        elif isinstance(fact, _FROM_WORKERS):
            # Its texts came over the wire: nothing else holds them.
            self._note(fact)

    def _keep_error(self, fact: facts.AttemptError) -> None:
        """Until its attempt ends; the oldest go first where there is no room."""
        size = facts.size_of(fact)
        before = self._errors.pop((fact.key, fact.run_id), None)
        if before is not None:
            self._error_bytes -= facts.size_of(before)
        while self._errors and self._error_bytes + size > PENDING_ERRORS_LIMIT:
            oldest = self._errors.pop(next(iter(self._errors)))
            self._error_bytes -= facts.size_of(oldest)
            self._dropped += 1
        self._errors[fact.key, fact.run_id] = fact
        self._error_bytes += size


def plugin_name(run: str) -> str:
    """Name under which the plugin of a run is registered."""
    return f"scalable-{run}"


_UP_TO_MAX: Final = range(MAX_DEPENDENCIES)
#: What workers and nannies may have noted besides errors.
_FROM_WORKERS: Final = (
    facts.Started
    | facts.WorkerHello
    | facts.RelayBatch
    | facts.WorkerExit
    | facts.WorkerEvent
    | facts.UserEvent
)


def _size(fact: Any) -> int:
    """Bytes that a fact takes in memory; of the frequent ones as the hooks reckon it."""
    return _size_of_all((fact,))[0]


def _size_of_all(pulled: Iterable[Any]) -> tuple[int, int]:
    """Bytes that facts take in memory, and more on the way: a carrier is sent with each task."""
    held = carriers = 0
    for fact in pulled:
        if fact.__class__ is str:
            held += _KEY_BYTES + len(fact)
            continue
        kind = fact[0]
        if kind == _SUCCEEDED:
            held += _FACT_BYTES + len(fact[2]) + len(fact[10])
            if fact[8]:
                held += _PHASE_BYTES * len(fact[8])
        elif kind == _SUBMITTED:
            held += _SMALL_FACT_BYTES + len(fact[2])
            if fact[5]:
                held += 56 * len(fact[5]) + sum(map(len, fact[5]))
            if fact[7]:
                carriers += len(fact[7])
        else:
            held += 64 + facts.size_of(fact)
    return held, carriers


def _function_name(function: Any) -> str | None:
    name = getattr(function, "__name__", None)
    if isinstance(name, str):
        return name
    inner = getattr(function, "func", None)  # functools.partial
    name = getattr(inner, "__name__", None)
    return name if isinstance(name, str) else None


def _scheduler_exception(exception: Any) -> tuple[str, str]:
    try:
        if isinstance(exception, bytes):
            value = loads(exception)
        elif hasattr(exception, "deserialize"):
            value = exception.deserialize()
        else:
            value = exception
        if isinstance(value, bytes):
            value = loads(value)
    except Exception:
        value = None
    if isinstance(value, BaseException):
        return type(value).__qualname__, printable(value)
    return "Exception", "the scheduler failed the task and gave no readable reason"


def _priority(task: TaskState) -> Any:
    return task.priority or ()


def _memory(worker: WorkerState) -> int:
    return int(worker.metrics.get("memory") or 0)


def _addresses(message: Mapping[str, Any]) -> list[str]:
    workers: Any = message.get("workers") or ()
    if isinstance(workers, Mapping):
        return [str(address) for address in cast("Mapping[Any, Any]", workers)]
    return [str(address) for address in workers]


def _annotated(task: TaskState, run: str) -> bool:
    annotations = task.annotations
    carrier = annotations.get(ANNOTATION) if annotations else None
    return carried(carrier).get("run") == run


def _registered_at(scheduler: Scheduler, address: str) -> float:
    with contextlib.suppress(Exception):
        for when, event in scheduler.get_events(address):
            if isinstance(event, dict) and event.get("action") == "add-worker":
                return float(when)
    return time()
