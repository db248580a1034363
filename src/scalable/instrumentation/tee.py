"""A program: copies what a worker process writes into a bounded log, and passes it on.

It is a process of its own so that it outlives the worker, whose last words are still in the pipe
when it is killed, and so that neither the worker's nor the nanny's interpreter lock can hold the
worker's output up. It imports nothing but the standard library and is run by its path.

    python -I -S tee.py LIMIT SPOOL PIPE:FORWARD:LOG:PATH [PIPE:FORWARD:LOG:PATH]

PIPE is the descriptor to read, a pipe or the master of a terminal; FORWARD the one to pass
everything on to, LOG the one to write, and PATH its file. The lock on LOG, taken by whoever opened
it, ends with this program; so does the pipe by which the worker knows that it still runs.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time

#: Name of its process.
NAME = "scalable-tee"
#: Logs of workers that nobody fetched are removed after this time, in seconds.
EXPIRY = 7 * 24 * 3600.0
#: A directory without a log is removed after this time, in seconds: another worker may have made
#: it for a log that is about to come.
EMPTY_EXPIRY = 60.0
_CHUNK = 1 << 16


class Log:
    """A file of at most `limit` bytes: the first half of them stays, of the rest the end.

    Used by the program's one thread.
    """

    def __init__(self, descriptor: int, path: str, limit: int) -> None:
        self._path = path
        self._fd = descriptor
        self._limit = limit
        self._head = limit // 2
        self._size = 0
        self._marker = 0
        self._left_out = 0

    def write(self, data: bytes) -> None:
        """Add `data`; where the disk takes no more, what can be kept is kept."""
        with contextlib.suppress(OSError):
            while data:
                written = os.pwrite(self._fd, data[:_CHUNK], self._size)
                self._size += written
                data = data[written:]
                if self._size > self._limit:
                    self._cut()

    def _cut(self) -> None:
        """Take out the middle, and say so where it was."""
        begin = self._head + self._marker
        keep = min(self._limit // 4, self._size - begin)
        tail = os.pread(self._fd, keep, self._size - keep)
        # From the beginning of a line on, if there is one.
        tail = tail.partition(b"\n")[2] or tail
        self._left_out += self._size - begin - len(tail)
        marker = b"\n[... %d bytes left out ...]\n" % self._left_out
        os.ftruncate(self._fd, self._head)
        os.pwrite(self._fd, marker + tail, self._head)
        self._marker = len(marker)
        self._size = self._head + len(marker) + len(tail)

    def close(self) -> None:
        """Finish; an empty log is no log."""
        with contextlib.suppress(OSError):
            if not self._size:
                os.unlink(self._path)  # noqa: PTH108 (pathlib would double the start-up time)
        os.close(self._fd)


def copy(streams: dict[int, tuple[int, Log]]) -> None:
    """Copy each pipe until its last writer is gone."""
    terminals = {pipe: forward for pipe, (forward, _) in streams.items() if os.isatty(pipe)}
    if terminals:

        def follow_sizes(*_: object) -> None:
            for master, terminal in terminals.items():
                copy_size(terminal, master)

        signal.signal(signal.SIGWINCH, follow_sizes)
        follow_sizes()
    poll = select.poll()
    for pipe in streams:
        poll.register(pipe, select.POLLIN)
    while streams:
        for pipe, _ in poll.poll():
            forward, log = streams[pipe]
            if pipe in terminals:
                # A process in the background is not told of a new size.
                copy_size(forward, pipe)
            try:
                data = os.read(pipe, _CHUNK)
            except OSError:  # how a terminal ends
                data = b""
            if not data:
                poll.unregister(pipe)
                del streams[pipe]
                log.close()
                continue
            log.write(data)
            _pass_on(forward, data)


def copy_size(terminal: int, other: int) -> None:
    """Give `other`, a terminal, the size of the first."""
    import fcntl
    import termios

    with contextlib.suppress(OSError):
        fcntl.ioctl(other, termios.TIOCSWINSZ, fcntl.ioctl(terminal, termios.TIOCGWINSZ, bytes(8)))


def _pass_on(descriptor: int, data: bytes) -> None:
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:
            # Somebody made the terminal non-blocking: wait until it takes more.
            select.select([], [descriptor], [], 1.0)
        except OSError:
            return  # the terminal is gone; what is written is still in the log


def remove_expired(spool: str) -> None:
    """Remove logs that nobody fetched."""
    now = time.time()
    with contextlib.suppress(OSError):
        for directory in os.scandir(spool):
            with contextlib.suppress(OSError):
                if directory.is_dir(follow_symlinks=False):
                    changed = directory.stat(follow_symlinks=False).st_mtime
                    for file in os.scandir(directory.path):
                        if file.stat(follow_symlinks=False).st_mtime < now - EXPIRY:
                            os.unlink(file.path)  # noqa: PTH108
                    if changed < now - EMPTY_EXPIRY:
                        os.rmdir(directory.path)  # noqa: PTH106 (fails unless it is empty)


def main() -> None:
    """Be the program."""
    # It ends by itself once nobody writes any more: what ends a worker must not end it first.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP):
        signal.signal(number, signal.SIG_IGN)
    limit, spool, *given = sys.argv[1:]
    streams: dict[int, tuple[int, Log]] = {}
    for stream in given:
        pipe, forward, log, path = stream.split(":", 3)
        streams[int(pipe)] = (int(forward), Log(int(log), path, int(limit)))
    # For `ps`, and for whoever adopts it: a name is all that is left of a process that has ended.
    with contextlib.suppress(OSError), open("/proc/self/comm", "w") as comm:  # noqa: PTH123
        comm.write(NAME)
    remove_expired(spool)
    copy(streams)


if __name__ == "__main__":
    main()
