"""What a row of the table of metrics is."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple, TypeAlias

#: Kind of the points of an instrument.
Kind: TypeAlias = Literal["counter", "updowncounter", "gauge", "histogram"]

#: Bounds of the buckets of durations. Tasks take from a millisecond to hours.
TASK_BOUNDS: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    60.0, 150.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0, 21600.0,
)  # fmt: skip


class Instrument(NamedTuple):
    """One row of the table of metrics.

    Attributes
    ----------
    name, unit, description : str
        As exported; the unit is UCUM.
    kind : {"counter", "updowncounter", "gauge", "histogram"}
        A counter only grows; an updowncounter is a sum that also shrinks.
    attributes : tuple of str
        What distinguishes the points. Never a key, so that their number stays small. A worker's
        metrics have the worker's name.
    bounds : tuple of float
        Bucket bounds of a histogram.
    """

    name: str
    kind: Kind
    unit: str
    description: str
    attributes: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()
