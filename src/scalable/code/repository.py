"""The state of a repository: its commit, and what differs from it.

Each thing that cannot be known has a sentence that says why.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, cast

from scalable.code.commands import Answer, Deadline
from scalable.code.git import Git, UnsafeError
from scalable.code.remotes import remote_url

if TYPE_CHECKING:
    from scalable_runs.schema import CodeState, Submodule

#: Names kept of each list of changed files; all are counted.
MAX_NAMES: Final = 100
#: Characters of each.
_MAX_NAME: Final = 1_000
#: Submodules that are looked at, and how deep they may be in each other.
_MAX_SUBMODULES: Final = 50
_MAX_DEPTH: Final = 3
#: Seconds for the commit's name by tags: without tags git reads the whole history.
_DESCRIBE_SECONDS: Final = 0.5
#: Files that are no part of the code, although git may not ignore them: the runs, what Python
#: compiled, and the directories of Dask's workers.
OWN_FILES: Final = (
    ".scalable",
    "__pycache__",
    "*.pyc",
    "dask-worker-space",
    "dask-scratch-space",
)
_OWN_DIRECTORY: Final = ".scalable"

NO_GIT: Final = "git is not installed, or not in PATH."
NO_REPOSITORY: Final = "The directory is in no git repository."
NO_COMMIT: Final = "The repository has no commit yet."
BARE: Final = (
    "The repository is bare: it has no work tree, so its commit says nothing of the files there."
)
NO_WORK_TREE: Final = "The directory belongs to git's own files and is in no work tree."
IGNORED: Final = "The repository that it is in ignores it, so the commit says nothing of it."
DETACHED: Final = "No branch is checked out (detached HEAD)."
NO_REMOTE: Final = "The repository has no remote."
CLEAN: Final = "The work tree is as in the commit."
NO_STATE: Final = "Which files were changed is not known."
NOT_CHECKED_OUT: Final = "The submodule is not checked out."


class Place(NamedTuple):
    """Where a repository is.

    Attributes
    ----------
    root
        Root of its work tree; None: there is none.
    problem
        Why it cannot be used, or what it lacks.
    """

    root: Path | None
    problem: str = ""
    is_repository: bool = False


@dataclass(slots=True)
class Repository:
    """What was found of one repository; changed only while it is examined."""

    git: Git
    root: Path
    state: CodeState
    sentences: list[str] = field(default_factory=list[str])
    #: All staged and unstaged changes are known.
    is_known: bool = False
    untracked: list[str] = field(default_factory=list[str])
    submodules: list[tuple[Submodule, Repository | None]] = field(
        default_factory=list["tuple[Submodule, Repository | None]"]
    )
    submodules_count: int = 0

    @property
    def commit(self) -> str | None:
        """The commit; None if there is none."""
        return self.state.get("code_identifier")

    @property
    def changed(self) -> bool:
        """Whether something is staged, changed or untracked, here or in a submodule."""
        names = ("staged_count", "unstaged_count", "untracked_count")
        return any(self.state.get(name) for name in names)


def locate(git: Git) -> Place:
    """Find the repository of a directory."""
    answer = git.ask(
        "rev-parse", "--is-bare-repository", "--is-inside-work-tree", "--show-toplevel"
    )
    if answer.timed_out:
        return Place(None, _timed_out(git.deadline))
    lines = answer.text.split("\n", 2)
    if lines[0] == "true":
        return Place(None, BARE, is_repository=True)
    if lines[0] == "false" and len(lines) < 3:
        return Place(None, NO_WORK_TREE, is_repository=True)
    if answer.good and len(lines) == 3:
        root = Path(lines[2])
        real = git.directory.resolve()
        if root.resolve() not in (real, *real.parents):
            # The configuration names another directory as the work tree.
            return Place(None, NO_WORK_TREE, is_repository=True)
        return Place(root, is_repository=True)
    return Place(None, _problem(answer, git.directory))


def is_ignored(git: Git, place: Path, root: Path) -> bool:
    """Whether a repository ignores a file or directory in it."""
    if place == root:
        return False
    return git.ask("check-ignore", "--quiet", "--", str(place)).good


def head(git: Git) -> CodeState:
    """Return the commit and the branch of a repository: what takes little time."""
    state: CodeState = {"code_identifier": None, "code_identifier_type": "git"}
    commit = git.ask("rev-parse", "--verify", "--quiet", "HEAD^{commit}")
    if commit.good and commit.text:
        state["code_identifier"] = commit.text
    branch = git.ask("symbolic-ref", "--quiet", "HEAD")
    if branch.good and branch.text:
        state["branch"] = branch.text.removeprefix("refs/heads/")
    return state


def examine(
    git: Git, root: Path, state: CodeState, own: Sequence[Path], depth: int = 0
) -> Repository:
    """Find out what differs from the commit of a repository.

    Parameters
    ----------
    git
        Asks git at the root of the work tree.
    root
        That root.
    state
        What :func:`head` found.
    own
        Directories in it that belong to the record of runs.
    """
    found = Repository(git, root, state)
    say = found.sentences.append
    if state.get("code_identifier") is None:
        say(NO_COMMIT)
    elif "branch" not in state:
        say(DETACHED)
    try:
        configuration = git.configuration()
    except UnsafeError as error:
        say(f"Nothing of the repository's files was read, because {error}.")
        return found
    if configuration is None:
        say(_timed_out(git.deadline) if git.deadline.is_over() else NO_STATE)
        return found
    url = remote_url(configuration, state.get("branch"))
    if url is None:
        say(NO_REMOTE)
    else:
        state["code_identifier_url"] = url
    _changes(found)
    _untracked(found, own)
    _submodules(found, own, depth)
    if state.get("code_identifier") is not None:
        _describe(found)
    return found


def conclude(found: Repository) -> None:
    """Say in words what was found, and whether the commit is the whole truth."""
    state, changed = found.state, found.changed
    doubtful = [one.get("path", "") for one, _ in found.submodules if not _is_dependable(one)]
    complete = found.is_known and found.submodules_count == len(found.submodules)
    state["code_identifier_dependable"] = bool(
        found.commit and complete and not changed and not doubtful
    )
    if state["code_identifier_dependable"]:
        found.sentences.insert(0, CLEAN)
    elif changed:
        counts = {
            what: state.get(f"{what}_count", 0) for what in ("staged", "unstaged", "untracked")
        }
        parts = [f"{count:,} {what}" for what, count in counts.items() if count]
        found.sentences.insert(0, f"Files differ from the commit: {', '.join(parts)}.")
    if doubtful:
        names = ", ".join(str(path) for path in doubtful[:5])
        more = f" and {len(doubtful) - 5:,} more" if len(doubtful) > 5 else ""
        found.sentences.append(f"Submodules differ from their commit: {names}{more}.")
    if found.submodules_count > len(found.submodules):
        count = found.submodules_count - len(found.submodules)
        found.sentences.append(f"{count:,} more submodules were not examined.")
    state["code_identifier_message"] = " ".join(found.sentences)


def _is_dependable(submodule: Submodule) -> bool:
    return submodule.get("code_identifier_dependable", False)


def _timed_out(deadline: Deadline) -> str:
    return f"git did not answer within {deadline.seconds:g} s, as in a very large repository."


def _problem(answer: Answer, directory: Path) -> str:
    errors = answer.errors
    if "dubious ownership" in errors or "unsafe repository" in errors:
        return (
            "git does not read the repository, because it belongs to another user. If you trust "
            f"it: git config --global --add safe.directory {_repository_in(errors, directory)}"
        )
    if "not a git repository" in errors:
        return NO_REPOSITORY
    first = errors.partition("\n")[0].removeprefix("fatal: ")
    return f"git cannot read the repository: {first[:300] or 'it gave no reason'}."


def _repository_in(errors: str, directory: Path) -> str:
    """Return the path that git's message names."""
    _, _, rest = errors.partition("repository at '")
    path, mark, _ = rest.partition("'")
    return path if mark else str(directory)


