"""The thread of a recorder, and the methods with which other threads control it."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from time import monotonic
from typing import Final

from scalable.common.guard import Guard
from scalable.facts import Batch
from scalable.facts.texts import ErrorTexts
from scalable.telemetry.deaths.deaths import NANNY_WAIT
from scalable.telemetry.recorder import wire
from scalable.telemetry.recorder.puller import PULL_INTERVAL, RETRY_INTERVAL, Closing, FactPuller
from scalable_runs.schema import RunStatus

#: Seconds between two pulls while a caller waits for the certificates of lost workers.
DYING_INTERVAL: Final = 0.02


class RecorderLoop(ABC):
    """Runs steps on a daemon thread until it is closed or abandoned.

    The public methods are called by other threads and wait on a condition; the others are called on
    the loop's own thread.
    """

    def __init__(self, name: str, warn: Callable[[str], None], clock: Callable[[], float]) -> None:
        self.guard = Guard()
        self.finished = threading.Event()
        self._warn = warn
        self._clock = clock
        self._puller = FactPuller(self.guard, warn, clock)
        self._condition = threading.Condition()
        self._flush_asked = self._flush_done = 0
        self._flush_since = 0.0
        #: Flushes that were asked for before the last step which found nothing more.
        self._flush_covered = 0
        self._closing: Closing | None = None
        self._abandoned = False
        #: The current step began after the end was requested, so it pulls all facts.
        self._is_last = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def flush(self, timeout: float) -> bool:
        """Wait until everything the scheduler knows by now was passed to the kernel."""
        with self._condition:
            self._flush_asked += 1
            self._flush_since = monotonic()
            wanted = self._flush_asked
            self._condition.notify_all()
            return self._condition.wait_for(
                lambda: self._flush_done >= wanted or self.finished.is_set(), timeout
            )

    def close(self, status: RunStatus, timeout: float, error: ErrorTexts | None = None) -> bool:
        """Request the end of the run and wait for it: `timeout` seconds, and one for the disk.

        The wait is extended while facts arrive, up to :data:`wire.CLOSE_EXTENSION` times `timeout`.
        Returns False if the recorder is still busy: it continues in the background.
        """
        self.end(status, timeout, error)
        closing = self._closing
        assert closing is not None
        while not self.finished.wait(max(0.0, closing.deadline + 1.0 - monotonic())):
            if monotonic() >= closing.deadline + 1.0:
                return False
        return True

    def end(self, status: RunStatus, timeout: float, error: ErrorTexts | None) -> None:
        """Request the end of the run, without waiting for it."""
        with self._condition:
            if self._closing is None:
                now = monotonic()
                latest = now + wire.CLOSE_EXTENSION * timeout
                self._closing = Closing(status, timeout, now + timeout, latest, error)
                self._condition.notify_all()

    def wake(self) -> None:
        """Pull now: the source has more."""
        with self._condition:
            self._condition.notify_all()

    def abandon(self) -> None:
        """Write what was received and end: the program that would close the run is gone."""
        with self._condition:
            self._abandoned = True
            self._condition.notify_all()

    @property
    def status(self) -> str:
        """How the run ended, once it is finished."""
        return "running" if self._closing is None else self._closing.status

    def _run(self) -> None:
        try:
            with self.guard.watch("router"):
                self._open()
            while True:
                self._guarded_step()
                with self._condition:
                    if self._is_over():
                        break
                    if not self._puller.more:
                        self._wait()
            if self._closing is None:
                self._leave()
            else:
                self._finish(self._closing)
        except BaseException as error:
            # A recorder that has stopped must not look idle.
            self.guard.count("recorder", error)
            self._warn(f"recording stopped by an internal error: {error!r}")
            self._give_up()
        finally:
            with self._condition:
                self.finished.set()
                self._condition.notify_all()

    def _is_over(self) -> bool:
        if self._closing is None:
            return self._is_last and not self._puller.more
        if monotonic() >= self._closing.deadline:
            return True
        # A step that began before may have missed the last facts.
        return self._is_last and self._puller.is_drained

    def _wait(self) -> None:
        """Wait for the next step; first, wake the callers of :meth:`flush`."""
        dying = self._deaths_pending() and monotonic() - self._flush_since < NANNY_WAIT
        if self._flush_done < self._flush_covered and not dying:
            self._flush_done = self._flush_covered
            self._condition.notify_all()
        is_asked = self._flush_done < self._flush_asked or self._abandoned
        is_silent = self._puller.is_silent
        if self._closing is None and not is_asked:
            self._condition.wait(RETRY_INTERVAL if is_silent else PULL_INTERVAL)
        elif is_silent or (dying and self._closing is None):
            self._condition.wait(DYING_INTERVAL)

    def _guarded_step(self) -> None:
        """Pull once and record the batch; an internal error loses only this batch."""
        with self._condition:
            asked = self._flush_asked
            self._is_last = self._abandoned or self._closing is not None
        try:
            batch = self._puller.pull(self._closing)
            self._take(batch)
        except BaseException as error:
            self.guard.failed("recorder", error)
        if not self._puller.more:
            self._flush_covered = asked

    @abstractmethod
    def _open(self) -> None:
        """Prepare what takes a while."""

    @abstractmethod
    def _take(self, batch: Batch | None) -> None:
        """Write what a pull brought; None where there was no answer."""

    @abstractmethod
    def _deaths_pending(self) -> bool:
        """Lost workers wait for reports that :meth:`flush` waits for as well."""

    @abstractmethod
    def _finish(self, closing: Closing) -> None:
        """End the run."""

    @abstractmethod
    def _leave(self) -> None:
        """Write what was received and leave the run open."""

    @abstractmethod
    def _give_up(self) -> None:
        """End the run after an error outside of a step."""
