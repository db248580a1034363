"""The machine that figures were measured on."""

from __future__ import annotations

import os
import platform
import statistics
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

_PACKAGES: Final = ("scalable-otel", "distributed", "opentelemetry-sdk", "orjson", "msgpack")


def describe() -> dict[str, Any]:
    """Processor, memory, versions, load, and two measures to compare machines."""
    return {
        "measured_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": _processor(),
        "processors": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "load": [round(load, 2) for load in os.getloadavg()],
        "loop_ns": round(loop_ns(), 1),
        "fsync_ms": round(_fsync_ms(), 3),
    }


def loop_ns() -> float:
    """CPU time of one iteration of a fixed loop, in nanoseconds: the current speed of Python."""
    rounds = 200_000
    times: list[float] = []
    for _ in range(5):
        began = time.thread_time_ns()
        table: dict[int, int] = {}
        for number in range(rounds):
            table[number & 255] = number
        times.append((time.thread_time_ns() - began) / rounds)
    return statistics.median(times)


def _fsync_ms() -> float:
    times: list[float] = []
    with tempfile.TemporaryFile() as file:
        for _ in range(9):
            file.write(b"x" * 4096)
            file.flush()
            began = time.perf_counter()
            os.fsync(file.fileno())
            times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e3


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def _version(name: str) -> str:
    try:
        return version(name)
    except Exception:
        return "not installed"
