"""Reads a run in any state.

A reader takes no lock and changes nothing. Files may be torn, damaged, missing or written by
another program: what can be read is read, the rest is counted and described. Memory is bounded for
files and lines of any size. Only JSON is decoded.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from time import monotonic
from typing import Any, Final, cast

import orjson

from scalable_runs import fields, journal, schema
from scalable_runs._process import EXIT_TIMEOUT, is_alive
from scalable_runs.plain import parse_time
from scalable_runs.problems import FileProblems, contradiction
from scalable_runs.run_parts import (
    MAX_OPEN,
    InSips,
    by_time,
    combined,
    file_of,
    latest,
    state_of,
    usable_states,
)
from scalable_runs.scan import JournalScan
from scalable_runs.schema import JournalMark, Record, RunStatus
from scalable_runs.stores.base import Store, joined, place_of
from scalable_runs.stores.file import FileStore

#: A recorder that cannot be observed from here is considered dead after this much silence.
_MAX_SILENCE_S: Final = 30.0


class RunReader:
    """A run; used by one thread only.

    Parameters
    ----------
    run
        The run's directory, its packed file, or its store; it may be damaged, see :attr:`problems`.
    wait
        Seconds to wait at most for a recorder that is about to end.
    writer
        The writer whose part of a run `run` is, if the run has several.

    Attributes
    ----------
    store
        The store of the run.
    path
        The run's directory, if it has one.
    run_id
        As in run.json, otherwise the name of the place.
    parts
        The parts of a run that several programs write: a reader for each, by the writer's name.
        What follows is of all of them together.
    document
        run.json; empty if it cannot be read. Files of parts are named `writers/<writer>/<file>`.
    owner
        owner.json; empty if it cannot be read.
    status
        As in run.json, but `lost` for a `running` run whose recorder has ended. A run of several
        writers is only lost if all of them are.
    started_at, finished_at
        None if unknown.
    last_seen_at
        Last sign of life of the recorder: the end of a lost run.
    problems
        Problems by file: of run.json and summary.json when they are read, of a journal when it was
        read to its end. Files without problems are not in it.
    """

    def __init__(
        self,
        run: str | os.PathLike[str] | Store,
        *,
        wait: float = EXIT_TIMEOUT,
        writer: str | None = None,
    ) -> None:
        self.store: Store = _store_of(run)
        self.path: Path = Path(self.store.location)
        self.writer = writer
        self._wait = wait
        self.problems: dict[str, FileProblems] = {}
        self.document: dict[str, Any] = self._read_document(schema.RUN, schema.RunDocument) or {}
        self._is_copy = bool(getattr(self.store, "reads_are_requests", False))
        if not self._is_copy:
            # Only an open run needs it, but what is damaged is told.
            _ = self.owner
        if "writers" in self.document:
            self.document["writers"] = usable_states(self.document["writers"])
        self._named_run_id: str | None = self.document.get("run_id") or None
        self.run_id: str = self._named_run_id or _encodable(self.path.name)
        self.parts: dict[str, RunReader] = {}
        #: The marks of the files that are not those of a part.
        self._own_marks = self.marks()
        if writer is None:
            self.parts = self._find_parts()
        if self.parts and self._is_copy and schema.RUN not in self.store.names():
            # Each writer copies its own part alone, and the parts say what the run is.
            self.problems.pop(schema.RUN, None)
        if not self.parts:
            self.started_at: datetime | None = parse_time(self.document.get("started_at"))
            self.finished_at: datetime | None = parse_time(self.document.get("finished_at"))
            self.last_seen_at: datetime | None = self.finished_at or self._last_seen()
            self.status: RunStatus = self._status()
            return
        self.document = self._combined()
        self.status = self.document["status"]
        self.started_at = parse_time(self.document.get("started_at"))
        self.finished_at = parse_time(self.document["finished_at"])
        self.last_seen_at = self.finished_at or latest([p.last_seen_at for p in self._parts()])

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.run_id} {self.status}>"

    @property
    def place(self) -> Path | str:
        """The run's directory, or where it is, for people."""
        return place_of(self.store)

    @property
    def is_live(self) -> bool:
        """Whether the run is being recorded now."""
        return self.status == "running"

    @cached_property
    def owner(self) -> dict[str, Any]:
        """The content of owner.json."""
        if schema.OWNER not in self.store.names():
            return {}
        return self._read_document(schema.OWNER, schema.Owner) or {}

    def files(self) -> list[str]:
        """Return the existing journals of this run, in the order of the contract."""
        found = set(self._own_segments())
        found.update(*(part.files() for part in self._parts()))
        return [file for file in (*schema.JOURNALS, *schema.SIGNALS) if file in found]

    def size(self, file: str) -> int:
        """Return the present size of a journal, to show the progress of a scan."""
        own = sum(self.file_size(name) for name in self._own_segments().get(file, ()))
        return own + sum(part.size(file) for part in self._parts())

    def file_size(self, name: str) -> int:
        """Return the present size of a file of this run; 0 if it does not exist."""
        store, file = self.place_of(name)
        entry = store.stat(file)
        return entry.size if entry is not None else 0

    def place_of(self, name: str, writer: str | None = None) -> tuple[Store, str]:
        """Return the store that has a file of this run, and the file's name there.

        Parameters
        ----------
        name
            Its name, which begins with `writers/<writer>/` for a file of a part.
        writer
            The writer of the record that names it; names in records are those in its part.
        """
        inside = name
        if writer is None and name.startswith(f"{schema.WRITERS}/"):
            _, writer, *rest = name.split("/", 2)
            inside = "".join(rest)
        part = self.parts.get(writer or "")
        return (self.store, name) if part is None else (part.store, inside)

    def summary(self) -> dict[str, Any] | None:
        """Return summary.json, or None if it is missing or cannot be read."""
        if schema.SUMMARY not in self.store.names():
            return None
        document = self._read_document(schema.SUMMARY)
        if (
            document is not None
            and document.get("schema_version") == schema.SCHEMA_VERSION
            and not fields.fits(document, fields.row_of(schema.SummaryDocument))
        ):
            problems = self.problems[schema.SUMMARY] = FileProblems(schema.SUMMARY, broken=1)
            problems.unreadable = "its fields are not those of a summary"
            return None
        if document is not None and self.parts and not self._covers_parts(document):
            return None
        if document is not None and (lie := contradiction(document, self.document)):
            problems = self.problems[schema.SUMMARY] = FileProblems(schema.SUMMARY, broken=1)
            problems.unreadable = lie
            return None
        return document

    def _covers_parts(self, summary: dict[str, Any]) -> bool:
        """Whether a summary was made of all parts as they are: another may have joined since."""
        run: Any = summary.get("run")
        return isinstance(run, dict) and run.get("journal") == self.document["journal"]

    def records(
        self, file: str, *, progress: Callable[[int], None] | None = None
    ) -> Iterator[Record]:
        """Read a journal from its beginning to its present end, in the order it was written.

        Parameters
        ----------
        file
            The journal, such as `tasks.jsonl`, with its further files (`tasks.1.jsonl`). A missing
            journal has no records.
        progress
            Called with the bytes read since the last call, a few times a megabyte.

        Yields
        ------
        dict
            A record. Fields may be missing; those of a wrong type are null.
        """
        sources = [self] if self._own_segments().get(file) or not self.parts else []
        sources += self._parts()
        if len(sources) == 1:
            yield from sources[0]._own_records(file, progress)
        else:
            opens_files = not getattr(self.store, "reads_are_requests", False)
            many = len(sources) if opens_files and len(sources) > MAX_OPEN else 0
            yield from by_time([source._own_records(file, progress, many) for source in sources])
        for part in self._parts():
            self._take_problems(part)

    def _own_records(
        self, file: str, progress: Callable[[int], None] | None, parts: int = 0
    ) -> Iterator[Record]:
        """Read a journal without those of parts; `parts` are read besides if they are many."""
        self.problems.pop(file, None)
        scan = JournalScan(
            InSips(self.store, parts) if parts else self.store,
            file,
            run_id=self._named_run_id,
            is_live=self.is_live,
            progress=progress,
            writer=self.writer,
        )
        segments = self.store.segments().get(file, [])
        marks = self._own_marks
        try:
            yield from scan.records(
                segments,
                {name: marks[name] for name in marks if journal.segment_of(name)[0] == file},
            )
        finally:
            self._named_run_id = scan.run_id
            if scan.problems:
                self.problems[file] = scan.problems

    def marks(self) -> dict[str, JournalMark]:
        """Return the marks of each file in run.json."""
        found: Any = self.document.get("journal")
        marks: dict[str, Any] = found if isinstance(found, dict) else {}
        row = fields.row_of(schema.JournalMark)
        return {
            name: mark
            for name, mark in marks.items()
            # A key may be any text: only names of journal files are valid.
            if journal.segment_of(self.place_of(name)[1])[0] in journal.NAMES
            and fields.fits(mark, row)
        }

    # Parts

    def _own_segments(self) -> Mapping[str, list[str]]:
        """The journals besides those of parts: a merge makes them, and counts once it is done."""
        is_merging = self.parts and "merged" not in self.document
        return {} if is_merging else self.store.segments()

    def _parts(self) -> list[RunReader]:
        return list(self.parts.values())

    def _find_parts(self) -> dict[str, RunReader]:
        merged: Any = self.document.get("merged") or ()
        # All of them together wait no longer than a single one.
        deadline = monotonic() + self._wait
        return {
            name: RunReader(store, wait=max(0.0, deadline - monotonic()), writer=name)
            for name, store in self.store.parts().items()
            if name not in merged
        }

    def _combined(self) -> dict[str, Any]:
        writers = dict(self.document.get("writers") or {})
        for name, part in self.parts.items():
            writers[name] = state_of(
                part.document, part.status, part.started_at, part.finished_at, part.last_seen_at
            )
            self._take_problems(part)
        documents = {name: part.document for name, part in self.parts.items()}
        return combined(self.document, documents, writers)

    def _take_problems(self, part: RunReader) -> None:
        for name in [name for name in self.problems if self.place_of(name)[0] is part.store]:
            del self.problems[name]
        self.problems |= {problems.name: problems for problems in part.problems.values()}

    def _read_document(self, name: str, declaration: type | None = None) -> dict[str, Any] | None:
        problems = FileProblems(name if self.writer is None else file_of(self.writer, name))
        self.problems.pop(name, None)
        try:
            document: Any = orjson.loads(joined(self.store.read(name)))
            if isinstance(document, dict):
                found = cast("dict[str, Any]", document)
                if declaration is not None:
                    problems.wrong = fields.clean(found, fields.row_of(declaration))
                if problems:
                    self.problems[name] = problems
                return found
            problems.broken = 1
            problems.unreadable = "it is not a JSON object"
        except OSError as error:
            problems.unreadable = error.strerror or str(error)
        except ValueError as error:
            problems.nul_bytes = _nul_bytes(error)
            problems.unreadable = f"it is not JSON (line {getattr(error, 'lineno', 1)})"
        self.problems[name] = problems
        return None

    def _recorder(self) -> dict[str, Any]:
        return self.document.get("recorder") or {}

    def _last_seen(self) -> datetime | None:
        heartbeat = parse_time(self._recorder().get("heartbeat_at"))
        if heartbeat is not None:
            return heartbeat
        names = [n for n in self.store.names() if n == schema.RUN or n.endswith(".jsonl")]
        times = [entry.modified for name in names if (entry := self.store.stat(name)) is not None]
        return datetime.fromtimestamp(max(times), UTC) if times else None

    def _status(self) -> RunStatus:
        status: Any = self.document.get("status")
        if status in schema.RUN_STATUSES and status != "running":
            return cast("RunStatus", status)
        alive = is_alive(self._recorder() or self.owner, self.owner, wait=self._wait)
        if alive is None:
            silence = (
                (datetime.now(UTC) - self.last_seen_at).total_seconds()
                if self.last_seen_at is not None
                else _MAX_SILENCE_S
            )
            alive = silence < _MAX_SILENCE_S
        return "running" if alive else "lost"


def _store_of(run: str | os.PathLike[str] | Store) -> Store:
    if not isinstance(run, (str, os.PathLike)):
        return run
    path = Path(run)
    if not path.name.endswith(schema.PACKED) or path.is_dir():
        return FileStore(run)
    from scalable_runs.packed.store import PackedStore

    return PackedStore(path)


def _nul_bytes(error: ValueError) -> int:
    document = getattr(error, "doc", "")
    return document.count("\0") if isinstance(document, str) else 0


def _encodable(text: str) -> str:
    """Return a file's name as text that can be encoded: a name may be any bytes."""
    return text.encode(errors="replace").decode()
