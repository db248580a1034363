"""Source texts of the program: its script and the cells of its notebook.

Pickled by value, a function loses its source: Dask sends the functions of ``__main__`` and of
notebooks so, and cloudpickle replaces the name of their file as well. The texts are sent apart, and
kept in :func:`program_sources` of each process. There a function is found by its code object, and
a frame of a traceback by the name of the function and the line.
"""

from __future__ import annotations
import __future__

import inspect
import threading
from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cached_property, reduce
from types import CodeType
from typing import Any, Final, NamedTuple, cast

from scalable.common.forks import unlocked_in_forks

#: Characters of one text at most: a longer one is not kept.
MAX_TEXT: Final = 2**20
#: Characters of all texts of a process at most: the oldest are dropped.
MAX_TEXTS: Final = 8 * 2**20
#: Texts of a process at most.
MAX_COUNT: Final = 10_000

#: Flags of ``from __future__ import …``: notebooks keep those of earlier cells.
_FUTURE: Final = reduce(
    int.__or__,
    (getattr(__future__, name).compiler_flag for name in __future__.all_feature_names),
)


class SourceText(NamedTuple):
    """One source text."""

    #: The file, or a cell such as ``In [12]``.
    name: str
    text: str
    #: The file name in code objects that were not sent by value; that of a cell is made up.
    file: str = ""

    @property
    def is_cell(self) -> bool:
        """Whether it has no file."""
        return self.name.startswith(("In [", "<"))


class Located(NamedTuple):
    """A function in its source text."""

    source: SourceText
    #: Line of the function's begin, its first decorator's if it has one.
    first_line: int

    @property
    def name(self) -> str:
        """The file or the cell."""
        return self.source.name

    @property
    def text(self) -> str:
        """Source of the function, with its decorators; for a lambda that of its lines."""
        lines = self.source.text.splitlines(keepends=True)[max(0, self.first_line - 1) :]
        if self.first_line < 1:
            return self.source.text
        with suppress(Exception):
            lines = inspect.getblock(lines)
        return "".join(lines)

    def line(self, number: int) -> str:
        """A line of the text, without white space around it; empty if there is none."""
        lines = self.source.text.splitlines()
        return lines[number - 1].strip() if 0 < number <= len(lines) else ""


class _Entry:
    """A text and the code objects that it compiles to, at first use; used by any thread."""

    def __init__(self, source: SourceText, number: int) -> None:
        self.source = source
        self.number = number
        self._codes: dict[int, Mapping[str, list[CodeType]]] = {}

    def named(self, name: str, flags: int = 0) -> list[CodeType]:
        """Code objects of a name, compiled with these flags of ``__future__``."""
        found = self._codes.get(flags)
        if found is None:
            # A cheap test first: compiling takes about 1 ms for each 300 lines.
            if not name.startswith("<") and name not in self.source.text:
                return []
            found = self._codes[flags] = self._compiled(flags)
        return found.get(name, [])

    def _compiled(self, flags: int) -> Mapping[str, list[CodeType]]:
        by_name: defaultdict[str, list[CodeType]] = defaultdict(list)
        with suppress(SyntaxError, ValueError, RecursionError, MemoryError, OverflowError):
            whole = compile(
                self.source.text,
                self.source.name,
                "exec",
                # Cells may wait for coroutines.
                flags=flags | _TOP_LEVEL_AWAIT,
                dont_inherit=True,
            )
            for code in _nested(whole):
                by_name[code.co_name].append(code)
        return by_name

    @cached_property
    def weight(self) -> int:
        """Characters of the text."""
        return len(self.source.text)


#: ``ast.PyCF_ALLOW_TOP_LEVEL_AWAIT``, without the module.
_TOP_LEVEL_AWAIT: Final = 0x2000


