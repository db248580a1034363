"""Reads run directories, whatever state they are in.

A reader takes no lock and changes nothing. It stands files that are torn, damaged, missing or
written by something else: what can be read is read, the rest is counted and said. Memory stays
bounded, however large a file or a line is. Nothing but JSON is ever decoded.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic
from typing import Any, Final, cast

import orjson

from scalable_runs import fields, schema
from scalable_runs._process import EXIT_TIMEOUT, is_alive
from scalable_runs.problems import MAX_GAPS, FileProblems
from scalable_runs.schema import Record, RunStatus

_BLOCK: Final = 256 * 1024
#: A longer line is no record: it is skipped without being kept in memory.
_MAX_LINE: Final = 16 * 1024 * 1024
_MAX_DOCUMENT: Final = 64 * 1024 * 1024
#: A recorder that cannot be seen from here is taken for dead after that much silence.
_MAX_SILENCE_S: Final = 30.0
_ID_TIME: Final = re.compile(r"run-(\d{8}T\d{6})Z")


class RunNotFoundError(LookupError):
    """There is no such run; the message says what there is and what to do."""


class AmbiguousRunError(LookupError):
    """More than one run's id begins like that; the message names them.

    Attributes
    ----------
    matching : list of str
        Ids of all the runs, newest first.
    """

    def __init__(self, message: str, matching: list[str]) -> None:
        super().__init__(message)
        self.matching = matching


class RunReader:
    """One run directory, read by the thread that made this; not to be shared.

    Parameters
    ----------
    path
        The run's directory. It need not be a good one: look at :attr:`problems`.
    wait
        Seconds to wait at most for a recorder that is about to end.

    Attributes
    ----------
    path
        The run's directory.
    run_id
        As run.json says, else the directory's name.
    document
        run.json; empty if it cannot be read.
    owner
        owner.json; empty if it cannot be read.
    status
        As run.json says, but `lost` for a run that says `running` and whose recorder is gone.
    started_at, finished_at
        None where the run does not tell.
    last_seen_at
        When the recorder last gave a sign of life: where to count the end of a lost run from.
    problems
        What is wrong, by file: run.json and summary.json from the start or when they are read, a
        journal once it has been read to its end. Files without problems are not in it.
    """

    def __init__(self, path: str | os.PathLike[str], *, wait: float = EXIT_TIMEOUT) -> None:
        self.path: Path = Path(path)
        self._wait = wait
        self.problems: dict[str, FileProblems] = {}
        self.document: dict[str, Any] = self._read_document(schema.RUN) or {}
        quietly = schema.OWNER not in self._names()
        self.owner: dict[str, Any] = {} if quietly else self._read_document(schema.OWNER) or {}
        self._named_run_id: str | None = self.document.get("run_id") or None
        self.run_id: str = self._named_run_id or _encodable(self.path.name)
        self.started_at: datetime | None = parse_time(self.document.get("started_at"))
        self.finished_at: datetime | None = parse_time(self.document.get("finished_at"))
        self.last_seen_at: datetime | None = self.finished_at or self._last_seen()
        self.status: RunStatus = self._status()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.run_id} {self.status}>"

    @property
    def is_live(self) -> bool:
        """Whether the run is being recorded now."""
        return self.status == "running"

    def files(self) -> list[str]:
        """Return the journals of this run that exist, in the order of the contract."""
        segments = self._segments()
        return [file for file in (*schema.JOURNALS, *schema.SIGNALS) if file in segments]

    def size(self, file: str) -> int:
        """Return how many bytes a journal has now, for telling how far a scan has come."""
        return sum(self.file_size(name) for name in self._segments().get(file, ()))

    def file_size(self, name: str) -> int:
        """Return how many bytes one file of this directory has now; 0 if it is not there."""
        try:
            return (self.path / name).lstat().st_size
        except OSError:
            return 0

    def summary(self) -> dict[str, Any] | None:
        """Return summary.json, or None if it is missing or cannot be read."""
        if schema.SUMMARY not in self._names():
            return None
        document = self._read_document(schema.SUMMARY)
        if (
            document is not None
            and document.get("schema_version") == schema.SCHEMA_VERSION
            and not fields.fits(document, fields.SUMMARY)
        ):
            problems = self.problems[schema.SUMMARY] = FileProblems(schema.SUMMARY, broken=1)
            problems.unreadable = "its fields are not those of a summary"
            return None
        return document

    def records(
        self, file: str, *, progress: Callable[[int], None] | None = None
    ) -> Iterator[Record]:
        """Read a journal from its beginning to its present end, in the order it was written.

        Parameters
        ----------
        file
            The journal, such as `tasks.jsonl`. What was written on after a failed sync
            (`tasks.1.jsonl`) is read with it. A missing journal has no records.
        progress
            Called with the bytes read since the last call, a few times a megabyte.

        Yields
        ------
        dict
            One record. Fields may be missing; those of older tools and of a wrong type are null.
        """
        problems = FileProblems(file)
        self.problems.pop(file, None)
        marks = {name: mark for name, mark in self.marks().items() if _segment_of(name)[0] == file}
        segments = self._segments().get(file, [])
        missing = marks.keys() - set(segments)
        shapes = fields.Shapes(file)
        order = _Sequence(problems)
        try:
            for name in segments:
                mark = marks.get(name, _NO_MARK)
                yield from self._segment(name, mark, problems, order, shapes, progress)
            for name in sorted(missing):
                problems.missing_bytes += marks[name][0]
                if marks[name][0]:
                    problems.unreadable = "the file is missing"
            order.end(max((seq for _, seq, _ in marks.values()), default=0))
        finally:
            if problems:
                self.problems[file] = problems

    def _segment(
        self,
        name: str,
        mark: tuple[int, int, int],
        problems: FileProblems,
        order: _Sequence,
        shapes: fields.Shapes,
        progress: Callable[[int], None] | None,
    ) -> Iterator[Record]:
        loads = orjson.loads
        clean = shapes.clean
        try:
            for lines, is_end in _blocks(self.path / name, mark, problems, progress):
                for line in lines:
                    try:
                        record = loads(line)
                        # Nearly every line passes here; all others are looked at closely.
                        if (
                            record["seq"] == order.last + 1
                            and record["run_id"] == self._named_run_id
                            and record["schema_version"] == schema.SCHEMA_VERSION
                            and record["event_type"].__class__ is str
                        ):
                            order.last += 1
                            order.before = None
                            problems.wrong += clean(record, len(line))
                            yield record
                            continue
                    except ValueError:
                        record = _repaired(line, problems, is_end and not self.is_live)
                        if record is None:
                            continue
                    except (LookupError, TypeError):
                        record = loads(line)
                    if self._is_ours(record, problems) and order.follows(record.get("seq")):
                        problems.wrong += clean(record, len(line))
                        yield record
        except OSError as error:
            problems.unreadable = error.strerror or str(error)

    def _is_ours(self, record: Any, problems: FileProblems) -> bool:
        if not isinstance(record, dict):
            problems.broken += 1
            return False
        fields = cast("dict[str, Any]", record)
        run_id, version = fields.get("run_id"), fields.get("schema_version")
        if self._named_run_id is None and isinstance(run_id, str):
            # Without run.json the first record says whose the others are.
            self._named_run_id = run_id
        if type(version) is int and version > schema.SCHEMA_VERSION:
            problems.newer += 1
            return False
        if (
            run_id != self._named_run_id
            or type(version) is not int
            or not isinstance(fields.get("event_type"), str)
        ):
            problems.foreign += 1
            return False
        return True

    def _names(self) -> set[str]:
        try:
            return set(os.listdir(self.path))  # noqa: PTH208 (names alone; no Path for each)
        except OSError:
            return set()

    def _read_document(self, name: str) -> dict[str, Any] | None:
        problems = FileProblems(name)
        self.problems.pop(name, None)
        try:
            with open_file(self.path / name) as fd:
                data = _read_all(fd)
            document: Any = orjson.loads(data)
            if isinstance(document, dict):
                found = cast("dict[str, Any]", document)
                problems.wrong = fields.clean(found, fields.DOCUMENTS.get(name, {}))
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

    def _segments(self) -> dict[str, list[str]]:
        """Return the files of each journal, in the order they were written."""
        found: dict[str, list[tuple[int, str]]] = {}
        for name in self._names():
            if name.endswith(".jsonl"):
                file, number = _segment_of(name)
                found.setdefault(file, []).append((number, name))
        return {file: [name for _, name in sorted(names)] for file, names in found.items()}

    def marks(self) -> dict[str, tuple[int, int, int]]:
        """Return what run.json says of each file at the last sync: bytes, seq, CRC-32."""
        found: Any = self.document.get("journal")
        journal: dict[str, Any] = found if isinstance(found, dict) else {}
        marks: dict[str, tuple[int, int, int]] = {}
        for name, mark in journal.items():
            # A key may be anything: only the name of a journal's file is one.
            if _segment_of(name)[0] in _JOURNALS and fields.fits(mark, _MARK):
                marks[name] = (mark["bytes"], mark["seq"], mark["crc32"])
        return marks

    def _recorder(self) -> dict[str, Any]:
        return self.document.get("recorder") or {}

    def _last_seen(self) -> datetime | None:
        heartbeat = parse_time(self._recorder().get("heartbeat_at"))
        if heartbeat is not None:
            return heartbeat
        latest = 0.0
        for name in self._names():
            if name == schema.RUN or name.endswith(".jsonl"):
                try:
                    latest = max(latest, (self.path / name).lstat().st_mtime)
                except OSError:
                    continue
        return datetime.fromtimestamp(latest, UTC) if latest else None

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


def find_runs(runs_dir: str | os.PathLike[str]) -> list[RunReader]:
    """Return the runs in a directory, newest first by the time they started.

    Parameters
    ----------
    runs_dir
        Where runs live. If it does not exist there are none.

    Returns
    -------
    list of RunReader
        Also broken ones, with :attr:`RunReader.problems`. Directories that hold nothing of a run
        are left out, and so are those that lead out of `runs_dir` by a symbolic link. If
        `runs_dir` is itself a run, it alone.
    """
    runs_dir = Path(runs_dir)
    if is_run(runs_dir):
        return [RunReader(runs_dir)]
    try:
        with os.scandir(runs_dir) as entries:
            paths = [
                Path(entry.path)
                for entry in entries
                if schema.RUN_ID_PATTERN.fullmatch(entry.name)
                and entry.is_dir(follow_symlinks=False)
                and (_ID_TIME.match(entry.name) or is_run(entry.path))
            ]
    except OSError:
        return []
    # All of them together wait no longer than one.
    deadline = monotonic() + EXIT_TIMEOUT
    runs = [RunReader(path, wait=max(0.0, deadline - monotonic())) for path in paths]
    return sorted(runs, key=_start_key, reverse=True)


def is_run(path: str | os.PathLike[str]) -> bool:
    """Whether a directory holds anything of a run: its run.json, or a journal."""
    try:
        os.lstat(os.path.join(path, schema.RUN))  # noqa: PTH118 (100,000 of them)
        return True
    except FileNotFoundError:
        pass
    except (OSError, ValueError):
        return False
    try:
        return not _JOURNALS.isdisjoint(os.listdir(path))  # noqa: PTH208
    except OSError:
        return False


def resolve_run(runs_dir: str | os.PathLike[str], run_id: str | None = None) -> RunReader:
    """Return one run of a directory.

    Parameters
    ----------
    runs_dir
        Where runs live.
    run_id
        The run's id or the beginning of one; None is the run that started last.

    Raises
    ------
    RunNotFoundError
        There is none like that.
    AmbiguousRunError
        More than one run's id begins like that.
    """
    runs_dir = Path(runs_dir)
    if run_id is not None and schema.RUN_ID_PATTERN.fullmatch(run_id) is None:
        raise RunNotFoundError(
            f"{run_id!r} is not a run id: give the name of a directory in {runs_dir}, or the "
            "beginning of one"
        )
    if run_id is not None and not is_run(runs_dir):
        path = runs_dir / run_id
        if path.is_dir() and not path.is_symlink():
            return RunReader(path)
    runs = find_runs(runs_dir)
    if not runs:
        reason = "has no runs" if runs_dir.is_dir() else "does not exist"
        raise RunNotFoundError(
            f"{runs_dir} {reason}. Record one with scalable.instrument(client), or point at "
            "another directory"
        )
    if run_id is None:
        return next((run for run in runs if run.document), runs[0])
    matching = [run for run in runs if run.path.name.startswith(run_id)]
    if len(matching) == 1:
        return matching[0]
    if not matching:
        raise RunNotFoundError(
            f"no run in {runs_dir} begins with {run_id!r}; the latest of {len(runs)} is "
            f"{runs[0].path.name}"
        )
    ids = [run.path.name for run in matching]
    more = f" and {len(ids) - 5} more" if len(ids) > 5 else ""
    raise AmbiguousRunError(
        f"{run_id!r} begins {', '.join(ids[:5])}{more}: give more of the id", ids
    )


def parse_time(value: Any) -> datetime | None:
    """Return an ISO 8601 time as an aware datetime (UTC unless it says otherwise), else None."""
    if not isinstance(value, str):
        return None
    try:
        time = datetime.fromisoformat(value)
        return (time if time.tzinfo is not None else time.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def parse_nanoseconds(value: Any) -> int:
    """Return an ISO 8601 time in nanoseconds since the epoch, in whole microseconds.

    0 of what is no time, and of times that OpenTelemetry cannot express.
    """
    time = parse_time(value)
    nanoseconds = 0 if time is None else (time - _EPOCH) // _MICROSECOND * 1000
    return nanoseconds if 0 <= nanoseconds < 2**63 else 0


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_MARK: Final = {"bytes": fields.count, "seq": fields.count, "crc32": fields.count}
_JOURNALS: Final = frozenset((*schema.JOURNALS, *schema.SIGNALS))
_NO_MARK: Final = (0, 0, 0)


class _Sequence:
    """Follows `seq` through a journal; used by the thread that reads."""

    __slots__ = ("_problems", "before", "last")

    def __init__(self, problems: FileProblems) -> None:
        self._problems = problems
        #: The last number seen.
        self.last = 0
        #: The number before a jump forward, while that jump was the line before.
        self.before: int | None = None

    def follows(self, seq: Any) -> bool:
        """Note the number of a record; False if the record came before already."""
        if seq == self.last + 1:
            self.last += 1
            self.before = None
            return True
        if seq is None:
            return True  # older tools wrote none
        problems = self._problems
        if type(seq) is not int or seq < 1:
            problems.disordered += 1
            return True
        if seq > self.last:
            self.before = self.last
            self._skip(self.last + 1, seq - 1)
            self.last = seq
            return True
        before, self.before = self.before, None
        if before is not None and before + 1 < seq:
            # The line before had a damaged number, this one continues the one before that.
            problems.missing -= self.last - 1 - before
            if problems.gaps and problems.gaps[-1] == (before + 1, self.last - 1):
                problems.gaps.pop()
            problems.disordered += 1
            if before + 2 < seq:
                self._skip(before + 2, seq - 1)
            self.last = seq
            return True
        problems.repeated += 1
        return False

    def end(self, synced: int) -> None:
        """Count what had been synced and is not there."""
        if synced > self.last:
            self._skip(self.last + 1, synced)

    def _skip(self, first: int, last: int) -> None:
        self._problems.missing += last - first + 1
        if len(self._problems.gaps) < MAX_GAPS:
            self._problems.gaps.append((first, last))


def _blocks(
    path: Path,
    mark: tuple[int, int, int],
    problems: FileProblems,
    progress: Callable[[int], None] | None,
) -> Iterator[tuple[list[bytes], bool]]:
    """Yield a file's lines block by block, and whether they are the end that has no newline."""
    synced, _, expected_crc = mark
    crc = position = held = 0
    # The beginning of a line whose end has not been read yet, as the blocks that it came in.
    begun: list[bytes] = []
    too_long = False
    with open_file(path) as fd:
        while block := os.read(fd, _BLOCK):
            hole = _skip_hole(fd, block)
            if position < synced:
                # A hole within what was synced cannot be what was written.
                crc = -1 if hole or crc < 0 else zlib.crc32(block[: synced - position], crc)
            position += len(block) + hole
            if progress is not None:
                progress(len(block) + hole)
            end = block.find(b"\n")
            if too_long:
                problems.nul_bytes += block.count(b"\0", 0, end if end >= 0 else len(block)) + hole
                if end < 0:
                    continue
                block, too_long = block[end + 1 :], False
                end = block.find(b"\n")
            if end >= 0:
                *lines, rest = block.split(b"\n")
                if begun:
                    lines[0] = b"".join((*begun, lines[0]))
                yield lines, False
                begun, held = [], 0
                block = rest
            begun.append(block)
            held += len(block) + hole
            if held > _MAX_LINE:
                problems.broken += 1
                problems.nul_bytes += sum(part.count(b"\0") for part in begun) + hole
                begun, held, too_long = [], 0, True
        if held:
            yield [b"".join(begun)], True
    if position < synced:
        problems.missing_bytes += synced - position
    elif crc != expected_crc:
        problems.crc_mismatches += 1


