"""What a lineage is asked about: a file by its content or name, or a task."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final

from scalable.analysis.lineage.model import TaskKey, Touch
from scalable.analysis.lineage.touches import Touches
from scalable_runs.reader import RunReader
from scalable_runs.schema import TASKS

_DIGEST: Final = re.compile(r"(?:sha256:)?([0-9a-f]{8,64})")
#: Tasks of one name that are asked about at once.
MAX_TASKS: Final = 1_000
_NEAR: Final = 3


class NoSubjectError(LookupError):
    """No run knows what was asked for; the message says what is close."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What is asked about: contents, or tasks.

    Attributes
    ----------
    digests
        The content, and those of directories that have it as a file.
    note
        What must be said about it.
    """

    text: str
    digests: tuple[str, ...] = ()
    tasks: tuple[TaskKey, ...] = ()
    note: str = ""


def find_subject(
    text: str, touches: Touches, runs: Iterable[RunReader], *, digests: tuple[str, ...] = ()
) -> Subject:
    """Return what a text names.

    Parameters
    ----------
    text
        A digest or its beginning, the name or location of an artifact, a task's id, or the name
        that tasks share.
    touches
        What runs have put and got.
    runs
        Runs whose tasks are searched, the latest first: the first that has it counts.
    digests
        Of a file or a name in the catalog that the text names: known already.

    Raises
    ------
    NoSubjectError
        There is nothing of that name.
    """
    known = tuple(digest for digest in digests if digest in touches.digests)
    if known:
        return Subject(text, digests=known)
    if not digests:
        match = _DIGEST.fullmatch(text)
        if match is not None:
            found = [one for one in touches.digests if one[7:].startswith(match[1])]
            if len(found) > 1:
                shown = ", ".join(one[:23] for one in found[:_NEAR])
                raise NoSubjectError(f"{text!r} begins {len(found):,} digests: {shown}, …")
            if found:
                return Subject(text, digests=(found[0],))
    named = _latest(text, touches)
    if named is not None and digests:
        raise NoSubjectError(
            f"no run has put or got {text} as it is now ({digests[0]}). Run {named.task.run_id} "
            f"recorded it with another content: scalable lineage {named.digest[:23]}"
        )
    if named is not None:
        return Subject(text, digests=(named.digest,))
    if digests:
        raise NoSubjectError(f"no run has put or got {text} ({digests[0]})")
    return _tasks(text, touches, runs)


def _latest(text: str, touches: Touches) -> Touch | None:
    """Return the last time that an artifact of that name or location was put, else got."""
    found = [one for one in touches.all() if one.digest and text in (one.name, one.location)]
    return max(found, key=lambda touch: (touch.stage != "get", touch.at), default=None)


def _tasks(text: str, touches: Touches, runs: Iterable[RunReader]) -> Subject:
    names: set[str] = set()
    for reader in runs:
        found: dict[TaskKey, None] = {}
        count = 0
        for record in reader.records(TASKS):
            task_id, name = record.get("task_id"), record.get("task_name")
            if task_id is None:
                continue
            if task_id == text:
                return Subject(text, tasks=(TaskKey(reader.run_id, task_id),))
            key = TaskKey(reader.run_id, task_id)
            if name == text and key not in found:
                count += record.get("state") == "submitted"
                if len(found) < MAX_TASKS:
                    found[key] = None
            elif name is not None and len(names) < MAX_TASKS:
                names.add(str(name))
        if found:
            more = max(count, len(found)) - len(found)
            note = f"{more:,} more tasks of that name are left out." if more else ""
            return Subject(text, tasks=tuple(found), note=note)
    names |= {touch.name for touch in touches.all()}
    close = get_close_matches(text, names, n=_NEAR)
    hint = f": did you mean {' or '.join(map(repr, close))}?" if close else ""
    raise NoSubjectError(f"no run has a file, an artifact or a task {text!r}{hint}")
