"""Statistics of numbers in bounded memory."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from scalable_runs.schema import Spread

#: Up to this many values the percentiles are exact.
EXACT_VALUES: Final = 1_000
#: Beyond that a percentile differs from the exact one by at most this share.
RELATIVE_ERROR: Final = 0.01

_GROWTH: Final = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
_PER_LOG: Final = 1 / math.log(_GROWTH)
#: Below the resolution of any clock.
_ZERO: Final = 1e-9


@dataclass(slots=True)
class Values:
    """Count, total, maximum and percentiles of numbers from zero up.

    Values are kept until there are more than :data:`EXACT_VALUES`; then they are counted in buckets
    whose bounds grow by the factor ``(1 + e) / (1 - e)``, so that the middle of a bucket differs
    from every value in it by at most the share ``e`` (DDSketch; Masson, Rim, Lee: VLDB 2019).
    """

    _pending: array[float] = field(default_factory=lambda: array("d"))
    _buckets: Counter[int] = field(default_factory=Counter[int])
    _zeros: int = 0
    _count: int = 0
    _total: float = 0.0
    _minimum: float = math.inf
    _maximum: float = 0.0

    def append(self, value: float) -> None:
        """Add a value."""
        pending = self._pending
        pending.append(value)
        if len(pending) > EXACT_VALUES:
            self._fold()

    @property
    def count(self) -> int:
        """How many values were added."""
        return self._count + len(self._pending)

    @property
    def total(self) -> float:
        """Their sum."""
        return math.fsum((self._total, *self._pending))

    def document(self) -> Spread:
        """Return count, total, mean, median, 95th percentile and maximum."""
        count, total = self.count, self.total
        if not count:
            return {"count": 0, "total": 0.0, "mean": None, "p50": None, "p95": None, "max": None}
        p50, p95 = self._percentiles(0.50, 0.95)
        return {
            "count": count,
            "total": total,
            "mean": total / count,
            "p50": p50,
            "p95": p95,
            "max": max((self._maximum, *self._pending)),
        }

    def _fold(self) -> None:
        values = self._pending
        self._count += len(values)
        self._total = math.fsum((self._total, *values))
        self._minimum = min((self._minimum, *values))
        self._maximum = max((self._maximum, *values))
        self._zeros += _count_in_buckets(values, self._buckets)
        self._pending = array("d")

    def _percentiles(self, *shares: float) -> list[float]:
        """Nearest rank: each is a value that occurred, or is within the error of one."""
        if not self._count:
            ordered = sorted(self._pending)
            return [ordered[math.ceil(share * len(ordered)) - 1] for share in shares]
        # A copy: a document asked for early must not change later ones.
        buckets = self._buckets.copy()
        zeros = self._zeros + _count_in_buckets(self._pending, buckets)
        minimum = min((self._minimum, *self._pending))
        maximum = max((self._maximum, *self._pending))
        return [min(maximum, max(minimum, _bucketed(buckets, zeros, share))) for share in shares]


def _count_in_buckets(values: Iterable[float], buckets: Counter[int]) -> int:
    """Count each value in its bucket; return how many were zero, which has no logarithm."""
    # Sorted, one logarithm serves all values of a bucket: a third of the time.
    ordered = sorted(values)
    zeros = first = bisect_left(ordered, _ZERO)
    while first < len(ordered):
        index = math.ceil(math.log(ordered[first]) * _PER_LOG)
        # Rounding may put a value above its bucket's bound: include at least the value itself.
        beyond = bisect_right(ordered, max(_GROWTH**index, ordered[first]), first)
        buckets[index] += beyond - first
        first = beyond
    return zeros


def _bucketed(buckets: Mapping[int, int], zeros: int, share: float) -> float:
    rank = math.ceil(share * (zeros + sum(buckets.values()))) - zeros
    if rank <= 0:
        return 0.0
    for index in sorted(buckets):
        rank -= buckets[index]
        if rank <= 0:
            return 2 * _GROWTH**index / (_GROWTH + 1)
    return math.inf


@dataclass(slots=True)
class Range:
    """Minimum, maximum and mean."""

    minimum: float | None = None
    maximum: float | None = None
    _count: int = 0
    _total: float = 0.0

    def add(self, value: float) -> None:
        """Add a value."""
        self._total += value
        self._count += 1
        if self.minimum is None or value < self.minimum:
            self.minimum = value
        if self.maximum is None or value > self.maximum:
            self.maximum = value

    @property
    def mean(self) -> float | None:
        """The mean; None without a value."""
        return ratio(self._total, self._count)


def ratio(part: float, whole: float) -> float | None:
    """Return part / whole; None of a whole of zero."""
    return part / whole if whole else None
