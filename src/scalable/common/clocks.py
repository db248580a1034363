"""Wall clocks of several processes: how far one is ahead of another, and when a process began.

Times of a run are on the scheduler's clock. Two processes on one boot of one host read the same
clock, whatever a measurement says. Elsewhere the difference is measured by messages, which take
time: a difference within the time of a message is no evidence that the clocks differ.
"""

from __future__ import annotations

import os
import time
from typing import Final

import psutil

from scalable_runs._process import boot_id as boot_id

#: `starttime`, counted from the field behind the command name in /proc/<pid>/stat (proc(5)).
_START_TIME_FIELD: Final = 19


class ClockShift:
    """How far another process's clock is ahead of this one's; used by one thread at a time.

    Attributes
    ----------
    seconds : float
        To add to times of this process. It changes only where a measurement contradicts it.
    is_shared : bool
        Both processes are known to read the same clock: the shift is 0.
    """

    __slots__ = ("is_shared", "seconds")

    def __init__(self) -> None:
        self.seconds = 0.0
        self.is_shared = False

    def compare_boots(self, other: str) -> None:
        """Note the boot on which the other process runs; empty if it is unknown."""
        self.is_shared = self.is_shared or (bool(other) and other == boot_id())
        if self.is_shared:
            self.seconds = 0.0

    def observe(self, ahead: float, round_trip: float) -> None:
        """Take a measurement: `ahead` is exact if both ways of the message took equally long.

        Parameters
        ----------
        ahead : float
            The other clock minus the middle between request and answer, in seconds.
        round_trip : float
            Time between request and answer, or more, in seconds.
        """
        if not self.is_shared and abs(ahead - self.seconds) > round_trip / 2:
            # Within the round trip 0 is as good as any value, and the same for every process.
            self.seconds = ahead if abs(ahead) > round_trip / 2 else 0.0

    def observe_answer(self, other: float, asked: float, answered: float) -> None:
        """Take a measurement: the other clock's time, and when it was asked for and arrived."""
        self.observe(other - (asked + answered) / 2, answered - asked)


def process_began() -> float:
    """When this process was started, on its own wall clock.

    The system's time of its boot, on which psutil relies, is in whole seconds on Linux: a process
    would seem to be up to one second older than it is.
    """
    now = time.time()
    try:
        with open("/proc/self/stat", "rb") as file:  # noqa: PTH123
            fields = file.read().rpartition(b")")[2].split()
        ticks = int(fields[_START_TIME_FIELD])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return psutil.Process().create_time()
    # In a time namespace the two clocks may differ; a process has no negative age.
    return now - age if age >= 0 else psutil.Process().create_time()
