"""What a record says of an exception that a task raised."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from scalable.code.tracebacks import format_exception, resolve_text
from scalable.facts.texts import module_of, printable, shortened, split_repr
from scalable.instrumentation import dask_compat

if TYPE_CHECKING:
    from distributed.worker_state_machine import TaskState

_MAX_BASES: Final = 12
_HEADER: Final = "Traceback (most recent call last):\n"


class ExceptionDetails(NamedTuple):
    """An exception as texts."""

    error_type: str
    message: str
    #: With the chain of causes.
    traceback: str
    #: Classes that its class inherits from, below Exception, nearest first.
    bases: tuple[str, ...] = ()
    errno: int | None = None
    #: Module of its class; empty if it is built in or unknown.
    module: str = ""


def details_of_task(task: TaskState) -> ExceptionDetails:
    """Details of what a task has raised, of which Dask keeps a pickle; else of its ``repr``."""
    exception = dask_compat.load_exception(task.exception)
    text = task.exception_text
    # Dask replaces an exception that cannot be pickled by ``Exception(repr(e))``.
    if exception is None or (type(exception) is Exception and exception.args == (text,)):
        name, message = split_repr(text)
        whole = resolve_text(f"{_HEADER}{task.traceback_text}{text}\n")
        return ExceptionDetails(name, message, whole)
    return details_of(exception, task.traceback_text)


def details_of(exception: BaseException, traceback_text: str = "") -> ExceptionDetails:
    """Details of an exception; `traceback_text` is used where it has no traceback."""
    name = type(exception).__qualname__
    message = printable(exception)
    whole = ""
    if exception.__traceback__ is not None:  # else it was unpickled
        with contextlib.suppress(Exception):
            whole = format_exception(exception)
    whole = resolve_text(whole or f"{_HEADER}{traceback_text}{name}: {message}\n")
    whole = shortened(whole)
    errno: Any = getattr(exception, "errno", None) if isinstance(exception, OSError) else None
    return ExceptionDetails(
        name,
        message,
        whole.encode("utf-8", "backslashreplace").decode("utf-8"),
        tuple(
            base.__qualname__
            for base in type(exception).__mro__[1 : 1 + _MAX_BASES]
            if issubclass(base, BaseException) and base not in (BaseException, Exception)
        ),
        errno if type(errno) is int else None,
        module_of(type(exception)),
    )
