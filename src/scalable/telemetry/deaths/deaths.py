"""Why workers died: reports of scheduler, nanny and worker, joined into one record each."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeAlias

from scalable import facts
from scalable.causes import Case, Verdict, classify
from scalable.telemetry import semconv
from scalable.telemetry.deaths.worker_logs import KeptLog, WorkerLogs
from scalable_runs.redact import Redactor

#: Seconds that a lost worker's lines wait for its nanny's report of how its process ended.
NANNY_WAIT: Final = 3.0
#: Seconds that the lines of a lost worker without a nanny wait for its log to be complete.
LOG_WAIT: Final = 0.5
#: Tolerance in seconds between the clocks that measure a worker's lifetime.
LIFETIME_SLACK: Final = 0.5
#: Samples of a worker's memory in its certificate.
SAMPLES: Final = 12
#: Tasks whose presence at deaths is kept, and deaths that are kept.
_MAX_TASKS: Final = 10_000
#: Tasks named in a certificate.
_MAX_NAMED: Final = 100


class Presence(NamedTuple):
    """A task ran when a worker died."""

    worker: str
    worker_id: str
    cause: str
    signal: str | None
    exit_code: int | None
    #: Tasks that ran on the worker.
    tasks: int


@dataclass(slots=True)
class _Known:
    """What is known of one worker, besides what the scheduler reports."""

    nanny: str | None = None
    #: Times and sizes of its memory.
    samples: deque[tuple[float, int]] = field(
        default_factory=lambda: deque[tuple[float, int]](maxlen=SAMPLES)
    )
    peak: int = 0
    #: What its process reported of itself: its log, its batch job's limits.
    process: dict[str, Any] = field(default_factory=dict[str, Any])
    #: The nanny's report of the process's end, which may precede the scheduler's.
    exit: facts.WorkerExit | None = None
    #: Dask reported that the nanny ended it because of its memory.
    memory_kill: bool = False

    def see_memory(self, memory: int) -> None:
        self.peak = max(self.peak, memory)


class Death(NamedTuple):
    """A worker that was lost."""

    gone: facts.WorkerGone
    ready: facts.WorkerReady
    #: Tasks that ran there.
    tasks: tuple[str, ...]
    known: _Known
    #: When it is certified with what is known by then.
    deadline: float


class Certificate(NamedTuple):
    """What is known of one death: attributes of its worker's line and of its failure's record."""

    death: Death
    verdict: Verdict
    message: str
    #: Where its log is kept.
    log: str | None
    worker: dict[str, Any]
    failure: dict[str, Any]


#: Called for a lost worker, with its name, the path of its log, and the cause of its death.
OnDeath: TypeAlias = Callable[[str, str | None, str], None]


class Deaths:
    """Collects reports on lost workers; called by the recorder's thread only."""

    def __init__(self, redact: Redactor, logs: WorkerLogs | None) -> None:
        self._redact = redact
        self._logs = logs
        self._known: dict[str, _Known] = {}
        self._pending: dict[str, Death] = {}
        #: The deaths at which a task was present.
        self._present: dict[str, list[Presence]] = {}
        #: The last deaths, by the worker's address.
        self._died: dict[str, Presence] = {}
        self._victims: list[tuple[str, str, Callable[[Sequence[Presence]], None]]] = []

    @property
    def pending(self) -> bool:
        """A lost worker waits for further reports."""
        return bool(self._pending)

    # -- reports --------------------------------------------------------------------------------

    def ready(self, fact: facts.WorkerReady) -> None:
        """A worker registered: forget what is known of an earlier one at its address."""
        self._known[fact.address] = _Known(fact.nanny)

    def sample(self, address: str, time: float, memory: int) -> None:
        """A worker's memory was measured."""
        known = self._known.get(address)
        if known is not None and memory > 0:
            known.samples.append((time, memory))
            known.see_memory(memory)

    def event(self, fact: facts.WorkerEvent, worker: str) -> None:
        """A worker reported something about its process, or Dask that a nanny ended it."""
        address, fields = fact.address, fact.fields
        death, known = self._pending.get(address), self._known.get(address)
        if fact.event == "process" and known is not None:
            known.process = dict(fields)
            if self._logs is not None:
                self._logs.begin(address, worker, known.process)
        elif fact.event == "worker-restart-memory" and (death is not None or known is not None):
            about: Any = death.known if death is not None else known
            about.memory_kill = True
            rss = fields.get("rss")
            about.see_memory(rss if isinstance(rss, int) else 0)

    def exited(self, fact: facts.WorkerExit) -> None:
        """A nanny saw a process end."""
        if fact.address:
            death = self._pending.get(fact.address)
            known = self._known.get(fact.address) if death is None else death.known
        else:
            # The worker ended as soon as it had come: its nanny does not know its address yet.
            lost = [death.known for death in self._pending.values() if death.known.exit is None]
            workers = [*self._known.values(), *lost]
            known = next((it for it in workers if fact.nanny and it.nanny == fact.nanny), None)
        if known is not None:
            known.exit = fact

    def why_removed(self, fact: facts.WorkerGone) -> str:
        """Dask's reason for a worker that was asked to go, or that its lifetime was over.

        At the end of its lifetime a worker retires itself: Dask says that it was retired.
        """
        known = self._known.get(fact.address)
        end = known.process.get("lifetime_end") if known is not None else None
        retired = fact.reason in ("retired", "retire-workers", "close-worker")
        if retired and isinstance(end, int | float) and fact.time >= end - LIFETIME_SLACK:
            return "worker-lifetime-reached"
        return fact.reason

    def removed(self, address: str, host: str) -> None:
        """A worker closed as it was asked to: only its log is kept."""
        known = self._known.pop(address, None)
        if known is not None and self._logs is not None:
            self._logs.end(address, host, known.process)

    def gone(
        self,
        fact: facts.WorkerGone,
        ready: facts.WorkerReady,
        tasks: tuple[str, ...],
        now: float,
    ) -> None:
        """A worker was lost."""
        known = self._known.pop(fact.address, None) or _Known(ready.nanny)
        wait = NANNY_WAIT if ready.nanny else LOG_WAIT
        self._pending[fact.address] = Death(fact, ready, tasks, known, now + wait)

    def victim(self, key: str, lived_on: str, write: Callable[[Sequence[Presence]], None]) -> None:
        """A task failed with its worker: by KilledWorker, or an actor with the one it lived on.

        `write` is called with the deaths that it was present at once they are all known; with none
        where the worker went as it was asked to.
        """
        self._victims.append((key, lived_on, write))

    def forget(self, key: str) -> None:
        """The scheduler forgot a task."""
        self._present.pop(key, None)

    # -- what follows ---------------------------------------------------------------------------

    def settle(self, now: float, *, all_of_them: bool = False) -> list[Certificate]:
        """Certificates of the deaths of which enough is known, or that waited long enough."""
        certificates: list[Certificate] = []
        for address, death in list(self._pending.items()):
            if all_of_them or death.deadline <= now or self._is_known(death):
                del self._pending[address]
                certificates.append(self._certify(death))
        return certificates

    def notify_victims(self) -> None:
        """Write the failures of tasks that failed with their worker; after the certificates."""
        if self._pending:
            return
        victims, self._victims = self._victims, []
        for key, lived_on, write in victims:
            death = self._died.get(lived_on)
            write((death,) if death is not None else self._present.get(key, ()))

    def close(self) -> None:
        """The run ends: keep the logs of those that live on."""
        if self._logs is not None:
            self._logs.close()

    def _is_known(self, death: Death) -> bool:
        if death.ready.nanny:
            return death.known.exit is not None
        return self._logs is not None and self._logs.state(death.gone.address) == "complete"

    def _certify(self, death: Death) -> Certificate:
        gone, ready, end = death.gone, death.ready, death.known.exit
        log = KeptLog(None, "", None)
        if self._logs is not None:
            log = self._logs.end(gone.address, ready.host, death.known.process)
        tail = self._redact(log.tail or (end.tail if end is not None else ""))
        case = _case(death, log, tail)
        verdict = classify(case)
        presence = Presence(
            gone.address, ready.name, verdict.cause, case.signal, case.exit_code, len(death.tasks)
        )
        for key in death.tasks:
            _keep(self._present, key, [*self._present.get(key, ()), presence])
        _keep(self._died, gone.address, presence)
        worker = _worker_attributes(death, case, verdict)
        keys = map(self._redact.identity, death.tasks[:_MAX_NAMED])
        failure = worker | _failure_attributes(death, case, verdict, log)
        failure[semconv.WORKER_TASKS] = tuple(keys)
        return Certificate(
            death,
            verdict,
            _message(death, verdict, case.reason),
            log.where,
            _without_none(worker),
            _without_none(failure),
        )


