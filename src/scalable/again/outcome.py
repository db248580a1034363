"""What a retry did: which results it reused, and why it computed the others again."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any, Final

from scalable.again.past import Past, PastTask, read_past
from scalable_runs.reader import RunReader

#: Tasks of one group that are named.
_MAX_NAMED: Final = 1_000


@dataclass(slots=True)
class Group:
    """Tasks of one name that were treated in the same way."""

    name: str
    reused: bool
    reason: str
    count: int = 0
    tasks: list[str] = field(default_factory=list[str])


def outcome_of(new: RunReader, before: Past) -> list[Group]:
    """Return what a retry did with its tasks, in groups."""
    tasks = read_past(new).tasks
    hits = {
        str(it.lookup["key_digest"]) for it in tasks.values() if it.lookup and it.lookup.get("hit")
    }
    finder = _Reasons(before, hits)
    groups: dict[tuple[str, bool, str], Group] = {}
    for task in tasks.values():
        if not task.ran and task.lookup is None:
            continue
        reused = bool((task.lookup or {}).get("hit"))
        reason = "" if reused else finder.of(task)
        key = (task.name, reused, reason)
        group = groups.setdefault(key, Group(task.name, reused, reason))
        group.count += 1
        if len(group.tasks) < _MAX_NAMED:
            group.tasks.append(task.task_id)
    return sorted(groups.values(), key=lambda each: (not each.reused, each.name, -each.count))


class _Reasons:
    """Finds out why a task was computed again; used by one thread.

    `hits` are the results that were reused: no other task has taken their place.
    """

    def __init__(self, before: Past, hits: set[str]) -> None:
        self._hits = hits
        self._before = before
        #: Look-ups of the run before, by function.
        self._lookups: dict[str, list[PastTask]] = defaultdict(list)
        for task in before.tasks.values():
            if task.lookup is not None and task.lookup.get("arguments_digest"):
                self._lookups[str(task.lookup.get("function_name"))].append(task)

    def of(self, task: PastTask) -> str:
        """Return why there was no result to reuse."""
        lookup = task.lookup
        if lookup is None:
            return "results were not looked up"
        if not lookup.get("arguments_digest"):
            return f"not kept: {lookup.get('not_kept')}" if lookup.get("not_kept") else "not kept"
        past = self._before.tasks.get(task.task_id)
        if past is not None and past.state != "succeeded":
            return _not_succeeded(past)
        known = self._lookups.get(str(lookup.get("function_name")), [])
        same_code = [
            each
            for each in known
            if (each.lookup or {}).get("function_identity") == lookup.get("function_identity")
        ]
        if not known:
            return self._unknown(task)
        if not same_code:
            return f"code changed: {lookup.get('function_name')}"
        left = [each for each in same_code if (each.lookup or {})["key_digest"] not in self._hits]
        if not left:
            return "never ran with these arguments"
        best = max(left, key=lambda each: _equal_arguments(each, lookup))
        changed = _changed_arguments(best, lookup)
        if changed:
            return f"argument changed: {', '.join(changed)}"
        if best.state != "succeeded":
            return _not_succeeded(best)
        if (best.lookup or {}).get("not_kept"):
            return f"not kept: {(best.lookup or {})['not_kept']}"
        return "its result was gone, or a file that it used had changed"

    def _unknown(self, task: PastTask) -> str:
        """Of a function of which nothing was looked up in the run before."""
        named = [each for each in self._before.tasks.values() if each.name == task.name]
        if not named:
            return "never ran"
        left = [each for each in named if each.state != "succeeded"]
        return "its result was not kept" if len(left) < len(named) else _not_succeeded(left[0])


def _not_succeeded(past: PastTask) -> str:
    if past.state == "failed":
        return "it had failed"
    return "it had not ended" if past.ran else "never ran"


def _digests(lookup: dict[str, Any] | None) -> dict[str, Any]:
    found = (lookup or {}).get("arguments")
    return found if isinstance(found, dict) else {}


def _equal_arguments(task: PastTask, lookup: dict[str, Any]) -> int:
    old, new = _digests(task.lookup), _digests(lookup)
    return sum(old.get(name) == digest for name, digest in new.items())


def _changed_arguments(task: PastTask, lookup: dict[str, Any]) -> list[str]:
    old, new = _digests(task.lookup), _digests(lookup)
    return [name for name in {**old, **new} if old.get(name) != new.get(name)]


def totals(groups: list[Group]) -> Counter[bool]:
    """Return the numbers of tasks that were reused (True) and computed (False)."""
    found: Counter[bool] = Counter()
    for group in groups:
        found[group.reused] += group.count
    return found
