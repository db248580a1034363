"""What one attempt used, and what an allocation would have cost it."""

from __future__ import annotations

from typing import Final, NamedTuple

#: No attempt is given less, or more, in bytes.
FLOOR: Final = 32e6
CAP: Final = 128e9


def gb_hours(memory: float, seconds: float) -> float:
    """Return memory in bytes that was held for so long, in GB·h (10⁹ bytes)."""
    return memory * seconds / (1e9 * 3600)


class Usage(NamedTuple):
    """What an attempt used.

    Attributes
    ----------
    peak
        Its largest memory, in bytes.
    seconds
        How long it ran.
    size
        Size of its input in bytes; None if that is not known.
    requested
        What it had been given, in bytes; None if that is not known.
    """

    peak: float
    seconds: float
    size: float | None = None
    requested: float | None = None


class Outcome(NamedTuple):
    """What an allocation would have cost an attempt.

    Attributes
    ----------
    waste
        Memory that was allocated and not used, in GB·h: above the peak of the try that succeeded,
        and all of those that failed.
    failures
        Tries that had too little.
    """

    waste: float
    failures: int


def bounded(allocation: float, floor: float = FLOOR, cap: float = CAP) -> float:
    """Return an allocation within what can be given."""
    return min(cap, max(floor, allocation))


def outcome(
    allocation: float, used: Usage, largest: float, floor: float = FLOOR, cap: float = CAP
) -> Outcome:
    """Return what an allocation would have cost.

    A try with less than the peak fails after the whole run time, and is repeated with twice as
    much, or with the largest peak seen before if that is more. This is the protocol of Tovar et al.
    (2017) and of Bader et al. (2024, Sizey).

    Parameters
    ----------
    allocation
        Bytes that the first try gets.
    used
        What the attempt used.
    largest
        The largest peak known before, in bytes.
    floor, cap
        Least and most that can be given, in bytes.
    """
    given = bounded(allocation, floor, cap)
    waste, failures = 0.0, 0
    while given < used.peak and given < cap:
        waste += gb_hours(given, used.seconds)
        failures += 1
        given = bounded(max(2 * given, largest), floor, cap)
    waste += gb_hours(max(0.0, given - used.peak), used.seconds)
    return Outcome(waste, failures)
