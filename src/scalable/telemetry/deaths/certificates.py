"""What is known of the death of a worker, as attributes of its records."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from scalable import facts
from scalable.causes import Case, Verdict, classify
from scalable.code.tracebacks import resolve_text
from scalable.telemetry import semconv
from scalable.telemetry.deaths.worker_logs import KeptLog
from scalable_runs.redact import Redactor

#: Samples of a worker's memory in its certificate.
SAMPLES: Final = 12
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
class Known:
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
        """Note a size of its memory."""
        self.peak = max(self.peak, memory)


class Death(NamedTuple):
    """A worker that was lost."""

    gone: facts.WorkerGone
    ready: facts.WorkerReady
    #: Tasks that ran there.
    tasks: tuple[str, ...]
    known: Known
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
    #: What it says of a task that ran there.
    presence: Presence


def certify(death: Death, log: KeptLog, redact: Redactor) -> Certificate:
    """Make the certificate of a death, of which no further report is awaited."""
    gone, ready, end = death.gone, death.ready, death.known.exit
    tail = log.tail or (end.tail if end is not None else "")
    # A crash names the frames of its stack.
    tail = redact(resolve_text(tail, add_lines=False))
    case = _case(death, log, tail)
    verdict = classify(case)
    worker = _worker_attributes(death, case, verdict)
    failure = worker | _failure_attributes(death, case, verdict, log)
    failure[semconv.WORKER_TASKS] = tuple(map(redact.identity, death.tasks[:_MAX_NAMED]))
    return Certificate(
        death,
        verdict,
        _message(death, verdict, case.reason),
        log.where,
        _without_none(worker),
        _without_none(failure),
        Presence(
            gone.address, ready.name, verdict.cause, case.signal, case.exit_code, len(death.tasks)
        ),
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


def _without_none(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if value is not None}


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float) else None
