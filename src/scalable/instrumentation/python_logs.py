"""Records of Python's logging: of tasks, and of Dask itself, on their way into the run.

No handler is added: a handler on the root logger would silence Python's last resort and turn a
user's ``basicConfig()`` into nothing. Instead every record passes a collector on its way to the
handlers that there are, whatever those are; levels stay as they are.
"""

from __future__ import annotations

import logging
import threading
import traceback
from collections.abc import Callable
from typing import Any, Final

from opentelemetry import trace

from scalable import facts
from scalable.common.forks import let_go_in_forks, unlocked_in_forks
from scalable.common.guard import Guard, printable
from scalable.facts import MAX_TEXT
from scalable.instrumentation import otel_compat
from scalable.instrumentation.outbox import Outbox, encode
from scalable.instrumentation.propagation import attempt_of, run_of

#: Whose records are never taken: what is said on the way out must not be sent out again.
_NEVER: Final = ("scalable", "opentelemetry")
_DASK: Final = "distributed"
#: Python's levels and the severity of OpenTelemetry at which each range begins.
_SEVERITIES: Final = ((50, 21), (40, 17), (30, 13), (20, 9), (10, 5), (0, 1))
#: What every record has; the rest is what the caller gave as `extra`.
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

#: Set while a record is being taken, in that thread.
_busy = threading.local()
_lock = unlocked_in_forks(threading.Lock())
_collectors: tuple[LogCollector, ...] = ()
_original: Callable[..., Any] | None = None


class LogCollector:
    """Takes the records of one worker, or of one scheduler's process.

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
        The process is a worker's: its other records count as well as those of tasks and of Dask.
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
        """Listen from now on."""
        global _collectors, _original
        let_go_in_forks(self)
        with _lock:
            _collectors = (*_collectors, self)
            if _original is None:
                _original = otel_compat.call_handlers()
                otel_compat.set_call_handlers(_listening(_original))

    def stop(self) -> None:
        """Listen no more; the last one gives Python's own method back."""
        global _collectors, _original
        with _lock:
            self.after_fork()
            ours = getattr(otel_compat.call_handlers(), "_scalable", False)
            # Somebody may have wrapped the method after us: theirs stays, and finds nobody.
            if not _collectors and _original is not None and ours:
                otel_compat.set_call_handlers(_original)
                _original = None

    def after_fork(self) -> None:
        """Listen no more, in a forked process."""
        global _collectors
        _collectors = tuple(collector for collector in _collectors if collector is not self)

    def wants(self, record: logging.LogRecord, attempt: Any) -> bool:
        """Whether a record is one for the run."""
        if record.levelno < self.level:
            return False
        return attempt is not None or self._everything or _below(record.name, _DASK)

    def take(self, record: logging.LogRecord, attempt: Any) -> None:
        """Put a record into the outbox."""
        try:
            item = encode(_item(record, int(self._clock() * 1e9), attempt))
            self.outbox.put(facts.RELAY_LOGS, run_of(attempt), item)
        except BaseException as error:
            self._guard.failed("relay_log", error)


def _listening(original: Callable[..., Any]) -> Callable[..., Any]:
    def callHandlers(self: logging.Logger, record: logging.LogRecord) -> Any:  # noqa: N802
        try:
            return original(self, record)
        finally:
            if _collectors and not getattr(_busy, "here", False):
                _busy.here = True
                try:
                    _receive(self, record)
                finally:
                    _busy.here = False

    callHandlers.__dict__["_scalable"] = True
    return callHandlers


def _receive(logger: logging.Logger, record: logging.LogRecord) -> None:
    """Give a record to the one collector whose it is."""
    if any(_below(record.name, name) for name in _NEVER):
        return
    attempt: Any = attempt_of(trace.get_current_span())
    for collector in _in_order(attempt):
        if collector.wants(record, attempt):
            if not _exported(logger, record):
                collector.take(record, attempt)
            return


def _in_order(attempt: Any) -> tuple[LogCollector, ...]:
    """The collector of the attempt's worker first; else whoever came first: the scheduler."""
    if attempt is not None:
        own = tuple(found for found in _collectors if found.outbox is attempt.outbox)
        if own:
            return own
    return _collectors


def _exported(logger: logging.Logger, record: logging.LogRecord) -> bool:
    """A handler of OpenTelemetry's takes the record already: it must not be sent twice."""
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


def _item(record: logging.LogRecord, shift: int, attempt: Any) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "code.file.path": record.pathname,
        "code.function.name": record.funcName,
        "code.line.number": record.lineno,
        "thread.id": record.thread,
        "thread.name": record.threadName,
    }
    for name, value in vars(record).items():
        # What the stock instrumentation adds stands in the record's own fields.
        if name not in _STANDARD and not name.startswith("otel"):
            plain = isinstance(value, str | bool | int | float)
            attributes[name] = value if plain else printable(value, limit=MAX_TEXT)
    if record.exc_info and record.exc_info[0] is not None:
        kind, error, _ = record.exc_info
        attributes["exception.type"] = kind.__qualname__
        attributes["exception.message"] = printable(error, limit=MAX_TEXT)
        attributes["exception.stacktrace"] = printable(
            "".join(traceback.format_exception(*record.exc_info)), limit=MAX_TEXT
        )
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
        "trace": f"{ids.trace_id:032x}" if ids.is_valid else None,
        "span": f"{ids.span_id:016x}" if ids.is_valid else None,
        "flags": int(ids.trace_flags),
        "task": attempt.key if attempt is not None else None,
    }


def _message(record: logging.LogRecord) -> str:
    try:
        text = record.getMessage()
    except Exception:  # arguments that do not fit: Python's own handlers report it
        text = f"{printable(record.msg)} {printable(record.args)}"
    return printable(text, limit=MAX_TEXT)


def _severity(level: int) -> int:
    for begin, severity in _SEVERITIES:
        if level >= begin:
            return min(severity + 3, severity + (level - begin) * 4 // 10)
    return 1


def _below(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")
