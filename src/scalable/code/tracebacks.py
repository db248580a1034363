"""Tracebacks that name the file, or the cell of a notebook, where Python has lost it.

A frame is given a name only where a source text of the program agrees with it: in code, if the text
compiles to an equal code object; in text, if it has a function of this name on this line.
"""

from __future__ import annotations

import linecache
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from itertools import count, pairwise
from types import CodeType, FrameType, TracebackType
from typing import Any, Final

from scalable.code.sources import Located, ProgramSources, SourceText, program_sources

#: Names in the place of a file: cloudpickle's, those of IPython and its kernel, of Python's prompt.
_UNNAMED: Final = re.compile(
    r"<dynamic-code>|<ipython-input-\d+-[^>]*>|.*[/\\]ipykernel_\d+[/\\][^/\\]+\.py"
)
#: What every text with such a name contains.
_SIGNS: Final = ("<dynamic-code>", "<ipython-input-", "ipykernel_")
#: The name that says nothing: any text may be meant.
_LOST: Final = "<dynamic-code>"
#: Exceptions of one chain, and frames of one, that are looked at.
_MAX_CHAIN: Final = 100
_MAX_FRAMES: Final = 10_000

_FRAME: Final = re.compile(
    r'(?P<begin>[ |+]*File ")(?P<file>[^"\n]*)(?P<middle>", line )(?P<line>\d{1,9})'
    # `faulthandler` has no comma.
    r"(?P<in>,? in )(?P<function>[^\n]+)"
)
_numbers: Final = count(1)


def is_unnamed(file: str) -> bool:
    """Whether a file name of a frame is no name of a file."""
    return any(sign in file for sign in _SIGNS) and _UNNAMED.fullmatch(file) is not None


def has_unnamed(error: BaseException) -> bool:
    """Whether an exception, or one of its chain, has frames that could get a name."""
    names = program_sources().names()
    for each in _chain(error):
        trace, left = each.__traceback__, _MAX_FRAMES
        while trace is not None and left:
            file = trace.tb_frame.f_code.co_filename
            if file in names or is_unnamed(file):
                return True
            trace, left = trace.tb_next, left - 1
    return False


def format_exception(error: BaseException, trace: TracebackType | None = None) -> str:
    """Return the text of an exception, as Python prints it, with names where they are known.

    `trace` is its traceback, by default its own.
    """
    trace = trace or error.__traceback__
    formatted = traceback.TracebackException(
        type(error), error, trace, lookup_lines=False, compact=True
    )
    with suppress(Exception):
        _name_frames(error, trace, formatted)
    return "".join(formatted.format())


def resolve_text(text: str, *, add_lines: bool = True) -> str:
    """Return the text of a traceback with names where they are known.

    Parameters
    ----------
    text : str
        Text with frames, as Python or :mod:`faulthandler` writes them.
    add_lines : bool, default True
        Add the source line after its frame, if the text has none.
    """
    if not any(sign in text for sign in _SIGNS):
        return text
    lines = text.splitlines(keepends=True)
    found: list[str] = []
    for line, following in pairwise([*lines, ""]):
        match = _FRAME.fullmatch(line.rstrip("\r\n"))
        located = None
        if match is not None and is_unnamed(match["file"]):
            located = locate(match["function"].strip(), int(match["line"]), match["file"])
        if match is None or located is None:
            found.append(line)
            continue
        found.append(line.replace(match["file"], located.name, 1))
        indent = match["begin"].removesuffix('File "')
        code = located.line(int(match["line"]))
        if (
            add_lines
            and code
            and not (following.startswith(f"{indent}  ") and following.strip(" |+\r\n"))
        ):
            found[-1] = f"{found[-1].rstrip()}\n"
            found.append(f"{indent}  {code}\n")
    return "".join(found)


def locate(function: str, line: int, file: str) -> Located | None:
    """Find a frame that is known by texts, in the texts that this process knows."""
    sources = program_sources()
    return _located(function, line, "" if file == _LOST else file, sources.added)


@lru_cache(1024)
def _located(function: str, line: int, file: str, added: int) -> Located | None:
    return program_sources().locate(function, line, file)


