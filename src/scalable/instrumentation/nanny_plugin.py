"""Nanny → facts: how a worker's process ended, which nobody else sees."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Any, Final

import psutil
from distributed.diagnostics.plugin import NannyPlugin

from scalable import facts
from scalable.common import spool
from scalable.common.guard import Guard, guarded
from scalable.common.processes import adopts_orphans
from scalable.facts.protocol import NANNY_OP, NANNY_PLUGIN_NAME
from scalable.instrumentation import dask_compat, tee
from scalable.instrumentation.outbox import Outbox, Reports, process
from scalable.instrumentation.plugin_source import reduced
from scalable.instrumentation.python_logs import LogCollector

if TYPE_CHECKING:
    from distributed import Nanny

#: Longest wait for the last words of a worker to be in its log, in seconds. A child of the worker
#: may hold the log open for ever.
LOG_WAIT: Final = 1.0
#: Longest time that a nanny's close waits for a report, in seconds.
TEARDOWN_WAIT: Final = 2.0
#: Time after a worker's end at which its helper has ended, too, in seconds.
REAP_AFTER: Final = 1.0
#: Longest wait for the scheduler to take the report, in seconds.
REPORT_TIMEOUT: Final = 10.0

_FALLBACK: Final = """
import logging
from distributed.diagnostics.plugin import NannyPlugin as Plugin
logging.getLogger("distributed.nanny").warning(
    "scalable cannot watch this nanny (%s: %s); its workers run on", type(error).__name__, error
)
"""


class ScalableNannyPlugin(NannyPlugin):
    """Reports the end of a nanny's worker processes.

    Every method is called by the nanny's event loop.
    """

    name = NANNY_PLUGIN_NAME
    idempotent = True

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as source text: a nanny without this package must start all the same."""
        return reduced(ScalableNannyPlugin, _FALLBACK)

    def setup(self, nanny: Nanny) -> None:
        """Begin to watch."""
        self.guard = Guard()
        self._hook: dask_compat.ExitHook | None = None
        self._reports: set[asyncio.Task[None]] = set()
        self._records: LogCollector | None = None
        self._set_up(nanny)

    async def teardown(  # pyright: ignore[reportIncompatibleMethodOverride] (Dask awaits it)
        self, nanny: Nanny
    ) -> None:
        """Watch no longer; a nanny that closes because its worker did has a report under way."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
        if self._records is not None:
            self._records.stop()
            self._records.outbox.close()
            self._records = None
        if self._reports:
            await asyncio.wait(set(self._reports), timeout=TEARDOWN_WAIT)

    @guarded("nanny_setup")
    def _set_up(self, nanny: Nanny) -> None:
        self._nanny = nanny
        self._kills = _OomKills.now()
        #: Address and log of the last process whose end was reported.
        self._told: tuple[str, Path | None] = ("", None)
        if not dask_compat.runs_worker(nanny):
            # Its process has died already, unseen: the address is still that one's.
            self._told = self._process_of()
        self._terminated = dask_compat.last_terminated_pid(nanny)
        self._hook = dask_compat.ExitHook(nanny, self._exited)
        if not dask_compat.schedulers_here():  # whose process has a collector already
            loop = asyncio.get_running_loop()
            outbox = Outbox(
                loop, lambda: str(nanny.worker_address or ""), self._hand_over, process()
            )
            self._records = LogCollector(outbox, float, self.guard)
            self._records.start()

    def _process_of(self) -> tuple[str, Path | None]:
        """Address and log of the last process that told its nanny where it is."""
        address = str(self._nanny.worker_address or "")
        return address, spool.latest_log(address) if address else None

    @guarded("nanny_exit")
    def _exited(self, status: int, restarting: bool) -> None:
        nanny = self._nanny
        process_of = self._process_of()
        # Still that of the process before: this one ended before it told its nanny where it is.
        address = "" if process_of == self._told else process_of[0]
        self._told = process_of
        terminated = dask_compat.last_terminated_pid(nanny)
        memory_kill, self._terminated = terminated != self._terminated, terminated
        kills = _OomKills.now()
        before, self._kills = self._kills, kills
        fact = facts.WorkerExit(
            facts.WORKER_EXIT,
            time(),
            address,
            status,
            _signal_name(status),
            restarting,
            memory_kill,
            kills.group - before.group,
            kills.host - before.host,
            "",
            "",
            str(nanny.address),
        )
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._report(fact))
        self._reports.add(task)
        task.add_done_callback(self._reports.discard)
        if adopts_orphans():
            loop.call_later(REAP_AFTER, self._reap)

    @guarded("nanny_reap")
    def _reap(self) -> None:
        """Where nobody else does, wait for the helpers of workers that have ended."""
        for child in psutil.Process().children():
            with contextlib.suppress(psutil.Error, ChildProcessError):
                if child.name() == tee.NAME and child.status() == psutil.STATUS_ZOMBIE:
                    os.waitpid(child.pid, os.WNOHANG)

    def _hand_over(self, reports: Reports) -> None:
        """Send the nanny's log records; they have no stream of their own."""
        task = asyncio.get_running_loop().create_task(self._call(reports))
        self._reports.add(task)
        task.add_done_callback(self._reports.discard)

    async def _call(self, reports: Reports) -> None:
        with contextlib.suppress(OSError, TimeoutError, ValueError):
            call = getattr(self._nanny.scheduler, NANNY_OP)
            await asyncio.wait_for(call(**facts.report(reports)), REPORT_TIMEOUT)

    async def _report(self, fact: facts.WorkerExit) -> None:
        try:
            path = spool.latest_log(fact.address) if fact.address else None
            if path is not None:
                deadline = time() + LOG_WAIT
                while spool.log_state(path) == "written" and time() < deadline:
                    await asyncio.sleep(0.01)
                if path.exists():
                    tail = spool.read_tail(path)
                    fact = fact._replace(log=spool.name_of(path), tail=tail)
            call = getattr(self._nanny.scheduler, NANNY_OP)
            await asyncio.wait_for(call(**facts.report([(None, tuple(fact))])), REPORT_TIMEOUT)
        except (OSError, TimeoutError, ValueError):
            # The scheduler is gone, or has no run any more: nobody wants to know.
            pass
        except BaseException as error:
            self.guard.failed("nanny_report", error)


class _OomKills:
    """How many processes the kernel's out-of-memory killer has ended so far."""

    def __init__(self, group: int, host: int) -> None:
        self.group = group
        self.host = host

    @classmethod
    def now(cls) -> _OomKills:
        """Read the counters; 0 where there are none."""
        return cls(_group_kills(), _counter(Path("/proc/vmstat"), "oom_kill"))


def _group_kills() -> int:
    """Of the control group that the nanny and its workers are in."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return 0
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0":
            base = Path("/sys/fs/cgroup") / path.lstrip("/")
            return _counter(base / "memory.events", "oom_kill")
        if "memory" in controllers.split(","):
            base = Path("/sys/fs/cgroup/memory") / path.lstrip("/")
            return _counter(base / "memory.oom_control", "oom_kill")
    return 0


def _counter(path: Path, name: str) -> int:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        text = os.read(descriptor, 1 << 16).decode("ascii", "replace")
    except OSError:
        return 0
    finally:
        os.close(descriptor)
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        if key == name and value.strip().isdigit():
            return int(value)
    return 0


def _signal_name(status: int) -> str | None:
    """Name of the signal that a process ended by; None if by none."""
    if status >= 0:
        return None
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"
