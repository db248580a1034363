"""What went wrong in a run and what to do about it: findings, grouped by cause and root."""

from __future__ import annotations

import os
import re
import socket
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from scalable.analysis._text import fit, gigabytes, percent, plural, seconds
from scalable.analysis.frames import Frame, crash_frames, own_frame, relevant_frames
from scalable.analysis.report import (
    ENDED_THE_RUN,
    Progress,
    Report,
    Unfinished,
    Worker,
    exit_words,
    load_report,
    read_journals,
    worker_label,
)
from scalable.analysis.words import SHORT, has_no_workers, memory_words, tasks_words
from scalable.causes import CAUSES, DEATHS, Case, Confidence, Verdict, case_of, classify
from scalable_runs.plain import cut, parse_time
from scalable_runs.reader import RunReader, resolve_run
from scalable_runs.schema import FAILURES, TASKS, WORKERS, Record
from scalable_runs.summary import MAX_MESSAGES, failure_pattern, name_of_key

#: The worst first. `critical`: the run itself failed or was lost; `error`: work was lost for good;
#: `warning`: it cost something, or nearly did; `info`: worth a look.
Severity: TypeAlias = Literal["critical", "error", "warning", "info"]
SEVERITIES: Final[tuple[Severity, ...]] = ("critical", "error", "warning", "info")

#: Journals of tasks up to this size are read for what differs between failures and successes; of
#: larger finished runs only what summary.json and failures.jsonl tell is used.
MAX_TASKS_READ: Final = 16 * 2**20
#: Groups of failures told apart; the rest is one finding.
MAX_GROUPS: Final = 200
_MAX_TASKS_KEPT: Final = 2_000
#: Failures judged one by one.
_MAX_JUDGED: Final = 5_000
#: Characters of a message, a traceback or an output that are looked at.
_MAX_TEXT: Final = 20_000
#: The class of the failures that found no group of their own.
_VARIOUS: Final = "various exceptions"
_NOT_JUDGED: Final = Verdict("unknown", "low", ("there are too many kinds to judge each",))
_MAX_IDS: Final = 10
_MAX_MEMBERS: Final = 20
_GIGABYTE: Final = 1e9

#: A worker above this share of its limit is near it; Dask spills from 0.6 of managed memory on,
#: Bytes on disk from which a worker counts as spilling: less costs nobody anything.
SPILL_WORTH_SAYING: Final = 10_000_000
#: pauses at 0.8 and ends the worker at 0.95 unless told otherwise.
NEAR_LIMIT: Final = 0.8
#: What a worker should have beyond the peak that was seen.
HEADROOM: Final = 1.25


