"""The sources of modules, parsed: where each function, class and name of a module is defined."""

from __future__ import annotations

import ast
import importlib.machinery
import linecache
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import decode_source
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, Final

from scalable.code.scopes import Imported, Reach, imports_in, reach_of
from scalable.code.syntax import FUNCTIONS, canonical, class_skeleton, digest_of
from scalable.common.forks import unlocked_in_forks

#: Bytes of a module's source that are parsed at most.
MAX_SOURCE: Final = 4 * 2**20
#: Parsed modules that are kept.
MAX_MODULES: Final = 512
#: Characters of the source of one definition that are kept.
MAX_TEXT: Final = 16 * 1024

#: Sources that are written later than this may differ from the code that was imported. A module
#: could be imported a little before this one.
_STARTED: Final = time.time() - 1.0


#: Python 3.11 counts the depth of syntax trees for all threads together: two that convert one at
#: the same time may get a SystemError.
_ast_lock: Final = unlocked_in_forks(threading.Lock())


@dataclass(slots=True)
class Definition:
    """A function, a lambda or a class in a parsed module; used by any thread."""

    node: Any
    qualname: str
    #: The definitions around it, the innermost last.
    around: tuple[Definition, ...]
    _digest: str | None = None
    _reach: Reach | None = None

    @property
    def owner(self) -> Definition | None:
        """The class whose method it is."""
        inner = self.around[-1] if self.around else None
        return inner if inner is not None and isinstance(inner.node, ast.ClassDef) else None

    @property
    def first_line(self) -> int:
        """Its first line, which is that of its first decorator."""
        decorators = getattr(self.node, "decorator_list", ())
        return min([self.node.lineno, *(each.lineno for each in decorators)])

    @property
    def digest(self) -> str:
        """Digest of its syntax; of a class without its methods."""
        if self._digest is None:
            is_class = isinstance(self.node, ast.ClassDef)
            self._digest = digest_of((class_skeleton if is_class else canonical)(self.node))
        return self._digest

    @property
    def reach(self) -> Reach:
        """What it reaches by name."""
        if self._reach is None:
            owner = self.owner
            self._reach = reach_of(self.node, inside=None if owner is None else owner.node)
        return self._reach


@dataclass(frozen=True, slots=True)
class Binding:
    """A statement at the top level of a module that binds a name."""

    node: ast.stmt
    #: What is bound, if it is a plain assignment.
    value: ast.expr | None = None
    imported: Imported | None = None
    #: It is in an ``if``, a ``try``, or another block.
    conditional: bool = False


@dataclass
class ParsedModule:
    """A source text and its syntax; used by any thread."""

    file: str
    text: str
    tree: ast.Module
    #: The file is newer than the process: what runs may be another text.
    is_newer: bool = False

    @cached_property
    def definitions(self) -> list[Definition]:
        """All functions, lambdas and classes."""
        return list(_definitions(self.tree, "", ()))

    @cached_property
    def by_line(self) -> dict[int, list[Definition]]:
        """Functions and lambdas by their first line."""
        found: dict[int, list[Definition]] = {}
        for each in self.definitions:
            if not isinstance(each.node, ast.ClassDef):
                found.setdefault(each.first_line, []).append(each)
        return found

    @cached_property
    def by_qualname(self) -> dict[str, list[Definition]]:
        """Definitions by their qualified names."""
        found: dict[str, list[Definition]] = {}
        for each in self.definitions:
            found.setdefault(each.qualname, []).append(each)
        return found

    @cached_property
    def bindings(self) -> dict[str, list[Binding]]:
        """What is bound at the top level."""
        found: dict[str, list[Binding]] = {}
        for name, binding in _bindings(self.tree.body, conditional=False):
            found.setdefault(name, []).append(binding)
        return found

    @cached_property
    def mutated(self) -> frozenset[str]:
        """Names of the module whose objects its functions change."""
        names: set[str] = set()
        for each in self.definitions:
            is_method = each.owner is not None and len(each.around) == 1
            if is_method or not (each.around or isinstance(each.node, ast.ClassDef)):
                names |= each.reach.mutated
        return frozenset(names)

    def text_of(self, definition: Definition) -> str:
        """The source of a definition, cut to :data:`MAX_TEXT` characters."""
        node = definition.node
        if isinstance(node, ast.Lambda):
            return (ast.get_source_segment(self.text, node) or "")[:MAX_TEXT]
        lines = self._lines[definition.first_line - 1 : node.end_lineno]
        indent = min((len(line) - len(line.lstrip()) for line in lines[:1]), default=0)
        cut = "".join(
            line[indent:] if line[:indent].isspace() or not indent else line for line in lines
        )
        return cut[:MAX_TEXT]

    @cached_property
    def _lines(self) -> list[str]:
        return self.text.splitlines(keepends=True)

    def at_line(self, code: CodeType) -> Definition | None:
        """The function or lambda of the name and the line of a code object, if there is one."""
        found = self._at_line(code)
        if len(found) > 1:
            found = _at_columns(found, code)
        return found[0] if len(found) == 1 else None

    def _at_line(self, code: CodeType) -> list[Definition]:
        return [
            each
            for each in self.by_line.get(code.co_firstlineno, ())
            if each.qualname.rpartition(".")[2] == code.co_name
        ]

    def find(self, code: CodeType) -> Definition | None:
        """The function or lambda that a code object was compiled from; None if it is not here."""
        found = self._at_line(code)
        if len(found) == 1 and not self.is_newer:
            return found[0]
        if len(found) > 1 and not self.is_newer:
            found = _at_columns(found, code)
            if len(found) == 1:
                return found[0]
        candidates = found or self.by_qualname.get(code.co_qualname, [])
        equal = [each for each in candidates if self._compiles_to(each, code)]
        # Functions that are compiled to the same code have the same source, or as good as.
        return equal[0] if equal else None

    def _compiles_to(self, definition: Definition, code: CodeType) -> bool:
        place = definition.qualname, definition.first_line
        return any(same_code(each, code) for each in self._compiled.get(place, ()))

    @cached_property
    def _compiled(self) -> dict[tuple[str, int], list[CodeType]]:
        """Code of all functions; a statement alone may be compiled to something else."""
        found: dict[tuple[str, int], list[CodeType]] = {}
        with _ast_lock:
            compiled = compile(self.tree, self.file, "exec", dont_inherit=True)
        for each in _codes(compiled):
            found.setdefault((each.co_qualname, each.co_firstlineno), []).append(each)
        return found


