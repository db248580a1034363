"""The command line of a program: as it is recorded, and as it is run again."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Literal, NotRequired, TypedDict

from scalable_runs.redact import REDACTED, is_secret_name

#: Arguments and characters of one argument that are kept.
MAX_ARGUMENTS: Final = 1_000
MAX_ARGUMENT: Final = 10_000
#: Options of Python that take a value of their own.
_WITH_VALUE: Final = frozenset({"-W", "-X", "--check-hash-based-pycs"})

#: What Python was asked to run. `notebook` and `interactive` are not run again by a command.
Kind = Literal["script", "module", "text", "stdin", "notebook", "interactive"]


class CommandLine(TypedDict):
    """How a program was started."""

    kind: Kind
    #: Arguments of Python: those of the interpreter, then ``script …``, ``-m module …``, ``-c …``.
    argv: list[str]
    cwd: str
    #: The interpreter.
    executable: str
    #: Of `argv`: the module after ``-m``.
    module: NotRequired[str]
    #: Something of `argv` is left out, as there is too much of it.
    cut: NotRequired[bool]


def own_command_line() -> CommandLine:
    """Return how this process was started; nothing is redacted yet."""
    argv = sys.orig_argv[1:]
    kind, at = _what_runs(argv)
    if kind == "script" and _is_ours(sys.argv[0] if sys.argv else "", argv[at]):
        # The path of the command is that of this environment, the module has no path.
        argv[at : at + 1] = ["-m", "scalable"]
        kind = "module"
    if "IPython" in sys.modules and _in_notebook():
        kind = "notebook"
    found: CommandLine = {
        "kind": kind,
        "argv": [argument[:MAX_ARGUMENT] for argument in argv[:MAX_ARGUMENTS]],
        "cwd": _directory(argv[at] if kind == "script" else None),
        "executable": sys.executable or "",
    }
    if found["argv"] != argv:
        found["cut"] = True
    if kind == "module" and at + 1 < len(argv):
        found["module"] = argv[at + 1]
    return found


def redacted_arguments(argv: Sequence[str], redact: Callable[[str], str]) -> list[str]:
    """Return arguments without secrets: the values of options whose names say secret, and others.

    The whole line is searched as well: some commands take a password after a short option.
    """
    found: list[str] = []
    is_secret = False
    for argument in argv:
        name, equals, _ = argument.partition("=")
        named = is_secret_name(name.lstrip("-"))
        if is_secret and not argument.startswith("-"):
            found.append(REDACTED)
        elif named and equals:
            found.append(f"{name}={REDACTED}")
        else:
            found.append(redact(argument))
        is_secret = named and not equals and name.startswith("-")
    line = shlex.join(found)
    redacted = redact(line)
    if redacted == line:
        return found
    try:
        parts = shlex.split(redacted)
    except ValueError:
        parts = []
    # A secret that reaches across arguments: nothing of them is kept.
    return parts if len(parts) == len(found) else [REDACTED]


def secrets_in(argv: Sequence[Any]) -> list[str]:
    """Return the arguments of a recorded command line that had secrets, as they are recorded.

    The value of an option comes with the option: ``--password [redacted]``.
    """
    found: list[str] = []
    for number, argument in enumerate(argv):
        if REDACTED.rstrip("]") not in str(argument):
            continue
        before = str(argv[number - 1]) if number else ""
        is_value = before.startswith("-") and "=" not in before
        found.append(f"{before} {argument}" if is_value else str(argument))
    return found


def _what_runs(argv: Sequence[str]) -> tuple[Kind, int]:
    """Return what Python runs, and where in its arguments that is named."""
    at = 0
    while at < len(argv):
        argument = argv[at]
        if argument in _WITH_VALUE:
            at += 2
            continue
        if argument == "-":
            return "stdin", at
        if not argument.startswith("-"):
            return "script", at
        if not argument.startswith("--"):
            # Options of one letter may stand together: -Im module.
            for letter, kind in (("m", "module"), ("c", "text")):
                if letter in argument[1:] and argument[1] not in "WX":
                    return kind, at  # pyright: ignore[reportReturnType]
        at += 1
    is_terminal = sys.stdin is not None and sys.stdin.isatty()  # pyright: ignore[reportUnnecessaryComparison]
    return ("interactive" if is_terminal or hasattr(sys, "ps1") else "stdin"), 0


def _is_ours(program: str, script: str) -> bool:
    """Whether a script is the `scalable` command."""
    if Path(program).parts[-2:] == ("scalable", "__main__.py"):
        return True
    return Path(script).name in ("scalable", "scalable.exe")


def _in_notebook() -> bool:
    get_ipython: Any = getattr(sys.modules.get("IPython"), "get_ipython", None)
    try:
        return get_ipython is not None and get_ipython() is not None
    except Exception:
        return False


def _directory(script: str | None) -> str:
    """Return the directory that the program was started in, as far as it can be told."""
    try:
        here = str(Path.cwd())
    except OSError:  # it was deleted
        return ""
    before = os.environ.get("PWD", "")
    if script is not None and before and not Path(here, script).exists():
        # The program may have changed it since.
        return before if Path(before, script).exists() else here
    return here
