"""Findings where nothing failed: what nearly did, and what cost time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final

from scalable.analysis.diagnose.observations import Observations
from scalable.analysis.diagnose.wording import (
    GIGABYTE,
    MAX_MEMBERS,
    NEAR_LIMIT,
    memory_suggestion,
    places,
    top,
)
from scalable.analysis.findings import Evidence, Finding
from scalable.analysis.report import Report, Worker
from scalable.analysis.units import gigabytes, percent, plural, seconds
from scalable.analysis.words import SHORT
from scalable_runs.schema import RESOURCES, SUMMARY, TASKS, WORKERS

#: Bytes on disk from which a worker counts as spilling: less costs nothing that matters.
SPILL_WORTH_REPORTING: Final = 10_000_000
#: Dask itself needs about a millisecond per task: shorter tasks (seconds) are mostly overhead.
SMALL_TASK: Final = 0.01


def performance(report: Report, seen: Observations) -> Iterator[Finding]:
    """Yield the findings on what nearly failed and on what cost time."""
    yield from _memory_pressure(report)
    yield from _spilling(report, seen)
    yield from _stragglers(report)
    yield from _skew(report)
    yield from _recomputation(report)
    yield from _transfer(report)
    yield from _small_tasks(report)
    yield from _driver_bound(report)


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
    peak = gigabytes(worst.memory_gb_max)
    yield Finding(
        severity="warning",
        category="memory_pressure",
        title=f"1 worker used {percent(share)} of its memory limit"
        if len(near) == 1
        else f"{len(near):,} workers used up to {percent(share)} of their memory limit",
        count=len(near),
        evidence=_of_workers(
            report, [worker for _, worker in near], f"worker {worst.label} at most {peak}"
        ),
        suggestion=memory_suggestion(worst.memory_gb_max, worst.memory_limit_gb)
        if share >= 0.95
        else f"Peak {peak} of a limit of {gigabytes(worst.memory_limit_gb)}: Dask pauses a worker "
        "at 80 % and ends it at 95 %. Raise the limit, run fewer threads, or make the pieces "
        "smaller (chunk size).",
    )


def _spilling(report: Report, seen: Observations) -> Iterator[Finding]:
    spilled = {
        address: size
        for address, line in seen.worker_lines.items()
        if (size := (line.get("details") or {}).get("spilled_bytes") or 0) >= SPILL_WORTH_REPORTING
    }
    if not spilled:
        return
    most = gigabytes(max(spilled.values()) / GIGABYTE)
    workers = [worker for worker in report.workers if worker.address in spilled]
    yield Finding(
        severity="warning",
        category="spilling",
        title=f"{plural(len(spilled), 'worker')} wrote results to disk for lack of memory",
        count=len(spilled),
        evidence=_of_workers(report, workers, f"up to {most} on disk at one time"),
        suggestion=f"Give the workers {most} more memory each, or let results go sooner (smaller "
        "chunks, fewer futures kept): reading back from disk costs far more than keeping.",
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
            **places(report, [attempt.worker for attempt, _ in found if attempt.worker]),
            files=(TASKS,),
        ),
        suggestion="If they share a host, look at that host; if not, their inputs are larger than "
        "the others': split those, or submit the largest first (priority=).",
        confidence="medium",
    )


def _skew(report: Report) -> Iterator[Finding]:
    wall = report.wall_s or 0.0
    rows = sorted(
        (
            (worker.busy_s / worker.nthreads, worker)
            for worker in report.workers
            if worker.lifetime_s >= 0.5 * wall and worker.nthreads
        ),
        key=lambda row: row[0],
    )
    if len(rows) < 3 or wall < 1.0:
        return
    median = rows[len(rows) // 2][0]
    most = rows[-1][0]
    worst = next(worker for busy, worker in rows if busy == most)
    if most < 2 * median or most < 0.3 * wall:
        return
    yield Finding(
        severity="info",
        category="skew",
        title=f"Worker {worst.label} did far more than the others",
        count=1,
        evidence=_of_workers(
            report,
            [worst],
            f"busy for {seconds(most)} a thread, half of the workers less than {seconds(median)}",
        ),
        suggestion="Tasks run where their data is: spread large inputs (client.rebalance, smaller "
        "partitions), or look whether tasks are bound to that worker (workers=, resources=).",
        confidence="medium",
    )


def _recomputation(report: Report) -> Iterator[Finding]:
    count = report.counts["tasks_recomputed"]
    if not count:
        return
    rows = [row for row in report.tasks if row.recomputed]
    cost = sum(row.recomputed * (row.duration.mean or 0.0) for row in rows)
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
            task_names=top({row.name: row.recomputed for row in rows}),
            files=(TASKS,),
        ),
        suggestion="Write expensive intermediate results to storage, or replicate them "
        "(client.replicate), where workers may be lost.",
    )


def _transfer(report: Report) -> Iterator[Finding]:
    transfer = sum(row.transfer_s for row in report.tasks)
    total = transfer + report.busy_s
    if transfer < 1.0 or transfer < 0.2 * total:
        return
    yield Finding(
        severity="warning",
        category="transfer",
        title=f"{percent(transfer / total)} of the time went into moving data between workers",
        count=1,
        evidence=Evidence(
            sentences=(f"{seconds(transfer)} of transfers, {seconds(report.busy_s)} of computing",),
            task_names=top(
                {row.name: round(row.transfer_s) for row in report.tasks if row.transfer_s >= 1}
            ),
            files=(TASKS,),
        ),
        suggestion="Fewer and larger workers keep more data in one place; larger chunks and a "
        "reduction before a shuffle move less.",
    )


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
            task_names={row.name: row.duration.count for row in small[:MAX_MEMBERS]},
            files=(SUMMARY,),
        ),
        suggestion=f"Do more in one task: batches of {max(2, round(0.1 / max(mean, 1e-4))):,} "
        "calls, or larger chunks or partitions, so that each takes a tenth of a second or more.",
        confidence="medium",
    )


def _driver_bound(report: Report) -> Iterator[Finding]:
    ratio = report.busy_ratio
    queued = sum(row.queue.total for row in report.tasks)
    if (
        ratio is None
        or ratio > 0.3
        or (report.wall_s or 0.0) < 10.0
        or report.counts["tasks"] < 20
        or queued > 0.2 * report.thread_seconds
        or not report.busy_s
    ):
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
            files=(SUMMARY,),
        ),
        suggestion="The program that submits is the bottleneck: submit more at once (client.map, "
        "one compute() for many), do its own work in tasks, or take fewer workers.",
        confidence="medium",
    )


def _of_workers(report: Report, workers: Iterable[Worker], sentence: str) -> Evidence:
    addresses = {worker.address: 1 for worker in workers if worker.address}
    return Evidence(sentences=(sentence,), **places(report, addresses), files=(RESOURCES, WORKERS))