def name_of_code(code: CodeType, line: int) -> str:
    """Return the file of a line of code, or its cell; its file name where that is not known."""
    if not is_unnamed(code.co_filename):
        return code.co_filename
    located = _find_code(code, line)
    return code.co_filename if located is None else located.name


# -- of live exceptions ---------------------------------------------------------------------------


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An exception, those that it was raised from, and those of groups among them."""
    todo, seen = [error], set[int]()
    while todo and len(seen) < _MAX_CHAIN:
        each = todo.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        todo += [it for it in (each.__cause__, each.__context__) if it is not None]
        if isinstance(each, BaseExceptionGroup):
            todo += each.exceptions[: _MAX_CHAIN - len(seen)]


def _name_frames(
    error: BaseException, trace: TracebackType | None, formatted: traceback.TracebackException
) -> None:
    """Name the frames of an exception and of its chain, in what will be printed."""
    names = program_sources().names()
    known: dict[int, Located | None] = {}
    todo: list[tuple[BaseException, Any]] = [(error, formatted)]
    while todo:
        each, printed = todo.pop()
        frames = trace if each is error else each.__traceback__
        _name_stack(frames, printed.stack, names, known)
        for cause, below in (
            (each.__cause__, printed.__cause__),
            (each.__context__, printed.__context__),
        ):
            if cause is not None and below is not None:
                todo.append((cause, below))
        if isinstance(each, BaseExceptionGroup) and printed.exceptions:
            todo += zip(each.exceptions, printed.exceptions, strict=True)


def _name_stack(
    trace: TracebackType | None,
    stack: list[traceback.FrameSummary],
    names: frozenset[str],
    known: dict[int, Located | None],
) -> None:
    frames: list[FrameType] = []
    while trace is not None:
        frames.append(trace.tb_frame)
        trace = trace.tb_next
    if len(frames) != len(stack):
        return  # limited by ``sys.tracebacklimit``
    for at, frame in enumerate(frames):
        code = frame.f_code
        located = known.get(id(code))
        if located is None and id(code) not in known:
            if code.co_filename in names or is_unnamed(code.co_filename):
                located = _find(frame)
            known[id(code)] = located
        if located is not None:
            stack[at] = _named(stack[at], located)


def _find(frame: FrameType) -> Located | None:
    """Find the source of a frame: of the program, or of a module that is imported here too."""
    located = _find_code(frame.f_code, frame.f_lineno, frame.f_globals.get("__file__", ""))
    if located is None and frame.f_code.co_filename == _LOST:
        located = _in_module(frame.f_code, frame.f_globals)
    return located


def _find_code(code: CodeType, line: int, origin: object = None) -> Located | None:
    sources = program_sources()
    located = sources.find(code, origin)
    if located is None and code.co_filename != _LOST:
        # IPython compiles the statements of a cell one by one.
        located = sources.locate(code.co_name, line, code.co_filename)
    return located


def _in_module(code: CodeType, names: dict[str, Any]) -> Located | None:
    """Find a function that an imported module makes, and that was therefore sent by value.

    Its globals have the name and the file of the module. The module that is imported here under
    this name counts if its text compiles to equal code.
    """
    file, name = names.get("__file__"), names.get("__name__")
    module = sys.modules.get(name) if isinstance(name, str) and name != "__main__" else None
    if module is None or not isinstance(file, str) or getattr(module, "__file__", None) != file:
        return None
    return _module_source(file).find(code)


@lru_cache(64)
def _module_source(file: str) -> ProgramSources:
    sources = ProgramSources()
    sources.add(SourceText(file, "".join(linecache.getlines(file))))
    return sources


def _named(frame: traceback.FrameSummary, located: Located) -> traceback.FrameSummary:
    """The same frame in its file, with its lines."""
    # Python reads the lines of a frame, and marks the part that failed, by its file name.
    lines = located.source.text.splitlines(keepends=True)
    file = f"<scalable-source-{next(_numbers)}>"
    linecache.cache[file] = (len(located.source.text), None, lines, file)
    try:
        named = traceback.FrameSummary(
            file,
            frame.lineno,
            frame.name,
            end_lineno=frame.end_lineno,
            colno=frame.colno,
            end_colno=frame.end_colno,
        )
    finally:
        linecache.cache.pop(file, None)
    named.filename = located.name
    return named
