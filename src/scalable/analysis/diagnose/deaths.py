"""Findings on lost workers, and on the tasks that failed with them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Final

from scalable.analysis.diagnose.observations import Group, Killed, Observations
from scalable.analysis.diagnose.wording import (
    GIGABYTE,
    MAX_IDS,
    memory_suggestion,
    moments,
    named,
    peak_and_limit,
    places,
    top,
)
from scalable.analysis.findings import Consequence, Evidence, Finding
from scalable.analysis.frames import crash_frames
from scalable.analysis.report import Report, worker_label
from scalable.analysis.units import gigabytes, memory, plural, seconds
from scalable.causes import CAUSES, DEATHS
from scalable_runs.schema import FAILURES, WORKERS, FailureDetails
from scalable_runs.summary import name_of_key

#: Evidence that the title of the finding states already.
_IN_THE_TITLE: Final = frozenset(
    rule.evidence
    for rule in DEATHS
    if rule.confidence == "high" and rule.cause in ("segfault", "exited", "killed", "timeout")
)
#: Causes that lie in what ran there; no task is at fault for a signal from outside.
OWN_FAULT: Final = frozenset({"segfault", "exited", "oom", "memory_limit"})
#: Causes for which the worker's memory is worth a sentence.
_MEMORY_COUNTS: Final = frozenset({"oom", "memory_limit", "killed", "unknown"})
#: Workers described one by one.
_MAX_DEATHS: Final = 4


def deaths(report: Report, seen: Observations) -> Iterator[Finding]:
    """Yield a finding for each cause of death, and one for victims of deaths that are unknown."""
    groups = seen.of_kind("worker")
    victims = _Victims(seen.killed, groups)
    for group in groups:
        yield _death(report, seen, group, victims)
    if victims.unexplained:
        yield _unexplained(report, victims.unexplained)


class _Victims:
    """KilledWorker failures, each put under the deaths that caused it."""

    def __init__(self, failures: Sequence[Killed], groups: Sequence[Group]) -> None:
        self._tasks: dict[int, list[str]] = {}
        self.unexplained: list[Killed] = []
        by_worker: dict[str | None, Group] = {}
        present: dict[str, list[tuple[Group, int]]] = {}
        for group in groups:
            for death in group.deaths:
                by_worker[death.get("worker")] = group
                tasks = death.get("tasks") or ()
                for task in tasks:
                    present.setdefault(task, []).append((group, len(tasks)))
        by_worker.pop(None, None)
        #: Of each task that ran where a worker died: at how many deaths, at how many alone.
        self.present: dict[str, tuple[int, int]] = {
            task: (len(found), sum(count == 1 for _, count in found))
            for task, found in present.items()
        }
        for failure in failures:
            group = by_worker.get(failure.worker)
            if group is None and failure.task_id in present:
                group = present[failure.task_id][-1][0]
            if group is None:
                self.unexplained.append(failure)
            else:
                self._tasks.setdefault(id(group), []).append(failure.task_id)

    def of(self, group: Group) -> list[str]:
        """Return the tasks that failed because of these deaths."""
        return self._tasks.get(id(group), [])


def _death(report: Report, seen: Observations, group: Group, victims: _Victims) -> Finding:
    last = group.deaths[-1]
    running = Counter(task for death in group.deaths for task in death.get("tasks") or ())
    failed = victims.of(group)
    tail = next((text for death in group.deaths if (text := death.get("stderr_tail"))), None)
    files = [path for death in group.deaths if (path := death.get("stderr_path")) is not None]
    return Finding(
        severity="error" if failed else "warning",
        category=group.cause,
        title=_title(group, running),
        count=group.count,
        evidence=Evidence(
            sentences=tuple(dict.fromkeys(filter(None, _sentences(report, group)))),
            is_death=True,
            culprits=tuple(_culprits(running, group, victims)) if group.cause in OWN_FAULT else (),
            task_ids=tuple(task for task, _ in running.most_common(MAX_IDS)),
            task_count=len(running),
            frames=crash_frames(tail or "") if group.cause == "segfault" else (),
            task_names=top(map(name_of_key, running.keys())),
            **places(report, group.workers),
            **moments(group),
            message=group.message,
            stderr_tail=tail,
            files=tuple(dict.fromkeys((FAILURES, WORKERS, *files))),
        ),
        suggestion=_suggestion(report, group, last, failed),
        confidence=group.confidence,
        consequences=tuple(_consequences(seen, group, running, failed)),
    )


def _title(group: Group, running: Counter[str]) -> str:
    if group.cause == "timeout" and any(map(_was_silent, group.deaths)):
        silence = _silence(group.deaths, running)
        return f"{silence}: Dask itself ended {plural(group.count, 'worker')}"
    who = plural(group.count, "worker") + (" was lost" if group.count == 1 else " were lost")
    how = _ending(group.deaths[-1])
    return f"{CAUSES[group.cause].title}: {who}{f' ({how})' if how else ''}"


def _ending(death: FailureDetails) -> str:
    code = death.get("exit_code")
    return death.get("signal") or ("" if code is None else f"exit status {code}")


def _was_silent(death: FailureDetails) -> bool:
    """Dask itself ended the worker, since the scheduler received no heartbeat of it."""
    return death.get("worker_ttl_s") is not None or death.get("reason") == "worker-ttl"


def _silence(group: Sequence[FailureDetails], running: Counter[str]) -> str:
    """Say for how long there was no heartbeat, and what ran during that time."""
    ages = [death.get("heartbeat_age_s") for death in group]
    ages += [death.get("worker_ttl_s") for death in group]
    longest = max(filter(None, ages), default=None)
    text = "No heartbeat" if longest is None else f"No heartbeat for {seconds(longest)}"
    return f"{text} while {named(list(running))} ran" if running else text


def _sentences(report: Report, group: Group) -> Iterator[str]:
    """Say how the workers ended, what each ran and how much memory it used; the same once."""
    how = _ending(group.deaths[-1])
    for sentence in group.evidence:
        if sentence not in _IN_THE_TITLE and not (how and sentence.endswith(how)):
            yield sentence
    limits = [ttl for death in group.deaths if (ttl := death.get("worker_ttl_s"))]
    if limits:
        yield f"distributed.scheduler.worker-ttl is {seconds(limits[0])}"
    ran = {tuple(death.get("tasks") or ()) for death in group.deaths}
    the_same = len(group.deaths) > 1 and len(ran) == 1
    if the_same and (tasks := ran.pop()):
        yield f"each of them ran {named(tasks)}"
    for death in group.deaths[:_MAX_DEATHS]:
        tasks = death.get("tasks")
        parts = [f"ran {named(tasks)}"] if tasks and not the_same else []
        if group.cause in _MEMORY_COUNTS:
            parts += _memory(death)
        if parts:
            address, name = death.get("worker"), death.get("worker_id")
            label = report.labels.get(address or "") or worker_label(address, name)
            yield f"worker {label} {'; '.join(parts)}"
    if len(group.deaths) > _MAX_DEATHS:
        yield f"and {len(group.deaths) - _MAX_DEATHS:,} more workers"


def _memory(death: FailureDetails) -> Iterator[str]:
    """Say the most memory that a worker was known to use, and how it grew."""
    peak = max(death.get("memory_bytes") or 0, death.get("memory_peak_bytes") or 0)
    if not peak:
        return
    limit = (death.get("memory_limit_bytes") or 0) / GIGABYTE
    text = f"used {memory(peak / GIGABYTE, limit)}"
    samples: Any = death.get("memory_samples")
    several = isinstance(samples, list) and len(samples) > 1
    first, last = (_sample(samples[at]) for at in (0, -1)) if several else (None, None)
    if first and last and last[0] > first[0] and peak > 1.2 * first[1]:
        earlier = seconds(last[0] - first[0])
        text += f", {gigabytes(first[1] / GIGABYTE)} {earlier} before that"
    yield text


def _sample(value: Any) -> tuple[float, float] | None:
    """Return a sample's seconds and bytes; the reader does not check these."""
    match value:
        case [int() | float() as moment, int() | float() as size]:
            return moment, size
        case _:
            return None


