"""Tasks that end their worker's process, or write to its descriptors."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil

from scalable.instrumentation import capture


def _last_words(how: str) -> None:
    os.write(2, f"last words of {how}\n".encode())


def kill() -> None:
    _last_words("kill")
    os.kill(os.getpid(), signal.SIGKILL)


def terminate() -> None:
    _last_words("terminate")
    os.kill(os.getpid(), signal.SIGTERM)
    signal.pause()


def segfault() -> None:
    _last_words("segfault")
    ctypes.string_at(0)


def exit() -> None:
    _last_words("exit")
    os._exit(3)


def abort() -> None:
    _last_words("abort")
    ctypes.CDLL(None).abort()


def allocate(megabytes: int) -> int:
    """Take memory, and keep it until somebody ends the process."""
    taken = [bytearray(os.urandom(2**20)) for _ in range(megabytes)]
    while True:
        signal.sigtimedwait([], 0.05)
        if len(taken) < 0:
            return len(taken)


def say(text: str) -> None:
    print(text, flush=True)


def talk(lines: int) -> None:
    """Write numbered lines to stdout and stderr in turn, past Python's buffers."""
    for number in range(lines):
        os.write(1 + number % 2, b"line %07d ............\n" % number)


def descriptors() -> dict[int, str]:
    sys.stdout.flush()
    return {number: str(Path(f"/proc/self/fd/{number}").readlink()) for number in (1, 2)}


def hold_the_interpreter() -> None:
    """Let no other thread of the process run until it is killed."""
    ctypes.PyDLL(None).sleep(600)


def terminal(descriptor: int) -> tuple[bool, tuple[int, int] | None]:
    """Whether a descriptor is a terminal, and its size."""
    is_one = os.isatty(descriptor)
    return is_one, tuple(os.get_terminal_size(descriptor)) if is_one else None


def draw() -> None:
    """Write to both descriptors what a progress bar does."""
    for step in range(3):
        os.write(2, b"\rstep %d \x1b[32mgreen\x1b[0m" % step)
        os.write(1, b"\nresult %d\t\r\n" % step)


def wait_for_all_children(count: int) -> list[int]:
    """Start children and wait until there is none."""
    for number in range(count):
        if not os.fork():
            os._exit(number)
    codes: list[int] = []
    with contextlib.suppress(ChildProcessError):
        while True:
            codes.append(os.waitstatus_to_exitcode(os.waitpid(-1, 0)[1]))
    return sorted(codes)


def children() -> list[str]:
    return [" ".join(child.cmdline()) for child in psutil.Process().children(recursive=True)]


def leave_a_child(path: str) -> None:
    """Leave a process that says something once the file is there, and ends."""
    script = 'until [ -e "$0" ]; do sleep 0.05; done; echo said by a child >&2'
    subprocess.Popen(["sh", "-c", script, path], start_new_session=True)


def handle_crashes(number: int = signal.SIGSEGV) -> None:
    """Install a handler as a library does, behind Python's back; it aborts."""
    libc = ctypes.CDLL(None)
    libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
    libc.signal(number, ctypes.cast(libc.abort, ctypes.c_void_p))


def crash_handlers() -> tuple[int, ...] | None:
    return capture.crash_handlers()


def redirect(path: str) -> None:
    """Send standard output elsewhere, for good."""
    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), 1)
