"""What a recorded run says of its tasks and of what was kept of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from scalable_runs.reader import RunReader
from scalable_runs.schema import CACHE, FAILURES, FUNCTIONS, TASKS

#: Tasks that are told apart.
MAX_TASKS: Final = 2_000_000


@dataclass(slots=True)
class PastTask:
    """A task of a recorded run."""

    task_id: str
    name: str
    state: str = "submitted"
    #: Whether an attempt has begun.
    ran: bool = False
    dependencies: tuple[str, ...] = ()
    error: str = ""
    #: Its last look-up; None if nothing was looked up for it.
    lookup: dict[str, Any] | None = None
    #: Further look-ups of functions that its code called.
    inner: int = 0


@dataclass(slots=True)
class Past:
    """The tasks of a run, and the code that they ran."""

    tasks: dict[str, PastTask] = field(default_factory=dict[str, PastTask])
    #: Records of functions.jsonl by identity.
    functions: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    #: Identities by the name of the tasks that ran them.
    identities: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    #: Tasks that are not told apart, as there are too many.
    left_out: int = 0


def read_past(reader: RunReader) -> Past:
    """Read the tasks of a run, what was looked up for them, and their functions."""
    past = Past()
    for record in reader.records(TASKS):
        _add_task(past, record)
    for record in reader.records(FAILURES):
        task = past.tasks.get(str(record.get("task_id")))
        if task is not None:
            task.error = f"{record.get('failure_class')}: {record.get('message')}"
    for record in reader.records(CACHE):
        _add_lookup(past, record)
    for record in _functions(reader):
        identity = record.get("identity")
        if isinstance(identity, str):
            past.functions[identity] = record
            known = past.identities.setdefault(str(record.get("task_name")), [])
            if identity not in known:
                known.append(identity)
    return past


def _add_task(past: Past, record: dict[str, Any]) -> None:
    key, state = record.get("task_id"), record.get("state")
    if not isinstance(key, str) or not isinstance(state, str):
        return
    task = past.tasks.get(key)
    if task is None:
        if len(past.tasks) >= MAX_TASKS:
            past.left_out += 1
            return
        task = past.tasks[key] = PastTask(key, str(record.get("task_name") or key))
    if record.get("dependencies"):
        task.dependencies = tuple(map(str, record["dependencies"]))
    task.ran = task.ran or state not in ("submitted", "cancelled")
    if task.state != "succeeded" or state == "succeeded":
        # A result that was lost later was computed all the same.
        task.state = state


def _add_lookup(past: Past, record: dict[str, Any]) -> None:
    task = past.tasks.get(str(record.get("task_id")))
    if task is None:
        return
    if "arguments_digest" in record or "not_kept" in record or task.lookup is None:
        task.lookup = dict(record)
    task.inner += 1


def _functions(reader: RunReader) -> Iterator[dict[str, Any]]:
    if FUNCTIONS in reader.files():
        yield from reader.records(FUNCTIONS)
