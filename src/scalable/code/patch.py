"""What differs from the commit, as a patch without secrets."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from scalable.code.commands import Deadline
from scalable.code.repository import Repository
from scalable.code.source_files import is_source, open_file

#: Bytes of a patch at most.
MAX_PATCH: Final = 1_000_000
#: Bytes of an untracked file that is part of it.
_MAX_UNTRACKED: Final = 100_000
_REDACTED: Final = "[redacted]"
#: Files whose content is a secret, whatever it looks like.
_SECRET_FILES: Final = (
    *("*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "*.keystore", "*.kdbx", "*.ppk", "*.asc"),
    *("id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*", ".env", ".env.*", "*.env", ".netrc"),
    *(".pgpass", ".pypirc", ".npmrc", ".htpasswd", "*credentials*", "*secret*", "kubeconfig"),
)
_SECRET_NAME: Final = re.compile(
    "|".join(re.escape(each).replace(r"\*", ".*") for each in _SECRET_FILES), re.IGNORECASE
)
_KEY_LINE: Final = re.compile(r"\s*[\"']?[A-Za-z0-9+/=\\_-]{16,80}[\"']?\s*")
_BEGIN: Final = re.compile(r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY")
_END: Final = re.compile(r"-----END [A-Z0-9 ]{0,40}PRIVATE KEY")


class Patch:
    """Collects the changes of several repositories; used by one thread.

    Parameters
    ----------
    redact
        Returns a text of any length without secrets.
    deadline
        When it has to be complete.
    """

    def __init__(self, redact: Callable[[str], str], deadline: Deadline) -> None:
        self._redact = redact
        self._deadline = deadline
        self._parts: list[bytes] = []
        self._size = 0
        self._missing: list[str] = []

    @property
    def content(self) -> bytes:
        """The patch; empty if nothing differs."""
        return b"".join(self._parts)

    def take_missing(self) -> list[str]:
        """Return in words what the changes of the last repository lack here."""
        missing, self._missing = self._missing, []
        return missing

    def add_repository(self, found: Repository) -> None:
        """Add the changes of a repository and of its submodules."""
        # `git apply` ignores what is not of a patch.
        head = self._redact(f"# {found.root} at {found.commit or 'no commit'}\n").encode()
        self._parts.append(head)
        self._size += len(head)
        size = self._size
        self._add(found, "")
        for entry, below in found.submodules:
            if below is not None:
                self._add(below, f"{entry.get('path', '')}/")
        if self._size == size:
            self._parts.pop()
            self._size -= len(head)

    def _add(self, found: Repository, prefix: str) -> None:
        """Add the changes of one work tree, whose place in that above it is `prefix`."""
        if found.state.get("staged_count") or found.state.get("unstaged_count"):
            self._add_tracked(found, prefix)
        for name in found.untracked:
            if self._size >= MAX_PATCH:
                self._cut()
                break
            if is_source(name) and not _is_private(name):
                self._append(_section_of_new_file(found.root, name, prefix))

    def _add_tracked(self, found: Repository, prefix: str) -> None:
        left = MAX_PATCH - self._size
        if left <= 0:
            self._cut()
            return
        base = found.commit
        if base is None:
            empty = found.git.ask("hash-object", "-t", "tree", os.devnull)
            base = empty.text
        answer = found.git.ask(
            *("diff", "--no-ext-diff", "--no-textconv", "--no-color", "--no-relative"),
            *("--submodule=short", "--ignore-submodules=dirty", "--find-renames", "--full-index"),
            *(f"--src-prefix=a/{prefix}", f"--dst-prefix=b/{prefix}", base, "--", "."),
            *(f":(exclude,icase,glob)**/{pattern}" for pattern in (".scalable/**", *_SECRET_FILES)),
            limit=left,
        )
        if answer.timed_out:
            self._too_late()
            return
        if answer.code not in (0, None):
            reason = answer.errors.partition("\n")[0].removeprefix("fatal: ")[:300]
            self._say(f"git did not write the patch: {reason}.")
            return
        text = answer.output.decode("utf-8", "surrogateescape")
        if answer.is_cut:
            # The last line may be a part of one.
            text = text[: text.rfind("\n") + 1]
        self._append(_without_empty(text))
        if answer.is_cut:
            self._cut()

    def _append(self, text: str) -> None:
        for section in _sections(text):
            if self._deadline.is_over():
                self._too_late()
                return
            data = _redacted(section, self._redact).encode("utf-8", "surrogateescape")
            if self._size + len(data) > MAX_PATCH:
                data = data[: max(0, MAX_PATCH - self._size)]
                self._parts.append(data[: data.rfind(b"\n") + 1])
                self._size = MAX_PATCH
                self._cut()
                return
            self._parts.append(data)
            self._size += len(data)

    def _too_late(self) -> None:
        self._say(f"code.patch is not complete after {self._deadline.seconds:g} s.")

    def _cut(self) -> None:
        self._say(f"code.patch is cut at {MAX_PATCH // 1000:,} kB.")

    def _say(self, sentence: str) -> None:
        if sentence not in self._missing:
            self._missing.append(sentence)


def _is_private(name: str) -> bool:
    """Whether an untracked file has the name of a secret, or is hidden, as settings are."""
    if name.startswith(".") or "/." in name:
        return True
    return _SECRET_NAME.fullmatch(name.rpartition("/")[2]) is not None


def _sections(text: str) -> Iterator[str]:
    """Yield the part of each file."""
    start = 0
    while start < len(text):
        end = text.find("\ndiff --git ", start) + 1 or len(text)
        yield text[start:end]
        start = end


def _without_empty(text: str) -> str:
    """Leave out files whose time changed, and whose content did not."""
    return "".join(part for part in _sections(text) if part.count("\n") > 1)


def _section_of_new_file(root: Path, name: str, prefix: str) -> str:
    """Return the part of an untracked file; empty if it is no text or cannot be read."""
    try:
        with open_file(root / name, follow=False) as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(_MAX_UNTRACKED + 1)
        text = data.decode("utf-8")
    except (OSError, ValueError):
        return ""
    if len(data) > _MAX_UNTRACKED:
        return ""
    if "\0" in text or any(ord(sign) < 32 or sign in '"\\' for sign in name):
        return ""
    bits = "100755" if mode & 0o100 else "100644"
    head = f"diff --git a/{prefix}{name} b/{prefix}{name}\nnew file mode {bits}\n"
    if not text:
        return head
    lines = text.split("\n")
    is_ended = lines[-1] == ""
    if is_ended:
        lines.pop()
    body = "".join(f"+{line}\n" for line in lines)
    end = "" if is_ended else "\\ No newline at end of file\n"
    count = f"1,{len(lines)}" if len(lines) > 1 else "1"
    return f"{head}--- /dev/null\n+++ b/{prefix}{name}\n@@ -0,0 +{count} @@\n{body}{end}"


# -- secrets --------------------------------------------------------------------------------------


def _redacted(section: str, redact: Callable[[str], str]) -> str:
    """Return the part of a file without secrets, and with as many lines.

    A secret may have several lines, which are together only in the text before or after the change:
    each of these is searched, without the signs at the beginning of its lines.
    """
    lines = section.split("\n")
    body = next((at for at, line in enumerate(lines) if line.startswith("@@ ")), len(lines))
    found: dict[int, str] = {}
    for signs in (" +", " -"):
        chosen = [at for at in range(body, len(lines)) if lines[at].startswith((*signs, "@@ "))]
        texts = [_content(lines[at]) for at in chosen]
        for at, before, after in zip(chosen, texts, _same_lines(texts, redact), strict=True):
            if before != after:
                found[at] = lines[at].removesuffix(before) + after
    rest = [found.get(at, lines[at]) for at in range(body, len(lines))]
    return "\n".join([redact("\n".join(lines[:body])), *rest])


def _content(line: str) -> str:
    """Return a line without its sign; of the head of a hunk what follows its numbers."""
    if not line.startswith("@@ "):
        return line[1:]
    return line.rpartition("@@")[2] if line.count("@@") > 1 else ""


def _same_lines(lines: Sequence[str], redact: Callable[[str], str]) -> list[str]:
    """Redact lines that are one text, so that there are as many."""
    whole = _without_keys(lines)
    redacted = redact("\n".join(whole)).split("\n")
    if len(redacted) == len(whole):
        return redacted
    # A secret with a line break: each line that is not in the result had a part of it.
    left = set(redacted)
    return [line if line in left else _line(line, redact) for line in whole]


def _line(line: str, redact: Callable[[str], str]) -> str:
    redacted = redact(line)
    return redacted if redacted != line else _REDACTED


def _without_keys(lines: Sequence[str]) -> list[str]:
    """Redact each line of a private key; the end or the begin of one may be missing."""
    found = list(lines)
    begun: int | None = None
    last = 0
    for at, line in enumerate(lines):
        if _BEGIN.search(line):
            begun = at
        elif _END.search(line):
            start = _key_start(lines, last, at) if begun is None else begun
            found[start : at + 1] = [_REDACTED] * (at + 1 - start)
            begun, last = None, at + 1
    if begun is not None:
        found[begun:] = [_REDACTED] * (len(lines) - begun)
    return found


def _key_start(lines: Sequence[str], floor: int, end: int) -> int:
    """Return the first line of a key whose begin is missing."""
    start = end
    while start > floor and _KEY_LINE.fullmatch(lines[start - 1]):
        start -= 1
    return start
