"""The state of real git repositories, and what is told where there is none."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from scalable.code import patch as patches
from scalable.code import source_files
from scalable.code.commands import Deadline
from scalable.code.git_head import commit_of
from scalable.code.identities import Gathered, gather
from scalable.code.remotes import web_address, without_credentials
from scalable_runs import plain
from scalable_runs.redact import Redactor

ENVIRON = {
    "PATH": os.environ["PATH"],
    "HOME": "/nonexistent",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
}
AUTHOR = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (
        ("NAME", "Ada"),
        ("EMAIL", "ada@example.org"),
        ("DATE", "2026-01-01T00:00:00Z"),
    )
}


def git(directory: Path, *arguments: str, data: bytes | None = None) -> str:
    """Run git as a user does."""
    command = ["git", "-c", "protocol.file.allow=always", "-C", str(directory), *arguments]
    environ = {**ENVIRON, **AUTHOR}
    done = subprocess.run(command, input=data, env=environ, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


def make(directory: Path, **files: str) -> Path:
    """Make a repository with one commit of some files."""
    directory.mkdir()
    git(directory, "init", "--quiet", "--initial-branch=main")
    for name, text in (files or {"work": "x = 1\n", "other": "y = 1\n"}).items():
        (directory / f"{name}.py").write_text(text)
    git(directory, "add", ".")
    git(directory, "commit", "--quiet", "--message=first")
    return directory


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return make(tmp_path / "repository")


def gathered(*directories: Path, seconds: float = 60.0, **options: Any) -> Gathered:
    options = {"environ": ENVIRON, "deadline": Deadline(seconds), **options}
    return gather(map(str, directories), Redactor().lines, now=lambda: "2026-01-01", **options)


def state(directory: Path, **options: Any) -> dict[str, Any]:
    (entry,) = gathered(directory, **options).identities
    return dict(entry)


# -- what differs ---------------------------------------------------------------------------------


def test_a_clean_repository(repository: Path):
    found = state(repository / ".")
    commit = git(repository, "rev-parse", "HEAD")
    assert found == {
        "directory": str(repository),
        "observed_at": "2026-01-01",
        "root": str(repository),
        "code_identifier": commit,
        "code_identifier_type": "git",
        "code_identifier_dependable": True,
        "code_identifier_message": (
            "The work tree is as in the commit. The repository has no remote."
        ),
        "branch": "main",
        "describe": commit[:7],
        **{"staged": [], "staged_count": 0, "unstaged": [], "unstaged_count": 0},
        **{"untracked": [], "untracked_count": 0, "submodules": [], "submodules_count": 0},
    }


def test_staged_unstaged_and_untracked_are_told_apart(repository: Path):
    (repository / ".gitignore").write_text("ignored.*\n")
    git(repository, "add", ".gitignore")
    (repository / "work.py").write_text("x = 2\n")
    (repository / "ignored.py").write_text("")
    (repository / "new").mkdir()
    (repository / "new" / "größe.py").write_text("z = 1\n")
    found = state(repository)
    assert found["staged"] == [".gitignore"]
    assert found["unstaged"] == ["work.py"]
    assert found["untracked"] == ["new/größe.py"]
    assert not found["code_identifier_dependable"]
    assert (
        "Files differ from the commit: 1 staged, 1 unstaged, 1 untracked."
        in (found["code_identifier_message"])
    )
    assert found["describe"].endswith("-dirty")


@pytest.mark.parametrize("what", ["staged", "untracked"])
def test_a_staged_or_untracked_file_alone_makes_it_undependable(repository: Path, what: str):
    (repository / "new.py").write_text("z = 1\n")
    if what == "staged":
        git(repository, "add", "new.py")
    found = state(repository)
    counts = {name: found[f"{name}_count"] for name in ("staged", "unstaged", "untracked")}
    assert counts == {"staged": 0, "unstaged": 0, "untracked": 0, what: 1}
    assert found["code_identifier_dependable"] is False


def test_a_renamed_file_has_both_names(repository: Path):
    git(repository, "mv", "work.py", "renamed work.py")
    assert state(repository)["staged"] == ["work.py -> renamed work.py"]


def test_a_file_that_was_only_touched_is_unchanged(repository: Path):
    os.utime(repository / "work.py", (1, 1))
    found = gathered(repository)
    assert found.identities[0].get("code_identifier_dependable")
    # Beside a real change, too.
    (repository / "other.py").write_text("y = 2\n")
    found = gathered(repository)
    assert found.identities[0].get("unstaged") == ["other.py"]
    assert b"work.py" not in found.patch


def test_tags_describe_a_commit(repository: Path):
    git(repository, "tag", "v1.2")
    assert state(repository)["describe"] == "v1.2"


def test_the_records_of_runs_and_compiled_files_are_no_change(repository: Path):
    for name in (".scalable/runs/run-1/run.json", "__pycache__/work.pyc", "out [1]/run-2/a.py"):
        (repository / name).parent.mkdir(parents=True)
        (repository / name).write_text("{}")
    assert state(repository)["untracked"] == ["out [1]/run-2/a.py"]
    found = state(repository, own=[repository / "out [1]"])
    assert found["code_identifier_dependable"], found
    git(repository, "add", "--force", ".scalable")
    assert state(repository, own=[repository / "out [1]"])["staged"] == []


def test_a_name_that_is_no_utf_8(repository: Path, tmp_path: Path):
    (repository / os.fsdecode(b"\xff.py")).write_text("x = 1\n")
    found = gathered(repository)
    assert found.identities[0].get("untracked_count") == 1
    redacted = Redactor().attributes(dict(found.identities[0]))
    assert plain.dumps(redacted)


@pytest.mark.parametrize("flag", ["--assume-unchanged", "--skip-worktree"])
def test_a_file_whose_changes_are_hidden_makes_it_undependable(repository: Path, flag: str):
    git(repository, "update-index", flag, "work.py")
    (repository / "work.py").write_text("x = 2\n")
    found = state(repository)
    assert found["code_identifier_dependable"] is False
    assert "told not to look for changes of 1 file" in found["code_identifier_message"]


@pytest.mark.parametrize("what", ["scratch/", "scratch/steps.py"])
def test_a_program_that_git_ignores_is_not_that_of_the_commit(repository: Path, what: str):
    (repository / ".gitignore").write_text(what)
    (repository / "scratch").mkdir()
    script = repository / "scratch" / "steps.py"
    script.write_text("x = 1\n")
    found = state(script)
    assert found["code_identifier_type"] == "sha256"
    assert found["code_identifier_message"].startswith("The repository that it is in ignores it")
    assert (found["root"], found["files_count"]) == (str(script.parent), 1)


def test_a_work_tree_somewhere_else_is_not_read(repository: Path, tmp_path: Path):
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "a.py").write_text("p = 1\n")
    git(repository, "config", "core.worktree", str(tmp_path / "private"))
    found = gathered(repository)
    assert "in no work tree" in found.identities[0].get("code_identifier_message", "")
    assert found.patch == b""


def test_a_directory_below_the_root_and_another_one_are_one_place(repository: Path):
    below = repository / "steps"
    below.mkdir()
    (entry,) = gathered(below, repository).identities
    assert (entry.get("root"), entry.get("directory")) == (str(repository), str(below))


# -- what is not known, in words -------------------------------------------------------------------


def only_sentence(directory: Path, **options: Any) -> str:
    return str(state(directory, **options)["code_identifier_message"])


def test_a_detached_head(repository: Path):
    git(repository, "checkout", "--quiet", "--detach")
    found = state(repository)
    assert "No branch is checked out (detached HEAD)." in found["code_identifier_message"]
    assert "branch" not in found
    assert found["code_identifier_dependable"]


def test_no_commit_yet(tmp_path: Path):
    git(tmp_path, "init", "--quiet", "--initial-branch=main")
    (tmp_path / "work.py").write_text("x = 1\n")
    git(tmp_path, "add", "work.py")
    found = gathered(tmp_path)
    (entry,) = found.identities
    assert "The repository has no commit yet." in entry.get("code_identifier_message", "")
    assert entry.get("branch") == "main"
    assert entry.get("staged") == ["work.py"]
    assert entry.get("code_identifier_type") == "sha256"
    assert b"+x = 1\n" in found.patch


def test_a_bare_repository_has_no_work_tree(repository: Path, tmp_path: Path):
    git(tmp_path, "clone", "--quiet", "--bare", str(repository), "bare")
    found = state(tmp_path / "bare")
    assert "The repository is bare: it has no work tree" in found["code_identifier_message"]
    assert found["code_identifier"] == git(repository, "rev-parse", "HEAD")
    assert found["code_identifier_dependable"] is False
    # A work tree of it is an ordinary one.
    git(tmp_path / "bare", "worktree", "add", "--quiet", str(tmp_path / "tree"), "main")
    assert state(tmp_path / "tree")["code_identifier_dependable"]


def test_a_directory_of_gits_own(repository: Path):
    assert "in no work tree" in only_sentence(repository / ".git")


def test_no_repository(tmp_path: Path):
    (tmp_path / "work.py").write_text("x = 1\n")
    found = state(tmp_path, environ={**ENVIRON, "GIT_CEILING_DIRECTORIES": str(tmp_path.parent)})
    assert found["code_identifier_message"] == (
        "The directory is in no git repository. "
        "The identifier is a digest of the sources below the directory."
    )
    assert (found["code_identifier_type"], found["files_count"]) == ("sha256", 1)
    assert found["code_identifier_dependable"]


def test_no_git(repository: Path):
    found = state(repository, environ={"PATH": str(repository)})
    assert found["code_identifier_message"].startswith("git is not installed, or not in PATH.")
    assert found["code_identifier_type"] == "sha256"


def test_git_is_not_looked_for_in_the_working_directory(
    repository: Path, monkeypatch: pytest.MonkeyPatch
):
    program(repository / "git", "touch ran\n")
    monkeypatch.chdir(repository)
    found = state(repository, environ={"PATH": f".{os.pathsep}"})
    assert found["code_identifier_message"].startswith("git is not installed")
    assert not (repository / "ran").exists()


def program(path: Path, script: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}")
    path.chmod(0o755)
    return path


def test_a_repository_of_another_user(repository: Path, tmp_path: Path):
    """git's own tests make it believe so by a variable."""
    real = shlex.quote(str(shutil.which("git")))
    script = f'GIT_TEST_ASSUME_DIFFERENT_OWNER=1 exec {real} "$@"\n'
    program(tmp_path / "bin" / "git", script)
    found = state(repository, environ={**ENVIRON, "PATH": str(tmp_path / "bin")})
    assert found["code_identifier_message"].startswith(
        "git does not read the repository, because it belongs to another user. If you trust it: "
        f"git config --global --add safe.directory {repository}"
    )
    assert found["code_identifier_type"] == "sha256"


