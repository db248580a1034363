"""A program that copies the output of a worker's process to a bounded log, and passes it on.

It is a separate process, so that it survives the worker and reads the last output of one that was
killed, and so that the interpreter locks of worker and nanny cannot block the output. It imports
the standard library only, and is run by its path.

    python -I -S tee.py LIMIT SPOOL PIPE:FORWARD:LOG:TIMES:PATH [PIPE:FORWARD:LOG:TIMES:PATH]

PIPE is the descriptor to read, a pipe or the master of a terminal; FORWARD receives the output, LOG
is the log's descriptor and PATH its file. TIMES is the descriptor of the file beside it, whose
lines say when output was read: the offset in the log, and seconds since the epoch. The lock on LOG,
taken by the process that opened it, ends with this program; so does the pipe that shows the worker
that this program runs.
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
#: Logs that were not fetched are removed after this time, in seconds.
EXPIRY = 7 * 24 * 3600.0
#: An empty directory is removed after this time, in seconds: another worker may have created it for
#: a new log.
EMPTY_EXPIRY = 60.0
#: End of the name of the file with the times of a log, after the log's.
TIMES = ".times"
#: Output that is read within this time of other has the same time, in seconds.
RESOLUTION = 0.0002
#: Times kept of one log.
MAX_MARKS = 1 << 16
_CHUNK = 1 << 16


class Log:
    """A file of at most `limit` bytes: it keeps the first half, and the end of the rest.

    Used by the program's only thread.
    """

    def __init__(self, descriptor: int, path: str, limit: int, times: int = -1) -> None:
        self._path = path
        self._times = Times(times)
        self._fd = descriptor
        self._limit = limit
        self._head = limit // 2
        self._size = 0
        self._marker = 0
        self._left_out = 0

    def write(self, data: bytes) -> None:
        """Add `data`, as far as the disk has space."""
        with contextlib.suppress(OSError):
            self._times.add(self._size, time.time())
            while data:
                written = os.pwrite(self._fd, data[:_CHUNK], self._size)
                self._size += written
                data = data[written:]
                if self._size > self._limit:
                    self._cut()

    def _cut(self) -> None:
        """Remove the middle, and mark the place."""
        begin = self._head + self._marker
        keep = min(self._limit // 4, self._size - begin)
        tail = os.pread(self._fd, keep, self._size - keep)
        # From the start of a line on, if there is one.
        tail = tail.partition(b"\n")[2] or tail
        self._left_out += self._size - begin - len(tail)
        old = self._size - len(tail)
        marker = b"\n[... %d bytes left out ...]\n" % self._left_out
        os.ftruncate(self._fd, self._head)
        os.pwrite(self._fd, marker + tail, self._head)
        self._marker = len(marker)
        self._size = self._head + len(marker) + len(tail)
        self._times.cut(self._head, old, self._head + len(marker))

    def close(self) -> None:
        """Finish; an empty log is removed."""
        with contextlib.suppress(OSError):
            if not self._size:
                os.unlink(self._path)  # noqa: PTH108 (pathlib would double the start-up time)
                os.unlink(self._path + TIMES)  # noqa: PTH108
        os.close(self._fd)
        self._times.close()


class Times:
    """A file that says when what is in a log was read; there is none with the descriptor -1.

    Used by the program's only thread.
    """

    def __init__(self, descriptor: int) -> None:
        self._fd = descriptor
        self._size = 0
        self._marks: list[tuple[int, float]] = []

    def add(self, offset: int, now: float) -> None:
        """Output that was read now begins at an offset of the log."""
        marks = self._marks
        if self._fd < 0:
            return
        if marks and now - marks[-1][1] < RESOLUTION:
            return
        marks.append((offset, now))
        if len(marks) > MAX_MARKS:
            # The older half becomes less exact.
            half = MAX_MARKS // 2
            self._marks = marks[:half:2] + marks[half:]
            self._write_all()
        else:
            self._write(marks[-1:])

    def cut(self, head: int, old: int, new: int) -> None:
        """Of the log its first `head` bytes are left, and what was at `old`, which is at `new`."""
        if self._fd < 0:
            return
        kept = [mark for mark in self._marks if mark[0] < head]
        tail = [(at - old + new, when) for at, when in self._marks if at >= old]
        before = [when for at, when in self._marks if at < old]
        if before and not (tail and tail[0][0] == new):
            tail.insert(0, (new, before[-1]))
        self._marks = kept + tail
        self._write_all()

    def close(self) -> None:
        """Finish."""
        if self._fd >= 0:
            os.close(self._fd)

    def _write_all(self) -> None:
        os.ftruncate(self._fd, 0)
        self._size = 0
        self._write(self._marks)

    def _write(self, marks: list[tuple[int, float]]) -> None:
        data = b"".join(b"%d %.6f\n" % mark for mark in marks)
        self._size += os.pwrite(self._fd, data, self._size)


def copy(streams: dict[int, tuple[int, Log]]) -> None:
    """Copy each pipe until its last writer has closed it."""
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
                # A background process is not notified of a new size.
                copy_size(forward, pipe)
            try:
                data = os.read(pipe, _CHUNK)
            except OSError:  # end of a terminal
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
            # The terminal is non-blocking: wait until it accepts more.
            select.select([], [descriptor], [], 1.0)
        except OSError:
            return  # the terminal is closed; the log has the output


def remove_expired(spool: str) -> None:
    """Remove logs that were not fetched."""
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
    """Run the program."""
    # It ends after its last writer; a signal that ends a worker must not end it first.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP):
        signal.signal(number, signal.SIG_IGN)
    limit, spool, *given = sys.argv[1:]
    streams: dict[int, tuple[int, Log]] = {}
    for stream in given:
        pipe, forward, log, times, path = stream.split(":", 4)
        streams[int(pipe)] = (int(forward), Log(int(log), path, int(limit), int(times)))
    # For `ps`: only the name remains of a process that has ended and was not waited for.
    with contextlib.suppress(OSError), open("/proc/self/comm", "w") as comm:  # noqa: PTH123
        comm.write(NAME)
    remove_expired(spool)
    copy(streams)


if __name__ == "__main__":
    main()
