"""Which process writes a run, told so that another process can see whether it still lives.

A process id alone is reused, means nothing after a reboot, on another host or in another
container. What is compared here is therefore the id together with the host, the boot, the
namespace it was given in and the moment the process started.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any, Final, TypedDict

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
#: `starttime`, counted from the field behind the command name in /proc/<pid>/stat (proc(5)).
_START_TIME_FIELD: Final = 19


class Owner(TypedDict):
    """owner.json: the one process that may write a run. Empty where the system does not tell."""

    host: str
    pid: int
    boot_id: str
    pid_namespace: str
    process_started: str
    created_at: str


def this_process(created_at: str) -> Owner:
    """Describe the calling process.

    Parameters
    ----------
    created_at
        Time to note with it, ISO 8601.
    """
    pid = os.getpid()
    return {
        "host": socket.gethostname(),
        "pid": pid,
        "boot_id": boot_id(),
        "pid_namespace": _pid_namespace(),
        "process_started": _start_time(pid),
        "created_at": created_at,
    }


def boot_id() -> str:
    """Return the id of this boot of the host, empty where the system does not tell."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


def is_alive(recorder: dict[str, Any], owner: dict[str, Any]) -> bool | None:
    """Tell whether the process that writes a run lives; None if it cannot be seen from here.

    Parameters
    ----------
    recorder
        The `recorder` of run.json.
    owner
        What owner.json says, `{}` if it cannot be read: without it a reused process id is
        taken for the recorder.
    """
    pid = recorder.get("pid")
    if not isinstance(pid, int) or isinstance(pid, bool) or not 0 < pid < 2**31:
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
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # it exists and belongs to somebody else
    noted = owner.get("process_started")
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
