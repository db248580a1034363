"""What a record lacks: counted while it is written, found when it is read."""

from __future__ import annotations

import errno
import threading
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias, cast

from scalable_runs.journal import segment_of
from scalable_runs.schema import FILE_OF

#: Gaps listed one by one; all of them are counted.
MAX_GAPS: Final = 10

#: First and last number of missing lines, and the writer if there are several.
Gap: TypeAlias = tuple[int, int] | tuple[int, int, str]


@dataclass(frozen=True, slots=True)
class Problem:
    """A kind of problem that occurred for the first time.

    Attributes
    ----------
    kind
        The operation and its error, as counted in :attr:`LossCounter.errors`: `write:ENOSPC`,
        `fsync:EIO`, `removed`, …
    file
        The file; empty if no particular file is concerned.
    message
        One sentence for a person.
    """

    kind: str
    file: str
    message: str


class LossCounter:
    """Counts what the record of a run lacks. Called by any thread; never waits for I/O.

    Parameters
    ----------
    on_problem
        Called once for each kind of problem, by :meth:`report`.

    Attributes
    ----------
    losses
        Lines lost, by journal: exact.
    uncertain
        Lines written before a sync that failed, by journal: they may be durable or not.
    errors
        Number of errors by kind, such as `{"write:ENOSPC": 3, "fsync:EIO": 1}`.
    """

    def __init__(self, on_problem: Callable[[Problem], None] | None = None) -> None:
        self.losses: dict[str, int] = {}
        self.uncertain: dict[str, int] = {}
        self.errors: dict[str, int] = {}
        self._on_problem = on_problem
        self._known: set[str] = set()
        self._unreported: list[Problem] = []
        self._lock = threading.Lock()

    def continue_from(self, telemetry: Mapping[str, Any], journals: Container[str]) -> None:
        """Take over the counts of a writer that died.

        Parameters
        ----------
        telemetry
            As in its run.json.
        journals
            The names in `dropped` that are counted here; the others belong to the caller.
        """
        dropped: Mapping[str, int] = telemetry.get("dropped") or {}
        self.losses.update({name: n for name, n in dropped.items() if name in journals})
        self.errors.update(telemetry.get("errors") or {})
        self.uncertain.update(telemetry.get("uncertain") or {})

    def lose(self, journal: str, lines: int) -> None:
        """Count lost lines."""
        with self._lock:
            _add(self.losses, journal, lines)

    def doubt(self, journal: str, lines: int) -> None:
        """Count lines that may be durable or not."""
        with self._lock:
            _add(self.uncertain, journal, lines)

    def note(self, kind: str, file: str, message: str) -> None:
        """Count a problem; the first of its kind is reported later."""
        with self._lock:
            _add(self.errors, kind, 1)
            if kind not in self._known:
                self._known.add(kind)
                self._unreported.append(Problem(kind, file, message))

    def failed(self, operation: str, file: str, error: OSError) -> None:
        """Count a system call that failed."""
        name = errno.errorcode.get(error.errno or 0, type(error).__name__)
        reason = error.strerror or str(error)
        message = f"{operation} of {file or 'the run directory'} failed: {reason}"
        self.note(f"{operation}:{name}", file, message)

    def report(self) -> None:
        """Call `on_problem` for new kinds of problems; the caller holds no lock."""
        if not self._unreported:
            return
        with self._lock:
            problems, self._unreported = self._unreported, []
        if self._on_problem is not None:
            for problem in problems:
                with suppress(Exception):
                    self._on_problem(problem)

    def telemetry(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return `telemetry` of run.json: these counts added to `given`."""
        with self._lock:
            found = {
                **given,
                "dropped": _sum(given.get("dropped"), self.losses),
                "errors": _sum(given.get("errors"), self.errors),
            }
            if self.uncertain:
                found["uncertain"] = dict(self.uncertain)
        return found


def _add(counts: dict[str, int], name: str, number: int) -> None:
    if number:
        counts[name] = counts.get(name, 0) + number


def _sum(given: Any, own: Mapping[str, int]) -> dict[str, int]:
    counts: Counter[str] = Counter(cast("dict[str, int]", given or {}))
    counts.update(own)
    return dict(counts)


@dataclass(slots=True)
class FileProblems:
    """Problems of a file, by kind; empty without problems.

    Attributes
    ----------
    torn
        Last lines that were cut off.
    broken
        Other lines that are not JSON objects, or longer than 16 MiB.
    foreign
        Objects that are not records of this run.
    wrong
        Fields of a wrong type, which were left out of their records.
    newer
        Records of a schema version that this reader does not know.
    nul_bytes
        NUL bytes, which a file system may leave behind a power cut.
    missing
        Lines whose sequence numbers are absent: they were lost.
    gaps
        The first and the last number of the first gaps, and the writer if the run has several.
    repeated
        Lines that were repeated and skipped.
    disordered
        Records with a sequence number that fits neither neighbour.
    missing_bytes
        Bytes that were synced and are missing.
    crc_mismatches
        Files of this journal whose synced part has changed.
    unreadable
        Why the file cannot be read.
    """

    name: str
    torn: int = 0
    broken: int = 0
    foreign: int = 0
    wrong: int = 0
    newer: int = 0
    nul_bytes: int = 0
    missing: int = 0
    gaps: list[Gap] = field(default_factory=list[Gap])
    repeated: int = 0
    disordered: int = 0
    missing_bytes: int = 0
    crc_mismatches: int = 0
    unreadable: str = ""

    def __bool__(self) -> bool:
        return next(self._sentences(), None) is not None

    def sentences(self) -> list[str]:
        """Describe each problem in one sentence for a person, the worst first."""
        return [f"{self.name}: {sentence}" for sentence in self._sentences()]

    def _sentences(self) -> Iterator[str]:
        if self.unreadable:
            yield f"cannot be read: {self.unreadable}"
        if self.crc_mismatches:
            yield "its bytes are not those that were written (checksum)"
        if self.missing_bytes:
            yield f"{_count(self.missing_bytes, 'byte')} that had been synced are gone"
        if self.missing:
            where = ", ".join(map(_gap, self.gaps))
            more = ", …" if len(self.gaps) >= MAX_GAPS else ""
            yield f"{_count(self.missing, 'line')} missing (seq {where}{more})"
        if self.broken:
            yield f"{_count(self.broken, 'broken line')} skipped"
        if self.torn:
            yield "its last line is torn and was skipped"
        if self.nul_bytes:
            yield f"{_count(self.nul_bytes, 'NUL byte')}, left by a power cut or a damaged disk"
        if self.foreign:
            yield f"{_count(self.foreign, 'line')} that are no record of this run skipped"
        if self.wrong:
            yield f"{_count(self.wrong, 'field')} of a wrong type left out"
        if self.newer:
            yield f"{_count(self.newer, 'line')} of a newer schema skipped; update this tool"
        if self.repeated:
            yield f"{_count(self.repeated, 'repeated line')} skipped"
        if self.disordered:
            yield f"{_count(self.disordered, 'line')} with a wrong sequence number"


def contradiction(summary: Mapping[str, Any], run: Mapping[str, Any]) -> str:
    """Say why a summary is not that of a run; nothing if it may be.

    Parameters
    ----------
    summary
        summary.json.
    run
        run.json, whose marks have the numbers of lines.
    """
    of_run, run_id = _mapping(summary.get("run")), run.get("run_id")
    if run_id is not None and of_run.get("run_id", run_id) != run_id:
        return f"it is the summary of another run, {of_run.get('run_id')!r}"
    if run.get("writers"):
        return ""  # each writer counts from 1, so the last number is not that of all lines
    telemetry = _mapping(run.get("telemetry"))
    lacks_lines = any(
        telemetry.get(name) for name in ("dropped", "errors", "uncertain", "restarts")
    )
    lines: Counter[str] = Counter()
    for name, mark in _mapping(run.get("journal")).items():
        seq = cast("Any", mark).get("seq") if isinstance(mark, dict) else None
        journal = segment_of(name)[0]
        lines[journal] = max(lines[journal], seq if type(seq) is int else 0)
    counts = _mapping(summary.get("counts"))
    for event, journal in FILE_OF.items():
        count = counts.get(f"{event}_events")
        if type(count) is not int or not lines[journal]:
            continue
        if count > lines[journal] or (count < lines[journal] and not lacks_lines):
            return f"it counts {count:,} records of {journal}, which has {lines[journal]:,}"
    return ""


def _gap(gap: Gap) -> str:
    first, last, *writer = gap
    numbers = f"{first}" if first == last else f"{first}–{last}"
    return f"{numbers} of {writer[0]}" if writer else numbers


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _mapping(value: Any) -> dict[str, Any]:
    """A summary of another version is not checked: its fields may be anything."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}
