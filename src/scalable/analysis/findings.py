"""What a diagnosis consists of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from scalable.analysis.frames import Frame
from scalable_runs.schema import ArgumentSummary

if TYPE_CHECKING:
    from scalable.causes import Confidence  # a report needs no patterns compiled

#: The worst first. `critical`: the run itself failed or was lost; `error`: work was lost for good;
#: `warning`: it cost something, or nearly did; `info`: worth a look.
Severity: TypeAlias = Literal["critical", "error", "warning", "info"]
SEVERITIES: Final[tuple[Severity, ...]] = ("critical", "error", "warning", "info")


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
        What it was judged by, and what differs from what succeeded, a sentence each.
    task_ids
        The first of the tasks.
    task_names, workers, hosts
        How often each; workers by address.
    first_at, last_at
        When it happened first and last.
    message
        The message of one of the failures.
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
    output_tail, output_task
        The last lines that a task which failed had printed, and which task that was.
    files
        Files to open, relative to the run's directory where they lie in it.
    arguments
        What the attempts that failed were called with.
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
    output_tail: str | None = None
    output_task: str | None = None
    files: tuple[str, ...] = ()
    arguments: tuple[ArgumentSummary, ...] = ()


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
        ``recomputation``, ``transfer``, ``small_tasks``, ``driver_bound``, ``environment``,
        ``code``, ``record``.
    count
        How often it happened.
    consequences
        What followed from it: these have no findings of their own.
    """

    severity: Severity
    category: str
    title: str
    count: int
    evidence: Evidence
    suggestion: str
    confidence: Confidence = "high"
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
    path: Path | str
    status: str
    summary: str
    findings: tuple[Finding, ...]
    started_at: datetime | None = None
    as_of: datetime | None = None
    program: str = ""
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    prose: str | None = None
    notes: tuple[str, ...] = ()
