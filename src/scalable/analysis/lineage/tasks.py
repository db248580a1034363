"""The tasks of a run, as far as a lineage needs them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from scalable.analysis.lineage.model import TaskKey, TaskNode
from scalable_runs.reader import RunReader
from scalable_runs.schema import ENDS, TASKS, Record

#: Dependencies that are kept of one run.
_MAX_EDGES: Final = 3_000_000


class Dependencies:
    """What the tasks of one run depend on, and what depends on them; read once, by one thread."""

    def __init__(self, reader: RunReader) -> None:
        self.before: dict[str, tuple[str, ...]] = {}
        self.after: dict[str, list[str]] = {}
        #: Dependencies that are not known, as the record or this object has a part of them.
        self.left_out = 0
        edges = 0
        for record in reader.records(TASKS):
            task_id, names = record.get("task_id"), record.get("dependencies")
            if task_id is None or not names or record.get("state") != "submitted":
                continue
            self.left_out += max(0, (record.get("dependency_count") or 0) - len(names))
            if edges + len(names) > _MAX_EDGES:
                self.left_out += len(names)
                continue
            edges += len(names)
            self.before[task_id] = tuple(names)
            for name in names:
                self.after.setdefault(name, []).append(task_id)


def describe(reader: RunReader, nodes: Iterable[TaskNode]) -> None:
    """Add to tasks of one run what is known of their last attempts."""
    wanted: dict[str, list[TaskNode]] = {}
    for node in nodes:
        if not node.is_program:
            wanted.setdefault(node.key.task_id, []).append(node)
    for record in reader.records(TASKS) if wanted else ():
        for node in wanted.get(str(record.get("task_id")), ()):
            _add(node, record)


def _add(node: TaskNode, record: Record) -> None:
    node.task_name = str(record.get("task_name") or node.task_name)
    state = record.get("state")
    if state == "submitted":
        node.state = node.state or "submitted"
        return
    node.state = str(state or node.state)
    node.attempt = record.get("attempt") or node.attempt
    node.worker = str(record.get("worker_id") or record.get("worker") or node.worker)
    if state in ENDS:
        node.ended_at = str(record.get("timestamp") or "")
        duration = record.get("duration_s")
        node.duration_s = duration if isinstance(duration, int | float) else None


def node_of(key: TaskKey) -> TaskNode:
    """Return a node of which nothing is known yet."""
    return TaskNode(key, task_name="" if key.task_id else "the program")
