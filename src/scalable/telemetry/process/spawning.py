"""Starts the interpreter that a recorder runs in.

No heavy modules are imported here, so that it starts while the program imports the rest.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import marshal
import os
import subprocess
import sys
from multiprocessing.spawn import get_executable
from pathlib import Path
from typing import Final, TypeAlias

from scalable import facts
from scalable.common.processes import Detached
from scalable.telemetry.recorder import wire
from scalable_runs import schema

#: Bytes of a pipe; half of it may be filled with facts that the process has not taken.
PIPE_SIZE: Final = 1024 * 1024
#: fcntl(2), Linux only.
_F_SETPIPE_SZ: Final = 1031
_F_GETPIPE_SZ: Final = 1032
#: What the interpreter runs, with the module search path of this one. `-S` prevents what the site
#: module would load, such as automatic instrumentation.
_BOOTSTRAP: Final = (
    "import marshal, sys; sys.path[:] = marshal.load(sys.stdin.buffer); "
    "from scalable.telemetry.process.child import main; main()"
)
#: Shown by `ps`.
_TITLE: Final = "scalable-recorder"

logger = logging.getLogger("scalable")

Process: TypeAlias = Detached


def spawn(run_id: str) -> Process | None:
    """Start a process for a :class:`~.process.RecorderProcess`; None where that is not possible."""
    executable = get_executable()
    if not executable or getattr(sys, "frozen", False):
        # It would start this program again.
        return None
    try:
        process = Detached(
            [os.fsdecode(executable), "-S", "-c", _BOOTSTRAP, _TITLE, run_id],
            stderr=subprocess.DEVNULL,
            # A terminal's Ctrl-C is for the program, and the recorder records what it does then.
            # Not a session of its own: Linux may schedule each session as one.
            process_group=0,
        )
    except (OSError, MemoryError, subprocess.SubprocessError) as error:
        logger.info("scalable: the recorder's process could not be started: %r", error)
        return None
    with contextlib.suppress(OSError):
        wire.write_bytes(process.stdin.fileno(), marshal.dumps(_search_path()))
    return process


def _search_path() -> list[str]:
    """Module search path of this interpreter, and where this package was found."""
    path = [str(place) for place in sys.path]
    files = [module.__file__ for module in (facts, schema)]
    ours = {str(Path(file).parents[1]) for file in files if file is not None}
    return [*sorted(ours - set(path)), *path]


def capacity_of(descriptor: int) -> int:
    """Bytes that a pipe holds, after widening it where the system allows."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            return fcntl.fcntl(descriptor, _F_SETPIPE_SZ, PIPE_SIZE)
        with contextlib.suppress(OSError):
            return fcntl.fcntl(descriptor, _F_GETPIPE_SZ)
    return 65_536
