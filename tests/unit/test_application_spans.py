"""Spans of a run in the application's tracer provider: begun and ended, in order, with our ids."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

import pytest
from opentelemetry import baggage, trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext

from scalable.telemetry import semconv
from scalable.telemetry.export.application import TracerProviderSink
from scalable.telemetry.export.provider_tracers import sdk_tracer
from scalable.telemetry.export.shipping import Limits
from scalable.telemetry.export.sinks import Begun
from scalable.telemetry.ledger.signals import Output, Signals, _no_output
from scalable.telemetry.signals.spans import SCOPE, SpanFactory, event, span_context
from scalable.telemetry.spans.span_order import (
    HOLD,
    HOLD_KNOWN,
    LINGER,
    MAX_OPEN,
    OrderedShipper,
    SpanOrder,
)

TRACE = 0xABC
RUN = Resource({semconv.RUN_ID: "run-1", semconv.PROJECT: "tides", "service.name": "app"})


def span(
    name: str,
    number: int,
    parent: int | None = None,
    attributes: dict[str, Any] | None = None,
    **more: Any,
) -> ReadableSpan:
    return SpanFactory(RUN).span(
        name,
        span_context(TRACE, number),
        None if parent is None else span_context(TRACE, parent),
        1_000.0 + number,
        2_000.0 + number,
        attributes or {},
        **more,
    )


def task(name: str, number: int, parent: int) -> ReadableSpan:
    return span(name, number, parent, {semconv.TASK_KEY: name})


def output(*ended: ReadableSpan, submitted: int = 0) -> Output:
    return _no_output()._replace(
        batches=[Signals([], list(ended))], submitted=defaultdict(int, {TRACE: submitted})
    )


class Steps(SpanProcessor):
    """Notes what it sees."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.flushed: bool | None = True

    def on_start(self, span: Any, parent_context: Context | None = None) -> None:
        self.seen.append(f"+{span.name}")

    def on_end(self, span: ReadableSpan) -> None:
        self.seen.append(f"-{span.name}")

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self.flushed  # type: ignore[return-value]


class Forbidden(IdGenerator):
    """The application's ids are for its own spans."""

    def generate_span_id(self) -> int:
        raise AssertionError

    def generate_trace_id(self) -> int:
        raise AssertionError


def provider(*processors: SpanProcessor, **more: Any) -> tuple[TracerProvider, Any]:
    made = TracerProvider(
        resource=Resource({"service.name": "app"}), shutdown_on_exit=False, **more
    )
    kept = InMemorySpanExporter()
    for processor in (*processors, SimpleSpanProcessor(kept)):
        made.add_span_processor(processor)
    return made, kept


def send_all(
    given: Any, feed: Callable[[OrderedShipper], None], told: list[str] | None = None
) -> OrderedShipper:
    warn = pytest.fail if told is None else told.append
    sink = TracerProviderSink(given, warn)
    shipper = OrderedShipper("traces", sink, Limits(1_000, 100, 0.01), warn, budget=500)
    feed(shipper)
    shipper.close(monotonic() + 30)
    return shipper


def feed_a_run(shipper: OrderedShipper) -> None:
    """Children first, as they end."""
    shipper.order.begin(span("run", 1))
    shipper.order.submitted(span_context(TRACE, 2), baggage.set_baggage("user", "ann"))
    shipper.put([span("user", 5, 4), span("inner", 6, 5), task("inc", 4, 2), span("phase", 7, 4)])
    shipper.put([span("submit", 2, 99), span("run", 1, None, {"scalable.run.status": "completed"})])


def test_processors_see_parents_begin_before_and_end_after_their_children():
    steps = Steps()
    app, kept = provider(steps, id_generator=Forbidden(), sampler=ALWAYS_OFF)
    shipper = send_all(app, feed_a_run)
    assert steps.seen == [
        *("+run", "+submit", "+inc", "+user", "+inner", "-inner", "-user"),
        *("+phase", "-phase", "-inc", "-submit", "-run"),
    ]
    assert (shipper.counts.sent, shipper.counts.failed, shipper.waiting) == (6, 0, 0)
    found = {one.name: one for one in kept.get_finished_spans()}
    assert {one.context.span_id for one in found.values()} == {1, 2, 4, 5, 6, 7}
    assert found["inc"].parent.span_id == 2
    assert found["submit"].parent.span_id == 99
    assert (found["inc"].start_time, found["inc"].end_time) == (1_004 * 10**9, 2_004 * 10**9)
    assert found["inc"].resource is RUN
    assert found["inc"].instrumentation_scope == SCOPE
    assert found["run"].attributes["scalable.run.status"] == "completed"


