"""Facts → signals: what each fact means for the life of a task or a worker.

No thread, no clock and no I/O of its own: the same facts give the same signals.
"""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind

from scalable import facts
from scalable.causes import Case, classify
from scalable.common.guard import Guard, printable
from scalable.facts.identity import attempt_span_id, carried
from scalable.facts.protocol import PLACEMENT
from scalable.telemetry import semconv
from scalable.telemetry.deaths import Certificate, Deaths, Presence, WorkerLogs, presences
from scalable.telemetry.instruments import UsagePoint, UserPoint
from scalable.telemetry.logs import EventFactory
from scalable.telemetry.spans import (
    SpanFactory,
    event,
    exception_event,
    link,
    nanoseconds,
    parent_of,
    span_context,
)
from scalable_runs.plain import iso_time
from scalable_runs.redact import Redactor
from scalable_runs.schema import FINAL_STATES, MAX_ERROR_MESSAGE, TASKS
from scalable_runs.summary import name_of_key

#: How long a cancelled task that was on a worker waits for word whether it had begun, in seconds.
CANCEL_WAIT: Final = 0.3
#: How long an attempt stays open whose worker was asked to go, in seconds: if the run ends
#: meanwhile, because its program does, the attempt was cancelled by that.
LEAVE_WAIT: Final = 5.0
#: How long a new worker waits for its own word of when it was launched, in seconds. Its lines wait
#: with it, so that a slow start on a busy machine is not taken for a worker without the package.
HELLO_WAIT: Final = 5.0
#: Workers whose lack of the package is told by name.
MAX_UNWATCHED: Final = 1_000
#: Usage is recorded for each attempt of at least this duration (seconds) …
USAGE_MIN_DURATION: Final = 0.05
#: … and for so many shorter ones of each task name.
USAGE_SHORT_ATTEMPTS: Final = 100
#: A phase is a span of its own if it took so many seconds …
PHASE_MIN_DURATION: Final = 0.005
#: … and this share of the attempt with all its phases.
PHASE_MIN_SHARE: Final = 0.05
#: Tasks named in one failure record.
MAX_TASKS_NAMED: Final = 100
#: Links of one span.
MAX_LINKS: Final = 32
#: Events of a worker's span.
MAX_WORKER_EVENTS: Final = 100
#: Parsed trace contexts kept.
_MAX_PARENTS: Final = 4096
#: What tasks asked for, kept for those that ask for the same.
_MAX_PLACEMENTS: Final = 1024

_NOTHING: Final[Mapping[str, Any]] = {}

# What every task needs, looked up once: a name within a module takes two look-ups each time.
_RECORD: Final = semconv.RECORD
_TASK_KEY: Final = semconv.TASK_KEY
_TASK_NAME: Final = semconv.TASK_NAME
_TASK_STATE: Final = semconv.TASK_STATE
_TASK_ATTEMPT: Final = semconv.TASK_ATTEMPT
_TASK_RESULT: Final = semconv.TASK_RESULT
_TASK_DURATION: Final = semconv.TASK_DURATION
_TASK_QUEUED: Final = semconv.TASK_QUEUED
_TASK_CPU: Final = semconv.TASK_CPU
_TASK_NBYTES: Final = semconv.TASK_NBYTES
_TASK_RESULT_TYPE: Final = semconv.TASK_RESULT_TYPE
_WORKER_ADDRESS: Final = semconv.WORKER_ADDRESS
_WORKER_NAME: Final = semconv.WORKER_NAME
_EVENT_TASK: Final = semconv.EVENT_TASK
_CONSUMER: Final = SpanKind.CONSUMER


ExceptionSignal: TypeAlias = Literal["spans", "logs", "both"]


class Signals(NamedTuple):
    """One batch of signals whose lines may be written logs first, then spans."""

    logs: list[ReadableLogRecord]
    spans: list[ReadableSpan]


class Unknown(NamedTuple):
    """Tasks of a run that has ended whose own end nobody knows."""

    #: Keys of those that were running.
    running: tuple[str, ...]
    #: How many had not begun, or waited to run again.
    waiting: int

    def __bool__(self) -> bool:
        return bool(self.running or self.waiting)


class _Task:
    """One task as long as the scheduler knows it."""

    # Of the class until they change: a task that only succeeds sets few of them.
    #: What stands for its key in the record, where the key holds a secret.
    hidden: str | None = None
    #: Whose results it takes, where links are wanted.
    dependencies: tuple[str, ...] = ()
    #: What its lines say besides what all tasks' do: `function`, `placement`, `reopens` or
    #: `recomputed` is set.
    special = False
    #: Name of its function, where that is not the task's.
    function: str | None = None
    #: What it asked for, as attributes; None where it asked for nothing.
    placement: dict[str, Any] | None = None
    #: Attempts that began so far.
    attempt = 0
    #: Dask's number of the last attempt that began.
    run_id = -1
    #: Span of that attempt.
    ids: SpanContext | None = None
    running = False
    start = 0.0
    worker = ""
    #: Final state, while that is what the task is in.
    final: str | None = None
    #: The final state that no longer holds; said on the first line after it.
    reopens: str | None = None
    #: It had succeeded, and its result was lost.
    recomputed = False
    #: It left its worker for a reason that the next fact will tell.
    cancelled_by: facts.Unassigned | None = None
    #: Its attempt ended as its worker went, which was asked to go.
    left: facts.Unassigned | None = None
    #: Its last attempt that was taken back before anybody knew whether it had begun.
    taken_back: facts.Unassigned | None = None

    def __init__(self, key: str, name: str, parent: SpanContext | None) -> None:
        self.key = key
        self.name = name
        #: The span under which attempts hang; None: the run's root.
        self.parent = parent

    def reopen(self) -> None:
        """Let its final state hold no longer."""
        self.special = True
        self.reopens = self.final
        self.recomputed = self.final == "succeeded"
        self.final = None


class _Worker:
    """One worker of the cluster."""

    __slots__ = (
        "announced",
        "component",
        "deadline",
        "events",
        "memory",
        "name",
        "ready",
        "sample",
        "since",
    )

    def __init__(self, ready: facts.WorkerReady, deadline: float, component: str | None) -> None:
        #: The one component that it serves.
        self.component = component
        self.ready = ready
        self.name = ready.name
        self.deadline = deadline
        self.announced = False
        self.memory = 0
        #: When it was launched.
        self.since = ready.time
        self.sample: facts.Sample | None = None
        #: What happened to it, for its span.
        self.events: list[Event] = []


class _PendingCancellation(NamedTuple):
    task: _Task
    run_id: int
    time: float
    deadline: float


