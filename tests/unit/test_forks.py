"""A process forked while another thread is at work neither hangs nor records."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

import pytest
from opentelemetry import _logs, metrics, trace
from opentelemetry._logs import LogRecord

from scalable.common import forks
from scalable.common.guard import Guard
from scalable.instrumentation import otel_compat, outbox, python_logs
from scalable.instrumentation.process_resource import process_resource
from scalable.instrumentation.python_logs import LogCollector
from scalable.instrumentation.relay_providers import RelayProviders

SDK = "scalable.instrumentation.relay_sdk"


class Loop:
    """An event loop that counts what other threads ask of it."""

    def __init__(self) -> None:
        self.asked = 0

    def call_soon_threadsafe(self, *_: Any) -> None:
        self.asked += 1

    call_later = call_soon_threadsafe


@pytest.fixture
def loop() -> Loop:
    return Loop()


@pytest.fixture
def box(loop) -> outbox.Outbox:
    return outbox.Outbox(loop, str, lambda reports: None, process_resource())


@pytest.fixture
def relay(box) -> Iterator[RelayProviders]:
    found = {signal: otel_compat.otel_provider(signal) for signal in ("traces", "metrics", "logs")}
    for signal_ in found:
        otel_compat.place_otel_provider(signal_, None)
    made = RelayProviders(box, float, Guard())
    made.start()
    yield made
    made.stop()
    for signal_, provider in found.items():
        otel_compat.place_otel_provider(signal_, provider)


class SlowImport:
    """The import of one module takes until `goes_on` is set."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.began, self.goes_on = threading.Event(), threading.Event()

    def find_spec(self, name: str, path: Any = None, _: Any = None) -> ModuleSpec | None:
        found = PathFinder.find_spec(name, path) if name == self.name else None
        if found is not None and found.loader is not None:
            execute = found.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                self.began.set()
                self.goes_on.wait(60)
                execute(module)

            found.loader.exec_module = exec_module  # pyright: ignore[reportAttributeAccessIssue]
        return found


@pytest.fixture
def slow_import(monkeypatch) -> Iterator[SlowImport]:
    finder = SlowImport(SDK)
    monkeypatch.delitem(sys.modules, SDK, raising=False)
    monkeypatch.setattr(sys, "meta_path", [finder, *sys.meta_path])
    yield finder
    finder.goes_on.set()


def in_a_fork(work: Callable[[], object]) -> int:
    """Run `work` in a forked process; returns its exit status."""
    forked = os.fork()
    if not forked:
        signal.alarm(30)
        with contextlib.suppress(BaseException):
            work()
            os._exit(0)
        os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(forked, 0)[1])


def record_everything() -> None:
    with trace.get_tracer("child").start_as_current_span("span"):
        metrics.get_meter("child").create_counter("count").add(1)
        _logs.get_logger("child").emit(LogRecord(body="record"))
        logging.getLogger("child").warning("said")


def test_a_fork_during_the_first_use_does_not_hang_at_its_own(relay, slow_import, monkeypatch):
    monkeypatch.setattr(forks, "FORK_WAIT", 0.01)
    tracer = trace.get_tracer("here")

    def use() -> None:
        tracer.start_span("first").end()

    first = threading.Thread(target=use)
    first.start()
    slow_import.began.wait()
    try:
        assert in_a_fork(lambda: (use(), record_everything())) == 0
    finally:
        slow_import.goes_on.set()
        first.join()


def test_a_fork_waits_for_what_is_being_imported(relay, slow_import, monkeypatch):
    """Else nobody in the child could ever import it."""
    first = threading.Thread(target=lambda: trace.get_tracer("here").start_span("first").end())
    first.start()
    slow_import.began.wait()
    lock = forks.no_fork

    class Asked:
        def acquire(self, **options: Any) -> bool:
            slow_import.goes_on.set()
            return lock.acquire(**options)

        release = lock.release

    monkeypatch.setattr(forks, "no_fork", Asked())
    assert in_a_fork(lambda: importlib.import_module(SDK)) == 0
    first.join()


def test_a_thread_that_forks_in_the_middle_of_an_import_may(monkeypatch):
    with forks.no_fork:
        assert in_a_fork(lambda: None) == 0


def test_a_forked_process_records_nothing(relay, box, loop):
    everything = LogCollector(box, float, Guard(), everything=True)
    everything.start()
    try:
        with trace.get_tracer("here").start_as_current_span("left in the child") as span:
            asked = loop.asked

            def work() -> None:
                record_everything()
                span.end()
                relay.collect(force=True)
                assert otel_compat.otel_provider("traces") is None
                assert (box.empty(), loop.asked) == ([], asked)

            assert in_a_fork(work) == 0
        record_everything()
        kinds = [report[1][0] for report in box.empty()]
        assert len(kinds) == 2  # spans and log records
    finally:
        everything.stop()


def test_no_lock_is_held_in_a_fork():
    lock = python_logs._lock
    held, over = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            over.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    try:
        assert in_a_fork(lambda: lock.acquire(timeout=10) or 1 / 0) == 0
    finally:
        over.set()
        thread.join()
