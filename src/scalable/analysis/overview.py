"""One line for each run: what `scalable runs` lists."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, cast

from scalable.analysis.gaps import lost_writers
from scalable.analysis.load import read_journals
from scalable_runs.reader import RunReader
from scalable_runs.schema import JOURNALS, SCHEMA_VERSION, SummaryDocument

#: Bytes of journals read for one listing; a larger unfinished run keeps its numbers to itself.
MAX_READ: Final = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Overview:
    """A run in one line.

    Attributes
    ----------
    duration_s
        From the start to the end, or to the last thing known of the run.
    tasks, failures
        Tasks seen and tasks failed; None where that is not known without a long scan.
    readable
        Whether this is a run at all: its run.json could be read.
    writers_lost
        How many of the programs that wrote the run, though not all of them, were killed.
    """

    run_id: str
    path: Path | str
    project: str
    status: str
    started_at: datetime | None
    finished_at: datetime | None
    duration_s: float | None
    tasks: int | None
    failures: int | None
    readable: bool
    writers_lost: int = 0

    @property
    def last_at(self) -> datetime | None:
        """When it ended, or the last time that is known of it."""
        if self.finished_at is None and self.started_at is not None:
            return self.started_at + timedelta(seconds=self.duration_s or 0.0)
        return self.finished_at


def load_overviews(readers: Iterable[RunReader], max_read: int = MAX_READ) -> Iterator[Overview]:
    """Yield an overview of each run.

    Runs with a summary.json cost little. The journals of others are read, as long as all of them
    together stay within `max_read` bytes.
    """
    left = max_read
    for reader in readers:
        document = reader.summary()
        if document is None or document.get("schema_version") != SCHEMA_VERSION:
            document = None
            size = sum(map(reader.size, JOURNALS))
            if size <= left:
                left -= size
                document = read_journals(reader).document(reader.document)
        yield overview_of(reader, cast("SummaryDocument | None", document))


def overview_of(reader: RunReader, document: SummaryDocument | None) -> Overview:
    """Return the overview of a run; without its summary the numbers of tasks are not known."""
    duration = document["timing"]["wall_s"] if document else None
    end = reader.finished_at or reader.last_seen_at
    if duration is None and end is not None and reader.started_at is not None:
        duration = max(0.0, (end - reader.started_at).total_seconds())
    return Overview(
        run_id=reader.run_id,
        path=reader.place,
        project=reader.document.get("project_name") or "",
        status=reader.status,
        started_at=reader.started_at,
        finished_at=reader.finished_at,
        duration_s=duration,
        tasks=document["counts"]["tasks"] if document else None,
        failures=document["counts"]["tasks_failed"] if document else None,
        readable=bool(reader.document),
        writers_lost=0 if reader.status == "lost" else len(lost_writers(reader.document)),
    )
