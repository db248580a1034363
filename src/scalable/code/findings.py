"""The components of a function that were found so far, and the modules that it sees."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import CodeType
from typing import Any, Final

from scalable.code.model import SOURCE, Component
from scalable.code.modules import (
    Definition,
    ParsedModule,
    file_of_namespace,
    find_file,
    loaded_source,
    namespace_of,
    parsed_file,
)
from scalable.code.packages import OWN, PROJECT, PYTHON, Origin, origin_of, package_component

#: A name without a live object.
MISSING: Final = object()
#: Components of one function at most, and sentences of what is not covered.
MAX_COMPONENTS: Final = 500
MAX_NOT_COVERED: Final = 50
#: Characters of the sources of helpers, all together.
MAX_SOURCES: Final = 48 * 1024


@dataclass(frozen=True, slots=True)
class View:
    """A module as seen by its functions: its namespace if it is live, and its source if known."""

    name: str
    package: str
    namespace: dict[str, Any] | None
    parsed: ParsedModule | None

    @property
    def key(self) -> tuple[str, int]:
        """Tells it from other modules of its name."""
        return self.name, id(self.namespace)


class Findings:
    """What was found of one function; used by one thread."""

    def __init__(self, root: str, roots: tuple[str, ...] = ()) -> None:
        self._root = root
        #: Directories in which modules are looked for first.
        self._roots = roots
        self.components: dict[tuple[str, str, str], Component] = {}
        self.not_covered: dict[str, None] = {}
        self._seen: set[Any] = set()
        #: Keeps what :attr:`_seen` has by its address.
        self._kept: list[Any] = []
        self._source_left = MAX_SOURCES

    @property
    def is_full(self) -> bool:
        """Whether there are as many components as are kept."""
        return len(self.components) >= MAX_COMPONENTS

    def add(self, kind: str, name: str, digest: str, detail: str = "", source: str = "") -> None:
        """Note a component."""
        key = kind, name, digest
        if key not in self.components:
            kept = source if len(source) <= self._source_left else ""
            self._source_left -= len(kept)
            self.components[key] = Component(kind, name, digest, detail, kept)

    def leave(self, sentence: str) -> None:
        """Note something that cannot be seen."""
        if len(self.not_covered) < MAX_NOT_COVERED:
            self.not_covered[sentence] = None

    def is_new(self, *key: Any, keep: Any = None) -> bool:
        """Whether something was not met before; `keep` keeps its address its own."""
        if key in self._seen:
            return False
        self._seen.add(key)
        self._kept.append(keep)
        return True

    def add_definition(self, kind: str, name: str, definition: Definition, view: View) -> None:
        """Note a function or a class, with its source."""
        parsed = view.parsed
        assert parsed is not None
        if kind == SOURCE or (SOURCE, name, definition.digest) not in self.components:
            place = f"{parsed.file}:{definition.first_line}"
            self.add(kind, name, definition.digest, place, parsed.text_of(definition))

    def live_view(self, namespace: dict[str, Any], code: CodeType | None = None) -> View:
        """The module with that namespace; `code` is of one of its functions."""
        name = namespace.get("__name__")
        name = name if type(name) is str else ""
        package = namespace.get("__package__")
        if type(package) is not str:
            package = name if "__path__" in namespace else name.rpartition(".")[0]
        parsed = None
        for file in (None if code is None else code.co_filename, file_of_namespace(namespace)):
            if file is not None and parsed is None and file != "<dynamic-code>":
                parsed = parsed_file(file)
        if parsed is None:
            parsed = loaded_source(namespace)
        return View(name, package, namespace, parsed)

    def find_file(self, module: str) -> str | None:
        """The file of a module, without importing it."""
        return find_file(module, self._roots)

    def static_view(self, name: str) -> View | None:
        """A module by its source alone."""
        file = self.find_file(name)
        parsed = None if file is None else parsed_file(file)
        if parsed is None:
            return None
        is_package = file is not None and file.endswith("__init__.py")
        return View(name, name if is_package else name.rpartition(".")[0], None, parsed)

    def origin(self, module: str, namespace: dict[str, Any] | None) -> Origin:
        """Where a module comes from."""
        if namespace is not None:
            file = file_of_namespace(namespace)
        elif not self._roots and (loaded := sys.modules.get(module)) is not None:
            file = file_of_namespace(namespace_of(loaded))
            if file is None and "__path__" in namespace_of(loaded):
                return self._origin_of_namespace_package(module)
        else:
            file = self.find_file(module)
        if module == "__main__":
            return PROJECT
        return origin_of(module, file, self._root)

    def _origin_of_namespace_package(self, module: str) -> Origin:
        paths = list(namespace_of(sys.modules[module]).get("__path__") or ())
        return origin_of(module, f"{paths[0]}/__init__.py" if paths else None, self._root)

    def foreign(self, module: str, origin: Origin) -> bool:
        """Note the package of something that is not of the project; whether it is not."""
        if origin == PROJECT:
            return False
        if origin in (PYTHON, OWN):
            return True
        found = package_component(origin)
        self.add(found.kind, found.name, found.digest, found.detail)
        if not origin.version:
            self.leave(f"the version of {origin.name}, which no distribution has")
        return True
