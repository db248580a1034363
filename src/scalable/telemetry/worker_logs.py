"""The logs of workers, brought into the run's directory."""

from __future__ import annotations

import contextlib
import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from time import monotonic
from typing import Any, Final, NamedTuple

from scalable.common import spool
from scalable_runs.redact import Redactor

#: Seconds that a run has for redacting its workers' logs: those beyond it stay on their host.
REDACT_TIME: Final = 5.0
LOGS_DIRECTORY: Final = "logs/workers"


class KeptLog(NamedTuple):
    """A worker's log as the recorder could get hold of it."""

    #: Where it is: below the run's directory, or ``host:path``.
    where: str | None
    tail: str
    #: ``written``, ``complete`` or ``gone``; None where it lies on another host.
    state: str | None


class WorkerLogs:
    """Brings the logs of workers on this host into the run's directory.

    Called by the recorder's thread. A log on another host stays there. Secrets are taken out of a
    log when its worker is gone or the run ends.

    Parameters
    ----------
    run_dir : pathlib.Path
        The run's directory.
    redact : Redactor
        Passed each log.
    """

    def __init__(self, run_dir: Path, redact: Redactor) -> None:
        self._run_dir = run_dir
        self._redact = redact
        #: Seconds that redacting has taken.
        self._spent = 0.0
        self._targets: dict[str, tuple[Path, str]] = {}

    def begin(self, address: str, worker: str, process: Mapping[str, Any]) -> None:
        """A worker said where its log is: give it its place in the run, where that costs nothing.

        A second name for the same file: what is written later is there as well.
        """
        name = str(process.get("log") or "")
        path = spool.find_log(name)
        if path is None:
            return
        relative = f"{LOGS_DIRECTORY}/{_file_name(worker)}/{path.name}"
        self._targets[address] = (path, relative)
        with contextlib.suppress(OSError):
            target = self._run_dir / relative
            spool.make_private(target.parent)
            target.hardlink_to(path)

    def end(self, address: str, host: str, process: Mapping[str, Any]) -> KeptLog:
        """The worker is gone, or the run ends: keep what its log holds by now."""
        found = self._targets.pop(address, None)
        if found is None:
            log = process.get("log_path")
            if not isinstance(log, str):
                return KeptLog(None, "", None)
            if process.get("hostname") == socket.gethostname() and not Path(log).exists():
                # An empty log is removed; a worker that lived for an instant had no more.
                return KeptLog(None, "", "gone")
            return KeptLog(f"{host}:{log}", "", None)
        path, relative = found
        target = self._run_dir / relative
        state = spool.log_state(path)
        if state != "gone":
            spool.keep(path, target)
        if not self._hide_secrets(target):
            return KeptLog(f"{host}:{path}", self._redact(spool.read_tail(path)), state)
        tail = spool.read_tail(target)
        with contextlib.suppress(OSError):
            if not target.stat().st_size:
                target.unlink()
                target.parent.rmdir()
        return KeptLog(relative if target.exists() else None, tail, state)

    def _hide_secrets(self, target: Path) -> bool:
        """Take secrets out of a kept log; False if it is not kept, as that takes too long."""
        try:
            if self._spent > REDACT_TIME:
                target.unlink()
                return False
            text = target.read_bytes().decode("utf-8", "surrogateescape")
            began = monotonic()
            redacted = self._redact.lines(text)
            self._spent += monotonic() - began
            if redacted != text:
                # The log itself, of which this is a second name, goes on as it is.
                copy = target.with_name(f".{target.name}.new")
                descriptor = os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                with os.fdopen(descriptor, "wb") as file:
                    file.write(redacted.encode("utf-8", "surrogateescape"))
                copy.replace(target)
        except FileNotFoundError:
            return True
        except OSError:
            target.unlink(missing_ok=True)
            return False
        return True

    def state(self, address: str) -> str | None:
        """Whether a worker's process still has its log open; None where that is not known."""
        found = self._targets.get(address)
        return spool.log_state(found[0]) if found is not None else None

    def close(self) -> None:
        """The run ends, and its workers live on."""
        for address in list(self._targets):
            self.end(address, "", {})


def _file_name(name: str) -> str:
    # A worker's name comes from a peer.
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:64] or "worker"