def _at_columns(found: list[Definition], code: CodeType) -> list[Definition]:
    """Of several functions on one line those that enclose the columns of a code object."""
    places = [
        (line, column, end_line, end)
        for line, end_line, column, end in code.co_positions()
        if None not in (line, column, end_line, end) and end
    ]
    inside = [
        each
        for each in found
        if all(
            (each.node.lineno, each.node.col_offset) <= place[:2]
            and place[2:] <= (each.node.end_lineno, each.node.end_col_offset)
            for place in places
        )
    ]
    return inside if places else []


def same_code(one: CodeType, other: CodeType) -> bool:
    """Whether two code objects do the same; where they are defined does not count."""
    names = (
        *("co_name", "co_code", "co_names", "co_varnames", "co_freevars", "co_cellvars"),
        *("co_argcount", "co_posonlyargcount", "co_kwonlyargcount", "co_flags"),
    )
    if any(getattr(one, name) != getattr(other, name) for name in names):
        return False
    if len(one.co_consts) != len(other.co_consts):
        return False
    return all(_same_constant(*pair) for pair in zip(one.co_consts, other.co_consts, strict=True))


def _same_constant(one: Any, other: Any) -> bool:
    if isinstance(one, CodeType) and isinstance(other, CodeType):
        return same_code(one, other)
    return type(one) is type(other) and ascii(one) == ascii(other)


def _codes(code: CodeType) -> Iterator[CodeType]:
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield each
            yield from _codes(each)


def _definitions(
    node: ast.AST, prefix: str, around: tuple[Definition, ...]
) -> Iterator[Definition]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (*FUNCTIONS, ast.ClassDef, ast.Lambda)):
            name = "<lambda>" if isinstance(child, ast.Lambda) else child.name
            found = Definition(child, prefix + name, around)
            yield found
            inner = "." if isinstance(child, ast.ClassDef) else ".<locals>."
            yield from _definitions(child, f"{found.qualname}{inner}", (*around, found))
        else:
            yield from _definitions(child, prefix, around)


def _bindings(body: Sequence[ast.stmt], *, conditional: bool) -> Iterator[tuple[str, Binding]]:
    for node in body:
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            yield node.name, Binding(node, conditional=conditional)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            for name, imported in imports_in(node):
                yield name, Binding(node, imported=imported, conditional=conditional)
        elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if node.value is None:
                continue
            for target in targets:
                if isinstance(target, ast.Name) and not isinstance(node, ast.AugAssign):
                    yield target.id, Binding(node, node.value, conditional=conditional)
                else:
                    for name in _stored(target):
                        yield name, Binding(node, conditional=conditional)
        else:
            for field_name in ("body", "orelse", "finalbody", "handlers", "cases"):
                for each in getattr(node, field_name, ()):
                    inner = each.body if not isinstance(each, ast.stmt) else [each]
                    yield from _bindings(inner, conditional=True)
            for part in ("target", "items"):
                for name in _stored(getattr(node, part, None)):
                    yield name, Binding(node, conditional=conditional)


