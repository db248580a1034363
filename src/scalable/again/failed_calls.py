"""Keeps function and arguments of attempts that fail, where tasks run, and sends them away."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable
from typing import Any, Final

from scalable.again.calls import Call, KeptCall
from scalable.again.pickled import pickled
from scalable.again.settings import KeepSettings
from scalable.cache.store import TooLargeError
from scalable.code.sources import SourceText, program_sources
from scalable.code.tracebacks import is_unnamed
from scalable.common.forks import unlocked_in_forks
from scalable.facts.protocol import FAILED_CALL
from scalable.instrumentation import user_events
from scalable.instrumentation.propagation import current_attempt, run_of
from scalable.instrumentation.signatures import name_of
from scalable.instrumentation.task_calls import MISSING, TaskCall, call_of_exception

logger = logging.getLogger("scalable")

#: Bytes of one message: what is sent travels as facts do.
_PART: Final = 256 * 1024
#: Bytes and calls that one process sends for a run at most.
_MAX_BYTES: Final = 64 * 2**20
_MAX_CALLS: Final = 200


class KeptFailures:
    """Sends the calls of one run that fail to its recorder.

    Called by the threads that run tasks; see :func:`scalable.instrumentation.task_calls.around`.
    The arguments are those that the function has left behind: what it changes in place is changed.
    """

    def __init__(self, settings: KeepSettings) -> None:
        self._settings = settings
        self._lock = unlocked_in_forks(threading.Lock())
        #: What may still be sent.
        self._bytes = max(_MAX_BYTES, settings.failed)
        self._calls = _MAX_CALLS

    def __call__(self, call: TaskCall, proceed: Callable[[], Any]) -> Any:
        """Run a task, and send its call if it fails."""
        settings = self._settings
        if not settings.every_client and run_of(current_attempt.get()) != settings.run:
            return proceed()
        try:
            return proceed()
        except Exception as error:
            try:
                self._keep(call_of_exception(error) or call, error)
            except Exception as internal:
                user_events.guard.failed("failed_call", internal)
            raise

    def _keep(self, call: TaskCall, error: Exception) -> None:
        with self._lock:
            if self._calls <= 0:
                return
            self._calls -= 1
        about: dict[str, Any] = {"function": name_of(call.function)}
        try:
            data = pickled(
                KeptCall(_plain(call), _sources(error)), min(self._settings.failed, self._bytes)
            )
        except TooLargeError:
            self._send({**about, "not_kept": f"more than {self._settings.failed:,} bytes"})
            return
        except Exception as problem:
            # Anybody's code runs when a value is pickled.
            reason = f"it cannot be pickled ({type(problem).__name__}: {str(problem)[:200]})"
            self._send({**about, "not_kept": reason})
            return
        with self._lock:
            self._bytes -= len(data)
        about |= {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for start in range(0, max(1, len(data)), _PART):
            self._send({**about, "start": start, "data": data[start : start + _PART]})

    def _send(self, fields: dict[str, Any]) -> None:
        user_events.emit(FAILED_CALL, fields)


def _sources(error: BaseException) -> tuple[tuple[str, str, str], ...]:
    """The sources of the program that the traceback goes through, where no file is named."""
    found: dict[SourceText, None] = {}
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if is_unnamed(code.co_filename):
            located = program_sources().find(code)
            if located is not None:
                found[located.source] = None
        trace = trace.tb_next
    return tuple((source.name, source.text, source.file) for source in found)


def _plain(value: Any) -> Any:
    """Return a call without what only a worker knows of it."""
    if isinstance(value, TaskCall):
        arguments = tuple(_plain(each) for each in value.args)
        return Call(value.function, arguments, {k: _plain(v) for k, v in value.kwargs.items()})
    if value is MISSING:
        raise ValueError("an argument is not known where the task ran")
    if type(value) in (list, tuple):
        return type(value)(_plain(each) for each in value)
    return value