@dataclass(frozen=True, slots=True)
class Consequence:
    """What followed from a finding."""

    title: str
    count: int
    task_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a finding rests on.

    Attributes
    ----------
    sentences
        What it was judged by, and what differs from what went well, a sentence each.
    task_ids
        The first of the tasks.
    task_names, workers, hosts
        How often each; workers by address.
    first_at, last_at
        When it began and when it happened last.
    message
        What one of the failures said.
    messages
        The different messages, where there is more than one.
    is_death
        Workers were lost; nothing else failed.
    culprits
        Which task is likely to be at fault, and which are not, a sentence each.
    task_count
        How many tasks there were; `task_ids` are the first of them.
    traceback
        Of one of the failures.
    frames
        Of that traceback, or of the stack of a crash: the user's own innermost frames and where it
        was raised, the innermost last.
    stderr_tail
        The last lines of a lost worker.
    files
        Files to open, relative to the run's directory where they lie in it.
    """

    sentences: tuple[str, ...] = ()
    task_ids: tuple[str, ...] = ()
    task_names: Mapping[str, int] = field(default_factory=dict[str, int])
    workers: Mapping[str, int] = field(default_factory=dict[str, int])
    hosts: Mapping[str, int] = field(default_factory=dict[str, int])
    first_at: datetime | None = None
    last_at: datetime | None = None
    message: str | None = None
    messages: tuple[str, ...] = ()
    is_death: bool = False
    culprits: tuple[str, ...] = ()
    task_count: int = 0
    traceback: str | None = None
    frames: tuple[Frame, ...] = ()
    stderr_tail: str | None = None
    files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that went wrong, or nearly did, with all that belongs to it.

    Attributes
    ----------
    severity
        One of :data:`SEVERITIES`.
    category
        One of :data:`scalable.causes.CAUSES`, or what is wrong where nothing failed:
        ``unfinished``, ``unknown_end``, ``scheduler_lost``, ``no_workers``, ``rescheduled``,
        ``memory_pressure``, ``spilling``, ``straggler``, ``skew``,
        ``recomputation``, ``transfer``, ``small_tasks``, ``driver_bound``, ``record``.
    count
        How often it happened.
    consequences
        What followed from it: it has no findings of its own.
    """

    severity: Severity
    category: str
    title: str
    count: int
    evidence: Evidence
    suggestion: str
    confidence: Confidence
    consequences: tuple[Consequence, ...] = ()


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The findings of one run, the worst first.

    Attributes
    ----------
    summary
        The whole in a sentence or two.
    program
        File name of the program, for frames of code that was sent to the workers by value.
    labels
        What each worker is called, by its address.
    prose
        The findings in a model's words, where that was asked for and a model answered.
    notes
        What a reader has to know, a sentence each.
    """

    run_id: str
    path: Path
    status: str
    summary: str
    findings: tuple[Finding, ...]
    started_at: datetime | None = None
    as_of: datetime | None = None
    program: str = ""
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    prose: str | None = None
    notes: tuple[str, ...] = ()


def diagnose_run(
    run_dir: str | os.PathLike[str] | None = None,
    *,
    run_id: str | None = None,
    runs_dir: str | os.PathLike[str] | None = None,
    no_ai: bool = True,
) -> Diagnosis:
    """Say what went wrong in a run, and what to do about it.

    Parameters
    ----------
    run_dir
        The run's directory; it may be live, finished, crashed or of an older tool.
    run_id, runs_dir
        Instead of `run_dir`: a run's id or the beginning of one (the latest without), and where
        runs live (``SCALABLE_RUNS_DIR``, else ``.scalable/runs``).
    no_ai
        False asks a model, if one is configured, to put the findings into prose: see
        :mod:`scalable.analysis.prose`. Nothing leaves the machine otherwise.

    Returns
    -------
    Diagnosis
        With `summary` and `findings`.

    Raises
    ------
    scalable_runs.reader.RunNotFoundError
        There is no such run.
    scalable_runs.reader.AmbiguousRunError
        More than one run's id begins like that.

    Examples
    --------
    >>> diagnosis = diagnose_run(".scalable/runs/run-2026…")  # doctest: +SKIP
    >>> for finding in diagnosis.findings:  # doctest: +SKIP
    ...     print(finding.severity, finding.title, finding.suggestion)
    """
    if run_dir is not None:
        path = Path(run_dir)
        reader = resolve_run(path.parent, path.name) if not path.is_dir() else RunReader(path)
    else:
        base = runs_dir or os.environ.get("SCALABLE_RUNS_DIR") or ".scalable/runs"
        reader = resolve_run(base, run_id)
    diagnosis = diagnose(reader)
    if no_ai:
        return diagnosis
    from scalable.analysis.prose import with_prose

    return with_prose(diagnosis)


def diagnose(reader: RunReader, progress: Progress | None = None) -> Diagnosis:
    """Make the diagnosis of a run; `progress` is told how many bytes of how many were read."""
    collected = _Collected()
    report = _load(reader, collected, progress)
    findings = [
        _with_files(finding, report.path)
        for finding in (*_failures(report, collected), *_conditions(report, collected))
    ]
    findings.sort(
        key=lambda finding: (
            SEVERITIES.index(finding.severity),
            # What follows from a lost worker comes after it.
            not finding.evidence.is_death,
            -finding.count,
        )
    )
    return Diagnosis(
        run_id=report.run_id,
        path=report.path,
        status=report.status,
        summary=_summary(report, findings),
        findings=tuple(findings),
        started_at=report.started_at,
        as_of=report.as_of,
        program=report.program,
        labels=report.labels,
        notes=(*report.notes, *collected.notes),
    )


def _with_files(finding: Finding, run_dir: Path) -> Finding:
    """Name the files alone that are there; those of another host cannot be looked for."""
    files = finding.evidence.files
    kept = tuple(file for file in files if _is_there(file, run_dir))
    return replace(finding, evidence=replace(finding.evidence, files=kept))


def _is_there(file: str, run_dir: Path) -> bool:
    host, separator, path = file.partition(":/")
    if separator:
        here = host in ("127.0.0.1", "localhost", "::1", socket.gethostname())
        return not here or Path(f"/{path}").exists()
    return (run_dir / file).exists()


# -- collecting -----------------------------------------------------------------------------------


@dataclass(slots=True)
class _Group:
    """Failures of one cause and one root."""

    cause: str
    confidence: Confidence
    evidence: tuple[str, ...]
    failure_class: str
    message: str
    phase: str
    count: int = 0
    final: set[str] = field(default_factory=set[str])
    retried: set[str] = field(default_factory=set[str])
    names: Counter[str] = field(default_factory=Counter[str])
    workers: Counter[str] = field(default_factory=Counter[str])
    components: Counter[str] = field(default_factory=Counter[str])
    messages: dict[str, None] = field(default_factory=dict[str, None])
    #: The names of the tasks kept.
    name_of: dict[str, str] = field(default_factory=dict[str, str])
    patterns: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])
    first: str = ""
    last: str = ""
    traceback: str = ""
    deaths: list[Mapping[str, Any]] = field(default_factory=list[Mapping[str, Any]])

    @property
    def is_programs(self) -> bool:
        """The program or its session failed, and no task."""
        return self.phase not in ("task_execution", "worker_lost", "scheduler_lost") and not (
            self.final or self.retried
        )

    def add(self, record: Record, details: Mapping[str, Any]) -> None:
        self.count += 1
        at = record.get("timestamp")
        if isinstance(at, str):
            self.first = min(self.first or at, at)
            self.last = max(self.last, at)
        task_id = record.get("task_id") or details.get("task_id")
        if isinstance(task_id, str):
            kept = self.retried if details.get("will_retry") else self.final
            name = str(details.get("task_name") or name_of_key(task_id))
            if len(kept) < _MAX_TASKS_KEPT:
                kept.add(task_id)
                self.name_of[task_id] = name
            _count(self.names, name)
        worker = details.get("worker")
        if isinstance(worker, str):
            _count(self.workers, worker)
        component = record.get("component")
        if isinstance(component, str):
            _count(self.components, component)
        message = str(record.get("message") or "")
        if len(self.messages) < MAX_MESSAGES:
            self.messages[message[:500]] = None
        if len(self.patterns) < _MAX_MEMBERS:
            self.patterns.add(failure_pattern(self.failure_class, message))
        self.traceback = self.traceback or str(details.get("traceback") or "")
        if self.phase == "worker_lost" and len(self.deaths) < _MAX_TASKS_KEPT:
            self.deaths.append({**record, "details": details})


class _Collected:
    """What is read of the journals beyond the report's numbers; one thread feeds it."""

    def __init__(self) -> None:
        self.groups: dict[tuple[str, ...], _Group] = {}
        self.notes: list[str] = []
        self._judged = 0
        self._verdicts: dict[tuple[str, str], Verdict] = {}
        #: KilledWorker failures, to be put under the deaths that they are a consequence of.
        self.killed: list[tuple[str, Mapping[str, Any]]] = []
        self.worker_lines: dict[str, Mapping[str, Any]] = {}
        self.sizes: dict[str, int] = {}
        self.inputs: dict[str, int] = {}
        self.durations: dict[str, float] = {}
        self.blamed: dict[str, list[str]] = {}
        self.name_workers: dict[str, Counter[str]] = {}
        self.succeeded: dict[str, tuple[float, int]] = {}
        #: When each attempt began that runs, and those that were cancelled while they ran.
        self.began: dict[str, str] = {}
        #: How long the last attempt had run that was lost.
        self.lost_after: dict[str, float] = {}
        self.interrupted: list[tuple[str, float, str]] = []

    def failures(self, records: Iterable[Record]) -> Iterator[Record]:
        """Group failures as they pass by."""
        for record in records:
            self._failure(record)
            yield record

    def workers(self, records: Iterable[Record]) -> Iterator[Record]:
        """Keep the last line of each worker as they pass by."""
        for record in records:
            address = record.get("worker")
            if isinstance(address, str) and len(self.worker_lines) < 10_000:
                self.worker_lines[address] = record
            yield record

    def tasks(self, records: Iterable[Record]) -> Iterator[Record]:
        """Keep, of tasks named like those that failed, what may differ."""
        names = {name for group in self.groups.values() for name in group.names}
        failed = {task for group in self.groups.values() for task in group.final}
        dependencies: dict[str, tuple[str, ...]] = {}
        for record in records:
            yield record
            try:
                state = record["state"]
                self._follow(state, record)
                if state == "succeeded":
                    nbytes = record.get("nbytes")
                    if nbytes is not None and len(self.sizes) < 200_000:
                        self.sizes[record["task_id"]] = nbytes
                if not names:
                    continue
                blame = record.get("blame")
                if blame is not None:
                    followers = self.blamed.setdefault(str(blame), [])
                    if len(followers) < _MAX_TASKS_KEPT:
                        followers.append(record["task_id"])
                    continue
                if record.get("task_name") not in names:
                    continue
                task_id = record["task_id"]
                if state == "submitted":
                    if len(dependencies) < 50_000:
                        dependencies[task_id] = tuple(record.get("dependencies") or ())
                elif state in ("failed", "retried") and task_id in failed:
                    duration = record.get("duration_s")
                    if duration is not None:
                        self.durations[task_id] = duration
                elif state == "succeeded":
                    worker = record.get("worker")
                    if worker is not None:
                        counter = self.name_workers.setdefault(record["task_name"], Counter())
                        _count(counter, worker, 1_000)
                    total, number = self.succeeded.get(record["task_name"], (0.0, 0))
                    duration = record.get("duration_s") or 0.0
                    self.succeeded[record["task_name"]] = (total + duration, number + 1)
            except (KeyError, TypeError, ValueError):
                continue
        for task_id, names_of in dependencies.items():
            known = [self.sizes[name] for name in names_of if name in self.sizes]
            if known:
                self.inputs[task_id] = sum(known)

    def _follow(self, state: str, record: Record) -> None:
        """Keep the attempts that were cancelled while they ran."""
        task_id = record["task_id"]
        if state == "running":
            self.lost_after.pop(task_id, None)
            if len(self.began) < 50_000:
                self.began[task_id] = record["timestamp"]
            return
        began, ran = self.began.pop(task_id, None), self.lost_after.pop(task_id, None)
        if state not in ("lost", "cancelled"):
            return
        begin, end = parse_time(began), parse_time(record.get("timestamp"))
        if begin and end:
            ran = max(0.0, (end - begin).total_seconds())
        if ran is None:
            return
        if state == "lost":
            # Its worker may have been stopped together with the program.
            self.lost_after[task_id] = ran
        elif len(self.interrupted) < _MAX_TASKS_KEPT:
            self.interrupted.append((task_id, ran, str(record["timestamp"])))

    def _failure(self, record: Record) -> None:
        found: Any = record.get("details")
        details: Mapping[str, Any] = found if isinstance(found, Mapping) else {}
        failure_class = str(record.get("failure_class") or "Exception")
        phase = str(details.get("phase") or "task_execution")
        task_id = record.get("task_id")
        if failure_class == "Reschedule":
            return  # an older record: it is a request of the task's own and no failure
        if failure_class.rpartition(".")[2] == "KilledWorker" and isinstance(task_id, str):
            if len(self.killed) < _MAX_TASKS_KEPT:
                self.killed.append((task_id, {**details, "message": record.get("message")}))
            return
        record, details = _bounded(record, details)
        case = case_of(record)
        verdict = self._judge(case)
        recorded = details.get("cause")
        cause = recorded if recorded in CAUSES else verdict.cause
        evidence: Any = details.get("evidence")
        if isinstance(evidence, list):
            said = tuple(map(str, evidence))
        else:
            # What judged the words of the message says nothing of a cause that was recorded.
            said = verdict.evidence if cause == verdict.cause else ()
        root = _root(case, phase)
        key = (cause, failure_class, phase, *root)
        group = self.groups.get(key)
        if group is None:
            if len(self.groups) >= MAX_GROUPS:
                failure_class = _VARIOUS
                key = (cause, failure_class, phase)
                group = self.groups.get(key)
            if group is None:
                message = str(record.get("message") or "")[:2_000]
                stated: Any = details.get("confidence")
                confidence: Confidence = (
                    stated if stated in ("high", "medium", "low") else verdict.confidence
                )
                group = self.groups[key] = _Group(
                    cause, confidence, said, failure_class, message, phase
                )
        group.add(record, details)

    def _judge(self, case: Case) -> Verdict:
        """Judge a failure; of many thousands, the later ones as the same one was judged before."""
        kind = failure_pattern(case.failure_class, case.message)
        if self._judged < _MAX_JUDGED:
            self._judged += 1
            verdict = classify(case)
            self._verdicts[kind] = verdict
            return verdict
        return self._verdicts.get(kind, _NOT_JUDGED)


def _bounded(record: Record, details: Mapping[str, Any]) -> tuple[Record, Mapping[str, Any]]:
    """Cut long texts before anything is looked for in them."""
    shorter = {
        name: cut(text, _MAX_TEXT)
        for name in ("traceback", "stderr_tail")
        if len(text := details.get(name) or "") > _MAX_TEXT
    }
    message = record.get("message") or ""
    if not shorter and len(message) <= _MAX_TEXT:
        return record, details
    details = {**details, **shorter}
    return {**record, "message": cut(message, _MAX_TEXT), "details": details}, details


