"""The logs of a run: what its tasks, workers and loggers have written, in order of time."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from time import time
from typing import Any, Final

import orjson

from scalable.analysis.log_choice import LogChoice, Windows
from scalable.analysis.log_lines import LogLine, line_of_failure, line_of_record
from scalable.analysis.worker_lines import Known, WorkerLog, worker_logs
from scalable_runs.reader import RunReader
from scalable_runs.redact import Redactor
from scalable_runs.schema import FAILURES, LOGS
from scalable_runs.stores.base import Hole, Store

#: Lines that are put in order of time at most: of more, the latest.
MAX_LINES: Final = 200_000
#: Seconds that a line of a worker's log waits for the record that has it too, in a live run.
_WAIT: Final = 1.0
#: Bytes of one line of a journal at most.
_MAX_LINE: Final = 4 * 2**20

_JOURNALS: Final = ((LOGS, line_of_record), (FAILURES, line_of_failure))


class RunLogs:
    """Reads the logs of one run, once or again and again; used by one thread.

    Parameters
    ----------
    open_run
        Returns a new reader of the run.
    choice
        Which lines are wanted.
    redact
        Removes secrets from the logs of workers that still run.
    """

    def __init__(
        self,
        open_run: Callable[[], RunReader],
        choice: LogChoice,
        redact: Redactor,
    ) -> None:
        self.run = open_run()
        self._open = open_run
        self._choice = choice
        self._redact = redact
        #: Bytes read of each file, by writer and name.
        self._read: dict[tuple[str | None, str], int] = {}
        self._logs: dict[tuple[str | None, str], WorkerLog] = {}
        self._known = Known()
        self._waiting: list[LogLine] = []
        self._order = 0
        self._windows: Windows | None = None
        #: Lines that were left out because there are too many.
        self.left_out = 0

    def lines(self) -> list[LogLine]:
        """Return the wanted lines that are there now, in order of time."""
        found = self._latest(self._new())
        found += self._worker_lines(hold=self.run.is_live)
        return self._sorted(found)

    def follow(self, wait: Callable[[], None]) -> Iterator[LogLine]:
        """Yield the lines that come after :meth:`lines`, until the run ends.

        What is found together is in order of time. `wait` is called before each look.
        """
        while self.run.is_live:
            wait()
            self.run = self._open()
            found = list(self._new())
            found += self._worker_lines(hold=self.run.is_live)
            yield from self._sorted(found)

    def _sorted(self, lines: list[LogLine]) -> list[LogLine]:
        return sorted(lines, key=lambda line: (line.time, line.order))

    def _latest(self, lines: Iterable[LogLine]) -> list[LogLine]:
        kept: list[tuple[float, int, LogLine]] = []
        for line in lines:
            entry = (line.time, line.order, line)
            if len(kept) < MAX_LINES:
                heapq.heappush(kept, entry)
            else:
                heapq.heappushpop(kept, entry)
                self.left_out += 1
        return [line for _, _, line in kept]

    # -- journals -----------------------------------------------------------------------------

    def _stores(self) -> list[tuple[str | None, Store]]:
        """Return the stores with the files of the run, with their writers."""
        parts: list[tuple[str | None, Store]] = [
            (name, part.store) for name, part in self.run.parts.items()
        ]
        return [(None, self.run.store), *parts]

    def _new(self) -> Iterator[LogLine]:
        if self._choice.attempt is not None and (self._windows is None or self.run.is_live):
            self._windows = Windows(self.run, self._choice.task)
        for writer, store in self._stores():
            segments = store.segments()
            for journal, make in _JOURNALS:
                for name in segments.get(journal, ()):
                    for record in self._records(writer, store, name):
                        line = make(record)
                        if line is None:
                            continue
                        self._order += 1
                        line.order = self._order
                        line.writer = line.writer or writer
                        self._known.add(line)
                        if self._choice.takes(line, self._windows):
                            yield line

    def _records(self, writer: str | None, store: Store, name: str) -> Iterator[dict[str, Any]]:
        """Yield the new records of a file; what cannot be read is left out."""
        position = self._read.get((writer, name), 0)
        rest = b""
        try:
            for block in store.read(name, position):
                if isinstance(block, Hole):
                    position += block.length
                    continue
                position += len(block)
                *lines, rest = (rest + block).split(b"\n")
                for line in lines:
                    record = _parsed(line)
                    if record is not None:
                        yield record
                rest = rest if len(rest) <= _MAX_LINE else b""
        except OSError:
            pass
        # A line without an end is read again.
        self._read[writer, name] = position - len(rest)

    # -- workers ------------------------------------------------------------------------------

    def _worker_lines(self, *, hold: bool) -> list[LogLine]:
        """Return what is new in the logs of workers; for a while it is held back in a live run."""
        if not self._choice.wants_workers:
            return []
        for writer, store in self._stores():
            for name in worker_logs(store, self.run.document.get("merged") or ()):
                log = self._logs.get((writer, name))
                if log is None:
                    log = self._logs[writer, name] = WorkerLog(name)
                for line in log.read(store, ended=not hold):
                    if hold:
                        line.text = self._redact(line.text)
                    line.writer = writer
                    self._order += 1
                    line.order = self._order
                    self._waiting.append(line)
        now = time()
        ready = [line for line in self._waiting if not hold or line.time < now - _WAIT]
        self._waiting = [line for line in self._waiting if hold and line.time >= now - _WAIT]
        for line in ready:
            line.text = self._known.rest(line.worker, line.text)
        return [line for line in ready if line.text.strip() and self._choice.takes(line)]


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        record: Any = orjson.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None