# -- who is at fault -------------------------------------------------------------------------------


def _culprits(running: Counter[str], group: Group, victims: _Victims) -> Iterator[str]:
    """Say which tasks are likely to be at fault, and which are not.

    What the crashed thread's own stack names comes first, then who was alone when a worker died,
    then who was there most often; only then what the deaths of other causes show.
    """
    if not running:
        return
    alone: Counter[str] = Counter()
    on_stack: set[str] = set()
    for death in group.deaths:
        tasks = death.get("tasks") or ()
        if len(tasks) == 1:
            alone[tasks[0]] += 1
        functions = _crashed_in(death.get("stderr_tail") or "")
        on_stack.update(task for task in tasks if name_of_key(task) in functions)
    most = max(running.values())
    present = {task: victims.present.get(task, (0, 0)) for task in running}
    likely = (
        [task for task in running if task in on_stack]
        or [task for task in running if alone[task]]
        or [task for task, count in running.items() if count == most and most > 1]
        or [task for task in running if present[task][1]]
        or [task for task in running if present[task][0] > 1]
    )
    if len(likely) == len(running) > 1:
        likely = []
    likely.sort(key=lambda task: -running[task])
    for task in likely[:3]:
        presence = _presence(max(present[task][0], running[task]), alone[task])
        stack = "; its code is on the stack of the crash" if task in on_stack else ""
        yield f"likely culprit: {task}, {presence}{stack}"
    innocent = [task for task in running if task not in likely]
    if likely and innocent:
        yield f"likely innocent: {named(innocent)}, running beside it"
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
    """Return the functions on the stack of the crashed thread, if `faulthandler` wrote it."""
    _, found, rest = stderr.partition("Current thread ")
    return frozenset(_CRASH_FRAME.findall(rest.partition("\n\n")[0])) if found else frozenset()


