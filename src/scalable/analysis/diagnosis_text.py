"""A diagnosis as text for people and as a document for programs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any, Final

from scalable.analysis._text import fit, printable, printable_lines, wrap
from scalable.analysis.diagnose import Diagnosis, Evidence, Finding
from scalable.analysis.render import MIN_WIDTH, paint, path_text
from scalable_runs.layout import SCHEMA_VERSION

_SEVERITY_COLOUR: Final = {
    "critical": ("red", "bold"),
    "error": ("red",),
    "warning": ("yellow",),
    "info": ("cyan",),
}
_STDERR_LINES: Final = 12
_FRAME_LINES: Final = 6
_SENTENCES: Final = 12
_FOREIGN_FRAME: Final = re.compile(r'  File ".*/(?:site|dist)-packages/(?:dask|distributed)/')


def diagnosis_document(diagnosis: Diagnosis) -> dict[str, Any]:
    """Return the diagnosis as plain data: the attributes of its classes, times in ISO 8601."""
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": diagnosis.run_id,
        "path": path_text(diagnosis.path),
        "status": diagnosis.status,
        "started_at": _iso(diagnosis.started_at),
        "as_of": _iso(diagnosis.as_of),
        "summary": diagnosis.summary,
        "prose": diagnosis.prose,
        "findings": [_finding(finding) for finding in diagnosis.findings],
        "notes": list(diagnosis.notes),
    }


def _finding(finding: Finding) -> dict[str, Any]:
    document = asdict(finding)
    evidence = document["evidence"]
    for name in ("first_at", "last_at"):
        evidence[name] = _iso(getattr(finding.evidence, name))
    return document


def render_diagnosis(diagnosis: Diagnosis, width: int = 80, color: bool = False) -> str:
    """Return the diagnosis as lines of at most `width` columns (paths and tracebacks apart)."""
    return "\n".join(_Text(diagnosis, max(MIN_WIDTH, width), color).lines()) + "\n"


class _Text:
    """The text of one diagnosis; every method yields lines."""

    def __init__(self, diagnosis: Diagnosis, width: int, color: bool) -> None:
        self._diagnosis = diagnosis
        self._width = width
        self._color = color

    def lines(self) -> Iterator[str]:
        diagnosis = self._diagnosis
        yield self._paint(fit(printable(diagnosis.run_id), self._width), "bold")
        yield from wrap(printable(diagnosis.summary), self._width)
        if diagnosis.prose:
            yield ""
            for line in printable_lines(diagnosis.prose):
                yield from wrap(line, self._width) if line else [""]
        for number, finding in enumerate(diagnosis.findings, 1):
            yield ""
            yield from self._finding(number, finding)
        if diagnosis.notes:
            yield ""
            for note in diagnosis.notes:
                yield from wrap(printable(note), self._width, first="Note: ", indent="      ")
        yield ""
        yield f"Path  {printable(diagnosis.path)}"

    def _finding(self, number: int, finding: Finding) -> Iterator[str]:
        head = f"{number}. "
        label = self._paint(finding.severity, *_SEVERITY_COLOUR[finding.severity])
        indent = " " * len(head)
        title = wrap(
            f"{finding.severity}: {printable(finding.title)}",
            self._width,
            first=head,
            indent=indent,
        )
        title[0] = title[0].replace(finding.severity, label, 1)
        yield from title
        evidence = finding.evidence
        for sentence in self._evidence(finding):
            yield from wrap(printable(sentence), self._width, first=f"{indent}- ", indent="     ")
        for consequence in finding.consequences:
            yield from wrap(
                printable(consequence.title), self._width, first=f"{indent}→ ", indent="     "
            )
        yield from self._quoted(evidence, indent)
        confidence = f" (confidence: {finding.confidence})" if finding.confidence != "high" else ""
        yield from wrap(
            printable(finding.suggestion) + confidence,
            self._width,
            first=f"{indent}What to do: ",
            indent="     ",
        )
        files = [path for path in evidence.files if "/" in path]
        for path in files[:3]:
            yield f"{indent}See {printable(path)}"

    def _evidence(self, finding: Finding) -> Iterator[str]:
        evidence = finding.evidence
        if evidence.message and finding.category != "unfinished":
            yield f"“{fit(printable(evidence.message), 300)}”"
        yield from evidence.sentences[:_SENTENCES]
        where = self._where(evidence)
        if where:
            yield where
        if evidence.task_ids and finding.category != "unfinished":
            shown = ", ".join(evidence.task_ids[:3])
            yield f"tasks: {shown}{', …' if finding.count > 3 else ''}"

    def _where(self, evidence: Evidence) -> str:
        parts: list[str] = []
        if evidence.workers:
            parts.append(f"on {_counted(evidence.workers)}")
        if evidence.hosts:
            parts.append(f"host {_counted(evidence.hosts)}")
        if evidence.first_at is not None:
            times = f"at {evidence.first_at:%H:%M:%S}"
            if evidence.last_at is not None and evidence.last_at != evidence.first_at:
                times = f"from {evidence.first_at:%H:%M:%S} to {evidence.last_at:%H:%M:%S}"
            parts.append(f"{times} UTC")
        return ", ".join(parts)

    def _quoted(self, evidence: Evidence, indent: str) -> Iterator[str]:
        if evidence.stderr_tail:
            yield f"{indent}Last output of one of them:"
            for line in _last_words(printable_lines(evidence.stderr_tail)):
                yield f"{indent}  | {fit(line, self._width - 7)}"
        elif evidence.traceback:
            yield f"{indent}Traceback of one of them, its end:"
            for line in _own_frames(printable_lines(evidence.traceback))[-_FRAME_LINES:]:
                yield f"{indent}  | {fit(line, self._width - 7)}"

    def _paint(self, text: str, *styles: str) -> str:
        return paint(text, *styles) if self._color else text


def _last_words(lines: list[str]) -> list[str]:
    """The last lines; of a crash the lines before it and the stack that crashed."""
    for number, line in enumerate(lines):
        if line.startswith("Fatal Python error: "):
            return lines[max(0, number - 3) : number + _STDERR_LINES]
    return lines[-_STDERR_LINES:]


def _own_frames(lines: list[str]) -> list[str]:
    """Leave out the frames of Dask itself: what they ran is what matters."""
    kept: list[str] = []
    skipping = False
    for line in lines:
        if line.startswith("  File "):
            skipping = _FOREIGN_FRAME.match(line) is not None
        elif not line.startswith("    "):
            skipping = False
        if not skipping:
            kept.append(line)
    return kept


def _counted(members: Mapping[str, int]) -> str:
    shown = [
        f"{name} ({count:,}×)" if count > 1 else name for name, count in list(members.items())[:3]
    ]
    more = len(members) - len(shown)
    return ", ".join(shown) + (f" and {more:,} more" if more else "")


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat().replace("+00:00", "Z")
