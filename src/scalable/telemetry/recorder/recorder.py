"""The consumer of facts: pulls them, turns them into signals, passes those to the exporters."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from time import monotonic, sleep, time
from typing import Any, Final

from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.metrics.export import MetricsData
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan

from scalable import facts
from scalable.common.guard import Guard
from scalable.common.options import RecorderOptions
from scalable.facts import FUNCTION, Batch, FactSource, UserEvent
from scalable.facts.protocol import FAILED_CALL
from scalable.facts.texts import ErrorTexts
from scalable.telemetry.configuration.routes import Routes, exception_signal
from scalable.telemetry.deaths.certificates import Certificate
from scalable.telemetry.deaths.deaths import NANNY_WAIT, OnDeath
from scalable.telemetry.deaths.worker_logs import WorkerLogs
from scalable.telemetry.ledger import Ledger
from scalable.telemetry.ledger.failed_calls import FailedCalls
from scalable.telemetry.ledger.functions import Functions
from scalable.telemetry.ledger.relay_decoder import RelayDecoder
from scalable.telemetry.ledger.task_output import TaskOutputs
from scalable.telemetry.ledger.tasks import CANCEL_WAIT
from scalable.telemetry.metrics.metric_router import Figures
from scalable.telemetry.recorder.copies import LEAVE_TIMEOUT, Copies
from scalable.telemetry.recorder.own_environment import OwnEnvironment
from scalable.telemetry.recorder.puller import Closing
from scalable.telemetry.recorder.recorder_loop import RecorderLoop
from scalable.telemetry.recorder.resume import Position, Resumed
from scalable.telemetry.recorder.router import SignalRouter
from scalable.telemetry.recorder.run_code import RunCode
from scalable.telemetry.recorder.run_health import RunHealth
from scalable.telemetry.recorder.run_roots import RunIdentity, RunRoots
from scalable.telemetry.recorder.submitted_work import SubmittedWork
from scalable.telemetry.signals.spans import SpanFactory, span_context
from scalable.telemetry.signals.usage import user_metrics
from scalable.telemetry.submissions.submission_spans import SubmissionSpans
from scalable.telemetry.submissions.submissions import SentGraphs
from scalable_runs.plain import iso
from scalable_runs.redact import Redactor
from scalable_runs.schema import Record, RunStatus
from scalable_runs.summary import RunSummary
from scalable_runs.writer import RunWriter

#: Facts recorded in one step: half a millisecond's work. An internal error loses these.
CHUNK: Final = 48
#: Seconds of sleep between two chunks, where the recorder is a thread beside others.
YIELD_SECONDS: Final = 50e-6
#: Shortest time for sending signals at close, in seconds.
MIN_SEND_TIMEOUT: Final = 0.5
#: Longest time for which :attr:`Recorder.position` waits for the ledger to settle, in seconds.
POSITION_WAIT: Final = 8.0
#: Wait at close for reports of attempts that have just begun, in seconds: a worker sends them
#: within one and a half times its `ANNOUNCE_AFTER`.
SETTLE: Final = 0.1


class Recorder(RecorderLoop):
    """Records one run, on its own daemon thread.

    It runs in a separate process (:mod:`scalable.telemetry.process.child`) or in the program's.
    The public methods are called by other threads; everything else happens on the recorder's.
    `yield_seconds` is 0 where no other thread needs the interpreter.
    """

    def __init__(
        self,
        identity: RunIdentity,
        writer: RunWriter,
        resource: Resource,
        submissions: SentGraphs,
        *,
        redact: Redactor,
        warn: Callable[[str], None],
        routes: Routes,
        options: RecorderOptions,
        copies: Copies | None = None,
        code: RunCode | None = None,
        environment: OwnEnvironment | None = None,
        yield_seconds: float = YIELD_SECONDS,
        clock: Callable[[], float] = time,
    ) -> None:
        super().__init__(f"scalable-recorder-{identity.run_id[-8:]}", warn, clock)
        #: The run's directory on this machine, if it has one, and where it is, for people.
        self.run_dir = writer.run_store.directory
        self.location = writer.run_store.location
        self.summary = RunSummary()
        self.identity = identity
        self._writer = writer
        self._resource = resource
        self._submissions = submissions
        self._yield_seconds = yield_seconds
        self._on_death: OnDeath | None = None
        self._redact = redact
        self._copies = copies or Copies(identity.run_id, warn)
        self._spans = SpanFactory(resource)
        self._code = code or RunCode((), writer, redact, with_patch=False)
        self._roots = RunRoots(identity, routes.sample, self._spans, redact, self._code.attributes)
        self._root = self._roots.own
        self._router = SignalRouter(
            writer,
            resource,
            self._on_records,
            root=self._root,
            run=identity.run_id,
            key=identity.key,
            routes=routes,
            options=options,
            warn=warn,
            clock=clock,
        )
        self._ledger = Ledger(
            identity.key,
            self._root,
            resource,
            provider=identity.provider,
            started=identity.started,
            redact=redact,
            guard=self.guard,
            logs=WorkerLogs(writer.store, redact),
            on_death=self._notify_death,
            sends_spans=self._router.sends_spans,
            running_after=options.running_after,
            parameters=options.parameters,
            exceptions=exception_signal(routes.environ),
            components=identity.components,
            environment=environment,
        )
        spans = SubmissionSpans(
            identity.run_id,
            identity.project,
            self._root,
            self._spans,
            redact,
            self._ledger.tasks.graph_sizes,
            self._ledger.tasks.graphs,
            self._router.submitted,
            self._router.send_spans if self._router.sends_spans else None,
            self._router.write_spans,
        )
        blocks, puller = self._ledger.tasks.blocks, self._puller
        self._work = SubmittedWork(submissions, spans, blocks, self._router, puller, clock)
        self._relay = _relay_of(self._ledger, writer, resource, redact, routes, options)
        failed_calls = FailedCalls(writer.store, identity.key, redact)
        self._ledger.on_event(FAILED_CALL, failed_calls.take)
        self._health = RunHealth(
            self.guard, self._puller, self._ledger, self._router, self._relay, self._copies, warn
        )
        self._telemetry: dict[str, Any] = {}
        #: Where a successor would begin if this recorder died now, and since when.
        self._position = Position(1, {}, 0)
        self._position_since = monotonic()
        self._messages = self._messages_taken = 0
        #: Number of the first fact that a predecessor which died did not get.
        self._first_new = 1
        self._facts_taken = 0
        self._lag = 0.0
        #: Facts of the client's own threads; a deque's operations are atomic.
        self._noted: deque[UserEvent] = deque()
        self._noted_bytes = 0
        self._failures: deque[tuple[str, ErrorTexts]] = deque()

    def start(self, source: FactSource | None, on_death: OnDeath | None = None) -> None:
        """Begin to record; there is no source if the scheduler cannot be watched."""
        self._puller.source, self._on_death = source, on_death
        if source is None:
            self.guard.errors["scheduler_not_watched"] = 1
        self._thread.start()

    def resume(self, resumed: Resumed) -> None:
        """Continue a run whose recorder died; called before :meth:`start`."""
        self.summary = resumed.summary
        self._ledger.restore(resumed.records)
        for trace_id, span_id in resumed.parents:
            # Layers of the one that died; submissions and blocks that the program sends again.
            ids = span_context(trace_id, span_id, self._root.trace_flags)
            self._ledger.sink.output.parents.append((ids, ()))
        self._ledger.tasks.attempts.usage_left_out = resumed.usage_left_out
        self._ledger.workers.unwatched.update(resumed.unwatched)
        self._puller.after, self._first_new = resumed.after, resumed.news
        self._health.restarts = resumed.restarts
        self._ledger.sink.user_metrics.restore(self._writer.field("user_defined_metrics"))
        self._work.resume(resumed.blocks)
        self._position = Position(resumed.after, self._writer.last_numbers(), 0)

    # -- for the application's threads ----------------------------------------------------------

    def progress(self) -> tuple[int, int, int]:
        """Tasks ended, known and failed so far."""
        return self.summary.progress()

    def note(self, fact: UserEvent) -> None:
        """Record an event of the client's own code; its time is the client's."""
        size = facts.size_of(fact)
        if self._noted_bytes + size > facts.MAX_NOTED:
            self.guard.errors["note:dropped"] += 1
            return
        self._noted_bytes += size
        self._noted.append(fact)

    def fail(
        self, phase: str, error_type: str, message: str, traceback: str, module: str = ""
    ) -> None:
        """Add a failure record that belongs to no task."""
        self._failures.append((phase, (error_type, message, traceback, module)))

    def count_message(self) -> None:
        """Count a message of the program; called by the thread that receives it."""
        self._messages += 1

    @property
    def position(self) -> Position:
        """How far everything is in the files; read by the recorder's thread, on a pull."""
        now = monotonic()
        if self._ledger.is_settled or now - self._position_since > POSITION_WAIT:
            numbers = self._writer.last_numbers()
            self._position = Position(self._puller.after, numbers, self._messages_taken)
            self._position_since = now
        return self._position

    # -- the thread -------------------------------------------------------------------------------

    def _open(self) -> None:
        self._router.open()
        if not self._health.restarts:
            started = self.identity.started
            self._router.announce(started, self._root_span("running", started, {}))

    def _deaths_pending(self) -> bool:
        return self._ledger.deaths_pending

    def _take(self, batch: Batch | None) -> None:
        # Read before they are taken: later messages belong to the next step.
        self._messages_taken = self._messages
        now = self._puller.now
        self._take_noted(now)
        self._work.open_blocks()
        if batch is not None:
            for start in range(0, len(batch.facts), CHUNK):
                if start:
                    self._yield()
                self._record(batch.facts[start : start + CHUNK], now)
            self._facts_taken += len(batch.facts)
            # A bare key has no time.
            times = map(facts.time_of, reversed(batch.facts))
            self._lag = max(0.0, now - next((time for time in times if time is not None), now))
        self._ledger.tick(now)
        self._work.note()
        self._emit()
        self._work.release()
        self._update_run()
        if self._puller.after >= self._first_new:
            self._writer.written.clear()

    def _record(self, chunk: Sequence[facts.Fact], now: float) -> None:
        """Record some facts; an internal error loses only these."""
        try:
            self._ledger.enter(chunk, now)
            self._emit_own()
        except BaseException as error:
            self.guard.failed("recorder", error)

    def _yield(self) -> None:
        """Sleep for an instant, so that another thread can run, unless a caller waits.

        In a scheduler's process that thread is its event loop, which would otherwise wait 5 ms for
        the interpreter each time it wakes up.
        """
        if self._yield_seconds and self._closing is None and self._flush_done >= self._flush_asked:
            sleep(self._yield_seconds)

    def _take_noted(self, now: float) -> None:
        if self._noted:
            self._noted_bytes, ahead = 0, self._puller.offset
            noted = [self._noted.popleft() for _ in range(len(self._noted))]
            self._ledger.take([fact._replace(time=fact.time + ahead) for fact in noted], now)

    def _emit(self) -> None:
        """Export all signals, and pass what is for the directory to the kernel."""
        self._emit_own()
        self._collect()
        sink = self._ledger.sink
        if sink.user_points:
            user_points, sink.user_points = sink.user_points, []
            self._router.foreign_metrics(user_metrics(user_points, self._resource))
        self._writer.flush()
        if sink.urgent:
            sink.urgent = False
            self._writer.request_sync()

    def _emit_own(self) -> None:
        # Spans of user code come before the end of their attempt, with which they are sent. An
        # error in them must not affect the run's own signals.
        relayed_logs: Sequence[ReadableLogRecord] = ()
        relayed_metrics: Sequence[MetricsData] = ()
        with self.guard.watch("relay"):
            relayed = self._relay.drain()
            relayed_logs, relayed_metrics = relayed.logs, relayed.metrics
            self._router.foreign_spans(relayed.spans)
        self._router.export(self._ledger.sink.drain(), self._submissions.opened())
        with self.guard.watch("relay"):
            # It is known now what was submitted, and so whether their spans have room.
            self._router.foreign_logs(relayed_logs)
        with self.guard.watch("relay"):
            for data in relayed_metrics:
                self._router.foreign_metrics(data)

    def _collect(self, last_until: float | None = None) -> None:
        figures = Figures(
            self.summary,
            self._ledger.sink.wasted,
            self._ledger.scheduler,
            self._facts_taken,
            self._puller.dropped,
            self._health.error_count,
            self._lag,
        )
        with self.guard.watch("metrics"):
            self._router.collect(figures, last_until=last_until)

    def _update_run(self) -> None:
        """Keep run.json up to date, and warn the user."""
        if self._closing is None:
            self._health.warn_if_workerless()
        self._health.warn()
        telemetry = self._health.document()
        if telemetry != self._telemetry:
            self._telemetry = telemetry
            self._writer.update_run(telemetry=telemetry)
        _write_metrics(self._ledger, self._writer)

    def _notify_death(self, certificate: Certificate) -> None:
        if self._on_death is not None:
            name, cause = certificate.death.ready.name, certificate.verdict.cause
            self._on_death(name, certificate.log, cause)

    def _on_records(self, file: str, records: Sequence[Record]) -> None:
        self.summary.add_all(file, records)

    # -- the end ----------------------------------------------------------------------------------

    def _finish(self, closing: Closing) -> None:
        self._settle(closing)
        puller, ledger = self._puller, self._ledger
        now = puller.now
        self._take_noted(now)
        if closing.error is not None:
            ledger.run_failure(*closing.error, now)
        for phase, error in self._failures:
            ledger.run_failure(*error, now, phase=phase)
        is_lost = puller.is_gone and not ledger.scheduler_closed
        is_complete = puller.is_drained and not is_lost and not puller.dropped
        unknown = ledger.close(now, complete=is_complete)
        if is_lost:
            self.guard.errors["scheduler_gone"] += 1
            if unknown:
                ledger.scheduler_lost(puller.gone_because, unknown, now)
        if unknown and closing.status == "completed":
            # How the run ended is unknown.
            closing.status = "lost"
        self._work.note(all_of_them=True)
        self._emit()
        self._work.close(exact=is_complete)
        self._emit()
        self._code.finish(closing.deadline)
        ledger.sink.add_span(self._root_span(closing.status, now, self._router.settle()))
        self._emit()
        self._leave_shared_run(closing.status, now, closing.deadline)
        self._emit()
        if not puller.is_drained:
            self.guard.errors["close:timeout"] += 1
            self._warn(
                "closing took too long: the scheduler still holds facts of this run, and the end "
                f"of {len(unknown.running) + unknown.waiting:,} tasks is unknown"
            )
        if puller.dropped:
            self._warn(f"{puller.dropped} facts were dropped: they were not fetched in time")
        # Sync the disk first; sending gets the rest of the time.
        self._writer.request_sync()
        self._copies.request()
        deadline = max(closing.deadline, monotonic() + MIN_SEND_TIMEOUT)
        self._router.finish(deadline, self._collect)
        puller.close()
        _write_metrics(self._ledger, self._writer)
        self._writer.close(
            partial(_make_summary, self.summary, self.guard),
            status=closing.status,
            finished_at=iso(now),
            telemetry=self._health.document(),
        )
        self._copies.finish(closing.deadline)

    def _settle(self, closing: Closing) -> None:
        """Wait for late reports of starts, cancellations and deaths."""
        wait = SETTLE if self._ledger.tasks.open_tasks() else 0.0
        if self._ledger.tasks.pending_cancellations:
            wait = CANCEL_WAIT
        now = monotonic()
        end = min(closing.deadline, now + wait)
        dying_end = min(closing.deadline, now + NANNY_WAIT)
        while not self._puller.is_gone:
            left = (dying_end if self._ledger.deaths_pending else end) - monotonic()
            if left <= 0:
                break
            with self._condition:
                self._condition.wait(min(left, SETTLE))
            self._guarded_step()

    def _leave(self) -> None:
        now = self._puller.now
        self._take_noted(now)
        self._work.note(all_of_them=True)
        self._emit()
        self._work.close(exact=False)
        self._ledger.tasks.layers.close()
        if self._writer.shared is not None:
            self._ledger.sink.add_span(self._root_span("lost", now, {}))
            # Nobody waits for it, and others must not send the span of this writer as well.
            self._leave_shared_run("lost", now, monotonic() + LEAVE_TIMEOUT)
        self._emit()
        self._ledger.keep_logs()
        self._writer.request_sync()
        self._router.finish(monotonic() + MIN_SEND_TIMEOUT)
        self._writer.sync(MIN_SEND_TIMEOUT)
        self._copies.leave()

    def _root_span(self, status: str, now: float, counts: Mapping[str, int]) -> ReadableSpan:
        return self._roots.span(status, self.identity.started + self._puller.offset, now, counts)

    def _leave_shared_run(self, status: RunStatus, now: float, deadline: float) -> None:
        """Where several programs write the run: the last of them to leave it closes it."""
        shared = self._writer.shared
        if shared is None:
            return
        with self.guard.watch("shared_run"):
            self._copies.before_leaving(deadline)
            closing = shared.leave(status, iso(now))
            if closing is not None:
                for span in self._roots.of_run(closing, now):
                    self._ledger.sink.add_span(span)

    def _give_up(self) -> None:
        """Close the directory after an internal error; the status is the workload's."""
        closing = self._closing
        if closing is None and self._abandoned:
            return  # the run stays open
        status = closing.status if closing is not None else "failed"
        try:
            self._writer.close(
                status=status,
                finished_at=iso(self._clock()),
                telemetry=self._health.document(),
            )
        except BaseException as error:
            self.guard.count("give_up", error)


