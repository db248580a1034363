"""Frames of a recorded traceback: which are the user's own, and how each is named."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, NamedTuple

#: Frames shown of one traceback.
MAX_SHOWN: Final = 4

#: File name that cloudpickle gives to code sent by value, such as that of `__main__`.
_SENT_BY_VALUE: Final = "<dynamic-code>"
#: Python's own tracebacks, those within an exception group, and those of `faulthandler`.
_FRAME: Final = re.compile(r'[ |+]*File "([^"\n]*)", line (\d{1,9}),? in ([^\n]+)')
_CHAINED: Final = re.compile(
    r"^[ |+]*(?:The above exception was the direct cause|During handling of the above exception)"
)
#: Programs that run the code of another file.
_LAUNCHERS: Final = frozenset({"__main__.py", "ipykernel_launcher.py", "colab_kernel_launcher.py"})
_INSTALLED: Final = re.compile(
    r"[/\\](?:site|dist)-packages[/\\]|[/\\]lib(?:64)?[/\\]python3[^/\\]*[/\\]"
    r"|[/\\](?:Python|python|miniconda|anaconda|miniforge)\w*[/\\](?:[^\n]*[/\\])?Lib[/\\]"
    r"|\.(?:pyx|pxi|pxd)$"
)
_DASK: Final = re.compile(
    r"[/\\](?:dask|distributed|tornado|concurrent|asyncio)[/\\]|[/\\]threading\.py$"
)
_INTERACTIVE: Final = re.compile(r"<(?:dynamic-code|stdin|string|console|ipython-input-[^>]*)>")
#: Where this package lies, without site-packages in a source tree.
_HERE: Final = str(Path(__file__).parents[1]) + "/"
#: The demo counts as a user's program; older versions had it in one module.
_DEMO: Final = re.compile(r"[/\\]scalable[/\\]demo(?:\.py$|[/\\])")


class Frame(NamedTuple):
    """One frame."""

    file: str
    line: int
    function: str
    code: str
    #: Of the user's code: not of an installed package, the standard library or this package.
    is_own: bool

    def where(self, program: str = "") -> str:
        """Name the place as ``file:line in function``.

        Parameters
        ----------
        program
            File name of the program, for code that it sent by value; see :func:`program_of`.
        """
        file = program if program and self.file == _SENT_BY_VALUE else self.file
        return f"{file}:{self.line} in {self.function}"


def program_of(run: object) -> str:
    """Return the file name of a run's program as run.json has it; empty if it is not a script."""
    environment = run.get("environment") if isinstance(run, dict) else None
    program = environment.get("program") if isinstance(environment, dict) else None
    if not isinstance(program, str) or not program.endswith(".py") or program in _LAUNCHERS:
        return ""
    return program


def relevant_frames(traceback: str, limit: int = MAX_SHOWN) -> tuple[Frame, ...]:
    """Return the frames that matter: the user's innermost ones, and where it was raised.

    Of a chain of exceptions, the last one that has frames of the user's code is used. If none has,
    the two innermost frames are returned, those outside Dask first.
    """
    parts = _parts(traceback)
    part = next((part for part in reversed(parts) if any(frame.is_own for frame in part)), None)
    if part is None:
        part = parts[-1] if parts else []
        others = [frame for frame in part if not _DASK.search(frame.file)]
        return tuple((others or part)[-2:])
    own = [frame for frame in part if frame.is_own]
    if part[-1].is_own:
        return tuple(own[-limit:])
    return (*own[-(limit - 1) :], part[-1])


def own_frame(traceback: str) -> Frame | None:
    """Return the innermost frame of the user's own code, else the innermost of all."""
    frames = relevant_frames(traceback)
    if not frames:
        return None
    return next((frame for frame in reversed(frames) if frame.is_own), frames[-1])


def crash_frames(stderr: str, limit: int = MAX_SHOWN) -> tuple[Frame, ...]:
    """Return the frames of a crash as `faulthandler` wrote them, the innermost last.

    They are those of the thread that crashed: the user's innermost ones, and what they called.
    """
    _, found, rest = stderr.partition("Current thread ")
    if not found:
        return ()
    frames = [
        Frame(file, int(number), function.strip(), "", _is_own(file) and file != "<string>")
        for file, number, function in _FRAME.findall(rest.partition("\n\n")[0])
    ]
    first = next((at for at, frame in enumerate(frames) if frame.is_own), None)
    if first is None:
        return tuple(reversed(frames[:2]))
    # `faulthandler` writes the most recent call first.
    called = frames[first - 1 : first] if first else []
    own = [frame for frame in frames if frame.is_own][: limit - len(called)]
    return (*reversed(own), *called)


def _parts(traceback: str) -> list[list[Frame]]:
    """The frames of each exception of a chain, those without any left out."""
    parts: list[list[Frame]] = [[]]
    for line in traceback.splitlines():
        match = _FRAME.match(line)
        if match is not None:
            file, number, function = match.groups()
            parts[-1].append(Frame(file, int(number), function.strip(), "", _is_own(file)))
        elif _CHAINED.match(line):
            parts.append([])
        elif parts[-1] and not parts[-1][-1].code:
            code = line.strip(" |+")
            # The line of code is indented below its frame; one of ^^^^ follows it.
            if line.startswith(("    ", "  |")) and code.strip("^~ "):
                parts[-1][-1] = parts[-1][-1]._replace(code=code)
    return [part for part in parts if part]


def _is_own(file: str) -> bool:
    if file.startswith("<"):
        return _INTERACTIVE.fullmatch(file) is not None
    if _DEMO.search(file):
        return True
    return _INSTALLED.search(file) is None and not file.startswith(_HERE)
