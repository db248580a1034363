"""A lineage as an outline."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from scalable.analysis.code_sections import code_words
from scalable.analysis.lineage.model import FileNode, Lineage, Side, TaskNode, Touch
from scalable.analysis.sections import (
    Block,
    Column,
    Fact,
    Facts,
    Outline,
    Row,
    Section,
    Sentence,
    Table,
)
from scalable.analysis.units import plural

_MAX_ROWS: Final = 25
_SHORT: Final = 19


def lineage_outline(found: Lineage) -> Outline:
    """Return what a lineage says."""
    sections = [Section((Facts(tuple(_facts(found))),))]
    sections += _side(found.upstream, "Comes from")
    sections += _side(found.downstream, "Went into")
    sections += _code(found)
    if found.notes:
        notes = tuple(Sentence(text, "bullet", "quiet") for text in found.notes)
        sections.append(Section(notes, "Notes"))
    return Outline(f"Lineage of {found.subject}", tuple(sections))


def _facts(found: Lineage) -> Iterable[Fact]:
    if found.file is not None:
        yield Fact("Digest", found.file.digest, is_whole=True)
        yield Fact("Names", ", ".join(found.file.names[:10]))
        for touch in found.file.put[-3:]:
            yield Fact("Put", _when(touch))
        if len(found.file.put) > 3:
            yield Fact("", f"and {len(found.file.put) - 3:,} times before")
        if not found.file.put:
            yield Fact("Put", "in no run that is recorded here")
        for touch in found.file.got[-3:]:
            yield Fact("Got", _when(touch))
        if len(found.file.got) > 3:
            yield Fact("", f"and {len(found.file.got) - 3:,} times before")
    for task in found.tasks[:3]:
        label = "Made by" if found.file is not None else "Task"
        yield Fact(label, _task_words(task))
    if len(found.tasks) > 3:
        yield Fact("", f"and {len(found.tasks) - 3:,} more")


def _when(touch: Touch) -> str:
    who = f"by {touch.task.task_id}" if touch.task.task_id else "by the program"
    at = touch.at[:19].replace("T", " ")
    return f"{at} {who} in {touch.task.run_id}"


def _task_words(task: TaskNode) -> str:
    if task.is_program:
        return f"the program of {task.key.run_id}"
    parts = [task.key.task_id]
    if task.attempt:
        parts.append(f"attempt {task.attempt}")
    if task.worker:
        parts.append(f"on worker {task.worker}")
    state = f" ({task.state})" if task.state else ""
    return f"{', '.join(parts)}{state}, in {task.key.run_id}"


def _side(side: Side, title: str) -> list[Section]:
    sections: list[Section] = []
    if side.files:
        blocks = _files(list(side.files.values()))
        sections.append(Section(blocks, title, plural(len(side.files), "file")))
    if side.tasks:
        name = title if not side.files else f"{title}: tasks"
        sections.append(Section(_tasks(side), name, plural(len(side.tasks), "task")))
    return sections


def _files(files: list[FileNode]) -> tuple[Block, ...]:
    columns = (
        Column("Size", "bytes"),
        Column("Digest"),
        Column("Put by", drop=1),
        Column("Name"),
    )
    rows = tuple(
        Row(
            (
                file.size_bytes,
                file.digest[:_SHORT],
                _putter(file),
                ", ".join(file.names[:3]),
            )
        )
        for file in files[:_MAX_ROWS]
    )
    table = Table(columns, rows, widest=3)
    return (table, *_more(len(files) - _MAX_ROWS))


def _putter(file: FileNode) -> str:
    if not file.put:
        return "no run here"
    task = file.put[-1].task
    return task.task_id or f"program of {task.run_id}"


def _tasks(side: Side) -> tuple[Block, ...]:
    groups: dict[tuple[str, str], list[TaskNode]] = {}
    for task in side.tasks.values():
        groups.setdefault((task.task_name or "-", task.key.run_id), []).append(task)
    columns = (
        Column("Tasks", "count"),
        Column("Read", "count", drop=2),
        Column("Put", "count", drop=2),
        Column("Run", drop=1),
        Column("Name"),
    )
    rows = tuple(
        Row(
            (
                len(tasks),
                len({digest for task in tasks for digest in task.read}),
                len({digest for task in tasks for digest in task.put}),
                run_id,
                name,
            )
        )
        for (name, run_id), tasks in list(groups.items())[:_MAX_ROWS]
    )
    left_out: tuple[Block, ...] = ()
    if side.left_out:
        left_out = (Sentence(f"and more: {side.left_out:,} or more were not followed", "aside"),)
    return (Table(columns, rows, widest=4), *_more(len(groups) - _MAX_ROWS), *left_out)


def _more(count: int) -> tuple[Block, ...]:
    return (Sentence(f"and {count:,} more", "aside"),) if count > 0 else ()


def _code(found: Lineage) -> list[Section]:
    sections: list[Section] = []
    for run in list(found.runs.values())[:_MAX_ROWS]:
        facts = [Fact("Program", run.program)] if run.program else []
        words = [code_words(code, has_patch=run.has_patch) for code in run.code]
        facts += [Fact("Commit", text) for text in words]
        if not words:
            facts.append(Fact("Commit", "not recorded"))
        for function in run.functions[:_MAX_ROWS]:
            where = f"{function.file}:{function.line}" if function.line else function.file
            identity = function.identity[:_SHORT]
            name = function.function_name or function.task_name
            facts.append(Fact("Function", "  ".join(filter(None, (name, where, identity)))))
        if len(run.functions) > _MAX_ROWS:
            facts.append(Fact("", f"and {len(run.functions) - _MAX_ROWS:,} more functions"))
        aside = ", ".join(filter(None, (run.status, run.started_at[:19].replace("T", " "))))
        sections.append(Section((Facts(tuple(facts)),), f"Run {run.run_id}", aside))
    return sections
