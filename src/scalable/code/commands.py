"""Runs a command for its output, bounded in time and size."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
from collections.abc import Mapping, Sequence
from time import monotonic
from typing import IO, Any, Final, NamedTuple

#: Bytes of standard error that are kept.
_MAX_ERRORS: Final = 16_384
#: Bytes read at once.
_CHUNK: Final = 65_536
#: Seconds to wait for a process that was killed.
_KILL_TIMEOUT: Final = 1.0


class Deadline:
    """The end of the time that several steps have together; any thread may move it forward."""

    def __init__(self, seconds: float) -> None:
        self._began = monotonic()
        self._at = self._began + seconds

    @property
    def seconds(self) -> float:
        """The whole time."""
        return round(self._at - self._began, 1)

    def left(self, at_most: float | None = None) -> float:
        """Seconds that are left; never below zero."""
        left = max(0.0, self._at - monotonic())
        return left if at_most is None else min(left, at_most)

    def is_over(self) -> bool:
        """Whether no time is left."""
        return monotonic() >= self._at

    def shorten(self, seconds: float) -> None:
        """Let it end in `seconds` at the latest."""
        self._at = min(self._at, monotonic() + seconds)


class Answer(NamedTuple):
    """What a command wrote.

    Attributes
    ----------
    code
        Its exit code; None if it was ended here.
    output, errors
        What it wrote to standard output and standard error.
    timed_out
        Whether it was ended because the time was over.
    is_cut
        Whether it was ended because it wrote too much.
    """

    code: int | None
    output: bytes
    errors: str
    timed_out: bool = False
    is_cut: bool = False

    @property
    def good(self) -> bool:
        """Whether it ended by itself, and well."""
        return self.code == 0

    @property
    def text(self) -> str:
        """Its output without the last line break."""
        return os.fsdecode(self.output).removesuffix("\n")


def run(
    command: Sequence[str],
    environ: Mapping[str, str],
    deadline: Deadline,
    *,
    seconds: float | None = None,
    limit: int = 64 * 1024 * 1024,
) -> Answer:
    """Run a command without input; it is killed, with what it has started, when it takes too long.

    Parameters
    ----------
    command
        The program, by its path, and its arguments.
    environ
        Its environment.
    deadline
        When it has to end.
    seconds
        The time that it may take of that at most.
    limit
        Bytes of output after which it is ended.

    Raises
    ------
    OSError
        It cannot be started.
    """
    end = monotonic() + deadline.left(seconds)
    if monotonic() >= end:
        return Answer(None, b"", "", timed_out=True)
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environ,
        # A terminal's Ctrl-C is not for it, and what it starts is killed with it.
        start_new_session=True,
    )
    output, errors = bytearray(), bytearray()
    timed_out = is_cut = False
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ, output)
            selector.register(process.stderr, selectors.EVENT_READ, errors)
            while selector.get_map() and not timed_out and not is_cut:
                # A deadline may be moved forward while the command runs.
                left = min(end - monotonic(), deadline.left())
                timed_out = left <= 0
                for key, _ in selector.select(max(0.0, min(left, 0.1))):
                    _read(key.fileobj, key.data, selector)
                is_cut = len(output) > limit
                del errors[_MAX_ERRORS:]
        if not timed_out and not is_cut:
            left = min(end - monotonic(), deadline.left())
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.01, left))
            timed_out = process.returncode is None
    finally:
        _kill(process)
    code = None if timed_out or is_cut else process.returncode
    text = errors.decode("utf-8", "replace").strip()
    return Answer(code, bytes(output[:limit]), text, timed_out, is_cut)


def _read(file: Any, into: bytearray, selector: selectors.BaseSelector) -> None:
    data = os.read(file.fileno(), _CHUNK)
    if data:
        into += data
    else:
        selector.unregister(file)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End what is left of a process and of those that it started, and release its pipes."""
    if process.returncode is None:
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_KILL_TIMEOUT)
    pipes: tuple[IO[bytes] | None, ...] = process.stdout, process.stderr
    for pipe in pipes:
        if pipe is not None:
            pipe.close()
