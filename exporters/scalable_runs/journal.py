"""The form of a journal: lines, sequence numbers, pieces, file names and marks. No I/O.

A journal (`tasks.jsonl`) consists of one file or more, its segments (`tasks.jsonl`,
`tasks.1.jsonl`, …). A mark in run.json describes the synced part of each.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from scalable_runs.schema import JOURNALS, SCHEMA_VERSION, SIGNALS, JournalMark

#: Bytes written at once. Larger writes may be torn by a kill.
PIECE: Final = 64 * 1024
#: The journals of a run.
NAMES: Final = frozenset((*JOURNALS, *SIGNALS))

_SEQ: Final = re.compile(rb'"seq":(\d+)')
_SEGMENT: Final = re.compile(r"(.+)\.([1-9]\d{0,5})\.jsonl", re.DOTALL)


def head_of(run_id: str, writer: str | None = None) -> bytes:
    """Return the beginning of each line of a run: all up to the sequence number.

    Parameters
    ----------
    run_id
        The run's id.
    writer
        Name of the writer that `seq` belongs to, in a run with several writers.
    """
    by = f'"writer":"{writer}",' if writer else ""
    return f'{{"schema_version":{SCHEMA_VERSION},"run_id":"{run_id}",{by}"seq":'.encode()


def last_seq(lines: bytes) -> int:
    """Return the sequence number of the last of some whole lines; 0 if it has none."""
    match = _SEQ.search(lines, lines.rfind(b"\n", 0, len(lines) - 1) + 1)
    return int(match[1]) if match else 0


def pieces(lines: bytes) -> Iterator[bytes]:
    """Cut whole lines into pieces of whole lines; only a longer line makes a piece over 64 KiB."""
    start = 0
    while start < len(lines):
        end = start + PIECE
        if end >= len(lines):
            end = len(lines)
        else:
            end = lines.rfind(b"\n", start, end) + 1 or lines.index(b"\n", end) + 1
        yield lines[start:end]
        start = end


def segment_name(journal: str, number: int) -> str:
    """Return the name of a journal's file; 0 is the first."""
    return f"{journal.removesuffix('.jsonl')}.{number}.jsonl" if number else journal


def segment_of(name: str) -> tuple[str, int]:
    """Return the journal that a file belongs to, and its number there."""
    match = _SEGMENT.fullmatch(name)
    return (f"{match[1]}.jsonl", int(match[2])) if match else (name, 0)


def segments_of(names: Iterable[str]) -> dict[str, list[str]]:
    """Return the files of each journal, in the order they were written."""
    found: dict[str, list[tuple[int, str]]] = {}
    for name in names:
        if name.endswith(".jsonl"):
            journal, number = segment_of(name)
            found.setdefault(journal, []).append((number, name))
    return {journal: [name for _, name in sorted(files)] for journal, files in found.items()}


def empty_marks(journals: Mapping[str, int]) -> dict[str, JournalMark]:
    """Return the marks of empty journals: by journal, the last assigned `seq`."""
    return {name: {"bytes": 0, "seq": seq, "crc32": 0} for name, seq in journals.items()}


class Segment:
    """Size, numbers and checksum of one file of a journal; used by a store, under its lock."""

    __slots__ = ("bytes", "crc32", "lines", "name", "seq", "torn")

    def __init__(self, name: str, seq: int = 0) -> None:
        self.name = name
        self.bytes = 0
        self.lines = 0
        #: Of the last whole line, or of the line before this file.
        self.seq = seq
        self.crc32 = 0
        #: Bytes at the end that are the beginning of a line.
        self.torn = 0

    def write(self, data: bytes | memoryview) -> None:
        """Count bytes that were written."""
        self.bytes += len(data)
        self.crc32 = zlib.crc32(data, self.crc32)

    def count(self, lines: bytes) -> None:
        """Count whole lines that were written."""
        if lines:
            self.lines += lines.count(b"\n")
            self.seq = last_seq(lines)

    def mark(self) -> JournalMark:
        """Return the mark that all of it would have."""
        return {"bytes": self.bytes, "seq": self.seq, "crc32": self.crc32}
