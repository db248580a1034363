"""The rule on names: the registry has every name that was sent."""

from __future__ import annotations

from collections.abc import Iterator

from servers.checker.model import Finding, Received
from servers.live_check import deviations


def names_are_registered(received: Received) -> Iterator[Finding]:
    """Names, types and units are as the registry says; see :mod:`servers.live_check`."""
    for message in deviations(received.spans, received.records, received.points):
        yield Finding("names", "everything", message)


RULES = (names_are_registered,)
