"""Gathers from the journals of a run what the rules judge, in bounded memory."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final, Literal, NamedTuple, TypeAlias, cast

from scalable.analysis.attempts import Attempt, AttemptTracker
from scalable.analysis.frames import own_frame
from scalable.analysis.gaps import problem_sentences
from scalable.analysis.load import Progress, load_report
from scalable.analysis.report import Report
from scalable.causes import CAUSES, Case, Confidence, Verdict, case_of, classify
from scalable_runs.plain import cut, parse_time
from scalable_runs.reader import RunReader
from scalable_runs.schema import (
    FAILURES,
    TASKS,
    WORKERS,
    FailureDetails,
    FailureRecord,
    Record,
    TaskRecord,
    WorkerRecord,
)
from scalable_runs.summary import MAX_MESSAGES, Arguments, failure_pattern, name_of_key
from scalable_runs.writers import told_apart

#: Journals of tasks up to this size are read for what differs between failures and successes; of
#: larger finished runs only summary.json and failures.jsonl are used.
MAX_TASKS_READ: Final = 16 * 2**20
#: Groups of failures kept apart; the rest is one finding.
MAX_GROUPS: Final = 200
#: Tasks remembered of one kind.
MAX_TASKS: Final = 2_000
#: Members counted of a group: names, workers, components.
_MAX_MEMBERS: Final = 200
#: Failures judged one by one.
_MAX_JUDGED: Final = 5_000
#: Characters of a message, a traceback or an output that are looked at.
_MAX_TEXT: Final = 20_000
#: The class of the failures that found no group of their own.
_VARIOUS: Final = "various exceptions"
_NOT_JUDGED: Final = Verdict("unknown", "low", ("there are too many kinds to judge each",))

Kind: TypeAlias = Literal["task", "worker", "scheduler", "program"]
_KINDS: Final[dict[str, Kind]] = {
    "task_execution": "task",
    "worker_lost": "worker",
    "scheduler_lost": "scheduler",
}


@dataclass(slots=True)
class Group:
    """Failures of one cause and one root."""

    cause: str
    confidence: Confidence
    evidence: tuple[str, ...]
    failure_class: str
    message: str
    phase: str
    count: int = 0
    #: Tasks that failed for good, and those of which an attempt failed and ran again.
    final: set[str] = field(default_factory=set[str])
    retried: set[str] = field(default_factory=set[str])
    #: The names of these tasks.
    name_of: dict[str, str] = field(default_factory=dict[str, str])
    names: Counter[str] = field(default_factory=Counter[str])
    workers: Counter[str] = field(default_factory=Counter[str])
    components: Counter[str] = field(default_factory=Counter[str])
    messages: dict[str, None] = field(default_factory=dict[str, None])
    patterns: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])
    first: str = ""
    last: str = ""
    traceback: str = ""
    #: What the attempts were called with.
    arguments: Arguments = field(default_factory=Arguments)
    #: Of lost workers.
    deaths: list[FailureDetails] = field(default_factory=list[FailureDetails])

    @property
    def kind(self) -> Kind:
        """What failed."""
        kind = _KINDS.get(self.phase, "program")
        return "task" if kind == "program" and (self.final or self.retried) else kind

    def add(self, record: FailureRecord, details: FailureDetails) -> None:
        """Take in one failure."""
        self.count += 1
        at = record.get("timestamp")
        if at is not None:
            self.first = min(self.first or at, at)
            self.last = max(self.last, at)
        task_id = record.get("task_id") or details.get("task_id")
        if task_id is not None:
            kept = self.retried if details.get("will_retry") else self.final
            name = str(details.get("task_name") or name_of_key(task_id))
            if len(kept) < MAX_TASKS:
                kept.add(task_id)
                self.name_of[task_id] = name
            _count(self.names, name)
        _count(self.workers, details.get("worker"))
        _count(self.components, record.get("component"))
        message = record.get("message") or ""
        if len(self.messages) < MAX_MESSAGES:
            self.messages[message[:500]] = None
        if len(self.patterns) < 20:
            self.patterns.add(failure_pattern(self.failure_class, message))
        self.traceback = self.traceback or details.get("traceback") or ""
        self.arguments.add(details.get("input_parameters"))
        if self.phase == "worker_lost" and len(self.deaths) < MAX_TASKS:
            self.deaths.append(details)


class Killed(NamedTuple):
    """A task that failed because its worker died."""

    task_id: str
    worker: str | None
    message: str | None


class Interrupted(NamedTuple):
    """An attempt that was cancelled while it ran."""

    task_id: str
    ran_s: float
    at: datetime | None


class Observations:
    """What is read of the journals beyond the report's numbers; one thread feeds it.

    The three methods named after journals yield the records that they are given: they look at
    them on their way into a summary.
    """

    def __init__(self) -> None:
        self.groups: dict[tuple[str, ...], Group] = {}
        self.notes: list[str] = []
        #: KilledWorker failures, to be put under the deaths that they are a consequence of.
        self.killed: list[Killed] = []
        #: The last line of each worker.
        self.worker_lines: dict[str, WorkerRecord] = {}
        #: Bytes of the inputs, and seconds of execution, of tasks named like those that failed.
        self.inputs: dict[str, float] = {}
        self.durations: dict[str, float] = {}
        #: Tasks that failed because of another, by that one.
        self.blamed: dict[str, list[str]] = {}
        #: Of each name: workers of the attempts that succeeded, their seconds and their number.
        self.name_workers: dict[str, Counter[str]] = {}
        self.succeeded: dict[str, tuple[float, int]] = {}
        self.interrupted: list[Interrupted] = []
        self._judged = 0
        self._verdicts: dict[tuple[str, str], Verdict] = {}

    def of_kind(self, kind: Kind) -> list[Group]:
        """Return the groups of what failed."""
        return [group for group in self.groups.values() if group.kind == kind]

    # -- failures ----------------------------------------------------------------------------------

    def failures(self, records: Iterable[Record]) -> Iterator[Record]:
        """Group failures by cause and root."""
        for record in records:
            self._failure(cast("FailureRecord", told_apart(record)))
            yield record

    def _failure(self, record: FailureRecord) -> None:
        details = record.get("details") or FailureDetails()
        failure_class = record.get("failure_class") or "Exception"
        task_id = record.get("task_id")
        if failure_class == "Reschedule":
            return  # an older record: a request of the task, and no failure
        if failure_class.rpartition(".")[2] == "KilledWorker" and task_id is not None:
            if len(self.killed) < MAX_TASKS:
                message = record.get("message")
                self.killed.append(Killed(task_id, details.get("worker"), message))
            return
        details = _bounded(details)
        record = {**record, "message": cut(record.get("message") or "", _MAX_TEXT)}
        case = case_of({**record, "details": details})
        verdict = self._judge(case)
        self._group(record, details, case, verdict).add(record, details)

    def _group(
        self, record: FailureRecord, details: FailureDetails, case: Case, verdict: Verdict
    ) -> Group:
        """Return the group that a failure belongs to."""
        recorded = details.get("cause")
        cause = recorded if recorded is not None and recorded in CAUSES else verdict.cause
        phase = details.get("phase") or "task_execution"
        failure_class = record.get("failure_class") or "Exception"
        key = (cause, failure_class, phase, *_root(case))
        if key not in self.groups and len(self.groups) >= MAX_GROUPS:
            failure_class = _VARIOUS
            key = (cause, failure_class, phase)
        group = self.groups.get(key)
        if group is None:
            stated = details.get("confidence")
            evidence = details.get("evidence")
            if evidence is None:
                # The evidence of another cause than the recorded one says nothing of that.
                evidence = verdict.evidence if cause == verdict.cause else ()
            group = self.groups[key] = Group(
                cause,
                stated if stated in ("high", "medium", "low") else verdict.confidence,
                tuple(evidence),
                failure_class,
                (record.get("message") or "")[:2_000],
                phase,
            )
        return group

    def _judge(self, case: Case) -> Verdict:
        """Judge a failure; after many thousands, as one of the same pattern was judged before."""
        pattern = failure_pattern(case.failure_class, case.message)
        if self._judged >= _MAX_JUDGED:
            return self._verdicts.get(pattern, _NOT_JUDGED)
        self._judged += 1
        verdict = self._verdicts[pattern] = classify(case)
        return verdict

    # -- workers and tasks -------------------------------------------------------------------------

    def workers(self, records: Iterable[Record]) -> Iterator[Record]:
        """Keep the last line of each worker."""
        for record in records:
            line = cast("WorkerRecord", told_apart(record))
            address = line.get("worker")
            if address is not None and len(self.worker_lines) < 10_000:
                self.worker_lines[address] = line
            yield record

    def tasks(self, records: Iterable[Record]) -> Iterator[Record]:
        """Keep what may differ between tasks that failed and others of the same names."""
        tracker = AttemptTracker()
        names = {name for group in self.groups.values() for name in group.names}
        failed = {task for group in self.groups.values() for task in group.final}
        sizes: dict[str, float] = {}
        dependencies: dict[str, tuple[str, ...]] = {}
        #: Seconds for which the last attempt ran that was lost.
        lost_after: dict[str, float] = {}
        for record in records:
            yield record
            line = cast("TaskRecord", told_apart(record))
            task_id, state = line.get("task_id"), line.get("state")
            if task_id is None or state is None:
                continue
            self._follow(line, tracker.add(line), lost_after)
            nbytes = line.get("nbytes")
            if state == "succeeded" and nbytes is not None and len(sizes) < 200_000:
                sizes[task_id] = nbytes
            blame, name = line.get("blame"), line.get("task_name")
            if names and blame is not None:
                followers = self.blamed.setdefault(blame, [])
                if len(followers) < MAX_TASKS:
                    followers.append(task_id)
            elif name is not None and name in names:
                duration = line.get("duration_s")
                if state == "submitted" and len(dependencies) < 50_000:
                    dependencies[task_id] = tuple(line.get("dependencies") or ())
                elif state in ("failed", "retried") and task_id in failed and duration is not None:
                    self.durations[task_id] = duration
                elif state == "succeeded":
                    self._success(name, line.get("worker"), duration or 0.0)
        for task_id, inputs in dependencies.items():
            known = [sizes[name] for name in inputs if name in sizes]
            if known:
                self.inputs[task_id] = sum(known)

    def _success(self, name: str, worker: str | None, duration: float) -> None:
        _count(self.name_workers.setdefault(name, Counter()), worker, 1_000)
        total, number = self.succeeded.get(name, (0.0, 0))
        self.succeeded[name] = (total + duration, number + 1)

    def _follow(
        self, record: TaskRecord, attempt: Attempt | None, lost_after: dict[str, float]
    ) -> None:
        """Keep the attempts that were cancelled while they ran.

        A worker may be stopped together with the program: then its attempt is lost first, and the
        task is cancelled after that.
        """
        task_id, state = record.get("task_id", ""), record.get("state")
        ran = lost_after.pop(task_id, None)
        if attempt is not None:
            ran = attempt.elapsed_s
        if ran is None:
            return
        if state == "lost":
            lost_after[task_id] = ran
        elif state == "cancelled" and len(self.interrupted) < MAX_TASKS:
            at = parse_time(record.get("timestamp"))
            self.interrupted.append(Interrupted(task_id, ran, at))


def gather(reader: RunReader, progress: Progress | None) -> tuple[Report, Observations]:
    """Read as little as is needed: a good summary.json and the failures, else every journal."""
    seen = Observations()
    small = reader.size(TASKS) <= MAX_TASKS_READ

    def tap(file: str, records: Iterator[Record]) -> Iterator[Record]:
        if file == FAILURES:
            return seen.failures(records)
        if file == WORKERS:
            return seen.workers(records)
        return seen.tasks(records) if file == TASKS and small else records

    def read(file: str) -> None:
        for _ in tap(file, reader.records(file)):
            pass

    report = load_report(reader, progress, tap=tap)
    if report.source == "summary.json":
        read(FAILURES)
        read(WORKERS)
        if small and (seen.groups or report.status in ("cancelled", "failed")):
            read(TASKS)
        missing = dict.fromkeys((*report.missing, *problem_sentences(reader)))
        report = replace(report, missing=tuple(missing))
    if seen.groups and not small:
        # A look at each of a million lines would take half as long again as reading them.
        seen.notes.append(
            "This run is large: what differs between failed and successful tasks was looked for "
            "in its summary alone."
        )
    return report, seen


def _bounded(details: FailureDetails) -> FailureDetails:
    """Cut long texts before anything is searched for in them."""
    details = {**details}
    for name in ("traceback", "stderr_tail"):
        text = details.get(name)
        if text is not None:
            details[name] = cut(text, _MAX_TEXT)
    return details


def _root(case: Case) -> tuple[str, ...]:
    """Return what failures of one root share: how a process ended, or the line that raised."""
    if case.is_worker:
        return (case.signal or "", "" if case.exit_code is None else str(case.exit_code))
    frame = own_frame(case.traceback)
    if frame is not None:
        return (frame.file, str(frame.line), frame.function)
    return (_QUOTED.sub("'…'", failure_pattern("", case.message)[1]),)


_QUOTED: Final = re.compile(r"'([^'\n]{1,200})'|\"([^\"\n]{1,200})\"")


def _count(members: Counter[str], member: str | None, limit: int = _MAX_MEMBERS) -> None:
    if member is not None and (member in members or len(members) < limit):
        members[member] += 1
