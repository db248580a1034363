"""Shippers: bounded, patient, and gone in time."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from time import monotonic
from types import SimpleNamespace

import pytest

from scalable.telemetry.export.shipping import MAX_BYTES, Limits, Shipper, limits_from
from scalable.telemetry.export.sinks import ExporterSink, UndeliverableError


class Sink:
    """Takes what it is told to take."""

    def __init__(self, *troubles: Exception) -> None:
        self.troubles = list(troubles)
        self.got: list[int] = []
        self.sizes: list[int] = []
        self.changed = threading.Condition()
        self.open = threading.Event()
        self.open.set()
        self.ended = False

    def send(self, batch: Sequence[int]) -> None:
        self.open.wait()
        with self.changed:
            self.changed.notify_all()
            if self.troubles:
                raise self.troubles.pop(0)
            self.got += batch
            self.sizes.append(len(batch))

    def shutdown(self) -> None:
        self.ended = True
        self.open.set()

    def wait_for(self, count: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.got) >= count, 30)


def shipper(sink: Sink, told: list[str], capacity: int = 100) -> Shipper[int]:
    return Shipper("traces", sink, Limits(capacity, 10, 0.01), told.append)


def test_batches_arrive_in_order_and_closing_sends_the_rest():
    sink, told = Sink(), []
    one = shipper(sink, told)
    one.put(range(25))
    one.close(monotonic() + 30)
    assert sink.got == list(range(25))
    assert max(sink.sizes) <= 10
    assert (one.counts.sent, one.counts.failed, one.counts.dropped) == (25, 0, 0)
    assert sink.ended
    assert told == []


def test_nothing_put_starts_no_thread():
    before = threading.active_count()
    one = shipper(Sink(), [])
    assert threading.active_count() == before
    one.close(monotonic() + 30)


def test_what_was_not_taken_is_sent_again(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("scalable.telemetry.export.shipping.FIRST_PAUSE", 0.01)
    sink, told = Sink(UndeliverableError("away"), UndeliverableError("still away")), []
    one = shipper(sink, told)
    one.put(range(5))
    sink.wait_for(5)
    one.close(monotonic() + 30)
    assert sink.got == list(range(5))
    assert told == ["away", "still away"]
    assert (one.counts.sent, one.counts.failures, one.counts.failed) == (5, 2, 0)


def test_what_will_never_be_taken_is_not_sent_again():
    sink, told = Sink(UndeliverableError("no such thing", permanent=True)), []
    one = shipper(sink, told)
    one.put(range(10))
    one.put(range(10, 20))
    sink.wait_for(10)
    one.close(monotonic() + 30)
    assert sink.got == list(range(10, 20))
    assert (one.counts.sent, one.counts.failed) == (10, 10)


def test_a_full_queue_drops_the_oldest_and_counts_them():
    sink = Sink()
    sink.open.clear()
    one = shipper(sink, [], capacity=20)
    for number in range(100):
        one.put([number])
    sink.open.set()
    one.close(monotonic() + 30)
    assert len(sink.got) == 100 - one.counts.dropped
    assert one.counts.dropped >= 100 - 20 - 10
    assert sink.got[-1] == 99


def test_closing_gives_up_at_its_deadline_and_counts_what_is_left():
    sink, told = Sink(), []
    sink.open.clear()
    one = shipper(sink, told)
    one.put(range(30))
    one.close(monotonic() + 0.05)
    assert one.counts.failed == 30
    assert one.counts.sent == 0
    assert "took too long" in told[0]


def test_limits_are_the_specifications_variables():
    environ = {"OTEL_BSP_SCHEDULE_DELAY": "200", "OTEL_BSP_MAX_QUEUE_SIZE": "64"}
    assert limits_from(environ, "OTEL_BSP", 10_000) == Limits(64, 64, 0.2)
    broken = {"OTEL_BSP_SCHEDULE_DELAY": "soon", "OTEL_BSP_MAX_QUEUE_SIZE": "-3"}
    assert limits_from(broken, "OTEL_BSP", 10_000) == Limits(10_000, 512, 5.0)


class Exporter:
    """Fails as the SDK's exporters do: with a log record and a result."""

    def __init__(self, said: str) -> None:
        self.said = said

    def export(self, batch: object) -> object:
        logging.getLogger("opentelemetry.exporter.otlp.test").error(self.said)

        class Result:
            value = 1

        return Result()

    def shutdown(self) -> None: ...


@pytest.mark.parametrize(
    ("said", "permanent"),
    [
        ("Failed to export spans batch code: 400, reason: Bad Request", True),
        ("Failed to export spans batch code: 401, reason: Unauthorized", True),
        ("Failed to export spans batch code: 429, reason: Too Many Requests", False),
        ("Failed to export spans batch code: 503, reason: Unavailable", False),
        ("Failed to export, error code: StatusCode.UNAVAILABLE", False),
        ("Failed to export, error code: StatusCode.UNIMPLEMENTED", True),
    ],
)
def test_exporters_words_become_the_error_and_reach_no_handler(
    said: str, permanent: bool, caplog: pytest.LogCaptureFixture
):
    logging.getLogger("opentelemetry.exporter.otlp.test")
    told: list[str] = []
    one: Shipper[int] = Shipper(
        "traces", ExporterSink(Exporter(said)), Limits(10, 10, 0.01), told.append
    )
    one.put([1])
    one.close(monotonic() + 30)
    assert told[0] == said
    assert one.counts.failed == 1
    assert one.counts.failures == (1 if permanent else 2)  # closing tries once more
    assert caplog.records == []
    logging.getLogger("opentelemetry.exporter.otlp.test").error("from somebody else")
    assert len(caplog.records) == 1


def test_what_waits_is_bounded_in_bytes_too():
    sink, told = Sink(), []
    sink.open.clear()
    one: Shipper[SimpleNamespace] = Shipper("traces", sink, Limits(1_000, 1, 0.0), told.append)
    item = SimpleNamespace(attributes={"exception.message": "x" * 2**20})
    one.put([item] * 200)
    most = MAX_BYTES // 2**20
    assert one.waiting <= most + 1
    assert one.counts.dropped >= 200 - most - 1
    one.close(monotonic())
