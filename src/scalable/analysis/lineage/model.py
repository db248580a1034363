"""What a lineage says: files by their digests, tasks, and the runs they are of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from scalable.analysis.code_and_data import Code, Function


class TaskKey(NamedTuple):
    """A task of a run, or with an empty id the program of that run."""

    run_id: str
    task_id: str


@dataclass(frozen=True, slots=True)
class Touch:
    """One time that a content was put or got, or recorded as made or used.

    Attributes
    ----------
    stage
        ``put`` or ``get``.
    put_by
        Id of the run that put what was got, where the catalog knows it.
    """

    task: TaskKey
    stage: str
    digest: str
    name: str
    at: str
    span_id: str
    size_bytes: int | None = None
    location: str = ""
    put_by: str = ""


@dataclass(slots=True)
class FileNode:
    """A content: a file or directory under one or more names."""

    digest: str
    names: list[str] = field(default_factory=list[str])
    size_bytes: int | None = None
    put: list[Touch] = field(default_factory=list[Touch])
    got: list[Touch] = field(default_factory=list[Touch])


@dataclass(slots=True)
class TaskNode:
    """A task, with the last of its attempts that is known."""

    key: TaskKey
    task_name: str = ""
    state: str = ""
    attempt: int | None = None
    worker: str = ""
    ended_at: str = ""
    duration_s: float | None = None
    dependencies: tuple[str, ...] = ()
    read: tuple[str, ...] = ()
    put: tuple[str, ...] = ()

    @property
    def is_program(self) -> bool:
        """Whether it is the program itself."""
        return not self.key.task_id


@dataclass(frozen=True, slots=True)
class RunNode:
    """A run that took part."""

    run_id: str
    status: str
    project: str
    started_at: str
    program: str
    code: tuple[Code, ...]
    functions: tuple[Function, ...]
    has_patch: bool


@dataclass(slots=True)
class Side:
    """What is before the subject, or after it."""

    files: dict[str, FileNode] = field(default_factory=dict[str, FileNode])
    tasks: dict[TaskKey, TaskNode] = field(default_factory=dict[TaskKey, TaskNode])
    #: Tasks and files that were reached and not followed.
    left_out: int = 0


@dataclass(frozen=True, slots=True)
class Lineage:
    """Where something came from, and what it went into.

    Attributes
    ----------
    what
        ``file`` or ``task``.
    subject
        Its name, digest or task id.
    file
        The content, if it is one.
    tasks
        The tasks that made the file, or those that are asked about.
    runs
        The runs that took part, by their ids.
    notes
        What a reader must know to take it as it is meant.
    """

    what: str
    subject: str
    file: FileNode | None
    tasks: tuple[TaskNode, ...]
    upstream: Side
    downstream: Side
    runs: Mapping[str, RunNode]
    notes: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """The same as a JSON document."""
        return {
            "what": self.what,
            "subject": self.subject,
            "file": None if self.file is None else _file(self.file),
            "tasks": [_task(one) for one in self.tasks],
            "upstream": _side(self.upstream),
            "downstream": _side(self.downstream),
            "runs": [asdict(one) for one in self.runs.values()],
            "notes": list(self.notes),
        }


def _side(side: Side) -> dict[str, Any]:
    return {
        "files": [_file(one) for one in side.files.values()],
        "tasks": [_task(one) for one in side.tasks.values()],
        "left_out": side.left_out,
    }


def _file(file: FileNode) -> dict[str, Any]:
    return {
        "digest": file.digest,
        "names": file.names,
        "size_bytes": file.size_bytes,
        "put": [_touch(one) for one in file.put],
        "got": [_touch(one) for one in file.got],
    }


def _touch(touch: Touch) -> dict[str, Any]:
    found = {**asdict(touch), **touch.task._asdict()}
    return {name: value for name, value in found.items() if name not in ("task", "digest", "stage")}


def _task(task: TaskNode) -> dict[str, Any]:
    found = {**task.key._asdict(), **asdict(task)}
    return {name: value for name, value in found.items() if name != "key"}
