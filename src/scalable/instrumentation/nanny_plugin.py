"""Nanny → facts: how a worker's process ended, which only its nanny sees."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Coroutine
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
from scalable.instrumentation.oom_kills import oom_kills
from scalable.instrumentation.outbox import Outbox, Reports
from scalable.instrumentation.plugin_source import reduced
from scalable.instrumentation.process_resource import process_resource
from scalable.instrumentation.python_logs import LogCollector

if TYPE_CHECKING:
    from distributed import Nanny

#: Longest wait for the last output of a worker to be in its log, in seconds. A child of the worker
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
    """Reports the end of a nanny's worker processes; called by the nanny's event loop."""

    name = NANNY_PLUGIN_NAME
    idempotent = True

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as source text: a nanny without this package must start all the same."""
        return reduced(ScalableNannyPlugin, _FALLBACK)

    def setup(self, nanny: Nanny) -> None:
        """Begin to watch."""
        self.guard = Guard()
        self._hook: dask_compat.ExitHook | None = None
        self._sending: set[asyncio.Task[None]] = set()
        self._logs: LogCollector | None = None
        self._set_up(nanny)

    async def teardown(  # pyright: ignore[reportIncompatibleMethodOverride] (Dask awaits it)
        self, nanny: Nanny
    ) -> None:
        """Stop watching, and wait for reports under way."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
        if self._logs is not None:
            self._logs.stop()
            self._logs.outbox.close()
            self._logs = None
        if self._sending:
            await asyncio.wait(set(self._sending), timeout=TEARDOWN_WAIT)

    @guarded("nanny_setup")
    def _set_up(self, nanny: Nanny) -> None:
        self._nanny = nanny
        self._kills = oom_kills()
        #: Address and log of the last process whose end was reported.
        self._reported: tuple[str, Path | None] = ("", None)
        if not dask_compat.runs_worker(nanny):
            # The address is still that of a process that has ended.
            self._reported = self._last_process()
        self._terminated = dask_compat.last_terminated_pid(nanny)
        self._hook = dask_compat.ExitHook(nanny, self._exited)
        if not dask_compat.schedulers_here():  # a scheduler's process has a collector already
            outbox = Outbox(
                asyncio.get_running_loop(),
                lambda: str(nanny.worker_address or ""),
                # A nanny has no stream of its own.
                lambda reports: self._start(self._send(reports)),
                process_resource(),
            )
            self._logs = LogCollector(outbox, float, self.guard)
            self._logs.start()

    def _last_process(self) -> tuple[str, Path | None]:
        """Address and log of the last process that reported its address to the nanny."""
        address = str(self._nanny.worker_address or "")
        return address, spool.latest_log(address) if address else None

    @guarded("nanny_exit")
    def _exited(self, status: int, restarting: bool) -> None:
        last = self._last_process()
        # Unchanged if this process ended before it reported its address.
        address = "" if last == self._reported else last[0]
        self._reported = last
        terminated = dask_compat.last_terminated_pid(self._nanny)
        memory_kill, self._terminated = terminated != self._terminated, terminated
        before, self._kills = self._kills, oom_kills()
        fact = facts.WorkerExit(
            facts.WORKER_EXIT,
            time(),
            address,
            status,
            _signal_name(status),
            restarting,
            memory_kill,
            self._kills.group - before.group,
            self._kills.host - before.host,
            "",
            "",
            str(self._nanny.address),
        )
        self._start(self._report(fact))
        if adopts_orphans():
            asyncio.get_running_loop().call_later(REAP_AFTER, self._reap)

    @guarded("nanny_reap")
    def _reap(self) -> None:
        """Reap helpers of workers that have ended, where no init process does it."""
        for child in psutil.Process().children():
            with contextlib.suppress(psutil.Error, ChildProcessError):
                if child.name() == tee.NAME and child.status() == psutil.STATUS_ZOMBIE:
                    os.waitpid(child.pid, os.WNOHANG)

    async def _report(self, fact: facts.WorkerExit) -> None:
        try:
            path = spool.latest_log(fact.address) if fact.address else None
            if path is not None:
                deadline = time() + LOG_WAIT
                while spool.log_state(path) == "written" and time() < deadline:
                    await asyncio.sleep(0.01)
                if path.exists():
                    fact = fact._replace(log=spool.name_of(path), tail=spool.read_tail(path))
        except OSError:
            pass  # the fact is sent without the log
        except BaseException as error:
            self.guard.failed("nanny_report", error)
        await self._send([(None, tuple(fact))])

    async def _send(self, reports: Reports) -> None:
        # If the scheduler is gone, or records no run, the report is not needed.
        with contextlib.suppress(OSError, TimeoutError, ValueError):
            call = getattr(self._nanny.scheduler, NANNY_OP)
            await asyncio.wait_for(call(**facts.report(reports)), REPORT_TIMEOUT)

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)


def _signal_name(status: int) -> str | None:
    """Name of the signal that ended a process; None if there was none."""
    if status >= 0:
        return None
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"