class ProgramSources:
    """Source texts of a process, bounded; used by any thread."""

    def __init__(self) -> None:
        self._lock = unlocked_in_forks(threading.Condition(threading.Lock()))
        self._was_awaited = False
        self._entries: OrderedDict[tuple[str, str], _Entry] = OrderedDict()
        self._weight = 0
        self._added = 0
        #: See :meth:`names`; and how many texts had been added.
        self._names: tuple[int, frozenset[str]] = (0, frozenset())

    def add(self, source: SourceText) -> bool:
        """Keep a text; False if it is kept already, or too long.

        A cell that was run again has the same text and another name: the latest counts.
        """
        if len(source.text) > MAX_TEXT:
            return False
        key = (source.file or source.name, source.text)
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None:
                if entry.source.name == source.name:
                    return False
                self._remove(key)
            self._added += 1
            self._entries[key] = _Entry(source, self._added)
            self._weight += len(source.text)
            while self._weight > MAX_TEXTS or len(self._entries) > MAX_COUNT:
                self._remove(next(iter(self._entries)))
            self._lock.notify_all()
        return True

    def wait_for_first(self, timeout: float) -> None:
        """Wait until there is a text; only the first call of a process waits.

        A worker that has just joined may run a task some milliseconds before the texts arrive. For
        threads that nobody waits for.
        """
        with self._lock:
            if not self._added and not self._was_awaited:
                self._was_awaited = True
                self._lock.wait(timeout)

    def _remove(self, key: tuple[str, str]) -> None:
        self._weight -= self._entries.pop(key).weight

    @property
    def added(self) -> int:
        """How many texts have been added so far."""
        return self._added

    def since(self, number: int = 0) -> list[SourceText]:
        """Texts that were added after the first `number`, the oldest first."""
        with self._lock:
            return [it.source for it in self._entries.values() if it.number > number]

    def names(self) -> frozenset[str]:
        """Names and file names of all texts."""
        added, names = self._names
        if added != self._added:
            with self._lock:
                texts = [it.source for it in self._entries.values()]
                names = frozenset(name for it in texts for name in (it.name, it.file))
                self._names = self._added, names
        return names

    def find(self, code: CodeType, file: object = None) -> Located | None:
        """Find the source of a code object: a text that compiles to an equal one.

        Of cells with equal code the latest is returned. None also if several files have it.

        Parameters
        ----------
        code : types.CodeType
            The code.
        file : object, optional
            ``__file__`` of the function's globals, which cloudpickle keeps, empty if they have
            none: the text of another file is not meant.
        """
        flags = code.co_flags & _FUTURE
        found: list[Located] = []
        for entry in self._latest_first():
            named = entry.named(code.co_name, flags)
            if any(_are_equal(code, other) for other in named) and (
                entry.source.is_cell
                or not isinstance(file, str)
                or (entry.source.file or entry.source.name) == file
            ):
                found.append(Located(entry.source, code.co_firstlineno))
        if found and all(it.source.is_cell for it in found):
            # They differ at most in comments.
            return found[0]
        return found[0] if len(found) == 1 else None

    def locate(self, function: str, line: int, file: str = "") -> Located | None:
        """Find a frame of a traceback that is only known as text.

        Parameters
        ----------
        function : str
            Name of the function as tracebacks have it, such as ``<lambda>``.
        line : int
            Number of the line.
        file : str, default ""
            File name of the frame, where it is not lost: one of :meth:`names`.

        Returns
        -------
        Located or None
            None if no text has code of such a function on that line, or if several have.
        """
        found: list[Located] = []
        for entry in self._latest_first():
            if file and file not in (entry.source.file, entry.source.name):
                continue
            for code in entry.named(function):
                if any(number == line for _, _, number in code.co_lines()):
                    found.append(Located(entry.source, code.co_firstlineno))
                    break
        return _chosen(found)

    def _latest_first(self) -> list[_Entry]:
        # What follows may compile, for which nobody who adds a text must wait.
        with self._lock:
            return list(reversed(self._entries.values()))


def _nested(code: CodeType) -> Iterator[CodeType]:
    todo = [code]
    while todo:
        one = todo.pop()
        yield one
        todo += [const for const in one.co_consts if isinstance(const, CodeType)]


def _are_equal(code: CodeType, other: CodeType) -> bool:
    """Compare two code objects; Python compares all but the file name."""
    return code.co_qualname == other.co_qualname and code == other


def _chosen(found: list[Located]) -> Located | None:
    """The latest of cells with the same function, the only one of files."""
    if not found:
        return None
    latest = found[0]
    if len(found) == 1:
        return latest
    text = latest.text
    same = all(it.source.is_cell and it.text == text for it in found)
    return latest if same else None


_sources: Final = ProgramSources()


def program_sources() -> ProgramSources:
    """Return the texts that this process knows."""
    return _sources


def readable(sent: Any) -> Iterator[SourceText]:
    """Source texts that another process has sent; what cannot be read is left out."""
    for fields in sent if isinstance(sent, list | tuple) else ():
        if isinstance(fields, list | tuple):
            texts = cast("list[Any]", list(fields))[: len(SourceText._fields)]
            if len(texts) == len(SourceText._fields) and all(isinstance(it, str) for it in texts):
                yield SourceText(*texts)
