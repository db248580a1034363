"""Copies the logs of workers into the run's directory."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from time import monotonic
from typing import Any, Final, NamedTuple

from scalable.common import spool
from scalable_runs.redact import Redactor
from scalable_runs.stores.base import Store, joined
from scalable_runs.task_logs import WORKER_LOGS

#: Seconds for redacting the workers' logs of a run: further logs stay on their host.
REDACT_TIME: Final = 5.0


class KeptLog(NamedTuple):
    """A worker's log, as far as the recorder can access it."""

    #: Its path: below the run's directory, or ``host:path``.
    where: str | None
    tail: str
    #: ``written``, ``complete`` or ``gone``; None if it is on another host.
    state: str | None


class WorkerLogs:
    """Copies the logs of workers on this host into the run's directory.

    Called by the recorder's thread. A log on another host stays there. Secrets are removed from a
    log when its worker has ended or the run ends.
    """

    def __init__(self, store: Store, redact: Redactor) -> None:
        self._store = store
        self._redact = redact
        #: Seconds spent on redacting.
        self._spent = 0.0
        #: The log of each worker, and its name in the run.
        self._logs: dict[str, tuple[Path, str]] = {}
        #: That of its stdout, where this goes to another place than stderr.
        self._others: dict[str, tuple[Path, str]] = {}

    def begin(self, address: str, worker: str, process: Mapping[str, Any]) -> None:
        """A worker reported its log: link it into the run, if this is possible.

        The link shows what is written later as well.
        """
        name = str(process.get("log") or "")
        path = spool.find_log(name)
        if path is None:
            return
        folder = f"{WORKER_LOGS}/{_file_name(worker)}"
        self._logs[address] = self._follow(path, folder)
        other = spool.find_log(spool.stdout_of(Path(name)).as_posix())
        if other is not None and other != path:
            self._others[address] = self._follow(other, folder)

    def _follow(self, path: Path, folder: str) -> tuple[Path, str]:
        kept = f"{folder}/{path.name}"
        self._store.link(kept, path)
        self._store.link(kept + spool.TIMES, spool.times_of(path))
        return path, kept

    def end(self, address: str, host: str, process: Mapping[str, Any]) -> KeptLog:
        """The worker has ended, or the run ends: keep the present content of its log."""
        found, other = self._logs.pop(address, None), self._others.pop(address, None)
        if other is not None:
            self._keep_or_remove(*other)
        if found is None:
            log = process.get("log_path")
            if not isinstance(log, str):
                return KeptLog(None, "", None)
            if process.get("hostname") == socket.gethostname() and not Path(log).exists():
                # An empty log is removed.
                return KeptLog(None, "", "gone")
            return KeptLog(f"{host}:{log}", "", None)
        path, kept = found
        state = spool.log_state(path)
        data = self._keep_or_remove(path, kept)
        if data is None:
            return KeptLog(f"{host}:{path}", self._redact(spool.read_tail(path)), state)
        return KeptLog(kept if data else None, spool.tail_of(data), state)

    def _keep_or_remove(self, path: Path, kept: str) -> bytes | None:
        """Write a redacted log into the run, or leave it on its host: None."""
        try:
            data = self._keep(path, kept)
        except OSError:
            data = None
        if not data:
            for name in (kept, kept + spool.TIMES):
                with contextlib.suppress(OSError):
                    self._store.detach(name)
        return data

    def _keep(self, path: Path, kept: str) -> bytes | None:
        """Write a redacted log into the run; return None if that takes too long.

        Raises
        ------
        OSError
            The log cannot be read or written.
        """
        if self._spent > REDACT_TIME:
            return None
        is_linked = self._store.stat(kept) is not None or self._store.link(kept, path)
        try:
            data = joined(self._store.read(kept)) if is_linked else path.read_bytes()
        except FileNotFoundError:
            return b""
        began = monotonic()
        text = data.decode("utf-8", "surrogateescape")
        redacted = self._redact.lines(text).encode("utf-8", "surrogateescape")
        self._spent += monotonic() - began
        if redacted and (redacted != data or not is_linked):
            # The log itself, which this may be a link to, is not changed.
            with self._store.attach(kept) as file:
                file.write(redacted)
        if redacted:
            self._keep_times(path, kept, data, redacted)
        return redacted

    def _keep_times(self, path: Path, kept: str, data: bytes, redacted: bytes) -> None:
        name = kept + spool.TIMES
        try:
            times = spool.times_of(path).read_bytes()
        except FileNotFoundError:
            return
        moved = moved_times(times, data, redacted)
        with self._store.attach(name) as file:
            file.write(moved)

    def state(self, address: str) -> str | None:
        """Whether a worker's process still has its log open; None if unknown."""
        found = self._logs.get(address)
        return spool.log_state(found[0]) if found is not None else None

    def close(self) -> None:
        """The run ends while its workers still run."""
        for address in list(self._logs):
            self.end(address, "", {})


def moved_times(times: bytes, data: bytes, redacted: bytes) -> bytes:
    """The times of a log for its text without secrets: offsets move, as lines become shorter.

    Times are left out behind a secret of several lines.
    """
    if redacted == data:
        return times
    marks = [line.split() for line in times.splitlines()]
    before, after = data.split(b"\n"), redacted.split(b"\n")
    same_lines = len(before) == len(after)
    lines: list[bytes] = []
    begin = moved = number = 0
    for offset, when in marks:
        at = int(offset)
        while number < len(before) and at > begin + len(before[number]):
            if not same_lines and (number >= len(after) or before[number] != after[number]):
                return b"".join(lines)
            begin += len(before[number]) + 1
            moved += len(after[number]) + 1
            number += 1
        if number == len(before):
            break
        inside = min(at - begin, len(after[number]) if number < len(after) else 0)
        lines.append(b"%d %s\n" % (moved + inside, when))
    return b"".join(lines)


def _file_name(name: str) -> str:
    # A worker's name comes from a peer.
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:64] or "worker"
