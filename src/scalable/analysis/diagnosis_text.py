"""A diagnosis as text for people and as a document for programs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any, Final

from scalable.analysis._text import printable, printable_lines, wrap
from scalable.analysis.diagnose import Diagnosis, Evidence, Finding
from scalable.analysis.page import MIN_WIDTH, Page
from scalable.analysis.render import path_text
from scalable.analysis.report import worker_label
from scalable.analysis.words import messages_words
from scalable_runs.schema import SCHEMA_VERSION

_SEVERITY_COLOUR: Final = {
    "critical": ("red", "bold"),
    "error": ("red",),
    "warning": ("yellow",),
    "info": ("cyan",),
}
_STDERR_LINES: Final = 12
_SENTENCES: Final = 12


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
    evidence["frames"] = [frame._asdict() for frame in finding.evidence.frames]
    for name in ("first_at", "last_at"):
        evidence[name] = _iso(getattr(finding.evidence, name))
    return document


def render_diagnosis(
    diagnosis: Diagnosis,
    width: int = 80,
    color: bool = False,
    *,
    elide: bool = False,
    strict: bool = True,
) -> str:
    """Return the diagnosis as lines of at most `width` columns; see :class:`Page`."""
    page = Page(max(MIN_WIDTH, width), color, elide, strict)
    return "\n".join(_Text(diagnosis, page).lines()) + "\n"


class _Text:
    """The text of one diagnosis; every method yields lines."""

    def __init__(self, diagnosis: Diagnosis, page: Page) -> None:
        self._diagnosis = diagnosis
        self._page = page
        self._width = page.width

    def lines(self) -> Iterator[str]:
        diagnosis, page = self._diagnosis, self._page
        for line in page.quoted(printable(diagnosis.run_id), ""):
            yield page.paint(line, "bold")
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
        """What happened, whose code it was and what to do; what that rests on comes after."""
        head = f"{number}. "
        label = self._page.paint(finding.severity, *_SEVERITY_COLOUR[finding.severity])
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
        for said in self._said(finding):
            yield from wrap(said, self._width, first=indent, indent=indent)
        for sentence in evidence.culprits:
            text = printable(sentence)
            yield from wrap(text[:1].upper() + text[1:], self._width, first=indent, indent="     ")
        for frame in evidence.frames:
            yield from self._page.frame(frame, self._diagnosis.program, indent + "  ")
        confidence = f" (confidence: {finding.confidence})" if finding.confidence != "high" else ""
        yield from wrap(
            printable(finding.suggestion) + confidence,
            self._width,
            first=f"{indent}What to do: ",
            indent="     ",
        )
        for consequence in finding.consequences:
            yield from wrap(
                printable(consequence.title), self._width, first=f"{indent}→ ", indent="     "
            )
        for sentence in self._evidence(finding):
            yield from wrap(printable(sentence), self._width, first=f"{indent}- ", indent="     ")
        if evidence.stderr_tail:
            yield f"{indent}Last output of one of them:"
            for line in _last_words(printable_lines(evidence.stderr_tail)):
                yield from self._page.quoted(line, f"{indent}  | ")
        yield from self._logs(evidence, indent)

    def _said(self, finding: Finding) -> Iterator[str]:
        """The message, or what all messages share with the values by which they differ."""
        evidence = finding.evidence
        # What a lost worker's message says stands in the title and the sentences.
        if not evidence.message or finding.category in _NO_QUOTE or evidence.is_death:
            return
        if evidence.message in finding.title:
            return
        message, aside = messages_words(
            evidence.message, evidence.messages, 300 if self._page.elide else 800
        )
        yield f"“{message}”"
        if aside:
            yield aside

    def _evidence(self, finding: Finding) -> Iterator[str]:
        evidence = finding.evidence
        for sentence in evidence.sentences[:_SENTENCES]:
            # The title names the class.
            if not (sentence.startswith("exception class ") and ", which is" not in sentence):
                yield sentence
        where = self._where(evidence)
        if where:
            yield where
        if evidence.task_ids and finding.category not in _NO_QUOTE and not evidence.is_death:
            shown = ", ".join(evidence.task_ids[:3])
            count = max(evidence.task_count, len(evidence.task_ids))
            more = f" and {count - 3:,} more" if count > 3 else ""
            yield f"{'task' if count == 1 else 'tasks'}: {shown}{more}"

    def _where(self, evidence: Evidence) -> str:
        parts: list[str] = []
        labels = {
            self._diagnosis.labels.get(address) or worker_label(address, None): count
            for address, count in evidence.workers.items()
        }
        told = " ".join(evidence.sentences)
        labels = {label: count for label, count in labels.items() if label not in told}
        if labels:
            parts.append(f"on {'worker' if len(labels) == 1 else 'workers'} {_counted(labels)}")
        hosts = {
            host: count
            for host, count in evidence.hosts.items()
            if not any(host in label for label in labels) and host not in told
        }
        if hosts:
            parts.append(f"host {_counted(hosts)}")
        if evidence.first_at is not None:
            first = last = f"{evidence.first_at:%H:%M:%S}"
            if evidence.last_at is not None:
                last = f"{evidence.last_at:%H:%M:%S}"
            parts.append(f"at {first} UTC" if last == first else f"from {first} to {last} UTC")
        return ", ".join(parts)

    def _logs(self, evidence: Evidence, indent: str) -> Iterator[str]:
        """How to see the whole output of the workers whose logs are kept."""
        logs = [path for path in evidence.files if "/" in path]
        kept = [path for path in logs if path.startswith("logs/")]
        if kept:
            # logs/workers/<worker>/<start>.stderr.log
            workers = {parts[2] for path in kept if len(parts := path.split("/")) > 3}
            which = f"show {workers.pop()}" if len(workers) == 1 else "list"
            text = f"All that they wrote: scalable crash-logs {which}"
            text = f"{text} --run-id {self._diagnosis.run_id}"
            yield from wrap(printable(text), self._width, first=indent, indent=indent + "  ")
        for path in [path for path in logs if path not in kept][:3]:
            yield from self._page.quoted(f"See {printable(path)}", indent)


#: Findings whose sentences tell all.
_NO_QUOTE: Final = frozenset({"unfinished", "scheduler_lost", "unknown_end"})


def _last_words(lines: list[str]) -> list[str]:
    """The last lines; of a crash, whose stack is told as frames, the lines before it."""
    for number, line in enumerate(lines):
        if line.startswith("Fatal Python error: "):
            return lines[max(0, number - 3) : number + 1]
    return lines[-_STDERR_LINES:]


def _counted(members: Mapping[str, int]) -> str:
    shown = [
        f"{name} ({count:,}×)" if count > 1 else name for name, count in list(members.items())[:3]
    ]
    more = len(members) - len(shown)
    return ", ".join(shown) + (f" and {more:,} more" if more else "")


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat().replace("+00:00", "Z")
