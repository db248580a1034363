"""Reads what is to be brought of a local run."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final

from scalable_runs import schema
from scalable_runs.remote.chunks import MAX_PIECE, PIECE, is_file
from scalable_runs.remote.keys import CHUNKS, STATE
from scalable_runs.stores.base import Hole, Store, joined
from scalable_runs.stores.run_store import is_key

#: Documents that are brought once, and again where they have changed.
DOCUMENTS: Final = (schema.OWNER, schema.MANIFEST, schema.PLAN, schema.LOCK)
#: A larger attachment, or more of them, stay where they are.
MAX_ATTACHMENT: Final = 64 * 1024 * 1024
MAX_ATTACHMENTS: Final = 1_000
_MAX_DOCUMENT: Final = 64 * 1024 * 1024


class LineTooLongError(OSError):
    """A file has a line that is too long to be copied; what follows stays behind."""


class LocalFiles:
    """The files of a run on this machine; used by one thread.

    Parameters
    ----------
    store
        The store of the run, or of a writer's part.

    Attributes
    ----------
    left_out
        Sentences about attachments that cannot be copied, by what they are about.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.left_out: dict[str, str] = {}

    def journals(self) -> list[str]:
        """Return the names of all files of lines, those of `tasks.jsonl` last.

        They are most of a run, and a reader of the others needs only the beginning of a chunk.
        """
        segments = self.store.segments()
        order = sorted(segments, key=lambda name: (name == schema.TASKS, name))
        return [file for name in order for file in segments[name] if is_file(file)]

    def size(self, file: str) -> int:
        """Return the present size of a file; 0 if there is none."""
        entry = self.store.stat(file)
        return entry.size if entry is not None else 0

    def document(self, name: str) -> bytes | None:
        """Return a document; None if there is none, or it cannot be read."""
        try:
            return joined(self.store.read(name), _MAX_DOCUMENT)
        except OSError:
            return None

    def lines(self, file: str, start: int) -> Iterator[bytes]:
        """Yield the whole lines of a file from `start` on, in pieces of whole lines.

        Raises
        ------
        OSError
            It cannot be read.
        """
        held = bytearray()
        for block in self.store.read(file, start):
            if isinstance(block, Hole):
                if len(held) + block.length > MAX_PIECE:
                    raise LineTooLongError(f"{file} has a line that is too long to be copied")
                held += bytes(block.length)
            else:
                held += block
            if len(held) >= PIECE:
                end = held.rfind(b"\n") + 1
                if end:
                    yield bytes(held[:end])
                    del held[:end]
                elif len(held) > MAX_PIECE:
                    raise LineTooLongError(f"{file} has a line that is too long to be copied")
        end = held.rfind(b"\n") + 1
        if end:
            yield bytes(held[:end])

    def part(self, file: str, start: int, length: int) -> bytes:
        """Return some bytes of a file; fewer at its end."""
        blocks = self.store.read(file, start, length)
        return b"".join(bytes(b.length) if isinstance(b, Hole) else b for b in blocks)[:length]

    def attachments(self) -> list[tuple[str, int, float]]:
        """Return name, size and age of what else is in the run's directory, if it has one."""
        path: Any = getattr(self.store, "path", None)
        if path is None:
            return []
        journals, found = set(self.journals()), list[tuple[str, int, float]]()
        for folder, folders, names in os.walk(path):
            inside = os.path.relpath(folder, path)
            if inside == ".":
                folders[:] = [one for one in folders if one not in (CHUNKS, schema.WRITERS)]
            folders[:] = [one for one in folders if not one.startswith(".")]
            for name in names:
                relative = name if inside == "." else f"{inside}/{name}"
                if name.startswith(".") or relative in _NOT_ATTACHED or relative in journals:
                    continue
                if not is_key(relative):
                    self.left_out[relative] = f"{relative!r} is not copied: no object has that name"
                    continue
                with suppress(OSError):  # it is gone meanwhile
                    entry = os.lstat(os.path.join(folder, name))  # noqa: PTH118
                    if stat.S_ISREG(entry.st_mode):
                        found.append((relative, entry.st_size, entry.st_mtime))
        if len(found) > MAX_ATTACHMENTS:
            self.left_out[""] = (
                f"only {MAX_ATTACHMENTS} of {len(found)} files beside the journals are copied"
            )
        return sorted(found)[:MAX_ATTACHMENTS]


_NOT_ATTACHED: Final = frozenset(
    {*DOCUMENTS, schema.RUN, schema.SUMMARY, STATE, CHUNKS, schema.WRITERS}
)
