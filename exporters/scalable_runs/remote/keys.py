"""Which keys the objects of a run have. No I/O.

Below `<run>/` are the documents, at the close also the plain files; `chunks/<writer>/` has the
chunks of each writer, and `writers/<writer>/` the documents of a writer's part and its epochs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from scalable_runs import schema
from scalable_runs.remote.chunks import ChunkName
from scalable_runs.stores.base import is_inside
from scalable_runs.stores.run_store import Object

#: The writer of a run that has one writer.
MAIN: Final = "main"
#: Folder of the chunks.
CHUNKS: Final = "chunks"
#: What a compressed plain file has behind its name.
COMPRESSED: Final = ".zst"
#: Local file of a run: what its copy lacks. It is not copied.
STATE: Final = "remote.json"

_EPOCH: Final = re.compile(r"epoch-(\d{6,12})")


@dataclass(frozen=True, slots=True)
class RunKeys:
    """The keys of a run, or of a writer's part of it.

    Attributes
    ----------
    run_id
        The run's id.
    writer
        The writer, if the run has several.
    """

    run_id: str
    writer: str | None = None

    def __post_init__(self) -> None:
        names = [self.run_id] if self.writer is None else [self.run_id, self.writer]
        wrong = [one for one in names if schema.RUN_ID_PATTERN.fullmatch(one) is None]
        if wrong or self.writer == MAIN:
            raise ValueError(f"not the name of a run or writer: {(wrong or [MAIN])[0]!r}")

    @property
    def files(self) -> str:
        """What the keys of documents, plain files and attachments begin with."""
        part = "" if self.writer is None else f"{schema.WRITERS}/{self.writer}/"
        return f"{self.run_id}/{part}"

    @property
    def chunks(self) -> str:
        """What the keys of the chunks begin with."""
        return f"{self.run_id}/{CHUNKS}/{self.writer or MAIN}/"

    @property
    def epochs(self) -> str:
        """What the keys of the epochs begin with."""
        return f"{self.run_id}/{schema.WRITERS}/{self.writer or MAIN}/epoch-"

    def epoch(self, number: int) -> str:
        """Return the key of an epoch."""
        return f"{self.epochs}{number:06d}"

    def epoch_of(self, key: str) -> int | None:
        """Return the number of the epoch that has a key, if it is one."""
        match = _EPOCH.fullmatch(key.rpartition("/")[2])
        return int(match[1]) if match and key.startswith(self.epochs) else None

    def chunks_of(self, entries: Iterable[Object]) -> list[tuple[ChunkName, Object]]:
        """Return the chunks among some objects, in the order of the stream."""
        found: list[tuple[ChunkName, Object]] = []
        for entry in entries:
            if entry.key.startswith(self.chunks):
                name = ChunkName.parse(entry.key[len(self.chunks) :])
                if name is not None:
                    found.append((name, entry))
        # Shippers that overlap cut the stream differently: the furthest is the last.
        return sorted(found, key=lambda one: (one[0].last, one[0].first))

    def files_of(self, entries: Iterable[Object]) -> Iterator[tuple[str, Object]]:
        """Yield documents, plain files and attachments among some objects, by their names."""
        for entry in entries:
            name = entry.key[len(self.files) :]
            if not entry.key.startswith(self.files) or not is_inside(name):
                continue
            folder = name.partition("/")[0]
            if "/" not in name or folder not in (CHUNKS, schema.WRITERS):
                yield name, entry


def writers_of(run_id: str, entries: Iterable[Object]) -> list[str]:
    """Return the writers whose parts of a run are among some objects."""
    start = f"{run_id}/{schema.WRITERS}/"
    found: set[str] = set()
    for entry in entries:
        if entry.key.startswith(start):
            writer, _, name = entry.key[len(start) :].partition("/")
            is_part = name == schema.RUN and schema.RUN_ID_PATTERN.fullmatch(writer)
            if is_part and writer != MAIN:
                found.add(writer)
    return sorted(found)