# -- changes --------------------------------------------------------------------------------------


def _changes(found: Repository) -> None:
    answer = found.git.ask(
        *("status", "--porcelain=v2", "-z", "--untracked-files=no", "--ignore-submodules=dirty"),
        *("--no-ahead-behind", "--find-renames"),
    )
    if not answer.good:
        found.sentences.append(_not_known(answer, found.git.deadline, NO_STATE))
        return
    staged: list[str] = []
    unstaged: list[str] = []
    for change in _entries(os.fsdecode(answer.output).split("\0")):
        if _is_own(change.path):
            continue
        name = change.path if not change.before else f"{change.before} -> {change.path}"
        if change.in_index != ".":
            staged.append(name)
        if change.in_work_tree != ".":
            unstaged.append(change.path if change.in_index == "R" else name)
    found.is_known = True
    _keep(found.state, "staged", staged)
    _keep(found.state, "unstaged", unstaged)


class _Change(NamedTuple):
    in_index: str
    in_work_tree: str
    path: str
    before: str = ""


def _entries(parts: Sequence[str]) -> Iterator[_Change]:
    """Yield the entries of `git status --porcelain=v2 -z`."""
    rest = iter(parts)
    for part in rest:
        kind, _, entry = part.partition(" ")
        if kind == "1":
            yield _Change(entry[0], entry[1], entry.split(" ", 7)[-1])
        elif kind == "2":
            yield _Change(entry[0], entry[1], entry.split(" ", 8)[-1], next(rest, ""))
        elif kind == "u":
            # A conflict is in the index and in the work tree.
            yield _Change("U", "U", entry.split(" ", 9)[-1])


