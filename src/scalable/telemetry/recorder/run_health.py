"""What is missing from a run's record, for run.json and as warnings to the user."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, Final

from scalable import __version__
from scalable.common.guard import Guard
from scalable.facts import PROTOCOL
from scalable.telemetry.ledger import Ledger
from scalable.telemetry.ledger.relay_decoder import RelayDecoder
from scalable.telemetry.recorder.copies import Copies
from scalable.telemetry.recorder.puller import FactPuller
from scalable.telemetry.recorder.router import SignalRouter
from scalable_runs.schema import Restart

#: Seconds that tasks wait without any worker before the user is warned.
WORKERLESS_AFTER: Final = 10.0


class RunHealth:
    """Reports what is missing from the record; called by the recorder's thread only.

    `warn` ignores a sentence that it has had before.
    """

    def __init__(
        self,
        guard: Guard,
        puller: FactPuller,
        ledger: Ledger,
        router: SignalRouter,
        relay: RelayDecoder,
        copies: Copies,
        warn: Callable[[str], None],
    ) -> None:
        self._guard = guard
        self._puller = puller
        self._ledger = ledger
        self._router = router
        self._relay = relay
        self._copies = copies
        self._warn = warn
        #: The deaths of recorders of the run before this one.
        self.restarts: Sequence[Restart] = ()
        self._warned_unwatched = self._warned_workerless = False
        #: Since when there are no workers, by the monotonic clock; None while there are any.
        self._workerless_since: float | None = None

    def document(self) -> dict[str, Any]:
        """The field `telemetry` of run.json; optional entries are left out where they are empty."""
        attempts = self._ledger.tasks.attempts
        counts = {
            "facts": self._puller.dropped,
            "attempt_spans": attempts.written.dropped,
            "parameters": attempts.described.dropped,
        }
        dropped = {what: count for what, count in counts.items() if count}
        optional = {
            "unwatched_workers": dict(self._ledger.workers.unwatched),
            "graphs_unseen": self._puller.graphs_unseen,
            "restarts": self.restarts,
            "usage_left_out": self._ledger.tasks.attempts.usage_left_out,
            "not_sent": self._router.not_sent(),
            "sent": self._router.sent(),
            "remote": self._copies.document(),
        }
        return {
            "dropped": dropped | self._relay.dropped,
            "errors": dict(Counter(self._puller.errors) + self._guard.errors),
            **{name: value for name, value in optional.items() if value},
        }

    @property
    def error_count(self) -> int:
        """Internal errors so far, here and in the cluster."""
        return sum(self._guard.errors.values()) + sum(self._puller.errors.values())

    def warn(self) -> None:
        """Warn of what the user can do something about."""
        unwatched = self._ledger.workers.unwatched
        puller = self._puller
        is_watching = puller.source is not None and not puller.is_gone
        if unwatched and is_watching and not self._warned_unwatched:
            self._warned_unwatched = True
            name, reason = next(iter(unwatched.items()))
            self._warn(
                f"worker {name} cannot be watched ({reason}): starts and CPU times of its attempts "
                "and its last output are missing. Install scalable-otel there, in the same version"
            )
        ours = f"{__version__}, protocol {PROTOCOL}"
        for place in puller.errors:
            kind, _, peer = place.partition(":")
            if kind == "protocol":
                self._warn(
                    f"a version of scalable in the cluster ({peer}) and this one ({ours}) do not "
                    "understand each other: install one version everywhere. What cannot be read "
                    "is counted and missing"
                )
            elif kind == "unread":
                self._warn(
                    f"some of what the cluster sends cannot be read by this version of scalable "
                    f"({ours}): is another version installed there? It is counted and missing"
                )

    def warn_if_workerless(self) -> None:
        """Warn once that tasks wait and no worker is left: a program that waits for them hangs."""
        name = self._ledger.workers.last_worker
        if name is None:
            self._workerless_since = None
            return
        now = monotonic()
        if self._workerless_since is None:
            self._workerless_since = now
        if self._warned_workerless or now - self._workerless_since < WORKERLESS_AFTER:
            return
        waiting = len(self._ledger.tasks.open_tasks())
        if waiting:
            self._warned_workerless = True
            self._warn(
                f"{waiting:,} task{' waits' if waiting == 1 else 's wait'} and no worker is left: "
                f"the last one, {name}, has been gone for {now - self._workerless_since:.0f} s. "
                "`scalable diagnose` says what is known of its end"
            )
        else:
            self._workerless_since = now  # no task waits: check again later
