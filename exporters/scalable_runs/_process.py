"""Whose a run is and which process writes it, told so that another can see whether they live.

A process id alone is reused, means nothing after a reboot, on another host or in another
container. What is compared here is therefore the id together with the host, the boot, the
namespace it was given in and the moment the process started.
"""

from __future__ import annotations

import os
import select
import socket
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Final, TypeGuard, cast

from scalable_runs.schema import Owner

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
#: `starttime`, counted from the field behind the command name in /proc/<pid>/stat (proc(5)).
_START_TIME_FIELD: Final = 19


#: Seconds that a writer whose program is gone is waited for at most.
EXIT_TIMEOUT: Final = 3.0


def this_process(created_at: str, program: int | None = None) -> Owner:
    """Describe the calling process, or the one for which it writes.

    Parameters
    ----------
    created_at
        Time to note with it, ISO 8601.
    program
        Id of the process whose run it is, where that is another one.
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
    """Return the id of this boot of the host, empty where the system does not tell."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


def is_alive(
    recorder: dict[str, Any], owner: dict[str, Any], *, wait: float = EXIT_TIMEOUT
) -> bool | None:
    """Tell whether a run's process lives, and the one that writes it, if that is another.

    None if it cannot be seen from here. A writer whose program is gone writes what it has and
    ends: that is waited for, so that whoever reads the run next finds all of it.

    Parameters
    ----------
    recorder
        The `recorder` of run.json.
    owner
        What owner.json says, `{}` if it cannot be read: without it a reused process id is
        taken for the recorder.
    wait
        Seconds to wait for such a writer at most; with 0 it counts as alive.
    """
    pid = recorder.get("pid")
    if not _is_pid(pid):
        return None
    boot = boot_id()
    if recorder.get("host") != socket.gethostname() or not boot:
        return None
    if recorder.get("boot_id") != boot:
        # A copy of this host's name after a reboot: no process survived that. But containers
        # may share a name on different hosts, so this is certain only with the heartbeat.
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
    """Without its writer a run is over; without its program as soon as the writer has ended."""
    deadline = monotonic() + wait
    while _lives(pid, noted):
        if wanted:
            return True
        if monotonic() > deadline:
            break
        _wait_for_end(pid, wait)
    return False


def _wait_for_end(pid: int, timeout: float) -> None:
    """Wait until a process that is no child of ours has ended, or may have."""
    try:
        descriptor = os.pidfd_open(pid)
    except (AttributeError, OSError):
        # No Linux, or it has ended meanwhile: there is nothing to wait on.
        sleep(0.01)
        return
    try:
        ended = select.poll()
        ended.register(descriptor, select.POLLIN)
        ended.poll(timeout * 1e3)
    finally:
        os.close(descriptor)


def _is_pid(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31


def _lives(pid: int, noted: Any) -> bool:
    """The process is there, the one that started then, and no zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # it exists and belongs to somebody else
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
    # The command name stands in parentheses and may hold spaces and parentheses itself.
    return text.rpartition(")")[2].split()


def _start_time(pid: int) -> str:
    fields = _stat_fields(pid)
    return fields[_START_TIME_FIELD] if len(fields) > _START_TIME_FIELD else ""


def _is_zombie(pid: int) -> bool:
    """A killed process that its parent has not waited for yet writes no more."""
    fields = _stat_fields(pid)
    return bool(fields) and fields[0] in ("Z", "X")
