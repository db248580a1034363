"""Finds what a function is made of in parsed sources alone: nothing is imported or run."""

from __future__ import annotations

import ast
import builtins
import functools
import sys
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final

from scalable.code import values
from scalable.code.findings import MAX_COMPONENTS, MISSING, Findings, View
from scalable.code.model import CLASS, CONSTANT, DECORATOR, HELPER
from scalable.code.modules import Binding, Definition
from scalable.code.packages import PROJECT
from scalable.code.scopes import Chain, Imported, Reach, bound_names, reach_of
from scalable.code.syntax import FUNCTIONS, canonical, digest_of

DEFINED: Final = (*FUNCTIONS, ast.ClassDef)


class StaticCollector(Findings):
    """Collects what a function is made of from sources; used by one thread."""

    def __init__(self, root: str, roots: tuple[str, ...] = ()) -> None:
        super().__init__(root, roots)
        self._waiting: deque[Callable[[], None]] = deque()
        #: What is looked up in sources alone; done last, as live objects say more.
        self._static: deque[Callable[[], None]] = deque()

    def run(self) -> None:
        """Follow everything that was found, until nothing new is."""
        while self._waiting or self._static:
            if self.is_full:
                self.leave(f"what else than {MAX_COMPONENTS} components it reaches")
                return
            step = (self._waiting or self._static).popleft()
            try:
                step()
            except (RecursionError, MemoryError):
                self.leave("code that is too deeply nested")

    # -- live objects, of which there are none here ------------------------------------------------

    def closed_over(self, chain: Chain, value: Any, user: str, reach: Reach) -> None:
        """Follow a variable of an enclosing function."""

    def object_named(
        self, view: View, name: str, found: Any, rest: Chain, user: str, reach: Reach | None
    ) -> None:
        """Follow the object that a name of a module has."""

    # -- names ------------------------------------------------------------------------------------

    def follow(
        self,
        view: View,
        reach: Reach,
        user: str,
        cells: dict[str, Any] | None = None,
        local: frozenset[str] = frozenset(),
    ) -> None:
        """Follow all that a piece of code reaches; `cells` are the variables it closes over."""
        for chain in reach.chains:
            if cells is not None and chain[0] in cells:
                self.closed_over(chain, cells[chain[0]], user, reach)
            elif chain[0] not in local:
                self.name(view, chain, user, reach)
        for imported, rest in reach.imports:
            self._static.append(functools.partial(self.imported, view, imported, rest, user))
        for text, line in reach.blind:
            self.leave(f"{text} in {user}, line {line}")

    def name(self, view: View, chain: Chain, user: str, reach: Reach | None = None) -> None:
        """Follow a name of a module, and its attributes."""
        name, rest = chain[0], chain[1:]
        found = MISSING if view.namespace is None else view.namespace.get(name, MISSING)
        if found is not MISSING:
            self.object_named(view, name, found, rest, user, reach)
        elif view.parsed is not None and name in view.parsed.bindings:
            self._binding(view, name, rest, user)
        elif name not in vars(builtins) and not name.startswith("__"):
            self._submodule_or_missing(view, name, rest, user)

    def _submodule_or_missing(self, view: View, name: str, rest: Chain, user: str) -> None:
        below = f"{view.name}.{name}"
        if view.package == view.name and self.static_view(below) is not None:
            self._module(below, rest, user, None)
        elif view.namespace is None and "*" in (view.parsed.bindings if view.parsed else ()):
            self.leave(f"{name} in {user}, which is imported by *")
        else:
            self.leave(f"{name} in {user}, which is not defined yet")

    def _module(self, name: str, rest: Chain, user: str, namespace: dict[str, Any] | None) -> None:
        """Follow attributes of a module."""
        origin = self.origin(name, namespace)
        if origin != PROJECT:
            below = self._inner_module(name, rest)
            self.foreign(below, self.origin(below, None) if below != name else origin)
            return
        if not rest:
            self.leave(f"what {user} takes from the module {name}, which it uses as a value")
            return
        view = self.static_view(name) if namespace is None else self.live_view(namespace)
        if view is None:
            self.leave(f"the module {name}, which {user} imports: it has no source here")
        else:
            self.name(view, rest, user)

    def _inner_module(self, name: str, rest: Chain) -> str:
        """The module that a chain of attributes leads to: parts of a package may be of others."""
        for each in rest:
            if f"{name}.{each}" not in sys.modules:
                break
            name = f"{name}.{each}"
        return name

    def imported(self, view: View, imported: Imported, rest: Chain, user: str) -> None:
        """Follow something that code imports itself, by sources alone."""
        module = absolute_name(imported, view.package)
        if imported.attribute is None:
            self._module(module, rest, user, None)
            return
        chain = (imported.attribute, *rest)
        below = f"{module}.{imported.attribute}"
        origin = self.origin(module, None)
        if origin == PROJECT:
            found = self.static_view(module)
            parsed = None if found is None else found.parsed
            is_bound = parsed is not None and imported.attribute in parsed.bindings
            if not is_bound and self.find_file(below):
                self._module(below, rest, user, None)
            elif found is None:
                self.leave(f"the module {module}, which {user} imports: it has no source here")
            else:
                self.name(found, chain, user)
        else:
            self._module(module, chain, user, None)

    # -- sources alone ----------------------------------------------------------------------------

    def _binding(self, view: View, name: str, rest: Chain, user: str) -> None:
        """Follow a name of a module that is not live."""
        assert view.parsed is not None
        for binding in view.parsed.bindings[name]:
            node = binding.node
            if binding.imported is not None:
                self._static.append(
                    functools.partial(self.imported, view, binding.imported, rest, user)
                )
            elif isinstance(node, DEFINED):
                for each in view.parsed.by_qualname.get(name, ()):
                    if each.node is node:
                        self.static_definition(view, each, HELPER)
            else:
                self._constant(view, name)

    def static_definition(self, view: View, definition: Definition, kind: str) -> None:
        """Follow a function or a class by its source alone."""
        if isinstance(definition.node, ast.ClassDef):
            self._static_class(view, definition)
        elif self.is_new("static", id(definition), keep=definition):
            name = f"{view.name}.{definition.qualname}"
            decorators = self._static_decorators(view, definition)
            self.add_definition(kind, name, definition, view)
            self.follow(view, definition.reach, name, local=enclosing_names(definition))
            for each in decorators:
                self.static_definition(view, each, DECORATOR)
            if definition.owner is not None:
                self._static_class(view, definition.owner)

    def _static_decorators(self, view: View, definition: Definition) -> list[Definition]:
        found: list[Definition] = []
        for each in getattr(definition.node, "decorator_list", ()):
            target = each.func if isinstance(each, ast.Call) else each
            if isinstance(target, ast.Name) and view.parsed is not None:
                found += view.parsed.by_qualname.get(target.id, ())
        return [each for each in found if not isinstance(each.node, ast.ClassDef)]

    def _static_class(self, view: View, definition: Definition) -> None:
        if not self.is_new("static", id(definition), keep=definition):
            return
        name = f"{view.name}.{definition.qualname}"
        self.add_definition(CLASS, name, definition, view)
        self.follow(view, definition.reach, name, local=enclosing_names(definition))
        assert view.parsed is not None
        for node in methods_of(definition):
            for each in view.parsed.by_qualname.get(f"{definition.qualname}.{node.name}", ()):
                if each.node is node:
                    self.static_definition(view, each, HELPER)

    # -- constants --------------------------------------------------------------------------------

    def _constant(self, view: View, name: str) -> None:
        """Note a name of a module that is not live, by its value or by what computes it."""
        if not self.is_new("constant", view.key, name) or view.parsed is None:
            return
        bindings = view.parsed.bindings.get(name, [])
        value = folded(bindings)
        if values.is_plain(value):
            full = f"{view.name}.{name}"
            self.add(CONSTANT, full, values.value_digest(value), values.shown(value))
        else:
            self.computed(view, name, bindings)

    def computed(self, view: View, name: str, bindings: list[Binding]) -> None:
        """Note a constant by the statements that set it, with what they reach."""
        assert view.parsed is not None
        full = f"{view.name}.{name}"
        nodes = [each.node if each.value is None else each.value for each in bindings]
        digest = digest_of("\n".join(canonical(each) for each in nodes))
        text = " ".join((ast.get_source_segment(view.parsed.text, nodes[-1]) or "").split())
        self.add(CONSTANT, full, digest, text[: values.MAX_SHOWN])
        for node in nodes:
            self.follow(view, reach_of(node), full)


def absolute_name(imported: Imported, package: str) -> str:
    """The full name of the module of an import in a module of `package`."""
    if not imported.level:
        return imported.module
    above = package.split(".")
    kept = above[: len(above) - imported.level + 1]
    return ".".join([*kept, *filter(None, [imported.module])])


def methods_of(definition: Definition | None) -> Iterable[Any]:
    """The methods and inner classes of a class."""
    if definition is None:
        return []
    return [each for each in definition.node.body if isinstance(each, DEFINED)]


def enclosing_names(definition: Definition) -> frozenset[str]:
    """Names that the functions around a definition bind: only a run knows their values."""
    names: set[str] = set()
    for each in definition.around:
        if isinstance(each.node, (*FUNCTIONS, ast.Lambda)):
            names |= bound_names(each.node)
    return frozenset(names)


def folded(bindings: list[Binding]) -> Any:
    """The value of a name that is bound once, to an expression of literals."""
    if len(bindings) != 1 or bindings[0].value is None:
        return MISSING
    try:
        return values.fold(bindings[0].value)
    except values.NotLiteralError:
        return MISSING
