"""Finds the source texts of the program in this process: its script, and cells of its notebook."""

from __future__ import annotations

import linecache
import re
import sys
import threading
import tokenize
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, Final, cast

from scalable.code.sources import MAX_TEXT, ProgramSources, SourceText, program_sources
from scalable.common.clocks import process_began
from scalable.common.forks import unlocked_in_forks

#: File names of cells: of IPython and its kernel, of Python's own prompt, of marimo.
_CELL: Final = re.compile(
    r"<ipython-input-(\d+)-[^>]*>|<python-input-\d+>"
    r"|.*[/\\]ipykernel_\d+[/\\][^/\\]+\.py|.*[/\\]marimo_\d+[/\\][^/\\]+\.py"
)


#: Seconds by which the two clocks of a file and a process may differ.
LATER: Final = 1.0


class OwnSources:
    """Source texts of the program that runs in this process; used by any thread.

    A file is read once, when it is first seen, as it may be changed while it runs.
    """

    def __init__(self) -> None:
        #: What was found so far.
        self.texts = ProgramSources()
        self._lock = unlocked_in_forks(threading.Lock())
        self._state: tuple[Any, ...] = ()
        self._files: set[str] = set()
        self._cells: dict[str, tuple[str, int]] = {}

    def gather(self) -> ProgramSources:
        """Add what is new, also to :func:`program_sources`; costs little where nothing is."""
        state = _state()
        if state != self._state:
            with self._lock:
                for source in self._new():
                    self.texts.add(source)
                    program_sources().add(source)
                self._state = state
        return self.texts

    def _new(self) -> Iterator[SourceText]:
        for file in _files():
            if file not in self._files:
                self._files.add(file)
                text = _read(file)
                if text is not None:
                    source = SourceText(str(Path(file).absolute()), text, file)
                    if not _is_later(file) or _agrees(source):
                        yield source
        numbers = _cell_numbers()
        for file, entry in list(linecache.cache.items()):
            match = _CELL.fullmatch(file)
            if (match is None and file not in numbers) or len(entry) != 4 or entry[1] is not None:
                continue
            number = numbers.get(file) or (match and match[1])
            name = f"In [{number}]" if number else file
            seen = (name, id(entry))
            if self._cells.get(file) != seen:
                self._cells[file] = seen
                yield SourceText(name, "".join(entry[2]), file)


def _state() -> tuple[Any, ...]:
    """What changes when there may be new texts."""
    main: Any = sys.modules.get("__main__")
    cloudpickle: Any = sys.modules.get("cloudpickle.cloudpickle")
    by_value = getattr(cloudpickle, "_PICKLE_BY_VALUE_MODULES", ())
    return (
        getattr(_shell(), "execution_count", None),
        len(linecache.cache),
        getattr(main, "__file__", None),
        len(by_value),
    )


def _shell() -> Any:
    """The shell of IPython; None where there is none."""
    module: Any = sys.modules.get("IPython.core.interactiveshell")
    return getattr(getattr(module, "InteractiveShell", None), "_instance", None)


def _cell_numbers() -> dict[str, int]:
    """Numbers of IPython's cells by their file names, each that of the last execution."""
    compiler: Any = getattr(_shell(), "compile", None)
    numbers: Any = getattr(compiler, "_filename_map", None)
    return dict(cast("dict[str, int]", numbers)) if isinstance(numbers, dict) else {}


def _files() -> list[str]:
    found = [getattr(module, "__file__", None) for module in _modules()]
    return [file for file in found if isinstance(file, str)]


def _modules() -> list[Any]:
    """The modules that are sent by value: the script, and those that the user named."""
    names = ["__main__"]
    cloudpickle: Any = sys.modules.get("cloudpickle.cloudpickle")
    with suppress(Exception):
        for package in cloudpickle.list_registry_pickle_by_value() if cloudpickle else ():
            names += [name for name in list(sys.modules) if f"{name}.".startswith(f"{package}.")]
    return [sys.modules[name] for name in names if name in sys.modules]


def _read(file: str) -> str | None:
    """Return the text of a file; None if it cannot be read or is too long."""
    try:
        if Path(file).stat().st_size > 4 * MAX_TEXT:
            return None
        with tokenize.open(file) as opened:
            return opened.read(MAX_TEXT + 1)
    except (OSError, SyntaxError, ValueError):
        return None


def _is_later(file: str) -> bool:
    """Whether a file was changed after this process began, and so maybe after it was read."""
    try:
        return Path(file).stat().st_mtime > process_began() + LATER
    except OSError:
        return True


def _agrees(source: SourceText) -> bool:
    """Whether the functions that the program has now are those of the text."""
    texts = ProgramSources()
    texts.add(source)
    functions: list[CodeType] = []
    for module in _modules():
        if getattr(module, "__file__", None) == source.file:
            found = [it for it in list(vars(module).values()) if isinstance(it, FunctionType)]
            functions += [it.__code__ for it in found]
    # What a decorator has returned may be of another file.
    functions = [code for code in functions if code.co_filename == source.file]
    return bool(functions) and all(texts.find(code) is not None for code in functions)


_own: Final = OwnSources()


def own_sources() -> OwnSources:
    """Return the texts of the program of this process."""
    return _own
