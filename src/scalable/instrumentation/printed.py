"""What one attempt has printed, bounded, on its way into the run."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from time import time
from typing import Any, Final

from scalable import facts
from scalable.common.forks import unlocked_in_forks
from scalable.common.guard import Guard
from scalable.facts.relay_items import LEFT_OUT, RAW, OutputItem, OutputPiece
from scalable.instrumentation.attempt_span import RunningAttempt, run_of
from scalable.instrumentation.propagation import ids_of
from scalable.instrumentation.relay_values import encode, position

#: Characters kept of the beginning of an attempt's output, and of its end.
HEAD: Final = 32_768
TAIL: Final = 32_768
#: Characters of a piece to which nothing more is added.
_FULL: Final = 1_024
#: Seconds from the begin of a piece in which lines are added to it.
_TOGETHER: Final = 0.1
#: Pieces kept of the beginning, and of the end: they have times.
_MAX_PIECES: Final = 1_500
#: Pieces that are searched for the begin of a private key.
_MAX_KEY_PIECES: Final = 64
#: Bytes of what is sent at once.
MAX_ITEM: Final = 240 * 2**10

#: Errors of this module, in any run of the process.
guard: Final = Guard()

#: Held while output is added or taken. One for all: it is held for microseconds. A signal handler
#: of the code may print while its thread holds it.
_lock: Final = unlocked_in_forks(threading.RLock())


class _Piece:
    """What was written to one stream at one time."""

    __slots__ = ("flags", "stream", "text", "time")

    def __init__(self, now: float, stream: int, flags: int, text: str) -> None:
        self.time = now
        self.stream = stream
        self.flags = flags
        self.text = text

    def takes(self, now: float, stream: int, flags: int) -> bool:
        """Whether what is written now belongs to it: the same line, or one right after it."""
        if stream != self.stream or flags != self.flags or len(self.text) >= _FULL:
            return False
        return now - self.time < _TOGETHER or not self.text.endswith("\n")


class Printed:
    """The output of one attempt: its beginning and its end, in the order in which it was written.

    :meth:`add` is called by any thread that runs the attempt's code, :meth:`finish` when the
    attempt has ended, :meth:`take` by whichever empties the outbox.

    Parameters
    ----------
    attempt : RunningAttempt
        The attempt.
    at_once : bool
        Send it while it is written. Otherwise it is sent if :meth:`finish` is called.
    """

    kind: Final = facts.RELAY_OUTPUT

    def __init__(self, attempt: RunningAttempt, *, at_once: bool) -> None:
        self.run = run_of(attempt)
        self._attempt = attempt
        self.at_once = at_once
        self._head: list[_Piece] = []
        self._raw: list[_Piece] = []
        self._head_size = 0
        self._tail: deque[_Piece] = deque()
        self._tail_size = 0
        self._left_out = 0
        self._is_noted = self._ended = False

    def add(self, stream: int, text: str, flags: int = 0) -> None:
        """Keep what was written to a stream: 1 for stdout, 2 for stderr."""
        with _lock:
            now = time() + self._attempt.ahead
            room = HEAD - self._head_size
            if room > 0 and len(self._head) < _MAX_PIECES:
                self._head_size += min(room, len(text))
                _append(self._head, now, stream, flags, text[:room])
                text = text[room:]
            if text:
                self._add_to_tail(now, stream, flags, text)
            if self.at_once or self._ended:
                self._note()

    def _add_to_tail(self, now: float, stream: int, flags: int, text: str) -> None:
        self._head_size = HEAD  # the order is kept
        self._left_out += max(0, len(text) - TAIL)
        text = text[-TAIL:]
        tail = self._tail
        _append(tail, now, stream, flags, text)
        self._tail_size += len(text)
        while self._tail_size - len(tail[0].text) >= TAIL or len(tail) > _MAX_PIECES:
            size = len(tail.popleft().text)
            self._tail_size -= size
            self._left_out += size

    def add_raw(self, texts: Iterable[tuple[float, int, str]]) -> None:
        """Keep what did not pass Python's streams, with its times on this process's clock."""
        ahead = self._attempt.ahead
        with _lock:
            self._raw += [
                _Piece(when + ahead, stream, RAW, text[:HEAD]) for when, stream, text in texts
            ]

    def finish(self) -> None:
        """The attempt has ended: send what was not sent yet."""
        with _lock:
            self._ended = True
            self._note()

    def _note(self) -> None:
        if (
            not self._is_noted
            and (self._head or self._tail or self._raw)
            and self._attempt.outbox is not None
        ):
            self._is_noted = True
            self._attempt.outbox.note(self)

    def take(self) -> bytes | None:
        """What was kept since the last call; None if there is nothing, or it cannot be read.

        Until the attempt has ended, a line without its end is held back, and so is the end of an
        output that is too long.
        """
        try:
            with _lock:
                self._is_noted = False
                count = len(self._head) if self._ended else _complete(self._head)
                pieces, self._head = self._head[:count], self._head[count:]
                if self._ended and self._tail:
                    if self._left_out:
                        left_out = str(self._left_out + _begin_with_line(self._tail[0]))
                        pieces.append(_Piece(self._tail[0].time, LEFT_OUT, 0, left_out))
                    pieces += self._tail
                    self._tail.clear()
                    self._tail_size = self._left_out = 0
                if self._raw:
                    pieces = sorted([*pieces, *self._raw], key=lambda piece: piece.time)
                    self._raw = []
                return self._encoded(pieces) if pieces else None
        except BaseException as error:
            guard.failed("printed", error)
            return None

    def _encoded(self, pieces: list[_Piece]) -> bytes:
        ids = ids_of(self._attempt)
        found: list[OutputPiece] = [
            (int(it.time * 1e9), it.stream, it.flags, _encodable(it.text)) for it in pieces
        ]
        item: OutputItem = {
            "run_id": self._attempt.run_id,
            "pieces": found,
            **position(ids.trace_id, ids.span_id, ids.trace_flags, self._attempt),
        }
        encoded = encode(item)
        for share in (2, 4, 16):
            # Control characters are six bytes each.
            if len(encoded) <= MAX_ITEM:
                break
            before = sum(map(_size, found))
            found[:] = [
                (now, stream, flags, text if stream == LEFT_OUT else text[: len(text) // share])
                for now, stream, flags, text in found
            ]
            found.append((found[-1][0], LEFT_OUT, 0, str(before - sum(map(_size, found)))))
            encoded = encode(item)
        return encoded


def _size(piece: OutputPiece) -> int:
    return 0 if piece[1] == LEFT_OUT else len(piece[3])


def _complete(pieces: list[_Piece]) -> int:
    """How many pieces can be sent, so that a secret is not cut in two."""
    count = len(pieces)
    if count and not pieces[-1].text.endswith(("\n", "\r")):
        count -= 1
    for number in range(count - 1, max(-1, count - _MAX_KEY_PIECES), -1):
        text = pieces[number].text
        begun = text.rfind("-----BEGIN ")
        if "-----END " in text[max(0, begun) :]:
            break
        if begun >= 0:
            return number
    return count


def _append(pieces: Any, now: float, stream: int, flags: int, text: str) -> None:
    """Add a text to the last piece, or as another one."""
    last = pieces[-1] if pieces else None
    if last is not None and last.takes(now, stream, flags):
        last.text += text
    elif text:
        pieces.append(_Piece(now, stream, flags, text))


def _begin_with_line(piece: _Piece) -> int:
    """Remove the end of a line whose beginning is left out; return its length."""
    before, newline, after = piece.text.partition("\n")
    if not newline or not after:
        return 0
    piece.text = after
    return len(before) + 1


def _encodable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