def test_git_that_does_not_answer_is_ended(repository: Path, tmp_path: Path):
    program(tmp_path / "bin" / "git", f"echo $$ > {tmp_path}/pid\nsleep 600\n")
    environ = {**ENVIRON, "PATH": f"{tmp_path}/bin{os.pathsep}{ENVIRON['PATH']}"}
    sentence = only_sentence(repository, environ=environ, seconds=0.5)
    assert "git did not answer within 0.5 s, as in a very large repository." in sentence
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_what_takes_too_long_is_not_known(repository: Path, tmp_path: Path):
    """The commit is, and no state of the files is invented."""
    real = shlex.quote(str(shutil.which("git")))
    script = f'case "$*" in *status*) exec sleep 600;; esac\nexec {real} "$@"\n'
    program(tmp_path / "bin" / "git", script)
    environ = {**ENVIRON, "PATH": f"{tmp_path}/bin{os.pathsep}{ENVIRON['PATH']}"}
    found = state(repository, environ=environ, seconds=1.5)
    assert found["code_identifier"] == git(repository, "rev-parse", "HEAD")
    assert found["code_identifier_dependable"] is False
    assert "Which files were changed is not known." in found["code_identifier_message"]
    assert "staged" not in found


def test_a_broken_repository(repository: Path):
    (repository / ".git" / "config").write_text("[core\n")
    assert "git cannot read the repository: bad config line 1" in only_sentence(repository)


