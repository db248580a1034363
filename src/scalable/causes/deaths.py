"""Judges a lost worker by how its process ended: the first rule that holds decides."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from signal import Signals
from typing import Final

from scalable.causes.catalog import IN_OUTPUT, Confidence
from scalable.causes.exceptions import LAST_LINE, MAX_HINT, judge_exception, judge_words
from scalable.causes.model import Case, Verdict

#: Signals by which a process ends because of what its own code did.
CRASH_SIGNALS: Final = frozenset({"SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE", "SIGABRT", "SIGSYS"})
#: The exit status that Dask gives a process whose status it could not read.
LOST_STATUS: Final = 255
#: A worker that ended within this many seconds of its job's time limit ended because of it.
NEAR_LIMIT: Final = 30.0

# These match at the beginning of a line of a worker's last output: the process, its batch system
# or the kernel wrote it.
_FATAL: Final = re.compile(
    r"^(?:Fatal Python error: (?:Segmentation fault|Aborted|Bus error|Floating[- ]point exception"
    r"|Illegal instruction)|\*\*\* stack smashing detected|double free or corruption"
    r"|terminate called after throwing an instance of|(?:malloc|free|realloc|munmap_chunk)\(\): "
    r"|corrupted (?:size|double-linked)|Segmentation fault|Bus error|Illegal instruction"
    r"|\*\*\* Check failure stack trace|.{0,120}\(core dumped\))",
    re.MULTILINE,
)
_SLURM: Final = r"slurmstepd\S{0,80}: error: \*\*\* .{0,200}"
_TIME_LIMIT: Final = re.compile(
    rf"^(?:{_SLURM}DUE TO TIME LIMIT|=>> PBS: job killed: walltime|TERM_RUNLIMIT: )", re.MULTILINE
)
_PREEMPTED: Final = re.compile(
    rf"^(?:{_SLURM}DUE TO PREEMPTION|TERM_PREEMPT: |job preempted\b)", re.MULTILINE
)
_NO_SPACE: Final = re.compile(
    r"No space left on device|Disk quota exceeded|ephemeral local storage usage exceeds"
)
#: The nanny logs this as it ends a worker.
_MEMORY_BUDGET: Final = re.compile(r"exceeded \d{1,3}% memory budget")
_IMPORT_FAILED: Final = re.compile(
    r"^(?:ModuleNotFoundError|ImportError): [^\n]{1,300}", re.MULTILINE
)
_OOM_KILL: Final = re.compile(
    r"^(?:slurmstepd\S{0,80}: error: Detected \d+ oom[-_]kill event|TERM_MEMLIMIT: "
    r"|srun: error: .{0,80}Out Of Memory"
    r"|(?:\[ *\d+\.\d+\] )?(?:Memory cgroup o|O)ut of memory: Kill"
    r"|.{0,120}\bOOMKilled\b)",
    re.MULTILINE,
)
_NO_HEARTBEAT: Final = frozenset({"worker-ttl", "worker-ttl-timeout", "heartbeat-lost"})


@dataclass(frozen=True, slots=True)
class DeathRule:
    """One rule: the verdict, its evidence in words, and the test."""

    cause: str
    confidence: Confidence
    evidence: str
    holds: Callable[[Case], object]


#: In the order in which they are tried: the surest sign first.
DEATHS: Final[tuple[DeathRule, ...]] = (
    DeathRule(
        "memory_limit",
        "high",
        "the nanny ended it because its memory was above the limit",
        lambda case: case.memory_kill or case.reason == "memory-limit",
    ),
    DeathRule(
        "oom",
        "high",
        "the kernel's out-of-memory killer ended a process of its control group",
        lambda case: case.oom_kills_group and case.signal == "SIGKILL",
    ),
    DeathRule(
        "oom",
        "high",
        "the batch system detected a kill for lack of memory",
        lambda case: _OOM_KILL.search(case.stderr_tail),
    ),
    DeathRule(
        "memory_limit",
        "medium",
        "its last output says that it exceeded its memory budget",
        lambda case: not case.signal and _MEMORY_BUDGET.search(case.stderr_tail),
    ),
    DeathRule(
        "segfault",
        "high",
        "the process was ended by a signal that its own code caused",
        lambda case: _signal_of(case) in CRASH_SIGNALS,
    ),
    DeathRule(
        "preempted",
        "high",
        "the batch system wrote that the job was preempted",
        lambda case: _PREEMPTED.search(case.stderr_tail),
    ),
    DeathRule(
        "walltime",
        "high",
        "the batch system wrote that the time limit was reached",
        lambda case: _TIME_LIMIT.search(case.stderr_tail),
    ),
    DeathRule(
        "walltime",
        "high",
        "the worker's own --lifetime was over",
        lambda case: "lifetime" in case.reason,
    ),
    DeathRule(
        "walltime",
        "medium",
        "it ended when its batch job's time was over",
        lambda case: (
            case.time_left is not None and case.time_left < NEAR_LIMIT and _was_asked_to_end(case)
        ),
    ),
    DeathRule(
        "timeout",
        "high",
        "Dask itself ended the worker: the scheduler received no heartbeat from it for "
        "distributed.scheduler.worker-ttl",
        lambda case: case.reason in _NO_HEARTBEAT and (case.worker_ttl is not None or case.signal),
    ),
    DeathRule(
        "oom",
        "medium",
        "the kernel's out-of-memory killer ended a process on its host at that time",
        lambda case: case.oom_kills_host and case.signal == "SIGKILL",
    ),
    DeathRule(
        "killed",
        "high",
        "a signal from outside ended the process",
        lambda case: _signal_of(case) or re.match(r"signal-\d+$", case.reason),
    ),
    DeathRule(
        "segfault",
        "medium",
        "its last output is that of a crash; how the process ended is not known",
        lambda case: case.exit_code in (None, LOST_STATUS) and _FATAL.search(case.stderr_tail),
    ),
    DeathRule(
        "import_error",
        "medium",
        "its last output says that a module cannot be imported",
        lambda case: case.exit_code in (None, 0, 1) and _failed_import(case),
    ),
    DeathRule(
        "disk_full",
        "medium",
        "its last output says that there is no space left",
        lambda case: case.exit_code != 0 and _NO_SPACE.search(case.stderr_tail),
    ),
    DeathRule(
        "connection",
        "high",
        "the process ended by itself after it had lost its connection to the scheduler",
        lambda case: (
            case.exit_code == 0 and ("connection" in case.reason or case.reason in _NO_HEARTBEAT)
        ),
    ),
    DeathRule(
        "unknown",
        "low",
        "its process ended, and Dask lost the status (it says 255 then)",
        lambda case: case.exit_code == LOST_STATUS,
    ),
    DeathRule(
        "exited",
        "high",
        "the process ended itself with an exit status",
        lambda case: case.exit_code is not None,
    ),
    DeathRule(
        "connection",
        "medium",
        "the scheduler received no heartbeat from it",
        lambda case: case.reason in _NO_HEARTBEAT,
    ),
    DeathRule(
        "connection",
        "medium",
        "the connection broke while its process kept running",
        lambda case: case.reason == "connection-lost, process alive",
    ),
    DeathRule(
        "killed",
        "medium",
        "worker and nanny disappeared together, and the worker's process is gone",
        lambda case: case.reason == "connection-lost, nanny silent, process gone",
    ),
    DeathRule(
        "killed",
        "medium",
        "its process is gone; it ran without a nanny, so how it ended is not known",
        lambda case: case.reason == "connection-lost, process gone",
    ),
    DeathRule(
        "killed",
        "low",
        "worker and nanny disappeared together: both were killed, or their host or its network "
        "failed",
        lambda case: case.reason == "connection-lost, nanny silent",
    ),
    DeathRule(
        "connection",
        "low",
        "its connection broke, and nothing says how its process ended",
        lambda case: case.reason in ("connection-lost", "connection-lost, no nanny"),
    ),
)


def judge_death(case: Case) -> Verdict:
    """Judge a lost worker."""
    rule = next((rule for rule in DEATHS if rule.holds(case)), None)
    if rule is None:
        said = f"the scheduler said “{case.reason}”" if case.reason else "no reason was recorded"
        return Verdict("unknown", "low", (said,))
    verdict = Verdict(rule.cause, rule.confidence, (rule.evidence, *_ending(case)))
    # A rule of low confidence knows nothing of the end itself; the last output may.
    return (_by_last_output(case) if rule.confidence == "low" else None) or verdict


def _signal_of(case: Case) -> str | None:
    """Return the signal that ended the process; a shell reports its number plus 128 as status."""
    if case.signal or case.exit_code is None or not 128 < case.exit_code < _LAST_SIGNAL:
        return case.signal
    try:
        return Signals(case.exit_code - 128).name
    except ValueError:
        return None


#: Higher exit statuses do not encode a signal.
_LAST_SIGNAL: Final = 128 + 32


def _was_asked_to_end(case: Case) -> bool:
    asked = case.signal in ("SIGTERM", "SIGKILL") or case.reason in ("signal-15", "signal-2")
    return asked or case.exit_code in (0, None)


def _failed_import(case: Case) -> str:
    """Return the last import error at the end of a worker's output."""
    found = _IMPORT_FAILED.findall("\n".join(case.stderr_tail.splitlines()[-60:]))
    return found[-1] if found else ""


def _ending(case: Case) -> Iterator[str]:
    if case.signal:
        yield f"signal {case.signal}"
    elif case.exit_code is not None:
        yield f"exit status {case.exit_code}"
    if said := _failed_import(case):
        yield said


#: Lines of the end of an output that are looked at.
_LAST_LINES: Final = 10


def _by_last_output(case: Case) -> Verdict | None:
    """Judge by the last lines, with low confidence: the process may have survived what they say."""
    lines = [line.strip() for line in case.stderr_tail.splitlines() if line.strip()]
    for line in reversed(lines[-_LAST_LINES:]):
        match = LAST_LINE.match(line)
        verdict = None
        if match is not None and match[2] and match[1].rpartition(".")[2][:1].isupper():
            verdict = judge_exception(Case(match[1], match[2]))
        if verdict is None or verdict.cause not in IN_OUTPUT:
            verdict = judge_words("", line[:MAX_HINT])
        if verdict is not None and verdict.cause in IN_OUTPUT:
            return Verdict(verdict.cause, "low", (f"its last output says “{line[:120]}”",))
    return None
