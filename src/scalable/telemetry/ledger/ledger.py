"""The ledger: passes each fact to the part that handles it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import SpanContext

from scalable import facts
from scalable.common.guard import Guard
from scalable.facts.parameters import Level
from scalable.facts.texts import qualified
from scalable.telemetry import semconv
from scalable.telemetry.configuration.routes import ExceptionSignal
from scalable.telemetry.deaths.certificates import Certificate
from scalable.telemetry.deaths.deaths import Deaths
from scalable.telemetry.deaths.worker_logs import WorkerLogs
from scalable.telemetry.ledger.carriers import CarrierReader
from scalable.telemetry.ledger.environments import Environments, OwnDescription
from scalable.telemetry.ledger.restore import RestoredTasks
from scalable.telemetry.ledger.signals import SignalSink
from scalable.telemetry.ledger.tasks import TaskBook
from scalable.telemetry.ledger.user_events import record_user_event
from scalable.telemetry.ledger.workers import WorkerBook
from scalable_runs.redact import Redactor
from scalable_runs.schema import ENVIRONMENTS, TASKS

#: Tasks named in one failure record.
MAX_TASKS_NAMED: Final = 100
#: Seconds that the end of a run waits for what the program runs with.
ENVIRONMENT_WAIT: Final = 1.0


class UnknownEnds(NamedTuple):
    """Tasks without a known end, of a run that has ended."""

    #: Keys of those that were running.
    running: tuple[str, ...] = ()
    #: Number of those that had not started, or waited to run again.
    waiting: int = 0

    def __bool__(self) -> bool:
        return bool(self.running or self.waiting)


class Ledger:
    """Turns the facts of one run into signals; called by the recorder's thread only.

    `redact` is applied to every text of a fact before anything else sees it. With `sends_spans`,
    what only a backend needs is noted as well: links, parents, the number of tasks per trace.
    """

    def __init__(
        self,
        run: str,
        root: SpanContext,
        resource: Resource,
        *,
        provider: str,
        started: float = 0.0,
        redact: Redactor,
        guard: Guard,
        sends_spans: bool = False,
        running_after: float = 0.0,
        parameters: Level = "failed",
        exceptions: ExceptionSignal = "spans",
        logs: WorkerLogs | None = None,
        components: Mapping[str, Mapping[str, Any]] | None = None,
        on_death: Callable[[Certificate], None] | None = None,
        environment: OwnDescription | None = None,
    ) -> None:
        self._redact = redact
        self._guard = guard
        self._deaths = Deaths(redact, logs)
        self.sink = SignalSink(run, root, resource, provider)
        self.workers = WorkerBook(
            self.sink,
            self._deaths,
            started=started,
            redact=redact,
            guard=guard,
            components=components or {},
            on_death=on_death,
        )
        carriers = CarrierReader(run, components or {}, redact)
        self.tasks = TaskBook(
            self.sink,
            self.workers,
            self._deaths,
            redact=redact,
            carriers=carriers,
            sends_spans=sends_spans,
            running_after=running_after,
            exceptions=exceptions != "logs",
        )
        self.environments = Environments(self.sink, self.workers.name_of, redact, environment)
        self._restored = RestoredTasks(self.sink, self.tasks, carriers)
        #: The last sample.
        self.scheduler: facts.SchedulerSample | None = None
        #: The scheduler closed cleanly: its open tasks will not end any more.
        self.scheduler_closed = False
        tasks, workers = self.tasks, self.workers
        tasks.attempts.described.level = parameters
        self._handlers: dict[int, Callable[[Any, float], None]] = {
            facts.SUBMITTED: tasks.submitted,
            facts.STARTED: tasks.started,
            facts.SUCCEEDED: tasks.succeeded,
            facts.FAILED: self._failed if parameters == "off" else tasks.failed,
            facts.BLAMED: tasks.blamed,
            facts.UNASSIGNED: tasks.unassigned,
            facts.CHILDREN_EXPORTED: self._children_exported,
            facts.TASK_GRAPH: lambda fact, _: tasks.graphs.received(fact),
            facts.WAITING: tasks.waiting,
            facts.FORGOTTEN: lambda fact, now: tasks.forget(fact.key, fact.time, now),
            facts.RESTARTED: tasks.restarted,
            facts.WORKER_READY: workers.ready,
            facts.WORKER_HELLO: workers.hello,
            facts.WORKER_GONE: lambda fact, now: workers.gone(fact, tasks.begun_on(fact), now),
            facts.WORKER_EXIT: workers.exit,
            facts.WORKER_EVENT: self._worker_event,
            facts.SAMPLE: workers.sample,
            facts.SCHEDULER_SAMPLE: self._scheduler_sample,
            facts.SCHEDULER_CLOSED: self._scheduler_closed,
            facts.RELAY_PARAMETERS: lambda fact, _: tasks.attempts.described.take(fact),
            facts.RELAY_ATTEMPTS: lambda fact, _: tasks.attempts.written.take(fact),
            facts.USER_EVENT: lambda fact, _: self._user_event(fact, redact),
        }
        #: What takes events of certain types.
        self._takers: dict[str, Callable[[facts.UserEvent], None]] = {}

    def on(self, kind: int, handler: Callable[[Any], None]) -> None:
        """Pass facts of a kind that the ledger does not handle to another handler."""
        self._handlers[kind] = lambda fact, _: handler(fact)

    def on_event(self, event_type: str, taker: Callable[[facts.UserEvent], None]) -> None:
        """Pass user events of a type to `taker`: no record is made of them here."""
        self._takers[event_type] = taker

    def _user_event(self, fact: facts.UserEvent, redact: Redactor) -> None:
        taker = self._takers.get(fact.event_type)
        if taker is not None:
            taker(fact)
        else:
            record_user_event(fact, self.sink, self.tasks, redact)

    def take(self, batch: Iterable[facts.Fact], now: float) -> None:
        """Enter facts, in order, and settle what waits.

        A caller that has more facts of the same time :meth:`enters <enter>` all of them first.
        """
        self.enter(batch, now)
        self.tick(now)

    def enter(self, batch: Iterable[facts.Fact], now: float) -> None:
        """Enter facts, in order; what waits for further reports continues to wait."""
        handlers, forget, unmatched = self._handlers, self.tasks.forget, self._restored.unmatched
        for fact in batch:
            try:
                if isinstance(fact, str):
                    forget(fact, now, now)
                    continue
                if unmatched:
                    self._restored.match(fact)
                handler = handlers.get(fact[0])
                if handler is not None:
                    handler(fact, now)
            except BaseException as error:
                self._guard.failed("ledger", error)

    def tick(self, now: float) -> None:
        """Settle what has waited long enough for further reports."""
        self.tasks.tick(now)
        self.tasks.layers.tick(now)
        self.workers.tick(now)
        self.environments.tick(now)

    @property
    def deaths_pending(self) -> bool:
        """A lost worker waits for its nanny's report: its lines are not written yet."""
        return self._deaths.pending

    @property
    def is_settled(self) -> bool:
        """Whether all facts until now have become signals."""
        tasks = self.tasks
        waiting = tasks.pending_cancellations or tasks.attempts.written.kept or tasks.graphs.pending
        return self.workers.is_settled and self.environments.is_settled and not waiting

    def close(self, now: float, *, complete: bool = True) -> UnknownEnds:
        """The run ends: cancel the tasks that no client waits for any more.

        Parameters
        ----------
        now : float
            Time of the end.
        complete : bool
            False if facts were dropped or not fetched, or if the scheduler is gone: the end of an
            open task is unknown then, and none is written.

        Returns
        -------
        UnknownEnds
            The tasks whose end is unknown.
        """
        self.environments.tick(now, ENVIRONMENT_WAIT)
        self.tasks.settle_cancellations()
        self.workers.close(now)
        unknown = self.tasks.close(now, complete=complete)
        self.tasks.layers.close()
        self.workers.end_spans(now)
        running = tuple(task.shown for task in unknown if task.running)
        return UnknownEnds(running, len(unknown) - len(running))

    def keep_logs(self) -> None:
        """Keep the logs of workers that still run."""
        self._deaths.close()

    def restore(self, records: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
        """Take over the state from the lines of a recorder that died; makes no signal."""
        parts = {TASKS: self._restored, ENVIRONMENTS: self.environments}
        for file, record in records:
            try:
                parts.get(file, self.workers).restore(record)
            except (KeyError, TypeError, ValueError) as error:
                self._guard.failed("restore", error)

    def scheduler_lost(self, error: str, unknown: UnknownEnds, now: float) -> None:
        """The scheduler was lost, without having announced its close."""
        message = self._redact(
            f"the scheduler was lost ({error}): {len(unknown.running):,} tasks were running and "
            f"{unknown.waiting:,} had not started, as far as it had reported; their end is unknown"
        )
        attributes = {
            semconv.EXCEPTION_TYPE: "SchedulerLost",
            semconv.EXCEPTION_MESSAGE: message,
            semconv.PHASE: "scheduler_lost",
            semconv.WORKER_TASKS: unknown.running[:MAX_TASKS_NAMED],
            semconv.WORKER_TASKS_RUNNING: len(unknown.running),
            semconv.TASKS_WAITING: unknown.waiting,
        }
        self.sink.failure(now, attributes, None)

    def run_failure(
        self,
        error_type: str,
        message: str,
        traceback: str,
        module: str,
        now: float,
        *,
        phase: str = "run",
    ) -> None:
        """An exception left the recorded block, or a session failed in a phase."""
        attributes = {
            semconv.EXCEPTION_TYPE: self._redact.short(error_type),
            semconv.EXCEPTION_MESSAGE: self._redact(message),
            semconv.EXCEPTION_STACKTRACE: self._redact(traceback),
            semconv.PHASE: phase,
        }
        if module:
            attributes[semconv.ERROR_CLASS] = self._redact.short(qualified(module, error_type))
        self.sink.failure(now, attributes, None)

    def _children_exported(self, fact: facts.ChildrenExported, now: float) -> None:
        task = self.tasks.tasks.get(fact.key)
        if task is not None:
            ids = self.sink.ids(fact.key, fact.run_id, task.parent)
            self.tasks.attempts.exported(ids)

    def _worker_event(self, fact: facts.WorkerEvent, now: float) -> None:
        if fact.event == facts.ENVIRONMENT:
            self.environments.take(fact)
        else:
            self.workers.event(fact, now)

    def _failed(self, fact: facts.Failed, now: float) -> None:
        """A task of another client that wants its arguments recorded, other than this run."""
        self.tasks.failed(fact._replace(parameters=b""), now)

    def _scheduler_sample(self, fact: facts.SchedulerSample, now: float) -> None:
        self.scheduler = fact

    def _scheduler_closed(self, fact: facts.SchedulerClosed, now: float) -> None:
        self.scheduler_closed = True
