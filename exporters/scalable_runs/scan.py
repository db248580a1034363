"""Reads the records of one journal, whatever state its files are in."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol, cast

import orjson

from scalable_runs import fields
from scalable_runs.problems import MAX_GAPS, FileProblems, Gap
from scalable_runs.run_parts import file_of
from scalable_runs.schema import (
    DECLARATION_OF,
    SCHEMA_VERSION,
    AnyRecord,
    JournalMark,
    Record,
)
from scalable_runs.stores.base import Hole

#: A longer line is not a record: it is skipped without being kept in memory.
MAX_LINE: Final = 16 * 1024 * 1024

_NO_MARK: Final[JournalMark] = {"bytes": 0, "seq": 0, "crc32": 0}


class Readable(Protocol):
    """Reads files as a store does."""

    def read(self, name: str) -> Iterator[bytes | Hole]:
        """Yield a file's content; see :meth:`scalable_runs.stores.base.Store.read`."""
        ...


class JournalScan:
    """One reading of one journal, by one thread.

    Parameters
    ----------
    store
        The run's store, or what reads its files.
    journal
        Name of the journal.
    run_id
        Id of the run that the records must have; None: that of the first record.
    is_live
        Whether the run is being written: then half a line at its end is not damage.
    progress
        Called with the bytes read since the last call.
    writer
        The writer whose part of a run it is, if the run has several.

    Attributes
    ----------
    problems
        Problems found so far.
    """

    def __init__(
        self,
        store: Readable,
        journal: str,
        *,
        run_id: str | None,
        is_live: bool,
        progress: Callable[[int], None] | None = None,
        writer: str | None = None,
    ) -> None:
        self.run_id = run_id
        self.problems = FileProblems(journal if writer is None else file_of(writer, journal))
        self._store = store
        self._is_live = is_live
        self._progress = progress
        self._shapes = fields.Shapes(fields.row_of(DECLARATION_OF.get(journal, AnyRecord)))
        #: The numbers of each writer, and of the writer of the last record.
        self._order = _Order(writer, self.problems)
        self._orders: dict[str | None, _Order] = {writer: self._order}

    def records(
        self, segments: Sequence[str], marks: Mapping[str, JournalMark]
    ) -> Iterator[Record]:
        """Yield the records of the journal's files, and find missing lines.

        Parameters
        ----------
        segments
            The existing files, in order.
        marks
            The synced part, by file.
        """
        for name in segments:
            mark = marks.get(name, _NO_MARK)
            yield from self._segment(name, mark)
            self._order.synced = max(self._order.synced, mark["seq"])
        for name in sorted(marks.keys() - set(segments)):
            mark = marks[name]
            self._order.synced = max(self._order.synced, mark["seq"])
            self.problems.missing_bytes += mark["bytes"]
            if mark["bytes"]:
                self.problems.unreadable = "the file is missing"
        for order in self._orders.values():
            order.end()

    def _segment(self, name: str, mark: JournalMark) -> Iterator[Record]:
        loads, clean = orjson.loads, self._shapes.clean
        problems, order = self.problems, self._order
        try:
            for lines, is_end in self._lines(name, mark):
                for line in lines:
                    try:
                        record = loads(line)
                        # Nearly every line passes here; all others are examined.
                        if (
                            record["seq"] == order.last + 1
                            and record["run_id"] == self.run_id
                            and record["schema_version"] == SCHEMA_VERSION
                            and record["event_type"].__class__ is str
                            and record.get("writer") == order.writer
                        ):
                            order.last += 1
                            order.before = None
                            problems.wrong += clean(record, len(line))
                            yield record
                            continue
                    except ValueError:
                        record = self._repaired(line, is_end)
                        if record is None:
                            continue
                    except (LookupError, TypeError):
                        record = loads(line)
                    if not self._is_ours(record):
                        continue
                    order = self._order_of(record)
                    if order.follows(record.get("seq")):
                        problems.wrong += clean(record, len(line))
                        yield record
        except OSError as error:
            problems.unreadable = error.strerror or str(error)

    def _order_of(self, record: Record) -> _Order:
        writer = record.get("writer")
        if writer.__class__ is not str:
            writer = None
        self._order = self._orders.get(writer) or _Order(writer, self.problems)
        self._orders[writer] = self._order
        return self._order

    def _is_ours(self, record: Any) -> bool:
        if not isinstance(record, dict):
            self.problems.broken += 1
            return False
        found = cast("dict[str, Any]", record)
        run_id, version = found.get("run_id"), found.get("schema_version")
        if self.run_id is None and isinstance(run_id, str):
            self.run_id = run_id
        if type(version) is int and version > SCHEMA_VERSION:
            self.problems.newer += 1
            return False
        if (
            run_id != self.run_id
            or type(version) is not int
            or not isinstance(found.get("event_type"), str)
        ):
            self.problems.foreign += 1
            return False
        return True

    def _repaired(self, line: bytes, is_end: bool) -> Any:
        """Count a line that is not JSON; return its content between NULs, if that is a record."""
        problems = self.problems
        stripped = line.strip(b"\0")
        problems.nul_bytes += len(line) - len(stripped)
        if len(stripped) < len(line):
            if not stripped:
                return None
            try:
                return orjson.loads(stripped)
            except ValueError:
                pass
        if not stripped.strip():
            return None
        problems.nul_bytes += stripped.count(b"\0")
        if not is_end:
            problems.broken += 1
        elif not self._is_live:
            problems.torn += 1
        return None

    def _lines(self, name: str, mark: JournalMark) -> Iterator[tuple[list[bytes], bool]]:
        """Yield a file's lines block by block, and whether they end without a newline."""
        problems = self.problems
        # The beginning of a line whose end was not read yet, as a list of blocks.
        begun: list[bytes] = []
        held = 0
        too_long = False
        for block in self._checked(name, mark):
            if isinstance(block, Hole):
                held += block.length
                nul_bytes, block = block.length, b""
            else:
                nul_bytes = 0
                end = block.find(b"\n")
                if too_long:
                    problems.nul_bytes += block.count(b"\0", 0, end if end >= 0 else len(block))
                    if end < 0:
                        continue
                    block, too_long = block[end + 1 :], False
                    end = block.find(b"\n")
                if end >= 0:
                    *lines, rest = block.split(b"\n")
                    if begun:
                        lines[0] = b"".join((*begun, lines[0]))
                    yield lines, False
                    begun, held = [], 0
                    block = rest
                begun.append(block)
                held += len(block)
            if too_long:
                problems.nul_bytes += nul_bytes
                held = 0
            elif held > MAX_LINE:
                problems.broken += 1
                problems.nul_bytes += sum(part.count(b"\0") for part in begun) + nul_bytes
                begun, held, too_long = [], 0, True
            elif nul_bytes:
                begun.append(bytes(nul_bytes))
        if held:
            yield [b"".join(begun)], True

    def _checked(self, name: str, mark: JournalMark) -> Iterator[bytes | Hole]:
        """Yield a file's blocks, and compare the synced part with its mark."""
        synced = mark["bytes"]
        crc = position = 0
        for block in self._store.read(name):
            is_hole = isinstance(block, Hole)
            length = block.length if is_hole else len(block)
            if position < synced:
                # A hole within the synced part is damage.
                crc = -1 if is_hole or crc < 0 else zlib.crc32(block[: synced - position], crc)
            position += length
            if self._progress is not None:
                self._progress(length)
            yield block
        if position < synced:
            self.problems.missing_bytes += synced - position
        elif crc != mark["crc32"]:
            self.problems.crc_mismatches += 1


