"""Holds facts on the scheduler until the recorder has acknowledged them, bounded in bytes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any, Final

from scalable import facts
from scalable.facts import MAX_FACT, size_of

#: Bytes that facts may take until they are acknowledged; beyond it new ones are dropped.
BUFFER_LIMIT: Final = 64 * 2**20
#: Facts in one answer at most: bounds how long answering holds the scheduler's loop.
PULL_LIMIT: Final = 2_000
#: Bytes of one answer at most, unless its first fact alone is larger.
ANSWER_BYTES: Final = 2**20

#: Estimated bytes of a frequent fact in memory (measured with tracemalloc), without its texts.
SUCCEEDED_BYTES: Final = 320
SUBMITTED_BYTES: Final = 160
#: Of a bare key: a task was forgotten.
KEY_BYTES: Final = 64
_PHASE_BYTES: Final = 150

#: A fact as it is sent.
Raw = tuple[Any, ...] | str


class FactBuffer:
    """Facts in the order of their numbers; the first has number 1.

    :meth:`add` and :meth:`note` are called by the scheduler's loop; :meth:`pull` too, or by a
    recorder's thread in the same process. Deque operations are atomic: neither needs a lock.
    """

    def __init__(self) -> None:
        #: Facts that were returned by a pull, and those that were not.
        self.sent: list[Raw] = []
        self.waiting: deque[Raw] = deque()
        #: Estimated bytes of both.
        self.bytes = 0
        self.dropped = 0
        #: Number of the first fact in `sent`.
        self.next = 1

    def __len__(self) -> int:
        return len(self.sent) + len(self.waiting)

    def add(self, fact: Raw, size: int) -> None:
        """Keep a fact whose :func:`total_size` is known, or count it as dropped."""
        size += self.bytes
        if size > BUFFER_LIMIT:
            self.dropped += 1
        else:
            self.bytes = size
            self.waiting.append(fact)

    def note(self, fact: Raw) -> None:
        """Keep a fact, or count it as dropped."""
        size = total_size((fact,))
        if size > MAX_FACT:
            self.dropped += 1
        else:
            self.add(fact, size)

    def pull(self, after: int, limit: int, size: int) -> tuple[list[Raw], int, bool]:
        """Facts from number `after` on, the number of the next one, whether there are more.

        Everything before `after` is acknowledged; see :meth:`ScalableSchedulerPlugin.pull`.
        """
        acknowledged = after - self.next
        if 0 < acknowledged <= len(self.sent):
            self.next = after
            arrived = self.sent[:acknowledged]
            del self.sent[:acknowledged]
            # The loop may add to the sum at this moment: an empty buffer corrects it.
            self.bytes = self.bytes - total_size(arrived) if len(self) else 0
        answer = self._next_facts(max(1, min(limit, PULL_LIMIT)), min(size, ANSWER_BYTES))
        return answer, self.next + len(answer), len(answer) < len(self)

    def _next_facts(self, limit: int, size: int) -> list[Raw]:
        if size <= 0:
            return []
        for _ in range(min(len(self.waiting), limit - len(self.sent))):
            self.sent.append(self.waiting.popleft())
        answer = self.sent[:limit]
        if total_size(answer, with_carriers=True) > size:
            for number, fact in enumerate(answer):
                size -= total_size((fact,), with_carriers=True)
                if size < 0:
                    return answer[: max(1, number)]
        return answer


def total_size(some: Iterable[Any], *, with_carriers: bool = False) -> int:
    """Bytes that facts take in memory; those of frequent facts are estimated.

    A carrier is one object in memory for many facts, but is sent with each.
    """
    size = 0
    for fact in some:
        if fact.__class__ is str:
            size += KEY_BYTES + len(fact)
            continue
        kind = fact[0]
        if kind == facts.SUCCEEDED:
            size += SUCCEEDED_BYTES + len(fact[2]) + len(fact[10])
            if fact[8]:
                size += _PHASE_BYTES * len(fact[8])
        elif kind == facts.SUBMITTED:
            size += SUBMITTED_BYTES + len(fact[2])
            if fact[5]:
                size += names_size(fact[5])
            if with_carriers and fact[7]:
                size += len(fact[7])
        else:
            size += 64 + size_of(fact)
    return size


def names_size(names: Iterable[str]) -> int:
    """Bytes of the dependencies that a submission names."""
    return sum(56 + len(name) for name in names)
