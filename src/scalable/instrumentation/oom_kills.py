"""How many processes the kernel's out-of-memory killer has ended."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple


class OomKills(NamedTuple):
    """Counts since the host, or the control group of this process, began."""

    group: int
    host: int


def oom_kills() -> OomKills:
    """Read the kernel's counters; 0 where there are none."""
    return OomKills(_group_kills(), _counter(Path("/proc/vmstat")))


def _group_kills() -> int:
    """Of the control group that the nanny and its workers are in."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return 0
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0":
            return _counter(Path("/sys/fs/cgroup") / path.lstrip("/") / "memory.events")
        if "memory" in controllers.split(","):
            base = Path("/sys/fs/cgroup/memory") / path.lstrip("/")
            return _counter(base / "memory.oom_control")
    return 0


def _counter(path: Path) -> int:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        text = os.read(descriptor, 1 << 16).decode("ascii", "replace")
    except OSError:
        return 0
    finally:
        os.close(descriptor)
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        if key == "oom_kill" and value.strip().isdigit():
            return int(value)
    return 0
