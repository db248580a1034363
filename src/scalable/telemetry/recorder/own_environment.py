"""Finds out what the program runs with, while its run begins."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from typing import Any, Final

from scalable.code.environment import OwnSettings, process_of, software_of
from scalable.common.guard import Guard
from scalable.telemetry.ledger.environments import Described
from scalable_runs.writer import RunWriter

#: What run.json has of it.
_IN_RUN: Final = ("cpu", "memory_bytes", "batch_job", "container")


class OwnEnvironment:
    """Describes the program, on a daemon thread of its own; read by the recorder's thread.

    The recorder's interpreter has the program's module search path and variables; the rest is in
    `settings`.
    """

    def __init__(
        self, settings: OwnSettings, writer: RunWriter, guard: Guard | None = None
    ) -> None:
        self._settings = settings
        self._writer = writer
        self._guard = guard or Guard()
        self._found: Described | None = None
        self._thread = threading.Thread(target=self._run, name="scalable-environment", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def found(self, timeout: float = 0.0) -> Described | None:
        """What the program runs with, once it is known; waits for it for `timeout` seconds."""
        if self._found is None and timeout:
            self._thread.join(timeout)
        return self._found

    @property
    def is_over(self) -> bool:
        """Whether nothing more will be found."""
        return not self._thread.is_alive()

    def written(self, digest: str, process: Mapping[str, Any]) -> None:
        """Add it to run.json, without secrets."""
        known: Any = self._writer.field("environment") or {}
        found = {name: process[name] for name in _IN_RUN if process.get(name)}
        self._writer.update_run(environment={**known, **found, "digest": digest})

    def _run(self) -> None:
        with self._guard.watch("environment"):
            settings, owner = self._settings, self._writer.owner
            process = process_of(os.environ, settings.executable)
            process |= {"host": owner["host"], "pid": owner["pid"]}
            self._found = Described(software_of(settings), process)
