"""Whether what a run sent is in the registry of names: the live check of OpenTelemetry's Weaver.

The functions take what :mod:`servers.otlp_json` makes of a collector's file, and return one
sentence for each kind of deviation. Signals of the run's own scope must be registered; signals of
user code and of loggers may have any name outside of our namespaces.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from typing import Any

from scalable.telemetry import semconv
from semconv.model import Attribute, Signal, load

Item = Mapping[str, Any]

#: Namespaces in which every name must be registered, whoever records it.
_OURS = ("dask.", "scalable.")

#: Attributes of any signal of an application's provider, whose resource does not name the run.
_OF_RUN = (semconv.RUN_ID, semconv.PROJECT)

#: Attributes that processors of an application add to every span.
_ADDED = ("logfire.",)
#: How the places of the run's own signals begin.
_SIGNALS = ("span ", "event ", "metric ")

_TYPES: dict[str, Callable[[Any], bool]] = {
    "string": lambda value: isinstance(value, str),
    "int": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "double": lambda value: isinstance(value, float),
    "boolean": lambda value: isinstance(value, bool),
    "any": lambda value: True,
}


def deviations(
    spans: Iterable[Item] = (), logs: Iterable[Item] = (), points: Iterable[Item] = ()
) -> list[str]:
    """Return what is not as the registry says, each once, sorted."""
    found: set[str] = set()
    for span in spans:
        found.update(_of_item(span, _of_span))
    for log in logs:
        found.update(_of_item(log, _of_log))
    for point in points:
        found.update(_of_item(point, _of_point))
    return sorted(found)


def _of_item(item: Item, check: Callable[[Item], Iterator[str]]) -> Iterator[str]:
    for name, value in item["resource"].items():
        yield from _attribute("the resource", name, value)
    if item["scope"] == semconv.SCOPE_NAME:
        yield from check(item)
        return
    events = item.get("events", ())
    for part in (item, *events):
        where = f"scope {item['scope']!r}"
        for name, value in part["attributes"].items():
            if name.startswith(_OURS):
                yield from _attribute(where, name, value)


def _of_span(span: Item) -> Iterator[str]:
    attributes = span["attributes"]
    fitting = [
        one
        for one in load().of_type("span")
        if one.kind == span["kind"]
        and _pattern(one.name).fullmatch(span["name"])
        and all(name in attributes for name, required in one.attributes.items() if required)
    ]
    if not fitting:
        yield f"no span is like {span['kind']} {span['name']!r} with {sorted(attributes)}"
        return
    # A task may have any name: the span with the most required attributes is meant.
    meant = max(fitting, key=lambda one: sum(one.attributes.values()))
    yield from _attributes(f"span {meant.name}", meant, attributes)
    for event in span["events"]:
        yield from _event(event["name"], event["attributes"], is_open=meant.is_open)


def _of_log(log: Item) -> Iterator[str]:
    if not log["event_name"]:
        yield f"a log record without an event name: {log['body']!r}"
        return
    yield from _event(log["event_name"], log["attributes"])


def _event(name: str, attributes: Item, *, is_open: bool = False) -> Iterator[str]:
    event = _named("event", name)
    if event is not None:
        yield from _attributes(f"event {name}", event, attributes, is_open=is_open)
    elif not is_open or name.startswith(_OURS):
        yield f"event {name} is not registered"


def _of_point(point: Item) -> Iterator[str]:
    name = point["name"]
    if _is_user_metric(point):
        return
    metric = _named("metric", name)
    if metric is None:
        yield f"metric {name} is not registered"
        return
    kind = instrument_of(point)
    if kind != metric.kind:
        yield f"metric {name} is a {kind}, not a {metric.kind}"
    if point["unit"] != metric.unit:
        yield f"metric {name} is in {point['unit']!r}, not in {metric.unit!r}"
    yield from _attributes(f"metric {name}", metric, point["attributes"])


def _is_user_metric(point: Item) -> bool:
    """Whether it is a number that `record_metric` of user code made."""
    return point["type"] == "gauge" and not point["name"].startswith((*_OURS, "otel."))


def instrument_of(point: Item) -> str:
    """Return the instrument that makes such a point."""
    if point["type"] == "sum":
        return "counter" if point["monotonic"] else "updowncounter"
    return "histogram" if point["type"] == "exponentialHistogram" else point["type"]


def _attributes(
    where: str, signal: Signal, attributes: Item, *, is_open: bool = False
) -> Iterator[str]:
    for name, required in signal.attributes.items():
        if required and name not in attributes:
            yield f"{where} lacks {name}"
    for name, value in attributes.items():
        if name.startswith(_ADDED):
            continue
        attribute = registered_as(name)
        registered = attribute is not None
        if registered and attribute.name not in signal.attributes and name not in _OF_RUN:
            yield f"{where} has {name}, which is not among its attributes"
        if registered or name.startswith(_OURS) or not (is_open or signal.is_open):
            yield from _attribute(where, name, value)


def _attribute(where: str, name: str, value: Any) -> Iterator[str]:
    attribute = registered_as(name)
    if attribute is None:
        # Of OpenTelemetry's resource attributes only some are used here by name.
        if name.startswith(_OURS) or where.startswith(_SIGNALS):
            yield f"{where} has {name}, which is not registered"
        return
    if not has_type(value, attribute.type):
        yield f"{where} has {name} = {value!r}, which is not of type {attribute.type}"
    elif attribute.members and value not in attribute.members:
        yield f"{where} has {name} = {value!r}, which is not one of {list(attribute.members)}"


def registered_as(name: str) -> Attribute | None:
    """Return the attribute that is registered, as it is or as the beginning of many names."""
    attributes = load().attributes
    if name in attributes:
        return attributes[name]
    for other in attributes.values():
        if other.type.startswith("template") and name.startswith(f"{other.name}."):
            return other
    return None


def has_type(value: Any, type: str) -> bool:
    """Whether a value is of a type of the registry."""
    type = type.removeprefix("template[").removesuffix("]") if "template" in type else type
    if type.endswith("[]"):
        is_one = _TYPES[type.removesuffix("[]")]
        return isinstance(value, list) and all(map(is_one, value))
    return _TYPES[type](value)


@cache
def _pattern(name: str) -> re.Pattern[str]:
    """Return what names of a span match: a place for what differs is in braces."""
    parts = re.split(r"\{\w+\}", name)
    return re.compile(".+".join(map(re.escape, parts)), re.DOTALL)


def _named(type: str, name: str) -> Signal | None:
    return _signals().get((type, name))


@cache
def _signals() -> dict[tuple[str, str], Signal]:
    return {(signal.type, signal.name): signal for signal in load().signals}
