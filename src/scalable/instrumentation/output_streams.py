"""Notes what tasks write to Python's ``sys.stdout`` and ``sys.stderr``.

The streams stay the objects that they are, with all of their attributes: only their method `write`
is wrapped, and passes on what it is called with before anything else happens. Output of C libraries
and of other processes does not pass there; see :mod:`scalable.instrumentation.raw_output`.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from scalable.common.forks import let_go_in_forks, unlocked_in_forks
from scalable.facts.identity import carried
from scalable.facts.protocol import OUTPUT
from scalable.facts.relay_items import BY_ELIMINATION, LOGGED
from scalable.instrumentation import python_logs
from scalable.instrumentation.printed import Printed, guard
from scalable.instrumentation.propagation import current_attempt

if TYPE_CHECKING:
    from scalable.instrumentation.raw_output import RecentOutput

#: Number and name of each stream.
_STREAMS: Final = ((1, "stdout"), (2, "stderr"))

_collectors: tuple[OutputCollector, ...] = ()
_lock = unlocked_in_forks(threading.Lock())
#: Stream, its wrapped method, and what its own dictionary had in that place.
_tapped: list[tuple[Any, Any, Any]] = []
_MISSING: Final = object()


class OutputCollector:
    """Takes what the tasks of one worker print; called by whichever thread prints.

    Parameters
    ----------
    outbox : object
        The outbox of the worker, which its attempts have.
    only_attempt : callable
        The attempt that is the only one which can have printed something, if there is one: asked
        for threads that do not have the context of an attempt.
    """

    def __init__(
        self,
        outbox: Any,
        only_attempt: Callable[[], Any] = lambda: None,
    ) -> None:
        self.outbox = outbox
        self.only_attempt = only_attempt
        #: What Python writes in this process, if it is the worker's own.
        self.recent: RecentOutput | None = None
        #: Adds the raw output of an attempt.
        self.find_raw: Callable[[Any], None] | None = None

    def start(self) -> None:
        """Take what is printed from now on."""
        global _collectors
        let_go_in_forks(self)
        with _lock:
            if not _collectors:
                _tap()
            _collectors = (*_collectors, self)

    def stop(self) -> None:
        """Take no more; the last one restores the streams."""
        with _lock:
            was_there = self in _collectors
            self.after_fork()
            if was_there and not _collectors:
                _untap()

    def after_fork(self) -> None:
        """Take no more, in a forked process: its output is that of another process."""
        global _collectors
        _collectors = tuple(found for found in _collectors if found is not self)


def _tap() -> None:
    for number, name in _STREAMS:
        stream: Any = getattr(sys, name, None)
        try:
            own = vars(stream).get("write", _MISSING)
            wrapper = _noting(stream.write, number)
            stream.write = wrapper
        except (AttributeError, TypeError):
            continue  # it is closed, or a class of its own whose methods cannot be wrapped
        _tapped.append((stream, wrapper, own))


def _untap() -> None:
    for stream, wrapper, own in _tapped:
        # If another package has wrapped the wrapper, both stay.
        if vars(stream).get("write") is wrapper:
            if own is _MISSING:
                del stream.write
            else:
                stream.write = own
    _tapped.clear()


def _noting(original: Callable[..., Any], number: int) -> Callable[..., Any]:
    @functools.wraps(original)
    def write(*args: Any, **kwargs: Any) -> Any:
        written = original(*args, **kwargs)
        if _collectors:
            try:
                _collect(number, args[0] if args else next(iter(kwargs.values())))
            except BaseException as error:
                guard.failed("output", error)
        return written

    return write


def _collect(number: int, text: Any) -> None:
    attempt: Any = current_attempt.get()
    if not isinstance(text, str):
        return
    # A subclass of str may do anything in its own methods.
    text = text if type(text) is str else str.__getitem__(text, slice(None))
    for collector in _collectors:
        if collector.recent is not None:
            collector.recent.add(text)
    logger = python_logs.handled()
    if logger and python_logs.is_of_dask(logger):
        return  # Dask tells of a coroutine's failure in the coroutine's context
    flags = LOGGED if logger else 0
    for collector in _collectors:
        found: Any = attempt
        if attempt is None:
            found = collector.only_attempt()
            if found is None:
                continue
            flags |= BY_ELIMINATION
        elif attempt.outbox is not collector.outbox:
            continue
        printed = printed_by(found)
        if printed is not None:
            printed.add(number, text, flags)
        return


def printed_by(attempt: Any) -> Printed | None:
    """The output of an attempt, made now if there is none; None if it is not wanted."""
    printed: Printed | None = attempt.printed
    if printed is None:
        level = carried(attempt.carrier).get(OUTPUT)
        if level == "off":
            return None
        printed = attempt.printed = Printed(attempt, at_once=level == "all")
    return printed


def add_raw_output(attempt: Any) -> None:
    """An attempt has failed: add what did not pass Python's streams; called by its thread."""
    for collector in _collectors:
        if collector.outbox is attempt.outbox and collector.find_raw is not None:
            collector.find_raw(attempt)
