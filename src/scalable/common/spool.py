"""The directory for the output of worker processes on their host, and how it is read.

Each user has a private directory per host, outside the directories that Dask deletes. A log is
written by a separate process (:mod:`scalable.instrumentation.tee`), which locks it while it writes:
a log without a lock is complete.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import stat
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

#: Bytes kept of a worker's output: its beginning and its end.
LOG_LIMIT: Final = 10 * 2**20
#: End of the name of the file with the times of a log; see :class:`~scalable.instrumentation.tee`.
TIMES: Final = ".times"
#: Bytes of the end that are sent to the recorder.
TAIL_BYTES: Final = 16 * 2**10
#: Bytes from the end that are searched for the stack of a crash.
_CRASH_WINDOW: Final = 256 * 2**10
#: Tries to create a log's directory.
_ATTEMPTS: Final = 10
#: A log's name below the spool: the worker, and the start of the capture.
_NAME: Final = re.compile(r"[0-9a-f]{32}/\d{8}T\d{6}\.\d{6}Z\.(?:stderr|stdout)\.log")


def private_directory() -> Path:
    """Directory of this user on this host; it may be missing."""
    return Path(tempfile.gettempdir()) / f"scalable-{os.getuid()}"


def check_private(directory: Path) -> None:
    """Raise PermissionError unless a directory belongs to this user only."""
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise PermissionError(f"{directory} is not a private directory of this user")


def check_unwritable(directory: Path) -> None:
    """Raise PermissionError unless only this user can write to a directory."""
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise PermissionError(f"{directory} is not a directory that this user alone can write to")


def open_private(path: Path) -> int:
    """Open a file that only this user can write to; never block, follow no link.

    Raises
    ------
    OSError
        It is not such a file, or not a regular one.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        os.close(descriptor)
        raise PermissionError(f"{path} is not a file that this user alone can write to")
    return descriptor


def spool() -> Path:
    """Directory of the logs; created if missing."""
    base = private_directory()
    for directory in (base, base / "logs"):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_private(directory)
    return base / "logs"


def make_private(directory: Path) -> None:
    """Create a directory, and missing parents, for this user only."""
    if not directory.is_dir():
        make_private(directory.parent)
        directory.mkdir(mode=0o700, exist_ok=True)


def new_log(address: str, started: float) -> Path:
    """Path of a new log of the worker at `address`, for :func:`create_log`."""
    directory = spool() / _digest(address)
    moment = datetime.fromtimestamp(started, UTC)
    return directory / f"{moment:%Y%m%dT%H%M%S.%f}Z.stderr.log"


def create_log(path: Path) -> int:
    """Create an empty log; return a descriptor that holds the lock of its writer.

    Raises
    ------
    OSError
        It exists, or its directory cannot be created or is not private.
    """
    descriptor = _create(path, _ATTEMPTS)
    with contextlib.suppress(OSError):  # a file system without locks
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return descriptor


def _create(path: Path, attempts: int) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    path.parent.mkdir(mode=0o700, exist_ok=True)
    try:
        check_private(path.parent)
        return os.open(path, flags, 0o600)
    except FileNotFoundError:  # another process has just removed the empty directory
        if attempts <= 1:
            raise
    return _create(path, attempts - 1)


def name_of(path: Path) -> str:
    """Name of a log below the spool, which is sent instead of a path."""
    return f"{path.parent.name}/{path.name}"


def find_log(name: str) -> Path | None:
    """Path of the log of that name on this host, if there is one; a peer's name is not a path."""
    if _NAME.fullmatch(name) is None:
        return None
    path = private_directory() / "logs" / name
    with contextlib.suppress(OSError):
        check_private(path.parent)
        if stat.S_ISREG(path.lstat().st_mode):
            return path
    return None


def stdout_of(path: Path) -> Path:
    """Path of the log of stdout, if it has one of its own; `path` is that of stderr."""
    return path.with_name(path.name.replace(".stderr.", ".stdout."))


def times_of(path: Path) -> Path:
    """Path of the file that says when what is in a log was written."""
    return path.with_name(path.name + TIMES)


def latest_log(address: str) -> Path | None:
    """The newest log of the worker at `address`, or None."""
    directory = private_directory() / "logs" / _digest(address)
    with contextlib.suppress(OSError):
        check_private(directory)
        found = sorted(name for name in os.listdir(directory) if name.endswith(".stderr.log"))  # noqa: PTH208
        if found:
            return directory / found[-1]
    return None


def log_state(path: Path) -> Literal["written", "complete", "gone"]:
    """Whether a log is still being written."""
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        descriptor = os.open(path, flags)
    except OSError:
        return "gone"
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return "written"
    except OSError:
        return "complete"
    finally:
        os.close(descriptor)
    return "complete"


def read_tail(path: Path, limit: int = TAIL_BYTES) -> str:
    """The end of a log as text, from the start of a line; empty if it cannot be read.

    If Python wrote the stacks of all threads at a crash, the text starts there, with the stack of
    the thread that crashed.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        size = os.fstat(descriptor).st_size
        window = max(limit, _CRASH_WINDOW)
        data = os.pread(descriptor, window, max(0, size - window))
    except OSError:
        return ""
    finally:
        os.close(descriptor)
    return tail_of(data, limit, size=size)


def tail_of(data: bytes, limit: int = TAIL_BYTES, *, size: int = 0) -> str:
    """The end of a log, as :func:`read_tail`; `size` is the log's, if `data` is only its end."""
    size = max(size, len(data))
    crash = data.rfind(b"Fatal Python error: ", max(0, len(data) - max(limit, _CRASH_WINDOW)))
    if crash >= 0 and len(data) - crash > limit // 2:
        data = data[max(0, crash - limit // 4) :][:limit]
    else:
        data = data[-limit:]
    if size > len(data):
        data = data.partition(b"\n")[2] or data
    return data.decode("utf-8", "replace")


def _digest(address: str) -> str:
    # The address comes from a peer, so only its digest is used in a path.
    return hashlib.blake2b(address.encode("utf-8", "replace"), digest_size=16).hexdigest()
