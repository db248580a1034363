"""The lines of a run, between records and store."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Final

import orjson

from scalable_runs import journal, plain, schema
from scalable_runs.problems import LossCounter
from scalable_runs.schema import Record
from scalable_runs.stores.base import Found, OpenError, RunGoneError, Store

#: Buffered bytes at which `append` itself flushes.
_FLUSH_AT: Final = 1024 * 1024
#: Buffered bytes beyond which new lines are lost: the store is full or hangs.
_MAX_BUFFERED: Final = 16 * 1024 * 1024
_OPTIONS: Final = orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z


class _Journal:
    """Lines of one journal that are not in the store yet.

    `seq` and `lines` are guarded by the buffer's lock, the rest by its flush lock.
    """

    __slots__ = ("backlog", "lines", "name", "seq", "taken_seq")

    def __init__(self, name: str) -> None:
        self.name = name
        #: Last assigned sequence number.
        self.seq = 0
        self.lines: list[bytes] = []
        #: Lines that a flush could not write.
        self.backlog = b""
        #: Number of the last line in the store.
        self.taken_seq = 0


class LineBuffer:
    """Encodes and numbers records, and keeps the lines until they are in the store.

    Any thread may call it. `append` does not wait for the store, unless much is buffered and no
    other thread is flushing.

    Parameters
    ----------
    store
        Store of the lines.
    head
        Beginning of each line; see :func:`scalable_runs.journal.head_of`.
    problems
        Counts the lines that are lost.
    create
        Creates the run again, if it was removed.

    Attributes
    ----------
    exists
        Whether the run is in the store, as far as known.
    is_closed
        Whether further lines are lost.
    """

    def __init__(
        self, store: Store, head: bytes, problems: LossCounter, create: Callable[[], None]
    ) -> None:
        self.exists = False
        self.is_closed = False
        self._store = store
        self._head = head
        self._problems = problems
        self._create = create
        self._journals = {file: _Journal(file) for file in schema.JOURNALS}
        self._buffered = 0
        #: Guards what `append` changes. Never held during I/O; taken after `_flushing` only.
        self._lock = threading.Lock()
        #: Held while lines are written, so that they are in order.
        self._flushing = threading.Lock()

    def append(self, file: str, records: Iterable[Record]) -> int:
        """Append records; return how many: see :meth:`scalable_runs.writer.RunWriter.append`."""
        dumps, default, head, size, taken = orjson.dumps, plain.plain, self._head, 0, 0
        with self._lock:
            buffer = self._journals.get(file) or self._add(file)
            if self.is_closed or self._buffered >= _MAX_BUFFERED:
                self._refuse(buffer, records)
                return 0
            seq = buffer.seq
            add = buffer.lines.append
            try:
                for record in records:
                    seq += 1
                    try:
                        body = dumps(record, default, _OPTIONS)
                    except Exception:
                        body = self._rescue(file, record)
                        if body is None:
                            continue
                    line = b"%b%d,%b" % (head, seq, body[1:])
                    size += len(line)
                    taken += 1
                    add(line)
            finally:
                buffer.seq = seq
                self._buffered += size
            much = self._buffered >= _FLUSH_AT
        if much and self._flushing.acquire(blocking=False):
            try:
                self._flush()
            finally:
                self._flushing.release()
        return taken

    def _add(self, file: str) -> _Journal:
        if file not in schema.SIGNALS:
            raise ValueError(f"no journal is called {file!r}")
        buffer = self._journals[file] = _Journal(file)
        return buffer

    def _refuse(self, buffer: _Journal, records: Iterable[Record]) -> None:
        lost = sum(1 for _ in records)
        buffer.seq += lost
        self._problems.lose(buffer.name, lost)
        if not self.is_closed:
            message = f"{buffer.name} loses lines: they come faster than the disk takes them"
            self._problems.note("overflow", buffer.name, message)

    def _rescue(self, file: str, record: Record) -> bytes | None:
        """Encode what orjson rejects: lone surrogates, huge integers, recursive values."""
        try:
            return plain.dumps(record, _OPTIONS)
        except Exception as error:
            self._problems.lose(file, 1)
            kind = f"encode:{type(error).__name__}"
            self._problems.note(kind, file, f"a record of {file} cannot be written as JSON")
            return None

    def continue_after(self, file: str, found: Found) -> None:
        """Continue the numbers of a journal after those of another writer."""
        buffer = self._journals.get(file) or self._add(file)
        buffer.seq = buffer.taken_seq = max(found.last, found.given_out)
        self._problems.lose(file, buffer.seq - found.last)

    def last_numbers(self) -> dict[str, int]:
        """Return the last assigned `seq` of each journal."""
        with self._lock:
            return {file: buffer.seq for file, buffer in self._journals.items() if buffer.seq}

    def journals(self) -> dict[str, int]:
        """Return the journals of a new run, and the last `seq` of each."""
        return {
            file: buffer.taken_seq
            for file, buffer in self._journals.items()
            if file in schema.JOURNALS or buffer.taken_seq
        }

    def flush(self, *, gone: bool = False) -> None:
        """Write every line; those that fail are kept.

        Parameters
        ----------
        gone
            The run was found to be removed.
        """
        with self._flushing:
            if gone:
                self.exists = False
            self._flush()

    def _flush(self) -> None:
        try:
            if self.exists or self._create_again():
                self._hand_over()
        except RunGoneError:
            self.exists = False
            if self._create_again():
                self._hand_over()

    def _create_again(self) -> bool:
        try:
            self._create()
        except OSError as error:
            self._problems.failed("open", "", error)
            return False
        self.exists = True
        return True

    def _hand_over(self) -> None:
        for buffer in tuple(self._journals.values()):
            if buffer.lines or buffer.backlog:
                self._hand_over_journal(buffer)

    def _hand_over_journal(self, buffer: _Journal) -> None:
        with self._lock:
            lines, buffer.lines = buffer.lines, []
        data = b"".join((buffer.backlog, *lines))
        done = 0
        try:
            for piece in journal.pieces(data):
                rest = piece
                while rest:
                    taken = self._store.append(buffer.name, rest)
                    buffer.taken_seq = journal.last_seq(rest[:taken])
                    done += taken
                    rest = rest[taken:]
        except RunGoneError:
            raise
        except OSError as error:
            operation = "open" if isinstance(error, OpenError) else "write"
            self._problems.failed(operation, buffer.name, error)
        finally:
            buffer.backlog = data[done:]
            with self._lock:
                self._buffered -= done

    def has_backlog(self) -> bool:
        """Whether the store has rejected something."""
        return any(buffer.backlog for buffer in self._journals.values())

    def lose_rest(self) -> None:
        """Count what is not in the store as lost."""
        with self._flushing, self._lock:
            for buffer in self._journals.values():
                lost = buffer.backlog.count(b"\n") + len(buffer.lines)
                self._problems.lose(buffer.name, lost)
                buffer.lines.clear()
                buffer.backlog = b""
