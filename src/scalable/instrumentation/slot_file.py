"""The board: what a worker executes right now, readable by others after it was killed.

A worker that dies by SIGKILL sends nothing, and Dask's scheduler knows only what was *assigned* to
it, not what had begun. So each worker keeps the attempts that are executing in a small file mapped
into its memory; the pages of a file outlive the process. Writing a slot costs half a microsecond
and no system call. The scheduler, if it runs on the same host, reads the file once the worker is
gone.
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

#: The board of a dead worker that nobody has written to for this time is removed at sight, in
#: seconds.
UNREAD_EXPIRY: Final = 3600.0

_MAGIC: Final = b"SCLBRD01"
#: run id + 1 (0 = free slot), start time
_SLOT: Final = struct.Struct("<qd")
_SLOTS: Final = 255
_SIZE: Final = len(_MAGIC) + 8 + _SLOT.size * _SLOTS


class SlotFile:
    """Written by the loop and the task threads of one worker; read by anybody, at any time.

    An attempt that ended stays on the board until its slot is needed again, the longest ended
    first: word of a result may still be in the worker's send buffer when it is killed. Readers look
    only for attempts that the scheduler takes for unfinished.
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
            # It has a descriptor of its own, with which the lock ends: with the worker's life.
            self._map = mmap.mmap(descriptor, _SIZE)
        finally:
            os.close(descriptor)
        self._map[: len(_MAGIC)] = _MAGIC
        self._free = deque(range(len(_MAGIC) + 8, _SIZE, _SLOT.size))

    def begin(self, run_id: int, start: float) -> int:
        """Note that an attempt executes; returns its slot, or 0 where the board is full."""
        try:
            slot = self._free.popleft()
        except IndexError:
            return 0
        _SLOT.pack_into(self._map, slot, run_id + 1, start)
        return slot

    def end(self, slot: int) -> None:
        """Let the slot that :meth:`begin` returned be used again, once all others were."""
        if slot:
            self._free.append(slot)

    def close(self) -> None:
        """Take the board away: the worker ends in good order.

        So go the boards that nobody had read when it began, and nobody has read since.
        """
        self._free.clear()
        self._map.close()
        for path, inode in (*self._abandoned, (self._path, 0)):
            with contextlib.suppress(OSError):
                if inode in (0, path.lstat().st_ino):
                    path.unlink()


def read_slots(worker_id: str) -> tuple[tuple[int, float], ...] | None:
    """Read and remove the board of a worker that is gone.

    Returns
    -------
    tuple of (int, float) or None
        Run id and start of each attempt that was executing or had ended a short time ago; None
        where there is no board of ours on this host.
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
    """Boards whose workers are gone, with their inodes; those that are old are removed at once.

    A scheduler may be about to read the board of a worker that has just died.
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
    # The id comes from a peer: only its digest becomes part of a path.
    digest = hashlib.blake2b(worker_id.encode("utf-8", "replace"), digest_size=16).hexdigest()
    return private_directory() / f"{digest}.board"