class _Order:
    """Follows the sequence numbers of one writer through a journal."""

    __slots__ = ("_problems", "before", "last", "synced", "writer")

    def __init__(self, writer: str | None, problems: FileProblems) -> None:
        self.writer = writer
        self._problems = problems
        #: The last number seen.
        self.last = 0
        #: The number before a jump forward, if the previous line made that jump.
        self.before: int | None = None
        #: The last number that is known to have been synced.
        self.synced = 0

    def follows(self, seq: Any) -> bool:
        """Note the number of a record; return False if the record is a repetition."""
        if seq == self.last + 1:
            self.last += 1
            self.before = None
            return True
        if seq is None:
            return True  # older tools wrote no numbers
        problems = self._problems
        if type(seq) is not int or seq < 1:
            problems.disordered += 1
            return True
        if seq > self.last:
            self.before = self.last
            self._skip(self.last + 1, seq - 1)
            self.last = seq
            return True
        before, self.before = self.before, None
        if before is not None and before + 1 < seq:
            # The previous line had a damaged number; this one continues the line before it.
            problems.missing -= self.last - 1 - before
            if problems.gaps and problems.gaps[-1] == self._gap(before + 1, self.last - 1):
                problems.gaps.pop()
            problems.disordered += 1
            if before + 2 < seq:
                self._skip(before + 2, seq - 1)
            self.last = seq
            return True
        problems.repeated += 1
        return False

    def end(self) -> None:
        """Count lines that were synced and are missing."""
        if self.synced > self.last:
            self._skip(self.last + 1, self.synced)

    def _skip(self, first: int, last: int) -> None:
        self._problems.missing += last - first + 1
        if len(self._problems.gaps) < MAX_GAPS:
            self._problems.gaps.append(self._gap(first, last))

    def _gap(self, first: int, last: int) -> Gap:
        return (first, last) if self.writer is None else (first, last, self.writer)
