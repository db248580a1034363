"""Makes the plain files of a run that several programs wrote in parts.

The files are written to a directory beside, read back and compared. Then they get their names, and
run.json last: from that moment readers take the plain files and not the parts. A merge that is
killed before that has changed nothing for readers; the next one begins anew.
"""

from __future__ import annotations

import os
import secrets
import shutil
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import orjson

from scalable_runs import plain, schema
from scalable_runs.journal import Segment
from scalable_runs.run_reader import RunReader
from scalable_runs.schema import JournalMark, Record
from scalable_runs.stores._directory import sync_directory
from scalable_runs.stores.base import place_of
from scalable_runs.stores.file import FileStore
from scalable_runs.summary import RunSummary

#: Names of the directory in which a merge writes; readers ignore what begins with a dot.
_WORK: Final = ".merge-"
_LINES: Final = 512
_PRETTY: Final = orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z | orjson.OPT_INDENT_2
_DOCUMENTS: Final = (schema.MANIFEST, schema.PLAN, schema.LOCK)
#: Folder in which writers note that they have left the run.
_CLOSED: Final = "closed"


class MergeError(Exception):
    """A run cannot be merged; the message says why."""


@dataclass(frozen=True, slots=True)
class Merged:
    """What a merge did.

    Attributes
    ----------
    path
        The run's directory.
    writers
        Whose records are in the plain files.
    records
        How many records there are.
    kept
        Folders with the logs and other attachments of writers, which stay.
    changed
        False if the files were there already.
    """

    path: Path
    writers: tuple[str, ...]
    records: int
    kept: tuple[str, ...]
    changed: bool = True


