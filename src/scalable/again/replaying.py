"""Finds the kept call of a failed attempt, and runs it in this process."""

from __future__ import annotations

import linecache
import os
import pickle
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from scalable.again.calls import Call, KeptCall
from scalable.code.sources import SourceText, program_sources
from scalable.code.tracebacks import format_exception
from scalable.common import spool
from scalable_runs.failed_calls import DIRECTORY, KeptCallError, file_of, parse
from scalable_runs.reader import RunReader
from scalable_runs.redact import Redactor
from scalable_runs.schema import FAILURES
from scalable_runs.stores.base import joined

#: The name of functions that were pickled by value.
_LOST: Final = "<dynamic-code>"
#: Characters of a message that two failures are compared by.
_MAX_COMPARED: Final = 2_000


@dataclass(frozen=True, slots=True)
class FailedAttempt:
    """A failed attempt of a recorded run."""

    task_id: str
    task_name: str
    attempt: int | None
    span_id: str
    failure_class: str
    message: str
    worker: str
    writer: str | None = None

    @property
    def title(self) -> str:
        """It in words."""
        number = f", attempt {self.attempt}" if self.attempt else ""
        return f"{self.task_id}{number}"


def failed_attempts(reader: RunReader) -> list[FailedAttempt]:
    """Return the failed attempts of a run, in the order in which they failed."""
    found: list[FailedAttempt] = []
    for record in reader.records(FAILURES):
        details: Mapping[str, Any] = record.get("details") or {}
        if not isinstance(record.get("task_id"), str) or not record.get("span_id"):
            continue
        found.append(
            FailedAttempt(
                record["task_id"],
                str(details.get("task_name") or record.get("task_name") or ""),
                details.get("attempt"),
                str(record["span_id"]),
                str(record.get("failure_class") or ""),
                str(record.get("message") or ""),
                str(details.get("worker_id") or details.get("worker") or ""),
                record.get("writer"),
            )
        )
    return found


def is_kept(reader: RunReader, attempt: FailedAttempt) -> bool:
    """Whether the run has a file for the call of an attempt."""
    store, name = reader.place_of(file_of(attempt.span_id), attempt.writer)
    return store.stat(name) is not None


def read_call(reader: RunReader, attempt: FailedAttempt) -> tuple[dict[str, Any], bytes]:
    """Return what is said of the call of an attempt, and its pickle.

    Raises
    ------
    KeptCallError
        It was not kept or is not whole, or somebody else could have written it.
    """
    store, name = reader.place_of(file_of(attempt.span_id), attempt.writer)
    try:
        # Unpickling runs code that is in the file: only this user's own is read.
        path = Path(store.location) / name
        if path.exists():
            for directory in (path.parent.parent, path.parent):
                spool.check_unwritable(directory)
            with os.fdopen(spool.open_private(path), "rb") as file:
                return parse(file.read())
        if Path(store.location).is_file():
            os.close(spool.open_private(Path(store.location)))
        return parse(joined(store.read(name)))
    except FileNotFoundError:
        raise KeptCallError(
            f"the run has no {DIRECTORY}/{attempt.span_id}.pickle: calls are kept only where "
            "instrument(keep_failed=True) or SCALABLE_KEEP_FAILED=1 asks for it"
        ) from None
    except OSError as error:
        raise KeptCallError(f"it cannot be read: {error}") from None


def unpickle(data: bytes, reader: RunReader) -> Call:
    """Return a call; this runs code that is in `data`.

    Raises
    ------
    KeptCallError
        Something that it needs cannot be imported here, or has changed.
    """
    _find_modules(reader)
    try:
        kept: Any = pickle.loads(data)
    except Exception as error:
        raise KeptCallError(
            f"it cannot be loaded here ({type(error).__name__}: {error}): run it where the "
            "program's modules and packages are, with the versions of the run"
        ) from error
    if not isinstance(kept, KeptCall):
        raise KeptCallError("the file has no call")
    _show_sources(kept)
    return kept.call


def _show_sources(kept: KeptCall) -> None:
    """Let tracebacks and the debugger show the lines of functions that are in no file."""
    for name, text, file in kept.sources:
        program_sources().add(SourceText(name, text, file))
    if len(kept.sources) == 1:
        # cloudpickle gives all of them the same name.
        text = kept.sources[0][1]
        linecache.cache[_LOST] = (len(text), None, text.splitlines(keepends=True), _LOST)


def _find_modules(reader: RunReader) -> None:
    """Let the modules of the program be imported from where it had them."""
    command: Any = (reader.document.get("environment") or {}).get("command")
    found: dict[str, Any] = command if isinstance(command, dict) else {}
    cwd = str(found.get("cwd") or "")
    places = [os.getcwd(), cwd]  # noqa: PTH109
    with suppress(IndexError, TypeError):
        script = next(str(each) for each in found.get("argv") or () if str(each).endswith(".py"))
        places.append(str(Path(cwd, script).parent))
    for place in reversed(places):
        if place and Path(place).is_dir() and place not in sys.path:
            sys.path.insert(0, place)


@dataclass(frozen=True, slots=True)
class Replayed:
    """What happened when a call ran again."""

    result: Any = None
    error: BaseException | None = None

    @property
    def trace(self) -> TracebackType | None:
        """The traceback below this module's own frames."""
        trace = self.error.__traceback__ if self.error is not None else None
        own = {__file__, str(Path(__file__).with_name("calls.py"))}
        while trace is not None and trace.tb_frame.f_code.co_filename in own:
            trace = trace.tb_next
        return trace

    @property
    def text(self) -> str:
        """The traceback as text."""
        if self.error is None:
            return ""
        return format_exception(self.error, self.trace)

    def is_same_as(self, attempt: FailedAttempt) -> bool:
        """Whether it failed as the attempt did: by class and message."""
        if self.error is None or type(self.error).__qualname__ != attempt.failure_class:
            return False
        try:
            message = Redactor()(str(self.error))
        except Exception:  # anybody's __str__
            return False
        return message[:_MAX_COMPARED].strip() == attempt.message[:_MAX_COMPARED].strip()


def replay_call(call: Call) -> Replayed:
    """Run a call in this process; Ctrl-C ends it."""
    try:
        result = call.run()
        if hasattr(result, "__await__") and hasattr(result, "send"):
            import asyncio

            result = asyncio.run(result)
        return Replayed(result)
    except Exception as error:
        return Replayed(error=error)
