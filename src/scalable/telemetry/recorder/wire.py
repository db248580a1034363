"""Messages between a program and the process that records it: plain values, in frames, on a pipe.

A frame is a length of four bytes and a tuple in the format of :mod:`marshal`: between processes of
one machine and one version of Python this is the fastest format, and reading it runs no code. The
first element of a tuple is the kind of message. Both sides send when there is something to send;
neither waits for an answer.

From the program:

==============  ================================================================================
``make``        version, arguments of ``RunWriter.create``; the first message
``resume``      version, arguments of ``resume.resume``; the first message to a successor
``start``       identity, options, whether there is a source of facts
``facts``       facts, number of the next one, whether there are more, dropped, errors, clock
``trouble``     whether the scheduler is gone, or only late; why
``submissions`` submissions begun, submissions ended, spans of blocks opened and left
``note``        an event of the program's own code
``sources``     source texts of the program
``fail``        a failure that belongs to no task
``flush``       number, timeout; all that the scheduler knew has been sent before
``close``       errors, status, timeout, error; likewise
``exit``        the process must end
==============  ================================================================================

From the recorder:

==============  ================================================================================
``made``        the run's directory if it has one, its location, its run.json if it was joined
``taken``       number of the next fact wanted, progress, position (what is in the run's files)
``flushed``     number of the flush, progress
``finished``    errors, progress, status
``warn``        a sentence for the user
``log``         logger, level, text
``death``       name, log and cause of a lost worker
==============  ================================================================================
"""

from __future__ import annotations

import marshal
import numbers
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from time import time
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from scalable import facts
from scalable.facts import Fact
from scalable_runs.plain import iso

if TYPE_CHECKING:
    from scalable_runs.schema import Restart

Message: TypeAlias = tuple[Any, ...]

#: Version of the messages. If the package was upgraded while a program ran, its recorder may have
#: another version, and then refuses.
VERSION: Final = 4
#: Facts in one message: converting more would block the program's event loop for milliseconds.
FACTS_AT_ONCE: Final = 500
#: Closing continues while facts arrive, up to this many times its timeout.
CLOSE_EXTENSION: Final = 3.0

_HEADER: Final = 4
_EXACT: Final = frozenset({str, int, float, bool, bytes, type(None)})
#: Values are cut off at this depth: one may contain itself.
_MAX_DEPTH: Final = 32


def restart(died: float) -> Restart:
    """Entry of run.json for a recorder whose death was noticed at `died` and that was replaced."""
    return {"at": iso(died), "gap_s": round(max(0.0, time() - died), 3)}


def frame(message: Message) -> bytes:
    """A message as bytes; values that are not plain are converted."""
    try:
        body = marshal.dumps(message)
    except ValueError:
        body = marshal.dumps(plain(message))
    return len(body).to_bytes(_HEADER, "little") + body


def write(descriptor: int, message: Message) -> None:
    """Write a whole message; raises OSError if the other side has ended."""
    write_bytes(descriptor, frame(message))


def write_bytes(descriptor: int, data: bytes) -> None:
    """Write all of `data`."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


class Reader:
    """Assembles messages from pieces, for a reader that must not block; used by one thread."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> Iterator[Message]:
        """The messages that `data` completes."""
        self._data += data
        while len(self._data) >= _HEADER:
            end = _HEADER + int.from_bytes(self._data[:_HEADER], "little")
            if len(self._data) < end:
                return
            body = bytes(self._data[_HEADER:end])
            del self._data[:end]
            yield marshal.loads(body)


def plain(value: Any, depth: int = 0) -> Any:
    """Convert `value` to Python's plain types; other values become the name of their type.

    `marshal` rejects subclasses of `tuple`, such as most facts, and writes NumPy's numbers as
    bytes.
    """
    if value.__class__ in _EXACT:
        return value
    if depth >= _MAX_DEPTH:
        return "<nested too deeply>"
    try:
        return _plain(value, depth)
    except Exception:  # a foreign class may do anything
        return f"<{type(value).__name__}>"


def _plain(value: Any, depth: int) -> Any:
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    if isinstance(value, Mapping):
        items = cast("Mapping[Any, Any]", value).items()
        return {plain(key, depth + 1): plain(item, depth + 1) for key, item in items}
    if isinstance(value, tuple):
        return tuple(plain(item, depth + 1) for item in cast("tuple[Any, ...]", value))
    if isinstance(value, Sequence | AbstractSet):
        return [plain(item, depth + 1) for item in cast("Iterable[Any]", value)]
    if isinstance(value, os.PathLike):
        return os.fsdecode(cast("os.PathLike[Any]", value))
    return f"<{type(value).__name__}>"


def plain_facts(batch: Iterable[Fact]) -> list[Any]:
    """Return facts as plain tuples and strings; the most frequent ones already are."""
    return [fact if _is_plain(fact) else plain(fact) for fact in batch]


_NBYTES: Final = facts.Succeeded._fields.index("nbytes")


def _is_plain(fact: Any) -> bool:
    if fact.__class__ is not tuple:
        return fact.__class__ is str
    # A worker in this process reports any value that the user's `sizeof` returned.
    return fact[0] == facts.SUBMITTED or fact[_NBYTES].__class__ is int