def merge(
    reader: RunReader,
    to: str | os.PathLike[str] | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Merged:
    """Write the plain files of a run with several writers; what they wrote in parts is removed.

    Parameters
    ----------
    reader
        The run.
    to
        Directory of runs that gets the merged run; the parts are left as they are then. None:
        merge the run where it is.
    progress
        Called with the bytes read, and the bytes in all.

    Raises
    ------
    MergeError
        The run is being written, has one writer, or its files cannot be read back as written.
    OSError
        Something cannot be read or written.
    """
    here = reader.store.directory
    place = here if to is None else Path(to) / reader.run_id
    merged = tuple(reader.document.get("merged") or ())
    if to is None and not reader.parts and not merged:
        raise MergeError(f"{reader.run_id} was written by one program: it is merged as it is")
    if place is None:
        raise MergeError(f"{place_of(reader.store)} is no directory: name one by --to")
    if to is None and not reader.parts:
        # A merge that was killed may have left them.
        return Merged(place, merged, 0, _remove_parts(place, merged), changed=False)
    if reader.is_live:
        writing = [name for name, part in reader.parts.items() if part.is_live]
        names = ", ".join(writing[:3]) + (", …" if len(writing) > 3 else "")
        raise MergeError(f"{reader.run_id} is being written by {names}: merge it when it has ended")
    if to is not None and place.exists():
        return _check_copy(reader, place)
    place.parent.mkdir(parents=True, exist_ok=True)
    work = (place if to is None else place.parent) / f"{_WORK}{secrets.token_hex(8)}"
    work.mkdir(mode=0o700)
    try:
        merging = _Merging(reader, work, progress)
        merging.write()
        writers = merging.writers
        if to is None:
            _name(work, place)
            kept = _remove_parts(place, writers)
        else:
            kept = _copy_attachments(reader, work)
            sync_directory(work)
            work.rename(place)
            sync_directory(place.parent)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return Merged(place, writers, merging.count, kept)


class _Merging:
    """Writes and checks the plain files of one run in a directory; used by one thread."""

    def __init__(
        self, reader: RunReader, work: Path, progress: Callable[[int, int], None] | None
    ) -> None:
        self._reader = reader
        self._work = work
        self._progress = progress
        self._done = 0
        self._size = sum(map(reader.size, reader.files()))
        self._summary = RunSummary()
        self._marks: dict[str, JournalMark] = {}
        #: Records of each writer, by journal.
        self._written: dict[str, Counter[str | None]] = {}
        self.count = 0
        names = {*(reader.document.get("merged") or ()), *reader.parts}
        self.writers = tuple(sorted(names))

    def write(self) -> None:
        reader = self._reader
        for name in _DOCUMENTS:
            with suppress(FileNotFoundError):
                data = b"".join(b for b in reader.store.read(name) if isinstance(b, bytes))
                _write(self._work / name, data)
        for file in dict.fromkeys((*schema.JOURNALS, *reader.files())):
            self._write_journal(file)
        run = {
            **reader.document,
            "status": reader.status,
            "journal": self._marks,
            "merged": list(self.writers),
        }
        document: Mapping[str, Any] = self._summary.document(run)
        _write(self._work / schema.SUMMARY, plain.dumps({**document, "run": run}, _PRETTY))
        _write(self._work / schema.RUN, plain.dumps(run, _PRETTY))
        self._check()

    def _write_journal(self, file: str) -> None:
        segment, written = Segment(file), Counter[str | None]()
        self._written[file] = written

        def counted(records: Iterator[Record]) -> Iterator[Record]:
            for record in records:
                written[record.get("writer")] += 1
                lines.append(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
                yield record

        lines: list[bytes] = []
        records = counted(self._reader.records(file, progress=self._advance))
        with (self._work / file).open("xb") as out:
            while batch := list(islice(records, _LINES)):
                self._summary.add_all(file, batch)
                data = b"".join(lines)
                lines.clear()
                out.write(data)
                segment.write(data)
                segment.count(data)
            out.flush()
            os.fsync(out.fileno())
        self._marks[file] = segment.mark()
        self.count += written.total()

    def _advance(self, count: int) -> None:
        self._done += count
        if self._progress is not None:
            self._progress(min(self._done, self._size), self._size)

    def _check(self) -> None:
        """Read back what was written."""
        for file, written in self._written.items():
            crc = 0
            for block in FileStore(self._work).read(file):
                crc = zlib.crc32(block, crc) if isinstance(block, bytes) else -1
            if crc != self._marks[file]["crc32"]:
                raise MergeError(f"{file} cannot be read back as it was written: nothing is merged")
            copy = RunReader(FileStore(self._work))
            found = Counter(record.get("writer") for record in copy.records(file))
            if found != written:
                raise MergeError(f"{file} has not the records of the parts: nothing is merged")


def _check_copy(reader: RunReader, place: Path) -> Merged:
    """Whether a merged run that is there already is that of these parts."""
    copy = RunReader(place)
    names = tuple(sorted({*(reader.document.get("merged") or ()), *reader.parts}))
    if copy.run_id != reader.run_id or tuple(copy.document.get("merged") or ()) != names:
        raise MergeError(f"{place} exists and is another run: name another directory, or remove it")
    return Merged(place, names, 0, (), changed=False)


def _name(work: Path, place: Path) -> None:
    """Give the merged files their names; with run.json they count."""
    names = sorted(path.name for path in work.iterdir())
    names.remove(schema.RUN)
    for name in names:
        (work / name).replace(place / name)
    sync_directory(place)
    (work / schema.RUN).replace(place / schema.RUN)
    sync_directory(place)


def _remove_parts(place: Path, writers: tuple[str, ...]) -> tuple[str, ...]:
    """Remove what is in the plain files now; return the folders that stay, with attachments."""
    kept: list[str] = []
    for name in writers:
        part = place / schema.WRITERS / name
        store = FileStore(part)
        journals = {file for files in store.segments().values() for file in files}
        for file in sorted(journals | {*_DOCUMENTS, schema.SUMMARY, schema.OWNER, schema.RUN}):
            (part / file).unlink(missing_ok=True)
        for path in part.glob(".*"):  # of a writer that was killed
            if path.is_file():
                path.unlink(missing_ok=True)
        for path, _, _ in os.walk(part, topdown=False):
            with suppress(OSError):
                Path(path).rmdir()  # an empty one
        if part.exists():
            kept.append(f"{schema.WRITERS}/{name}")
        (place / _CLOSED / f"{name}.json").unlink(missing_ok=True)
    for path in place.glob(f"{_CLOSED}*.json"):
        path.unlink(missing_ok=True)
    for path in (place / _CLOSED, place / schema.WRITERS):
        with suppress(OSError):
            path.rmdir()
    for left in place.glob(f"{_WORK}*"):
        shutil.rmtree(left, ignore_errors=True)
    return tuple(kept)


def _copy_attachments(reader: RunReader, work: Path) -> tuple[str, ...]:
    """Copy what else is in the folders of writers, such as the logs of workers."""
    kept: list[str] = []
    here = reader.store.directory
    writers = None if here is None else here / schema.WRITERS
    if writers is None or not writers.is_dir():
        return ()
    for part in sorted(writers.iterdir()):
        store = FileStore(part)
        journals = {file for files in store.segments().values() for file in files}
        known = journals | {*_DOCUMENTS, schema.SUMMARY, schema.OWNER, schema.RUN}
        for name in sorted(store.names() - known):
            source, target = part / name, work / schema.WRITERS / part.name / name
            if name.startswith(".") or source.is_symlink():
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, symlinks=True)
            else:
                shutil.copy2(source, target)
        if (work / schema.WRITERS / part.name).exists():
            kept.append(f"{schema.WRITERS}/{part.name}")
    return tuple(kept)


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
