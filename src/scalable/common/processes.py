"""Starts processes that are not children of the user's process."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Final

from scalable.common.forks import unlocked_in_forks
from scalable_runs._process import ProcessHandle

_SHELL: Final = Path("/bin/sh")
_SCRIPT: Final = '"$@" &'
# A shell gives a program in the background no standard input but what is redirected.
_SCRIPT_WITH_PIPES: Final = 'exec 3<&0; "$@" <&3 3<&- & echo $!'
_FORK: Final = """
import os, sys
pid = os.fork()
if not pid:
    os.execv(sys.argv[2], sys.argv[2:])
if sys.argv[1] == "pipes":
    os.write(1, b"%d\\n" % pid)
"""
#: prctl(2), Linux only.
_PR_GET_CHILD_SUBREAPER: Final = 37
#: Seconds that a process has to exit once its pipes are closed.
EXIT_TIMEOUT: Final = 5.0


def start_detached(command: Sequence[str], **options: Any) -> None:
    """Start a program that is not a child of this process, without standard input.

    User code may wait for all of its children, or end them. So a short-lived process starts the
    program and ends; the program is then adopted by init. `options` are those of
    :class:`subprocess.Popen`.

    Raises
    ------
    OSError
        No process can be started. A failure to start the program itself is not reported.
    """
    _launch(command, _SCRIPT, "none", stdin=subprocess.DEVNULL, **options)


class Detached:
    """A program started as by :func:`start_detached`, with pipes; any thread may end it.

    Attributes
    ----------
    pid : int
        Id of its process; 0 if it could not be started.
    stdin, stdout : typing.IO
        Its pipes, not buffered.
    """

    def __init__(self, command: Sequence[str], **options: Any) -> None:
        pipe = subprocess.PIPE
        launcher = _launch(
            command, _SCRIPT_WITH_PIPES, "pipes", stdin=pipe, stdout=pipe, bufsize=0, **options
        )
        assert launcher.stdin is not None
        assert launcher.stdout is not None
        self.stdin: IO[bytes] = launcher.stdin
        self.stdout: IO[bytes] = launcher.stdout
        # The program writes nothing before it has received something.
        self.pid = int(self.stdout.readline() or 0)
        self._process = ProcessHandle(self.pid)
        # The thread that serves it and the one that gives up its start may end it at once.
        self._lock = unlocked_in_forks(threading.Lock())

    def kill(self) -> None:
        """End it at once."""
        with self._lock:
            self._process.kill()

    def end(self) -> None:
        """Kill it and release what belongs to it."""
        self.kill()
        self.release(EXIT_TIMEOUT)

    def release(self, timeout: float) -> None:
        """Close its pipes and wait for its end; kill it after `timeout` seconds."""
        with self._lock:
            self.close_pipes()
            if not self._process.has_ended(timeout):
                self._process.kill()
                self._process.has_ended(timeout)
            if adopts_orphans():
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(self.pid, os.WNOHANG)
            self._process.close()

    def close_pipes(self) -> None:
        """Close this side's ends."""
        for pipe in (self.stdin, self.stdout):
            with contextlib.suppress(OSError):
                pipe.close()


def adopts_orphans() -> bool:
    """Whether orphans, and so detached processes too, become children of this process."""
    if os.getpid() == 1:
        return True
    if sys.platform != "linux":
        return False
    import ctypes

    value = ctypes.c_int()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(value), 0, 0, 0)
    return bool(value.value)


def _launch(
    command: Sequence[str], script: str, word: str, **options: Any
) -> subprocess.Popen[bytes]:
    if _SHELL.exists():
        start = [str(_SHELL), "-c", script, "sh"]
    else:  # some containers have none
        start = [sys.executable, "-I", "-S", "-c", _FORK, word]
    launcher: Any = subprocess.Popen([*start, *command], **options)
    launcher.wait()
    return launcher
