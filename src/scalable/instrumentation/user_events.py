"""What the user's code asks to be recorded, from inside of any task or from the client itself."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from time import time
from typing import Any, Final

from distributed import get_worker

from scalable import facts
from scalable.common.forks import unlocked_in_forks
from scalable.common.guard import Guard
from scalable.facts import USER_EVENT, UserEvent
from scalable.facts.protocol import STREAM_OP
from scalable.instrumentation.dask_compat import was_made_here
from scalable.instrumentation.propagation import current_attempt, run_of

#: Takes the events of code that runs in no task; see :func:`add_handler`.
EventHandler = Callable[[UserEvent], None]

logger = logging.getLogger("scalable")

#: Errors of this room, in any run of the process.
guard: Final = Guard()

_own_handler: ContextVar[EventHandler | None] = ContextVar("scalable_handler", default=None)
_handlers: list[EventHandler] = []
_lock = unlocked_in_forks(threading.Lock())
#: What the user has been told already.
_told: set[str] = set()


def add_handler(handler: EventHandler) -> Callable[[], None]:
    """Let `handler` have the events of this process's own code; returns what ends that.

    Where there are several, code gets the one of its own context, else the latest.
    """
    with _lock:
        _handlers.append(handler)
    _own_handler.set(handler)

    def end() -> None:
        with _lock:
            if handler in _handlers:
                _handlers.remove(handler)
        if _own_handler.get() is handler:
            _own_handler.set(None)

    return end


def emit(event_type: str, fields: Mapping[str, Any]) -> bool:
    """Record an event of the attempt that is running in this thread, or of the client's run.

    Parameters
    ----------
    event_type : {"artifact", "cost", "cache", "metric"}
        What it is.
    fields : mapping
        Fields of the record: plain values.

    Returns
    -------
    bool
        False if no run takes it.
    """
    try:
        task = _current_task()
        if task is None:
            return _to_client(event_type, dict(fields))
        worker, run, key, run_id = task
        now = time() + worker.scheduler_delay
        fact = _bounded(
            UserEvent(USER_EVENT, now, key, run_id, worker.address, event_type, dict(fields))
        )
        if fact is None:
            return False
        message = {"op": STREAM_OP, **facts.report([(run, tuple(fact))])}
        # The stream belongs to the worker's loop. What is sent now comes before the task's result.
        worker.loop.add_callback(_send, worker, message)
        return True
    except BaseException as error:
        guard.failed("user_event", error)
        return False


def _current_task() -> tuple[Any, str | None, str, int] | None:
    """Worker, run, key and Dask's number of the attempt whose code is running here."""
    attempt = current_attempt.get()
    if attempt is None:
        return None
    try:
        worker: Any = get_worker()
    except ValueError:
        return None
    if not was_made_here(worker):  # a process forked from the worker's
        return None
    return worker, run_of(attempt), attempt.key, attempt.run_id


def _send(worker: Any, message: Mapping[str, Any]) -> None:
    try:
        worker.batched_send(message)
    except BaseException as error:
        guard.failed("user_event", error)


def _to_client(event_type: str, fields: dict[str, Any]) -> bool:
    handler = _own_handler.get()
    with _lock:
        if handler not in _handlers:
            handler = _handlers[-1] if _handlers else None
    if handler is None:
        return False
    fact = _bounded(client_event(event_type, fields))
    if fact is not None:
        handler(fact)
    return fact is not None


def _bounded(fact: UserEvent) -> UserEvent | None:
    """With its long texts cut, or None where it is too large all the same; the user is told."""
    small: Any = facts.bounded(fact)
    if small is not fact:
        what = "left out" if small is None else f"cut to {facts.MAX_TEXT:,} characters a text"
        sentence = f"a recorded {fact.event_type} is too large and was {what}"
        if sentence not in _told:
            _told.add(sentence)
            logger.warning("scalable: %s", sentence)
    return small


def client_event(event_type: str, fields: Mapping[str, Any]) -> UserEvent:
    """An event of code that is no task's, on this process's clock."""
    return UserEvent(USER_EVENT, time(), None, None, "", event_type, dict(fields))
