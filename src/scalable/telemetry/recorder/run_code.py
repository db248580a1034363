"""Looks up the program's code while a run begins, and writes it into the run."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from time import monotonic, time
from typing import Any, Final, cast

from scalable.code.commands import Deadline
from scalable.code.identities import SECONDS, gather
from scalable.common.guard import Guard
from scalable.telemetry.configuration.resource import vcs_attributes
from scalable_runs.plain import iso
from scalable_runs.redact import Redactor
from scalable_runs.schema import CODE_PATCH, CodeIdentity, CodeState
from scalable_runs.writer import RunWriter

#: Seconds that the end of a run waits for what is not known yet, before git is stopped.
CLOSE_TIMEOUT: Final = 0.5
#: Fields that are no free text, and are not searched for secrets.
_PLAIN: Final = ("code_identifier", "recorded_commit")


class RunCode:
    """Looks up repositories on a daemon thread of its own; read by the recorder's thread.

    Parameters
    ----------
    places
        Where the program has its code.
    writer
        Writes the run.
    redact
        Removes secrets.
    with_patch
        Whether to write code.patch.
    """

    def __init__(
        self,
        places: Sequence[str],
        writer: RunWriter,
        redact: Redactor,
        *,
        with_patch: bool,
        guard: Guard | None = None,
    ) -> None:
        self._places = places
        self._writer = writer
        self._redact = redact
        self._with_patch = with_patch
        self._guard = guard or Guard()
        self._deadline = Deadline(SECONDS)
        self._first = threading.Event()
        self._attributes: dict[str, Any] = {}
        self._thread = threading.Thread(target=self._run, name="scalable-code", daemon=True)

    def start(self) -> None:
        """Begin to look, unless it is known from a recorder that died."""
        known: Any = self._writer.field("code_identities")
        if known:
            self._set(known[0])
        elif self._places:
            self._deadline = Deadline(SECONDS)
            self._thread.start()

    def attributes(self, timeout: float = 0.0) -> dict[str, Any]:
        """Return what is known by now, or within `timeout`, by OpenTelemetry's names."""
        if self._thread.ident is not None:
            self._first.wait(timeout)
        return self._attributes

    def finish(self, deadline: float) -> None:
        """Wait for what is not known yet, for a moment: the run ends."""
        if self._thread.ident is not None:
            timeout = min(CLOSE_TIMEOUT, max(0.0, deadline - monotonic()))
            self._deadline.shorten(timeout)
            # Git is killed at the deadline; to write what is known takes a little longer.
            self._thread.join(timeout + CLOSE_TIMEOUT)

    def _set(self, state: CodeState) -> None:
        self._attributes = self._redact.attributes(vcs_attributes(state))
        self._first.set()

    def _run(self) -> None:
        try:
            with self._guard.watch("code"):
                self._look()
        finally:
            self._first.set()

    def _look(self) -> None:
        found = gather(
            self._places,
            self._redact.lines,
            now=lambda: iso(time()),
            own=self._own_directories(),
            with_patch=self._with_patch,
            deadline=self._deadline,
            first=self._set,
        )
        identities = [self._redacted(entry) for entry in found.identities]
        if identities and not self._attributes:
            self._set(identities[0])
        if found.patch:
            with self._writer.store.attach(CODE_PATCH) as file:
                file.write(found.patch)
        self._writer.update_run(code_identities=identities, urgent=True)

    def _own_directories(self) -> list[Path]:
        """Directories of runs: what is written there is no change of the code."""
        stores = self._writer.run_store, self._writer.store
        return [store.directory.parent for store in stores if store.directory is not None]

    def _redacted(self, entry: CodeIdentity) -> CodeIdentity:
        return cast("CodeIdentity", self._without_secrets(cast("dict[str, Any]", entry)))

    def _without_secrets(self, entry: dict[str, Any]) -> dict[str, Any]:
        plain = {name: entry[name] for name in _PLAIN if name in entry}
        below = entry.get("submodules")
        found = {**self._redact.attributes({**entry, "submodules": None}), **plain}
        if below is None:
            del found["submodules"]
        else:
            found["submodules"] = [self._without_secrets(one) for one in below]
        return found
