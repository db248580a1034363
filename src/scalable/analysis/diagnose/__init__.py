"""What went wrong in a run and what to do about it: findings, grouped by cause and root.

:mod:`~scalable.analysis.diagnose.observations` gathers, the modules of rules make findings of what
was gathered, and this module ranks them.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from scalable.analysis.diagnose.conditions import conditions, incomplete_record
from scalable.analysis.diagnose.failures import failures
from scalable.analysis.diagnose.observations import gather
from scalable.analysis.diagnose.performance import performance
from scalable.analysis.diagnose.task_output import with_output
from scalable.analysis.findings import (
    SEVERITIES,
    Consequence,
    Diagnosis,
    Evidence,
    Finding,
    Severity,
)
from scalable.analysis.load import Progress
from scalable.analysis.report import Report
from scalable.analysis.units import plural
from scalable.analysis.words import tasks_words
from scalable_runs.reader import RunReader
from scalable_runs.stores.base import Store

__all__ = [
    "SEVERITIES",
    "Consequence",
    "Diagnosis",
    "Evidence",
    "Finding",
    "Severity",
    "diagnose",
]


def diagnose(reader: RunReader, progress: Progress | None = None) -> Diagnosis:
    """Make the diagnosis of a run; `progress` is called with bytes read and bytes in all."""
    report, seen = gather(reader, progress)
    rules = (
        failures(report, seen),
        conditions(report, seen),
        performance(report, seen),
        incomplete_record(report),
    )
    stores = [reader.store, *(part.store for part in reader.parts.values())]
    findings = [
        with_output(_with_files(finding, reader.store), stores)
        for rule in rules
        for finding in rule
    ]
    findings.sort(key=_rank)
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
        notes=(*report.notes, *seen.notes),
    )


def _rank(finding: Finding) -> tuple[int, bool, int]:
    # What follows from a lost worker comes after it.
    return SEVERITIES.index(finding.severity), not finding.evidence.is_death, -finding.count


def _with_files(finding: Finding, store: Store) -> Finding:
    """Leave out the files that are missing; those of another host cannot be checked."""
    files = tuple(file for file in finding.evidence.files if _may_exist(file, store))
    return replace(finding, evidence=replace(finding.evidence, files=files))


def _may_exist(file: str, store: Store) -> bool:
    host, separator, path = file.partition(":/")
    if separator:
        here = host in ("127.0.0.1", "localhost", "::1", socket.gethostname())
        return not here or Path(f"/{path}").exists()
    return store.stat(file) is not None


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
    shown = serious or [finding for finding in findings if finding.severity == "warning"]
    if not shown:
        went_well = counts["tasks"] and counts["tasks_succeeded"] == counts["tasks"]
        return f"{head}. Nothing stands out." if went_well else f"{head}."
    return f"{head}. {'. '.join(finding.title for finding in shown[:3])}."
