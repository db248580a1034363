"""How good advice on memory would have been: a back-test over traces of real workflows.

A trace is a CSV file as Nextflow writes it, with a line an attempt: `process`, `submit`,
`realtime` (ms), `memory` (requested, bytes), `peak_rss` (bytes), `rchar` (bytes read). Per process
in the order of submission, the first five attempts get what was requested; then each attempt is
predicted from those before it. Without traces, generated ones with a known truth are used.
"""

from __future__ import annotations

import csv
import json
import math
import os
import random
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.table import Row
from scalable.advice.memory import FEWEST, MemoryAdvisor
from scalable.advice.usage import Usage, outcome

#: Attempts shorter than that say little, in ms.
_SHORTEST: Final = 1_000.0

#: Attempts of each process, in the order of submission.
Trace = Mapping[str, Sequence[Usage]]
#: Gives the next attempt so many bytes: from the past, the size of its input, and what was asked.
Policy = Callable[[Sequence[Usage], Usage], float]


#: Directory of traces, and file for the results as JSON, for the process of this part.
TRACES_VARIABLE: Final = "SCALABLE_BENCH_TRACES"
JSON_VARIABLE: Final = "SCALABLE_BENCH_JSON"


def advise(directory: Path, quick: bool) -> list[Row]:
    """The part of the benchmarks."""
    del directory
    traces, file = os.environ.get(TRACES_VARIABLE), os.environ.get(JSON_VARIABLE)
    found = back_test(read_traces(Path(traces)) if traces else generated(60 if quick else 300))
    if file:
        Path(file).write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    return _rows(found)


def read_traces(directory: Path) -> dict[str, Trace]:
    """Read a directory of traces, each in a file `*.csv`."""
    files = sorted(directory.glob("*.csv"))
    if not files:
        raise FileNotFoundError(f"{directory} has no traces (*.csv)")
    return {file.stem.removeprefix("trace_"): _trace(file) for file in files}


def _trace(file: Path) -> Trace:
    rows: dict[str, list[tuple[float, Usage]]] = defaultdict(list)
    with file.open(newline="") as lines:
        for line in csv.DictReader(lines):
            used = _usage(line)
            if used is not None:
                rows[line["process"]].append((_number(line, "submit") or 0.0, used))
    return {
        process: [used for _, used in sorted(attempts, key=lambda row: row[0])]
        for process, attempts in rows.items()
    }


def _usage(line: Mapping[str, str]) -> Usage | None:
    peak, took = _number(line, "peak_rss"), _number(line, "realtime")
    if peak is None or took is None or took < _SHORTEST:
        return None
    return Usage(peak, took / 1000, _number(line, "rchar"), _number(line, "memory"))


def _number(line: Mapping[str, str], name: str) -> float | None:
    try:
        value = float(line.get(name) or "nan")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def generated(count: int) -> dict[str, Trace]:
    """Traces with a known truth: constant, by size, in two modes, and growing."""
    rng = random.Random(7)

    def usage(peak: float, size: float) -> Usage:
        return Usage(peak, rng.uniform(60, 600), size, 16e9)

    sizes = [rng.uniform(1e8, 5e9) for _ in range(count)]
    return {
        "generated": {
            "constant": [usage(2e9 * rng.uniform(0.98, 1.02), size) for size in sizes],
            "by size": [usage(8e8 + 2.1 * size * rng.uniform(0.98, 1.0), size) for size in sizes],
            "two modes": [usage(rng.choice((1e9, 6e9)), size) for size in sizes],
            "growing": [usage(1e9 + 1e7 * at, size) for at, size in enumerate(sizes)],
        }
    }


# -- policies --------------------------------------------------------------------------------------


def _requested(past: Sequence[Usage], used: Usage) -> float:
    return used.requested or _largest(past, used)


def _largest(past: Sequence[Usage], used: Usage) -> float:
    del used
    return max(one.peak for one in past)


