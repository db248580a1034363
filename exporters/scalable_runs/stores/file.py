"""Runs as directories of a file system, which may be shared: a run has one writer.

- Each `write` has whole lines, on a descriptor opened with `O_APPEND`; a short one is completed by
  the next.
- After a failed `fsync` the kernel may have dropped the pages and consider them clean: nothing
  written since the last good one is certain. Writing continues in a new segment.
- A document is replaced: temporary file, fsync, rename, fsync of the directory.
- No link is followed; a pipe or a device in place of a file is an error.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
import threading
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from scalable_runs import journal, schema
from scalable_runs.journal import Segment
from scalable_runs.problems import LossCounter
from scalable_runs.schema import JournalMark
from scalable_runs.stores._directory import (
    CREATE,
    OPEN_DIRECTORY,
    RESERVE,
    TEMPORARY,
    Directory,
    check_not_packed,
    remove_directory,
)
from scalable_runs.stores.base import (
    Entry,
    Found,
    Hole,
    OpenError,
    RunGoneError,
    Store,
    Synced,
    is_inside,
)

#: Bytes read at once.
BLOCK: Final = 256 * 1024
#: A hole longer than that is skipped: it is longer than any line.
_MIN_HOLE: Final = 16 * 1024 * 1024
#: After that many failed syncs of one journal its last segment is written on, but not trusted.
_MAX_SEGMENTS: Final = 100
_APPEND: Final = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
#: Errors of file systems that cannot sync at all; they do not mean that data was lost.
_CANNOT_SYNC: Final = frozenset({errno.EINVAL, errno.ENOSYS, errno.ENOTSUP})


class _Journal:
    """A journal that is being written: its open segment and earlier ones. See `FileStore`."""

    __slots__ = (
        "earlier_lines",
        "fd",
        "marks",
        "name",
        "number",
        "segment",
        "synced_lines",
        "trusted",
    )

    def __init__(self, name: str, seq: int = 0) -> None:
        self.name = name
        self.fd = -1
        self.number = 0
        self.segment = Segment(name, seq)
        self.synced_lines = 0
        #: Whether a sync of the segment still says something.
        self.trusted = True
        #: Lines in earlier segments.
        self.earlier_lines = 0
        self.marks: dict[str, JournalMark] = {}

    def start_segment(self) -> None:
        self.segment = Segment(journal.segment_name(self.name, self.number), self.segment.seq)
        self.synced_lines = 0

    @property
    def is_dirty(self) -> bool:
        written = self.segment
        marked = self.marks[written.name]["bytes"]
        return written.lines > self.synced_lines or written.bytes != marked


class FileStore:
    """One run's directory. Implements :class:`~scalable_runs.stores.base.Store`.

    The writer's threads call it; `append` does not wait for an `fsync`.

    Parameters
    ----------
    path
        The directory; it need not exist.

    Attributes
    ----------
    path
        As given.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = self.directory = Path(path)
        self.location = str(path)
        self._losses = LossCounter()
        self._directory: Directory | None = None
        self._sealed = False
        #: Content of owner.json, by which the directory is recognised.
        self._owner = b""
        self._journals: dict[str, _Journal] = {}
        #: Descriptors that a sync may be using; it closes them later.
        self._retired: list[int] = []
        #: Guards descriptors and segments. Held during `write` and `open`, never during `fsync`.
        self._lock = threading.RLock()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.location!r})"

    # Beginning

    def create(
        self, documents: Mapping[str, bytes], journals: Mapping[str, int], losses: LossCounter
    ) -> None:
        """Make the directory and all its files, or leave nothing."""
        with self._lock:
            check_not_packed(self.path)
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            parent = os.open(self.path.parent, OPEN_DIRECTORY)
            try:
                os.mkdir(self.path.name, 0o700, dir_fd=parent)
                made: list[str] = []
                self._losses = losses
                self._owner = documents.get(schema.OWNER, b"")
                self._journals = {name: _Journal(name, seq) for name, seq in journals.items()}
                try:
                    self._fill(parent, documents, made)
                except BaseException:
                    self._unmake(parent, made)
                    raise
            finally:
                os.close(parent)

    def _fill(self, parent: int, documents: Mapping[str, bytes], made: list[str]) -> None:
        directory = self._directory = Directory(self.path.name, parent)
        *first, last = documents.items()
        for name, data in first:
            made.append(name)
            directory.write_new(name, data)
        made.append(RESERVE)
        directory.write_reserve()
        for file in self._journals.values():
            made.append(file.name)
            self._open(file, directory)
        made.append(last[0])
        directory.write_new(*last)
        os.fsync(directory.fd)
        os.fsync(parent)
        directory.open_reserve()

    def _unmake(self, parent: int, made: list[str]) -> None:
        for file in self._journals.values():
            if file.fd >= 0:
                os.close(file.fd)
                file.fd = -1
        directory, self._directory = self._directory, None
        with contextlib.suppress(OSError):
            if directory is not None:
                for name in made:
                    with contextlib.suppress(OSError):
                        os.unlink(name, dir_fd=directory.fd)
                directory.close()
            os.rmdir(self.path.name, dir_fd=parent)

    def reopen(
        self, found: Mapping[str, Found], marks: Mapping[str, JournalMark], losses: LossCounter
    ) -> None:
        """Open the directory; segments are made when something is appended."""
        with self._lock:
            self._losses = losses
            for name, left in found.items():
                file = self._journals[name] = _Journal(name, max(left.last, left.given_out))
                file.earlier_lines = left.lines
                file.marks = {
                    segment: mark
                    for segment, mark in marks.items()
                    if journal.segment_of(segment)[0] == name
                }
            self._directory = Directory(self.path)
            self._directory.open_reserve()

    # Journals

    def append(self, journal: str, lines: bytes) -> int:
        """Write at the end of the open segment."""
        with self._lock:
            if self._directory is None:
                raise _gone()
            file = self._journals.get(journal)
            if file is None:
                file = self._journals[journal] = _Journal(journal)
            try:
                self._make_ready(file, self._directory)
            except RunGoneError:
                raise
            except OSError as error:
                raise OpenError(error.errno, error.strerror) from error
            segment = file.segment
            view, at = memoryview(lines), segment.torn
            try:
                while at < len(lines):
                    written = os.write(file.fd, view[at:])
                    if written <= 0:
                        raise OSError(errno.EIO, os.strerror(errno.EIO))
                    segment.write(view[at : at + written])
                    at += written
            except OSError:
                if b"\n" not in lines[:at]:
                    segment.torn = at
                    raise
            # Whole lines before the cut have arrived.
            whole = lines.rfind(b"\n", 0, at) + 1
            segment.torn = at - whole
            segment.count(lines[:whole])
            return whole

    def _make_ready(self, file: _Journal, directory: Directory) -> None:
        if file.fd < 0:
            self._open(file, directory)
        elif os.fstat(file.fd).st_nlink == 0:
            if directory.is_gone():
                directory = self._find_directory(directory)
            else:
                self._losses.lose(file.name, file.segment.lines)
                message = f"{file.name} was removed while the run was recorded"
                self._losses.note("removed", file.name, message)
                file.marks.pop(file.segment.name, None)
                self._retire(file)
            if file.fd < 0:
                self._open(file, directory)

    def _open(self, file: _Journal, directory: Directory) -> None:
        """Open the journal's next segment as a new file: nothing is appended to an existing one."""
        while True:
            name = journal.segment_name(file.name, file.number)
            try:
                fd = os.open(name, CREATE | os.O_APPEND, 0o600, dir_fd=directory.fd)
                break
            except FileExistsError:
                if file.number >= 2 * _MAX_SEGMENTS:
                    raise
                file.number += 1
        file.start_segment()
        file.fd = fd
        file.marks[name] = file.segment.mark()

    def _retire(self, file: _Journal) -> None:
        if file.fd >= 0:
            self._retired.append(file.fd)
        file.fd = -1
        file.start_segment()

    def _leave_segment(self, file: _Journal, directory: Directory) -> None:
        """Go on in a new segment: nothing written since the last good sync is certain."""
        self._losses.doubt(file.name, file.segment.lines - file.synced_lines)
        if file.number >= _MAX_SEGMENTS:
            file.trusted = False
            return
        file.earlier_lines += file.segment.lines
        file.number += 1
        self._retire(file)
        try:
            self._open(file, directory)
            os.fsync(directory.fd)
        except OSError as error:
            self._losses.failed("open", file.name, error)

    def sync(self) -> Synced:
        """Call `fsync` for each segment that has something new."""
        with self._lock:
            retired, self._retired = self._retired, []
            for fd in retired:
                with contextlib.suppress(OSError):
                    os.close(fd)
            directory = self._directory
            if directory is None:
                raise _gone()
            if directory.is_gone():
                self._find_directory(directory)
            dirty = [
                (file, file.fd, file.segment.lines, file.segment.mark())
                for file in self._journals.values()
                if file.fd >= 0 and file.trusted and file.is_dirty
            ]
            complete = all(file.trusted for file in self._journals.values())
        for file, fd, lines, mark in dirty:
            complete &= self._sync_file(file, fd, lines, mark)
        with self._lock:
            marks = {
                name: mark for file in self._journals.values() for name, mark in file.marks.items()
            }
        return Synced(marks, complete)

    def _sync_file(self, file: _Journal, fd: int, lines: int, mark: JournalMark) -> bool:
        try:
            size = os.fstat(fd).st_size
            os.fsync(fd)
        except OSError as error:
            self._losses.failed("fsync", file.name, error)
            with self._lock:
                if file.fd == fd and self._directory and error.errno not in _CANNOT_SYNC:
                    self._leave_segment(file, self._directory)
            return False
        with self._lock:
            if file.fd != fd or self._directory is None:
                return False
            if not mark["bytes"] <= size <= file.segment.bytes:
                message = f"another program wrote into {file.name} or cut it"
                self._losses.note("damaged", file.name, message)
                self._leave_segment(file, self._directory)
                return False
            file.synced_lines = lines
            file.marks[file.segment.name] = mark
        return True

    # A directory that was removed

    def _find_directory(self, removed: Directory) -> Directory:
        """Open the directory anew if it is still ours: a file server may have come back.

        Raises
        ------
        RunGoneError
            It is not.
        """
        self._retired.append(removed.fd)
        removed.close_reserve()
        found = self._directory = self._reopened()
        if found is not None:
            self._losses.note("stale", "", "the run's directory had to be opened anew")
            for file in self._journals.values():
                if file.fd >= 0:
                    self._leave_segment(file, found)
            return found
        message = "the run's directory was removed while it was recorded"
        self._losses.note("removed", "", message)
        for file in self._journals.values():
            self._losses.lose(file.name, file.segment.lines + file.earlier_lines)
            self._retire(file)
        self._journals = {}
        raise _gone()

    def _reopened(self) -> Directory | None:
        with contextlib.suppress(OSError):
            directory = Directory(self.path)
            if directory.is_of(self._owner):
                directory.open_reserve()
                return directory
            os.close(directory.fd)
        return None

    # Documents

    def replace(self, name: str, data: bytes) -> None:
        """Rename a temporary file over the document."""
        directory = self._directory
        if directory is None:
            raise _gone()
        if name == schema.OWNER:
            self._owner = data
        directory.replace(name, data, last=self._sealed)

    # Ending

    def seal(self) -> None:
        """Close the journals."""
        with self._lock:
            self._sealed = True
            for file in self._journals.values():
                if file.fd >= 0:
                    fd, file.fd = file.fd, -1
                    try:
                        os.close(fd)
                    except OSError as error:
                        self._losses.failed("close", file.name, error)

    def close(self) -> None:
        """Give up the reserve and all descriptors."""
        with self._lock:
            self.seal()
            if self._directory is not None:
                self._directory.close()
                self._directory = None
            retired, self._retired = self._retired, []
            for fd in retired:
                with contextlib.suppress(OSError):
                    os.close(fd)

    def delete(self) -> None:
        """Remove the directory, which is no run any more from the first moment."""
        remove_directory(self.path)

    @contextmanager
    def attach(self, name: str, *, append: bool = False) -> Generator[BinaryIO]:
        """Write beside the file and rename, or append to it."""
        path = self._new(name)
        if append:
            with os.fdopen(os.open(path, _APPEND, 0o600), "ab") as file:
                yield file
            return
        with _replacing(path) as file:
            yield file

    def link(self, name: str, path: Path) -> bool:
        """Make a hard link, if both are on one file system that has them."""
        try:
            os.link(path, self._new(name), follow_symlinks=False)
        except OSError:
            return False
        return True

    def detach(self, name: str) -> None:
        """Remove an attachment, and its folder if that is empty then."""
        path = self._inside(name)
        path.unlink(missing_ok=True)
        if path.parent != self.path:
            with contextlib.suppress(OSError):
                path.parent.rmdir()

    # Reading

    def names(self) -> set[str]:
        """Return the names in the directory."""
        try:
            return set(os.listdir(self.path))  # noqa: PTH208 (names alone; no Path for each)
        except OSError:
            return set()

    def segments(self) -> dict[str, list[str]]:
        """Return `tasks.jsonl`, `tasks.1.jsonl`, …"""
        return journal.segments_of(self.names())

    def stat(self, name: str) -> Entry | None:
        """Return what `lstat` says of a regular file."""
        try:
            found = self._inside(name).lstat()
        except OSError:
            return None
        return Entry(found.st_size, found.st_mtime) if stat.S_ISREG(found.st_mode) else None

    def read(self, name: str, start: int = 0, length: int | None = None) -> Iterator[bytes | Hole]:
        """Yield blocks of a regular file; what else has its name is never waited for."""
        return _blocks(self._inside(name), start, length)

    def parts(self) -> dict[str, FileStore]:
        """Return the directories in `writers`; links are left out."""
        parts = FileRoot(self.path / schema.WRITERS)
        if parts.path.is_symlink():
            return {}
        return {name: part for name in sorted(parts.ids()) if (part := parts.find_made(name))}

    def _new(self, name: str) -> Path:
        """Return the path of an attachment, whose folders exist then."""
        path = self._inside(name)
        for folder in reversed(path.relative_to(self.path).parents[:-1]):
            (self.path / folder).mkdir(mode=0o700, exist_ok=True)
        return path

    def _inside(self, name: str) -> Path:
        """Return a file's path.

        Raises
        ------
        OSError
            The name, or a link on the way, leads out of the directory.
        """
        path = self.path / name
        inside = is_inside(name)
        if inside and "/" in name:
            try:
                inside = path.parent.resolve().is_relative_to(self.path.resolve())
            except RuntimeError:  # the last of a loop of links
                inside = False
        if not inside:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        return path


