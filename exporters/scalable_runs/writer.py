"""Writes one run directory so that what was written survives a crash of anything around it.

What holds, and how:

- A line reaches the kernel whole: lines are joined to pieces of at most 64 KiB, each handed over by
  one `write` on a descriptor opened with `O_APPEND`. A short write is finished later, at the
  very place.
- Two losses are apart. A killed process loses what was not flushed; a power cut loses what was not
  synced. A thread of its own syncs on a timer, and at once when asked to.
- After a failed `fsync` the kernel may have dropped the pages and call them clean: nothing written
  since the last good one is certain. It is counted so, and writing goes on in a new file.
- `run.json` and `summary.json` are replaced: temporary file, fsync, rename, fsync of the directory.
- Nothing here raises into the application once the directory is made: what could not be written is
  counted by file, the sequence number of a lost line stays used, and `run.json` tells.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import orjson

from scalable_runs import schema
from scalable_runs._process import Owner, this_process
from scalable_runs.schema import Record, RunDocument

#: Bytes handed to the kernel at once. Larger writes were seen torn after a kill.
_PIECE: Final = 64 * 1024
#: Buffered bytes at which `append` itself flushes.
_FLUSH_AT: Final = 1024 * 1024
#: Buffered bytes from which on new lines are lost: the disk is full or hangs.
_MAX_BUFFERED: Final = 16 * 1024 * 1024
#: A storm of failures asks for a sync each; the disk sees at most ten a second.
_MIN_SYNC_GAP: Final = 0.1
#: A reader takes a remote recorder for dead after 30 s without a sign of life.
_MAX_HEARTBEAT_GAP: Final = 10.0
#: After that many failed syncs of one journal its last file is written on, but no longer trusted.
_MAX_SEGMENTS: Final = 100
#: Kept for the last run.json and summary.json of a run whose disk is full, and kept open for the
#: last run.json of a process that may open no file any more.
_RESERVE: Final = ".reserve"
_RESERVE_BYTES: Final = 32 * 1024
_TEMPORARY: Final = ".{}.tmp"

_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
#: File systems that cannot sync at all say so with these; that is no sign of lost data.
_CANNOT_SYNC: Final = frozenset({errno.EINVAL, errno.ENOSYS, errno.ENOTSUP})
_NO_DESCRIPTOR: Final = frozenset({errno.EMFILE, errno.ENFILE})
_IS_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})

_OPTIONS: Final = orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z
_PRETTY: Final = _OPTIONS | orjson.OPT_INDENT_2
#: Deeper than that a value that orjson refused is cut off: it may contain itself.
_MAX_DEPTH: Final = 32


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that keeps the record from being complete.

    Attributes
    ----------
    kind
        What failed and how, as counted in :attr:`RunWriter.errors`: `write:ENOSPC`, `fsync:EIO`,
        `removed`, …
    file
        The file it happened to, empty if it is none in particular.
    message
        One sentence for a person.
    """

    kind: str
    file: str
    message: str


class Found(NamedTuple):
    """What a writer that died has left of one journal.

    Attributes
    ----------
    last
        Number of the last line that is there.
    given_out
        Last number that is known to have been given out: what is between was lost.
    lines
        How many lines there are.
    """

    last: int
    given_out: int
    lines: int