# -- what followed, and what to do -----------------------------------------------------------------


def _consequences(
    seen: Observations, group: Group, running: Counter[str], failed: Sequence[str]
) -> Iterator[Consequence]:
    if failed:
        title = f"{plural(len(failed), 'task')} failed with KilledWorker"
        yield Consequence(title, len(failed), tuple(failed[:MAX_IDS]))
    followers = sum(len(seen.blamed.get(task, ())) for task in failed)
    if followers:
        yield Consequence(f"{plural(followers, 'task')} failed because of those", followers)
    again = running.total() - len(failed)
    if again > 0:
        yield Consequence(f"{plural(again, 'attempt')} under way had to begin again", again)
    lost = sum(death.get("tasks_recomputed") or 0 for death in group.deaths)
    if lost:
        yield Consequence(
            f"{plural(lost, 'finished result')} held there was lost with it"
            if lost == 1
            else f"{lost:,} finished results held there were lost",
            lost,
        )


def _suggestion(report: Report, group: Group, last: FailureDetails, failed: Sequence[str]) -> str:
    cause = group.cause
    if cause in ("oom", "memory_limit"):
        return memory_suggestion(*_peak(report, group), group)
    if cause == "timeout" and _was_silent(last):
        return (
            "Look at what the tasks named do: native code that holds Python's interpreter lock "
            "keeps its worker from sending a heartbeat. Run it in a process of its own, let it "
            "release the lock, or raise distributed.scheduler.worker-ttl."
        )
    text = CAUSES[cause].remedy
    if cause in ("killed", "preempted", "connection", "walltime") and failed:
        text += (
            " Tasks failed with KilledWorker because their workers died more often than "
            "distributed.scheduler.allowed-failures permits: raise that."
        )
    if cause == "import_error":
        text += " A module beside your script must be found by the workers too."
    limit = last.get("time_limit_s")
    if cause == "walltime" and limit is not None:
        text += f" The limit was {seconds(limit)}."
    return text


def _peak(report: Report, group: Group) -> tuple[float | None, float | None]:
    """Return the most memory that the lost workers used, and their limit, in 10^9 bytes."""
    peak, limit = peak_and_limit(row for row in report.workers if row["worker"] in group.workers)
    peaks = [peak or 0.0]
    limits = [limit or 0.0]
    for death in group.deaths:
        peaks.append((death.get("memory_bytes") or 0) / GIGABYTE)
        peaks.append((death.get("memory_peak_bytes") or 0) / GIGABYTE)
        limits.append((death.get("memory_limit_bytes") or 0) / GIGABYTE)
    return max(peaks) or None, max(limits) or None


def _unexplained(report: Report, victims: Sequence[Killed]) -> Finding:
    tasks = [victim.task_id for victim in victims]
    return Finding(
        severity="error",
        category="killed",
        title=f"{plural(len(tasks), 'task')} failed because the workers that ran "
        f"{'it' if len(tasks) == 1 else 'them'} died",
        count=len(tasks),
        evidence=Evidence(
            sentences=("how those workers ended was not recorded",),
            task_ids=tuple(tasks[:MAX_IDS]),
            task_names=top(map(name_of_key, tasks)),
            **places(report, [victim.worker for victim in victims if victim.worker is not None]),
            message=victims[0].message or None,
            files=(FAILURES, WORKERS),
        ),
        suggestion="Look at the logs of the workers named; with nannies the record has how they "
        "ended. distributed.scheduler.allowed-failures says how many deaths a task may survive.",
        confidence="low",
    )
