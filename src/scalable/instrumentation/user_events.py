"""Events that user code records, from inside any task or from the program itself."""

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

#: Errors of this module, in any run of the process.
guard: Final = Guard()

#: Gets the events of the code of this context as well, before they are recorded.
observer: Final[ContextVar[Callable[[str, Mapping[str, Any]], None] | None]] = ContextVar(
    "scalable_observer", default=None
)
_own_handler: ContextVar[EventHandler | None] = ContextVar("scalable_handler", default=None)
_handlers: list[EventHandler] = []
_lock = unlocked_in_forks(threading.Lock())
#: Warnings that were logged; each is logged once.
_logged: set[str] = set()


def add_handler(handler: EventHandler) -> Callable[[], None]:
    """Pass the events of this process's own code to `handler`; returns what ends that.

    If there are several, that of the code's context gets them, else the latest.
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
    """Record an event of the attempt that is running in this thread, or of the program's run.

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
        observe = observer.get()
        if observe is not None:
            observe(event_type, fields)
        attempt = current_attempt.get()
        worker = _worker_here() if attempt is not None else None
        if attempt is None or worker is None:
            return _to_program(client_event(event_type, fields))
        now = time() + attempt.ahead
        key, run_id = attempt.key, attempt.run_id
        fact = _bounded(
            UserEvent(USER_EVENT, now, key, run_id, worker.address, event_type, dict(fields))
        )
        if fact is None:
            return False
        message = {"op": STREAM_OP, **facts.report([(run_of(attempt), tuple(fact))])}
        # The stream belongs to the worker's loop. What is sent now comes before the task's result.
        worker.loop.add_callback(_send, worker, message)
        return True
    except BaseException as error:
        guard.failed("user_event", error)
        return False


def _worker_here() -> Any:
    """The worker of the task that runs here; None in a process forked from the worker's."""
    try:
        worker = get_worker()
    except ValueError:
        return None
    return worker if was_made_here(worker) else None


def _send(worker: Any, message: Mapping[str, Any]) -> None:
    try:
        worker.batched_send(message)
    except BaseException as error:
        guard.failed("user_event", error)


def _to_program(event: UserEvent) -> bool:
    handler = _own_handler.get()
    with _lock:
        if handler not in _handlers:
            handler = _handlers[-1] if _handlers else None
    fact = _bounded(event) if handler is not None else None
    if handler is None or fact is None:
        return False
    handler(fact)
    return True


def _bounded(fact: UserEvent) -> UserEvent | None:
    """With its long texts cut, or None if it is still too large; that is logged once."""
    small: Any = facts.bounded(fact)
    if small is not fact:
        what = "left out" if small is None else f"cut to {facts.MAX_TEXT:,} characters a text"
        sentence = f"a recorded {fact.event_type} is too large and was {what}"
        if sentence not in _logged:
            _logged.add(sentence)
            logger.warning("scalable: %s", sentence)
    return small


def client_event(event_type: str, fields: Mapping[str, Any]) -> UserEvent:
    """An event of code outside of tasks, on this process's clock."""
    return UserEvent(USER_EVENT, time(), None, None, "", event_type, dict(fields))
