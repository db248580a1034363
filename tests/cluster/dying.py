"""Tasks that end their worker's process, or write to its descriptors."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path


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