def identity(record: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what tells a record from others of its journal, made of the same facts once more."""
    return tuple(value for name in _IDENTITY if (value := record.get(name)).__class__ in _SIMPLE)


_IDENTITY: Final = (
    *("timestamp", "event_type", "task_id", "state", "attempt", "entity_type", "entity_id"),
    *("worker_id", "worker", "failure_class", "span_id", "name", "body", "artifact_name"),
)
_SIMPLE: Final = frozenset({str, int})


class _Journal:
    """One journal: its buffered lines, and the file they go to. No thread of its own.

    `seq`, `lines` belong to the writer's buffer lock, everything else to its file lock.
    """

    __slots__ = (
        "backlog",
        "crc32",
        "fd",
        "file",
        "lines",
        "marks",
        "name",
        "segment",
        "segment_lines",
        "seq",
        "synced_lines",
        "torn",
        "trusted",
        "written_bytes",
        "written_lines",
        "written_seq",
    )

    def __init__(self, file: str) -> None:
        self.file = file
        #: Last sequence number given out.
        self.seq = 0
        self.lines: list[bytes] = []
        #: Lines that a flush could not hand over.
        self.backlog = b""
        #: Bytes of the backlog's first line that are in the file already.
        self.torn = 0
        self.fd = -1
        self.segment = 0
        self.name = file
        self.trusted = True
        self.marks: dict[str, schema.JournalMark] = {}
        #: Lines in each earlier file of this journal.
        self.segment_lines: dict[str, int] = {}
        self.begin_segment()
        self.written_seq = 0

    def begin_segment(self) -> None:
        self.written_bytes = 0
        self.written_lines = 0
        self.synced_lines = 0
        self.crc32 = 0
        self.torn = 0

    @property
    def total_lines(self) -> int:
        return self.written_lines + sum(self.segment_lines.values())


class RunWriter:
    """The one writer of one run directory.

    Any thread may call it; `append`, `request_sync` and `update_run` never wait for the disk,
    unless much is buffered. One daemon thread of its own syncs and writes run.json. In a forked
    child every method does nothing: the run belongs to the process that made it.

    Attributes
    ----------
    path
        The run's directory.
    run_id
        Its id.
    losses
        Lines lost, by file: exact.
    uncertain
        Lines written before an `fsync` that failed, by file: they may be there or not.
    errors
        How often what failed, such as `{"write:ENOSPC": 3, "fsync:EIO": 1}`.
    """

    path: Path
    run_id: str
    losses: dict[str, int]
    uncertain: dict[str, int]
    errors: dict[str, int]

    @classmethod
    def create(
        cls,
        runs_dir: str | os.PathLike[str],
        run: RunDocument,
        *,
        manifest: str = "",
        plan: Mapping[str, Any] | None = None,
        lock: str = "",
        sync_interval: float = 5.0,
        on_problem: Callable[[Problem], None] | None = None,
        program: int | None = None,
    ) -> RunWriter:
        """Make the directory of a run, with every file but summary.json, and start writing.

        Parameters
        ----------
        runs_dir
            Where runs live; made if missing.
        run
            run.json; its `run_id` names the directory.
        manifest, plan, lock
            Contents of manifest.yaml, plan.json and manifest.lock.
        sync_interval
            Seconds between two syncs.
        on_problem
            Called once for each kind of problem, on the thread that met it, which holds no lock.
        program
            Id of the process whose run it is, where this one only writes it: readers take a run
            for lost when either of them is gone. Default: this process.

        Raises
        ------
        ValueError
            The run id is not a plain file name (see :data:`scalable_runs.schema.RUN_ID_PATTERN`).
        FileExistsError
            The run exists: a run has one writer, ever.
        OSError
            The directory or a file in it cannot be made; nothing is left behind.
        """
        run_id = str(run.get("run_id"))
        if schema.RUN_ID_PATTERN.fullmatch(run_id) is None:
            raise ValueError(
                f"not a run id: {run_id!r}; allowed are up to 128 letters, digits, '.', '_' and "
                "'-', the first a letter or a digit"
            )
        if sync_interval <= 0:
            raise ValueError(f"sync_interval must be above 0, not {sync_interval!r}")
        documents = {
            schema.MANIFEST: _utf8(manifest),
            schema.PLAN: _dumps(dict(plan or {}), _PRETTY),
            schema.LOCK: _utf8(lock),
        }
        writer = cls(
            Path(runs_dir).absolute(), run_id, dict(run), documents, sync_interval, program
        )
        writer._on_problem = on_problem
        writer._make_directory()
        writer._thread.start()
        return writer

    @classmethod
    def resume(
        cls,
        runs_dir: str | os.PathLike[str],
        run: RunDocument,
        found: Mapping[str, Found],
        *,
        sync_interval: float = 5.0,
        on_problem: Callable[[Problem], None] | None = None,
        program: int | None = None,
    ) -> RunWriter:
        """Go on with a run whose writer has died; its lines go into new files (`tasks.1.jsonl`).

        Parameters
        ----------
        run
            run.json as the writer has left it; its counts of losses and errors are kept.
        found
            What is there of each journal.
        runs_dir, sync_interval, on_problem, program
            As for :meth:`create`.

        Raises
        ------
        OSError
            The directory cannot be opened or written.
        """
        runs_dir = Path(runs_dir).absolute()
        run_id = str(run.get("run_id"))
        documents: dict[str, bytes] = {}
        for name in (schema.MANIFEST, schema.PLAN, schema.LOCK):
            with contextlib.suppress(OSError):
                documents[name] = (runs_dir / run_id / name).read_bytes()
        left: dict[str, Any] = dict(run)
        telemetry: Mapping[str, Any] = left.pop("telemetry", None) or {}
        marks: Mapping[str, Any] = left.pop("journal", None) or {}
        writer = cls(runs_dir, run_id, left, documents, sync_interval, program)
        writer._on_problem = on_problem
        journals = (*schema.JOURNALS, *schema.SIGNALS)
        dropped: Mapping[str, int] = telemetry.get("dropped") or {}
        writer.losses = {file: count for file, count in dropped.items() if file in journals}
        writer.errors = dict(telemetry.get("errors") or {})
        writer.uncertain = dict(telemetry.get("uncertain") or {})
        for file, there in found.items():
            journal = writer._journals.get(file) or writer._add_journal(file)
            journal.seq = journal.written_seq = max(there.last, there.given_out)
            writer._lose(file, journal.seq - there.last)
            journal.segment_lines[file] = there.lines
            pattern = schema.segments_of(file)
            journal.marks.update({name: marks[name] for name in marks if pattern.fullmatch(name)})
        writer._directory = os.open(writer.path, _OPEN_DIRECTORY | os.O_NOFOLLOW)
        writer._replace_once(schema.OWNER, _dumps(dict(writer._owner), _PRETTY))
        writer._open_reserve()
        writer._thread.start()
        writer.request_sync()
        return writer

    def __init__(
        self,
        runs_dir: Path,
        run_id: str,
        run: dict[str, Any],
        documents: dict[str, bytes],
        sync_interval: float,
        program: int | None,
    ) -> None:
        """Use :meth:`create`."""
        self.run_id = run_id
        self.path = runs_dir / run_id
        self.losses = {}
        self.uncertain = {}
        self.errors = {}
        #: Lines, by journal and :func:`identity`, that will come again and are there already.
        self.written: dict[str, Counter[Any]] = {}
        self._pid = os.getpid()
        self._runs_dir = runs_dir
        self._run = run
        self._documents = documents
        self._interval = min(sync_interval, _MAX_HEARTBEAT_GAP)
        self._on_problem: Callable[[Problem], None] | None = None
        self._head = b'{"schema_version":%d,"run_id":"%b","seq":' % (
            schema.SCHEMA_VERSION,
            run_id.encode(),
        )
        self._owner: Owner = this_process(_now(), program)
        self._journals = {file: _Journal(file) for file in schema.JOURNALS}
        self._directory = -1
        self._reserve = -1
        self._retired: list[int] = []
        #: Guards what `append` touches. Never held across I/O; taken after `_files`, never before.
        self._buffer = threading.Lock()
        #: Guards descriptors and positions. Held across `write` and `open`, never across `fsync`.
        self._files = threading.RLock()
        self._buffered = 0
        self._told: set[str] = set()
        self._untold: list[Problem] = []
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._closed = False
        self._summary: Mapping[str, Any] | Callable[[Mapping[str, Any]], Mapping[str, Any]] | None
        self._summary = None
        self._sync_done = threading.Condition()
        self._syncs_asked = 0
        self._syncs_done = 0
        self._last_sync_good = True
        self._thread = threading.Thread(
            target=self._run_thread, name=f"scalable-runs-sync-{run_id[-8:]}", daemon=True
        )

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        return f"<{type(self).__name__} {self.run_id} {state}, {sum(self.losses.values())} lost>"

    # What the application calls

    def append(self, file: str, records: Iterable[Record]) -> int:
        """Take records into a journal, in this order; `schema_version`, `run_id`, `seq` are added.

        Parameters
        ----------
        file
            One of :data:`scalable_runs.schema.JOURNALS` or :data:`~scalable_runs.schema.SIGNALS`.
        records
            Records with at least `event_type` and `timestamp`; encoded before this returns.

        Returns
        -------
        int
            How many were taken; the others are counted in :attr:`losses`.

        Raises
        ------
        ValueError
            There is no such journal.
        """
        if os.getpid() != self._pid:
            return 0
        dumps, head, size, taken = orjson.dumps, self._head, 0, 0
        with self._buffer:
            journal = self._journals.get(file)
            if journal is None:
                journal = self._add_journal(file)
            if self._closed or self._buffered >= _MAX_BUFFERED:
                lost = sum(1 for _ in records)
                journal.seq += lost
                self._lose(file, lost)
                if not self._closed:
                    message = f"{file} loses lines: they come faster than the disk takes them"
                    self._note("overflow", file, message)
            else:
                seq = journal.seq
                add = journal.lines.append
                try:
                    for record in records:
                        seq += 1
                        try:
                            body = dumps(record, _plain, _OPTIONS)
                        except Exception:
                            body = self._rescue(file, record)
                            if body is None:
                                continue
                        line = b"%b%d,%b" % (head, seq, body[1:])
                        size += len(line)
                        taken += 1
                        add(line)
                finally:
                    journal.seq = seq
                    self._buffered += size
            much = self._buffered >= _FLUSH_AT
        if much and self._files.acquire(blocking=False):
            try:
                self._drain()
            finally:
                self._files.release()
        if self._untold:
            self._notify()
        return taken

    def unwritten(self, file: str, records: list[Record]) -> list[Record]:
        """Return the records that are not in :attr:`written`."""
        written = self.written.get(file)
        if not written:
            return records
        left: list[Record] = []
        for record in records:
            key = identity(record)
            if written[key] > 0:
                written[key] -= 1
            else:
                left.append(record)
        return left

    def last_numbers(self) -> dict[str, int]:
        """Return the last `seq` given out for each journal."""
        with self._buffer:
            return {file: journal.seq for file, journal in self._journals.items() if journal.seq}

    def flush(self) -> None:
        """Hand every buffered line to the kernel: it then survives the death of this process.

        What cannot be written is kept and tried again at the next flush, up to 16 MiB.
        """
        if os.getpid() != self._pid:
            return
        with self._files:
            self._drain()
        if self._untold:
            self._notify()

    def request_sync(self) -> None:
        """Ask for a sync now (a failure, a lost worker) and do not wait for it."""
        if os.getpid() == self._pid:
            self._wake.set()

    def sync(self, timeout: float | None = None) -> bool:
        """Flush, and wait until everything appended before is on the disk and marked in run.json.

        Parameters
        ----------
        timeout
            Seconds to wait; None waits as long as the disk takes.

        Returns
        -------
        bool
            False if that failed or took longer.
        """
        if os.getpid() != self._pid or self._closed:
            return False
        with self._sync_done:
            self._syncs_asked += 1
            asked = self._syncs_asked
            self._wake.set()
            in_time = self._sync_done.wait_for(lambda: self._syncs_done >= asked, timeout)
            return in_time and self._last_sync_good

    def update_run(self, *, urgent: bool = False, **changes: Any) -> None:
        """Change fields of run.json; they are written at the next sync.

        Parameters
        ----------
        urgent
            Ask for that sync now.
        **changes
            Fields and their new values. `telemetry` is what the caller itself dropped and met;
            the writer's own counts are added to it.
        """
        if os.getpid() != self._pid:
            return
        with self._buffer:
            self._run.update(changes)
        if urgent:
            self.request_sync()

    def count_error(self, kind: str, message: str, file: str = "") -> None:
        """Count a problem of the caller among this writer's, and tell of its kind once.

        Parameters
        ----------
        kind
            Name of the counter, in the manner of `encode:TypeError`.
        message
            One sentence for a person.
        file
            The file that lacks something because of it.
        """
        if os.getpid() != self._pid:
            return
        with self._buffer:
            self._note(kind, file, message)
        self._notify()

    def close(
        self,
        summary: Mapping[str, Any] | Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None,
        *,
        timeout: float = 10.0,
        **changes: Any,
    ) -> None:
        """Write what is left, sync, and replace summary.json and run.json a last time.

        The second call and later ones do nothing.

        Parameters
        ----------
        summary
            Contents of summary.json, or what makes them of the final run.json; its `run` is always
            the final run.json. Without it no summary.json is written: the reader computes one.
        timeout
            Seconds to wait for a disk that hangs; the daemon thread goes on trying after that.
        **changes
            Last changes of run.json, such as `status` and `finished_at`.
        """
        if os.getpid() != self._pid:
            return
        with self._buffer:
            if self._closing.is_set():
                return
            self._run.update(changes)
            self._summary = summary
            self._closing.set()
        self._wake.set()
        if self._thread is threading.current_thread():
            return
        if self._thread.is_alive():
            self._thread.join(timeout)
        else:
            self._finish()
        if self._thread.is_alive():
            with self._buffer:
                self._note("close:timeout", "", f"the disk did not answer within {timeout:g} s")
        self._notify()

    # Buffer: with `_buffer` held

    def _add_journal(self, file: str) -> _Journal:
        if file not in schema.SIGNALS:
            raise ValueError(f"no journal is called {file!r}")
        journal = self._journals[file] = _Journal(file)
        return journal

    def _rescue(self, file: str, record: Record) -> bytes | None:
        """Encode what orjson refuses: lone surrogates, huge integers, values within themselves."""
        try:
            return orjson.dumps(_sanitised(record, 0), _plain, _OPTIONS)
        except Exception as error:
            self._lose(file, 1)
            kind = f"encode:{type(error).__name__}"
            self._note(kind, file, f"a record of {file} cannot be written as JSON")
            return None

    def _lose(self, file: str, lines: int) -> None:
        if lines:
            self.losses[file] = self.losses.get(file, 0) + lines

    def _note(self, kind: str, file: str, message: str) -> None:
        self.errors[kind] = self.errors.get(kind, 0) + 1
        if kind not in self._told:
            self._told.add(kind)
            self._untold.append(Problem(kind, file, message))

    # Files: with `_files` held

    def _drain(self) -> None:
        if self._directory < 0 and not self._recover_directory():
            return
        for journal in tuple(self._journals.values()):
            if journal.lines or journal.backlog:
                self._drain_journal(journal)

    def _drain_journal(self, journal: _Journal) -> None:
        with self._buffer:
            lines, journal.lines = journal.lines, []
        if lines:
            fresh = b"".join(lines)
            journal.backlog = journal.backlog + fresh if journal.backlog else fresh
        try:
            if journal.fd < 0:
                self._open_journal(journal)
            elif os.fstat(journal.fd).st_nlink == 0:
                self._replace_removed(journal)
        except OSError as error:
            self._failed("open", journal.file, error)
            return
        data = journal.backlog
        done = 0
        try:
            view = memoryview(data)
            while done < len(data):
                end = _piece_end(data, done)
                at = done + journal.torn
                while at < end:
                    written = os.write(journal.fd, view[at:end])
                    if written <= 0:
                        raise OSError(errno.EIO, os.strerror(errno.EIO))
                    journal.crc32 = zlib.crc32(view[at : at + written], journal.crc32)
                    journal.written_bytes += written
                    at += written
                    journal.torn = at - done
                self._count_written(journal, data, done, end)
                done = end
                journal.torn = 0
        except OSError as error:
            # Of a piece that was cut short, the whole lines have arrived all the same.
            whole = data.rfind(b"\n", done, done + journal.torn) + 1
            if whole > done:
                self._count_written(journal, data, done, whole)
                journal.torn -= whole - done
                done = whole
            self._failed("write", journal.file, error)
        finally:
            journal.backlog = data[done:]
            with self._buffer:
                self._buffered -= done

    def _count_written(self, journal: _Journal, data: bytes, start: int, end: int) -> None:
        journal.written_lines += data.count(b"\n", start, end)
        last = data.rfind(b"\n", start, end - 1) + 1 or start
        at = max(last, start) + len(self._head)
        journal.written_seq = int(data[at : data.index(b",", at)])

    def _open_journal(self, journal: _Journal) -> None:
        """Open the journal's next file that nobody has: never append to what another left."""
        while True:
            name = _segment_name(journal.file, journal.segment)
            try:
                fd = os.open(name, _CREATE | os.O_APPEND, 0o600, dir_fd=self._directory)
                break
            except FileExistsError:
                if journal.segment >= 2 * _MAX_SEGMENTS:
                    raise
                journal.segment += 1
        journal.begin_segment()
        journal.name, journal.fd = name, fd
        journal.marks[name] = _mark(journal)

    def _replace_removed(self, journal: _Journal) -> None:
        """Go on after somebody removed a journal, or all of the directory."""
        if self._directory_is_gone():
            self._remake_directory()
            return
        with self._buffer:
            self._lose(journal.file, journal.written_lines)
            message = f"{journal.file} was removed while the run was recorded"
            self._note("removed", journal.file, message)
        self._retire(journal)
        self._open_journal(journal)

    def _recover_directory(self) -> bool:
        try:
            if self._directory >= 0:
                self._remake_directory()
            else:
                self._make_directory()
        except OSError as error:
            self._failed("open", "", error)
            return False
        return True

    def _directory_is_gone(self) -> bool:
        try:
            return os.fstat(self._directory).st_nlink == 0
        except OSError as error:
            return error.errno == errno.ESTALE

    def _remake_directory(self) -> None:
        again = self._reopened()
        self._retired.append(self._directory)
        if again is not None:
            self._directory = again
            self._continue_in_new_files()
            return
        with self._buffer:
            self._note("removed", "", "the run's directory was removed while it was recorded")
            for journal in self._journals.values():
                self._lose(journal.file, journal.total_lines)
        for journal in self._journals.values():
            self._retire(journal)
            journal.segment_lines.clear()
            journal.marks.clear()
            journal.written_lines = journal.segment = 0
        self._directory = -1
        self._make_directory()

    def _reopened(self) -> int | None:
        """Open the directory anew if it is still ours: a file server may have come back."""
        try:
            directory = os.open(self.path, _OPEN_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            return None
        try:
            owner = os.open(schema.OWNER, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=directory)
            try:
                ours = os.read(owner, _PIECE) == _dumps(dict(self._owner), _PRETTY)
            finally:
                os.close(owner)
        except OSError:
            ours = False
        if ours:
            return directory
        os.close(directory)
        return None

    def _continue_in_new_files(self) -> None:
        """The descriptors went stale: what was not synced through them is uncertain."""
        with self._buffer:
            self._note("stale", "", "the run's directory had to be opened anew")
        for journal in self._journals.values():
            if journal.fd >= 0:
                self._leave_segment(journal)

    def _retire(self, journal: _Journal) -> None:
        """The sync thread may be within `fsync` of this descriptor: it closes it later."""
        if journal.fd >= 0:
            self._retired.append(journal.fd)
        journal.fd = -1
        journal.marks.pop(journal.name, None)
        journal.begin_segment()

    def _make_directory(self) -> None:
        """Make the directory and all its files, or leave nothing."""
        self._runs_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        runs = os.open(self._runs_dir, _OPEN_DIRECTORY)
        made: list[str] = []
        try:
            os.mkdir(self.run_id, 0o700, dir_fd=runs)
            try:
                flags = _OPEN_DIRECTORY | os.O_NOFOLLOW
                self._directory = os.open(self.run_id, flags, dir_fd=runs)
                for name, data in (
                    (schema.OWNER, _dumps(dict(self._owner), _PRETTY)),
                    *self._documents.items(),
                    (_RESERVE, bytes(_RESERVE_BYTES)),
                ):
                    made.append(name)
                    self._write_new(name, data)
                for journal in self._journals.values():
                    if journal.fd < 0 and (journal.file in schema.JOURNALS or journal.written_seq):
                        made.append(journal.file)
                        self._open_journal(journal)
                made.append(schema.RUN)
                self._write_new(schema.RUN, self._run_json()[1])
                os.fsync(self._directory)
                os.fsync(runs)
                self._open_reserve()
            except BaseException:
                self._unmake_directory(runs, made)
                raise
        finally:
            os.close(runs)

    def _unmake_directory(self, runs: int, made: Iterable[str]) -> None:
        for journal in self._journals.values():
            if journal.fd >= 0:
                os.close(journal.fd)
                journal.fd = -1
        with contextlib.suppress(OSError):
            if self._directory >= 0:
                for name in made:
                    with contextlib.suppress(OSError):
                        os.unlink(name, dir_fd=self._directory)
                os.close(self._directory)
                self._directory = -1
            os.rmdir(self.run_id, dir_fd=runs)

    def _write_new(self, name: str, data: bytes) -> None:
        fd = os.open(name, _CREATE, 0o600, dir_fd=self._directory)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            os.fsync(fd)
        finally:
            os.close(fd)

    def _failed(self, what: str, file: str, error: OSError) -> None:
        name = errno.errorcode.get(error.errno or 0, type(error).__name__)
        with self._buffer:
            message = f"{what} of {file or 'the run directory'} failed: {error.strerror or error}"
            self._note(f"{what}:{name}", file, message)

    # The sync thread

    def _run_thread(self) -> None:
        while not self._closing.is_set():
            self._wake.wait(self._interval)
            self._wake.clear()
            if self._closing.is_set():
                break
            with self._sync_done:
                asked = self._syncs_asked
            good = self._guarded(self._sync)
            with self._sync_done:
                self._syncs_done, self._last_sync_good = asked, good
                self._sync_done.notify_all()
            self._notify()
            self._closing.wait(_MIN_SYNC_GAP)
        self._finish()

    def _guarded(self, step: Callable[[], bool]) -> bool:
        """Whatever goes wrong, the thread lives on: it is what tells of it."""
        try:
            return step()
        except Exception as error:
            with self._buffer:
                kind = f"internal:{type(error).__name__}"
                self._note(kind, "", f"{type(error).__name__} while syncing: {error}")
            return False

    def _sync(self) -> bool:
        return self._sync_journals() and self._replace_run()

    def _sync_journals(self) -> bool:
        with self._files:
            self._drain()
            self._close_retired()
            if self._directory < 0 or self._directory_is_gone():
                if not self._recover_directory():
                    return False
                self._drain()
            good = not any(journal.backlog for journal in self._journals.values())
            dirty = [
                (journal, journal.fd, journal.written_lines, _mark(journal))
                for journal in self._journals.values()
                if journal.fd >= 0
                and journal.trusted
                and (
                    journal.written_lines > journal.synced_lines
                    or journal.marks[journal.name]["bytes"] != journal.written_bytes
                )
            ]
        for journal, fd, lines, mark in dirty:
            try:
                size = os.fstat(fd).st_size
                os.fsync(fd)
            except OSError as error:
                good = False
                self._failed("fsync", journal.file, error)
                with self._files:
                    if journal.fd == fd and error.errno not in _CANNOT_SYNC:
                        self._leave_segment(journal)
            else:
                with self._files:
                    if journal.fd != fd:
                        good = False
                    elif size < mark["bytes"] or size > journal.written_bytes:
                        good = False
                        self._damaged(journal)
                    else:
                        journal.synced_lines = lines
                        journal.marks[journal.name] = mark
        return good

    def _leave_segment(self, journal: _Journal) -> None:
        """Nothing written since the last good sync is certain: say so and go on elsewhere."""
        doubtful = journal.written_lines - journal.synced_lines
        if doubtful:
            with self._buffer:
                self.uncertain[journal.file] = self.uncertain.get(journal.file, 0) + doubtful
        if journal.segment >= _MAX_SEGMENTS:
            journal.trusted = False
            return
        self._retired.append(journal.fd)
        journal.fd = -1
        journal.segment_lines[journal.name] = journal.written_lines
        journal.segment += 1
        journal.begin_segment()
        try:
            self._open_journal(journal)
            os.fsync(self._directory)
        except OSError as error:
            self._failed("open", journal.file, error)

    def _damaged(self, journal: _Journal) -> None:
        with self._buffer:
            message = f"somebody else wrote into {journal.file} or cut it"
            self._note("damaged", journal.file, message)
        self._leave_segment(journal)

    def _close_retired(self) -> None:
        retired, self._retired = self._retired, []
        for fd in retired:
            with contextlib.suppress(OSError):
                os.close(fd)

    def _replace_run(self) -> bool:
        return self._replace(schema.RUN, self._run_json()[1])

    def _replace(self, name: str, data: bytes) -> bool:
        """Replace a document atomically; at the end of the run not only once."""
        if self._directory < 0:
            return False
        for attempts_left in (2, 1, 0) if self._closing.is_set() else (0,):
            try:
                self._replace_once(name, data)
            except OSError as error:
                made_room = error.errno in _IS_FULL and attempts_left and self._free_reserve()
                if not made_room:
                    self._failed("replace", name, error)
            else:
                return True
        return False

    def _replace_once(self, name: str, data: bytes) -> None:
        temporary, directory = _TEMPORARY.format(name), self._directory
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=directory)
            self._write_new(temporary, data)
            os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
            os.fsync(directory)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=directory)
            last = name == schema.RUN and self._closing.is_set()
            if not (last and error.errno in _NO_DESCRIPTOR and self._reserve >= 0):
                raise
            self._turn_reserve_into(name, data)

    def _open_reserve(self) -> None:
        flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        self._close_reserve()
        with contextlib.suppress(OSError):
            self._reserve = os.open(_RESERVE, flags, dir_fd=self._directory)

    def _close_reserve(self) -> None:
        if self._reserve >= 0:
            os.close(self._reserve)
            self._reserve = -1

    def _turn_reserve_into(self, name: str, data: bytes) -> None:
        """Replace a document without opening a file."""
        os.ftruncate(self._reserve, 0)
        done = 0
        while done < len(data):
            done += os.pwrite(self._reserve, data[done:], done)
        os.fsync(self._reserve)
        os.rename(_RESERVE, name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        os.fsync(self._directory)
        self._close_reserve()

    def _free_reserve(self) -> bool:
        """Make room for the last words of a run whose disk is full; False if there is none."""
        self._close_reserve()
        try:
            os.unlink(_RESERVE, dir_fd=self._directory)
        except OSError:
            return False
        return True

    def _run_json(self) -> tuple[dict[str, Any], bytes]:
        with self._buffer:
            run = dict(self._run)
            given = cast("dict[str, Any]", run.get("telemetry") or {})
            run["recorder"] = {
                "host": self._owner["host"],
                "pid": self._owner["pid"],
                "boot_id": self._owner["boot_id"],
                "heartbeat_at": _now(),
            }
            telemetry = {
                **given,
                "dropped": _added(given.get("dropped"), self.losses),
                "errors": _added(given.get("errors"), self.errors),
            }
            if self.uncertain:
                telemetry["uncertain"] = dict(self.uncertain)
            run["telemetry"] = telemetry
            run["journal"] = {
                name: mark
                for journal in self._journals.values()
                for name, mark in journal.marks.items()
            }
        return run, _dumps(run, _PRETTY)

    def _finish(self) -> None:
        """Do the last sync, on the thread if it lives: a disk that hangs then hangs only that."""
        with self._buffer:
            self._closed = True
        self._guarded(self._sync_journals)
        self._guarded(self._close_journals)
        self._guarded(self._write_summary)
        self._guarded(self._write_last_run)
        with self._files:
            self._close_retired()
            if self._directory >= 0:
                with contextlib.suppress(OSError):
                    os.close(self._directory)
                self._directory = -1
        with self._sync_done:
            self._syncs_done, self._last_sync_good = self._syncs_asked, False
            self._sync_done.notify_all()
        self._notify()

    def _close_journals(self) -> bool:
        with self._files:
            for journal in self._journals.values():
                if journal.fd >= 0:
                    fd, journal.fd = journal.fd, -1
                    try:
                        os.close(fd)
                    except OSError as error:
                        self._failed("close", journal.file, error)
                with self._buffer:
                    self._lose(journal.file, journal.backlog.count(b"\n") + len(journal.lines))
                    journal.lines.clear()
                journal.backlog = b""
        return True

    def _write_summary(self) -> bool:
        if self._summary is None:
            return True
        run, _ = self._run_json()
        summary = self._summary(run) if callable(self._summary) else self._summary
        return self._replace(
            schema.SUMMARY, _dumps({"run": run, **summary} | {"run": run}, _PRETTY)
        )

    def _write_last_run(self) -> bool:
        replaced = self._replace_run()
        self._free_reserve()
        return replaced

    def _notify(self) -> None:
        """Call `on_problem` with no lock held, whatever it does."""
        if not self._untold:
            return
        with self._buffer:
            untold, self._untold = self._untold, []
        if self._on_problem is not None:
            for problem in untold:
                with contextlib.suppress(Exception):
                    self._on_problem(problem)


def _mark(journal: _Journal) -> schema.JournalMark:
    return {
        "bytes": journal.written_bytes,
        "seq": journal.written_seq,
        "crc32": journal.crc32,
    }


def _segment_name(file: str, segment: int) -> str:
    return file if segment == 0 else f"{file.removesuffix('.jsonl')}.{segment}.jsonl"


def _piece_end(data: bytes, start: int) -> int:
    """Return the end of the piece that starts here: whole lines, 64 KiB at most unless one is."""
    end = start + _PIECE
    if end >= len(data):
        return len(data)
    return data.rfind(b"\n", start, end) + 1 or data.index(b"\n", end) + 1


def _now() -> str:
    return f"{datetime.fromtimestamp(time.time(), UTC):%Y-%m-%dT%H:%M:%S.%f}Z"


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")


def _added(given: Any, own: Mapping[str, int]) -> dict[str, Any]:
    counts: Counter[str] = Counter(cast("dict[str, int]", given or {}))
    counts.update(own)
    return dict(counts)


def _dumps(document: Mapping[str, Any], options: int) -> bytes:
    try:
        return orjson.dumps(document, _plain, options)
    except Exception:
        return orjson.dumps(_sanitised(document, 0), _plain, options)


def _plain(value: Any) -> Any:
    """Stand in for what JSON has no word for. No method of a foreign class is called."""
    if isinstance(value, Mapping):
        return {_key(key): item for key, item in _items(cast("Mapping[Any, Any]", value))}
    if isinstance(value, (set, frozenset)):
        return list(cast("set[Any]", value))
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).decode("utf-8", "backslashreplace")
    if isinstance(value, os.PathLike):
        return _utf8(os.fspath(cast("os.PathLike[str]", value))).decode()
    return f"<{type(value).__name__}>"


def _sanitised(value: Any, depth: int) -> Any:
    if isinstance(value, bool) or value is None or isinstance(value, float):
        return value
    if isinstance(value, str):
        return str.encode(value, "utf-8", "backslashreplace").decode()
    if isinstance(value, int):
        if -(2**63) <= value < 2**64:
            return value
        return str(value) if value.bit_length() <= 4096 else f"<int of {value.bit_length()} bits>"
    if depth >= _MAX_DEPTH:
        return "<nested too deeply>"
    if isinstance(value, Mapping):
        return {
            _key(key): _sanitised(item, depth + 1)
            for key, item in _items(cast("Mapping[Any, Any]", value))
        }
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_sanitised(item, depth + 1) for item in cast("Iterator[Any]", value)]
    plain = _plain(value)
    return _sanitised(plain, depth + 1) if isinstance(plain, str) else plain


def _items(value: Mapping[Any, Any]) -> Iterable[tuple[Any, Any]]:
    return dict.items(value) if isinstance(value, dict) else value.items()


def _key(key: Any) -> str:
    if isinstance(key, str):
        return str.encode(key, "utf-8", "backslashreplace").decode()
    if key is None or isinstance(key, (bool, int, float)):
        return str(key)
    return f"<{type(key).__name__}>"
