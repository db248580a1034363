"""How much memory to give attempts of one kind, chosen by back-testing on its own past.

Several estimates with several margins are tried on each attempt of the past, with what was known
before it. The one that would have wasted least so far is used, failures weighed in. It replaces the
cautious default (the largest peak seen, and 10 %) only where it is clearly better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from scalable.advice.estimates import estimates
from scalable.advice.usage import Usage, bounded, gb_hours, outcome

#: Attempts before anything is advised: until then, what was requested.
FEWEST: Final = 5
#: Attempts that were advised before the default may be replaced.
_TRIED: Final = 5
#: Cost of a failed attempt beside its waste, in mean allocations: it delays what waits for it.
_FAILURE: Final = 10.0
#: Share of the default's cost that another policy must save.
_CLEARLY: Final = 0.1

_MARGINS: Final = {
    "largest": (1.0, 1.03, 1.05, 1.1, 1.15, 1.2, 1.3),
    "line": (1.0, 1.05, 1.1, 1.2),
    "power": (1.0, 1.05, 1.1, 1.2),
    "nearest-5": (1.05, 1.1, 1.2),
    "nearest-10": (1.05, 1.1, 1.2),
    "latest-20": (1.05, 1.1),
    "latest-50": (1.05, 1.1),
}


class Policy(NamedTuple):
    """An estimate and the margin that it is multiplied by."""

    estimate: str
    margin: float

    def __str__(self) -> str:
        return f"{self.estimate} × {self.margin:g}"


POLICIES: Final = tuple(
    Policy(name, margin) for name, margins in _MARGINS.items() for margin in margins
)
DEFAULT: Final = Policy("largest", 1.1)


class Advice(NamedTuple):
    """What to give an attempt, and by which policy."""

    allocation: float
    policy: Policy


class _Score:
    """What a policy would have cost so far."""

    def __init__(self) -> None:
        self.waste = 0.0
        self.failed = 0


class MemoryAdvisor:
    """Advises on attempts of one kind, in the order of time; used by one thread."""

    def __init__(self) -> None:
        self._past: list[Usage] = []
        self._scores = {policy: _Score() for policy in POLICIES}
        #: GB·h that the default would have allocated, and attempts that were advised.
        self._allocated = 0.0
        self._advised = 0

    @property
    def past(self) -> Sequence[Usage]:
        """The attempts that were observed."""
        return self._past

    def advise(self, size: float | None = None) -> Advice | None:
        """Return what to give the next attempt; None while too few were observed.

        Parameters
        ----------
        size
            Size of its input in bytes; None if it is not known.
        """
        if len(self._past) < FEWEST:
            return None
        return self._by(self.policy, estimates(self._past, size))

    @property
    def policy(self) -> Policy:
        """The policy that would have done best so far."""
        if self._advised < _TRIED:
            return DEFAULT
        failure = _FAILURE * self._allocated / self._advised
        costs = {
            policy: score.waste + failure * score.failed for policy, score in self._scores.items()
        }
        best = min(costs, key=costs.__getitem__)
        return best if costs[best] < (1 - _CLEARLY) * costs[DEFAULT] else DEFAULT

    def observe(self, used: Usage) -> None:
        """Learn from an attempt: what each policy would have given it, and what it used."""
        if len(self._past) >= FEWEST:
            found = estimates(self._past, used.size)
            largest = max(one.peak for one in self._past)
            for policy, score in self._scores.items():
                advice = self._by(policy, found)
                cost = outcome(advice.allocation, used, largest)
                score.waste += cost.waste
                score.failed += cost.failures > 0
            default = self._by(DEFAULT, found).allocation
            self._allocated += gb_hours(bounded(default), used.seconds)
            self._advised += 1
        self._past.append(used)

    @staticmethod
    def _by(policy: Policy, found: Mapping[str, float]) -> Advice:
        # Where the size of an input is not known, estimates that need it are not there.
        if policy.estimate not in found:
            policy = DEFAULT
        return Advice(policy.margin * found[policy.estimate], policy)
