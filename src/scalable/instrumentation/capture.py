"""Copies the raw output of a worker's process into a log that survives it.

The output is still shown where it was shown before. If stdout and stderr go to the same place they
share one pipe and one log, which keeps their order. A terminal is replaced by one of the same size.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import re
import signal
import socket
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Any, Final
from weakref import ReferenceType, ref

from scalable import facts
from scalable.common.forks import no_fork, unlocked_in_forks
from scalable.common.processes import adopts_orphans, start_detached
from scalable.common.spool import (
    LOG_LIMIT,
    create_log,
    name_of,
    new_log,
    spool,
    stdout_of,
    times_of,
)
from scalable.facts.protocol import STREAM_OP
from scalable.facts.relay_items import EITHER
from scalable.instrumentation import dask_compat, tee
from scalable.instrumentation.relay_providers import is_worker_process

if TYPE_CHECKING:
    from distributed import Worker

_STDOUT: Final = 1
_STDERR: Final = 2


class Capture:
    """The capture of one worker process.

    Created and ended on the worker's loop; :meth:`_guard_helper` runs in a daemon thread.
    """

    def __init__(self, log: Path) -> None:
        self.log = log
        #: Why Python's stack will not be in the log of a crash; empty if it will.
        self.no_stack = ""
        self._lock = unlocked_in_forks(threading.Lock())
        self._stopped = False
        #: The original descriptors, their replacements, and the ends that keep these readable.
        self._saved: dict[int, int] = {}
        self._placed: dict[int, tuple[int, int, int]] = {}
        self._ends: list[int] = []
        #: The log of each stream: one under :data:`EITHER` if both go to the same place.
        self.logs: dict[int, Path] = {}
        self._crashes = CrashStacks()
        #: Readable when the helper has ended, which is not a child of this process.
        self._lifeline = self._divert()
        self.no_stack = self._crashes.enable()
        threading.Thread(target=self._guard_helper, name="scalable-capture", daemon=True).start()

    @classmethod
    def start(cls, worker: Worker, ahead: float = 0.0) -> Capture | None:
        """Capture the output of the process of `worker`, and report its path to the recorders.

        The scheduler's clock is `ahead` seconds ahead.

        Returns
        -------
        Capture or None
            None if the process is not the worker's own, or its output cannot be captured.
        """
        capture = None
        if _is_own_process(worker):
            capture = cls(new_log(worker.address, time()))
        fields = limits(worker)
        if capture is not None:
            fields["log"] = name_of(capture.log)
            fields["log_path"] = str(capture.log)
            fields["hostname"] = socket.gethostname()
            if capture.no_stack:
                fields["no_stack"] = capture.no_stack
        if fields:
            now = time() + ahead
            event = facts.WorkerEvent(facts.WORKER_EVENT, now, worker.address, "process", fields)
            worker.batched_send({"op": STREAM_OP, **facts.report([(None, tuple(event))])})
        return capture

    def is_behind(self) -> bool:
        """Whether output waits that the helper has not read; called by any thread."""
        import fcntl
        import termios

        waiting = bytes(4)
        with self._lock:
            if self._stopped:
                return False
            return any(fcntl.ioctl(end, termios.FIONREAD, waiting) != waiting for end in self._ends)

    def stop(self) -> None:
        """Restore the descriptors of the process."""
        with self._lock:
            if self._stopped:
                return
            self._stopped = True
            self._crashes.disable()
            self._restore()
            for descriptor in (*self._saved.values(), *self._ends):
                os.close(descriptor)

    def _divert(self) -> int:
        _flush()
        together = _place(_STDOUT) == _place(_STDERR)
        logs = {_STDERR: self.log}
        if not together:
            logs[_STDOUT] = stdout_of(self.log)
        # A forked process must not inherit the helper's end of the lifeline.
        with no_fork, ExitStack() as opened:

            def to_close(*descriptors: int) -> None:
                for descriptor in descriptors:
                    opened.callback(os.close, descriptor)

            self.logs = {EITHER: self.log} if together else dict(logs)
            # The helper inherits the logs open and locked, so they exist at once.
            files = {descriptor: create_log(path) for descriptor, path in logs.items()}
            to_close(*files.values())
            times = {descriptor: create_log(times_of(path)) for descriptor, path in logs.items()}
            to_close(*times.values())
            ends = {descriptor: _open_pair(descriptor) for descriptor in logs}
            to_close(*(end for pair in ends.values() for end in pair))
            lifeline, held = os.pipe()
            to_close(lifeline, held)
            streams = [
                ":".join(map(str, (ends[of][0], of, files[of], times[of], path)))
                for of, path in logs.items()
            ]
            # It inherits the present descriptors, and passes output on to them.
            start_detached(
                [sys.executable, "-I", "-S", tee.__file__, str(LOG_LIMIT), str(spool()), *streams],
                pass_fds=[
                    *(end for end, _ in ends.values()),
                    *files.values(),
                    *times.values(),
                    held,
                ],
                cwd="/",
            )
            for descriptor in (_STDERR, _STDOUT):
                _, write = ends[_STDERR if together else descriptor]
                self._saved[descriptor] = os.dup(descriptor)
                self._placed[descriptor] = _place(write)
                os.dup2(write, descriptor)
            # With a reader, writing does not raise if the helper is killed.
            self._ends = [os.dup(end) for end, _ in ends.values()]
            return os.dup(lifeline)

    def _restore(self) -> None:
        _flush()
        for descriptor, saved in self._saved.items():
            # User code may have replaced the descriptor since.
            if _place(descriptor) == self._placed[descriptor]:
                os.dup2(saved, descriptor)

    def _guard_helper(self) -> None:
        """Wait for the helper's end; if it was killed, restore the original output."""
        os.read(self._lifeline, 1)
        os.close(self._lifeline)
        with self._lock:
            if self._stopped:
                return
            self._stopped = True
            self._restore()
            # Pass on what the helper had not read; a child that still writes there must not block.
            for end, descriptor in zip(self._ends, (_STDERR, _STDOUT), strict=False):
                threading.Thread(
                    target=_drain, args=(end, self._saved[descriptor]), daemon=True
                ).start()


