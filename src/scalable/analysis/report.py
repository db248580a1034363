"""The report of one run: what ran, how it went, what it cost, and what the record lacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from scalable.analysis.code_and_data import CodeAndData
from scalable_runs.schema import (
    ArgumentSummary,
    CacheSummary,
    NameSummary,
    Resources,
    SlowAttempt,
    SummaryCounts,
    UnfinishedTask,
    WorkerSummary,
)

Document: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class FailureGroup:
    """Failures of one cause."""

    failure_class: str
    message: str
    #: The different messages, where there is more than one.
    messages: tuple[str, ...]
    count: int
    retried: int
    dependents_failed: int
    phase: str | None
    task_names: Mapping[str, int]
    workers: Mapping[str, int]
    first_at: datetime | None
    last_at: datetime | None
    traceback: str | None
    #: What the attempts were called with, as far as that is known.
    arguments: Sequence[ArgumentSummary] = ()
    #: Where the program ended with it, by its own traceback; None if it did not.
    ended_run: str | None = None

    @property
    def kind(self) -> Literal["task", "worker", "program"]:
        """What failed."""
        if self.phase == "worker_lost":
            return "worker"
        return "task" if self.phase in (None, "", "task_execution") else "program"


@dataclass(frozen=True, slots=True)
class Recorded:
    """What the program recorded of its own, such as the artifacts of one name."""

    name: str
    count: int
    detail: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that a report contains.

    Attributes
    ----------
    status
        The run's status as its reader sees it: a run whose recorder is gone is `lost`.
    why
        Why the run ended so, as one sentence; None where there is nothing to explain.
    is_live
        Whether the run is still being recorded: all numbers are of this moment.
    as_of
        When the last thing known of the run happened.
    missing
        What the record lacks, a sentence each.
    notes
        What a reader has to know to take the numbers as they are meant, a sentence each.
    source
        Whether the numbers come from `summary.json`, written as the run closed, or from reading
        every journal (`scan`).
    unknown
        Tasks without a final state in the record of a run that has ended.
    program
        File name of the program, where its code was sent to the workers by value.
    artifacts, metrics
        What the program recorded of its own: the first of them, in the order of their names.
    code
        Code, packages and data, as far as they are recorded.
    document
        The whole of it in the shape of summary.json.
    """

    run_id: str
    path: Path | str
    project: str
    target: str
    provider: str
    status: str
    why: str | None
    is_live: bool
    started_at: datetime | None
    finished_at: datetime | None
    as_of: datetime | None
    wall_s: float | None
    trace_id: str | None
    source: Literal["summary.json", "scan"]
    counts: SummaryCounts
    resources: Resources
    cache: CacheSummary
    tasks: Mapping[str, NameSummary]
    slowest: Sequence[SlowAttempt]
    failures: tuple[FailureGroup, ...]
    workers: Sequence[WorkerSummary]
    unfinished: Sequence[UnfinishedTask]
    missing: tuple[str, ...]
    notes: tuple[str, ...]
    unknown: int
    program: str
    artifacts: tuple[Recorded, ...]
    metrics: tuple[Recorded, ...]
    code: CodeAndData
    document: Document

    def worker_label(self, address: str | None) -> str:
        """Name a worker as :func:`worker_label` does."""
        return self.labels.get(address or "") or worker_label(address, None)

    @property
    def end(self) -> datetime | None:
        """When the run ended, or when the last thing known of it happened."""
        return self.finished_at or self.as_of

    @property
    def lost_scheduler(self) -> bool:
        """Whether the scheduler was lost during the run."""
        return any(row.phase == "scheduler_lost" for row in self.failures)

    @property
    def hosts(self) -> Mapping[str, str]:
        """The hosts of workers by address."""
        return {row["worker"]: row["host"] for row in self.workers if row["worker"] and row["host"]}

    @property
    def labels(self) -> Mapping[str, str]:
        """The labels of workers by address."""
        return {
            row["worker"]: worker_label(row["worker"], row["worker_id"])
            for row in self.workers
            if row["worker"]
        }


def worker_label(address: str | None, name: str | None) -> str:
    """Return what a worker is called everywhere: its name, and its host and port.

    Workers of a :class:`distributed.LocalCluster` keep their names when they are restarted, and a
    name alone does not identify one process.

    Examples
    --------
    >>> worker_label("tcp://10.0.0.7:40311", "3"), worker_label("tcp://10.0.0.7:40311", None)
    ('3 (10.0.0.7:40311)', '10.0.0.7:40311')
    >>> worker_label("inproc://10.0.0.7/4711/4", "0")
    '0'
    """
    address, of, writer = (address or "").partition(" of ")
    if of:  # by `qualified`, in a run with several writers
        return f"{worker_label(address, name)}{of}{writer}"
    scheme, _, place = address.rpartition("://")
    if not address or not place:
        return name or address or "-"
    if not name or name in (address, place):
        return address if scheme == "inproc" else place
    return name if scheme == "inproc" else f"{name} ({place})"


#: Phases of a failure that the program ended with.
ENDED_THE_RUN: Final = frozenset({"run", "session.context"})


def exit_words(message: str) -> str:
    """Put the argument of :class:`SystemExit` into words."""
    code = message.strip()
    if code in ("", "None"):
        return "exit status 0"
    if code.startswith("exit status "):
        return code
    return f"exit status {code}" if code.lstrip("-").isdecimal() else f"exit status 1, “{code}”"
