"""Follows files and tasks, from one to the next, before and after what is asked about."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from scalable.analysis.code_and_data import load_code_and_data
from scalable.analysis.lineage.model import (
    FileNode,
    Lineage,
    RunNode,
    Side,
    TaskKey,
    TaskNode,
    Touch,
)
from scalable.analysis.lineage.subjects import Subject
from scalable.analysis.lineage.tasks import Dependencies, describe, node_of
from scalable.analysis.lineage.touches import Touches

#: Tasks, and files, that are followed in one direction.
MAX_NODES: Final = 2_000

_OF_PROGRAM: Final = (
    "What the program itself puts may come of anything that it had computed before: only the files "
    "that it got before are shown as its sources."
)


def trace(
    subject: Subject, touches: Touches, *, run_id: str | None = None, limit: int = MAX_NODES
) -> Lineage:
    """Return where a subject came from and what it went into.

    Of a content that was put several times, the sources are those of the last time: in the run of
    `run_id`, and under the name that was asked for, if it was. Within a run tasks are followed by
    their dependencies, and files by their digests; across runs files alone. Both are followed up
    to `limit` tasks and files in each direction.
    """
    walk = _Walk(touches, limit)
    file = None
    if subject.digests:
        file = _joined([touches.file(digest) for digest in subject.digests])
        put = [one for one in file.put if one.task.run_id == run_id] or file.put
        put = [one for one in put if one.name == subject.text] or put
        makers = list(walk.reached(put[-1:], before=True))
    else:
        makers = list(subject.tasks)
    upstream = walk.before(makers)
    own = upstream.tasks
    tasks = tuple(own.pop(key) for key in makers if key in own)
    starts = makers if file is None else list(walk.reached(file.got, before=False))
    downstream = walk.after(starts, include=file is not None)
    for side in (upstream, downstream):
        for digest in subject.digests:
            side.files.pop(digest, None)
    nodes = [*tasks, *upstream.tasks.values(), *downstream.tasks.values()]
    runs = walk.describe(nodes)
    notes = [subject.note] if subject.note else []
    if any(node.is_program and node.put for node in (*tasks, *upstream.tasks.values())):
        notes.append(_OF_PROGRAM)
    if touches.left_out:
        notes.append(f"{touches.left_out:,} records of artifacts are left out.")
    notes += walk.notes
    what = "file" if file is not None else "task"
    return Lineage(what, subject.text, file, tasks, upstream, downstream, runs, tuple(notes))


def _joined(files: list[FileNode]) -> FileNode:
    first, *more = files
    for other in more:
        first.names += [name for name in other.names if name not in first.names]
        first.put += other.put
        first.got += other.got
    return first


class _Walk:
    """One lineage; used by one thread."""

    def __init__(self, touches: Touches, limit: int) -> None:
        self._touches = touches
        self._limit = limit
        self._of_run: dict[str, Dependencies | None] = {}
        #: Times at which the program put and got what is followed: what it put first does not come
        #: from what it got later.
        self._times: dict[tuple[TaskKey, bool], str] = {}
        #: Programs that are to be followed again, for another time.
        self._again: set[TaskKey] = set()
        self.notes: list[str] = []

    def reached(self, touches: Iterable[Touch], *, before: bool) -> Iterator[TaskKey]:
        """Yield who put some contents, or got them, and note when if it is the program."""
        for touch in touches:
            key = touch.task
            if not key.task_id:
                known = self._times.get((key, before))
                if known is None or (touch.at > known if before else touch.at < known):
                    self._times[key, before] = touch.at
                    if known is not None:
                        self._again.add(key)
            yield key

    def _counts(self, touch: Touch, *, before: bool) -> bool:
        """Whether what a task or program got or put is on the way."""
        time = self._times.get((touch.task, before))
        return time is None or (touch.at <= time if before else touch.at >= time)

    def before(self, starts: Iterable[TaskKey]) -> Side:
        """Return the tasks that some depend on, those included, and the files that all got."""
        return self._follow(starts, self._sources)

    def after(self, starts: Iterable[TaskKey], *, include: bool) -> Side:
        """Return the tasks that depend on some, and the files that all of them put."""
        starts = list(starts)
        side = self._follow(starts, self._results)
        if not include:
            for key in starts:
                side.tasks.pop(key, None)
        return side

    def _follow(
        self,
        starts: Iterable[TaskKey],
        next_of: Callable[[TaskNode, Side], Iterator[TaskKey]],
    ) -> Side:
        side = Side()
        waiting = deque(dict.fromkeys(starts))
        seen = set(waiting)
        while waiting:
            key = waiting.popleft()
            if len(side.tasks) >= self._limit and key not in side.tasks:
                side.left_out += 1 + len(waiting)
                break
            node = side.tasks[key] = self._node(key)
            for further in next_of(node, side):
                if further not in seen or further in self._again:
                    self._again.discard(further)
                    seen.add(further)
                    waiting.append(further)
        return side

    def _node(self, key: TaskKey) -> TaskNode:
        node = node_of(key)
        touches = self._touches.by_task.get(key, ())
        digests = {
            stage: tuple(dict.fromkeys(one.digest for one in touches if one.stage == stage))
            for stage in ("get", "put")
        }
        node.read, node.put = digests["get"], digests["put"]
        dependencies = self._dependencies(key)
        if dependencies is not None:
            node.dependencies = dependencies.before.get(key.task_id, ())
        return node

    def _sources(self, node: TaskNode, side: Side) -> Iterator[TaskKey]:
        """Yield the tasks that a task depends on, and those that put the files that it got."""
        for name in node.dependencies:
            yield TaskKey(node.key.run_id, name)
        for touch in self._touches.by_task.get(node.key, ()):
            if touch.stage != "get" or not touch.digest or not self._counts(touch, before=True):
                continue
            self._add(side, touch.digest)
            maker = self._touches.producer(touch)
            if maker is not None:
                yield from self.reached([maker], before=True)

    def _results(self, node: TaskNode, side: Side) -> Iterator[TaskKey]:
        """Yield the tasks that depend on a task, and those that got the files that it put."""
        dependencies = self._dependencies(node.key)
        if dependencies is not None:
            for name in dependencies.after.get(node.key.task_id, ()):
                yield TaskKey(node.key.run_id, name)
        for touch in self._touches.by_task.get(node.key, ()):
            if touch.stage == "get" or not touch.digest or not self._counts(touch, before=False):
                continue
            self._add(side, touch.digest)
            readers = self._touches.got.get(touch.digest, ())
            yield from self.reached(
                (one for one in readers if self._is_read(one, touch)), before=False
            )

    def _is_read(self, got: Touch, put: Touch) -> bool:
        """Whether what was got is what was put then: the same content may be put several times."""
        maker = self._touches.producer(got)
        return maker is not None and maker.task == put.task

    def _add(self, side: Side, digest: str) -> None:
        if digest not in side.files:
            if len(side.files) >= self._limit:
                side.left_out += 1
            else:
                side.files[digest] = self._touches.file(digest)

    def _dependencies(self, key: TaskKey) -> Dependencies | None:
        if not key.task_id:
            return None
        if key.run_id not in self._of_run:
            reader = self._touches.readers.get(key.run_id)
            found = self._of_run[key.run_id] = None if reader is None else Dependencies(reader)
            if found is not None and found.left_out:
                self.notes.append(
                    f"{found.left_out:,} dependencies of tasks in {key.run_id} are not known."
                )
        return self._of_run[key.run_id]

    def describe(self, nodes: list[TaskNode]) -> dict[str, RunNode]:
        """Add to tasks what is known of them, and return their runs."""
        by_run: dict[str, list[TaskNode]] = {}
        for node in nodes:
            by_run.setdefault(node.key.run_id, []).append(node)
        runs: dict[str, RunNode] = {}
        for run_id, of_run in by_run.items():
            reader = self._touches.readers[run_id]
            describe(reader, of_run)
            found = load_code_and_data(reader)
            names = {node.task_name for node in of_run}
            document = reader.document
            environment = document.get("environment") or {}
            program = environment.get("program") if isinstance(environment, dict) else None
            runs[run_id] = RunNode(
                run_id,
                str(reader.status),
                str(document.get("project_name") or ""),
                str(document.get("started_at") or ""),
                str(program or ""),
                found.code,
                tuple(one for one in found.functions if one.task_name in names),
                found.has_patch,
            )
        return runs
