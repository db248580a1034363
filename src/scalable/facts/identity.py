"""Ids that scheduler, worker and recorder each compute, with the same result."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from hashlib import blake2b
from math import isfinite
from typing import Any, Final, NamedTuple

from scalable.facts.protocol import LINEAGE

_NO_FIELDS: Final[Mapping[str, Any]] = {}


def task_id(key: Any) -> str:
    """Name of a task in the record: different for different keys, and the same in every run.

    It is the key as Python prints it. A string has no quotes, unless its bare text could be a
    number or a tuple, begins with a quote, or cannot be encoded.

    Examples
    --------
    >>> task_id("inc-1"), task_id(("x", 1)), task_id(1), task_id("1")
    ('inc-1', "('x', 1)", '1', "'1'")
    """
    if key.__class__ is str:
        # A string that needs quotes begins with a character before the colon, or is not ASCII.
        if key >= ":" and key.isascii():
            return key
        return repr(key) if _needs_quotes(key) else key
    if key.__class__ is float and not isfinite(key):
        return f"({key})"  # in brackets: a string key may be "inf" or "nan"
    return str(key)


def _needs_quotes(key: str) -> bool:
    if key.startswith(("'", '"')) or (key.startswith("(") and key.endswith(")")):
        return True
    try:
        key.encode()
    except UnicodeEncodeError:
        return True
    if not key.startswith(_NUMBER_BEGINS):
        return False
    if _INTEGER.fullmatch(key):
        return True
    try:
        return repr(float(key)) == key
    except ValueError:
        return False


_NUMBER_BEGINS: Final = ("-", *"0123456789")
_INTEGER: Final = re.compile("-?[1-9][0-9]*|0")


def attempt_span_id(run: str, key: str, run_id: int) -> int:
    """Span id of an attempt, the same in every process.

    Parameters
    ----------
    run, key : str
        Id of the run, key of the task.
    run_id : int
        Dask's own number of the execution, unique on a scheduler.
    """
    # The run's part is the same for all its attempts: its hash state is copied.
    state = _run_state(run).copy()
    state.update(f"{key}\0{run_id}".encode("utf-8", "replace"))
    return int.from_bytes(state.digest(), "big") or 1


@lru_cache(maxsize=16)
def _run_state(run: str) -> blake2b:
    return blake2b(f"{run}\0".encode("utf-8", "replace"), digest_size=8)


def carrier_of(fields: Mapping[str, Any]) -> str:
    """The carrier with these fields: the run's id, its span, what propagators have added.

    It is JSON text: Dask keeps it with each task, and the garbage collector traverses dictionaries
    but not strings.
    """
    return json.dumps(fields, separators=(",", ":"), default=str)


def carried(carrier: Any) -> Mapping[str, Any]:
    """Fields of a carrier; empty if it cannot be read, as a peer may send anything."""
    return _carried(carrier) if carrier.__class__ is str else _NO_FIELDS


@lru_cache(maxsize=1024)
def _carried(carrier: str) -> Mapping[str, Any]:
    try:
        fields: Any = json.loads(carrier)
    except (ValueError, RecursionError):
        return _NO_FIELDS
    return fields if fields.__class__ is dict else _NO_FIELDS


#: Kinds of a span above tasks that a task submits: the submission, an attempt, a span of user code
#: that its worker relays to the recorder, and one that its worker exports itself.
SUBMISSION: Final = "s"
ATTEMPT: Final = "t"
USER_SPAN: Final = "u"
EXPORTED: Final = "e"
#: Spans that a carrier names at most.
MAX_LINEAGE: Final = 64


class Above(NamedTuple):
    """A span above tasks that a task submits."""

    kind: str
    span_id: int


def lineage_text(nearest: Iterable[Above], further: str) -> str:
    """The spans above tasks: the `nearest` ones, then those above their attempt."""
    near = [f"{kind}{span_id:016x}" for kind, span_id in nearest]
    return ",".join([*near, *filter(None, further.split(","))][:MAX_LINEAGE])


def lineage_of(carrier: Mapping[str, Any]) -> tuple[Above, ...]:
    """The spans above tasks that a task submits, as a carrier names them, the nearest first.

    Empty for what the program submits: the parent of its tasks is the submission's span.
    """
    found: list[Above] = []
    for entry in str(carrier.get(LINEAGE) or "").split(",")[:MAX_LINEAGE]:
        try:
            above = Above(entry[:1], int(entry[1:], 16))
        except ValueError:  # a peer may send anything
            break
        if above.kind not in (SUBMISSION, ATTEMPT, USER_SPAN, EXPORTED):
            break
        found.append(above)
    return tuple(found)