# -- submodules -----------------------------------------------------------------------------------


@pytest.fixture
def with_submodule(repository: Path, tmp_path: Path) -> Path:
    make(tmp_path / "library", helper="h = 1\n")
    git(repository, "submodule", "--quiet", "add", str(tmp_path / "library"), "lib")
    git(repository, "commit", "--quiet", "--message=submodule")
    return repository


def submodule(repository: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    found = state(repository)
    (entry,) = found["submodules"]
    return found, entry


def test_a_clean_submodule(with_submodule: Path):
    found, entry = submodule(with_submodule)
    assert found["code_identifier_dependable"], found
    assert entry["path"] == "lib"
    assert entry["code_identifier"] == entry["recorded_commit"]
    assert entry["code_identifier_dependable"]


def test_changes_in_a_submodule(with_submodule: Path):
    (with_submodule / "lib" / "helper.py").write_text("h = 2\n")
    (with_submodule / "lib" / "new.py").write_text("n = 1\n")
    found, entry = submodule(with_submodule)
    assert (entry["unstaged"], entry["untracked"]) == (["helper.py"], ["new.py"])
    assert found["code_identifier_dependable"] is False
    assert "Submodules differ from their commit: lib." in found["code_identifier_message"]
    patch = gathered(with_submodule).patch
    assert b"a/lib/helper.py b/lib/helper.py" in patch
    assert b"+h = 2" in patch
    assert b"+++ b/lib/new.py" in patch


def test_another_commit_of_a_submodule(with_submodule: Path):
    (with_submodule / "lib" / "helper.py").write_text("h = 2\n")
    git(with_submodule / "lib", "commit", "--quiet", "--all", "--message=second")
    found, entry = submodule(with_submodule)
    assert found["unstaged"] == ["lib"]
    assert entry["code_identifier"] != entry["recorded_commit"]
    assert "Another commit is checked out than" in entry["code_identifier_message"]
    assert found["code_identifier_dependable"] is False


def test_a_submodule_that_is_not_checked_out(with_submodule: Path, tmp_path: Path):
    git(tmp_path, "clone", "--quiet", str(with_submodule), "clone")
    found, entry = submodule(tmp_path / "clone")
    assert entry["code_identifier_message"] == "The submodule is not checked out."
    assert found["code_identifier_dependable"]


# -- the commit without git -----------------------------------------------------------------------


def test_the_commit_is_read_from_the_files_of_git(with_submodule: Path, tmp_path: Path):
    def is_the_same(directory: Path) -> bool:
        return commit_of(directory) == git(directory, "rev-parse", "HEAD")

    below = with_submodule / "steps"
    below.mkdir()
    assert is_the_same(below)
    assert is_the_same(with_submodule / "lib")
    git(with_submodule, "worktree", "add", "--quiet", "-b", "topic/a", str(tmp_path / "tree"))
    assert is_the_same(tmp_path / "tree")
    git(with_submodule, "pack-refs", "--all")
    assert is_the_same(with_submodule)
    assert is_the_same(tmp_path / "tree")
    git(with_submodule, "checkout", "--quiet", "--detach")
    assert is_the_same(with_submodule)


def test_no_commit_is_read_where_there_is_none(tmp_path: Path):
    git(tmp_path, "init", "--quiet")
    assert commit_of(tmp_path) is None
    (tmp_path / ".git" / "HEAD").write_text("ref: ../../../etc/passwd\n")
    assert commit_of(tmp_path) is None
    (tmp_path / ".git" / "HEAD").write_bytes(b"\xff\0")
    assert commit_of(tmp_path) is None


# -- a repository may be hostile -------------------------------------------------------------------


def hostile(directory: Path, marker: Path) -> None:
    """Let the configuration of a repository name a program wherever it can."""
    trap = program(directory.parent / "trap", f'echo "$0 $*" >> {marker}\ncat\n')
    for name in (
        *("core.fsmonitor", "core.pager", "pager.status", "core.sshCommand", "core.askPass"),
        *("core.gitProxy", "diff.external", "diff.d.command", "diff.d.textconv"),
        *("filter.f.clean", "filter.f.smudge", "filter.f.process", "credential.helper"),
        *("gpg.program", "core.alternateRefsCommand", "core.editor", "sequence.editor"),
        *("remote.origin.uploadpack", "uploadpack.packObjectsHook", "diff.interHunkProgram"),
    ):
        git(directory, "config", name, str(trap))
    git(directory, "config", "log.showSignature", "true")
    git(directory, "config", "status.submoduleSummary", "true")
    git(directory, "config", "remote.origin.url", f"ext::{trap} %S")
    git(directory, "config", "protocol.ext.allow", "always")
    git(directory, "config", "filter.f.required", "true")
    git(directory, "config", "diff.submodule", "log")
    hooks = directory.parent / f"hooks of {directory.name}"
    for hook in ("post-index-change", "fsmonitor-watchman", "query-watchman", "post-checkout"):
        program(hooks / hook, f"echo hook >> {marker}\n")
    git(directory, "config", "core.hooksPath", str(hooks))
    info = Path(git(directory, "rev-parse", "--absolute-git-dir")) / "info"
    info.mkdir(exist_ok=True)
    (info / "attributes").write_text("* filter=f diff=d\n")


def test_nothing_that_a_repository_names_is_run(with_submodule: Path, tmp_path: Path):
    marker = tmp_path / "marker"
    (with_submodule / "work.py").write_text("x = 2\n")
    (with_submodule / "lib" / "helper.py").write_text("h = 2\n")
    hostile(with_submodule, marker)
    hostile(with_submodule / "lib", marker)
    index = with_submodule / ".git" / "index"
    before = index.read_bytes(), index.stat().st_mtime_ns
    found = gathered(with_submodule)
    assert not marker.exists(), marker.read_text()
    assert (index.read_bytes(), index.stat().st_mtime_ns) == before
    assert not index.with_suffix(".lock").exists()
    assert found.identities[0].get("unstaged") == ["work.py"]
    assert b"+x = 2" in found.patch
    assert b"+h = 2" in found.patch
    # The traps are real: plain git steps into them.
    subprocess.run(
        ["git", "-C", str(with_submodule), "status"], env=ENVIRON, capture_output=True, check=False
    )
    assert marker.exists()


def test_a_filter_that_cannot_be_switched_off(repository: Path, tmp_path: Path):
    trap = program(tmp_path / "trap", f"touch {tmp_path}/ran\n")
    git(repository, "config", "filter.a=b.clean", str(trap))
    (repository / ".git" / "info" / "attributes").write_text("* filter=a=b\n")
    (repository / "work.py").write_text("x = 2\n")
    sentence = only_sentence(repository)
    assert "Nothing of the repository's files was read" in sentence
    assert "a=b" in sentence
    assert not (tmp_path / "ran").exists()


def test_variables_of_git_that_started_the_program_are_not_used(repository: Path, tmp_path: Path):
    other = make(tmp_path / "other")
    environ = {
        **ENVIRON,
        "GIT_DIR": str(other / ".git"),
        "GIT_WORK_TREE": str(other),
        "GIT_INDEX_FILE": str(other / ".git" / "index"),
        "GIT_TRACE": str(tmp_path / "trace"),
        "GIT_EXTERNAL_DIFF": "false",
    }
    assert state(repository, environ=environ)["root"] == str(repository)
    assert not (tmp_path / "trace").exists()


def test_a_repository_that_is_locked_is_read(repository: Path):
    (repository / ".git" / "index.lock").write_text("")
    (repository / "work.py").write_text("x = 2\n")
    assert state(repository)["unstaged"] == ["work.py"]


# -- large ----------------------------------------------------------------------------------------


def test_a_hundred_thousand_files(tmp_path: Path):
    """Lists, patch and time are bounded; nothing is counted that was not seen."""
    git(tmp_path, "init", "--quiet", "--initial-branch=main")
    blob = git(tmp_path, "hash-object", "-w", "--stdin", data=b"x = 1\n" * 20)
    lines = (f"100644 {blob}\td{i % 100:02}/f{i:06}.py\n".encode() for i in range(100_000))
    git(tmp_path, "update-index", "--index-info", data=b"".join(lines))
    git(tmp_path, "commit", "--quiet", "--message=many")
    found = gathered(tmp_path)
    (entry,) = found.identities
    assert entry.get("unstaged_count") == 100_000
    assert len(entry.get("unstaged", ())) == 100
    assert 900_000 < len(found.patch) <= patches.MAX_PATCH
    assert "code.patch is cut at 1,000 kB." in entry.get("code_identifier_message", "")
    assert len(json.dumps(entry)) < 10_000
    # Within the time that a run gives it.
    (entry,) = gathered(tmp_path, seconds=2.0).identities
    sentence = entry.get("code_identifier_message", "")
    assert entry.get("unstaged_count") == 100_000 or "did not answer within 2 s" in sentence


# -- the patch ------------------------------------------------------------------------------------


def test_the_patch_makes_the_same_files_of_the_commit(repository: Path, tmp_path: Path):
    git(repository, "mv", "other.py", "moved.py")
    (repository / "work.py").write_text("x = 2")
    program(repository / "tool.sh", "exit 0\n")
    (repository / "empty.py").write_text("")
    (repository / "sub").mkdir()
    (repository / "sub" / "größe.py").write_text("a = 1\n\n  \nb = 2")
    (repository / "staged.py").write_text("s = 1\n")
    git(repository, "add", "staged.py")
    found = gathered(repository)
    git(tmp_path, "clone", "--quiet", str(repository), "clone")
    (tmp_path / "code.patch").write_bytes(found.patch)
    git(tmp_path / "clone", "apply", str(tmp_path / "code.patch"))

    def files(root: Path) -> dict[str, tuple[bytes, int]]:
        return {
            str(path.relative_to(root)): (path.read_bytes(), path.stat().st_mode & 0o111)
            for path in root.rglob("*")
            if path.is_file() and ".git" not in path.parts
        }

    assert files(tmp_path / "clone") == files(repository)


def test_without_the_option_there_is_no_patch(repository: Path):
    (repository / "work.py").write_text("x = 2\n")
    assert gathered(repository, with_patch=False).patch == b""


def test_data_and_links_are_no_part_of_the_patch(repository: Path, tmp_path: Path):
    (tmp_path / "private.py").write_text("outside = 1\n")
    (repository / "link.py").symlink_to(tmp_path / "private.py")
    os.mkfifo(repository / "pipe.py")
    (repository / "data.bin").write_bytes(b"\0\1")
    (repository / "binary.py").write_bytes(b"\0\1")
    (repository / "table.csv").write_text("a,b\n")
    (repository / ".config").mkdir()
    (repository / ".config" / "hosts.yml").write_text("user: ada\n")
    found = gathered(repository)
    assert found.identities[0].get("untracked_count", 0) >= 4
    assert found.patch == b""


KEY_LINES = ["MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj"] * 3
PRIVATE_KEY = "\n".join(
    [
        "-----BEGIN PRIVATE KEY-----",
        *KEY_LINES,
        "aaaaTHELASTLINEOFTHEKEY==",
        "-----END PRIVATE KEY-----",
    ]
)
SECRETS = (
    "hunter2hunter2",
    "ghp_0123456789abcdefABCDEF0123456789abcd",
    "THELASTLINE",
    "VJTUt9Us8cKj",
)


def test_secrets_are_in_no_part_of_the_patch(repository: Path):
    (repository / "key.py").write_text(f"KEY = '''\n{PRIVATE_KEY}\n'''\nx = 1\n")
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "--message=key")
    changed = PRIVATE_KEY.replace("aaaaTHE", "bbbbTHE")
    (repository / "key.py").write_text(f"KEY = '''\n{changed}\n'''\nx = 2\n")
    (repository / "work.py").write_text('x = 2\npassword = "hunter2hunter2"\n')
    (repository / "new.py").write_text(f'token = "{SECRETS[1]}"\nKEY = """{PRIVATE_KEY}"""\n')
    (repository / "server.pem").write_text(PRIVATE_KEY)
    (repository / "my_credentials.py").write_text("A = 'plainlooking-thing'\n")
    git(repository, "add", "server.pem")
    found = gathered(repository)
    patch = found.patch.decode()
    for secret in (*SECRETS, "plainlooking"):
        assert secret not in patch
    assert "+x = 2" in patch
    assert found.identities[0].get("staged") == ["server.pem"]
    # As many lines as the heads of the hunks say.
    lines = patch.split("\n")
    assert sum(line.startswith(("+[redacted]", "-[redacted]", " [redacted]")) for line in lines) > 8
    (repository / "code.patch").write_bytes(found.patch)
    numbers = git(repository, "apply", "--numstat", "code.patch").split("\n")
    assert numbers == ["2\t2\tkey.py", "2\t1\twork.py", "7\t0\tnew.py"]


