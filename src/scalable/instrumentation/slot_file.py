"""The slot file: the attempts that a worker executes, readable after the worker was killed.

A worker that is killed by SIGKILL sends nothing, and Dask's scheduler knows only which tasks were
*assigned* to it, not which had started. So each worker keeps its running attempts in a small
memory-mapped file, whose pages survive the process. Writing a slot takes half a microsecond and no
system call. If the scheduler runs on the same host, it reads the file when the worker has ended.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import mmap
import os
import stat
import struct
from collections import deque
from pathlib import Path
from time import time
from typing import Final

from scalable.common.spool import check_private, log_state, private_directory

#: The file of a dead worker is removed if it was not written for this time, in seconds.
UNREAD_EXPIRY: Final = 3600.0

_MAGIC: Final = b"SCLBRD01"
#: run id + 1 (0 = free slot), start time
_SLOT: Final = struct.Struct("<qd")
_SLOTS: Final = 255
_SIZE: Final = len(_MAGIC) + 8 + _SLOT.size * _SLOTS


class SlotFile:
    """Written by the loop and the task threads of one worker; read by any process, at any time.

    An attempt that ended stays in the file until its slot is needed, the oldest first: the report
    of its result may still be in the worker's send buffer when the worker is killed. Readers use
    only attempts that the scheduler considers unfinished.
    """

    def __init__(self, worker_id: str) -> None:
        directory = private_directory()
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_private(directory)
        self._abandoned = _abandoned(directory)
        self._path = _path(worker_id)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self._path, flags, 0o600)
        try:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, _SIZE)
            # The lock belongs to this descriptor, and ends with the worker's process.
            self._map = mmap.mmap(descriptor, _SIZE)
        finally:
            os.close(descriptor)
        self._map[: len(_MAGIC)] = _MAGIC
        self._free = deque(range(len(_MAGIC) + 8, _SIZE, _SLOT.size))

    def begin(self, run_id: int, start: float) -> int:
        """Note that an attempt executes; return its slot, or 0 if the file is full."""
        try:
            slot = self._free.popleft()
        except IndexError:
            return 0
        _SLOT.pack_into(self._map, slot, run_id + 1, start)
        return slot

    def end(self, slot: int) -> None:
        """Free the slot that :meth:`begin` returned; it is reused after all other free slots."""
        if slot:
            self._free.append(slot)

    def close(self) -> None:
        """Delete the file when the worker shuts down cleanly.

        Files that were abandoned when this worker started, and still are, are deleted too.
        """
        self._free.clear()
        self._map.close()
        for path, inode in (*self._abandoned, (self._path, 0)):
            with contextlib.suppress(OSError):
                if inode in (0, path.lstat().st_ino):
                    path.unlink()


def read_slots(worker_id: str) -> tuple[tuple[int, float], ...] | None:
    """Read and delete the slot file of a worker that has ended.

    Returns
    -------
    tuple of (int, float) or None
        Run id and start of each attempt that was executing or had just ended; None if there is no
        such file on this host.
    """
    path = _path(worker_id)
    try:
        check_private(path.parent)
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        content = os.read(descriptor, _SIZE)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    with contextlib.suppress(OSError):
        path.unlink()
    if len(content) != _SIZE or not content.startswith(_MAGIC):
        return None
    slots = _SLOT.iter_unpack(content[len(_MAGIC) + 8 :])
    return tuple((number - 1, start) for number, start in slots if number > 0)


def _abandoned(directory: Path) -> list[tuple[Path, int]]:
    """Files of workers that have ended, with their inodes; delete those that are old.

    Newer files are kept: a scheduler may be about to read them.
    """
    found: list[tuple[Path, int]] = []
    horizon = time() - UNREAD_EXPIRY
    for path in directory.glob("*.board"):
        with contextlib.suppress(OSError):
            status = path.lstat()
            if log_state(path) != "complete":
                continue
            if status.st_mtime < horizon:
                path.unlink()
            else:
                found.append((path, status.st_ino))
    return found


def _path(worker_id: str) -> Path:
    # The id comes from a peer, so only its digest is used in a path.
    digest = hashlib.blake2b(worker_id.encode("utf-8", "replace"), digest_size=16).hexdigest()
    return private_directory() / f"{digest}.board"
