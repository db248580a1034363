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

    def begin(self, address: str, worker: str, process: Mapping[str, Any]) -> None:
        """A worker reported its log: link it into the run, if this is possible.

        The link shows what is written later as well.
        """
        name = str(process.get("log") or "")
        path = spool.find_log(name)
        if path is None:
            return
        kept = f"{WORKER_LOGS}/{_file_name(worker)}/{path.name}"
        self._logs[address] = (path, kept)
        self._store.link(kept, path)

    def end(self, address: str, host: str, process: Mapping[str, Any]) -> KeptLog:
        """The worker has ended, or the run ends: keep the present content of its log."""
        found = self._logs.pop(address, None)
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
        try:
            data = self._keep(path, kept)
        except OSError:
            data = None
        if data is None:
            with contextlib.suppress(OSError):
                self._store.detach(kept)
            return KeptLog(f"{host}:{path}", self._redact(spool.read_tail(path)), state)
        return KeptLog(kept if data else None, spool.tail_of(data), state)

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
        if not redacted:
            self._store.detach(kept)
        elif redacted != data or not is_linked:
            # The log itself, which this may be a link to, is not changed.
            with self._store.attach(kept) as file:
                file.write(redacted)
        return redacted

    def state(self, address: str) -> str | None:
        """Whether a worker's process still has its log open; None if unknown."""
        found = self._logs.get(address)
        return spool.log_state(found[0]) if found is not None else None

    def close(self) -> None:
        """The run ends while its workers still run."""
        for address in list(self._logs):
            self.end(address, "", {})


def _file_name(name: str) -> str:
    # A worker's name comes from a peer.
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:64] or "worker"
