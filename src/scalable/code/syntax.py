"""One text for each piece of syntax, the same for any formatting and on any Python.

:func:`canonical` leaves out what does not change what code does: positions, comments, docstrings,
type comments, the order of imports that stand together. ``ast.dump`` is not used, as its output
differs between versions of Python.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, Final, TypeAlias

FunctionNode: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
FUNCTIONS: Final = (ast.FunctionDef, ast.AsyncFunctionDef)

#: Fields that say nothing of what the code does.
_LEFT_OUT: Final = frozenset({"ctx", "kind", "type_comment", "type_ignores"})


def canonical(node: ast.AST) -> str:
    """The text of a node and all that is in it."""
    out: list[str] = []
    _write(node, out, skeleton=False)
    return "".join(out)


def class_skeleton(node: ast.ClassDef) -> str:
    """The text of a class with only the names of its methods and inner classes."""
    out: list[str] = []
    _write(node, out, skeleton=True)
    return "".join(out)


def digest_of(text: str) -> str:
    """SHA-256 of a text, as hex digits."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _write(value: Any, out: list[str], *, skeleton: bool) -> None:
    if isinstance(value, ast.Constant):
        out.append(_constant(value.value))
    elif isinstance(value, ast.JoinedStr):
        _write_joined(value, out)
    elif isinstance(value, ast.AST):
        out.append(f"{type(value).__name__}(")
        for field in sorted(value._fields):
            found = getattr(value, field, None)
            # New versions of Python add fields, which are empty for old syntax.
            if field in _LEFT_OUT or found is None or (isinstance(found, list) and not found):
                continue
            if field == "level" and found == 0:
                continue
            if field in ("body", "orelse", "finalbody") and isinstance(found, list):
                found = _statements(found, skeleton=skeleton)
                if not found:
                    continue
            out.append(f"{field}=")
            _write(found, out, skeleton=False)
            out.append(";")
        out.append(")")
    elif isinstance(value, list):
        out.append("[")
        for each in value:
            _write(each, out, skeleton=False)
            out.append(",")
        out.append("]")
    else:
        out.append(_constant(value))


def _constant(value: Any) -> str:
    """A literal; strings in ASCII, as what is printable differs between versions of Python."""
    shown = hex(value) if type(value) is int else ascii(value)
    return f"{type(value).__name__} {shown}"


def _write_joined(node: ast.JoinedStr, out: list[str]) -> None:
    """An f-string; how its constant parts are divided depends on the version of Python."""
    parts: list[ast.expr | str] = []
    for each in node.values:
        if not (isinstance(each, ast.Constant) and isinstance(each.value, str)):
            parts.append(each)
        elif parts and isinstance(parts[-1], str):
            parts[-1] += each.value
        elif each.value:
            parts.append(each.value)
    if all(isinstance(each, str) for each in parts):
        out.append(_constant("".join(map(str, parts))))
        return
    out.append("JoinedStr([")
    for each in parts:
        if isinstance(each, str):
            out.append(_constant(each))
        else:
            _write(each, out, skeleton=False)
        out.append(",")
    out.append("])")


def _statements(body: Sequence[ast.AST], *, skeleton: bool) -> list[Any]:
    """What a block does: without docstrings and other bare literals, and without ``pass``."""
    found: list[Any] = []
    imports: list[str] = []
    for each in body:
        if isinstance(each, ast.Import | ast.ImportFrom):
            imports += _imported(each)
            continue
        if imports:
            found.append(" ".join(sorted(imports)))
            imports = []
        if isinstance(each, ast.Pass):
            continue
        if isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant):
            continue
        if skeleton and isinstance(each, (*FUNCTIONS, ast.ClassDef)):
            each = ast.Name(f"{type(each).__name__} {each.name}")
        found.append(each)
    if imports:
        found.append(" ".join(sorted(imports)))
    return found


def _imported(node: ast.Import | ast.ImportFrom) -> Iterable[str]:
    for alias in node.names:
        bound = alias.asname or ""
        if isinstance(node, ast.ImportFrom):
            yield f"from:{'.' * (node.level or 0)}{node.module or ''}:{alias.name}:{bound}"
        else:
            yield f"import:{alias.name}:{bound}"
