"""Why workers died: reports of scheduler, nanny and worker, joined into one record each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

from scalable import facts
from scalable.telemetry.deaths.certificates import Certificate, Death, Known, Presence, certify
from scalable.telemetry.deaths.worker_logs import KeptLog, WorkerLogs
from scalable_runs.redact import Redactor

#: Seconds that a lost worker's lines wait for its nanny's report of how its process ended.
NANNY_WAIT: Final = 3.0
#: Seconds that the lines of a lost worker without a nanny wait for its log to be complete.
LOG_WAIT: Final = 0.5
#: Tolerance in seconds between the clocks that measure a worker's lifetime.
LIFETIME_SLACK: Final = 0.5
#: Tasks whose presence at deaths is kept, and deaths that are kept.
_MAX_TASKS: Final = 10_000

#: Called for a lost worker, with its name, the path of its log, and the cause of its death.
OnDeath: TypeAlias = Callable[[str, str | None, str], None]


class Deaths:
    """Collects reports on lost workers; called by the recorder's thread only."""

    def __init__(self, redact: Redactor, logs: WorkerLogs | None) -> None:
        self._redact = redact
        self._logs = logs
        self._known: dict[str, Known] = {}
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
        self._known[fact.address] = Known(fact.nanny)

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
        known = self._known.pop(fact.address, None) or Known(ready.nanny)
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
        log = KeptLog(None, "", None)
        if self._logs is not None:
            log = self._logs.end(death.gone.address, death.ready.host, death.known.process)
        certificate = certify(death, log, self._redact)
        presence = certificate.presence
        for key in death.tasks:
            _keep(self._present, key, [*self._present.get(key, ()), presence])
        _keep(self._died, presence.worker, presence)
        return certificate


def _keep(values: dict[str, Any], key: str, value: Any) -> None:
    """Set a value, in the place of the oldest where there are too many."""
    if key not in values and len(values) >= _MAX_TASKS:
        del values[next(iter(values))]
    values[key] = value
