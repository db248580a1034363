"""Estimates of the peak of the next attempt of a kind, from those before it.

Each is an upper bound of what was seen, not a mean: an attempt with too little memory fails. A
margin is applied to it later.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from scalable.advice.usage import Usage

#: Attempts of the past from which estimates are made: the latest.
MOST: Final = 1_000
#: Attempts with known sizes before an estimate uses the size.
_FEWEST: Final = 5
_NEAREST: Final = (5, 10)
_LATEST: Final = (20, 50)


class Line(NamedTuple):
    """A bound ``base + slope × size``; with `is_power` ``base × size ** slope``."""

    base: float
    slope: float
    is_power: bool = False

    def at(self, size: float) -> float:
        """The bound for an input of this size."""
        if not self.is_power:
            return self.base + self.slope * size
        return math.exp(min(_MOST_LOG, self.base + self.slope * math.log(max(size, 1.0))))


#: Natural logarithm of half a terabyte; what is beyond is no estimate.
_MOST_LOG: Final = 27.0


def estimates(past: Sequence[Usage], size: float | None) -> Mapping[str, float]:
    """Return estimates of the peak of an attempt, in bytes, by their names.

    ``largest`` is the largest peak; ``latest-20`` that of the last 20 attempts; ``nearest-5`` that
    of the 5 attempts whose inputs are nearest in size, by ratio; ``line`` and ``power`` are fits
    of least squares, moved up until no attempt is above them. Those that need a size are left out
    where sizes are not known or all the same.

    Parameters
    ----------
    past
        Attempts in the order of time; at least one.
    size
        Size of the input in bytes; None if it is not known.
    """
    known = past[-MOST:]
    peaks = [used.peak for used in known]
    found = {"largest": max(peaks)}
    for count in _LATEST:
        found[f"latest-{count}"] = max(peaks[-count:])
    sized = [used for used in known if used.size is not None]
    if size is None or len(sized) < _FEWEST:
        return found
    wanted = math.log(max(size, 1.0))
    ordered = sorted(
        (abs(math.log(max(used.size or 0.0, 1.0)) - wanted), used.peak) for used in sized
    )
    for count in _NEAREST:
        found[f"nearest-{count}"] = max(peak for _, peak in ordered[:count])
    lowest = min(used.peak for used in sized)
    for name, line in bounds(sized).items():
        found[name] = max(lowest, line.at(size))
    return found


def bounds(sized: Sequence[Usage]) -> Mapping[str, Line]:
    """Return the line and the power law above all attempts; empty if their sizes do not differ."""
    sizes = [used.size or 0.0 for used in sized]
    peaks = [used.peak for used in sized]
    found: dict[str, Line] = {}
    line = _fit(sizes, peaks)
    if line is not None:
        found["line"] = line
    power = _fit(
        [math.log(max(size, 1.0)) for size in sizes], [math.log(max(peak, 1.0)) for peak in peaks]
    )
    if power is not None:
        found["power"] = power._replace(is_power=True)
    return found


def _fit(xs: Sequence[float], ys: Sequence[float]) -> Line | None:
    """Least squares, moved up by the largest residual."""
    count = len(xs)
    mean_x, mean_y = math.fsum(xs) / count, math.fsum(ys) / count
    spread = math.fsum((x - mean_x) ** 2 for x in xs)
    if spread <= 1e-9 * max(1.0, mean_x**2) * count:
        return None
    slope = math.fsum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / spread
    above = max(y - slope * x for x, y in zip(xs, ys, strict=True))
    return Line(above, slope)
