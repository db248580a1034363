"""The names that a piece of code reaches outside of itself, by its syntax alone.

A name is followed by its attributes: ``numpy.random.normal`` is one chain. Names that the code
binds itself are left out, by Python's rules of scopes. Annotations of parameters and of results
are not followed.
"""

from __future__ import annotations

import ast
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from scalable.code.syntax import FUNCTIONS, FunctionNode

Chain: TypeAlias = tuple[str, ...]

#: Functions of Python whose effect is not known before they are called.
_BLIND: Final = frozenset(
    {"__import__", "delattr", "eval", "exec", "getattr", "globals", "locals", "setattr", "vars"}
)
#: Those that take an object and the name of one of its attributes.
_BY_NAME: Final = frozenset({"delattr", "getattr", "setattr"})
#: Methods that change a list, a dictionary or a set.
_MUTATING: Final = frozenset(
    {
        *("add", "append", "appendleft", "clear", "discard", "extend", "insert", "pop", "popitem"),
        *("popleft", "remove", "reverse", "setdefault", "sort", "update"),
    }
)
_COMPREHENSIONS: Final = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
#: Characters of a call that is shown.
_MAX_SHOWN: Final = 80


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import statement binds: a module, or an attribute of one."""

    module: str
    level: int
    attribute: str | None


@dataclass(slots=True)
class Reach:
    """What a piece of code reaches, each in the order of its first use."""

    #: Chains that begin with a name of the module, of an enclosing function or of Python.
    chains: dict[Chain, None] = field(default_factory=dict[Chain, None])
    #: Chains that begin with what the code imports itself.
    imports: dict[tuple[Imported, Chain], None] = field(
        default_factory=dict[tuple[Imported, Chain], None]
    )
    #: Names from outside whose objects the code changes.
    mutated: set[str] = field(default_factory=set[str])
    #: Lookups that syntax does not tell, as (text, line).
    blind: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])


@dataclass(slots=True)
class _Scope:
    names: set[str]
    imports: dict[str, Imported]
    is_class: bool = False


def reach_of(node: ast.AST, *, inside: ast.ClassDef | None = None) -> Reach:
    """What a node reaches; a class is taken without its methods and inner classes.

    `inside` is the class whose method it is.
    """
    walk = _Walk()
    if inside is not None:
        walk.scopes.append(_Scope(*_bound(inside.body), is_class=True))
    if isinstance(node, ast.ClassDef):
        walk.visit_class(node, with_methods=False)
    else:
        walk.visit(node)
    return walk.reach


def imports_in(node: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, Imported]]:
    """The names that a statement binds, and to what."""
    for alias in node.names:
        if isinstance(node, ast.ImportFrom):
            bound = alias.asname or alias.name
            yield bound, Imported(node.module or "", node.level or 0, alias.name)
        elif alias.asname:
            yield alias.asname, Imported(alias.name, 0, None)
        else:
            top = alias.name.partition(".")[0]
            yield top, Imported(top, 0, None)


def parameters_of(node: FunctionNode) -> Iterator[tuple[ast.arg, ast.expr | None]]:
    """The parameters of a function, each with the expression of its default."""
    arguments = node.args
    positional = [*arguments.posonlyargs, *arguments.args]
    without = len(positional) - len(arguments.defaults)
    yield from zip(positional, [*[None] * without, *arguments.defaults], strict=True)
    yield from zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    for each in (arguments.vararg, arguments.kwarg):
        if each is not None:
            yield each, None


def bound_names(node: FunctionNode) -> set[str]:
    """The parameters and local variables of a function."""
    body = [node.body] if isinstance(node, ast.Lambda) else node.body
    return {parameter.arg for parameter, _ in parameters_of(node)} | _bound(body)[0]


def _bound(nodes: Iterable[ast.AST]) -> tuple[set[str], dict[str, Imported]]:
    """Names that statements bind in their own scope, and those among them that are imported."""
    names: set[str] = set()
    imports: dict[str, Imported] = {}
    outer: set[str] = set()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Name):
            if not isinstance(node.ctx, ast.Load):
                names.add(node.id)
            continue
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            names.add(node.name)
            continue
        if isinstance(node, ast.Lambda):
            continue
        if isinstance(node, _COMPREHENSIONS):
            # A walrus in a comprehension binds in the scope around it.
            named = (each for each in ast.walk(node) if isinstance(each, ast.NamedExpr))
            names.update(each.target.id for each in named)
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            imports.update(imports_in(node))
        elif isinstance(node, ast.Global | ast.Nonlocal):
            outer.update(node.names)
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar):
            names.add(node.name or "")
        elif isinstance(node, ast.MatchMapping):
            names.add(node.rest or "")
        waiting.extend(ast.iter_child_nodes(node))
    return (names | imports.keys()) - outer, imports


class _Walk(ast.NodeVisitor):
    """Walks over syntax with a stack of scopes; each is used by one thread."""

    def __init__(self) -> None:
        self.reach = Reach()
        self.scopes: list[_Scope] = []

    # -- scopes -----------------------------------------------------------------------------------

    @contextmanager
    def _in(self, scope: _Scope) -> Generator[None]:
        self.scopes.append(scope)
        yield
        self.scopes.pop()

    def _scope_of(self, name: str) -> _Scope | None:
        """The scope that binds a name; None if it is from outside."""
        last = len(self.scopes) - 1
        for number in range(last, -1, -1):
            scope = self.scopes[number]
            if name in scope.names and (number == last or not scope.is_class):
                return scope
        return None

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._visit_function(node, node.body, node.decorator_list)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._visit_function(node, node.body, node.decorator_list)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self._visit_function(node, [node.body], [])

    def _visit_function(
        self, node: FunctionNode, body: list[Any], decorators: list[ast.expr]
    ) -> None:
        for each in decorators:
            self.visit(each)
        names: set[str] = set()
        for parameter, default in parameters_of(node):
            names.add(parameter.arg)
            if default is not None:
                self.visit(default)
        names.update(each.name for each in getattr(node, "type_params", ()))
        bound, imports = _bound(body)
        with self._in(_Scope(names | bound, imports)):
            for each in body:
                self.visit(each)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.visit_class(node, with_methods=True)

    def visit_class(self, node: ast.ClassDef, *, with_methods: bool) -> None:
        for each in (*node.decorator_list, *node.bases, *node.keywords):
            self.visit(each)
        bound, imports = _bound(node.body)
        bound.update(each.name for each in getattr(node, "type_params", ()))
        with self._in(_Scope(bound, imports, is_class=True)):
            for each in node.body:
                if with_methods or not isinstance(each, (*FUNCTIONS, ast.ClassDef)):
                    self.visit(each)

    def _visit_comprehension(self, node: Any) -> None:
        targets = (name for each in node.generators for name in ast.walk(each.target))
        names = {each.id for each in targets if isinstance(each, ast.Name)}
        self.visit(node.generators[0].iter)
        with self._in(_Scope(names, {})):
            self.generic_visit(node)

    def visit_ListComp(self, node: ast.ListComp) -> None:
        self._visit_comprehension(node)

    def visit_SetComp(self, node: ast.SetComp) -> None:
        self._visit_comprehension(node)

    def visit_DictComp(self, node: ast.DictComp) -> None:
        self._visit_comprehension(node)

    def visit_GeneratorExp(self, node: ast.GeneratorExp) -> None:
        self._visit_comprehension(node)

    # -- names ------------------------------------------------------------------------------------

    def visit_Name(self, node: ast.Name) -> None:
        if not isinstance(node.ctx, ast.Load):
            if self._scope_of(node.id) is None and self.scopes:
                self.reach.mutated.add(node.id)  # declared as global or nonlocal
        else:
            self._note((node.id,))

    def visit_Attribute(self, node: ast.Attribute) -> None:
        chain = _chain(node)
        if chain is None:
            self.generic_visit(node)
            return
        self._note(chain)
        if not isinstance(node.ctx, ast.Load):
            self._note_change(chain[0])

    def visit_Subscript(self, node: ast.Subscript) -> None:
        chain = _chain(node.value)
        if chain is not None and not isinstance(node.ctx, ast.Load):
            self._note_change(chain[0])
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        if isinstance(node.target, ast.Name):
            self._note_change(node.target.id)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        chain = _chain(node.func)
        if chain is not None:
            if len(chain) == 2 and chain[1] in _MUTATING:
                self._note_change(chain[0])
            if len(chain) == 1 and chain[0] in _BLIND and self._scope_of(chain[0]) is None:
                self._visit_blind(node, chain[0])
            elif chain[-1] == "import_module":
                self._visit_import_module(node)
        self.generic_visit(node)

    def _visit_blind(self, node: ast.Call, name: str) -> None:
        if name in _BY_NAME and len(node.args) > 1 and isinstance(node.args[1], ast.Constant):
            chain = _chain(node.args[0])
            if chain is not None:
                self._note((*chain, str(node.args[1].value)))
                if name != "getattr":
                    self._note_change(chain[0])
        elif name == "__import__":
            self._visit_import_module(node)
        else:
            self._note_blind(node)

    def _visit_import_module(self, node: ast.Call) -> None:
        named = node.args[0] if len(node.args) == 1 else None
        if isinstance(named, ast.Constant) and isinstance(named.value, str):
            self.reach.imports[Imported(named.value, 0, None), ()] = None
        else:
            self._note_blind(node)

    def _note_blind(self, node: ast.Call) -> None:
        text = " ".join(ast.unparse(node).split())
        shown = text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 1]}…"
        self.reach.blind.append((shown, node.lineno))

    def _note(self, chain: Chain) -> None:
        scope = self._scope_of(chain[0])
        if scope is None:
            self.reach.chains[chain] = None
        elif (imported := scope.imports.get(chain[0])) is not None:
            self.reach.imports[imported, chain[1:]] = None

    def _note_change(self, name: str) -> None:
        if self._scope_of(name) is None:
            self.reach.mutated.add(name)

    # Annotations say nothing of what code does, except in a class: dataclasses read them.

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if self.scopes and self.scopes[-1].is_class:
            self.visit(node.annotation)
        self.visit(node.target)
        if node.value is not None:
            self.visit(node.value)


def _chain(node: ast.AST) -> Chain | None:
    """A name and its attributes; None for an attribute of something else."""
    attributes: list[str] = []
    while isinstance(node, ast.Attribute):
        attributes.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return None
    return (node.id, *reversed(attributes))
