"""Brings a run to a place while it is recorded, on a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, Final

from scalable_runs import schema
from scalable_runs.remote.chunks import FULL
from scalable_runs.remote.fence import SupersededError
from scalable_runs.remote.shipper import Shipper, is_final
from scalable_runs.stores.base import Store
from scalable_runs.stores.probe import NotExclusiveError
from scalable_runs.stores.run_store import RunStore

#: Seconds between two rounds.
INTERVAL: Final = 10.0
#: Seconds between two looks at the files: failures are brought at once, and much at once.
_LOOK: Final = 1.0
#: Bytes of lines that fill a chunk, at the least.
_MUCH: Final = 8 * FULL
#: Rounds after which attachments are looked at.
_ATTACHMENTS_EVERY: Final = 6
#: First and longest pause after an error, in seconds.
_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 20.0

#: Errors after which the copy is not continued by this process.
_FINAL: Final = (SupersededError, NotExclusiveError)


class Shipping:
    """Brings one run, or one writer's part, to a place; see :func:`start_shipping`.

    Any thread calls its methods, and only :meth:`flush` and :meth:`finish` wait. All requests are
    made by a daemon thread of its own, which alone uses the shipper.
    """

    def __init__(
        self,
        location: str,
        make: Callable[[], Shipper],
        warn: Callable[[str], None],
        interval: float = INTERVAL,
        *,
        join: Callable[[], str] | None = None,
        end: Callable[[Shipper], None] | None = None,
    ) -> None:
        self.location = location
        self.errors = 0
        self._make = make
        self._warn = warn
        self._interval = interval
        self._join = join
        self._end = end
        self._shipper: Shipper | None = None
        self._missing = 0
        self._error = ""
        self._has_noted = False
        self._warned: set[str] = set()
        self._condition = threading.Condition()
        #: Flushes that were asked for, and how many of them are answered.
        self._asked = self._answered = 0
        self._last_was_good = False
        self._closing = False
        self._ended = threading.Event()
        self._is_complete = False
        self._failures = 0
        self._thread = threading.Thread(target=self._run, name="scalable-copy", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def document(self) -> dict[str, Any]:
        """Return what the copy lacks, for `telemetry` of run.json; never waits."""
        found: dict[str, Any] = {"missing_bytes": self._missing}
        if self.errors:
            found["errors"] = self.errors
        if self._error:
            found["error"] = self._error
        return found

    def request(self) -> None:
        """Ask for a round now, and do not wait for it."""
        with self._condition:
            self._asked += 1
            self._condition.notify_all()

    def flush(self, timeout: float) -> bool:
        """Bring what is in the files now; return whether that was done within `timeout` seconds."""
        with self._condition:
            self._asked += 1
            asked = self._asked
            self._condition.notify_all()
            in_time = self._condition.wait_for(
                lambda: self._answered >= asked or self._ended.is_set(), timeout
            )
            return in_time and self._answered >= asked and self._last_was_good

    def begin_finish(self) -> None:
        """Begin what :meth:`finish` waits for."""
        with self._condition:
            self._closing = True
            self._condition.notify_all()

    def finish(self, timeout: float) -> bool:
        """Bring what is left, of a closed run in its final form.

        Returns
        -------
        bool
            Whether the whole run is there. The thread continues until the process ends.
        """
        self.begin_finish()
        if self._thread.is_alive():
            self._ended.wait(timeout)
        return self._is_complete

    # On the thread

    def _run(self) -> None:
        pause = 0.0
        rounds = 0
        try:
            while not self._closing:
                self._wait(pause)
                asked = self._asked
                good = self._try(partial(self._round, rounds))
                rounds += 1
                pause = 0.0 if good else min(_LONGEST_PAUSE, max(_FIRST_PAUSE, 2 * pause))
                with self._condition:
                    self._last_was_good = good
                    if good:
                        self._answered = asked
                    self._condition.notify_all()
            pause = _FIRST_PAUSE
            while not self._try(self._finish):
                with self._condition:
                    self._condition.wait(pause)
                pause = min(_LONGEST_PAUSE, 2 * pause)
            if self._is_complete and self._end is not None and self._shipper is not None:
                self._end(self._shipper)
        except _FINAL as error:
            self._note(error)
        finally:
            self._ended.set()
            with self._condition:
                self._condition.notify_all()

    def _wait(self, pause: float) -> None:
        """Wait until there is something to do: much, a failure, or a round is due."""
        end = monotonic() + (pause or self._interval)
        while (left := end - monotonic()) > 0:
            with self._condition:
                is_asked = self._asked > self._answered and not pause
                if self._closing or is_asked:
                    return
                self._condition.wait(min(left, _LOOK))
            if not pause and self._is_urgent():
                return

    def _is_urgent(self) -> bool:
        shipper = self._shipper
        if shipper is None:
            return True
        with suppress(OSError):
            self._missing = shipper.missing
            segments = shipper.files.store.segments().get(schema.FAILURES, [])
            return self._missing >= _MUCH or sum(map(shipper.files.size, segments)) > self._failures
        return False

    def _round(self, number: int) -> None:
        self._join_others()
        shipper = self._opened()
        segments = shipper.files.store.segments().get(schema.FAILURES, [])
        self._failures = sum(map(shipper.files.size, segments))
        shipper.ship(attachments=number % _ATTACHMENTS_EVERY == 0)

    def _join_others(self) -> None:
        if self._join is not None and (sentence := self._join()):
            self._warn_once(sentence, sentence)

    def _finish(self) -> None:
        self._join_others()
        shipper = self._opened()
        run = shipper.files.document(schema.RUN)
        if run is not None and is_final(run):
            shipper.finish()
            self._is_complete = True
        else:
            shipper.ship()
        shipper.note_state(shipper.state())
        if self._is_complete:
            self._missing = 0

    def _opened(self) -> Shipper:
        if self._shipper is None:
            self._shipper = self._make()
        return self._shipper

    def _try(self, step: Callable[[], None]) -> bool:
        """Do a step; count and tell what it raises. What no other attempt mends is raised."""
        try:
            step()
        except _FINAL:
            raise
        except Exception as error:
            self._note(error)
            return False
        shipper = self._shipper
        if shipper is not None:
            self._missing = shipper.missing
            if self._error or not self._has_noted:
                # Should this process be killed, whoever lists the runs knows that there is a copy.
                self._error = ""
                self._has_noted = True
                shipper.note_state(shipper.state())
            for problem in shipper.problems:
                self._warn_once(problem, problem)
        return True

    def _note(self, error: Exception) -> None:
        self.errors += 1
        self._error = str(error) or type(error).__name__
        self._warn_once(
            type(error).__name__,
            f"the run is not copied to {self.location} at present: {self._error}. It is complete "
            "on this machine; `scalable sync` copies what is missing",
        )
        shipper = self._shipper
        if shipper is not None:
            with suppress(OSError):
                self._missing = shipper.missing
            shipper.note_state(shipper.state(self._error))

    def _warn_once(self, kind: str, sentence: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            self._warn(sentence)


def start_shipping(
    location: str,
    open_store: Callable[[], RunStore],
    run: Path | Store,
    *,
    run_id: str | None = None,
    writer: str | None = None,
    compress: bool = False,
    warn: Callable[[str], None],
    join: Callable[[], str] | None = None,
    end: Callable[[Shipper], None] | None = None,
) -> Shipping:
    """Begin to bring a run to a place while it is recorded; returns at once.

    Parameters
    ----------
    location
        Names the place for people.
    open_store
        Opens the place; called on the thread, again after an error.
    run
        The run's directory, or its store.
    run_id
        The run's id; by default the name of the directory.
    writer
        The writer whose part it is, if the run has several.
    compress
        Whether all files of lines are compressed at the close, and not just large ones.
    warn
        Told once of each kind of problem.
    join
        Called before each round: joins the run of several programs there, if that was not possible
        before. It returns a sentence for the user, or nothing.
    end
        Called when a closed run or part is there in its final form, with what has brought it.
    """

    def make() -> Shipper:
        return Shipper(
            open_store(), run, run_id=run_id, writer=writer, role="recorder", compress=compress
        )

    shipping = Shipping(location, make, warn, join=join, end=end)
    shipping.start()
    return shipping
