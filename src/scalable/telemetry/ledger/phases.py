"""Phases of an attempt: what Dask measured besides the task's code."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, TypeAlias

from scalable import facts

#: Actions of Dask: inputs are fetched before the attempt; the result is stored after it.
TRANSFER: Final = "transfer"
DISK_WRITE: Final = "disk-write"

Interval: TypeAlias = tuple[float, float]


def time_of(action: str, phases: Iterable[facts.Phase]) -> float:
    """Seconds that an action took, wherever they lie."""
    return covered((begin, end) for name, begin, end in phases if name == action)


def phases_within(phases: Sequence[facts.Phase], stop: float) -> dict[str, list[Interval]]:
    """Intervals of each action, as far as they lie before the end of their attempt.

    A result is written to disk after the attempt: that is no part of it. Other times may lie after
    the end where clocks differ. Dask moves the time of a transfer, and that of the task's code, to
    the scheduler's clock by what it has measured of that by then, and this changes. Without the
    package's plugin on the worker, it does not move the time of reading at all.
    """
    found: dict[str, list[Interval]] = {}
    for action, begin, end in phases:
        if begin < stop and action != DISK_WRITE:
            found.setdefault(action, []).append((begin, min(end, stop)))
    return found


def covered(intervals: Iterable[Interval]) -> float:
    """Length of the union of time intervals: transfers from several workers overlap."""
    total = 0.0
    end = float("-inf")
    for start, stop in sorted(intervals):
        if stop > end:
            total += stop - max(start, end)
            end = stop
    return total
