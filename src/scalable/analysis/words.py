"""Sentences that a report and a diagnosis share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from scalable.analysis import units
from scalable.analysis.report import Report
from scalable.analysis.units import plural
from scalable_runs.plain import parse_time
from scalable_runs.schema import UnfinishedTask

#: Attempts shorter than this (seconds) are not worth telling one from another.
SHORT: Final = 0.01


def ran_s(report: Report, task: UnfinishedTask) -> float | None:
    """Return for how many seconds a task had run when the record ends, or runs now."""
    since = parse_time(task["since"])
    if since is None or report.end is None:
        return None
    return max(0.0, (report.end - since).total_seconds())


def tasks_words(report: Report) -> str:
    """Say how many tasks there were, and what became of each of them."""
    counts = report.counts
    if not counts["tasks"]:
        return "none. No task was recorded."
    running, waiting, unknown = counts["tasks_running"], counts["tasks_waiting"], 0
    if report.status not in ("running", "lost"):
        running, waiting, unknown = 0, 0, report.unknown
    parts = units.counts(
        (counts["tasks_succeeded"], "succeeded"),
        (counts["tasks_failed"], "failed"),
        (counts["tasks_cancelled"], "cancelled"),
        (running, "running"),
        (waiting, "waiting"),
        (unknown, "with an unknown end"),
    )
    return plural(counts["tasks"], "task") + (f": {parts}" if parts else "")


def has_no_workers(report: Report) -> bool:
    """Whether tasks wait, none runs, and every worker has left."""
    alive = any(row["state"] not in ("lost", "removed") for row in report.workers)
    counts = report.counts
    return bool(counts["tasks_waiting"]) and not counts["tasks_running"] and not alive


def no_workers_words(report: Report) -> str:
    """Say that tasks wait and no worker can run them."""
    waiting = report.counts["tasks_waiting"]
    wait, them = ("waits", "it") if waiting == 1 else ("wait", "them")
    return f"{plural(waiting, 'task')} {wait} and no worker is left to run {them}"


def unknown_words(report: Report) -> str:
    """Say of how many tasks the end is unknown."""
    return f"What became of {plural(report.unknown, 'task')} is not known"


def waiting_words(report: Report) -> str:
    """Say how many tasks had not started when the record ends."""
    count = report.counts["tasks_waiting"]
    return f"{plural(count, 'task')} had not started, or waited to run again"


def where_words(report: Report) -> str:
    """Say where a run took place."""
    provider, target = report.provider, report.target
    environment = report.document["run"].get("environment")
    found = environment.get("host") if isinstance(environment, Mapping) else None
    host = found if isinstance(found, str) else ""
    if provider in ("local", "LocalCluster"):
        place = f"on {host} (LocalCluster)" if host else "LocalCluster"
        return place if target in ("", "existing") else f"{place}, target {target}"
    if provider in ("existing", "") and target in ("existing", ""):
        if not provider and not target:
            return ""
        seen = sorted({row["host"] for row in report.workers if row["host"]})
        hosts = f", workers on {', '.join(seen[:3])}" if seen else ""
        more = f" and {len(seen) - 3:,} more" if len(seen) > 3 else ""
        return f"an existing cluster{hosts}{more}"
    return ", ".join(dict.fromkeys(filter(None, (provider, target))))
