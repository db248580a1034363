"""What an attempt was called with: bounded, as JSON of one text."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import orjson
from distributed import Reschedule

from scalable.facts.identity import carried
from scalable.facts.parameters import MAX_BYTES, MAX_DESCRIBED, bounded
from scalable.facts.protocol import PARAMETERS
from scalable.instrumentation.task_calls import TaskCall, call_of_exception
from scalable.instrumentation.value_descriptions import MAX_INNER_CHARACTERS, describe

#: Keeps a value that the record does not have whole; returns its name in the data catalog, or None.
Keeper = Callable[[Any], str | None]

#: By run; any thread reads it.
_keepers: Final[dict[str, Keeper]] = {}
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
    if call is None:
        return b""
    return describe_call(call, str(carried(carrier).get("run")) if _keepers else None)


def describe_call(call: TaskCall, run: str | None = None) -> bytes:
    """The arguments of a call: a list of descriptions with names, at most 2 kB of JSON.

    `run` is the run of the task, which may keep those that are not in the record.
    """
    return described(call.arguments().items(), run)


def described(values: Iterable[tuple[str, Any]], run: str | None = None) -> bytes:
    """Descriptions of values with names, as JSON."""
    pairs = list(values)
    entries = [{"name": _name(name), **describe(value)} for name, value in pairs[:MAX_DESCRIBED]]
    keeper = _keepers.get(run or "")
    if keeper is not None:
        for entry, (_, value) in zip(entries, pairs, strict=False):
            kept = keeper(value) if entry["kind"] == "object" else None
            if kept is not None:
                entry["catalog"] = kept
    more = len(pairs) - len(entries)
    return orjson.dumps(bounded(entries, MAX_BYTES - _RESERVE, more=more))


def keep_objects(run: str, keeper: Keeper) -> Callable[[], None]:
    """Let the values of a run be kept that its record does not have whole; returns what ends it."""
    _keepers[run] = keeper

    def end() -> None:
        _keepers.pop(run, None)

    return end


def _name(name: Any) -> str:
    text = str.__getitem__(name, slice(0, MAX_INNER_CHARACTERS))
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
