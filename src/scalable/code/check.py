"""Compares a recorded identity with the files and packages that are here now.

Nothing is imported or run: sources are parsed. What only a run can tell, such as the value of a
closure, is said to be unknown.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from scalable.code.changes import ADDED, CHANGED, REMOVED, UNKNOWN, Change, components_of, order
from scalable.code.findings import View
from scalable.code.model import (
    PACKAGE,
    SOURCE,
    WITH_SOURCE,
    Component,
    FunctionIdentity,
)
from scalable.code.modules import Definition, ParsedModule, parsed_file
from scalable.code.packages import editable_component, root_of
from scalable.code.static import StaticCollector
from scalable.code.syntax import digest_of

_IN_A_RUN: Final = "its value is known only in a run"
_FIELDS: Final = ("kind", "name", "digest", "detail", "source")


def check(record: Mapping[str, Any]) -> tuple[Change, ...]:
    """Compare a line of functions.jsonl with the present files and packages.

    Parameters
    ----------
    record : mapping
        The line, also of a run on another version of Python.

    Returns
    -------
    tuple of Change
        What differs, as :func:`~scalable.code.identity.differences` has it, and what only a run
        can tell; see :attr:`~scalable.code.changes.Change.is_known`. Empty if nothing differs.
    """
    return _Check(record).changes()


class _Check:
    """Checks one record; used by one thread."""

    def __init__(self, record: Mapping[str, Any]) -> None:
        components = components_of(record)
        text = record.get("source")
        self._recorded = [
            replace(each, source=text) if each.kind == SOURCE and isinstance(text, str) else each
            for each in components
        ]
        self._module = str(record.get("module") or "")
        self._qualname = str(record.get("qualname") or "")
        self._file = str(record.get("file") or "")
        self._line = record.get("line")
        self._roots = tuple(dict.fromkeys(_roots(self._module, self._file, self._recorded)))

    def changes(self) -> tuple[Change, ...]:
        found = [change for each in self._recorded if (change := self._package(each))]
        source = next((each for each in self._recorded if each.kind == SOURCE), None)
        if source is None:
            name = f"{self._module}.{self._qualname}"
            reason = "its source was not known when it ran"
            found.append(Change(SOURCE, name, UNKNOWN, reason=reason))
        elif source.detail:
            found += self._code(source)
        return tuple(sorted(found, key=order))

    # -- code -------------------------------------------------------------------------------------

    def _code(self, source: Component) -> list[Change]:
        parsed = parsed_file(self._file)
        if parsed is None:
            reason = f"{self._file} is no file that can be read here"
            return [Change(SOURCE, source.name, UNKNOWN, source, reason=reason)]
        present = by_names(
            self._module, self._qualname, self._file, source.digest, self._line, self._roots
        )
        if present is None:
            return [Change(SOURCE, source.name, REMOVED, source)]
        return list(self._compared(present))

    def _compared(self, present: list[Component]) -> Iterable[Change]:
        now, was = _by_place(present), _by_place(self._recorded)
        for place, recorded in was.items():
            if recorded[0].kind == PACKAGE:
                continue
            if place in now:
                yield from _differing(recorded, now[place])
                continue
            for each in recorded:
                yield from self._alone(each)
        for place, found in now.items():
            if place not in was:
                yield from (Change(each.kind, each.name, ADDED, None, each) for each in found)

    def _alone(self, recorded: Component) -> Iterable[Change]:
        """Something that is not reached by names now."""
        kind, name = recorded.key
        if not recorded.held:
            yield Change(kind, name, REMOVED, recorded)
        elif kind not in WITH_SOURCE:
            yield Change(kind, name, UNKNOWN, recorded, reason=_IN_A_RUN)
        else:
            found = self._by_itself(recorded)
            if found is None:
                yield Change(kind, name, REMOVED, recorded)
            elif found.digest != recorded.digest:
                yield Change(kind, name, CHANGED, recorded, found)

    def _by_itself(self, recorded: Component) -> Component | None:
        """A function or a class in its own file, whatever reaches it."""
        file, _, line = recorded.detail.rpartition(":")
        parsed = parsed_file(file)
        if parsed is None:
            return None
        parts = recorded.name.split(".")
        for number in range(1, len(parts)):
            qualname = ".".join(parts[number:])
            number_of_line = int(line) if line.isdigit() else None
            definition = _chosen(parsed, qualname, recorded.digest, number_of_line)
            if definition is not None:
                place = f"{file}:{definition.first_line}"
                text = parsed.text_of(definition)
                return Component(recorded.kind, recorded.name, definition.digest, place, text)
        return None

    # -- packages ---------------------------------------------------------------------------------

    def _package(self, recorded: Component) -> Change | None:
        if recorded.kind != PACKAGE:
            return None
        present = editable_component(recorded.name)
        if present is None:
            try:
                version = metadata.version(recorded.name)
            except Exception:
                return Change(PACKAGE, recorded.name, REMOVED, recorded)
            present = Component(PACKAGE, recorded.name, digest_of(version), version)
        if present.digest == recorded.digest:
            return None
        return Change(PACKAGE, recorded.name, CHANGED, recorded, present)


def record_of(identity: FunctionIdentity) -> dict[str, Any]:
    """The fields of an identity in a line of functions.jsonl.

    What is reached through live objects alone is marked as `held`.
    """
    source = next((each for each in identity.components if each.kind == SOURCE), None)
    named: list[Component] | None = None
    if source is not None and source.detail and identity.file:
        module, file = identity.module, identity.file
        roots = tuple(dict.fromkeys(_roots(module, file, identity.components)))
        named = by_names(module, identity.qualname, file, source.digest, identity.line, roots)
    places = _by_place(named or ())
    return {
        "function_name": identity.name,
        "module": identity.module,
        "qualname": identity.qualname,
        "file": identity.file,
        "line": identity.line,
        "source": identity.source,
        "identity": f"sha256:{identity.digest}",
        "components": [_fields_of(each, places) for each in identity.components],
        "not_covered": list(identity.not_covered),
    }


def _fields_of(component: Component, named: Mapping[tuple[str, str], Any]) -> dict[str, Any]:
    fields = {name: value for name in _FIELDS if (value := getattr(component, name))}
    if component.kind != PACKAGE and _place_of(component) not in named:
        fields["held"] = True
    if component.kind == SOURCE:
        fields.pop("source", None)  # the line has it
    return fields


def by_names(
    module: str, qualname: str, file: str, digest: str, line: int | None, roots: tuple[str, ...]
) -> list[Component] | None:
    """What a function is made of by sources alone, without packages; None if it is not there."""
    parsed = parsed_file(file)
    definition = None if parsed is None else _chosen(parsed, qualname, digest, line)
    if parsed is None or definition is None:
        return None
    is_package = Path(file).name == "__init__.py"
    view = View(module, module if is_package else module.rpartition(".")[0], None, parsed)
    collector = StaticCollector(root_of(file), roots)
    collector.static_definition(view, definition, SOURCE)
    collector.run()
    return [each for each in collector.components.values() if each.kind != PACKAGE]


def _place_of(component: Component) -> tuple[str, str]:
    return "code" if component.kind in WITH_SOURCE else component.kind, component.name


def _by_place(components: Iterable[Component]) -> dict[tuple[str, str], list[Component]]:
    """By name: code of the same name is the same, whatever it was reached as."""
    found: dict[tuple[str, str], list[Component]] = {}
    for each in components:
        found.setdefault(_place_of(each), []).append(each)
    return found


def _differing(recorded: list[Component], present: list[Component]) -> Iterable[Change]:
    before = {each.digest: each for each in recorded}
    after = {each.digest: each for each in present}
    gone = [each for digest, each in before.items() if digest not in after]
    come = [each for digest, each in after.items() if digest not in before]
    for number in range(max(len(gone), len(come))):
        first = gone[number] if number < len(gone) else None
        second = come[number] if number < len(come) else None
        one = first or second
        assert one is not None
        what = CHANGED if first and second else REMOVED if first else ADDED
        yield Change(one.kind, one.name, what, first, second)


def _chosen(
    parsed: ParsedModule, qualname: str, digest: str, line: int | None
) -> Definition | None:
    """The definition of a name: of several, one that is as recorded, else the nearest."""
    found = parsed.by_qualname.get(qualname, [])
    same = [each for each in found if each.digest == digest]
    if same or not found:
        return same[0] if same else None
    return min(found, key=lambda each: abs(each.first_line - (line or 0)))


def _roots(module: str, file: str, components: Iterable[Component]) -> Iterable[str]:
    """Directories that the recorded modules were imported from."""
    if file:
        yield _root_above(file, "" if module == "__main__" else module)
    for each in components:
        place, _, line = each.detail.rpartition(":")
        if each.kind in WITH_SOURCE and place and line.isdigit():
            tail = str(Path(place).with_suffix("")).replace(os.sep, ".")
            tail = tail.removesuffix(".__init__")
            parts = each.name.split(".")
            for number in range(len(parts) - 1, 0, -1):
                inner = ".".join(parts[:number])
                if tail.endswith(f".{inner}"):
                    yield _root_above(place, inner)
                    break


def _root_above(file: str, module: str) -> str:
    path = Path(file)
    depth = module.count(".") + (path.name == "__init__.py")
    parents = path.parents
    return str(parents[depth]) if depth < len(parents) else str(path.parent)
