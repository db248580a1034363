"""The one consumer of facts: pulls them, turns them into signals, hands those to the exporters."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic, sleep, time
from typing import Any, Final, Protocol

from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import Link

from scalable import __version__, facts
from scalable.common.guard import Guard
from scalable.common.options import RecorderOptions
from scalable.facts import Batch, UserEvent
from scalable.facts.protocol import GRAPHS_UNSEEN
from scalable.telemetry import semconv, wire
from scalable.telemetry.deaths import NANNY_WAIT, Certificate, OnDeath
from scalable.telemetry.instruments import user_metrics
from scalable.telemetry.ledger import Ledger
from scalable.telemetry.ledger.tasks import CANCEL_WAIT
from scalable.telemetry.metric_router import Figures
from scalable.telemetry.relay_decoder import RelayDecoder
from scalable.telemetry.resume import Position, Resumed
from scalable.telemetry.router import SignalRouter
from scalable.telemetry.routes import Routes, exception_signal
from scalable.telemetry.spans import SpanFactory, span_context
from scalable.telemetry.submissions import Sent, SentGraphs
from scalable.telemetry.worker_logs import WorkerLogs
from scalable_runs.plain import iso
from scalable_runs.redact import Redactor
from scalable_runs.schema import Record, Restart, RunStatus
from scalable_runs.summary import RunSummary
from scalable_runs.writer import RunWriter

#: Seconds between two pulls where nothing is going on.
PULL_INTERVAL: Final = 0.2
#: Facts asked for at once.
PULL_SIZE: Final = 2_000
#: Facts that become lines at a stretch: half a millisecond's work. What is made for them is gone
#: before Python's garbage collector comes to look at it, and the interpreter is free again.
CHUNK: Final = 48
#: Seconds of rest between two chunks.
YIELD_SECONDS: Final = 50e-6
#: Seconds between two attempts to reach a scheduler that did not answer.
RETRY_INTERVAL: Final = 0.5
#: A scheduler that did not answer for so long is worth a warning, in seconds. It is asked again
#: until the run is closed: taking in a very large graph can keep it busy for minutes.
SILENT_AFTER: Final = 30.0
#: Tasks that wait for so long without any worker are worth a warning, in seconds.
WORKERLESS_AFTER: Final = 10.0
#: Longest wait for one answer, in seconds.
ANSWER_TIMEOUT: Final = 4.0
#: At close, signals have so long at least to be sent, in seconds.
MIN_SEND_TIMEOUT: Final = 0.5
#: A successor begins where all had become lines, at most so many seconds back.
POSITION_WAIT: Final = 8.0
#: Seconds between two pulls while somebody waits for the certificates of lost workers.
DYING_INTERVAL: Final = 0.02
#: At close, word of attempts that have just begun may still be under way, in seconds: a worker
#: gives it within one and a half times its `ANNOUNCE_AFTER`.
SETTLE: Final = 0.1


class Source(Protocol):
    """Where facts come from; see :mod:`scalable.instrumentation.fact_sources`."""

    def pull(self, after: int, limit: int, timeout: float) -> Batch:
        """Facts from number `after` on.

        Raises
        ------
        ConnectionRefusedError
            There has been no such scheduler for a while, or it knows nothing of the run.
        ConnectionError
            The scheduler did not answer within `timeout` seconds.
        TimeoutError
            Nor did the program, which is busy or stopped: that says nothing of the scheduler.
        """
        ...

    def close(self) -> None:
        """Release what the source holds."""
        ...


@dataclass(frozen=True, slots=True)
class RunIdentity:
    """What a run is called and where it hangs."""

    run_id: str
    project: str
    provider: str
    trace_id: int
    root_span_id: int
    started: float
    #: What each component of the manifest asks for: ``cpus``, ``memory``, ``walltime``.
    components: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Any])


@dataclass(slots=True)
class Closing:
    """How a run is to end."""

    status: RunStatus
    #: Seconds to wait while no fact arrives.
    timeout: float
    #: When it is over, and when it is over whatever arrives (:func:`time.monotonic`).
    deadline: float
    latest: float
    error: tuple[str, str, str] | None = None

    def progress(self) -> None:
        """Facts arrived: wait as long again for the next ones."""
        self.deadline = min(self.latest, max(self.deadline, monotonic() + self.timeout))


class Recorder:
    """Records one run, on a daemon thread of its own.

    It lives in a process of its own (:mod:`scalable.telemetry.child`) or in the program's.
    :meth:`flush`, :meth:`close` and the like are called by other threads and wait on a condition;
    everything else happens on the recorder's thread.

    Parameters
    ----------
    identity : RunIdentity
        The run.
    writer : RunWriter
        The run's directory.
    resource : Resource
        Of every signal.
    submissions : SentGraphs
        What the client's threads send.
    redact : Redactor
        Passed every text.
    warn : callable
        Told, once a kind, what the user should know.
    routes : Routes
        Where signals go besides the directory.
    options : RecorderOptions
        The options of the run.
    yield_seconds : float
        Seconds of rest between two chunks; 0 where nobody else needs the interpreter.
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
        yield_seconds: float = YIELD_SECONDS,
    ) -> None:
        self.guard = Guard()
        self.run_dir = writer.path
        self.summary = RunSummary()
        self._identity = identity
        self._source: Source | None = None
        self._on_death: OnDeath | None = None
        self._yield_seconds = yield_seconds
        self._writer = writer
        self._resource = resource
        self._submissions = submissions
        self._warn = warn
        flags = routes.sampled(identity.trace_id, None)
        self._root = span_context(identity.trace_id, identity.root_span_id, flags)
        self._spans = SpanFactory(resource)
        self._router = SignalRouter(
            writer,
            resource,
            self._on_records,
            root=self._root,
            run=identity.run_id,
            routes=routes,
            options=options,
            warn=warn,
        )
        self._ledger = Ledger(
            identity.run_id,
            self._root,
            resource,
            provider=identity.provider,
            redact=redact,
            guard=self.guard,
            logs=WorkerLogs(writer.path, redact),
            on_death=self._notify_death,
            sends_spans=self._router.sends_spans,
            running_after=options.running_after,
            exceptions=exception_signal(os.environ),
            components=identity.components,
        )
        preference = os.environ.get("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "")
        self._relay = RelayDecoder(
            resource,
            redact=redact,
            log_level=options.log_level,
            delta=preference.lower() == "delta",
        )
        for kind in (facts.RELAY_SPANS, facts.RELAY_LOGS, facts.RELAY_METRICS):
            self._ledger.on(kind, self._relay.take)
        #: What a successor would need to know, if this recorder died now; and when that was.
        self._position = Position(1, {}, 0)
        self._position_since = monotonic()
        self._messages = self._messages_taken = 0
        #: Number of the first fact that a recorder which died has not been given.
        self._news = 1
        self._restarts: list[Restart] = []
        self._taken = 0
        self._lag = 0.0
        self._after = 1
        self._more = False
        self._pulled_all = False
        self._offset = 0.0
        self._dropped = 0
        self._remote_errors: dict[str, int] = {}
        self._graphs_unseen = 0
        self._silent_since: float | None = None
        self._gone_because = ""
        self._warned_unwatched = False
        self._warned_gone = False
        #: Since when there is no worker, by the monotonic clock; None while there is one.
        self._workerless_since: float | None = None
        self._warned_workerless = False
        self._gone = False
        self._told: dict[str, Any] = {}
        #: Facts of the client's own threads; a deque's operations are atomic.
        self._noted: deque[UserEvent] = deque()
        self._noted_bytes = 0
        self._failures: deque[tuple[str, str, str, str]] = deque()
        self._condition = threading.Condition()
        self._flush_asked = 0
        self._flush_since = 0.0
        self._flush_done = 0
        self._closing: Closing | None = None
        self._abandoned = False
        #: The step in hand began after that, and finds all that there is.
        self._is_last = False
        self.finished = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name=f"scalable-recorder-{identity.run_id[-8:]}", daemon=True
        )

    def start(self, source: Source | None, on_death: OnDeath | None = None) -> None:
        """Begin to record.

        Parameters
        ----------
        source : Source or None
            Where facts come from; None where the scheduler cannot be watched.
        on_death : callable, optional
            Told of each lost worker, on the recorder's thread.
        """
        self._source, self._on_death = source, on_death
        if source is None:
            self.guard.errors["scheduler_not_watched"] = 1
        self._thread.start()

    def resume(self, resumed: Resumed) -> None:
        """Go on with a run whose recorder died; before :meth:`start`."""
        self.summary = resumed.summary
        self._ledger.restore(resumed.records)
        self._ledger.tasks.attempts.usage_left_out = resumed.usage_left_out
        self._ledger.workers.unwatched.update(resumed.unwatched)
        self._after, self._news = resumed.after, resumed.news
        self._restarts = resumed.restarts
        self._position = Position(resumed.after, self._writer.last_numbers(), 0)

    # -- for the application's threads ----------------------------------------------------------

    def flush(self, timeout: float) -> bool:
        """Wait until everything the scheduler knows by now is in the kernel's hands."""
        with self._condition:
            self._flush_asked += 1
            self._flush_since = monotonic()
            wanted = self._flush_asked
            self._condition.notify_all()
            return self._condition.wait_for(
                lambda: self._flush_done >= wanted or self.finished.is_set(), timeout
            )

    def close(
        self, status: RunStatus, timeout: float, error: tuple[str, str, str] | None = None
    ) -> bool:
        """Ask for the end of the run and wait for it, `timeout` seconds and a grace for the disk.

        The wait is extended while facts arrive, up to :data:`wire.CLOSE_EXTENSION` times `timeout`.

        Returns
        -------
        bool
            False if the recorder is still busy: it goes on in the background.
        """
        self.end(status, timeout, error)
        closing = self._closing
        assert closing is not None
        while not self.finished.wait(max(0.0, closing.deadline + 1.0 - monotonic())):
            if monotonic() >= closing.deadline + 1.0:
                return False
        return True

    def end(self, status: RunStatus, timeout: float, error: tuple[str, str, str] | None) -> None:
        """Ask for the end of the run, and do not wait for it."""
        with self._condition:
            if self._closing is None:
                now = monotonic()
                latest = now + wire.CLOSE_EXTENSION * timeout
                self._closing = Closing(status, timeout, now + timeout, latest, error)
                self._condition.notify_all()

    def wake(self) -> None:
        """Pull now: the source has more."""
        with self._condition:
            self._condition.notify_all()

    def abandon(self) -> None:
        """Ask for what there is to be handed over: whoever would have closed the run is gone."""
        with self._condition:
            self._abandoned = True
            self._condition.notify_all()

    @property
    def status(self) -> str:
        """How the run ended, as its record says it once that is finished."""
        return "running" if self._closing is None else self._closing.status

    def progress(self) -> tuple[int, int, int]:
        """Tasks ended, known and failed so far."""
        return self.summary.progress()

    def note(self, fact: UserEvent) -> None:
        """Record what the client's own code asks to be recorded; its time is the client's."""
        size = facts.size_of(fact)
        if self._noted_bytes + size > facts.MAX_NOTED:
            self.guard.errors["note:dropped"] += 1
            return
        self._noted_bytes += size
        self._noted.append(fact)

    def count_message(self) -> None:
        """One more message of the program has been handed over; by the thread that does that."""
        self._messages += 1

    @property
    def position(self) -> Position:
        """How far all that was told has become lines; asked by the recorder's thread, on a pull."""
        now = monotonic()
        if self._ledger.is_settled or now - self._position_since > POSITION_WAIT:
            numbers = self._writer.last_numbers()
            self._position = Position(self._after, numbers, self._messages_taken)
            self._position_since = now
        return self._position

    def fail(self, phase: str, error_type: str, message: str, traceback: str) -> None:
        """Let the run have a failure record that belongs to no task."""
        self._failures.append((phase, error_type, message, traceback))

    # -- the thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._open_router()
            while True:
                self._guarded_step()
                with self._condition:
                    if self._closing is not None and self._drained():
                        break
                    if self._closing is None and self._is_last and not self._more:
                        break
                    if not self._more:
                        dying = self._ledger.deaths_pending and (
                            monotonic() - self._flush_since < NANNY_WAIT
                        )
                        if self._flush_done < self._flush_asked and self._pulled_all and not dying:
                            self._flush_done = self._flush_asked
                            self._condition.notify_all()
                        waiting = self._flush_done < self._flush_asked
                        if self._closing is None and not waiting and not self._abandoned:
                            self._condition.wait(self._interval())
                        elif (dying and self._closing is None) or self._is_silent():
                            self._condition.wait(DYING_INTERVAL)
            if self._closing is None:
                self._leave()
            else:
                self._finish()
        except BaseException as error:
            # A recorder that stops must not look like one that has nothing to say.
            self.guard.errors[f"recorder:{type(error).__name__}"] += 1
            self._warn(f"recording stopped by an internal error: {error!r}")
            self._give_up()
        finally:
            with self._condition:
                self.finished.set()
                self._condition.notify_all()

    def _open_router(self) -> None:
        try:
            self._router.open()
            if not self._restarts:
                self._router.announce(self._identity.started)
        except BaseException as error:
            self.guard.failed("router", error)

    def _guarded_step(self) -> None:
        """One step; what an internal error costs is the batch in hand, not the rest of the run."""
        try:
            self._step()
        except BaseException as error:
            self.guard.failed("recorder", error)
            self._pulled_all = True

    def _step(self) -> None:
        """Pull once, write what follows from it."""
        with self._condition:
            asked = self._flush_asked
            self._is_last = self._abandoned
        batch = self._pull()
        # Counted before they are taken: those that come meanwhile are for the next step.
        self._messages_taken = self._messages
        self._more = batch is not None and batch.more
        self._pulled_all = not self._more and asked == self._flush_asked
        now = time() + self._offset
        self._take_noted(now)
        if batch is not None:
            for start in range(0, len(batch.facts), CHUNK):
                if start:
                    self._give_way()
                self._record(batch.facts[start : start + CHUNK], now)
            self._taken += len(batch.facts)
            # A bare key has no time.
            timed = (fact[1] for fact in reversed(batch.facts) if not isinstance(fact, str))
            self._lag = max(0.0, now - next(timed, now))
        self._ledger.tick(now)
        self._note_submissions(self._submissions.ended(time()))
        self._emit()
        self._update_run()
        if self._after >= self._news:
            self._writer.written.clear()

    def _record(self, chunk: Sequence[facts.Fact], now: float) -> None:
        """Make lines of some facts; what an internal error costs is theirs alone."""
        try:
            self._ledger.enter(chunk, now)
            self._emit_own()
        except BaseException as error:
            self.guard.failed("recorder", error)

    def _give_way(self) -> None:
        """Sleep, for the shortest time there is, so that a thread that waits can run.

        In the process of a scheduler that is its event loop: a thread of Python's that computes is
        asked for the interpreter only after 5 ms, each time the loop wakes up. Nobody is kept
        waiting for that who waits for the recorder.
        """
        if self._yield_seconds and self._closing is None and self._flush_done >= self._flush_asked:
            sleep(self._yield_seconds)

    def _pull(self) -> Batch | None:
        source = self._source
        if source is None or self._gone:
            return None
        try:
            batch = source.pull(self._after, PULL_SIZE, self._answer_timeout())
        except ConnectionRefusedError as error:
            self._unreachable(error, refused=True)
            return None
        except ConnectionError as error:
            self._unreachable(error)
            return None
        except TimeoutError as error:
            self._unreachable(error, alarming=False)
            return None
        except BaseException as error:
            self.guard.errors[f"pull:{type(error).__name__}"] += 1
            self._unreachable(error)
            return None
        self._silent_since = None
        if batch.facts and self._closing is not None:
            self._closing.progress()
        self._after = batch.next
        self._offset = batch.now - time()
        self._dropped = batch.dropped
        self._remote_errors = batch.errors
        self._graphs_unseen = self._remote_errors.pop(GRAPHS_UNSEEN, 0)
        return batch

    def _unreachable(
        self, error: BaseException, *, alarming: bool = True, refused: bool = False
    ) -> None:
        now = monotonic()
        if self._silent_since is None:
            self._silent_since = now
        if self._closing is not None:
            # A slow answer says nothing: the scheduler is asked again until the time is up.
            if refused:
                self._gone = True
                self._gone_because = str(error)
                if not self._ledger.scheduler_closed:
                    self.guard.errors["scheduler_gone"] += 1
        elif alarming and now - self._silent_since > SILENT_AFTER and not self._warned_gone:
            self._warned_gone = True
            self._warn(f"the scheduler does not answer ({error}); it is asked again and again")

    def _is_silent(self) -> bool:
        """There was no answer, which may have taken no time: to ask again at once is of no use."""
        return self._silent_since is not None and not self._gone

    def _answer_timeout(self) -> float:
        closing = self._closing
        if closing is None:
            return ANSWER_TIMEOUT
        return max(0.1, min(ANSWER_TIMEOUT, closing.deadline - monotonic()))

    def _interval(self) -> float:
        return PULL_INTERVAL if self._silent_since is None else RETRY_INTERVAL

    def _drained(self) -> bool:
        closing = self._closing
        assert closing is not None
        if monotonic() >= closing.deadline:
            return True
        return not self._more and (self._silent_since is None or self._gone)

    def _emit(self) -> None:
        """Hand over what there is, to the kernel as far as it is for the directory."""
        self._emit_own()
        self._emit_relayed()
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
        """Signals of the run itself."""
        self._router.export(self._ledger.sink.drain(), self._submissions.opened())

    def _emit_relayed(self) -> None:
        """What user code and loggers recorded; its failure costs no line of a journal."""
        relayed = self._relay.drain()
        try:
            self._router.foreign_spans(relayed.spans)
            self._router.foreign_logs(relayed.logs)
            for data in relayed.metrics:
                self._router.foreign_metrics(data)
        except BaseException as error:
            self.guard.failed("relay", error)

    def _collect(self, *, last: bool = False) -> None:
        """Metrics, where it is time for them; no failure of theirs is one of the journals."""
        ledger = self._ledger
        figures = Figures(
            self.summary,
            ledger.sink.wasted,
            ledger.scheduler,
            self._taken,
            self._dropped,
            sum(self.guard.errors.values()) + sum(self._remote_errors.values()),
            self._lag,
        )
        try:
            self._router.collect(figures, last=last)
        except BaseException as error:
            self.guard.failed("metrics", error)

    def _take_noted(self, now: float) -> None:
        if self._noted:
            self._noted_bytes = 0
            noted = [self._noted.popleft() for _ in range(len(self._noted))]
            moved = [fact._replace(time=fact.time + self._offset) for fact in noted]
            self._ledger.take(moved, now)

    def _notify_death(self, certificate: Certificate) -> None:
        if self._on_death is not None:
            name, cause = certificate.death.ready.name, certificate.verdict.cause
            self._on_death(name, certificate.log, cause)

    def _on_records(self, file: str, records: Sequence[Record]) -> None:
        self.summary.add_all(file, records)

    def _note_submissions(self, ended: Sequence[Sent]) -> None:
        for submission in ended:
            own_trace = submission.parent is None
            self._ledger.sink.add_span(
                self._spans.span(
                    semconv.SPAN_SUBMIT.format(name=self._identity.project),
                    submission.ids,
                    submission.parent,
                    submission.start + self._offset,
                    submission.last + self._offset,
                    {semconv.RUN_ID: self._identity.run_id, semconv.GRAPH_COUNT: submission.graphs},
                    kind=semconv.KIND_SUBMIT,
                    links=(Link(self._root),) if own_trace else (),
                )
            )

    def _warn_if_workerless(self) -> None:
        """Say once that tasks wait and no worker is left: a program that waits for them hangs."""
        name = self._ledger.workers.last_worker
        if name is None or self._closing is not None:
            self._workerless_since = None
            return
        now = monotonic()
        if self._workerless_since is None:
            self._workerless_since = now
        if self._warned_workerless or now - self._workerless_since < WORKERLESS_AFTER:
            return
        waiting = len(self._ledger.tasks.open_tasks())
        if waiting:
            self._warned_workerless = True
            self._warn(
                f"{waiting:,} task{' waits' if waiting == 1 else 's wait'} and no worker is left: "
                f"the last one, {name}, has been gone for {now - self._workerless_since:.0f} s. "
                "`scalable diagnose` says what is known of its end"
            )
        else:
            self._workerless_since = now  # nobody waits: look again later

    def _update_run(self) -> None:
        """Keep run.json's account of what the record lacks up to date."""
        self._warn_if_workerless()
        unwatched = self._ledger.workers.unwatched
        if unwatched and not self._warned_unwatched and self._source is not None and not self._gone:
            self._warned_unwatched = True
            name, reason = next(iter(unwatched.items()))
            self._warn(
                f"worker {name} cannot be watched ({reason}): starts and CPU times of its attempts "
                "and its last words are missing. Install scalable-otel there, in the same version"
            )
        telemetry = self._telemetry()
        if telemetry != self._told:
            self._told = telemetry
            self._warn_of_versions()
            self._writer.update_run(telemetry=telemetry)

    def _warn_of_versions(self) -> None:
        """Once for each peer of another version; :attr:`_warn` tells no sentence twice."""
        ours = f"{__version__}, protocol {facts.PROTOCOL}"
        for place in self._remote_errors:
            if place.startswith("protocol:"):
                peer = place.partition(":")[2]
                self._warn(
                    f"a version of scalable in the cluster ({peer}) and this one ({ours}) do not "
                    "understand each other: install one version everywhere. What cannot be read "
                    "is counted and missing"
                )
            elif place.startswith("unread:"):
                self._warn(
                    f"some of what the cluster tells cannot be read by this version of scalable "
                    f"({ours}): is another version installed there? It is counted and missing"
                )

    def _telemetry(self) -> dict[str, Any]:
        errors: dict[str, int] = {**self._remote_errors}
        for place, count in self.guard.errors.items():
            errors[place] = errors.get(place, 0) + count
        dropped: dict[str, int] = {}
        if self._dropped:
            dropped["facts"] = self._dropped
        dropped |= self._relay.dropped
        telemetry: dict[str, Any] = {"dropped": dropped, "errors": errors}
        if self._ledger.workers.unwatched:
            telemetry["unwatched_workers"] = dict(self._ledger.workers.unwatched)
        if self._graphs_unseen:
            telemetry["graphs_unseen"] = self._graphs_unseen
        if self._restarts:
            telemetry["restarts"] = self._restarts
        if self._ledger.tasks.attempts.usage_left_out:
            telemetry["usage_left_out"] = self._ledger.tasks.attempts.usage_left_out
        not_sent = self._router.not_sent()
        if not_sent:
            telemetry["not_sent"] = not_sent
        sent = self._router.sent()
        if sent:
            telemetry["sent"] = sent
        return telemetry

    # -- the end ----------------------------------------------------------------------------------

    def _finish(self) -> None:
        closing = self._closing
        assert closing is not None
        self._settle(closing)
        now = time() + self._offset
        self._take_noted(now)
        if closing.error is not None:
            self._ledger.run_failure(*closing.error, now)
        for phase, error_type, message, traceback in self._failures:
            self._ledger.run_failure(error_type, message, traceback, now, phase=phase)
        left = self._more or (self._silent_since is not None and not self._gone)
        lost = self._gone and not self._ledger.scheduler_closed
        unknown = self._ledger.close(now, complete=not (left or lost or self._dropped))
        if unknown:
            if lost:
                self._ledger.scheduler_lost(self._gone_because, unknown, now)
            if closing.status == "completed":
                # The record does not tell how the run ended.
                closing.status = "lost"
        self._note_submissions(self._submissions.ended(time(), all_of_them=True))
        self._emit()
        self._ledger.sink.add_span(self._root_span(closing.status, now, self._router.settle()))
        self._emit()
        self._collect(last=True)
        if left:
            self.guard.errors["close:timeout"] += 1
            self._warn(
                "closing took too long: the scheduler still holds facts of this run, and the end "
                f"of {len(unknown.running) + unknown.waiting:,} tasks is unknown"
            )
        if self._dropped:
            self._warn(f"{self._dropped} facts were dropped because nobody fetched them in time")
        # What is on disk is safe now; what waits to be sent has the rest of the time.
        self._writer.request_sync()
        self._router.finish(max(closing.deadline, monotonic() + MIN_SEND_TIMEOUT))
        if self._source is not None:
            self._source.close()
        self._writer.close(
            self._make_summary,
            status=closing.status,
            finished_at=iso(now),
            telemetry=self._telemetry(),
        )

    def _leave(self) -> None:
        """Nobody closes this run: it stays as it is, with all that came until now."""
        self._take_noted(time() + self._offset)
        self._emit()
        self._ledger.keep_logs()
        self._writer.request_sync()
        self._router.finish(monotonic() + MIN_SEND_TIMEOUT)
        self._writer.sync(MIN_SEND_TIMEOUT)

    def _settle(self, closing: Closing) -> None:
        """Give word that is under way a moment: attempts just begun, cancellations just made."""
        wait = SETTLE if self._ledger.tasks.open_tasks() else 0.0
        if self._ledger.tasks.pending_cancellations:
            wait = CANCEL_WAIT
        now = monotonic()
        end = min(closing.deadline, now + wait)
        dying_end = min(closing.deadline, now + NANNY_WAIT)
        while not self._gone:
            left = (dying_end if self._ledger.deaths_pending else end) - monotonic()
            if left <= 0:
                break
            with self._condition:
                self._condition.wait(min(left, SETTLE))
            self._guarded_step()

    def _root_span(self, status: RunStatus, now: float, counts: Mapping[str, int]) -> Any:
        identity = self._identity
        return self._spans.span(
            semconv.SPAN_RUN.format(project=identity.project),
            self._root,
            None,
            identity.started,
            now,
            {
                semconv.RUN_ID: identity.run_id,
                semconv.RUN_STATUS: status,
                semconv.PROVIDER: identity.provider,
                **counts,
            },
            error=status if status in ("failed", "lost") else None,
        )

    def _make_summary(self, run: Mapping[str, Any]) -> Mapping[str, Any]:
        """Called by the writer's thread, which goes on without a summary if there can be none."""
        try:
            return self.summary.document(run)
        except BaseException as error:
            self.guard.errors[f"summary:{type(error).__name__}"] += 1
            raise RuntimeError(f"the summary cannot be made: {error!r}") from error

    def _give_up(self) -> None:
        """Close the directory whatever else went wrong; its status is the workload's."""
        closing = self._closing
        if closing is None and self._abandoned:
            return  # what there is stays, as it would with nobody left to see to it
        status = closing.status if closing is not None else "failed"
        try:
            self._writer.close(status=status, finished_at=iso(time()), telemetry=self._telemetry())
        except BaseException as error:
            self.guard.errors[f"give_up:{type(error).__name__}"] += 1
