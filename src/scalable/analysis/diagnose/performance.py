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
from scalable.analysis.report import Report
from scalable.analysis.units import gigabytes, percent, plural, seconds
from scalable.analysis.words import SHORT
from scalable_runs.schema import RESOURCES, SUMMARY, TASKS, WORKERS, SlowAttempt, WorkerSummary

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
        (peak / limit, row)
        for row in report.workers
        if (peak := row["memory_gb_max"])
        and (limit := row["memory_limit_gb"])
        and peak >= NEAR_LIMIT * limit
        and not row["lost"]
    ]
    if not near:
        return
    share, worst = max(near, key=lambda pair: pair[0])
    peak, limit = worst["memory_gb_max"], worst["memory_limit_gb"]
    label = report.worker_label(worst["worker"])
    yield Finding(
        severity="warning",
        category="memory_pressure",
        title=f"1 worker used {percent(share)} of its memory limit"
        if len(near) == 1
        else f"{len(near):,} workers used up to {percent(share)} of their memory limit",
        count=len(near),
        evidence=_of_workers(
            report, [row for _, row in near], f"worker {label} at most {gigabytes(peak)}"
        ),
        suggestion=memory_suggestion(peak, limit)
        if share >= 0.95
        else f"Peak {gigabytes(peak)} of a limit of {gigabytes(limit)}: Dask pauses a worker at "
        "80 % and ends it at 95 %. Raise the limit, run fewer threads, or make the pieces smaller "
        "(chunk size).",
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
    workers = [row for row in report.workers if row["worker"] in spilled]
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
    found: list[tuple[SlowAttempt, str, float]] = []
    for attempt in report.slowest:
        name = attempt.get("task_name") or ""
        row = report.tasks.get(name)
        median = row["duration"]["p50"] if row and row["duration"]["count"] >= 5 else None
        if median is not None and attempt["duration_s"] > max(
            1.0, 5 * median, 0.05 * (report.wall_s or 0.0)
        ):
            found.append((attempt, name, median))
    if not found:
        return
    workers = [worker for attempt, *_ in found if (worker := attempt.get("worker"))]
    yield Finding(
        severity="info",
        category="straggler",
        title=f"{plural(len(found), 'attempt')} took far longer than others of the same name",
        count=len(found),
        evidence=Evidence(
            sentences=tuple(
                f"{attempt['task_id']} took {seconds(attempt['duration_s'])}; half of the "
                f"{name} tasks took less than {seconds(median)}"
                for attempt, name, median in found[:5]
            ),
            task_ids=tuple(attempt["task_id"] for attempt, *_ in found),
            task_names=dict(Counter(name for _, name, _ in found)),
            **places(report, workers),
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
            (row["busy_s"] / threads, row)
            for row in report.workers
            if row["lifetime_s"] >= 0.5 * wall and (threads := row["nthreads"])
        ),
        key=lambda row: row[0],
    )
    if len(rows) < 3 or wall < 1.0:
        return
    median = rows[len(rows) // 2][0]
    most = rows[-1][0]
    worst = next(row for busy, row in rows if busy == most)
    if most < 2 * median or most < 0.3 * wall:
        return
    yield Finding(
        severity="info",
        category="skew",
        title=f"Worker {report.worker_label(worst['worker'])} did far more than the others",
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
    rows = {name: row for name, row in report.tasks.items() if row["recomputed"]}
    cost = sum(row["recomputed"] * (row["duration"]["mean"] or 0.0) for row in rows.values())
    distinct = report.counts.get("tasks_recomputed_distinct") or count
    often = f", {count:,} times in all" if distinct < count else ""
    worth = cost >= SHORT and cost >= 0.01 * report.resources["busy_seconds"]
    yield Finding(
        severity="warning" if worth else "info",
        category="recomputation",
        title=f"{plural(distinct, 'task')} had to be computed again{often}",
        count=count,
        evidence=Evidence(
            sentences=(f"their results were lost with a worker; about {seconds(cost)} of work",),
            task_count=distinct,
            task_names=top({name: row["recomputed"] for name, row in rows.items()}),
            files=(TASKS,),
        ),
        suggestion="Write expensive intermediate results to storage, or replicate them "
        "(client.replicate), where workers may be lost.",
    )


def _transfer(report: Report) -> Iterator[Finding]:
    rows = {name: row["transfer_s"] for name, row in report.tasks.items()}
    transfer, busy = sum(rows.values()), report.resources["busy_seconds"]
    if transfer < 1.0 or transfer < 0.2 * (transfer + busy):
        return
    share = percent(transfer / (transfer + busy))
    yield Finding(
        severity="warning",
        category="transfer",
        title=f"{share} of the time went into moving data between workers",
        count=1,
        evidence=Evidence(
            sentences=(f"{seconds(transfer)} of transfers, {seconds(busy)} of computing",),
            task_names=top({name: round(spent) for name, spent in rows.items() if spent >= 1}),
            files=(TASKS,),
        ),
        suggestion="Fewer and larger workers keep more data in one place; larger chunks and a "
        "reduction before a shuffle move less.",
    )


def _small_tasks(report: Report) -> Iterator[Finding]:
    durations = {name: row["duration"] for name, row in report.tasks.items()}
    small = {
        name: spread
        for name, spread in durations.items()
        if spread["count"] >= 1_000 and spread["mean"] is not None and spread["mean"] < SMALL_TASK
    }
    count = sum(spread["count"] for spread in small.values())
    total = sum(spread["count"] for spread in durations.values())
    ratio = report.resources["busy_ratio"]
    if not count or count < 0.5 * total or (ratio or 0.0) > 0.5:
        return
    mean = sum(spread["total"] for spread in small.values()) / count
    yield Finding(
        severity="info",
        category="small_tasks",
        title=f"{count:,} tasks took {seconds(mean)} on average: Dask's own work takes as long",
        count=count,
        evidence=Evidence(
            sentences=(f"workers were busy {percent(ratio)} of their time",),
            task_names={
                name: spread["count"] for name, spread in list(small.items())[:MAX_MEMBERS]
            },
            files=(SUMMARY,),
        ),
        suggestion=f"Do more in one task: batches of {max(2, round(0.1 / max(mean, 1e-4))):,} "
        "calls, or larger chunks or partitions, so that each takes a tenth of a second or more.",
        confidence="medium",
    )


def _driver_bound(report: Report) -> Iterator[Finding]:
    ratio, busy = report.resources["busy_ratio"], report.resources["busy_seconds"]
    threads = report.resources["thread_seconds"]
    queued = sum(row["queue"]["total"] for row in report.tasks.values())
    if (
        ratio is None
        or ratio > 0.3
        or (report.wall_s or 0.0) < 10.0
        or report.counts["tasks"] < 20
        or queued > 0.2 * threads
        or not busy
    ):
        return
    yield Finding(
        severity="info",
        category="driver_bound",
        title=f"Workers were busy {percent(ratio)} of their time, and hardly anything waited",
        count=1,
        evidence=Evidence(
            sentences=(
                f"{seconds(busy)} of computing in {seconds(threads)} of threads; tasks waited "
                f"{seconds(queued)} altogether",
            ),
            files=(SUMMARY,),
        ),
        suggestion="The program that submits is the bottleneck: submit more at once (client.map, "
        "one compute() for many), do its own work in tasks, or take fewer workers.",
        confidence="medium",
    )


def _of_workers(report: Report, workers: Iterable[WorkerSummary], sentence: str) -> Evidence:
    addresses = {row["worker"]: 1 for row in workers if row["worker"]}
    return Evidence(sentences=(sentence,), **places(report, addresses), files=(RESOURCES, WORKERS))
