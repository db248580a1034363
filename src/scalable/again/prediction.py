"""What a retry of a run will reuse, what it will compute again, and why, before it starts.

It is made of the run's records, the files of the program as they are now and what is kept. The
program is not run: which arguments it will pass is known only when it does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from scalable.again.kept_files import changed_file, differs_key
from scalable.again.past import Past, PastTask
from scalable.cache.store import Store
from scalable.code.changes import Change
from scalable.code.check import check

#: What happens to a task: its result is reused, it is computed again, or that depends on the new
#: result of a task that is computed again.
REUSED: Final = "reused"
AGAIN: Final = "again"
DEPENDS: Final = "depends"

NOT_KEPT: Final = "its result was not kept"
#: Reasons that change the result of a task, as far as is known.
_CHANGING: Final = ("code changed", "input file changed", "depends")


@dataclass(frozen=True, slots=True)
class Expected:
    """What is expected of one task."""

    task: PastTask
    outcome: str
    #: A sentence without its task; empty if the result is reused.
    reason: str = ""
    #: Why in more words: which file, which error.
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What is expected of all tasks of a run."""

    expected: list[Expected]
    #: What has changed of each function, by its name.
    changes: Mapping[str, tuple[Change, ...]]
    #: Sentences about what is not known before the run.
    unknown: list[str] = field(default_factory=list[str])

    def count(self, outcome: str) -> int:
        """Return the number of tasks with an outcome."""
        return sum(each.outcome == outcome for each in self.expected)

    def groups(self) -> list[tuple[str, str, str, list[Expected]]]:
        """Return outcome, task name, reason and tasks of each group, as a table has them."""
        found: dict[tuple[str, str, str], list[Expected]] = {}
        for each in self.expected:
            found.setdefault((each.outcome, each.task.name, each.reason), []).append(each)
        order = [REUSED, AGAIN, DEPENDS]
        ordered = sorted(found.items(), key=lambda item: order.index(item[0][0]))
        return [(*key, tasks) for key, tasks in ordered]


def predict(past: Past, store: Store) -> Prediction:
    """Return what a retry will do, as far as it is known before it starts."""
    return _Predictor(past, store).predict()


class _Predictor:
    """Predicts the outcome of each task once; used by one thread."""

    def __init__(self, past: Past, store: Store) -> None:
        self._past = past
        self._store = store
        self._expected: dict[str, Expected] = {}
        #: What differs of each function, by its identity; and functions that cannot be compared.
        self._changes: dict[str, tuple[Change, ...]] = {}
        self._unchecked = 0

    def predict(self) -> Prediction:
        tasks = self._past.tasks
        for task in tasks.values():
            self._expected[task.task_id] = self._of(task)
        self._follow_changes()
        changes: dict[str, tuple[Change, ...]] = {}
        for identity, found in self._changes.items():
            if known := tuple(each for each in found if each.is_known):
                changes[str(self._past.functions[identity].get("function_name"))] = known
        return Prediction([self._expected[key] for key in tasks], changes, self._unknown())

    # -- one task ---------------------------------------------------------------------------------

    def _of(self, task: PastTask) -> Expected:
        if task.state != "succeeded":
            return Expected(task, AGAIN, _why_no_result(task), task.error)
        changed = self._changed_functions(task)
        if changed:
            detail = "; ".join(each.sentence for each in changed[0][1][:2])
            return Expected(
                task, AGAIN, f"code changed: {', '.join(n for n, _ in changed)}", detail
            )
        lookup = task.lookup
        if lookup is None or not lookup.get("key_digest"):
            reason = str((lookup or {}).get("not_kept") or "")
            return Expected(task, AGAIN, NOT_KEPT, reason)
        about = self._store.about(str(lookup["key_digest"]))
        if self._store.about(differs_key(str(lookup["key_digest"]))) is not None:
            return Expected(task, AGAIN, "computed each time", "the same call had other results")
        if about is None:
            return Expected(task, AGAIN, "result gone", f"it is not in {self._store.directory}")
        changed_path = changed_file(about)
        if changed_path:
            reason, _, path = changed_path.partition(": ")
            return Expected(task, AGAIN, reason, path)
        return Expected(task, REUSED)

    def _changed_functions(self, task: PastTask) -> list[tuple[str, tuple[Change, ...]]]:
        """The functions of a task that are not what they were, and what differs."""
        functions = self._past.functions
        identities = self._past.identities.get(task.name, ())
        own = (task.lookup or {}).get("function_identity")
        if isinstance(own, str) and own in functions:
            # Other versions of it were run by other tasks; those fused with it have other names.
            name = functions[own].get("function_name")
            others = (each for each in identities if functions[each].get("function_name") != name)
            identities = (own, *others)
        return [
            (str(functions[each].get("function_name")), known)
            for each in identities
            if (known := tuple(it for it in self._changes_of(each) if it.is_known))
        ]

    def _changes_of(self, identity: str) -> tuple[Change, ...]:
        found = self._changes.get(identity)
        if found is None:
            try:
                found = check(self._past.functions[identity])
            except Exception:
                # The record may be of any version, and sources may be anything.
                found = ()
                self._unchecked += 1
            self._changes[identity] = found
        return found

    # -- all of them ------------------------------------------------------------------------------

    def _follow_changes(self) -> None:
        """Tasks whose inputs are computed by changed code or of changed files may differ."""
        above: dict[str, list[str]] = {}
        for task in self._past.tasks.values():
            for key in task.dependencies:
                above.setdefault(key, []).append(task.task_id)
        waiting = [key for key, each in self._expected.items() if each.reason.startswith(_CHANGING)]
        while waiting:
            changed = self._expected[waiting.pop()]
            for key in above.get(changed.task.task_id, ()):
                each = self._expected[key]
                if each.outcome == REUSED:
                    reason = f"depends on {changed.task.name}, which is computed again"
                    self._expected[key] = Expected(each.task, DEPENDS, reason, changed.task.task_id)
                    waiting.append(key)

    def _unknown(self) -> list[str]:
        found: list[str] = []
        if not self._past.functions:
            found.append("whether code has changed, as the run did not record its functions")
        if self._unchecked:
            found.append(f"whether {self._unchecked:,} functions have changed")
        for identity, changes in self._changes.items():
            name = self._past.functions[identity].get("function_name")
            found += [f"{name}: {each.sentence}" for each in changes if not each.is_known]
        if self._past.left_out:
            found.append(f"{self._past.left_out:,} further tasks are not looked at")
        return found


def _why_no_result(task: PastTask) -> str:
    if task.state == "failed":
        return "failed"
    if not task.ran:
        return "never ran"
    return {"cancelled": "cancelled", "running": "did not end"}.get(task.state, task.state)


def matching(expected: Iterable[Expected], name: str) -> list[Expected]:
    """Return what is expected of the task of an id, or else of all tasks of a name."""
    found = list(expected)
    own = [each for each in found if each.task.task_id == name]
    return own or [each for each in found if each.task.name == name]