def _open_pair(descriptor: int) -> tuple[int, int]:
    """Return the ends to read and to write that replace a descriptor: a terminal for a terminal."""
    if not os.isatty(descriptor):
        return os.pipe()
    import termios

    master, slave = os.openpty()
    settings = termios.tcgetattr(descriptor)
    # The real terminal processes the output.
    settings[1] &= ~termios.OPOST
    termios.tcsetattr(slave, termios.TCSANOW, settings)
    tee.copy_size(descriptor, master)
    return master, slave


def _drain(end: int, target: int) -> None:
    with contextlib.suppress(OSError):
        while data := os.read(end, 1 << 16):
            os.write(target, data)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()


def _place(descriptor: int) -> tuple[int, int, int]:
    """Identity of the file of a descriptor; (0, 0, 0) if it is closed."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return 0, 0, 0
    return found.st_dev, found.st_ino, found.st_rdev


def _is_own_process(worker: Worker) -> bool:
    """Whether the process exists for this worker alone."""
    if os.name != "posix" or not dask_compat.is_only_worker_here(worker):
        return False
    # The helper must not become its child again.
    return is_worker_process(worker) and not adopts_orphans()


# -- crashes --------------------------------------------------------------------------------------


class CrashStacks:
    """Makes Python write its stack at a crash, unless another library handles crashes.

    Virtual machines (Java, Julia, WebAssembly), garbage collectors and sanitizers handle these
    signals in normal operation. Used on the worker's loop.
    """

    def __init__(self) -> None:
        self._handlers: tuple[int, ...] | None = None
        self._file: ReferenceType[_Stderr] | None = None

    def enable(self) -> str:
        """Enable the handlers; return why this is not possible, or an empty text."""
        if faulthandler.is_enabled():
            return ""
        found = crash_handlers()
        if found is None:
            return "it is not known who handles crashes in its process"
        if any(found):
            return "another library handles crashes in its process"
        file = _Stderr()
        # The module keeps the file until it is enabled for another one.
        self._file = ref(file)
        faulthandler.enable(file=file)
        self._handlers = crash_handlers()
        return ""

    def disable(self) -> None:
        """Disable the handlers, unless user code or another library uses them now."""
        ours = self._file is not None and self._file() is not None
        if ours and self._handlers is not None and crash_handlers() == self._handlers:
            faulthandler.disable()
        self._handlers = None


class _Stderr:
    """Standard error, for :mod:`faulthandler`."""

    def fileno(self) -> int:
        return _STDERR

    def flush(self) -> None:
        pass


def crash_handlers() -> tuple[int, ...] | None:
    """Address of the handler of each crash signal, 0 for none; None if unknown.

    From the system, because Python does not know handlers that a library installed.
    """
    found: list[int] = []
    try:
        import ctypes

        sigaction = ctypes.CDLL(None).sigaction
        for number in _CRASHES:
            # Its first field is the handler, in Linux (glibc, musl) and macOS.
            action = ctypes.create_string_buffer(512)
            if sigaction(int(number), None, action):
                return None
            found.append(ctypes.c_void_p.from_buffer(action).value or 0)
    except (ImportError, OSError, AttributeError):
        return None
    return tuple(found)


#: The signals that :mod:`faulthandler` handles.
_CRASHES: Final = (
    signal.SIGSEGV,
    signal.SIGFPE,
    signal.SIGABRT,
    signal.SIGBUS,
    signal.SIGILL,
)


# -- limits of the worker --------------------------------------------------------------------------


def limits(worker: Worker) -> dict[str, Any]:
    """The worker's batch job, the end of its time, and the worker's own lifetime."""
    environment = os.environ
    found: dict[str, Any] = {}
    if job := environment.get("SLURM_JOB_ID"):
        found |= {"batch_system": "slurm", "batch_job": job}
        begin = _number(environment.get("SLURM_JOB_START_TIME"))
        end = _number(environment.get("SLURM_JOB_END_TIME"))
        if end is not None:
            found["time_end"] = end
            if begin is not None:
                found["time_limit_s"] = end - begin
    elif job := environment.get("PBS_JOBID"):
        found |= {"batch_system": "pbs", "batch_job": job}
        limit = _number(environment.get("PBS_WALLTIME"))
        if limit is not None:
            found["time_limit_s"] = limit
            begin = dask_compat.launched(worker)
            found["time_end"] = begin + limit
    lifetime = worker.lifetime
    if lifetime:
        found["lifetime_s"] = float(lifetime)
        found["lifetime_end"] = dask_compat.launched(worker) + float(lifetime)
    return found


def _number(text: str | None) -> float | None:
    return float(text) if text and re.fullmatch(r"\d{1,12}(?:\.\d+)?", text) else None