# -- URLs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("https://ada:hunter2@example.org/a/b.git", "https://example.org/a/b.git"),
        ("https://ghp_token@github.com/a/b", "https://github.com/a/b"),
        ("https://example.org:8443/a/b?token=x#y", "https://example.org:8443/a/b"),
        ("ssh://git:hunter2@example.org:22/a/b", "ssh://git@example.org:22/a/b"),
        ("git@github.com:a/b.git", "git@github.com:a/b.git"),
        ("/srv/a.git", "/srv/a.git"),
        ("ada:hunter2@example.org:a", "example.org:a"),
        ("helper::https://ada:hunter2@example.org/a", "helper::https://example.org/a"),
        ("https://ada:hun[ter2@example.org/a", "https://example.org/a"),
    ],
)
def test_a_url_has_no_credentials(repository: Path, url: str, kept: str):
    git(repository, "remote", "add", "origin", url)
    assert without_credentials(url) == kept
    found = state(repository)
    assert found["code_identifier_url"] == kept
    assert "hunter2" not in json.dumps(found)


def test_the_remote_is_that_of_the_branch(repository: Path):
    git(repository, "remote", "add", "origin", "https://example.org/origin")
    git(repository, "remote", "add", "fork", "https://example.org/fork")
    assert state(repository)["code_identifier_url"] == "https://example.org/origin"
    git(repository, "config", "branch.main.remote", "fork")
    assert state(repository)["code_identifier_url"] == "https://example.org/fork"


