"""A worker process's raw output into a log that survives it, without taking it from the terminal.

Where stdout and stderr go to the same place they share one pipe, and so one log: what a user saw
before is still seen, in the same order.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Any, Final

from scalable import facts
from scalable.facts import STREAM_OP
from scalable.instrumentation import internals, tee
from scalable.instrumentation.relay import is_worker_process
from scalable.spool import LOG_LIMIT, create_log, name_of, new_log, spool

if TYPE_CHECKING:
    from distributed import Worker

_STDOUT: Final = 1
_STDERR: Final = 2


class Capture:
    """The capture of one worker process.

    Made and ended by the worker's loop; :meth:`_guard_helper` runs in a daemon thread of its own.
    """

    def __init__(self, log: Path) -> None:
        self.log = log
        self._lock = threading.Lock()
        self._stopped = False
        #: What a descriptor was before, and the end of its pipe that keeps it readable.
        self._saved: dict[int, int] = {}
        self._pipes: list[int] = []
        self._enabled_faulthandler = False
        self._helper = self._divert()
        threading.Thread(target=self._guard_helper, name="scalable-capture", daemon=True).start()

    @classmethod
    def start(cls, worker: Worker) -> Capture | None:
        """Capture the output of the process of `worker`, and tell the recorders where it is.

        Returns
        -------
        Capture or None
            None where the process is not the worker's own, or its output cannot be captured.
        """
        capture = None
        if _is_own_process(worker):
            capture = cls(new_log(worker.address, time()))
        fields = limits(worker)
        if capture is not None:
            fields["log"] = name_of(capture.log)
            fields["log_path"] = str(capture.log)
        if fields:
            now = time() + worker.scheduler_delay
            event = facts.WorkerEvent(facts.WORKER_EVENT, now, worker.address, "process", fields)
            worker.batched_send({"op": STREAM_OP, **facts.report([(None, tuple(event))])})
        return capture

    def stop(self) -> None:
        """Give the process its own descriptors back."""
        with self._lock:
            if self._stopped:
                return
            self._stopped = True
            if self._enabled_faulthandler:
                faulthandler.disable()
            _flush()
            for descriptor, saved in self._saved.items():
                os.dup2(saved, descriptor)
                os.close(saved)
            for pipe in self._pipes:
                os.close(pipe)

    def _divert(self) -> subprocess.Popen[bytes]:
        _flush()
        together = _same_place(_STDOUT, _STDERR)
        logs = {_STDERR: self.log}
        if not together:
            logs[_STDOUT] = self.log.with_name(self.log.name.replace(".stderr.", ".stdout."))
        # The helper inherits the logs open and locked: they are there, and being written, at once.
        files = {descriptor: create_log(path) for descriptor, path in logs.items()}
        ends = {descriptor: os.pipe() for descriptor in logs}
        streams = [
            f"{ends[descriptor][0]}:{descriptor}:{files[descriptor]}:{path}"
            for descriptor, path in logs.items()
        ]
        program = [sys.executable, "-I", "-S", str(Path(tee.__file__)), str(LOG_LIMIT)]
        try:
            # It inherits the descriptors as they are now: what it passes on goes where it went.
            helper = subprocess.Popen(
                [*program, str(spool()), *streams],
                stdin=subprocess.DEVNULL,
                pass_fds=[*(read for read, _ in ends.values()), *files.values()],
                cwd="/",
            )
        except BaseException:
            for pipe in ends.values():
                os.close(pipe[0])
                os.close(pipe[1])
            raise
        finally:
            for file in files.values():
                os.close(file)
        for descriptor in (_STDERR, _STDOUT):
            _, write = ends[_STDERR if together else descriptor]
            self._saved[descriptor] = os.dup(descriptor)
            os.dup2(write, descriptor)
        for read, write in ends.values():
            os.close(write)
            # While somebody could read, writing raises nothing should the helper be killed.
            self._pipes.append(read)
        if not faulthandler.is_enabled():
            faulthandler.enable(file=_STDERR)
            self._enabled_faulthandler = True
        return helper

    def _guard_helper(self) -> None:
        """Wait for the helper; if it was killed, let output go where it went before."""
        self._helper.wait()
        with self._lock:
            if self._stopped:
                return
            self._stopped = True
            for descriptor, saved in self._saved.items():
                os.dup2(saved, descriptor)
            # What was in the pipes when it died has been seen by nobody yet; and a child that
            # still has a pipe must be able to go on writing.
            for pipe, descriptor in zip(self._pipes, (_STDERR, _STDOUT), strict=False):
                threading.Thread(
                    target=_drain, args=(pipe, self._saved[descriptor]), daemon=True
                ).start()


def _drain(pipe: int, target: int) -> None:
    with contextlib.suppress(OSError):
        while data := os.read(pipe, 1 << 16):
            os.write(target, data)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()


def _same_place(first: int, second: int) -> bool:
    one, other = os.fstat(first), os.fstat(second)
    return (one.st_dev, one.st_ino, one.st_rdev) == (other.st_dev, other.st_ino, other.st_rdev)


def _is_own_process(worker: Worker) -> bool:
    """Whether the process exists for this worker alone: nobody else's output is touched."""
    if os.name != "posix" or not internals.is_only_worker_here(worker):
        return False
    if "ipykernel" in sys.modules:
        return False
    return is_worker_process(worker)


# -- limits that others set the worker -------------------------------------------------------------


def limits(worker: Worker) -> dict[str, Any]:
    """Which batch job the worker runs in, when its time is over, and its own lifetime."""
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
            begin = internals.launched(worker)
            found["time_end"] = begin + limit
    lifetime = worker.lifetime
    if lifetime:
        found["lifetime_s"] = float(lifetime)
        found["lifetime_end"] = internals.launched(worker) + float(lifetime)
    return found


def _number(text: str | None) -> float | None:
    return float(text) if text and re.fullmatch(r"\d{1,12}(?:\.\d+)?", text) else None
