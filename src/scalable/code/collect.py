"""Finds what a function is made of: it follows names through live objects and parsed sources.

Names are looked up in the namespaces of modules that were imported. What a function imports itself
is looked up in sources alone, as it may not have been imported yet, and an identity must not depend
on that. No code of the user's is run: no ``__getattr__``, ``__repr__``, ``__eq__`` or ``__hash__``.
"""

from __future__ import annotations

import ast
import functools
import sys
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    GenericAlias,
    MethodType,
    ModuleType,
)
from typing import Any

from scalable.code import values
from scalable.code.findings import MISSING, View
from scalable.code.model import (
    CLASS,
    CLOSURE,
    CONSTANT,
    DECORATOR,
    DEFAULT,
    HELPER,
    SOURCE,
    VALUE_OF,
)
from scalable.code.modules import Binding, Definition, namespace_of, parsed_text
from scalable.code.objects import (
    BUILTIN_CODE,
    cells_of,
    function_in,
    has_slots,
    module_of_class,
    name_of_code,
    name_of_module,
    own_dict,
)
from scalable.code.packages import PROJECT
from scalable.code.scopes import Chain, Imported, Reach, parameters_of, reach_of
from scalable.code.sources import program_sources
from scalable.code.static import StaticCollector, absolute_name, enclosing_names, folded, methods_of
from scalable.code.syntax import FUNCTIONS, digest_of