def _write_metrics(ledger: Ledger, writer: RunWriter) -> None:
    """Keep the program's own metrics in run.json up to date."""
    metrics = ledger.sink.user_metrics
    if metrics.changed:
        writer.update_run(user_defined_metrics=metrics.document())


def _make_summary(summary: RunSummary, guard: Guard, run: Mapping[str, Any]) -> Mapping[str, Any]:
    """Called by the writer's thread, which continues without a summary if this raises."""
    try:
        return summary.document(run)
    except BaseException as error:
        guard.count("summary", error)
        raise RuntimeError(f"the summary cannot be made: {error!r}") from error


def _take_relayed(
    ledger: Ledger,
    relay: RelayDecoder,
    writer: RunWriter,
    redact: Redactor,
    options: RecorderOptions,
) -> None:
    """Let the ledger pass on what processes of the cluster relay."""
    for kind in (facts.RELAY_SPANS, facts.RELAY_LOGS, facts.RELAY_METRICS):
        ledger.on(kind, relay.take)
    if options.task_output != "off":
        tasks = ledger.tasks.tasks
        output = TaskOutputs(writer.store, tasks, redact, relay.keep_output, relay.drop)
        ledger.on(facts.RELAY_OUTPUT, output.take)
    functions = Functions(ledger.sink, ledger.tasks, ledger.workers.name_of, redact)
    ledger.on_event(FUNCTION, functions.take)


def _relay_of(
    ledger: Ledger,
    writer: RunWriter,
    resource: Resource,
    redact: Redactor,
    routes: Routes,
    options: RecorderOptions,
) -> RelayDecoder:
    preference = routes.environ.get("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "")
    relay = RelayDecoder(
        resource,
        redact=redact,
        log_level=options.log_level,
        program=(writer.owner["host"], writer.owner["pid"]),
        delta=preference.lower() == "delta",
    )
    _take_relayed(ledger, relay, writer, redact, options)
    return relay