def presences(deaths: Sequence[Presence]) -> dict[str, Any]:
    """Attributes of a task that failed with KilledWorker: each death that it was present at."""
    if not deaths:
        return {}
    return {
        semconv.TASK_DEATHS: [
            _without_none(
                {
                    "worker": death.worker,
                    "worker_id": death.worker_id,
                    "cause": death.cause,
                    "signal": death.signal,
                    "exit_code": death.exit_code,
                    "tasks_running": death.tasks,
                }
            )
            for death in deaths
        ],
        semconv.TASK_DEATHS_PRESENT: len(deaths),
        semconv.TASK_DEATHS_ALONE: sum(death.tasks == 1 for death in deaths),
        semconv.CAUSE: deaths[-1].cause,
    }


def _case(death: Death, log: KeptLog, tail: str) -> Case:
    gone, known, end = death.gone, death.known, death.known.exit
    time_end = known.process.get("time_end")
    case = Case(
        "WorkerLost",
        reason=gone.reason,
        memory_kill=known.memory_kill,
        time_left=time_end - gone.time if isinstance(time_end, int | float) else None,
        stderr_tail=tail,
        worker_ttl=gone.ttl,
        is_worker=True,
    )
    if end is not None:
        return case._replace(
            exit_code=end.status,
            signal=end.signal,
            memory_kill=known.memory_kill or end.memory_kill,
            oom_kills_group=end.oom_kills_group,
            oom_kills_host=end.oom_kills_host,
        )
    if gone.reason == "connection-lost":
        return case._replace(reason=gone.reason + _silence(death.ready, log))
    return case


