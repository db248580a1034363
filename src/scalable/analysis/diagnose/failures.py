"""Findings on what failed: workers, tasks, the scheduler, the program."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

from scalable.analysis.argument_words import argument_sentences
from scalable.analysis.diagnose.deaths import deaths
from scalable.analysis.diagnose.observations import MAX_TASKS, Group, Observations
from scalable.analysis.diagnose.wording import (
    GIGABYTE,
    MAX_IDS,
    by_host,
    failed_allocation,
    interrupted_sentences,
    moments,
    places,
    running_sentence,
    top,
)
from scalable.analysis.findings import Consequence, Evidence, Finding
from scalable.analysis.frames import own_frame, relevant_frames
from scalable.analysis.layout import fit
from scalable.analysis.report import ENDED_THE_RUN, FailureGroup, Report, exit_words
from scalable.analysis.units import gigabytes, percent, plural, seconds
from scalable.analysis.words import SHORT, waiting_words
from scalable.causes import CAUSES, Case, classify
from scalable_runs.plain import parse_time
from scalable_runs.schema import FAILURES, TASKS
from scalable_runs.summary import failure_pattern, name_of_key

#: Characters of a traceback that evidence keeps.
_MAX_TRACEBACK: Final = 20_000


def failures(report: Report, seen: Observations) -> Iterator[Finding]:
    """Yield the findings on what failed."""
    yield from deaths(report, seen)
    program = seen.of_kind("program")
    not_started = any(group.phase == "session.start" for group in program)
    for group in seen.groups.values():
        if group.kind == "scheduler":
            yield _scheduler(report, group)
        elif group.kind == "task":
            yield from _task_failures(report, seen, group)
        elif group.kind == "program" and not (
            # The close of a session that did not start fails as well, and the exception of a task
            # comes back to the program that waits for it: neither is news.
            (not_started and group.phase == "session.close") or _is_echo(group, seen)
        ):
            yield _program(report, seen, group)
    if not seen.groups and not seen.killed:
        for row in report.failures:
            yield _older_failure(report, row)


# -- tasks -----------------------------------------------------------------------------------------


def _task_failures(report: Report, seen: Observations, group: Group) -> Iterator[Finding]:
    """Failures for good are one finding; those that a retry made good a lesser one."""
    survived = group.retried - group.final
    if group.final or not survived:
        finding = _failed_tasks(report, seen, group, sorted(group.final), "failed")
        yield replace(finding, consequences=tuple(_followers(report, seen, group, finding.count)))
    if survived:
        finding = _failed_tasks(
            report, seen, group, sorted(survived), "failed and succeeded when retried"
        )
        suggestion = _suggestion(report, group, survived=True)
        yield replace(finding, severity="info", suggestion=suggestion)


def _failed_tasks(
    report: Report, seen: Observations, group: Group, tasks: Sequence[str], outcome: str
) -> Finding:
    # An older record may name no tasks at all; of many not all are kept.
    count = len(tasks) or group.count
    if len(group.final) == MAX_TASKS and len(tasks) == MAX_TASKS:
        count = max(count, group.count - len(group.retried))
    title = f"{CAUSES[group.cause].title}: {plural(count, 'task')} {outcome}"
    return Finding(
        severity="error",
        category=group.cause,
        title=f"{title} ({group.failure_class})",
        count=count,
        evidence=Evidence(
            sentences=(
                *argument_sentences(group.arguments.document(), group.count),
                *group.evidence,
                *_patterns(report, seen, group, tasks),
            ),
            arguments=tuple(group.arguments.document()),
            task_ids=tuple(tasks[:MAX_IDS]),
            task_count=count,
            task_names=top(group.names),
            **places(report, group.workers),
            **moments(group),
            message=group.message,
            messages=tuple(group.messages) if len(group.messages) > 1 else (),
            traceback=group.traceback[-_MAX_TRACEBACK:] or None,
            frames=relevant_frames(group.traceback),
            files=(FAILURES, TASKS),
        ),
        suggestion=_suggestion(report, group, survived=False),
        confidence=group.confidence,
    )


def _followers(
    report: Report, seen: Observations, group: Group, count: int
) -> Iterator[Consequence]:
    """Tasks that failed because these did."""
    blaming = [name for task in sorted(group.final) for name in seen.blamed.get(task, ())]
    in_summary = sum(
        row.dependents_failed
        for row in report.failures
        if failure_pattern(row.failure_class, row.message) in group.patterns
    )
    followers = max(len(blaming), in_summary)
    if followers:
        them = "it" if count == 1 else "them"
        title = f"{plural(followers, 'task')} failed because of {them}"
        yield Consequence(title, followers, tuple(blaming[:MAX_IDS]))


def _suggestion(report: Report, group: Group, *, survived: bool) -> str:
    if group.cause == "oom":
        return failed_allocation(report, group)
    text = CAUSES[group.cause].remedy
    if group.cause in ("connection", "timeout", "preempted"):
        if survived:
            return f"Retries helped. {text}"
        if not group.retried:
            text += " These tasks had no retries: client.submit(…, retries=2) would try again."
    if (
        group.cause == "input_validation"
        and not group.arguments.calls
        and any(_TOKEN.search(task) for task in group.final)
    ):
        text += (
            " Their arguments are not known: a key of your own, as in "
            'client.submit(f, x, key=f"tile-{x}"), shows in the record which input it was.'
        )
    return text


#: The end of a key that Dask made of the arguments: it identifies no input to a person.
_TOKEN: Final = re.compile(r"-[0-9a-f]{32}(?:\D|$)")


def _patterns(
    report: Report, seen: Observations, group: Group, tasks: Sequence[str]
) -> Iterator[str]:
    """Say what the failures have in common, and what differs from tasks that succeeded."""
    names = Counter(group.name_of[task] for task in tasks if task in group.name_of)
    for name, count in names.most_common(3):
        row = report.tasks.get(name)
        if row is not None and row["count"] >= count and row["attempts"] > 1:
            attempts = group.names[name]
            times = f", in {attempts:,} attempts" if attempts > count else ""
            yield f"{count:,} of {plural(row['count'], 'task')} named {name}{times}"
    yield from _common_place(report, seen, group)
    successes = [seen.succeeded[name] for name in group.names if name in seen.succeeded]
    yield from _difference(
        "ran",
        [seen.durations[task] for task in tasks if task in seen.durations],
        [total / number for total, number in successes],
        seconds,
    )
    failed = set(tasks)
    yield from _difference(
        "had inputs of",
        [seen.inputs[task] / GIGABYTE for task in tasks if task in seen.inputs],
        [
            size / GIGABYTE
            for task, size in seen.inputs.items()
            if task not in failed and name_of_key(task) in group.names
        ],
        gigabytes,
    )
    yield from _memory_difference(report, group)


def _common_place(report: Report, seen: Observations, group: Group) -> Iterator[str]:
    """Failures that keep to one worker or host although the work did not."""
    total = group.workers.total()
    if total < 3 or len(report.workers) < 2:
        return
    done: Counter[str] = Counter()
    for name in group.names:
        done.update(seen.name_workers.get(name, {}))
    if not done:
        done.update({row["worker"]: row["attempts"] for row in report.workers if row["worker"]})
    for what, failed, succeeded in (
        ("host", by_host(report, group.workers), by_host(report, done)),
        ("worker", group.workers, done),
    ):
        if not failed or len(succeeded) < 2:
            continue
        place, count = failed.most_common(1)[0]
        share = succeeded[place] / (succeeded.total() or 1)
        if count >= 0.8 * total and share <= 0.5:
            yield (
                f"{'all' if count == total else f'{count:,} of'} {total:,} on {what} {place}, "
                f"which ran {percent(share)} of those that succeeded"
            )
            return


def _difference(
    verb: str, failed: Sequence[float], succeeded: Sequence[float], show: Callable[[float], str]
) -> Iterator[str]:
    if not failed or not succeeded:
        return
    mine, theirs = sum(failed) / len(failed), sum(succeeded) / len(succeeded)
    if max(mine, theirs) >= SHORT and (mine > 2 * theirs or mine < theirs / 2):
        yield f"they {verb} {show(mine)} on average, those that succeeded {show(theirs)}"


def _memory_difference(report: Report, group: Group) -> Iterator[str]:
    mine: list[float] = []
    theirs: list[float] = []
    for worker in report.workers:
        peak = worker["memory_gb_max"]
        if peak and worker["worker"] in group.workers:
            mine.append(peak)
        elif peak and worker["attempts"]:
            theirs.append(peak)
    if mine and theirs and sum(mine) / len(mine) > 2 * sum(theirs) / len(theirs):
        yield (
            f"their workers used up to {gigabytes(max(mine))}, the others {gigabytes(max(theirs))}"
        )


def _older_failure(report: Report, row: FailureGroup) -> Finding:
    """Tasks that failed in a record without failures.jsonl, as older tools leave it."""
    verdict = classify(Case(row.failure_class, row.message, row.traceback or ""))
    cause = CAUSES[verdict.cause]
    return Finding(
        severity="error",
        category=verdict.cause,
        title=f"{cause.title}: {plural(row.count, 'task')} failed ({row.failure_class})",
        count=row.count,
        evidence=Evidence(
            sentences=verdict.evidence,
            task_names=row.task_names,
            workers=row.workers,
            hosts=top(by_host(report, row.workers)),
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


# -- the scheduler ---------------------------------------------------------------------------------


def _scheduler(report: Report, group: Group) -> Finding:
    running, waiting = report.counts["tasks_running"], report.counts["tasks_waiting"]
    unfinished = report.unfinished[:MAX_IDS]
    sentences = [running_sentence(report, task) for task in unfinished]
    if waiting:
        sentences.append(waiting_words(report))
    return Finding(
        severity="critical",
        category="scheduler_lost",
        title=f"The scheduler was lost with {plural(running, 'task')} running and {waiting:,} "
        "that had not started",
        count=max(1, report.unknown),
        evidence=Evidence(
            sentences=tuple(sentences),
            task_ids=tuple(task["task_id"] for task in unfinished),
            task_count=report.unknown,
            first_at=parse_time(group.first),
            message=group.message,
            files=(FAILURES, TASKS),
        ),
        suggestion="Find out why its process ended: its own log, the host's log (out of memory?), "
        "the batch system. Nothing of what it knew is left; what had finished is in tasks.jsonl.",
    )


# -- the program -----------------------------------------------------------------------------------


def _is_echo(group: Group, seen: Observations) -> bool:
    """The program ended with an exception that came from a task."""
    if group.phase not in ENDED_THE_RUN:
        return False
    if group.failure_class.rpartition(".")[2] == "KilledWorker":
        return bool(seen.killed)
    return any(
        group.patterns & other.patterns for other in seen.groups.values() if other.kind != "program"
    )


def _program(report: Report, seen: Observations, group: Group) -> Finding:
    """The program, or its session, ended with an exception of its own."""
    frames = relevant_frames(group.traceback)
    frame = own_frame(group.traceback)
    at = ""
    if frame is None or not frame.is_own:
        frames = ()  # frames of this package, or of another, explain nothing here
    else:
        path = frame.where(report.program).partition(" in ")[0]
        at = f" ({_SEPARATOR.split(path)[-1]})"
    finding = Finding(
        severity="critical",
        category=group.cause,
        title=f"The program ended with {group.failure_class}{at}",
        count=group.count,
        evidence=Evidence(
            sentences=(*group.evidence, *interrupted_sentences(report, seen)),
            **moments(group),
            message=None if group.phase == "session.start" else group.message,
            traceback=group.traceback[-_MAX_TRACEBACK:] or None,
            frames=frames,
            files=(FAILURES,),
        ),
        suggestion=CAUSES[group.cause].remedy,
        confidence="high" if group.cause == "unknown" else group.confidence,
    )
    if group.phase == "session.start":
        return _session_start(finding, group)
    if group.phase == "session.close":
        title = f"Closing the session failed: {group.failure_class}"
        return replace(finding, severity="warning", title=title)
    if group.phase not in ENDED_THE_RUN:
        return replace(finding, title=f"{group.phase} failed: {group.failure_class}{at}")
    if group.failure_class == "SystemExit":
        return _exit(finding, exit_words(group.message), at)
    advice = _OWN_EXCEPTION.get(group.failure_class) or _OWN_EXCEPTION.get(group.cause)
    return replace(finding, suggestion=advice or finding.suggestion)


_SEPARATOR: Final = re.compile(r"[/\\]")
#: What helps with an exception that the program ended with, by its class or its cause.
_OWN_EXCEPTION: Final[Mapping[str, str]] = {
    "TagError": "Add the tag to a component in the manifest (`tags:`), or submit with the name of "
    "one.",
    "unknown": "Read the line named: the exception is the program's own, not a task's.",
    "import_error": "Install the package where the program runs, not on the workers.",
    "input_validation": "Look at what the line named works on: it is the program's, not a task's.",
}


def _session_start(finding: Finding, group: Group) -> Finding:
    suggestion = finding.suggestion
    if group.cause in ("connection", "timeout"):
        suggestion = (
            "Is the scheduler there, and is its address the one in the manifest? Look at "
            "`address` and `start_timeout` of the target, and at the jobs of the workers."
        )
    elif group.cause == "import_error":
        suggestion = "Install the package where the program runs; the message names it."
    text = " ".join((group.message or group.failure_class).split())
    title = f"The session did not start: {fit(text, 200)}"
    return replace(finding, title=title, suggestion=suggestion)


def _exit(finding: Finding, status: str, at: str) -> Finding:
    suggestion = "Look at why it does: the line named calls sys.exit, or raises SystemExit."
    if status in ("exit status 143", "exit status 130"):
        suggestion = (
            "A status above 128 is 128 plus a signal's number: the program was asked to stop "
            "(143 is SIGTERM, 130 is Ctrl-C)."
        )
    title = f"The program ended itself with {status}{at}"
    return replace(finding, title=title, suggestion=suggestion)
