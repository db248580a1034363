"""The rule on names: the registry has every name that was sent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from servers.checker.model import Finding, Item, Received
from servers.live_check import deviations

#: Namespaces of what processors of an application's provider add to every span.
_ADDED = ("logfire.",)


def names_are_registered(received: Received) -> Iterator[Finding]:
    """Names, types and units are as the registry says; see :mod:`servers.live_check`."""
    sent = (received.spans, received.records, received.points)
    for message in deviations(*([_as_made(item) for item in items] for items in sent)):
        yield Finding("names", "everything", message)


def _as_made(item: Item) -> Item:
    """An item without what processors added to it."""
    attributes: dict[str, Any] = item["attributes"]
    kept = {name: attributes[name] for name in attributes if not name.startswith(_ADDED)}
    return {**item, "attributes": kept}


RULES = (names_are_registered,)