class Ledger:
    """Keeps the books of one run; fed and asked by the recorder's thread only.

    Parameters
    ----------
    run : str
        Id of the run.
    root : SpanContext
        Trace and span id of the run's root span.
    resource, scope
        Of every signal.
    provider : str
        Kind of cluster.
    redact : Redactor
        Passed every text of a fact before anything else sees it. Keys that hold a secret are told
        by what :meth:`~scalable_runs.redact.Redactor.identity` makes of them.
    guard : Guard
        Counts facts that could not be made sense of.
    follow : bool
        Spans go to a backend: note what only that needs (links, parents, tasks of each trace).
    running_after : float
        An attempt that runs for so many seconds is shown before it ends; 0 shows none.
    exceptions : {"spans", "logs", "both"}
        Where a backend is to find exceptions (``OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN``).
    logs : WorkerLogs, optional
        Brings the workers' logs into the run.
    components : mapping, optional
        What each component asks for: ``cpus``, ``memory``, ``walltime``.
    on_death : callable, optional
        Told each death once its certificate is made.
    """

    def __init__(
        self,
        run: str,
        root: SpanContext,
        resource: Resource,
        scope: InstrumentationScope,
        *,
        provider: str,
        redact: Redactor,
        guard: Guard,
        follow: bool = False,
        running_after: float = 0.0,
        exceptions: ExceptionSignal = "spans",
        logs: WorkerLogs | None = None,
        components: Mapping[str, Mapping[str, Any]] | None = None,
        on_death: Callable[[Certificate], None] | None = None,
    ) -> None:
        self._deaths = Deaths(redact, logs)
        self._on_death = on_death
        #: Workers that are lost and wait for their certificate.
        self._dying: dict[str, _Worker] = {}
        self._run = run
        self._root = root
        self._follow = follow
        self._running_after = running_after if follow else 0.0
        self._span_exceptions = exceptions != "logs"
        #: Attempts that were announced as running, in the order of their start.
        self._announced: deque[tuple[float, _Task, int]] = deque()
        self._running: list[ReadableSpan] = []
        self._submitted_in: dict[int, int] = {}
        self._new_parents: list[SpanContext] = []
        self._provider = provider
        self._redact = redact
        self._guard = guard
        self._spans = SpanFactory(resource, scope)
        self._events = EventFactory(resource, scope)
        self._tasks: dict[str, _Task] = {}
        self._workers: dict[str, _Worker] = {}
        #: Name of the worker that went last, while there is none; None while there is one, or
        #: where there never was.
        self.last_worker: str | None = None
        self._names: dict[str, str] = {}
        self._pending_cancellations: dict[str, _PendingCancellation] = {}
        self._unannounced: set[str] = set()
        #: Workers that were asked to go, and what ran there, until when it waits.
        self._asked_to_go: set[str] = set()
        self._leaving: deque[tuple[float, _Task, facts.Unassigned]] = deque()
        #: By carrier.
        self._parents: dict[str | None, SpanContext | None] = {}
        #: What the last task came with, and what that says.
        self._carrier: str | None = None
        self._carried: tuple[SpanContext | None, dict[str, Any] | None] = (None, None)
        self._short: dict[str, int] = {}
        self._errors: dict[str, tuple[str, str]] = {}
        self._batches: list[Signals] = []
        self._logs: list[ReadableLogRecord] = []
        self._ended: list[ReadableSpan] = []
        #: Tasks with a span in the present batch: their next event begins a new one.
        self._ended_keys: set[str] = set()
        self._points: list[UsagePoint] = []
        self._user_points: list[UserPoint] = []
        self._components = components or {}
        self._placements: dict[str, dict[str, Any]] = {}
        self._now = 0.0
        #: Usage records of short attempts that were not written.
        self.usage_left_out = 0
        #: Seconds of execution thrown away, by task name and reason.
        self.wasted: defaultdict[tuple[str, str], float] = defaultdict(float)
        #: The scheduler as last sampled.
        self.scheduler: facts.SchedulerSample | None = None
        #: Set when something happened that must be on disk at once.
        self.urgent = False
        #: Span of each attempt that runs and was begun by a recorder that died.
        self._unmatched: dict[str, int] = {}
        self._launched: dict[str, float] = {}
        #: The scheduler closed in good order: no open task of its will end otherwise.
        self.scheduler_closed = False
        #: Names of workers on which the package could not be used, and why.
        self.unwatched: dict[str, str] = {}
        self._handlers: dict[int, Callable[[Any], None]] = {
            facts.SUBMITTED: self._submitted,
            facts.STARTED: self._started,
            facts.SUCCEEDED: self._succeeded,
            facts.FAILED: self._failed,
            facts.BLAMED: self._blamed,
            facts.UNASSIGNED: self._unassigned,
            facts.WAITING: self._waiting,
            facts.FORGOTTEN: self._forgotten,
            facts.WORKER_READY: self._worker_ready,
            facts.WORKER_HELLO: self._worker_hello,
            facts.WORKER_GONE: self._worker_gone,
            facts.SAMPLE: self._sample,
            facts.SCHEDULER_SAMPLE: self._scheduler_sample,
            facts.RESTARTED: self._restarted,
            facts.SCHEDULER_CLOSED: self._scheduler_closed,
            facts.WORKER_EXIT: self._worker_exit,
            facts.WORKER_EVENT: self._about_worker,
            facts.USER_EVENT: self._user_event,
        }

    def on(self, kind: int, handler: Callable[[Any], None]) -> None:
        """Let somebody else have the facts of a kind that are no part of these books."""
        self._handlers[kind] = handler

    # -- in and out ---------------------------------------------------------------------------

    def take(self, batch: Iterable[facts.Fact], now: float) -> None:
        """Enter facts, in order, and decide what they leave open; `now` is the scheduler's clock.

        Who has more facts of the same time :meth:`enters <enter>` all of them first.
        """
        self.enter(batch, now)
        self.tick(now)

    def enter(self, batch: Iterable[facts.Fact], now: float) -> None:
        """Enter facts, in order; what waits for further word goes on waiting."""
        self._now = now
        handlers = self._handlers
        for fact in batch:
            try:
                if isinstance(fact, str):
                    self._forget(fact, now)
                    continue
                if self._unmatched:
                    self._match(fact)
                handler = handlers.get(fact[0])
                if handler is not None:
                    handler(fact)
            except BaseException as error:
                self._guard.failed("ledger", error)

    def tick(self, now: float) -> None:
        """Decide what has waited long enough for further word."""
        self._now = max(self._now, now)
        if self._pending_cancellations:
            for key in [
                key
                for key, pending in self._pending_cancellations.items()
                if pending.deadline <= now
            ]:
                self._settle_cancellation(key)
        if self._announced:
            self._show_running()
        while self._leaving and self._leaving[0][0] <= now:
            _, task, left = self._leaving.popleft()
            if task.left is left:
                self._settle_left(task)
        if self._deaths.pending:
            self._settle_deaths(now)
        if self._unannounced:
            for address in list(self._unannounced):
                worker = self._workers[address]
                if worker.deadline <= now:
                    self._note_unwatched(worker, "it sends nothing of its own")

    def signals(self) -> list[Signals]:
        """Signals since the last call, in batches to be written one after the other."""
        self._break()
        batches, self._batches = self._batches, []
        return batches

    def running(self) -> list[ReadableSpan]:
        """Spans that stand for attempts that have run for a while, since the last call."""
        running, self._running = self._running, []
        return running

    def parents(self) -> list[SpanContext]:
        """Spans under which tasks were submitted for the first time since the last call."""
        parents, self._new_parents = self._new_parents, []
        return parents

    def submitted(self) -> dict[int, int]:
        """Tasks submitted since the last call, by trace."""
        submitted, self._submitted_in = self._submitted_in, {}
        return submitted

    def points(self) -> list[UsagePoint]:
        """Usage of workers since the last call."""
        points, self._points = self._points, []
        return points

    def user_points(self) -> list[UserPoint]:
        """Numbers that the user's code recorded since the last call."""
        points, self._user_points = self._user_points, []
        return points

    @property
    def unsettled(self) -> bool:
        """Something waits for further word."""
        return bool(self._pending_cancellations)

    @property
    def deaths_pending(self) -> bool:
        """A lost worker waits for its nanny's word: its lines are not written yet."""
        return self._deaths.pending

    @property
    def unfinished_count(self) -> int:
        """Tasks without a final state."""
        return sum(task.final is None for task in self._tasks.values())

    @property
    def unfinished(self) -> bool:
        """A task has no final state yet."""
        return any(task.final is None for task in self._tasks.values())

    def close(self, now: float, *, complete: bool = True) -> Unknown:
        """The run ends: what nobody will wait for any more is cancelled.

        Parameters
        ----------
        now : float
            Time of the end.
        complete : bool
            False if facts were dropped or not fetched, or if the scheduler is gone: the end of an
            open task is unknown then, and none is written.

        Returns
        -------
        Unknown
            The tasks whose end is unknown.
        """
        for key in list(self._pending_cancellations):
            self._settle_cancellation(key)
        for address in list(self._unannounced):
            worker = self._workers[address]
            self._announce_worker(worker, worker.ready.time)
        self._settle_deaths(now, all_of_them=True)
        self._deaths.close()
        open_tasks = [
            task
            for task in self._tasks.values()
            # One whose lost result nobody began to make again stays succeeded.
            if task.final is None and not (task.recomputed and task.reopens is not None)
        ]
        if complete:
            for task in open_tasks:
                self._cancel(task, now)
            open_tasks.clear()
        self._tasks.clear()
        for worker in self._workers.values():
            self._worker_span(worker, now)
        running = [task.hidden or task.key for task in open_tasks if task.running]
        return Unknown(tuple(running), len(open_tasks) - len(running))

    def keep_logs(self) -> None:
        """Keep the logs of the workers that live on."""
        self._deaths.close()

    def scheduler_lost(self, error: str, unknown: Unknown, now: float) -> None:
        """The scheduler went away and had not said that it would close."""
        self._failure(
            now,
            self._root,
            {
                semconv.EXCEPTION_TYPE: "SchedulerLost",
                semconv.EXCEPTION_MESSAGE: self._redact(
                    f"the scheduler went away ({error}): {len(unknown.running):,} tasks were "
                    f"running and {unknown.waiting:,} had not begun, as far as it had told; "
                    "their end is unknown"
                ),
                semconv.PHASE: "scheduler_lost",
                semconv.WORKER_TASKS: unknown.running[:MAX_TASKS_NAMED],
                semconv.WORKER_TASKS_RUNNING: len(unknown.running),
                semconv.TASKS_WAITING: unknown.waiting,
            },
        )

    # -- going on after another recorder --------------------------------------------------------

    def restore(self, records: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
        """Take up the state that the lines of a recorder which died tell; makes no signal."""
        for file, record in records:
            try:
                if file == TASKS:
                    self._restore_task(record)
                else:
                    self._restore_worker(record)
            except (KeyError, TypeError, ValueError) as error:
                self._guard.failed("restore", error)

    def _restore_task(self, record: Mapping[str, Any]) -> None:
        key, state = record["task_id"], record["state"]
        if state == "submitted":
            task = self._tasks[key] = _Task(key, record["task_name"], None)
            task.function = record.get("function_name")
            asked = [record.get(name) for name in ("component", "tag", "requested_workers")]
            task.placement = self._placement(json.dumps(asked)) if any(asked) else None
            task.special = task.function is not None or task.placement is not None
            return
        task = self._tasks.get(key) or self._unknown(key)
        task.attempt = record["attempt"]
        if record.get("recomputed"):
            task.special = task.recomputed = True
        if state == "running":
            task.running = True
            task.start = _seconds(record["timestamp"])
            task.worker = record.get("worker", "")
            trace_id, span_id = int(record["trace_id"], 16), int(record["span_id"], 16)
            task.ids = SpanContext(trace_id, span_id, False, self._root[3])
            self._unmatched[key] = span_id
            return
        task.running = False
        self._unmatched.pop(key, None)
        if state in FINAL_STATES:
            task.final = state
            if state == "failed" and "error_type" in record:
                self._errors[key] = (record["error_type"], record.get("error_message", ""))

    def _restore_worker(self, record: Mapping[str, Any]) -> None:
        time = _seconds(record["timestamp"])
        address, details = record["worker"], record["details"]
        if record["state"] == "launched":
            self._launched[address] = time
            return
        component = record.get("component")
        ready = facts.WorkerReady(
            facts.WORKER_READY,
            time,
            address,
            record["worker_id"],
            details["host"],
            details["pid"],
            details["nthreads"],
            details.get("memory_limit_bytes", 0),
            details.get("nanny"),
            () if component is None else (component,),
        )
        worker = self._workers[address] = self._new_worker(ready, 0.0)
        worker.announced = True
        worker.since = self._launched.pop(address, time)
        self._deaths.ready(ready)

    def _match(self, fact: Any) -> None:
        """Find Dask's number of an attempt that the recorder before had begun: its line has none.

        The span's id is made of it.
        """
        kind = fact[0]
        if kind in _OF_ATTEMPTS:
            pairs = ((fact[2], fact[3]),)
        elif kind == facts.WORKER_GONE:
            pairs = fact.assigned
        else:
            return
        for key, run_id in pairs:
            span_id = self._unmatched.get(key)
            if span_id is not None and span_id == attempt_span_id(self._run, key, run_id):
                self._tasks[key].run_id = run_id
                del self._unmatched[key]

    @property
    def is_settled(self) -> bool:
        """All that the facts until now say has become a signal."""
        return not (self._pending_cancellations or self._unannounced or self._deaths.pending)

    def run_failure(
        self, error_type: str, message: str, traceback: str, now: float, *, phase: str = "run"
    ) -> None:
        """The block that was recorded was left by an exception; or a session failed, by phase."""
        self._failure(
            now,
            self._root,
            {
                semconv.EXCEPTION_TYPE: self._redact.short(error_type),
                semconv.EXCEPTION_MESSAGE: self._redact(message),
                semconv.EXCEPTION_STACKTRACE: self._redact(traceback),
                semconv.PHASE: phase,
            },
        )

    def add_span(self, span: ReadableSpan) -> None:
        """A span that is no attempt: the root, a submission."""
        self._ended.append(span)

    # -- tasks: from submission to the first attempt -------------------------------------------

    def _submitted(self, fact: facts.Submitted) -> None:
        _, time, key, given, function, dependencies, dependency_count, carrier, known_before = fact
        if key in self._pending_cancellations:
            self._settle_cancellation(key)
        old = self._tasks.get(key)
        if old is not None and old.final is None:
            return
        name = self._names.get(given)
        if name is None:
            name = self._names[given] = self._redact.short(given)
        if carrier != self._carrier:  # the tasks of one submission have equal ones
            self._carrier = carrier
            self._carried = self._read(carrier)
        parent, placement = self._carried
        task = self._tasks[key] = _Task(key, name, parent)
        shown = self._redact.identity(key)
        if shown is not key:
            task.hidden = shown
        if self._follow:
            task.dependencies = dependencies[:MAX_LINKS]
            trace_id = (parent or self._root)[0]
            self._submitted_in[trace_id] = self._submitted_in.get(trace_id, 0) + 1
        if placement is not None:
            task.special = True
            task.placement = placement
        if function is not None and function != given:
            task.special = True
            task.function = self._redact.short(function)
        attributes = self._task_attributes(task, "submitted")
        if dependency_count:
            attributes[semconv.TASK_DEPENDENCIES] = tuple(map(self._shown, dependencies))
            attributes[semconv.TASK_DEPENDENCY_COUNT] = dependency_count
        if known_before:
            attributes[semconv.TASK_KNOWN_BEFORE] = True
        self._event(task, time, attributes, None)

    def _started(self, fact: facts.Started) -> None:
        task = self._tasks.get(fact.key)
        pending = self._pending_cancellations.get(fact.key)
        if pending is not None and pending.run_id == fact.run_id:
            self._begin(pending.task, fact.run_id, fact.worker, min(fact.time, pending.time))
            self._settle_cancellation(fact.key)
        elif task is not None and task.final is None and fact.run_id > task.run_id:
            self._begin(task, fact.run_id, fact.worker, fact.time)
            left = task.taken_back
            if left is not None and fact.run_id <= (left.run_id or -1):
                self._lose(task, max(left.time, fact.time))
            elif self._running_after:
                self._announced.append((fact.time, task, fact.run_id))

    def _begin(self, task: _Task, run_id: int, worker: str, start: float) -> None:
        """An attempt really started on a worker."""
        self._settle_left(task)
        task.attempt += 1
        task.run_id = run_id
        task.running = True
        task.start = start
        task.worker = worker
        parent = task.parent or self._root
        span_id = attempt_span_id(self._run, task.key, run_id)
        ids = task.ids = SpanContext(parent[0], span_id, False, parent[3])
        attributes = self._task_attributes(task, "running")
        attributes[_WORKER_ADDRESS] = worker
        self._event(task, start, attributes, ids)

    def _show_running(self) -> None:
        """Show what has run for a while: its span proper comes when it ends."""
        announced, horizon = self._announced, self._now - self._running_after
        while announced and announced[0][0] <= horizon:
            start, task, run_id = announced.popleft()
            ids = task.ids
            if not task.running or task.run_id != run_id or ids is None:
                continue
            parent = task.parent or self._root
            attributes = {
                _TASK_NAME: task.name,
                semconv.RUNNING_KEY: task.hidden or task.key,
                _TASK_ATTEMPT: task.attempt,
                _WORKER_ADDRESS: task.worker,
                semconv.RUNNING_SPAN: f"{ids[1]:016x}",
            }
            marker = span_context(ids[0], attempt_span_id(self._run, "running", ids[1]), ids[3])
            name = semconv.SPAN_RUNNING.format(name=task.name)
            self._running.append(
                self._spans.span(name, marker, parent, start, start, attributes, links=(link(ids),))
            )

    # -- tasks: the ends of attempts ------------------------------------------------------------

    def _succeeded(self, fact: facts.Succeeded) -> None:
        # A plain tuple: see `facts.decode`.
        _, time, key, run_id, worker, start, stop, ready, phases, nbytes, typename, cpu = fact
        task = self._tasks.get(key) or self._unknown(key)
        if run_id != task.run_id:
            if start == stop == time and task.reopens == "succeeded":
                # Nothing was computed: the worker had a copy that the scheduler knew nothing of.
                task.final, task.reopens, task.recomputed = "succeeded", None, False
                return
            self._begin(task, run_id, worker, start)
        elif not task.running:
            return
        attributes = self._task_attributes(task, "succeeded")
        attributes[_TASK_RESULT] = "success"
        self._measure(task, attributes, worker, start, stop, ready, phases, cpu)
        attributes[_TASK_NBYTES] = nbytes
        if typename:
            attributes[_TASK_RESULT_TYPE] = self._redact.short(typename)
        task.final = "succeeded"
        if task.recomputed:
            self.wasted[task.name, "recomputed"] += max(0.0, stop - start)
        # Of the two clocks that saw it begin, the one whose word stands on its `running` line.
        self._end(task, task.start, stop, attributes, phases)

    def _failed(self, fact: facts.Failed) -> None:
        task = self._tasks.get(fact.key) or self._unknown(fact.key)
        message, traceback = self._redact(fact.message), self._redact(fact.traceback)
        error_type = self._redact.short(fact.error_type)
        bases = tuple(map(self._redact.short, fact.bases))
        raised = fact.start is not None or bool(fact.traceback)
        if raised and fact.run_id is not None and fact.run_id != task.run_id:
            start = fact.time if fact.start is None else fact.start
            self._begin(task, fact.run_id, fact.worker, start)
        state = "retried" if fact.will_retry else "failed"
        self._settle_left(task)
        if task.final is not None:
            # An actor that was made, and lost with its worker.
            task.reopen()
            task.recomputed = False
        attributes = self._task_attributes(task, state)
        attributes[semconv.ERROR_TYPE] = error_type
        attributes[semconv.EXCEPTION_MESSAGE] = cut = _cut(message)
        attributes[semconv.TASK_RESULT] = "failure" if raised else "error"
        began = task.running
        if not fact.will_retry:
            task.final = "failed"
            self._errors[fact.key] = (error_type, cut)
        if began:
            start = task.start if fact.start is None else fact.start
            stop = fact.time if fact.stop is None else fact.stop
            if fact.will_retry:
                self.wasted[task.name, "retry"] += max(0.0, stop - start)
            if fact.start is not None and fact.stop is not None:
                self._measure(
                    task,
                    attributes,
                    fact.worker,
                    fact.start,
                    fact.stop,
                    fact.ready,
                    fact.phases,
                    fact.cpu,
                )
            else:
                attributes[semconv.WORKER_ADDRESS] = task.worker
            self._end(
                task,
                task.start,
                stop,
                attributes,
                fact.phases,
                error=error_type,
                traceback=traceback,
            )
        else:
            if fact.worker:
                attributes[semconv.WORKER_ADDRESS] = fact.worker
            self._event(task, fact.time, attributes, None, error=True)
        failure: dict[str, Any] = {
            semconv.EXCEPTION_TYPE: error_type,
            semconv.EXCEPTION_MESSAGE: message,
            semconv.TASK_KEY: task.hidden or task.key,
            semconv.FAILED_TASK: task.hidden or task.key,
            semconv.PHASE: "task_execution",
            semconv.TASK_ATTEMPT: task.attempt,
            semconv.TASK_WILL_RETRY: fact.will_retry,
        }
        if fact.worker:
            failure[semconv.WORKER_ADDRESS] = fact.worker
            failure[semconv.WORKER_NAME] = self._worker_name(fact.worker)
        if traceback:
            failure[semconv.EXCEPTION_STACKTRACE] = traceback
        if bases:
            failure[semconv.EXCEPTION_BASES] = bases
        if fact.errno is not None:
            failure[semconv.EXCEPTION_ERRNO] = fact.errno
        time, ids = fact.stop or fact.time, task.ids if began else None

        def told(deaths: Sequence[Presence]) -> None:
            if not deaths:
                verdict = classify(Case(error_type, message, traceback, bases, fact.errno))
                failure[semconv.CAUSE] = verdict.cause
                failure[semconv.CAUSE_CONFIDENCE] = verdict.confidence
            self._failure(time, ids, {**failure, **presences(deaths)})

        if raised or not fact.worker:
            told(())
        else:
            # It failed with its worker; how that died is known once the nannies have told.
            is_actor = error_type != "KilledWorker"
            self._deaths.victim(fact.key, fact.worker if is_actor else "", told)
            self._settle_deaths(self._now)

    def _blamed(self, fact: facts.Blamed) -> None:
        task = self._tasks.get(fact.key) or self._unknown(fact.key)
        if task.final is not None:
            return
        self._settle_left(task)
        attributes = self._task_attributes(task, "failed")
        attributes[semconv.TASK_BLAME] = self._shown(fact.cause)
        error = self._errors.get(fact.cause)
        if error is not None:
            attributes[semconv.ERROR_TYPE], attributes[semconv.EXCEPTION_MESSAGE] = error
        task.final = "failed"
        self._event(task, fact.time, attributes, None, error=True)

    def _unassigned(self, fact: facts.Unassigned) -> None:
        task = self._tasks.get(fact.key)
        if task is None or task.final is not None:
            return
        if fact.reason != "worker-lost":
            task.cancelled_by = fact
        elif task.running and task.run_id == fact.run_id:
            if fact.worker in self._asked_to_go:
                task.left = fact
                self._leaving.append((self._now + LEAVE_WAIT, task, fact))
            else:
                self._lose(task, fact.time)

    def _settle_left(self, task: _Task) -> None:
        """The run went on after the task's worker had left."""
        left, task.left = task.left, None
        if left is not None and task.final is None and task.running:
            self._lose(task, left.time)

    def _waiting(self, fact: facts.Waiting) -> None:
        task = self._tasks.get(fact.key)
        if task is None:
            return
        if task.final is not None:
            task.reopen()
            self._errors.pop(fact.key, None)
            return
        left = task.cancelled_by
        if left is None:
            return
        task.cancelled_by = None
        if task.running and task.run_id == left.run_id:
            if left.reason == "reschedule":
                attributes = self._task_attributes(task, "retried")
                attributes[semconv.TASK_RESULT] = "rescheduled"
                attributes[semconv.TASK_RESCHEDULED] = True
                self.wasted[task.name, "retry"] += max(0.0, left.time - task.start)
                attributes[semconv.WORKER_ADDRESS] = task.worker
                self._end(task, task.start, left.time, attributes)
            else:
                self._lose(task, left.time)
        else:
            task.taken_back = left

    def _lose(self, task: _Task, time: float) -> None:
        attributes = self._task_attributes(task, "lost")
        attributes[semconv.TASK_RESULT] = "error"
        attributes[semconv.ERROR_TYPE] = "WorkerLost"
        self.wasted[task.name, "worker-lost"] += max(0.0, time - task.start)
        attributes[semconv.WORKER_ADDRESS] = task.worker
        self._end(task, task.start, time, attributes, error="WorkerLost")

    def _forgotten(self, fact: facts.Forgotten) -> None:
        self._forget(fact.key, fact.time)

    def _forget(self, key: str, time: float) -> None:
        task = self._tasks.pop(key, None)
        if task is None:
            return
        final = task.final
        if final is not None:
            if final == "failed":
                self._errors.pop(key, None)
            else:
                self._deaths.forget(key)
            return
        left = task.cancelled_by
        if left is None or left.run_id is None or task.run_id == left.run_id:
            self._cancel(task, time if left is None else left.time)
        else:
            # It was on a worker: whether it had begun there, only the worker knows.
            deadline = self._now + CANCEL_WAIT
            self._pending_cancellations[key] = _PendingCancellation(
                task, left.run_id, left.time, deadline
            )

    def _settle_cancellation(self, key: str) -> None:
        pending = self._pending_cancellations.pop(key)
        self._cancel(pending.task, pending.time)

    def _cancel(self, task: _Task, time: float) -> None:
        """Nobody waits for the task any more."""
        if task.recomputed:
            self._stay_succeeded(task, time)
        else:
            self._write_cancelled(task, time)

    def _stay_succeeded(self, task: _Task, time: float) -> None:
        """Its result was lost after it was delivered, and was not made again."""
        if task.reopens is None:
            if task.running:
                self._write_cancelled(task, time)
                task.reopen()
            task.recomputed = False
            self._event(task, time, self._task_attributes(task, "succeeded"), None)
        task.final, task.reopens, task.recomputed = "succeeded", None, False

    def _write_cancelled(self, task: _Task, time: float) -> None:
        attributes = self._task_attributes(task, "cancelled")
        attributes[semconv.TASK_RESULT] = "cancellation"
        task.final = "cancelled"
        if task.left is not None:
            time = task.left.time
        if task.running:
            attributes[semconv.WORKER_ADDRESS] = task.worker
            self.wasted[task.name, "cancelled"] += max(0.0, time - task.start)
            self._end(task, task.start, time, attributes)
        else:
            self._event(task, time, attributes, None)

    def _scheduler_closed(self, fact: facts.SchedulerClosed) -> None:
        self.scheduler_closed = True

    def _restarted(self, fact: facts.Restarted) -> None:
        for task in self._tasks.values():
            if task.final is None:
                self._cancel(task, fact.time)
        self._tasks.clear()
        self._errors.clear()

    # -- workers --------------------------------------------------------------------------------

    def _worker_ready(self, fact: facts.WorkerReady) -> None:
        redact = self._redact
        fact = fact._replace(name=redact.identity(fact.name), host=redact.short(fact.host))
        self._workers[fact.address] = self._new_worker(fact, self._now + HELLO_WAIT)
        self.last_worker = None
        self._unannounced.add(fact.address)
        self._asked_to_go.discard(fact.address)
        self._deaths.ready(fact)

    def _new_worker(self, ready: facts.WorkerReady, deadline: float) -> _Worker:
        served = [name for name in ready.resources if name in self._components]
        return _Worker(ready, deadline, served[0] if len(served) == 1 else None)

    def _worker_hello(self, fact: facts.WorkerHello) -> None:
        worker = self._workers.get(fact.address)
        if worker is not None and not worker.announced:
            self._announce_worker(worker, min(fact.launched, worker.ready.time))

    def _announce_worker(self, worker: _Worker, launched: float) -> None:
        self._unannounced.discard(worker.ready.address)
        worker.announced = True
        worker.since = launched
        for state, time in (("launched", launched), ("ready", worker.ready.time)):
            self._worker_event(worker, state, time, {})

    def _worker_gone(self, fact: facts.WorkerGone) -> None:
        fact = fact._replace(reason=self._redact.short(fact.reason))
        running = self._begun_on(fact)
        worker = self._workers.pop(fact.address, None)
        if worker is None:
            return
        if not self._workers:
            self.last_worker = worker.ready.name
        if not worker.announced:
            self._announce_worker(worker, worker.ready.time)
        more: dict[str, Any] = {
            semconv.WORKER_REASON: fact.reason,
            semconv.WORKER_TASKS_RUNNING: len(running),
            semconv.WORKER_TASKS_RECOMPUTED: fact.tasks_recomputed,
        }
        if fact.memory:
            more[semconv.WORKER_MEMORY] = fact.memory
        if fact.spilled:
            more[semconv.WORKER_SPILLED] = fact.spilled
        if fact.expected:
            self._asked_to_go.add(fact.address)
            reason = more[semconv.WORKER_REASON] = self._deaths.why_removed(fact)
            self._worker_event(worker, "removed", fact.time, more)
            self._worker_span(worker, fact.time, reason, lost=False)
            self._deaths.removed(fact.address, worker.ready.host)
        else:
            self._dying[fact.address] = worker
            self._deaths.gone(fact, worker.ready, running, self._now)
            self._settle_deaths(self._now)

    def _worker_exit(self, fact: facts.WorkerExit) -> None:
        self._deaths.exited(fact)
        self._settle_deaths(self._now)

    def _about_worker(self, fact: facts.WorkerEvent) -> None:
        worker = self._workers.get(fact.address)
        fact = fact._replace(fields=self._redact.attributes(fact.fields))
        if fact.event == facts.UNWATCHED:
            if worker is not None:
                self._note_unwatched(worker, printable(fact.fields.get("reason"), limit=200))
            return
        self._deaths.event(fact, worker.name if worker is not None else fact.address)

    def _note_unwatched(self, worker: _Worker, reason: str) -> None:
        if len(self.unwatched) < MAX_UNWATCHED:
            self.unwatched[worker.name] = reason
        if not worker.announced:
            self._announce_worker(worker, worker.ready.time)

    def _settle_deaths(self, now: float, *, all_of_them: bool = False) -> None:
        for certificate in self._deaths.settle(now, all_of_them=all_of_them):
            self._certify(certificate)
        self._deaths.notify_victims()

    def _certify(self, certificate: Certificate) -> None:
        """One death: the worker's last line, a failure's record, and the span of its life."""
        gone, ready = certificate.death.gone, certificate.death.ready
        more = certificate.worker
        if gone.spilled:
            more = {**more, semconv.WORKER_SPILLED: gone.spilled}
        worker = self._dying.pop(gone.address, None) or self._new_worker(ready, 0.0)
        self._worker_event(worker, "lost", gone.time, more)
        simple = {
            name: value
            for name, value in certificate.failure.items()
            if isinstance(value, str | int | float)
        }
        reason = str(more[semconv.WORKER_REASON])
        ids = self._worker_span(worker, gone.time, reason, lost=True, more=simple)
        failure = {
            semconv.EXCEPTION_TYPE: "WorkerLost",
            semconv.EXCEPTION_MESSAGE: certificate.message,
            semconv.PHASE: "worker_lost",
            **certificate.failure,
        }
        self._failure(gone.time, ids, failure)
        if self._on_death is not None:
            try:
                self._on_death(certificate)
            except BaseException as error:
                self._guard.failed("on_death", error)

    def _begun_on(self, fact: facts.WorkerGone) -> tuple[str, ...]:
        """Find out which attempts had begun on a worker that is gone; returns their tasks.

        The worker's board says it exactly. Without one: attempts that run for a while were
        announced; of those assigned and not announced, the first in order fill the free threads.
        """
        address = fact.address
        running = {
            key
            for key, task in self._tasks.items()
            if task.running and task.final is None and task.worker == address
        }
        if fact.executing is not None:
            self._settle_cancelled(fact.executing, address)
            keys = {run_id: key for key, run_id in fact.assigned}
            begun = [
                (keys[run_id], run_id, start) for run_id, start in fact.executing if run_id in keys
            ]
        else:
            free = fact.nthreads - len(running)
            silent = [pair for pair in fact.assigned if pair[0] not in running]
            begun = [(key, run_id, fact.time) for key, run_id in silent[: max(0, free)]]
        for key, run_id, start in begun:
            task = self._tasks.get(key)
            if task is not None and task.final is None and run_id > task.run_id:
                self._begin(task, run_id, address, start)
                running.add(key)
        return tuple(sorted(running))

    def _settle_cancelled(self, executing: tuple[tuple[int, float], ...], address: str) -> None:
        """A task was cancelled, had begun all the same, and its worker died before it said so."""
        starts = dict(executing)
        for pending in list(self._pending_cancellations.values()):
            start = starts.get(pending.run_id)
            if start is not None:
                self._begin(pending.task, pending.run_id, address, min(start, pending.time))
                self._settle_cancellation(pending.task.key)

    def _sample(self, fact: facts.Sample) -> None:
        worker = self._workers.get(fact.address)
        if worker is None:
            return
        worker.memory = fact.memory
        self._note_changes(worker, fact)
        self._deaths.sample(fact.address, fact.time, fact.memory)
        attributes = {
            semconv.RECORD: "resource",
            semconv.ENTITY_TYPE: "worker",
            semconv.ENTITY_ID: worker.ready.name,
            semconv.WORKER_ADDRESS: fact.address,
            semconv.PROVIDER: self._provider,
        }
        if worker.component is not None:
            attributes[semconv.COMPONENT] = worker.component
        self._points.append(UsagePoint(attributes, fact))

    def _note_changes(self, worker: _Worker, sample: facts.Sample) -> None:
        """What a sample tells of pauses and of results that went to disk."""
        before, worker.sample = worker.sample, sample
        if before is None or len(worker.events) >= MAX_WORKER_EVENTS:
            return
        paused = (before.status == "paused", sample.status == "paused")
        if paused[0] != paused[1]:
            name = semconv.EVENT_WORKER_PAUSED if paused[1] else semconv.EVENT_WORKER_RESUMED
            worker.events.append(event(name, sample.time, {semconv.WORKER_MEMORY: sample.memory}))
        if sample.spilled > before.spilled:
            size = {semconv.SPILLED_SIZE: sample.spilled}
            worker.events.append(event(semconv.EVENT_WORKER_SPILLED, sample.time, size))

    def _worker_span(
        self,
        worker: _Worker,
        end: float,
        reason: str | None = None,
        *,
        lost: bool = False,
        more: Mapping[str, Any] = _NOTHING,
    ) -> SpanContext:
        """A worker's life as far as it fell into the run."""
        ready = worker.ready
        attributes: dict[str, Any] = {
            _WORKER_NAME: worker.name,
            _WORKER_ADDRESS: ready.address,
            semconv.WORKER_NTHREADS: ready.nthreads,
            semconv.HOST_NAME: ready.host,
            semconv.PROCESS_PID: ready.pid,
            semconv.PROVIDER: self._provider,
            **more,
        }
        if reason is not None:
            attributes[semconv.WORKER_REASON] = reason
        events = list(worker.events)
        if lost:
            attributes[semconv.ERROR_TYPE] = "WorkerLost"
            gone = event(semconv.EVENT_WORKER_LOST, end, {semconv.WORKER_REASON: reason or ""})
            events.append(gone)
        number = round(ready.time * 1e6)
        span_id = attempt_span_id(self._run, f"worker {ready.address}", number)
        ids = span_context(self._root[0], span_id, self._root[3])
        self._ended.append(
            self._spans.span(
                semconv.SPAN_WORKER.format(name=worker.name),
                ids,
                self._root,
                worker.since,
                end,
                attributes,
                error="WorkerLost" if lost else None,
                events=events,
            )
        )
        return ids

    def _scheduler_sample(self, fact: facts.SchedulerSample) -> None:
        self.scheduler = fact

    def _worker_event(self, worker: _Worker, state: str, time: float, more: dict[str, Any]) -> None:
        ready = worker.ready
        attributes: dict[str, Any] = {
            semconv.RECORD: "worker",
            semconv.WORKER_NAME: ready.name,
            semconv.WORKER_ADDRESS: ready.address,
            semconv.WORKER_STATE: state,
            semconv.PROVIDER: self._provider,
            semconv.HOST_NAME: ready.host,
            semconv.PROCESS_PID: ready.pid,
            semconv.WORKER_NTHREADS: ready.nthreads,
            semconv.WORKER_MEMORY_LIMIT: ready.memory_limit or None,
            semconv.WORKER_NANNY: ready.nanny,
            semconv.COMPONENT: worker.component,
            **more,
        }
        self._logs.append(
            self._events.event(
                semconv.EVENT_WORKER, time, attributes, self._root, error=state == "lost"
            )
        )
        self.urgent = self.urgent or state == "lost"

    # -- signals ----------------------------------------------------------------------------------

    def _task_attributes(self, task: _Task, state: str) -> dict[str, Any]:
        attributes: dict[str, Any] = {
            _RECORD: "task",
            _TASK_KEY: task.hidden or task.key,
            _TASK_NAME: task.name,
            _TASK_STATE: state,
            _TASK_ATTEMPT: task.attempt if state != "submitted" else 0,
        }
        if task.special:
            self._add_special(task, attributes)
        return attributes

    def _add_special(self, task: _Task, attributes: dict[str, Any]) -> None:
        if task.function is not None:
            attributes[semconv.FUNCTION_NAME] = task.function
        if task.placement is not None:
            attributes.update(task.placement)
        if task.reopens is not None:
            attributes[semconv.TASK_REOPENS] = task.reopens
            task.reopens = None
        if task.recomputed:
            attributes[semconv.TASK_RECOMPUTED] = True

    def _measure(
        self,
        task: _Task,
        attributes: dict[str, Any],
        address: str,
        start: float,
        stop: float,
        ready: float,
        phases: tuple[facts.Phase, ...],
        cpu: float | None,
    ) -> None:
        """Durations and usage of an attempt whose start and stop its worker measured."""
        duration = _microseconds(stop - start)
        attributes[_WORKER_ADDRESS] = address
        attributes[_TASK_DURATION] = duration
        if ready:
            attributes[_TASK_QUEUED] = _microseconds(start - ready)
        if phases:
            transfer = _covered((a, b) for action, a, b in phases if action == "transfer")
            if transfer:
                attributes[semconv.TASK_TRANSFER] = _microseconds(transfer)
        if cpu is not None:
            attributes[_TASK_CPU] = _microseconds(cpu)
        if duration < USAGE_MIN_DURATION:
            short = self._short.get(task.name, 0)
            if short >= USAGE_SHORT_ATTEMPTS:
                self.usage_left_out += 1
                return
            self._short[task.name] = short + 1
        attributes[semconv.RECORD] = ("task", "resource")
        if cpu is not None and duration > 0:
            attributes[semconv.OBSERVED_CPU] = round(cpu / duration, 4)
        worker = self._workers.get(address)
        if worker is not None and worker.memory:
            attributes[semconv.OBSERVED_MEMORY] = worker.memory / semconv.GIGABYTE
        attributes[semconv.PROVIDER] = self._provider

    def _end(
        self,
        task: _Task,
        start: float,
        stop: float,
        attributes: dict[str, Any],
        phases: tuple[facts.Phase, ...] = (),
        *,
        error: str | None = None,
        traceback: str = "",
    ) -> None:
        """The end of an attempt is a span."""
        worker = self._workers.get(task.worker)
        if worker is not None:
            attributes[_WORKER_NAME] = worker.name
        events = ()
        if error is not None:
            exception = {
                semconv.EXCEPTION_TYPE: error,
                semconv.EXCEPTION_MESSAGE: attributes.get(semconv.EXCEPTION_MESSAGE, ""),
            }
            if traceback:
                exception[semconv.EXCEPTION_STACKTRACE] = traceback
            events = (exception_event(stop, exception),) if self._span_exceptions else ()
            state = attributes[_TASK_STATE]
            if state == "retried":
                number = {_TASK_ATTEMPT: task.attempt}
                events = (*events, event(semconv.EVENT_TASK_RETRY, stop, number))
            elif state == "lost":
                address = {_WORKER_ADDRESS: task.worker}
                events = (*events, event(semconv.EVENT_WORKER_LOST, stop, address))
        key, root = task.key, self._root
        links: Sequence[Link] = ()
        if task.dependencies:
            links = self._links(task.dependencies)
        parts: Sequence[ReadableSpan] = ()
        if phases and task.ids is not None:
            parts = self._phases(task.ids, phases, start, stop)
            if parts:
                # The span has its phases within it; the duration is that of the task's code alone.
                start = min(start, *(begin for _, begin, _ in phases))
                attributes[semconv.SPAN_STARTED] = iso_time(nanoseconds(start))
        if key in self._ended_keys:
            self._break()
        self._ended_keys.add(key)
        self._ended.append(
            self._spans.span(
                task.name,
                task.ids or root,
                task.parent or root,
                start,
                stop,
                attributes,
                kind=_CONSUMER,
                error=error,
                events=events,
                links=links,
            )
        )
        self._ended += parts
        task.running = False

    def _links(self, dependencies: tuple[str, ...]) -> list[Link]:
        """To the attempts that made the results; of those that the scheduler still knows."""
        found: list[Link] = []
        for key in dependencies:
            maker = self._tasks.get(key)
            if maker is not None and maker.ids is not None and maker.final == "succeeded":
                found.append(link(maker.ids))
        return found

    def _phases(
        self, ids: SpanContext, all_phases: tuple[facts.Phase, ...], start: float, stop: float
    ) -> list[ReadableSpan]:
        """Spans of what took a noticeable share of an attempt besides its own code."""
        by_action: dict[str, list[tuple[float, float]]] = {}
        for action, begin, end in all_phases:
            by_action.setdefault(action, []).append((begin, end))
        whole = max(stop, start) - min(start, *(begin for _, begin, _ in all_phases))
        spans: list[ReadableSpan] = []
        for number, (action, intervals) in enumerate(by_action.items()):
            took = _covered(intervals)
            if took < PHASE_MIN_DURATION or took < PHASE_MIN_SHARE * whole:
                continue
            span_id = attempt_span_id(self._run, f"phase {action}", ids[1] + number)
            attributes = {
                semconv.PHASE_NAME: action,
                semconv.PHASE_DURATION: _microseconds(took),
                semconv.PHASE_COUNT: len(intervals),
            }
            spans.append(
                self._spans.span(
                    semconv.SPAN_PHASE.format(phase=action),
                    span_context(ids[0], span_id, ids[3]),
                    ids,
                    min(begin for begin, _ in intervals),
                    max(end for _, end in intervals),
                    attributes,
                )
            )
        return spans

    def _event(
        self,
        task: _Task,
        time: float,
        attributes: dict[str, Any],
        ids: SpanContext | None,
        *,
        error: bool = False,
    ) -> None:
        """What happens to a task at an instant is an event."""
        if task.key in self._ended_keys:
            self._break()
        self._logs.append(self._events.event(_EVENT_TASK, time, attributes, ids, error=error))

    def _failure(self, time: float, ids: SpanContext | None, attributes: dict[str, Any]) -> None:
        attributes[semconv.RECORD] = "failure"
        attributes[semconv.PROVIDER] = self._provider
        self._logs.append(
            self._events.event(
                semconv.EVENT_FAILURE, time, attributes, ids or self._root, error=True
            )
        )
        self.urgent = True

    def _break(self) -> None:
        """Logs and spans are written in two calls: an event after its task's span needs a third."""
        if self._logs or self._ended:
            self._batches.append(Signals(self._logs, self._ended))
            self._logs, self._ended = [], []
        self._ended_keys.clear()

    # -- events of the user's ---------------------------------------------------------------------

    def _user_event(self, fact: facts.UserEvent) -> None:
        """What the user's code asked to be recorded, as part of the attempt whose code it was."""
        names = semconv.USER_ATTRIBUTES.get(fact.event_type)
        fields = self._redact.attributes(
            {name: value for name, value in fact.fields.items() if value is not None}
        )
        attributes: dict[str, Any] = {}
        ids = self._root
        if fact.key is not None:
            task = self._tasks.get(fact.key)
            attributes[_TASK_KEY] = self._shown(fact.key)
            attributes[_TASK_NAME] = task.name if task is not None else self._name_of(fact.key)
            if task is not None and task.placement is not None:
                attributes.update(
                    (name, task.placement[name])
                    for name in (semconv.COMPONENT, semconv.TAG)
                    if name in task.placement
                )
            if fact.run_id is not None:
                parent = (task.parent if task is not None else None) or self._root
                ids = span_context(parent[0], attempt_span_id(self._run, fact.key, fact.run_id))
        if fact.event_type == "metric":
            self._user_points.append(
                UserPoint(
                    fact.time,
                    str(fields.pop("name", "")),
                    float(fields.pop("value", 0.0)),
                    str(fields.pop("unit", "")),
                    attributes | dict(fields.pop("attributes", None) or ()),
                )
            )
        elif names is not None:
            attributes[_RECORD] = fact.event_type
            for name, value in fields.items():
                if name in names:
                    attributes[names[name]] = value
            event = semconv.EVENT_USER[fact.event_type]
            self._logs.append(self._events.event(event, fact.time, attributes, ids))

    def _placement(self, asked: str) -> dict[str, Any]:
        """What a task asked for, as attributes; the tasks of one component share them."""
        placement = self._placements.get(asked)
        if placement is None:
            component, tag, workers = json.loads(asked)
            wants = self._components.get(component, {}) if isinstance(component, str) else {}
            said = {
                semconv.COMPONENT: component,
                semconv.TAG: tag,
                semconv.REQUESTED_WORKERS: workers,
                semconv.REQUESTED_CPUS: wants.get("cpus"),
                semconv.REQUESTED_MEMORY: wants.get("memory"),
                semconv.REQUESTED_WALLTIME: wants.get("walltime"),
            }
            placement = self._redact.attributes(
                {name: value for name, value in said.items() if value is not None}
            )
            if len(self._placements) < _MAX_PLACEMENTS:
                self._placements[asked] = placement
        return placement

    # -- helpers ----------------------------------------------------------------------------------

    def _read(self, carrier: str | None) -> tuple[SpanContext | None, dict[str, Any] | None]:
        """What a task came with: the span to hang under, what it asks for."""
        fields = carried(carrier)
        asked = fields.get(PLACEMENT)
        return (
            self._parent(carrier, fields) if fields.get("run") == self._run else None,
            self._placement(asked) if asked is not None else None,
        )

    def _parent(self, carrier: str | None, fields: Mapping[str, Any]) -> SpanContext | None:
        parent = self._parents.get(carrier)
        if parent is None and carrier not in self._parents:
            if len(self._parents) >= _MAX_PARENTS:
                del self._parents[next(iter(self._parents))]
            parent = self._parents[carrier] = parent_of(fields)
            if self._follow and parent is not None:
                self._new_parents.append(parent)
        return parent

    def _unknown(self, key: str) -> _Task:
        """A task whose submission was dropped: what follows is recorded all the same."""
        task = self._tasks[key] = _Task(key, self._name_of(key), None)
        shown = self._redact.identity(key)
        if shown is not key:
            task.hidden = shown
        return task

    def _name_of(self, key: str) -> str:
        return self._redact.short(name_of_key(key))

    def _shown(self, key: str) -> str:
        """What stands for a key in the record."""
        task = self._tasks.get(key)
        return self._redact.identity(key) if task is None else task.hidden or key

    def _worker_name(self, address: str) -> str:
        worker = self._workers.get(address) or self._dying.get(address)
        return worker.ready.name if worker is not None else address


def _cut(message: str) -> str:
    if len(message) <= MAX_ERROR_MESSAGE:
        return message
    return facts.shortened(message, MAX_ERROR_MESSAGE - 50)


def _seconds(timestamp: str) -> float:
    return datetime.fromisoformat(timestamp).timestamp()


#: Facts with a task's key and Dask's number of the attempt at the same places.
_OF_ATTEMPTS: Final = frozenset({facts.STARTED, facts.SUCCEEDED, facts.FAILED, facts.UNASSIGNED})


def _microseconds(seconds: float) -> float:
    """A duration to the microsecond, never negative; `round` would cost three times as much."""
    return int(seconds * 1e6 + 0.5) / 1e6 if seconds > 0.0 else 0.0


def _covered(intervals: Iterable[tuple[float, float]]) -> float:
    """Length of the union of time intervals: transfers from several workers overlap."""
    total = 0.0
    end = float("-inf")
    for start, stop in sorted(intervals):
        if stop > end:
            total += stop - max(start, end)
            end = stop
    return total
