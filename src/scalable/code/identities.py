"""The versions of the user's code: one for each place that a program has its code in."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from scalable.code.commands import Deadline
from scalable.code.git import Git, UnsafeError, find_git
from scalable.code.patch import Patch
from scalable.code.remotes import remote_url
from scalable.code.repository import (
    IGNORED,
    NO_GIT,
    Place,
    conclude,
    examine,
    head,
    is_ignored,
    locate,
)
from scalable.code.source_files import digest_of

if TYPE_CHECKING:
    from scalable_runs.schema import CodeIdentity, CodeState

#: Seconds for all of it.
SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Gathered:
    """What is known of the user's code.

    Attributes
    ----------
    identities
        One for each place.
    patch
        What differs from the commits; empty if nothing does, or it was not asked for.
    """

    identities: list[CodeIdentity] = field(default_factory=list["CodeIdentity"])
    patch: bytes = b""


def gather(
    places: Iterable[str],
    redact: Callable[[str], str],
    *,
    now: Callable[[], str],
    environ: Mapping[str, str] | None = None,
    own: Sequence[Path] = (),
    with_patch: bool = True,
    deadline: Deadline | None = None,
    first: Callable[[CodeState], None] | None = None,
) -> Gathered:
    """Find out which code is in some places; it takes :data:`SECONDS` at most.

    Parameters
    ----------
    places
        The program and the manifest, each as a file or its directory; those in one repository are
        one place.
    redact
        Returns a text of any length without secrets.
    now
        Returns the time as it is written.
    environ
        The environment of git; by default that of this process.
    own
        Directories that belong to the record of runs: what is in them is no change of the code.
    with_patch
        Whether to make a patch of what differs from the commits.
    deadline
        When all has to be known.
    first
        Called as soon as commit, branch and URL of the first repository are known.
    """
    deadline = deadline or Deadline(SECONDS)
    search = _Search(
        os.environ if environ is None else environ,
        deadline,
        own,
        Patch(redact, deadline) if with_patch else None,
        first,
    )
    identities: list[CodeIdentity] = []
    for place in map(Path, places):
        directory = place.parent if place.is_file() else place
        entry: CodeIdentity = {"directory": str(directory), "observed_at": now()}
        if search.look_into(place, directory, entry):
            identities.append(entry)
    return Gathered(identities, b"" if search.patch is None else search.patch.content)


class _Search:
    """Looks at one place after the other; used by one thread."""

    def __init__(
        self,
        environ: Mapping[str, str],
        deadline: Deadline,
        own: Sequence[Path],
        patch: Patch | None,
        first: Callable[[CodeState], None] | None,
    ) -> None:
        self.patch = patch
        self._environ = environ
        self._deadline = deadline
        self._own = own
        self._first = first
        self._program = find_git(environ)
        self._roots: set[Path] = set()

    def look_into(self, file: Path, directory: Path, entry: CodeIdentity) -> bool:
        """Complete an entry; False if the place is in another entry already."""
        place = Place(None, NO_GIT)
        git = None
        if self._program is not None:
            git = Git(self._program, directory, self._environ, self._deadline)
            place = _located(git, file)
        root = place.root or directory
        if root in self._roots:
            return False
        self._roots.add(root)
        entry["root"] = str(root)
        try:
            if git is not None and place.root is not None:
                self._repository(git.at(place.root), place.root, entry)
            elif git is not None and place.is_repository:
                entry.update(cast("CodeIdentity", head(git)))
        except OSError as error:
            place = Place(None, f"git cannot be started: {error}.")
        if place.root is None:
            entry["code_identifier_dependable"] = False
            entry["code_identifier_message"] = place.problem
        if entry.get("code_identifier") is None:
            self._by_sources(directory, entry)
        return True

    def _repository(self, git: Git, root: Path, entry: CodeIdentity) -> None:
        state = head(git)
        self._tell_first(git, state)
        found = examine(git, root, state, self._own)
        conclude(found)
        if self.patch is not None:
            self.patch.add_repository(found)
            found.sentences += self.patch.take_missing()
            state["code_identifier_message"] = " ".join(found.sentences)
        entry.update(cast("CodeIdentity", state))
        entry["submodules"] = [submodule for submodule, _ in found.submodules]
        entry["submodules_count"] = found.submodules_count

    def _tell_first(self, git: Git, state: CodeState) -> None:
        if self._first is None:
            return
        told = state.copy()
        try:
            url = remote_url(git.configuration() or {}, state.get("branch"))
        except UnsafeError:
            url = None
        if url is not None:
            told["code_identifier_url"] = url
        tell, self._first = self._first, None
        tell(told)

    def _by_sources(self, directory: Path, entry: CodeIdentity) -> None:
        """Identify the code by its sources, where there is no commit."""
        found = digest_of(directory, self._deadline)
        entry["code_identifier"] = found.digest
        entry["code_identifier_type"] = "sha256"
        entry["code_identifier_dependable"] = found.digest is not None and not found.problem
        entry["files_count"] = found.files
        said = [entry.get("code_identifier_message", "")]
        if found.digest is not None:
            said.append("The identifier is a digest of the sources below the directory.")
        said.append(found.problem)
        entry["code_identifier_message"] = " ".join(filter(None, said))


def _located(git: Git, file: Path) -> Place:
    try:
        place = locate(git)
        if place.root is not None and is_ignored(git, file, place.root):
            return Place(None, IGNORED)
    except OSError as error:
        return Place(None, f"git cannot be started: {error}.")
    return place