def _repaired(line: bytes, problems: FileProblems, at_end: bool) -> Any:
    """Count a line that is not JSON; return what it holds between NULs, if that is a record."""
    stripped = line.strip(b"\0")
    problems.nul_bytes += len(line) - len(stripped)
    if len(stripped) < len(line):
        if not stripped:
            return None
        try:
            return orjson.loads(stripped)
        except ValueError:
            pass
    if not stripped.strip():
        return None
    problems.nul_bytes += stripped.count(b"\0")
    if at_end:
        problems.torn += 1
    else:
        problems.broken += 1
    return None


def _skip_hole(fd: int, block: bytes) -> int:
    """Skip what was never written behind a block of NULs of a sparse file; return its bytes.

    Only a hole longer than any line is skipped.
    """
    if block[-1] or block.strip(b"\0"):
        return 0
    here, size = os.lseek(fd, 0, os.SEEK_CUR), os.fstat(fd).st_size
    if size - here <= _MAX_LINE:
        return 0
    try:
        data = os.lseek(fd, here, os.SEEK_DATA)
    except OSError as error:
        # Nothing follows; or the file system does not tell.
        data = size if error.errno == errno.ENXIO else here
    if data - here <= _MAX_LINE:
        data = here
    return os.lseek(fd, data, os.SEEK_SET) - here


