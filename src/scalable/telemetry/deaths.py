"""Why workers died: reports of scheduler, nanny and worker, joined into one record each."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeAlias

from scalable import facts
from scalable.causes import Case, Verdict, classify
from scalable.telemetry import semconv
from scalable.telemetry.worker_logs import KeptLog, WorkerLogs
from scalable_runs.redact import Redactor

#: Seconds that the lines of a lost worker wait for the report of its nanny, which says how the
#: process ended.
NANNY_WAIT: Final = 3.0
#: Seconds that those of a worker without a nanny wait for a complete log.
LOG_WAIT: Final = 0.5
#: Tolerance in seconds between the clocks that measure a worker's lifetime.
LIFETIME_SLACK: Final = 0.5
#: Samples of a worker's memory in its certificate.
SAMPLES: Final = 12
#: Tasks whose presence at deaths is kept.
_MAX_TASKS: Final = 10_000
#: Tasks named in a certificate.
_MAX_NAMED: Final = 100
#: Reports of nannies on workers that the scheduler has not removed yet.
_MAX_EARLY: Final = 1_000


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
    """What is known of one worker while it lives."""

    samples: deque[tuple[float, int]] = field(
        default_factory=lambda: deque[tuple[float, int]](maxlen=SAMPLES)
    )
    peak: int = 0
    #: Reported by its process: its log, the limits of its batch job.
    process: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass(slots=True)
class Death:
    """A lost worker, waiting for further reports."""

    gone: facts.WorkerGone
    ready: facts.WorkerReady
    tasks: tuple[str, ...]
    known: _Known
    deadline: float
    exit: facts.WorkerExit | None = None
    memory_kill: bool = False


class Certificate(NamedTuple):
    """What is known of a death: attributes of the worker's line and of the failure record."""

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
    """Collects reports on lost workers; called by the ledger on the recorder's thread.

    Parameters
    ----------
    redact : Redactor
        Redacts the last output of workers, and the keys in a certificate.
    logs : WorkerLogs or None
        Keeps the logs.
    """

    def __init__(self, redact: Redactor, logs: WorkerLogs | None) -> None:
        self._redact = redact
        self._logs = logs
        self._known: dict[str, _Known] = {}
        self._pending: dict[str, Death] = {}
        #: Reports of nannies that came before that of the scheduler.
        self._early: dict[str, facts.WorkerExit] = {}
        self._early_memory: dict[str, int] = {}
        #: The last worker of each nanny.
        self._of_nanny: dict[str, str] = {}
        self._present: dict[str, list[Presence]] = {}
        #: The last deaths, by the worker's address.
        self._died: dict[str, Presence] = {}
        self._victims: list[tuple[str, str, Callable[[Sequence[Presence]], None]]] = []

    @property
    def pending(self) -> bool:
        """Whether a lost worker waits for further reports."""
        return bool(self._pending)

    # -- reports ------------------------------------------------------------------------------

    def ready(self, fact: facts.WorkerReady) -> None:
        """A worker started; reports on an earlier one at its address do not apply."""
        self._early.pop(fact.address, None)
        self._early_memory.pop(fact.address, None)
        self._known[fact.address] = _Known()
        if fact.nanny:
            self._of_nanny[fact.nanny] = fact.address

    def sample(self, address: str, time: float, memory: int) -> None:
        """A sample of a worker's memory."""
        known = self._known.get(address)
        if known is not None and memory > 0:
            known.samples.append((time, memory))
            known.peak = max(known.peak, memory)

    def event(self, fact: facts.WorkerEvent, worker: str) -> None:
        """A worker's report on its process, or Dask's event of a nanny that ended it."""
        address = fact.address
        if fact.event == "process":
            known = self._known.get(address)
            if known is not None:
                known.process = dict(fact.fields)
                if self._logs is not None:
                    self._logs.begin(address, worker, known.process)
        elif fact.event == "worker-restart-memory":
            rss = fact.fields.get("rss")
            memory = rss if isinstance(rss, int) else 0
            death = self._pending.get(address)
            if death is not None:
                death.memory_kill = True
                death.known.peak = max(death.known.peak, memory)
            elif address in self._known:
                self._early_memory[address] = memory

    def exited(self, fact: facts.WorkerExit) -> None:
        """A nanny reported the end of a process."""
        # If a worker ends at its start, its nanny does not know its address yet.
        address = fact.address or self._of_nanny.get(fact.nanny, "")
        death = self._pending.get(address)
        if death is not None:
            if fact.address or death.exit is None:
                death.exit = fact
        elif address in self._known and len(self._early) < _MAX_EARLY:
            self._early[address] = fact

    def why_removed(self, fact: facts.WorkerGone) -> str:
        """Return Dask's reason for the end of a worker, or that its lifetime was over.

        At the end of its lifetime a worker retires itself, and Dask reports it as retired.
        """
        known = self._known.get(fact.address)
        end = known.process.get("lifetime_end") if known is not None else None
        retired = fact.reason in ("retired", "retire-workers", "close-worker")
        if retired and isinstance(end, int | float) and fact.time >= end - LIFETIME_SLACK:
            return "worker-lifetime-reached"
        return fact.reason

    def removed(self, address: str, host: str) -> None:
        """A worker ended on request: only its log is kept."""
        known = self._known.pop(address, None)
        self._early.pop(address, None)
        self._early_memory.pop(address, None)
        if nanny := next((n for n, own in self._of_nanny.items() if own == address), None):
            del self._of_nanny[nanny]
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
        address = fact.address
        known = self._known.pop(address, None) or _Known()
        wait = NANNY_WAIT if ready.nanny else LOG_WAIT
        death = Death(fact, ready, tasks, known, now + wait, self._early.pop(address, None))
        memory = self._early_memory.pop(address, None)
        if memory is not None:
            death.memory_kill = True
            known.peak = max(known.peak, memory)
        self._pending[address] = death

    def victim(self, key: str, lived_on: str, notify: Callable[[Sequence[Presence]], None]) -> None:
        """A task failed with KilledWorker, or an actor with its worker.

        `notify` is called with the deaths that the task was present at, when all of them are
        known; with none if the worker ended on request.
        """
        self._victims.append((key, lived_on, notify))

    def forget(self, key: str) -> None:
        """Forget a task that is not needed any more."""
        self._present.pop(key, None)

    # -- results ------------------------------------------------------------------------------

    def settle(self, now: float, *, all_of_them: bool = False) -> list[Certificate]:
        """Return certificates of deaths with enough reports, or that waited long enough."""
        certificates: list[Certificate] = []
        for address, death in list(self._pending.items()):
            if all_of_them or death.deadline <= now or self._is_reported(death):
                del self._pending[address]
                self._part(death.ready.nanny, address)
                certificates.append(self._certificate(death))
        return certificates

    def _part(self, nanny: str | None, address: str) -> None:
        """Forget the worker of a nanny; the nanny's next worker has another address."""
        if nanny and self._of_nanny.get(nanny) == address:
            del self._of_nanny[nanny]

    def notify_victims(self) -> None:
        """Notify the tasks that failed with KilledWorker, after the certificates are written."""
        if self._pending:
            return
        victims, self._victims = self._victims, []
        for key, lived_on, notify in victims:
            death = self._died.get(lived_on)
            notify((death,) if death is not None else self._present.get(key, ()))

    def close(self) -> None:
        """The run ends: keep the logs of workers that still run."""
        if self._logs is not None:
            self._logs.close()

    def _is_reported(self, death: Death) -> bool:
        if death.ready.nanny:
            return death.exit is not None
        return self._logs is not None and self._logs.state(death.gone.address) == "complete"

    def _certificate(self, death: Death) -> Certificate:
        gone, ready, known, end = death.gone, death.ready, death.known, death.exit
        log = KeptLog(None, "", None)
        if self._logs is not None:
            log = self._logs.end(gone.address, ready.host, known.process)
        tail = self._redact(log.tail or (end.tail if end is not None else ""))
        memory_kill = death.memory_kill or (end is not None and end.memory_kill)
        reason = gone.reason
        if end is None and reason == "connection-lost":
            reason += _silence(ready, log)
        time_end = known.process.get("time_end")
        time_left = time_end - gone.time if isinstance(time_end, int | float) else None
        verdict = classify(
            Case(
                "WorkerLost",
                exit_code=end.status if end is not None else None,
                signal=end.signal if end is not None else None,
                reason=reason,
                memory_kill=memory_kill,
                oom_kills_group=end.oom_kills_group if end is not None else 0,
                oom_kills_host=end.oom_kills_host if end is not None else 0,
                time_left=time_left,
                stderr_tail=tail,
                worker_ttl=gone.ttl,
                is_worker=True,
            )
        )
        presence = Presence(
            gone.address,
            ready.name,
            verdict.cause,
            end.signal if end is not None else None,
            end.status if end is not None else None,
            len(death.tasks),
        )
        for key in death.tasks:
            self._remember(key, presence)
        if len(self._died) >= _MAX_TASKS:
            del self._died[next(iter(self._died))]
        self._died[gone.address] = presence
        worker: dict[str, Any] = {
            semconv.WORKER_REASON: reason,
            semconv.WORKER_TASKS_RUNNING: len(death.tasks),
            semconv.WORKER_TASKS_RECOMPUTED: gone.tasks_recomputed,
            semconv.WORKER_MEMORY: gone.memory or None,
            semconv.WORKER_HEARTBEAT_AGE: _rounded(gone.heartbeat_age),
            semconv.WORKER_TTL: _rounded(gone.ttl),
            semconv.CAUSE: verdict.cause,
        }
        if end is not None:
            worker[semconv.EXIT_CODE] = end.status
            worker[semconv.PROCESS_SIGNAL] = end.signal
        samples = [[round(time, 3), memory] for time, memory in known.samples]
        failure = {
            **worker,
            semconv.CAUSE_CONFIDENCE: verdict.confidence,
            semconv.CAUSE_EVIDENCE: verdict.evidence,
            semconv.HOST_NAME: ready.host,
            semconv.PROCESS_PID: ready.pid,
            semconv.WORKER_ADDRESS: gone.address,
            semconv.WORKER_NAME: ready.name,
            semconv.WORKER_MEMORY_LIMIT: ready.memory_limit or None,
            semconv.WORKER_MEMORY_PEAK: known.peak or None,
            semconv.WORKER_MEMORY_SAMPLES: samples or None,
            semconv.WORKER_TASKS: tuple(map(self._redact.identity, death.tasks[:_MAX_NAMED])),
            semconv.STDERR_TAIL: tail or None,
            semconv.STDERR_PATH: log.where,
            semconv.MEMORY_KILL: memory_kill or None,
            semconv.BATCH_SYSTEM: _plain(known.process.get("batch_system")),
            semconv.BATCH_JOB: _plain(known.process.get("batch_job")),
            semconv.TIME_LEFT: _rounded(time_left),
            semconv.TIME_LIMIT: _plain(known.process.get("time_limit_s")),
            semconv.NOT_KNOWN: _not_known(death, log, verdict) or None,
        }
        if end is not None:
            failure[semconv.OOM_KILLS_GROUP] = end.oom_kills_group or None
            failure[semconv.OOM_KILLS_HOST] = end.oom_kills_host or None
        return Certificate(
            death,
            verdict,
            _message(death, verdict, reason),
            log.where,
            _without_none(worker),
            _without_none(failure),
        )

    def _remember(self, key: str, presence: Presence) -> None:
        if key not in self._present and len(self._present) >= _MAX_TASKS:
            del self._present[next(iter(self._present))]
        self._present.setdefault(key, []).append(presence)


def presences(deaths: Sequence[Presence]) -> dict[str, Any]:
    """Return attributes of a task that failed with KilledWorker: deaths that it was present at."""
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


def _silence(ready: facts.WorkerReady, log: KeptLog) -> str:
    """Return a suffix of the reason if no report says how the process ended."""
    if log.state == "written":
        return ", process alive"
    if ready.nanny:
        return ", nanny silent, process gone" if log.state is not None else ", nanny silent"
    return ", process gone" if log.state is not None else ", no nanny"


def _not_known(death: Death, log: KeptLog, verdict: Verdict) -> list[str]:
    missing: list[str] = []
    if death.exit is None:
        why = "its nanny sent no report" if death.ready.nanny else "it ran without a nanny"
        missing.append(f"exit code and signal: {why}")
    # The log of a process without output is removed: that it wrote nothing is known.
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
    end = death.exit
    if end is not None:
        how += f": {end.signal}" if end.signal else f": exit status {end.status}"
    return (
        f"worker {death.ready.name} at {death.gone.address} was lost while it ran {count} "
        f"task{'' if count == 1 else 's'} ({reason}); {how}"
    )


def _without_none(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if value is not None}


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float) else None