@contextmanager
def _replacing(path: Path) -> Generator[BinaryIO]:
    """Write a file that takes the place of another, unless the block raises."""
    temporary = path.with_name(TEMPORARY.format(path.name))
    temporary.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(temporary, CREATE, 0o600), "wb") as file:
            yield file
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _blocks(path: Path, start: int, length: int | None) -> Iterator[bytes | Hole]:
    left = sys.maxsize if length is None else length
    fd = os.open(path, _READ)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError("it is not a regular file")
        if start:
            os.lseek(fd, start, os.SEEK_SET)
        while block := os.read(fd, min(BLOCK, left)):
            left -= len(block)
            yield block
            if hole := _skip_hole(fd, block):
                yield Hole(hole)
    finally:
        os.close(fd)


def _gone() -> RunGoneError:
    return RunGoneError(errno.ENOENT, os.strerror(errno.ENOENT))


def _skip_hole(fd: int, block: bytes) -> int:
    """Skip what was never written behind a block of NULs of a sparse file; return its bytes."""
    if block[-1] or block.strip(b"\0"):
        return 0
    here, size = os.lseek(fd, 0, os.SEEK_CUR), os.fstat(fd).st_size
    if size - here <= _MIN_HOLE:
        return 0
    try:
        data = os.lseek(fd, here, os.SEEK_DATA)
    except OSError as error:
        # Nothing follows, or the file system cannot say.
        data = size if error.errno == errno.ENXIO else here
    if data - here <= _MIN_HOLE:
        data = here
    return os.lseek(fd, data, os.SEEK_SET) - here