@contextmanager
def open_file(path: Path) -> Generator[int]:
    """Open a regular file; a link, a pipe or a device in its place is an error, and never waits."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError("it is not a regular file")
        yield fd
    finally:
        os.close(fd)


def _read_all(fd: int) -> bytes:
    size = os.fstat(fd).st_size
    if size > _MAX_DOCUMENT:
        raise OSError(f"it is larger than {_MAX_DOCUMENT // 1024**2} MiB")
    parts: list[bytes] = []
    while part := os.read(fd, _BLOCK):
        parts.append(part)
    return b"".join(parts)


def _nul_bytes(error: ValueError) -> int:
    document = getattr(error, "doc", "")
    return document.count("\0") if isinstance(document, str) else 0


def _segment_of(name: str) -> tuple[str, int]:
    """Return the journal that a file belongs to, and its number there; 0 is the first."""
    match = _SEGMENT.fullmatch(name)
    return (f"{match[1]}.jsonl", int(match[2])) if match else (name, 0)


_SEGMENT: Final = re.compile(r"(.+)\.([1-9]\d{0,5})\.jsonl", re.DOTALL)


def _encodable(text: str) -> str:
    """Return a file's name as text that can be encoded: a name may be any bytes."""
    return text.encode(errors="replace").decode()


def _start_key(run: RunReader) -> tuple[datetime, str]:
    started = run.started_at
    if started is None and (match := _ID_TIME.match(run.path.name)):
        started = parse_time(f"{match[1]}+00:00")
    if started is None:
        try:
            started = datetime.fromtimestamp(run.path.stat().st_mtime, UTC)
        except OSError:
            started = datetime.fromtimestamp(0, UTC)
    return started, run.path.name
