"""Pieces of sentences and of evidence that several rules share."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Final, TypedDict

from scalable.analysis.diagnose.observations import Group, Observations
from scalable.analysis.report import Report
from scalable.analysis.units import gigabytes, memory, seconds
from scalable.analysis.words import ran_s
from scalable.causes import CAUSES
from scalable_runs.plain import parse_time
from scalable_runs.schema import UnfinishedTask, WorkerSummary

#: A worker above this share of its limit is near it. Unless configured otherwise Dask spills from
#: 0.6 of managed memory on, pauses at 0.8 and ends the worker at 0.95.
NEAR_LIMIT: Final = 0.8
#: What a worker should have beyond the peak that was seen.
HEADROOM: Final = 1.25
MAX_IDS: Final = 10
MAX_MEMBERS: Final = 20
GIGABYTE: Final = 1e9


class Places(TypedDict):
    """Where something happened."""

    workers: Mapping[str, int]
    hosts: Mapping[str, int]


class Moments(TypedDict):
    """When something happened."""

    first_at: datetime | None
    last_at: datetime | None


def places(report: Report, workers: Iterable[str] | Mapping[str, int]) -> Places:
    """Return workers, by address, and their hosts, the most frequent first."""
    counter = Counter(workers)
    return Places(workers=top(counter), hosts=top(by_host(report, counter)))


def moments(group: Group) -> Moments:
    """Return when the first and the last of some failures happened."""
    return Moments(first_at=parse_time(group.first), last_at=parse_time(group.last))


def top(members: Iterable[str] | Mapping[str, int]) -> dict[str, int]:
    """Return the most frequent members."""
    return dict(Counter(members).most_common(MAX_MEMBERS))


def by_host(report: Report, workers: Mapping[str, int]) -> Counter[str]:
    """Count by host what is counted by worker."""
    hosts = report.hosts
    found: Counter[str] = Counter()
    for worker, count in workers.items():
        if worker in hosts:
            found[hosts[worker]] += count
    return found


def named(tasks: Sequence[str], shown: int = 3) -> str:
    """List some tasks."""
    more = f" and {len(tasks) - shown:,} more" if len(tasks) > shown else ""
    return f"{', '.join(tasks[:shown])}{more}"


def running_sentence(report: Report, task: UnfinishedTask) -> str:
    """Say that a task was running, where, and for how long."""
    elapsed = ran_s(report, task)
    since = "" if elapsed is None else f" for {seconds(elapsed)}"
    where = f" on worker {report.worker_label(task['worker'])}" if task["worker"] else ""
    return f"{task['task_id']} was running{where}{since}"


def interrupted_sentences(report: Report, seen: Observations) -> Iterator[str]:
    """Say what was running when the program ended; what was cancelled earlier is left out."""
    for task_id, ran, at in sorted(seen.interrupted, key=lambda row: -row.ran_s)[:MAX_IDS]:
        if is_at_the_end(report, at):
            yield f"{task_id} had been running for {seconds(ran)}, and was cancelled"


def is_at_the_end(report: Report, at: datetime | None) -> bool:
    """Return whether something was cancelled because the run ended."""
    return at is not None and report.end is not None and (report.end - at).total_seconds() < 10.0


# -- memory ----------------------------------------------------------------------------------------


def peak_and_limit(workers: Iterable[WorkerSummary]) -> tuple[float | None, float | None]:
    """Return the most memory that workers used, and their limit, in 10^9 bytes."""
    rows = list(workers)
    peak = max((row["memory_gb_max"] or 0.0 for row in rows), default=0.0)
    limit = max((row["memory_limit_gb"] or 0.0 for row in rows), default=0.0)
    return peak or None, limit or None


def memory_suggestion(peak: float | None, limit: float | None, group: Group | None = None) -> str:
    """Advise on memory where the peak was near the limit; else say what is known."""
    where = "the worker's memory limit (memory_limit=, dask worker --memory-limit)"
    if group is not None and group.components:
        where = f"memory of component {next(iter(group.components))!r} in the manifest"
    advice = f"{where}, run fewer threads on it, or make the pieces smaller (chunk size)."
    if peak is None:
        return f"Raise {advice}"
    seen = f"Peak {gigabytes(peak)}"
    if limit:
        seen += f" of a limit of {gigabytes(limit)}"
    # A worker is ended at 0.95 of its limit: what was seen then is a lower bound of what it needs.
    return f"{seen}, needs at least {gigabytes(max(peak, limit or 0.0) * HEADROOM)}: raise {advice}"


#: How much could not be had, as allocators write it.
_ASKED: Final = re.compile(
    r"(?:allocat\w*|malloc of size|alloc of size|need\w*|request\w*)\D{0,40}?"
    r"(\d[\d.,]*) ?([KMGTPE]?i?B|bytes|[KMGTPE]ytes)\b"
)
_GPU: Final = re.compile(r"\b(?:CUDA|GPU|HIP|MPS|cuda|gpu|device)\b|rmm|RMM")


def failed_allocation(report: Report, group: Group) -> str:
    """Say what is known of a task that had no memory: the figure of its message, or none."""
    if _GPU.search(group.message):
        return (
            "The memory of the GPU was too small, not the worker's: use smaller batches, or fewer "
            "tasks on a GPU at a time (resources=)."
        )
    peak, limit = peak_and_limit(row for row in report.workers if row["worker"] in group.workers)
    if peak and limit and peak >= NEAR_LIMIT * limit:
        return memory_suggestion(peak, limit, group)
    if all(worker.startswith("inproc:") for worker in group.workers):
        limit = None  # nothing holds threads of the program's own process to a limit
    used = f" The worker used {memory(peak, limit)} of memory at most." if peak else ""
    if group.confidence == "low":
        text = "The message mentions memory; Dask saw no sign of a shortage."
        return f"{text}{used} {CAUSES['oom'].remedy}"
    asked = _ASKED.search(group.message[:2_000])
    text = "It asked for more than the machine had; nothing shows how much."
    if asked:
        text = f"It asked for {asked[1]} {asked[2]} at once, and the machine did not have that."
    return (
        f"{text}{used} Make the pieces smaller (chunk or partition size), or look at the size that "
        "is computed in the line named."
    )
