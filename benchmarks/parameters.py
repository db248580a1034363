"""What it costs to describe arguments and results, at each level of the option."""

from __future__ import annotations

import time
from pathlib import Path

import scalable
from benchmarks import clusters
from benchmarks.table import Row

LEVELS = ("off", "failed", "sample", "all")


def levels(directory: Path, quick: bool) -> list[Row]:
    """Wall time of tasks that do nothing, per task; the levels take turns."""
    tasks, rounds = (500, 2) if quick else (5_000, 7)
    taken: dict[str, list[float]] = {level: [] for level in LEVELS}
    with clusters.local_cluster() as cluster:
        clusters.run_map(cluster.client, tasks)
        for _ in range(rounds):
            for level in LEVELS:
                with scalable.instrument(
                    cluster.client, project="bench", runs_dir=directory, parameters=level
                ):
                    cluster.settle()
                    began = time.perf_counter()
                    clusters.run_map(cluster.client, tasks)
                    taken[level].append((time.perf_counter() - began) / tasks * 1e6)
    return [
        Row.of_rounds(
            f"parameters-{level}",
            f"{tasks:,} no-op tasks, parameters={level}: wall per task",
            taken[level],
            unit="µs",
        )
        for level in LEVELS
    ]
