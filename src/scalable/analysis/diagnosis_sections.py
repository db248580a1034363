"""A diagnosis as an outline."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from typing import Final

from scalable.analysis import units
from scalable.analysis.findings import Diagnosis, Evidence, Finding, Severity
from scalable.analysis.messages import message_and_values
from scalable.analysis.report import worker_label
from scalable.analysis.sections import (
    Block,
    Fact,
    Facts,
    Frames,
    Item,
    Outline,
    Quote,
    Section,
    Sentence,
    Tone,
)

_TONES: Final[dict[Severity, Tone]] = {
    "critical": "critical",
    "error": "bad",
    "warning": "warning",
    "info": "active",
}
_STDERR_LINES: Final = 12
_SENTENCES: Final = 12
#: Findings whose sentences say everything.
_NO_QUOTE: Final = frozenset({"unfinished", "scheduler_lost", "unknown_end"})


def diagnosis_outline(diagnosis: Diagnosis) -> Outline:
    """Return what a diagnosis says."""
    sections = [Section((Sentence(diagnosis.summary),))]
    if diagnosis.prose:
        sections.append(Section((Sentence(diagnosis.prose, "prose"),)))
    sections += [
        Section((_item(diagnosis, number, finding),))
        for number, finding in enumerate(diagnosis.findings, 1)
    ]
    if diagnosis.notes:
        sections.append(Section(tuple(Sentence(note, "note") for note in diagnosis.notes)))
    path = Fact("Path", str(diagnosis.path), is_whole=True)
    return Outline(diagnosis.run_id, (*sections, Section((Facts((path,)),))))


def _item(diagnosis: Diagnosis, number: int, finding: Finding) -> Item:
    return Item(
        mark=f"{number}. ",
        title=finding.title,
        blocks=tuple(_blocks(diagnosis, finding)),
        tone=_TONES[finding.severity],
        label=finding.severity,
    )


def _blocks(diagnosis: Diagnosis, finding: Finding) -> Iterator[Block]:
    """Say what happened, whose code it was and what to do; what that rests on comes after."""
    evidence = finding.evidence
    if _quotes_message(finding):
        message, values = message_and_values(evidence.message or "", evidence.messages)
        yield message._replace(before="“", after="”")
        if values:
            yield Sentence(values)
    for sentence in evidence.culprits:
        yield Sentence(sentence[:1].upper() + sentence[1:], "detail")
    if evidence.frames:
        yield Frames(evidence.frames, diagnosis.program)
    confidence = f" (confidence: {finding.confidence})" if finding.confidence != "high" else ""
    yield Sentence(finding.suggestion + confidence, "advice")
    for consequence in finding.consequences:
        yield Sentence(consequence.title, "consequence")
    for sentence in evidence.sentences[:_SENTENCES]:
        # The title names the class.
        if not sentence.startswith("exception class ") or ", which is" in sentence:
            yield Sentence(sentence, "evidence")
    if where := _where(diagnosis, evidence):
        yield Sentence(where, "evidence")
    if evidence.task_ids and finding.category not in _NO_QUOTE and not evidence.is_death:
        count = max(evidence.task_count, len(evidence.task_ids))
        more = f" and {count - 3:,} more" if count > 3 else ""
        noun = "task" if count == 1 else "tasks"
        yield Sentence(f"{noun}: {', '.join(evidence.task_ids[:3])}{more}", "evidence")
    if evidence.stderr_tail:
        yield Sentence("Last output of one of them:", "line")
        yield Quote(tuple(_last_words(evidence.stderr_tail.splitlines())), is_output=True)
    if evidence.output_tail and evidence.output_task:
        yield Sentence("The last that one of them printed:", "line")
        lines = evidence.output_tail.splitlines()
        yield Quote(tuple(lines[-_STDERR_LINES:]), is_output=True)
        task = shlex.quote(evidence.output_task)
        command = f"scalable logs {diagnosis.run_id} --task {task}"
        yield Sentence(f"All of it: {command}", "command")
    yield from _logs(diagnosis, evidence)


def _quotes_message(finding: Finding) -> bool:
    """The message of a lost worker, and of some findings, is in the title and the sentences."""
    evidence = finding.evidence
    if not evidence.message or finding.category in _NO_QUOTE or evidence.is_death:
        return False
    return evidence.message not in finding.title


def _where(diagnosis: Diagnosis, evidence: Evidence) -> str:
    """Say where and when it happened, apart from what the sentences say already."""
    parts: list[str] = []
    sentences = " ".join(evidence.sentences)
    labels = {
        diagnosis.labels.get(address) or worker_label(address, None): count
        for address, count in evidence.workers.items()
    }
    labels = {label: count for label, count in labels.items() if label not in sentences}
    if labels:
        noun = "worker" if len(labels) == 1 else "workers"
        parts.append(f"on {noun} {units.members(labels)}")
    hosts = {
        host: count
        for host, count in evidence.hosts.items()
        if not any(host in label for label in labels) and host not in sentences
    }
    if hosts:
        parts.append(f"host {units.members(hosts)}")
    if evidence.first_at is not None:
        first = last = f"{evidence.first_at:%H:%M:%S}"
        if evidence.last_at is not None:
            last = f"{evidence.last_at:%H:%M:%S}"
        parts.append(f"at {first} UTC" if last == first else f"from {first} to {last} UTC")
    return ", ".join(parts)


def _last_words(lines: Sequence[str]) -> Sequence[str]:
    """Return the last lines; of a crash, whose stack is shown as frames, the lines before it."""
    for number, line in enumerate(lines):
        if line.startswith("Fatal Python error: "):
            return lines[max(0, number - 3) : number + 1]
    return lines[-_STDERR_LINES:]


def _logs(diagnosis: Diagnosis, evidence: Evidence) -> Iterator[Block]:
    """Say how to see the whole output of the workers whose logs are kept."""
    logs = [path for path in evidence.files if "/" in path]
    kept = [path for path in logs if path.startswith("logs/")]
    if kept:
        # logs/workers/<worker>/<start>.stderr.log
        workers = {parts[2] for path in kept if len(parts := path.split("/")) > 3}
        which = f"show {workers.pop()}" if len(workers) == 1 else "list"
        command = f"scalable crash-logs {which} --run-id {diagnosis.run_id}"
        yield Sentence(f"All that they wrote: {command}", "command")
    for path in [path for path in logs if path not in kept][:3]:
        yield Quote((f"See {path}",))
