"""What a collector received, what is expected of it, and what a rule finds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Self

from scalable.telemetry import semconv
from scalable_runs.reader import RunReader
from servers import otlp_json

#: A span, a metric point or a log record; see :mod:`servers.otlp_json`.
Item = dict[str, Any]

#: Floats of seconds since the epoch have a resolution of 0.24 µs, and times are rounded to whole
#: microseconds: two clocks of one host that show the same may differ by this, in nanoseconds.
ROUNDING = 1_000


class Finding(NamedTuple):
    """A rule that something received does not obey.

    Attributes
    ----------
    rule : str
        Name of the rule.
    subject : str
        The span, point, record or resource concerned, for a person.
    message : str
        What is wrong with it.
    """

    rule: str
    subject: str
    message: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.subject}: {self.message}"


@dataclass(frozen=True)
class Received:
    """Everything that a collector received, of one program or of several.

    Attributes
    ----------
    spans, points, records : list of dict
        As :mod:`servers.otlp_json` returns them.
    outside : frozenset of str
        Ids of spans that others sent elsewhere: parents and links may refer to them.
    """

    spans: list[Item]
    points: list[Item]
    records: list[Item]
    outside: frozenset[str] = frozenset()

    @classmethod
    def read(cls, paths: Iterable[Path], outside: Iterable[str] = ()) -> Self:
        """Read files of OTLP in JSON; each may have any signals."""
        spans: list[Item] = []
        points: list[Item] = []
        records: list[Item] = []
        for path in paths:
            spans += otlp_json.spans(path)
            points += otlp_json.metric_points(path)
            records += otlp_json.log_records(path)
        return cls(spans, points, records, frozenset(outside))

    def where(self, attributes: Mapping[str, Any], outside: Iterable[str] = ()) -> Received:
        """What has these attributes in its resource; `outside` are spans that others have."""

        def has(item: Item) -> bool:
            return attributes.items() <= item["resource"].items()

        return Received(
            list(filter(has, self.spans)),
            list(filter(has, self.points)),
            list(filter(has, self.records)),
            self.outside.union(outside),
        )

    @cached_property
    def by_id(self) -> dict[str, Item]:
        """Spans by id."""
        return {span["span_id"]: span for span in self.spans}

    @cached_property
    def resources(self) -> list[tuple[Item, str]]:
        """Each resource once, with its schema URL."""
        found: list[tuple[Item, str]] = []
        for item in (*self.spans, *self.points, *self.records):
            resource = item["resource"], item["resource_schema_url"]
            if resource not in found:
                found.append(resource)
        return found

    @property
    def attempts(self) -> list[Item]:
        """Spans of attempts."""
        return [span for span in self.spans if is_attempt(span)]

    @property
    def rollups(self) -> list[Item]:
        """Spans that summarise attempts."""
        return [span for span in self.spans if semconv.ROLLUP_COUNT in span["attributes"]]


@dataclass(frozen=True)
class Run:
    """What the directory of a run says."""

    reader: RunReader

    @cached_property
    def summary(self) -> Mapping[str, Any]:
        """The content of `summary.json`."""
        return self.reader.summary()


def is_own(item: Item) -> bool:
    """Whether the package made it, not user code or another instrumentation."""
    return item["scope"] == semconv.SCOPE_NAME


def is_attempt(span: Item) -> bool:
    """Whether it is the span of one attempt of a task."""
    return is_own(span) and span["kind"] == "consumer"


def is_asynchronous(span: Item) -> bool:
    """Whether it belongs to attempts, which may outlive the span that asked for them."""
    names = {semconv.ROLLUP_COUNT, semconv.RUNNING_KEY}
    return span["kind"] == "consumer" or (is_own(span) and not names.isdisjoint(span["attributes"]))


def kind_of(item: Item) -> str:
    """Return `span`, `record` or `point`."""
    if "kind" in item:
        return "span"
    return "record" if "body" in item else "point"


def shown(item: Item) -> str:
    """A span, a point or a record for a person."""
    kind = kind_of(item)
    if kind == "span":
        return f"span {item['name']!r} {item['span_id']} ({item['kind']}, scope {item['scope']})"
    if kind == "record":
        return f"log record {item['event_name'] or item['body']!r} (scope {item['scope']})"
    return f"metric {item['name']} {item['attributes']} (scope {item['scope']})"
