"""The processes of a run, described so that a reader can see whether they are alive.

A process id is reused, and means nothing after a reboot, on another host or in another container.
It is therefore compared together with the host, the boot, its namespace and the process's start.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, Final, TypeGuard, cast

if TYPE_CHECKING:
    from scalable_runs.schema import Owner

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
#: `starttime`, counted from the field behind the command name in /proc/<pid>/stat (proc(5)).
_START_TIME_FIELD: Final = 19
#: Seconds between two checks of a process whose end the system does not report.
_LOOK: Final = 0.01
#: Seconds to wait at most for a writer whose program is gone.
EXIT_TIMEOUT: Final = 3.0


def this_process(created_at: str, program: int | None = None) -> Owner:
    """Describe the calling process, or the program for which it writes.

    Parameters
    ----------
    created_at
        The time, ISO 8601.
    program
        Process id of the program, if that is another process.
    """
    here = os.getpid()
    pid = program or here
    owner: Owner = {
        "host": socket.gethostname(),
        "pid": pid,
        "boot_id": boot_id(),
        "pid_namespace": _pid_namespace(),
        "process_started": _start_time(pid),
        "created_at": created_at,
    }
    if pid != here:
        owner["writer"] = {"pid": here, "process_started": _start_time(here)}
    return owner


def boot_id() -> str:
    """Return the id of this boot of the host; empty where the system has none."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


def is_alive(
    recorder: dict[str, Any], owner: dict[str, Any], *, wait: float = EXIT_TIMEOUT
) -> bool | None:
    """Return whether the program and the writer of a run are alive; None if that is not visible.

    A writer whose program is gone writes what it has and ends. Its end is waited for, so that the
    run is complete when it is read.

    Parameters
    ----------
    recorder
        `recorder` of run.json.
    owner
        owner.json; `{}` if it cannot be read: a process that reuses the id is then taken for the
        program.
    wait
        Seconds to wait for such a writer; with 0 it counts as alive.
    """
    pid = recorder.get("pid")
    if not _is_pid(pid):
        return None
    boot = boot_id()
    if recorder.get("host") != socket.gethostname() or not boot:
        return None
    if recorder.get("boot_id") != boot:
        # No process survives a reboot. But containers on different hosts may share a name, so only
        # the heartbeat decides.
        return None
    if owner.get("pid_namespace", "") != _pid_namespace() and owner:
        return None
    lives = _lives(pid, owner.get("process_started"))
    writer = owner.get("writer")
    if isinstance(writer, dict):
        noted = cast("dict[str, Any]", writer)
        writer_pid = noted.get("pid")
        if _is_pid(writer_pid):
            return _writer_lives(writer_pid, noted.get("process_started"), lives or wait <= 0, wait)
    return lives


def _writer_lives(pid: int, noted: Any, wanted: bool, wait: float) -> bool:
    """Return whether a writer is alive; if it is not `wanted`, wait for its end first."""
    if not _lives(pid, noted):
        return False
    if not wanted:
        handle = ProcessHandle(pid)
        handle.has_ended(wait)
        handle.close()
    return wanted


def _is_pid(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31


def _lives(pid: int, noted: Any) -> bool:
    """Return whether the process that started then exists, and is not a zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # it exists and belongs to another user
    started = _start_time(pid)
    return not (noted and started and noted != started) and not _is_zombie(pid)


def _pid_namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _stat_fields(pid: int) -> list[str]:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return []
    # The command name is in parentheses and may contain spaces and parentheses.
    return text.rpartition(")")[2].split()


def _start_time(pid: int) -> str:
    fields = _stat_fields(pid)
    return fields[_START_TIME_FIELD] if len(fields) > _START_TIME_FIELD else ""


def _is_zombie(pid: int) -> bool:
    """Return whether a process has ended and its parent has not waited for it yet."""
    fields = _stat_fields(pid)
    return bool(fields) and fields[0] in ("Z", "X")


class ProcessHandle:
    """A process that need not be a child of this one; used by one thread at a time."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._handle = -1
        # Another process may later get the same id; not every system has handles.
        with contextlib.suppress(OSError, AttributeError):
            self._handle = os.pidfd_open(pid)

    def has_ended(self, timeout: float = 0.0) -> bool:
        """Whether it has ended, or does within `timeout` seconds."""
        if self._handle >= 0:
            poll = select.poll()
            poll.register(self._handle, select.POLLIN)
            return bool(poll.poll(timeout * 1e3))
        deadline = monotonic() + timeout
        while not (ended := self._is_unknown()) and monotonic() < deadline:
            sleep(_LOOK)
        return ended

    def _is_unknown(self) -> bool:
        if self._pid <= 0:
            return True
        try:
            os.kill(self._pid, 0)
        except ProcessLookupError:
            return True
        except OSError:
            pass
        return False

    def kill(self) -> None:
        """End it at once."""
        with contextlib.suppress(OSError):
            if self._handle >= 0:
                signal.pidfd_send_signal(self._handle, signal.SIGKILL)
            elif self._pid > 0:
                os.kill(self._pid, signal.SIGKILL)

    def close(self) -> None:
        """Release the handle; from now on nothing is done to the process."""
        self._pid = 0
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
