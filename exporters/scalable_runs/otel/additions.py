"""What users of an application write to spans that become records of a journal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.trace import Link, Status, StatusCode


@dataclass(slots=True)
class Additions:
    """What an application's users wrote to a span that becomes records of a journal."""

    #: Name that they gave the span; None: its own.
    name: str | None = None
    status: Status | None = None
    attributes: dict[str, Any] = field(default_factory=dict[str, Any])
    events: list[Event] = field(default_factory=list[Event])
    links: list[Link] = field(default_factory=list[Link])
    #: Attributes, events and links that the SDK's limits dropped.
    dropped: tuple[int, int, int] = (0, 0, 0)


class AddedSpan(ReadableSpan):
    """A span with what the application's users wrote to it.

    Records are made of the attributes that the span had before; the rest is in their `details`.
    """

    def __init__(self, span: ReadableSpan, added: Additions) -> None:
        #: Those of the span before.
        self.own_attributes: Mapping[str, Any] = span.attributes or {}
        self.added = added
        failed = span.status.status_code is StatusCode.ERROR
        super().__init__(
            added.name or span.name,
            span.context,
            span.parent,
            span.resource,
            {**added.attributes, **self.own_attributes},
            sorted((*added.events, *span.events), key=lambda event: event.timestamp),
            (*span.links, *added.links),
            span.kind,
            status=span.status if failed or added.status is None else added.status,
            start_time=span.start_time,
            end_time=span.end_time,
            instrumentation_scope=span.instrumentation_scope,
        )

    @property
    def dropped_attributes(self) -> int:
        """Attributes that were dropped before."""
        return self.added.dropped[0]

    @property
    def dropped_events(self) -> int:
        """Events that were dropped before."""
        return self.added.dropped[1]

    @property
    def dropped_links(self) -> int:
        """Links that were dropped before."""
        return self.added.dropped[2]