def _root(case: Case, phase: str) -> tuple[str, ...]:
    """What failures of one root share: how a process ended, or the line that raised."""
    if case.is_worker:
        return (case.signal or "", "" if case.exit_code is None else str(case.exit_code))
    frame = own_frame(case.traceback)
    if frame is not None:
        return (frame.file, str(frame.line), frame.function)
    return (_QUOTED.sub("'…'", failure_pattern("", case.message)[1]),)


_QUOTED: Final = re.compile(r"'([^'\n]{1,200})'|\"([^\"\n]{1,200})\"")


def _load(reader: RunReader, collected: _Collected, progress: Progress | None) -> Report:
    """Read as little as tells all: summary.json if there is a good one, and the failures."""
    size = reader.size(TASKS)
    small = size <= MAX_TASKS_READ

    def tap(file: str, records: Iterator[Record]) -> Iterator[Record]:
        if file == FAILURES:
            return collected.failures(records)
        if file == WORKERS:
            return collected.workers(records)
        if file == TASKS and small:
            return collected.tasks(records)
        return records

    report = load_report(
        reader, progress, scanner=lambda reader, progress: read_journals(reader, progress, tap=tap)
    )
    if report.source == "summary.json":
        for file in (FAILURES, WORKERS):
            for _ in tap(file, reader.records(file)):
                pass
        stopped = report.status in ("cancelled", "failed")
        if (collected.groups or stopped) and small:
            for _ in tap(TASKS, reader.records(TASKS)):
                pass
        report = replace(report, missing=tuple(dict.fromkeys((*report.missing, *_said(reader)))))
    if collected.groups and not small:
        # A look at each of a million lines would take half as long again as reading them.
        collected.notes.append(
            "This run is large: what differs between failed and successful tasks was looked for "
            "in its summary alone."
        )
    return report


def _said(reader: RunReader) -> Iterator[str]:
    for problems in reader.problems.values():
        yield from (f"{sentence}." for sentence in problems.sentences())


def _count(members: Counter[str], member: Any, limit: int = 200) -> None:
    if isinstance(member, tuple):
        member = next(filter(None, member), "")
    if member in members or len(members) < limit:
        members[member] += 1


# -- findings: failures ---------------------------------------------------------------------------


def _failures(report: Report, collected: _Collected) -> Iterator[Finding]:
    deaths = [group for group in collected.groups.values() if group.phase == "worker_lost"]
    killed = _Killed(collected.killed, deaths)
    for group in deaths:
        yield _death_finding(report, collected, group, killed)
    if killed.unexplained:
        yield _killed_finding(report, killed)
    program = [group for group in collected.groups.values() if group.is_programs]
    not_started = any(group.phase == "session.start" for group in program)
    for group in collected.groups.values():
        if group.phase == "worker_lost":
            continue
        if group.phase == "scheduler_lost":
            yield _scheduler_finding(report, group)
        elif not group.is_programs:
            yield from _task_findings(report, collected, group)
        elif not (not_started and group.phase == "session.close") and not _is_echo(
            group, collected
        ):
            # What went wrong while a session was closed that had not started is no more news, and
            # neither is the exception of a task, come back to the program that waited for it.
            yield _program_finding(report, collected, group)


class _Killed:
    """KilledWorker failures, each put under the deaths that caused it."""

    def __init__(
        self, failures: Sequence[tuple[str, Mapping[str, Any]]], deaths: Sequence[_Group]
    ) -> None:
        self.of: dict[int, list[str]] = {}
        self.unexplained: list[tuple[str, Mapping[str, Any]]] = []
        by_worker: dict[str, _Group] = {}
        present: dict[str, list[tuple[_Group, int]]] = {}
        for group in deaths:
            for death in group.deaths:
                details = death["details"]
                worker = details.get("worker")
                if isinstance(worker, str):
                    by_worker[worker] = group
                tasks = _strings(details.get("tasks"))
                for task in tasks:
                    present.setdefault(task, []).append((group, len(tasks)))
        #: Of each task that was there when a worker died: at how many deaths, at how many alone.
        self.present: dict[str, tuple[int, int]] = {
            task: (len(seen), sum(count == 1 for _, count in seen))
            for task, seen in present.items()
        }
        for task, details in failures:
            worker: Any = details.get("worker")
            group = by_worker.get(worker) if isinstance(worker, str) else None
            if group is None and task in present:
                group = present[task][-1][0]
            if group is None:
                self.unexplained.append((task, details))
            else:
                self.of.setdefault(id(group), []).append(task)


def _death_finding(
    report: Report, collected: _Collected, group: _Group, killed: _Killed
) -> Finding:
    cause = CAUSES[group.cause]
    details = [death["details"] for death in group.deaths]
    last = details[-1]
    how = _how_it_ended(last)
    who = plural(group.count, "worker") + (" was lost" if group.count == 1 else " were lost")
    # How it ended stands in the title.
    sentences = [said for said in group.evidence if said not in _IN_THE_TITLE]
    if how:
        sentences = [said for said in sentences if not said.endswith(how)]
    sentences += _death_sentences(report, group.cause, details)
    silent = group.cause == "timeout" and any(map(_is_silent, details))
    running = Counter(task for death in details for task in _strings(death.get("tasks")))
    culprits = tuple(_culprits(running, details, killed)) if group.cause in OWN_FAULT else ()
    stack = next(
        (stack for death in details if (stack := _str(death.get("stderr_tail"))) is not None), ""
    )
    files = [FAILURES, WORKERS]
    for death in details:
        files += [path for path in (death.get("stderr_path"),) if isinstance(path, str)]
    victims = killed.of.get(id(group), [])
    consequences: list[Consequence] = []
    if victims:
        consequences.append(
            Consequence(
                f"{plural(len(victims), 'task')} failed with KilledWorker",
                len(victims),
                tuple(victims[:_MAX_IDS]),
            )
        )
        followers = sum(len(collected.blamed.get(task, ())) for task in victims)
        if followers:
            consequences.append(
                Consequence(f"{plural(followers, 'task')} failed because of those", followers)
            )
    again = sum(running.values()) - len(victims)
    if again > 0:
        consequences.append(
            Consequence(f"{plural(again, 'attempt')} under way had to begin again", again)
        )
    recomputed = sum(_int(death.get("tasks_recomputed")) for death in details)
    if recomputed:
        consequences.append(
            Consequence(
                f"{plural(recomputed, 'finished result')} held there was lost with it"
                if recomputed == 1
                else f"{recomputed:,} finished results held there were lost",
                recomputed,
            )
        )
    return Finding(
        severity="error" if victims else "warning",
        category=group.cause,
        title=f"{_silence(details, running)}: Dask itself ended {plural(group.count, 'worker')}"
        if silent
        else f"{cause.title}: {who}{f' ({how})' if how else ''}",
        count=group.count,
        evidence=Evidence(
            sentences=tuple(dict.fromkeys(filter(None, sentences))),
            is_death=True,
            culprits=culprits,
            task_ids=tuple(task for task, _ in running.most_common(_MAX_IDS)),
            task_count=len(running),
            frames=crash_frames(stack) if group.cause == "segfault" else (),
            task_names=dict(Counter(map(name_of_key, running)).most_common(_MAX_MEMBERS)),
            workers=dict(group.workers.most_common(_MAX_MEMBERS)),
            hosts=_hosts(report, group.workers),
            first_at=parse_time(group.first),
            last_at=parse_time(group.last),
            message=group.message,
            stderr_tail=next(
                (tail for death in details if (tail := _str(death.get("stderr_tail")))), None
            ),
            files=tuple(dict.fromkeys(files)),
        ),
        suggestion=_death_suggestion(report, group, last, len(victims)),
        confidence=group.confidence,
        consequences=tuple(consequences),
    )


def _how_it_ended(details: Mapping[str, Any]) -> str:
    if details.get("signal"):
        return str(details["signal"])
    if details.get("exit_code") is not None:
        return f"exit status {details['exit_code']}"
    return ""


#: What a death is judged by and the title of its finding says already.
_IN_THE_TITLE: Final = frozenset(
    rule.evidence
    for rule in DEATHS
    if rule.confidence == "high" and rule.cause in ("segfault", "exited", "killed", "timeout")
)
#: Causes of a death that lie in what ran there; nobody is at fault for a signal from outside.
OWN_FAULT: Final = frozenset({"segfault", "exited", "oom", "memory_limit"})
#: Causes for which the worker's memory tells something.
_MEMORY_TELLS: Final = frozenset({"oom", "memory_limit", "killed", "unknown"})


