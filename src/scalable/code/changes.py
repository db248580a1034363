"""What differs between two identities of a function, each difference by its name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, cast

from scalable.code.model import WITH_SOURCE, Component, FunctionIdentity

CHANGED: Final = "changed"
ADDED: Final = "added"
REMOVED: Final = "removed"
UNKNOWN: Final = "unknown"

#: Characters of a diff.
MAX_DIFF: Final = 16 * 1024

#: An identity, or the line of functions.jsonl that was made of one.
Identity: TypeAlias = FunctionIdentity | Mapping[str, Any]

_FIELDS: Final = ("kind", "name", "digest", "detail", "source")
#: In the order in which they are told.
_KINDS: Final = ("source", "helper", "class", "decorator", "constant", "default", "closure")


@dataclass(frozen=True, slots=True)
class Change:
    """A component that differs.

    Attributes
    ----------
    kind, name : str
        Of the component; see :class:`~scalable.code.model.Component`.
    what : {"changed", "added", "removed", "unknown"}
        "unknown" if only a run can tell.
    before, after : Component or None
        What it was, and what it is.
    reason : str
        Why it is not known.
    """

    kind: str
    name: str
    what: str
    before: Component | None = None
    after: Component | None = None
    reason: str = ""

    @property
    def is_known(self) -> bool:
        """Whether it is certain that something differs."""
        return self.what != UNKNOWN

    @property
    def sentence(self) -> str:
        """It in words, such as ``constant model.LIMIT: 3 → 4``."""
        named = f"{'function' if self.kind == 'source' else self.kind} {self.name}"
        if self.what == UNKNOWN:
            return f"{named}: {self.reason or 'only a run can tell'}"
        if self.what == ADDED:
            return f"{named} is new{_shown(self.after)}"
        if self.what == REMOVED:
            return f"{named} is no longer used"
        before, after = _value(self.before), _value(self.after)
        if before and after and before != after:
            return f"{named}: {before} → {after}"
        return f"{named} differs{_shown(self.after)}"

    @property
    def diff(self) -> str:
        """Unified diff of the two sources; empty where one is not known."""
        if self.before is None or self.after is None:
            return ""
        before, after = self.before.source, self.after.source
        if not before or not after:
            return ""
        names = f"before/{self.name}", f"after/{self.name}"
        lines = difflib.unified_diff(before.splitlines(), after.splitlines(), *names, lineterm="")
        return "\n".join(lines)[:MAX_DIFF]


def differences(before: Identity, after: Identity) -> tuple[Change, ...]:
    """Name every component that differs between two identities.

    Parameters
    ----------
    before, after : FunctionIdentity or mapping
        Identities, or lines of functions.jsonl.

    Returns
    -------
    tuple of Change
        Sorted: the function's own source first, then what it calls. Empty if the identities are
        equal.
    """
    return compared(components_of(before), components_of(after))


def compared(before: Iterable[Component], after: Iterable[Component]) -> tuple[Change, ...]:
    """The differences between two lists of components."""
    old, new = _by_name(before), _by_name(after)
    changes: list[Change] = []
    for key in old.keys() | new.keys():
        was, now = old.get(key, []), new.get(key, [])
        gone = [one for one in was if one.digest not in {each.digest for each in now}]
        come = [one for one in now if one.digest not in {each.digest for each in was}]
        for number in range(max(len(gone), len(come))):
            first = gone[number] if number < len(gone) else None
            second = come[number] if number < len(come) else None
            what = CHANGED if first and second else REMOVED if first else ADDED
            changes.append(Change(*key, what, first, second))
    return tuple(sorted(changes, key=order))


def components_of(identity: Identity) -> tuple[Component, ...]:
    """The components of an identity or of a line of functions.jsonl; damaged ones are left out."""
    if isinstance(identity, FunctionIdentity):
        return identity.components
    listed = identity.get("components")
    if not isinstance(listed, list | tuple):
        return ()
    found: list[Component] = []
    for each in cast("Sequence[Any]", listed):
        if isinstance(each, Mapping):
            fields = cast("Mapping[str, Any]", each)
            texts = [fields.get(name) or "" for name in _FIELDS]
            if fields.get("name") == identity.get("function_name") and not texts[-1]:
                # A line has the function's own source once, for all who read it.
                texts[-1] = identity.get("source") or ""
            if all(isinstance(text, str) for text in texts) and all(texts[:3]):
                found.append(Component(*texts, held=fields.get("held") is True))
    return tuple(found)


def order(change: Change) -> tuple[int, str, str]:
    """Sorts changes in the order in which they are told."""
    kind = change.kind
    return _KINDS.index(kind) if kind in _KINDS else len(_KINDS), change.name, change.what


def _by_name(components: Iterable[Component]) -> dict[tuple[str, str], list[Component]]:
    found: dict[tuple[str, str], list[Component]] = {}
    for each in components:
        found.setdefault(each.key, []).append(each)
    return found


def _shown(component: Component | None) -> str:
    """Where it is, or what it is."""
    return f" ({component.detail})" if component is not None and component.detail else ""


def _value(component: Component | None) -> str:
    if component is None or component.kind in WITH_SOURCE:
        return ""
    return component.detail