def test_addresses_in_the_web():
    expected = ("https://github.com/ada/floods", "floods", "ada", "github")
    for url in (
        "git@github.com:ada/floods.git",
        "ssh://git@github.com:22/ada/floods.git",
        "https://github.com/ada/floods/",
    ):
        assert tuple(web_address(url)) == expected
    assert tuple(web_address("/srv/floods.git")) == ("", "floods", "", "")


# -- sources without git ---------------------------------------------------------------------------


def digest(directory: Path) -> source_files.SourceDigest:
    return source_files.digest_of(directory, Deadline(60))


def sources(directory: Path) -> Path:
    for name in ("a.py", "sub/b.py", "sub/c.yaml", ".hidden/d.py", "env/e.py", "data.csv"):
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (directory / "env" / "pyvenv.cfg").write_text("")
    return directory


def test_equal_sources_have_an_equal_digest(tmp_path: Path):
    one, two = sources(tmp_path / "one"), sources(tmp_path / "two")
    (two / "data.csv").write_text("other data")
    (two / "env" / "e.py").write_text("other package")
    assert digest(one) == digest(two)
    assert digest(one).files == 3


CHANGES: Sequence[Callable[[Path], object]] = (
    lambda root: (root / "a.py").write_text("A.py"),
    lambda root: (root / "sub" / "b.py").rename(root / "sub" / "bb.py"),
    lambda root: (root / "new.py").write_text(""),
    lambda root: (root / "sub" / "c.yaml").unlink(),
)


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_source_changes_the_digest(tmp_path: Path, change: Callable[[Path], object]):
    one, two = sources(tmp_path / "one"), sources(tmp_path / "two")
    change(two)
    assert digest(one).digest != digest(two).digest


def test_more_sources_than_are_read_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(source_files, "MAX_FILES", 2)
    found = digest(sources(tmp_path))
    assert found.digest is not None
    assert found.problem == "The digest covers the first 2, as there are more than 2 sources."
    over = source_files.digest_of(tmp_path, Deadline(0))
    assert over.digest is None
    assert "Not all sources could be read within 0 s" in over.problem
