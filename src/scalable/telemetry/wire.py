"""Messages between a program and the process that records it: plain values, in frames, on a pipe.

A frame is the length of what follows, four bytes, and a tuple as :mod:`marshal` writes it: within
one machine and one version of Python that is the cheapest form there is, and reading it runs no
code. The first element of a tuple says what the message is.
"""

from __future__ import annotations

import marshal
import numbers
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from time import time
from typing import TYPE_CHECKING, Any, BinaryIO, Final, TypeAlias, cast

from scalable_runs.plain import iso

if TYPE_CHECKING:
    from scalable_runs.schema import Restart

Message: TypeAlias = tuple[Any, ...]

#: Facts in one message: to make one of more would keep the program's event loop from the
#: interpreter for milliseconds.
FACTS_AT_ONCE: Final = 500

#: In the place of an answer: there is no such scheduler any more, or it did not answer in time.
GONE: Final = "gone"
LATE: Final = "late"
#: Closing goes on while facts arrive, for so many times its timeout at most.
CLOSE_EXTENSION: Final = 3.0

_HEADER: Final = 4
_EXACT: Final = frozenset({str, int, float, bool, bytes, type(None)})
#: Deeper than that a value is cut off: it may contain itself.
_MAX_DEPTH: Final = 32


def restart(died: float) -> Restart:
    """What is said of a recorder that was found dead then, and that has a successor now."""
    return {"at": iso(died), "gap_s": round(max(0.0, time() - died), 3)}


def frame(message: Message) -> bytes:
    """A message as bytes; what in it is no plain value is made one."""
    try:
        body = marshal.dumps(message)
    except ValueError:
        body = marshal.dumps(plain(message))
    return len(body).to_bytes(_HEADER, "little") + body


def write(descriptor: int, message: Message) -> None:
    """Write a message, all of it; raises OSError where nobody reads."""
    write_bytes(descriptor, frame(message))


def write_bytes(descriptor: int, data: bytes) -> None:
    """Write all of `data`."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def read(file: BinaryIO) -> Message | None:
    """The next message; None where the other side is gone."""
    header = file.read(_HEADER)
    body = file.read(int.from_bytes(header, "little")) if len(header) == _HEADER else b""
    if len(header) < _HEADER or len(body) < int.from_bytes(header, "little"):
        return None
    return marshal.loads(body)


class Reader:
    """Puts messages together of what is read in pieces, for whoever must not wait for a whole one.

    Called by one thread.
    """

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
    """`value` made of Python's own plain types; what has no such form is named by its type.

    `marshal` refuses a subclass of `tuple`, such as most facts are, and takes a number of NumPy's
    for bytes.
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
