"""What exporters log about their exports: hidden from the user's handlers, and kept as reasons."""

from __future__ import annotations

import logging
import threading
from typing import Final

_EXPORTERS_LOGGERS: Final = ("opentelemetry.exporter", "urllib3", "requests", "grpc", "httpx")


class ExporterLogFilter(logging.Filter):
    """Hides log records of exporters about exports from all handlers, and keeps their text.

    An SDK exporter logs why it failed, and returns only that it did. The user gets one warning
    instead of one per batch, and no handler can send such a record over the broken connection. The
    records are recognised by their thread. A filter sees only records of its own logger, so it is
    added to each logger that exporters use.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._threads: dict[int, int] = {}
        self._messages: dict[int, str] = {}
        self._loggers: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Pass records that are not about exports."""
        thread = record.thread
        if thread not in self._threads:
            return True
        try:
            if record.levelno >= logging.WARNING:
                self._messages[thread] = record.getMessage()
        except Exception:
            self._messages[thread] = str(record.msg)
        return False

    def capture(self) -> None:
        """Capture the records of the calling thread."""
        thread = threading.get_ident()
        with self._lock:
            self._threads[thread] = self._threads.get(thread, 0) + 1
        self._add_to_loggers()

    def release(self) -> None:
        """Undo one :meth:`capture`."""
        thread = threading.get_ident()
        with self._lock:
            self._threads[thread] -= 1
            if not self._threads[thread]:
                del self._threads[thread]
                self._messages.pop(thread, None)

    def clear(self) -> None:
        """Before an export: forget earlier messages."""
        self._messages.pop(threading.get_ident(), None)
        self._add_to_loggers()

    def last_message(self, thread: int | None = None) -> str:
        """Return the last message of a thread, by default the calling one."""
        return self._messages.get(threading.get_ident() if thread is None else thread, "")

    def _add_to_loggers(self) -> None:
        # Repeated, because an exporter imports modules with loggers at first use.
        for name in list(logging.root.manager.loggerDict):
            if name.startswith(_EXPORTERS_LOGGERS) and name not in self._loggers:
                self._loggers.add(name)
                # First, because another filter there drops repeated records.
                logging.getLogger(name).filters.insert(0, self)


#: The filter of this process.
log_filter: Final = ExporterLogFilter()
