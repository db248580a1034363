"""Values of a run's metrics at one time, and the distributions among them."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from typing import Final, Self, TypeAlias

from opentelemetry.sdk.metrics import Exemplar

from scalable.telemetry.instrument import TASK_BOUNDS, Instrument

#: Resolution of exponential histograms: eight buckets per doubling.
SCALE: Final = 3

#: The values of an instrument's attributes, in its order; the last ones may be absent.
Attributes: TypeAlias = tuple[str, ...]


@dataclass(slots=True)
class Distribution:
    """State of a histogram: cumulative, except for extremes and exemplars of the last interval."""

    count: int = 0
    total: float = 0.0
    low: float = math.inf
    high: float = -1.0
    last_low: float = math.inf
    last_high: float = -1.0
    buckets: list[int] = field(default_factory=lambda: [0] * (len(TASK_BOUNDS) + 1))
    zeros: int = 0
    #: Index → count of an exponential histogram at :data:`SCALE`.
    scaled: defaultdict[int, int] = field(default_factory=lambda: defaultdict[int, int](int))
    #: The slowest and the latest value of the last interval that have an exemplar.
    slowest: Exemplar | None = None
    latest: Exemplar | None = None
    #: The slowest value that has one without a span.
    unlinked: Exemplar | None = None
    exemplars: list[Exemplar] = field(default_factory=list[Exemplar])

    def add(self, value: float) -> None:
        """Add one value."""
        self.count += 1
        self.total += value
        self.buckets[bisect_left(TASK_BOUNDS, value)] += 1
        if value > 0.0:
            self.scaled[math.ceil(math.log2(value) * (1 << SCALE)) - 1] += 1
        else:
            self.zeros += 1
        if value > self.last_high:
            self.last_high = value
        if value < self.last_low:
            self.last_low = value

    def note(self, exemplar: Exemplar, *, is_latest: bool) -> None:
        """Keep an exemplar of the last interval, if it is the slowest or the latest."""
        if exemplar.span_id is None:
            if self.unlinked is None or exemplar.value > self.unlinked.value:
                self.unlinked = exemplar
            return
        if is_latest:
            self.latest = exemplar
        if self.slowest is None or exemplar.value > self.slowest.value:
            self.slowest = exemplar

    def take(self) -> Self:
        """Return a copy of the state; begin a new interval."""
        self.low = min(self.low, self.last_low)
        self.high = max(self.high, self.last_high)
        exemplars = [self.slowest, self.latest]
        if self.latest is self.slowest:
            exemplars[1] = self.unlinked if self.slowest is None else None
        taken = replace(
            self,
            buckets=self.buckets.copy(),
            scaled=self.scaled.copy(),
            exemplars=[exemplar for exemplar in exemplars if exemplar is not None],
        )
        self.last_low, self.last_high = math.inf, -1.0
        self.slowest = self.latest = self.unlinked = None
        return taken

    def since(self, before: Self) -> Self:
        """Return the last interval alone."""
        return replace(
            self,
            count=self.count - before.count,
            total=self.total - before.total,
            low=self.last_low,
            high=self.last_high,
            buckets=[a - b for a, b in zip(self.buckets, before.buckets, strict=True)],
            zeros=self.zeros - before.zeros,
            scaled=defaultdict(int, Counter(self.scaled) - Counter(before.scaled)),
        )


Value: TypeAlias = float | Distribution
#: All metrics at one time.
Snapshot: TypeAlias = dict[Instrument, dict[Attributes, Value]]


def number_of(value: Value | None) -> float:
    """Value of a sum or gauge; 0 if there is none."""
    return 0 if value is None or isinstance(value, Distribution) else value


def attributes_of(instrument: Instrument, key: Attributes) -> dict[str, str]:
    """The attributes of an instrument by name, from their values."""
    return dict(zip(instrument.attributes, key, strict=False))
