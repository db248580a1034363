"""Asks git about a repository, so that nothing of the repository is run or changed.

A repository's own configuration can name programs: hooks, a monitor of the file system, filters of
files, external diffs, pagers, commands for credentials. None of them is run here. Nothing is
fetched, nobody is asked for a password, and the index is not locked.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from scalable.code.commands import Answer, Deadline, run

#: Variables of git that say where git and its configuration are. Others may name a repository, such
#: as that of a hook which started the program, or switch on traces.
_KEPT: Final = re.compile(
    r"GIT_(?:EXEC_PATH|CONFIG_(?:GLOBAL|SYSTEM|NOSYSTEM|COUNT|KEY_\d+|VALUE_\d+)|CEILING_DIRECTORIES"
    r"|DISCOVERY_ACROSS_FILESYSTEM)"
)
_SET: Final = {
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
    # No transport has this name: objects that a partial clone lacks are not fetched.
    "GIT_ALLOW_PROTOCOL": "none",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_PAGER": "cat",
    # Messages are read here.
    "LC_ALL": "C",
    "LANGUAGE": "C",
}
_OPTIONS: Final = (
    "--no-pager",
    "--no-replace-objects",
    *("-c", "core.fsmonitor=false"),
    *("-c", f"core.hooksPath={os.devnull}"),
    *("-c", "core.pager=cat"),
    *("-c", "core.quotePath=false"),
    *("-c", "core.safecrlf=false"),
    *("-c", "diff.external="),
    *("-c", "diff.autoRefreshIndex=false"),
    *("-c", "diff.ignoreSubmodules=dirty"),
    *("-c", "diff.suppressBlankEmpty=false"),
    *("-c", "log.showSignature=false"),
    *("-c", "protocol.allow=never"),
    *("-c", "submodule.recurse=false"),
    *("-c", "gc.auto=0"),
    *("-c", "maintenance.auto=false"),
)
_FILTER: Final = re.compile(r"filter\.(.*)\.(?:clean|smudge|process|required)", re.DOTALL)
#: Filters of files that are switched off; a repository with more is not examined.
_MAX_FILTERS: Final = 50


class UnsafeError(Exception):
    """The repository's configuration names programs that cannot be switched off."""


def find_git(environ: Mapping[str, str]) -> str | None:
    """Return the path of git; entries of PATH that depend on the working directory do not count."""
    places = environ.get("PATH", os.defpath).split(os.pathsep)
    return shutil.which("git", path=os.pathsep.join(filter(os.path.isabs, places)))


class Git:
    """Asks git about the repository that a directory is in; used by one thread.

    Parameters
    ----------
    program
        The path of git.
    directory
        Where to look for the repository.
    environ
        The environment of the program.
    deadline
        When all has to be known.
    """

    def __init__(
        self, program: str, directory: Path, environ: Mapping[str, str], deadline: Deadline
    ) -> None:
        self.directory = directory
        self.deadline = deadline
        self._program = program
        kept = {
            name: value
            for name, value in environ.items()
            if not name.startswith("GIT_") or _KEPT.fullmatch(name)
        }
        self._environ = {**kept, **_SET}
        self._options = _OPTIONS

    def at(self, directory: Path) -> Git:
        """Return one for another directory, with the same deadline."""
        return Git(self._program, directory, self._environ, self.deadline)

    def ask(
        self, *arguments: str, seconds: float | None = None, limit: int = 64 * 1024 * 1024
    ) -> Answer:
        """Run a command of git.

        Raises
        ------
        OSError
            It cannot be started.
        """
        command = [self._program, *self._options, "-C", str(self.directory), *arguments]
        return run(command, self._environ, self.deadline, seconds=seconds, limit=limit)

    def configuration(self) -> dict[str, str] | None:
        """Return the repository's configuration, and switch off the filters of files that it names.

        Must be called before a command that reads files of the work tree. Returns None if git did
        not answer.

        Raises
        ------
        UnsafeError
            A filter cannot be switched off.
        """
        answer = self.ask("config", "--list", "-z", limit=1024 * 1024)
        if not answer.good:
            return None
        found: dict[str, str] = {}
        for entry in os.fsdecode(answer.output).split("\0"):
            name, _, value = entry.partition("\n")
            if name:
                # The first of several URLs of a remote is the one that is fetched from.
                if name.startswith("remote."):
                    found.setdefault(name, value)
                else:
                    found[name] = value
        self._switch_off({match[1] for name in found if (match := _FILTER.fullmatch(name))})
        return found

    def _switch_off(self, filters: set[str]) -> None:
        if len(filters) > _MAX_FILTERS:
            raise UnsafeError(f"its configuration has {len(filters)} filters of files")
        options: list[str] = []
        for name in sorted(filters):
            if "=" in name or "\n" in name:
                raise UnsafeError(f"its configuration has a filter of files with the name {name!r}")
            for what, value in (("clean", ""), ("smudge", ""), ("process", "")):
                options += "-c", f"filter.{name}.{what}={value}"
            options += "-c", f"filter.{name}.required=false"
        self._options = (*_OPTIONS, *options)
