"""Rules on metrics: one stream for one thing, times that move on, buckets that add up."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from servers.checker.model import Finding, Item, Received, shown

_STREAM = ("type", "unit", "temporality", "monotonic")


def streams(received: Received) -> dict[str, list[Item]]:
    """The points of each stream (resource, scope, name, attributes) in the order of arrival."""
    found: defaultdict[str, list[Item]] = defaultdict(list)
    for point in received.points:
        key = [point[part] for part in ("resource", "scope", "name", "attributes")]
        found[json.dumps(key, sort_keys=True, default=str)].append(point)
    return found


def total(points: list[Item]) -> float:
    """What a stream says at its end: the last value, or the sum of deltas."""
    values = [point.get("value", point.get("count")) for point in points]
    return sum(values) if points[-1]["temporality"] == "delta" else values[-1]


def streams_are_consistent(received: Received) -> Iterator[Finding]:
    """A stream keeps its type and unit, its times move on, and a counter never falls."""
    for points in streams(received).values():
        for before, after in pairwise(points):
            for name in _STREAM:
                if before[name] != after[name]:
                    message = f"{name} was {before[name]!r}, then {after[name]!r}"
                    yield Finding("streams", shown(after), message)
            if after["time"] <= before["time"]:
                yield Finding("streams", shown(after), "two points of one time, or out of order")
            if after["monotonic"] and after["temporality"] == "cumulative":
                restarted = after["start"] != before["start"]
                if after["value"] < before["value"] and not restarted:
                    message = f"a counter fell from {before['value']} to {after['value']}"
                    yield Finding("streams", shown(after), message)
                if restarted:
                    yield Finding("streams", shown(after), "the start of the stream moved")


def points_are_whole(received: Received) -> Iterator[Finding]:
    """A point does not start after its time, and the buckets of a histogram add up."""
    for point in received.points:
        if point["start"] > point["time"]:
            yield Finding("points", shown(point), "starts after its time")
        if point["type"] in ("sum", "histogram") and not point["start"]:
            yield Finding("points", shown(point), "has no start")
        if "buckets" in point and point["buckets"] and sum(point["buckets"]) != point["count"]:
            counted: Any = sum(point["buckets"])
            message = f"its buckets hold {counted}, its count is {point['count']}"
            yield Finding("points", shown(point), message)


RULES = (streams_are_consistent, points_are_whole)
