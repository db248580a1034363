"""The workers of a run: their lines, samples, spans and deaths."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from opentelemetry.sdk.trace import Event
from opentelemetry.trace import SpanContext

from scalable import facts
from scalable.common.guard import Guard
from scalable.facts.texts import printable
from scalable.telemetry import semconv
from scalable.telemetry.deaths.certificates import Certificate
from scalable.telemetry.deaths.deaths import Deaths
from scalable.telemetry.ledger.signals import SignalSink
from scalable.telemetry.signals.spans import event
from scalable.telemetry.signals.usage import UsagePoint
from scalable_runs.plain import seconds_of
from scalable_runs.redact import Redactor

#: Seconds that a new worker's lines wait for its own report on its launch. A slow start on a busy
#: machine must not be taken for a worker without the package.
HELLO_WAIT: Final = 5.0
#: Workers without the package that are named.
MAX_UNWATCHED: Final = 1_000
#: Events of a worker's span.
MAX_WORKER_EVENTS: Final = 100


class Worker:
    """One worker of the cluster."""

    __slots__ = ("component", "deadline", "events", "is_announced", "ready", "sample", "since")

    def __init__(self, ready: facts.WorkerReady, deadline: float, component: str | None) -> None:
        self.ready = ready
        #: Time when its lines are written without its own report.
        self.deadline = deadline
        #: The only component that it serves.
        self.component = component
        self.is_announced = False
        #: When it was launched.
        self.since = ready.time
        self.sample: facts.Sample | None = None
        #: Events of its span.
        self.events: list[Event] = []

    @property
    def name(self) -> str:
        """Its name in Dask."""
        return self.ready.name


class WorkerBook:
    """Follows the workers of one run; called by the recorder's thread only."""

    def __init__(
        self,
        sink: SignalSink,
        deaths: Deaths,
        *,
        started: float,
        redact: Redactor,
        guard: Guard,
        components: Mapping[str, Any],
        on_death: Callable[[Certificate], None] | None,
    ) -> None:
        self._sink = sink
        self._deaths = deaths
        #: When the run began.
        self._started = started
        self._redact = redact
        self._guard = guard
        self._components = components
        self._on_death = on_death
        self.alive: dict[str, Worker] = {}
        #: Lost workers that wait for their certificate.
        self._dying: dict[str, Worker] = {}
        #: Addresses whose lines are not written yet.
        self._unannounced: set[str] = set()
        #: Addresses of workers that were asked to close.
        self.asked_to_go: set[str] = set()
        #: Name of the worker that left last, while there is no other; else None.
        self.last_worker: str | None = None
        #: Names of workers that cannot use the package, with the reason.
        self.unwatched: dict[str, str] = {}
        #: Launch times of workers of which a resumed run has no `ready` line yet.
        self._launched: dict[str, float] = {}

    @property
    def is_settled(self) -> bool:
        """No worker waits for further reports."""
        return not (self._unannounced or self._deaths.pending)

    def name_of(self, address: str) -> str:
        """Name of a worker that runs or was lost just now; else its address."""
        worker = self.alive.get(address) or self._dying.get(address)
        return address if worker is None else worker.name

    def tick(self, now: float) -> None:
        """Settle what has waited long enough for further reports."""
        self.settle_deaths(now)
        for address in list(self._unannounced):
            worker = self.alive[address]
            if worker.deadline <= now:
                self._note_unwatched(worker, "it sends nothing of its own")

    def close(self, now: float) -> None:
        """The run ends: write what waits."""
        for address in list(self._unannounced):
            self._announce(self.alive[address])
        self.settle_deaths(now, all_of_them=True)
        self._deaths.close()

    def end_spans(self, now: float) -> None:
        """End the spans of the workers that outlive the run."""
        for worker in self.alive.values():
            self._end_span(worker, now)

    def restore(self, record: Mapping[str, Any]) -> None:
        """Take over a worker from a line of workers.jsonl; makes no signal."""
        time = seconds_of(record["timestamp"])
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
        worker = self.alive[address] = self._new(ready, 0.0)
        worker.is_announced = True
        worker.since = self._launched.pop(address, time)
        self._deaths.ready(ready)

    # -- handlers of facts --------------------------------------------------------------------

    def ready(self, fact: facts.WorkerReady, now: float) -> None:
        """A worker registered with the scheduler."""
        redact = self._redact
        fact = fact._replace(name=redact.identity(fact.name), host=redact.short(fact.host))
        self.alive[fact.address] = self._new(fact, now + HELLO_WAIT)
        self.last_worker = None
        self._unannounced.add(fact.address)
        self.asked_to_go.discard(fact.address)
        self._deaths.ready(fact)

    def hello(self, fact: facts.WorkerHello, now: float) -> None:
        """A worker reported when it was launched, and the name of its host."""
        worker = self.alive.get(fact.address)
        if worker is not None:
            if fact.host:
                # The scheduler knows the address of the host alone.
                worker.ready = worker.ready._replace(host=self._redact.short(fact.host))
            self._announce(worker, min(fact.launched, worker.ready.time))

    def gone(self, fact: facts.WorkerGone, running: tuple[str, ...], now: float) -> None:
        """A worker left while the tasks `running` ran on it."""
        fact = fact._replace(reason=self._redact.short(fact.reason))
        worker = self.alive.pop(fact.address, None)
        if worker is None:
            return
        if not self.alive:
            self.last_worker = worker.name
        self._announce(worker)
        if not fact.expected:
            self._dying[fact.address] = worker
            self._deaths.gone(fact, worker.ready, running, now)
            self.settle_deaths(now)
            return
        self.asked_to_go.add(fact.address)
        reason = self._deaths.why_removed(fact)
        attributes = {
            semconv.WORKER_REASON: reason,
            semconv.WORKER_TASKS_RUNNING: len(running),
            semconv.WORKER_TASKS_RECOMPUTED: fact.tasks_recomputed,
            semconv.WORKER_MEMORY: fact.memory or None,
            semconv.WORKER_SPILLED: fact.spilled or None,
        }
        self._event(worker, "removed", fact.time, attributes)
        self._end_span(worker, fact.time, {semconv.WORKER_REASON: reason})
        self._deaths.removed(fact.address, worker.ready.host)

    def exit(self, fact: facts.WorkerExit, now: float) -> None:
        """A nanny reported the end of its worker's process."""
        self._deaths.exited(fact)
        self.settle_deaths(now)

    def event(self, fact: facts.WorkerEvent, now: float) -> None:
        """A worker reported something about its process, or Dask about a worker."""
        worker = self.alive.get(fact.address)
        fact = fact._replace(fields=self._redact.attributes(fact.fields))
        if fact.event != facts.UNWATCHED:
            self._deaths.event(fact, self.name_of(fact.address))
        elif worker is not None:
            self._note_unwatched(worker, printable(fact.fields.get("reason"), limit=200))

    def sample(self, fact: facts.Sample, now: float) -> None:
        """The usage of a worker was measured."""
        worker = self.alive.get(fact.address)
        if worker is None:
            return
        self._note_changes(worker, fact)
        self._deaths.sample(fact.address, fact.time, fact.memory)
        attributes = {
            semconv.RECORD: "resource",
            semconv.ENTITY_TYPE: "worker",
            semconv.ENTITY_ID: worker.name,
            semconv.WORKER_ADDRESS: fact.address,
            semconv.PROVIDER: self._sink.provider,
        }
        if worker.component is not None:
            attributes[semconv.COMPONENT] = worker.component
        self._sink.output.points.append(UsagePoint(attributes, fact))

    # -- deaths ---------------------------------------------------------------------------------

    def settle_deaths(self, now: float, *, all_of_them: bool = False) -> None:
        """Write the deaths with enough reports, and what waited for them."""
        for certificate in self._deaths.settle(now, all_of_them=all_of_them):
            self._certify(certificate)
        self._deaths.notify_victims()

    def _certify(self, certificate: Certificate) -> None:
        gone, ready = certificate.death.gone, certificate.death.ready
        attributes = {**certificate.worker, semconv.WORKER_SPILLED: gone.spilled or None}
        worker = self._dying.pop(gone.address, None) or self._new(ready, 0.0)
        self._event(worker, "lost", gone.time, attributes)
        # An attribute of a span is neither a mapping nor a list of lists.
        simple = {
            name: value
            for name, value in certificate.failure.items()
            if isinstance(value, str | int | float)
        }
        reason = str(certificate.worker[semconv.WORKER_REASON])
        simple |= {semconv.WORKER_REASON: reason, semconv.ERROR_TYPE: "WorkerLost"}
        worker.events.append(
            event(semconv.EVENT_WORKER_LOST, gone.time, {semconv.WORKER_REASON: reason})
        )
        ids = self._end_span(worker, gone.time, simple, error="WorkerLost")
        failure = {
            semconv.EXCEPTION_TYPE: "WorkerLost",
            semconv.EXCEPTION_MESSAGE: certificate.message,
            semconv.PHASE: "worker_lost",
            **certificate.failure,
        }
        self._sink.failure(gone.time, failure, ids)
        if self._on_death is not None:
            try:
                self._on_death(certificate)
            except BaseException as error:
                self._guard.failed("on_death", error)

    # -- lines and spans ------------------------------------------------------------------------

    def _new(self, ready: facts.WorkerReady, deadline: float) -> Worker:
        served = [name for name in ready.resources if name in self._components]
        return Worker(ready, deadline, served[0] if len(served) == 1 else None)

    def _announce(self, worker: Worker, launched: float | None = None) -> None:
        """Write that a worker was launched and is ready, if not written yet."""
        self._unannounced.discard(worker.ready.address)
        if worker.is_announced:
            return
        worker.is_announced = True
        ready = worker.ready.time
        worker.since = ready if launched is None else launched
        self._event(worker, "launched", worker.since)
        self._event(worker, "ready", ready)

    def _note_unwatched(self, worker: Worker, reason: str) -> None:
        if len(self.unwatched) < MAX_UNWATCHED:
            self.unwatched[worker.name] = reason
        self._announce(worker)

    def _note_changes(self, worker: Worker, sample: facts.Sample) -> None:
        """Note in the worker's span when it paused and when it wrote results to disk."""
        before, worker.sample = worker.sample, sample
        if before is None or len(worker.events) >= MAX_WORKER_EVENTS:
            return
        is_paused = sample.status == "paused"
        if is_paused != (before.status == "paused"):
            name = semconv.EVENT_WORKER_PAUSED if is_paused else semconv.EVENT_WORKER_RESUMED
            worker.events.append(event(name, sample.time, {semconv.WORKER_MEMORY: sample.memory}))
        if sample.spilled > before.spilled:
            size = {semconv.WORKER_SPILLED: sample.spilled}
            worker.events.append(event(semconv.EVENT_WORKER_SPILLED, sample.time, size))

    def _attributes(self, worker: Worker) -> dict[str, Any]:
        ready = worker.ready
        return {
            semconv.WORKER_NAME: ready.name,
            semconv.WORKER_ADDRESS: ready.address,
            semconv.WORKER_NTHREADS: ready.nthreads,
            semconv.HOST_NAME: ready.host,
            semconv.PROCESS_PID: ready.pid,
            semconv.PROVIDER: self._sink.provider,
        }

    def _event(
        self, worker: Worker, state: str, time: float, more: Mapping[str, Any] | None = None
    ) -> None:
        attributes = {
            semconv.RECORD: "worker",
            semconv.WORKER_STATE: state,
            **self._attributes(worker),
            semconv.WORKER_MEMORY_LIMIT: worker.ready.memory_limit or None,
            semconv.WORKER_NANNY: worker.ready.nanny,
            semconv.COMPONENT: worker.component,
            **(more or {}),
        }
        is_lost = state == "lost"
        self._sink.event(semconv.EVENT_WORKER, time, attributes, error=is_lost)
        self._sink.urgent = self._sink.urgent or is_lost

    def _end_span(
        self,
        worker: Worker,
        end: float,
        more: Mapping[str, Any] | None = None,
        *,
        error: str | None = None,
    ) -> SpanContext:
        """Make the span of a worker's time within the run."""
        ready = worker.ready
        ids = self._sink.ids(f"worker {ready.address}", round(ready.time * 1e6))
        self._sink.add_span(
            self._sink.span(
                semconv.SPAN_WORKER.format(name=worker.name),
                ids,
                self._sink.root,
                max(worker.since, self._started),
                end,
                {**self._attributes(worker), **(more or {})},
                error=error,
                events=tuple(worker.events),
            )
        )
        return ids
