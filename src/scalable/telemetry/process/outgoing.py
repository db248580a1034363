"""Facts that a program pulls for its recorder's process, and keeps until they are written.

Everything here is used by the thread of a :class:`~.process.RecorderProcess`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from time import monotonic, time
from typing import TYPE_CHECKING, Any, Final

from scalable.common.clocks import ClockShift
from scalable.common.guard import Guard
from scalable.telemetry.recorder import wire
from scalable.telemetry.recorder.puller import ANSWER_TIMEOUT, PULL_INTERVAL, RETRY_INTERVAL

if TYPE_CHECKING:
    from scalable.facts import FactSource

#: Seconds between two pulls while a caller waits for the end of a flush or of the run.
EAGER_INTERVAL: Final = 0.02


class OutgoingFacts:
    """Pulls facts and makes frames of them."""

    def __init__(self, source: FactSource, guard: Guard) -> None:
        self._source = source
        self._guard = guard
        #: The scheduler's clock, compared with this process's.
        self._shift = ClockShift()
        #: Number of the next fact.
        self.after = 1
        #: When to pull next, by the monotonic clock.
        self.next_pull = 0.0
        #: Whether the last pull failed, and whether the scheduler is gone.
        self.in_trouble = self.is_gone = False
        #: Errors of the cluster's plugins.
        self.errors: Mapping[str, int] = {}
        #: What the last frame contained besides facts: not sent again unless it changes.
        self._state: tuple[Any, ...] = ()

    def pull(self, timeout: float, *, eager: bool) -> bytes | None:
        """A frame with the next facts, or why there are none; None if nothing is new."""
        outcome = self._pull(min(timeout, ANSWER_TIMEOUT))
        following, state, more = self.after, outcome, False
        self.in_trouble = outcome[0] == "trouble"
        self.is_gone = self.in_trouble and outcome[1]
        if not self.in_trouble:
            _, _, following, more, *_ = outcome
            state = outcome[3:6]
        interval = RETRY_INTERVAL if self.in_trouble else PULL_INTERVAL
        if eager:
            interval = EAGER_INTERVAL
        self.next_pull = 0.0 if more else monotonic() + interval
        if following == self.after and state == self._state:
            return None
        self.after, self._state = following, state
        return wire.frame(outcome)

    def _pull(self, timeout: float) -> wire.Message:
        asked = time()
        try:
            batch = self._source.pull(self.after, wire.FACTS_AT_ONCE, timeout)
        except ConnectionError as error:
            is_gone = isinstance(error, ConnectionRefusedError)
            return "trouble", is_gone, str(error) or type(error).__name__
        except BaseException as error:
            self._guard.count("pull", error)
            return "trouble", False, f"internal error: {type(error).__name__}"
        self._shift.observe_answer(batch.now, asked, time())
        self.errors = batch.errors
        found = wire.plain_facts(batch.facts)
        offset = self._shift.seconds
        return "facts", found, batch.next, batch.more, batch.dropped, batch.errors, offset

    def repeat_state(self) -> None:
        """Send the state again in the next frame: it is for a successor."""
        self._state = ()
        self.next_pull = 0.0


class Unconfirmed:
    """Frames that were sent and are not in the run's files yet: a successor needs them."""

    def __init__(self) -> None:
        #: What is in the files; see :class:`scalable.telemetry.recorder.resume.Position`.
        self.position: tuple[int, Mapping[str, int], int] = (1, {}, 0)
        self._taken = 1
        #: Frames with facts, each with the number of the next fact.
        self._facts: deque[tuple[int, bytes]] = deque()
        #: Frames with the program's own messages, and how many have been confirmed.
        self._messages: deque[bytes] = deque()
        self._confirmed = 0

    def add_facts(self, following: int, frame: bytes) -> None:
        """Keep a frame with facts; `following` is the number of the next fact."""
        self._facts.append((following, frame))

    def add_message(self, frame: bytes) -> None:
        """Keep a frame with a message of the program's own."""
        self._messages.append(frame)

    def confirm(self, taken: int, position: tuple[int, Mapping[str, int], int]) -> None:
        """Drop what is in the files; `taken` is the number of the first fact not taken."""
        self._taken, self.position = taken, position
        while self._facts and self._facts[0][0] <= position[0]:
            self._facts.popleft()
        while self._messages and self._confirmed < position[2]:
            self._messages.popleft()
            self._confirmed += 1

    @property
    def size_in_flight(self) -> int:
        """Bytes of facts that the process has not taken."""
        size = 0
        for following, frame in reversed(self._facts):
            if following <= self._taken:
                break
            size += len(frame)
        return size

    def for_successor(self) -> list[bytes]:
        """The frames that a successor gets first; it counts messages from zero."""
        self._taken, self._confirmed = self.position[0], 0
        return [*self._messages, *(frame for _, frame in self._facts)]