def test_limits_of_the_application_apply_and_the_rest_of_a_span_arrives():
    limits = SpanLimits(max_span_attributes=1, max_events=1, max_links=1)
    app, kept = provider(span_limits=limits)
    whole = span(
        *("failed", 3, 2, {"first": 1, "last": 2}),
        error="no",
        events=[event("one", 1.5, {}), event("two", 2.5, {"x": 1})],
        links=[Link(span_context(TRACE, 8)), Link(span_context(TRACE, 9), {"y": 1})],
        kind=trace.SpanKind.CONSUMER,
    )
    send_all(app, lambda shipper: shipper.put([whole]))
    (found,) = kept.get_finished_spans()
    assert dict(found.attributes) == {"last": 2}
    assert found.dropped_attributes == 1
    assert [(one.name, one.timestamp) for one in found.events] == [("two", 2_500_000_000)]
    assert [link.context.span_id for link in found.links] == [9]
    assert (found.dropped_events, found.dropped_links) == (1, 1)
    assert (found.status.is_ok, found.status.description) == (False, "no")
    assert found.kind is trace.SpanKind.CONSUMER
    assert dict(whole.attributes or {}) == {"first": 1, "last": 2}


def test_what_a_worker_had_to_drop_is_counted_on_the_span():
    class Relayed(ReadableSpan):
        dropped_attributes, dropped_events, dropped_links = 3, 4, 5

    relayed = span("relayed", 3, 2, {"kept": 1, "last": 2})
    relayed.__class__ = Relayed
    app, kept = provider(span_limits=SpanLimits(max_span_attributes=1))
    send_all(app, lambda shipper: shipper.put([relayed]))
    (found,) = kept.get_finished_spans()
    dropped = found.dropped_attributes, found.dropped_events, found.dropped_links
    assert dropped == (4, 4, 5)


def test_every_span_of_a_submission_has_the_callers_baggage():
    processors = pytest.importorskip("opentelemetry.processor.baggage")
    app, kept = provider(processors.BaggageSpanProcessor(processors.ALLOW_ALL_BAGGAGE_KEYS))
    send_all(app, feed_a_run)
    users = {one.name: (one.attributes or {}).get("user") for one in kept.get_finished_spans()}
    assert users.pop("run") is None
    assert users == dict.fromkeys(("submit", "inc", "user", "inner", "phase"), "ann")


def test_processors_that_do_not_flush_or_fail_are_counted():
    steps = Steps()
    app, _ = provider(steps)
    steps.flushed = False
    told: list[str] = []
    shipper = send_all(app, feed_a_run, told)
    if SpanProcessor().force_flush() is True:  # older SDKs cannot tell
        assert (shipper.counts.sent, shipper.counts.failed) == (0, 6)
        assert told == ["the application's span processors could not be flushed"]

    class Picky(Steps):
        def on_start(self, span: Any, parent_context: Context | None = None) -> None:
            if span.name == "inner":
                raise ValueError("not this one")

    app, kept = provider(Picky())
    told.clear()
    shipper = send_all(app, feed_a_run, told)
    assert (shipper.counts.sent, shipper.counts.failed) == (5, 1)
    assert told == ["a span processor of the application: ValueError: not this one"]
    assert len(kept.get_finished_spans()) == 5


# -- other providers ------------------------------------------------------------------------------


