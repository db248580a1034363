"""A manifest's text → plain data, with the place of every key and value.

YAML is composed into nodes and read from there: nothing is ever constructed that is no plain value,
and what a number was written as is kept, since YAML 1.1 reads ``12:00:00`` as 43200.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias, cast

import yaml

from scalable.manifest.errors import Problem
from scalable_runs.redact import REDACTED, says_secret

#: Keys and indexes from the top of the document.
Path: TypeAlias = tuple[str | int, ...]

#: A manifest is written by hand: more than this is a mistake or an attack.
MAX_BYTES: Final = 1024 * 1024
MAX_DEPTH: Final = 32
#: Problems told of one manifest.
MAX_PROBLEMS: Final = 100
#: Values after aliases are written out: bounds what nested aliases can grow to.
MAX_VALUES: Final = 50_000

#: ``${NAME}``, ``${NAME:-default}``, and ``$$`` for a dollar sign.
_VARIABLE: Final = re.compile(
    r"\$(?:\$|\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\})"
)
_BROKEN: Final = re.compile(r"\$\{[^}]*\}?")
_TAG: Final = "tag:yaml.org,2002:"


class SourceInt(int):
    """An integer that knows how it was written."""

    text: str
    #: What stood there before variables were replaced, if there were any.
    raw: str | None = None


class SourceFloat(float):
    """A number that knows how it was written."""

    text: str
    raw: str | None = None


class SourceText(str):
    """A text in which variables were replaced."""

    raw: str | None = None


class TooManyProblemsError(Exception):
    """A manifest has as many problems as are told; those found are in the source."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in the file; both count from 1."""

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
        Its values, variables replaced.
    keys, values : dict
        Where each key and each value stands, by path.
    problems : list of Problem
        What is wrong, each once, :data:`MAX_PROBLEMS` at most.
    """

    file: str
    text: str
    data: dict[str, Any] = field(default_factory=dict[str, Any])
    keys: dict[Path, Mark] = field(default_factory=dict[Path, Mark])
    values: dict[Path, Mark] = field(default_factory=dict[Path, Mark])
    problems: list[Problem] = field(default_factory=list[Problem])
    #: Values that could not be read, which was said: what follows from it need not be.
    unread: set[Path] = field(default_factory=set[Path])
    secret_spans: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    _noted: set[Problem] = field(default_factory=set[Problem])

    def problem(self, path: Path, message: str, *, at_value: bool = False) -> None:
        """Note what is wrong at `path`, or at the nearest place above it that is in the file."""
        self.note(self.locate(path, message, at_value=at_value))

    def note(self, problem: Problem) -> None:
        """Note a problem.

        Raises
        ------
        TooManyProblemsError
            No more of them are told: whoever looks for more can stop.
        """
        if problem in self._noted:
            return
        self._noted.add(problem)
        if not self.is_full:
            self.problems.append(problem)
        if len(self.problems) == MAX_PROBLEMS:
            # Line 0: it stands at the top.
            more = f"these are {MAX_PROBLEMS} problems, and there may be more"
            self.problems.append(Problem(self.file, 0, 0, "", more))
        if self.is_full:
            raise TooManyProblemsError

    @property
    def is_full(self) -> bool:
        """Whether no more problems are told."""
        return len(self.problems) > MAX_PROBLEMS

    def locate(self, path: Path, message: str, *, at_value: bool = False) -> Problem:
        """Make a problem of a message about `path`."""
        mark = self.values.get(path) if at_value else self.keys.get(path)
        above = path
        while mark is None and above:
            mark = self.keys.get(above) or self.values.get(above)
            above = above[:-1]
        if mark is None:
            mark = self.values.get((), Mark(1, 1))
        return Problem(self.file, mark.line, mark.column, dotted(path), message)

    def copy(self) -> str:
        """Return the text without secrets: values of keys that say so, unless just a variable."""
        parts: list[str] = []
        end = 0
        for start, stop in sorted(set(self.secret_spans)):
            if start < end:
                continue
            parts += [self.text[end:start], f'"{REDACTED}"']
            if self.text[start:stop].endswith("\n"):
                parts.append("\n")
            end = stop
        return "".join([*parts, self.text[end:]])


def read_source(text: str, file: str, environ: Mapping[str, str] | None = None) -> Source:
    """Read YAML text; what is wrong with it is in the result's `problems`.

    Parameters
    ----------
    text : str
        The manifest.
    file : str
        Its name, for messages.
    environ : mapping, optional
        Where variables are looked up; default ``os.environ``.
    """
    source = Source(file, text)
    if len(text.encode("utf-8", "replace")) > MAX_BYTES:
        source.problem((), f"the file is larger than {MAX_BYTES // 1024} KiB: no manifest is")
        return source
    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Mark(mark.line + 1, mark.column + 1) if mark else Mark(1, 1)
        said = " ".join(filter(None, (error.context, error.problem)))
        if "single document" in said:
            said = "there is more than one document: a manifest is one, without `---` in between"
        lines = text.splitlines()
        if "${" in "".join(lines[place.line - 1 : place.line]) and "flow" in said:
            said += "; inside of { } and [ ] a ${NAME} must be in quotes"
        source.note(Problem(file, place.line, place.column, "", f"no valid YAML: {said}"))
        return source
    except yaml.YAMLError as error:
        source.problem((), f"no valid YAML: {str(error).splitlines()[0]}")
        return source
    except RecursionError:
        source.problem((), f"the file nests more than {MAX_DEPTH} levels")
        return source
    if node is None:
        source.problem((), "the manifest is empty; `scalable init` writes one")
        return source
    reader = _Reader(source, os.environ if environ is None else environ)
    try:
        data = reader.value(node, ())
    except TooManyProblemsError:
        return source
    if isinstance(data, dict):
        source.data = cast("dict[str, Any]", data)
    elif not source.problems:
        source.problem((), f"a manifest is a mapping of keys, not {kind_of(data)}")
    return source


def dotted(path: Path) -> str:
    """``('targets', 'hpc', 0)`` → ``targets.hpc[0]``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def kind_of(value: Any) -> str:
    """What a value is, in the words of a YAML file."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, SourceInt | SourceFloat):
        return value.text
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else f"{value[:60]}…")
    return str(value)


class _Reader:
    """Walks composed nodes; called by the thread that reads the manifest."""

    def __init__(self, source: Source, environ: Mapping[str, str]) -> None:
        self._source = source
        self._environ = environ
        self._resolver = yaml.SafeLoader("")
        self._count = 0
        self._open: set[int] = set()

    def value(self, node: Any, path: Path) -> Any:
        source = self._source
        source.values.setdefault(path, _mark(node))
        self._count += 1
        if self._count > MAX_VALUES or len(path) > MAX_DEPTH:
            if not any("too" in problem.message for problem in source.problems):
                source.problem(path, "the file holds too many values or nests too deep")
            return None
        if id(node) in self._open:
            source.unread.add(path)
            source.problem(path, "an alias (*) stands inside of what it refers to")
            return None
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.SequenceNode):
                if not self._plain_tag(node, path, "seq"):
                    return None
                return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
            return self._mapping(node, path) if self._plain_tag(node, path, "map") else None
        finally:
            self._open.discard(id(node))

    def _plain_tag(self, node: Any, path: Path, kind: str) -> bool:
        if node.tag == _TAG + kind:
            return True
        self._refuse_tag(str(node.tag), path)
        return False

    def _refuse_tag(self, tag: str, path: Path) -> None:
        self._source.unread.add(path)
        self._source.problem(
            path,
            f"the tag {_short(tag)} is not allowed: manifests hold plain values",
            at_value=True,
        )

    def _mapping(self, node: Any, path: Path) -> dict[str, Any]:
        source = self._source
        found: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _TAG + "merge":
                for base in _bases(value_node):
                    if isinstance(base, yaml.MappingNode) and id(base) not in self._open:
                        for key, value in self._mapping(base, path).items():
                            merged.setdefault(key, value)
                    else:
                        source.problem(path, "`<<` merges mappings only", at_value=True)
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                mark = _mark(key_node)
                source.note(
                    Problem(
                        source.file, mark.line, mark.column, dotted(path), "a key must be a word"
                    )
                )
                continue
            key = str(key_node.value)
            below = (*path, key)
            if key in found:
                first = source.keys[below]
                mark = _mark(key_node)
                source.note(
                    Problem(
                        source.file,
                        mark.line,
                        mark.column,
                        dotted(below),
                        f"stands twice; first in line {first.line}",
                    )
                )
                continue
            source.keys[below] = _mark(key_node)
            source.values.pop(below, None)
            found[key] = self.value(value_node, below)
            self._note_secret(key, value_node)
        return {**merged, **found}

    def _note_secret(self, key: str, node: Any) -> None:
        if isinstance(node, yaml.ScalarNode) and says_secret(key):
            alone = _VARIABLE.fullmatch(str(node.value))
            if node.value and not (alone and alone["name"] and alone["default"] is None):
                self._source.secret_spans.append((node.start_mark.index, node.end_mark.index))

    def _scalar(self, node: Any, path: Path) -> Any:
        text = str(node.value)
        tag = str(node.tag)
        replaced = self._replaced(text, path) if "$" in text else text
        if replaced == text:
            return self._typed(text, tag, path)
        if node.style is None and tag == _TAG + "str":
            # A number that a variable stood for is one. Other kinds pydantic makes of text.
            resolved = str(self._resolver.resolve(yaml.ScalarNode, replaced, (True, False)))
            if resolved in (_TAG + "int", _TAG + "float"):
                tag = resolved
        value = self._typed(replaced, tag, path)
        if isinstance(value, str):
            value = SourceText(value)
        if isinstance(value, SourceInt | SourceFloat | SourceText):
            value.raw = text
        return value

    def _replaced(self, text: str, path: Path) -> str:
        def replace(match: re.Match[str]) -> str:
            name = match["name"]
            if name is None:
                return "$"
            value = self._environ.get(name)
            if match["default"] is not None:
                return value or match["default"]
            if value is None:
                self._source.unread.add(path)
                self._source.problem(
                    path,
                    f"the environment has no {name}; set it, or write ${{{name}:-default}}",
                    at_value=True,
                )
                return ""
            return value

        left = _VARIABLE.sub("", text)
        broken = _BROKEN.search(left)
        if broken is not None:
            self._source.problem(
                path,
                f"{broken.group()} is no variable; write ${{NAME}}, ${{NAME:-default}}, "
                "or $$ for a dollar sign",
                at_value=True,
            )
            return text
        return _VARIABLE.sub(replace, text)

    def _typed(self, text: str, tag: str, path: Path) -> Any:
        kind = tag.removeprefix(_TAG)
        if kind in ("str", "timestamp", "value"):
            return text
        if kind == "null":
            return None
        loader: Any = self._resolver
        try:
            if kind == "bool":
                return loader.bool_values[text.lower()]
            node = yaml.ScalarNode(tag, text)
            if kind == "int":
                number = SourceInt(loader.construct_yaml_int(node))
                number.text = text
                return number
            if kind == "float":
                real = SourceFloat(loader.construct_yaml_float(node))
                real.text = text
                return real
        except (ValueError, KeyError):
            self._source.unread.add(path)
            self._source.problem(path, f"{text!r} is no {kind}", at_value=True)
            return None
        self._refuse_tag(tag, path)
        return None


def _bases(node: Any) -> Iterator[Any]:
    if isinstance(node, yaml.SequenceNode):
        yield from node.value
    else:
        yield node


def _mark(node: Any) -> Mark:
    return Mark(node.start_mark.line + 1, node.start_mark.column + 1)


def _short(tag: str) -> str:
    return f"!!{tag.removeprefix(_TAG)}" if tag.startswith(_TAG) else tag
