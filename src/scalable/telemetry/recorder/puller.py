"""Where the recorder's facts come from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Final

from scalable.common.clocks import ClockShift
from scalable.common.guard import Guard
from scalable.facts import Batch, FactSource
from scalable.facts.protocol import GRAPHS_UNSEEN
from scalable.facts.texts import ErrorTexts
from scalable_runs.schema import RunStatus

#: Facts asked for at once.
PULL_SIZE: Final = 2_000
#: Seconds between two pulls, usually and after one that was not answered.
PULL_INTERVAL: Final = 0.2
RETRY_INTERVAL: Final = 0.5
#: Longest wait for one answer, in seconds.
ANSWER_TIMEOUT: Final = 4.0
#: Seconds without an answer after which the user is warned. The scheduler is asked again until the
#: run is closed: taking in a very large graph can keep it busy for minutes.
SILENT_AFTER: Final = 30.0


@dataclass(slots=True)
class Closing:
    """How a run is to end."""

    status: RunStatus
    #: Seconds to wait while no fact arrives.
    timeout: float
    #: When closing ends unless facts arrive, and when in any case, by the monotonic clock.
    deadline: float
    latest: float
    error: ErrorTexts | None = None

    def extend(self) -> None:
        """Facts arrived: wait as long again for the next ones."""
        self.deadline = min(self.latest, max(self.deadline, monotonic() + self.timeout))


class FactPuller:
    """Pulls facts from a source that may be silent; called by the recorder's thread only."""

    def __init__(
        self, guard: Guard, warn: Callable[[str], None], clock: Callable[[], float]
    ) -> None:
        #: None where the scheduler cannot be watched.
        self.source: FactSource | None = None
        #: Number of the next fact.
        self.after = 1
        #: More facts are there already.
        self.more = False
        #: The scheduler's clock, compared with this process's.
        self._shift = ClockShift()
        #: Counted by the scheduler's plugin: facts dropped, its internal errors, and graphs that
        #: it never saw.
        self.dropped = 0
        self.errors: dict[str, int] = {}
        self.graphs_unseen = 0
        #: Whether the scheduler is gone, and how that was found out.
        self.is_gone = False
        self.gone_because = ""
        self._guard = guard
        self._warn = warn
        self._clock = clock
        self._silent_since: float | None = None
        self._warned = False

    @property
    def offset(self) -> float:
        """The scheduler's clock minus this process's, in seconds."""
        return self._shift.seconds

    @property
    def now(self) -> float:
        """The scheduler's time."""
        return self._clock() + self.offset

    @property
    def is_silent(self) -> bool:
        """The last request was not answered, which may have taken no time."""
        return self._silent_since is not None and not self.is_gone

    @property
    def is_drained(self) -> bool:
        """Nothing more can be had."""
        return not self.more and not self.is_silent

    @property
    def complete_until(self) -> float:
        """The scheduler's time until which all facts are known; 0 while there are more."""
        return self.now if self.is_drained else 0.0

    def pull(self, closing: Closing | None) -> Batch | None:
        """The next facts; None where there was no answer."""
        self.more = False
        if self.source is None or self.is_gone:
            return None
        timeout = ANSWER_TIMEOUT
        if closing is not None:
            timeout = max(0.1, min(timeout, closing.deadline - monotonic()))
        asked = self._clock()
        try:
            batch = self.source.pull(self.after, PULL_SIZE, timeout)
        except BaseException as error:
            if not isinstance(error, ConnectionError | TimeoutError):
                self._guard.count("pull", error)
            self._note_silence(error, closing)
            return None
        self._silent_since = None
        if batch.facts and closing is not None:
            closing.extend()
        self.after, self.more = batch.next, batch.more
        self._shift.observe_answer(batch.now, asked, self._clock())
        self.dropped, self.errors = batch.dropped, batch.errors
        self.graphs_unseen = self.errors.pop(GRAPHS_UNSEEN, 0)
        return batch

    def _note_silence(self, error: BaseException, closing: Closing | None) -> None:
        now = monotonic()
        if self._silent_since is None:
            self._silent_since = now
        if closing is not None:
            # A slow answer may only mean a busy scheduler: ask again until the time is up.
            if isinstance(error, ConnectionRefusedError):
                self.is_gone, self.gone_because = True, str(error)
        elif now - self._silent_since > SILENT_AFTER and not (
            self._warned or isinstance(error, TimeoutError)
        ):
            self._warned = True
            self._warn(f"the scheduler does not answer ({error}); it is asked again and again")

    def close(self) -> None:
        """Release what the source holds."""
        if self.source is not None:
            self.source.close()