def _stored(found: Any) -> Iterable[str]:
    for node in found if isinstance(found, list) else [found]:
        if isinstance(node, ast.AST):
            for each in ast.walk(node):
                if isinstance(each, ast.Name) and not isinstance(each.ctx, ast.Load):
                    yield each.id


# -- where sources are ----------------------------------------------------------------------------

_lock: Final = unlocked_in_forks(threading.Lock())
#: By file: what identifies the text, and the module; None if it cannot be parsed.
_parsed: Final[dict[str, tuple[Any, ParsedModule | None]]] = {}


def parsed_file(file: str) -> ParsedModule | None:
    """The source in a file; None if there is none, or it is not Python."""
    try:
        status = Path(file).stat()
    except (OSError, ValueError):
        return _parsed_cached_lines(file)
    version = status.st_mtime_ns, status.st_size
    known = _known(file, version)
    if known is not None:
        return known[1]
    module = None
    if status.st_size <= MAX_SOURCE:
        try:
            text = decode_source(Path(file).read_bytes())
            module = parse(file, text, is_newer=status.st_mtime > _STARTED)
        except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
            module = None
    return _keep(file, version, module)


def _parsed_cached_lines(file: str) -> ParsedModule | None:
    """The source that `linecache` has for a name that is no file: a cell, or typed at a prompt."""
    entry = linecache.cache.get(file)
    if entry is None:
        return None
    lines = linecache.getlines(file)
    text = "".join(lines)
    return parsed_text(file, text)


def parsed_text(file: str, text: str) -> ParsedModule | None:
    """A source text of that name."""
    if not text or len(text) > MAX_SOURCE:
        return None
    version = digest_of(text)
    known = _known(file, version)
    if known is not None:
        return known[1]
    try:
        module = parse(file, text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        module = None
    return _keep(file, version, module)


def parse(file: str, text: str, *, is_newer: bool = False) -> ParsedModule:
    """Parse a text; raises SyntaxError if it is not Python."""
    with _ast_lock:
        tree = ast.parse(text)
    return ParsedModule(file, text, tree, is_newer)


def _known(file: str, version: Any) -> tuple[Any, ParsedModule | None] | None:
    with _lock:
        known = _parsed.get(file)
    return known if known is not None and known[0] == version else None


def _keep(file: str, version: Any, module: ParsedModule | None) -> ParsedModule | None:
    with _lock:
        if len(_parsed) >= MAX_MODULES:
            _parsed.clear()
        _parsed[file] = version, module
    return module


def namespace_of(module: Any) -> dict[str, Any]:
    """The namespace of a module, without calling a ``__getattr__`` of its own."""
    found = ModuleType.__getattribute__(module, "__dict__")
    return found if isinstance(found, dict) else {}


def file_of_namespace(namespace: dict[str, Any]) -> str | None:
    """The source file of a module that was imported."""
    file = namespace.get("__file__")
    if type(file) is not str:
        return None
    return file[:-1] if file.endswith(".pyc") else file


def loaded_source(namespace: dict[str, Any]) -> ParsedModule | None:
    """The source of a module that is in no file, as its loader has it: in an archive."""
    loader, name = namespace.get("__loader__"), namespace.get("__name__")
    file = file_of_namespace(namespace)
    if type(name) is not str or file is None or not hasattr(type(loader), "get_source"):
        return None
    try:
        text: Any = loader.get_source(name)  # type: ignore[union-attr]
    except Exception:
        return None
    return parsed_text(file, text) if type(text) is str else None


def find_file(name: str, roots: Sequence[str] = ()) -> str | None:
    """The file of a module that may not have been imported; nothing is imported for it.

    `roots` are directories that are searched before those of ``sys.path``.
    """
    found = _find_file(name, list(roots), use_loaded=False) if roots else None
    return found or _find_file(name, None, use_loaded=True)


def _find_file(name: str, path: Any, *, use_loaded: bool) -> str | None:
    parts = name.split(".")
    spec = None
    for number in range(len(parts)):
        above = ".".join(parts[: number + 1])
        module = sys.modules.get(above) if use_loaded else None
        if module is not None and number + 1 < len(parts):
            path = namespace_of(module).get("__path__")
            continue
        try:
            spec = importlib.machinery.PathFinder.find_spec(above, path)
        except Exception:
            return None
        if spec is None:
            return None
        path = spec.submodule_search_locations
    return spec.origin if spec is not None else None
