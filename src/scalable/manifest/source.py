"""The text of a manifest as plain data, with the position of every key and value.

YAML is only composed into nodes, which are read here: no tag can construct an object, and numbers
keep the text they were written as, since YAML 1.1 reads ``12:00:00`` as 43200.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeAlias, cast

import yaml

from scalable.manifest.errors import Problem
from scalable_runs.redact import REDACTED, is_secret_name

#: Keys and indexes from the top of the document.
Path: TypeAlias = tuple[str | int, ...]

#: A manifest is written by hand: more than this is a mistake or an attack.
MAX_BYTES: Final = 1024 * 1024
MAX_DEPTH: Final = 32
#: Values after aliases are expanded: bounds what nested aliases can grow to.
MAX_VALUES: Final = 50_000
#: Problems reported for one manifest.
MAX_PROBLEMS: Final = 100

#: ``${NAME}``, ``${NAME:-default}``, and ``$$`` for a dollar sign.
_VARIABLE: Final = re.compile(
    r"\$(?:\$|\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\})"
)
_BROKEN_VARIABLE: Final = re.compile(r"\$\{[^}]*\}?")
_TAG: Final = "tag:yaml.org,2002:"
#: Finds the type of a plain scalar, and converts it.
_SCALARS: Final[Any] = yaml.SafeLoader("")


class SourceInt(int):
    """An integer with the text it was written as."""

    text: str
    #: The text before variables were replaced, where there were any.
    raw: str | None = None


class SourceFloat(float):
    """A number with the text it was written as."""

    text: str
    raw: str | None = None


class SourceText(str):
    """A text in which variables were replaced."""

    raw: str | None = None


class TooManyProblemsError(Exception):
    """No further problems are reported; those found are in the source."""


class Mark(NamedTuple):
    """A position in the file; both count from 1."""

    line: int
    column: int


@dataclass(slots=True)
class Source:
    """A manifest as it was read.

    Attributes
    ----------
    file : str
        Its name, for messages.
    text : str
        Its text.
    data : dict
        Its values, variables replaced; empty if it could not be read.
    keys, values : dict
        Position of each key and each value, by path.
    problems : list of Problem
        What is wrong, each once, at most :data:`MAX_PROBLEMS`.
    unread : set
        Paths of values that could not be read: problems that follow from that are not reported.
    """

    file: str
    text: str
    data: dict[str, Any] = field(default_factory=dict[str, Any])
    keys: dict[Path, Mark] = field(default_factory=dict[Path, Mark])
    values: dict[Path, Mark] = field(default_factory=dict[Path, Mark])
    problems: list[Problem] = field(default_factory=list[Problem])
    unread: set[Path] = field(default_factory=set[Path])
    secret_spans: set[tuple[int, int]] = field(default_factory=set[tuple[int, int]])
    #: Where the scalars are in the text, for those that turn out to be secret.
    spans: dict[Path, tuple[int, int]] = field(default_factory=dict[Path, tuple[int, int]])

    def problem(
        self, path: Path, message: str, *, at_value: bool = False, mark: Mark | None = None
    ) -> None:
        """Add a problem at `mark`, else at `path` or the nearest place above it in the file.

        Raises TooManyProblemsError if no further problems are reported.
        """
        mark = mark or self._mark(path, at_value)
        problem = Problem(self.file, *mark, dotted(path), message)
        if problem in self.problems:
            return
        if not self.is_full:
            self.problems.append(problem)
        if len(self.problems) == MAX_PROBLEMS:
            # Line 0 sorts it to the top.
            more = f"these are {MAX_PROBLEMS} problems, and there may be more"
            self.problems.append(Problem(self.file, 0, 0, "", more))
        if self.is_full:
            raise TooManyProblemsError

    def hide(self, path: Path) -> None:
        """Leave a value out of :meth:`redacted`, unless it is just a variable."""
        span = self.spans.get(path)
        if span is not None:
            self.secret_spans.add(span)

    @property
    def is_full(self) -> bool:
        """Whether no further problems are reported."""
        return len(self.problems) > MAX_PROBLEMS

    def _mark(self, path: Path, at_value: bool) -> Mark:
        mark = self.values.get(path) if at_value else self.keys.get(path)
        while mark is None and path:
            mark = self.keys.get(path) or self.values.get(path)
            path = path[:-1]
        return mark or self.values.get((), Mark(1, 1))

    def redacted(self) -> str:
        """Return the text without values of secret keys, unless they are just a variable."""
        parts: list[str] = []
        end = 0
        for start, stop in sorted(self.secret_spans):
            if start < end:
                continue
            parts += [self.text[end:start], f'"{REDACTED}"']
            if self.text[start:stop].endswith("\n"):
                parts.append("\n")
            end = stop
        return "".join([*parts, self.text[end:]])


def read_source(text: str, file: str, environ: Mapping[str, str] | None = None) -> Source:
    """Read YAML text; what is wrong with it is in the result's `problems`.

    `file` names it in problems; `environ` has the values of variables, by default ``os.environ``.
    """
    source = Source(file, text)
    if len(text.encode("utf-8", "replace")) > MAX_BYTES:
        source.problem((), f"the file is larger than {MAX_BYTES // 1024} KiB: no manifest is")
        return source
    node = _compose(source)
    if source.problems:
        return source
    if node is None:
        source.problem((), "the manifest is empty; `scalable init` writes one")
        return source
    try:
        data = _Reader(source, os.environ if environ is None else environ).value(node, ())
    except TooManyProblemsError:
        return source
    if isinstance(data, dict):
        source.data = cast("dict[str, Any]", data)
    elif not source.problems:
        source.problem((), f"a manifest is a mapping of keys, not {kind_of(data)}")
    return source


def _compose(source: Source) -> Any:
    try:
        loader = yaml.SafeLoader(source.text)
        try:
            return loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        at = error.problem_mark or error.context_mark
        mark = Mark(at.line + 1, at.column + 1) if at else Mark(1, 1)
        reason = " ".join(filter(None, (error.context, error.problem)))
        if "single document" in reason:
            reason = "there is more than one document: a manifest is one, without `---` in between"
        lines = source.text.splitlines()
        if "${" in "".join(lines[mark.line - 1 : mark.line]) and "flow" in reason:
            reason += "; inside { } and [ ] a ${NAME} must be in quotes"
        source.problem((), f"not valid YAML: {reason}", mark=mark)
    except yaml.YAMLError as error:
        source.problem((), f"not valid YAML: {str(error).splitlines()[0]}")
    except RecursionError:
        source.problem((), f"the file nests more than {MAX_DEPTH} levels")
    return None


def dotted(path: Path) -> str:
    """``('targets', 'hpc', 0)`` → ``targets.hpc[0]``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def kind_of(value: Any) -> str:
    """Describe a value in the terms of a YAML file."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "true" if value else "false"
        case SourceInt() | SourceFloat():
            return value.text
        case dict():
            return "a mapping"
        case list():
            return "a list"
        case str():
            return repr(value if len(value) <= 60 else f"{value[:60]}…")
        case _:
            return str(value)


class _Reader:
    """Reads composed nodes; called by the thread that reads the manifest."""

    def __init__(self, source: Source, environ: Mapping[str, str]) -> None:
        self._source = source
        self._environ = environ
        self._count = 0
        #: Nodes that are being read: an alias to one of them would never end.
        self._open: set[int] = set()

    def value(self, node: Any, path: Path) -> Any:
        self._source.values.setdefault(path, _mark(node))
        self._count += 1
        if self._count > MAX_VALUES or len(path) > MAX_DEPTH:
            self._source.problem(path, "the file holds too many values or nests too deep")
            raise TooManyProblemsError
        if id(node) in self._open:
            self._unreadable(path, "an alias (*) is inside the value it refers to", at_value=False)
            return None
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        self._open.add(id(node))
        try:
            if node.tag == f"{_TAG}seq":
                return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
            if node.tag == f"{_TAG}map":
                return self._mapping(node, path)
            self._refuse_tag(str(node.tag), path)
            return None
        finally:
            self._open.discard(id(node))

    def _mapping(self, node: Any, path: Path) -> dict[str, Any]:
        source = self._source
        found: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == f"{_TAG}merge":
                merged = {**self._merged(value_node, path), **merged}
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                source.problem(path, "a key must be a word", mark=_mark(key_node))
                continue
            key = str(key_node.value)
            below = (*path, key)
            if key in found:
                first = source.keys[below].line
                source.problem(
                    below, f"is given twice; first on line {first}", mark=_mark(key_node)
                )
                continue
            source.keys[below] = _mark(key_node)
            source.values.pop(below, None)
            found[key] = self.value(value_node, below)
            self._note_secret(key, value_node, below)
        return {**merged, **found}

    def _merged(self, node: Any, path: Path) -> dict[str, Any]:
        """Read what ``<<`` names: a mapping, or a list of them, of which the first wins."""
        merged: dict[str, Any] = {}
        for base in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            if isinstance(base, yaml.MappingNode) and id(base) not in self._open:
                merged = {**self._mapping(base, path), **merged}
            else:
                self._source.problem(path, "`<<` merges mappings only", at_value=True)
        return merged

    def _note_secret(self, key: str, node: Any, path: Path) -> None:
        if isinstance(node, yaml.ScalarNode) and node.value:
            alone = _VARIABLE.fullmatch(str(node.value))
            if not (alone and alone["name"] and alone["default"] is None):
                span = (node.start_mark.index, node.end_mark.index)
                self._source.spans[path] = span
                if is_secret_name(key):
                    self._source.secret_spans.add(span)

    def _scalar(self, node: Any, path: Path) -> Any:
        text, tag = str(node.value), str(node.tag)
        replaced = self._replaced(text, path) if "$" in text else text
        if replaced == text:
            return self._typed(text, tag, path)
        if node.style is None and tag == f"{_TAG}str":
            # A variable may be replaced by a number. pydantic converts other types from text.
            resolved = str(_SCALARS.resolve(yaml.ScalarNode, replaced, (True, False)))
            if resolved in (f"{_TAG}int", f"{_TAG}float"):
                tag = resolved
        value = self._typed(replaced, tag, path)
        if isinstance(value, str):
            value = SourceText(value)
        if isinstance(value, SourceInt | SourceFloat | SourceText):
            value.raw = text
        return value

    def _replaced(self, text: str, path: Path) -> str:
        broken = _BROKEN_VARIABLE.search(_VARIABLE.sub("", text))
        if broken is not None:
            self._source.problem(
                path,
                f"{broken.group()} is not a variable; write ${{NAME}}, ${{NAME:-default}}, "
                "or $$ for a dollar sign",
                at_value=True,
            )
            return text

        def replace(match: re.Match[str]) -> str:
            name, default = match["name"], match["default"]
            if name is None:
                return "$"
            value = self._environ.get(name)
            if default is not None:
                return value or default
            if value is None:
                hint = f"set it, or write ${{{name}:-default}}"
                self._unreadable(path, f"the environment has no {name}; {hint}")
            return value or ""

        return _VARIABLE.sub(replace, text)

    def _typed(self, text: str, tag: str, path: Path) -> Any:
        kind = tag.removeprefix(_TAG)
        if kind in ("str", "timestamp", "value"):
            return text
        if kind == "null":
            return None
        node = yaml.ScalarNode(tag, text)
        try:
            if kind == "bool":
                return _SCALARS.bool_values[text.lower()]
            if kind == "int":
                number = SourceInt(_SCALARS.construct_yaml_int(node))
                number.text = text
                return number
            if kind == "float":
                real = SourceFloat(_SCALARS.construct_yaml_float(node))
                real.text = text
                return real
        except (ValueError, KeyError):
            self._unreadable(path, f"{text!r} is not a valid {kind}")
            return None
        self._refuse_tag(tag, path)
        return None

    def _refuse_tag(self, tag: str, path: Path) -> None:
        shown = f"!!{tag.removeprefix(_TAG)}" if tag.startswith(_TAG) else tag
        self._unreadable(path, f"the tag {shown} is not allowed: manifests hold plain values")

    def _unreadable(self, path: Path, message: str, *, at_value: bool = True) -> None:
        self._source.unread.add(path)
        self._source.problem(path, message, at_value=at_value)


def _mark(node: Any) -> Mark:
    return Mark(node.start_mark.line + 1, node.start_mark.column + 1)
