"""Writes the calls of failed attempts that workers send into the run's directory."""

from __future__ import annotations

from typing import Any, Final

from scalable import facts
from scalable.facts.identity import attempt_span_id
from scalable_runs.failed_calls import file_of, header
from scalable_runs.redact import Redactor
from scalable_runs.stores.base import Store

#: Calls, and bytes of all of them, that are kept of a run.
MAX_CALLS: Final = 1_000
MAX_BYTES: Final = 512 * 2**20


class FailedCalls:
    """Takes the parts of kept calls in the order in which a worker sends them.

    Called by the recorder's thread only. What is written is as the worker pickled it: it is the
    user's data, without redaction, and readable by the user alone.
    """

    def __init__(self, store: Store, run: str, redact: Redactor) -> None:
        self._store = store
        self._run = run
        self._redact = redact
        self._left = MAX_BYTES
        self._calls = MAX_CALLS
        #: Bytes received of calls that are not complete.
        self._parts: dict[str, int] = {}

    def take(self, fact: facts.UserEvent) -> None:
        """Write a part of a call."""
        if fact.key is None or fact.run_id is None:
            return
        span = f"{attempt_span_id(self._run, fact.key, fact.run_id):016x}"
        fields = fact.fields
        data: Any = fields.get("data") or b""
        start = fields.get("start", 0)
        if type(data) is not bytes or type(start) is not int or len(data) > self._left:
            return
        if start != self._parts.get(span, 0):
            # A part was lost: what is there is not whole, which its reader sees.
            return
        if not start:
            if self._calls <= 0:
                return
            self._calls -= 1
            data = self._header(fields) + data
        self._left -= len(data)
        try:
            with self._store.attach(file_of(span), append=bool(start)) as file:
                file.write(data)
        except OSError:
            self._parts.pop(span, None)
            return
        received = start + len(fields.get("data") or b"")
        if received < int(fields.get("size") or 0):
            self._parts[span] = received
        else:
            self._parts.pop(span, None)

    def _header(self, fields: Any) -> bytes:
        about = {
            name: self._redact(value) if isinstance(value, str) and name != "sha256" else value
            for name in ("function", "size", "sha256", "not_kept")
            if isinstance(value := fields.get(name), str | int)
        }
        return header(about)
