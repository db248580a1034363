"""Output of a worker's process that did not pass Python's streams: of C libraries and children.

A thread cannot be told from the file descriptors. While a worker runs one attempt alone, what is
written then is that attempt's: it is looked up by its time in the log of the worker's process.
"""

from __future__ import annotations

import ctypes
import select
import sys
from bisect import bisect_left
from collections import Counter, deque
from contextlib import suppress
from pathlib import Path
from time import sleep
from typing import Any, Final, NamedTuple

from scalable.common.spool import times_of
from scalable.instrumentation.capture import Capture

#: Bytes that are read of the output of one attempt, half of them from its end.
MAX_READ: Final = 64 * 2**10
#: Characters of Python's output that are kept for comparison.
MAX_RECENT: Final = 256 * 2**10
#: Waits for the helper at most, and how long each is, in seconds.
_WAITS: Final = 10
_PAUSE: Final = 0.0005
#: Times in a log are not more exact than this, in seconds.
_SLACK: Final = 0.0002


class RawText(NamedTuple):
    """What was read at one time."""

    time: float
    stream: int
    text: str


class RecentOutput:
    """The last that this process wrote through Python's streams; any thread adds to it.

    No lock is taken: a text that two threads drop at once is dropped once.
    """

    def __init__(self) -> None:
        self._texts: deque[str] = deque()
        self._size = 0

    def add(self, text: str) -> None:
        """Note a text."""
        text = text[-MAX_RECENT:]
        self._texts.append(text)
        self._size += len(text)
        while self._size > MAX_RECENT:
            try:
                self._size -= len(self._texts.popleft())
            except IndexError:
                self._size = 0

    def lines(self) -> Counter[str]:
        """Return its lines, with how often each is there."""
        return Counter("".join(list(self._texts)).split("\n"))


class RawOutput:
    """Finds the raw output of attempts of one worker; called by the threads of its tasks.

    Parameters
    ----------
    capture : Capture
        The capture of the worker's process.
    recent : RecentOutput
        What Python wrote, which is in the same log.
    """

    def __init__(self, capture: Capture, recent: RecentOutput) -> None:
        self._capture = capture
        self._recent = recent
        #: How far each log was looked at.
        self._seen: dict[Path, int] = {}

    def since(self, start: float) -> list[RawText]:
        """Return what was written since a time (of this process's clock) and not looked up yet."""
        _flush()
        if not self._has_news():
            return []
        known = self._recent.lines()
        found: list[RawText] = []
        for stream, log in self._capture.logs.items():
            with suppress(OSError, ValueError):
                found += _without(self._read(log, stream, start), known)
        return found

    def _has_news(self) -> bool:
        waits = 0
        while self._capture.is_behind() and waits < _WAITS:
            waits += 1
            sleep(_PAUSE)
        if waits:
            sleep(_PAUSE)  # it was read, and is written now
            return True
        return any(_size(log) != self._seen.get(log, 0) for log in self._capture.logs.values())

    def _read(self, log: Path, stream: int, start: float) -> list[RawText]:
        marks = [line.split() for line in times_of(log).read_bytes().splitlines()]
        offsets, times = [int(at) for at, _ in marks], [float(when) for _, when in marks]
        size, seen = _size(log), self._seen.get(log, 0)
        self._seen[log] = size
        first = bisect_left(times, start - _SLACK)
        if first == len(times):
            return []
        # A log that was cut is shorter than before.
        begin = max(offsets[first], seen if seen <= size else 0)
        with log.open("rb") as file:
            if size - begin > MAX_READ:
                head = _part(file, begin, MAX_READ // 2)
                tail = _part(file, size - MAX_READ // 2, MAX_READ // 2)
                left_out = size - begin - MAX_READ
                cut = f"\n[... {left_out:,} bytes left out ...]\n"
                return [RawText(times[first], stream, head + cut + tail.partition("\n")[2])]
            found: list[RawText] = []
            ends = [*offsets[first + 1 :], size]
            for when, end in zip(times[first:], ends, strict=True):
                if end > begin:
                    found.append(RawText(when, stream, _part(file, begin, end - begin)))
                    begin = end
            return found


def _part(file: Any, start: int, length: int) -> str:
    file.seek(start)
    return file.read(length).decode("utf-8", "replace")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _without(texts: list[RawText], known: Counter[str]) -> list[RawText]:
    """Leave out lines that Python wrote; a line belongs to the time of its begin."""
    found: list[RawText] = []
    for number, each in enumerate(texts):
        if number + 1 < len(texts) and not each.text.endswith("\n"):
            line, newline, rest = texts[number + 1].text.partition("\n")
            each = each._replace(text=each.text + line + newline)
            texts[number + 1] = texts[number + 1]._replace(text=rest)
        kept: list[str] = []
        for line in each.text.splitlines(keepends=True):
            bare = line.rstrip("\r\n")
            if known[bare] > 0:
                known[bare] -= 1
            elif bare:
                kept.append(line)
        if kept:
            found.append(each._replace(text="".join(kept)))
    return found


def _flush() -> None:
    """Let Python and the C library write what they hold, unless that could block."""
    poll = select.poll()
    for descriptor in (1, 2):
        poll.register(descriptor, select.POLLOUT)
    with suppress(Exception):
        if len(poll.poll(0)) == 2:
            sys.stdout.flush()
            sys.stderr.flush()
            library = ctypes.CDLL(None)
            # Not all streams: one of them may be locked by a thread that waits for input.
            library.fflush(ctypes.c_void_p.in_dll(library, "stdout"))
