"""What a process of the cluster runs with: found in a thread of its own, sent once, as a fact."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from time import time
from typing import TYPE_CHECKING, Any, Final, Literal

import dask.config

from scalable import facts
from scalable.code.environment import OwnSettings, pack, process_of, software_of
from scalable.common.guard import Guard
from scalable.facts.protocol import STREAM_OP

if TYPE_CHECKING:
    from distributed import Worker

#: Names of imported modules in one fact at most.
MAX_MODULES: Final = facts.MAX_ENTRIES
#: Facts of one worker that are kept for runs that begin later.
MAX_KEPT: Final = 50
#: Different descriptions that workers share.
MAX_SHARED: Final = 100


def describe(kind: Literal["scheduler", "worker"]) -> dict[str, Any]:
    """Return the fields of a fact; called by a thread."""
    settings = OwnSettings.here(dask.config.config)
    return {"process": kind, "software": pack(software_of(settings)), **process_of(os.environ)}


def describe_later(
    kind: Literal["scheduler", "worker"], use: Callable[[dict[str, Any]], object], guard: Guard
) -> None:
    """Describe this process in a thread that calls `use` with the result."""

    def run() -> None:
        with guard.watch("environment"):
            use(describe(kind))

    threading.Thread(target=run, name="scalable-environment", daemon=True).start()


class WorkerEnvironment:
    """Reports what one worker's process runs with, and which modules it imports later.

    Used by the worker's loop; only :func:`describe` runs in a thread.
    """

    def __init__(self, worker: Worker, ahead: Callable[[], float], guard: Guard) -> None:
        self._worker = worker
        self._ahead = ahead
        self._guard = guard
        self._modules = 0
        self._reported: set[str] | None = None

    def start(self) -> None:
        """Find out and report; returns at once."""
        describe_later("worker", self._found, self._guard)

    def check(self) -> None:
        """Report modules that were imported since; called with each heartbeat."""
        if self._reported is None or len(sys.modules) == self._modules:
            return
        new = self._new_modules(self._reported)
        if new:
            self._send({"process": "worker", "modules": new})

    def _found(self, fields: dict[str, Any]) -> None:
        # The stream belongs to the worker's loop.
        self._worker.loop.add_callback(self._report, fields)

    def _report(self, fields: dict[str, Any]) -> None:
        with self._guard.watch("environment"):
            self._reported = set()
            self._send({**fields, "modules": self._new_modules(self._reported)})

    def _new_modules(self, reported: set[str]) -> list[str]:
        self._modules = len(sys.modules)
        tops = {name.partition(".")[0] for name in list(sys.modules)}
        new = sorted(tops - reported - sys.stdlib_module_names)[:MAX_MODULES]
        reported.update(new)
        return new

    def _send(self, fields: dict[str, Any]) -> None:
        worker = self._worker
        fact = facts.WorkerEvent(
            facts.WORKER_EVENT,
            time() + self._ahead(),
            worker.address,
            facts.ENVIRONMENT,
            fields,
        )
        worker.batched_send({"op": STREAM_OP, **facts.report([(None, tuple(fact))])})


class KeptEnvironments:
    """The reports of the workers, for runs that begin later; used by the scheduler's loop.

    Workers with the same software share one description.
    """

    def __init__(self) -> None:
        self._of: dict[str, list[facts.WorkerEvent]] = {}
        self._software: dict[bytes, bytes] = {}

    def keep(self, address: str, fact: facts.WorkerEvent, known: Collection[str]) -> None:
        """Keep a report; those of workers that are not `known` any more are dropped."""
        software = fact.fields.get("software")
        if isinstance(software, bytes):
            if len(self._software) > MAX_SHARED:
                self._software.clear()
            shared = self._software.setdefault(software, software)
            fact = fact._replace(fields={**fact.fields, "software": shared})
            if len(self._of) > 2 * len(known):
                self._of = {each: of for each, of in self._of.items() if each in known}
            self._of[address] = [fact]
        elif address in self._of and len(self._of[address]) < MAX_KEPT:
            self._of[address].append(fact)

    def of_workers(self, known: Collection[str]) -> Iterator[facts.WorkerEvent]:
        """Yield the reports of the `known` workers."""
        for address, kept in self._of.items():
            if address in known:
                yield from kept