class Collector(StaticCollector):
    """Collects the components of one function; used by one thread."""

    # -- names -----------------------------------------------------------------------------

    def object_named(
        self, view: View, name: str, found: Any, rest: Chain, user: str, reach: Reach | None
    ) -> None:
        """Follow the object that a name of a module has."""
        kind = type(found)
        if issubclass(kind, ModuleType):
            self._module(name_of_module(found), rest, user, namespace_of(found))
        elif self.code(found, HELPER):
            self._assigned_code(view, name, found)
        else:
            self._constant_named(view, name, found, user, reach)

    def _assigned_code(self, view: View, name: str, found: Any) -> None:
        """Code that a statement made, such as a partial: note the statement too."""
        bindings = view.parsed.bindings.get(name, []) if view.parsed is not None else []
        if not bindings or not self.is_new("constant", view.key, name):
            return
        imported = bindings[-1].imported
        if imported is not None and imported.attribute is not None:
            live = sys.modules.get(absolute_name(imported, view.package))
            namespace = {} if live is None else namespace_of(live)
            if namespace.get(imported.attribute) is found and self._is_project(namespace):
                self._assigned_code(self.live_view(namespace), imported.attribute, found)
        elif any(each.value is not None for each in bindings):
            self.computed(view, name, bindings)

    def _is_project(self, namespace: dict[str, Any]) -> bool:
        name = namespace.get("__name__")
        return type(name) is str and self.origin(name, namespace) == PROJECT

    def code(self, found: Any, kind: str) -> bool:
        """Follow an object that is code: a function, a class, or what wraps one."""
        of = type(found)
        if of is FunctionType:
            self.function(found, kind)
        elif issubclass(of, type):
            self.live_class(found, SOURCE if kind == SOURCE else CLASS)
        elif of is MethodType:
            self.code(found.__func__, kind)
            self._owner_of_method(found.__self__)
        elif of in (staticmethod, classmethod):
            self.code(found.__func__, kind)
        elif of is property:
            for each in (found.fget, found.fset, found.fdel):
                if each is not None:
                    self.code(each, kind)
        elif of is functools.partial:
            self._partial(found, kind)
        elif of in (
            functools.cached_property,
            functools.partialmethod,
            functools.singledispatchmethod,
        ):
            for each in vars(found).values():
                if type(each) is FunctionType:
                    self.code(each, kind)
        elif of is GenericAlias:
            self.code(found.__origin__, kind)
        elif (wrapped := own_dict(found).get("__wrapped__", MISSING)) is not MISSING:
            self.code(wrapped, kind)
            self._class_of(found)
        elif issubclass(of, BUILTIN_CODE):
            self._builtin(found)
        else:
            return False
        return True

    def _builtin(self, found: Any) -> None:
        """A function that is not written in Python."""
        owner = getattr(found, "__self__", None) if type(found) is BuiltinFunctionType else None
        if owner is not None and not issubclass(type(owner), ModuleType):
            self._class_of(owner)
        module: Any = getattr(found, "__module__", None)
        if type(module) is str and module not in ("builtins", "_operator"):
            origin = self.origin(module, None)
            if not self.foreign(module, origin):
                self.leave(f"{module}.{getattr(found, '__name__', '?')}, which has no source")

    def function(self, function: FunctionType, kind: str) -> None:
        """Follow a Python function."""
        if not self.is_new("function", id(function), keep=function):
            return
        wrapped = function.__dict__.get("__wrapped__")
        if wrapped is not None:
            self.code(wrapped, kind)
            kind = DECORATOR
        code = function.__code__
        namespace: dict[str, Any] = function.__globals__
        module = namespace.get("__name__")
        module = module if type(module) is str else ""
        if self.foreign(module, self.origin(module, namespace)):
            return
        self._waiting.append(functools.partial(self._function, function, code, module, kind))

    def _function(self, function: FunctionType, code: CodeType, module: str, kind: str) -> None:
        view = self.live_view(function.__globals__, code)
        definition, view = self.definition_of(view, code)
        name = f"{module}.{code.co_qualname}"
        cells = cells_of(function)
        if definition is None or view.parsed is None:
            if kind != HELPER or not code.co_filename.startswith("<string>"):
                self.leave(f"the source of {name}, which is not known here")
            for cell, value in cells.items():
                self.closed_over((cell,), value, name, Reach())
            return
        if kind == DECORATOR and definition.around:
            # A wrapper is a part of the decorator that made it.
            outer = next(
                (each for each in definition.around if isinstance(each.node, FUNCTIONS)), definition
            )
            self.add_definition(DECORATOR, f"{module}.{outer.qualname}", outer, view)
            self.follow(
                view, outer.reach, f"{module}.{outer.qualname}", local=enclosing_names(outer)
            )
        else:
            self.add_definition(kind, name, definition, view)
        self.follow(view, definition.reach, name, cells, enclosing_names(definition))
        self._defaults(function, definition, name)
        self._follow_decorators(view, definition)
        if definition.owner is not None:
            self._class_around(view, definition.owner)

    def definition_of(self, view: View, code: CodeType) -> tuple[Definition | None, View]:
        """The syntax of a function, and the module with its source."""
        found = view.parsed.find(code) if view.parsed is not None else None
        if found is not None:
            return found, view
        # Of a function that was sent by value, the namespace has the file of the program.
        file = None if view.namespace is None else view.namespace.get("__file__")
        located = program_sources().find(code, file)
        parsed = None if located is None else parsed_text(located.name, located.source.text)
        if parsed is None:
            return None, view
        view = View(view.name, view.package, view.namespace, parsed)
        return parsed.at_line(code), view

    def _follow_decorators(self, view: View, definition: Definition) -> None:
        """Note the functions that a decorator is, as such."""
        for each in getattr(definition.node, "decorator_list", ()):
            target = each.func if isinstance(each, ast.Call) else each
            for chain in reach_of(target).chains:
                found = self._look_up(view, chain)
                if type(found) is FunctionType:
                    self.function(found, DECORATOR)

    def _look_up(self, view: View, chain: Chain) -> Any:
        """The live object at the end of a chain of modules."""
        found: Any = (view.namespace or {}).get(chain[0], MISSING)
        for each in chain[1:]:
            if not issubclass(type(found), ModuleType):
                return MISSING
            found = namespace_of(found).get(each, MISSING)
        return found

    def _defaults(self, function: FunctionType, definition: Definition, name: str) -> None:
        """Values of defaults that are not literals: they were computed once."""
        code = function.__code__
        names = code.co_varnames[: code.co_argcount]
        given = function.__defaults__ or ()
        live = dict(zip(names[len(names) - len(given) :], given, strict=True))
        live.update(function.__kwdefaults__ or {})
        for parameter, default in parameters_of(definition.node):
            if default is None or parameter.arg not in live or _is_literal(default):
                continue
            self.value(DEFAULT, f"{name}({parameter.arg})", live[parameter.arg], quietly=True)

    def closed_over(self, chain: Chain, value: Any, user: str, reach: Reach) -> None:
        """Follow a variable of an enclosing function."""
        name = chain[0]
        if value is MISSING or not self.is_new("cell", user, name, id(value), keep=value):
            return
        if issubclass(type(value), ModuleType):
            self._module(name_of_module(value), chain[1:], user, namespace_of(value))
        elif not self.code(value, HELPER):
            if name in reach.mutated and not values.is_plain(value):
                self.leave(f"{name} of {user}, which it changes")
            else:
                self.value(CLOSURE, f"{name} of {user}", value)

    def _partial(self, found: functools.partial[Any], kind: str) -> None:
        self.code(found.func, kind)
        name = name_of_code(found.func)
        for number, value in enumerate(found.args):
            self._given(f"argument {number + 1} of partial {name}", value)
        for key, value in found.keywords.items():
            self._given(f"{key} of partial {name}", value)

    def _given(self, name: str, value: Any) -> None:
        if not self.code(value, HELPER):
            self.value(DEFAULT, name, value)

    def value(self, kind: str, name: str, value: Any, *, quietly: bool = False) -> None:
        """Note a value by its digest, else by its type."""
        try:
            digest = values.value_digest(value, self._known)
        except values.NoDigestError as error:
            type_name = values.type_name(type(value))
            self.add(kind, name, digest_of(type_name), type_name)
            self.leave(f"the value of {name} ({error})")
            self._class_of(value)
        else:
            self.add(kind, name, digest, values.shown(value))

    def _known(self, value: Any) -> str | None:
        """Digest of an object in a value; None if it has none."""
        kind = type(value)
        if issubclass(kind, ModuleType):
            return f"module {name_of_module(value)}"
        if kind is functools.partial:
            return None
        if self.code(value, HELPER):
            return f"code {name_of_code(value)}"
        state = own_dict(value)
        origin = self.origin(module_of_class(kind), None)
        if origin != PROJECT or has_slots(kind):
            return None
        self.live_class(kind)
        inner = values.value_digest(dict(state), self._known) if len(state) < 1_000 else None
        return None if inner is None else f"object {values.type_name(kind)} {inner}"

    def _class_of(self, value: Any) -> None:
        self.live_class(type(value))

    def _owner_of_method(self, owner: Any) -> None:
        if issubclass(type(owner), type):
            self.live_class(owner)
        else:
            self.value(CLOSURE, f"the object of {values.type_name(type(owner))}", owner)

    def _constant_named(
        self, view: View, name: str, found: Any, user: str, reach: Reach | None
    ) -> None:
        """A name of a module that has a value: by the value if it cannot change.

        What can change is known by the statements that set it, and by its value too if these call
        something and no function of the module changes it.
        """
        full = f"{view.name}.{name}"
        if not self.is_new("constant", view.key, name):
            return
        bindings = view.parsed.bindings.get(name, []) if view.parsed is not None else []
        imported = bindings[-1].imported if bindings else None
        if imported is not None:
            self._imported_constant(view, imported, found, user, reach)
            return
        plain = values.is_plain(found)
        if not plain:
            self._class_of(found)
        if plain and (folded(bindings) is not MISSING or not bindings):
            self.add(CONSTANT, full, values.value_digest(found), values.shown(found))
        elif view.parsed is not None and bindings:
            self.computed(view, name, bindings)
            if plain or (_calls(bindings) and name not in view.parsed.mutated):
                self._value_beside(full, found)
        elif reach is not None and name in reach.mutated:
            self.leave(f"the value of {full}, which {user} changes")
        else:
            self.value(CONSTANT, full, found)

    def _imported_constant(
        self, view: View, imported: Imported, found: Any, user: str, reach: Reach | None
    ) -> None:
        """A constant of another module."""
        module = absolute_name(imported, view.package)
        live = sys.modules.get(module)
        namespace = None if live is None else namespace_of(live)
        if self.foreign(module, self.origin(module, namespace)):
            return
        attribute = imported.attribute
        if attribute and namespace is not None and namespace.get(attribute) is found:
            self._constant_named(self.live_view(namespace), attribute, found, user, reach)
        else:
            self.imported(view, imported, (), user)

    def _value_beside(self, full: str, found: Any) -> None:
        try:
            digest = values.value_digest(found, self._known)
        except values.NoDigestError:
            return  # what computes it is known
        self.add(CONSTANT, f"{full}{VALUE_OF}", digest, values.shown(found))

    # -- classes ----------------------------------------------------------------------------------

    def live_class(self, found: type, kind: str = CLASS) -> None:
        """Follow a class: its own source, its methods and its bases."""
        if not self.is_new("class", id(found), keep=found):
            return
        module = module_of_class(found)
        if module == "builtins":
            return
        own = sys.modules.get(module)
        namespace = None if own is None or module == "__main__" else namespace_of(own)
        if not self.foreign(module, self.origin(module, namespace)):
            self._waiting.append(functools.partial(self._live_class, found, module, kind))

    def _live_class(self, found: type, module: str, kind: str) -> None:
        members = dict(type.__getattribute__(found, "__dict__"))
        qualname: str = type.__dict__["__qualname__"].__get__(found)
        name = f"{module}.{qualname}"
        view = self._view_of_class(module, members, qualname)
        definition = _definition_of_class(view, found, qualname)
        if definition is not None and view is not None:
            self.add_definition(kind, name, definition, view)
            self.follow(view, definition.reach, name)
        else:
            self._class_without_source(found, name, members)
        defined = {each.name for each in methods_of(definition)}
        for member, value in members.items():
            if not member.startswith("__") or member in defined:
                self._member(value, qualname)
        for base in type.__getattribute__(found, "__mro__")[1:]:
            if base is not object:
                self.live_class(base)
        if type(found) is not type:
            self.live_class(type(found))

    def _member(self, value: Any, qualname: str) -> None:
        if issubclass(type(value), type):
            inner: str = type.__dict__["__qualname__"].__get__(value)
            if not inner.startswith(f"{qualname}."):
                return  # the class's own source names it
        self.code(value, HELPER)

    def _view_of_class(self, module: str, members: dict[str, Any], qualname: str) -> View | None:
        loaded = sys.modules.get(module)
        for value in members.values():
            inner = function_in(value)
            if inner is not None and inner.__code__.co_qualname.startswith(f"{qualname}."):
                view = self.live_view(inner.__globals__, inner.__code__)
                if view.name == module:
                    return self.definition_of(view, inner.__code__)[1]
        if loaded is None:
            return None
        return self.live_view(namespace_of(loaded))

    def _class_without_source(self, found: type, name: str, members: dict[str, Any]) -> None:
        fields = members.get("_fields")
        if issubclass(found, tuple) and values.is_plain(fields):
            digest = values.value_digest((fields, tuple(members.get("_field_defaults") or ())))
            self.add(CLASS, name, digest, values.shown(fields))
        else:
            self.leave(f"the source of the class {name}, which is not known here")

    def _class_around(self, view: View, owner: Definition) -> None:
        """The class of a method, where only its function is known."""
        found: Any = MISSING
        if view.namespace is not None and "<locals>" not in owner.qualname:
            first, *rest = owner.qualname.split(".")
            found = view.namespace.get(first, MISSING)
            for each in rest:
                if not issubclass(type(found), type):
                    break
                found = type.__getattribute__(found, "__dict__").get(each, MISSING)
        if issubclass(type(found), type):
            self.live_class(found)
        else:
            self._static_class(view, owner)


def _is_literal(node: ast.AST) -> bool:
    try:
        values.fold(node)
    except values.NotLiteralError:
        return False
    return True


def _definition_of_class(view: View | None, found: type, qualname: str) -> Definition | None:
    if view is None or view.parsed is None:
        return None
    candidates = [
        each
        for each in view.parsed.by_qualname.get(qualname, ())
        if isinstance(each.node, ast.ClassDef)
    ]
    lines = {
        inner.__code__.co_firstlineno
        for value in type.__getattribute__(found, "__dict__").values()
        if (inner := function_in(value)) is not None
    }
    for each in candidates:
        if len(candidates) > 1 and any(
            each.first_line <= line <= (each.node.end_lineno or 0) for line in lines
        ):
            return each
    return candidates[-1] if candidates else None


def _calls(bindings: list[Binding]) -> bool:
    """Whether a statement that sets a name calls something."""
    return any(isinstance(node, ast.Call) for each in bindings for node in ast.walk(each.node))