class FileRoot:
    """A directory of runs. Implements :class:`~scalable_runs.stores.base.StoreRoot`.

    Parameters
    ----------
    path
        The directory; it need not exist.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.location = str(path)

    @property
    def shared(self) -> bool:
        """A run has one writer."""
        return False

    def new(self, run_id: str, writer: str | None = None) -> FileStore:
        """Return the directory of that name, which need not exist."""
        return FileStore(self.path / run_id)

    def exists(self) -> bool:
        """Whether it is a directory."""
        return self.path.is_dir()

    def ids(self) -> list[str]:
        """Return the directories that hold something of a run, and packed ones; no links."""
        try:
            with os.scandir(self.path) as entries:
                found = [
                    entry.name
                    for entry in entries
                    if schema.RUN_ID_PATTERN.fullmatch(entry.name)
                    and (
                        entry.name.endswith(schema.PACKED)
                        or (
                            entry.is_dir(follow_symlinks=False)
                            and (schema.RUN_ID_TIME.match(entry.name) or is_run(entry.path))
                        )
                    )
                ]
        except OSError:
            return []
        packed = {
            name.removesuffix(schema.PACKED) for name in found if name.endswith(schema.PACKED)
        }
        return [
            *(name for name in found if not name.endswith(schema.PACKED)),
            *packed.difference(found),
        ]

    def find(self, run_id: str) -> Store | None:
        """Return the directory of that name, or the packed run; a link is none."""
        return self._find_directory(run_id) or self._find_packed(run_id)

    def _find_packed(self, run_id: str) -> Store | None:
        path = self.path / f"{run_id}{schema.PACKED}"
        try:
            if not stat.S_ISREG(path.lstat().st_mode):
                return None
        except OSError:
            return None
        from scalable_runs.packed.store import PackedStore

        return PackedStore(path)

    def _find_directory(self, run_id: str) -> FileStore | None:
        path = self.path / run_id
        try:
            is_directory = stat.S_ISDIR(path.lstat().st_mode)
        except OSError:
            return None
        return FileStore(path) if is_directory else None

    def find_made(self, run_id: str) -> FileStore | None:
        """Return the directory of a run unless it is just being made."""
        store = self._find_directory(run_id)
        # The last document that a new run gets is its run.json; somebody may have removed it.
        is_made = store is not None and (schema.RUN in store.names() or _has_lines(store))
        return store if is_made else None


def _has_lines(store: FileStore) -> bool:
    names = (name for segments in store.segments().values() for name in segments)
    return any((entry := store.stat(name)) is not None and entry.size for name in names)


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
        return not journal.NAMES.isdisjoint(os.listdir(path))  # noqa: PTH208
    except OSError:
        return False