def _death_sentences(
    report: Report, cause: str, deaths: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
    """Say what each worker ran and how much memory it used; the same things once."""
    ran = {tuple(_strings(death.get("tasks"))) for death in deaths}
    if any(map(_is_silent, deaths)):
        limits = [ttl for death in deaths if (ttl := _float(death.get("worker_ttl_s")))]
        if limits:
            yield f"distributed.scheduler.worker-ttl is {seconds(limits[0])}"
    if len(deaths) > 1 and len(ran) == 1 and (tasks := ran.pop()):
        yield f"each of them ran {_named(tasks)}"
        ran = set()
    for death in deaths[:_MAX_DEATHS]:
        tasks = _strings(death.get("tasks"))
        parts = [f"ran {_named(tasks)}"] if ran and tasks else []
        if cause in _MEMORY_TELLS:
            parts += _memory_of(death)
        if parts:
            yield f"worker {_worker_of(report, death)} {'; '.join(parts)}"
    if len(deaths) > _MAX_DEATHS:
        yield f"and {len(deaths) - _MAX_DEATHS:,} more workers"


#: Workers told of one by one.
_MAX_DEATHS: Final = 4


def _named(tasks: Sequence[str]) -> str:
    more = f" and {len(tasks) - 3:,} more" if len(tasks) > 3 else ""
    return f"{', '.join(tasks[:3])}{more}"


def _worker_of(report: Report, details: Mapping[str, Any]) -> str:
    address, name = _str(details.get("worker")), _str(details.get("worker_id"))
    return report.labels.get(address or "") or worker_label(address, name)


def _is_silent(details: Mapping[str, Any]) -> bool:
    """Dask itself ended the worker, since the scheduler heard no heartbeat of it."""
    return _float(details.get("worker_ttl_s")) is not None or details.get("reason") == "worker-ttl"


def _silence(deaths: Sequence[Mapping[str, Any]], running: Counter[str]) -> str:
    """Say for how long nothing was heard of workers, and what they ran."""
    ages = [
        age
        for death in deaths
        for name in ("heartbeat_age_s", "worker_ttl_s")
        if (age := _float(death.get(name)))
    ]
    text = f"No heartbeat for {seconds(max(ages))}" if ages else "No heartbeat"
    return f"{text} while {_named(list(running))} ran" if running else text


def _memory_of(details: Mapping[str, Any]) -> list[str]:
    """The most memory that a worker was known to use, and how it grew."""
    peak = max(_int(details.get("memory_bytes")), _int(details.get("memory_peak_bytes")))
    if not peak:
        return []
    text = f"used {memory_words(peak / _GIGABYTE, _int(details.get('memory_limit_bytes')) / 1e9)}"
    earlier = details.get("memory_samples")
    if isinstance(earlier, list) and len(earlier) > 1:
        begin, end = _pair(earlier[0]), _pair(earlier[-1])
        if begin and end and end[0] > begin[0] and peak > 1.2 * begin[1]:
            text += f", {gigabytes(begin[1] / _GIGABYTE)} {seconds(end[0] - begin[0])} before that"
    return [text]


def _culprits(
    running: Counter[str], deaths: Sequence[Mapping[str, Any]], killed: _Killed
) -> Iterator[str]:
    """Who was there at how many of these deaths: the likely culprits and the innocent.

    What the crashed thread's own stack names comes first, then who was alone when a worker died,
    then who was there most often; only then what the deaths of other causes say.
    """
    if not running:
        return
    alone: Counter[str] = Counter()
    on_stack: set[str] = set()
    for death in deaths:
        tasks = _strings(death.get("tasks"))
        if len(tasks) == 1:
            alone[tasks[0]] += 1
        functions = _crashed_in(_str(death.get("stderr_tail")) or "")
        on_stack.update(task for task in tasks if name_of_key(task) in functions)
    most = max(running.values())
    likely = (
        [task for task in running if task in on_stack]
        or [task for task in running if alone[task]]
        or [task for task, count in running.items() if count == most and most > 1]
        or [task for task in running if killed.present.get(task, (0, 0))[1]]
        or [task for task in running if killed.present.get(task, (0, 0))[0] > 1]
    )
    if len(likely) == len(running) > 1:
        likely = []
    likely.sort(key=lambda task: -running[task])
    for task in likely[:3]:
        at, _ = killed.present.get(task, (running[task], 0))
        yield (
            f"likely culprit: {task}, {_presence(max(at, running[task]), alone[task])}"
            f"{'; its code is on the stack of the crash' if task in on_stack else ''}"
        )
    innocent = [task for task in running if task not in likely]
    if likely and innocent:
        yield (
            f"likely innocent: {', '.join(innocent[:3])}"
            f"{f' and {len(innocent) - 3} more' if len(innocent) > 3 else ''}, running beside it"
        )
    elif not likely and len(running) > 1:
        yield f"any of the {len(running)} tasks that ran may be the culprit: none ran alone"


def _presence(deaths: int, alone: int) -> str:
    """Say at how many deaths a task was there."""
    if alone >= deaths:
        when = "when the worker died" if deaths == 1 else f"at all {deaths:,} deaths"
        return f"the only task that ran {when}"
    ran = f"which ran at {plural(deaths, 'death')}"
    return f"{ran}, {'once' if alone == 1 else f'{alone:,} times'} alone" if alone else ran


#: A frame as `faulthandler` writes it.
_CRASH_FRAME: Final = re.compile(r'^  File ".*", line \d+ in (\S+)', re.MULTILINE)


def _crashed_in(stderr: str) -> frozenset[str]:
    """Functions on the stack of the thread that crashed, where `faulthandler` has written it."""
    _, found, rest = stderr.partition("Current thread ")
    return frozenset(_CRASH_FRAME.findall(rest.partition("\n\n")[0])) if found else frozenset()


def _death_suggestion(
    report: Report, group: _Group, details: Mapping[str, Any], victims: int
) -> str:
    cause = group.cause
    if cause in ("oom", "memory_limit"):
        peak, limit = _peak(report, group)
        return _memory_suggestion(peak, limit, group)
    text = CAUSES[cause].remedy
    if cause in ("killed", "preempted", "connection", "walltime") and victims:
        text += (
            " Tasks failed with KilledWorker because they had bad luck more often than "
            "distributed.scheduler.allowed-failures permits: raise that."
        )
    if cause == "timeout" and _is_silent(details):
        text = (
            "Look at what the tasks named do: native code that holds Python's interpreter lock "
            "keeps its worker from sending a heartbeat. Run it in a process of its own, let it "
            "release the lock, or raise distributed.scheduler.worker-ttl."
        )
    if cause == "import_error":
        text += " A module beside your script must be found by the workers too."
    left = details.get("time_limit_s")
    if cause == "walltime" and isinstance(left, int | float):
        text += f" The limit was {seconds(float(left))}."
    return text


def _peak(report: Report, group: _Group) -> tuple[float | None, float | None]:
    """The most memory that the lost workers were seen to use, and their limit, in 10^9 bytes."""
    peaks: list[float] = []
    limits: list[float] = []
    for death in group.deaths:
        details = death["details"]
        peaks += [
            _int(details.get(name)) / _GIGABYTE for name in ("memory_bytes", "memory_peak_bytes")
        ]
        limits.append(_int(details.get("memory_limit_bytes")) / _GIGABYTE)
    rows = [worker for worker in report.workers if worker.address in group.workers]
    peaks += [worker.memory_gb_max or 0.0 for worker in rows]
    limits += [worker.memory_limit_gb or 0.0 for worker in rows]
    return max(peaks, default=0.0) or None, max(limits, default=0.0) or None


def _memory_suggestion(peak: float | None, limit: float | None, group: _Group | None) -> str:
    """Advise on memory where the peak was near the limit; else say what is known."""
    where = "the worker's memory limit (memory_limit=, dask worker --memory-limit)"
    if group is not None and group.components:
        where = f"memory of component {next(iter(group.components))!r} in the manifest"
    if peak is None:
        return f"Raise {where}, run fewer threads on it, or make the pieces smaller (chunk size)."
    seen = f"Peak {gigabytes(peak)}"
    if limit:
        seen += f" of a limit of {gigabytes(limit)}"
    # A worker is ended at 0.95 of its limit: what was seen then is a lower bound of what it needs.
    needed = max(peak, limit or 0.0) * HEADROOM
    return (
        f"{seen}, needs at least {gigabytes(needed)}: raise {where}, run fewer threads on it, or "
        "make the pieces smaller (chunk size)."
    )


#: How much could not be had, as allocators say it.
_ASKED: Final = re.compile(
    r"(?:allocat\w*|malloc of size|alloc of size|need\w*|request\w*)\D{0,40}?"
    r"(\d[\d.,]*) ?([KMGTPE]?i?B|bytes|[KMGTPE]ytes)\b"
)
_GPU: Final = re.compile(r"\b(?:CUDA|GPU|HIP|MPS|cuda|gpu|device)\b|rmm|RMM")
_SMALLER: Final = "make the pieces smaller (chunk or partition size)"


def _failed_allocation(report: Report, group: _Group) -> str:
    """Say what is known of a task that had no memory: the figure of its message, or none."""
    if _GPU.search(group.message):
        return (
            "The memory of the GPU was too small, not the worker's: use smaller batches, or fewer "
            "tasks on a GPU at a time (resources=)."
        )
    rows = [worker for worker in report.workers if worker.address in group.workers]
    peak = max((worker.memory_gb_max or 0.0 for worker in rows), default=0.0) or None
    limit = max((worker.memory_limit_gb or 0.0 for worker in rows), default=0.0) or None
    if peak and limit and peak >= NEAR_LIMIT * limit:
        return _memory_suggestion(peak, limit, group)
    asked = _ASKED.search(group.message[:2_000])
    if group.confidence == "low":
        said = "Its own words speak of memory; Dask saw nothing of it."
    elif asked:
        said = f"It asked for {asked[1]} {asked[2]} at once, and the machine did not have that."
    else:
        said = "It asked for more than the machine had; nothing shows how much."
    if all(worker.startswith("inproc:") for worker in group.workers):
        limit = None  # nothing holds threads of the program's own process to a limit
    used = f" The worker used {memory_words(peak, limit)} of memory at most." if peak else ""
    return (
        f"{said}{used} {_SMALLER.capitalize()}, or look at the size that is computed in the line "
        "named."
        if group.confidence != "low"
        else f"{said}{used} {CAUSES['oom'].remedy}"
    )


def _killed_finding(report: Report, killed: _Killed) -> Finding:
    tasks = [task for task, _ in killed.unexplained]
    workers = Counter(
        worker
        for _, details in killed.unexplained
        if isinstance(worker := details.get("worker"), str)
    )
    return Finding(
        severity="error",
        category="killed",
        title=f"{plural(len(tasks), 'task')} failed because the workers that ran "
        f"{'it' if len(tasks) == 1 else 'them'} died",
        count=len(tasks),
        evidence=Evidence(
            sentences=("how those workers ended was not recorded",),
            task_ids=tuple(tasks[:_MAX_IDS]),
            task_names=dict(Counter(map(name_of_key, tasks)).most_common(_MAX_MEMBERS)),
            workers=dict(workers.most_common(_MAX_MEMBERS)),
            hosts=_hosts(report, workers),
            message=_str(killed.unexplained[0][1].get("message")),
            files=(FAILURES, WORKERS),
        ),
        suggestion="Look at the logs of the workers named; with nannies the record tells how they "
        "ended. distributed.scheduler.allowed-failures says how many deaths a task may survive.",
        confidence="low",
    )


def _task_findings(report: Report, collected: _Collected, group: _Group) -> Iterator[Finding]:
    """Failures for good are one finding; those that a retry made good a lesser one."""
    survived = group.retried - group.final
    if group.final or not survived:
        yield _task_finding(report, collected, group, sorted(group.final), final=True)
    if survived:
        yield _task_finding(report, collected, group, sorted(survived), final=False)


def _task_finding(
    report: Report, collected: _Collected, group: _Group, tasks: list[str], *, final: bool
) -> Finding:
    cause = CAUSES[group.cause]
    # An older record may name no tasks at all.
    count = len(tasks) or group.count
    if final and len(group.final) == _MAX_TASKS_KEPT:
        count = max(count, group.count - len(group.retried))
    followers = sum(
        row.dependents_failed
        for row in report.failures
        if failure_pattern(row.failure_class, row.message) in group.patterns
    )
    names: list[str] = []
    if collected.blamed:
        names = [name for task in tasks for name in collected.blamed.get(task, ())]
        followers = max(followers, len(names)) if final else 0
    consequences = (
        (
            Consequence(
                f"{plural(followers, 'task')} failed because of {'it' if count == 1 else 'them'}",
                followers,
                tuple(names[:_MAX_IDS]),
            ),
        )
        if final and followers
        else ()
    )
    outcome = "failed" if final else "failed and went well when retried"
    title = f"{cause.title}: {plural(count, 'task')} {outcome} ({group.failure_class})"
    suggestion = _task_suggestion(report, group, final=final)
    return Finding(
        severity="error" if final else "info",
        category=group.cause,
        title=title,
        count=count,
        evidence=Evidence(
            sentences=(*group.evidence, *_patterns(report, collected, group, tasks)),
            task_ids=tuple(tasks[:_MAX_IDS]),
            task_count=count,
            task_names=dict(group.names.most_common(_MAX_MEMBERS)),
            workers=dict(group.workers.most_common(_MAX_MEMBERS)),
            hosts=_hosts(report, group.workers),
            first_at=parse_time(group.first),
            last_at=parse_time(group.last),
            message=group.message,
            messages=tuple(group.messages) if len(group.messages) > 1 else (),
            traceback=group.traceback[-20_000:] or None,
            frames=relevant_frames(group.traceback),
            files=(FAILURES, TASKS),
        ),
        suggestion=suggestion,
        confidence=group.confidence,
        consequences=consequences,
    )


def _task_suggestion(report: Report, group: _Group, *, final: bool) -> str:
    if group.cause == "oom":
        return _failed_allocation(report, group)
    text = CAUSES[group.cause].remedy
    if group.cause in ("connection", "timeout", "preempted"):
        if not final:
            return f"Retries helped. {text}"
        if not group.retried:
            text += " These tasks had no retries: client.submit(…, retries=2) would try again."
    if group.cause == "input_validation" and any(_TOKEN.search(task) for task in group.final):
        text += (
            " Arguments are not recorded: a key of your own, as in "
            'client.submit(f, x, key=f"tile-{x}"), tells in the record which input it was.'
        )
    return text


#: The end of a key that Dask made of the arguments: it tells a person nothing.
_TOKEN: Final = re.compile(r"-[0-9a-f]{32}(?:\D|$)")


def _patterns(
    report: Report, collected: _Collected, group: _Group, tasks: list[str]
) -> Iterator[str]:
    """What the failures have in common, and what differs from those that succeeded."""
    rows = {row.name: row for row in report.tasks}
    names = Counter(group.name_of[task] for task in tasks if task in group.name_of)
    for name, count in names.most_common(3):
        row = rows.get(name)
        if row is not None and row.count >= count and row.attempts > 1:
            attempts = group.names[name]
            times = f", in {attempts:,} attempts" if attempts > count else ""
            yield f"{count:,} of {plural(row.count, 'task')} named {name}{times}"
    yield from _places(report, collected, group)
    yield from _difference(
        "ran",
        [collected.durations[task] for task in tasks if task in collected.durations],
        [
            total / number
            for name in group.names
            for total, number in (collected.succeeded.get(name, (0.0, 0)),)
            if number
        ],
        seconds,
    )
    failed = set(tasks)
    yield from _difference(
        "had inputs of",
        [collected.inputs[task] / _GIGABYTE for task in tasks if task in collected.inputs],
        [
            size / _GIGABYTE
            for task, size in collected.inputs.items()
            if task not in failed and name_of_key(task) in group.names
        ],
        gigabytes,
    )
    yield from _memory_difference(report, group)


def _places(report: Report, collected: _Collected, group: _Group) -> Iterator[str]:
    """Failures that keep to one worker or host although the work did not."""
    total = group.workers.total()
    if total < 3 or len(report.workers) < 2:
        return
    done: Counter[str] = Counter()
    for name in group.names:
        done.update(collected.name_workers.get(name, {}))
    if not done:
        done.update({row.address: row.attempts for row in report.workers if row.address})
    hosts = {row.address: row.host for row in report.workers if row.address and row.host}
    places = (
        ("host", _by_host(group.workers, hosts), _by_host(done, hosts)),
        ("worker", group.workers, done),
    )
    for what, failures, attempts in places:
        if not failures or len(attempts) < 2:
            continue
        place, count = failures.most_common(1)[0]
        share = attempts[place] / (attempts.total() or 1)
        if count >= 0.8 * total and share <= 0.5:
            yield (
                f"{'all' if count == total else f'{count:,} of'} {total:,} on {what} {place}, "
                f"which ran {percent(share)} of those that went well"
            )
            return


def _by_host(workers: Mapping[str, int], hosts: Mapping[str, str]) -> Counter[str]:
    found: Counter[str] = Counter()
    for worker, count in workers.items():
        host = hosts.get(worker)
        if host is not None:
            found[host] += count
    return found


def _difference(
    verb: str, failed: Sequence[float], succeeded: Sequence[float], show: Any
) -> Iterator[str]:
    if not failed or not succeeded:
        return
    mine, theirs = sum(failed) / len(failed), sum(succeeded) / len(succeeded)
    if max(mine, theirs) < SHORT:
        return
    if mine > 2 * theirs or mine < theirs / 2:
        yield f"they {verb} {show(mine)} on average, those that went well {show(theirs)}"


def _memory_difference(report: Report, group: _Group) -> Iterator[str]:
    theirs = [
        worker.memory_gb_max
        for worker in report.workers
        if worker.memory_gb_max and worker.address not in group.workers and worker.attempts
    ]
    mine = [
        worker.memory_gb_max
        for worker in report.workers
        if worker.memory_gb_max and worker.address in group.workers
    ]
    if mine and theirs and sum(mine) / len(mine) > 2 * sum(theirs) / len(theirs):
        yield (
            f"their workers used up to {gigabytes(max(mine))}, the others {gigabytes(max(theirs))}"
        )


def _is_echo(group: _Group, collected: _Collected) -> bool:
    if group.phase not in ENDED_THE_RUN:
        return False
    patterns = {
        pattern
        for other in collected.groups.values()
        if not other.is_programs
        for pattern in other.patterns
    }
    if group.failure_class.rpartition(".")[2] == "KilledWorker":
        return bool(collected.killed)
    return bool(group.patterns & patterns)


def _program_finding(report: Report, collected: _Collected, group: _Group) -> Finding:
    """The program, or its session, ended with an exception of its own."""
    cause = CAUSES[group.cause]
    frames = relevant_frames(group.traceback)
    frame = own_frame(group.traceback)
    at = ""
    if frame is None or not frame.is_own:
        frames = ()  # how this package, or another, came to it tells nobody anything
    else:
        at = f" ({_file_name(frame.where(report.program).partition(' in ')[0])})"
    what = group.failure_class
    title, suggestion = f"The program ended with {what}{at}", cause.remedy
    severity: Severity = "critical"
    if group.phase == "session.start":
        said = " ".join((group.message or what).split())
        title = f"The session did not start: {fit(said, 200)}"
        if group.cause in ("connection", "timeout"):
            suggestion = (
                "Is the scheduler there, and is its address the one in the manifest? Look at "
                "`address` and `start_timeout` of the target, and at the jobs of the workers."
            )
        elif group.cause == "import_error":
            suggestion = "Install the package where the program runs; the message names it."
    elif group.phase == "session.close":
        severity, title = "warning", f"Closing the session failed: {what}"
    elif group.phase not in ENDED_THE_RUN:
        title = f"{group.phase} failed: {what}{at}"
    elif what == "SystemExit":
        title = f"The program ended itself with {exit_words(group.message)}{at}"
        suggestion = "Look at why it does: the line named calls sys.exit, or raises SystemExit."
        if exit_words(group.message) in ("exit status 143", "exit status 130"):
            suggestion = (
                "A status above 128 is a signal's number and 128: the program was told to stop "
                "(143 is SIGTERM, 130 is Ctrl-C)."
            )
    elif what == "TagError":
        suggestion = (
            "Add the tag to a component in the manifest (`tags:`), or submit with the name of one."
        )
    elif group.cause == "unknown":
        suggestion = "Read the line named: the exception is the program's own, not a task's."
    elif group.cause == "import_error":
        suggestion = "Install the package where the program runs, not on the workers."
    elif group.cause == "input_validation":
        suggestion = "Look at what the line named works on: it is the program's, not a task's."
    return Finding(
        severity=severity,
        category=group.cause,
        title=title,
        count=group.count,
        evidence=Evidence(
            sentences=(*group.evidence, *_interrupted(report, collected)),
            first_at=parse_time(group.first),
            last_at=parse_time(group.last),
            message=None if group.phase == "session.start" else group.message,
            traceback=group.traceback[-20_000:] or None,
            frames=frames,
            files=(FAILURES,),
        ),
        suggestion=suggestion,
        confidence=group.confidence if group.cause != "unknown" else "high",
    )


def _file_name(path: str) -> str:
    return re.split(r"[/\\]", path)[-1]


def _interrupted(report: Report, collected: _Collected) -> Iterator[str]:
    """Say what was running when the program ended; what was cancelled earlier is another story."""
    for task_id, ran, at in sorted(collected.interrupted, key=lambda row: -row[1])[:_MAX_IDS]:
        if _is_at_the_end(report, at):
            yield f"{task_id} had been running for {seconds(ran)}, and was cancelled"


def _is_at_the_end(report: Report, at: object) -> bool:
    moment, end = parse_time(at), report.finished_at or report.as_of
    return moment is not None and end is not None and ((end - moment).total_seconds() < _AT_THE_END)


#: Seconds before a run's end within which what is cancelled is cancelled by that end.
_AT_THE_END: Final = 10.0


def _scheduler_finding(report: Report, group: _Group) -> Finding:
    """The scheduler went away while there was work to do."""
    sentences: list[str] = []
    for task in report.unfinished[:_MAX_IDS]:
        sentences.append(_running_sentence(report, task))
    if report.counts["tasks_waiting"]:
        waiting = report.counts["tasks_waiting"]
        sentences.append(f"{plural(waiting, 'task')} had not begun, or waited to run again")
    return Finding(
        severity="critical",
        category="scheduler_lost",
        title=f"The scheduler went away with {plural(report.counts['tasks_running'], 'task')} "
        f"running and {report.counts['tasks_waiting']:,} that had not begun",
        count=max(1, report.unknown),
        evidence=Evidence(
            sentences=tuple(sentences),
            task_ids=tuple(task.task_id for task in report.unfinished[:_MAX_IDS]),
            task_count=report.unknown,
            first_at=parse_time(group.first),
            message=group.message,
            files=(FAILURES, TASKS),
        ),
        suggestion="Find out why its process ended: its own log, the host's log (out of memory?), "
        "the batch system. Nothing of what it knew is left; what had finished is in tasks.jsonl.",
        confidence="high",
    )


def _running_sentence(report: Report, task: Unfinished) -> str:
    since = ""
    end = report.finished_at or report.as_of
    if task.since is not None and end is not None:
        since = f" for {seconds(max(0.0, (end - task.since).total_seconds()))}"
    where = f" on worker {report.worker_label(task.worker)}" if task.worker else ""
    return f"{task.task_id} was running{where}{since}"


def _hosts(report: Report, workers: Mapping[str, int]) -> dict[str, int]:
    hosts = {row.address: row.host for row in report.workers if row.address and row.host}
    return dict(_by_host(workers, hosts).most_common(_MAX_MEMBERS))


# -- findings: where nothing failed ---------------------------------------------------------------


def _conditions(report: Report, collected: _Collected) -> Iterator[Finding]:
    yield from _unfinished(report)
    yield from _unknown_end(report, collected)
    yield from _no_workers(report)
    yield from _stopped(report, collected)
    yield from _rescheduled(report)
    yield from _old_failures(report, collected)
    yield from _closed_at_work(report, collected)
    yield from _memory_pressure(report)
    yield from _spilling(report, collected)
    yield from _stragglers(report)
    yield from _skew(report)
    yield from _recomputation(report)
    yield from _transfer(report)
    yield from _small_tasks(report)
    yield from _driver_bound(report)
    yield from _record(report)


def _unfinished(report: Report) -> Iterator[Finding]:
    counts = report.counts
    running, waiting = counts["tasks_running"], counts["tasks_waiting"]
    if report.status != "lost" or any(row.phase == "scheduler_lost" for row in report.failures):
        return
    sentences = [report.why or "Its recorder is gone."]
    tasks = report.unfinished
    sentences += [_running_sentence(report, task) for task in tasks[:_MAX_IDS]]
    yield Finding(
        severity="critical",
        category="unfinished",
        title=f"The program that recorded this run went away with {plural(running, 'task')} "
        f"running and {waiting:,} waiting",
        count=max(1, running),
        evidence=Evidence(
            sentences=tuple(sentences),
            task_ids=tuple(task.task_id for task in tasks[:_MAX_IDS]),
            task_names=dict(Counter(task.task_name for task in tasks).most_common(_MAX_MEMBERS)),
            workers=dict(Counter(task.worker for task in tasks if task.worker)),
            last_at=report.as_of,
            files=("run.json", TASKS),
        ),
        suggestion="It was killed, or its host went down: the record ends there, and nothing in it "
        "tells which. Look at the host's log and the batch system's; what had finished is in "
        "tasks.jsonl.",
        confidence="high",
    )


def _unknown_end(report: Report, collected: _Collected) -> Iterator[Finding]:
    """Tasks of a run that was closed before their end was known."""
    told = report.status == "lost" or any(
        group.phase == "scheduler_lost" for group in collected.groups.values()
    )
    if not report.unknown or told:
        return
    yield Finding(
        severity="error",
        category="unknown_end",
        title=f"What became of {plural(report.unknown, 'task')} is not known",
        count=report.unknown,
        evidence=Evidence(
            sentences=(
                "the record stops before their end: they may have succeeded or failed",
                *report.missing[:3],
                *(_running_sentence(report, task) for task in report.unfinished[:3]),
            ),
            task_ids=tuple(task.task_id for task in report.unfinished[:_MAX_IDS]),
            task_count=report.unknown,
            files=(TASKS, "run.json"),
        ),
        suggestion="Look at the program's own output for what it got. A longer close_timeout gives "
        "the recorder more time to fetch what the scheduler still knows.",
        confidence="high",
    )


def _no_workers(report: Report) -> Iterator[Finding]:
    """Tasks wait, and there is no worker to run them."""
    if not has_no_workers(report):
        return
    waiting = report.counts["tasks_waiting"]
    lost = report.counts["workers_lost"]
    yield Finding(
        severity="critical" if report.is_live else "error",
        category="no_workers",
        title=f"{plural(waiting, 'task')} {'waits' if waiting == 1 else 'wait'} and no worker is "
        f"left to run {'it' if waiting == 1 else 'them'}",
        count=waiting,
        evidence=Evidence(
            sentences=(
                f"{plural(len(report.workers), 'worker')} came, {lost:,} of them lost"
                if report.workers
                else "no worker ever came",
            ),
            task_count=waiting,
            files=(WORKERS, TASKS),
        ),
        suggestion="Look at why the workers went (the findings on lost workers, their logs: "
        "scalable crash-logs list), and start new ones: until then nothing will happen.",
        confidence="high",
    )


def _stopped(report: Report, collected: _Collected) -> Iterator[Finding]:
    """The run was cancelled, or failed, and no failure says why."""
    programs = any(group.is_programs for group in collected.groups.values())
    if report.status == "cancelled":
        sentences = tuple(_interrupted(report, collected))
        while_ran = f" while {plural(len(sentences), 'task')} ran" if sentences else ""
        others = report.counts["tasks_cancelled"] - len(sentences)
        if sentences and others > 0:
            sentences = (*sentences, f"{plural(others, 'more task')} had not begun")
        yield Finding(
            severity="warning",
            category="cancelled",
            title=f"The program was stopped by Ctrl-C, or cancelled its run{while_ran}",
            count=max(1, report.counts["tasks_cancelled"]),
            evidence=Evidence(
                sentences=sentences,
                task_count=report.counts["tasks_cancelled"],
                last_at=report.finished_at,
                files=(TASKS,),
            ),
            suggestion=CAUSES["cancelled"].remedy,
            confidence="high",
        )
    elif report.status == "failed" and not programs and not report.counts["tasks_failed"]:
        if collected.groups or collected.killed or report.unknown:
            return
        yield Finding(
            severity="error",
            category="unknown",
            title="The run is marked as failed, and its record does not say why",
            count=1,
            evidence=Evidence(
                sentences=("no task failed, and no exception of the program was recorded",),
                files=("run.json", FAILURES),
            ),
            suggestion="Look at what the program printed, and at its exit status: it ended its run "
            "as failed, or with an exit status that is not 0.",
            confidence="low",
        )


def _rescheduled(report: Report) -> Iterator[Finding]:
    """Attempts that asked Dask to run them again: no failure, but worth a count."""
    count = report.counts.get("tasks_rescheduled", 0)
    if not count:
        return
    rows = {
        name: number
        for name, row in report.document["timing"]["tasks"].items()
        if (number := _int(row.get("rescheduled")))
    }
    yield Finding(
        severity="info",
        category="rescheduled",
        title=f"Tasks asked {plural(count, 'time')} to be run again elsewhere (Reschedule)",
        count=count,
        evidence=Evidence(
            sentences=tuple(
                f"{name}: {plural(number, 'time')}" for name, number in list(rows.items())[:5]
            ),
            task_names=rows,
            files=(TASKS,),
        ),
        suggestion="Nothing, if that was meant: it is a request of their own and no failure.",
        confidence="high",
    )


def _old_failures(report: Report, collected: _Collected) -> Iterator[Finding]:
    """Tasks that failed in a record without failures.jsonl, as older tools leave it."""
    if collected.groups or collected.killed:
        return
    for row in report.failures:
        if row.failure_class == "Reschedule":
            continue
        verdict = classify(Case(row.failure_class, row.message, row.traceback or ""))
        cause = CAUSES[verdict.cause]
        yield Finding(
            severity="error",
            category=verdict.cause,
            title=f"{cause.title}: {plural(row.count, 'task')} failed ({row.failure_class})",
            count=row.count,
            evidence=Evidence(
                sentences=verdict.evidence,
                task_names=row.task_names,
                workers=row.workers,
                hosts=_hosts(report, row.workers),
                first_at=row.first_at,
                last_at=row.last_at,
                message=row.message,
                messages=row.messages,
                traceback=row.traceback,
                frames=relevant_frames(row.traceback or ""),
                files=(TASKS,),
            ),
            suggestion=cause.remedy,
            confidence=verdict.confidence,
        )


def _closed_at_work(report: Report, collected: _Collected) -> Iterator[Finding]:
    """Workers that went as they were asked to, and took running tasks with them."""
    closed: dict[str, list[str]] = {}
    attempts: Counter[str] = Counter()
    for address, record in collected.worker_lines.items():
        details: Any = record.get("details")
        if record.get("state") != "removed" or not isinstance(details, Mapping):
            continue
        reason = str(details.get("reason") or "closed")
        running = _int(details.get("tasks_running"))
        stopped = report.status in ("cancelled", "failed")
        if stopped and _is_at_the_end(report, record.get("timestamp")):
            continue  # a worker that hears the same signal as its program
        # At the end of a run everything is closed.
        if running and reason not in ("scheduler-close", "restart"):
            closed.setdefault(reason, []).append(address)
            attempts[reason] += running
    for reason, addresses in closed.items():
        of_lifetime = "lifetime" in reason
        workers = Counter(dict.fromkeys(addresses[:_MAX_MEMBERS], 1))
        yield Finding(
            severity="warning",
            category="walltime" if of_lifetime else "cancelled",
            title=f"{plural(len(addresses), 'worker')} closed ({reason}) while "
            f"{plural(attempts[reason], 'attempt')} ran there",
            count=len(addresses),
            evidence=Evidence(
                sentences=("asked to go, not lost",),
                workers=dict(workers),
                hosts=_hosts(report, workers),
                files=(WORKERS, TASKS),
            ),
            suggestion=CAUSES["walltime"].remedy
            if of_lifetime
            else "Retire workers (client.retire_workers) rather than closing them: they finish "
            "what runs and hand over what they hold.",
            confidence="high",
        )


def _memory_pressure(report: Report) -> Iterator[Finding]:
    near = [
        (worker.memory_gb_max / worker.memory_limit_gb, worker)
        for worker in report.workers
        if worker.memory_gb_max
        and worker.memory_limit_gb
        and worker.memory_gb_max >= NEAR_LIMIT * worker.memory_limit_gb
        and not worker.lost
    ]
    if not near:
        return
    share, worst = max(near, key=lambda pair: pair[0])
    yield Finding(
        severity="warning",
        category="memory_pressure",
        title=f"{plural(len(near), 'worker')} used {percent(share)} of "
        f"{'its' if len(near) == 1 else 'their'} memory limit"
        if len(near) == 1
        else f"{len(near):,} workers used up to {percent(share)} of their memory limit",
        count=len(near),
        evidence=_of_workers(
            report,
            [worker for _, worker in near],
            [f"worker {worst.label} at most {gigabytes(worst.memory_gb_max)}"],
        ),
        suggestion=_memory_suggestion(worst.memory_gb_max, worst.memory_limit_gb, None)
        if share >= 0.95
        else f"Peak {gigabytes(worst.memory_gb_max)} of a limit of "
        f"{gigabytes(worst.memory_limit_gb)}: Dask pauses a worker at 80 % and ends it at 95 %. "
        "Raise the limit, run fewer threads, or make the pieces smaller (chunk size).",
        confidence="high",
    )


def _spilling(report: Report, collected: _Collected) -> Iterator[Finding]:
    spilled: dict[str, int] = {}
    for address, record in collected.worker_lines.items():
        details: Any = record.get("details")
        if (
            isinstance(details, Mapping)
            and _int(details.get("spilled_bytes")) >= SPILL_WORTH_SAYING
        ):
            spilled[address] = _int(details.get("spilled_bytes"))
    if not spilled:
        return
    most = max(spilled.values()) / _GIGABYTE
    workers = [worker for worker in report.workers if worker.address in spilled]
    yield Finding(
        severity="warning",
        category="spilling",
        title=f"{plural(len(spilled), 'worker')} wrote results to disk for lack of memory",
        count=len(spilled),
        evidence=_of_workers(report, workers, [f"up to {gigabytes(most)} on disk at one time"]),
        suggestion=f"Give the workers {gigabytes(most)} more memory each, or let results go sooner "
        "(smaller chunks, fewer futures kept): reading back from disk costs far more than keeping.",
        confidence="high",
    )


def _stragglers(report: Report) -> Iterator[Finding]:
    rows = {row.name: row for row in report.tasks}
    found = [
        (attempt, row)
        for attempt in report.slowest
        if (row := rows.get(attempt.task_name)) is not None
        and row.duration.count >= 5
        and row.duration.p50 is not None
        and attempt.duration_s > max(1.0, 5 * row.duration.p50)
        and attempt.duration_s > 0.05 * (report.wall_s or 0.0)
    ]
    if not found:
        return
    workers = Counter(attempt.worker for attempt, _ in found if attempt.worker)
    yield Finding(
        severity="info",
        category="straggler",
        title=f"{plural(len(found), 'attempt')} took far longer than others of the same name",
        count=len(found),
        evidence=Evidence(
            sentences=tuple(
                f"{attempt.task_id} took {seconds(attempt.duration_s)}; half of the "
                f"{row.name} tasks took less than {seconds(row.duration.p50)}"
                for attempt, row in found[:5]
            ),
            task_ids=tuple(attempt.task_id for attempt, _ in found),
            task_names=dict(Counter(row.name for _, row in found)),
            workers=dict(workers),
            hosts=_hosts(report, workers),
            files=(TASKS,),
        ),
        suggestion="If they share a host, look at that host; if not, their inputs are larger than "
        "the others': split those, or submit the largest first (priority=).",
        confidence="medium",
    )


def _skew(report: Report) -> Iterator[Finding]:
    rows = [
        worker
        for worker in report.workers
        if worker.lifetime_s >= 0.5 * (report.wall_s or 0.0) and worker.nthreads
    ]
    if len(rows) < 3 or not report.wall_s or report.wall_s < 1.0:
        return
    busy = sorted(worker.busy_s / (worker.nthreads or 1) for worker in rows)
    median = busy[len(busy) // 2]
    worst = max(rows, key=lambda worker: worker.busy_s / (worker.nthreads or 1))
    most = worst.busy_s / (worst.nthreads or 1)
    if most < 2 * median or most < 0.3 * report.wall_s:
        return
    yield Finding(
        severity="info",
        category="skew",
        title=f"Worker {worst.label} did far more than the others",
        count=1,
        evidence=_of_workers(
            report,
            [worst],
            [f"busy for {seconds(most)} a thread, half of the workers less than {seconds(median)}"],
        ),
        suggestion="Tasks run where their data is: spread large inputs (client.rebalance, smaller "
        "partitions), or look whether tasks are bound to that worker (workers=, resources=).",
        confidence="medium",
    )


def _recomputation(report: Report) -> Iterator[Finding]:
    count = report.counts["tasks_recomputed"]
    if not count:
        return
    rows = Counter({row.name: row.recomputed for row in report.tasks if row.recomputed})
    cost = sum(
        row.recomputed * (row.duration.mean or 0.0) for row in report.tasks if row.recomputed
    )
    distinct = report.counts.get("tasks_recomputed_distinct") or count
    often = f", {count:,} times in all" if distinct < count else ""
    worth = cost >= SHORT and cost >= 0.01 * report.busy_s
    yield Finding(
        severity="warning" if worth else "info",
        category="recomputation",
        title=f"{plural(distinct, 'task')} had to be computed again{often}",
        count=count,
        evidence=Evidence(
            sentences=(f"their results were lost with a worker; about {seconds(cost)} of work",),
            task_count=distinct,
            task_names=dict(rows.most_common(_MAX_MEMBERS)),
            files=(TASKS,),
        ),
        suggestion="Write expensive intermediate results to storage, or replicate them "
        "(client.replicate), where workers may be lost.",
        confidence="high",
    )


def _transfer(report: Report) -> Iterator[Finding]:
    transfer = sum(row.transfer_s for row in report.tasks)
    total = transfer + report.busy_s
    if transfer < 1.0 or transfer < 0.2 * total:
        return
    rows = Counter({row.name: round(row.transfer_s) for row in report.tasks if row.transfer_s >= 1})
    yield Finding(
        severity="warning",
        category="transfer",
        title=f"{percent(transfer / total)} of the time went into moving data between workers",
        count=1,
        evidence=Evidence(
            sentences=(f"{seconds(transfer)} of transfers, {seconds(report.busy_s)} of computing",),
            task_names=dict(rows.most_common(_MAX_MEMBERS)),
            files=(TASKS,),
        ),
        suggestion="Fewer and larger workers keep more data in one place; larger chunks and a "
        "reduction before a shuffle move less.",
        confidence="high",
    )


#: Dask itself needs about a millisecond a task: shorter tasks are mostly overhead.
SMALL_TASK: Final = 0.01


def _small_tasks(report: Report) -> Iterator[Finding]:
    small = [
        row
        for row in report.tasks
        if row.duration.count >= 1_000
        and row.duration.mean is not None
        and row.duration.mean < SMALL_TASK
    ]
    count = sum(row.duration.count for row in small)
    total = sum(row.duration.count for row in report.tasks)
    if not count or count < 0.5 * total or (report.busy_ratio or 0.0) > 0.5:
        return
    mean = sum(row.duration.total for row in small) / count
    yield Finding(
        severity="info",
        category="small_tasks",
        title=f"{count:,} tasks took {seconds(mean)} on average: Dask's own work takes as long",
        count=count,
        evidence=Evidence(
            sentences=(f"workers were busy {percent(report.busy_ratio)} of their time",),
            task_names={row.name: row.duration.count for row in small[:_MAX_MEMBERS]},
            files=("summary.json",),
        ),
        suggestion=f"Do more in one task: batches of {max(2, round(0.1 / max(mean, 1e-4))):,} "
        "calls, or larger chunks or partitions, so that each takes a tenth of a second or more.",
        confidence="medium",
    )


def _driver_bound(report: Report) -> Iterator[Finding]:
    ratio = report.busy_ratio
    wall = report.wall_s or 0.0
    queued = sum(row.queue.total for row in report.tasks)
    if ratio is None or ratio > 0.3 or wall < 10.0 or report.counts["tasks"] < 20:
        return
    if queued > 0.2 * report.thread_seconds or not report.busy_s:
        return
    yield Finding(
        severity="info",
        category="driver_bound",
        title=f"Workers were busy {percent(ratio)} of their time, and hardly anything waited",
        count=1,
        evidence=Evidence(
            sentences=(
                f"{seconds(report.busy_s)} of computing in {seconds(report.thread_seconds)} of "
                f"threads; tasks waited {seconds(queued)} altogether",
            ),
            files=("summary.json",),
        ),
        suggestion="The program that submits is the bottleneck: submit more at once (client.map, "
        "one compute() for many), do its own work in tasks, or take fewer workers.",
        confidence="medium",
    )


def _record(report: Report) -> Iterator[Finding]:
    told = any(row.phase == "scheduler_lost" for row in report.failures)
    missing = [said for said in report.missing if not (told and "scheduler_gone" in said)]
    if not missing:
        return
    yield Finding(
        severity="info",
        category="record",
        title="The record of this run is not complete",
        count=len(missing),
        evidence=Evidence(sentences=tuple(missing[:_MAX_IDS]), files=("run.json",)),
        suggestion="Findings may be missing with it.",
        confidence="high",
    )


def _of_workers(report: Report, workers: Sequence[Worker], sentences: list[str]) -> Evidence:
    addresses = Counter({worker.address: 1 for worker in workers if worker.address})
    return Evidence(
        sentences=tuple(sentences),
        workers=dict(addresses.most_common(_MAX_MEMBERS)),
        hosts=_hosts(report, addresses),
        files=("resources.jsonl", WORKERS),
    )


# -- summary --------------------------------------------------------------------------------------


def _summary(report: Report, findings: Sequence[Finding]) -> str:
    counts = report.counts
    ended = {
        "completed": "The run completed",
        "failed": "The run failed",
        "cancelled": "The run was cancelled",
        "running": "The run is going on",
        "lost": "The run was lost",
    }.get(report.status, f"The run is {report.status}")
    if counts["tasks"]:
        head = f"{ended}: {tasks_words(report).replace(': ', ', ', 1)}"
    elif report.status == "failed":
        head = f"{ended} before any task"
    else:
        head = f"{ended}: no task of this client reached the scheduler while it was recorded"
    if counts["workers_lost"]:
        head += f"; {plural(counts['workers_lost'], 'worker')} lost"
    serious = [finding for finding in findings if finding.severity in ("critical", "error")]
    lesser = [finding for finding in findings if finding.severity == "warning"]
    shown = serious or lesser
    if not shown:
        went_well = counts["tasks"] and counts["tasks_succeeded"] == counts["tasks"]
        return f"{head}. Nothing stands out." if went_well else f"{head}."
    return f"{head}. {'. '.join(finding.title for finding in shown[:3])}."


def _strings(value: Any) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _int(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _str(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _float(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _pair(value: Any) -> tuple[float, float] | None:
    if isinstance(value, list) and len(value) == 2:
        first, second = value
        if isinstance(first, int | float) and isinstance(second, int | float):
            return float(first), float(second)
    return None