#: Reasons for which Dask's scheduler loses a worker; other ones may be reported too.
LOST_REASONS: Final = (
    "connection-lost",
    "connection-lost, process alive",
    "connection-lost, nanny silent",
    "connection-lost, nanny silent, process gone",
    "connection-lost, process gone",
    "connection-lost, no nanny",
    "worker-ttl",
)


def _silence(ready: facts.WorkerReady, log: KeptLog) -> str:
    """What a missing report of the end of the process means."""
    if log.state == "written":
        return ", process alive"
    if ready.nanny:
        return ", nanny silent, process gone" if log.state is not None else ", nanny silent"
    return ", process gone" if log.state is not None else ", no nanny"


def _worker_attributes(death: Death, case: Case, verdict: Verdict) -> dict[str, Any]:
    gone = death.gone
    return {
        semconv.WORKER_REASON: case.reason,
        semconv.WORKER_TASKS_RUNNING: len(death.tasks),
        semconv.WORKER_TASKS_RECOMPUTED: gone.tasks_recomputed,
        semconv.WORKER_MEMORY: gone.memory or None,
        semconv.WORKER_HEARTBEAT_AGE: _rounded(gone.heartbeat_age),
        semconv.WORKER_TTL: _rounded(gone.ttl),
        semconv.CAUSE: verdict.cause,
        semconv.EXIT_CODE: case.exit_code,
        semconv.PROCESS_SIGNAL: case.signal,
    }


def _failure_attributes(death: Death, case: Case, verdict: Verdict, log: KeptLog) -> dict[str, Any]:
    ready, known = death.ready, death.known
    process = known.process
    samples = [[round(time, 3), memory] for time, memory in known.samples]
    return {
        semconv.CAUSE_CONFIDENCE: verdict.confidence,
        semconv.CAUSE_EVIDENCE: verdict.evidence,
        semconv.HOST_NAME: ready.host,
        semconv.PROCESS_PID: ready.pid,
        semconv.WORKER_ADDRESS: death.gone.address,
        semconv.WORKER_NAME: ready.name,
        semconv.WORKER_MEMORY_LIMIT: ready.memory_limit or None,
        semconv.WORKER_MEMORY_PEAK: known.peak or None,
        semconv.WORKER_MEMORY_SAMPLES: samples or None,
        semconv.STDERR_TAIL: case.stderr_tail or None,
        semconv.STDERR_PATH: log.where,
        semconv.MEMORY_KILL: case.memory_kill or None,
        semconv.BATCH_SYSTEM: _plain(process.get("batch_system")),
        semconv.BATCH_JOB: _plain(process.get("batch_job")),
        semconv.TIME_LEFT: _rounded(case.time_left),
        semconv.TIME_LIMIT: _plain(process.get("time_limit_s")),
        semconv.NOT_KNOWN: _not_known(death, log, verdict) or None,
        semconv.OOM_KILLS_GROUP: case.oom_kills_group or None,
        semconv.OOM_KILLS_HOST: case.oom_kills_host or None,
    }


def _not_known(death: Death, log: KeptLog, verdict: Verdict) -> list[str]:
    missing: list[str] = []
    if death.known.exit is None:
        why = "its nanny sent no report" if death.ready.nanny else "it ran without a nanny"
        missing.append(f"exit code and signal: {why}")
    # The log of a process that wrote nothing is removed; that much is known.
    if log.where is None and log.state not in ("written", "complete"):
        missing.append("its last output")
    if not death.known.samples:
        missing.append("its memory")
    why = death.known.process.get("no_stack")
    if why and verdict.cause == "segfault":
        missing.append(f"Python's stack: {why}")
    return missing


def _message(death: Death, verdict: Verdict, reason: str) -> str:
    count = len(death.tasks)
    how = verdict.evidence[0]
    end = death.known.exit
    if end is not None:
        how += f": {end.signal}" if end.signal else f": exit status {end.status}"
    return (
        f"worker {death.ready.name} at {death.gone.address} was lost while it ran {count} "
        f"task{'' if count == 1 else 's'} ({reason}); {how}"
    )


def _keep(values: dict[str, Any], key: str, value: Any) -> None:
    """Set a value, in the place of the oldest where there are too many."""
    if key not in values and len(values) >= _MAX_TASKS:
        del values[next(iter(values))]
    values[key] = value


def _without_none(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if value is not None}


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float) else None
