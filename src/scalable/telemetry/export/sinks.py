"""Destinations of batches of signals: exporters of the SDK, or the application's providers."""

from __future__ import annotations

import logging
import re
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeVar

from opentelemetry.context import (
    _SUPPRESS_INSTRUMENTATION_KEY,  # pyright: ignore[reportPrivateUsage]
    Context,
    attach,
    detach,
    set_value,
)
from opentelemetry.sdk.trace import ReadableSpan

from scalable.telemetry import semconv
from scalable.telemetry.export.exporter_logs import log_filter

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)

_logger = logging.getLogger("scalable")


class UndeliverableError(Exception):
    """A batch was not accepted.

    Attributes
    ----------
    permanent : bool
        It will not be accepted later either.
    count : int or None
        How many of its items were not accepted; None: all of them.
    reason : str
        One of few: a status of HTTP or gRPC, or `_OTHER`, as values of `error.type` are.
    """

    def __init__(self, text: str, *, permanent: bool = False, count: int | None = None) -> None:
        super().__init__(text)
        self.permanent = permanent
        self.count = count
        status = _HTTP_STATUS.search(text) or _GRPC_STATUS.search(text)
        self.reason = semconv.OTHER_ERRORS if status is None else status[1]


class Begun(NamedTuple):
    """A span that has begun and ends with a later item, which is the one that is counted."""

    span: ReadableSpan
    #: The context in which it began, besides its parent; None: that of its parent.
    context: Context | None


class Sink(Protocol[T_contra]):
    """Destination of batches; :meth:`send` is called by the shipper's thread."""

    @property
    def component(self) -> type:
        """Class of the exporter or provider, which names it in metrics."""
        ...

    def send(self, batch: Sequence[T_contra]) -> None:
        """Send a batch; raises :class:`UndeliverableError` if it was not accepted."""
        ...

    def shutdown(self) -> None:
        """Finish, and interrupt what waits. Called by any thread, never raises."""
        ...


class ExporterSink(Generic[T]):
    """An exporter of the SDK as a sink; a `single` one exports one item at a time: metrics."""

    def __init__(self, exporter: Any, *, single: bool = False) -> None:
        self._exporter = exporter
        self.component = type(getattr(exporter, "limited", exporter))
        self._single = single

    def send(self, batch: Sequence[T]) -> None:
        """Export; what the exporter logs about a failure becomes the error's text."""
        with _own_export():
            for unit in batch if self._single else (batch,):
                result = self._exporter.export(unit)
                # SUCCESS of every signal's result; without a result the batch was accepted.
                if result is not None and getattr(result, "value", result) != 0:
                    text = log_filter.last_message() or "the exporter reports a failure"
                    raise UndeliverableError(text, permanent=_is_permanent(text))

    def shutdown(self) -> None:
        """Shut the exporter down; its messages are not needed any more."""
        log_filter.capture()
        try:
            self._exporter.shutdown()
        except Exception as error:
            _logger.debug("an exporter could not be shut down", exc_info=error)
        finally:
            log_filter.release()


@contextmanager
def _own_export() -> Generator[None]:
    """An exporter of ours works: its HTTP client is not traced, and its messages are captured.

    Not for what belongs to the application: the key silences its processors too.
    """
    log_filter.capture()
    log_filter.clear()
    token = attach(set_value(_SUPPRESS_INSTRUMENTATION_KEY, True))
    try:
        yield
    finally:
        detach(token)
        log_filter.release()


_HTTP_STATUS: Final = re.compile(r"\bcode: (\d{3})\b")
_GRPC_STATUS: Final = re.compile(r"StatusCode\.([A-Z_]+)")
_GRPC_PERMANENT: Final = frozenset(
    {
        "INVALID_ARGUMENT",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "UNAUTHENTICATED",
        "FAILED_PRECONDITION",
        "UNIMPLEMENTED",
    }
)


def _is_permanent(text: str) -> bool:
    """Whether an exporter's message is about a batch that will never be accepted."""
    http = _HTTP_STATUS.search(text)
    if http is not None:
        # 4xx, except for timeouts and "too many".
        return http[1].startswith("4") and http[1] not in ("408", "429")
    grpc = _GRPC_STATUS.search(text)
    if grpc is not None:
        return grpc[1] in _GRPC_PERMANENT
    return "max_request_size" in text or "Failed to encode" in text
