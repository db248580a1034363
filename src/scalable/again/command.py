"""The command that runs a recorded program again."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from scalable.common.command_lines import secrets_in

#: Variable that makes a run a retry of another.
RETRY_VARIABLE: Final = "SCALABLE_RETRY_OF"
_RUN_ID_VARIABLE: Final = "SCALABLE_RUN_ID"
_TARGET_VARIABLE: Final = "SCALABLE_TARGET"


class NoCommandError(Exception):
    """A program cannot be run again by a command; the message says why, and the way out."""


@dataclass(frozen=True, slots=True)
class Command:
    """What is run, and where."""

    argv: list[str]
    cwd: str
    #: Variables that are set for it, and those that are not passed on.
    variables: Mapping[str, str]
    dropped: tuple[str, ...] = (_RUN_ID_VARIABLE,)

    @property
    def text(self) -> str:
        """The command for people."""
        return shlex.join(self.argv)

    def environ(self) -> dict[str, str]:
        """Return the environment of its process."""
        found = {name: value for name, value in os.environ.items() if name not in self.dropped}
        return {**found, **self.variables}


def command_of(
    run_id: str,
    recorded: Any,
    *,
    given: str | None = None,
    cwd: str | None = None,
    target: str | None = None,
    extra: Sequence[str] = (),
) -> Command:
    """Return the command that runs the program of a recorded run again.

    Parameters
    ----------
    run_id : str
        The run.
    recorded
        `environment.command` of its run.json.
    given : str, optional
        The command line to use instead.
    cwd : str, optional
        The directory to use instead.
    target : str, optional
        Target of the manifest to use instead.
    extra : sequence of str
        Further arguments of the program.

    Raises
    ------
    NoCommandError
        There is no such command.
    """
    variables = {RETRY_VARIABLE: run_id}
    if target is not None:
        variables[_TARGET_VARIABLE] = target
    found: dict[str, Any] = recorded if isinstance(recorded, dict) else {}
    directory = cwd or str(found.get("cwd") or ".")
    if given is not None:
        directory = cwd or (directory if Path(directory).is_dir() else ".")
        return Command([*shlex.split(given), *extra], directory, variables)
    arguments = _usable(run_id, found)
    if cwd is None and not Path(directory).is_dir():
        if not _is_script_here(found, arguments):
            raise NoCommandError(
                f"the directory of the program, {directory}, does not exist here: name it by --cwd"
            )
        directory = "."
    if not Path(directory).is_dir():
        raise NoCommandError(f"{directory} is not a directory")
    if found.get("module") == "scalable":
        arguments = _of_own_command(arguments, extra, is_target_given=target is not None)
    else:
        arguments = [*arguments, *extra]
    return Command([_interpreter(found), *arguments], directory, variables)


def _usable(run_id: str, found: Mapping[str, Any]) -> list[str]:
    """Return the recorded arguments of Python; raises NoCommandError if they start no program."""
    kind, argv = found.get("kind"), found.get("argv")
    if kind in ("notebook", "interactive"):
        what = "a notebook" if kind == "notebook" else "an interactive session"
        raise NoCommandError(
            f"the run was recorded in {what}, which no command starts again. Run it again yourself "
            f"with {RETRY_VARIABLE}={run_id} in its environment, or with "
            f"instrument(client, retry_of={run_id!r}): what was kept is taken from there"
        )
    if kind == "stdin":
        raise NoCommandError(
            "the program was piped to Python, and is not recorded. Pipe it again with "
            f"{RETRY_VARIABLE}={run_id}, or name its file: --command 'python program.py'"
        )
    if not isinstance(argv, list) or not argv:
        raise NoCommandError(
            "the run does not say how its program was started: an earlier version recorded it. "
            "Give the command: --command 'python program.py --year 2013'"
        )
    arguments = [str(each) for each in argv]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if found.get("cut"):
        raise NoCommandError(
            "the command line of the program is too long to be recorded whole. Give it: "
            "--command 'python program.py …'"
        )
    if secrets := secrets_in(arguments):
        raise NoCommandError(
            f"the command line had secrets, which are not recorded: {', '.join(secrets)}. Give the "
            f"command with them: --command '{shlex.join(['python', *arguments])}'"
        )
    return arguments


def _is_script_here(found: Mapping[str, Any], arguments: Sequence[str]) -> bool:
    if found.get("kind") == "script":
        return any(each.endswith(".py") and Path(each).is_file() for each in arguments)
    return found.get("kind") == "text" or found.get("module") == "scalable"


def _interpreter(found: Mapping[str, Any]) -> str:
    """Return the recorded interpreter if this machine has it, else this one."""
    executable = str(found.get("executable") or "")
    return executable if executable and os.access(executable, os.X_OK) else sys.executable


def _of_own_command(
    arguments: Sequence[str], extra: Sequence[str], *, is_target_given: bool
) -> list[str]:
    """Return the arguments of a `scalable run` for a new run, and maybe another target."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    own = _without_option(arguments[:end], "--run-id")
    if is_target_given:  # an option goes before a variable
        own = _without_option(own, "--target")
    after = [*arguments[end + 1 :], *extra]
    return [*own, "--", *after] if after or end < len(arguments) else own


def _without_option(arguments: Sequence[str], option: str) -> list[str]:
    found: list[str] = []
    skip = False
    for argument in arguments:
        if skip:
            skip = False
        elif argument == option:
            skip = True
        elif not argument.startswith(f"{option}="):
            found.append(argument)
    return found
