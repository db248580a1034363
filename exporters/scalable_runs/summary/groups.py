"""What is counted per worker, per cause of failure and per currency."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, Final, TypeAlias

from scalable_runs import fields
from scalable_runs.plain import cut, parse_seconds
from scalable_runs.schema import FailureGroup, WorkerDetails, WorkerSummary
from scalable_runs.summary.arguments import Arguments
from scalable_runs.summary.names import (
    MAX_PATTERN,
    OTHER,
    Members,
    failure_pattern,
    is_address,
    name_of_key,
)
from scalable_runs.summary.values import ratio
from scalable_runs.writers import qualified

#: Causes of failure counted apart; further ones are counted by class, then as `OTHER`.
MAX_FAILURE_GROUPS: Final = 200
#: Workers counted apart.
MAX_WORKERS: Final = 10_000
#: Different messages kept of one cause, and characters of all messages kept.
MAX_MESSAGES: Final = 1_000
MAX_MESSAGES_TEXT: Final = 2_000_000
#: Currencies counted apart.
MAX_CURRENCIES: Final = 20

_MAX_TRACEBACK: Final = 20_000
_MAX_MESSAGE: Final = 2_000

_STARTED: Final = frozenset({"launched", "ready"})
_ENDED: Final = frozenset({"lost", "removed"})
#: Details kept of a worker. Peers of a recorder send them, so their types are checked here too.
_DETAILS: Final = ("host", "reason", "exit_code", "signal", "nthreads", "memory_limit_bytes")
_KINDS: Final = {name: fields.fields_of(WorkerDetails)[name].kind for name in _DETAILS}


@dataclass(slots=True)
class Worker:
    """The workers at one address, one after the other; a life is from start to end of one."""

    address: str | None
    worker_id: str | None = None
    #: The writer of the run that it belongs to, if the run has several.
    writer: str | None = None
    state: str | None = None
    busy_s: float = 0.0
    attempts: int = 0
    _lost: int = 0
    _memory_gb: float = 0.0
    _details: dict[str, Any] = field(default_factory=dict[str, Any])
    _lives: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    _since: float | None = None

    def absorb(self, launched: Worker) -> None:
        """Take over what was recorded before the worker had an address."""
        self.worker_id = self.worker_id or launched.worker_id
        self.state = launched.state
        self._details = {**launched._details, **self._details}
        self._since = launched._since

    def add(self, state: str, record: Mapping[str, Any]) -> None:
        """Add a record of workers.jsonl."""
        now = parse_seconds(record["timestamp"])
        if state in _STARTED:
            if self.state not in _STARTED:
                self._details.clear()
            self._since = now
        else:
            if self._since is not None and now is not None:
                self._lives.append((self._since, now))
            self._since = None
            self._lost += state == "lost"
        self.state = state
        worker_id = record.get("worker_id")
        if worker_id is not None:
            self.worker_id = str(worker_id)
        details = record.get("details") or {}
        self._details.update(
            (name, details[name])
            for name, kind in _KINDS.items()
            if name in details and fields.fits(details[name], kind)
        )
        memory = details.get("memory_bytes")
        if fields.amount(memory):
            self._memory_gb = max(self._memory_gb, (memory or 0) / 1e9)

    def document(self, begin: float | None, end: float | None) -> WorkerSummary:
        """Return the row of a run with these bounds; `Workers.rows` adds the usage."""
        lives = list(self._lives)
        if self._since is not None and end is not None:
            lives.append((self._since, end))
        # A worker may be older than the run, which can use only the time that they share.
        first = -math.inf if begin is None else begin
        lifetime = math.fsum(max(0.0, until - max(since, first)) for since, until in lives)
        details = self._details
        nthreads = details.get("nthreads")
        memory_limit = details.get("memory_limit_bytes")
        row: WorkerSummary = {
            "worker": self.address,
            "worker_id": self.worker_id,
            "host": details.get("host"),
            "state": self.state,
            "reason": details.get("reason"),
            "exit_code": details.get("exit_code"),
            "signal": details.get("signal"),
            "lives": len(lives),
            "lost": self._lost,
            "nthreads": nthreads,
            "lifetime_s": lifetime,
            "busy_s": self.busy_s,
            "busy_ratio": ratio(self.busy_s, lifetime * (nthreads or 0)),
            "attempts": self.attempts,
            "memory_limit_gb": memory_limit / 1e9 if memory_limit else None,
            "memory_gb_max": self._memory_gb or None,
            "cpu_max": None,
        }
        if self.writer is not None:
            row["writer"] = self.writer
        return row


@dataclass(slots=True)
class _Usage:
    """The most memory and CPU that was seen in use."""

    memory_gb: float = 0.0
    cpu: float = 0.0


class Workers:
    """Workers by address, or by name until they have one, and what they used."""

    def __init__(self) -> None:
        self.by_key: dict[_Key, Worker] = {}
        self._usage: dict[_Key, _Usage] = {}

    def at(self, address: object, writer: str | None = None) -> Worker | None:
        """Return the worker at an address; None without an address, or with too many workers."""
        if not is_address(address):
            return None
        key = _key(address, writer)
        worker = self.by_key.get(key)
        if worker is None and len(self.by_key) < MAX_WORKERS:
            worker = self.by_key[key] = Worker(address, writer=writer)
        return worker

    def add(self, record: Mapping[str, Any]) -> None:
        """Add a record of workers.jsonl."""
        state = record["state"]
        if state not in _STARTED and state not in _ENDED:
            return
        address = record.get("worker")
        worker_id = record.get("worker_id")
        if worker_id is not None:
            worker_id = str(worker_id)
        name, writer = address or worker_id, record.get("writer")
        if not isinstance(name, str):
            raise TypeError(name)
        key = _key(name, writer)
        worker = self.by_key.get(key)
        if worker_id is not None and worker_id != name:
            # It was launched under its name alone and now has an address.
            before = _key(worker_id, writer)
            launched = self.by_key.get(before)
            if launched is not None and launched.address is None:
                del self.by_key[before]
                if worker is None:
                    worker = self.by_key[key] = launched
                else:
                    worker.absorb(launched)
        if worker is None:
            if len(self.by_key) >= MAX_WORKERS:
                return
            worker = self.by_key[key] = Worker(address, writer=writer)
        worker.address = address or worker.address
        worker.add(state, record)

    def add_usage(
        self, entity: str, memory_gb: float, cpu: float = 0.0, *, writer: str | None = None
    ) -> None:
        """Add usage of a worker, by its address or name."""
        key = _key(entity, writer)
        usage = self._usage.get(key)
        if usage is None:
            if len(self._usage) >= MAX_WORKERS:
                return
            usage = self._usage[key] = _Usage()
        usage.memory_gb = max(usage.memory_gb, memory_gb)
        usage.cpu = max(usage.cpu, cpu)

    def rows(self, begin: float | None, end: float | None) -> list[WorkerSummary]:
        """Return a row per worker, for a run with these bounds."""
        rows: list[WorkerSummary] = []
        for worker in self.by_key.values():
            row = worker.document(begin, end)
            for entity in (worker.address, worker.worker_id):
                usage = self._usage.get(_key(entity or "", worker.writer))
                if usage is not None:
                    row["memory_gb_max"] = max(row["memory_gb_max"] or 0, usage.memory_gb) or None
                    row["cpu_max"] = max(row.get("cpu_max") or 0.0, usage.cpu)
            rows.append(row)
        # Sorted, since the order of arrival depends on which journal is read first.
        return sorted(
            rows,
            key=lambda row: (row.get("writer") or "", row["worker"] or "", row["worker_id"] or ""),
        )


#: The address or name of a worker, and the writer if the run has several: each has a cluster.
_Key: TypeAlias = str | tuple[str, str]


def _key(name: str, writer: str | None) -> _Key:
    return name if writer is None else (writer, name)


@dataclass(slots=True, kw_only=True)
class _FailureGroup:
    """The failures of one cause; the fields are those of the document."""

    failure_class: str
    message: str
    pattern: str
    messages: dict[str, None] = field(default_factory=dict[str, None])
    count: int = 0
    retried: int = 0
    dependents_failed: int = 0
    phase: str | None
    cause: Any = None
    task_names: Members = field(default_factory=Members)
    workers: Members = field(default_factory=Members)
    first_at: str | None = None
    last_at: str | None = None
    sample_task_id: str | None = None
    traceback: str | None = None
    arguments: Arguments = field(default_factory=Arguments)

    def add(self, timestamp: str) -> None:
        self.count += 1
        self.first_at = min(self.first_at or timestamp, timestamp)
        self.last_at = max(self.last_at or "", timestamp)

    def add_failure(self, record: Mapping[str, Any], details: Mapping[str, Any]) -> None:
        self.add(record["timestamp"])
        self.retried += bool(details.get("will_retry"))
        task_id = record.get("task_id")
        if task_id is not None:
            self.sample_task_id = self.sample_task_id or task_id
            self.task_names.add(details.get("task_name") or name_of_key(task_id))
        worker = details.get("worker")
        if worker is not None:
            self.workers.add(qualified(worker, record.get("writer")))
        traceback = details.get("traceback")
        if traceback and self.traceback is None:
            self.traceback = cut(traceback, _MAX_TRACEBACK)
        self.arguments.add(details.get("input_parameters"))

    def document(self) -> FailureGroup:
        row: Any = {name: getattr(self, name) for name in FailureGroup.__annotations__}
        del row["arguments"]
        if arguments := self.arguments.document():
            row["arguments"] = arguments
        return row | {
            "messages": list(self.messages) if len(self.messages) > 1 else [],
            "task_names": self.task_names.document(),
            "workers": self.workers.document(),
        }


class Failures:
    """Failures by class and by cause, from failures.jsonl and from failed attempts of tasks."""

    def __init__(self, workers: Workers) -> None:
        self.classes: Counter[str] = Counter()
        self._workers = workers
        self._by_cause: dict[tuple[str, str, str], _FailureGroup] = {}
        self._of_tasks: dict[tuple[str, str], _FailureGroup] = {}
        self._messages_left = MAX_MESSAGES_TEXT

    def add_task(self, task_name: str, record: Mapping[str, Any]) -> None:
        """Add a record of tasks.jsonl with an error: a failure record has no task name."""
        message = record.get("error_message")
        key = failure_pattern(str(record["error_type"]), message)
        group = self._of_tasks.get(key)
        if group is None:
            if len(self._of_tasks) >= MAX_FAILURE_GROUPS:
                return
            group = self._of_tasks[key] = _FailureGroup(
                failure_class=key[0],
                message=str(message or "")[:_MAX_MESSAGE],
                pattern=key[1],
                phase="task_execution",
            )
        if record.get("blame") is not None:
            group.dependents_failed += 1
            return
        group.add(record["timestamp"])
        group.task_names.add(task_name)
        worker: Any = record.get("worker")
        if is_address(worker):
            group.workers.add(qualified(worker, record.get("writer")))

    def add(self, record: Mapping[str, Any]) -> None:
        """Add a record of failures.jsonl."""
        failure_class = str(record["failure_class"])
        if failure_class not in self.classes and len(self.classes) >= MAX_FAILURE_GROUPS:
            failure_class = OTHER
        self.classes[failure_class] += 1
        details = record.get("details") or {}
        phase = str(details.get("phase") or "")
        message = record.get("message")
        is_loss = phase == "worker_lost"
        if is_loss:
            # The message names the worker, so losses are grouped by reason.
            pattern = str(details.get("reason") or "")
            self._add_memory_peak(details, record.get("writer"))
        else:
            pattern = failure_pattern(failure_class, message)[1]
        # The phase is in the key: the failure that ended a run is not one more failed attempt.
        key = (failure_class, pattern, phase)
        if key not in self._by_cause and len(self._by_cause) >= MAX_FAILURE_GROUPS:
            key = (failure_class, OTHER, "")
        text = str(message or "")
        group = self._by_cause.get(key)
        if group is None:
            group = self._by_cause[key] = _FailureGroup(
                failure_class=failure_class,
                message=OTHER if key[1] == OTHER else text[:_MAX_MESSAGE],
                pattern=key[1],
                phase=key[2] or None,
                cause=details.get("cause"),
            )
        group.add_failure(record, details)
        if not is_loss and key[1] != OTHER:
            self._keep_message(group, text[:MAX_PATTERN])

    def rows(self, *, from_tasks: bool) -> list[FailureGroup]:
        """Return the groups, the largest first; of a run without failure records those of tasks."""
        rows = [group.document() for group in self._by_cause.values()]
        for row in rows:
            tasks = self._of_tasks.get((row["failure_class"], row.get("pattern", "")))
            if tasks is not None and row["task_names"]:
                row["task_names"] = tasks.task_names.document() or row["task_names"]
                row["dependents_failed"] = tasks.dependents_failed
        if from_tasks:
            rows += [group.document() for group in self._of_tasks.values()]
        return sorted(rows, key=itemgetter("count"), reverse=True)

    def _keep_message(self, group: _FailureGroup, text: str) -> None:
        kept = group.messages
        if text not in kept and len(kept) < MAX_MESSAGES and len(text) <= self._messages_left:
            kept[text] = None
            self._messages_left -= len(text)

    def _add_memory_peak(self, details: Mapping[str, Any], writer: str | None) -> None:
        peak = max(details.get("memory_peak_bytes") or 0, details.get("memory_bytes") or 0)
        address: Any = details.get("worker")
        if peak and is_address(address):
            self._workers.add_usage(address, peak / 1e9, writer=writer)


class Costs:
    """Recorded costs: the sum for each currency, and the last estimate."""

    _AMOUNTS: Final = ("total_hourly", "total_monthly")

    def __init__(self) -> None:
        self._records = 0
        self._estimates = 0
        self._estimate: Mapping[str, Any] | None = None
        self._sums: dict[str, dict[str, Any]] = {}

    def add(self, record: Mapping[str, Any]) -> None:
        """Add a record of cost.jsonl."""
        metadata = record.get("metadata")
        self._records += 1
        if isinstance(metadata, Mapping) and metadata.get("estimate"):
            # A later estimate of the run replaces an earlier one.
            self._estimates += 1
            self._estimate = {name: record.get(name) for name in ("currency", *self._AMOUNTS)}
            return
        currency = str(record.get("currency") or "")
        if currency not in self._sums and len(self._sums) >= MAX_CURRENCIES:
            currency = OTHER
        row = self._sums.setdefault(currency, {"records": 0, **dict.fromkeys(self._AMOUNTS)})
        row["records"] += 1
        for name in self._AMOUNTS:
            value = record.get(name)
            if value is not None:
                row[name] = (row[name] or 0.0) + float(value)

    def document(self) -> dict[str, Any]:
        """Return the sums; also a total, if there is one currency."""
        # Sums of different currencies cannot be added up.
        single: Mapping[str, Any] = {} if self._sums else self._estimate or {}
        if len(self._sums) == 1:
            ((currency, row),) = self._sums.items()
            single = {**row, "currency": currency or None}
        return {
            "records_count": self._records,
            "estimates_count": self._estimates,
            **{name: single.get(name) for name in ("currency", *self._AMOUNTS)},
            "by_currency": {currency: dict(row) for currency, row in self._sums.items()},
            "estimate": self._estimate,
        }
