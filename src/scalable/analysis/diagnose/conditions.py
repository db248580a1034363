"""Findings on how a run ended and on what its record lacks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from scalable.analysis.code_sections import version_words
from scalable.analysis.diagnose.observations import Observations
from scalable.analysis.diagnose.wording import (
    MAX_IDS,
    MAX_MEMBERS,
    interrupted_sentences,
    is_at_the_end,
    places,
    running_sentence,
    top,
)
from scalable.analysis.environments import difference_words
from scalable.analysis.findings import Evidence, Finding
from scalable.analysis.gaps import lost_writers, writer_sentences
from scalable.analysis.report import Report
from scalable.analysis.units import plural
from scalable.analysis.words import has_no_workers, no_workers_words, unknown_words
from scalable.causes import CAUSES
from scalable_runs.plain import parse_time
from scalable_runs.schema import ENVIRONMENTS, FAILURES, FUNCTIONS, RUN, TASKS, WORKERS


def conditions(report: Report, seen: Observations) -> Iterator[Finding]:
    """Yield the findings on how the run ended."""
    if report.status == "lost" and not report.lost_scheduler:
        yield _unfinished(report)
    if writers := lost_writers(report.document["run"]):
        yield _lost_writers(report, writers)
    if report.unknown and report.status != "lost" and not seen.of_kind("scheduler"):
        yield _unknown_end(report)
    if has_no_workers(report):
        yield _no_workers(report)
    if report.status == "cancelled":
        yield _cancelled(report, seen)
    if report.status == "failed" and _is_without_reason(report, seen):
        yield _failed(report)
    if report.counts.get("tasks_rescheduled"):
        yield _rescheduled(report)
    yield from _closed_at_work(report, seen)
    if report.code.environments.named:
        yield _environments(report)
    if report.code.versions:
        yield _versions(report)


def _environments(report: Report) -> Finding:
    """Some processes had other versions than the program."""
    found = report.code.environments
    named = found.named
    sentences = [difference_words(one, found.worker_count) for one in named]
    workers = {address: 1 for one in named for address in one.workers}
    more = f", and {plural(len(named) - 1, 'more difference')}" if len(named) > 1 else ""
    title = f"{sentences[0][:1].upper()}{sentences[0][1:]}{more}"
    return Finding(
        severity="warning",
        category="environment",
        title=title,
        count=len(named),
        evidence=Evidence(
            sentences=tuple(sentences[:MAX_IDS]) if len(named) > 1 else (),
            workers=workers,
            files=(ENVIRONMENTS,),
        ),
        suggestion="Make the environments equal: the same lock file or image for the program and "
        "all workers. environments.jsonl has the versions of all packages.",
    )


def _versions(report: Report) -> Finding:
    """Workers ran different code under one name."""
    found = [(name, one) for name, rows in report.code.versions.items() for one in rows[1:]]
    sentences = [version_words(name, one) for name, one in found]
    more = f", and {plural(len(found) - 1, 'more version')}" if len(found) > 1 else ""
    return Finding(
        severity="warning",
        category="code",
        title=f"{sentences[0][:1].upper()}{sentences[0][1:]}{more}",
        count=len(found),
        evidence=Evidence(
            sentences=tuple(sentences[:MAX_IDS]) if len(found) > 1 else (),
            files=(FUNCTIONS,),
        ),
        suggestion="Deploy one version of the code to all workers, and restart those that imported "
        "another. If the program itself has changed the function, nothing is wrong.",
    )


def _lost_writers(report: Report, writers: Mapping[str, Mapping[str, Any]]) -> Finding:
    """Some of the programs that wrote the run were killed; the others went on."""
    count = len(writers)
    return Finding(
        severity="error",
        category="writer_lost",
        title=f"{plural(count, 'program')} of {len(report.document['run']['writers']):,} that "
        "wrote this run ended without closing it",
        count=count,
        evidence=Evidence(
            sentences=tuple(islice(writer_sentences(writers), MAX_IDS)),
            last_at=max(
                filter(None, (parse_time(one.get("last_seen_at")) for one in writers.values())),
                default=None,
            ),
            files=(RUN,),
        ),
        suggestion="They were killed, or their hosts went down: what they had recorded is in the "
        "run. Look at the logs of the host and the batch system.",
    )


def incomplete_record(report: Report) -> Iterator[Finding]:
    """Yield a finding if the record lacks something."""
    told = set(writer_sentences(lost_writers(report.document["run"])))
    missing = [
        sentence
        for sentence in report.missing
        if sentence not in told and not (report.lost_scheduler and "scheduler_gone" in sentence)
    ]
    if missing:
        yield Finding(
            severity="info",
            category="record",
            title="The record of this run is not complete",
            count=len(missing),
            evidence=Evidence(sentences=tuple(missing[:MAX_IDS]), files=(RUN,)),
            suggestion="Findings may be missing with it.",
        )


def _unfinished(report: Report) -> Finding:
    running, waiting = report.counts["tasks_running"], report.counts["tasks_waiting"]
    tasks = report.unfinished
    return Finding(
        severity="critical",
        category="unfinished",
        title=f"The program that recorded this run ended with {plural(running, 'task')} "
        f"running and {waiting:,} waiting",
        count=max(1, running),
        evidence=Evidence(
            sentences=(
                report.why or "Its recorder is gone.",
                *(running_sentence(report, task) for task in tasks[:MAX_IDS]),
            ),
            task_ids=tuple(task["task_id"] for task in tasks[:MAX_IDS]),
            task_names=top(task["task_name"] for task in tasks),
            workers=dict(Counter(task["worker"] for task in tasks if task["worker"])),
            last_at=report.as_of,
            files=(RUN, TASKS),
        ),
        suggestion="It was killed, or its host went down: the record ends there and does not show "
        "which. Look at the logs of the host and the batch system; what had finished is in "
        "tasks.jsonl.",
    )


def _unknown_end(report: Report) -> Finding:
    """Tasks of a run that was closed before their end was known."""
    return Finding(
        severity="error",
        category="unknown_end",
        title=unknown_words(report),
        count=report.unknown,
        evidence=Evidence(
            sentences=(
                "the record stops before their end: they may have succeeded or failed",
                *report.missing[:3],
                *(running_sentence(report, task) for task in report.unfinished[:3]),
            ),
            task_ids=tuple(task["task_id"] for task in report.unfinished[:MAX_IDS]),
            task_count=report.unknown,
            files=(TASKS, RUN),
        ),
        suggestion="Look at the program's own output for what it got. A longer close_timeout gives "
        "the recorder more time to fetch what the scheduler still knows.",
    )


def _no_workers(report: Report) -> Finding:
    waiting, lost = report.counts["tasks_waiting"], report.counts["workers_lost"]
    came = f"{plural(len(report.workers), 'worker')} came, {lost:,} of them lost"
    return Finding(
        severity="critical" if report.is_live else "error",
        category="no_workers",
        title=no_workers_words(report),
        count=waiting,
        evidence=Evidence(
            sentences=(came if report.workers else "no worker ever came",),
            task_count=waiting,
            files=(WORKERS, TASKS),
        ),
        suggestion="Look at why the workers went (the findings on lost workers, their logs: "
        "scalable crash-logs list), and start new ones: until then nothing will happen.",
    )


def _cancelled(report: Report, seen: Observations) -> Finding:
    cancelled = report.counts["tasks_cancelled"]
    sentences = tuple(interrupted_sentences(report, seen))
    while_ran = f" while {plural(len(sentences), 'task')} ran" if sentences else ""
    others = cancelled - len(sentences)
    if sentences and others > 0:
        sentences = (*sentences, f"{plural(others, 'more task')} had not started")
    return Finding(
        severity="warning",
        category="cancelled",
        title=f"The program was stopped by Ctrl-C, or cancelled its run{while_ran}",
        count=max(1, cancelled),
        evidence=Evidence(
            sentences=sentences,
            task_count=cancelled,
            last_at=report.finished_at,
            files=(TASKS,),
        ),
        suggestion=CAUSES["cancelled"].remedy,
    )


def _is_without_reason(report: Report, seen: Observations) -> bool:
    """Nothing that was recorded says why the run failed."""
    return not (report.counts["tasks_failed"] or seen.groups or seen.killed or report.unknown)


def _failed(report: Report) -> Finding:
    return Finding(
        severity="error",
        category="unknown",
        title="The run is marked as failed, and its record does not say why",
        count=1,
        evidence=Evidence(
            sentences=("no task failed, and no exception of the program was recorded",),
            files=(RUN, FAILURES),
        ),
        suggestion="Look at what the program printed, and at its exit status: it ended its run "
        "as failed, or with an exit status that is not 0.",
        confidence="low",
    )


def _rescheduled(report: Report) -> Finding:
    """Attempts that asked Dask to run them again: no failure, but worth a count."""
    count = report.counts.get("tasks_rescheduled", 0)
    rows = {
        name: number for name, row in report.tasks.items() if (number := row.get("rescheduled"))
    }
    return Finding(
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
    )


def _closed_at_work(report: Report, seen: Observations) -> Iterator[Finding]:
    """Workers that were asked to leave, and took running tasks with them."""
    closed: dict[str, list[str]] = {}
    attempts: Counter[str] = Counter()
    for address, line in seen.worker_lines.items():
        details = line.get("details") or {}
        running = details.get("tasks_running")
        reason = details.get("reason") or "closed"
        # At the end of a run everything is closed.
        if line.get("state") != "removed" or not running or reason in _EVERYTHING_CLOSES:
            continue
        stopped = report.status in ("cancelled", "failed")
        if stopped and is_at_the_end(report, parse_time(line.get("timestamp"))):
            continue  # the worker received the same signal as its program
        closed.setdefault(reason, []).append(address)
        attempts[reason] += running
    for reason, addresses in closed.items():
        of_lifetime = "lifetime" in reason
        yield Finding(
            severity="warning",
            category="walltime" if of_lifetime else "cancelled",
            title=f"{plural(len(addresses), 'worker')} closed ({reason}) while "
            f"{plural(attempts[reason], 'attempt')} ran there",
            count=len(addresses),
            evidence=Evidence(
                sentences=("asked to go, not lost",),
                **places(report, addresses[:MAX_MEMBERS]),
                files=(WORKERS, TASKS),
            ),
            suggestion=CAUSES["walltime"].remedy
            if of_lifetime
            else "Retire workers (client.retire_workers) rather than closing them: they finish "
            "what runs and hand over what they hold.",
        )


_EVERYTHING_CLOSES = ("scheduler-close", "restart")