def _untracked(found: Repository, own: Sequence[Path]) -> None:
    patterns = [*OWN_FILES, *_below(found.root, own)]
    answer = found.git.ask(
        *("ls-files", "--others", "--exclude-standard", "-z"),
        *(f"--exclude={pattern}" for pattern in patterns),
    )
    if not answer.good:
        found.is_known = False
        text = "Which files are untracked is not known."
        found.sentences.append(_not_known(answer, found.git.deadline, text))
        return
    found.untracked = [name for name in os.fsdecode(answer.output).split("\0") if name]
    _keep(found.state, "untracked", found.untracked)


def _below(root: Path, places: Iterable[Path]) -> Iterator[str]:
    """Yield a pattern of git for each place that is below a root."""
    for place in places:
        try:
            parts = place.resolve().relative_to(root.resolve()).parts
        except (OSError, ValueError):
            continue
        if parts:
            quoted = "/".join(parts)
            for sign in "\\*?[":
                quoted = quoted.replace(sign, f"\\{sign}")
            yield f"/{quoted}/"


def _is_own(path: str) -> bool:
    return _OWN_DIRECTORY in path.split("/")


def _keep(state: CodeState, what: str, names: Sequence[str]) -> None:
    fields: dict[str, object] = {
        what: [name[:_MAX_NAME] for name in names[:MAX_NAMES]],
        f"{what}_count": len(names),
    }
    state.update(fields)  # pyright: ignore[reportCallIssue, reportArgumentType] (names of fields)


def _not_known(answer: Answer, deadline: Deadline, text: str) -> str:
    if answer.timed_out:
        return f"{_timed_out(deadline)} {text}"
    if answer.is_cut:
        return f"There are too many changed files to list. {text}"
    reason = answer.errors.partition("\n")[0].removeprefix("fatal: ")[:300]
    return f"{text} git says: {reason or 'nothing'}."


def _describe(found: Repository) -> None:
    answer = found.git.ask("describe", "--tags", "--always", seconds=_DESCRIBE_SECONDS)
    if answer.good and answer.text:
        dirty = found.state.get("staged_count") or found.state.get("unstaged_count")
        found.state["describe"] = f"{answer.text}-dirty" if dirty else answer.text


# -- submodules -----------------------------------------------------------------------------------


def _submodules(found: Repository, own: Sequence[Path], depth: int) -> None:
    answer = found.git.ask("ls-files", "--stage", "-v", "-z")
    if not answer.good:
        found.is_known = False
        text = "Whether submodules differ is not known."
        found.sentences.append(_not_known(answer, found.git.deadline, text))
        return
    entries = answer.output.split(b"\0")
    _hidden(found, entries)
    recorded = dict(_links(entries))
    found.submodules_count = len(recorded)
    for path, commit in recorded.items():
        if depth >= _MAX_DEPTH or len(found.submodules) >= _MAX_SUBMODULES:
            break
        found.submodules.append(_submodule(found, path, commit, own, depth))


def _hidden(found: Repository, entries: Iterable[bytes]) -> None:
    """Tell of files whose changes git was told not to look for.

    `entries` are of `git ls-files --stage -v -z`: the first sign is small for files that are
    assumed to be unchanged, and `S` for those that a sparse work tree leaves out.
    """
    count = 0
    for entry in entries:
        if entry[:1].islower():
            count += 1
        elif entry[:2] == b"S ":
            path = os.fsdecode(entry.partition(b"\t")[2])
            count += os.path.lexists(found.root / path)
    if count:
        found.is_known = False
        files = "1 file" if count == 1 else f"{count:,} files"
        found.sentences.append(f"git was told not to look for changes of {files} (update-index).")


def _links(entries: Iterable[bytes]) -> Iterator[tuple[str, str]]:
    """Yield path and commit of each link to a repository."""
    for entry in entries:
        if entry[2:9] == b"160000 ":
            about, _, path = entry.partition(b"\t")
            yield os.fsdecode(path), about.split(b" ")[2].decode("ascii", "replace")


def _submodule(
    above: Repository, path: str, commit: str, own: Sequence[Path], depth: int
) -> tuple[Submodule, Repository | None]:
    entry: Submodule = {"path": path, "recorded_commit": commit}
    directory = above.root / path
    git = above.git.at(directory)
    if not (directory / ".git").exists():
        entry["code_identifier_dependable"] = True
        entry["code_identifier_message"] = NOT_CHECKED_OUT
        return entry, None
    place = locate(git)
    if place.root is None:
        entry["code_identifier_dependable"] = False
        entry["code_identifier_message"] = place.problem
        return entry, None
    found = examine(git, directory, head(git), own, depth + 1)
    conclude(found)
    entry.update(cast("Submodule", found.state))
    # One list for all, so that a reader needs no recursion.
    for one, of in found.submodules:
        nested: Submodule = {**one, "path": f"{path}/{one.get('path', '')}"}
        above.submodules.append((nested, of))
    above.submodules_count += found.submodules_count
    if found.commit != commit:
        entry["code_identifier_dependable"] = False
        entry["code_identifier_message"] = (
            f"Another commit is checked out than the repository names. "
            f"{entry.get('code_identifier_message', '')}"
        )
    return entry, found
