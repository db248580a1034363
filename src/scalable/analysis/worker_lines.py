"""Lines of the logs of workers, each with its time, without what is in other records."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

from scalable.analysis.log_lines import LogLine
from scalable_runs.schema import WRITERS
from scalable_runs.stores.base import Hole, Store
from scalable_runs.task_logs import WORKER_LOGS, attachments

#: End of the names of files with times.
_TIMES: Final = ".times"
#: The start of a log, in its name.
_START: Final = re.compile(r"(\d{8}T\d{6}\.\d{6})Z\.(stderr|stdout)\.log")
#: Lines of records that are kept for comparison, of all workers.
_MAX_KNOWN: Final = 1_000_000
#: Formats of log lines: Dask's own, and that of `logging.basicConfig`. What is before may be a line
#: of other output that had no end.
_FORMATS: Final = (
    re.compile(r"(.*?)\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} - [\w.]+ - [A-Z]+ - (.*)"),
    re.compile(r"(.*?)(?:DEBUG|INFO|WARNING|ERROR|CRITICAL):[\w.]+:(.*)"),
)


class Known:
    """Lines that are in other records as well: a worker's log has them once more."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str | None, int]] = Counter()

    def add(self, line: LogLine) -> None:
        """Note the lines of a record of a worker."""
        if line.source in ("task", "log") and len(self._counts) < _MAX_KNOWN:
            for text in line.text.split("\n"):
                self._counts[line.worker, hash(text)] += 1

    def rest(self, worker: str | None, text: str) -> str:
        """Return what is in a line of a worker's log and in no other record; each counts once."""
        if self._take(worker, text):
            return ""
        for each in _FORMATS:
            match = each.fullmatch(text)
            if match is not None and self._take(worker, match[2]):
                return "" if not match[1] or self._take(worker, match[1]) else match[1]
        return text

    def _take(self, worker: str | None, text: str) -> bool:
        of = worker, hash(text)
        if not self._counts.get(of):
            return False
        self._counts[of] -= 1
        return True


class WorkerLog:
    """Reads what is new in the log of one worker."""

    def __init__(self, name: str) -> None:
        #: Its name in the run.
        self.name = name
        self._bytes = self._lines = 0
        parts = name.split("/")
        self.worker = parts[-2]
        match = _START.fullmatch(parts[-1])
        self.stream = "stdout" if match and match[2] == "stdout" else None
        self._start = 0.0
        if match:
            start = datetime.strptime(match[1], "%Y%m%dT%H%M%S.%f")
            self._start = start.replace(tzinfo=UTC).timestamp()

    def read(self, store: Store, *, ended: bool) -> list[LogLine]:
        """Return the whole lines that were added since the last call; all if the run has `ended`.

        Once secrets were removed from it, lines that were returned before are left out by their
        number.
        """
        entry = store.stat(self.name)
        again = self._bytes > 0 and (ended or (entry is not None and entry.size < self._bytes))
        try:
            data = _joined(store, self.name, 0 if again else self._bytes)
            marks = _marks(store, self.name + _TIMES)
        except OSError:
            return []
        begin = 0 if again else self._bytes
        skip = self._lines if again else 0
        offsets = [offset for offset, _ in marks]
        found: list[LogLine] = []
        at = begin
        lines = data.split(b"\n")
        if not ended or not lines[-1]:
            lines.pop()  # it has no end yet
        for number, line in enumerate(lines):
            if number >= skip:
                place = bisect_right(offsets, at) - 1
                when = marks[place][1] if place >= 0 else self._start
                text = line.decode("utf-8", "replace")
                found.append(LogLine(when, "worker", text, stream=self.stream, worker=self.worker))
            at += len(line) + 1
        self._bytes = at
        self._lines = max(self._lines, skip) + len(found)
        return found


def worker_logs(store: Store, merged: Iterable[str] = ()) -> list[str]:
    """Return the names of the logs of workers in a run, also of writers whose parts are `merged`.

    A part has none of other writers.
    """
    names = attachments(store, WORKER_LOGS)
    for writer in merged:
        names += attachments(store, f"{WRITERS}/{writer}/{WORKER_LOGS}")
    return [name for name in names if name.endswith(".log")]


def _marks(store: Store, name: str) -> list[tuple[int, float]]:
    found: list[tuple[int, float]] = []
    try:
        for line in _joined(store, name, 0).split(b"\n")[:-1]:
            offset, when = line.split()
            found.append((int(offset), float(when)))
    except (OSError, ValueError):
        pass  # a log of an earlier version has no times
    return found


def _joined(store: Store, name: str, start: int) -> bytes:
    blocks = store.read(name, start)
    return b"".join(bytes(it.length) if isinstance(it, Hole) else it for it in blocks)