def _p95(past: Sequence[Usage], used: Usage) -> float:
    """The 95th percentile, as Witt et al. use it."""
    del used
    ordered = sorted(one.peak for one in past)
    place = 0.95 * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def _tovar(past: Sequence[Usage], used: Usage) -> float:
    """Of the peaks seen, the one that would have wasted least (Tovar et al., 2017)."""
    largest = _largest(past, used)
    peaks = sorted({one.peak for one in past})
    if len(peaks) > 200:
        peaks = [*peaks[:: len(peaks) // 200], largest]

    def waste(first: float) -> float:
        return sum(
            one.seconds * (first - one.peak if one.peak <= first else first + largest - one.peak)
            for one in past
        )

    return min(peaks, key=waste)


def _linear(past: Sequence[Usage], used: Usage) -> float:
    """A straight line in the bytes read, and two standard deviations."""
    if used.size is None or any(one.size is None for one in past):
        return _largest(past, used)
    sizes = [one.size or 0.0 for one in past]
    peaks = [one.peak for one in past]
    if len(set(sizes)) < 2:
        return _largest(past, used)
    slope, base = statistics.linear_regression(sizes, peaks)
    rest = [peak - base - slope * size for size, peak in zip(sizes, peaks, strict=True)]
    return base + slope * used.size + 2 * statistics.pstdev(rest)


def _times(policy: Policy, margin: float) -> Policy:
    return lambda past, used: margin * policy(past, used)


POLICIES: Final[Mapping[str, Policy]] = {
    "as requested": _requested,
    "largest seen": _largest,
    "largest seen × 1.1": _times(_largest, 1.1),
    "p95": _p95,
    "p95 × 1.1": _times(_p95, 1.1),
    "least waste (Tovar et al.)": _tovar,
    "linear in bytes read, + 2 σ": _linear,
}
OURS: Final = "scalable advise"


# -- the test --------------------------------------------------------------------------------------


def back_test(traces: Mapping[str, Trace]) -> dict[str, Any]:
    """Run every policy over all traces.

    Returns
    -------
    dict
        `attempts` and `predictions`, and under `policies` for each its `waste_gb_h` in all and by
        `workflow`, `failed` attempts and their share of all (`failed_percent`).
    """
    found: dict[str, Any] = {}
    attempts = sum(len(used) for trace in traces.values() for used in trace.values())
    predictions = 0
    for name in (*POLICIES, OURS):
        waste: dict[str, float] = {}
        failed = predictions = 0
        for workflow, trace in traces.items():
            waste[workflow] = 0.0
            for history in trace.values():
                for cost, failures in _costs(name, history):
                    waste[workflow] += cost
                    failed += failures > 0
                    predictions += 1
        found[name] = {
            "waste_gb_h": round(sum(waste.values()), 3),
            "workflow": {workflow: round(value, 3) for workflow, value in waste.items()},
            "failed": failed,
            "failed_percent": round(100 * failed / max(1, attempts), 3),
        }
    return {"attempts": attempts, "predictions": predictions, "policies": found}


def _costs(name: str, history: Sequence[Usage]) -> Iterator[tuple[float, int]]:
    policy = POLICIES.get(name)
    advisor = MemoryAdvisor()
    largest = 0.0
    for at, used in enumerate(history):
        if at >= FEWEST:
            if policy is not None:
                allocation = policy(history[:at], used)
            else:
                advice = advisor.advise(used.size)
                allocation = advice.allocation if advice is not None else 0.0
            yield outcome(allocation, used, largest)
        largest = max(largest, used.peak)
        if policy is None:
            advisor.observe(used)


def _rows(found: Mapping[str, Any]) -> list[Row]:
    rows: list[Row] = []
    for name, result in found["policies"].items():
        by = ", ".join(f"{key} {value:,.0f}" for key, value in result["workflow"].items())
        note = f"{result['failed_percent']:.2f} % of {found['attempts']:,} attempts failed; {by}"
        rows.append(
            Row(
                key=f"advise.{name}",
                what=f"memory wasted: {name}",
                measured=result["waste_gb_h"],
                unit="GB·h",
                note=note,
            )
        )
    return rows
