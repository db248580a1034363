"""Records of Python's logging: of tasks, and of Dask itself, on their way into the run.

No handler is added: a handler on the root logger would silence Python's last resort and turn a
user's ``basicConfig()`` into nothing. Instead every record passes a collector on its way to the
handlers that there are, whatever those are; levels stay as they are.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from typing import Any, Final

from opentelemetry import trace

from scalable import facts
from scalable.code.tracebacks import format_exception
from scalable.common.forks import let_go_in_forks, unlocked_in_forks
from scalable.common.guard import Guard
from scalable.facts import MAX_TEXT
from scalable.facts.relay_items import LogItem
from scalable.facts.texts import module_of, printable, qualified
from scalable.instrumentation import otel_compat
from scalable.instrumentation.outbox import Outbox
from scalable.instrumentation.propagation import attempt_of, run_of
from scalable.instrumentation.relay_values import encode, position

#: Loggers whose records are never taken: exporting a record must not cause another one.
_NEVER: Final = ("scalable", "opentelemetry")
_DASK: Final = "distributed"
#: Python's levels, and the severity number of OpenTelemetry at which each range begins.
_SEVERITIES: Final = ((50, 21), (40, 17), (30, 13), (20, 9), (10, 5), (0, 1))
#: What every record has; the rest is what the caller gave as `extra`.
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

#: Has `here` set while this thread takes a record: what is logged meanwhile is not taken.
_busy = threading.local()
_collectors: tuple[LogCollector, ...] = ()
_lock = unlocked_in_forks(threading.Lock())


class LogCollector:
    """Takes the records of one worker, or of one scheduler's or nanny's process.

    Called by whichever thread logs.

    Parameters
    ----------
    outbox : Outbox
        Where records go.
    clock : callable
        How far the scheduler's clock is ahead, in seconds.
    guard : Guard
        Counts what went wrong.
    everything : bool
        Take all records of the process, not only those of tasks and of Dask.
    """

    def __init__(
        self,
        outbox: Outbox,
        clock: Callable[[], float],
        guard: Guard,
        *,
        everything: bool = False,
    ) -> None:
        self.outbox = outbox
        self.level: float = logging.INFO
        self._clock = clock
        self._guard = guard
        self._everything = everything

    def start(self) -> None:
        """Take records from now on."""
        global _collectors
        let_go_in_forks(self)
        with _lock:
            _collectors = (*_collectors, self)
        _patch.apply()

    def stop(self) -> None:
        """Take no more."""
        with _lock:
            self.after_fork()
        _patch.undo()

    def after_fork(self) -> None:
        """Take no more, in a forked process."""
        global _collectors
        _collectors = tuple(found for found in _collectors if found is not self)

    def wants(self, record: logging.LogRecord, attempt: Any) -> bool:
        """Whether a record is one for the run."""
        if record.levelno < self.level:
            return False
        return attempt is not None or self._everything or is_of_dask(record.name)

    def take(self, record: logging.LogRecord, attempt: Any) -> None:
        """Put a record into the outbox."""
        try:
            ahead = self._clock() if attempt is None else attempt.ahead
            item = encode(_item(record, int(ahead * 1e9), attempt))
            self.outbox.put(facts.RELAY_LOGS, run_of(attempt), item)
        except BaseException as error:
            self._guard.failed("relay_log", error)


def _collecting(original: Callable[..., Any]) -> Callable[..., Any]:
    def callHandlers(self: logging.Logger, record: logging.LogRecord) -> Any:  # noqa: N802
        taken_by = None
        if _collectors and not getattr(_busy, "here", False):
            with contextlib.suppress(Exception):
                taken_by = _guarded(_taker, self, record)
        if taken_by is None:
            return original(self, record)
        before, _busy.handling = handled(), record.name
        try:
            return original(self, record)
        finally:
            _busy.handling = before
            _guarded(taken_by[0].take, record, taken_by[1])

    return callHandlers


def _guarded(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function; what is logged meanwhile is not taken."""
    _busy.here = True
    try:
        return function(*args)
    finally:
        _busy.here = False


def handled() -> str:
    """Logger of the record that the run takes and whose handlers are running in this thread."""
    return getattr(_busy, "handling", "")


def is_of_dask(logger: str) -> bool:
    """Whether a logger is one of Dask's."""
    return _below(logger, _DASK)


_patch: Final = otel_compat.logging_patch(_collecting)


def _taker(logger: logging.Logger, record: logging.LogRecord) -> tuple[LogCollector, Any] | None:
    """Who takes a record: the collector of the attempt's worker, else the first that wants it.

    In a process with a scheduler the scheduler's comes first. With the attempt; None if none does.
    """
    if any(_below(record.name, name) for name in _NEVER):
        return None
    attempt: Any = attempt_of(trace.get_current_span())
    own = [found for found in _collectors if attempt and found.outbox is attempt.outbox]
    for collector in own or _collectors:
        if collector.wants(record, attempt):
            return None if _exported(logger, record) else (collector, attempt)
    return None


def _exported(logger: logging.Logger, record: logging.LogRecord) -> bool:
    """Whether a handler of OpenTelemetry exports the record already."""
    current: logging.Logger | None = logger
    while current is not None:
        for handler in current.handlers:
            if (
                record.levelno >= handler.level
                and type(handler).__name__ == "LoggingHandler"
                and type(handler).__module__.startswith("opentelemetry.")
            ):
                return True
        current = current.parent if current.propagate else None
    return False


def _item(record: logging.LogRecord, shift: int, attempt: Any) -> LogItem:
    attributes: dict[str, Any] = {
        "code.file.path": record.pathname,
        "code.function.name": record.funcName,
        "code.line.number": record.lineno,
        "thread.id": record.thread,
        "thread.name": record.threadName,
    }
    for name, value in vars(record).items():
        # The stock instrumentation adds ids of the span, which the item has.
        if name not in _STANDARD and not name.startswith("otel"):
            plain = isinstance(value, str | bool | int | float)
            attributes[name] = value if plain else printable(value, limit=MAX_TEXT)
    if record.exc_info and record.exc_info[0] is not None:
        kind, error, frames = record.exc_info
        attributes["exception.type"] = qualified(module_of(kind), kind.__qualname__)
        attributes["exception.message"] = printable(error, limit=MAX_TEXT)
        text = format_exception(error, frames)
        attributes["exception.stacktrace"] = printable(text, limit=MAX_TEXT)
    ids = trace.get_current_span().get_span_context()
    return {
        "time": int(record.created * 1e9) + shift,
        "severity": _severity(record.levelno),
        "severity_text": record.levelname,
        "level": record.levelno,
        "event": None,
        "body": _message(record),
        "attributes": attributes,
        "scope": (record.name, None, None),
        **position(ids.trace_id, ids.span_id, ids.trace_flags, attempt),
    }


def _message(record: logging.LogRecord) -> str:
    try:
        text = record.getMessage()
    except Exception:  # arguments that do not fit; Python's own handlers report it
        text = f"{printable(record.msg)} {printable(record.args)}"
    return printable(text, limit=MAX_TEXT)


def _severity(level: int) -> int:
    for begin, severity in _SEVERITIES:
        if level >= begin:
            return min(severity + 3, severity + (level - begin) * 4 // 10)
    return 1


def _below(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")
