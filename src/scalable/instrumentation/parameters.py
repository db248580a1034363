"""What an attempt was called with: bounded, as JSON of one text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import orjson
from distributed import Reschedule

from scalable.facts.identity import carried
from scalable.facts.parameters import MAX_BYTES, MAX_DESCRIBED, bounded
from scalable.facts.protocol import PARAMETERS
from scalable.instrumentation.task_calls import TaskCall, call_of_exception
from scalable.instrumentation.value_descriptions import MAX_INNER_CHARACTERS, describe

#: Bytes left for what redacting adds.
_RESERVE: Final = 200


def level_of(carrier: str | None) -> str:
    """Of which attempts the run of a task describes arguments."""
    return str(carried(carrier).get(PARAMETERS, "failed"))


def describe_failed_call(error: BaseException, carrier: str | None) -> bytes:
    """The arguments of the call that raised `error`; empty if they are not known, or not wanted.

    Called in the thread that ran the task.
    """
    # A task that asks to run elsewhere has not failed.
    if isinstance(error, Reschedule) or level_of(carrier) == "off":
        return b""
    call = call_of_exception(error)
    return describe_call(call) if call is not None else b""


def describe_call(call: TaskCall) -> bytes:
    """The arguments of a call: a list of descriptions with names, at most 2 kB of JSON."""
    return described(call.arguments().items())


def described(values: Iterable[tuple[str, Any]]) -> bytes:
    """Descriptions of values with names, as JSON."""
    pairs = list(values)
    entries = [{"name": _name(name), **describe(value)} for name, value in pairs[:MAX_DESCRIBED]]
    more = len(pairs) - len(entries)
    return orjson.dumps(bounded(entries, MAX_BYTES - _RESERVE, more=more))


def _name(name: Any) -> str:
    text = str.__getitem__(name, slice(0, MAX_INNER_CHARACTERS))
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
