"""OpenTelemetry's limits of attributes, events and links, for what the exporters get.

The run directory has every signal whole. What is sent is limited as the SDK limits the signals of
an application: the newest attributes, events and links are kept, the others are counted.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from types import NoneType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar, cast

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util import BoundedList
from opentelemetry.trace import Link

if TYPE_CHECKING:
    from opentelemetry.sdk._logs import ReadableLogRecord

T = TypeVar("T")

#: The specification's default for every count; there is none for lengths.
DEFAULT_COUNT: Final = 128
#: Values without a length to limit.
_WHOLE: Final = (int, float, bytes, NoneType)
_COUNT: Final = "OTEL_ATTRIBUTE_COUNT_LIMIT"
_LENGTH: Final = "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT"


class AttributeLimits(NamedTuple):
    """Limits of one set of attributes: their number, and the length of a text; None: unlimited."""

    number: int | None = DEFAULT_COUNT
    length: int | None = None

    def allow(self, attributes: Mapping[str, Any] | None) -> bool:
        """Whether attributes are within the limits."""
        if not attributes:
            return True
        if self.number is not None and len(attributes) > self.number:
            return False
        length = self.length
        return length is None or not any(_is_longer(value, length) for value in attributes.values())

    def apply(self, attributes: Mapping[str, Any] | None, dropped: int) -> BoundedAttributes:
        """What is left of attributes, of which `dropped` are missing already."""
        given = attributes or {}
        excess = 0 if self.number is None else max(0, len(given) - self.number)
        # Cut here: the SDK's class logs a warning for each attribute that it cuts or drops.
        kept = islice(given.items(), excess, None)
        left = BoundedAttributes(
            attributes={name: _cut(value, self.length) for name, value in kept}, immutable=False
        )
        left.dropped = dropped + excess
        return left


class SignalLimits(NamedTuple):
    """The limits of spans and log records."""

    span: AttributeLimits = AttributeLimits()
    event: AttributeLimits = AttributeLimits()
    link: AttributeLimits = AttributeLimits()
    log: AttributeLimits = AttributeLimits()
    events: int | None = DEFAULT_COUNT
    links: int | None = DEFAULT_COUNT

    def spans(self, batch: Sequence[ReadableSpan]) -> Sequence[ReadableSpan]:
        """The spans of a batch, those beyond the limits replaced."""
        return _replaced(batch, self._allows_span, self._limited_span)

    def logs(self, batch: Sequence[ReadableLogRecord]) -> Sequence[ReadableLogRecord]:
        """The log records of a batch, those beyond the limits replaced."""
        return _replaced(
            batch, lambda log: self.log.allow(log.log_record.attributes), self._limited_log
        )

    def _allows_span(self, span: ReadableSpan) -> bool:
        events, links = span.events, span.links
        return (
            self.span.allow(span.attributes)
            and (self.events is None or len(events) <= self.events)
            and (self.links is None or len(links) <= self.links)
            and all(self.event.allow(event.attributes) for event in events)
            and all(self.link.allow(link.attributes) for link in links)
        )

    def _limited_span(self, span: ReadableSpan) -> ReadableSpan:
        events = [
            Event(
                event.name,
                self.event.apply(event.attributes, event.dropped_attributes),
                event.timestamp,
            )
            for event in _newest(span.events, self.events)
        ]
        links = [
            Link(link.context, self.link.apply(link.attributes, link.dropped_attributes))
            for link in _newest(span.links, self.links)
        ]
        return ReadableSpan(
            span.name,
            span.context,
            span.parent,
            span.resource,
            self.span.apply(span.attributes, span.dropped_attributes),
            _counted(events, span.dropped_events + len(span.events) - len(events)),
            _counted(links, span.dropped_links + len(span.links) - len(links)),
            span.kind,
            status=span.status,
            start_time=span.start_time,
            end_time=span.end_time,
            instrumentation_scope=span.instrumentation_scope,
        )

    def _limited_log(self, log: ReadableLogRecord) -> ReadableLogRecord:
        record = copy.copy(log.log_record)
        record.attributes = self.log.apply(record.attributes, log.dropped_attributes)
        return replace(log, log_record=record)


class LimitedExporter:
    """An exporter that gets each batch as the limits allow; called by the shipper's thread."""

    def __init__(self, exporter: Any, limit: Callable[[Sequence[Any]], Sequence[Any]]) -> None:
        #: The exporter without limits.
        self.limited = self._exporter = exporter
        self._limit = limit

    def export(self, batch: Sequence[Any]) -> Any:
        """Export what is left of a batch."""
        return self._exporter.export(self._limit(batch))

    def shutdown(self) -> None:
        """Shut the exporter down."""
        self._exporter.shutdown()


def limits_of(environ: Mapping[str, str]) -> SignalLimits:
    """The limits that the variables set, as the SDK reads them.

    Read here, because the SDK raises for a wrong value, and its oldest supported version does not
    know ``OTEL_LOGRECORD_*``.
    """
    count = _number(environ, _COUNT, None)
    count = DEFAULT_COUNT if count is None else count
    length = _number(environ, _LENGTH, None)

    def attributes(kind: str, of_length: int | None = length) -> AttributeLimits:
        return AttributeLimits(
            _number(environ, f"OTEL_{kind}_ATTRIBUTE_COUNT_LIMIT", count), of_length
        )

    def length_of(kind: str) -> int | None:
        return _number(environ, f"OTEL_{kind}_ATTRIBUTE_VALUE_LENGTH_LIMIT", length)

    return SignalLimits(
        attributes("SPAN", length_of("SPAN")),
        attributes("EVENT"),
        attributes("LINK"),
        attributes("LOGRECORD", length_of("LOGRECORD")),
        _number(environ, "OTEL_SPAN_EVENT_COUNT_LIMIT", DEFAULT_COUNT),
        _number(environ, "OTEL_SPAN_LINK_COUNT_LIMIT", DEFAULT_COUNT),
    )


def _number(environ: Mapping[str, str], name: str, default: int | None) -> int | None:
    text = environ.get(name)
    if text is None:
        return default
    if not text.strip():
        return None  # to the SDK, an empty variable switches the limit off
    try:
        number = int(text)
    except ValueError:
        return default
    return number if number >= 0 else default


def _replaced(
    batch: Sequence[T], allows: Callable[[T], bool], limited: Callable[[T], T]
) -> Sequence[T]:
    """`batch` itself if everything in it is allowed, as it is nearly always."""
    if all(map(allows, batch)):
        return batch
    return [item if allows(item) else limited(item) for item in batch]


def _is_longer(value: Any, length: int) -> bool:
    """Whether a value has a text beyond a length; nested values may."""
    if isinstance(value, str):
        return len(value) > length
    return not isinstance(value, _WHOLE) and bool(value)


def _cut(value: Any, length: int | None) -> Any:
    """A value with its texts cut, as the SDK cuts them."""
    if isinstance(value, str):
        return value[:length]
    if length is None or isinstance(value, _WHOLE):
        return value
    if isinstance(value, Mapping):
        return {name: _cut(each, length) for name, each in cast("Any", value).items()}
    if isinstance(value, Sequence):
        return tuple(_cut(each, length) for each in cast("Any", value))
    return value


def _newest(items: Sequence[T], count: int | None) -> Sequence[T]:
    return items if count is None else items[max(0, len(items) - count) :]


def _counted(items: Sequence[Any], dropped: int) -> Any:
    counted = BoundedList.from_seq(None, items)
    counted.dropped = dropped
    return counted