class WrappedTracer(trace.Tracer):
    """Marks each span that it starts with the SDK."""

    __slots__ = ("inner",)

    def __init__(self, inner: trace.Tracer) -> None:
        self.inner = inner

    def start_span(self, *args: Any, **kwargs: Any) -> trace.Span:
        made = self.inner.start_span(*args, **kwargs)
        made.set_attribute("marked", True)
        return made

    def start_as_current_span(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError


class Wrapper(trace.TracerProvider):
    def __init__(self, inner: trace.TracerProvider) -> None:
        self._inner = inner

    def get_tracer(self, *args: Any, **kwargs: Any) -> trace.Tracer:
        return WrappedTracer(self._inner.get_tracer(*args, **kwargs))


class PlainSpan(NonRecordingSpan):
    def __init__(self, name: str, context: SpanContext, **about: Any) -> None:
        super().__init__(context)
        self.name, self.about = name, about
        self.attributes = dict(about.pop("attributes"))
        self.ended: int | None = None

    def is_recording(self) -> bool:
        return True

    def set_attributes(self, attributes: Any) -> None:
        self.attributes |= attributes

    def end(self, end_time: int | None = None) -> None:
        self.ended = end_time


class ApiOnly(trace.TracerProvider, trace.Tracer):
    """A provider that knows the API and nothing of the SDK."""

    def __init__(self) -> None:
        self.spans: list[PlainSpan] = []

    def get_tracer(self, *args: Any, **kwargs: Any) -> trace.Tracer:
        return self

    def start_span(  # type: ignore[override]
        self, name: str, context: Any = None, kind: Any = None, attributes: Any = None,
        links: Any = (), start_time: int | None = None, **more: Any,
    ) -> trace.Span:  # fmt: skip
        parent = trace.get_current_span(context).get_span_context()
        ids = SpanContext(parent.trace_id or 77, 1_000 + len(self.spans), False)
        made = PlainSpan(
            name, ids, parent=parent, links=links, start=start_time, attributes=attributes
        )
        self.spans.append(made)
        return made

    def start_as_current_span(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError


def test_a_wrapper_of_the_sdk_keeps_what_it_adds_and_our_ids():
    app, kept = provider(id_generator=Forbidden())
    wrapper = Wrapper(Wrapper(app))
    assert sdk_tracer(wrapper.get_tracer("x")) is not None
    send_all(wrapper, feed_a_run)
    found = {one.name: one for one in kept.get_finished_spans()}
    assert {one.context.span_id for one in found.values()} == {1, 2, 4, 5, 6, 7}
    assert all(one.attributes["marked"] for one in found.values())
    assert found["inc"].resource is RUN


def test_a_provider_without_the_sdk_gets_every_span_below_what_it_made_of_the_parent():
    app, told = ApiOnly(), list[str]()
    shipper = send_all(app, feed_a_run, told)
    assert shipper.counts.sent == 6
    made = {one.name: one for one in app.spans}
    ids = {name: one.get_span_context().span_id for name, one in made.items()}
    parents = {name: one.about["parent"].span_id for name, one in made.items()}
    assert parents == {
        "run": 0, "submit": 99, "inc": ids["submit"], "user": ids["inc"], "inner": ids["user"],
        "phase": ids["inc"],
    }  # fmt: skip
    assert (made["inc"].about["start"], made["inc"].ended) == (1_004 * 10**9, 2_004 * 10**9)
    assert made["inc"].attributes[semconv.RUN_ID] == "run-1"
    assert len(set(told)) == 1
    assert "ApiOnly is not that of OpenTelemetry's SDK" in told[0]


# -- order ----------------------------------------------------------------------------------------


@pytest.fixture
def order() -> Iterator[SpanOrder]:
    order = SpanOrder(budget=100)
    yield order
    order.release(0.0, everything=True)
    assert order.waiting == 0


def names(items: list[Begun | ReadableSpan]) -> list[str]:
    return [f"+{it.span.name}" if isinstance(it, Begun) else it.name for it in items]


def test_a_submission_stays_open_until_its_tasks_have_ended(order: SpanOrder):
    order.submitted(span_context(TRACE, 2), None)
    order.note(output(submitted=2))
    order.add([span("submit", 2)], 0.0)
    assert names(order.release(0.0)) == ["+submit"]
    for number, at in ((3, 50.0), (4, 100.0)):
        attempt = task(f"t{number}", number, 2)
        order.note(output(attempt))
        order.add([attempt], at)
        assert names(order.release(at)) == []  # its own children may follow
        assert names(order.release(at + LINGER)) == (
            [f"t{number}"] if number == 3 else ["t4", "submit"]
        )


def test_a_submission_without_tasks_or_with_an_endless_one_is_not_open_for_ever(order: SpanOrder):
    order.submitted(span_context(TRACE, 2), None)
    order.add([span("none", 2)], 0.0)
    assert names(order.release(LINGER)) == ["+none"]
    assert names(order.release(HOLD)) == ["none"]
    order.submitted(span_context(TRACE, 3), None)
    order.note(output(submitted=1))
    order.add([span("endless", 3)], 0.0)
    assert names(order.release(MAX_OPEN - 1)) == ["+endless"]
    assert names(order.release(MAX_OPEN)) == ["endless"]


def test_a_span_waits_for_its_parent_but_not_for_long(order: SpanOrder):
    order.add([span("early", 5, 4)], 0.0)
    assert names(order.release(LINGER)) == []
    order.add([span("late", 6, 7), task("task", 4, 99)], 1.0)
    assert names(order.release(1.0 + HOLD)) == ["late", "+task", "early", "task"]
    order.add([span("later", 8, 4)], 20.0)
    assert names(order.release(20.0 + LINGER)) == ["later"]


def test_an_attempt_waits_longer_for_a_layer_that_is_known_to_come(order: SpanOrder):
    order.note(_no_output()._replace(parents=[(span_context(TRACE, 4), ())]))
    order.add([task("early", 5, 4)], 0.0)
    assert names(order.release(HOLD)) == []
    order.add([span("layer", 4, 99)], HOLD)
    assert names(order.release(2 * HOLD)) == ["+layer", "early", "layer"]
    order.note(_no_output()._replace(parents=[(span_context(TRACE, 6), ())]))
    order.add([task("alone", 7, 6)], 0.0)
    assert names(order.release(HOLD_KNOWN)) == ["alone"]


def test_spans_that_are_each_others_parents_are_passed_on_too(order: SpanOrder):
    order.add([span("one", 5, 6), span("two", 6, 5), span("self", 7, 7)], 0.0)
    assert names(order.release(0.0, everything=True)) == ["self", "+one", "two", "one"]
